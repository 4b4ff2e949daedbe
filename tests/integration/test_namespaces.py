"""pidMode and ipcMode: what containers of a task share with each other and with the host, that their
ends stay their own, and which mounts of the host they see."""

import json
import os
import signal
import subprocess
import uuid
from pathlib import Path

import pytest

from builddir import needs_root, program
from controlplane.client import wait_for as wait_until
from harness.taskdef import container, task as task_definition
from runtime import RequestError, Task
from test_exec import sh
from test_health import shell
from waiting import wait_for

pytestmark = needs_root

SHM = Path("/dev/shm")


def start(task, script, name="app", **changes):
    task.create(["/bin/sh", "-c", script], name=name, **changes)
    return task.call("start", container=name)


def exit_of(task, name="app"):
    event = task.connection.event("exited", name)
    return event["exitCode"], event["oomKilled"]


def namespace(pid, kind):
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def processes(task, name):
    """Of the container, as the host counts."""
    path = task.cgroup_paths(name)[0] / "cgroup.procs"
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def is_there(pid):
    """Does it run, rather than wait to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- pidMode task


def test_pid_mode_task_is_one_namespace_with_a_first_process_of_ours(host):
    task = Task(host, pidMode="task")
    one, two = (start(task, f"sleep 1000; : {name}", name=name)["pid"] for name in ("one", "two"))
    assert namespace(one, "pid") == namespace(two, "pid") != namespace("self", "pid")
    assert namespace(one, "ipc") != namespace(two, "ipc")
    assert one in processes(task, "one") and two in processes(task, "two")

    # Each sees the other, number 1 is what it is in ECS, and cannot be ended.
    code, out, _ = sh(task, "kill -9 1; kill -TERM 1; sleep 0.1; tr '\\0' ' ' < /proc/1/cmdline; "
                            "cat /proc/1/comm; ps -o args", container="one")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["/pause", "pause"]
    assert any(": one" in line for line in lines) and any(": two" in line for line in lines)
    assert not [line for line in lines if "ecs-task" in line]
    (pause,) = [pid for pid in task_of(one) if namespace(pid, "pid") == namespace(one, "pid")]

    # It collects orphans, also those that had ended before they became so.
    code, out, _ = sh(task, "for n in 1 2 3; do sh -c '(sleep 0.05; exit 3) & (exit 4) & exec sleep 0.02'"
                            "; done; sleep 0.3; ps -o stat", container="two")
    assert code == 0 and "Z" not in out, out

    # It holds nothing.
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pause}/status").read_text().splitlines())
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0 and status["Seccomp"] == "2"
    assert os.listdir(f"/proc/{pause}/root") == [] and os.listdir(f"/proc/{pause}/fd") == []
    assert os.readlink(f"/proc/{pause}/exe").startswith("/memfd:ecs-init")
    assert namespace(pause, "net") not in (namespace("self", "net"), namespace(one, "net"))
    task.kill()
    wait_for(lambda: not any(map(is_there, (one, two, pause))), what="the end of all")


def task_of(pid):
    """All processes in the supervisor's cgroup, by way of one of a container's."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for top in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup") / (names or "unified")):
            procs = top / path.lstrip("/") / "../supervisor/cgroup.procs"
            if procs.exists():
                return [int(word) for word in procs.read_text().split()]
    raise AssertionError(f"no supervisor beside {pid}")


