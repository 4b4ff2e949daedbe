"""The instance metadata service, version 2 only: a session token, then values by path."""

import base64
import json
import secrets
import time

from aiohttp import web

from .faults import apply_http
from .keys import iso_time
from .tls import DocumentSigner

_TOKEN = "X-aws-ec2-metadata-token"
_TTL = "X-aws-ec2-metadata-token-ttl-seconds"
_DOCUMENT = "dynamic/instance-identity/document"
_SIGNATURE = "dynamic/instance-identity/signature"
MAC = "0a:1b:2c:3d:4e:5f"


class Imds:
    def __init__(self, store):
        self.store = store
        self.signer = DocumentSigner()
        self.tokens = {}
        self.key = None  # of the instance role, renewed before it ends
        self.values = self._initial_values()

    def _initial_values(self):
        options = self.store.options
        network = f"network/interfaces/macs/{MAC}/"
        meta = {
            "ami-id": "ami-0123456789abcdef0",
            "instance-id": options.instance_id,
            "instance-type": options.instance_type,
            "hostname": "ip-10-0-0-10." + options.region + ".compute.internal",
            "local-hostname": "ip-10-0-0-10." + options.region + ".compute.internal",
            "local-ipv4": "10.0.0.10",
            "mac": MAC,
            network + "device-number": "0",
            network + "local-ipv4s": "10.0.0.10",
            network + "subnet-id": "subnet-0123456789abcdef0",
            network + "vpc-id": "vpc-0123456789abcdef0",
            "placement/availability-zone": self.store.availability_zone,
            "placement/availability-zone-id": "usw2-az1",
            "placement/region": options.region,
            "services/domain": "amazonaws.com",
            "services/partition": "aws",
        }
        values = {"meta-data/" + path: text for path, text in meta.items()}
        document = {
            "accountId": options.account,
            "architecture": "x86_64",
            "availabilityZone": self.store.availability_zone,
            "billingProducts": None,
            "devpayProductCodes": None,
            "imageId": meta["ami-id"],
            "instanceId": options.instance_id,
            "instanceType": options.instance_type,
            "kernelId": None,
            "marketplaceProductCodes": None,
            "pendingTime": iso_time(time.time()),
            "privateIp": meta["local-ipv4"],
            "ramdiskId": None,
            "region": options.region,
            "version": "2017-09-30",
        }
        values[_DOCUMENT] = json.dumps(document, indent=2)
        values[_SIGNATURE] = ""  # computed when asked for
        return values

    def _signature(self):
        document = self.values[_DOCUMENT].encode()
        signature = base64.b64encode(self.signer.sign(document)).decode()
        return "\n".join(signature[i : i + 76] for i in range(0, len(signature), 76))

    async def handle(self, request):
        path = request.path.removeprefix("/latest/")
        operation = path if request.method == "GET" else "token"
        fault = self.store.faults.take("imds", operation)
        if fault:
            answer = await apply_http(fault, request, _fault_answer)
            if answer is not None:
                return answer
        answer = self._answer(request, path)
        self.store.add_call("imds", operation, answer.status, None, None)
        return answer

    def _answer(self, request, path):
        if request.method == "PUT" and request.path == "/latest/api/token":
            return self._new_token(request)
        if request.method not in ("GET", "HEAD"):
            return _text(405, "405 - Method Not Allowed")
        token = request.headers.get(_TOKEN)
        if token not in self.tokens:
            self.store.violations.add("imds", path, "token", "no valid session token")
        if self.tokens.get(token, 0) < time.monotonic():  # an old one is told so, and renewed
            return _text(401, "401 - Unauthorized")
        if not request.path.startswith("/latest/"):
            return _text(404, "404 - Not Found")
        value = self._value(path)
        return _text(404, "404 - Not Found") if value is None else _text(200, value)

    def _new_token(self, request):
        ttl = request.headers.get(_TTL, "")
        if not ttl.isdigit() or not 1 <= int(ttl) <= 21600:
            self.store.violations.add("imds", "token", "ttl", f"{_TTL}: '{ttl}', 1 to 21600")
            return _text(400, "400 - Bad Request")
        if "X-Forwarded-For" in request.headers:
            return _text(403, "403 - Forbidden")
        token = secrets.token_urlsafe(40)
        self.tokens[token] = time.monotonic() + int(ttl)
        while len(self.tokens) > 10000:
            del self.tokens[next(iter(self.tokens))]
        return web.Response(text=token, headers={_TTL: ttl})

    def _value(self, path):
        role = self.store.options.instance_role
        if path.rstrip("/") == "meta-data/iam/security-credentials" and role:
            return role
        if path == f"meta-data/iam/security-credentials/{role}" and role:
            return json.dumps(self._credentials(role), indent=2)
        if path == _SIGNATURE and self.values.get(path) == "":
            return self._signature()
        if path in self.values:
            return self.values[path]
        folder = path if path.endswith("/") or not path else path + "/"
        below = {
            name.removeprefix(folder).partition("/")[0]
            + ("/" if "/" in name.removeprefix(folder) else "")
            for name in self.values
            if name.startswith(folder)
        }
        return "\n".join(sorted(below)) if below else None

    def _credentials(self, role):
        options = self.store.options
        arn = f"arn:aws:iam::{options.account}:role/{role}"
        lifetime = options.imds_credentials_seconds
        key = self.key
        if key is None or key.expires_at - time.time() < min(300, lifetime / 2):
            key = self.key = self.store.keyring.issue(
                arn, options.instance_id, "instance", options.instance_id, lifetime
            )
        return {
            "Code": "Success",
            "LastUpdated": iso_time(time.time()),
            "Type": "AWS-HMAC",
            "AccessKeyId": key.access_key_id,
            "SecretAccessKey": key.secret_access_key,
            "Token": key.token,
            "Expiration": iso_time(key.expires_at),
        }

    def set(self, path, value):
        """Set a value below /latest/, or remove it (None)."""
        if value is None:
            self.values.pop(path, None)
        else:
            self.values[path] = value


def _text(status, text):
    return web.Response(status=status, text=text)


def _fault_answer(code, message, status):
    return _text(status, f"{status} - {message}")
