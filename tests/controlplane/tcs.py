"""TCS: telemetry of the agents. Every frame is signed, as the handshake is."""

import asyncio
import json
import re
import time

from .session import Session, check_query, refuse
from .shape import Model, parse_json
from .sigv4 import SignatureError, verify

_QUERY = ("agentHash", "agentVersion", "cluster", "containerInstance")
_FRAME_HEADERS = {"authorization", "host", "x-amz-date", "x-amz-security-token"}
_ACKS = {
    "PublishMetricsRequest": "AckPublishMetric",
    "PublishHealthRequest": "AckPublishHealth",
    "PublishInstanceStatusRequest": "AckPublishInstanceStatus",
}
_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
MAX_METRICS = 1024 * 1024


class TcsSession(Session):
    def __init__(self, tcs, store, instance, target, cluster, host):
        super().__init__("tcs", store, instance)
        self.tcs = tcs
        self.target = target
        self.cluster = cluster  # as the handshake spelled it
        self.host = host
        self.cycle = None  # (messageId, fin) of the last PublishMetricsRequest

    def opened(self):
        self.instance.tcs = self
        self.instance.tcs_connects += 1

    def closed(self):
        if self.instance.tcs is self:
            self.instance.tcs = None

    async def beat(self):
        while True:
            await asyncio.sleep(self.store.options.heartbeat_seconds)
            self.post("HeartbeatMessage", {"healthy": True})

    def kind_of(self, text):
        return super().kind_of(text.partition("\r\n\r\n")[2])

    def on_text(self, text):
        block, separator, body = text.partition("\r\n\r\n")
        if not separator:
            self.violation("frame", "envelope", f"no header block before the JSON: {text[:200]}")
            return
        if not self._check_signature(block, body):
            return
        try:
            frame = parse_json(body)
        except ValueError as error:
            self.violation("frame", "json", f"{error}: {body[:200]}")
            return
        if not isinstance(frame, dict) or set(frame) != {"type", "message"}:
            self.violation("frame", "envelope", f"a frame is type and message: {body[:200]}")
            return
        kind, message = frame["type"], frame["message"]
        if kind not in _ACKS:
            self.violation("frame", "message-type", f"unknown message type {kind!r}")
            return
        problems = self.tcs.model.check(kind, message)
        for problem in problems:
            self.violation(kind, "shape-" + problem.kind, str(problem))
        if any(problem.kind != "unknown" for problem in problems):
            self.post("BadRequestException", {"message": str(problems[0])})
            return
        self._check_common(kind, message)
        getattr(self, "_on_" + kind)(kind, message, body)
        counts = self.instance.telemetry["counts"]
        counts[kind] = counts.get(kind, 0) + 1
        self.post(_ACKS[kind], {"message": "OK"})

    def _check_signature(self, block, body):
        headers = []
        for line in block.split("\r\n"):
            name, separator, value = line.partition(": ")
            if not separator:
                self.violation("frame", "signature", f"header line {line!r}")
                return False
            headers.append((name, value))
        names = [name for name, _ in headers]
        if names != sorted(names):
            self.violation("frame", "frame-headers", f"headers are not sorted: {names}")
        for name in names:
            if name.lower() not in _FRAME_HEADERS:
                self.violation("frame", "frame-headers", f"header {name} is not expected")
        if dict(headers).get("Host") != self.host:
            self.violation("frame", "frame-headers", f"Host is {dict(headers).get('Host')!r}")
        try:
            key = verify(
                self.store.keyring, "GET", self.target, headers, body.encode(), "ecs",
                [self.store.region],
            )  # fmt: skip
        except SignatureError as error:
            self.violation("frame", "signature", f"{error.code}: {error.message}")
            self.post("BadRequestException", {"message": error.message})
            return False
        if key.kind != "instance":
            self.violation("frame", "wrong-credentials", f"frame signed with {key.role_arn}")
        return True

    def _check_common(self, kind, message):
        metadata = message["metadata"]
        if metadata["containerInstance"] != self.instance.arn:
            text = f"containerInstance is '{metadata['containerInstance']}'"
            self.violation(kind, "identity", text)
        if metadata["cluster"] != self.cluster:
            text = f"cluster is '{metadata['cluster']}', the session has '{self.cluster}'"
            self.violation(kind, "identity", text)
        identifier = metadata.get("messageId") or metadata.get("requestId")
        if not _UUID4.fullmatch(identifier):
            self.violation(kind, "message-id", f"'{identifier}' is not a UUID of version 4")
        self._check_time(kind, "timestamp", message["timestamp"])

    def _check_time(self, kind, name, value):
        if not 1_500_000_000 < value < time.time() + 300:
            self.violation(kind, "timestamp", f"{name} {value} is not a recent time in seconds")
        if abs(value * 1000 - round(value * 1000)) > 1e-3:
            self.violation(kind, "timestamp", f"{name} {value} has more than 3 decimals")

    def _check_task(self, kind, item):
        """The task of a TaskMetric or TaskHealth, or None."""
        task = self.store.tasks.get(item["taskArn"])
        if task is None or task.instance is not self.instance:
            self.violation(kind, "unknown-task", f"task {item['taskArn']}")
            return None
        wanted = (task.document.get("family"), task.document.get("version"))
        found = (item["taskDefinitionFamily"], item["taskDefinitionVersion"])
        if wanted != found:
            self.violation(kind, "task-definition", f"{task.arn} is of {wanted}, not {found}")
        return task

    def _on_PublishMetricsRequest(self, kind, message, body):
        metadata, tasks = message["metadata"], message.get("taskMetrics", [])
        if len(body.encode()) > MAX_METRICS:
            self.violation(kind, "size", f"{len(body.encode())} bytes, at most {MAX_METRICS}")
        if metadata["idle"] and (tasks or not metadata["fin"]):
            self.violation(kind, "idle", "an idle message has fin and no taskMetrics")
        if not metadata["idle"] and not tasks:
            self.violation(kind, "idle", "a message that is not idle has taskMetrics")
        if self.cycle and not self.cycle[1] and self.cycle[0] != metadata["messageId"]:
            self.violation(kind, "fin", f"cycle {self.cycle[0]} ended without fin")
        if self.cycle and self.cycle[1] and self.cycle[0] == metadata["messageId"]:
            self.violation(kind, "fin", f"cycle {self.cycle[0]} goes on after fin")
        self.cycle = (metadata["messageId"], metadata["fin"])
        for item in tasks:
            task = self._check_task(kind, item)
            for container in item["containerMetrics"]:
                self._check_sets(kind, container["containerName"], container)
            if task:
                self.instance.telemetry["metrics"][task.arn] = {
                    "timestamp": message["timestamp"],
                    "containers": {c["containerName"]: c for c in item["containerMetrics"]},
                }

    def _check_sets(self, kind, path, value):
        """Statistics sets must hold together: min <= mean <= max."""
        if not isinstance(value, dict):
            return
        if {"min", "max", "sampleCount", "sum"} <= set(value):
            count, low, high = value["sampleCount"], value["min"], value["max"]
            slack = 1e-6 * max(abs(value["sum"]), 1)
            if count < 1 or not low * count - slack <= value["sum"] <= high * count + slack:
                self.violation(kind, "statistics", f"{path}: {json.dumps(value)}")
            return
        for name, item in value.items():
            self._check_sets(kind, f"{path}.{name}", item)

    def _on_PublishHealthRequest(self, kind, message, body):
        if not 1 <= len(message["tasks"]) <= 10:
            self.violation(kind, "size", f"{len(message['tasks'])} tasks, 1 to 10")
        for item in message["tasks"]:
            task = self._check_task(kind, item)
            for container in item["containers"]:
                self._check_time(kind, "statusSince", container["statusSince"])
                if task and container["containerName"] not in task.containers:
                    text = f"container '{container['containerName']}' of {task.arn}"
                    self.violation(kind, "unknown-container", text)
                elif task:
                    task.containers[container["containerName"]]["healthStatus"] = container[
                        "healthStatus"
                    ]
            if task:
                self.instance.telemetry["health"][task.arn] = {
                    c["containerName"]: c["healthStatus"] for c in item["containers"]
                }

    def _on_PublishInstanceStatusRequest(self, kind, message, body):
        for status in message["statuses"]:
            for name in ("lastUpdated", "lastStatusChange"):
                self._check_time(kind, name, status[name])
            self.instance.telemetry["statuses"][status["type"]] = status["status"]


class Tcs:
    def __init__(self, store):
        self.store = store
        self.model = Model.ours("tcs")

    async def connect(self, request, key):
        values, wrong = check_query(request.raw_path, _QUERY, ("dockerVersion",))
        for text in wrong:
            self.store.violations.add("tcs", "connect", "query", text)
        if values.get("dockerVersion", "").startswith("DockerVersion"):
            text = f"dockerVersion is plain here, not '{values['dockerVersion']}'"
            self.store.violations.add("tcs", "connect", "query", text)
        if key.kind != "instance":
            text = f"connected with the {key.kind} role {key.role_arn}"
            self.store.violations.add("tcs", "connect", "wrong-credentials", text)
        instance = self.store.instance(values.get("containerInstance"))
        cluster = values.get("cluster", "")
        if instance is None or instance.cluster.name != cluster.rsplit("/", 1)[-1]:
            text = f"Unknown container instance '{values.get('containerInstance')}' in '{cluster}'"
            return refuse("ResourceValidationException", text)
        session = TcsSession(
            self, self.store, instance, request.raw_path, cluster, request.headers["Host"]
        )
        return await session.run(request, background=[session.beat()])
