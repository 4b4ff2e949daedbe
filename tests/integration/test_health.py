"""Health checks: what they see, how they count, what ECS and containers learn, and who waits."""

import json

import pytest

from builddir import needs_root
from controlplane.client import wait_for as wait_until
from harness import images
from harness.taskdef import container, task as task_definition
from runtime import RequestError

pytestmark = needs_root


def check(*args, interval=0.05, timeout=20, start_period=0, start_interval=0.05, retries=3):
    return {"args": list(args), "intervalUsec": int(interval * 1e6), "timeoutUsec": int(timeout * 1e6),
            "startPeriodUsec": int(start_period * 1e6), "startIntervalUsec": int(start_interval * 1e6),
            "retries": retries}


def shell(script, **more):
    return check("/bin/sh", "-c", script, **more)


def start(task, health_check, command="sleep 1000", name="app", **changes):
    task.create(["/bin/sh", "-c", command], name=name, healthCheck=health_check, **changes)
    task.call("start", container=name)


def until(task, status, name="app"):
    """The first event with that status, and all those before it."""
    events = []
    while True:
        event = task.connection.event("health", name)
        events.append(event)
        if event["status"] == status:
            return events


# --- ecs-task


def test_a_check_runs_inside_the_container_as_its_user(task):
    start(task, shell("id -u; id -G; cat /proc/1/cmdline | tr '\\0' ' '; pwd; echo $OWN; echo err >&2"),
          user="app", config={"process": {"cwd": "/tmp", "env": ["PATH=/bin", "OWN=mine"]}})
    event = until(task, "HEALTHY")[-1]
    assert event["exitCode"] == 0
    assert event["output"].splitlines() == ["1000", "1001 2000", "sleep 1000 /tmp", "mine", "err"]
    health = task.call("state")["containers"][0]["health"]
    assert {k: health[k] for k in ("status", "exitCode", "since")} == {
        k: event[k] for k in ("status", "exitCode", "since")}


def test_so_many_failures_in_a_row_make_it_unhealthy_and_one_success_heals(task):
    """The check fails twice, succeeds, fails three times, and succeeds again."""
    script = "n=$(cat /tmp/n 2>/dev/null); n=$((n+1)); echo $n > /tmp/n; echo check $n; " \
             "case $n in 1|2|4|5|6) exit 7;; esac"
    start(task, shell(script, retries=3))
    events = until(task, "UNHEALTHY")
    assert [(e["status"], e.get("exitCode"), e.get("output", "")) for e in events] == [
        ("STARTING", None, ""),
        ("STARTING", 7, "check 1\n"), ("STARTING", 7, "check 2\n"), ("HEALTHY", 0, "check 3\n"),
        ("HEALTHY", 7, "check 4\n"), ("HEALTHY", 7, "check 5\n"), ("UNHEALTHY", 7, "check 6\n")]
    assert until(task, "HEALTHY")[-1]["output"] == "check 7\n"


def test_failures_do_not_count_in_the_start_period(task):
    start(task, shell("echo x >> /tmp/n; wc -l < /tmp/n; exit 1", retries=1, start_period=2))
    events = until(task, "UNHEALTHY")
    failed = [event for event in events if event.get("exitCode") == 1]
    assert len(failed) >= 3 and all(event["status"] == "STARTING" for event in failed[:-1])


def test_in_the_start_period_the_start_interval_holds_until_a_success(task):
    """Neither the interval nor any other start interval would let this test end."""
    script = "n=$(cat /tmp/n 2>/dev/null); n=$((n+1)); echo $n | tee /tmp/n; test $n -ge 4"
    start(task, shell(script, retries=1, start_period=1000, interval=1000))
    assert [event.get("exitCode") for event in until(task, "HEALTHY")] == [None, 1, 1, 1, 0]

    start(task, shell(script, retries=1, start_interval=1000), name="no-period")
    assert [event.get("exitCode") for event in until(task, "UNHEALTHY", "no-period")] == [None, 1]


def test_a_check_that_hangs_is_killed_and_failed(task):
    start(task, shell("echo begun; sleep 1000", timeout=0.3, retries=1))
    event = until(task, "UNHEALTHY")[-1]
    assert event["exitCode"] == -1 and event["output"] == "Health check exceeded timeout (300 ms)"


def test_a_check_that_runs_only_after_its_time_is_killed_and_failed(host, task):
    """Its program is searched for longer than it may take, in directories that are slow to find."""
    def fill(layer):
        (layer / "d").mkdir()
        for i in range(38):
            (layer / f"l{i}").symlink_to("/d/.." * 650 + f"/l{i + 1}")

    path = "PATH=" + "/l0:" * 150 + "/bin"
    start(task, check("sleep", "1000", timeout=0.1, retries=2), "exec /bin/sleep 1000",
          layers=[host.busybox_layer(), host.layer(fill)], config={"process": {"env": [path]}})
    assert until(task, "UNHEALTHY")[-1]["exitCode"] == -1


