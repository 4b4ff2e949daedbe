"""cgroups/ on the running kernel: what limits mean there, which errors are told, all removed."""

import contextlib
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from builddir import needs_root, program

pytestmark = needs_root
BASE = Path("/sys/fs/cgroup")


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the condition did not come true in time")


class Cgroups:
    def __init__(self):
        self.parent = f"ecs-test-{uuid.uuid4().hex[:8]}"
        self.tool = program("tests/integration/cgroup_tool")

    def start(self, *args, **kwargs):
        return subprocess.Popen([self.tool, self.parent, *args], **kwargs)

    def call(self, *args):
        """(exit status, standard output, standard error)"""
        done = subprocess.run(
            [self.tool, self.parent, *args], capture_output=True, text=True, timeout=60
        )
        return done.returncode, done.stdout.strip(), done.stderr.strip()

    def ok(self, *args):
        status, out, error = self.call(*args)
        assert status == 0, error
        return out

    def refused(self, *args):
        status, _, error = self.call(*args)
        assert status == 1
        return error

    @property
    def is_v2(self):
        return self.ok("version") == "2"

    def file(self, controller, path, name):
        top = BASE if self.is_v2 else BASE / controller
        return (top / self.parent / path / name).read_text().strip()

    def processes(self, path):
        top = BASE if self.is_v2 else BASE / "pids"
        return (top / self.parent / path / "cgroup.procs").read_text().split()

    def directories(self):
        # Controllers that are mounted together have symbolic links of their own beside the mount.
        return {p.resolve() for pattern in (self.parent, f"*/{self.parent}") for p in BASE.glob(pattern)}


@pytest.fixture
def cgroups():
    it = Cgroups()
    it.ok("version")
    yield it
    for name in it.ok("list", "").split():
        it.call("kill", name)
        it.ok("remove", name)
    for directory in it.directories():
        directory.rmdir()


@pytest.fixture(name="swap")
def fixture_swap():
    """For as long as a test takes, 160 MiB of swap, where the file system can hold a swap file."""
    path = Path(f"/var/tmp/ecs-test-swap-{uuid.uuid4().hex[:8]}")
    try:
        with path.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            for _ in range(160):
                file.write(bytes(1 << 20))
        subprocess.run(["mkswap", path], check=True, capture_output=True)
        on = subprocess.run(["swapon", path], check=False, capture_output=True).returncode == 0
        yield on
        if on:
            subprocess.run(["swapoff", path], check=True)
    finally:
        path.unlink()


def test_every_limit_means_what_the_table_says(cgroups, swap):
    """The table is the same on every hierarchy; tests/vm runs it on cgroup v2."""
    table = program("tests/integration/cgroup_conformance")
    done = subprocess.run([table, cgroups.parent], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) > 30
    for name, want, got in rows:
        print(f"{name:50} {got}")
    assert [row for row in rows if row[1] != row[2] and not row[2].startswith("skip: ")] == []
    skipped = {row[0]: row[2] for row in rows if row[2].startswith("skip: ")}
    assert not (swap and [name for name in skipped if "swap" in name]), skipped


def test_a_swappiness_is_set_on_v1_and_refused_on_v2(cgroups):
    host = int(Path("/proc/sys/vm/swappiness").read_text())
    other = 10 if host != 10 else 20
    cgroups.ok("create", "same", f"swappiness={host}")
    if cgroups.is_v2:
        error = cgroups.refused("create", "a", f"swappiness={other}")
        assert error.startswith("EOPNOTSUPP: ")
        assert f"swappiness {other} needs cgroup v1" in error
        assert f"which is {host}" in error
    else:
        cgroups.ok("create", "a", f"swappiness={other}")
        assert cgroups.file("memory", "a", "memory.swappiness") == str(other)
        cgroups.ok("create", "none", "swappiness=0")
        assert cgroups.file("memory", "none", "memory.swappiness") == "0"


