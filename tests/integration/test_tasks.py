"""Tasks from assignment to STOPPED on a whole node, and what a user meets first when it fails."""

import signal
import socket
import urllib.request

import pytest
from controlplane.client import wait_for
from harness.taskdef import container, task


def only(found):
    """The only container of a task as the control plane knows it."""
    assert len(found["containers"]) == 1
    return found["containers"][0]


def run_to_end(node, definition, timeout=60):
    arn = node.standin.run_task(definition)
    return node.standin.wait_task(arn, "STOPPED", timeout)


def wait_log(node, predicate, group="g", timeout=60):
    return wait_for(
        lambda: predicate(node.logs(group)) and node.logs(group), timeout,
        lambda: f"log is {node.logs(group)}",
    )  # fmt: skip


def test_a_task_runs_logs_and_reports_its_exit_code(node, busybox):
    found = run_to_end(node, task(container(busybox, "echo hello; echo there >&2; exit 3")))
    assert only(found)["exitCode"] == 3
    assert [e["status"] for e in found["timeline"] if e["event"] == "state-change"][-1] == "STOPPED"
    lines = wait_log(node, lambda lines: len(lines) == 2)
    assert sorted(lines) == ["hello", "there"]
    node.wait_clean()


def test_containers_of_a_task_share_nothing_they_should_not(node, busybox):
    script = "hostname; id -u; ls /proc | grep -c '^[0-9]'; cat /proc/self/status | grep -E 'CapEff|Seccomp:'"
    run_to_end(node, task(container(busybox, script)))
    lines = wait_log(node, lambda lines: len(lines) == 5)
    assert len(lines[0]) == 12
    assert "CapEff:\t00000000a80425fb" in lines
    assert "Seccomp:\t2" in lines


@pytest.mark.parametrize("signal_name,code", [("KILL", 137), ("TERM", 143)])
def test_an_end_by_signal_is_128_plus_n(node, busybox, signal_name, code):
    # As pid 1 a shell is not killed by its own signals, so a child of it ends in its place.
    script = f"sh -c 'kill -{signal_name} $$'; exit $?"
    assert only(run_to_end(node, task(container(busybox, script))))["exitCode"] == code


def test_command_not_found_is_127_with_the_ecs_reason(node, busybox):
    found = run_to_end(node, task(container(busybox, ["nosuchcommand"])))
    assert only(found)["exitCode"] == 127
    assert only(found)["reason"].startswith("CannotStartContainerError: ")
    assert "nosuchcommand" in only(found)["reason"]
    node.wait_clean()


def test_a_file_that_is_not_executable_is_126(node, busybox):
    found = run_to_end(node, task(container(busybox, ["/etc/not-executable"])))
    assert only(found)["exitCode"] == 126
    assert only(found)["reason"].startswith("CannotStartContainerError: ")


def test_an_image_that_is_not_there_is_named(node, registry):
    found = run_to_end(node, task(container(f"{registry.host}/absent:1")))
    assert only(found)["reason"].startswith(("CannotPullContainerError: ", "CannotPullImageManifestError: "))
    assert "absent" in only(found)["reason"]
    assert "exitCode" not in only(found)


def test_oom_kill_is_reported_truthfully(node, busybox):
    # A single process that takes more than its limit of 64 MiB.
    found = run_to_end(node, task(container(busybox, ["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"])))
    assert only(found)["exitCode"] == 137
    assert only(found)["reason"] == "OutOfMemoryError: Container killed due to memory usage"


def test_programs_see_the_memory_limit_of_their_task(node, busybox):
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; exit 0"
    definition = task(container(busybox, script, memoryReservation=8), memory="96")
    del definition["containerDefinitions"][0]["memory"]
    assert only(run_to_end(node, definition))["exitCode"] == 0
    lines = wait_log(node, lambda lines: len(lines) == 2)
    assert [line for line in lines if "cat: can't open" not in line] == [str(96 << 20)]


def test_the_end_of_an_essential_container_stops_the_others(node, busybox):
    definition = task(
        container(busybox, "sleep 0.5; exit 7", name="main"),
        container(busybox, "trap 'exit 9' TERM; while :; do sleep 0.1; done", name="side", essential=False),
    )
    found = run_to_end(node, definition)
    codes = {c["name"]: c["exitCode"] for c in found["containers"]}
    assert codes == {"main": 7, "side": 9}


