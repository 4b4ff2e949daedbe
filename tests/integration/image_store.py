"""A store of images and ecs-image on it, as ecs-agent and operators use it."""

import json
import os
import pathlib
import re
import socket
import struct
import subprocess
import tarfile

import pytest

from builddir import program
from controlplane.client import wait_for
from fake_registry import FakeRegistry, entry, tar
from users import ensure_users

DIR, SYM, LNK, CHR, BLK, FIFO = (
    tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
)  # fmt: skip

SMALL = tar(entry("etc", kind=DIR, mode=0o755), entry("etc/hello", b"hello\n"))


def environment(more=None):
    """Ours without what points HTTP clients to proxies and CAs."""
    own = re.compile(r"(AWS_CA_BUNDLE|SSL_CERT_(FILE|DIR)|(HTTPS?|NO|ALL)_PROXY)$", re.I)
    return {**{k: v for k, v in os.environ.items() if not own.match(k)}, **(more or {})}


class Connection:
    """A client of "ecs-image --serve": length-prefixed JSON on the socket that it has as descriptor 3."""

    def __init__(self, store, env=None):
        ours, theirs = socket.socketpair()

        def child():
            os.dup2(theirs.fileno(), 3)  # inheritable

        self.process = subprocess.Popen(
            [store.program, *store.options, "--serve"],
            pass_fds=(3,) if theirs.fileno() == 3 else (),
            close_fds=False, preexec_fn=child, env=environment(env),
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        theirs.close()
        self.socket = ours
        self.socket.settimeout(60)

    def send(self, **message):
        body = json.dumps(message).encode()
        self.socket.sendall(struct.pack("<I", len(body)) + body)

    def _read(self, n):
        data = b""
        while len(data) < n:
            piece = self.socket.recv(n - len(data))
            if not piece:
                raise EOFError(self.process.stderr.read().decode())
            data += piece
        return data

    def receive(self):
        return json.loads(self._read(struct.unpack("<I", self._read(4))[0]))

    def ask(self, **message):
        """The answer to a request, and the messages before it."""
        self.send(seq=7, **message)
        before = []
        while True:
            answer = self.receive()
            assert answer["seq"] == 7
            if answer["type"] not in ("resolved", "progress"):
                return answer, before
            before.append(answer)

    def halves(self):
        """Pids of the unpack half and of the network half."""
        pid = self.process.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
        return pid, int(wait_for(lambda: children.read_text().split(), 10, "no network half")[0])

    def close(self):
        self.socket.close()
        self.process.wait(timeout=30)
        self.process.stderr.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Store:
    """A state directory and the program on it."""

    def __init__(self, directory):
        self.program = program("ecs-image")
        self.state = pathlib.Path(directory) / "state"
        self.runtime = pathlib.Path(directory) / "run"
        self.state.mkdir(exist_ok=True)
        self.runtime.mkdir(exist_ok=True)
        self.images = self.state / "images"
        self.config = pathlib.Path(directory) / "ecs.config"
        self.config.write_text("")
        self.options = [
            "--config", str(self.config), "--state-dir", str(self.state), "--runtime-dir", str(self.runtime),
        ]  # fmt: skip

    def run(self, *arguments, env=None, **more):
        return subprocess.run(
            [self.program, *self.options, *arguments],
            capture_output=True, text=True, timeout=120, env=environment(env), **more,
        )  # fmt: skip

    def pull(self, reference, env=None):
        done = self.run("pull", reference, env=env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def pull_fails(self, reference, env=None):
        done = self.run("pull", reference, env=env)
        assert done.returncode == 1
        assert done.stdout == ""
        return done.stderr

    def connect(self, env=None):
        return Connection(self, env)

    def layer(self, image, n=0):
        return self.images / "layers" / image.diff_ids[n].removeprefix("sha256:")

    def has_only(self, *images):
        """Nothing but the layers of these images is in the store."""
        expected = {d.removeprefix("sha256:") for image in images for d in image.diff_ids}
        assert set(os.listdir(self.images / "layers")) == expected
        assert os.listdir(self.images / "staging") == []


def let_others_in(directory):
    """pytest's directories are for their owner only, and the network half is another user."""
    for path in (directory, *directory.parents):
        if path.stat().st_mode & 0o005 != 0o005:
            path.chmod(path.stat().st_mode | 0o055)


@pytest.fixture
def store(tmp_path):
    ensure_users()
    return Store(tmp_path)


@pytest.fixture
def fake():
    with FakeRegistry() as running:
        yield running
