"""ecs-metadata with containers (network namespaces) and ecs-agent (its control socket) played by the test."""

import array
import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from builddir import program
from harness.service_manager import ServiceManager
from users import as_user, ensure_users, uid
from waiting import wait_for

ADDRESS = "169.254.170.2"
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def run(*command, check=True):
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=30)


class Namespace:
    """A network namespace that one thread of this process enters for sockets made there."""

    def __init__(self, address=ADDRESS):
        self.name = f"ecsm-{uuid.uuid4().hex[:8]}"
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        if address:
            self.ip("addr", "add", f"{address}/32", "dev", "lo")

    @property
    def enter(self):
        # "ip netns exec" would also mount another /sys, without cgroups.
        return ["nsenter", f"--net=/var/run/netns/{self.name}", "--"]

    def ip(self, *args):
        return run("ip", "-n", self.name, *args)

    def inside(self, function):
        """The result of function, called in a thread that is in the namespace."""
        result = []

        def work():
            try:
                with open(f"/var/run/netns/{self.name}", "rb") as ns:
                    if libc.setns(ns.fileno(), CLONE_NEWNET) < 0:
                        raise OSError(ctypes.get_errno(), "setns")
                result.append((True, function()))
            except BaseException as e:
                result.append((False, e))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)
        ok, value = result[0]
        if not ok:
            raise value
        return value

    def exec(self, *command, **kwargs):
        return subprocess.run([*self.enter, *command], capture_output=True, text=True, timeout=60,
                              **kwargs)

    def listen(self, address=ADDRESS, port=80, backlog=128):
        def make():
            s = socket.socket()
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind((address, port))
            s.listen(backlog)
            return s

        return self.inside(make)

    def connect(self, source=None):
        def make():
            s = socket.socket()
            s.settimeout(20)
            if source:
                s.bind((source, 0))
            s.connect((ADDRESS, 80))
            return s

        return self.inside(make)

    def get(self, path, method="GET", headers=None):
        """(status, body, headers) of one request on a connection of its own."""
        with self.connect() as s:
            connection = http.client.HTTPConnection(ADDRESS)
            connection.sock = s
            connection.putrequest(method, path, skip_host=True)
            for name, value in {"Host": ADDRESS, **(headers or {})}.items():
                connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
            return response.status, response.read().decode(), response.headers

    def remove(self):
        run("ip", "netns", "del", self.name)

    def remove_from(self, metadata):
        metadata.namespaces.remove(self)
        self.remove()


def cgroup2_top():
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    tops = [m[1] for m in mounts if m[2] == "cgroup2"]
    if not tops:
        pytest.skip("no cgroup2 is mounted")
    return tops[0]


