"""ACS: task assignments to the agents, and the check of what they answer."""

import asyncio
import json
import time
import uuid

from .errors import AdminError
from .instance import Message, now_ms
from .session import Session, check_query, refuse
from .shape import Model, parse_json

_QUERY = (
    "agentHash", "agentVersion", "clusterArn", "containerInstanceArn", "protocolVersion",
    "sendCredentials", "seqNum",
)  # fmt: skip
_FROM_AGENT = (
    "AckRequest", "NackRequest", "HeartbeatAckRequest", "IAMRoleCredentialsAckRequest",
    "TaskStopVerificationMessage",
)  # fmt: skip


class AcsSession(Session):
    def __init__(self, acs, store, instance, wants_credentials):
        super().__init__("acs", store, instance)
        self.acs = acs
        self.wants_credentials = wants_credentials
        self.registration = instance.registrations  # of the agent process that connects
        self.heartbeats = {}  # message id -> time sent
        self.heartbeats_on = True

    def opened(self):
        instance = self.instance
        if instance.acs is not None:
            instance.acs.close(1000, "replaced by a new connection")
        instance.acs = self
        instance.acs_connects += 1
        # Until something is received the agent may not have noticed that it is connected.
        self._next_send_credentials(None)
        self.acs.resume(instance)

    def closed(self):
        instance = self.instance
        if instance.acs is self:
            instance.acs = None

    def _next_send_credentials(self, value):
        """What the next connection must ask for, unless another agent process registers."""
        if self.instance.registrations == self.registration:
            self.instance.send_credentials = value

    async def beat(self):
        options = self.store.options
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.1)
            now = time.monotonic()
            if min(self.heartbeats.values(), default=now) + options.heartbeat_ack_seconds < now:
                text = f"no HeartbeatAckRequest within {options.heartbeat_ack_seconds:g} s"
                self.violation("HeartbeatMessage", "heartbeat-ack", text)
                self.close(1011, "heartbeat not acknowledged")
                return
            if self.heartbeats_on and last + options.heartbeat_seconds < now:
                last = now
                self.send_heartbeat()

    def send_heartbeat(self):
        message_id = str(uuid.uuid4())

        def sent():
            self.heartbeats[message_id] = time.monotonic()

        self.post("HeartbeatMessage", {"healthy": True, "messageId": message_id}, sent)

    def on_text(self, text):
        self._next_send_credentials("false")
        kind, message = self._parse(text)
        if kind is None:
            return
        problems = self.acs.model.check(kind, message)
        for problem in problems:
            self.violation(kind, "shape-" + problem.kind, str(problem))
        if all(problem.kind == "unknown" for problem in problems):
            getattr(self, "_on_" + kind)(kind, message)

    def _parse(self, text):
        try:
            frame = parse_json(text)
        except ValueError as error:
            self.violation("frame", "json", f"{error}: {text[:200]}")
            return None, None
        if not isinstance(frame, dict) or set(frame) != {"type", "message"}:
            self.violation("frame", "envelope", f"a frame is type and message: {text[:200]}")
            return None, None
        if frame["type"] not in _FROM_AGENT:
            self.violation("frame", "message-type", f"unknown message type {frame['type']!r}")
            return None, None
        return frame["type"], frame["message"]

    def _message(self, kind, answer):
        message = self.instance.sent.get(answer["messageId"])
        if message is None:
            text = f"message '{answer['messageId']}' was never sent to this instance"
            self.violation(kind, "unknown-message", text)
        return message

    def _check_identity(self, kind, answer, message):
        pairs = {"cluster": "clusterArn", "containerInstance": "containerInstanceArn"}
        for name, sent in pairs.items():
            if answer[name] != message.body.get(sent):
                text = f"{name} is '{answer[name]}', the message has '{message.body.get(sent)}'"
                self.violation(kind, "ack-identity", text)

    def _on_AckRequest(self, kind, answer):
        message = self._message(kind, answer)
        if message is None:
            return
        if message.kind == "IAMRoleCredentialsMessage":
            self.violation(kind, "wrong-ack", f"{message.kind} wants IAMRoleCredentialsAckRequest")
            return
        self._check_identity(kind, answer, message)
        message.acks += 1
        if message.acks > len(message.sent_ms):
            text = f"{message.acks} acknowledgements of a message sent {len(message.sent_ms)} times"
            self.violation(kind, "repeated-ack", text)
        message.waits_ack = False
        message.acked_ms = message.acked_ms or now_ms()
        for task in message.tasks:
            task.delivered = True
            task.note("payload-acked", messageId=message.id)
        self._finish(message)

    def _on_IAMRoleCredentialsAckRequest(self, kind, answer):
        message = self._message(kind, answer)
        if message is None:
            return
        credentials_id = answer["credentialsId"]
        if answer["expiration"] not in message.expirations.get(credentials_id, ()):
            text = (
                f"credentials '{credentials_id}' with expiration '{answer['expiration']}' are not "
                f"in message {message.id}"
            )
            self.violation(kind, "credentials-ack", text)
            return
        message.credentials.pop(credentials_id, None)
        for task in message.tasks:
            if any(role.credentials_id == credentials_id for role in task.roles.values()):
                task.note("credentials-acked", credentialsId=credentials_id)
        self._finish(message)

    def _on_HeartbeatAckRequest(self, kind, answer):
        if self.heartbeats.pop(answer["messageId"], None) is None:
            text = f"heartbeat '{answer['messageId']}' is not outstanding on this connection"
            self.violation(kind, "unknown-message", text)

    def _on_NackRequest(self, kind, answer):
        message = self._message(kind, answer)
        if message is None:
            return
        self._check_identity(kind, answer, message)
        if message.kind not in ("StageUpdateMessage", "PerformUpdateMessage"):
            self.violation(kind, "wrong-ack", f"{message.kind} has no negative acknowledgement")
        message.waits_ack = False
        message.nack = answer["reason"]
        self._finish(message)

    def _on_TaskStopVerificationMessage(self, kind, question):
        message = self._message(kind, question)
        if message is None:
            return
        if message.kind != "TaskManifestMessage":
            self.violation(kind, "unknown-message", f"{message.id} is a {message.kind}")
            return
        listed = {t["taskArn"]: t["desiredStatus"] for t in message.body["tasks"]}
        for candidate in question["stopCandidates"]:
            if listed.get(candidate["taskArn"]) == "RUNNING":
                text = f"{candidate['taskArn']} is RUNNING in the manifest"
                self.violation(kind, "stop-candidate", text)
            if candidate["desiredStatus"] != "STOPPED":
                text = f"desiredStatus of a candidate is {candidate['desiredStatus']!r}"
                self.violation(kind, "stop-candidate", text)
        if not question["stopCandidates"]:
            self.violation(kind, "stop-candidate", "a verification without candidates")
        message.candidates = question["stopCandidates"]
        self.acs.answer_verification(self, question)

    def _finish(self, message):
        if message.done:
            self.instance.outbox.pop(message.id, None)


