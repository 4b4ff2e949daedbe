"""The stand-in's ACS and TCS: what right and wrong agents meet."""

import asyncio
import json
import os
import pathlib
import subprocess
import sys
import uuid
from urllib.parse import quote

import aiohttp
import pytest

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from controlplane.client import StandIn, StandInError, wait_for  # noqa: E402
from controlplane.scripted_agent import (  # noqa: E402
    acs_query,
    call,
    connect,
    credentials_of,
    handshake,
    now,
    register,
    sign,
    submit,
    tcs_query,
)

ROLE = "arn:aws:iam::111122223333:role/app"
EXECUTION_ROLE = "arn:aws:iam::111122223333:role/ecsTaskExecutionRole"
PLAIN = {
    "family": "plain",
    "containerDefinitions": [{"name": "app", "image": "busybox", "memory": 16}],
}
WITH_ROLES = {
    **PLAIN,
    "family": "roles",
    "taskRoleArn": ROLE,
    "executionRoleArn": EXECUTION_ROLE,
}


@pytest.fixture
def standin(tmp_path):
    with StandIn.start(tmp_path / "standin") as standin:
        yield standin


def rules(standin):
    return [violation["rule"] for violation in standin.violations()]


def scenario(function):
    """Run an async test, with a deadline of its own."""

    def run(standin):
        asyncio.run(asyncio.wait_for(function(standin), 60))

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    return run


async def first_manifest(acs):
    manifest = await acs.expect("TaskManifestMessage")
    await acs.ack(manifest)
    return manifest


# ACS: connections


@scenario
async def test_a_session_begins_with_a_manifest(standin):
    arn = register(standin)
    async with connect(standin, "acs", acs_query(arn)) as acs:
        manifest = await first_manifest(acs)
        assert manifest["tasks"] == []
        assert manifest["containerInstanceArn"] == arn
        await acs.settle()
        assert standin.instance()["acsConnected"]
        assert standin.instance()["outbox"] == []
    wait_for(lambda: not standin.instance()["acsConnected"], 20, "still connected")
    standin.assert_no_violations()


@scenario
async def test_credentials_are_asked_for_on_the_first_connection_of_a_process_only(standin):
    arn = register(standin)
    for expected in ("true", "false", "false"):
        async with connect(standin, "acs", acs_query(arn, sendCredentials=expected)) as acs:
            await first_manifest(acs)
            await acs.settle()
        wait_for(lambda: not standin.instance()["acsConnected"], 20, "still connected")
    register(standin, containerInstanceArn=arn)
    async with connect(standin, "acs", acs_query(arn, sendCredentials="true")) as acs:
        await first_manifest(acs)
        await acs.settle()
    standin.assert_no_violations()
    wait_for(lambda: not standin.instance()["acsConnected"], 20, "still connected")
    async with connect(standin, "acs", acs_query(arn, sendCredentials="true")):
        assert rules(standin) == ["query"]


@pytest.mark.parametrize(
    "changes",
    [
        {"seqNum": "2"},
        {"protocolVersion": None},
        {"agentHash": None},
        {"dockerVersion": "25.0.3"},
        {"sendCredentials": "yes"},
        {"sendCredentials": "false"},
        {"zone": "a"},
    ],
)
def test_a_wrong_query_is_a_violation(standin, changes):
    query = acs_query(register(standin), **changes)
    assert handshake(standin, "acs", query)[0] == 101
    assert set(rules(standin)) == {"query"}


def test_a_query_out_of_order_or_with_plus_is_a_violation(standin):
    query = acs_query(register(standin))
    pairs = [f"{name}={quote(query[name], safe='')}" for name in sorted(query)]
    target = "/acs/ws?" + "&".join(reversed(pairs))
    assert handshake(standin, "acs", query, target=target)[0] == 101
    assert rules(standin) == ["query"]
    standin.clear_violations()
    target = "/acs/ws?" + "&".join(pairs).replace("%20", "+")
    assert handshake(standin, "acs", query, target=target)[0] == 403
    assert rules(standin) == ["signature"]


@pytest.mark.parametrize("service", ["acs", "tcs"])
def test_a_handshake_with_a_wrong_signature_is_refused(standin, service):
    arn = register(standin)
    query = acs_query(arn) if service == "acs" else tcs_query(arn)
    headers = {"X-Amz-Date": "20200101T000000Z"}
    status, body = handshake(standin, service, query, headers=headers)
    assert (status, body["type"]) == (403, "AccessDeniedException")
    assert rules(standin) == ["signature"]