def test_a_container_that_ignores_sigterm_is_killed_after_its_timeout(node, busybox):
    definition = task(container(busybox, "trap '' TERM; echo up; while :; do sleep 0.1; done", stopTimeout=2))
    arn = node.standin.run_task(definition)
    node.standin.wait_task(arn, "RUNNING")
    wait_log(node, lambda lines: "up" in lines)
    node.standin.stop_task(arn)
    assert only(node.standin.wait_task(arn, "STOPPED"))["exitCode"] == 137
    node.wait_clean()


def test_a_dynamic_port_is_reported_and_answers(node, busybox):
    definition = task(
        container(busybox, "echo hi >/tmp/index.html; exec httpd -f -p 80 -h /tmp",
                  portMappings=[{"containerPort": 80, "hostPort": 0}], stopTimeout=2)
    )  # fmt: skip
    arn = node.standin.run_task(definition)
    found = node.standin.wait_task(arn, "RUNNING")
    binding = only(found)["networkBindings"][0]
    assert binding["containerPort"] == 80 and binding["protocol"] == "tcp"

    def answers():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{binding['hostPort']}/index.html", timeout=2) as r:
                return r.read() == b"hi\n"
        except OSError:
            return False

    wait_for(answers, 20, "the published port does not answer")
    node.standin.stop_task(arn)
    node.standin.wait_task(arn, "STOPPED")
    node.wait_clean()


def test_a_port_that_is_taken_is_named(node, busybox):
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = run_to_end(
            node, task(container(busybox, "sleep 60", portMappings=[{"containerPort": 80, "hostPort": port}]))
        )
    assert str(port) in only(found)["reason"]
    assert only(found)["reason"].split(":")[0] in ("CannotStartContainerError", "CannotCreateContainerError")
    node.wait_clean()


@pytest.mark.parametrize("mode", ["host", "none"])
def test_other_network_modes(node, busybox, mode):
    definition = task(container(busybox, "ip -o link | wc -l; exit 5"), network_mode=mode)
    assert only(run_to_end(node, definition))["exitCode"] == 5
    lines = wait_log(node, lambda lines: len(lines) == 1)
    assert (int(lines[0]) == 1) == (mode == "none")
    node.wait_clean()


def test_a_container_without_a_network_and_with_a_device(node, busybox):
    """Beside another that has one; ecs-agent itself need not see the device."""
    definition = task(
        container(busybox, "ip -o link | wc -l; (: >/dev/log/kmsg) && echo written; test -e /dev/kmsg || echo no more; exit 3",
                  name="alone", disableNetworking=True, essential=False,
                  linuxParameters={"devices": [{"hostPath": "/dev/kmsg", "containerPath": "/dev/log/kmsg", "permissions": ["write"]}]}),
        container(busybox, "test $(ip -o link | wc -l) = 2; exit $?",
                  dependsOn=[{"containerName": "alone", "condition": "COMPLETE"}]),
    )  # fmt: skip
    found = run_to_end(node, definition)
    assert {c["name"]: c.get("exitCode") for c in found["containers"]} == {"alone": 3, "app": 0}
    lines = wait_log(node, lambda lines: len(lines) == 3)
    assert lines == ["1", "written", "no more"]


def test_dependencies_are_started_in_order(node, busybox):
    definition = task(
        container(busybox, "echo first; exit 0", name="init", essential=False),
        container(busybox, "echo second", name="app",
                  dependsOn=[{"containerName": "init", "condition": "SUCCESS"}]),
    )  # fmt: skip
    run_to_end(node, definition)
    lines = wait_log(node, lambda lines: len(lines) == 2)
    events = sorted(node.log_events("g"), key=lambda e: e["timestamp"])
    assert [e["message"] for e in events] == ["first", "second"], lines


