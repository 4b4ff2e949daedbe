"""The package on a host as it is: installed by apt, enabled by systemctl, cgroup v2 below systemd."""

import json

from harness.taskdef import ROLE

SHOW = """set -e
wget -q -O - "http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"; echo
wget -q -O - "$ECS_CONTAINER_METADATA_URI_V4/task"; echo
cat /proc/self/cgroup
exit 7
"""
SERVE = """echo it works >/tmp/index.html
httpd -p 80 -h /tmp
trap 'exit 42' TERM
while :; do sleep 0.1; done
"""


def test_the_host_is_up_and_registered(guest):
    assert guest.output("systemctl is-system-running --wait").strip() == "running"
    assert guest.standin.wait_instance()["status"] == "ACTIVE"
    assert guest.output("stat -f -c %T /sys/fs/cgroup").strip() == "cgroup2fs"


def test_a_task_has_credentials_metadata_and_logs_and_reports_its_exit_code(guest):
    stopped = guest.run_to_end(guest.container(SHOW, logs="show"))
    assert stopped["containers"][0]["exitCode"] == 7
    credentials, metadata, cgroup = guest.wait_logs(lambda lines: len(lines) == 3, "show")
    assert json.loads(credentials)["RoleArn"] == ROLE
    assert json.loads(metadata)["TaskARN"] == stopped["arn"]
    assert cgroup == "0::/"


def test_a_task_lives_in_the_cgroup_of_its_service_and_stops_in_order(guest):
    running = guest.run_task(guest.container(SERVE, portMappings=[{"containerPort": 80, "hostPort": 0}]))
    cgroup = f"/sys/fs/cgroup/system.slice/ecs-tasks.service/ecstasks-{running['arn'].rsplit('/', 1)[1]}"
    found = guest.output(f"find {cgroup} -name cgroup.procs | xargs cat").split()
    assert len(found) >= 2, "the supervisor and at least one process of the container"
    port = running["containers"][0]["networkBindings"][0]["hostPort"]
    answer = guest.output(
        f"curl --silent --show-error --retry 10 --retry-connrefused http://10.0.2.15:{port}/"
    )
    assert answer == "it works\n"
    guest.standin.stop_task(running["arn"])
    assert guest.wait_task(running["arn"], "STOPPED")["containers"][0]["exitCode"] == 42


def test_nothing_of_tasks_is_left_and_no_error_was_logged(guest):
    guest.wait_clean()
    assert guest.journal_of_ours("--priority=err") == "-- No entries --\n"


def test_a_profile_that_is_not_loaded_is_not_asked_for(guest):
    """Each start would leave a denial in the journal else."""
    assert guest.output("cat /sys/module/apparmor/parameters/enabled").strip() == "Y"
    assert "ecs-default " not in guest.output("cat /sys/kernel/security/apparmor/profiles")
    assert "change_onexec" not in guest.journal(None, "--boot")
