"""A node as a whole: what its daemons may do, where its keys come from, a second one beside it."""

import contextlib
import errno
import os
import pathlib
import queue
import signal
import socket
import subprocess
import threading
import time

import pytest
from controlplane.client import StandInError, wait_for
from harness import images
from harness.node import Node, programs_dir
from harness.taskdef import container, task
from syscall_in import EXECVE, GETPID, KEYCTL, MOUNT, PTRACE, UNSHARE, syscall_in


def status_of(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@pytest.mark.parametrize("daemon", ["agent", "metadata", "logs"])
def test_a_daemon_has_given_up_all_privileges_and_cannot_get_them_back(node, daemon):
    pid = node.pid(daemon)
    status = status_of(pid)
    assert status["Uid"].split() != ["0"] * 4
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    assert syscall_in(pid, GETPID) == pid
    for number in (EXECVE, PTRACE, MOUNT, UNSHARE, KEYCTL):
        assert syscall_in(pid, number) == -errno.EPERM, number


def test_instance_credentials_come_from_imds(busybox):
    config = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None, "AWS_DEFAULT_REGION": None}
    with Node(config) as node:
        arn = node.standin.run_task(task(container(busybox, "exit 8")))
        assert node.standin.wait_task(arn, "STOPPED")["containers"][0]["exitCode"] == 8
        assert node.standin.calls("imds")
        node.standin.assert_no_violations()


def test_a_stand_in_that_does_not_start_says_why():
    with pytest.raises(StandInError, match="unrecognized arguments: --no-such-option"):
        Node(standin_options={"no_such_option": "1"})


def test_a_second_instance_runs_beside_the_first(node, busybox):
    with Node({"ECS_BRIDGE_SUBNET": "172.30.0.0/16"}) as other:
        arns = {}
        for each in (node, other):
            arns[each] = each.standin.run_task(
                task(container(busybox, "trap 'exit 0' TERM; while :; do usleep 50000; done"))
            )
        for each in (node, other):
            each.standin.wait_task(arns[each], "RUNNING")
        other.standin.stop_task(arns[other])
        other.standin.wait_task(arns[other], "STOPPED")
        assert node.task_processes(arns[node])
    node.standin.stop_task(arns[node])
    found = node.standin.wait_task(arns[node], "STOPPED")
    assert found["containers"][0]["exitCode"] == 0


def network_pids(node):
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"ecs-network") and str(node.run).encode() in words:
            found.append(int(path.parent.name))
    return found


def test_killing_ecs_network_again_and_again_only_delays(node, busybox):
    definition = task(
        container(busybox, "exit 3", logs=None, portMappings=[{"containerPort": 80, "hostPort": 0}])
    )
    arns = node.standin.run_tasks(definition, count=12)
    killed = 0

    def ended():
        nonlocal killed
        if killed < 5:  # each one may double the wait before the next
            for pid in network_pids(node):
                try:
                    os.kill(pid, 9)
                    killed += 1
                except ProcessLookupError:
                    pass
        return all(t["lastStatus"] == "STOPPED" for t in node.standin.tasks())

    wait_for(ended, 120, lambda: f"{[t['lastStatus'] for t in node.standin.tasks()]}")
    assert killed
    for arn in arns:
        one = node.standin.task(arn)["containers"][0]
        assert one.get("exitCode") == 3 or "ContainerNetworkingError" in one.get("reason", ""), one
    arn = node.standin.run_task(definition)
    assert node.standin.wait_task(arn, "STOPPED")["containers"][0]["exitCode"] == 3
    node.wait_clean()


def test_check_config_names_value_and_source_of_each_setting(tmp_path):
    agent = programs_dir() / "ecs-agent"
    if not agent.exists():
        pytest.skip(f"ecs-agent is not installed in {programs_dir()} (ECS_PROGRAMS)")
    config = tmp_path / "ecs.config"
    config.write_text(
        "ECS_CLUSTER=blue\nAWS_SECRET_ACCESS_KEY=CANARY\nECS_ENABLE_GPU_SUPPORT=true\n"
    )
    run = subprocess.run(
        [str(agent), "--check-config", "--config", str(config)],
        env={"ECS_CONTAINER_STOP_TIMEOUT": "5s", "PATH": "/usr/bin"}, capture_output=True, text=True,
    )  # fmt: skip
    text = run.stdout + run.stderr
    lines = [line for line in text.splitlines() if "ECS_CLUSTER=blue" in line]
    assert lines and "ecs.config" in lines[0], text
    assert any("ECS_CONTAINER_STOP_TIMEOUT=5s" in line and "environment" in line for line in text.splitlines()), text
    assert "ECS_ENABLE_GPU_SUPPORT" in text and "does not support" in text, text
    assert "CANARY" not in text


