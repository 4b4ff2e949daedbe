"""Life after the agent: any program killed at any moment, then a restart."""

import concurrent.futures
import contextlib
import itertools
import json
import os
import pathlib
import signal

import pytest
from controlplane.client import wait_for
from harness import images, netns
from harness.node import Node
from harness.registry import Registry
from harness.taskdef import container, task
from harness.traces import left, traces

# Counts for ever, so that a gap or a restart of the container would show in its log.
COUNT = "i=0; trap 'exit 42' TERM; while :; do i=$((i+1)); echo tick $i; usleep 50000; done"


# The first run ends after the shortest attempt period that there is; the second one soon, and so for good.
TWO_RUNS = """echo run >>/runs; echo $(wc -l </runs) $ECS_CONTAINER_METADATA_URI_V4
if [ $(wc -l </runs) = 1 ]; then sleep 61; exit 1; fi
until wget -q -O /doc $ECS_CONTAINER_METADATA_URI_V4 && grep -q '"RestartCount":1' /doc; do usleep 50000; done
cat /doc; echo; wget -q -O - http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI; echo; exit 42"""


def restart_by_policy(directory):
    """A node whose agent is away when a container ends that has a restart policy."""
    netns.enter_new()  # of this thread: the nodes of the tests see nothing of it
    with Registry(directory / "registry") as registry, Node() as node:
        busybox = f"{registry.host}/busybox:1"
        images.push_busybox(directory / "busybox", busybox)
        policy = {"enabled": True, "restartAttemptPeriod": 60, "ignoredExitCodes": [42]}
        arn = node.standin.run_task(task(container(busybox, TWO_RUNS, restartPolicy=policy)))
        node.standin.wait_task(arn, "RUNNING")
        first = node.standin.task(arn)
        node.kill("agent")
        exits = node.run / "tasks" / arn.rsplit("/", 1)[1] / "exit-app.json"
        wait_for(exits.exists, 90, "the first run does not end")
        node.start_daemon("agent")
        found = node.standin.wait_task(arn, "STOPPED")
        stream = f"t/app/{arn.rsplit('/', 1)[1]}"
        wait_for(lambda: len(node.logs("g", stream)) == 4, 60, lambda: f"log is {node.logs('g')}")
        node.wait_clean()
        node.standin.assert_no_violations()
        return first, found, node.logs("g", stream)


@pytest.fixture(scope="module")
def restarting(tmp_path_factory):
    """The above, in a thread beside the tests of this file, since a minute passes in it."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        yield pool.submit(restart_by_policy, tmp_path_factory.mktemp("restarting"))


@pytest.fixture(scope="module", autouse=True)
def begin_early(request):
    if any("restart_policy" in item.name for item in request.session.items):
        request.getfixturevalue("restarting")


def ticks(node):
    return [int(line.split()[1]) for line in node.logs("g") if line.startswith("tick ")]


def start(node, busybox, command=COUNT, **more):
    arn = node.standin.run_task(task(container(busybox, command, stopTimeout=5, **more)))
    node.standin.wait_task(arn, "RUNNING")
    return arn


def stop_and_check(node, arn):
    """Stop the task: 42 proves that the very process got the signal; then nothing is left."""
    node.wait_connected()
    node.standin.stop_task(arn)
    found = node.standin.wait_task(arn, "STOPPED")
    assert found["containers"][0]["exitCode"] == 42
    node.wait_clean()
    numbers = ticks(node)
    assert sorted(set(numbers)) == list(range(1, max(numbers) + 1)), "a line is missing"
    return numbers


@pytest.mark.parametrize("daemon", ["agent", "launcher", "metadata", "logs"])
def test_a_running_task_is_not_disturbed_by_a_kill(node, busybox, daemon):
    arn = start(node, busybox)
    supervisor = node.supervisor_pid(arn)
    wait_for(lambda: len(ticks(node)) > 3, 30, "no log line arrived")
    node.restart(daemon)
    before = len(ticks(node))
    wait_for(lambda: len(ticks(node)) > before + 20, 60, lambda: f"ticks: {len(ticks(node))}")
    assert node.supervisor_pid(arn) == supervisor
    stop_and_check(node, arn)


def test_an_exit_while_the_agent_is_away_is_reported_with_its_code(node, busybox, tmp_path):
    arn = start(node, busybox, "trap 'exit 42' TERM; while :; do usleep 50000; done")
    node.kill("agent")
    for pid in container_pids(node, arn):
        with contextlib.suppress(ProcessLookupError):  # a usleep that has ended meanwhile
            os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not container_pids(node, arn), 30, "the container does not end")
    node.start_daemon("agent")
    found = node.standin.wait_task(arn, "STOPPED")
    assert found["containers"][0]["exitCode"] == 42
    node.wait_clean()


def container_pids(node, arn):
    """Processes of the task's containers, without the supervisor."""
    return node.task_processes(arn) - {node.supervisor_pid(arn)}


