"""The units under systemd: what starts, what survives what, who is ended by whom, and in which order."""

import re
import time

import pytest

from controlplane.client import wait_for

RUNNING = ("ecs", "ecs-launcher", "ecs-metadata", "ecs-tasks")
DOCKER_CAPABILITIES = "00000000a80425fb"

# On SIGTERM it asks for its credentials and metadata, and ends after a while. {name} tells it in its log.
STOPS_SLOWLY = """
end() {{
    echo "{name} asked to stop"
    wget -q -O /dev/null "http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" && echo "{name} has credentials"
    wget -q -O /dev/null "$ECS_CONTAINER_METADATA_URI_V4" && echo "{name} has metadata"
    sleep 1
    echo "{name} ends"
    exit {code}
}}
trap end TERM
echo "{name} runs"
while true; do sleep 0.1; done
"""
IN_ORDER = ["app asked to stop", "app has credentials", "app has metadata", "app ends",
            "db asked to stop", "db has credentials", "db has metadata", "db ends"]  # fmt: skip

# Everything of a process that a unit could have given to it.
FELT = r"""
grep -E '^(Uid|Groups|NoNewPrivs|Seccomp|Seccomp_filters|Cap.*|SigBlk|SigIgn):' /proc/self/status
echo "oom $(cat /proc/self/oom_score_adj)"
echo "umask $(umask)"
grep -E '^Max (open files|processes|core file size|locked memory)' /proc/self/limits
env | sed 's/^/env /'
echo "devices $(ls /dev | tr '\n' ' ')"
cp /bin/busybox /tmp/su && chmod 4755 /tmp/su
printf 'root::0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n' >/etc/passwd
echo "setuid $(su nobody -c '/tmp/su root -c "id -u"')"
echo "late $(cat /host/late/file)"
"""


@pytest.fixture(scope="module")
def two(guest):
    """A task of two containers of which one needs the other; (arn, process ids)."""
    return start_two(guest, "before")


def start_two(guest, logs):
    arn = guest.run_task(
        guest.container(STOPS_SLOWLY.format(name="db", code=8), name="db", logs=logs, essential=False),
        guest.container(STOPS_SLOWLY.format(name="app", code=7), logs=logs,
                        dependsOn=[{"containerName": "db", "condition": "START"}]),
    )["arn"]  # fmt: skip
    guest.wait_logs(lambda lines: {"db runs", "app runs"} <= set(lines), logs)
    return arn


def main_pid(guest, service):
    return int(guest.unit(service, "MainPID")["MainPID"])


def processes(guest):
    """Of all tasks: (pid, when it began) of supervisors and of first processes of containers."""
    script = """
        for f in /sys/fs/cgroup/system.slice/ecs-tasks.service/ecstasks-*/*/cgroup.procs; do
            pid=$(head -n 1 "$f" 2>/dev/null); [ -z "$pid" ] || echo "$pid $(cut -d' ' -f22 /proc/$pid/stat)"
        done"""
    return sorted(guest.output(script).splitlines())


def test_all_of_the_node_is_up(guest):
    for service in RUNNING:
        shown = guest.unit(service, "ActiveState", "SubState", "NRestarts")
        assert shown == {"ActiveState": "active", "SubState": "running", "NRestarts": "0"}, service
    assert guest.unit("ecs-logs.path", "ActiveState")["ActiveState"] == "active"
    assert guest.output("cat /run/ecs/cgroup") == "system.slice/ecs-tasks.service\n"
    keeper = main_pid(guest, "ecs-tasks")
    assert guest.output(f"cat /proc/{keeper}/cgroup") == "0::/system.slice/ecs-tasks.service/keeper\n"


def test_protected_memory_is_granted_on_every_level(guest):
    for unit in ("ecs", "ecs-metadata", "ecs-launcher"):
        minimum, above = guest.output(
            f"cat /sys/fs/cgroup/ecs.slice/{unit}.service/memory.min /sys/fs/cgroup/ecs.slice/memory.min").split()
        assert 0 < int(minimum) <= int(above)


