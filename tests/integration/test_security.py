"""System call filters, AppArmor profiles and SELinux labels that tasks ask for by name."""

import json
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from builddir import needs_root
from runtime import DEFAULT_CAPS, RequestError, Task
from test_exec import sh
from test_tasks import only, run_to_end, wait_log
from waiting import wait_for

from harness import taskdef

pytestmark = needs_root

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"


def has_apparmor():
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    return enabled.exists() and enabled.read_text().strip() == "Y" and bool(shutil.which("apparmor_parser"))


needs_apparmor = pytest.mark.skipif(not has_apparmor(), reason="needs AppArmor")
without_apparmor = pytest.mark.skipif(
    Path("/sys/module/apparmor").exists(), reason="AppArmor is enabled here")
without_selinux = pytest.mark.skipif(Path("/sys/fs/selinux").exists(), reason="SELinux is enabled here")


def names(error, *words):
    assert error.value.name == "CannotCreateContainerError"
    for word in words:
        assert word in str(error.value)


# --- seccomp

# 95 is EOPNOTSUPP, which chmod(1) gets from nobody else.
NO_CHMOD = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["chmod", "fchmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}
TRY = "chmod 700 /tmp 2>&1 || mkdir /made && echo made"
REFUSED = "chmod: /tmp: Operation not supported\nmade\n"


def wait_for_output(task, text, name="app"):
    wait_for(lambda: task.output(name) == text, what=f"{text!r}: {task.output(name)!r}")


def test_a_profile_inline(task):
    task.create(["/bin/sh", "-c", f"{TRY}; exec sleep 1000"], seccomp={"profile": json.dumps(NO_CHMOD)})
    task.call("start", container="app")
    wait_for_output(task, REFUSED)
    # An exec has the same, and so have two of them.
    assert sh(task, "chmod 700 /tmp 2>&1")[:2] == (1, "chmod: /tmp: Operation not supported\n")
    seccomp = [line for line in sh(task, "cat /proc/1/status /proc/self/status")[1].splitlines()
               if line.startswith("Seccomp_filters")]
    assert seccomp == ["Seccomp_filters:\t1"] * 2


def test_a_profile_of_a_file_is_read_once(host, task):
    """What it says later is for later containers, not for a restart or an exec of this one."""
    path = host.base / "profile.json"
    path.write_text(json.dumps(NO_CHMOD))
    task.create(["/bin/sh", "-c", "chmod 700 /tmp 2>&1; true"], seccomp={"path": str(path)}, restart=True)
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}))
    for _ in range(2):
        task.call("start", container="app")
        assert task.connection.event("exited", "app")["exitCode"] == 0
    assert task.output() == "chmod: /tmp: Operation not supported\n" * 2
    assert task.sh("chmod 700 /tmp 2>&1; true", name="later", seccomp={"path": str(path)})[1] == ""


def test_a_profile_is_compiled_once_for_all(host):
    text = json.dumps(NO_CHMOD)
    for _ in range(2):
        assert Task(host).run(["/bin/true"], seccomp={"profile": text})["exitCode"] == 0
        (entry,) = (host.run / "seccomp").glob("*-profile")
        before, inode = entry.read_bytes(), entry.stat().st_ino
    assert entry.read_bytes() == before and entry.stat().st_ino == inode
    # A file that is none of ours is made anew.
    entry.write_bytes(before[:-8])
    entry.chmod(0o644)
    assert Task(host).sh(TRY, seccomp={"profile": text}) == (0, REFUSED)
    assert entry.read_bytes() == before


def test_it_depends_on_the_capabilities(host, task):
    rule = {"names": ["chroot"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    profile = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        rule | {"excludes": {"caps": ["CAP_SYS_CHROOT"]}}]})
    script = "chroot / /bin/true 2>&1; echo $?"
    fewer = [cap for cap in DEFAULT_CAPS if cap != "CAP_SYS_CHROOT"]
    caps = {"process": {"capabilities": {"bounding": fewer, "permitted": fewer, "effective": fewer}}}
    assert task.sh(script, "with", seccomp={"profile": profile})[1] == "0\n"
    found = task.sh(script, "without", seccomp={"profile": profile}, config=caps)[1]
    assert "Operation not supported" in found


def test_with_no_new_privileges_and_another_user(task):
    assert task.sh("chmod 700 /home/x 2>&1; grep NoNewPrivs /proc/self/status", user="app",
                   seccomp={"profile": json.dumps(NO_CHMOD)}, config={"process": {"noNewPrivileges": True}},
                   )[1].endswith("NoNewPrivs:\t1\n")


@pytest.mark.parametrize("profile, words", [
    ("{", ["seccomp profile", "JSON"]),
    ('{"defaultAction":"SCMP_ACT_NOTIFY"}', ["SCMP_ACT_NOTIFY", "no listener"]),
    (json.dumps({"defaultAction": "SCMP_ACT_ALLOW",
                 "syscalls": [{"name": "ptrac", "action": "SCMP_ACT_ERRNO"}]}), ['"ptrac"', "refused"]),
])
def test_a_bad_profile_is_named(task, profile, words):
    with pytest.raises(RequestError) as error:
        task.create(["/bin/true"], seccomp={"profile": profile})
    names(error, *words)
    assert task.run(["/bin/true"])["exitCode"] == 0