def test_in_a_shared_namespace_every_end_stays_its_own(host):
    """Exit codes, signals of neighbours, what a container leaves running, OOM kills, stops, inits."""
    task = Task(host, pidMode="task")
    start(task, "sleep 1000 & until test -e /tmp/go; do sleep 0.05; done; exit 7", name="leaves")
    start(task, "exec sleep 1000", name="victim")
    start(task, "trap 'exit 9' TERM; while :; do sleep 0.05; done", name="stopped")
    start(task, "trap '' TERM; while :; do sleep 0.05; done", name="stubborn")
    # As with Docker --init: signals arrive, and the code is the program's.
    start(task, "trap 'exit 11' TERM; (sleep 0.1 &); while :; do sleep 0.05; done", name="init",
          init=True)
    wait_for(lambda: len(processes(task, "leaves")) >= 2)
    left = processes(task, "leaves")
    sh(task, "touch /tmp/go", container="leaves")
    assert exit_of(task, "leaves") == (7, False)
    assert not any(map(is_there, left)), "a container's end leaves nothing of it"
    assert is_there(task.container_pid("victim"))

    start(task, "kill -9 $(pidof -s sleep | head -1) || kill -9 $(ps -o pid,args | "
                "awk '$2 == \"sleep\" && $3 == 1000 {print $1}')", name="killer")
    assert exit_of(task, "victim") == (137, False)
    assert exit_of(task, "killer")[0] == 0

    memory = {"config": {"linux": {"resources": {"memory": {"limit": 24 << 20}}}}}
    start(task, "exec dd if=/dev/zero of=/dev/null bs=200M count=1", name="oom", **memory)
    assert exit_of(task, "oom") == (137, True)

    for name, code in (("stopped", 9), ("init", 11)):
        task.call("stop", container=name, timeoutUsec=20_000_000)
        assert exit_of(task, name) == (code, False)
    stubborn = processes(task, "stubborn")
    task.call("stop", container="stubborn", timeoutUsec=100_000)
    assert exit_of(task, "stubborn") == (137, False)
    assert not any(map(is_there, stubborn))

    with pytest.raises(RequestError) as error:
        start(task, "", name="broken", config={"process": {"args": ["/nowhere"]}})
    assert error.value.exit_code == 127
    # A very short one, whose end may be seen before its start.
    for n in range(20):
        assert task.run(["/bin/sh", "-c", f"exit {n}"], name=f"short{n}")["exitCode"] == n


