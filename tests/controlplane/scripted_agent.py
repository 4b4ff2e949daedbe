"""An agent that does what a test tells it: to test the stand-in, rightly and wrongly.

Requests are signed by botocore and sent with the standard library or aiohttp, so nothing here
shares code with the stand-in's checks.
"""

import asyncio
import contextlib
import http.client
import json
import ssl
import time
import urllib.parse
import uuid

import aiohttp
import botocore.auth
import botocore.awsrequest
import botocore.credentials
import yarl

from .client import wait_for

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
USER_AGENT = (
    "Amazon ECS Agent - v1.105.1 (*a8b3e7d3) (linux; LINUX) (+http://aws.amazon.com/ecs/)"
)
JSON_TYPE = "application/x-amz-json-1.1"


def credentials_of(document):
    """botocore credentials of an IAMRoleCredentials document."""
    return botocore.credentials.Credentials(
        document["accessKeyId"], document["secretAccessKey"], document.get("sessionToken")
    )


def sign(standin, method, url, body, service, headers=None, credentials=None, region=None):
    """The headers of a request, signed by botocore."""
    request = botocore.awsrequest.AWSRequest(method=method, url=url, data=body, headers=headers)
    request.headers["Host"] = urllib.parse.urlsplit(url).netloc
    signer = botocore.auth.SigV4Auth(
        credentials or credentials_of(standin.facts), service, region or standin.region
    )
    signer.add_auth(request)
    return dict(request.headers.items())


def send(standin, headers, body):
    """POST / with exactly these headers; returns (status, JSON)."""
    host = urllib.parse.urlsplit(standin.endpoint).netloc
    context = ssl.create_default_context(cafile=standin.ca)
    https = http.client.HTTPSConnection(host, context=context, timeout=30)
    with contextlib.closing(https):
        https.request("POST", "/", body=body, headers=headers)
        response = https.getresponse()
        return response.status, json.loads(response.read() or b"null")


def json_headers(target, **more):
    return {"Content-Type": JSON_TYPE, "X-Amz-Target": target, **more}


def call(standin, operation, document, credentials=None):
    """One ECS call, also with members that boto3 does not know; returns (status, JSON)."""
    body = json.dumps(document).encode()
    target = f"AmazonEC2ContainerServiceV20141113.{operation}"
    headers = json_headers(target, **{"User-Agent": USER_AGENT})
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
    """Register a container instance and return its ARN."""
    status, answer = call(standin, "RegisterContainerInstance", registration(**more))
    assert status == 200, answer
    return answer["containerInstance"]["containerInstanceArn"]


def submit(standin, arn, status, **more):
    """SubmitTaskStateChange; returns (status, JSON)."""
    document = {"cluster": "default", "task": arn, "status": status, "reason": "", **more}
    return call(standin, "SubmitTaskStateChange", document)


