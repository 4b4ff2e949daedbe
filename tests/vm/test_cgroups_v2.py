"""cgroups/ on cgroup v2, at the root and below systemd's ecs-tasks.service, held against this host.

The table of limits (tests/integration/cgroup_conformance.c) is run on every hierarchy with the same
expectations, and the errors of tests/integration/test_cgroups.py that only cgroup v2 knows.
"""

import pathlib
import subprocess
import uuid

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ("cgroup_conformance", "cgroup_tool")
SWAP = "fallocate -l 160M /var/tmp/swap && chmod 600 /var/tmp/swap && mkswap -q /var/tmp/swap && swapon /var/tmp/swap"


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """The programs that try cgroups/, without libraries, so that they run anywhere."""
    directory = tmp_path_factory.mktemp("cgroups")
    sources = [*TOP.glob("cgroups/*.c"), *(TOP / "lib" / f"{name}.c" for name in ("err", "fd", "parse"))]
    for name in PROGRAMS:
        subprocess.run(
            ["cc", "-O1", "-static", "-D_GNU_SOURCE", "-I", TOP, "-o", directory / name,
             TOP / f"tests/integration/{name}.c", *sources],
            check=True,
        )  # fmt: skip
    return directory


@pytest.fixture(scope="module")
def machine(guest, programs):
    """The guest with the programs in /srv, and with swap."""
    for name in PROGRAMS:
        guest.put(programs / name, f"/srv/build/tests/integration/{name}")
    for name in ("test_cgroups.py", "builddir.py"):
        guest.put(TOP / "tests/integration" / name, f"/srv/tests/{name}")
    guest.run(SWAP)
    yield guest
    guest.run("swapoff /var/tmp/swap && rm /var/tmp/swap")


def rows_of(text):
    """{name: (expected, observed)}"""
    return {name: (want, got) for name, want, got in (line.split("\t") for line in text.splitlines())}


@pytest.fixture(scope="module")
def here(programs):
    """The table on the machine that runs the tests, whichever hierarchy it has."""
    parent = f"ecs-test-{uuid.uuid4().hex[:8]}"
    try:
        done = subprocess.run(
            [programs / "cgroup_conformance", parent], capture_output=True, text=True, timeout=300
        )
    finally:
        base = pathlib.Path("/sys/fs/cgroup")
        for directory in {p.resolve() for pattern in (parent, f"*/{parent}") for p in base.glob(pattern)}:
            directory.rmdir()
    assert done.returncode == 0, done.stderr
    return rows_of(done.stdout)


def run_table(machine, parent):
    return rows_of(machine.output(["/srv/build/tests/integration/cgroup_conformance", parent], timeout=300))


def check(found, here):
    assert len(found) > 30
    for name, (_, got) in found.items():
        same = "the same here" if here[name][1] == got else f"here: {here[name][1]}"
        print(f"{name:48} {got} ({same})")
    assert {name: row for name, row in found.items() if row[0] != row[1]} == {}
    differs = {name: (got, here[name][1]) for name, (_, got) in found.items() if here[name][1] != got}
    assert [name for name, (_, there) in differs.items() if not there.startswith("skip: ")] == []


def test_limits_mean_the_same_below_ecs_tasks_service(machine, here):
    assert machine.output("stat -f -c %T /sys/fs/cgroup").strip() == "cgroup2fs"
    parent = machine.output("cat /run/ecs/cgroup").strip()
    assert parent == "system.slice/ecs-tasks.service"
    check(run_table(machine, parent), here)


def test_limits_mean_the_same_at_the_root(machine, here):
    check(run_table(machine, "ecs-test"), here)
    machine.run("rmdir /sys/fs/cgroup/ecs-test")


def test_errors_are_told_on_v2(machine):
    command = (
        "cd /srv/tests && ECS_BUILD_DIR=/srv/build PYTHONDONTWRITEBYTECODE=1 python3 -m pytest --noconftest"
        " -p no:cacheprovider -q -rfE -k 'not table and not out_of_range and not lead_elsewhere' test_cgroups.py"
    )
    done = machine.run(command, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_processes_in_the_parent_are_named_as_the_reason(machine):
    """As when a service has the whole cgroup and starts its programs right in it."""
    script = """
        mkdir /sys/fs/cgroup/ecs-busy
        sleep 600 & echo $! >/sys/fs/cgroup/ecs-busy/cgroup.procs
        /srv/build/tests/integration/cgroup_tool ecs-busy version; status=$?
        kill $!; wait; rmdir /sys/fs/cgroup/ecs-busy
        exit $status"""
    done = machine.run(script, check=False)
    assert done.returncode == 1
    assert "EBUSY: cgroup /sys/fs/cgroup/ecs-busy holds processes itself" in done.stderr


def test_a_controller_that_is_not_delegated_is_named(machine):
    """A cgroup of a cgroup namespace whose manager gives it nothing."""
    script = """
        mkdir -p /sys/fs/cgroup/ecs-poor && echo '+cpu +pids' >/sys/fs/cgroup/ecs-poor/cgroup.subtree_control
        mkdir /sys/fs/cgroup/ecs-poor/inside
        mkdir /tmp/poor && mount --bind /sys/fs/cgroup/ecs-poor/inside /tmp/poor
        unshare --mount sh -c 'mount --bind /tmp/poor /sys/fs/cgroup &&
            /srv/build/tests/integration/cgroup_tool ecs version'; status=$?
        umount /tmp/poor; rmdir /tmp/poor /sys/fs/cgroup/ecs-poor/inside/ecs /sys/fs/cgroup/ecs-poor/inside
        rmdir /sys/fs/cgroup/ecs-poor
        exit $status"""
    done = machine.run(script, check=False)
    assert done.returncode == 1
    assert "EOPNOTSUPP: cgroup controller memory is not available in /sys/fs/cgroup/ecs" in done.stderr


def test_programs_see_the_memory_limit_of_their_task(guest):
    container = guest.container("cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory.swap.max", logs="max")
    del container["memory"]
    stopped = guest.run_to_end(container | {"memoryReservation": 8}, memory="96")
    assert stopped["containers"][0]["exitCode"] == 0
    assert guest.wait_logs(lambda lines: len(lines) == 2, "max") == [str(96 << 20)] * 2


def test_an_oom_kill_is_reported(guest):
    eat = ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]
    found = guest.run_to_end(guest.container(eat), family="oom")["containers"][0]
    assert found["exitCode"] == 137
    assert found["reason"] == "OutOfMemoryError: Container killed due to memory usage"


def test_a_swappiness_is_refused_unless_it_is_the_hosts(guest):
    def run(swappiness):
        parameters = {"maxSwap": 16, "swappiness": swappiness}
        return guest.run_to_end(guest.container("exit 3", linuxParameters=parameters))["containers"][0]

    assert run(int(guest.output("cat /proc/sys/vm/swappiness")))["exitCode"] == 3
    found = run(7)
    assert "exitCode" not in found
    assert found["reason"].startswith("CannotCreateContainerError: ")
    assert "memory swappiness 7 needs cgroup v1" in found["reason"]
