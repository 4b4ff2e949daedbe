"""ecs-image against a real registry and against one that misbehaves."""

import gzip
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import threading

import pytest

from builddir import needs_root
from fake_registry import OCI, FakeRegistry, Image, entry, hang_on, sha256, tar
from image_store import SMALL, let_others_in
from image_store import fake as fake, store as store  # noqa: F401: fixtures

pytestmark = needs_root


# --- digests and manifests -----------------------------------------------------------------------


def test_a_corrupt_blob_in_the_registry_is_refused(store, registry, tmp_path):
    from harness import images

    layout = tmp_path / "layout"
    layer = tar(entry("x", os.urandom(1000)))
    images.write_layout(layout, [layer])
    reference = f"{registry.host}/corrupt:1"
    images.push(layout, reference)
    digest = sha256(gzip.compress(layer, 1, mtime=0))
    path = registry.blob_path(digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    error = store.pull_fails(reference)
    assert error.startswith("ecs-image: CannotPullContainerError: layer " + digest)
    store.has_only()
    assert store.run("inspect", reference).returncode == 1


def test_a_manifest_must_have_the_digest_of_the_reference(store, fake):
    image, other = Image([SMALL]), Image([tar(entry("x", b"x"))])
    fake.put("app:1", image)
    reference = f"{fake.host}/app@{sha256(image.manifest)}"
    assert store.pull(reference) == sha256(image.manifest)
    fake.manifests["app", sha256(image.manifest)] = (other.manifest, OCI + "manifest.v1+json")
    error = store.pull_fails(reference)
    assert "CannotPullContainerError" in error and "instead of " + sha256(image.manifest) in error


def test_the_announced_digest_must_be_that_of_the_manifest(store, fake):
    reference = fake.put("app:1", Image([SMALL]))
    wrong = "sha256:" + "0" * 64

    def lie(handler):
        if "/manifests/" in handler.path:
            body, media_type = fake.manifests["app", "1"]
            handler.answer(200, body, Content_Type=media_type, Docker_Content_Digest=wrong)
            return True

    fake.on_request = lie
    assert "CannotPullImageManifestError" in (error := store.pull_fails(reference)) and wrong in error


def bent(**changes):
    image = Image([SMALL])
    image.document.update(changes)
    return image


@pytest.mark.parametrize(
    "image, media_type, words",
    [
        (bent(manifests=[]), None, "manifest and an index at once"),
        (bent(), "application/vnd.docker.distribution.manifest.v2+json", "differ"),
        (bent(schemaVersion=1), None, "schema 1 are not supported"),
        (bent(mediaType="text/html"), "text/html", "not supported"),
        (bent(layers=[{"mediaType": OCI + "layer.v1.tar", "digest": "sha256:" + "0" * 64, "size": 1 << 40}]),
         None, "over the limit"),
        (bent(layers=[{"mediaType": OCI + "layer.nondistributable.v1.tar+gzip", "digest": "sha256:" + "0" * 64,
                       "size": 1, "urls": ["http://169.254.169.254/"]}]), None, "nondistributable"),
        (Image([SMALL], os_="windows"), None, "windows"),
    ],
)  # fmt: skip
def test_manifests_that_pretend_are_refused(store, fake, image, media_type, words):
    error = store.pull_fails(fake.put("bent:1", image, media_type))
    assert re.match(r"ecs-image: CannotPull(ImageManifest|Container)Error: ", error)
    assert words in error
    store.has_only()


def test_an_index_leads_to_the_image_of_this_machine(store, fake):
    image = Image([SMALL])
    fake.put("multi:only", image)
    manifest = {"mediaType": OCI + "manifest.v1+json", "digest": sha256(image.manifest), "size": len(image.manifest)}
    machine = {"architecture": json.loads(image.config)["architecture"], "os": "linux"}
    other = {**manifest, "digest": "sha256:" + "0" * 64, "platform": {"architecture": "s390x", "os": "linux"}}
    index = {"schemaVersion": 2, "mediaType": OCI + "index.v1+json",
             "manifests": [other, {**manifest, "platform": machine}]}  # fmt: skip
    body = json.dumps(index).encode()
    assert store.pull(fake.put("multi:1", body)) == sha256(body)
    store.has_only(image)

    index["manifests"] = [other]
    error = store.pull_fails(fake.put("multi:2", json.dumps(index).encode()))
    assert "no matching manifest for linux/" in error


# --- addresses and certificates ------------------------------------------------------------------


@pytest.fixture
def outside_address():
    """An address of this host that is not loopback."""
    address = "192.0.2.77"
    subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
    try:
        yield address
    finally:
        subprocess.run(["ip", "addr", "del", f"{address}/32", "dev", "lo"], check=True)


def test_plain_http_is_for_loopback_only(store, outside_address):
    with FakeRegistry(outside_address) as outside:
        error = store.pull_fails(outside.put("app:1", Image([SMALL])))
        assert outside.requests == []
    assert "CannotPullImageManifestError" in error and outside_address in error


def test_a_registry_elsewhere_does_not_send_us_to_this_host(store, outside_address, tmp_path):
    certificate = make_certificate(tmp_path, outside_address)
    with FakeRegistry(outside_address, certificate) as outside, FakeRegistry() as inside:
        outside.on_request = lambda handler: handler.answer(307, Location=inside.url + "/secret") or True
        error = store.pull_fails(
            outside.put("app:1", Image([SMALL])), env={"SSL_CERT_FILE": str(certificate)}
        )
        assert "which is this host" in error
        assert inside.requests == [] and len(outside.requests) == 1


def make_certificate(directory, address):
    """Key and self-signed certificate in one file."""
    path = directory / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", directory / "key", "-out", directory / "cert", "-days", "2", "-subj", "/CN=registry",
         "-addext", f"subjectAltName=IP:{address}"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes((directory / "key").read_bytes() + (directory / "cert").read_bytes())
    path.chmod(0o644)
    let_others_in(directory)
    return path


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_certificates_are_checked_against_the_given_bundle(store, tmp_path, variable):
    certificate = make_certificate(tmp_path, "127.0.0.1")
    with FakeRegistry(certificate=certificate) as secure:
        image = Image([SMALL])
        reference = secure.put("app:1", image)
        assert "certificate" in store.pull_fails(reference)
        assert secure.requests == []  # not even without TLS
        store.pull(reference, env={variable: str(certificate)})
        store.has_only(image)
        store.config.write_text(f"{variable}={certificate}\n")
        store.pull(reference)


def test_a_ca_of_one_registry_is_taken_from_certs_d(store, tmp_path):
    certificate = make_certificate(tmp_path, "127.0.0.1")
    with FakeRegistry(certificate=certificate) as secure:
        image = Image([SMALL])
        reference = secure.put("app:1", image)
        directory = pathlib.Path("/etc/docker/certs.d") / secure.host
        made = next(p for p in reversed([directory, *directory.parents]) if not p.exists())
        directory.mkdir(parents=True)
        try:
            shutil.copy(tmp_path / "cert", directory / "ca.crt")
            store.pull(reference)
        finally:
            shutil.rmtree(made)
        store.has_only(image)


class Proxy:
    """An HTTP proxy that knows CONNECT, and who was asked for."""

    def __init__(self):
        self.asked = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        request = b""
        while b"\r\n\r\n" not in request:
            request += client.recv(4096)
        target = request.split()[1].decode()
        self.asked.append(target)
        server = socket.create_connection(target.rsplit(":", 1))
        client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        threading.Thread(target=self.copy, args=(server, client), daemon=True).start()
        self.copy(client, server)

    @staticmethod
    def copy(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def test_a_proxy_is_used_but_for_the_hosts_of_no_proxy(store, outside_address, tmp_path):
    certificate = make_certificate(tmp_path, outside_address)
    proxy = Proxy()
    try:
        with FakeRegistry(outside_address, certificate) as outside, FakeRegistry() as inside:
            settings = [f"SSL_CERT_FILE={certificate}", f"HTTPS_PROXY={proxy.url}", f"HTTP_PROXY={proxy.url}"]
            store.config.write_text("\n".join(settings) + "\n")
            image = Image([SMALL])
            store.pull(outside.put("app:1", image))
            assert set(proxy.asked) == {outside.host}
            store.pull(inside.put("app:1", image))  # loopback
            assert set(proxy.asked) == {outside.host}
            proxy.asked.clear()
            store.config.write_text("\n".join([*settings, f"NO_PROXY={outside_address}"]) + "\n")
            store.pull(outside.put("app:2", image))
            assert proxy.asked == []
    finally:
        proxy.close()


def test_localhost_is_a_registry_on_this_host(store, fake):
    image = Image([SMALL])
    fake.put("app:1", image)
    store.pull(f"localhost:{fake.port}/app:1")
    store.has_only(image)


# --- registries and connections that fail --------------------------------------------------------


def test_what_is_not_there_is_named(store, registry):
    error = store.pull_fails(f"{registry.host}/absent:1")
    assert error.startswith("ecs-image: CannotPullImageManifestError: ref not found: ")
    assert f"{registry.host}/absent:1: manifest unknown" in error
    with store.connect() as connection:
        answer, _ = connection.ask(type="pull", reference=f"{registry.host}/absent@sha256:{'0' * 64}")
    assert answer["type"] == "error" and answer["code"] == "ENOENT"
    assert answer["name"] == "CannotPullContainerError"


def test_a_registry_that_is_down_is_named(store):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        with store.connect() as connection:
            answer, _ = connection.ask(type="pull", reference=f"{host}/app:1", manifestTimeoutUsec=2_000_000)
    assert answer["type"] == "error" and answer["code"] == "ETIMEDOUT"
    assert answer["name"] == "CannotPullImageManifestError"
    assert host in answer["message"]
    assert "Check your network configuration" in answer["message"]


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_passing_failures_are_tried_again(store, fake, status):
    failures = {"/manifests/": 2, "/blobs/": 1}

    def fail(handler):
        for part in failures:
            if part in handler.path and failures[part] > 0:
                failures[part] -= 1
                handler.refuse(status, "TOOMANYREQUESTS", "slow down", Retry_After="1")
                return True

    fake.on_request = fail
    image = Image([SMALL])
    store.pull(fake.put("flaky:1", image))
    assert failures == {"/manifests/": 0, "/blobs/": 0}
    store.has_only(image)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("compression", ["+gzip", "+zstd"])
def test_a_broken_download_goes_on_where_it_broke_off(store, fake, ranges, compression):
    data = os.urandom(3_000_000)
    image = Image([tar(entry("data", data))], compression=compression)
    breaks = [2_000_000, 500_000]

    def break_off(handler):
        if image.layer_digest not in handler.path:
            return False
        if not ranges and "Range" in handler.headers:
            del handler.headers["Range"]
        if not breaks:
            return False
        blob = image.blobs[image.layer_digest]
        start = int(re.sub(r"\D", "", handler.headers.get("Range", "0")))
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(blob) - 1}/{len(blob)}")
        handler.send_header("Content-Length", str(len(blob) - start))
        handler.end_headers()
        handler.wfile.write(blob[start : start + breaks.pop()])
        handler.close_connection = True
        return True

    fake.on_request = break_off
    store.pull(fake.put("broken:1", image))
    assert (store.layer(image) / "data").read_bytes() == data
    asked = [h.get("Range") for _, _, h in fake.requests_for(image.layer_digest)]
    assert asked[0] is None and len(asked) == 3 and (asked[1] or not ranges)


def test_silence_ends_a_pull(store, fake):
    image, release = Image([tar(entry("x", os.urandom(100_000)))]), threading.Event()
    hang_on(fake, image.layer_digest, release, send=image.blobs[image.layer_digest][:1000])
    try:
        with store.connect() as connection:
            answer, before = connection.ask(
                type="pull", reference=fake.put("app:1", image), inactivityTimeoutUsec=3_000_000
            )
    finally:
        release.set()
    assert answer["code"] == "ETIMEDOUT" and answer["name"] == "CannotPullContainerError"
    assert "inactivity time exceeded timeout while pulling image" in answer["message"]
    assert before[0]["type"] == "resolved"
    store.has_only()


@pytest.mark.parametrize("part, limit, name", [
    ("/manifests/", "manifestTimeoutUsec", "CannotPullImageManifestError"),
    ("/blobs/", "timeoutUsec", "CannotPullContainerError"),
])  # fmt: skip
def test_each_part_of_a_pull_has_a_deadline(store, fake, part, limit, name):
    release = threading.Event()
    hang_on(fake, part, release)
    try:
        with store.connect() as connection:
            answer, _ = connection.ask(
                type="pull", reference=fake.put("app:1", Image([SMALL])), **{limit: 1_000_000}
            )
    finally:
        release.set()
    assert answer["code"] == "ETIMEDOUT" and answer["name"] == name