class Connection:
    """An open ACS or TCS connection."""

    TIMEOUT = 20

    def __init__(self, standin, url, socket):
        self.standin = standin
        self.url = url
        self.socket = socket

    async def receive(self):
        """The next message as (type, message); fails when the connection ends instead."""
        frame = await asyncio.wait_for(self.socket.receive(), self.TIMEOUT)
        assert frame.type == aiohttp.WSMsgType.TEXT, f"{frame} instead of a message"
        document = json.loads(frame.data)
        return document["type"], document["message"]

    async def expect(self, kind):
        """The next message, which must be of this type; heartbeats are passed over."""
        while True:
            found, message = await self.receive()
            if found == kind:
                return message
            assert found == "HeartbeatMessage", f"{found} instead of {kind}: {message}"

    async def expect_close(self):
        """Read to the end of the connection and return its code."""
        while True:
            frame = await asyncio.wait_for(self.socket.receive(), self.TIMEOUT)
            if frame.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED):
                return self.socket.close_code
            assert frame.type == aiohttp.WSMsgType.TEXT, frame

    async def send(self, kind, message):
        await self.socket.send_str(json.dumps({"type": kind, "message": message}))

    async def ack(self, message):
        """AckRequest for a message that was received."""
        await self.send(
            "AckRequest",
            {
                "cluster": message["clusterArn"],
                "containerInstance": message["containerInstanceArn"],
                "messageId": message["messageId"],
            },
        )

    async def ack_credentials(self, message_id, credentials):
        answer = {"messageId": message_id}
        answer.update({name: credentials[name] for name in ("credentialsId", "expiration")})
        await self.send("IAMRoleCredentialsAckRequest", answer)

    async def ack_payload(self, payload):
        await self.ack(payload)
        for task in payload["tasks"]:
            for member in ("roleCredentials", "executionRoleCredentials"):
                if member in task:
                    await self.ack_credentials(payload["messageId"], task[member])

    async def send_signed(self, kind, message, credentials=None):
        """A TCS frame: the header block of a signed GET, then the JSON."""
        text = json.dumps({"type": kind, "message": message})
        url = self.url.replace("wss://", "https://")
        headers = sign(self.standin, "GET", url, text.encode(), "ecs", credentials=credentials)
        block = "".join(f"{name}: {headers[name]}\r\n" for name in sorted(headers))
        await self.socket.send_str(f"{block}\r\n{text}")

    async def settle(self):
        """Return when everything sent so far has been handled: frames are handled in order."""
        self.standin.heartbeat()
        message = await self.expect_heartbeat()
        await self.send("HeartbeatAckRequest", {"messageId": message["messageId"]})
        wait_for(
            lambda: self.standin.heartbeat(periodic=True)["outstanding"] == 0,
            self.TIMEOUT,
            "the heartbeat acknowledgement was not taken",
        )

    async def expect_heartbeat(self):
        kind, message = await self.receive()
        assert kind == "HeartbeatMessage", f"{kind} instead of a heartbeat: {message}"
        return message


def acs_query(arn, **changes):
    query = {
        "agentHash": "a8b3e7d3",
        "agentVersion": "1.105.1",
        "clusterArn": "default",
        "containerInstanceArn": arn,
        "dockerVersion": "DockerVersion: 25.0.3",
        "protocolVersion": "2",
        "seqNum": "1",
        "sendCredentials": "true",
        **changes,
    }
    return {name: value for name, value in sorted(query.items()) if value is not None}


def tcs_query(arn, **changes):
    query = {
        "agentHash": "a8b3e7d3",
        "agentVersion": "1.105.1",
        "cluster": "default",
        "containerInstance": arn,
        "dockerVersion": "25.0.3",
        **changes,
    }
    return {name: value for name, value in sorted(query.items()) if value is not None}


def _target(standin, service, query):
    text = urllib.parse.urlencode(query, quote_via=urllib.parse.quote, safe="-_.~")
    return f"/{service}/ws?{text}"


def handshake(standin, service, query, credentials=None, headers=None, target=None):
    """Ask for an upgrade and return (status, JSON of the answer); meant for refusals."""
    target = target or _target(standin, service, query)
    signed = sign(standin, "GET", standin.endpoint + target, b"", "ecs", credentials=credentials)
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    host = urllib.parse.urlsplit(standin.endpoint).netloc
    context = ssl.create_default_context(cafile=standin.ca)
    https = http.client.HTTPSConnection(host, context=context, timeout=30)
    with contextlib.closing(https):
        https.request("GET", target, headers={**signed, **upgrade, **(headers or {})})
        response = https.getresponse()
        body = b"null" if response.status == 101 else response.read()
        return response.status, json.loads(body)


@contextlib.asynccontextmanager
async def connect(standin, service, query, credentials=None, headers=None):
    """Open /acs/ws or /tcs/ws with a signed handshake."""
    url = standin.endpoint + _target(standin, service, query)
    signed = sign(standin, "GET", url, b"", "ecs", credentials=credentials)
    context = ssl.create_default_context(cafile=standin.ca)
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(
            yarl.URL(url, encoded=True),
            headers={**signed, **(headers or {})},
            ssl=context,
            max_msg_size=0,
        )
        try:
            yield Connection(standin, url, socket)
        finally:
            await socket.close()


def now():
    return round(time.time(), 3)
