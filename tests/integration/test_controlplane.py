"""The AWS stand-in itself: real AWS clients are accepted, wrong ones are refused and recorded.

What plays the agent here is an aiohttp client; the node's own tests use the same stand-in.
"""

import asyncio
import base64
import calendar
import http.client
import json
import os
import pathlib
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

import boto3
import botocore.config
import botocore.credentials
import botocore.exceptions
import pytest

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from controlplane.client import StandIn, StandInError, Timeout  # noqa: E402
from controlplane.scripted_agent import (  # noqa: E402
    ATTRIBUTES,
    RESOURCES,
    acs_query,
    call,
    connect,
    credentials_of,
    json_headers,
    now,
    register,
    registration,
    send,
    sign,
    submit,
)

AWS = "/usr/bin/aws"
DEFINITION = {
    "family": "web",
    "taskRoleArn": "arn:aws:iam::111122223333:role/app",
    "executionRoleArn": "arn:aws:iam::111122223333:role/ecsTaskExecutionRole",
    "containerDefinitions": [
        {
            "name": "app",
            "image": "busybox:1.36",
            "memory": 64,
            "command": ["sleep", "60"],
            "environment": [{"name": "A", "value": "1"}],
            "portMappings": [{"containerPort": 80}],
            "user": "1000",
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
PLAIN = {
    "family": "plain",
    "containerDefinitions": [{"name": "app", "image": "busybox", "memory": 16}],
}


@pytest.fixture
def standin(tmp_path):
    with StandIn.start(tmp_path / "standin") as standin:
        yield standin


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One stand-in for tests that leave nothing behind but violations, which they clear."""
    with StandIn.start(tmp_path_factory.mktemp("shared")) as standin:
        yield standin


def aws_client(standin, service, **more):
    facts = standin.facts
    settings = {
        "region_name": facts["region"],
        "endpoint_url": facts["endpoint"],
        "verify": facts["ca"],
        "aws_access_key_id": facts["accessKeyId"],
        "aws_secret_access_key": facts["secretAccessKey"],
        "config": botocore.config.Config(retries={"total_max_attempts": 1}),
    }
    return boto3.session.Session().client(service, **{**settings, **more})


def error_of(call, **arguments):
    """(code, message) of the AWS error a boto3 call ends with."""
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call(**arguments)
    error = caught.value.response["Error"]
    return error["Code"], error["Message"]


def rules(standin):
    return [violation["rule"] for violation in standin.violations()]


def started_task(standin, definition=None):
    """A task of a registered instance that has no connection; the state calls work without."""
    if standin.instance() is None:
        register(standin)
    return standin.run_task(definition or PLAIN)


# Signatures


def test_requests_of_boto3_are_accepted(shared):
    assert aws_client(shared, "ecs").list_clusters()["clusterArns"] == [
        "arn:aws:ecs:us-west-2:111122223333:cluster/default"
    ]
    identity = aws_client(shared, "sts").get_caller_identity()
    assert identity["Arn"] == "arn:aws:iam::111122223333:user/standin"
    shared.assert_no_violations()


def test_requests_of_the_aws_command_are_accepted(shared):
    environment = {**os.environ, **shared.environment()}
    for arguments, expected in (
        (["ecs", "list-clusters"], "cluster/default"),
        (["sts", "get-caller-identity"], "user/standin"),
        (["ecr", "get-authorization-token"], "authorizationToken"),
        (["logs", "describe-log-groups"], "logGroups"),
    ):
        command = [AWS, "--endpoint-url", shared.endpoint, "--output", "json", *arguments]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60
        )
        assert result.returncode == 0, result.stderr
        assert expected in result.stdout
    shared.assert_no_violations()


BODY = b'{"cluster": "default"}'
TARGET = "AmazonEC2ContainerServiceV20141113.ListTasks"


def _tampered_body(standin, headers):
    return headers, b'{"cluster": "another"}'


def _tampered_target(standin, headers):
    headers["X-Amz-Target"] = "AmazonEC2ContainerServiceV20141113.ListClusters"
    return headers, BODY


def _tampered_signature(standin, headers):
    headers["Authorization"] = headers["Authorization"][:-4] + "0000"
    return headers, BODY


def _without_authorization(standin, headers):
    del headers["Authorization"]
    return headers, BODY


def _unsigned_header(standin, headers):
    headers["X-Amz-Meta"] = "added"
    return headers, BODY


def _unknown_key(standin, headers):
    credentials = botocore.credentials.Credentials("AKIANOBODY", "secret")
    url = standin.endpoint + "/"
    return sign(standin, "POST", url, BODY, "ecs", json_headers(TARGET), credentials), BODY


def _wrong_service(standin, headers):
    url = standin.endpoint + "/"
    return sign(standin, "POST", url, BODY, "logs", json_headers(TARGET)), BODY


def _wrong_region(standin, headers):
    url = standin.endpoint + "/"
    signed = sign(standin, "POST", url, BODY, "ecs", json_headers(TARGET), region="eu-west-1")
    return signed, BODY


def _old_date(standin, headers):
    headers["X-Amz-Date"] = "20200101T000000Z"
    headers["Authorization"] = headers["Authorization"].replace(
        time.strftime("/%Y%m%d/", time.gmtime()), "/20200101/"
    )
    return headers, BODY


@pytest.mark.parametrize(
    "tamper, code",
    [
        (_tampered_body, "InvalidSignatureException"),
        (_tampered_target, "InvalidSignatureException"),
        (_tampered_signature, "InvalidSignatureException"),
        (_without_authorization, "MissingAuthenticationTokenException"),
        (_unsigned_header, "InvalidSignatureException"),
        (_unknown_key, "UnrecognizedClientException"),
        (_wrong_service, "InvalidSignatureException"),
        (_wrong_region, "InvalidSignatureException"),
        (_old_date, "InvalidSignatureException"),
    ],
)
def test_a_wrong_signature_is_refused_and_recorded(shared, tamper, code):
    shared.clear_violations()
    headers = sign(shared, "POST", shared.endpoint + "/", BODY, "ecs", json_headers(TARGET))
    assert send(shared, headers, BODY)[0] == 200
    shared.assert_no_violations()

    headers, body = tamper(shared, headers)
    status, answer = send(shared, headers, body)

    assert (status, answer["__type"]) == (400, code)
    assert rules(shared) == ["signature"]
    shared.clear_violations()


def test_a_request_is_not_served_to_a_client_that_does_not_trust_the_ca(shared):
    host = urllib.parse.urlsplit(shared.endpoint).netloc
    https = http.client.HTTPSConnection(host, context=ssl.create_default_context(), timeout=30)
    with pytest.raises(ssl.SSLCertVerificationError):
        https.request("POST", "/")


# Registration


def test_registration_echoes_attributes_and_gives_an_arn(standin):
    status, answer = call(standin, "RegisterContainerInstance", registration())
    instance = answer["containerInstance"]

    assert status == 200
    assert instance["status"] == "ACTIVE"
    for attribute in ATTRIBUTES:
        assert attribute in instance["attributes"]
    zone = {"name": "ecs.availability-zone", "value": "us-west-2a"}
    assert zone in instance["attributes"]
    arn = instance["containerInstanceArn"]
    assert register(standin, containerInstanceArn=arn) == arn
    ecs = aws_client(standin, "ecs")
    assert ecs.list_container_instances()["containerInstanceArns"] == [arn]
    described = ecs.describe_container_instances(containerInstances=[arn])["containerInstances"][0]
    assert described["registeredResources"][0]["integerValue"] == 2048
    assert described["agentConnected"] is False
    standin.assert_no_violations()


def test_a_repeated_client_token_registers_once(standin):
    document = registration()
    first = call(standin, "RegisterContainerInstance", document)[1]
    second = call(standin, "RegisterContainerInstance", document)[1]
    assert (
        first["containerInstance"]["containerInstanceArn"]
        == second["containerInstance"]["containerInstanceArn"]
    )
    assert len(standin.state()["instances"]) == 1


def _without(name):
    document = registration()
    del document[name]
    return document


def _resources(index, **changes):
    resources = [dict(resource) for resource in RESOURCES]
    resources[index].update(changes)
    return registration(totalResources=resources)


@pytest.mark.parametrize(
    "document, status, found",
    [
        (_without("clientToken"), 400, {"shape-missing"}),
        (_without("totalResources"), 400, {"shape-missing"}),
        (registration(versionInfo={}), 200, {"shape-unknown"}),
        (registration(clientToken="7"), 200, {"client-token"}),
        (registration(totalResources=RESOURCES[:2]), 200, {"resources"}),
        (registration(totalResources=RESOURCES[::-1]), 200, {"resources"}),
        (_resources(0, integerValue=0), 200, {"resources"}),
        (_resources(0, integerValue="4"), 400, {"shape-type"}),
        (_resources(0, name="GPU"), 400, {"shape-enum"}),
        (_resources(2, stringSetValue=["70000"]), 200, {"resources"}),
        (_resources(2, stringSetValue=["22", "22"]), 200, {"resources"}),
        (registration(attributes=ATTRIBUTES[:2]), 200, {"attributes"}),
        (registration(attributes=ATTRIBUTES + ATTRIBUTES[:1]), 200, {"attributes"}),
        (registration(attributes=ATTRIBUTES + [{"name": "a b"}]), 400, {"shape-pattern"}),
        (registration(attributes=ATTRIBUTES + [{"name": "a" * 129}]), 400, {"shape-length"}),
        (registration(tags=[]), 400, {"shape-length"}),
        (registration(instanceIdentityDocument="{}"), 400, {"identity"}),
    ],
)
def test_a_wrong_registration_is_a_violation(shared, document, status, found):
    shared.clear_violations()
    assert call(shared, "RegisterContainerInstance", document)[0] == status
    assert set(rules(shared)) == found
    shared.clear_violations()


def test_registration_in_a_missing_cluster_is_refused(tmp_path):
    with StandIn.start(tmp_path / "standin", no_cluster=True) as standin:
        status, answer = call(standin, "RegisterContainerInstance", registration())
        assert (status, answer["__type"]) == (400, "ClusterNotFoundException")
        assert answer["message"] == "Cluster not found."
        assert call(standin, "CreateCluster", {"clusterName": "default"})[0] == 200
        register(standin)
        standin.assert_no_violations()


def test_an_unknown_instance_cannot_register_again(shared):
    arn = "arn:aws:ecs:us-west-2:111122223333:container-instance/default/0123"
    status, answer = call(
        shared, "RegisterContainerInstance", registration(containerInstanceArn=arn)
    )
    assert (status, answer["__type"]) == (400, "ClientException")
    assert answer["message"] == "Referenced container instance 0123 not found."


def test_poll_endpoints_are_where_the_agent_reached_us(shared):
    arn = register(shared)
    document = {"cluster": "default", "containerInstance": arn, "zoneId": ""}
    status, answer = call(shared, "DiscoverPollEndpoint", document)
    assert status == 200
    assert answer["endpoint"] == shared.endpoint + "/acs"
    assert answer["telemetryEndpoint"] == shared.endpoint + "/tcs"
    shared.assert_no_violations()

    document["containerInstance"] = "arn:unknown"
    assert call(shared, "DiscoverPollEndpoint", document)[0] == 400
    assert rules(shared) == ["unknown-instance"]
    shared.clear_violations()


def test_a_call_of_an_agent_without_its_user_agent_is_a_violation(shared):
    body = json.dumps(registration()).encode()
    target = "AmazonEC2ContainerServiceV20141113.RegisterContainerInstance"
    headers = json_headers(target, **{"User-Agent": "curl/7.88.1"})
    headers = sign(shared, "POST", shared.endpoint + "/", body, "ecs", headers)
    assert send(shared, headers, body)[0] == 200
    assert rules(shared) == ["user-agent"]
    shared.clear_violations()


def test_a_duplicate_member_is_a_violation(shared):
    body = b'{"cluster": "default", "cluster": "default"}'
    headers = sign(shared, "POST", shared.endpoint + "/", body, "ecs", json_headers(TARGET))
    assert send(shared, headers, body)[0] == 400
    assert rules(shared) == ["json"]
    shared.clear_violations()


# Task state changes


def test_a_right_history_of_a_task_is_taken_over(standin):
    arn = started_task(standin)
    start = now() - 5
    digest = "sha256:" + "0" * 64
    app = {"containerName": "app", "runtimeId": "a" * 64, "imageDigest": digest}
    binding = {"bindIP": "0.0.0.0", "containerPort": 80, "hostPort": 32768, "protocol": "tcp"}
    times = {"pullStartedAt": start}
    assert submit(standin, arn, "PENDING", **times)[0] == 200
    times["pullStoppedAt"] = start + 1
    running = {**app, "status": "RUNNING", "networkBindings": [binding]}
    running = {"containers": [running], "managedAgents": []}
    assert submit(standin, arn, "RUNNING", **running, **times)[0] == 200
    times["executionStoppedAt"] = start + 2
    stopped = {**app, "status": "STOPPED", "exitCode": 3}
    for _ in range(2):  # at least once: a repeat is no violation
        status, _ = submit(standin, arn, "STOPPED", containers=[stopped], **times)
        assert status == 200

    standin.assert_no_violations()
    task = standin.task(arn)
    assert task["lastStatus"] == "STOPPED"
    assert task["stopCode"] == "EssentialContainerExited"
    assert task["containers"][0]["exitCode"] == 3
    assert task["containers"][0]["networkBindings"] == [binding]
    changes = [e["status"] for e in task["timeline"] if e["event"] == "state-change"]
    assert changes == ["PENDING", "RUNNING", "STOPPED", "STOPPED"]
    described = aws_client(standin, "ecs").describe_tasks(tasks=[arn])["tasks"][0]
    assert described["containers"][0]["exitCode"] == 3
    assert described["stopCode"] == "EssentialContainerExited"


def _app(status="RUNNING", **more):
    return [{"containerName": "app", "status": status, **more}]


def _agent(status="RUNNING", **more):
    agent = {"managedAgentName": "ExecuteCommandAgent", "containerName": "app", "status": status}
    return [{**agent, **more}]


PORT = {"bindIP": "0.0.0.0", "containerPort": 80, "hostPort": 8080, "protocol": "tcp"}
RANGE = {
    "bindIP": "0.0.0.0",
    "containerPortRange": "80-90",
    "hostPortRange": "8080-8089",
    "protocol": "tcp",
}


@pytest.mark.parametrize(
    "change, status, rule",
    [
        ({"status": "DEAD"}, 400, "shape-enum"),
        ({"reason": "r" * 1025}, 400, "shape-length"),
        ({"reason": None}, 400, "shape-null"),
        ({"stopCode": "UserInitiated"}, 200, "shape-unknown"),
        ({"status": "PENDING"}, 200, "status-backwards"),
        ({"containers": _app("PENDING")}, 200, "status-backwards"),
        ({"containers": _app(runtimeId="r" * 256)}, 400, "shape-length"),
        ({"containers": _app(runtimeId="")}, 400, "shape-length"),
        ({"containers": _app(imageDigest="sha256:1")}, 400, "shape-pattern"),
        ({"containers": _app(exitCode="0")}, 400, "shape-type"),
        ({"containers": _app(exitCode=0)}, 200, "exit-code"),
        ({"containers": [{"containerName": "x", "status": "RUNNING"}]}, 200, "unknown-container"),
        ({"containers": _app(networkBindings=[{**PORT, "bindIP": "x"}])}, 200, "network-binding"),
        ({"containers": _app(networkBindings=[{**PORT, "hostPort": 0}])}, 400, "shape-range"),
        ({"containers": _app(networkBindings=[{**PORT, "protocol": "TCP"}])}, 400, "shape-enum"),
        ({"containers": _app(networkBindings=[{**PORT, **RANGE}])}, 200, "network-binding"),
        ({"containers": _app(networkBindings=[RANGE])}, 200, "network-binding"),
        ({"status": "STOPPED"}, 200, "running-in-stopped"),
        ({"pullStartedAt": "2026-07-01T00:00:00Z"}, 400, "shape-type"),
        ({"pullStartedAt": 1782864000000}, 200, "timestamp"),
        ({"pullStoppedAt": now()}, 200, "timestamp"),
        ({"pullStartedAt": now(), "pullStoppedAt": now() - 9}, 200, "timestamp"),
        ({"attachments": [{"attachmentArn": "a", "status": "ATTACHED"}]}, 200, "attachment-form"),
        ({"managedAgents": _agent()}, 200, "managed-agent"),
        ({"managedAgents": _agent(status="PENDING")}, 400, "shape-enum"),
        ({"managedAgents": _agent(reason="r" * 1025)}, 400, "shape-length"),
        ({"managedAgents": _agent(managedAgentName="Other")}, 400, "shape-enum"),
        ({"managedAgents": _agent(containerName="x")}, 200, "unknown-container"),
        ({"task": "arn:aws:ecs:us-west-2:111122223333:task/default/0"}, 400, "unknown-task"),
    ],
)
def test_a_wrong_state_change_is_a_violation(shared, change, status, rule):
    arn = shared.post("/run", taskDefinition=PLAIN, instance=register(shared))["tasks"][0]
    running = {"cluster": "default", "task": arn, "status": "RUNNING", "reason": ""}
    running["containers"] = _app()
    assert call(shared, "SubmitTaskStateChange", running)[0] == 200
    shared.assert_no_violations()

    assert call(shared, "SubmitTaskStateChange", {**running, **change})[0] == status
    assert rules(shared) == [rule]
    shared.clear_violations()


def test_managed_agents_live_within_their_containers(standin):
    """ECS Exec: only where the instance has it, RUNNING only in a container that is."""
    instance = register(standin)
    with pytest.raises(StandInError, match="ecs.capability.execute-command"):
        standin.run_task(PLAIN, enableExecuteCommand=True)
    attributes = registration()["attributes"] + [{"name": "ecs.capability.execute-command"}]
    register(standin, containerInstanceArn=instance, attributes=attributes)
    arn = standin.run_task(PLAIN, enableExecuteCommand=True)
    submit(standin, arn, "RUNNING", containers=_app(), managedAgents=_agent(reason="started"))
    standin.assert_no_violations()
    ecs = aws_client(standin, "ecs")
    (described,) = ecs.describe_tasks(tasks=[arn])["tasks"]
    assert described["enableExecuteCommand"]
    (agent,) = described["containers"][0]["managedAgents"]
    assert (agent["name"], agent["lastStatus"]) == ("ExecuteCommandAgent", "RUNNING")
    assert agent["lastStartedAt"] and agent["reason"] == "started"

    submit(standin, arn, "RUNNING", managedAgents=_agent() * 2)
    submit(standin, arn, "RUNNING", containers=_app("STOPPED", exitCode=0))
    submit(standin, arn, "RUNNING", managedAgents=_agent("STOPPED"))
    submit(standin, arn, "RUNNING", managedAgents=_agent())
    assert set(rules(standin)) == {"managed-agent"}
    texts = " | ".join(violation["text"] for violation in standin.violations())
    for text in ("is there twice", "its ExecuteCommandAgent is not", "and its container STOPPED"):
        assert text in texts
    standin.clear_violations()


def test_stopped_with_other_content_is_a_violation(standin):
    arn = started_task(standin)
    submit(standin, arn, "STOPPED", containers=_app("STOPPED", exitCode=1))
    standin.assert_no_violations()
    submit(standin, arn, "STOPPED", containers=_app("STOPPED", exitCode=2))
    assert set(rules(standin)) == {"second-stopped", "exit-code"}


def test_agent_calls_with_a_task_role_are_a_violation(standin):
    register(standin)
    standin.run_task(DEFINITION)
    credentials = {
        "credentialsId": "c-1",
        "roleArn": "arn:aws:iam::111122223333:role/app",
        "accessKeyId": "ASIARAW",
        "secretAccessKey": "secret",
        "sessionToken": "token",
        "expiration": "2030-01-01T00:00:00Z",
    }
    standin.send_task({"containers": [], "roleCredentials": credentials})
    status, _ = call(
        standin, "RegisterContainerInstance", registration(), credentials_of(credentials)
    )
    assert status == 200
    assert rules(standin) == ["wrong-credentials"]


# What a person needs


def test_a_definition_is_run_stopped_and_listed_by_boto3(standin):
    ecs = aws_client(standin, "ecs")
    definition = ecs.register_task_definition(**DEFINITION)["taskDefinition"]
    assert definition["revision"] == 1
    code, message = error_of(ecs.run_task, taskDefinition="web")
    assert code == "InvalidParameterException"
    assert message == "No Container Instances were found in your cluster."
    instance = register(standin)
    failures = ecs.run_task(taskDefinition="web")["failures"]
    assert failures == [{"arn": instance, "reason": "AGENT"}]
    assert error_of(ecs.run_task, taskDefinition="none")[0] == "ClientException"

    arn = standin.run_task(DEFINITION)
    assert ecs.list_tasks()["taskArns"] == [arn]
    assert ecs.list_tasks(family="other")["taskArns"] == []
    task = ecs.stop_task(task=arn, reason="enough")["task"]
    assert (task["desiredStatus"], task["stoppedReason"]) == ("STOPPED", "enough")
    assert ecs.list_tasks()["taskArns"] == []
    cluster = ecs.describe_clusters()["clusters"][0]
    assert (cluster["pendingTasksCount"], cluster["registeredContainerInstancesCount"]) == (1, 1)
    family = ecs.describe_task_definition(taskDefinition="web")["taskDefinition"]
    assert family["revision"] == 2
    standin.assert_no_violations()


@pytest.mark.parametrize(
    "change, text",
    [
        ({"family": ""}, "Family should not be null"),
        ({"containerDefinitions": []}, "Container definitions should not be null"),
        ({"inferenceAccelerators": []}, "'inferenceAccelerators'"),
        ({"requiresCompatibilities": ["FARGATE"]}, "FARGATE"),
        ({"cpu": "a lot"}, "Invalid 'cpu' setting"),
        ({"networkMode": "nat"}, "Invalid network mode 'nat'"),
        ({"networkMode": "awsvpc"}, "ecs.capability.task-eni"),
        ({"containerDefinitions": [{"name": "a", "image": "b"}]}, "memory"),
        ({"containerDefinitions": [{"name": "a", "memory": 9}]}, "Container.image of 'a'"),
        ({"containerDefinitions": [{"name": "a", "image": "b", "gpu": 1}]}, "'gpu'"),
        (
            {"containerDefinitions": [{"name": "a", "image": "b", "memory": 9, "ulimits": [{}]}]},
            "bad task definition",
        ),
    ],
)
def test_a_definition_that_cannot_be_run_is_refused_by_name(shared, change, text):
    with pytest.raises(StandInError, match=text):
        shared.post("/run", taskDefinition={**PLAIN, **change}, instance=register(shared))


def test_a_task_is_not_placed_where_its_log_driver_is_missing(standin):
    register(standin, attributes=[a for a in ATTRIBUTES if "logging" not in a["name"]])
    with pytest.raises(StandInError, match="logging-driver.awslogs"):
        standin.run_task(DEFINITION)


# Instance metadata


def imds(standin, path, method="GET", **headers):
    names = {"token": "X-aws-ec2-metadata-token", "ttl": "X-aws-ec2-metadata-token-ttl-seconds"}
    request = urllib.request.Request(standin.imds + path, method=method)
    for name, value in headers.items():
        request.add_header(names[name], value)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metadata_needs_a_token(shared):
    assert imds(shared, "/latest/meta-data/mac")[0] == 401
    assert imds(shared, "/latest/meta-data/mac", token="guess")[0] == 401
    assert imds(shared, "/latest/api/token", "PUT")[0] == 400
    assert imds(shared, "/latest/api/token", "PUT", ttl="21601")[0] == 400
    assert rules(shared) == ["token", "token", "ttl", "ttl"]
    shared.clear_violations()

    status, token = imds(shared, "/latest/api/token", "PUT", ttl="60")
    assert status == 200
    assert imds(shared, "/latest/meta-data/mac", token=token) == (200, "0a:1b:2c:3d:4e:5f")
    vpc = "/latest/meta-data/network/interfaces/macs/0a:1b:2c:3d:4e:5f/vpc-id"
    assert imds(shared, vpc, token=token)[1].startswith("vpc-")
    assert imds(shared, "/latest/meta-data/placement/region", token=token)[1] == "us-west-2"
    assert "mac" in imds(shared, "/latest/meta-data/", token=token)[1].split("\n")
    notice = "/latest/meta-data/spot/instance-action"
    assert imds(shared, notice, token=token)[0] == 404
    shared.set_imds("meta-data/spot/instance-action", '{"action": "stop"}')
    assert imds(shared, notice, token=token) == (200, '{"action": "stop"}')
    shared.set_imds("meta-data/spot/instance-action", None)
    assert imds(shared, notice, token=token)[0] == 404
    shared.assert_no_violations()


def test_the_identity_document_registers_with_its_signature_only(standin):
    token = imds(standin, "/latest/api/token", "PUT", ttl="60")[1]
    path = "/latest/dynamic/instance-identity/"
    document = imds(standin, path + "document", token=token)[1]
    signature = imds(standin, path + "signature", token=token)[1]
    register(
        standin, instanceIdentityDocument=document, instanceIdentityDocumentSignature=signature
    )
    assert standin.instance()["ec2InstanceId"] == json.loads(document)["instanceId"]
    standin.assert_no_violations()


def test_the_aws_command_finds_the_instance_role(shared):
    environment = {**os.environ, **shared.environment()}
    del environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    environment["AWS_SHARED_CREDENTIALS_FILE"] = environment["AWS_CONFIG_FILE"] = "/dev/null"
    command = [AWS, "--endpoint-url", shared.endpoint, "sts", "get-caller-identity"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "assumed-role/ecsInstanceRole/i-0123456789abcdef0" in result.stdout
    shared.assert_no_violations()


def test_keys_of_the_instance_role_end_and_are_renewed(tmp_path):
    with StandIn.start(tmp_path / "standin", imds_credentials_seconds=3) as standin:
        token = imds(standin, "/latest/api/token", "PUT", ttl="60")[1]
        path = "/latest/meta-data/iam/security-credentials/"
        role = imds(standin, path, token=token)[1]
        first = json.loads(imds(standin, path + role, token=token)[1])
        credentials = botocore.credentials.Credentials(
            first["AccessKeyId"], first["SecretAccessKey"], first["Token"]
        )
        deadline = time.monotonic() + 30
        while True:
            status, answer = call(standin, "ListClusters", {}, credentials)
            if status != 200 or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        assert (status, answer["__type"]) == (400, "ExpiredTokenException")
        second = json.loads(imds(standin, path + role, token=token)[1])
        assert second["AccessKeyId"] != first["AccessKeyId"]


async def first_payload(standin, arn, cluster):
    async with connect(standin, "acs", acs_query(arn, clusterArn=cluster)) as acs:
        await acs.ack(await acs.expect("TaskManifestMessage"))
        payload = await acs.expect("PayloadMessage")
        await acs.ack_payload(payload)
        await acs.settle()
        return payload


def test_each_option_of_serve_has_its_effect(tmp_path):
    options = {
        "region": "eu-west-1",
        "account": "444455556666",
        "cluster": ["blue", "green"],
        "name": ["node.example"],
        "access_key_id": "AKIAOTHEREXAMPLE0000",
        "secret_access_key": "another",
        "instance_id": "i-00000000000000001",
        "instance_type": "t3.micro",
        "availability_zone": "eu-west-1c",
        "instance_role": "",
        "task_credentials_seconds": 900,
        "no_awslogs_endpoint": True,
        "imds_listen": "127.0.0.2",
    }
    with StandIn.start(tmp_path / "standin", **options) as standin:
        assert standin.facts["accessKeyId"] == "AKIAOTHEREXAMPLE0000"
        assert aws_client(standin, "ecs").list_clusters()["clusterArns"] == [
            "arn:aws:ecs:eu-west-1:444455556666:cluster/blue",
            "arn:aws:ecs:eu-west-1:444455556666:cluster/green",
        ]
        assert standin.imds.startswith("http://127.0.0.2:")
        token = imds(standin, "/latest/api/token", "PUT", ttl="60")[1]
        path = "/latest/dynamic/instance-identity/document"
        document = json.loads(imds(standin, path, token=token)[1])
        assert document["instanceId"] == "i-00000000000000001"
        assert document["instanceType"] == "t3.micro"
        assert (document["accountId"], document["region"]) == ("444455556666", "eu-west-1")
        assert document["availabilityZone"] == "eu-west-1c"
        path = "/latest/meta-data/iam/security-credentials/"
        assert imds(standin, path, token=token)[0] == 404
        register(standin, cluster="green")
        instance = standin.instance()
        assert instance["attributes"]["ecs.availability-zone"] == "eu-west-1c"
        arn = standin.run_task(DEFINITION)
        sent = asyncio.run(first_payload(standin, instance["arn"], "green"))["tasks"][0]
        host_config = json.loads(sent["containers"][0]["dockerConfig"]["hostConfig"])
        assert "awslogs-endpoint" not in host_config["LogConfig"]["Config"]
        assert arn.startswith("arn:aws:ecs:eu-west-1:444455556666:task/green/")
        expiration = sent["roleCredentials"]["expiration"]
        life = calendar.timegm(time.strptime(expiration, "%Y-%m-%dT%H:%M:%SZ")) - time.time()
        assert 600 < life <= 900
        certificate = (standin.dir / "server.pem").read_text()
        assert b"node.example" in ssl.PEM_cert_to_DER_cert(certificate)
        standin.assert_no_violations()


# ECR


def test_an_ecr_token_is_the_configured_password(tmp_path):
    options = {"ecr_password": "p w", "ecr_proxy_endpoint": "https://127.0.0.1:5000"}
    with StandIn.start(tmp_path / "standin", **options) as standin:
        data = aws_client(standin, "ecr").get_authorization_token()["authorizationData"][0]
        assert base64.b64decode(data["authorizationToken"]) == b"AWS:p w"
        assert data["proxyEndpoint"] == "https://127.0.0.1:5000"
        assert standin.state()["ecrTokens"][0]["caller"].endswith("user/standin")
        standin.assert_no_violations()


# Faults


def test_faults_of_http_services(standin):
    ecs = aws_client(standin, "ecs")
    standin.fault("ecs", "throttle", "ListClusters", count=1)
    assert error_of(ecs.list_clusters) == ("ThrottlingException", "Rate exceeded")
    ecs.list_clusters()

    standin.fault("ecs", "status", "ListClusters", count=1, status=503, error="ServerException")
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        ecs.list_clusters()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503

    for fault in ("drop", "reset"):
        standin.fault("ecs", fault, "ListClusters", count=1)
        with pytest.raises(botocore.exceptions.HTTPClientError):
            ecs.list_clusters()

    standin.fault("ecs", "malformed", "ListClusters", count=1)
    with pytest.raises(json.JSONDecodeError):
        call(standin, "ListClusters", {})

    standin.fault("ecs", "hang", "ListClusters", count=1)
    config = botocore.config.Config(read_timeout=0.5, retries={"total_max_attempts": 1})
    with pytest.raises(botocore.exceptions.ReadTimeoutError):
        aws_client(standin, "ecs", config=config).list_clusters()

    standin.fault("ecs", "delay", "ListClusters", count=1, delay=0.2)
    start = time.monotonic()
    ecs.list_clusters()
    assert time.monotonic() - start >= 0.2

    standin.fault("sts", "throttle", count=1)
    assert error_of(aws_client(standin, "sts").get_caller_identity)[0] == "Throttling"
    standin.fault("imds", "status", count=1, status=500)
    assert imds(standin, "/latest/meta-data/mac", token="x")[0] == 500
    standin.fault("ecs", "throttle")
    standin.clear_faults()
    ecs.list_clusters()
    standin.assert_no_violations()


def test_a_fault_after_the_fact_loses_only_the_answer(standin):
    arn = started_task(standin)
    standin.fault("ecs", "reset", "SubmitTaskStateChange", count=1, when="after")
    with pytest.raises((OSError, http.client.HTTPException)):
        submit(standin, arn, "STOPPED", containers=_app("STOPPED", exitCode=0))
    assert standin.task(arn)["lastStatus"] == "STOPPED"
    assert submit(standin, arn, "STOPPED", containers=_app("STOPPED", exitCode=0))[0] == 200
    standin.assert_no_violations()


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("s3", "drop"), "unknown service 's3'"),
        (("ecs", "explode"), "unknown fault 'explode'"),
        (("ecs", "close"), "unknown fault 'close'"),
        (("acs", "drop"), "needs an operation"),
        (("ecs", "delay"), "delay"),
    ],
)
def test_a_fault_that_means_nothing_is_refused(shared, arguments, text):
    with pytest.raises(StandInError, match=text):
        shared.fault(*arguments)
    for more in ({"count": 0}, {"status": 200}, {"colour": 1}, {"when": "never"}):
        with pytest.raises(StandInError, match=next(iter(more))):
            shared.fault("ecs", "status", **more)


def test_waiting_for_what_does_not_come_says_what_is(standin):
    arn = started_task(standin)
    with pytest.raises(Timeout, match='"lastStatus": "PENDING"'):
        standin.wait_task(arn, "RUNNING", timeout=0.1)


# The command line


def cli(standin, *arguments, stdin=None):
    command = [str(TESTS / "controlplane" / "ecs-standin"), *map(str, arguments)]
    environment = {**os.environ, "ECS_STANDIN_DIR": str(standin.dir)}
    return subprocess.run(
        command, env=environment, input=stdin, capture_output=True, text=True, timeout=60
    )


def test_the_command_line_shows_a_day_of_a_node(standin, tmp_path):
    file = tmp_path / "web.json"
    file.write_text(json.dumps(DEFINITION))
    result = cli(standin, "run", file)
    assert result.returncode == 1
    assert result.stderr == "ecs-standin: no container instance is registered\n"

    register(standin)
    result = cli(standin, "run", file, "--count", 3)
    arns = result.stdout.split()
    assert (result.returncode, len(arns)) == (0, 3)
    task_id = arns[0].rsplit("/", 1)[-1]
    submit(standin, arns[0], "STOPPED", containers=_app("STOPPED", exitCode=7))
    line = next(x for x in cli(standin, "tasks").stdout.splitlines() if x.startswith(task_id))
    assert "web:1" in line and "app=STOPPED(7)" in line
    result = cli(standin, "events", task_id[:12])
    assert "state-change" in result.stdout and "exitCode=7" in result.stdout

    assert cli(standin, "stop", arns[1], "--reason", "bye").returncode == 0
    assert standin.task(arns[1])["stoppedReason"] == "bye"
    example = TESTS / "controlplane" / "examples" / "hello.json"
    assert cli(standin, "run", example, "--count", 2).returncode == 0
    assert "no task 'zzz'" in cli(standin, "stop", "zzz").stderr
    assert arns[0].rsplit("/", 1)[-1] in cli(standin, "tasks").stdout

    raw = json.dumps({"containers": [{"name": "app", "image": "busybox"}]})
    assert cli(standin, "run", "-", stdin=raw).returncode == 0
    for text in ("[]", "{}", "{"):
        assert cli(standin, "run", "-", stdin=text).returncode == 1
    assert cli(standin, "instances").stdout.count("ACTIVE") == 1

    logs = aws_client(standin, "logs")
    logs.create_log_group(logGroupName="g")
    logs.create_log_stream(logGroupName="g", logStreamName="s")
    event = {"timestamp": int(time.time() * 1000), "message": "hello"}
    logs.put_log_events(logGroupName="g", logStreamName="s", logEvents=[event])
    assert cli(standin, "logs", "g", "s").stdout.endswith("  hello\n")
    assert "  s  hello" in cli(standin, "logs", "g").stdout
    assert cli(standin, "logs").stdout.splitlines()[1].split() == ["g", "s", "1"]
    assert "ResourceNotFoundException" in cli(standin, "logs", "none").stderr

    assert cli(standin, "fault", "ecs", "throttle", "--count", 2).returncode == 0
    assert "throttle" in cli(standin, "fault").stdout
    assert cli(standin, "fault", "--clear").returncode == 0
    assert standin.faults() == []
    assert "unknown service" in cli(standin, "fault", "s3", "drop").stderr

    assert cli(standin, "violations").returncode == 0
    call(standin, "RegisterContainerInstance", registration(clientToken="x"))
    result = cli(standin, "violations", "--clear")
    assert result.returncode == 1 and "client-token" in result.stdout
    assert cli(standin, "violations").stdout == "no violations\n"


def test_the_command_line_says_what_is_wrong_with_serve(tmp_path):
    for option, value in (
        ("--port", "70000"),
        ("--heartbeat-seconds", "0"),
        ("--region", "'nowhere'"),
        ("--name", "'b\xfccher'"),
        ("--account", "'1'"),
        ("--ecr-proxy-endpoint", "'localhost'"),
    ):
        command = [str(TESTS / "controlplane" / "ecs-standin"), "serve", "--dir", str(tmp_path)]
        command += [option, value.strip("'")]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert result.returncode == 1
        assert f"{option} is {value}" in result.stderr


def test_a_stand_in_that_cannot_start_says_why(tmp_path):
    with pytest.raises(StandInError, match="cannot listen or write: .*192.0.2.1"):
        StandIn.start(tmp_path / "standin", listen="192.0.2.1")
    with StandIn.start(tmp_path / "first") as first:
        port = urllib.parse.urlsplit(first.endpoint).port
        with pytest.raises(StandInError, match="cannot listen or write: .*in use"):
            StandIn.start(tmp_path / "second", port=port)


def test_the_command_line_without_a_stand_in_says_so(tmp_path):
    command = [str(TESTS / "controlplane" / "ecs-standin"), "tasks", "--dir", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert f"no stand-in has been started in {tmp_path}" in result.stderr
