"""What an administrator meets: apt installs, upgrades, downgrades, removes and purges the package on a
host with running tasks."""

import pathlib
import re
import subprocess

import pytest
from controlplane.client import wait_for
from harness.taskdef import task
from host import CONFIG, Host

PACKAGING = pathlib.Path(__file__).resolve().parents[2] / "packaging"
DAEMONS = ("ecs-metadata.service", "ecs-launcher.service", "ecs.service")
UNITS = (*DAEMONS, "ecs-tasks.service", "ecs-logs.path", "ecs-logs.service")
USERS = ("ecs-agent", "ecs-image", "ecs-metadata", "ecs-logs")
# Lives until it is stopped; what it does then takes a moment, and is left where the test finds it.
SERVE = """
trap 'date >/host/term; sleep 1; wget -q -O - "http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" \
    >/host/credentials; exit 3' TERM
echo started >>/host/started
while :; do sleep 0.1; done
"""


@pytest.fixture(scope="module")
def versions(packages, tmp_path_factory):
    """The same package under two versions."""
    folder = tmp_path_factory.mktemp("versions")
    (first,) = packages

    def built(version):
        command = [PACKAGING / "build-deb", "--from", first, "--version", version, "--output", folder]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
        return pathlib.Path(ran.stdout.strip())

    return built("1.0"), built("2.0")


@pytest.fixture(scope="module")
def guest(base_image, versions, registry, busybox):
    """A host on which the package has never been."""
    with Host(base_image, registry, busybox, name="packages") as host:
        host.boot()
        for number, path in enumerate(versions, 1):
            host.put(path, f"/tmp/ecs-agent_{number}.deb")
        yield host
        host.standin.assert_no_violations()