def test_a_check_that_cannot_run_is_failed_by_name(task):
    start(task, check("/no/such", retries=1))
    event = until(task, "UNHEALTHY")[-1]
    assert event["exitCode"] == -1 and "/no/such" in event["output"]


def test_output_is_bounded_and_always_text(task):
    start(task, shell("printf 'a\\377\\000b\\303\\244\\n'; yes | head -c 100000"))
    event = until(task, "HEALTHY")[-1]
    assert event["output"].startswith("a\ufffd\ufffdbä\ny\n")
    assert len(event["output"].encode()) <= 1100


def test_checks_end_with_the_container_and_start_anew(task):
    start(task, shell("echo $$ >> /tmp/n; echo checked"), restart=True)
    until(task, "HEALTHY")
    task.call("signal", container="app", signal="SIGKILL")
    task.connection.event("exited", "app")
    assert task.call("state")["containers"][0]["health"]["status"] == "HEALTHY"
    task.call("start", container="app")
    # A check that the end of the container cut off may still have been told of.
    first = until(task, "STARTING")[-1]
    assert not {"exitCode", "output"} & set(first)
    until(task, "HEALTHY")
    task.call("signal", container="app", signal="SIGKILL")
    task.connection.event("exited", "app")
    task.call("end")


@pytest.mark.parametrize("change, message", [
    ({"args": []}, "args"), ({"args": None}, "args"), ({"retries": 0}, "must not be 0"),
    ({"intervalUsec": 0}, "must not be 0"), ({"startIntervalUsec": 0}, "must not be 0"),
    ({"intervalUsec": -1}, "intervalUsec"),
    ({"timeoutUsec": "1"}, "timeoutUsec"), ({"shell": True}, "shell"),
])
def test_what_is_wrong_with_a_check_is_refused_by_name(task, change, message):
    with pytest.raises(RequestError, match=message):
        task.create(["/bin/true"], healthCheck=shell("true") | change)


# --- whole nodes


def health_check(command, **more):
    return {"command": command, "interval": 5, "timeout": 2, "retries": 1} | more


def test_a_dependant_waits_until_a_container_is_healthy(node, busybox):
    arn = node.standin.run_task(task_definition(
        container(busybox, "touch /tmp/up; exec sleep 1000", name="db", stopTimeout=2,
                  healthCheck=health_check(["CMD-SHELL", "test -e /tmp/up && echo fine"])),
        container(busybox, "wget -q -O - $ECS_CONTAINER_METADATA_URI_V4/task; echo; sleep 1000", name="app",
                  stopTimeout=2, dependsOn=[{"containerName": "db", "condition": "HEALTHY"}])))
    node.standin.wait_task(arn, "RUNNING", 60)
    lines = wait_until(lambda: node.logs("g"), 60, "a line of the log")
    health = {c["Name"]: c.get("Health") for c in json.loads(lines[0])["Containers"]}
    assert health["app"] is None
    assert health["db"]["status"] == "HEALTHY" and health["db"]["output"] == "fine\n"
    assert health["db"]["statusSince"].endswith("Z") and "exitCode" not in health["db"]
    # A restarted agent asks ecs-task, and does not start the dependant again.
    node.restart("agent")
    node.wait_connected()
    assert node.standin.wait_task(arn, "RUNNING", 60)
    assert len(node.logs("g")) == 1
    node.standin.stop_task(arn)
    node.standin.wait_task(arn, "STOPPED", 60)
    node.wait_clean()


def test_a_dependant_of_what_ends_unhealthy_is_told_why(node, busybox):
    arn = node.standin.run_task(task_definition(
        container(busybox, "sleep 1; exit 9", name="db", essential=False,
                  healthCheck=health_check(["CMD", "false"])),
        container(busybox, "true", name="app",
                  dependsOn=[{"containerName": "db", "condition": "HEALTHY"}])))
    found = node.standin.wait_task(arn, "STOPPED", 60)
    reasons = {c["name"]: c.get("reason") or "" for c in found["containers"]}
    assert "db has exited with code 9, before it was HEALTHY as app needs" in reasons["app"]
    node.wait_clean()


def test_a_healthcheck_of_an_image_is_not_run(node, registry, tmp_path):
    """As with the ECS agent: only what the task definition says is monitored."""
    reference = f"{registry.host}/checked:1"
    images.push_busybox(tmp_path, reference, config={
        "Cmd": ["/bin/sh", "-c", "sleep 3; ls /tmp; echo end"], "Env": ["PATH=/bin"],
        "Healthcheck": {"Test": ["CMD-SHELL", "touch /tmp/checked"], "Interval": 100_000_000}})
    arn = node.standin.run_task(task_definition(container(reference)))
    node.standin.wait_task(arn, "STOPPED", 60)
    assert wait_until(lambda: "end" in node.logs("g") and node.logs("g"), 60, "the end") == ["end"]
