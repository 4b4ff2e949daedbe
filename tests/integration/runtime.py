"""Drives one ecs-task directly, as ecs-launcher and ecs-agent together would."""

import array
import atexit
import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import uuid
from pathlib import Path

from builddir import program

CGROUPS = Path("/sys/fs/cgroup")
BUSYBOX = os.environ.get("ECS_BUSYBOX", "/usr/bin/busybox")

DEFAULT_CAPS = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
]
DEFAULT_CAPS_MASK = "00000000a80425fb"  # what Docker documents for its default set
MASKED = [
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
    "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
]
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


class RequestError(Exception):
    def __init__(self, body):
        super().__init__(body.get("message"))
        self.body = body
        self.message = body.get("message")
        self.name = body.get("name")
        self.code = body.get("code")
        self.exit_code = body.get("exitCode")


class Connection:
    """lib/ipc messages over a connected socket."""

    def __init__(self, sock):
        self.sock = sock
        self.sock.settimeout(30)
        self.data = b""
        self.fds = []
        self.events = []
        self.seq = 0

    def close(self):
        self.sock.close()
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def send(self, body, fds=()):
        text = json.dumps(body).encode()
        ancillary = []
        if fds:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
        data = struct.pack("<I", len(text)) + text
        sent = self.sock.sendmsg([data], ancillary)
        self.sock.sendall(data[sent:])

    def receive(self):
        while True:
            if len(self.data) >= 4:
                (size,) = struct.unpack("<I", self.data[:4])
                if len(self.data) >= 4 + size:
                    body = json.loads(self.data[4 : 4 + size])
                    self.data = self.data[4 + size :]
                    return body
            chunk, ancillary, _, _ = self.sock.recvmsg(65536, socket.CMSG_SPACE(64 * 4))
            for level, kind, raw in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
                    self.fds.extend(fds)
            if not chunk:
                raise ConnectionError("ecs-task closed the connection")
            self.data += chunk

    def call(self, type_, fds=(), **members):
        """The answer to a request; events that come meanwhile are kept."""
        self.seq += 1
        self.send({"type": type_, "seq": self.seq, **members}, fds)
        while True:
            body = self.receive()
            if body.get("seq") == self.seq or (body["type"] == "error" and "seq" not in body):
                if body["type"] == "error":
                    raise RequestError(body)
                return body
            self.events.append(body)

    def event(self, type_, container=None):
        def wanted(body):
            return body["type"] == type_ and container in (None, body.get("container"))

        for body in self.events:
            if wanted(body):
                self.events.remove(body)
                return body
        while True:
            body = self.receive()
            if wanted(body):
                return body
            self.events.append(body)

    def take_fds(self):
        fds, self.fds = self.fds, []
        return fds


class Host:
    """State and runtime directories and a cgroup parent of a test's own."""

    def __init__(self):
        self.base = Path(tempfile.mkdtemp(prefix="ecs-runtime-", dir="/var/tmp"))
        self.base.chmod(0o711)
        self.state, self.run = self.base / "state", self.base / "run"
        self.config = self.base / "ecs.config"
        self.config.write_text("")
        for path, mode in (
            (self.state, 0o755), (self.state / "images", 0o711),
            (self.state / "images/layers", 0o700), (self.state / "tasks", 0o711),
            (self.state / "volumes", 0o700), (self.state / "spool", 0o770), (self.state / "exits", 0o750),
            (self.run, 0o755), (self.run / "tasks", 0o750),
            (self.run / "seccomp", 0o700),
        ):
            path.mkdir()
            path.chmod(mode)
        self.parent = f"ecs-test-{uuid.uuid4().hex[:8]}"
        self.is_v2 = (CGROUPS / "cgroup.controllers").exists()
        self.tasks = []

    def close(self):
        for task in self.tasks:
            task.kill()
            with contextlib.suppress(Exception):
                task.reap()
        for top in self.hierarchies():
            with contextlib.suppress(OSError):
                (top / self.parent).rmdir()
        shutil.rmtree(self.base, ignore_errors=True)
        left = [str(top / self.parent) for top in self.hierarchies() if (top / self.parent).exists()]
        assert not left, f"cgroups are left: {left}"
        assert not self.base.exists(), f"{self.base} is left"

    def hierarchies(self):
        if self.is_v2:
            return [CGROUPS]
        return [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]

    def options(self):
        return ["--config", str(self.config), "--state-dir", str(self.state), "--runtime-dir",
                str(self.run), "--cgroup-parent", self.parent]

    def layer(self, fill):
        """A layer directory made by fill(path); returns its name."""
        name = uuid.uuid4().hex * 2
        path = self.state / "images/layers" / name
        path.mkdir()
        path.chmod(0o755)
        fill(path)
        return name

    def busybox_layer(self):
        """The same directory for all: four hundred links are slow to make for each test."""
        name = uuid.uuid4().hex * 2
        (self.state / "images/layers" / name).symlink_to(busybox_directory())
        return name