def apt(guest, *arguments):
    return guest.output(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-y", "-q", *arguments], timeout=600)


def dpkg(guest, *arguments):
    """What apt calls in the end; without KVM half a minute faster."""
    return guest.output(["env", "DEBIAN_FRONTEND=noninteractive", "dpkg", *arguments], timeout=600)


def states(guest):
    """ActiveState by unit."""
    return {unit: guest.unit(unit, "ActiveState")["ActiveState"] for unit in UNITS}


def processes(guest):
    """Main process and when it began, by unit."""
    found = {}
    for unit in (*DAEMONS, "ecs-tasks.service"):
        shown = guest.unit(unit, "MainPID", "ExecMainStartTimestampMonotonic")
        found[unit] = (shown["MainPID"], int(shown["ExecMainStartTimestampMonotonic"]))
    return found


def owner(guest, path):
    return guest.output(["stat", "-c", "%U:%G %a", path]).strip()


def installed_version(guest):
    return guest.output("dpkg-query -W -f '${Version}' ecs-agent")


def task_processes(guest):
    """Pids of the task's container."""
    return guest.output("pgrep -o -f 'while :; do sleep 0.[1]' || true").split()


class Running:
    """The task that lives through most of these tests."""

    arn = None
    pids = None


@pytest.fixture(scope="module")
def running():
    return Running()


def test_installing_makes_users_and_directories_and_starts_nothing(guest):
    before = guest.output("systemctl list-units --all --plain --no-legend 'ecs*'")
    assert before == ""
    apt(guest, "install", "/tmp/ecs-agent_1.deb")
    assert installed_version(guest) == "1.0-1"
    assert set(states(guest).values()) == {"inactive"}
    assert guest.run("systemctl is-enabled ecs", check=False).stdout.strip() == "disabled"
    assert guest.output("pgrep -a ecs- || true") == ""
    for user in USERS:
        assert guest.output(["getent", "passwd", user]).strip().endswith("/nologin")
    assert owner(guest, CONFIG) == "root:ecs-agent 640"
    assert owner(guest, "/var/lib/ecs/data") == "ecs-agent:ecs-agent 700"
    assert owner(guest, "/run/ecs/metadata") == "ecs-metadata:ecs-metadata 755"
    assert guest.output("systemctl --failed --plain --no-legend") == ""
    assert "ECS_CLUSTER=default" in guest.output("ecs-agent --check-config")


def test_units_are_what_systemd_takes_without_complaint(guest):
    units = " ".join(f"/lib/systemd/system/{unit}" for unit in UNITS)
    ran = guest.run(f"systemd-analyze --man=no verify {units}", check=False)
    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")


def test_enabling_brings_up_the_node(guest, running):
    guest.configure()
    guest.enable()
    assert {unit for unit, state in states(guest).items() if state != "active"} <= {"ecs-logs.service"}
    serve = guest.container(
        SERVE, logs=None, stopTimeout=30,
        portMappings=[{"containerPort": 80}, {"containerPort": 53, "protocol": "udp"}],
        mountPoints=[{"sourceVolume": "host", "containerPath": "/host"}],
    )  # fmt: skip
    guest.run("mkdir -p /srv/task")
    definition = task(serve, volumes=[{"name": "host", "host": {"sourcePath": "/srv/task"}}])
    running.arn = guest.standin.run_task(definition)
    guest.wait_task(running.arn, "RUNNING")
    wait_for(lambda: guest.run("test -s /srv/task/started", check=False).returncode == 0, 30, lambda: "not started")
    running.pids = task_processes(guest)
    assert len(running.pids) == 1


def modules_of_manual():
    """Those that ecs-agent(8) says must be loaded where the kernel may not do that by itself."""
    page = (PACKAGING / "man/ecs-agent.8").read_text()
    text = re.search(r"must\s+have\s+loaded\s+these\s+before:(.*?)\.\n", page, re.S)[1]
    return set(re.findall(r"\w+", text)) - {"and"}


def test_the_kernel_loads_the_modules_that_the_manual_names(guest):
    """A task with published ports runs by now; nobody but the kernel has loaded anything for it."""
    loaded = set(guest.output("cut -d' ' -f1 /proc/modules").split())
    builtin = guest.output("cat /lib/modules/$(uname -r)/modules.builtin").split()
    loaded |= {path.rsplit("/", 1)[1].removesuffix(".ko").replace("-", "_") for path in builtin}
    # This one is for tasks of network mode host.
    assert modules_of_manual() - loaded - {"tcp_diag"} == set()
    assert {name for name in loaded if name.startswith("nft_")} - {"nft_fib"} <= modules_of_manual()


def check_change(guest, running, before, config):
    """After an upgrade or a downgrade: daemons are new, in order; the task and its service are not."""
    after = processes(guest)
    for unit in DAEMONS:
        assert after[unit] != before[unit], f"{unit} was not restarted"
    began = [after[unit][1] for unit in DAEMONS]
    assert began == sorted(began)
    assert after["ecs-tasks.service"] == before["ecs-tasks.service"]
    assert task_processes(guest) == running.pids
    assert guest.output("cat /srv/task/started") == "started\n"
    assert guest.output(["cat", CONFIG]) == config
    assert owner(guest, CONFIG) == "root:ecs-agent 640"
    guest.wait_connected()
    assert guest.standin.task(running.arn)["lastStatus"] == "RUNNING"


def change(guest, running, tool, *arguments):
    before, config = processes(guest), guest.output(["cat", CONFIG])
    instance = guest.standin.instance()["arn"]
    said = tool(guest, *arguments)
    assert "Configuration file" not in said, "dpkg asked what to do with the administrator's file"
    # apt does not wait for the agent.
    wait_for(lambda: processes(guest)["ecs.service"][0] not in ("0", before["ecs.service"][0]), 60,
             lambda: f"ecs.service was not restarted: {processes(guest)}")  # fmt: skip
    check_change(guest, running, before, config)
    assert guest.standin.instance()["arn"] == instance


def test_an_upgrade_restarts_the_daemons_in_order_and_no_task(guest, running):
    change(guest, running, apt, "install", "/tmp/ecs-agent_2.deb")
    assert installed_version(guest) == "2.0-1"


def test_a_downgrade_does_the_same(guest, running):
    change(guest, running, dpkg, "-i", "/tmp/ecs-agent_1.deb")
    assert installed_version(guest) == "1.0-1"


def test_an_upgrade_does_not_start_an_agent_that_was_stopped(guest, running):
    guest.run("systemctl stop ecs")
    before = processes(guest)
    dpkg(guest, "-i", "/tmp/ecs-agent_2.deb")
    after = processes(guest)
    assert guest.unit("ecs.service", "ActiveState")["ActiveState"] == "inactive"
    for unit in ("ecs-metadata.service", "ecs-launcher.service"):
        assert after[unit] != before[unit]
    assert task_processes(guest) == running.pids


def test_removing_stops_tasks_in_order_and_keeps_state(guest, running):
    dpkg(guest, "--remove", "ecs-agent")
    # The container had the time to stop, and its credentials to the end.
    assert "AccessKeyId" in guest.output("cat /srv/task/term /srv/task/credentials")
    assert task_processes(guest) == []
    assert guest.output("pgrep -a ecs- || true") == ""
    assert guest.output("systemctl list-units --plain --no-legend 'ecs*.service' 'ecs*.path'") == ""
    assert guest.output("find /sys/fs/cgroup -name 'ecstasks-*'") == ""
    assert guest.run("ip link show ecs0", check=False).returncode != 0
    assert guest.output("nft list tables | grep ecs || true") == ""
    assert guest.output("grep -E ' /(run|var/lib)/ecs/' /proc/mounts || true") == ""
    guest.run(f"test -e {CONFIG} -a -e /var/lib/ecs/data/agent.db")


def test_installed_again_it_is_the_same_instance_and_reports_how_the_task_ended(guest, running):
    instance = guest.standin.instance()["arn"]
    config = guest.output(["cat", CONFIG])
    dpkg(guest, "-i", "/tmp/ecs-agent_2.deb")
    assert set(states(guest).values()) == {"inactive"}
    assert guest.output(["cat", CONFIG]) == config
    assert owner(guest, CONFIG) == "root:ecs-agent 640"
    guest.enable()
    stopped = guest.wait_task(running.arn, "STOPPED")
    assert stopped["containers"][0]["exitCode"] == 3
    assert guest.standin.instance()["arn"] == instance


def test_purging_leaves_nothing_but_the_users(guest):
    # A file system of EFS that is still waited for, seen from two places.
    guest.run("mkdir -p /run/ecs/mounts/x/y /srv/efs && mount -t tmpfs none /srv/efs && touch /srv/efs/canary")
    guest.run("mount --bind /srv/efs /run/ecs/mounts/x/y")
    dpkg(guest, "--purge", "ecs-agent")
    guest.run("test -e /srv/efs/canary && umount /srv/efs")
    assert guest.output("ls -d /var/lib/ecs /var/log/ecs /run/ecs /etc/logrotate.d/ecs-agent 2>/dev/null || true") == ""
    # What the administrator has put beside the configuration is not the package's to remove.
    assert guest.output("find /etc/ecs") == "/etc/ecs\n/etc/ecs/standin.pem\n"
    assert guest.output("find /etc/systemd /var/lib/systemd/deb-systemd-helper-enabled -name 'ecs*'") == ""
    assert guest.run("systemctl cat ecs", check=False).returncode != 0
    for user in USERS:
        guest.run(["getent", "passwd", user])
    assert guest.run("dpkg-query -W ecs-agent", check=False).returncode != 0
