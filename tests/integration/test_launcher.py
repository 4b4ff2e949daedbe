"""ecs-launcher: who may ask for what, and in what state the programs are that it starts."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from builddir import needs_root, program
from users import as_user, ensure_users, uid
from waiting import wait_for

pytestmark = needs_root
CGROUPS = Path("/sys/fs/cgroup")


def read_refusal(connection):
    """One lib/ipc message, and that nothing follows it."""
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except ConnectionResetError:  # it closed without reading all that was sent
        pass
    (length,) = struct.unpack("<I", data[:4])
    assert len(data) == 4 + length
    message = json.loads(data[4:])
    assert message["type"] == "error"
    return message


class Probe:
    """What tests/integration/launcher_probe said about itself."""

    def __init__(self, connection):
        self.connection = connection
        text = b""
        while not text.endswith(b"\nend\n"):
            part = connection.recv(65536)
            assert part, f"the program ended early: {text!r}"
            text += part
        self.lines = [line.split(" ", 1) for line in text.decode().splitlines()]

    def all(self, key):
        return [rest[0] for name, *rest in self.lines if name == key]

    def one(self, key):
        (value,) = self.all(key)
        return value


class Launcher:
    def __init__(self, notify=None):
        launcher, probe = program("ecs-launcher"), program("tests/integration/launcher_probe")
        self.dir = Path(tempfile.mkdtemp(prefix="ecsl-"))
        self.dir.chmod(0o755)
        self.parent = f"ecs-test-{uuid.uuid4().hex[:8]}"
        self.run, self.state, self.libexec = (self.dir / n for n in ("run", "state", "libexec"))
        self.libexec.mkdir(0o755)
        shutil.copy(launcher, self.libexec)
        for name in ("ecs-task", "ecs-image", "ecs-network", "ecs-volume"):
            self.install(name, probe)
        self.config = self.dir / "ecs.config"
        self.config.write_text("ECS_LOGLEVEL=debug\n")
        self.process = None
        self.notify = notify

    def install(self, name, source):
        target = self.libexec / f".{name}"
        shutil.copy(source, target)
        target.chmod(0o755)
        target.rename(self.libexec / name)

    @property
    def path(self):
        return str(self.run / "launcher.sock")

    def command(self):
        return [str(self.libexec / "ecs-launcher"), "--config", str(self.config),
                "--state-dir", str(self.state), "--runtime-dir", str(self.run),
                "--cgroup-parent", self.parent]

    def start(self):
        environment = {"PATH": "/usr/bin:/bin", "LD_BIND_NOW": "1", "HTTPS_PROXY": "http://p:1",
                       "AWS_SECRET_ACCESS_KEY": "canary"}
        environment |= {k: v for k, v in os.environ.items() if k.endswith("SAN_OPTIONS")}
        if self.notify:
            environment["NOTIFY_SOCKET"] = self.notify
            environment |= {k: v for k, v in os.environ.items() if k == "WATCHDOG_USEC"}
        self.log = open(self.dir / "log", "ab")
        self.process = subprocess.Popen(
            self.command(), env=environment, stderr=self.log, stdin=subprocess.DEVNULL,
            pass_fds=[self.log.fileno()],
            preexec_fn=lambda: (signal.signal(signal.SIGUSR1, signal.SIG_IGN),
                                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])),
        )
        wait_for(self.accepts)
        return self

    def accepts(self):
        assert self.process.poll() is None, (self.dir / "log").read_text()
        try:
            self.connect().close()
            return True
        except OSError:
            return False

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(20)
        connection.connect(self.path)
        return connection

    def ask(self, line):
        connection = self.connect()
        connection.sendall(line)
        return connection

    def refused(self, line):
        with self.ask(line) as connection:
            return read_refusal(connection)

    def cgroup_dirs(self, path="."):
        return [p / path for pattern in (self.parent, f"*/{self.parent}") for p in CGROUPS.glob(pattern)
                if (p / path).exists()]

    def stop(self):
        self.process.terminate()
        assert self.process.wait(10) == 0

    def clean(self):
        if self.process and self.process.poll() is None:
            self.stop()
        for top in self.cgroup_dirs():
            for procs in top.glob("**/cgroup.procs"):
                for pid in procs.read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
        def empty():
            return not any(p.read_text() for t in self.cgroup_dirs() for p in t.glob("**/cgroup.procs"))
        wait_for(empty)
        for top in self.cgroup_dirs():
            for directory, _, _ in os.walk(top, topdown=False):
                os.rmdir(directory)
        shutil.rmtree(self.dir)


@pytest.fixture
def stopped():
    ensure_users()
    launcher = Launcher()
    yield launcher
    launcher.clean()


@pytest.fixture
def launcher(stopped):
    return stopped.start()


def test_directories_have_their_owners_and_modes(stopped):
    (stopped.dir / "state").mkdir(mode=0o777)
    stopped.start()
    want = {
        "run": (0, None, 0o755), "run/tasks": (0, "ecs-agent", 0o750),
        "run/metadata": ("ecs-metadata", "ecs-metadata", 0o755), "run/seccomp": (0, None, 0o700),
        "run/mounts": (0, None, 0o700), "run/volumes": (0, None, 0o700),
        "state": (0, None, 0o755), "state/data": ("ecs-agent", "ecs-agent", 0o700),
        "state/images": (0, None, 0o711), "state/images/layers": (0, None, 0o700),
        "state/tasks": (0, "ecs-agent", 0o751), "state/exits": (0, "ecs-agent", 0o750),
        "state/spool": (0, "ecs-logs", 0o770),
        "state/logs": ("ecs-logs", "ecs-logs", 0o750),
    }
    for path, (user, group, mode) in want.items():
        st = (stopped.dir / path).lstat()
        assert st.st_mode & 0o7777 == mode, path
        assert st.st_uid == (uid(user) if user else 0), path
        assert not group or st.st_gid == uid_group(group), path
    st = os.stat(stopped.path)
    assert (st.st_mode & 0o777, st.st_gid) == (0o660, uid_group("ecs-agent"))


def uid_group(name):
    import pwd

    return pwd.getpwnam(name).pw_gid


def test_a_link_in_place_of_a_directory_is_refused(stopped):
    stopped.state.mkdir()
    canary = stopped.dir / "canary"
    canary.mkdir(0o755)
    (stopped.state / "data").symlink_to(canary)
    done = subprocess.run(stopped.command(), capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert canary.stat().st_uid == 0


def test_a_task_has_its_own_cgroup_and_namespaces(launcher):
    with launcher.ask(b"task 7f3c\n") as connection:
        probe = Probe(connection)
        assert probe.one("pid") == "1"
        assert probe.one("pidns") != os.readlink("/proc/self/ns/pid")
        assert probe.one("mntns") != os.readlink("/proc/self/ns/mnt")
        paths = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in probe.all("cgroup")}
        assert paths[""] == f"/{launcher.parent}/ecstasks-7f3c/supervisor"
        if "memory" in paths:
            assert paths["memory"] == paths[""]
        for line in probe.all("mount"):
            assert "shared:" not in line.split(" - ")[0], "what it mounts would be seen by the host"
        assert probe.all("arg") == [
            "ecs-task", "--config", str(launcher.config), "--state-dir", str(launcher.state),
            "--runtime-dir", str(launcher.run), "--cgroup-parent", launcher.parent, "--", "7f3c"]


@pytest.mark.parametrize("line,words", [
    (b"image\n", ["ecs-image", "--serve"]), (b"network\n", ["ecs-network"]),
    (b"volume\n", ["ecs-volume"])])  # fmt: skip
def test_other_programs_stay_in_the_namespaces_of_the_host(launcher, line, words):
    with launcher.ask(line) as connection:
        probe = Probe(connection)
        assert probe.one("pidns") == os.readlink("/proc/self/ns/pid")
        assert probe.one("mntns") == os.readlink("/proc/self/ns/mnt")
        assert probe.all("arg") == [
            *words, "--config", str(launcher.config), "--state-dir", str(launcher.state),
            "--runtime-dir", str(launcher.run)]


def test_reap_runs_outside_of_the_cgroup_it_will_remove(launcher):
    with launcher.ask(b"reap 7f3c\n") as connection:
        probe = Probe(connection)
        assert probe.all("arg")[:2] == ["ecs-task", "--reap"]
        assert probe.all("arg")[-2:] == ["--", "7f3c"]
        assert not any(launcher.parent in line for line in probe.all("cgroup"))


@pytest.mark.parametrize("line", [b"task 1\n", b"task-host-pid 2\n", b"image\n", b"network\n",
                                  b"reap 1\n"])
def test_programs_start_from_a_clean_slate(launcher, line):
    with launcher.ask(line) as connection:
        probe = Probe(connection)
        fds = {int(v.split()[0]): v.split()[1] for v in probe.all("fd")}
        del fds[int(probe.one("duplicate"))]
        # The supervisor of a task also gets the mount namespace that host paths are looked up in.
        is_task = line.startswith(b"task")
        assert sorted(fds) == [0, 1, 2, 3] + ([4] if is_task else [])
        assert not is_task or fds[4] == os.readlink("/proc/self/ns/mnt")
        assert (fds[0], fds[1], fds[2]) == ("/dev/null", "/dev/null", str(launcher.dir / "log"))
        assert fds[3].startswith("socket:")
        environment = [v for v in probe.all("env") if "SAN_OPTIONS=" not in v]
        assert sorted(environment) == ["HTTPS_PROXY=http://p:1", "PATH=/usr/bin:/bin"]
        assert probe.all("signal-not-default") == []
        assert probe.all("signal-blocked") == []
        assert (probe.one("umask"), probe.one("cwd"), probe.one("flags")) == ("22", "/", "0")
        assert int(probe.one("session")) > 0


def test_programs_run_from_a_copy_that_cannot_be_written(launcher):
    with launcher.ask(b"task 1\n") as connection:
        probe = Probe(connection)
        assert probe.one("exe").startswith("/memfd:ecs-task")
        assert probe.one("write-exe") in ("ETXTBSY", "EPERM", "EACCES")
    assert (launcher.libexec / "ecs-task").read_bytes() == \
        Path(program("tests/integration/launcher_probe")).read_bytes()


def test_bytes_behind_the_line_reach_the_program(launcher):
    with launcher.connect() as connection:
        for byte in b"image\n":
            connection.sendall(bytes([byte]))
        connection.sendall(b"first\nsecond")
        assert_echo(connection, b"first\nsecond")
    with launcher.ask(b"image\nglued to the line") as connection:
        assert_echo(connection, b"glued to the line")


def assert_echo(connection, want):
    text = b""
    while b"\nend\n" not in text or len(text.split(b"\nend\n", 1)[1]) < len(want):
        part = connection.recv(65536)
        assert part
        text += part
    assert text.split(b"\nend\n", 1)[1] == want


def test_a_running_task_is_not_started_again(launcher):
    with launcher.ask(b"task 7f3c\n") as first:
        Probe(first)
        refusal = launcher.refused(b"task 7f3c\n")
        assert refusal["message"] == "task 7f3c is already running"
        assert refusal["code"] == "EBUSY"
        with launcher.ask(b"task 7f3d\n") as other:
            Probe(other)
    # Its end lets it be started again.
    def ended():
        return not any((d / "cgroup.procs").read_text()
                       for d in launcher.cgroup_dirs("ecstasks-7f3c/supervisor"))
    wait_for(ended)
    with launcher.ask(b"task 7f3c\n") as again:
        Probe(again)


@pytest.mark.parametrize("line", [
    b"task ../x\n", b"task /etc\n", b"task \n", b"task\n", b"task a b\n", b"task x\0\n", b"task x\0y\n",
    b"task -x\n", b"task " + b"a" * 65 + b"\n", b"exec sh\n", b"\n", b"\0\n", b"image x\n", b"reap\n",
    b"reap ..\n", b"TASK x\n", b"task \xff\xfe\n", b"task x\r\n",
])
def test_bad_requests_are_refused_in_words(launcher, line):
    refusal = launcher.refused(line)
    assert refusal["code"] == "EINVAL"
    assert refusal["message"]
    assert not launcher.cgroup_dirs("ecstasks-x")


def test_an_overlong_line_is_refused(launcher):
    refusal = launcher.refused(b"task " + b"a" * 4096 + b"\n")
    assert (refusal["code"], refusal["message"]) == ("EMSGSIZE", "the request is longer than 128 bytes")


CLIENT = """
import socket, sys
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
except PermissionError:
    print("EACCES")
    sys.exit()
