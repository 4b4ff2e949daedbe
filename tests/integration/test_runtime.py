"""ecs-task runs containers: how they run and end, what is refused, where their output goes."""

import contextlib
import json
import os
import select
import signal
import stat
from pathlib import Path

import pytest

from builddir import needs_root
from runtime import RequestError, Task, fields, lines
from waiting import wait_for

pytestmark = needs_root


# --- running and ending


def test_output_exit_code_and_times_are_reported(task):
    event = task.run(["/bin/sh", "-c", "echo out; echo err >&2; exit 7"])
    assert event["exitCode"] == 7
    assert "signal" not in event and event["oomKilled"] is False
    assert task.output() == "out\n"
    assert task.output(stream=2) == "err\n"
    (state,) = task.call("state")["containers"]
    assert (state["status"], state["exitCode"]) == ("stopped", 7)
    assert state["startedTime"] <= state["exitTime"] == event["time"]


def test_an_exit_is_on_disk_for_the_agent_before_it_is_sent(host, task):
    event = task.run(["/bin/false"])
    path = host.run / "tasks" / task.id / "exit-app.json"
    assert json.loads(path.read_text()) == event
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o2750


@pytest.mark.parametrize("name", ["TERM", "KILL", "USR1", "ABRT"])
def test_a_signal_counts_as_128_plus_n(task, name):
    number = getattr(signal, f"SIG{name}")
    # Process 1 is not killed by its own signals, so a parent outside it must send them.
    task.create(["/bin/sh", "-c", f"trap 'exit {128 + number}' {name}; sleep 1000 & wait"]
                if name != "KILL" else ["/bin/sleep", "1000"])
    pid = task.call("start", container="app")["pid"]
    if name != "KILL":
        wait_for(lambda: int(fields(Path(f"/proc/{pid}/status").read_text(), "SigCgt")[0], 16)
                 & 1 << (number - 1), what="the trap")
    os.kill(pid, number)
    event = task.connection.event("exited")
    assert event["exitCode"] == 128 + number
    if name == "KILL":
        assert event["signal"] == number and event["oomKilled"] is False