def test_a_linked_container_is_found_by_its_names_and_variables(node, busybox):
    ask = ("until wget -q -O - http://store/i; do usleep 50000; done; wget -q -O - http://$STORE_PORT_80_TCP_ADDR/i; echo $STORE_PORT $STORE_ENV_A;"
           " grep store /etc/hosts; wget -q -O - $ECS_CONTAINER_METADATA_URI_V4/task | grep -o 'ecs-test-[0-9]*-db-[0-9a-f]*'")
    definition = task(
        container(busybox, ask, name="app", links=["db:store"]),
        container(busybox, "echo hi >/tmp/i; exec httpd -f -p 80 -h /tmp", name="db", stopTimeout=2,
                  portMappings=[{"containerPort": 80}], environment=[{"name": "A", "value": "it is"}]),
    )  # fmt: skip
    found = run_to_end(node, definition)
    assert {c["name"]: c["exitCode"] for c in found["containers"]}["app"] == 0
    lines = wait_log(node, lambda lines: len(lines) == 5)
    port, hosts, name = lines[2].split(" ")[0], lines[3].split("\t"), lines[4]
    assert lines[:2] == ["hi", "hi"] and lines[2] == f"tcp://{hosts[0]}:80 it is"
    assert port.startswith("tcp://172.29.") and hosts[1] == f"store {name.rsplit('-', 1)[1][:12]} {name}"
    node.wait_clean()


def test_logs_of_a_container_that_begins_as_another_ends_are_delivered(node, busybox):
    """The spool of a task is removed with its last stream, and made again for the next container."""
    definition = task(
        container(busybox, "echo first", name="init", essential=False, memory=8, cpu=1),
        container(busybox, "echo second", memory=8, cpu=1,
                  dependsOn=[{"containerName": "init", "condition": "SUCCESS"}]),
    )  # fmt: skip
    for _ in range(2):
        for arn in node.standin.run_tasks(definition, count=20):
            node.standin.wait_task(arn, "STOPPED", 120)
    lines = wait_log(node, lambda lines: len(lines) == 80)
    assert sorted(lines) == ["first"] * 40 + ["second"] * 40


def test_a_malformed_task_is_stopped_with_its_reason_and_the_agent_goes_on(node, busybox):
    bad = {
        "arn": "arn:aws:ecs:us-west-2:111122223333:task/default/00000000000000000000000000000bad",
        "desiredStatus": "RUNNING", "family": "x", "version": "1",
        "containers": [{"name": "a", "image": busybox, "links": ["ghost"]}],
    }  # fmt: skip
    arn = node.standin.send_task(bad)
    found = node.standin.wait_task(arn, "STOPPED")
    assert "UnrecogniedTaskError: Error loading task - " in found["stoppedReason"]
    assert "links" in found["stoppedReason"]
    assert only(run_to_end(node, task(container(busybox, "exit 0"))))["exitCode"] == 0


def test_malformed_frames_do_not_end_the_agent(node, busybox):
    pid = node.pid("agent")
    for frame in ("", "{", "[]", '{"type":1}', '{"type":"PayloadMessage"}', '{"type":"PayloadMessage","message":{"tasks":1}}',
                  '{"type":"NoSuchMessage","message":{}}', "\x00", '{"type":"HeartbeatMessage","message":{"messageId":"a","messageId":"b"}}'):  # fmt: skip
        node.standin.send_frame(frame)
    assert only(run_to_end(node, task(container(busybox, "exit 0"))))["exitCode"] == 0
    assert node.pid("agent") == pid and node.processes["agent"].poll() is None


def test_stopping_the_agent_takes_no_time_and_leaves_tasks_running(node, busybox):
    arn = node.standin.run_task(task(container(busybox, "while :; do sleep 0.1; done", stopTimeout=2)))
    node.standin.wait_task(arn, "RUNNING")
    before = node.task_processes(arn)
    assert node.kill("agent", signal.SIGTERM) == 0
    assert node.task_processes(arn) >= {node.supervisor_pid(arn)}
    assert node.supervisor_pid(arn) in before
    node.start_daemon("agent")
    node.wait_connected()
    node.standin.stop_task(arn)
    node.standin.wait_task(arn, "STOPPED")
    node.wait_clean()