def test_bad_settings_are_refused_by_name(tmp_path):
    agent = programs_dir() / "ecs-agent"
    if not agent.exists():
        pytest.skip(f"ecs-agent is not installed in {programs_dir()} (ECS_PROGRAMS)")
    for line, word in (
        ("ECS_INSTANCE_ATTRIBUTES={", "ECS_INSTANCE_ATTRIBUTES"),
        ('ECS_AVAILABLE_LOGGING_DRIVERS=["carrier-pigeon"]', "carrier-pigeon"),
        ("ECS_BRIDGE_SUBNET=banana", "banana"),
        ("ECS_USERNS_REMAP=no-such-name", "a line such as no-such-name:100000:65536"),
    ):
        config = tmp_path / "ecs.config"
        config.write_text(line + "\n")
        run = subprocess.run(
            [str(agent), "--check-config", "--config", str(config)],
            env={"PATH": "/usr/bin"}, capture_output=True, text=True,
        )  # fmt: skip
        assert run.returncode != 0, line
        assert word in run.stdout + run.stderr, run.stdout + run.stderr


def test_a_host_that_cannot_remap_users_is_warned_of(tmp_path):
    config = tmp_path / "ecs.config"
    config.write_text("ECS_USERNS_REMAP=100000:65536\n")
    for wrapper, word in (
        (["setarch", os.uname().machine, "--uname-2.6"], "this is Linux 2.6."),
        (["unshare", "--user", "--map-root-user", "sh", "-c", "echo 0 >/proc/sys/user/max_user_namespaces; exec \"$@\"", "-"],
         "user.max_user_namespaces must be more than 0"),
    ):  # fmt: skip
        ran = subprocess.run(
            [*wrapper, programs_dir() / "ecs-agent", "--check-config", "--config", config],
            env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "ECS_USERNS_REMAP=100000:65536  (ecs.config line 1)\n" in ran.stdout
        assert "warning: ECS_USERNS_REMAP" in ran.stdout and word in ran.stdout


@contextlib.contextmanager
def small_disk(node):
    """Its state directory is on a file system of 64 MiB; all that runs is ended in the end."""
    node.state.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "ecs-test", str(node.state)], check=True
    )
    try:
        yield
    finally:
        for daemon in ("agent", "logs", "metadata", "launcher"):
            if daemon in node.processes:
                node.kill(daemon, 15)
        node.kill_tasks()
        subprocess.run(["umount", "-l", str(node.state)], check=True)


