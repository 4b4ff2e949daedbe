"""A task as the control plane sees it: what it sent, what it was told, and when."""

import uuid

from .instance import now_ms
from .keys import iso_time

RANK = {"PENDING": 1, "RUNNING": 2, "STOPPED": 3}
APPLICATION, EXECUTION = "TaskApplication", "TaskExecution"
_MEMBERS = {APPLICATION: "roleCredentials", EXECUTION: "executionRoleCredentials"}
_KINDS = {APPLICATION: "task", EXECUTION: "execution"}


def _wanted_agents(containers):
    """(container, managed agent) pairs of a document that may be wrong in any way."""
    found = set()
    for container in containers if isinstance(containers, list) else ():
        agents = container.get("managedAgents") if isinstance(container, dict) else None
        for agent in agents if isinstance(agents, list) else ():
            if isinstance(agent, dict):
                found.add((container.get("name"), agent.get("name")))
    return found


class Role:
    """An IAM role of a task. The credentials id stays, the keys under it are renewed."""

    def __init__(self, arn, credentials_id=None):
        self.arn = arn
        self.credentials_id = credentials_id or str(uuid.uuid4())
        self.expiration = None


class Task:
    def __init__(self, instance, document):
        self.instance = instance
        self.document = document  # the ACS Task, without credentials
        self.arn = document["arn"]
        self.id = self.arn.rsplit("/", 1)[-1]
        self.desired = document.get("desiredStatus", "RUNNING")
        self.last = "PENDING"
        self.stop_code = None
        self.stopped_reason = None
        self.created_ms = now_ms()
        self.started_ms = None
        self.stopped_ms = None
        self.delivered = False  # a payload with it has been acknowledged
        self.times = {}  # pullStartedAt, pullStoppedAt, executionStoppedAt
        self.containers = {}
        containers = document.get("containers")  # anything at all in a raw task
        for container in containers if isinstance(containers, list) else ():
            if isinstance(container, dict) and isinstance(container.get("name"), str):
                self.containers[container["name"]] = {
                    "name": container["name"],
                    "image": container.get("image"),
                    "lastStatus": "PENDING",
                }
        self.managed_agents = []
        self.wanted_agents = _wanted_agents(containers)
        self.execute_command = False  # enableExecuteCommand of RunTask
        self.attachments = {}
        self.roles = {}
        self.submissions = []
        self.stopped_submission = None
        self.timeline = []
        self.definition_arn = None
        self.overrides = {}
        self.group = None
        self.started_by = None
        self.tags = []
        self.note("created")

    def note(self, event, **details):
        self.timeline.append({"ms": now_ms(), "event": event, **details})

    def add_role(self, kind, role):
        self.roles[kind] = role

    def issue_credentials(self, kind, keyring, lifetime):
        """New keys for one role, as an IAMRoleCredentials document."""
        role = self.roles[kind]
        key = keyring.issue(role.arn, self.id, _KINDS[kind], self.arn, lifetime)
        role.expiration = key.expires_at
        return {
            "credentialsId": role.credentials_id,
            "roleArn": role.arn,
            "accessKeyId": key.access_key_id,
            "secretAccessKey": key.secret_access_key,
            "sessionToken": key.token,
            "expiration": iso_time(key.expires_at),
        }

    def payload_document(self, keyring, lifetime):
        """The ACS Task to send now, with fresh credentials for each role."""
        document = dict(self.document, desiredStatus=self.desired)
        for kind in self.roles:
            document[_MEMBERS[kind]] = self.issue_credentials(kind, keyring, lifetime)
        return document

    def apply(self, change):
        """Take over one SubmitTaskStateChange; the rules have been checked already."""
        self.submissions.append(change)
        status = change.get("status")
        for name in ("pullStartedAt", "pullStoppedAt", "executionStoppedAt"):
            if name in change:
                self.times[name] = change[name]
        for container in change.get("containers", ()):
            self._apply_container(container)
        for agent in change.get("managedAgents", ()):
            self._apply_managed_agent(agent)
        for attachment in change.get("attachments", ()):
            self.attachments[attachment["attachmentArn"]] = attachment["status"]
        details = {k: v for k, v in change.items() if k not in ("cluster", "task") and v != ""}
        self.note("state-change", **details)
        if status and RANK[status] > RANK[self.last]:
            self.last = status
            if status == "RUNNING":
                self.started_ms = now_ms()
            if status == "STOPPED":
                self._stopped(change)

    def _apply_container(self, change):
        container = self.containers.setdefault(
            change["containerName"], {"name": change["containerName"], "lastStatus": "PENDING"}
        )
        if RANK[change["status"]] >= RANK[container["lastStatus"]]:
            container["lastStatus"] = change["status"]
        for name in ("runtimeId", "exitCode", "imageDigest", "reason", "networkBindings"):
            if name in change:
                container[name] = change[name]

    def _apply_managed_agent(self, change):
        key = (change["containerName"], change["managedAgentName"])
        for agent in self.managed_agents:
            if (agent["containerName"], agent["managedAgentName"]) == key:
                agent.update(change)
                break
        else:
            agent = dict(change)
            self.managed_agents.append(agent)
        if change["status"] == "RUNNING":
            agent["startedMs"] = now_ms()

    def _stopped(self, change):
        """stopCode and the usual reason are the backend's: the agent never sends them."""
        self.stopped_ms = now_ms()
        if self.stop_code is None:
            self.stop_code = "EssentialContainerExited" if self.started_ms else "TaskFailedToStart"
        if self.stopped_reason is None:
            default = "Essential container in task exited" if self.started_ms else ""
            self.stopped_reason = change.get("reason") or default
        self.desired = "STOPPED"

    def request_stop(self, reason, code="UserInitiated"):
        if self.desired != "STOPPED":
            self.stop_code = code
            self.stopped_reason = reason
            self.desired = "STOPPED"
            self.note("stop-requested", reason=reason)

    def to_json(self):
        return {
            "arn": self.arn,
            "id": self.id,
            "cluster": self.instance.cluster.name,
            "containerInstance": self.instance.arn,
            "family": self.document.get("family"),
            "revision": self.document.get("version"),
            "desiredStatus": self.desired,
            "lastStatus": self.last,
            "stopCode": self.stop_code,
            "stoppedReason": self.stopped_reason,
            "delivered": self.delivered,
            "createdMs": self.created_ms,
            "startedMs": self.started_ms,
            "stoppedMs": self.stopped_ms,
            "containers": list(self.containers.values()),
            "managedAgents": self.managed_agents,
            "attachments": self.attachments,
            "credentialsIds": {kind: role.credentials_id for kind, role in self.roles.items()},
            "roles": {kind: role.arn for kind, role in self.roles.items()},
            "submissions": self.submissions,
            "timeline": self.timeline,
            **self.times,
        }