def test_programs_have_no_privileges_and_no_secrets(guest):
    for service in ("ecs", "ecs-metadata"):
        status = guest.output(f"cat /proc/{main_pid(guest, service)}/status")
        for line in ("CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
            assert line in status, service
    for service in ("ecs-metadata", "ecs-launcher"):
        environment = guest.output(f"tr '\\0' '\\n' </proc/{main_pid(guest, service)}/environ")
        assert "AWS_ENDPOINT_URL=" in environment
        assert not re.search("AWS_SECRET_ACCESS_KEY|AWS_ACCESS_KEY_ID", environment), service


def test_containers_feel_nothing_of_the_units(guest):
    # A file system that is mounted on the host after the launcher has been started.
    guest.run("mkdir -p /srv/shared/late && mount -t tmpfs none /srv/shared/late && echo there >/srv/shared/late/file")
    guest.run_to_end(
        guest.container(FELT, logs="felt", mountPoints=[{"sourceVolume": "shared", "containerPath": "/host"}]),
        volumes=[{"name": "shared", "host": {"sourcePath": "/srv/shared"}}])  # fmt: skip
    lines = guest.wait_logs(lambda lines: any(line.startswith("late") for line in lines), "felt")
    guest.run("umount /srv/shared/late")
    status = {key: value.strip() for key, value in (line.split(":", 1) for line in lines if ":\t" in line)}
    assert status["NoNewPrivs"] == "0"
    assert status["CapBnd"] == status["CapEff"] == DOCKER_CAPABILITIES
    assert (status["Seccomp"], status.get("Seccomp_filters", "1")) == ("2", "1")
    assert int(status["SigBlk"], 16) == int(status["SigIgn"], 16) == 0
    limits = {line[4:26].strip(): line[26:].split()[:2] for line in lines if line.startswith("Max ")}
    assert limits["open files"] == ["32768", "65536"]
    assert limits["processes"] == ["unlimited", "unlimited"]
    assert limits["core file size"][1] == "unlimited"
    assert "oom 0" in lines and "umask 0022" in lines
    assert "setuid 0" in lines, "a setuid program must have effect"
    assert "late there" in lines, "what is mounted later on the host must be seen"
    names = {line.split(" ", 1)[1].split("=")[0] for line in lines if line.startswith("env ")}
    assert not names & {"INVOCATION_ID", "JOURNAL_STREAM", "NOTIFY_SOCKET", "WATCHDOG_USEC", "SYSTEMD_EXEC_PID",
                        "AWS_ENDPOINT_URL", "AWS_CA_BUNDLE"}  # fmt: skip


def test_no_restart_is_felt_by_tasks(guest, two):
    before = processes(guest)
    assert len(before) >= 3
    for service in ("ecs", "ecs-launcher", "ecs-metadata", "ecs-logs"):
        guest.restart(service)
    guest.wait_connected()
    assert set(before) <= set(processes(guest))
    assert guest.standin.task(two)["lastStatus"] == "RUNNING"


def test_a_restart_of_the_launcher_breaks_no_pull(guest):
    """ecs-image, as a pull starts it, goes on, and ends with the connection of who asked for it."""
    # It holds the connection until "go" is there.
    guest.write("/root/asker.py", (
        "import socket, time, os\n"
        "s = socket.socket(socket.AF_UNIX); s.connect('/run/ecs/launcher.sock'); s.sendall(b'image\\n')\n"
        "while not os.path.exists('/root/go'): time.sleep(0.1)\n"))  # fmt: skip
    guest.run("systemd-run --quiet --unit=asker /usr/bin/python3 /root/asker.py")

    def children():
        return guest.output("pgrep -f '^ecs-image --serve' || true").split()

    at_work = set(wait_for(children, 30, "no ecs-image was started"))
    guest.restart("ecs-launcher")
    assert at_work <= set(children())
    guest.run("touch /root/go")
    wait_for(lambda: not children(), 30, "ecs-image goes on without anybody who asked for it")


@pytest.fixture
def watched(guest):
    """Every watchdog, with a time that can be waited for."""
    services = ("ecs", "ecs-metadata", "ecs-logs", "ecs-launcher")
    for service in services:
        guest.write(f"/etc/systemd/system/{service}.service.d/short.conf", "[Service]\nWatchdogSec=10s\n")
    guest.run("systemctl daemon-reload")
    for service in services:
        guest.restart(service)
    yield services
    for service in services:
        guest.run(f"rm /etc/systemd/system/{service}.service.d/short.conf")
    guest.run("systemctl daemon-reload")


def test_a_daemon_that_hangs_is_ended_and_started_again(guest, two, watched):
    before = processes(guest)
    guest.wait_connected()
    hung = {service: main_pid(guest, service) for service in watched}
    time.sleep(11)  # longer than the watchdog: those that do not hang are left alone
    assert {service: main_pid(guest, service) for service in watched} == hung
    guest.run(["kill", "-STOP", *hung.values()])

    def replaced():
        return all(main_pid(guest, service) not in (0, hung[service]) for service in watched)

    wait_for(replaced, 120, lambda: guest.journal_of_ours("--lines=30"))
    for service in watched:
        assert "Watchdog timeout" in guest.journal(service), service
        guest.wait_unit(f"{service}.service")
    assert set(before) <= set(processes(guest))


def test_what_a_restart_cannot_help_is_not_restarted(guest):
    """Exit code 5: here, a node that is registered in another cluster."""
    guest.configure({"ECS_CLUSTER": "another"})
    guest.run("systemctl restart ecs", check=False)
    guest.wait_unit("ecs.service", "failed")
    shown = guest.unit("ecs", "ExecMainStatus", "NRestarts", "Result")
    assert shown == {"ExecMainStatus": "5", "NRestarts": "0", "Result": "exit-code"}
    time.sleep(3)
    assert guest.unit("ecs", "ActiveState")["ActiveState"] == "failed"
    guest.configure()
    guest.restart()
    guest.wait_connected()


def test_an_administrators_drop_in_counts(guest):
    """As "systemctl edit ecs" makes it; the environment wins over ecs.config."""
    guest.write("/etc/systemd/system/ecs.service.d/override.conf", "[Service]\nEnvironment=ECS_LOGLEVEL=error\n")
    guest.run("systemctl daemon-reload")
    guest.restart()
    guest.wait_connected()
    pid = main_pid(guest, "ecs")
    assert guest.output(f"journalctl --no-pager --quiet _PID={pid} --priority=info") == ""
    guest.run("rm /etc/systemd/system/ecs.service.d/override.conf && systemctl daemon-reload")


def test_tasks_and_their_service_outlive_the_keeper(guest, two):
    before = processes(guest)
    guest.run(["kill", "-KILL", main_pid(guest, "ecs-tasks")])
    wait_for(lambda: main_pid(guest, "ecs-tasks") == 0, 30, "systemd does not see its end")
    assert guest.unit("ecs-tasks", "ActiveState")["ActiveState"] == "active"
    assert set(before) <= set(processes(guest))
    assert guest.run_to_end(guest.container("exit 3", logs=None))["containers"][0]["exitCode"] == 3


def test_stopping_the_service_stops_tasks_in_order(guest, two):
    """Without its keeper, too, which the last test has killed."""
    guest.run("systemctl stop ecs-tasks")
    stopped = guest.wait_task(two, "STOPPED")
    assert {c["name"]: c["exitCode"] for c in stopped["containers"]} == {"app": 7, "db": 8}
    assert processes(guest) == []
    lines = guest.wait_logs(lambda lines: "db ends" in lines, "before")
    assert lines[-len(IN_ORDER):] == IN_ORDER


def test_no_task_starts_while_the_service_is_stopped(guest):
    refused = guest.run_to_end(guest.container("true", logs=None))
    assert "ecs-tasks" in refused["stoppedReason"]
    guest.run("systemctl start ecs-tasks")
    assert guest.run_to_end(guest.container("exit 4", logs=None))["containers"][0]["exitCode"] == 4


def test_without_tasks_a_killed_keeper_comes_back(guest):
    old = main_pid(guest, "ecs-tasks")
    guest.run(["kill", "-KILL", old])
    wait_for(lambda: main_pid(guest, "ecs-tasks") not in (0, old), 60, lambda: guest.journal("ecs-tasks"))
    guest.wait_unit("ecs-tasks.service")
    assert guest.run_to_end(guest.container("exit 5", logs=None))["containers"][0]["exitCode"] == 5


def test_the_shipper_ends_without_work_and_comes_back_for_more(guest):
    guest.wait_unit("ecs-logs.service", "inactive", timeout=90)
    guest.run_to_end(guest.container("echo after the pause", logs="pause"))
    guest.wait_logs(lambda lines: lines == ["after the pause"], "pause")