class Cgroup2:
    def __init__(self, name=None, parent=None):
        top = parent.path if parent else Path(cgroup2_top())
        self.path = top / (name or f"ecsm-{uuid.uuid4().hex[:8]}")
        self.path.mkdir()

    @property
    def id(self):
        return self.path.stat().st_ino

    def remove(self):
        wait_for(lambda: not (self.path / "cgroup.procs").read_text())
        self.path.rmdir()

    def fetch(self, namespace, path, user=0, then="pass"):
        """The status of a request by a process in the cgroup, which does then when it has connected.

        Without a namespace it is made in that of this process.
        """
        enter = namespace.enter if namespace else []
        done = subprocess.run([*enter, sys.executable, "-c", FETCH, str(self.path), path, str(user), then],
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return int(done.stdout)


FETCH = """
import http.client, os, sys
cgroup, path, user, then = sys.argv[1:]
def enter(cgroup):
    with open(cgroup + "/cgroup.procs", "w") as f:
        f.write("0")
enter(cgroup)
os.setuid(int(user))
c = http.client.HTTPConnection("169.254.170.2", 80, timeout=20)
c.connect()
exec(then)
c.request("GET", path)
print(c.getresponse().status)
"""


class Control:
    """A client of the control socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(path)
        self.seq = 0

    def send(self, fds=(), **message):
        self.seq += 1
        data = json.dumps({"seq": self.seq, **message}).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [f.fileno() for f in fds]))]
        packet = struct.pack("<I", len(data)) + data
        sent = self.socket.sendmsg([packet], rights if fds else [])
        self.socket.sendall(packet[sent:])
        return self.answer()

    def answer(self):
        (length,) = struct.unpack("<I", self.exactly(4))
        message = json.loads(self.exactly(length))
        assert message.get("seq") == self.seq
        return message

    def exactly(self, n):
        data = b""
        while len(data) < n:
            part = self.socket.recv(n - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def ok(self, fds=(), **message):
        answer = self.send(fds, **message)
        assert answer["type"] == "ok", answer

    def refused(self, fds=(), **message):
        answer = self.send(fds, **message)
        assert answer["type"] == "error", answer
        assert answer["message"]
        return answer["code"], answer["message"]

    def close(self):
        self.socket.close()


def in_future(seconds=3600):
    return (datetime.now(timezone.utc) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Metadata:
    def __init__(self):
        ensure_users()
        self.dir = Path(tempfile.mkdtemp(prefix="ecsm-"))
        self.dir.chmod(0o755)
        self.run = self.dir / "run"
        (self.run / "metadata").mkdir(parents=True)
        os.chown(self.run / "metadata", uid("ecs-metadata"), uid("ecs-metadata"))
        self.path = str(self.run / "metadata/control.sock")
        self.namespaces = []
        self.process = None
        self.as_root = False
        self.manager = None

    def managed(self, limit=1024):
        """From now on started by a service manager that keeps descriptors."""
        self.manager = ServiceManager(self.dir, limit)
        return self

    def managed_again(self, limit):
        self.manager.stop()
        (self.dir / "notify").unlink()
        return self.managed(limit)

    def start(self, namespace=None, prefix=()):
        command = [*prefix, program("ecs-metadata"), "--runtime-dir", str(self.run)]
        if not self.as_root:
            command = as_user("ecs-metadata", command)
        if namespace:
            command = [*namespace.enter, *command]
        self.log = open(self.dir / "log", "ab")
        environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "ECS_LOGLEVEL": "debug",
                       # A sanitizer's allocator knows nothing of M_PERTURB.
                       "ASAN_OPTIONS": "detect_leaks=0:max_free_fill_size=67108864:free_fill_byte=165"}
        popen = self.manager.popen if self.manager else subprocess.Popen
        self.process = popen(command, env=environment, stderr=self.log, stdin=subprocess.DEVNULL)
        self.log.close()
        wait_for(self.accepts)
        if self.manager:
            self.manager.wait(lambda m: "READY=1" in m.states)
        self.control = Control(self.path)
        return self

    def accepts(self):
        assert self.process.poll() is None, self.log_text()
        try:
            Control(self.path).close()
            return True
        except OSError:
            return False

    def log_text(self):
        return (self.dir / "log").read_text()

    def namespace(self, **kwargs):
        self.namespaces.append(Namespace(**kwargs))
        return self.namespaces[-1]

    def put(self, credentials_id, task="t1", role_type="TaskApplication", seconds=3600, **more):
        message = {
            "type": "put-credentials", "credentialsId": credentials_id, "taskId": task,
            "taskArn": f"arn:aws:ecs:us-west-2:111122223333:task/blue/{task}",
            "roleType": role_type, "roleArn": "arn:aws:iam::111122223333:role/app",
            "accessKeyId": "ASIAEXAMPLE", "secretAccessKey": "secret/key",
            "sessionToken": "token+/=", "expiration": in_future(seconds), **more,
        }
        self.control.ok(**{k: v for k, v in message.items() if v is not None})

    def serve(self, task="t1", container="app", namespace=None):
        namespace = namespace or self.namespace()
        with namespace.listen() as s:
            self.control.ok([s], type="serve", taskId=task, container=container)
        return namespace

    def stop(self, how=signal.SIGTERM):
        self.control.close()
        self.process.send_signal(how)
        return self.process.wait(10)

    def clean(self):
        if self.process and self.process.poll() is None:
            status = self.stop()
            assert status == 0, self.log_text()
        if self.manager:
            self.manager.stop()
        for namespace in self.namespaces:
            namespace.remove()
        shutil.rmtree(self.dir)
