"""Who may pull: tokens and passwords of registries, what a registry may not send us to, ECR."""

import base64
import json
import os
import re
import socket
import struct
import threading

import pytest

from builddir import needs_root
from fake_registry import FakeRegistry, Image, entry, tar
from image_store import SMALL, let_others_in
from image_store import fake as fake, store as store  # noqa: F401: fixtures

pytestmark = needs_root


# --- authorisation -------------------------------------------------------------------------------


class Tokens:
    """Bearer tokens as registries ask for them, given to one user."""

    def __init__(self, fake, user=("me", "pä:ss"), realm=None):
        self.fake, self.user, self.realm = fake, user, realm or f"{fake.url}/token"
        self.given, self.valid, self.headers_elsewhere = 0, set(), []
        fake.on_request = self

    def __call__(self, handler):
        if handler.path.startswith("/token"):
            if self.user and handler.basic() != self.user:
                handler.refuse(401, "UNAUTHORIZED", "incorrect username or password")
                return True
            self.given += 1
            self.valid = {f"token-{self.given}"}
            handler.answer(200, json.dumps({"token": f"token-{self.given}", "expires_in": 60}).encode())
            return True
        if handler.path.startswith("/v2/"):
            kind, _, token = handler.headers.get("Authorization", "").partition(" ")
            if kind != "Bearer" or token not in self.valid:
                challenge = f'Bearer realm="{self.realm}",service="here",scope="repository:team/app:pull"'
                handler.refuse(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)
                return True
        return False


def pull_with(store, reference, username, password):
    return store.run("--username", username, "pull", reference, input=password + "\n")


def test_one_token_serves_all_of_a_pull(store, fake):
    tokens = Tokens(fake)
    image = Image([tar(entry(f"f{i}", os.urandom(100))) for i in range(5)])
    done = pull_with(store, fake.put("team/app:1", image), *tokens.user)
    assert done.returncode == 0, done.stderr
    assert tokens.given == 1
    query = fake.requests_for("/token")[0][1]
    assert query == "/token?service=here&scope=repository%3Ateam%2Fapp%3Apull"
    store.has_only(image)


def test_a_token_that_expires_on_the_way_is_renewed(store, fake):
    tokens = Tokens(fake)
    image = Image([SMALL])
    reference = fake.put("team/app:1", image)

    def expire(handler):
        if "/blobs/" in handler.path and tokens.given == 1:
            tokens.valid = set()
        return tokens(handler)

    fake.on_request = expire
    assert pull_with(store, reference, *tokens.user).returncode == 0
    assert tokens.given == 2


@pytest.mark.parametrize("password", ["wrong", ""])
def test_without_the_right_password_access_is_denied(store, fake, password):
    tokens = Tokens(fake)
    reference = fake.put("team/app:1", Image([SMALL]))
    done = pull_with(store, reference, "me", password) if password else store.run("pull", reference)
    assert done.returncode == 1
    assert "CannotPullImageManifestError: pull access denied for team/app" in done.stderr
    assert tokens.given == 0 and len(fake.requests_for("/token")) == 1
    store.has_only()


def test_basic_authentication(store, fake):
    def basic(handler):
        if handler.basic() != ("AWS", "password"):
            handler.refuse(401, "DENIED", "Not Authorized", WWW_Authenticate='Basic realm="x",service="ecr"')
            return True

    fake.on_request = basic
    image = Image([SMALL])
    reference = fake.put("team/app:1", image)
    assert "denied: Not Authorized" in pull_with(store, reference, "AWS", "other").stderr
    assert pull_with(store, reference, "AWS", "password").returncode == 0


def test_a_cached_image_is_not_given_without_the_right_to_pull_it(store, fake):
    reference = fake.put("team/app:1", Image([SMALL]))
    store.pull(reference)
    Tokens(fake)
    assert "access denied" in store.pull_fails(reference)


def test_credentials_do_not_follow_a_redirect(store, fake):
    image = Image([SMALL])
    with FakeRegistry() as elsewhere:
        elsewhere.on_request = lambda handler: (
            handler.answer(200, image.blobs[handler.path.rsplit("/", 1)[1]]) or True
        )
        tokens = Tokens(fake)

        def redirect(handler):
            if tokens(handler):
                return True
            if "/blobs/" in handler.path:
                target = f"{elsewhere.url}/store/{handler.path.rsplit('/', 1)[1]}"
                handler.answer(307, Location=target)
                return True

        fake.on_request = redirect
        done = pull_with(store, fake.put("team/app:1", image), *tokens.user)
        assert done.returncode == 0, done.stderr
        assert len(elsewhere.requests) == 2
        assert [h for _, _, h in elsewhere.requests if "Authorization" in h] == []

        # Nor does another host get a password by asking for it.
        elsewhere.on_request = lambda handler: (
            handler.refuse(401, "X", "x", WWW_Authenticate=f'Bearer realm="{elsewhere.url}/token"') or True
        )
        store.run("rm", fake.put("team/app:1", image))
        assert pull_with(store, fake.put("team/app:1", image), *tokens.user).returncode == 1
        assert [h for _, _, h in elsewhere.requests if "Authorization" in h] == []


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest/meta-data", "http://[fe80::1]/x", "https://[fd00:ec2::254]/x",
     "http://0xa9fea9fe/x", "http://example.com/x", "ftp://127.0.0.1/x", "file:///etc/shadow"],
)  # fmt: skip
@pytest.mark.parametrize("how", ["redirect", "realm"])
def test_no_registry_sends_us_to_forbidden_places(store, fake, target, how):
    def send_away(handler):
        if how == "redirect":
            handler.answer(307, Location=target)
        else:
            handler.refuse(401, "X", "x", WWW_Authenticate=f'Bearer realm="{target}"')
        return True

    fake.on_request = send_away
    error = store.pull_fails(fake.put("away:1", Image([SMALL])))
    assert "CannotPullImageManifestError: " in error
    assert re.search("link-local|without TLS|neither http nor https|no host|URL", error), error
    assert len(fake.requests) == 1


