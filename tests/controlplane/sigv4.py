"""Verifies Signature Version 4 by computing it again with botocore's signer."""

import calendar
import hashlib
import hmac
import re
import time
from urllib.parse import quote, unquote

import botocore.auth
import botocore.awsrequest
import botocore.compat
import botocore.credentials

MAX_SKEW = 300
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=(?P<credential>[^, ]+), *"
    r"SignedHeaders=(?P<headers>[^, ]+), *Signature=(?P<signature>[^, ]+)"
)


class SignatureError(Exception):
    """code is the error of JSON services; message what the service says."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
        self.message = message


class _Signer(botocore.auth.SigV4Auth):
    """Signs exactly the headers the client named, where botocore would choose them."""

    def __init__(self, credentials, service, region, names):
        super().__init__(credentials, service, region)
        self._names = names

    def headers_to_sign(self, request):
        headers = botocore.compat.HTTPHeaders()
        for name in self._names:
            for value in request.headers.get_all(name, []):
                headers[name] = value
        return headers


def verify(keyring, method, target, headers, body, service, regions):
    """The Key that signed a request; raises SignatureError.

    target is the request target as it was on the wire; headers a list of (name, value).
    """
    names = [name.lower() for name, _ in headers]
    authorization = _one(headers, "authorization")
    if authorization is None:
        raise SignatureError("MissingAuthenticationTokenException", "Missing Authentication Token")
    match = _AUTHORIZATION.fullmatch(authorization)
    if not match:
        raise SignatureError(
            "IncompleteSignatureException",
            "Authorization header needs Credential, SignedHeaders and Signature: "
            f"'{authorization[:80]}'",
        )
    access_key_id, date, region, signed_service = _split_scope(match["credential"])
    timestamp = _one(headers, "x-amz-date")
    if timestamp is None:
        raise SignatureError("IncompleteSignatureException", "X-Amz-Date header is missing")
    key = _find_key(keyring, access_key_id, _one(headers, "x-amz-security-token"))

    _check_scope(date, timestamp, region, regions, signed_service, service)
    _check_skew(timestamp)
    signed = match["headers"].split(";")
    _check_signed_headers(signed, names)
    _check_content_hash(_one(headers, "x-amz-content-sha256"), body)

    credentials = botocore.credentials.Credentials(
        key.access_key_id, key.secret_access_key, key.token
    )
    request = _request(method, target, headers, body, timestamp)
    signer = _Signer(credentials, service, region, signed)
    canonical = signer.canonical_request(request)
    expected = signer.signature(signer.string_to_sign(request, canonical), request)
    if not hmac.compare_digest(expected, match["signature"]):
        raise SignatureError(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. "
            "Check your AWS Secret Access Key and signing method. Consult the service "
            f"documentation for details.\n\nThe Canonical String for this request should have "
            f"been\n'{canonical}'",
        )
    if key.expires_at is not None and key.expires_at < time.time():
        raise SignatureError(
            "ExpiredTokenException", "The security token included in the request is expired"
        )
    return key


def _one(headers, name):
    values = [value for header, value in headers if header.lower() == name]
    return values[0] if len(values) == 1 else None


def _split_scope(credential):
    parts = credential.split("/")
    if len(parts) != 5 or parts[4] != "aws4_request":
        raise SignatureError(
            "IncompleteSignatureException",
            f"Credential must have exactly 5 slash-delimited elements, got '{credential}'",
        )
    return parts[:4]


def _find_key(keyring, access_key_id, token):
    key = keyring.find(access_key_id)
    if key is None or key.token != token:
        raise SignatureError(
            "UnrecognizedClientException", "The security token included in the request is invalid."
        )
    return key


def _check_scope(date, timestamp, region, regions, signed_service, service):
    if date != timestamp[:8]:
        raise SignatureError(
            "InvalidSignatureException",
            f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from "
            f"HTTP: '{date}' != '{timestamp[:8]}', from '{timestamp}'.",
        )
    if region not in regions:
        raise SignatureError(
            "InvalidSignatureException",
            f"Credential should be scoped to a valid region, not '{region}'.",
        )
    if signed_service != service:
        raise SignatureError(
            "InvalidSignatureException",
            f"Credential should be scoped to correct service: '{service}', not '{signed_service}'.",
        )


def _check_skew(timestamp):
    try:
        signed_at = calendar.timegm(time.strptime(timestamp, "%Y%m%dT%H%M%SZ"))
    except ValueError:
        raise SignatureError(
            "IncompleteSignatureException",
            f"Date must be in ISO-8601 'basic format'. Got '{timestamp}'.",
        ) from None
    now = time.time()
    if signed_at < now - MAX_SKEW:
        text = f"Signature expired: {timestamp} is now earlier than"
        raise SignatureError("InvalidSignatureException", f"{text} {_stamp(now - MAX_SKEW)}")
    if signed_at > now + MAX_SKEW:
        text = f"Signature not yet current: {timestamp} is still later than"
        raise SignatureError("InvalidSignatureException", f"{text} {_stamp(now + MAX_SKEW)}")


def _stamp(seconds):
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


def _check_signed_headers(signed, present):
    if signed != sorted(set(signed)) or any(name != name.lower() for name in signed):
        raise SignatureError(
            "InvalidSignatureException", f"SignedHeaders must be sorted and lower case: {signed}"
        )
    required = {"host"} | {name for name in present if name.startswith("x-amz-")}
    for name in sorted(required - set(signed)):
        raise SignatureError(
            "InvalidSignatureException", f"'{name}' must be a 'SignedHeader' in the AWS Request."
        )
    for name in sorted(set(signed) - set(present)):
        raise SignatureError(
            "InvalidSignatureException", f"signed header '{name}' is not in the request"
        )


def _check_content_hash(declared, body):
    if declared is not None and declared != hashlib.sha256(body).hexdigest():
        raise SignatureError(
            "InvalidSignatureException",
            f"X-Amz-Content-SHA256 is '{declared}', not the digest of the body",
        )


def _request(method, target, headers, body, timestamp):
    path, _, query = target.partition("?")
    request = botocore.awsrequest.AWSRequest(
        method=method,
        url=f"https://standin{unquote(path)}" + (f"?{_canonical(query)}" if query else ""),
        data=body,
    )
    for name, value in headers:
        request.headers[name] = value
    request.context["timestamp"] = timestamp
    return request


def _canonical(query):
    """Encode the query anew as the service does, so that '+' or a lazy encoding is found."""
    pairs = []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        pairs.append(f"{quote(unquote(name), safe='-_.~')}={quote(unquote(value), safe='-_.~')}")
    return "&".join(pairs)