def test_checks_terminals_and_restarts_in_a_shared_namespace(host):
    task = Task(host, pidMode="task", ipcMode="task")
    start(task, "tty; sleep 1000", config={"process": {"terminal": True}}, restart=True,
          healthCheck=shell("test -d /proc/1 && echo fine"))
    while (event := task.connection.event("health", "app"))["status"] != "HEALTHY":
        pass
    assert event["output"] == "fine\n"
    wait_for(lambda: "/dev/pts/0" in task.output())
    os.kill(task.container_pid(), signal.SIGKILL)
    assert exit_of(task) == (137, False)
    answer = task.call("start", container="app")
    assert answer["pid"] in processes(task, "app")
    ran = subprocess.run([program("ecs-agent"), "--runtime-dir", str(host.run), "exec", task.id, "app",
                          "--", "sh", "-c", "ps -o args; exit 5"],
                         capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 5 and "sleep 1000" in ran.stdout and "/pause" in ran.stdout


def test_what_a_container_left_running_in_a_shared_namespace_does_not_end_its_next_start(host):
    """Its cgroup is killed with what is left, once; what is cloned in later, checks too, must live."""
    task = Task(host, pidMode="task")
    script = "sleep 1000 & [ -e /again ] && exec sleep 1000; touch /again; exit 3"
    start(task, script, restart=True, healthCheck=shell("echo fine"))
    assert exit_of(task) == (3, False) and not processes(task, "app")
    task.call("start", container="app")
    while (event := task.connection.event("health", "app"))["status"] != "HEALTHY":
        assert event.get("exitCode", 0) == 0, event
    assert len(processes(task, "app")) >= 2


def test_when_the_first_process_is_killed_by_the_host_containers_end_and_none_starts(host):
    task = Task(host, pidMode="task")
    pid = start(task, "sleep 1000")["pid"]
    (pause,) = [p for p in task_of(pid) if namespace(p, "pid") == namespace(pid, "pid")]
    os.kill(pause, signal.SIGKILL)
    assert exit_of(task) == (137, False)
    with pytest.raises(RequestError, match="fork inside the container"):
        start(task, "true", name="next")


# --- pidMode host


def test_pid_mode_host_shows_the_host_and_leaves_nothing(host):
    task = Task(host, pidMode="host")
    answer = start(task, "echo $$; setsid sleep 1000 & sleep 1000 & "
                         "sh -c '(sleep 0.05; exit 3) & exec sleep 0.02'; sleep 0.2; "
                         "ps -o stat,args | grep -c '^Z.*sleep'; mkfifo /tmp/go; read x < /tmp/go; exit 6",
                   name="app", init=True)
    assert namespace(answer["pid"], "pid") == namespace("self", "pid")
    wait_for(lambda: len(task.output().splitlines()) == 2)
    inner, zombies = task.output().split()
    assert int(inner) in processes(task, "app") and int(zombies) == 0
    left = processes(task, "app")
    assert len(left) >= 4
    assert sh(task, f"test -d /proc/{os.getpid()} && readlink /proc/self/ns/pid")[:2] == \
        (0, namespace("self", "pid") + "\n")
    sh(task, "until test -p /tmp/go; do :; done; echo > /tmp/go")  # ends with the container
    assert exit_of(task) == (6, False)
    assert not any(map(is_there, left)), "survivors are killed"

    # What a dead supervisor leaves is the reaper's.
    pid = start(task, "setsid sleep 1000 & exec sleep 1000", name="other")["pid"]
    wait_for(lambda: len(processes(task, "other")) == 2)
    left = processes(task, "other")
    task.kill()
    assert is_there(pid), "nothing of it is in the supervisor's namespace"
    answer, _ = task.reap()
    assert answer["type"] == "reaped" and not any(map(is_there, left))


def test_host_namespaces_can_be_forbidden_and_must_fit_the_supervisor(host):
    for members in ({"pidMode": "host"}, {"ipcMode": "host"}):
        host.config.write_text("ECS_DISABLE_HOST_PID_IPC=true\n")
        with pytest.raises(RequestError, match="ECS_DISABLE_HOST_PID_IPC"):
            Task(host, **members)
        host.tasks[-1].kill()
    task = Task(host)
    with pytest.raises(RequestError, match="ECS_DISABLE_HOST_PID_IPC"):
        task.create(["/bin/true"], ipcMode="host")
    host.config.write_text("")
    task = Task(host, setup=False)
    with pytest.raises(RequestError, match="--host-pid"):
        task.call("setup", task={"networkMode": "none", "pidMode": "host"})


# --- ipcMode


LOOK = ("readlink /proc/self/ns/ipc; cat /proc/sys/kernel/msgmax; "
        "grep -c ' /dev/mqueue ' /proc/self/mounts; ls -d /dev/shm; "
        "grep ' /dev/shm ' /proc/self/mounts | tail -1 | grep -o 'size=[0-9]*'; ls /dev/shm")


def look(task, name, **changes):
    """(namespace, msgmax, mqueue mounts, /dev/shm or None, its size or None, its files)"""
    code, out = task.sh(LOOK, name=name, **changes)
    namespace_, msgmax, mqueue, *rest = out.splitlines()
    shm = rest.pop(0) if rest and rest[0] == "/dev/shm" else None
    size = rest.pop(0) if rest and rest[0].startswith("size=") else None
    return namespace_, msgmax, mqueue, shm, size, rest


def test_ipc_mode_task_shares_namespace_sysctls_and_shm(host):
    task = Task(host, ipcMode="task", shmBytes=8 << 20)
    assert task.sh("echo x > /dev/shm/ours; ls -ld /dev/shm", name="writer",
                   config={"linux": {"sysctl": {"kernel.msgmax": "4321"}}})[0] == 0
    one, two = look(task, "one"), look(task, "two")
    assert one == two
    assert one[0] not in (namespace("self", "ipc"), look(Task(host), "other")[0])
    assert one[1:] == ("4321", "1", "/dev/shm", "size=8192", ["ours"])
    # A mount of its own comes over it.
    own = {"config": {"mounts": [{"type": "tmpfs", "source": "shm", "destination": "/dev/shm",
                                  "options": ["size=1m"]}]}}
    assert look(task, "own", **own)[4:] == ("size=1024", [])
    with pytest.raises(RequestError, match="ipcMode"):
        task.create(["/bin/true"], name="stray", ipcMode="none")


def test_ipc_modes_none_host_and_private(host):
    task = Task(host)
    private, none = look(task, "private"), look(task, "none", ipcMode="none")
    assert private[2:] == ("1", "/dev/shm", "size=65536", [])
    assert none[2:] == ("1", None, None, [])
    assert namespace("self", "ipc") not in (private[0], none[0])

    mark = SHM / f"ecs-test-{uuid.uuid4().hex}"
    try:
        mark.write_text("x")
        for shares in (look(task, "host", ipcMode="host"), look(Task(host, ipcMode="host"), "app")):
            assert shares[0] == namespace("self", "ipc") and mark.name in shares[5]
            assert shares[1] == Path("/proc/sys/kernel/msgmax").read_text().strip()
    finally:
        mark.unlink()


def test_sysctls_are_only_those_of_namespaces_of_its_own(host):
    """Docker's rule: names of IPC not in ipcMode host, net.* not in network mode host."""
    task = Task(host, ipcMode="host", network="none")
    for name in ("kernel.sem", "kernel.shm_rmid_forced", "fs.mqueue.msg_max"):
        with pytest.raises(RequestError, match=f"{name}.*ipcMode host"):
            task.create(["/bin/true"], config={"linux": {"sysctl": {name: "1"}}})
    sysctl = {"config": {"linux": {"sysctl": {"net.ipv4.ip_default_ttl": "42"}}}}
    assert task.sh("cat /proc/sys/net/ipv4/ip_default_ttl", **sysctl) == (0, "42\n")
    task = Task(host, ipcMode="none", network="host")
    with pytest.raises(RequestError, match="net.ipv4.ip_default_ttl.*host network mode"):
        task.create(["/bin/true"], **sysctl)
    with pytest.raises(RequestError, match="kernel.hostname.*not the container's own"):
        task.create(["/bin/true"], config={"linux": {"sysctl": {"kernel.hostname": "x"}}})
    assert task.sh("cat /proc/sys/kernel/sem", config={
        "linux": {"sysctl": {"kernel.sem": "11 22 33 44"}}})[1].split() == ["11", "22", "33", "44"]


# --- mounts of the host


@pytest.fixture(params=["private", "shared"])
def mounts(request):
    """A process whose mounts are those of a host, shared as systemd makes them or private."""
    process = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c",
                                f"mount --make-r{request.param} /; echo; exec sleep 1000"],
                               stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        yield process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def on_host(mounts, *words):
    subprocess.run(["nsenter", "-t", str(mounts), "--mount", "--", *words], check=True)