def test_a_deployment_of_ever_new_images_does_not_fill_the_disk(registry, tmp_path):
    """Each has a new image of a quarter of the disk; those of tasks that have ended make room, though
    these are remembered for hours."""
    with Node(start=False) as node, small_disk(node):
        node.start()

        def push(n):
            reference = f"{registry.host}/loop:{n}"
            images.push_busybox(tmp_path, reference, {"big": (os.urandom(16 << 20), 0o644)})
            return reference

        keeper = push(0)
        kept = node.standin.run_task(
            task(container(keeper, "trap 'exit 42' TERM; while :; do usleep 50000; done", logs=None))
        )
        node.standin.wait_task(kept, "RUNNING")
        for n in range(1, 8):
            arn = node.standin.run_task(task(container(push(n), f"[ -s /big ] && exit {n}", logs=None)))
            found = node.standin.wait_task(arn, "STOPPED", 60)
            assert found["containers"][0].get("exitCode") == n, found
        listed = subprocess.run(
            [str(programs_dir() / "ecs-image"), "--state-dir", str(node.state), "--runtime-dir", str(node.run),
             "--config", str(node.config_path), "ls"],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert keeper in listed, listed
        node.standin.stop_task(kept)
        assert node.standin.wait_task(kept, "STOPPED")["containers"][0]["exitCode"] == 42


def test_a_full_disk_stops_nothing_for_good(busybox):
    """A task that has filled the disk ends and makes room; state that cannot be written is not
    acknowledged; when there is room again it all goes on."""
    with Node(start=False, standin_options={"resend_seconds": 3}) as node:
        with small_disk(node):
            node.start()
            running = node.standin.run_task(
                task(container(busybox, "trap 'exit 42' TERM; while :; do usleep 50000; done", logs=None))
            )
            node.standin.wait_task(running, "RUNNING")
            hog = node.standin.run_task(task(container(busybox, "dd if=/dev/zero of=/x bs=1M; exit 7", logs=None)))
            assert node.standin.wait_task(hog, "STOPPED", 60)["containers"][0]["exitCode"] == 7
            filler = node.state / "filler"
            with open(filler, "wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(65536))
                except OSError as error:
                    assert error.errno == errno.ENOSPC
            arn = node.standin.run_task(task(container(busybox, "exit 7", logs=None)))
            wait_for(
                lambda: len([e for e in node.standin.task(arn)["timeline"] if e["event"] == "payload-sent"]) > 1
                or node.standin.task(arn)["lastStatus"] == "STOPPED",
                60, "the payload was not sent again",
            )  # fmt: skip
            assert node.processes["agent"].poll() is None
            filler.unlink()
            found = node.standin.wait_task(arn, "STOPPED", 60)
            one = found["containers"][0]
            assert one.get("exitCode") == 7 or "No space left" in one.get("reason", "") + str(found["stoppedReason"]), one
            again = node.standin.run_task(task(container(busybox, "exit 9", logs=None)))
            assert node.standin.wait_task(again, "STOPPED", 60)["containers"][0]["exitCode"] == 9
            node.standin.stop_task(running)
            assert node.standin.wait_task(running, "STOPPED")["containers"][0]["exitCode"] == 42
            own = f"mount ecs-test {node.state} "
            wait_for(
                lambda: all(left.startswith(own) for left in node.leftovers()), 30,
                lambda: f"left: {node.leftovers()}",
            )  # fmt: skip


def test_the_watchdog_is_fed_while_ecs_is_there_and_while_it_is_away(tmp_path):
    """As systemd would set it up; a stopped agent feeds nothing."""
    path = tmp_path / "notify"
    beats = queue.SimpleQueue()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        tmp_path.chmod(0o755)
        for parent in tmp_path.parents[:3]:
            parent.chmod(parent.stat().st_mode | 0o011)
        path.chmod(0o777)

        def read():
            # Like systemd always ready to read: a full socket would hold the agent up.
            while message := manager.recv(4096):
                for _ in range(message.decode().split("\n").count("WATCHDOG=1")):
                    beats.put(None)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            check_watchdog(path, beats)
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.sendto(b"", str(path))
            reader.join()


def check_watchdog(path, beats):
    def fed(times):
        for _ in range(times):
            beats.get(timeout=20)

    def drain():
        with contextlib.suppress(queue.Empty):
            while True:
                beats.get_nowait()

    with Node(start=False) as node:
        environment = node.environment
        node.environment = lambda daemon: environment(daemon) | (
            {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"} if daemon == "agent" else {}
        )
        node.start()
        fed(10)
        node.standin.fault("acs", "reset", "connect")
        node.standin.kill_acs(code=4000)
        wait_for(lambda: not node.standin.instance()["acsConnected"], 20, "ACS stays connected")
        drain()
        fed(10)
        os.kill(node.pid("agent"), signal.SIGSTOP)
        time.sleep(0.2)  # for what it sent before to be read
        drain()
        with pytest.raises(queue.Empty):
            beats.get(timeout=2)
        os.kill(node.pid("agent"), signal.SIGCONT)
        fed(1)


def test_more_memory_reserved_than_there_is_ends_the_agent_for_good():
    total = int(next(x for x in pathlib.Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in x).split()[1])
    if total // 1024 >= 65535:
        pytest.skip("this host has more memory than ECS_RESERVED_MEMORY can say")
    with Node({"ECS_RESERVED_MEMORY": "65535"}, start=False) as node:
        node.start(wait=False)
        assert node.processes.pop("agent").wait(timeout=30) == 5
        assert "ECS_RESERVED_MEMORY" in node.log_path("agent").read_text()


@pytest.mark.parametrize("error, code", [("AccessDeniedException", 1), ("InvalidParameterException", 5)])
def test_a_refused_registration_is_tried_again_by_the_service_manager_where_that_can_help(error, code):
    with Node(start=False) as node:
        node.standin.fault("ecs", "status", "RegisterContainerInstance", status=400, error=error)
        node.start(wait=False)
        assert node.processes.pop("agent").wait(timeout=30) == code