try:
    s.sendall(b"image\\n")
except BrokenPipeError:  # the refusal was quicker
    pass
data = b""
while len(data) < 4:
    data += s.recv(4096)
print("started" if data.startswith(b"fd ") else data[4:].decode())
"""


def client_as(launcher, user):
    done = subprocess.run(as_user(user, [sys.executable, "-c", CLIENT, launcher.path]),
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_ecs_agent_and_root_may_ask(launcher):
    os.chmod(launcher.path, 0o666)  # what SO_PEERCRED decides, not the mode
    assert client_as(launcher, "ecs-agent").strip() == "started"
    for user in ("ecs-image", "ecs-metadata", "ecs-logs", "nobody"):
        group = "nogroup" if user == "nobody" else user
        done = subprocess.run(
            ["setpriv", "--reuid", user, "--regid", group, "--clear-groups", sys.executable, "-c",
             CLIENT, launcher.path], capture_output=True, text=True, timeout=30)
        assert "EACCES" in done.stdout, (user, done)
        assert "may not use ecs-launcher" in done.stdout


def test_the_socket_is_closed_to_other_users(launcher):
    assert client_as(launcher, "ecs-logs").strip() == "EACCES"


def test_silent_peers_have_a_deadline_and_do_not_block_others(launcher):
    silent = [launcher.connect() for _ in range(100)]
    for connection in silent[:3]:
        connection.sendall(b"tas")
    try:
        # All places are taken; each comes free at its deadline, and the next is served.
        with launcher.ask(b"image\n") as connection:
            assert Probe(connection).all("arg")[0] == "ecs-image"
        assert read_refusal(silent[0])["code"] == "ETIMEDOUT"
    finally:
        for connection in silent:
            connection.close()


def test_a_missing_program_is_told_to_the_peer(launcher):
    (launcher.libexec / "ecs-network").unlink()
    refusal = launcher.refused(b"network\n")
    assert refusal["code"] == "ENOENT"
    assert str(launcher.libexec / "ecs-network") in refusal["message"]


def test_a_program_that_others_can_write_is_refused(launcher):
    (launcher.libexec / "ecs-network").chmod(0o775)
    assert launcher.refused(b"network\n")["code"] == "EPERM"


def test_a_program_that_cannot_be_executed_is_told_to_the_peer(launcher):
    (launcher.libexec / "ecs-network").write_bytes(b"\x7fELF, or not")
    refusal = launcher.refused(b"network\n")
    assert refusal["code"] == "ENOEXEC"
    assert "execute it" in refusal["message"]


def test_an_upgraded_program_is_used_without_a_restart(launcher):
    with launcher.ask(b"image\n") as connection:
        Probe(connection)
    launcher.install("ecs-image", "/bin/false")
    with launcher.ask(b"image\n") as connection:
        assert connection.recv(1) == b""


def test_tasks_survive_the_launcher_and_its_restart(launcher):
    with launcher.ask(b"task 7f3c\n") as connection:
        Probe(connection)
        launcher.stop()
        connection.sendall(b"still there")
        assert connection.recv(64) == b"still there"
        launcher.start()
        assert launcher.refused(b"task 7f3c\n")["code"] == "EBUSY"
        connection.sendall(b"and again")
        assert connection.recv(64) == b"and again"


def test_a_second_launcher_does_not_take_the_socket(launcher):
    done = subprocess.run(launcher.command(), capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "another ecs-launcher" in done.stderr
    with launcher.ask(b"image\n") as connection:
        Probe(connection)


def test_children_are_reaped(launcher):
    with launcher.ask(b"image\n") as connection:
        Probe(connection)
    children = Path(f"/proc/{launcher.process.pid}/task/{launcher.process.pid}/children")
    wait_for(lambda: children.read_text().strip() == "")


def test_the_service_manager_hears_when_it_is_ready():
    ensure_users()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = f"\0ecs-test-{uuid.uuid4().hex}"
        manager.bind(name)
        manager.settimeout(20)
        launcher = Launcher(notify="@" + name[1:])
        try:
            launcher.start()
            assert manager.recv(256) == b"READY=1"
            assert launcher.accepts()
        finally:
            launcher.clean()


@pytest.mark.parametrize("args,says", [
    (["--bogus"], "--bogus"), (["x"], "x"), (["--cgroup-parent", "../x"], "../x"),
])
def test_bad_arguments_are_refused(stopped, args, says):
    done = subprocess.run(stopped.command() + args, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert says in done.stderr


def test_it_must_be_root(stopped):
    done = subprocess.run(["setpriv", "--reuid", "nobody", "--clear-groups", *stopped.command()],
                          capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "root" in done.stderr