def test_a_handshake_is_refused_for_the_reasons_of_the_service(standin):
    arn = register(standin)
    other = arn.rsplit("/", 1)[0] + "/" + "0" * 32
    status, body = handshake(standin, "acs", acs_query(other))
    assert (status, body["type"]) == (400, "InvalidInstanceException")
    assert handshake(standin, "acs", acs_query(arn, clusterArn="blue"))[1]["type"] == (
        "InvalidClusterException"
    )
    assert handshake(standin, "tcs", tcs_query(other))[1]["type"] == "ResourceValidationException"
    call(standin, "DeregisterContainerInstance", {"containerInstance": arn})
    assert handshake(standin, "acs", acs_query(arn))[1]["type"] == "InactiveInstanceException"


@scenario
async def test_an_extension_or_protocol_in_the_handshake_is_a_violation(standin):
    arn = register(standin)
    headers = {"Sec-WebSocket-Protocol": "ecs"}
    async with connect(standin, "acs", acs_query(arn), headers=headers):
        assert rules(standin) == ["handshake"]


@scenario
async def test_a_ping_of_the_server_is_answered_and_one_of_the_agent_is_a_violation(standin):
    arn = register(standin)
    async with connect(standin, "acs", acs_query(arn)) as acs:
        await first_manifest(acs)
        standin.post("/acs/ping")
        await acs.settle()
        standin.assert_no_violations()
        await acs.socket.ping()
        await acs.settle()
        assert rules(standin) == ["frame"]


# ACS: tasks


@scenario
async def test_a_definition_arrives_as_the_backend_would_send_it(standin):
    arn = register(standin)
    definition = {
        **WITH_ROLES,
        "cpu": "256",
        "networkMode": "host",
        "volumes": [{"name": "v", "host": {"sourcePath": "/srv"}}, {"name": "scratch"}],
        "containerDefinitions": [
            {
                "name": "app",
                "image": "111122223333.dkr.ecr.us-west-2.amazonaws.com/app:1",
                "cpu": 10,
                "memory": 64,
                "memoryReservation": 32,
                "essential": True,
                "command": ["serve"],
                "entryPoint": ["/bin/app"],
                "environment": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "portMappings": [{"containerPort": 80}],
                "mountPoints": [{"sourceVolume": "v", "containerPath": "/v", "readOnly": True}],
                "user": "1000:1000",
                "hostname": "h",
                "dockerLabels": {"team": "x"},
                "ulimits": [{"name": "nofile", "softLimit": 10, "hardLimit": 20}],
                "healthCheck": {"command": ["CMD", "true"], "interval": 5, "retries": 2},
                "linuxParameters": {
                    "capabilities": {"add": ["NET_ADMIN"], "drop": ["MKNOD"]},
                    "initProcessEnabled": True,
                    "tmpfs": [{"containerPath": "/t", "size": 8, "mountOptions": ["noexec"]}],
                },
                "secrets": [{"name": "S", "valueFrom": "/my/parameter"}],
                "logConfiguration": {
                    "logDriver": "awslogs",
                    "options": {
                        "awslogs-group": "g",
                        "awslogs-region": "us-west-2",
                        "awslogs-stream-prefix": "web",
                    },
                },
            }
        ],
    }
    overrides = {
        "containerOverrides": [
            {"name": "app", "command": ["other"], "environment": [{"name": "B", "value": "3"}]}
        ]
    }
    attributes = standin.instance()["registration"]["attributes"] + [
        {"name": name}
        for name in (
            "com.amazonaws.ecs.capability.task-iam-role-network-host",
            "ecs.capability.task-cpu-mem-limit",
            "ecs.capability.container-health-check",
            "ecs.capability.secrets.ssm.environment-variables",
        )
    ]
    register(standin, containerInstanceArn=arn, attributes=attributes)
    async with connect(standin, "acs", acs_query(arn)) as acs:
        await first_manifest(acs)
        task_arn = standin.run_task(definition, overrides=overrides)
        payload = await acs.expect("PayloadMessage")
        await acs.ack_payload(payload)
        await acs.settle()

    (task,) = payload["tasks"]
    assert task["arn"] == task_arn
    assert (task["family"], task["version"], task["desiredStatus"]) == ("roles", "1", "RUNNING")
    assert (task["cpu"], task["networkMode"]) == (0.25, "host")
    assert task["volumes"] == [
        {"name": "v", "type": "host", "host": {"sourcePath": "/srv"}},
        {"name": "scratch", "type": "host", "host": {}},
    ]
    assert task["roleCredentials"]["roleArn"] == ROLE
    assert task["executionRoleCredentials"]["roleArn"] == EXECUTION_ROLE
    (container,) = task["containers"]
    assert container["environment"] == {"A": "1", "B": "3", "AWS_EXECUTION_ENV": "AWS_ECS_EC2"}
    assert json.loads(container["overrides"]) == {"command": ["other"]}
    assert container["portMappings"] == [{"containerPort": 80, "hostPort": 80, "protocol": "tcp"}]
    assert container["healthCheckType"] == "docker"
    assert container["logsAuthStrategy"] == "ExecutionRole"
    assert container["secrets"][0]["provider"] == "ssm"
    assert container["registryAuthentication"] == {
        "type": "ecr",
        "ecrAuthData": {
            "registryId": "111122223333",
            "region": "us-west-2",
            "useExecutionRole": True,
            "endpointOverride": standin.endpoint.removeprefix("https://"),
        },
    }
    assert json.loads(container["dockerConfig"]["config"]) == {
        "User": "1000:1000",
        "Hostname": "h",
        "Labels": {"team": "x"},
        "Healthcheck": {
            "Test": ["CMD", "true"],
            "Interval": 5_000_000_000,
            "Timeout": 5_000_000_000,
            "Retries": 2,
            "StartPeriod": 0,
        },
    }
    assert json.loads(container["dockerConfig"]["hostConfig"]) == {
        "NetworkMode": "host",
        "CapAdd": ["NET_ADMIN"],
        "CapDrop": ["MKNOD"],
        "Init": True,
        "MemoryReservation": 33554432,
        "Tmpfs": {"/t": "size=8m,noexec"},
        "Ulimits": [{"Name": "nofile", "Soft": 10, "Hard": 20}],
        "LogConfig": {
            "Type": "awslogs",
            "Config": {
                "awslogs-group": "g",
                "awslogs-region": "us-west-2",
                "awslogs-stream": f"web/app/{task_arn.rsplit('/', 1)[-1]}",
                "awslogs-endpoint": standin.endpoint,
            },
        },
    }
    standin.assert_no_violations()


