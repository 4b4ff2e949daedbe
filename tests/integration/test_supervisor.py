"""One ecs-task over its life: agents that come and go, deaths, ends, the shutdown of the host."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import uuid
from pathlib import Path

import pytest

from builddir import needs_root, program
from runtime import RequestError, Task, assert_nothing_left
from waiting import wait_for

pytestmark = needs_root


# --- agents that come back


def test_a_restarted_agent_finds_the_task_and_its_exits(host, task):
    task.create(["/bin/sh", "-c", "read x < /tmp/go"], name="late")
    task.create(["/bin/sleep", "1000"], name="runs")
    pid = task.call("start", container="runs")["pid"]
    task.connection.close()
    task.reconnect()
    states = {c["name"]: c for c in task.call("state")["containers"]}
    assert states["late"]["status"] == "created"
    assert (states["runs"]["status"], states["runs"]["pid"]) == ("running", pid)

    task.connection.close()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: (host.run / "tasks" / task.id / "exit-runs.json").exists())
    task.reconnect()
    states = {c["name"]: c for c in task.call("state")["containers"]}
    assert (states["runs"]["status"], states["runs"]["exitCode"]) == ("stopped", 137)


def test_the_newest_connection_replaces_the_one_before(task):
    task.reconnect()
    old = task.connection
    task.connection = None
    task.reconnect()
    assert task.call("state")["ready"] is True
    with pytest.raises(ConnectionError):
        old.call("state")
    old.close()


def test_other_users_cannot_connect(host, task):
    path = host.run / "tasks" / task.id / "control.sock"
    os.chmod(host.run / "tasks", 0o755)
    os.chmod(path.parent, 0o755)
    os.chmod(path, 0o666)
    script = ("import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
              "s.settimeout(20); print(s.recv(1))")
    done = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
                           "/usr/bin/python3", "-c", script, str(path)],
                          capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "b''", done.stderr
    assert task.call("state")["ready"] is True


def test_the_record_of_a_task_is_given_back_when_asked_for(task):
    assert "record" not in task.call("state", record=True)
    record = {"task": {"arn": "a", "n": 2**62, "umlaut": "ä\n"}, "containers": [{}, None, 1.5]}
    task.call("record", record={"old": True})
    task.call("record", record=record)
    assert task.call("state", record=True)["record"] == record
    assert "record" not in task.call("state")
    with pytest.raises(RequestError, match="1048576"):
        task.call("record", record={"text": "x" * 1048576})
    with pytest.raises(RequestError, match="record"):
        task.call("record")
    assert task.call("state", record=True)["record"] == record


# --- deaths and ends


def test_end_leaves_nothing_but_the_spool(host, task):
    task.run(["/bin/true"])
    assert task.call("end")["type"] == "ended"
    assert task.process.wait(30) == 0
    assert not (host.state / "tasks" / task.id).exists()
    assert not (host.run / "tasks" / task.id).exists()
    assert (host.state / "spool" / task.id / "app/end").exists()
    answer, _ = task.reap()
    assert answer["type"] == "reaped"
    assert_nothing_left(host, task)


def processes_below(task):
    found = []
    for path in task.cgroup_paths("")[0].rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in path.read_text().split()]
    return found


def test_killing_ecs_task_kills_every_process_whatever_its_user(host):
    task = Task(host, network="none")
    for name, user in (("root", ""), ("other", "1234:1234")):
        task.create(["/bin/sh", "-c", "trap '' TERM HUP INT; setsid sleep 1000 & echo on; sleep 1001"],
                    name=name, user=user)
        for fd in task.connection.take_fds():
            os.close(fd)
        task.call("start", container=name)
        wait_for(lambda: task.output(name) == "on\n")
    pids = processes_below(task)
    assert len(pids) >= 6
    os.kill(task.pid, signal.SIGKILL)
    task.process.wait(30)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))

    for _ in range(2):
        answer, done = task.reap()
        assert answer["type"] == "reaped" and done.returncode == 0
        assert_nothing_left(host, task)
    assert (host.state / "spool" / task.id / "root/end").exists()


def test_reap_kills_what_still_runs(host, task):
    task.create(["/bin/sleep", "1000"])
    task.call("start", container="app")
    answer, done = task.reap()
    assert answer["type"] == "reaped", done.stderr
    task.process.wait(30)
    assert_nothing_left(host, task)


def test_reap_of_a_task_that_never_was(host, task):
    task.kill()
    task.reap()
    task.id = str(uuid.uuid4())
    answer, done = task.reap()
    assert answer["type"] == "reaped" and done.returncode == 0


def test_host_ports_are_held_until_the_end(host):
    task = Task(host, network="bridge")
    task.create(["/bin/true"])
    for fd in task.connection.take_fds():
        os.close(fd)
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        number = port.getsockname()[1]
        task.call("start", (port.fileno(),), container="app",
                  network={"address": "172.29.0.5", "prefix": 16, "gateway": "172.29.0.1"})
    task.connection.event("exited")
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", number))
    task.call("end")
    task.process.wait(30)
    with socket.socket() as other:
        other.bind(("127.0.0.1", number))


def test_without_a_setup_it_ends_with_the_connection(host):
    task = Task(host, setup=False)
    run_dir = host.run / "tasks" / task.id
    assert task.call("state") == {"type": "state", "seq": 1, "ready": False, "containers": [], "volumes": []}
    with pytest.raises(RequestError, match='"create" before "setup"'):
        task.create(["/bin/true"])
    assert run_dir.exists()
    task.connection.close()
    assert task.process.wait(30) == 0
    assert not run_dir.exists()


def test_ecs_task_must_be_the_first_process_of_a_namespace(host):
    done = subprocess.run([program("ecs-task"), *host.options(), "abc"], capture_output=True,
                          text=True, timeout=30)
    assert done.returncode != 0
    assert "must be the first process of a pid namespace" in done.stderr


# --- shutdown of the host


def test_sigterm_stops_all_and_keeps_the_exits(host, task):
    task.create(["/bin/sh", "-c", "trap 'exit 5' TERM; echo on; while :; do sleep 1000 & wait; done"])
    task.call("start", container="app")
    wait_for(lambda: task.output() == "on\n")
    os.kill(task.pid, signal.SIGTERM)
    assert task.connection.event("exited")["exitCode"] == 5
    assert task.process.wait(30) == 0
    assert json.loads((host.run / "tasks" / task.id / "exit-app.json").read_text())["exitCode"] == 5
    directory = host.state / "exits" / task.id
    assert json.loads((directory / "exit-app.json").read_text())["exitCode"] == 5
    assert stat.S_IMODE(directory.stat().st_mode) == 0o2750
    assert (directory / "exit-app.json").stat().st_gid == (host.state / "exits").stat().st_gid


def test_sigterm_stops_in_the_order_that_was_told(host, task):
    """Each with its own timeout; what depends on others first; nothing starts any more."""
    note = "trap 'usleep 200000; exit 3' TERM; echo on; while :; do usleep 20000; done"
    for name in ("db", "cache", "app"):
        task.create(["/bin/sh", "-c", note], name=name)
        task.call("start", container=name)
    task.create(["/bin/sh", "-c", "trap '' TERM; echo on; while :; do usleep 20000; done"], name="deaf")
    task.call("start", container="deaf")
    task.create(["/bin/true"], name="idle")
    task.create(["/bin/sh", "-c", "exit 9"], name="done")
    task.call("start", container="done")
    assert task.connection.event("exited", "done")["exitCode"] == 9
    wait_for(lambda: all(task.output(name) == "on\n" for name in ("db", "cache", "app", "deaf")))
    with pytest.raises(RequestError, match="name"):
        task.call("stop-order", containers=[{"after": []}])
    with pytest.raises(RequestError, match="after"):
        task.call("stop-order", containers=[{"name": "db", "after": [1]}])
    task.call("stop-order", containers=[
        {"name": "db", "timeoutUsec": 30000000, "after": ["cache", "app", "unknown"]},
        {"name": "cache", "timeoutUsec": 30000000, "after": ["app"]},
        {"name": "app", "timeoutUsec": 30000000, "after": []},
        {"name": "deaf", "timeoutUsec": 100000},
    ])  # fmt: skip
    os.kill(task.pid, signal.SIGTERM)
    order = {}
    for name, code in (("app", 3), ("cache", 3), ("db", 3), ("deaf", 137)):
        event = task.connection.event("exited", name)
        assert event["exitCode"] == code
        order[name] = event["time"]
    assert order["app"] < order["cache"] < order["db"]
    assert task.process.wait(30) == 0
    kept = {p.name: json.loads(p.read_text())["exitCode"] for p in (host.state / "exits" / task.id).iterdir()}
    assert kept == {"exit-app.json": 3, "exit-cache.json": 3, "exit-db.json": 3, "exit-deaf.json": 137,
                    "exit-done.json": 9}  # fmt: skip


def test_a_circular_stop_order_stops_all_the_same(task):
    for name in ("a", "b"):
        task.create(["/bin/sh", "-c", "trap 'exit 4' TERM; echo on; while :; do usleep 20000; done"], name=name)
        task.call("start", container=name)
    wait_for(lambda: task.output("a") == task.output("b") == "on\n")
    task.call("stop-order", containers=[{"name": "a", "after": ["b"]}, {"name": "b", "after": ["a"]}])
    os.kill(task.pid, signal.SIGTERM)
    assert task.connection.event("exited", "a")["exitCode"] == 4
    assert task.connection.event("exited", "b")["exitCode"] == 4
    assert task.process.wait(30) == 0


def test_nothing_starts_while_the_host_shuts_down(task):
    task.create(["/bin/sh", "-c", "trap '' TERM; echo on; while :; do usleep 20000; done"])
    task.create(["/bin/true"], name="late")
    task.call("start", container="app")
    wait_for(lambda: task.output() == "on\n")
    task.call("stop-order", containers=[{"name": "late", "after": ["app"]}])
    os.kill(task.pid, signal.SIGTERM)

    def refused():
        try:
            task.call("create", container={})
        except RequestError as error:
            return "shut down" in str(error)
        return False

    wait_for(refused)
    with pytest.raises(RequestError, match="shut down"):
        task.call("start", container="late")
    task.call("stop", container="app", timeoutUsec=0)
    assert task.connection.event("exited", "app")["exitCode"] == 137
    assert task.process.wait(30) == 0
