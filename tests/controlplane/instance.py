"""A registered container instance and the ACS messages on their way to it."""

import time
import uuid


def now_ms():
    return int(time.time() * 1000)


class Message:
    """An ACS message that is sent again until everything it asks for is acknowledged."""

    def __init__(self, kind, body, tasks=(), waits_ack=True):
        self.id = body["messageId"]
        self.kind = kind
        self.body = body
        self.tasks = list(tasks)  # ours that the message is about
        self.rebuild = None  # called before each sending, to put in what is true by then
        self.waits_ack = waits_ack
        self.credentials = {}  # credentials id -> expiration not yet acknowledged
        self.expirations = {}  # credentials id -> every expiration sent in this message
        self.sent_ms = []
        self.acked_ms = None
        self.acks = 0
        self.nack = None  # the reason of a NackRequest
        self.candidates = None  # of a TaskStopVerificationMessage about this manifest

    def expect_credentials(self, credentials):
        name, expiration = credentials["credentialsId"], credentials.get("expiration")
        self.credentials[name] = expiration
        self.expirations.setdefault(name, set()).add(expiration)

    @property
    def done(self):
        return not self.waits_ack and not self.credentials

    def to_json(self):
        return {
            "messageId": self.id,
            "type": self.kind,
            "sentMs": self.sent_ms,
            "ackedMs": self.acked_ms,
            "waitsForAck": self.waits_ack,
            "nack": self.nack,
            "stopCandidates": self.candidates,
            "waitsForCredentialsAck": sorted(self.credentials),
        }


class Instance:
    def __init__(self, cluster, region, account):
        self.id = uuid.uuid4().hex
        self.cluster = cluster
        self.arn = f"arn:aws:ecs:{region}:{account}:container-instance/{cluster.name}/{self.id}"
        self.status = "ACTIVE"
        self.registered_at = time.time()
        self.registration = {}  # the last RegisterContainerInstance request
        self.attributes = {}
        self.ec2_id = None
        self.host = None  # host:port under which the agent reaches us
        self.registrations = 0
        self.acs = None  # the open session
        self.tcs = None
        self.acs_connects = 0
        self.tcs_connects = 0
        # sendCredentials the next connect must carry; None: either
        self.send_credentials = "true"
        self.outbox = {}  # message id -> Message, in the order of making
        self.sent = {}  # every Message ever made, for late and repeated acknowledgements
        self.telemetry = {"metrics": {}, "health": {}, "statuses": {}, "counts": {}}

    def post(self, message):
        self.outbox[message.id] = message
        self.sent[message.id] = message
        while len(self.sent) > 5000:
            del self.sent[next(iter(self.sent))]

    def registered(self, request):
        self.registration = request
        self.registrations += 1
        self.status = "ACTIVE"
        self.send_credentials = "true"
        self.attributes.update({a["name"]: a.get("value") for a in request["attributes"]})

    def resources(self):
        return self.registration.get("totalResources", [])

    def to_json(self):
        return {
            "arn": self.arn,
            "cluster": self.cluster.name,
            "status": self.status,
            "ec2InstanceId": self.ec2_id,
            "registrations": self.registrations,
            "registration": self.registration,
            "attributes": self.attributes,
            "acsConnected": self.acs is not None,
            "tcsConnected": self.tcs is not None,
            "acsConnects": self.acs_connects,
            "tcsConnects": self.tcs_connects,
            "outbox": [message.to_json() for message in self.outbox.values()],
            "telemetry": self.telemetry,
        }