def test_containers_see_what_the_host_has_mounted_when_they_start(host, mounts):
    """As Docker's rprivate: nothing that is mounted later, on either side, shared or private."""
    source = host.base / "source"
    for name in ("one", "two", "three"):
        (source / name).mkdir(parents=True)
    disk = host.base / "disk"
    disk.mkdir()

    def mount(name):
        on_host(mounts, "mount", "-t", "tmpfs", f"ecs-{name}", str(source / name))
        on_host(mounts, "touch", str(source / name / "here"))

    mount("one")
    on_host(mounts, "mount", "-t", "tmpfs", "ecs-disk", str(disk))
    task = Task(host, mounts=mounts)
    binds = {"config": {"mounts": [{"type": "bind", "source": str(source), "destination": "/source",
                                    "options": ["rbind", "rprivate"]}]},
             "restart": True}
    mount("two")
    start(task, "until ls /source/*/here; echo seen; sleep 1000; do :; done", **binds)
    wait_for(lambda: "seen" in task.output())
    assert task.output().split() == ["/source/one/here", "/source/two/here", "seen"]

    mount("three")
    on_host(mounts, "umount", str(source / "one"))
    assert sh(task, "ls /source/*/here")[1].split() == ["/source/one/here", "/source/two/here"]
    table = Path(f"/proc/{mounts}/mountinfo").read_text()
    assert "ecs-one" not in table and str(host.state) not in table
    # A start anew is as good as a first one.
    os.kill(task.container_pid(), signal.SIGKILL)
    exit_of(task)
    task.call("start", container="app")
    wait_for(lambda: task.output().count("seen") == 2)
    assert task.output().split()[3:] == ["/source/three/here", "/source/two/here", "seen"]

    # What the host gives up is not kept by a supervisor that runs on.
    on_host(mounts, "umount", str(disk))
    assert "ecs-disk" not in Path(f"/proc/{task.pid}/mountinfo").read_text()
    # A source that is missing is made where the host finds it, and the policy is about that, too.
    made = {"config": {"mounts": [{"type": "bind", "source": str(disk / "made/below"),
                                   "destination": "/made", "options": ["rbind", "rprivate"]}]}}
    on_host(mounts, "mount", "-t", "tmpfs", "ecs-disk2", str(disk))
    assert task.sh("touch /made/file", name="makes", **made)[0] == 0
    on_host(mounts, "test", "-f", str(disk / "made/below/file"))


