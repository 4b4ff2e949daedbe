"""The agent's control plane without its engine, against the stand-in: registration and the ACS session."""

import base64
import http.server
import json
import os
import pathlib
import select
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from builddir import program  # noqa: E402
from controlplane.client import StandIn, wait_for  # noqa: E402

PLAIN = {
    "family": "plain",
    "containerDefinitions": [{"name": "app", "image": "busybox", "memory": 16}],
}
WITH_ROLES = {
    **PLAIN,
    "family": "roles",
    "taskRoleArn": "arn:aws:iam::111122223333:role/app",
    "executionRoleArn": "arn:aws:iam::111122223333:role/ecsTaskExecutionRole",
}


class Tool:
    """control_tool with its ecs.config; what it says is in events."""

    def __init__(self, directory, standin, *arguments, environment=(), **settings):
        settings = {
            "ECS_BACKEND_HOST": standin.endpoint,
            "AWS_CA_BUNDLE": standin.ca,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": standin.imds,
            **settings,
        }
        config = directory / "ecs.config"
        config.write_text("".join(f"{k}={v}\n" for k, v in settings.items() if v is not None))
        self.events = []
        self.log = directory / "tool.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [program("tests/integration/control_tool"), "--config", str(config), *arguments],
                env={"HOME": str(directory), "PATH": os.environ["PATH"], **dict(environment)},
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._rest = b""

    def _read(self):
        while select.select([self.process.stdout], [], [], 0)[0]:
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                return
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.events += [json.loads(line) for line in lines]

    def all(self, event):
        self._read()
        return [e for e in self.events if e["event"] == event]

    def wait(self, event, count=1, timeout=30):
        def ready():
            found = self.all(event)
            return found[count - 1] if len(found) >= count else None

        return wait_for(ready, timeout, lambda: f"{event} x{count}: {self.events}\n{self.text()}")

    def text(self):
        return self.log.read_text()

    def wait_exit(self, timeout=30):
        return wait_for(lambda: (self.process.poll(),)[0] is not None, timeout, "it still runs")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._read()


@pytest.fixture
def standin(tmp_path):
    with StandIn.start(tmp_path / "standin") as running:
        yield running


@pytest.fixture
def start(tmp_path, standin):
    tools = []

    def starter(*arguments, **settings):
        tools.append(Tool(tmp_path, standin, *arguments, **settings))
        return tools[-1]

    yield starter
    for tool in tools:
        tool.stop()
    for tool in tools:
        assert tool.process.returncode in (0, 1, 5), tool.text()
        assert "Sanitizer" not in tool.text() and "runtime error" not in tool.text(), tool.text()


def test_registers_with_true_resources_and_capabilities(standin, start):
    tool = start(
        ECS_RESERVED_MEMORY=64,
        ECS_RESERVED_PORTS="[22,80]",
        ECS_INSTANCE_ATTRIBUTES='{"stack":"prod"}',
        ECS_CONTAINER_INSTANCE_TAGS='{"team":"a b"}',
        ECS_ENABLE_TASK_IAM_ROLE="true",
    )
    tool.wait("connected")
    registration = standin.instance()["registration"]
    resources = {r["name"]: r for r in registration["totalResources"]}
    assert resources["CPU"]["integerValue"] == os.sysconf("SC_NPROCESSORS_ONLN") * 1024
    meminfo = pathlib.Path("/proc/meminfo").read_text()
    total = int(meminfo.split("MemTotal:")[1].split()[0]) // 1024
    assert resources["MEMORY"]["integerValue"] == total - 64
    assert resources["PORTS"]["stringSetValue"] == ["22", "80"]
    attributes = {a["name"]: a.get("value") for a in registration["attributes"]}
    assert attributes["stack"] == "prod" and attributes["ecs.os-type"] == "linux"
    assert "com.amazonaws.ecs.capability.task-iam-role" in attributes
    assert "com.amazonaws.ecs.capability.task-iam-role-network-host" not in attributes
    assert "com.amazonaws.ecs.capability.logging-driver.awslogs" in attributes
    assert "ecs.capability.task-eni" not in attributes
    assert registration["tags"] == [{"key": "team", "value": "a b"}]
    standin.assert_no_violations()