# --- ECR -----------------------------------------------------------------------------------------


class Metadata:
    """ecs-metadata's control socket, answering get-credentials."""

    def __init__(self, runtime, answers):
        self.answers, self.asked = list(answers), []
        (runtime / "metadata").mkdir()
        self.socket = socket.socket(socket.AF_UNIX)
        path = runtime / "metadata/control.sock"
        self.socket.bind(str(path))
        path.chmod(0o666)
        self.socket.listen()
        let_others_in(path.parent)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection:
                size = struct.unpack("<I", connection.recv(4, socket.MSG_WAITALL))[0]
                self.asked.append(json.loads(connection.recv(size, socket.MSG_WAITALL)))
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                body = json.dumps(answer).encode()
                connection.sendall(struct.pack("<I", len(body)) + body)

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


CREDENTIALS = {
    "type": "credentials", "roleArn": "arn:aws:iam::111122223333:role/execution", "accessKeyId": "AKIAEXAMPLE",
    "secretAccessKey": "verysecret", "sessionToken": "sessiontoken", "expiration": "2099-01-01T00:00:00Z",
}  # fmt: skip


def ecr_auth(fake):
    return {"ecr": {"region": "us-west-2", "registryId": "111122223333", "endpoint": fake.url,
                    "credentialsId": "execution-1"}}  # fmt: skip


def test_ecr_gives_the_password(store, fake):
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    calls = []

    def ecr(handler):
        if handler.command == "POST":
            calls.append((handler.path, dict(handler.headers), handler.body))
            token = base64.b64encode(b"AWS:ecr:password").decode()
            body = {"authorizationData": [{"authorizationToken": token, "expiresAt": 4e9, "proxyEndpoint": "x"}]}
            handler.answer(200, json.dumps(body).encode())
            return True
        if handler.basic() != ("AWS", "ecr:password"):
            handler.refuse(401, "X", "x", WWW_Authenticate='Basic realm="ecr"')
            return True

    fake.on_request = ecr
    image = Image([SMALL])
    reference = fake.put("team/app:1", image)
    pending = {"type": "error", "code": "EAGAIN", "message": "announced, not here yet"}
    metadata = Metadata(store.runtime, [pending, CREDENTIALS])
    try:
        with store.connect() as connection:
            answer, _ = connection.ask(type="pull", reference=reference, auth=ecr_auth(fake))
    finally:
        metadata.close()
    assert answer["type"] == "pulled", answer
    assert [a["credentialsId"] for a in metadata.asked] == ["execution-1"] * 2

    path, headers, body = calls[0]
    assert json.loads(body) == {"registryIds": ["111122223333"]}
    assert headers["X-Amz-Target"] == "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
    signed = re.search("SignedHeaders=([^,]+)", headers["Authorization"])[1].split(";")
    request = AWSRequest("POST", fake.url + path, {k: v for k, v in headers.items() if k.lower() in signed}, body)
    request.context["timestamp"] = headers["X-Amz-Date"]
    signer = SigV4Auth(Credentials("AKIAEXAMPLE", "verysecret", "sessiontoken"), "ecr", "us-west-2")
    signature = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    assert headers["Authorization"].endswith("Signature=" + signature)


@pytest.mark.parametrize("answer, words", [
    ({"type": "error", "code": "ENOENT", "message": "unknown credentials"}, "unknown credentials"),
    ({**CREDENTIALS, "expiration": "2001-01-01T00:00:00Z"}, "expired"),
    (CREDENTIALS, "AccessDeniedException"),
])  # fmt: skip
def test_without_a_token_the_pull_fails_by_its_name(store, fake, answer, words):
    body = json.dumps({"__type": "AccessDeniedException", "message": "not authorized to perform"}).encode()
    fake.on_request = lambda handler: handler.answer(400, body) or True
    metadata = Metadata(store.runtime, [answer])
    try:
        with store.connect() as connection:
            found, _ = connection.ask(
                type="pull", reference=fake.put("team/app:1", Image([SMALL])), auth=ecr_auth(fake)
            )
    finally:
        metadata.close()
    assert found["type"] == "error" and found["name"] == "CannotPullECRContainerError"
    assert words in found["message"] and "verysecret" not in found["message"]
