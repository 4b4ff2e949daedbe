"""STS: GetCallerIdentity, so that a process in a container can show which role it has."""

from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from aiohttp import web

from .errors import ApiError

_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
# What the query protocol calls the errors that JSON services name otherwise.
_CODES = {
    "UnrecognizedClientException": ("InvalidClientTokenId", 403),
    "InvalidSignatureException": ("SignatureDoesNotMatch", 403),
    "ExpiredTokenException": ("ExpiredToken", 403),
    "MissingAuthenticationTokenException": ("MissingAuthenticationToken", 403),
    "IncompleteSignatureException": ("IncompleteSignature", 400),
    "ThrottlingException": ("Throttling", 400),
}


class Sts:
    SERVICE = "sts"

    def __init__(self, store):
        self.store = store
        self.identities = []  # ARNs of the callers, in order

    @staticmethod
    def action(body):
        fields = parse_qs(body.decode("utf-8", "replace"))
        return fields.get("Action", [""])[0]

    def call(self, operation, caller):
        if operation != "GetCallerIdentity":
            raise ApiError("InvalidAction", f"The stand-in has no action '{operation}'")
        self.identities.append(caller.key.arn)
        role_id = "AROASTANDIN" if caller.key.role_arn else "AIDASTANDIN"
        user_id = f"{role_id}:{caller.key.arn.rsplit('/', 1)[-1]}"
        return (
            f'<GetCallerIdentityResponse xmlns="{_NAMESPACE}"><GetCallerIdentityResult>'
            f"<Arn>{escape(caller.key.arn)}</Arn><UserId>{escape(user_id)}</UserId>"
            f"<Account>{self.store.account}</Account></GetCallerIdentityResult>"
            "<ResponseMetadata><RequestId>00000000-0000-4000-8000-000000000000</RequestId>"
            "</ResponseMetadata></GetCallerIdentityResponse>"
        )


def error_answer(code, message, status=400):
    code, status = _CODES.get(code, (code, status))
    kind = "Sender" if status < 500 else "Receiver"
    text = (
        f'<ErrorResponse xmlns="{_NAMESPACE}"><Error><Type>{kind}</Type><Code>{escape(code)}</Code>'
        f"<Message>{escape(message)}</Message></Error></ErrorResponse>"
    )
    return web.Response(text=text, status=status, content_type="text/xml")
