"""The OCI command line of ecs-task: bundles as "runc spec" makes them, beside runc itself."""

import array
import contextlib
import copy
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

from builddir import needs_root, program
from runtime import CGROUPS, busybox_directory
from test_exec import read_terminal
from waiting import wait_for

pytestmark = needs_root

needs_runc = pytest.mark.skipif(shutil.which("runc") is None, reason="needs runc")

# Written out, so that the tests need runc only where they compare: what runc 1.1 makes.
CONFIG = {
    "ociVersion": "1.0.2-dev",
    "process": {
        "terminal": False,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {
            name: ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
            for name in ("bounding", "effective", "permitted", "ambient")
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "runc",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
         "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs",
         "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
    ],
    "linux": {
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "namespaces": [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount")],
        "maskedPaths": [
            "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
            "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
            "/proc/scsi",
        ],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    },
}


class Oci:
    """Bundles and containers of one test."""

    def __init__(self):
        self.base = Path(tempfile.mkdtemp(prefix="ecs-oci-", dir="/var/tmp"))
        self.base.chmod(0o711)
        self.root = self.base / "run"
        self.parent = f"ecs-oci-test-{uuid.uuid4().hex[:8]}"
        self.ids = []

    def hierarchies(self):
        if (CGROUPS / "cgroup.controllers").exists():
            return [CGROUPS]
        return [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]

    def close(self):
        left = []
        for id_ in self.ids:
            if (self.root / "tasks" / id_).exists():
                left.append(id_)
                self("delete", "--force", id_, check=False)
        cgroups = []
        for top in self.hierarchies():
            with contextlib.suppress(OSError):
                (top / self.parent).rmdir()
            if (top / self.parent).exists():
                cgroups.append(str(top / self.parent))
        mounts = str(self.base) in Path("/proc/self/mountinfo").read_text()
        shutil.rmtree(self.base, ignore_errors=True)
        assert not cgroups and not mounts, (cgroups, mounts)
        return left

    def command(self, *words):
        return [program("ecs-task"), "--root", str(self.root), "--cgroup-parent", self.parent, *words]

    def __call__(self, *words, check=True, **more):
        if not {"stdin", "input"} & more.keys():
            more["stdin"] = subprocess.DEVNULL
        ran = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=60,
                             check=False, **more)
        assert not check or ran.returncode == 0, ran
        return ran

    def id(self):
        self.ids.append(f"t.{uuid.uuid4().hex[:12]}_x")
        return self.ids[-1]

    def bundle(self, args=None, change=None):
        path = self.base / uuid.uuid4().hex[:8]
        path.mkdir()
        shutil.copytree(busybox_directory(), path / "rootfs", symlinks=True)
        for name in ("proc", "dev", "sys"):
            (path / "rootfs" / name).mkdir()
        config = copy.deepcopy(CONFIG)
        if args:
            config["process"]["args"] = ["sh", "-c", args] if isinstance(args, str) else args
        if change:
            change(config)
        (path / "config.json").write_text(json.dumps(config))
        return path

    def run(self, args=None, change=None, check=False, **more):
        return self("run", "--bundle", str(self.bundle(args, change)), self.id(), check=check, **more)

    def create(self, args=None, change=None, *words):
        """The standard descriptors would keep subprocess.run() waiting: /dev/null."""
        id_ = self.id()
        bundle = self.bundle(args, change)
        subprocess.run(self.command("create", "--bundle", str(bundle), *words, id_),
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60, check=True)
        return id_, bundle

    def state(self, id_):
        return json.loads(self("state", id_).stdout)


@pytest.fixture
def oci():
    it = Oci()
    try:
        yield it
    finally:
        it.close()


# --- beside runc

PROBE = r"""
echo "== id"; id -u; id -g; id -G
echo "== hostname"; hostname
echo "== env"; env | sort | grep -v -e SHLVL
echo "== cwd"; pwd
echo "== status"; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status
echo "== limits"; grep -E 'open files' /proc/self/limits
echo "== fds"; ls /proc/$$/fd
echo "== root"; (echo x > /new) 2>/dev/null && echo writable || echo read-only
echo "== dev"; ls -l /dev | awk '{print $1, $3, $4, $5, $6, $10, $11, $NF}' | grep -v -e total -e kcore | sed 's/[A-Z][a-z][a-z] *[0-9]* *[0-9:]*//' | sort
echo "== masked"; for p in /proc/kcore /proc/keys /proc/timer_list; do wc -c < $p; done; ls /proc/acpi /sys/firmware /proc/scsi
echo "== read-only"; for p in /proc/sys/kernel/domainname /proc/sysrq-trigger; do (echo x > $p) 2>/dev/null && echo wrote $p; done; echo done
echo "== links"; ls /sys/class/net | sort
echo "== processes"; echo /proc/[0-9]*
echo "== oom"; cat /proc/self/oom_score_adj
"""


def sections(text):
    found, name = {}, None
    for line in text.splitlines():
        if line.startswith("== "):
            name = line[3:]
            found[name] = []
        else:
            found[name].append(line)
    return found


def no_change(config):
    del config


def other_user(config):
    config["process"]["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [7, 9]}
    config["process"]["cwd"] = "/tmp"
    config["process"]["env"].append("COLOUR=red")


def many_caps(config):
    caps = ["CAP_CHOWN", "CAP_NET_RAW", "CAP_SYS_PTRACE", "CAP_SETUID"]
    for name in ("bounding", "effective", "permitted"):
        config["process"]["capabilities"][name] = caps
    config["process"]["noNewPrivileges"] = False
    config["root"]["readonly"] = False
    config["process"]["oomScoreAdj"] = 77


def host_network(config):
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "network"]
    config["mounts"].append({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs",
                             "options": ["size=1m", "noexec"]})
    config["linux"]["devices"] = [{"path": "/dev/mine", "type": "c", "major": 1, "minor": 5,
                                   "fileMode": 0o640, "uid": 3, "gid": 4}]
    config["linux"]["resources"]["devices"].append(
        {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rwm"})


def host_ipc(config):
    config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] != "ipc"]


@needs_runc
@pytest.mark.parametrize("change", [no_change, other_user, many_caps, host_network, host_ipc])
def test_a_container_sees_what_it_sees_with_runc(oci, change):
    bundle = oci.bundle(PROBE, change)
    (bundle / "rootfs/scratch").mkdir()
    ours = oci("run", "--bundle", str(bundle), oci.id())
    theirs = subprocess.run(
        ["runc", "--root", str(oci.base / "runc"), "run", "--bundle", str(bundle), uuid.uuid4().hex],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True)
    ours, theirs = sections(ours.stdout), sections(theirs.stdout)
    # The primary group is a supplementary one as well, with us (oci_config.h).
    theirs["id"][2] = " ".join(dict.fromkeys([theirs["id"][1], *theirs["id"][2].split()]))
    assert ours == theirs


@needs_runc
def test_mounts_are_those_of_runc(oci):
    """Where something is mounted, what, and whether it can be written."""
    def mounts(text):
        found = {}
        for line in text.splitlines():
            _, target, kind, options, *_ = line.split()
            found[target] = (kind, "ro" if "ro" in options.split(",") else "rw")
        return found

    bundle = oci.bundle("cat /proc/mounts")
    ours = mounts(oci("run", "--bundle", str(bundle), oci.id()).stdout)
    theirs = mounts(subprocess.run(
        ["runc", "--root", str(oci.base / "runc"), "run", "--bundle", str(bundle), uuid.uuid4().hex],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True).stdout)
    for found in (ours, theirs):  # how masked files are covered, and v1's tmpfs, is each one's own
        for target in list(found):
            if target in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") or target.startswith("/proc/"):
                del found[target]
    assert ours == theirs


@needs_runc
def test_the_bundle_of_runc_spec_is_the_one_tested_here(oci):
    path = oci.base / "spec"
    path.mkdir()
    subprocess.run(["runc", "spec"], cwd=path, check=True, timeout=60)
    config = json.loads((path / "config.json").read_text())
    config["process"]["terminal"] = False
    if len(config["linux"]["namespaces"]) == 6:  # on cgroup v2 it adds this one
        config["linux"]["namespaces"].remove({"type": "cgroup"})
    assert config == CONFIG


@pytest.mark.parametrize("code", [0, 7, 255])
def test_run_passes_input_output_and_exit_code_on(oci, code):
    ran = oci.run(f"cat; echo err >&2; exit {code}", input="text\n")
    assert (ran.returncode, ran.stdout, ran.stderr) == (code, "text\n", "err\n")
    assert not (oci.root / "tasks" / oci.ids[-1]).exists()


def test_run_forwards_signals(oci):
    bundle = oci.bundle("trap 'echo got; exit 9' USR1; echo on; while :; do sleep 0.1; done")
    with subprocess.Popen(oci.command("run", "-b", str(bundle), oci.id()), stdout=subprocess.PIPE,
                          stdin=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.read() == "got\n"
        assert process.wait(20) == 9


def test_a_signal_counts_as_128_plus_n(oci):
    bundle = oci.bundle("echo on; exec sleep 1000")
    id_ = oci.id()
    with subprocess.Popen(oci.command("run", "-b", str(bundle), id_), stdout=subprocess.PIPE,
                          stdin=subprocess.DEVNULL, text=True) as process:
        assert process.stdout.readline() == "on\n"
        # Others use the container meanwhile.
        assert oci.state(id_)["status"] == "running"
        assert oci("exec", id_, "hostname").stdout == "runc\n"
        oci("kill", id_, "KILL")
        assert process.wait(20) == 137


def test_namespaces_that_are_there_already(oci):
    """A network namespace by its path, and the host's IPC."""
    def change(path, *sysctls):
        def apply(config):
            config["linux"]["namespaces"] = [
                *({"type": name} for name in ("pid", "uts", "mount")),
                {"type": "network", "path": path}]
            config["linux"]["sysctl"] = {name: "1" for name in sysctls}
        return apply

    other = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 1000"],
                             stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        path = f"/proc/{other.pid}/ns/net"
        ran = oci.run("readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; "
                      "cat /proc/sys/net/ipv4/ip_forward",
                      change(path, "net.ipv4.ip_forward"))
        assert ran.stdout.split() == [os.readlink(path), os.readlink("/proc/self/ns/ipc"), "1"], ran
        for wrong, message in (
                (change("/proc/self/ns/uts"), "is no network namespace"),
                (change("/nowhere"), "open network namespace /nowhere"),
                (change(f"/proc/{os.getpid()}/ns/net", "net.ipv4.ip_forward"), "is the host's"),
                (change(path, "kernel.sem"), "kernel.sem.*ipcMode host")):
            ran = oci.run("true", wrong)
            assert ran.returncode == 1 and re.search(message, ran.stderr), ran
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


# --- the life of a container


def test_from_created_to_deleted(oci, tmp_path):
    def change(config):
        config["annotations"] = {"org.example": "x"}
        config["mounts"].append({"destination": "/host", "type": "bind", "source": str(tmp_path),
                                 "options": ["rbind", "rw"]})

    pid_file = oci.base / "pid"
    id_, bundle = oci.create("echo ran > /host/mark; exec sleep 1000", change,
                             "--pid-file", str(pid_file))
    state = oci.state(id_)
    pid = int(pid_file.read_text())
    assert {name: state[name] for name in ("ociVersion", "id", "status", "pid", "bundle", "rootfs", "annotations")} == {
        "ociVersion": "1.0.2", "id": id_, "status": "created", "pid": pid, "bundle": str(bundle),
        "rootfs": str(bundle / "rootfs"), "annotations": {"org.example": "x"},
    }
    # Everything is there but the program, which has not been run.
    assert os.readlink(f"/proc/{pid}/ns/pid") != os.readlink("/proc/self/ns/pid")
    assert "CapEff:\t0000000020000420" in Path(f"/proc/{pid}/status").read_text()
    assert not (tmp_path / "mark").exists()

    oci("start", id_)
    wait_for((tmp_path / "mark").exists, what="the program")
    assert oci.state(id_)["status"] == "running" and oci.state(id_)["pid"] == pid
    ran = oci("start", id_, check=False)
    assert ran.returncode == 1 and "is running; only a created one can be started" in ran.stderr
    ran = oci("delete", id_, check=False)
    assert ran.returncode == 1 and "is running; delete it with --force" in ran.stderr

    oci("kill", id_, "9")
    wait_for(lambda: oci.state(id_)["status"] == "stopped", what="its end")
    assert oci.state(id_)["pid"] == 0
    ran = oci("kill", id_, check=False)
    assert ran.returncode == 1 and "is not running" in ran.stderr
    oci("delete", id_)
    for word in ("state", "start", "kill", "delete"):
        ran = oci(word, id_, check=False)
        assert ran.returncode == 1 and f"container {id_} does not exist" in ran.stderr
    assert oci("delete", "--force", id_).returncode == 0
    assert list((oci.root / "state/tasks").iterdir()) == [
        path for path in (oci.root / "state/tasks").iterdir() if path.name.startswith(".")]


def test_what_is_created_can_be_killed_and_deleted(oci):
    first, _ = oci.create("exit 0")
    oci("kill", first, "KILL")
    wait_for(lambda: oci.state(first)["status"] == "stopped", what="its end")
    oci("delete", first)
    second, _ = oci.create("exit 0")
    pid = oci.state(second)["pid"]
    oci("delete", second)
    assert not os.path.exists(f"/proc/{pid}")


def test_an_id_in_use_is_refused_and_the_container_left_alone(oci):
    id_, bundle = oci.create("exec sleep 1000")
    ran = oci("create", "-b", str(bundle), id_, check=False)
    assert ran.returncode == 1 and f"container {id_} exists already" in ran.stderr
    oci("start", id_)
    assert oci.state(id_)["status"] == "running"
    oci("delete", "-f", id_)


def test_a_program_that_cannot_be_run_fails_the_start(oci):
    id_, _ = oci.create(["nosuch"])
    ran = oci("start", id_, check=False)
    assert ran.returncode == 1 and '"nosuch": executable file not found in $PATH' in ran.stderr
    assert oci.state(id_)["status"] == "stopped"
    oci("delete", id_)
    ran = oci.run(["nosuch"])
    assert ran.returncode == 1 and "not found" in ran.stderr


def test_a_create_that_fails_leaves_nothing(oci):
    def change(config):
        config["process"]["rlimits"] = [{"type": "RLIMIT_NPROC", "soft": 1, "hard": 1}]
        config["linux"]["devices"] = [{"path": "/dev/null", "type": "b", "major": 1, "minor": 3}]

    id_ = oci.id()
    ran = oci("create", "-b", str(oci.bundle("true", change)), id_, check=False)
    assert ran.returncode == 1 and "/dev/null" in ran.stderr
    assert not (oci.root / "tasks" / id_).exists()
    for top in oci.hierarchies():
        assert not (top / oci.parent / f"ecstasks-{id_}").exists()


def test_a_container_whose_supervisor_dies_is_stopped_and_deletable(oci):
    id_, _ = oci.create("exec sleep 1000")
    oci("start", id_)
    pid = oci.state(id_)["pid"]
    path = oci.hierarchies()[0] / oci.parent / f"ecstasks-{id_}/supervisor/cgroup.procs"
    os.kill(int(path.read_text().split()[0]), signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), what="the end of the container")
    assert oci.state(id_)["status"] == "stopped"
    oci("delete", id_)
    assert not (oci.root / "tasks" / id_).exists()


def test_limits_are_in_force(oci):
    def change(config):
        config["linux"]["resources"] |= {"memory": {"limit": 32 << 20}, "pids": {"limit": 17}}

    id_, _ = oci.create("exec sleep 1000", change)
    found = [path.read_text().strip() for top in oci.hierarchies()
             for path in (top / oci.parent / f"ecstasks-{id_}/container").glob("*")
             if path.name in ("pids.max", "memory.max", "memory.limit_in_bytes")]
    assert sorted(found) == ["17", str(32 << 20)]
    oci("delete", "-f", id_)


# --- exec and terminals


def test_exec(oci):
    id_, _ = oci.create("exec sleep 1000", other_user)
    oci("start", id_)
    ran = oci("exec", "-e", "A=b", id_, "sh", "-c", "cat; id -u; pwd; echo $A $COLOUR; exit 5",
              input="in\n", check=False)
    assert (ran.returncode, ran.stdout) == (5, "in\n1000\n/tmp\nb red\n")
    ran = oci("exec", "--user", "0:0", "--cwd", "/etc", id_, "sh", "-c", "id -u; id -G; pwd")
    assert ran.stdout == "0\n0 7 9\n/etc\n"
    ran = oci("exec", id_, "nosuch", check=False)
    assert ran.returncode != 0 and "not found" in ran.stderr
    ran = oci("exec", id_, check=False)
    assert ran.returncode == 1 and "the command to execute is missing" in ran.stderr
    pid_file = oci.base / "pid"
    subprocess.run(oci.command("exec", "-d", "--pid-file", str(pid_file), id_, "sleep", "1001"),
                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True, timeout=60)
    command = Path(f"/proc/{pid_file.read_text()}/cmdline")
    assert command.read_bytes() == b"sleep\x001001\x00"
    oci("delete", "-f", id_)
    assert not command.exists()


class ConsoleSocket:
    def __init__(self, oci):
        self.path = str(oci.base / f"console-{uuid.uuid4().hex[:6]}")
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.bind(self.path)
        self.sock.listen()
        self.sock.settimeout(20)

    def take(self):
        with self.sock, self.sock.accept()[0] as connection:
            _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
        ((level, kind, raw),) = ancillary
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        return array.array("i", raw)[0]


def test_a_terminal_goes_to_the_console_socket(oci):
    def change(config):
        config["process"]["terminal"] = True
        config["process"]["consoleSize"] = {"height": 21, "width": 81}

    console = ConsoleSocket(oci)
    id_, _ = oci.create("tty; stty size; test -c /dev/console && echo console; read x; echo got $x",
                        change, "--console-socket", console.path)
    master = console.take()
    oci("start", id_)
    # Only then: the terminal echoes at once, into the middle of what the program writes.
    assert read_terminal(master, "console\r\n") == "/dev/pts/0\r\n21 81\r\nconsole\r\n"
    os.write(master, b"word\n")
    assert read_terminal(master, None) == "word\r\ngot word\r\n"
    os.close(master)
    wait_for(lambda: oci.state(id_)["status"] == "stopped", what="its end")
    oci("delete", id_)


def test_a_terminal_for_exec(oci):
    id_, _ = oci.create("exec sleep 1000")
    oci("start", id_)
    console = ConsoleSocket(oci)
    process = subprocess.Popen(oci.command("exec", "-t", "--console-socket", console.path, id_, "tty"))
    master = console.take()
    assert read_terminal(master, None) == "/dev/pts/0\r\n"
    os.close(master)
    assert process.wait(20) == 0
    oci("delete", "-f", id_)


def test_a_terminal_needs_a_console_socket_and_the_reverse(oci):
    def change(config):
        config["process"]["terminal"] = True

    ran = oci.run("true", change)
    assert ran.returncode == 1 and "needs --console-socket" in ran.stderr
    ran = oci("run", "--console-socket", "/x", "-b", str(oci.bundle("true")), oci.id(), check=False)
    assert ran.returncode == 1 and "process.terminal has no terminal" in ran.stderr


# --- what is refused


def refusal(path, value):
    def change(config):
        at = config
        for name in path[:-1]:
            at = at[name]
        if isinstance(at, list):
            at.append(value)
        else:
            at[path[-1]] = value
    return change


@pytest.mark.parametrize("path, value, message", [
    (["ociVersion"], "2.0.0", "ociVersion"),
    (["surprise"], 1, "config.surprise"),
    (["domainname"], "x", "config.domainname"),
    (["hooks"], {"prestart": [{"path": "/bin/true"}]}, "config.hooks"),
    (["root", "path"], "nowhere", "nowhere"),
    (["process", "apparmorProfile"], "a\nb", "process.apparmorProfile"),
    (["process", "selinuxLabel"], "x", "process.selinuxLabel"),
    (["process", "args"], [], "process.args"),
    (["process", "cwd"], "rel", "process.cwd"),
    (["process", "surprise"], 1, "process.surprise"),
    (["process", "user"], {"uid": 0, "umask": 0o77}, "umask is 077"),
    (["process", "user"], {"username": "x"}, "process.user.username"),
    (["process", "capabilities", "inheritable"], ["CAP_CHOWN"], "inheritable"),
    (["process", "capabilities", "bounding"], ["CAP_NONE"], "CAP_NONE"),
    (["linux", "seccomp"], [], "linux"),
    (["linux", "uidMappings"], [{"containerID": 0, "hostID": 1, "size": 1}], "linux.namespaces has none"),
    (["linux", "cgroupsPath"], "/x", "linux.cgroupsPath"),
    (["linux", "mountLabel"], "x", "linux.mountLabel"),
    (["linux", "intelRdt"], {"closID": "x"}, "linux.intelRdt"),
    (["linux", "personality"], {"domain": "LINUX32"}, "linux.personality"),
    (["linux", "rootfsPropagation"], "shared", "rootfsPropagation"),
    (["linux", "surprise"], 1, "linux.surprise"),
    (["linux", "namespaces", 0], {"type": "time"}, '"time" is not supported'),
    (["linux", "namespaces"], [{"type": name} for name in ("pid", "network", "ipc", "uts", "mount", "user")],
     "linux.uidMappings is missing"),
    (["linux", "namespaces", 0], {"type": "ipc", "path": "/x"}, "linux.namespaces.path"),
    (["linux", "namespaces", 1], {"type": "network", "path": "x"}, "networkNamespace"),
    (["linux", "namespaces"], [{"type": "ipc"}], "without a pid namespace"),
    (["linux", "sysctl"], {"kernel.core_pattern": "|/x"}, "kernel.core_pattern"),
    (["linux", "resources", "rdma"], {"x": {}}, "rdma"),
    (["linux", "resources", "devices", 0], {"allow": False, "type": "c"}, "rules that deny"),
    (["mounts", 0], {"destination": "/x", "type": "overlay", "source": "x"}, "overlay"),
    (["mounts", 0], {"destination": "/x", "type": "bind", "source": "/", "options": ["z"]}, '"z"'),
    (["mounts", 0], {"destination": "/sys", "type": "sysfs", "source": "x"}, "writable"),
    (["mounts", 0], {"destination": "/proc", "type": "tmpfs", "source": "x"}, "must be proc"),
    (["mounts", 0], {"destination": "/proc", "type": "proc", "options": ["hidepid=2"]}, "hidepid=2"),
    (["mounts", 0], {"destination": "/proc/x", "type": "tmpfs", "source": "x"}, "inside /proc"),
    (["mounts", 0], {"type": "tmpfs"}, "destination"),
    (["mounts", 0], "x", "destination"),
    (["annotations"], [], "annotations"),
])
def test_what_is_not_supported_is_refused_by_name(oci, path, value, message):
    ran = oci.run("true", refusal(path, value))
    assert ran.returncode == 1 and message in ran.stderr, ran
    assert not oci.root.exists(), "nothing was made"


@pytest.mark.parametrize("words, message", [
    (["create"], "the id of a container is missing"),
    (["create", "../x"], 'container id "../x"'),
    (["create", "-b", "/nowhere", "x"], "bundle /nowhere"),
    (["create", "-b"], "option --bundle needs a value"),
    (["create", "--no-pivot", "x"], "option --no-pivot is not supported"),
    (["state", "a", "b"], 'unexpected argument "b"'),
    (["state", "nosuch"], "container nosuch does not exist"),
    (["kill", "--all", "x"], "option --all is not supported"),
])
def test_a_wrong_command_line_is_named(oci, words, message):
    ran = oci(*words, check=False, cwd="/")
    assert ran.returncode == 1 and message in ran.stderr, ran


def test_errors_go_to_the_log_as_containerd_reads_it(oci):
    log = oci.base / "log"
    oci("--log", str(log), "--log-format", "json", "state", "nosuch", check=False)
    line = json.loads(log.read_text())
    assert (line["level"], line["msg"]) == ("error", "container nosuch does not exist")
    ran = oci("--log-format", "xml", "state", "x", check=False)
    assert ran.returncode == 1 and "must be text or json" in ran.stderr
    ran = oci("--systemd-cgroup=1", "state", "x", check=False)
    assert ran.returncode == 1 and "--systemd-cgroup=1 is not supported" in ran.stderr


def test_a_seccomp_filter(oci):
    """Of the bundle's profile, for an exec as well."""
    def change(config, action="SCMP_ACT_ALLOW"):
        config["linux"]["seccomp"] = {
            "defaultAction": action, "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}

    id_, _ = oci.create("exec sleep 1000", change)
    oci("start", id_)
    ran = oci("exec", id_, "mkdir", "/tmp/x", check=False)
    assert ran.returncode == 1 and "Operation not supported" in ran.stderr
    oci("delete", "-f", id_)
    ran = oci.run("true", lambda config: change(config, "SCMP_ACT_NOTIFY"))
    assert ran.returncode == 1 and "SCMP_ACT_NOTIFY is not supported" in ran.stderr


def test_features(oci):
    features = json.loads(oci("features").stdout)
    assert features["ociVersionMax"] == "1.0.2" and features["hooks"] == []
    assert features["linux"]["seccomp"]["enabled"] and "SCMP_ACT_LOG" in features["linux"]["seccomp"]["actions"]
    # Each option it lists is taken.
    options = [o for o in features["mountOptions"] if o not in ("rslave", "slave")]

    def change(config):
        config["mounts"] += [{"destination": f"/tmp/{o}", "type": "bind", "source": "/bin",
                              "options": ["bind", o]} for o in options]
        config["root"]["readonly"] = False

    assert oci.run("true", change).returncode == 0


# --- hostile images


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_a_link_in_place_of_a_kernel_directory_is_refused(oci, name):
    """CVE-2023-28642, CVE-2019-19921"""
    bundle = oci.bundle("true")
    (bundle / "rootfs" / name).rmdir()
    (bundle / "rootfs" / name).symlink_to("/tmp")
    ran = oci("run", "-b", str(bundle), oci.id(), check=False)
    assert ran.returncode == 1 and f"/{name} is a symbolic link" in ran.stderr


def test_only_the_standard_descriptors_are_inherited(oci, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("canary")
    with open(secret) as file:
        ran = oci.run("ls /proc/$$/fd; true", pass_fds=[file.fileno()])
    assert ran.stdout == "0\n1\n2\n", ran
    for fd in range(3, 20):  # CVE-2024-21626
        assert oci.run("true", refusal(["process", "cwd"], f"/proc/self/fd/{fd}")).returncode == 1