@scenario
async def test_an_awsvpc_task_has_the_interfaces_it_was_submitted_with(standin):
    attributes = [{"name": "ecs.capability.task-eni"}, {"name": "ecs.os-type", "value": "linux"}]
    attributes.append({"name": "com.amazonaws.ecs.capability.docker-remote-api.1.18"})
    arn = register(standin, attributes=attributes)
    definition = {**PLAIN, "networkMode": "awsvpc"}
    with pytest.raises(StandInError, match="elasticNetworkInterfaces"):
        standin.run_task(definition)
    interface = {"attachmentArn": "arn:a", "macAddress": "0a:00:00:00:00:01", "ec2Id": "eni-1"}
    async with connect(standin, "acs", acs_query(arn)) as acs:
        await first_manifest(acs)
        standin.run_task(definition, elasticNetworkInterfaces=[interface])
        payload = await acs.expect("PayloadMessage")
        assert payload["tasks"][0]["elasticNetworkInterfaces"] == [interface]
        await acs.ack_payload(payload)


@scenario
async def test_fifty_tasks_come_in_one_payload(standin):
    arn = register(standin)
    async with connect(standin, "acs", acs_query(arn)) as acs:
        await first_manifest(acs)
        arns = standin.run_tasks(PLAIN, count=50)
        payload = await acs.expect("PayloadMessage")
        assert [task["arn"] for task in payload["tasks"]] == arns
        await acs.ack_payload(payload)
        await acs.settle()
    assert all(task["delivered"] for task in standin.tasks())
    standin.assert_no_violations()


@scenario
async def test_what_is_not_acknowledged_is_sent_again_after_a_reconnect(standin):
    arn = register(standin)
    async with connect(standin, "acs", acs_query(arn)) as acs:
        await first_manifest(acs)
        await acs.settle()
        task = standin.run_task(PLAIN)
        first = await acs.expect("PayloadMessage")
        standin.kill_acs()
        with pytest.raises(AssertionError):
            await acs.receive()
    wait_for(lambda: not standin.instance()["acsConnected"], 20, "still connected")
    async with connect(standin, "acs", acs_query(arn, sendCredentials="false")) as acs:
        manifest = await first_manifest(acs)
        assert [entry["taskArn"] for entry in manifest["tasks"]] == [task]
        again = await acs.expect("PayloadMessage")
        assert again["messageId"] == first["messageId"]
        await acs.ack_payload(again)
        await acs.settle()
        assert standin.instance()["outbox"] == []
    standin.assert_no_violations()