def test_mounts_and_limits_are_what_was_asked_for(node, busybox, tmp_path):
    """One container that says what it sees of what its definition asked for."""
    shared = node.base / "shared"
    shared.mkdir()
    (shared / "canary").write_text("from the host\n")
    script = (
        "cat /host/canary; (echo x >/host/new) 2>/dev/null && echo host-writable; "
        "grep ' /scratch ' /proc/mounts | grep -v noexec | grep -c nosuid; "
        "(echo x >/x) 2>/dev/null || echo root-readonly; ulimit -n; hostname; id -u; pwd; "
        "cat /proc/sys/net/core/somaxconn; grep -c extra.example /etc/hosts; df -k /dev/shm | tail -1 | awk '{print $2}'"
    )
    definition = task(
        container(
            busybox, script, hostname="chosen", user="app", workingDirectory="/made/here",
            readonlyRootFilesystem=True,
            mountPoints=[{"sourceVolume": "v", "containerPath": "/host", "readOnly": True}],
            linuxParameters={"tmpfs": [{"containerPath": "/scratch", "size": 8, "mountOptions": ["exec"]}],
                             "sharedMemorySize": 16},
            ulimits=[{"name": "nofile", "softLimit": 111, "hardLimit": 222}],
            systemControls=[{"namespace": "net.core.somaxconn", "value": "77"}],
            extraHosts=[{"hostname": "extra.example", "ipAddress": "10.9.8.7"}],
        ),
        volumes=[{"name": "v", "host": {"sourcePath": str(shared)}}],
    )  # fmt: skip
    run_to_end(node, definition)
    lines = wait_log(node, lambda lines: len(lines) >= 10)
    assert lines == ["from the host", "1", "root-readonly", "111", "chosen", "1000", "/made/here", "77", "1", "16384"]
    assert not (shared / "new").exists()


def test_a_cached_image_that_an_operator_removed_is_pulled_again(busybox):
    import subprocess

    from harness.node import Node, programs_dir

    with Node({"ECS_IMAGE_PULL_BEHAVIOR": "prefer-cached"}) as node:
        for _ in range(2):
            assert only(run_to_end(node, task(container(busybox, "exit 5"))))["exitCode"] == 5
        node.wait_clean()
        subprocess.run(
            [str(programs_dir() / "ecs-image"), "--config", str(node.config_path), "--state-dir",
             str(node.state), "--runtime-dir", str(node.run), "rm", busybox],
            check=True, env=node.environment("image"), stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert not list((node.state / "images/layers").iterdir())
        assert only(run_to_end(node, task(container(busybox, "exit 6"))))["exitCode"] == 6


def test_an_init_process_reaps_and_forwards_signals(node, busybox):
    script = "echo pid $$; (sleep 0.1 & ); sleep 0.5; ps | grep -c '[Z] '; trap 'exit 33' TERM; echo up; while :; do usleep 50000; done"
    arn = node.standin.run_task(
        task(container(busybox, script, linuxParameters={"initProcessEnabled": True}, stopTimeout=5))
    )
    wait_log(node, lambda lines: "up" in lines)
    lines = node.logs("g")
    assert lines[0].startswith("pid ") and lines[0] != "pid 1", lines
    assert lines[1] == "0", lines
    node.standin.stop_task(arn)
    assert only(node.standin.wait_task(arn, "STOPPED"))["exitCode"] == 33


def test_a_terminal_and_an_open_input_as_the_definition_has_them(node, busybox):
    definition = task(
        # The end of this one stops the others, so it is the last to start.
        container(busybox, "tty; echo $TERM; echo err >&2", name="terminal", pseudoTerminal=True,
                  dependsOn=[{"containerName": "closed", "condition": "COMPLETE"}]),
        container(busybox, "test -t 0 || echo none; read x; echo ended", name="input", interactive=True, essential=False,
                  stopTimeout=2),
        container(busybox, "read x; echo at once", name="closed", essential=False,
                  dependsOn=[{"containerName": "input", "condition": "START"}]),
    )
    found = run_to_end(node, definition)
    lines = wait_log(node, lambda lines: len(lines) == 5)
    assert sorted(line.rstrip("\r") for line in lines) == ["/dev/pts/0", "at once", "err", "none", "xterm"]
    codes = {c["name"]: c.get("exitCode") for c in found["containers"]}
    assert codes["terminal"] == codes["closed"] == 0
    assert codes["input"] != 0, "it waited for input until it was stopped"
