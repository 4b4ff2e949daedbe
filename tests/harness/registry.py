"""Debian's docker-registry on loopback, with its storage in a directory of ours."""

import http.client
import pathlib
import socket
import subprocess

from controlplane.client import wait_for

CONFIG = """version: 0.1
log:
  level: warn
storage:
  filesystem:
    rootdirectory: {storage}
  delete:
    enabled: true
http:
  addr: {address}:{port}
"""


def free_port(address="127.0.0.1"):
    with socket.socket() as s:
        s.bind((address, 0))
        return s.getsockname()[1]


class Registry:
    """A running registry; .host is "127.0.0.1:PORT"."""

    def __init__(self, directory, address="127.0.0.1", port=None):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir(parents=True, exist_ok=True)
        self.storage = self.dir / "storage"
        self.address = address
        self.port = port or free_port(address)
        self.host = f"{address}:{self.port}"
        self.process = None
        self.start()

    def start(self):
        path = self.dir / "registry.yml"
        path.write_text(
            CONFIG.format(storage=self.storage, address=self.address, port=self.port)
        )
        with open(self.dir / "registry.log", "ab") as log:
            self.process = subprocess.Popen(
                ["docker-registry", "serve", str(path)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_for(self._answers, 20, f"docker-registry does not answer at {self.host}")

    def _answers(self):
        try:
            connection = http.client.HTTPConnection(self.address, self.port, timeout=1)
            connection.request("GET", "/v2/")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(timeout=10)
            self.process = None

    def blob_path(self, digest):
        """Where the registry keeps a blob, to damage it."""
        hexadecimal = digest.removeprefix("sha256:")
        return (
            self.storage / "docker/registry/v2/blobs/sha256" / hexadecimal[:2] / hexadecimal / "data"
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
