"""What becomes of tasks when their host goes down, with and without a warning, or becomes another."""

import json

from controlplane.client import wait_for
from harness.taskdef import task
from test_host import SERVE
from test_units import IN_ORDER, RUNNING, start_two

OTHER = "i-0fedcba9876543210"
COUNT = "i=0; trap 'echo last words; exit 42' TERM; while :; do i=$((i+1)); echo tick $i; usleep 100000; done"
STOP = "trap 'usleep {usec}; exit {code}' TERM; while :; do usleep 50000; done"
DATABASE = "/var/lib/ecs/data/agent.db"


def start_tasks(guest):
    """A counting one, one with a published port, one of two containers that stop in order."""
    first = STOP.format(usec=1000000, code=4)
    second = STOP.format(usec=0, code=3)
    return {
        "count": guest.run_task(guest.container(COUNT, logs="count", stopTimeout=10)),
        "serve": guest.run_task(
            guest.container(SERVE, portMappings=[{"containerPort": 80, "hostPort": 0}], logs=None)
        ),
        "order": guest.run_task(
            guest.container(second, name="db", logs=None),
            guest.container(first, name="app", logs=None,
                            dependsOn=[{"containerName": "db", "condition": "START"}]),
        ),
    }  # fmt: skip


def wait_stopped(guest, tasks):
    return {name: guest.wait_task(running["arn"], "STOPPED") for name, running in tasks.items()}


def exit_codes(stopped):
    return {c["name"]: c.get("exitCode") for c in stopped["containers"]}


def test_an_orderly_restart_reports_what_the_containers_said_last(guest):
    instance = guest.standin.instance()["arn"]
    tasks = start_tasks(guest)
    two = start_two(guest, "shutdown")
    guest.wait_logs(lambda lines: len(lines) > 3, "count")
    guest.reboot()
    guest.wait_connected()
    assert guest.standin.instance()["arn"] == instance

    stopped = wait_stopped(guest, tasks)
    assert exit_codes(stopped["count"]) == {"app": 42}
    assert exit_codes(stopped["serve"]) == {"app": 42}
    assert exit_codes(stopped["order"]) == {"app": 4, "db": 3}
    for found in stopped.values():
        assert found["stoppedReason"] == "The host was restarted while the task was running"
    lines = guest.wait_logs(lambda lines: "last words" in lines, "count")
    ticks = [int(line.split()[1]) for line in lines if line.startswith("tick ")]
    assert sorted(set(ticks)) == list(range(1, max(ticks) + 1)), "a line is missing"

    lines = guest.wait_logs(lambda lines: "db ends" in lines, "shutdown")
    assert [line for line in lines if not line.endswith("runs")] == IN_ORDER
    guest.wait_task(two, "STOPPED")

    guest.wait_clean()
    assert exit_codes(guest.run_to_end(guest.container("exit 5", logs=None))) == {"app": 5}


def test_that_shutdown_stopped_the_tasks_before_what_they_need(guest):
    journal = guest.journal(None, "--boot=-1", "--output=cat").splitlines()

    def at(words):
        found = [number for number, line in enumerate(journal) if line.startswith(words)]
        assert found, f"the journal has no \"{words}\""
        return found[-1]

    assert at("Stopped ecs.service") < at("Stopping ecs-tasks.service")
    assert at("Stopped ecs-launcher.service") < at("Stopping ecs-tasks.service")
    for later in ("ecs-metadata.service", "ecs-logs.service", "systemd-networkd.service"):
        assert at("Stopped ecs-tasks.service") < at(f"Stopping {later}")
    assert not [line for line in journal[at("Stopping ecs-tasks.service"):] if "with signal SIGKILL" in line]
    for service in RUNNING:
        guest.wait_unit(f"{service}.service")


def test_a_power_cut_stops_the_tasks_with_that_as_their_reason(guest):
    instance = guest.standin.instance()["arn"]
    tasks = {"power": guest.run_task(guest.container(COUNT, logs=None))}
    guest.kill()
    guest.boot()
    guest.wait_connected()
    assert guest.standin.instance()["arn"] == instance
    found = wait_stopped(guest, tasks)["power"]
    assert found["stoppedReason"] == "The host was restarted while the task was running"
    assert exit_codes(found) == {"app": None}
    assert found["containers"][0]["reason"].startswith("ContainerVanishedError: The host was restarted")
    guest.wait_clean()


def become(guest, instance_id):
    document = {
        "accountId": "111122223333", "architecture": "x86_64", "availabilityZone": "us-west-2a",
        "imageId": "ami-0123456789abcdef0", "instanceId": instance_id, "instanceType": "m5.large",
        "privateIp": "10.0.0.11", "region": guest.standin.region, "version": "2017-09-30",
    }  # fmt: skip
    guest.standin.set_imds("meta-data/instance-id", instance_id)
    guest.standin.set_imds("dynamic/instance-identity/document", json.dumps(document))


def test_a_copy_of_the_disk_in_another_instance_registers_anew(guest):
    tasks = {"copied": guest.run_task(guest.container(COUNT, logs=None))}
    layers = guest.output("ls /var/lib/ecs/images/layers")
    # The disk as it is with a task running; the agent gets no chance to report its end.
    guest.run("systemctl stop ecs")
    reports = len(guest.standin.calls("ecs", "SubmitTaskStateChange"))
    guest.run("systemctl stop ecs-launcher ecs-tasks ecs-logs.path ecs-logs ecs-metadata")
    assert guest.output("find /var/lib/ecs/tasks -mindepth 1 -maxdepth 1 ! -name '.*'").strip()
    become(guest, OTHER)
    guest.run("systemctl start ecs")

    def registered():
        found = [i for i in guest.standin.state()["instances"] if i["ec2InstanceId"] == OTHER]
        return found[0] if found and found[0]["acsConnected"] else None

    other = wait_for(registered, 60, guest.journal_of_ours)
    assert len(guest.standin.state()["instances"]) == 2
    guest.wait_clean()
    assert guest.output("ls /var/lib/ecs/images/layers") == layers
    assert guest.output(f"ls {DATABASE}.damaged-*").strip()
    again = guest.standin.run_task(task(guest.container("exit 6", logs=None)), instance=other["arn"])
    assert exit_codes(guest.wait_task(again, "STOPPED")) == {"app": 6}
    reported = [
        call["request"]["task"] for call in guest.standin.calls("ecs", "SubmitTaskStateChange")[reports:]
    ]
    assert set(reported) == {again}
    assert guest.standin.task(tasks["copied"]["arn"])["lastStatus"] == "RUNNING"
