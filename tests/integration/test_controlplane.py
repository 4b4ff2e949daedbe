"""The AWS stand-in itself: real AWS clients are accepted, wrong ones are refused and recorded.

What plays the agent here is an aiohttp client; the node's own tests use the same stand-in.
"""

import asyncio
import base64
import contextlib
import gzip
import http.client
import json
import os
import pathlib
import ssl
import subprocess
import sys
import time
import urllib.parse
import uuid

import aiohttp
import boto3
import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials
import botocore.exceptions
import pytest

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TESTS))

from controlplane.client import StandIn, StandInError, Timeout, wait_for  # noqa: E402

AWS = "/usr/bin/aws"
HASH = "e3b0c442"
RESOURCES = [
    {"name": "CPU", "type": "INTEGER", "integerValue": 2048},
    {"name": "MEMORY", "type": "INTEGER", "integerValue": 3900},
    {"name": "PORTS", "type": "STRINGSET", "stringSetValue": ["22", "51678", "51679"]},
    {"name": "PORTS_UDP", "type": "STRINGSET", "stringSetValue": []},
]
ATTRIBUTES = [
    {"name": "com.amazonaws.ecs.capability.docker-remote-api.1.18"},
    {"name": "com.amazonaws.ecs.capability.logging-driver.awslogs"},
    {"name": "com.amazonaws.ecs.capability.task-iam-role"},
    {"name": "ecs.capability.execution-role-awslogs"},
    {"name": "ecs.os-type", "value": "linux"},
]
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


def static_credentials(standin):
    facts = standin.facts
    return botocore.credentials.Credentials(facts["accessKeyId"], facts["secretAccessKey"])


def sign(standin, method, url, body, service, headers=None, credentials=None, region=None):
    """The headers of a request signed by botocore."""
    request = botocore.awsrequest.AWSRequest(method=method, url=url, data=body, headers=headers)
    signer = botocore.auth.SigV4Auth(
        credentials or static_credentials(standin), service, region or standin.region
    )
    request.headers["Host"] = urllib.parse.urlsplit(url).netloc
    signer.add_auth(request)
    return dict(request.headers.items())


def connection(standin):
    host = urllib.parse.urlsplit(standin.endpoint).netloc
    context = ssl.create_default_context(cafile=standin.ca)
    return http.client.HTTPSConnection(host, context=context, timeout=30)


def send(standin, headers, body):
    """POST / with exactly these headers; returns (status, JSON)."""
    with contextlib.closing(connection(standin)) as https:
        https.request("POST", "/", body=body, headers=headers)
        response = https.getresponse()
        return response.status, json.loads(response.read() or b"null")


def json_headers(target, **more):
    return {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": target, **more}


def call(standin, operation, document, credentials=None):
    """One ECS call, for members that boto3 does not know; returns (status, JSON)."""
    body = json.dumps(document).encode()
    headers = json_headers(f"AmazonEC2ContainerServiceV20141113.{operation}")
    url = standin.endpoint + "/"
    return send(
        standin, sign(standin, "POST", url, body, "ecs", headers, credentials=credentials), body
    )


def registration(**more):
    document = {
        "cluster": "default",
        "clientToken": str(uuid.uuid4()),
        "instanceIdentityDocument": "",
        "instanceIdentityDocumentSignature": "",
        "totalResources": RESOURCES,
        "attributes": ATTRIBUTES,
    }
    return {**document, **more}


def register(standin, **more):
    status, answer = call(standin, "RegisterContainerInstance", registration(**more))
    assert status == 200, answer
    return answer["containerInstance"]["containerInstanceArn"]


def submit(standin, arn, status, **more):
    document = {"cluster": "default", "task": arn, "status": status, "reason": "", **more}
    return call(standin, "SubmitTaskStateChange", document)


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
