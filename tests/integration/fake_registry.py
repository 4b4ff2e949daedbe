"""A registry whose answers a test bends: tokens, redirects, connections that break, hostile manifests."""

import base64
import gzip
import hashlib
import http.server
import io
import json
import os
import re
import ssl
import subprocess
import tarfile
import threading

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker.distribution.manifest."
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def entry(name, data=b"", kind=tarfile.REGTYPE, mode=0o644, **more):
    """One tar entry: pax_headers=, uid=, linkname=, devmajor= and so on."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.mtime = kind, mode, len(data), 1_600_000_000
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def tar(*entries, format=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zstd(data):
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


def gzip_members(data, size=5000):
    """Several gzip members in a row, as pigz and BGZF write them."""
    return b"".join(gzip.compress(data[i : i + size], 1) for i in range(0, len(data), size))


COMPRESSIONS = {
    "": lambda data: data,
    "+gzip": lambda data: gzip.compress(data, 1),
    "+zstd": zstd,
}


class Image:
    """Blobs and manifest of one image; layers are plain tars."""

    def __init__(self, layers, config=None, compression="+gzip", compress=None, os_="linux"):
        self.diff_ids = [sha256(layer) for layer in layers]
        self.blobs = {}
        packed = [(compress or COMPRESSIONS[compression])(layer) for layer in layers]
        self.config = json.dumps(
            {
                "architecture": ARCHITECTURE,
                "os": os_,
                "config": config or {},
                "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
            }
        ).encode()
        self.document = {
            "schemaVersion": 2,
            "mediaType": OCI + "manifest.v1+json",
            "config": self.add(self.config, OCI + "config.v1+json"),
            "layers": [self.add(blob, OCI + "layer.v1.tar" + compression) for blob in packed],
        }

    def add(self, blob, media_type):
        self.blobs[sha256(blob)] = blob
        return {"mediaType": media_type, "digest": sha256(blob), "size": len(blob)}

    @property
    def manifest(self):
        return json.dumps(self.document).encode()

    @property
    def layer_digest(self):
        return self.document["layers"][0]["digest"]


class FakeRegistry:
    """
    .host is "127.0.0.1:PORT". on_request(handler) may answer in place of the registry by returning
    True; all requests are in .requests as (method, path, headers).
    """

    def __init__(self, address="127.0.0.1", certificate=None):
        self.manifests, self.blobs, self.requests = {}, {}, []
        self.on_request = lambda handler: False
        self.server = http.server.ThreadingHTTPServer((address, 0), self._handler())
        self.server.daemon_threads = True
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        self.host = f"{address}:{self.port}"
        self.url = ("https" if certificate else "http") + "://" + self.host
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def put(self, name, image, media_type=None):
        """Offer an image (or the bytes of a manifest) as "repository:tag"; returns its reference."""
        repository, tag = name.rsplit(":", 1)
        manifest = image if isinstance(image, bytes) else image.manifest
        media_type = media_type or json.loads(manifest).get("mediaType") or OCI + "manifest.v1+json"
        for key in (tag, sha256(manifest)):
            self.manifests[repository, key] = (manifest, media_type)
        if not isinstance(image, bytes):
            self.blobs.update(image.blobs)
        return f"{self.host}/{name}"

    def requests_for(self, part):
        return [request for request in self.requests if part in request[1]]

    def _handler(fake):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_one_request(self):
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def answer(self, status, body=b"", **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def refuse(self, status, code, message, **headers):
                body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
                self.answer(status, body, Content_Type="application/json", **headers)

            def basic(self):
                """User and password of the request, or None."""
                kind, _, value = self.headers.get("Authorization", "").partition(" ")
                return tuple(base64.b64decode(value).decode().split(":", 1)) if kind == "Basic" else None

            def do_GET(self):
                length = int(self.headers.get("Content-Length", 0))
                self.body = self.rfile.read(length) if length else b""
                fake.requests.append((self.command, self.path, dict(self.headers)))
                if fake.on_request(self):
                    return
                self.serve()

            do_POST = do_GET

            def serve(self):
                match = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", self.path)
                if not match:
                    return self.refuse(404, "NOT_FOUND", "no such path")
                repository, kind, name = match.groups()
                if kind == "manifests":
                    found = fake.manifests.get((repository, name))
                    if not found:
                        return self.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")
                    return self.answer(
                        200, found[0], Content_Type=found[1], Docker_Content_Digest=sha256(found[0])
                    )
                blob = fake.blobs.get(name)
                if blob is None:
                    return self.refuse(404, "BLOB_UNKNOWN", "blob unknown to registry")
                start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                if start:
                    n = int(start[1])
                    return self.answer(206, blob[n:], Content_Range=f"bytes {n}-{len(blob) - 1}/{len(blob)}")
                return self.answer(200, blob, Content_Type="application/octet-stream")

        return Handler


def hang_on(fake, part, release, send=b""):
    """Requests whose path has the part get what is to be sent, and no more until release is set."""

    def hang(handler):
        if part in handler.path:
            if send:
                handler.send_response(200)
                handler.send_header("Content-Length", str(1 << 30))
                handler.end_headers()
                handler.wfile.write(send)
                handler.wfile.flush()
            release.wait(60)
            handler.close_connection = True
            return True

    fake.on_request = hang
