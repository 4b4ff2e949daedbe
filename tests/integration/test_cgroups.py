"""cgroups/ on the running kernel: limits read back, trees killed, OOM kills counted, all removed."""

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
        return [p for pattern in (self.parent, f"*/{self.parent}") for p in BASE.glob(pattern)]


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


def test_limits_are_in_the_kernel(cgroups):
    cgroups.ok("create", "a", "shares=512", "quota=50000", "memory=104857600", "swap=209715200",
               "reservation=52428800", "pids=64")
    if cgroups.is_v2:
        want = {
            ("cpu", "cpu.weight"): "20", ("cpu", "cpu.max"): "50000 100000",
            ("memory", "memory.max"): "104857600", ("memory", "memory.swap.max"): "104857600",
            ("memory", "memory.low"): "52428800", ("pids", "pids.max"): "64",
        }
    else:
        want = {
            ("cpu", "cpu.shares"): "512", ("cpu", "cpu.cfs_quota_us"): "50000",
            ("cpu", "cpu.cfs_period_us"): "100000",
            ("memory", "memory.limit_in_bytes"): "104857600",
            ("memory", "memory.memsw.limit_in_bytes"): "209715200",
            ("memory", "memory.soft_limit_in_bytes"): "52428800", ("pids", "pids.max"): "64",
        }
    found = {key: cgroups.file(key[0], "a", key[1]) for key in want}
    assert found == want


def test_limits_of_an_existing_cgroup_are_set_anew(cgroups):
    limit = "memory.max" if cgroups.is_v2 else "memory.limit_in_bytes"
    for memory, swap in ((64, 64), (256, 512), (32, 32)):
        cgroups.ok("create", "a", f"memory={memory << 20}", f"swap={swap << 20}", "quota=20000")
        assert cgroups.file("memory", "a", limit) == str(memory << 20)


@pytest.mark.parametrize("limit", [
    "shares=1", "shares=262145", "period=999", "period=1000001", "quota=1", "swap=-2", "swap=4096",
])
def test_limits_out_of_range_are_refused_and_nothing_is_left(cgroups, limit):
    assert cgroups.refused("create", "a", limit).startswith("EINVAL: ")
    assert cgroups.ok("list", "a") == ""


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//b", "", "x" * 200])
def test_paths_that_lead_elsewhere_are_refused(cgroups, path):
    assert cgroups.refused("create", path).startswith("EINVAL: ")


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


def test_only_listed_devices_can_be_used(cgroups):
    cgroups.ok("create", "a")
    read = ": <{}"

    def can(command):
        with cgroups.start("run", "a", "sh", "-c", command, stderr=subprocess.DEVNULL) as process:
            return process.wait() == 0

    assert can(read.format("/dev/kmsg")), "before there are rules"
    cgroups.ok("devices", "a")
    assert not can(read.format("/dev/kmsg"))
    assert can(read.format("/dev/zero"))
    cgroups.ok("devices", "a", "c:1:11:r")
    assert can(read.format("/dev/kmsg"))
    assert not can(": >>/dev/kmsg")
    cgroups.ok("devices", "a", "all")
    assert can(": >>/dev/kmsg")


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


def test_oom_kills_are_counted_where_they_happen(cgroups):
    cgroups.ok("create", "a", "inner", "memory=67108864", "swap=67108864")
    cgroups.ok("create", "a/b", "memory=16777216", "swap=16777216")
    cgroups.ok("create", "a/c", "memory=16777216", "swap=16777216")
    assert cgroups.ok("oom", "a/b") == "0"
    with cgroups.start("run", "a/b", sys.executable, "-c", "x = bytearray(200 << 20)") as process:
        assert process.wait(60) == -9
    assert int(cgroups.ok("oom", "a/b")) >= 1
    assert cgroups.ok("oom", "a/c") == "0"


def test_the_pids_limit_holds(cgroups):
    cgroups.ok("create", "a", "pids=3")
    script = """
import os, time
for i in range(9):
    try:
        if os.fork() == 0:
            time.sleep(600)
    except BlockingIOError:
        os._exit(40 + i)
"""
    with cgroups.start("run", "a", sys.executable, "-c", script) as process:
        assert process.wait(30) == 42, "two children beside itself"
    cgroups.ok("kill", "a")


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