@pytest.mark.parametrize("limit", [
    "shares=1", "shares=262145", "period=999", "period=1000001", "quota=1", "swap=-2", "swap=4096",
    "memory=8388608 swap=4194304", "memory=4194304 reservation=8388608", "swappiness=101", "io=9",
    "io=1001",
])
def test_limits_out_of_range_are_refused_and_nothing_is_left(cgroups, limit):
    error = cgroups.refused("create", "a", *limit.split())
    assert error.startswith("EINVAL: ")
    assert " must " in error or " needs " in error
    assert cgroups.ok("list", "a") == ""


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//b", "", "x" * 400])
def test_paths_that_lead_elsewhere_are_refused(cgroups, path):
    assert cgroups.refused("create", path).startswith("EINVAL: ")


def test_names_of_control_files_are_refused(cgroups):
    cgroups.ok("create", "a")
    name = "cgroup.procs" if cgroups.is_v2 else "tasks"
    error = cgroups.refused("create", f"a/{name}")
    assert error.startswith("EEXIST: ")
    assert f"a/{name} is a file of the kernel's" in error
    assert cgroups.refused("create", "a/new\nline").startswith("EINVAL: ")


def test_a_cgroup_with_processes_has_none_below_it(cgroups):
    if not cgroups.is_v2:
        pytest.skip("cgroup v1 has no such rule")
    cgroups.ok("create", "a")
    with cgroups.start("run", "a", "sleep", "600") as process:
        wait_for(lambda: cgroups.processes("a"))
        error = cgroups.refused("create", "a", "inner")
        assert error.startswith("EBUSY: ")
        assert "holds processes itself" in error
        process.kill()


def test_a_limit_without_its_controller_names_it(cgroups):
    if not cgroups.is_v2:
        pytest.skip("on cgroup v1 a controller is there or is not, for all cgroups")
    cgroups.ok("create", "a")
    error = cgroups.refused("create", "a/b", "memory=8388608")
    assert error.startswith("EOPNOTSUPP: ")
    assert "a/b has no memory.max: controller memory is not enabled" in error


def test_a_process_joins_every_hierarchy(cgroups):
    cgroups.ok("create", "a", "inner")
    cgroups.ok("create", "a/b")
    lines = cgroups.ok("run", "a/b", "cat", "/proc/self/cgroup").splitlines()
    ours = {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids",
            "name=systemd", ""}
    seen = set()
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names = set(controllers.split(",")) & ours
        if names:
            assert path == f"/{cgroups.parent}/a/b", line
            seen |= names
    assert "" in seen
    assert cgroups.is_v2 or {"memory", "cpu", "pids"} <= seen


def test_the_id_is_that_of_the_cgroup2_directory(cgroups):
    cgroups.ok("create", "a")
    top = BASE if cgroups.is_v2 else BASE / "unified"
    assert int(cgroups.ok("id", "a")) == os.stat(top / cgroups.parent / "a").st_ino


def test_bad_devices_are_refused(cgroups):
    cgroups.ok("create", "a")
    for device in ("x:1:3:rwm", "c:-2:3:r", "c:1:3:rx"):
        assert cgroups.refused("devices", "a", device).startswith("EINVAL: "), device


FORK_BOMB = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"


def test_a_fork_bomb_is_killed_as_a_whole(cgroups):
    cgroups.ok("create", "a", "inner", "pids=60", "quota=20000")
    cgroups.ok("create", "a/b")
    with cgroups.start("run", "a/b", sys.executable, "-c", FORK_BOMB) as process:
        wait_for(lambda: len(cgroups.processes("a/b")) > 20)
        assert cgroups.ok("populated", "a") == "1"
        cgroups.ok("kill", "a")
        assert cgroups.ok("populated", "a") == "0"
        assert cgroups.processes("a/b") == []
        assert process.wait(10) == -9
    cgroups.ok("remove", "a")
    assert cgroups.ok("list", "a") == ""


def test_a_frozen_or_stopped_process_is_killed(cgroups):
    cgroups.ok("create", "a")
    with cgroups.start("run", "a", "sh", "-c", "kill -STOP $$") as process:
        wait_for(lambda: cgroups.processes("a") and
                 Path(f"/proc/{process.pid}/stat").read_text().split()[2] == "T")
        cgroups.ok("kill", "a")
        assert process.wait(10) == -9