def test_exits_survive_the_supervisor_waiting_for_an_agent_that_is_away(node, busybox):
    """Exit while the agent is away, then the launcher and everything else restarts too."""
    # No log: its credentials are gone with the agent and ecs-metadata both.
    arn = node.standin.run_task(task(container(busybox, "sleep 1; exit 17", logs=None)))
    node.standin.wait_task(arn, "RUNNING")
    for daemon in ("agent", "launcher", "metadata", "logs"):
        node.kill(daemon)
    wait_for(lambda: not container_pids(node, arn), 30, "the container does not end")
    node.start()
    found = node.standin.wait_task(arn, "STOPPED")
    assert found["containers"][0]["exitCode"] == 17
    node.wait_clean()


def test_a_killed_supervisor_takes_all_its_processes_and_is_reported(node, registry, busybox, tmp_path):
    # A set-uid program and a process of another user must go too, whatever a signal may do to them.
    script = "su app -c 'sleep 1000' & sleep 1000 & wait"
    arn = start(node, busybox, script)
    other = start(node, busybox, "trap 'exit 42' TERM; while :; do usleep 50000; done")
    wait_for(lambda: len(container_pids(node, arn)) >= 3, 20, lambda: f"{container_pids(node, arn)}")
    pids = container_pids(node, arn)
    os.kill(node.supervisor_pid(arn), signal.SIGKILL)
    found = node.standin.wait_task(arn, "STOPPED")
    wait_for(lambda: not any(pathlib.Path(f"/proc/{p}").exists() for p in pids), 20, "processes survive")
    assert found["containers"][0].get("reason") or found.get("stoppedReason")
    assert container_pids(node, other), "another task was hit"
    node.standin.stop_task(other)
    assert node.standin.wait_task(other, "STOPPED")["containers"][0]["exitCode"] == 42
    node.wait_clean()


def test_a_supervisor_killed_while_the_agent_is_away_is_cleaned_up_after(node, busybox):
    arn = start(node, busybox)
    node.kill("agent")
    os.kill(node.supervisor_pid(arn), signal.SIGKILL)
    node.start_daemon("agent")
    node.standin.wait_task(arn, "STOPPED")
    node.wait_clean()


def test_killing_the_agent_at_any_moment_of_a_start_runs_nothing_twice(node, busybox):
    """Kills in the middle of pulls, creates and starts; each task runs exactly once."""
    arns = []
    for round_number in range(6):
        arns += node.standin.run_tasks(
            task(container(busybox, f"echo once {round_number} $(hostname); exit {round_number}")), count=2
        )
        wait_for(
            lambda n=round_number: len(list((node.state / "tasks").glob("*"))) > 0
            or any(t["lastStatus"] == "STOPPED" for t in node.standin.tasks()[-1:])
            or n == 0,
            20, "no task was begun",
        )  # fmt: skip
        node.restart("agent")
    for arn in arns:
        found = node.standin.wait_task(arn, "STOPPED", 90)
        assert "exitCode" in found["containers"][0], found
    node.wait_clean(60)
    lines = wait_for(
        lambda: len(node.logs("g")) >= len(arns) and node.logs("g"), 60,
        lambda: f"{node.logs('g')}",
    )  # fmt: skip
    hosts = [line.split()[2] for line in lines if line.startswith("once ")]
    assert len(hosts) == len(set(hosts)) == len(arns)


def test_the_control_plane_may_be_away_at_the_start(busybox, tmp_path):
    with Node(start=False) as node:
        node.standin.fault("ecs", "status", status=503)
        node.start(wait=False)
        wait_for(lambda: node.standin.calls("ecs", "RegisterContainerInstance"), 30, "no attempt")
        node.standin.clear_faults()
        node.wait_connected(90)
        arn = node.standin.run_task(task(container(busybox, "exit 4")))
        assert node.standin.wait_task(arn, "STOPPED")["containers"][0]["exitCode"] == 4
        node.standin.assert_no_violations()


def test_state_changes_outlive_an_unreachable_control_plane(node, busybox):
    node.standin.fault("ecs", "status", "SubmitTaskStateChange", status=500, count=3)
    arn = node.standin.run_task(task(container(busybox, "exit 6")))
    wait_for(lambda: node.standin.calls("ecs", "SubmitTaskStateChange"), 30, "no report was tried")
    node.restart("agent")
    assert node.standin.wait_task(arn, "STOPPED", 90)["containers"][0]["exitCode"] == 6


