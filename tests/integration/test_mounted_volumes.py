"""Volumes that ecs-volume mounts: driverOpts of the local driver, EFS by mount.efs (a stand-in here).

File systems with a server are in tests/vm/test_nfs.py.
"""

import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

from builddir import needs_root, program
from controlplane.client import wait_for
from harness.node import Node
from harness.taskdef import container, task as task_definition
from metadata import Cgroup2
from runtime import Connection, RequestError, Task
from syscall_in import EXECVE, GETPID, KEYCTL, syscall_in

pytestmark = needs_root

# Mounts a tmpfs in place of the file system, and tells how it was called and what it may do.
MOUNT_EFS = """#!/bin/sh
echo "$@" >>{log}
grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status >{log}.status
unshare --user true 2>/dev/null && echo "it can have a user namespace" >>{log}.status
case "$1" in
*:/denied) echo "mount.nfs4: access denied by server" >&2; exit 32 ;;
*:/nothing) exit 0 ;;
*:/hangs) sleep 1000 ;;
esac
mount -t tmpfs -o mode=0755 efs "$2" && echo "of $1" >"$2/file"
"""


class Volume:
    """One ecs-volume, as ecs-launcher starts it."""

    def __init__(self, host, path=None):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        (host.run / "mounts").mkdir(mode=0o700, exist_ok=True)
        environment = {**os.environ, "PATH": f"{path}:/usr/sbin:/usr/bin:/sbin:/bin" if path
                       else "/usr/sbin:/usr/bin:/sbin:/bin"}
        self.process = subprocess.Popen(
            [program("ecs-volume"), "--config", host.config, "--state-dir", host.state,
             "--runtime-dir", host.run],
            preexec_fn=lambda: os.dup2(theirs.fileno(), 3, inheritable=True), close_fds=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment,
            start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self.connection = Connection(ours)

    def mount(self, task_id, name="v", **members):
        """The lifeline."""
        self.connection.call("mount", taskId=task_id, name=name, **members)
        (lifeline,) = self.connection.take_fds()
        return lifeline

    def close(self):
        self.connection.close()
        self.process.wait(60)
        error = self.process.stderr.read().decode()
        self.process.stderr.close()
        assert "Sanitizer" not in error and "runtime error" not in error, error


@pytest.fixture
def start(host):
    started = []

    def make(path=None):
        started.append(Volume(host, path))
        return started[-1]

    yield make
    for volume in started:
        volume.close()


def driver(kind, device="tmpfs", options=""):
    return {"driver": {"type": kind, "device": device, "options": options}}


def give(task, lifeline, name="v"):
    try:
        return task.call("volume", [lifeline], name=name)
    finally:
        os.close(lifeline)


def mounted(name, destination, *options):
    return {"mounts": [{"type": "volume", "source": f"mounted/{name}", "destination": destination,
                        "options": ["rbind", "rprivate", *options]}]}  # fmt: skip


def mounts_of(pid="self"):
    return Path(f"/proc/{pid}/mounts").read_text()


# --- ecs-volume and ecs-task


def test_containers_of_a_task_share_a_mount_that_goes_with_it(host, task, start):
    give(task, start().mount(task.id, **driver("tmpfs", options="size=1m,nosuid,mode=0751")))
    assert task.call("state")["volumes"] == ["v"]
    _, out = task.sh("stat -c %a /a; grep ' /a ' /proc/mounts; echo one > /a/file", name="one",
                     config=mounted("v", "/a"))
    assert out.splitlines()[0] == "751" and "nosuid" in out and "size=1024k" in out
    _, out = task.sh("cat /b/file; (echo x > /b/x) 2>/dev/null || echo read-only", name="two",
                     config=mounted("v", "/b", "ro"))
    assert out.splitlines() == ["one", "read-only"]
    assert str(host.run) not in mounts_of(), "nothing shows on the host"
    assert task.call("volume", [os.open("/dev/null", os.O_RDONLY)], name="v")["type"] == "volume-held"
    task.call("end")
    assert not (host.state / "tasks" / task.id).exists()


def test_a_mount_is_filled_whatever_lock_a_container_has_on_it(host, task, start):
    def fill(path):
        (path / "data").mkdir()
        (path / "data/file").write_text("image\n")

    layers = [host.busybox_layer(), host.layer(fill)]
    give(task, start().mount(task.id, **driver("tmpfs")))
    fd = os.open(f"/proc/{task.pid}/root{host.run}/volumes/v", os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for name in ("fills", "finds"):
            assert task.sh("cat /data/file", name=name, layers=layers,
                           config=mounted("v", "/data")) == (0, "image\n")
    finally:
        os.close(fd)
    assert list((host.state / "volumes/.fill").iterdir()) == []


def test_what_is_mounted_is_not_removed_with_the_task(host, task, start):
    data = host.base / "data"
    data.mkdir()
    (data / "file").write_text("kept\n")
    give(task, start().mount(task.id, **driver("none", str(data), "bind,ro")))
    _, out = task.sh("cat /d/file; (rm /d/file) 2>/dev/null || echo read-only", config=mounted("v", "/d"))
    assert out.splitlines() == ["kept", "read-only"]
    task.call("end")
    assert (data / "file").read_text() == "kept\n"


@pytest.mark.parametrize("driver_, code, says", [
    (driver("tmpfs", options="size=many"), "EIO", "size=many"),
    (driver("tmpfs", options="ro,rshared"), "EIO", "option rshared"),
    (driver("tmpfs", options="bind"), "EIO", "option bind"),
    (driver("none", "/etc", "ro"), "EIO", 'must have bind'),
    (driver("none", "/etc", "bind,size=1"), "EIO", "size=1"),
    (driver("none", "etc", "bind"), "EIO", "absolute path"),
    (driver("none", "/nonexistent-canary", "bind"), "EIO", "/nonexistent-canary"),
    (driver("ext4", "/dev/sda"), "ENOTSUP", "type \"ext4\""),
    (driver("nfs", ":/x", "nfsvers=4.1"), "EIO", "addr="),
    (driver("nfs", ":/x", "addr=host.invalid"), "EIO", "host.invalid"),
    ({"efs": {"fileSystemId": "fs-01234567", "server": "a.invalid", "tls": True}}, "ENOTSUP",
     "transitEncryption needs mount.efs"),
    ({"efs": {"fileSystemId": "fs-01234567", "server": "a.invalid", "tls": True,
              "accessPointId": "fsap-01234567"}}, "ENOTSUP", "accessPointId needs mount.efs"),
    ({"efs": {"fileSystemId": "fs-01234567", "server": "a.invalid", "tls": True,
              "credentialsPath": "/v2/credentials/x"}}, "ENOTSUP", "iam needs mount.efs"),
    ({"efs": {"fileSystemId": "fs-01234567", "server": "a.invalid"}}, "EIO", "a.invalid"),
])  # fmt: skip
def test_what_cannot_be_mounted_is_named(start, driver_, code, says):
    with pytest.raises(RequestError) as error:
        start().mount("t1", **driver_)
    assert says in error.value.message and error.value.code == code


def test_bind_mounts_follow_the_policy_of_the_host(host, start):
    host.config.write_text(f"ECS_ALLOWED_HOST_PATHS={host.base}/ok\n")
    for name in ("ok", "other"):
        (host.base / name).mkdir()
    (host.base / "ok/link").symlink_to(host.base / "other")
    os.close(start().mount("t1", **driver("none", str(host.base / "ok"), "bind")))
    for path in ("other", "ok/link", "ok/../other"):
        with pytest.raises(RequestError, match="is not one of ECS_ALLOWED_HOST_PATHS"):
            start().mount("t1", **driver("none", str(host.base / path), "bind"))


def test_a_shared_volume_keeps_its_driver(host, task, start):
    data = host.base / "data"
    data.mkdir()
    of_data = driver("none", str(data), "bind")
    with pytest.raises(RequestError, match="volume v does not exist"):
        start().mount("t1", **of_data, shared={"existing": True})
    os.close(start().mount("t1", **of_data, shared={"labels": {"a": "b"}}))
    directory = host.state / "volumes/v"
    assert json.loads(os.getxattr(directory, "trusted.ecs.driver")) == of_data["driver"]
    assert os.getxattr(directory, "trusted.ecs.labels") == b'{"a":"b"}'
    os.close(start().mount("t2", **of_data, shared={"existing": True}))
    with pytest.raises(RequestError, match="was made with other driverOpts"):
        start().mount("t3", **driver("none", "/etc", "bind"), shared={})
    (host.state / "volumes/plain").mkdir()
    with pytest.raises(RequestError, match="was made without driverOpts"):
        start().mount("t3", "plain", **of_data, shared={})
    task.create(["/bin/true"], config={"mounts": [
        {"type": "volume", "source": "shared/v", "destination": "/v", "options": ["rbind"]}]})
    with pytest.raises(RequestError, match="was made with driverOpts"):
        task.call("start", container="app")


def of_nobody():
    """A lifeline that an unprivileged process has made up: socketpair(2) keeps who called it."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with here, there:
        pid = os.fork()
        if pid == 0:
            os.setresuid(65534, 65534, 65534)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            socket.send_fds(ours, [b"mount"], [os.open("/", os.O_RDONLY)])
            socket.send_fds(there, [b"x"], [theirs.fileno()])
            os._exit(0)
        os.waitpid(pid, 0)
        _, (fd,), _, _ = socket.recv_fds(here, 1, 1)
    return socket.socket(fileno=fd)


def test_a_supervisor_takes_mounts_of_root_only(host, task):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, pytest.raises(RequestError):
        task.call("volume", [theirs.fileno()], name="v")
    with of_nobody() as lifeline, pytest.raises(RequestError, match="does not come from ecs-volume"):
        task.call("volume", [lifeline.fileno()], name="v")
    with pytest.raises(RequestError, match="no name of a volume"):
        task.call("volume", [os.open("/dev/null", os.O_RDONLY)], name="../x")
    task.create(["/bin/true"], config=mounted("absent", "/v"))
    with pytest.raises(RequestError, match="volume absent does not exist"):
        task.call("start", container="app")


# --- mount.efs


@pytest.fixture
def helper(tmp_path):
    """A folder with a mount.efs; its log is beside it."""
    path = tmp_path / "bin/mount.efs"
    path.parent.mkdir()
    path.write_text(MOUNT_EFS.format(log=tmp_path / "log"))
    path.chmod(0o755)
    return path.parent


def efs(root="/", **more):
    return {"efs": {"fileSystemId": "fs-01234567", "rootDirectory": root, "server": "unused", **more}}


def test_efs_is_mounted_by_mount_efs_for_as_long_as_the_task_lives(host, task, start, helper):
    volume = start(helper)
    give(task, volume.mount(task.id, **efs("/sub", tls=True, tlsPort=20049, accessPointId="fsap-0123456789",
                                           credentialsPath="/v2/credentials/c1")))  # fmt: skip
    place = host.run / "mounts" / task.id / "v"
    assert (helper.parent / "log").read_text() == (
        f"fs-01234567:/sub {place} -o rw,tls,tlsport=20049,iam,awscredsuri=/v2/credentials/c1,"
        "accesspoint=fsap-0123456789\n"
    )
    # CAP_SYS_ADMIN, CAP_DAC_READ_SEARCH and CAP_NET_BIND_SERVICE.
    assert (helper.parent / "log.status").read_text().split() == [
        "CapEff:", f"{0x200404:016x}", "CapBnd:", f"{0x200404:016x}", "NoNewPrivs:", "1", "Seccomp:", "2"]
    status = Path(f"/proc/{volume.process.pid}/status").read_text()
    for line in (f"CapPrm:\t{0x200004:016x}", f"CapBnd:\t{0x200404:016x}", "NoNewPrivs:\t1", "Seccomp:\t2"):
        assert f"\n{line}\n" in status
    assert syscall_in(volume.process.pid, GETPID) == volume.process.pid
    for number in (EXECVE, KEYCTL):
        assert syscall_in(volume.process.pid, number) == -errno.EPERM, number
    assert str(place) in mounts_of(), "its watchdog looks for it here"
    assert str(place) not in mounts_of(task.pid)
    assert task.sh("cat /e/file", config=mounted("v", "/e")) == (0, "of fs-01234567:/sub\n")
    assert volume.process.poll() is None

    other = Task(host)  # begins while it is mounted, and keeps none of it
    assert str(place) not in mounts_of(other.pid)
    task.call("end")
    task.kill()
    volume.process.wait(30)
    assert str(host.run) not in mounts_of()
    assert list((host.run / "mounts").iterdir()) == []


def test_a_supervisor_that_is_killed_leaves_no_mount(host, task, start, helper):
    volume = start(helper)
    give(task, volume.mount(task.id, **efs()))
    task.kill()
    volume.process.wait(60)
    assert str(host.run) not in mounts_of()


def test_the_reaper_unmounts_what_a_killed_holder_left(host, task, start, helper):
    volume = start(helper)
    give(task, volume.mount(task.id, **efs()))
    held = start(helper)
    lifeline = held.mount(task.id, "w", **efs())
    volume.process.kill()
    volume.process.wait()
    task.kill()
    assert task.reap()[0]["type"] == "reaped"
    assert f"{task.id}/v" in mounts_of(), "another volume of the task has its holder, which removes it"
    held.process.kill()
    held.process.wait()
    os.close(lifeline)
    assert task.reap()[0]["type"] == "reaped"
    assert not (host.run / "mounts" / task.id).exists()
    assert str(host.run) not in mounts_of()


@pytest.mark.parametrize("root, says", [("/denied", "access denied by server"), ("/nothing", "mounted nothing")])
def test_what_mount_efs_says_is_the_error(host, start, helper, root, says):
    volume = start(helper)
    with pytest.raises(RequestError, match=says):
        volume.mount("t1", **efs(root))
    volume.process.wait(30)
    assert str(host.run) not in mounts_of() and list((host.run / "mounts").iterdir()) == []


def test_a_mount_that_hangs_is_given_up_with_its_connection(host, start, helper):
    volume = start(helper)
    volume.connection.send({"type": "mount", "seq": 1, "taskId": "t1", "name": "v", **efs("/hangs")})
    wait_for((helper.parent / "log").exists, 20, lambda: "mount.efs was not called")
    volume.connection.close()
    volume.process.wait(30)
    assert str(host.run) not in mounts_of() and list((host.run / "mounts").iterdir()) == []


# --- whole nodes


@pytest.fixture(scope="module")
def efs_node():
    base = Path(tempfile.mkdtemp(prefix="ecs-efs-", dir="/var/tmp"))  # which ecs-agent can enter
    base.chmod(0o755)
    (base / "mount.efs").write_text(MOUNT_EFS.format(log=base / "log"))
    (base / "mount.efs").chmod(0o755)

    class EfsNode(Node):
        def environment(self, daemon):
            environment = super().environment(daemon)
            return environment | {"PATH": f"{base}:{environment['PATH']}"}

    try:
        with EfsNode() as node:
            yield node
    finally:
        shutil.rmtree(base)


def volumes_of(*volumes):
    return {"volumes": list(volumes),
            "mountPoints": [{"sourceVolume": v["name"], "containerPath": f"/{v['name']}"} for v in volumes]}


def run(node, busybox, command, group, *volumes):
    given = volumes_of(*volumes)
    arn = node.standin.run_task(task_definition(
        container(busybox, command, logs=group, mountPoints=given["mountPoints"]), volumes=given["volumes"]))
    return arn, lambda: node.standin.wait_task(arn, "STOPPED", 60)


def test_a_task_with_efs_and_local_drivers(efs_node, busybox, tmp_path):
    node = efs_node
    assert {"ecs.capability.efs", "ecs.capability.efsAuth"} <= set(node.standin.instance()["attributes"])
    (tmp_path / "file").write_text("bound\n")
    tmp_path.chmod(0o755)
    arn, stopped = run(
        node, busybox, "cat /efs/file /bound/file; df /scratch | tail -n 1 | awk '{print $2}'; trap 'exit 3' TERM; "
        "while :; do sleep 0.1; done", "gm",
        {"name": "efs", "efsVolumeConfiguration": {"fileSystemId": "fs-01234567", "rootDirectory": "/r"}},
        {"name": "bound", "dockerVolumeConfiguration": {"scope": "shared", "autoprovision": True, "driverOpts": {
            "type": "none", "device": str(tmp_path), "o": "bind"}}},
        {"name": "scratch", "dockerVolumeConfiguration": {"scope": "task", "driverOpts": {
            "type": "tmpfs", "device": "tmpfs", "o": "size=64k"}}},
    )  # fmt: skip
    node.standin.wait_task(arn, "RUNNING", 60)
    lines = wait_for(lambda: len(node.logs("gm")) >= 3 and node.logs("gm"), 60, lambda: node.logs("gm"))
    assert lines == ["of fs-01234567:/r", "bound", "64"]
    # Neither daemon is needed for it to stay.
    node.restart("agent")
    node.restart("launcher")
    node.standin.stop_task(arn)
    assert stopped()["containers"][0]["exitCode"] == 3
    node.wait_clean()


@pytest.fixture
def service():
    cgroup = Cgroup2()
    yield cgroup
    cgroup.remove()


def test_the_host_gets_the_role_of_a_task_that_mounts_with_it_and_no_other(efs_node, busybox, service):
    node = efs_node
    with_iam = {"name": "efs", "efsVolumeConfiguration": {
        "fileSystemId": "fs-01234567", "transitEncryption": "ENABLED", "authorizationConfig": {"iam": "ENABLED"}}}
    without = {"name": "efs", "efsVolumeConfiguration": {"fileSystemId": "fs-01234567"}}
    say = "echo $AWS_CONTAINER_CREDENTIALS_RELATIVE_URI; trap 'exit 0' TERM; while :; do sleep 0.1; done"
    tasks = [run(node, busybox, say, group, volume) for group, volume in (("iam", with_iam), ("plain", without))]
    iam, plain = (wait_for(lambda group=group: node.logs(group), 60, lambda: "no uri")[0] for group in ("iam", "plain"))
    assert (service.fetch(None, iam), service.fetch(None, plain)) == (200, 400)
    for arn, stopped in tasks:
        node.standin.stop_task(arn)
        stopped()
    node.wait_clean()


def test_a_volume_that_cannot_be_mounted_fails_its_task_by_name(efs_node, busybox):
    node = efs_node
    for configuration, says in (
        ({"efsVolumeConfiguration": {"fileSystemId": "fs-01234567", "rootDirectory": "/denied"}},
         "volume data: mount.nfs4: access denied by server"),
        ({"dockerVolumeConfiguration": {"scope": "task", "driverOpts": {"type": "ext4", "device": "/dev/x"}}},
         "driverOpts: type ext4 is not supported"),
        ({"dockerVolumeConfiguration": {"scope": "task", "driverOpts": {"type": "nfs", "device": ":/", "size": "1"}}},
         "driverOpts: size is not supported"),
    ):  # fmt: skip
        _, stopped = run(node, busybox, "true", None, {"name": "data", **configuration})
        assert says in stopped()["stoppedReason"]
    node.wait_clean()
