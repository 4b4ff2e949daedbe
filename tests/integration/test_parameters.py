"""What ecs-task makes of parameters that tests/unit/test_docker_members.c finds in its requests."""

import os
import stat
from pathlib import Path

import pytest

from builddir import needs_root
from runtime import RequestError, Task
from waiting import wait_for

pytestmark = needs_root


def lines(text):
    return text.splitlines()


def tmpfs(path, *options):
    return {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": list(options)}


# --- files


def test_tmpfs_has_the_options_that_were_asked_for(task):
    docker = ("noexec", "nosuid", "nodev")
    mounts = [
        tmpfs("/tmp", *docker), tmpfs("/home", *docker), tmpfs("/new", *docker),
        tmpfs("/a", *docker, "size=1m", "mode=0710", "uid=7", "gid=8", "nr_inodes=9", "exec"),
        tmpfs("/b", *docker, "defaults", "ro", "noatime", "atime", "suid", "dev", "mpol=local", "size=10%"),
        tmpfs("/c", *docker, "rw", "sync", "dirsync", "async", "strictatime", "nostrictatime", "norelatime", "nomand"),
    ]
    _, out = task.sh(
        "stat -c '%n %a %u:%g' /tmp /home /new /a; for i in 1 2 3 4 5 6 7 8 9; do touch /a/$i; done 2>/dev/null; ls /a | wc -l;"
        "touch /b/x 2>&1; grep -E '^tmpfs /[abc] ' /proc/mounts | cut -d' ' -f2,4",
        config={"mounts": mounts},
    )  # fmt: skip
    found = lines(out)
    # A place that the image has keeps its mode.
    assert found[:4] == ["/tmp 1777 0:0", "/home 755 0:0", "/new 1777 0:0", "/a 710 7:8"]
    assert found[4] == "8", "nine inodes and one is the directory's"
    assert "Read-only file system" in task.output(stream=2) + found[5]
    options = dict(line.split() for line in found[5:] if line[0] == "/")
    assert options["/a"].startswith("rw,nosuid,nodev,relatime") and "noexec" not in options["/a"]
    assert options["/b"].startswith("ro,noexec,relatime")
    assert options["/c"].startswith("rw,sync,dirsync,nosuid,nodev,noexec,relatime")


@pytest.mark.parametrize("option, words", [
    ("size=lots", 'size is "lots"; it must be a number with k, m, g'),
    ("mode=9", 'mode is "9"; it must be an octal number'),
    ("uid=app", 'uid is "app"'),
    ("gid=", 'gid is ""'),
    ("huge=always", '"huge=always" is not supported'),
    ("remount", '"remount" is not supported'),
    ("bind", '"bind" is not supported'),
    ("shared", '"shared" is not supported'),
])
def test_a_bad_option_of_tmpfs_is_named(task, option, words):
    with pytest.raises(RequestError) as error:
        task.create(["/bin/true"], config={"mounts": [tmpfs("/t", option)]})
    assert words in error.value.message


def test_a_volume_stands_over_a_file_of_etc_however_it_is_written(host, task):
    (host.base / "mine").write_text("mine\n")
    mount = {"destination": "/etc/./hosts", "type": "bind", "source": str(host.base / "mine"), "options": []}
    _, out = task.sh("cat /etc/hosts; echo more >>/etc/resolv.conf && tail -1 /etc/resolv.conf; cat /etc/hostname",
                     config={"mounts": [mount]})
    assert lines(out) == ["mine", "more", os.uname().nodename]


def test_etc_files_of_the_host_s_network_are_the_host_s(task):
    _, out = task.sh("cat /etc/hosts; echo ==; cat /etc/resolv.conf; echo ==; readlink /etc/mtab; hostname")
    hosts, resolv, name = out.split("==\n")
    mtab, name = lines(name)
    assert hosts == Path("/etc/hosts").read_text()
    assert resolv == Path("/etc/resolv.conf").read_text()
    assert name == os.uname().nodename
    assert mtab == "/proc/mounts"


# --- devices


@pytest.fixture
def devices(host):
    """A directory of the host with devices, one of them below, and what is none."""
    top = host.base / "devices"
    (top / "sub").mkdir(parents=True)
    os.mknod(top / "kmsg", stat.S_IFCHR | 0o640, os.makedev(1, 11))
    os.chown(top / "kmsg", 7, 8)
    os.mknod(top / "sub/mem", stat.S_IFCHR | 0o600, os.makedev(1, 1))
    (top / "file").write_text("")
    (top / "link").symlink_to("kmsg")
    (host.base / "empty").mkdir()
    yield top
    for path in (top / "kmsg", top / "sub/mem", top / "file", top / "link"):
        path.unlink()
    (top / "sub").rmdir()
    top.rmdir()
    (host.base / "empty").rmdir()


def test_devices_of_the_host_with_the_permissions_given(task, devices):
    given = [
        {"hostPath": str(devices), "path": "/dev/all", "access": "r"},
        {"hostPath": str(devices / "link"), "path": "/dev/through-link", "access": "r"},
        {"hostPath": "/dev/kmsg", "path": "/dev/kmsg"},
    ]
    script = ("cd /dev/all; find . -type c | sort; ls -la link file 2>/dev/null; stat -c '%a %u:%g %t:%T' kmsg;"
              "stat -c %t:%T /dev/through-link; (: >kmsg) && echo written")
    _, out = task.sh(script, hostDevices=given)
    assert lines(out) == ["./kmsg", "./sub/mem", "640 7:8 1:b", "1:b", "written"]


def test_a_device_may_be_readable_or_writable_alone(task, devices):
    kmsg = {"hostPath": str(devices / "kmsg"), "path": "/dev/kmsg"}
    script = "(: >/dev/kmsg) 2>/dev/null && echo written || echo not"
    _, out = task.sh(script, hostDevices=[{**kmsg, "access": "r"}])
    assert out == "not\n"
    _, out = task.sh(script, name="other", hostDevices=[{**kmsg, "access": "w"}])
    assert out == "written\n"


def test_rules_for_devices_that_the_container_makes(task):
    rules = [{"allow": True, "type": "c", "major": 1, "minor": 11, "access": "wm"}]
    _, out = task.sh("mknod /k c 1 11 && (: >/k) && echo written; mknod /m c 1 1; (: >/m) 2>&1", config={"linux": {"resources": {"devices": rules}}})
    assert out.startswith("written\n") and "peration not permitted" in out


@pytest.mark.parametrize("path, words", [
    ("nothing", "No such file or directory"),
    ("devices/file", "neither a device nor a directory"),
    ("empty", "directory without devices"),
])
def test_what_is_no_device_is_named(host, task, devices, path, words):
    with pytest.raises(RequestError) as error:
        task.create(["/bin/true"], hostDevices=[{"hostPath": str(host.base / path)}])
    assert words in error.value.message and str(host.base / path) in error.value.message
    assert error.value.name == "CannotCreateContainerError"


# --- network


def test_a_container_without_a_network_has_lo_alone(host):
    task = Task(host, network="bridge")
    task.create(["/bin/sh", "-c", "ip -o link | cut -d: -f2; tail -1 /etc/hosts; grep -c . /etc/resolv.conf"],
                networkDisabled=True, config={"hostname": "web"})
    for fd in task.connection.take_fds():
        os.close(fd)
    network = {"address": "172.29.0.5", "prefix": 16, "gateway": "172.29.0.1"}
    with pytest.raises(RequestError, match="for bridge mode only"):
        task.call("start", container="app", network=network)
    task.call("start", container="app")
    assert task.connection.event("exited")["exitCode"] == 0
    assert lines(task.output())[:2] == [" lo", "ff02::2\tip6-allrouters"]
    task.kill()
    task.reap()


def test_sysctls_are_seen_inside(host):
    task = Task(host, network="none")
    sysctl = {"kernel.domainname": "here.example", "net.core.somaxconn": "77", "fs.mqueue.msg_max": "11"}
    _, out = task.sh("cat /proc/sys/kernel/domainname /proc/sys/net/core/somaxconn /proc/sys/fs/mqueue/msg_max",
                     config={"linux": {"sysctl": sysctl}})
    assert lines(out) == ["here.example", "77", "11"]
    task.kill()
    task.reap()


# --- limits


def limit_files(task, name):
    found = {}
    for path in task.cgroup_paths(name):
        for file in ("cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.max", "pids.max"):
            if (path / file).exists():
                found[file] = (path / file).read_text().strip()
    return found


def test_cpu_and_pids_of_container_and_task(host):
    task = Task(host, cgroup={"pidsMax": 12, "cpuQuotaUsec": 90000, "cpuPeriodUsec": 100000})
    resources = {"cpu": {"quota": 25000, "period": 50000}, "pids": {"limit": 9}}
    task.create(["/bin/sleep", "1000"], config={"linux": {"resources": resources}})
    task.call("start", container="app")
    found = limit_files(task, "app")
    assert found.pop("pids.max") == "9"
    if "cpu.max" in found:
        assert found == {"cpu.max": "25000 50000"}
    else:
        assert found == {"cpu.cfs_quota_us": "25000", "cpu.cfs_period_us": "50000"}

    # The limit of the task holds below any that a container has.
    code, out = task.sh("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do sleep 5 & done; echo all", name="forks")
    assert code != 0 and "all" not in out
    assert "can't fork" in task.output("forks", stream=2)
    task.kill()
    task.reap()


DD = "dd if=/dev/zero of=/dev/null bs=200M count=1"


def test_the_limit_of_the_task_kills_and_is_told_as_such(host):
    task = Task(host, cgroup={"memoryBytes": 64 << 20})
    event = task.run(DD.split())
    assert (event["exitCode"], event["oomKilled"]) == (137, True)
    task.kill()
    task.reap()


def test_an_oom_kill_that_the_container_survives_is_no_reason_and_is_logged(host):
    task = Task(host)
    resources = {"memory": {"limit": 32 << 20, "swap": 32 << 20}}
    if not host.is_v2 and not list(Path("/sys/fs/cgroup").glob("memory/memory.memsw*")):
        resources["memory"].pop("swap")
    event = task.run(["/bin/sh", "-c", f"{DD}; {DD}; exit 4"], config={"linux": {"resources": resources}})
    assert (event["exitCode"], event["oomKilled"]) == (4, False)
    assert task.call("end")["type"] == "ended"
    wait_for(lambda: task.process.poll() is not None, what="the end of ecs-task")
    assert "container app: 2 of its processes were killed for want of memory" in task.process.stderr.read()
    task.kill()
    task.reap()