def test_an_unacknowledged_payload_is_sent_again_on_the_same_connection(tmp_path):
    async def run(standin):
        arn = register(standin)
        async with connect(standin, "acs", acs_query(arn)) as acs:
            await first_manifest(acs)
            standin.run_task(PLAIN)
            first = await acs.expect("PayloadMessage")
            again = await acs.expect("PayloadMessage")
            assert again["messageId"] == first["messageId"]
            await acs.ack_payload(again)
            await acs.settle()

    with StandIn.start(tmp_path / "standin", resend_seconds=0.3) as standin:
        asyncio.run(run(standin))
        standin.assert_no_violations()


@scenario
async def test_a_stop_is_the_task_again_with_another_desired_status(standin):
    arn = register(standin)
    async with connect(standin, "acs", acs_query(arn)) as acs:
        await first_manifest(acs)
        task = standin.run_task(PLAIN)
        start = await acs.expect("PayloadMessage")
        await acs.ack_payload(start)
        standin.stop_task(task, "enough")
        stop = await acs.expect("PayloadMessage")
        await acs.ack_payload(stop)
        assert stop["seqNum"] > start["seqNum"]
        assert stop["tasks"][0] == {**start["tasks"][0], "desiredStatus": "STOPPED"}
        submit(standin, task, "STOPPED", containers=[{"containerName": "app", "status": "STOPPED"}])
        await acs.settle()
    found = standin.task(task)
    assert (found["stopCode"], found["stoppedReason"]) == ("UserInitiated", "enough")
    events = [event["event"] for event in found["timeline"]]
    assert events == [
        "created", "payload-sent", "payload-acked", "stop-requested", "payload-sent",
        "payload-acked", "state-change",
    ]  # fmt: skip
    standin.assert_no_violations()


@scenario
async def test_a_raw_task_is_sent_as_it_is(standin):
    arn = register(standin)
    async with connect(standin, "acs", acs_query(arn)) as acs:
        await first_manifest(acs)
        raw = {"arn": "arn:x/1", "containers": 7, "Unknown": {"a": None}}
        standin.send_task(raw, exact=True)
        payload = await acs.expect("PayloadMessage")
        assert payload["tasks"] == [raw]
        standin.send_tasks([None], exact=True)
        payload = await acs.expect("PayloadMessage")
        assert payload["tasks"] == [None]
        # An agent that cannot load a task reports it as stopped, and does not acknowledge.
        reason = "UnrecogniedTaskError: Error loading task - containers"
        assert submit(standin, "arn:x/1", "STOPPED", reason=reason)[0] == 200
        assert len(standin.instance()["outbox"]) == 1
        standin.send_frame("{ not json")
        frame = await acs.socket.receive()
        assert frame.data == "{ not json"
    assert standin.task("arn:x/1")["stoppedReason"] == reason
    standin.assert_no_violations()