@pytest.mark.parametrize("args, code, message", [
    (["nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
    (["/nosuch"], 127, 'exec: "/nosuch": stat /nosuch: no such file or directory'),
    (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
    (["/etc"], 126, 'exec: "/etc": is a directory'),
])
def test_a_command_that_cannot_run_is_named(task, args, code, message):
    task.create(args)
    with pytest.raises(RequestError) as error:
        task.call("start", container="app")
    assert error.value.name == "CannotStartContainerError"
    assert error.value.message == message
    assert error.value.exit_code == code
    assert error.value.body["container"] == "app"
    (state,) = task.call("state")["containers"]
    assert (state["status"], state["exitCode"]) == ("stopped", code)


def test_a_program_that_is_no_program_is_not_executable(host, task):
    def fill(path):
        (path / "bin").mkdir()
        (path / "bin/text").write_bytes(b"\x00\x01no program")
        (path / "bin/text").chmod(0o755)
        (path / "bin/script").write_text("#!/no/interpreter\n")
        (path / "bin/script").chmod(0o755)

    layers = [host.busybox_layer(), host.layer(fill)]
    for name, code in (("text", 126), ("script", 127)):
        task.create([name], name=name, layers=layers)
        with pytest.raises(RequestError) as error:
            task.call("start", container=name)
        assert error.value.exit_code == code, error.value


def test_stop_sends_the_stop_signal_and_then_kills(task):
    task.create(["/bin/sh", "-c", "trap 'exit 3' USR1; echo ready; while :; do sleep 1000 & wait; done"],
                name="polite", stopSignal="SIGUSR1")
    task.create(["/bin/sh", "-c", "trap '' TERM; echo ready; sleep 1000"], name="deaf")
    for name in ("polite", "deaf"):
        task.call("start", container=name)
        wait_for(lambda: task.output(name) == "ready\n")

    assert task.call("stop", container="polite", timeoutUsec=30_000_000)["type"] == "stopping"
    assert task.connection.event("exited", "polite")["exitCode"] == 3

    task.call("stop", container="deaf", timeoutUsec=30_000_000)
    task.call("stop", container="deaf", timeoutUsec=1000)  # the shorter one counts
    event = task.connection.event("exited", "deaf")
    assert (event["exitCode"], event["signal"]) == (137, signal.SIGKILL)


def test_a_container_that_never_ran_stops_without_an_exit_code(task):
    task.create(["/bin/true"])
    task.call("stop", container="app")
    assert "exitCode" not in task.connection.event("exited")
    with pytest.raises(RequestError, match="started already"):
        task.call("start", container="app")


def test_everything_of_a_container_ends_with_its_first_process(task):
    task.create(["/bin/sh", "-c", "setsid sleep 1000 & setsid sleep 1001 & echo on; read x < /tmp/f"])
    task.call("start", container="app")
    task.output  # noqa: B018
    path = task.cgroup_paths("app")[0] / "cgroup.procs"
    # "read" fails at once: the shell ends with its children alive.
    task.connection.event("exited")
    assert path.read_text() == ""


def test_an_oom_kill_is_told_from_other_kills(task):
    eat = ["/bin/sh", "-c", "exec tail -c 200000000 /dev/zero"]
    limit = {"linux": {"resources": {"memory": {"limit": 16 << 20, "swap": 16 << 20}}}}
    event = task.run(eat, config=limit)
    assert (event["exitCode"], event["oomKilled"]) == (137, True)
    assert task.call("state")["containers"][0]["oomKilled"] is True


def test_an_oom_kill_of_a_child_that_the_program_survives_is_not_reported(task):
    script = "tail -c 200000000 /dev/zero; echo survived; exit 0"
    limit = {"linux": {"resources": {"memory": {"limit": 16 << 20, "swap": 16 << 20}}}}
    event = task.run(["/bin/sh", "-c", script], config=limit)
    assert (event["exitCode"], event["oomKilled"]) == (0, False)
    assert task.output() == "survived\n"


def test_two_containers_run_side_by_side(task):
    for name in ("one", "two"):
        task.create(["/bin/sh", "-c", f"echo {name} > /mine; cat /mine; sleep 1000"], name=name)
        task.call("start", container=name)
    wait_for(lambda: task.output("one") == "one\n" and task.output("two") == "two\n")
    task.call("stop", container="one", timeoutUsec=0)
    task.connection.event("exited", "one")
    states = {c["name"]: c["status"] for c in task.call("state")["containers"]}
    assert states == {"one": "stopped", "two": "running"}
    with pytest.raises(RequestError) as error:
        task.call("end")
    assert error.value.code == "EBUSY"


def test_a_container_made_with_restart_keeps_its_files_and_its_log(task):
    task.create(["/bin/sh", "-c", "echo x >> /count; wc -l < /count; exit 4"], restart=True)
    end = task.host.state / "spool" / task.id / "app/end"
    for _ in range(3):
        task.call("start", container="app")
        assert task.connection.event("exited")["exitCode"] == 4
        assert not end.exists()
    assert lines(task.output()) == ["1", "2", "3"]
    task.call("end")
    assert end.exists()


def test_a_restart_is_told_with_what_a_policy_needs_and_keeps_the_network(host):
    """One start is without "network": the files and the namespace are those of before."""
    task = Task(host, network="bridge")
    task.create(["/bin/sh", "-c", "cat /etc/hosts | tail -n 2; readlink /proc/self/ns/net; sleep 0.2"], restart=True,
                config={"hostname": "web-1"}, linkedHosts=["172.29.0.9 db 0123456789ab ecs-db"])
    for fd in task.connection.take_fds():
        os.close(fd)
    network = {"address": "172.29.0.5", "prefix": 16, "gateway": "172.29.0.1"}
    for n in range(2):
        assert task.call("start", container="app", **({} if n else {"network": network}))["restarts"] == n
        event = task.connection.event("exited")
        (state,) = task.call("state")["containers"]
        assert 200_000 <= event["ranUsec"] == state["ranUsec"] and state.get("restarts", 0) == n
    first, second = lines(task.output())[:3], lines(task.output())[3:]
    assert first == second
    assert first[:2] == ["172.29.0.9\tdb 0123456789ab ecs-db", "172.29.0.5\tweb-1"]


def test_without_restart_a_second_start_is_refused(task):
    task.run(["/bin/true"])
    with pytest.raises(RequestError, match="started already"):
        task.call("start", container="app")


def test_init_collects_orphans_and_passes_signals_on(task):
    script = ("sh -c 'sleep 0.01 &' ; trap 'exit 9' TERM; echo $$ $(cat /proc/1/comm);"
              " while :; do sleep 1000 & wait; done")
    task.create(["/bin/sh", "-c", script], init=True)
    task.call("start", container="app")
    wait_for(lambda: task.output())
    assert task.output() == "2 init\n"
    processes = task.cgroup_paths("app")[0] / "cgroup.procs"

    def zombies():
        states = []
        for pid in processes.read_text().split():
            with contextlib.suppress(OSError):
                states.append(fields(Path(f"/proc/{pid}/status").read_text(), "State")[0][0])
        return states.count("Z")

    wait_for(lambda: zombies() == 0)
    task.call("stop", container="app", timeoutUsec=30_000_000)
    assert task.connection.event("exited")["exitCode"] == 9


# --- refusals


@pytest.mark.parametrize("changes, message", [
    ({"config": {"process": {"terminal": 1}}}, "terminal"),
    ({"config": {"process": {"consoleSize": {"height": 70000, "width": 1}}}}, "consoleSize"),
    ({"config": {"process": {"selinuxLabel": "x"}}}, "process.selinuxLabel is"),
    ({"config": {"linux": {"seccomp": {}}}}, "linux.seccomp is not supported"),
    ({"config": {"hooks": {}}}, "config.hooks is not supported"),
    ({"config": {"process": {"args": []}}}, "no command specified"),
    ({"config": {"process": {"cwd": "x/y"}}}, "absolute path"),
    ({"config": {"process": {"cwd": "/a/../../b"}}}, "must not contain"),
    ({"config": {"process": {"capabilities": {"inheritable": ["CAP_CHOWN"]}}}}, "inheritable"),
    ({"config": {"process": {"capabilities": {"ambient": ["CAP_CHOWN"]}}}}, "ambient"),
    ({"config": {"process": {"capabilities": {"bounding": ["CAP_NONE"]}}}}, "CAP_NONE"),
    ({"config": {"process": {"rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}}}, "RLIMIT_X"),
    ({"config": {"linux": {"sysctl": {"kernel.core_pattern": "|/x"}}}}, "kernel.core_pattern"),
    ({"config": {"linux": {"sysctl": {"net.ipv4.ip_forward": "1"}}}}, "in host network mode"),
    ({"config": {"mounts": [{"destination": "/x", "type": "overlay", "source": "/"}]}}, "overlay"),
    ({"config": {"mounts": [{"destination": "/x", "type": "bind", "source": "/", "options": ["z"]}]}},
     'option "z"'),
    ({"seccomp": "my-profile"}, "my-profile"),
    ({"seccomp": {"path": "my-profile"}}, "seccomp.path"),
    ({"stopSignal": "SIGNOPE"}, "SIGNOPE"),
    ({"domainname": "two words"}, 'domainname is "two words"'),
    ({"domainname": "d" * 52}, "at most 64"),
    ({"id": "zz"}, "container.id"),
    ({"name": "../x"}, "container.name"),
    ({"layers": ["../../etc"]}, "64 hex digits"),
    ({"layers": ["0" * 64]}, "image layer"),
    ({"surprise": 1}, "container.surprise is not supported"),
    ({"log": {"mode": "sometimes"}}, "log.mode"),
])
def test_what_is_wrong_or_unknown_is_refused_by_name(task, changes, message):
    with pytest.raises(RequestError) as error:
        task.create(["/bin/true"], **changes)
    assert message in error.value.message
    assert error.value.name == "CannotCreateContainerError"
    assert task.call("state")["containers"] == []
    for path in task.cgroup_paths(changes.get("name", "app")):
        if path.name != "supervisor":
            assert not path.exists()


def test_requests_out_of_order_are_refused(host, task):
    with pytest.raises(RequestError, match="set up already"):
        task.call("setup", task={"networkMode": "host"})
    with pytest.raises(RequestError, match="no container"):
        task.call("start", container="nobody")
    with pytest.raises(RequestError, match="unknown request"):
        task.call("reboot")
    task.create(["/bin/true"])
    with pytest.raises(RequestError, match="exists already"):
        task.create(["/bin/true"])


def test_a_create_whose_answer_was_lost_is_answered_again(task):
    container = task.spec(["/bin/sh", "-c", "echo once"])
    task.call("create", container=container)
    task.reconnect()
    again = task.call("create", container=container)
    assert again["container"] == "app" and again["cgroupId"]
    task.call("start", container="app")
    assert task.connection.event("exited", "app")["exitCode"] == 0
    assert task.output("app") == "once\n"
    with pytest.raises(RequestError, match="exists already"):
        task.call("create", container=container)


# --- the spool


def test_much_output_arrives_whole_and_in_order(task):
    event = task.run(["/bin/sh", "-c", "seq 1 200000; echo end >&2"])
    assert event["exitCode"] == 0
    assert task.output() == "".join(f"{n}\n" for n in range(1, 200001))
    directory = task.host.state / "spool" / task.id / "app"
    assert (directory / "end").exists()
    log = json.loads((directory / "log.json").read_text())
    assert (log["driver"], log["taskId"]) == ("awslogs", task.id)
    segments = sorted(directory.glob("*.seg"))
    assert len(segments) > 1 and all(s.stat().st_size <= 1 << 20 for s in segments)
    assert stat.S_IMODE(segments[0].stat().st_mode) == 0o640


def test_blocking_mode_stops_the_program_until_there_is_room(task):
    bound = 256 * 1024
    task.create(["/bin/sh", "-c", "head -c 3000000 /dev/zero; echo over >&2"],
                log={"maxBytes": bound})
    task.call("start", container="app")
    directory = task.host.state / "spool" / task.id / "app"

    def segments():
        return sorted(directory.glob("*.seg"))

    wait_for(lambda: sum(s.stat().st_size for s in segments()) >= bound, what="the bound")
    assert task.call("state")["containers"][0]["status"] == "running"
    assert sum(s.stat().st_size for s in segments()) < bound + 2 * 65536 + 4096

    total = 0
    while total < 3000000 or not (directory / "end").exists():
        found = segments()
        complete = found if (directory / "end").exists() else found[:-1]
        for segment in complete:
            data = segment.read_bytes()
            while data:
                length, stream = int.from_bytes(data[4:8], "little"), data[12]
                assert stream in (1, 2)
                total += length if stream == 1 else 0
                data = data[24 + length :]
            segment.unlink()
        select.select([], [], [], 0.005)
    assert total == 3000000
    assert task.connection.event("exited")["exitCode"] == 0


def test_non_blocking_mode_drops_counts_and_leaves_a_gap(task):
    bound = 256 * 1024
    task.create(["/bin/sh", "-c", "head -c 3000000 /dev/zero; echo over >&2; sleep 1000"],
                log={"maxBytes": bound, "mode": "non-blocking"})
    task.call("start", container="app")
    directory = task.host.state / "spool" / task.id / "app"
    dropped = task.connection.event("dropped")
    assert dropped["container"] == "app" and dropped["records"] > 0
    wait_for(lambda: len(list(directory.glob("*.seg"))) > 1)
    for segment in sorted(directory.glob("*.seg"))[:-1]:
        segment.unlink()
    task.call("stop", container="app", timeoutUsec=0)
    task.connection.event("exited")
    gaps = [data for stream, data in task.records() if stream == 3]
    totals = [int.from_bytes(gap[8:16], "little") for gap in gaps]
    written = sum(len(data) for stream, data in task.records() if stream == 1)
    assert gaps and sum(totals) + written <= 3000005
    assert sum(totals) > 1000000


def test_driver_none_discards(task):
    event = task.run(["/bin/sh", "-c", "echo lost; readlink /proc/self/fd/1"], log={"driver": "none"})
    assert event["exitCode"] == 0
    assert not (task.host.state / "spool" / task.id).exists()


def test_a_pipe_that_another_container_holds_does_not_delay_the_exit(host, task):
    shared = host.base / "shared"
    shared.mkdir()
    os.mkfifo(shared / "fifo")
    mounts = [{"destination": "/s", "type": "bind", "source": str(shared), "options": []}]
    # The second container opens the first one's pipe by way of its own /proc: not possible across
    # pid namespaces, so it is handed over by descriptor through the host.
    task.create(["/bin/sh", "-c", "echo hello; read x < /s/fifo"], config={"mounts": mounts})
    pid = task.call("start", container="app")["pid"]
    held = os.open(f"/proc/{pid}/fd/1", os.O_WRONLY)
    try:
        (shared / "fifo").open("w").close()
        assert task.connection.event("exited")["type"] == "exited"
        assert task.output() == "hello\n"
    finally:
        os.close(held)