def test_registers_again_with_its_arn_and_without_custom_attributes(standin, start):
    first = start(ECS_INSTANCE_ATTRIBUTES='{"stack":"prod"}')
    arn = first.wait("registered")["arn"]
    first.wait("connected")
    first.stop()
    second = start("--arn", arn, ECS_INSTANCE_ATTRIBUTES='{"stack":"other"}')
    assert second.wait("registered")["arn"] == arn
    second.wait("connected")
    instance = standin.instance()
    assert instance["registrations"] == 2
    assert "stack" not in {a["name"] for a in instance["registration"]["attributes"]}
    standin.assert_no_violations()


def test_throttled_registration_is_tried_again(standin, start):
    standin.fault("ecs", "throttle", "RegisterContainerInstance", count=4)
    tool = start()
    tool.wait("connected", timeout=60)
    assert len(standin.calls("ecs", "RegisterContainerInstance")) == 5
    standin.assert_no_violations()


def test_refused_registration_ends_with_the_terminal_code(standin, start):
    standin.fault(
        "ecs", "status", "RegisterContainerInstance", status=400, error="ClientException"
    )
    tool = start()
    tool.wait_exit()
    assert tool.process.returncode == 5
    assert "ClientException" in tool.wait("failed")["error"]


def test_configured_cluster_that_is_missing_is_not_created(standin, start):
    tool = start(ECS_CLUSTER="nowhere")
    tool.wait_exit()
    assert tool.process.returncode == 5
    assert not standin.calls("ecs", "CreateCluster")


def test_default_cluster_that_is_missing_is_created(tmp_path):
    with StandIn.start(tmp_path / "empty", no_cluster=True) as empty:
        tool = Tool(tmp_path, empty)
        try:
            tool.wait("connected")
            assert len(empty.calls("ecs", "CreateCluster")) == 1
            empty.assert_no_violations()
        finally:
            tool.stop()


def test_acknowledges_payload_credentials_heartbeat_and_manifest(standin, start):
    tool = start(ECS_ENABLE_TASK_IAM_ROLE="true")
    tool.wait("manifest")
    tool.wait("stop-verification")
    arns = standin.run_tasks(WITH_ROLES, count=50)
    tool.wait("payload")
    for arn in arns:
        standin.wait_task(arn, "RUNNING")
    standin.heartbeat()
    tool.wait("heartbeat")
    standin.refresh_credentials(arns[0])
    tool.wait("credentials")
    standin.stop_task(arns[0])
    standin.wait_task(arns[0], "STOPPED")
    wait_for(lambda: not standin.instance()["outbox"], 30, "messages are not acknowledged")
    standin.assert_no_violations()


@pytest.mark.parametrize("code", [None, 1000, 1001, 1011])
def test_reconnects_after_every_kind_of_end(standin, start, code):
    tool = start()
    for n in range(1, 4):
        tool.wait("connected", count=n)
        standin.kill_acs(code)
        tool.wait("disconnected", count=n)
    tool.wait("connected", count=4)
    wait_for(lambda: standin.instance()["acsConnects"] == 4, 30, "not four connects")
    arn = standin.run_task(PLAIN)
    standin.wait_task(arn, "RUNNING")
    standin.assert_no_violations()


def test_refused_handshakes_are_tried_again(standin, start):
    standin.fault("acs", "status", "connect", status=400, error="ServerException", count=2)
    standin.fault("acs", "reset", "connect", count=1)
    tool = start()
    tool.wait("connected")
    assert "ServerException" in tool.text()


def test_inactive_instance_waits_instead_of_asking_again(standin, start):
    standin.fault("acs", "status", "connect", status=400, error="InactiveInstanceException")
    tool = start()
    tool.wait("inactive")
    connects = len(standin.calls("acs", "connect"))
    assert connects == 1
    assert not tool.all("connected")


def test_hostile_frames_do_not_end_the_session(standin, start):
    tool = start()
    tool.wait("connected")
    frames = [
        "",
        "[]",
        "{",
        '{"type":"PayloadMessage"}',
        '{"type":7,"message":{}}',
        '{"type":"PayloadMessage","message":{"messageId":"m","clusterArn":"","tasks":[]}}',
        '{"type":"PayloadMessage","message":[]}',
        '{"type":"TaskManifestMessage","message":{"messageId":"m","timeline":"1"}}',
        '{"type":"NobodyKnowsThis","message":{}}',
        '{"type":"HeartbeatMessage","message":{"messageId":null}}',
        '{"message":{},"message":{},"type":"HeartbeatMessage"}',
        json.dumps({"type": "x" * 100000, "message": {"a": "b" * 1000000}}),
        '{"a":' * 5000,
        '{"InactiveInstanceException":"just words"}',
    ]
    for frame in frames:
        standin.send_frame(frame)
    standin.heartbeat()
    tool.wait("heartbeat")
    assert len(tool.all("connected")) == 1 and not tool.all("disconnected")
    assert not tool.all("payload")