@scenario
async def test_credentials_are_sent_renewed_and_known(standin):
    arn = register(standin)
    async with connect(standin, "acs", acs_query(arn)) as acs:
        await first_manifest(acs)
        task = standin.run_task(WITH_ROLES)
        payload = await acs.expect("PayloadMessage")
        await acs.ack_payload(payload)
        await acs.settle()
        first = payload["tasks"][0]["roleCredentials"]
        standin.refresh_credentials(task)
        renewed = {}
        for _ in range(2):
            message = await acs.expect("IAMRoleCredentialsMessage")
            assert message["taskArn"] == task
            renewed[message["roleType"]] = message["roleCredentials"]
            await acs.ack_credentials(message["messageId"], message["roleCredentials"])
        await acs.settle()
        second = renewed["TaskApplication"]
        assert second["credentialsId"] == first["credentialsId"]
        assert second["accessKeyId"] != first["accessKeyId"]
        assert renewed["TaskExecution"]["roleArn"] == EXECUTION_ROLE
        assert standin.instance()["outbox"] == []
    environment = {**os.environ, **standin.environment()}
    environment["AWS_ACCESS_KEY_ID"] = second["accessKeyId"]
    environment["AWS_SECRET_ACCESS_KEY"] = second["secretAccessKey"]
    environment["AWS_SESSION_TOKEN"] = second["sessionToken"]
    command = ["/usr/bin/aws", "--endpoint-url", standin.endpoint, "sts", "get-caller-identity"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    session = task.rsplit("/", 1)[-1]
    assert f"assumed-role/app/{session}" in result.stdout, result.stderr
    assert standin.state()["identities"] == [
        f"arn:aws:sts::111122223333:assumed-role/app/{session}"
    ]
    standin.assert_no_violations()


@scenario
async def test_credentials_come_again_to_a_restarted_agent(standin):
    arn = register(standin)
    async with connect(standin, "acs", acs_query(arn)) as acs:
        await first_manifest(acs)
        standin.run_task(WITH_ROLES)
        await acs.ack_payload(await acs.expect("PayloadMessage"))
        await acs.settle()
    register(standin, containerInstanceArn=arn)
    async with connect(standin, "acs", acs_query(arn)) as acs:
        await first_manifest(acs)
        for _ in range(2):
            message = await acs.expect("IAMRoleCredentialsMessage")
            await acs.ack_credentials(message["messageId"], message["roleCredentials"])
        await acs.settle()
    standin.assert_no_violations()


def test_credentials_are_renewed_by_a_timer(tmp_path):
    async def run(standin):
        arn = register(standin)
        async with connect(standin, "acs", acs_query(arn)) as acs:
            await first_manifest(acs)
            standin.run_task(WITH_ROLES)
            await acs.ack_payload(await acs.expect("PayloadMessage"))
            message = await acs.expect("IAMRoleCredentialsMessage")
            await acs.ack_credentials(message["messageId"], message["roleCredentials"])

    with StandIn.start(tmp_path / "standin", credentials_refresh_seconds=0.5) as standin:
        asyncio.run(run(standin))


# ACS: wrong answers


@pytest.mark.parametrize(
    "kind, changes, rule",
    [
        ("AckRequest", {"messageId": "m"}, "unknown-message"),
        ("AckRequest", {"cluster": "default"}, "ack-identity"),
        ("AckRequest", {"containerInstance": "x"}, "ack-identity"),
        ("AckRequest", {"seqNum": 1}, "shape-unknown"),
        ("AckRequest", {"messageId": 1}, "shape-type"),
        ("AckRequest", {"cluster": ...}, "shape-missing"),
        ("HeartbeatAckRequest", {"cluster": ..., "containerInstance": ...}, "unknown-message"),
        ("NackRequest", {"reason": "no"}, "wrong-ack"),
        ("AckPayload", {}, "message-type"),
    ],
)
def test_a_wrong_answer_is_a_violation(standin, kind, changes, rule):
    async def run():
        arn = register(standin)
        async with connect(standin, "acs", acs_query(arn)) as acs:
            manifest = await acs.expect("TaskManifestMessage")
            answer = {
                "cluster": manifest["clusterArn"],
                "containerInstance": arn,
                "messageId": manifest["messageId"],
                **changes,
            }
            await acs.send(kind, {k: v for k, v in answer.items() if v is not ...})
            await acs.settle()

    asyncio.run(run())
    assert rules(standin) == [rule]


@pytest.mark.parametrize(
    "text, rule",
    [
        ("{", "json"),
        ('{"type": "AckRequest", "type": "AckRequest", "message": {}}', "json"),
        ('{"type": "AckRequest"}', "envelope"),
        ('{"type": "HeartbeatMessage", "message": {}}', "message-type"),
    ],
)
def test_a_wrong_frame_is_a_violation(standin, text, rule):
    async def run():
        async with connect(standin, "acs", acs_query(register(standin))) as acs:
            await first_manifest(acs)
            await acs.socket.send_str(text)
            await acs.settle()
            await acs.socket.send_bytes(b"{}")
            await acs.settle()

    asyncio.run(run())
    assert rules(standin) == [rule, "frame"]


@scenario
async def test_wrong_acknowledgements_of_credentials_are_violations(standin):
    async with connect(standin, "acs", acs_query(register(standin))) as acs:
        await first_manifest(acs)
        standin.run_task(WITH_ROLES)
        payload = await acs.expect("PayloadMessage")
        credentials = payload["tasks"][0]["roleCredentials"]
        wrong = {**credentials, "expiration": "2026-07-01T00:00:00.000Z"}
        await acs.ack_credentials(payload["messageId"], wrong)
        await acs.settle()
        assert rules(standin) == ["credentials-ack"]
        standin.clear_violations()
        await acs.ack_payload(payload)
        await acs.ack(payload)
        await acs.settle()
        assert rules(standin) == ["repeated-ack"]
        standin.clear_violations()
        standin.refresh_credentials()
        message = await acs.expect("IAMRoleCredentialsMessage")
        message.update(clusterArn=payload["clusterArn"], containerInstanceArn="x")
        await acs.ack(message)
        assert (await acs.expect("IAMRoleCredentialsMessage"))["roleType"] == "TaskExecution"
        await acs.settle()
        assert rules(standin) == ["wrong-ack"]


def test_an_unanswered_heartbeat_ends_the_connection(tmp_path):
    async def run(standin):
        async with connect(standin, "acs", acs_query(register(standin))) as acs:
            assert await acs.expect_close() == 1011

    options = {"heartbeat_seconds": 0.2, "heartbeat_ack_seconds": 0.3}
    with StandIn.start(tmp_path / "standin", **options) as standin:
        asyncio.run(run(standin))
        assert rules(standin) == ["heartbeat-ack"]


# ACS: stop verification, other messages, faults


@scenario
async def test_only_tasks_that_should_not_run_are_confirmed_to_stop(standin):
    arn = register(standin)
    async with connect(standin, "acs", acs_query(arn)) as acs:
        await first_manifest(acs)
        task = standin.run_task(PLAIN)
        await acs.ack_payload(await acs.expect("PayloadMessage"))
        manifest_id = standin.send_manifest(omit=[task])["messageId"]
        manifest = await first_manifest(acs)
        assert (manifest["messageId"], manifest["tasks"]) == (manifest_id, [])
        candidates = [
            {"taskArn": name, "taskClusterArn": manifest["clusterArn"], "desiredStatus": "STOPPED"}
            for name in (task, "arn:aws:ecs:us-west-2:111122223333:task/default/forgotten")
        ]
        question = {"messageId": manifest_id, "stopCandidates": candidates}
        await acs.send("TaskStopVerificationMessage", question)
        answer = await acs.expect("TaskStopVerificationAck")
        assert answer["messageId"] == manifest_id
        assert answer["stopTasks"] == candidates[1:]
        standin.answer_verifications("all")
        await acs.send("TaskStopVerificationMessage", question)
        assert (await acs.expect("TaskStopVerificationAck"))["stopTasks"] == candidates
        assert standin.task(task)["desiredStatus"] == "STOPPED"
        standin.assert_no_violations()

        standin.send_manifest()
        manifest = await first_manifest(acs)
        standin.run_task(PLAIN)
        await acs.ack_payload(await acs.expect("PayloadMessage"))
        standin.send_manifest()
        manifest = await first_manifest(acs)
        running = [t for t in manifest["tasks"] if t["desiredStatus"] == "RUNNING"]
        question = {"messageId": manifest["messageId"], "stopCandidates": running}
        await acs.send("TaskStopVerificationMessage", question)
        await acs.expect("TaskStopVerificationAck")
        assert set(rules(standin)) == {"stop-candidate"}


@scenario
async def test_any_message_of_the_model_can_be_sent(standin):
    arn = register(standin)
    async with connect(standin, "acs", acs_query(arn)) as acs:
        await first_manifest(acs)
        attachment = "arn:aws:ecs:us-west-2:111122223333:attachment/a"
        interface = {"attachmentArn": attachment, "macAddress": "0a:00:00:00:00:01"}
        task = standin.run_task(PLAIN)
        await acs.ack_payload(await acs.expect("PayloadMessage"))
        standin.send_message(
            "AttachTaskNetworkInterfacesMessage",
            {"taskArn": task, "waitTimeoutMs": 1000, "elasticNetworkInterfaces": [interface]},
        )
        message = await acs.expect("AttachTaskNetworkInterfacesMessage")
        assert message["containerInstanceArn"] == arn
        await acs.ack(message)
        document = {"cluster": "default", "task": task}
        document["attachments"] = [{"attachmentArn": attachment, "status": "ATTACHED"}]
        assert call(standin, "SubmitTaskStateChange", document)[0] == 200
        assert standin.task(task)["attachments"] == {attachment: "ATTACHED"}
        del document["task"]
        assert call(standin, "SubmitAttachmentStateChanges", document)[0] == 200

        standin.send_message("StageUpdateMessage", {"updateInfo": {"location": "https://x"}})
        update = await acs.expect("StageUpdateMessage")
        nack = {
            "cluster": update["clusterArn"],
            "containerInstance": arn,
            "messageId": update["messageId"],
            "reason": "Updates are disabled",
        }
        await acs.send("NackRequest", nack)
        await acs.settle()
        standin.assert_no_violations()
        document["attachments"][0]["attachmentArn"] = "arn:none"
        call(standin, "SubmitAttachmentStateChanges", document)
        assert rules(standin) == ["unknown-attachment"]
    with pytest.raises(StandInError, match="'Nonsense' is not a message"):
        standin.send_message("Nonsense")


@scenario
async def test_faults_of_connections_and_messages(standin):
    arn = register(standin)
    standin.fault(
        "acs", "status", "connect", count=1, status=400, error="InactiveInstanceException"
    )
    status, body = handshake(standin, "acs", acs_query(arn))
    assert (status, body["type"]) == (400, "InactiveInstanceException")
    standin.fault("acs", "reset", "connect", count=1)
    with pytest.raises(aiohttp.ClientError):
        async with connect(standin, "acs", acs_query(arn)):
            pass
    async with connect(standin, "acs", acs_query(arn)) as acs:
        await first_manifest(acs)
        standin.fault("acs", "drop", "PayloadMessage", count=1)
        task = standin.run_task(PLAIN)
        await acs.settle()  # nothing came before the heartbeat
        standin.fault("acs", "malformed", "PayloadMessage", count=1, body="[")
        standin.run_task(PLAIN)
        assert (await acs.socket.receive()).data == "["
        standin.fault("acs", "delay", "PayloadMessage", count=1, delay=0.1)
        standin.run_task(PLAIN)
        payload = await acs.expect("PayloadMessage")
        standin.fault("acs", "drop", "AckRequest", count=1)
        await acs.ack(payload)
        await acs.settle()
        assert not standin.task(payload["tasks"][0]["arn"])["delivered"]
        await acs.ack(payload)
        await acs.settle()
        assert standin.task(payload["tasks"][0]["arn"])["delivered"]
        standin.fault("acs", "close", "PayloadMessage", count=1, code=1011)
        standin.run_task(PLAIN)
        assert await acs.expect_close() == 1011
    wait_for(lambda: not standin.instance()["acsConnected"], 20, "still connected")
    async with connect(standin, "acs", acs_query(arn, sendCredentials="false")) as acs:
        await first_manifest(acs)
        payload = await acs.expect("PayloadMessage")
        assert payload["tasks"][0]["arn"] == task
        standin.kill_acs(code=1001)
        assert await acs.expect_close() == 1001
    standin.assert_no_violations()


def test_commands_for_a_connection_that_is_not_there_say_so(standin):
    with pytest.raises(StandInError, match="no container instance is registered"):
        standin.kill_acs()
    register(standin)
    with pytest.raises(StandInError, match="has no acs connection"):
        standin.kill_acs()


# TCS


STATS = {"min": 1.0, "max": 3.0, "sampleCount": 2, "sum": 4.0}
LONGS = {"min": 1, "max": 3, "sampleCount": 2, "sum": 4}
STORAGE = {"readSizeBytes": LONGS, "writeSizeBytes": LONGS}


def metrics(arn, task=None, **changes):
    metadata = {"cluster": "default", "containerInstance": arn, "messageId": str(uuid.uuid4())}
    metadata.update(idle=task is None, fin=True)
    message = {"metadata": metadata, "timestamp": now()}
    if task:
        container = {
            "containerName": "app",
            "cpuStatsSet": STATS,
            "memoryStatsSet": STATS,
            "storageStatsSet": STORAGE,
        }
        message["taskMetrics"] = [
            {
                "taskArn": task,
                "taskDefinitionFamily": "plain",
                "taskDefinitionVersion": "1",
                "containerMetrics": [container],
            }
        ]
    return {**message, **changes}


@scenario
async def test_telemetry_is_taken_and_acknowledged(standin):
    arn = register(standin)
    task = standin.run_task(PLAIN)
    metadata = {"cluster": "default", "containerInstance": arn, "messageId": str(uuid.uuid4())}
    health = {
        "metadata": {**metadata, "fin": True},
        "timestamp": now(),
        "tasks": [
            {
                "taskArn": task,
                "taskDefinitionFamily": "plain",
                "taskDefinitionVersion": "1",
                "containers": [
                    {"containerName": "app", "healthStatus": "HEALTHY", "statusSince": now()}
                ],
            }
        ],
    }
    metadata = {"cluster": "default", "containerInstance": arn, "requestId": str(uuid.uuid4())}
    times = {"lastUpdated": now(), "lastStatusChange": now()}
    statuses = [{"type": "ContainerRuntime", "status": "OK", **times}]
    status = {"metadata": metadata, "statuses": statuses, "timestamp": now()}
    async with connect(standin, "tcs", tcs_query(arn)) as tcs:
        for kind, message, ack in (
            ("PublishMetricsRequest", metrics(arn), "AckPublishMetric"),
            ("PublishMetricsRequest", metrics(arn, task), "AckPublishMetric"),
            ("PublishHealthRequest", health, "AckPublishHealth"),
            ("PublishInstanceStatusRequest", status, "AckPublishInstanceStatus"),
        ):
            await tcs.send_signed(kind, message)
            await tcs.expect(ack)
        telemetry = standin.instance()["telemetry"]
    assert telemetry["metrics"][task]["containers"]["app"]["cpuStatsSet"] == STATS
    assert telemetry["health"][task] == {"app": "HEALTHY"}
    assert telemetry["statuses"] == {"ContainerRuntime": "OK"}
    assert telemetry["counts"]["PublishMetricsRequest"] == 2
    standin.assert_no_violations()


def _metadata(**changes):
    def change(message):
        message["metadata"].update(changes)

    return change


def _container(**changes):
    def change(message):
        container = message["taskMetrics"][0]["containerMetrics"][0]
        for name, value in changes.items():
            container[name] = value
            if value is ...:
                del container[name]

    return change


def _message(**changes):
    return lambda message: message.update(changes)


@pytest.mark.parametrize(
    "change, rule",
    [
        (_metadata(containerInstance="x"), "identity"),
        (_metadata(cluster="blue"), "identity"),
        (_metadata(messageId="1"), "message-id"),
        (_metadata(idle=True), "idle"),
        (_metadata(fin="true"), "shape-type"),
        (_message(taskMetrics=[]), "idle"),
        (_message(extra=1), "shape-unknown"),
        (_message(timestamp=1782864000123), "timestamp"),
        (_message(timestamp=1782864000.12345), "timestamp"),
        (_container(cpuStatsSet=...), "shape-missing"),
        (_container(memoryStatsSet={**STATS, "sum": 9.0}), "statistics"),
        (_container(cpuStatsSet={**STATS, "sampleCount": 0}), "statistics"),
        (_container(storageStatsSet={**STORAGE, "readSizeBytes": STATS}), "shape-type"),
        (_container(restartStatsSet={"restartCount": -1}), "shape-range"),
    ],
)
def test_wrong_metrics_are_a_violation(standin, change, rule):
    async def run():
        arn = register(standin)
        message = metrics(arn, standin.run_task(PLAIN))
        change(message)
        async with connect(standin, "tcs", tcs_query(arn)) as tcs:
            await tcs.send_signed("PublishMetricsRequest", message)
            await tcs.receive()

    asyncio.run(run())
    assert set(rules(standin)) == {rule}


@scenario
async def test_a_frame_that_is_not_signed_rightly_is_a_violation(standin):
    arn = register(standin)
    async with connect(standin, "tcs", tcs_query(arn)) as tcs:
        text = json.dumps({"type": "PublishMetricsRequest", "message": metrics(arn)})
        url = tcs.url
        headers = sign(standin, "GET", url, text.encode(), "ecs")
        block = "".join(f"{name}: {headers[name]}\r\n" for name in sorted(headers))

        async def found(frame):
            """The rules broken by this frame, known once a right one has been answered."""
            standin.clear_violations()
            await tcs.socket.send_str(frame)
            await tcs.send_signed("PublishMetricsRequest", metrics(arn))
            while (await tcs.receive())[0] != "AckPublishMetric":
                pass
            return rules(standin)

        assert await found(text) == ["envelope"]
        assert await found(f"{block}\r\n{text} ") == ["signature"]
        assert await found(block.replace("Signature=", "Signature=0") + "\r\n" + text) == [
            "signature"
        ]
        lines = block.splitlines(keepends=True)
        unsorted = "".join(reversed(lines))
        standin.clear_violations()
        await tcs.socket.send_str(f"{unsorted}\r\n{text}")
        await tcs.expect("AckPublishMetric")
        assert rules(standin) == ["frame-headers"]
        standin.clear_violations()
        extra = "".join(sorted([*lines, "Content-Length: 5\r\n"]))
        await tcs.socket.send_str(f"{extra}\r\n{text}")
        await tcs.expect("AckPublishMetric")
        assert set(rules(standin)) == {"frame-headers", "fin"}


@scenario
async def test_telemetry_is_signed_with_the_keys_of_the_instance(standin):
    arn = register(standin)
    async with connect(standin, "acs", acs_query(arn)) as acs:
        await first_manifest(acs)
        standin.run_task(WITH_ROLES)
        payload = await acs.expect("PayloadMessage")
        credentials = credentials_of(payload["tasks"][0]["roleCredentials"])
        async with connect(standin, "tcs", tcs_query(arn)) as tcs:
            await tcs.send_signed("PublishMetricsRequest", metrics(arn), credentials)
            await tcs.expect("AckPublishMetric")
    assert rules(standin) == ["wrong-credentials"]


@scenario
async def test_telemetry_faults(standin):
    arn = register(standin)
    standin.fault("tcs", "throttle", "connect", count=1)
    assert handshake(standin, "tcs", tcs_query(arn))[1]["type"] == "ThrottlingException"
    async with connect(standin, "tcs", tcs_query(arn)) as tcs:
        standin.fault("tcs", "reset", "PublishMetricsRequest", count=1)
        await tcs.send_signed("PublishMetricsRequest", metrics(arn))
        with pytest.raises(AssertionError):
            await tcs.receive()
    standin.assert_no_violations()