def test_acs_reconnects_and_messages_are_not_lost(node, busybox):
    for code in (1000, 1001, 4000, None):
        node.standin.kill_acs(code=code)
        arn = node.standin.run_task(task(container(busybox, "exit 2"))) if _connected(node) else None
        node.wait_connected()
        if arn:
            assert node.standin.wait_task(arn, "STOPPED", 90)["containers"][0]["exitCode"] == 2


def _connected(node):
    return wait_for(lambda: node.standin.instance()["acsConnected"], 30, "ACS is not connected again")


def test_fifty_tasks_in_one_payload_leave_nothing_behind(busybox):
    def run(node):
        arns = node.standin.run_tasks(task(container(busybox, "exit 1", memory=8, cpu=1)), count=50)
        for arn in arns:
            assert node.standin.wait_task(arn, "STOPPED", 120)["containers"][0]["exitCode"] == 1
        node.wait_clean(60)
        wait_for(lambda: traces(node)["rows: tasks"] == 0, 30, lambda: f"left: {traces(node)}")

    with Node({"ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION": "1s"}) as node:
        run(node)
        before = traces(node)
        run(node)
        wait_for(lambda: not left(before, traces(node)), 30, lambda: f"left: {left(before, traces(node))}")
        node.standin.assert_no_violations()


def test_a_registry_that_is_down_is_named(node):
    from harness.registry import free_port

    port = free_port()
    arn = node.standin.run_task(task(container(f"127.0.0.1:{port}/x:1", "exit 0")))
    found = node.standin.wait_task(arn, "STOPPED", 120)
    assert found["containers"][0]["reason"].startswith(("CannotPullContainerError", "CannotPullImageManifestError"))
    assert str(port) in found["containers"][0]["reason"]


def test_a_damaged_layer_is_refused(node, registry, tmp_path):
    import json

    reference = f"{registry.host}/damaged:1"
    layout = tmp_path / "layout"
    images.write_layout(layout, [images.busybox_layer({"etc/x": (os.urandom(20), 0o644)})])
    images.push(layout, reference)
    index = json.loads((layout / "index.json").read_text())
    blobs = layout / "blobs/sha256"
    manifest = json.loads((blobs / index["manifests"][0]["digest"].split(":")[1]).read_text())
    path = registry.blob_path(manifest["layers"][0]["digest"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    arn = node.standin.run_task(task(container(reference, "exit 0")))
    found = node.standin.wait_task(arn, "STOPPED", 120)
    assert found["containers"][0]["reason"].startswith("CannotPullContainerError")
    assert "exitCode" not in found["containers"][0]
    node.wait_clean()


def test_ports_are_published_again_after_somebody_flushed_the_rules(node, busybox):
    import subprocess
    import urllib.request

    arn = start(node, busybox, "echo hi >/tmp/i; httpd -f -p 80 -h /tmp & trap 'exit 42' TERM; wait",
                portMappings=[{"containerPort": 80, "hostPort": 0}])  # fmt: skip
    port = node.standin.task(arn)["containers"][0]["networkBindings"][0]["hostPort"]

    def answers():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/i", timeout=2) as response:
                return response.status == 200
        except OSError:
            return False

    wait_for(answers, 20, "the port does not answer")
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert not answers()
    node.restart("agent")
    node.wait_connected()
    wait_for(answers, 30, "the port is not published again")
    node.standin.stop_task(arn)
    assert node.standin.wait_task(arn, "STOPPED")["containers"][0]["exitCode"] == 42
    node.wait_clean()


def test_a_container_with_a_restart_policy_is_started_again_though_the_agent_was_away(restarting):
    first, found, lines = restarting.result(timeout=180)
    assert found["containers"][0]["exitCode"] == 42
    # One that the agent had no time to note as sent is sent twice.
    statuses = [e["status"] for e in found["timeline"] if e["event"] == "state-change"]
    assert [status for status, _ in itertools.groupby(statuses)] == ["PENDING", "RUNNING", "STOPPED"]
    assert found["containers"][0]["runtimeId"] == first["containers"][0]["runtimeId"]
    runs, document, credentials = [line.split(" ") for line in lines[:2]], json.loads(lines[2]), json.loads(lines[3])
    assert [run[0] for run in runs] == ["1", "2"] and runs[0][1] == runs[1][1], "files or endpoint are others"
    assert document["RestartCount"] == 1 and document["KnownStatus"] == "RUNNING"
    assert credentials["AccessKeyId"]
