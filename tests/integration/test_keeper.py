"""ecs-keeper: what it says about its cgroup, and that --stop ends every supervisor and waits for it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from builddir import needs_root, program
from test_launcher import Launcher, Probe, wait_for
from users import ensure_users

pytestmark = needs_root
CGROUPS = Path("/sys/fs/cgroup")

# A supervisor in miniature: takes a moment to end after SIGTERM, and says that it was in order.
SUPERVISOR = """
import signal, sys, time
def end(*_):
    time.sleep(0.3)
    open(sys.argv[1], "w").write("in order")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
while True:
    signal.pause()
"""


def mounts():
    """Mount points and file systems."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {Path(line.split()[4]): line.split(" - ")[1].split()[0] for line in lines}


def trees():
    """Where systemd keeps the hierarchy of services: cgroup2 alone or beside v1, else name=systemd."""
    found = [top for top in (CGROUPS, CGROUPS / "unified") if mounts().get(top) == "cgroup2"]
    if mounts().get(CGROUPS / "systemd") == "cgroup":
        found.append(CGROUPS / "systemd")
    return found


# To a program it is as if the hierarchies before the one in question were not mounted.
ALONE = 'for other; do case $other in //) shift; exec "$@";; *) umount "$other"; shift;; esac; done'


class Service:
    """A cgroup and a runtime directory as ecs-tasks.service gives them to the keeper."""

    def __init__(self, tree):
        self.tree = tree
        self.program = program("ecs-keeper")
        self.name = f"ecs-test-{uuid.uuid4().hex[:8]}"
        self.parent = f"{self.name}/tasks.service"
        self.cgroup = tree / self.parent
        self.cgroup.mkdir(parents=True)
        self.dir = Path(tempfile.mkdtemp(prefix="ecsk-"))
        self.run = self.dir / "run"
        self.processes = []

    def start(self, arguments, cgroup=None, **options):
        """Starts a process in a cgroup of the service, as a service manager does."""
        procs = (cgroup or self.cgroup) / "cgroup.procs"
        process = subprocess.Popen(
            arguments, preexec_fn=lambda: procs.write_text("0"), text=True, **options)
        self.processes.append(process)
        return process

    def keeper(self, *arguments, cgroup=None, **options):
        others = trees()[: trees().index(self.tree)]
        alone = ["unshare", "--mount", "/bin/sh", "-ec", ALONE, "sh", *others, "//"] if others else []
        return self.start([*alone, self.program, "--runtime-dir", str(self.run), *arguments], cgroup,
                          stderr=subprocess.PIPE, **options)

    def supervisor(self, name):
        cgroup = self.cgroup / f"ecstasks-{name}" / "supervisor"
        cgroup.mkdir(parents=True)
        process = self.start([sys.executable, "-c", SUPERVISOR, str(self.dir / name)], cgroup,
                             stdout=subprocess.PIPE)
        assert process.stdout.readline() == "up\n"
        return process

    def clean(self):
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait(10)
        shutil.rmtree(self.dir)
        top = self.tree / self.name
        for _ in range(100):
            with contextlib.suppress(OSError):
                for directory, _, _ in os.walk(top, topdown=False):
                    os.rmdir(directory)
                break


@pytest.fixture(params=trees(), ids=str)
def service(request):
    service = Service(request.param)
    yield service
    service.clean()


def own_cgroup(service, pid):
    key = "name=systemd" if service.tree.name == "systemd" else ""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if names == key:
            return path
    raise AssertionError("no such hierarchy")


def test_it_goes_into_a_leaf_and_says_where_tasks_belong(service):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(20)
        manager.bind(str(service.dir / "notify"))
        service.run.mkdir()
        (service.run / "stopping").touch()
        keeper = service.keeper(env=os.environ | {"NOTIFY_SOCKET": str(service.dir / "notify")})
        assert manager.recv(100) == b"READY=1"
    assert own_cgroup(service, keeper.pid) == f"/{service.parent}/keeper"
    assert (service.cgroup / "cgroup.procs").read_text() == ""
    assert (service.run / "cgroup").read_text() == f"{service.parent}\n"
    assert not (service.run / "stopping").exists()
    keeper.send_signal(signal.SIGTERM)
    assert keeper.wait(10) == 0
    # Another one, beside what the first has left.
    again = service.keeper()
    wait_for(lambda: own_cgroup(service, again.pid).endswith("/keeper"))