def test_what_a_container_froze_below_itself_is_killed(cgroups):
    cgroups.ok("create", "a")
    cgroups.ok("create", "a/b")
    with cgroups.start("run", "a/b", "sleep", "600") as process:
        wait_for(lambda: cgroups.processes("a/b"))
        cgroups.ok("freeze", "a/b")
        cgroups.ok("kill", "a")
        assert process.wait(10) == -9


def test_processes_that_joined_only_a_part_are_killed(cgroups):
    """As after a crash between two joins."""
    if cgroups.is_v2:
        pytest.skip("one hierarchy cannot be joined in part")
    cgroups.ok("create", "a")
    with subprocess.Popen(["sleep", "600"]) as process:
        tasks = BASE / "freezer" / cgroups.parent / "a" / "cgroup.procs"
        tasks.write_text(str(process.pid))
        assert cgroups.ok("populated", "a") == "1"
        cgroups.ok("kill", "a")
        assert process.wait(10) == -9


def test_statistics_follow_a_process(cgroups):
    cgroups.ok("create", "a", "memory=134217728")
    hold = "import time; x = bytearray(b'x') * (32 << 20); time.sleep(600)"
    with cgroups.start("run", "a", sys.executable, "-c", hold) as process:
        wait_for(lambda: stats(cgroups)["memory"] > 32 << 20)
        found = stats(cgroups)
        assert found["pids"] == 1
        assert found["cpu"] > 0
        assert found["max"] == 134217728
        process.kill()


def stats(cgroups):
    return {k: int(v) for k, v in (w.split("=") for w in cgroups.ok("stats", "a").split())}


def test_without_a_limit_the_maximum_reads_zero(cgroups):
    cgroups.ok("create", "a")
    assert stats(cgroups)["max"] == 0


def test_a_populated_cgroup_is_not_removed(cgroups):
    cgroups.ok("create", "a")
    with cgroups.start("run", "a", "sleep", "600") as process:
        wait_for(lambda: cgroups.processes("a"))
        assert cgroups.refused("remove", "a").startswith("EBUSY: ")
        process.kill()


def test_removal_takes_what_containers_made_and_may_be_repeated(cgroups):
    cgroups.ok("create", "a", "inner")
    cgroups.ok("create", "a/b", "inner")
    cgroups.ok("create", "a/b/c")
    cgroups.ok("remove", "a")
    cgroups.ok("remove", "a")
    assert cgroups.refused("open", "a").startswith("ENOENT: ")


def test_what_is_left_in_a_part_of_the_hierarchies_can_be_opened_killed_and_removed(cgroups):
    if cgroups.is_v2:
        pytest.skip("there is one hierarchy")
    cgroups.ok("create", "a")
    for top in ("memory", "unified", "cpu"):
        if (BASE / top).exists():
            (BASE / top / cgroups.parent / "a").rmdir()
    with subprocess.Popen(["sleep", "600"]) as process:
        (BASE / "freezer" / cgroups.parent / "a" / "cgroup.procs").write_text(str(process.pid))
        assert cgroups.refused("remove", "a").startswith("EBUSY: ")
        cgroups.ok("kill", "a")
        assert process.wait(10) == -9
    cgroups.ok("remove", "a")
    assert cgroups.refused("open", "a").startswith("ENOENT: ")


def test_list_finds_what_a_crash_left_in_one_hierarchy(cgroups):
    cgroups.ok("create", "ecstasks-1")
    cgroups.ok("create", "other")
    top = BASE if cgroups.is_v2 else BASE / "pids"
    (top / cgroups.parent / "ecstasks-2").mkdir()
    assert sorted(cgroups.ok("list", "ecstasks-").split()) == ["ecstasks-1", "ecstasks-2"]


def test_creating_twice_keeps_the_processes(cgroups):
    cgroups.ok("create", "a")
    with cgroups.start("run", "a", "sleep", "600") as process:
        wait_for(lambda: cgroups.processes("a"))
        cgroups.ok("create", "a", "pids=10")
        assert cgroups.ok("populated", "a") == "1"
        with contextlib.suppress(ProcessLookupError):
            process.kill()
