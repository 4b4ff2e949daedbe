"""The units as they are installed: what systemd-analyze(1) says, and rules of ours that it does not know."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.node import programs_dir

SERVICES = ("ecs", "ecs-metadata", "ecs-logs", "ecs-tasks", "ecs-launcher")
# Tenths of what "systemd-analyze security" calls exposure, which goes to 10: what a flaw in the
# program could reach. The launcher's is what containers must not inherit a sandbox of.
EXPOSURE_MAX = {"ecs": 15, "ecs-metadata": 15, "ecs-logs": 15, "ecs-tasks": 16, "ecs-launcher": 95}

# Options that act on processes and that a child inherits, so that a container would feel them.
INHERITED = re.compile(
    r"User|Group|SupplementaryGroups|DynamicUser|Private|Protect|ReadOnly|ReadWrite|Inaccessible|NoExecPaths"
    r"|ExecPaths|Root|Bind|TemporaryFileSystem|Mount|NoNewPrivileges|SystemCall|Restrict|LockPersonality"
    r"|MemoryDenyWriteExecute|CapabilityBoundingSet|AmbientCapabilities|SecureBits|Limit[A-Z]|Nice|CPUSched"
    r"|CPUAffinity|NUMA|IOSched|Personality|TimerSlack|CoredumpFilter|IgnoreSIGPIPE|Network|IPC|Delegate"
)
# Options that act on the cgroup: those of ecs-tasks.service would bind all tasks together.
OF_CGROUP = re.compile(
    r"Memory(Min|Low|High|Max|Swap)|CPU(Quota|Weight|Shares)|AllowedCPUs|IO[A-Z]|BlockIO|Device|IPAddress"
    r"|SocketBind|RestrictNetworkInterfaces|RestrictFileSystems|PrivateDevices|ProtectClock|ManagedOOM"
    r"|DisableControllers"
)


def root():
    """Below which the programs under test are installed."""
    suffix = "/usr/libexec/ecs"
    assert str(programs_dir()).endswith(suffix), f"{programs_dir()} is not below {suffix}"
    return str(programs_dir())[: -len(suffix)]


def unit_dir():
    for place in ("/usr/lib/systemd/system", "/lib/systemd/system"):
        found = Path(root() + place)
        if (found / "ecs.service").exists():
            return found
    raise AssertionError(f"no ecs.service below {root()}")


def settings(unit):
    """(section, name, value) of each line of a unit; no line of ours is continued."""
    section = None
    for line in (unit_dir() / unit).read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, value = line.split("=", 1)
            yield section, name, value


def values(unit, name):
    return [value for _, key, value in settings(unit) if key == name]


def needs_systemd_analyze(*arguments):
    tool = shutil.which("systemd-analyze")
    assert tool, "systemd-analyze is missing: install the package systemd"
    return subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("service", SERVICES)
def test_every_program_named_is_installed(service):
    commands = [value for _, name, value in settings(f"{service}.service") if name.startswith("Exec")]
    assert commands
    for command in commands:
        assert os.access(root() + command.split()[0], os.X_OK), command


def test_systemd_understands_every_line(tmp_path):
    """A name or value that systemd does not know is a warning to it: the option has no effect."""
    units = []
    for unit in sorted(unit_dir().glob("ecs*")):
        text = unit.read_text()
        if root():
            text = re.sub(r"^(Exec\w+)=/", rf"\1={root()}/", text, flags=re.M)
        (tmp_path / unit.name).write_text(text)
        units.append(str(tmp_path / unit.name))
    assert len(units) == 7
    done = needs_systemd_analyze("verify", "--man=no", *units)
    assert (done.returncode, done.stderr) == (0, "")
    # That it would say so.
    (tmp_path / "ecs.service").write_text((tmp_path / "ecs.service").read_text() + "\n[Service]\nMemoryMini=1M\n")
    assert "MemoryMini" in needs_systemd_analyze("verify", "--man=no", *units).stderr


@pytest.mark.parametrize("service", SERVICES)
def test_exposure(service):
    path = str(unit_dir() / f"{service}.service")
    done = needs_systemd_analyze("security", "--offline=yes", f"--threshold={EXPOSURE_MAX[service]}", path)
    overall = re.search(r"Overall exposure level for .*", done.stdout)
    assert overall, done.stdout + done.stderr
    print(overall.group())
    assert done.returncode == 0, done.stdout


def test_nothing_that_containers_would_inherit():
    wrong = [name for section, name, _ in settings("ecs-launcher.service")
             if section == "Service" and INHERITED.match(name)]  # fmt: skip
    assert wrong == []


def test_nothing_that_binds_all_tasks_together():
    names = [name for section, name, _ in settings("ecs-tasks.service") if section == "Service"]
    assert [name for name in names if OF_CGROUP.match(name)] == []
    assert values("ecs-tasks.service", "TasksMax") == ["infinity"]
    assert values("ecs-tasks.service", "Delegate") == ["yes"]


@pytest.mark.parametrize("service", SERVICES)
def test_no_unit_takes_another_down(service):
    """And none waits for what may never come."""
    for _, name, value in settings(f"{service}.service"):
        assert name not in ("Requires", "Requisite", "BindsTo", "PartOf", "Conflicts", "StopPropagatedFrom")
        assert "network-online" not in value
    assert values(f"{service}.service", "StartLimitIntervalSec") == ["0"]
    assert values(f"{service}.service", "RestartPreventExitStatus") == ["5"]
    assert values(f"{service}.service", "Restart") == ["on-failure" if service == "ecs-logs" else "always"]


@pytest.mark.parametrize("service", ["ecs-metadata", "ecs-logs", "ecs-launcher"])
def test_secrets_of_the_configuration_stay_away(service):
    assert values(f"{service}.service", "EnvironmentFile") == ["-/etc/ecs/ecs.config"]
    (unset,) = values(f"{service}.service", "UnsetEnvironment")
    assert {"ECS_ENGINE_AUTH_DATA", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN"} <= set(unset.split())  # fmt: skip


def test_ecs_service_brings_up_the_whole_node():
    wanted = " ".join(values("ecs.service", "Wants")).split()
    assert set(wanted) == {"ecs-metadata.service", "ecs-logs.path", "ecs-tasks.service", "ecs-launcher.service"}
    after = " ".join(values("ecs.service", "After")).split()
    assert set(wanted) <= set(after)
    (activated,) = [p.stem for p in unit_dir().glob("ecs*.path")]
    assert (unit_dir() / f"{activated}.service").exists()
    assert values("ecs.service", "WantedBy") == ["multi-user.target"]