@functools.cache
def busybox_directory():
    path = Path(tempfile.mkdtemp(prefix="ecs-busybox-", dir="/var/tmp"))
    atexit.register(shutil.rmtree, path)
    path.chmod(0o755)
    for name in ("bin", "etc", "tmp", "root", "home"):
        (path / name).mkdir()
    (path / "tmp").chmod(0o1777)
    shutil.copy(BUSYBOX, path / "bin/busybox")
    (path / "bin/busybox").chmod(0o755)
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    for applet in applets.stdout.split():
        if applet != "busybox":
            (path / "bin" / applet).symlink_to("busybox")
    (path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n"
    )
    (path / "etc/group").write_text("root:x:0:\napp:x:1001:\nextra:x:2000:app\nweb:x:3000:\n")
    return path


class Task:
    def __init__(self, host, network="host", cgroup=None, setup=True, mounts=None, **members):
        """mounts: a process whose mount namespace is the host's."""
        self.host = host
        self.mounts = mounts
        self.host_pid = members.get("pidMode") == "host"
        self.id = uuid.uuid4().hex
        self.process = None
        self.pid = None
        self.connection = None
        host.tasks.append(self)
        self.start()
        if setup:
            task = {"arn": f"arn:aws:ecs:us-west-2:111122223333:task/c/{self.id}",
                    "networkMode": network, "cgroup": cgroup or {}, **members}
            assert self.call("setup", task=task)["type"] == "ready"
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
            self.pid = int(children.read_text().split()[0])

    def cgroup_paths(self, name="supervisor"):
        return [top / self.host.parent / f"ecstasks-{self.id}" / name
                for top in self.host.hierarchies()]

    def enter_cgroups(self):
        for path in self.cgroup_paths():
            tasks = path / "tasks"
            (tasks if tasks.exists() else path / "cgroup.procs").write_text("0")

    def make_cgroups(self):
        for top in self.host.hierarchies():
            path = top
            for name in (self.host.parent, f"ecstasks-{self.id}", "supervisor"):
                path = path / name
                path.mkdir(exist_ok=True)
                # A new cpuset has no cpus and memory nodes, and takes no process then.
                for file in ("cpuset.cpus", "cpuset.mems"):
                    if (path / file).exists() and not self.host.is_v2:
                        (path / file).write_text((path.parent / file).read_text())

    def start(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        binary = program("ecs-task")
        self.make_cgroups()

        def prepare():
            os.dup2(theirs.fileno(), 3, inheritable=True)
            if self.mounts:
                os.dup2(os.open(f"/proc/{self.mounts}/ns/mnt", os.O_RDONLY), 4, inheritable=True)
            self.enter_cgroups()

        enter = ["nsenter", f"--mount=/proc/{self.mounts}/ns/mnt", "--"] if self.mounts else []
        self.process = subprocess.Popen(
            [*enter, "unshare", *([] if self.host_pid else ["--pid"]), "--mount", "--fork", "--propagation",
             "slave", binary, *(["--host-pid"] if self.host_pid else []), *self.host.options(),
             self.id],
            preexec_fn=prepare, close_fds=False, stderr=subprocess.PIPE, text=True,
        )
        theirs.close()
        self.connection = Connection(ours)

    def call(self, type_, fds=(), **members):
        return self.connection.call(type_, fds, **members)

    def reconnect(self):
        if self.connection:
            self.connection.close()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(self.host.run / "tasks" / self.id / "control.sock"))
        self.connection = Connection(sock)

    def kill(self):
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        if self.process:
            self.process.kill()
            self.process.wait(30)
            self.process.stderr.close()
        if self.connection:
            self.connection.close()
        self.pid = self.process = self.connection = None

    def reap(self):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

        def prepare():
            os.dup2(theirs.fileno(), 3, inheritable=True)

        with ours, theirs:
            done = subprocess.run(
                [program("ecs-task"), "--reap", *self.host.options(), "--", self.id],
                preexec_fn=prepare, close_fds=False, capture_output=True, text=True, timeout=60,
            )
            theirs.close()
            answer = Connection(ours).receive()
        return answer, done

    def spec(self, args, name="app", layers=None, **changes):
        """The "container" of a create request; changes are merged in as deep as they go."""
        container = {
            "name": name,
            "id": uuid.uuid4().hex * 2,
            "layers": layers or [self.host.busybox_layer()],
            "config": {
                "ociVersion": "1.0.2",
                "process": {
                    "args": args, "cwd": "/", "terminal": False,
                    "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                    "capabilities": {
                        "bounding": DEFAULT_CAPS, "permitted": DEFAULT_CAPS,
                        "effective": DEFAULT_CAPS, "inheritable": [], "ambient": [],
                    },
                },
                "root": {"readonly": False},
                "mounts": [],
                "linux": {"resources": {}, "maskedPaths": MASKED, "readonlyPaths": READONLY},
            },
            "seccomp": "default",
            "log": {"driver": "awslogs", "options": {}, "maxBytes": 1 << 24, "mode": "blocking",
                    "containerName": name, "taskId": self.id},
        }
        merge(container, changes)
        return container

    def create(self, args, name="app", layers=None, **changes):
        return self.call("create", container=self.spec(args, name, layers, **changes))

    def run(self, args, name="app", layers=None, **changes):
        """Create, start and wait for the end; the "exited" event."""
        self.create(args, name, layers, **changes)
        self.call("start", container=name)
        return self.connection.event("exited", name)

    def sh(self, script, name="app", layers=None, **changes):
        """Run a shell script; (exit code, standard output)."""
        event = self.run(["/bin/sh", "-c", script], name, layers, **changes)
        return event["exitCode"], self.output(name)

    def container_pid(self, name="app"):
        """Of the container's first process, as the host counts."""
        path = self.cgroup_paths(name)[0] / "cgroup.procs"
        return int(path.read_text().split()[0])

    def records(self, name="app"):
        """(stream, bytes) of every record in the spool."""
        found = []
        for segment in sorted((self.host.state / "spool" / self.id / name).glob("*.seg")):
            data = segment.read_bytes()
            while data:
                magic, length, _crc, stream = struct.unpack("<IIIB", data[:13])
                assert magic == 0x53434C01
                found.append((stream, data[24 : 24 + length]))
                data = data[24 + length :]
        return found

    def output(self, name="app", stream=1):
        return b"".join(data for kind, data in self.records(name) if kind == stream).decode()


def merge(into, changes):
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def lines(text):
    return text.strip().splitlines()


def fields(status, *names):
    """Values of "Name:\tvalue" lines of a /proc/<pid>/status."""
    values = dict(line.split(":", 1) for line in lines(status) if ":" in line)
    return [values[name].strip() for name in names]


def assert_nothing_left(host, task):
    for path in task.cgroup_paths(""):
        assert not path.exists()
    assert not (host.state / "tasks" / task.id).exists()
    assert not (host.run / "tasks" / task.id).exists()
    assert str(host.base) not in Path("/proc/self/mountinfo").read_text()