# --- a whole node


def test_modes_of_a_task_definition_on_a_node(node, busybox):
    names = {a["name"] for a in node.standin.instance()["registration"]["attributes"]}
    assert "ecs.capability.pid-ipc-namespace-sharing" in names

    shared = task_definition(
        container(busybox, "echo m > /dev/shm/mark; exec sleep 987", name="one"),
        container(busybox, "until cat /dev/shm/mark 2>/dev/null; do sleep 0.1; done; "
                           "until ps -o args | grep -v grep | grep 'sleep 987'; do sleep 0.1; done; "
                           "wget -qO- $ECS_CONTAINER_METADATA_URI_V4/task; echo; "
                           "df -k /dev/shm | tail -1 | awk '{print $2}'; kill -9 $(pidof sleep)",
                  name="two", essential=False, linuxParameters={"sharedMemorySize": 16}),
        pidMode="task", ipcMode="task")
    arn = node.standin.run_task(shared)
    found = node.standin.wait_task(arn, "STOPPED", 60)
    assert {c["name"]: c["exitCode"] for c in found["containers"]} == {"one": 137, "two": 0}
    lines = wait_until(lambda: len(node.logs("g")) >= 4 and node.logs("g"), 60, "four lines")
    assert lines[0] == "m" and "sleep 987" in lines[1] and lines[-1] == "16384"
    (document,) = [json.loads(line) for line in lines if line.startswith("{")]
    types = {c["Name"]: (c["Type"], c["KnownStatus"], c["Networks"][0]["NetworkMode"])
             for c in document["Containers"]}
    assert types["~internal~ecs~pause~namespace"] == ("NAMESPACE_PAUSE", "RUNNING", "none")
    assert types["two"][::2] == ("NORMAL", "bridge") and len(types) == 3
    assert len({c["DockerId"] for c in document["Containers"]}) == 3

    # On the host's processes, with a supervisor that dies.
    arn = node.standin.run_task(task_definition(
        container(busybox, "setsid sleep 986 & exec sleep 986"), pidMode="host", ipcMode="host"))
    node.standin.wait_task(arn, "RUNNING")
    supervisor = node.supervisor_pid(arn)
    left = wait_until(lambda: len(node.task_processes(arn)) >= 3 and node.task_processes(arn), 30,
                      "the task's processes")
    assert namespace(supervisor, "pid") == namespace("self", "pid")
    os.kill(supervisor, signal.SIGKILL)
    node.standin.wait_task(arn, "STOPPED")
    wait_for(lambda: not any(map(is_there, left)), what="the end of the task's processes")
    node.wait_clean()
