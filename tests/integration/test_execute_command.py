"""ECS Exec: the SSM agent of the host in containers, its life, and what ECS is told of it.

ssm_agent.c stands in for Amazon's agent.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import time
import uuid

import pytest
from controlplane.client import wait_for as wait_until
from harness.node import Node
from harness.taskdef import container
from harness.taskdef import task as definition

from builddir import needs_root, program
from runtime import RequestError, Task
from waiting import wait_for

pytestmark = needs_root

PROGRAMS = ("amazon-ssm-agent", "ssm-agent-worker", "ssm-session-worker")
SLEEP = ["/bin/sleep", "1000"]
FAN_CLOEXEC, FAN_CLASS_CONTENT, FAN_MARK_ADD, FAN_OPEN_PERM, FAN_ONDIR = 1, 4, 1, 0x10000, 0x40000000
STARTED, RESTARTED = "ExecuteCommandAgent started", "ExecuteCommandAgent restarted"


def install(state, versions=("3.2.0.0",)):
    """What ECS Exec needs of a host, below its state directory."""
    deps = state / "deps/execute-command"
    standin = program("tests/integration/ssm_agent")
    for version in versions:
        (deps / "bin" / version).mkdir(parents=True)
        for name in PROGRAMS:
            shutil.copy(standin, deps / "bin" / version / name)
    (deps / "certs").mkdir()
    (deps / "certs/tls-ca-bundle.pem").write_text("certificates of the host\n")
    return deps


class Logs:
    """What the stand-in wrote, of one container."""

    def __init__(self, state, task_id, name="app"):
        self.path = state / "exec-logs" / task_id / name / "amazon-ssm-agent.log"

    def lines(self, what):
        text = self.path.read_text() if self.path.exists() else ""
        words = [line.split(" ", 2) for line in text.splitlines()]
        return [line[2] for line in words if line[1] == what]

    def wait(self, what="ready", count=1):
        wait_for(lambda: len(self.lines(what)) >= count, what=f"{count} '{what}' in {self.path}")
        return self.lines(what)


def start(host, name="app", task=None, args=SLEEP, **changes):
    task = task or Task(host)
    changes.setdefault("executeCommandAgent", {})
    task.create(args, name, **changes)
    task.call("start", container=name)
    return task


def told(task, name="app"):
    event = task.connection.event("managed-agent", name)
    assert event["name"] == "ExecuteCommandAgent"
    return event["status"], event["reason"]


def agents(task, name="app"):
    """Pids of the agents in a container, by their files."""
    found = []
    for pid in (task.cgroup_paths(name)[0] / "cgroup.procs").read_text().split():
        try:
            words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"/amazon-ssm-agent"):
            found.append(int(pid))
    return found


def mounts(pid):
    """Of a process: {place: (root on the host's file system, options)}."""
    lines = [line.split() for line in open(f"/proc/{pid}/mountinfo")]
    return {line[4]: (line[3], line[5].split(",")) for line in lines}


def test_it_runs_as_root_with_its_files_in_a_container_of_another_user(host):
    """Its files are none of the host paths that tasks may mount, which stay refused to them."""
    host.config.write_text("ECS_ALLOWED_HOST_PATHS=/srv\n")
    deps = install(host.state, ("3.9.1.0", "3.10.0.0"))
    (deps / "bin/3.11.0.0").mkdir()  # incomplete
    shutil.copy(deps / "bin/3.9.1.0" / PROGRAMS[0], deps / "bin/3.11.0.0")
    task = start(host, user="app", executeCommandAgent={"sessionLimit": 5},
                 config={"root": {"readonly": True}, "process": {"env": ["COLOUR=red", "PATH=/bin"]}})
    assert told(task) == ("RUNNING", STARTED)
    log = Logs(host.state, task.id)
    assert log.wait("ready") == ["red"]

    directory, *ids = log.lines("start")[0].split()
    assert ids == ["uid", "0", "gid", "0"]
    prefix, name = directory.rsplit("/ecs-execute-command-", 1)
    assert prefix == "" and uuid.UUID(name).version == 4
    config = json.loads(log.lines("config")[0])
    assert config["Mgs"]["SessionWorkersLimit"] == 5 and config["Agent"]["ContainerMode"] is True
    assert log.lines("certificates") == ["certificates of the host "]
    assert "/var/log/amazon/ssm/" in log.lines("seelog")[0]
    assert len(log.lines("write")) == 4
    assert all(line.endswith(": Read-only file system") for line in log.lines("write"))
    assert log.lines("Seccomp:") == ["Seccomp:\t2"]
    assert log.wait("worker")[0].startswith(f"{directory}/ssm-agent-worker of ")

    found = mounts(task.container_pid())
    for name in PROGRAMS:
        root, options = found[f"{directory}/{name}"]
        assert root.endswith(f"/bin/3.10.0.0/{name}") and "ro" in options
    root, options = found["/var/log/amazon/ssm"]
    assert root.endswith(f"/exec-logs/{task.id}/app") and {"rw", "nosuid", "nodev", "noexec"} <= set(options)
    assert (host.state / "exec-logs").stat().st_mode & 0o777 == 0o700
    # Of the container's cgroup, so that it counts there and ends with it.
    assert len(agents(task)) == 1

    with pytest.raises(RequestError, match="not one of ECS_ALLOWED_HOST_PATHS"):
        start(host, "other", task, config={"mounts": [
            {"destination": "/x", "type": "bind", "source": str(deps), "options": ["rbind"]}]})


def test_one_that_ends_is_started_again(host):
    install(host.state)
    task = start(host)
    log = Logs(host.state, task.id)
    assert told(task) == ("RUNNING", STARTED)
    log.wait("ready")
    (first,) = agents(task)
    os.kill(first, signal.SIGKILL)
    assert told(task) == ("RUNNING", RESTARTED)
    log.wait("ready", 2)
    (second,) = agents(task)
    assert second != first
    os.kill(second, signal.SIGTERM)  # twice within a minute: that is told
    assert told(task) == ("STOPPED", "ExecuteCommandAgent was ended by signal 15")
    log.wait("ready", 3)

    task.reconnect()  # ecs-agent was away: it goes on, and is in the state
    (state,) = task.call("state")["containers"]
    assert state["managedAgent"] == {
        "name": "ExecuteCommandAgent", "status": "STOPPED",
        "reason": "ExecuteCommandAgent was ended by signal 15"}
    assert len(agents(task)) == 1, "started twice"
    assert told(task) == ("RUNNING", RESTARTED)  # this one has lasted

    task.call("stop", container="app", timeoutUsec=0)
    task.connection.event("exited")
    assert agents(task) == []
    assert task.call("end")["type"] == "ended"
    assert log.lines("ready"), "the log goes with the container"


def test_two_containers_share_the_configuration_and_one_may_have_none(host):
    deps = install(host.state)
    task = start(host)
    start(host, "b", task)
    start(host, "c", task, executeCommandAgent={"sessionLimit": 7})
    task.create(SLEEP, "d")
    task.call("start", container="d")
    for name in "app", "b", "c":
        assert told(task, name) == ("RUNNING", STARTED)
        Logs(host.state, task.id, name).wait("ready")
    names = sorted(path.name.rsplit("-", 1)[0] for path in (deps / "config").iterdir())
    assert names == ["amazon-ssm-agent", "amazon-ssm-agent", "seelog"]
    assert agents(task, "d") == []
    assert not any("ecs-execute-command" in place for place in mounts(task.container_pid("d")))


def break_nothing(deps):
    shutil.rmtree(deps)


def break_worker(deps):
    (deps / "bin/3.2.0.0/ssm-agent-worker").unlink()


def break_certificates(deps):
    (deps / "certs/tls-ca-bundle.pem").unlink()


def break_mode(deps):
    (deps / "bin").chmod(0o777)


def break_owner(deps):
    os.chown(deps / "certs", 1234, 0)


def break_logs(deps):
    (deps.parent.parent / "exec-logs").symlink_to("/etc")


@pytest.mark.parametrize("change, reason", [
    (break_nothing, "open {deps}: No such file or directory"),
    (break_worker, "no version in {deps}/bin has all of amazon-ssm-agent, ssm-agent-worker and "
                   "ssm-session-worker"),
    (break_certificates, "open {deps}/certs/tls-ca-bundle.pem: No such file or directory"),
    (break_mode, "{deps}/bin belongs to uid 0 and has mode 0777; it must belong to root, and nobody "
                 "else may write to it"),
    (break_owner, "{deps}/certs belongs to uid 1234 and has mode 0755; it must belong to root, and "
                  "nobody else may write to it"),
    (break_logs, "open {state}/exec-logs: Not a directory"),
])
def test_what_is_wrong_with_the_host_is_told_and_the_container_runs(host, change, reason):
    deps = install(host.state)
    change(deps)
    task = start(host)
    text = reason.format(deps=deps, state=host.state)
    assert told(task) == ("STOPPED", f"ExecuteCommandAgent Initialization failed - {text}")
    assert task.call("state")["containers"][0]["status"] == "running"
    assert agents(task) == [] and not os.path.exists("/etc/app")


def test_an_image_where_it_has_no_place_runs_without_it(host):
    def fill(path):
        (path / "var").mkdir()
        (path / "var/log").write_text("not a directory\n")

    install(host.state)
    task = start(host, layers=[host.busybox_layer(), host.layer(fill)])
    assert told(task) == ("STOPPED", "ExecuteCommandAgent Initialization failed - "
                                     "mount at /var/log/amazon/ssm: Not a directory")
    assert agents(task) == []


def test_one_that_cannot_run_is_told_and_tried_again(host):
    deps = install(host.state)
    task = start(host, config={"process": {"env": ["STANDIN=exit"]}})
    assert told(task) == ("RUNNING", STARTED)
    assert told(task) == ("RUNNING", RESTARTED)
    assert told(task) == ("STOPPED", "ExecuteCommandAgent exited with exit code 3")
    Logs(host.state, task.id).wait("start", 3)
    broken = deps / "bin/3.3.0.0"
    shutil.copytree(deps / "bin/3.2.0.0", broken)
    (broken / PROGRAMS[0]).write_text("#!/bin/nosuch\n")
    start(host, "b", task)
    status, reason = told(task, "b")
    assert status == "STOPPED"
    assert reason.startswith("ExecuteCommandAgent could not be started: exec /ecs-execute-command-")


@contextlib.contextmanager
def held_open(directory):
    """Whoever opens it is kept waiting, by fanotify(7)."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, os.O_RDONLY)
    if fd < 0:
        pytest.skip(f"needs fanotify with permission events: {os.strerror(ctypes.get_errno())}")
    try:
        marked = libc.fanotify_mark(fd, FAN_MARK_ADD, ctypes.c_uint64(FAN_OPEN_PERM | FAN_ONDIR), -100,
                                    os.fsencode(directory))
        assert marked == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        os.close(fd)


def test_logs_of_tasks_that_have_ended_go_after_a_while(host):
    host.config.write_text("ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION=1h\n")
    install(host.state)
    ended, running = start(host), start(host)
    for task in ended, running:
        Logs(host.state, task.id).wait("ready")
    ended.call("stop", container="app", timeoutUsec=0)
    ended.connection.event("exited")
    assert ended.call("end")["type"] == "ended"
    young = start(host)
    logs = host.state / "exec-logs"
    names = {ended.id, running.id, young.id}
    assert set(os.listdir(logs)) == names, "less than an hour old"
    long_ago = time.time() - 2 * 3600
    for name in names:
        os.utime(logs / name, (long_ago, long_ago))
    with held_open(logs / ended.id / "app"):
        last = start(host)  # nor does it wait for what takes its time
        assert set(os.listdir(logs)) == names | {last.id}
    wait_for(lambda: set(os.listdir(logs)) == {running.id, young.id, last.id})


def test_a_wrong_request_is_refused_by_name(host):
    install(host.state)
    task = Task(host)
    for request, message in (
        ({"sessionLimit": 0}, "sessionLimit is 0; it must be 1 to 1000"),
        ({"sessionLimit": 1001}, "sessionLimit"),
        ({"path": "/x"}, 'executeCommandAgent has the member "path"|path'),
    ):
        with pytest.raises(RequestError, match=message):
            task.create(SLEEP, executeCommandAgent=request)


# --- with ecs-agent


@pytest.fixture
def exec_node():
    node = Node(start=False)
    try:
        node.state.mkdir()
        node.state.chmod(0o755)
        node.deps = install(node.state)
        node.start()
        yield node
        node.standin.assert_no_violations()
    finally:
        node.stop()


def managed(node, arn):
    return {a["containerName"]: (a["status"], a["reason"]) for a in node.standin.task(arn)["managedAgents"]}


def wait_managed(node, arn, **wanted):
    wait_until(lambda: managed(node, arn) == wanted, 40, lambda: f"{managed(node, arn)}")


def test_a_task_with_execute_command(exec_node, busybox):
    """Placed by its attribute, told to ECS, with the credentials of the task's role; a restart of
    ecs-agent starts it no second time and tells nothing twice."""
    node = exec_node
    arn = node.standin.run_task(
        definition(container(busybox, "sleep 1000", stopTimeout=1),
                   container(busybox, "sleep 1000", name="side", stopTimeout=1)),
        enableExecuteCommand=True)
    found = node.standin.wait_task(arn, "RUNNING")
    wait_managed(node, arn, app=("RUNNING", STARTED), side=("RUNNING", STARTED))
    log = Logs(node.state, found["id"])
    log.wait("ready")
    role = json.loads(log.lines("credentials")[0])
    assert role["RoleArn"].endswith(":role/app") and role["AccessKeyId"]

    node.restart("agent")
    node.wait_connected()
    (pid,) = [p for p in node.task_processes(arn) if is_agent(p, "app", log)]
    os.kill(pid, signal.SIGKILL)
    assert len(log.wait("start", 2)) == 2

    node.standin.stop_task(arn)
    node.standin.wait_task(arn, "STOPPED")
    over = ("STOPPED", "Received Container Stopped event")
    assert managed(node, arn) == {"app": over, "side": over}
    history = [a for change in node.standin.task(arn)["submissions"]
               for a in change.get("managedAgents", ())]
    assert [a["reason"] for a in history if a["containerName"] == "side"] == [STARTED, over[1]]

    # A host that has lost its files runs the task, and says what is wrong.
    node.deps.rename(node.deps.with_name("gone"))
    arn = node.standin.run_task(definition(container(busybox, "sleep 1000", stopTimeout=1)),
                                enableExecuteCommand=True)
    node.standin.wait_task(arn, "RUNNING")
    wait_managed(node, arn, app=("STOPPED", "ExecuteCommandAgent Initialization failed - open "
                                            f"{node.deps}: No such file or directory"))
    node.standin.stop_task(arn)
    node.standin.wait_task(arn, "STOPPED")
    node.wait_clean()


def is_agent(pid, name, log):
    """Is this process the agent whose pid in the container is in its log?"""
    try:
        status = open(f"/proc/{pid}/status").read()
        words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
        cgroup = open(f"/proc/{pid}/cgroup").read()
    except OSError:
        return False
    inside = status.split("NSpid:")[1].splitlines()[0].split()[-1]
    return (words[0].endswith(b"/amazon-ssm-agent") and cgroup.strip().endswith(f"/{name}")
            and log.path.read_text().startswith(inside + " "))