def test_stop_ends_every_supervisor_and_waits(service):
    supervisors = {name: service.supervisor(name) for name in ("1a", "2b", "3c")}
    (service.cgroup / "ecstasks-gone" / "supervisor").mkdir(parents=True)
    other = service.cgroup / "keeper"
    other.mkdir()
    bystander = service.start(["sleep", "60"], other)
    control = service.cgroup / ".control"
    control.mkdir()
    service.run.mkdir()
    stop = service.keeper("--stop", cgroup=control)
    _, log = stop.communicate(timeout=30)
    assert stop.returncode == 0, log
    for name, process in supervisors.items():
        assert process.poll() == 0, (name, log)
        assert (service.dir / name).read_text() == "in order"
    assert bystander.poll() is None
    assert (service.run / "stopping").exists()
    assert "stopping 3 tasks" in log


def test_stop_without_tasks_ends_at_once(service):
    service.run.mkdir()
    stop = service.keeper("--stop")
    _, log = stop.communicate(timeout=30)
    assert (stop.returncode, log) == (0, "")


def test_outside_of_a_service_it_says_so(service):
    keeper = service.keeper(cgroup=service.tree)
    _, log = keeper.communicate(timeout=30)
    assert keeper.returncode == 1
    assert "is in the root cgroup" in log
    assert not (service.tree / "keeper").exists(), "nothing may be moved there"
    assert not (service.run / "cgroup").exists()


# ecs-launcher, and what the keeper tells it.


class KeptLauncher(Launcher):
    def command(self):
        return [a for a in super().command() if a not in ("--cgroup-parent", self.parent)]


@pytest.fixture
def launcher():
    ensure_users()
    launcher = KeptLauncher()
    launcher.run.mkdir()
    (launcher.run / "cgroup").write_text(f"{launcher.parent}/a.service\n")
    yield launcher
    launcher.clean()


def supervisor_cgroup(launcher):
    with launcher.ask(b"task 7f3c\n") as connection:
        probe = Probe(connection)
        assert probe.all("arg")[-3] == probe.all("arg")[probe.all("arg").index("--cgroup-parent") + 1]
        return next(line.split(":", 2)[2] for line in probe.all("cgroup") if line.split(":")[1] in
                    ("", "name=systemd"))


def test_tasks_start_where_the_keeper_says(launcher):
    launcher.start()
    assert supervisor_cgroup(launcher) == f"/{launcher.parent}/a.service/ecstasks-7f3c/supervisor"
    # The service was started anew: another keeper, another cgroup.
    (launcher.run / "new").write_text(f"{launcher.parent}/b.service\n")
    (launcher.run / "new").rename(launcher.run / "cgroup")
    assert supervisor_cgroup(launcher) == f"/{launcher.parent}/b.service/ecstasks-7f3c/supervisor"


def test_no_task_starts_while_the_service_stops(launcher):
    (launcher.run / "stopping").touch()
    launcher.start()
    refusal = launcher.refused(b"task 7f3c\n")
    assert refusal["code"] == "ESHUTDOWN"
    assert "is being stopped" in refusal["message"]
    assert not launcher.cgroup_dirs(), "nothing is made in the cgroup of a service that is not there"
    with launcher.ask(b"reap 7f3c\n") as connection:
        assert f"{launcher.parent}/a.service" in Probe(connection).all("arg")
    (launcher.run / "stopping").unlink()
    assert supervisor_cgroup(launcher).startswith(f"/{launcher.parent}/a.service/")


@pytest.mark.parametrize("text", ["", "\n", "/ecs\n", "a/../b\n", "a b\n"])
def test_a_file_without_a_path_is_refused_in_words(launcher, text):
    (launcher.run / "cgroup").write_text(text)
    done = subprocess.run(launcher.command(), capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "must be" in done.stderr


def test_the_launcher_tells_its_service_manager_that_it_is_alive(launcher):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(20)
        manager.bind(str(launcher.dir / "notify"))
        launcher.notify = str(launcher.dir / "notify")
        os.environ["WATCHDOG_USEC"] = "200000"
        try:
            launcher.start()
        finally:
            del os.environ["WATCHDOG_USEC"]
        said = [manager.recv(100) for _ in range(4)]
    assert said == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"]