class Acs:
    """All ACS sessions, and the messages made for their instances."""

    def __init__(self, store):
        self.store = store
        self.model = Model.ours("acs")
        # how stop verifications are answered: "honest", "all" or "never"
        self.verification = "honest"
        self.attachments = []
        store.acs = self

    # The handshake

    async def connect(self, request, key):
        values, wrong = check_query(request.raw_path, _QUERY, ("dockerVersion",))
        instance = self.store.instance(values.get("containerInstanceArn"))
        for text in wrong + self._check_values(values, instance):
            self.store.violations.add("acs", "connect", "query", text)
        if key.kind != "instance":
            text = f"connected with the {key.kind} role {key.role_arn}"
            self.store.violations.add("acs", "connect", "wrong-credentials", text)
        if instance is None:
            arn = values.get("containerInstanceArn")
            return refuse("InvalidInstanceException", f"Unknown container instance '{arn}'")
        if instance.cluster.name != values.get("clusterArn", "").rsplit("/", 1)[-1]:
            text = f"The container instance is not in cluster '{values.get('clusterArn')}'"
            return refuse("InvalidClusterException", text)
        if instance.status == "INACTIVE":
            text = "Container instance has been deregistered"
            return refuse("InactiveInstanceException", text)
        wants = values.get("sendCredentials") == "true"
        session = AcsSession(self, self.store, instance, wants)
        return await session.run(request, background=[session.beat()])

    def _check_values(self, values, instance):
        wrong = []
        for name, wanted in (("protocolVersion", "2"), ("seqNum", "1")):
            if values.get(name) != wanted:
                wrong.append(f"{name} is '{values.get(name)}', not '{wanted}'")
        version = values.get("dockerVersion")
        if version is not None and not version.startswith("DockerVersion: "):
            wrong.append(f"dockerVersion is '{version}', not 'DockerVersion: ...'")
        send = values.get("sendCredentials")
        if send not in ("true", "false"):
            wrong.append(f"sendCredentials is '{send}'")
        elif instance and instance.send_credentials not in (None, send):
            wrong.append(
                f"sendCredentials is '{send}' on connection {instance.acs_connects + 1} after "
                f"registration {instance.registrations}, not '{instance.send_credentials}'"
            )
        return wrong

    # Making messages

    def _envelope(self, instance):
        return {
            "messageId": str(uuid.uuid4()),
            "clusterArn": instance.cluster.arn,
            "containerInstanceArn": instance.arn,
            "generatedAt": now_ms(),
        }

    def deliver(self, tasks):
        """Send tasks, as they are now, to their instances: one payload for each instance."""
        by_instance = {}
        for task in tasks:
            by_instance.setdefault(task.instance.arn, []).append(task)
        for mine in by_instance.values():
            instance = mine[0].instance
            message = Message("PayloadMessage", self._envelope(instance), mine)
            message.body["seqNum"] = self.store.next_sequence()
            message.rebuild = self._fill_payload
            self._queue(instance, message)

    def deliver_raw(self, instance, documents, tasks, exact_body=None):
        """Send ACS Task documents as they are given."""
        body = exact_body or dict(
            self._envelope(instance), seqNum=self.store.next_sequence(), tasks=documents
        )
        message = Message("PayloadMessage", body, tasks)
        for document in documents:
            for member in ("roleCredentials", "executionRoleCredentials"):
                credentials = document.get(member) if isinstance(document, dict) else None
                if isinstance(credentials, dict) and credentials.get("credentialsId"):
                    message.expect_credentials(credentials)
        self._queue(instance, message)
        return message

    def _fill_payload(self, message):
        lifetime = self.store.options.task_credentials_seconds
        documents = []
        for task in message.tasks:
            document = task.payload_document(self.store.keyring, lifetime)
            for member in ("roleCredentials", "executionRoleCredentials"):
                if member in document:
                    message.expect_credentials(document[member])
            documents.append(document)
        message.body["tasks"] = documents

    def _queue(self, instance, message):
        instance.post(message)
        if instance.acs:
            self._send(instance.acs, message)

    def _send(self, session, message):
        if message.rebuild:
            message.rebuild(message)

        def sent():
            message.sent_ms.append(now_ms())
            for task in message.tasks:
                event = "payload-sent" if message.kind == "PayloadMessage" else "credentials-sent"
                task.note(event, messageId=message.id, desiredStatus=task.desired)

        session.post(message.kind, message.body, sent)

    def resume(self, instance):
        """After a connect: the manifest, what is not acknowledged, credentials of the rest."""
        stale = ("TaskManifestMessage", "IAMRoleCredentialsMessage")
        for message in [m for m in instance.outbox.values() if m.kind in stale]:
            del instance.outbox[message.id]
        waiting = list(instance.outbox.values())
        self.send_manifest(instance)
        for message in waiting:
            self._send(instance.acs, message)
        if instance.acs.wants_credentials:
            self.send_credentials(instance)

    def resend(self):
        """Send again what has been unacknowledged for long on an open connection."""
        limit = now_ms() - self.store.options.resend_seconds * 1000
        for instance in self.store.instances.values():
            if instance.acs is None:
                continue
            for message in list(instance.outbox.values()):
                old = message.sent_ms and message.sent_ms[-1] < limit
                if old and message.kind != "TaskManifestMessage":
                    self._send(instance.acs, message)

    def send_manifest(self, instance, omit=(), tasks=None):
        for message in [m for m in instance.outbox.values() if m.kind == "TaskManifestMessage"]:
            del instance.outbox[message.id]
        if tasks is None:
            tasks = [
                {
                    "taskArn": task.arn,
                    "taskClusterArn": task.instance.cluster.arn,
                    "desiredStatus": task.desired,
                }
                for task in self.store.tasks.values()
                if task.instance is instance and task.last != "STOPPED"
                and task.arn not in omit and task.id not in omit
            ]
        body = self._envelope(instance)
        body.update(timeline=self.store.next_sequence(), tasks=tasks)
        message = Message("TaskManifestMessage", body)
        self._queue(instance, message)
        return message

    def send_credentials(self, instance, only=None):
        """New keys for every role of every delivered task that has not stopped."""
        sent = []
        for task in self.store.tasks.values():
            if task.instance is not instance or task.last == "STOPPED" or not task.delivered:
                continue
            if only not in (None, task.arn, task.id):
                continue
            for kind in task.roles:
                sent.append(self._send_credentials_of(instance, task, kind))
        return sent

    def _send_credentials_of(self, instance, task, kind):
        lifetime = self.store.options.task_credentials_seconds
        credentials = task.issue_credentials(kind, self.store.keyring, lifetime)
        body = {
            "messageId": str(uuid.uuid4()),
            "taskArn": task.arn,
            "taskClusterArn": instance.cluster.arn,
            "roleType": kind,
            "roleCredentials": credentials,
        }
        message = Message("IAMRoleCredentialsMessage", body, [task], waits_ack=False)
        message.expect_credentials(credentials)
        self._queue(instance, message)
        return message

    def send_message(self, instance, kind, fields):
        """Any message of the model; what every message carries is filled in."""
        if not self.model.has(kind):
            raise AdminError(f"'{kind}' is not a message of ACS")
        body = {**self._envelope(instance), **fields}
        known = self.model.shapes[kind]["members"]
        body = {name: body[name] for name in body if name in known or name in fields}
        waits = kind not in ("HeartbeatMessage", "CloseMessage", "ErrorMessage")
        waits = waits and kind not in ("TaskStopVerificationAck", "IAMRoleCredentialsMessage")
        message = Message(kind, {"messageId": str(uuid.uuid4()), **body}, waits_ack=waits)
        if kind == "HeartbeatMessage" and instance.acs:
            instance.acs.heartbeats[message.id] = time.monotonic()
        message.body = body
        if isinstance(body.get("roleCredentials"), dict):
            message.expect_credentials({"credentialsId": None, **body["roleCredentials"]})
        instance.post(message)
        if not waits:
            del instance.outbox[message.id]
        if instance.acs:
            self._send(instance.acs, message)
        return message

    # Consequences

    def answer_verification(self, session, question):
        if self.verification == "never":
            return
        stop = []
        for candidate in question["stopCandidates"]:
            task = self.store.tasks.get(candidate["taskArn"])
            if self.verification == "all" or task is None or task.desired == "STOPPED":
                stop.append(candidate)
                if task is not None:
                    task.request_stop("stop verified", code="UserInitiated")
        body = {"generatedAt": now_ms(), "messageId": question["messageId"], "stopTasks": stop}
        session.post("TaskStopVerificationAck", body)

    def task_changed(self, task):
        """A payload whose tasks have all stopped needs no acknowledgement any more."""
        if task.last != "STOPPED":
            return
        for message in list(task.instance.outbox.values()):
            if message.tasks and all(t.last == "STOPPED" for t in message.tasks):
                del task.instance.outbox[message.id]

    def attachment_changed(self, change, violation):
        self.attachments.append({"ms": now_ms(), **change})
        for instance in self.store.instances.values():
            for message in instance.sent.values():
                if change["attachmentArn"] in json.dumps(message.body):
                    return
        violation("unknown-attachment", f"attachment {change['attachmentArn']} was never announced")

    def deregistered(self, instance):
        if instance.acs:
            instance.acs.close(1000, "InactiveInstanceException")

    async def work(self):
        """Timers: sending again, and renewing the credentials of running tasks."""
        options = self.store.options
        renewed = time.monotonic()
        while True:
            await asyncio.sleep(min(1.0, options.resend_seconds))
            self.resend()
            interval = min(
                options.credentials_refresh_seconds, options.task_credentials_seconds / 2
            )
            if time.monotonic() - renewed >= interval:
                renewed = time.monotonic()
                for instance in self.store.instances.values():
                    if instance.acs:
                        self.send_credentials(instance)