def test_a_file_is_read_as_nobody_and_within_the_policy(host):
    secret = host.base / "secret.json"
    secret.write_text('{"password":"hunter2"}')
    secret.chmod(0o600)
    host.config.write_text(f"ECS_ALLOWED_HOST_PATHS={host.base}\n")
    task = Task(host)
    for path, words in ((secret, ["secret.json", "readable for every user"]),
                        ("/etc/passwd", ["/etc/passwd", "ECS_ALLOWED_HOST_PATHS"]),
                        ("/nonexistent/x", ["/nonexistent/x", "No such file"])):
        with pytest.raises(RequestError) as error:
            task.create(["/bin/true"], seccomp={"path": str(path)})
        names(error, *words)
        assert "hunter2" not in str(error.value)


# --- on a whole node


def test_security_options_of_a_task_definition(node, busybox, host):
    """From dockerSecurityOptions to the container; the agent, too, names what it does not take."""
    profile = host.base / "profile.json"
    profile.write_text(json.dumps(NO_CHMOD))
    script = (f"{TRY}; grep NoNewPrivs /proc/self/status; grep -c ' /proc/' /proc/self/mountinfo;"
              "grep -c Seccomp:.*2 /proc/self/status")
    options = ["no-new-privileges:true", f"seccomp={profile}", "systempaths=unconfined"]
    run_to_end(node, taskdef.task(taskdef.container(busybox, script, dockerSecurityOptions=options)))
    lines = wait_log(node, lambda lines: len(lines) == 5)
    assert lines == [*REFUSED.splitlines(), "NoNewPrivs:\t1", "0", "1"]

    refused = taskdef.container(busybox, "true", dockerSecurityOptions=["credentialspec:ssm:x"])
    reason = only(run_to_end(node, taskdef.task(refused)))["reason"]
    assert reason.startswith("CannotCreateContainerError: ") and '"credentialspec:ssm:x"' in reason


# --- what the host has not


@without_apparmor
def test_an_apparmor_profile_is_refused_without_apparmor(task):
    with pytest.raises(RequestError) as error:
        task.create(["/bin/true"], config={"process": {"apparmorProfile": "mine"}})
    names(error, 'AppArmor profile "mine"', "not enabled")
    assert task.run(["/bin/true"], config={"process": {"apparmorProfile": "unconfined"}})["exitCode"] == 0


@without_selinux
@pytest.mark.parametrize("config", [
    {"process": {"selinuxLabel": "system_u:system_r:container_t:s0:c1,c2"}},
    {"linux": {"mountLabel": "system_u:object_r:container_file_t:s0:c1,c2"}},
])
def test_an_selinux_label_is_refused_without_selinux(task, config):
    with pytest.raises(RequestError) as error:
        task.create(["/bin/true"], config=config)
    names(error, "SELinux label", "not enabled")


# --- AppArmor


def parser(action, text):
    subprocess.run(["apparmor_parser", action, "-K"], input=text, text=True, check=True, timeout=120)


@pytest.fixture(scope="module")
def profiles():
    """One of a test's own, which lets nothing be written to /tmp, and that of the package."""
    name = f"ecs-test-{uuid.uuid4().hex[:8]}"
    own = (f"profile {name} flags=(attach_disconnected,mediate_deleted) {{\n"
           "  file,\n  network,\n  capability,\n  signal,\n  ptrace,\n  deny /tmp/** w,\n}\n")
    default = (PACKAGING / "apparmor/ecs-default").read_text()
    was_there = "ecs-default " in Path("/sys/kernel/security/apparmor/profiles").read_text()
    parser("-r", own)
    try:
        parser("-r", default)
        yield name
    finally:
        parser("-R", own)
        if not was_there:
            parser("-R", default)


CURRENT = "cat /proc/self/attr/apparmor/current"


@needs_apparmor
def test_a_profile_of_the_host(profiles, task):
    process = {"apparmorProfile": profiles}
    task.create(["/bin/sh", "-c", f"{CURRENT}; echo x > /tmp/x; exec sleep 1000"], init=True,
                config={"process": process})
    task.call("start", container="app")
    wait_for_output(task, f"{profiles} (enforce)\n")
    wait_for(lambda: "can't create /tmp/x: Permission denied" in task.output("app", 2), what="a refusal")
    # An exec is in it, and so is our own init.
    assert sh(task, f"{CURRENT}; cat /proc/1/attr/apparmor/current /proc/1/comm")[1] == (
        f"{profiles} (enforce)\n" * 2 + "init\n")
    code, _, err = sh(task, "echo x > /tmp/y")
    assert code != 0 and "Permission denied" in err
    task.call("stop", container="app", timeoutUsec=20_000_000)
    assert task.connection.event("exited", "app")["exitCode"] == 143


@needs_apparmor
def test_without_a_name_it_is_that_of_the_package(profiles, task):
    caps = DEFAULT_CAPS + ["CAP_SYS_ADMIN"]
    config = {"process": {"capabilities": {"bounding": caps, "permitted": caps, "effective": caps}}}
    mount = f"{CURRENT}; mount -t tmpfs x /tmp 2>/dev/null || echo refused; kill -0 1 && echo kill"
    _, out = task.sh(mount, "default", config=config, seccomp="unconfined")
    assert out == "ecs-default (enforce)\nrefused\nkill\n"

    config["process"]["apparmorProfile"] = "unconfined"
    _, out = task.sh(f"{CURRENT}; mount -t tmpfs x /tmp && echo mounted", "open", config=config,
                     seccomp="unconfined")
    assert out == "unconfined\nmounted\n"
    assert task.sh(CURRENT, "privileged", privileged=True)[1] == "unconfined\n"


@needs_apparmor
def test_a_profile_that_is_not_loaded_is_named(task):
    task.create(["/bin/true"], config={"process": {"apparmorProfile": "ecs-test-none"}})
    with pytest.raises(RequestError, match='"ecs-test-none" is not loaded') as error:
        task.call("start", container="app")
    assert error.value.name == "CannotStartContainerError"