def test_updates_are_refused_and_attachments_dropped_by_name(standin, start):
    tool = start()
    tool.wait("connected")
    standin.send_message("StageUpdateMessage", {"updateInfo": {"location": "x", "signature": "y"}})
    standin.send_message("ConfirmAttachmentMessage", {"taskArn": "x"})
    standin.heartbeat()
    tool.wait("heartbeat")
    assert "ConfirmAttachmentMessage was dropped" in tool.text()
    # The one is out of the way, the other is sent again for ever.
    wait_for(
        lambda: [m["type"] for m in standin.instance()["outbox"]] == ["ConfirmAttachmentMessage"],
        30,
        lambda: standin.instance()["outbox"],
    )
    standin.assert_no_violations()


def test_static_keys_of_the_configuration_come_before_the_role(standin, start):
    tool = start(
        AWS_ACCESS_KEY_ID=standin.facts["accessKeyId"],
        AWS_SECRET_ACCESS_KEY=standin.facts["secretAccessKey"],
    )
    tool.wait("connected")
    assert tool.wait("keys")["accessKeyId"] == standin.facts["accessKeyId"]
    assert not [c for c in standin.calls("imds") if "security-credentials" in c["operation"]]


def test_shared_credentials_file_is_read(tmp_path, standin, start):
    shared = tmp_path / "credentials"
    shared.write_text(
        "[other]\naws_access_key_id = no\n[node]\n"
        f"aws_access_key_id = {standin.facts['accessKeyId']}\n"
        f"aws_secret_access_key={standin.facts['secretAccessKey']}\n"
    )
    tool = start(AWS_SHARED_CREDENTIALS_FILE=shared, AWS_PROFILE="node")
    tool.wait("connected")
    assert tool.wait("keys")["accessKeyId"] == standin.facts["accessKeyId"]


def test_metadata_service_may_fail_for_a_while(standin, start):
    standin.fault("imds", "status", "token", status=503, count=2)
    standin.fault("imds", "reset", "dynamic/instance-identity/document", count=1)
    tool = start()
    tool.wait("connected")
    assert tool.wait("instance")["instanceId"]


def test_untrusted_certificate_is_an_error_that_says_so(standin, start):
    tool = start(AWS_CA_BUNDLE=None)
    wait_for(lambda: "certificate" in tool.text(), 30, "no word of the certificate")
    assert not tool.all("registered")
    assert not standin.calls("ecs")


class _Proxy(socketserver.ThreadingTCPServer):
    """A CONNECT proxy that remembers where it was asked to go."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self):
        self.targets = []
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _ProxyHandler(http.server.BaseHTTPRequestHandler):
    def do_CONNECT(self):
        self.server.targets.append((self.path, self.headers.get("Proxy-Authorization")))
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as upstream:
            self.send_response_only(200)
            self.end_headers()
            self.wfile.flush()
            ends = {self.connection: upstream, upstream: self.connection}
            while True:
                for end in select.select(list(ends), [], [])[0]:
                    data = end.recv(65536)
                    if not data:
                        return
                    ends[end].sendall(data)

    def log_message(self, *_):
        pass


def test_api_and_acs_go_through_the_proxy_but_not_the_metadata_service(standin, start):
    with _Proxy() as proxy:
        address = f"127.0.0.1:{proxy.server_address[1]}"
        tool = start(HTTPS_PROXY=f"http://me:secret@{address}", HTTP_PROXY="http://127.0.0.1:9")
        tool.wait("connected")
        host = standin.endpoint.removeprefix("https://")
        want = (host, "Basic " + base64.b64encode(b"me:secret").decode())
        assert len(proxy.targets) >= 2 and set(proxy.targets) == {want}
        tool.stop()
        proxy.shutdown()


def test_keys_of_the_role_are_renewed_before_they_end(tmp_path, start):
    with StandIn.start(tmp_path / "short", imds_credentials_seconds=6) as short:
        tool = Tool(tmp_path, short)
        try:
            tool.wait("connected")
            tool.wait("keys", count=3, timeout=60)
            deadline = time.time() + 30
            arn = short.run_task(PLAIN)
            short.wait_task(arn, "RUNNING", timeout=deadline - time.time())
            expired = [c for c in short.calls("ecs") if c["error"]]
            assert not expired
        finally:
            tool.stop()
