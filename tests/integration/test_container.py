"""What a container is: its identity, namespaces, files, limits, mounts, and the calls it may not make."""

import os
import re
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from builddir import needs_root
from runtime import DEFAULT_CAPS_MASK, RequestError, Task, fields, lines

pytestmark = needs_root


def test_default_capabilities_and_seccomp(task):
    _, status = task.sh("cat /proc/self/status")
    assert fields(status, "CapBnd", "CapPrm", "CapEff") == [DEFAULT_CAPS_MASK] * 3
    assert fields(status, "CapInh", "CapAmb") == ["0" * 16] * 2
    assert fields(status, "Seccomp", "NoNewPrivs") == ["2", "0"]


def test_a_capability_that_the_host_has_not_is_named(task):
    own = int(fields(Path("/proc/self/status").read_text(), "CapBnd")[0], 16)
    missing = [name for name, bit in (("CAP_SYS_RESOURCE", 24), ("CAP_SYS_MODULE", 16), ("CAP_SYS_TIME", 25)) if not own >> bit & 1]
    if not missing:
        pytest.skip("this host has them all")
    sets = {name: ["CAP_CHOWN", missing[0]] for name in ("bounding", "permitted", "effective")}
    task.create(["/bin/true"], config={"process": {"capabilities": sets}})
    with pytest.raises(RequestError, match=f"capability {missing[0]} is not available on this host"):
        task.call("start", container="app")


def test_no_new_privileges_and_no_capabilities(task):
    process = {"noNewPrivileges": True,
               "capabilities": {"bounding": [], "permitted": [], "effective": []}}
    _, status = task.sh("cat /proc/self/status", config={"process": process})
    assert fields(status, "CapBnd", "CapPrm", "CapEff") == ["0" * 16] * 3
    assert fields(status, "Seccomp", "NoNewPrivs") == ["2", "1"]


def test_a_user_of_the_image_has_no_capabilities_and_its_groups(task):
    code, out = task.sh("id -u; id -g; id -G; echo $HOME; grep CapEff /proc/self/status;"
                        "echo through-the-pipe > /dev/stdout", user="app")
    assert code == 0
    assert lines(out) == ["1000", "1001", "1001 2000", "/home/app", "CapEff:\t" + "0" * 16,
                          "through-the-pipe"]


@pytest.mark.parametrize("user, ids", [
    ("1000", "1000 1001 1001 2000"), ("app:web", "1000 3000 3000"), ("4242", "4242 0 0"),
    ("4242:4343", "4242 4343 4343"), ("", "0 0 0"),
])
def test_users_are_found_as_docker_finds_them(task, user, ids):
    _, out = task.sh("echo $(id -u) $(id -g) $(id -G)", user=user)
    assert out.strip() == ids


@pytest.mark.parametrize("user, message", [
    ("nobody-here", "unable to find user nobody-here: no matching entries in passwd file"),
    ("app:nogroup", "unable to find group nogroup: no matching entries in group file"),
    ("99999999999", "ids must be in range"),
])
def test_a_user_that_is_not_there_is_named(task, user, message):
    task.create(["/bin/true"], user=user)
    with pytest.raises(RequestError, match=message):
        task.call("start", container="app")


def test_namespaces_are_the_containers_own(host):
    task = Task(host, network="none")
    task.create(["/bin/sleep", "1000"])
    pid = task.call("start", container="app")["pid"]
    for name in ("mnt", "pid", "ipc", "uts", "net", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), name


def test_host_mode_shares_the_network_and_nothing_else(task):
    task.create(["/bin/sleep", "1000"])
    assert task.connection.take_fds() == []
    pid = task.call("start", container="app")["pid"]
    assert os.readlink(f"/proc/{pid}/ns/net") == os.readlink(f"/proc/{task.pid}/ns/net")
    assert os.readlink(f"/proc/{pid}/ns/pid") != os.readlink(f"/proc/{task.pid}/ns/pid")


def test_created_hands_over_the_namespace_and_a_listening_endpoint(host):
    task = Task(host, network="bridge")
    answer = task.create(["/bin/sleep", "1000"])
    netns, endpoint = task.connection.take_fds()
    try:
        assert os.readlink(f"/proc/self/fd/{netns}").startswith("net:[")
        with socket.socket(fileno=os.dup(endpoint)) as listener:
            assert listener.getsockname() == ("169.254.170.2", 51679)
        unified = Path("/sys/fs/cgroup/unified")
        top = unified if unified.exists() else Path("/sys/fs/cgroup")
        directory = top / host.parent / f"ecstasks-{task.id}" / "app"
        assert answer["cgroupId"] == directory.stat().st_ino
    finally:
        os.close(netns)
        os.close(endpoint)
    with pytest.raises(RequestError, match='"network" is missing'):
        task.call("start", container="app")
    task.call("start", container="app",
              network={"address": "172.29.0.5", "prefix": 16, "gateway": "172.29.0.1"})
    assert task.call("sockets")["containers"] == ["app"]
    (again,) = task.connection.take_fds()
    os.close(again)


def test_hosts_hostname_and_resolv_conf(host):
    task = Task(host, network="bridge")
    task.create(["/bin/sh", "-c", "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf"],
                config={"hostname": "web-1"}, extraHosts=["db:10.0.0.9", "gw:host-gateway"],
                dns={"servers": ["10.0.0.2"], "search": ["a.example", "b.example"],
                     "options": ["ndots:2"]})
    for fd in task.connection.take_fds():
        os.close(fd)
    task.call("start", container="app",
              network={"address": "172.29.0.5", "prefix": 16, "gateway": "172.29.0.1"})
    assert task.connection.event("exited")["exitCode"] == 0
    assert lines(task.output()) == [
        "web-1", "web-1",
        "127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback",
        "fe00::\tip6-localnet", "ff00::\tip6-mcastprefix", "ff02::1\tip6-allnodes",
        "ff02::2\tip6-allrouters", "10.0.0.9\tdb", "172.29.0.1\tgw", "172.29.0.5\tweb-1",
        "nameserver 10.0.0.2", "search a.example b.example", "options ndots:2",
    ]


def test_a_domain_name_follows_the_host_name_as_with_docker(host):
    task = Task(host, network="bridge")
    task.create(["/bin/sh", "-c", "hostname; cat /proc/sys/kernel/domainname /etc/hostname; "
                                  "echo $HOSTNAME; tail -n 1 /etc/hosts"],
                config={"hostname": "web"}, domainname="shop.example")
    for fd in task.connection.take_fds():
        os.close(fd)
    network = {"address": "172.29.0.5", "prefix": 16, "gateway": "172.29.0.1"}
    task.call("start", container="app", network=network)
    assert task.connection.event("exited")["exitCode"] == 0
    assert lines(task.output()) == ["web.shop.example", "shop.example", "web", "web",
                                    "172.29.0.5\tweb.shop.example web"]


def test_standard_descriptors_only(task):
    # ls itself holds one more, which is gone when it reads where it leads.
    _, out = task.sh("ls -l /proc/self/fd | grep -o '[0-9]* -> .*'; pwd")
    found = lines(out)
    assert found[0] == "0 -> /dev/null"
    assert found[1].startswith("1 -> pipe:") and found[2].startswith("2 -> pipe:")
    assert found[3:] == ["/"]


def test_no_descriptor_is_inherited_by_a_program_that_is_looked_at_from_outside(task):
    task.create(["/bin/sleep", "1000"])
    pid = task.call("start", container="app")["pid"]
    assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]
    status = Path(f"/proc/{pid}/status").read_text()
    assert fields(status, "SigBlk", "SigIgn", "SigCgt") == ["0" * 16] * 3
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "0"
    assert fields(status, "Umask") == ["0022"]


def test_devices_are_docker_s(task):
    _, out = task.sh("ls /dev; ls -l /dev/null | cut -c1-10; stat -c %t:%T /dev/tty;"
                     "head -c 4 /dev/zero | wc -c; ls /dev/pts; grep -c ' /dev/shm tmpfs .*65536k'"
                     " /proc/mounts")
    assert lines(out) == ["core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm",
                          "stderr", "stdin", "stdout", "tty", "urandom", "zero",
                          "crw-rw-rw-", "5:0", "4", "ptmx", "1"]


def test_other_devices_cannot_be_used_even_when_made(task):
    _, out = task.sh("mknod /mem c 1 1 && echo made; head -c 1 /mem 2>&1 | tail -1;"
                     "mknod /disk b 254 0; head -c 1 /disk 2>&1 | tail -1")
    assert out.count("Operation not permitted") == 2 and "made" in out


def test_given_devices_can_be_used(task):
    device = {"path": "/dev/sub/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o640,
              "uid": 7, "gid": 8}
    _, out = task.sh("stat -c '%a %u %g %t:%T' /dev/sub/kmsg; : > /dev/sub/kmsg && echo opened",
                     config={"linux": {"devices": [device]}})
    assert lines(out) == ["640 7 8 1:b", "opened"]


def test_masked_and_readonly_paths(task):
    _, out = task.sh(
        "wc -c < /proc/keys; wc -c < /proc/timer_list; ls /sys/firmware | wc -l;"
        "stat -c %t:%T /proc/keys; cat /proc/keys | wc -c;"
        "echo b > /proc/sysrq-trigger; echo x > /proc/sys/kernel/hostname; echo $?;"
        "touch /sys/x; mkdir /sys/fs/cgroup/memory/x; mkdir /sys/fs/cgroup/x; echo done")
    assert lines(out)[:5] == ["0", "0", "0", "1:3", "0"]
    assert lines(out)[5:] == ["1", "done"]
    errors = task.output(stream=2)
    assert errors.count("Read-only file system") >= 4, errors


def test_the_cgroup_tree_starts_at_the_container(task):
    _, out = task.sh("cut -d: -f3 /proc/self/cgroup | sort -u; ls /sys/fs/cgroup | head -40")
    assert lines(out)[0] == "/"
    assert "ecstasks" not in out


def test_environment_and_working_directory(task):
    _, out = task.sh("env | sort; pwd", config={"hostname": "h", "process": {
        "env": ["A=1", "HOME=/else", "EMPTY="], "cwd": "/made/for/me"}})
    wanted = {"A=1", "HOME=/else", "EMPTY=", "HOSTNAME=h",
              "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    assert wanted <= set(lines(out))
    assert lines(out)[-1] == "/made/for/me"
    assert "ECS" not in out


def test_an_empty_home_is_that_of_the_user_and_a_new_working_directory_is_roots(task):
    code, out = task.sh("echo $HOME; env | grep -c ^HOME=; stat -c '%u:%g %a' . ..; pwd", user="app:web",
                        config={"process": {"env": ["HOME=", "PATH=/bin"], "cwd": "/srv/made"}})
    assert code == 0
    assert lines(out) == ["/home/app", "1", "0:0 755", "0:0 755", "/srv/made"]


def test_rlimits_and_oom_score(task):
    process = {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 333, "hard": 444}],
               "oomScoreAdj": 500}
    _, out = task.sh("ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; ulimit -Hc",
                     config={"process": process})
    assert lines(out) == ["333", "444", "500", "unlimited"]


def test_read_only_root(task):
    code, out = task.sh("touch /x || echo refused; touch /dev/shm/x && echo shm;"
                        "echo x >> /etc/hosts || echo hosts", config={"root": {"readonly": True}})
    assert code == 0
    assert lines(out) == ["refused", "shm", "hosts"]


def test_sysctls_of_the_containers_namespaces(host):
    task = Task(host, network="none")
    sysctl = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "12345"}
    _, out = task.sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax",
                     config={"linux": {"sysctl": sysctl}})
    assert lines(out) == ["1", "12345"]
    assert Path("/proc/sys/kernel/msgmax").read_text().strip() != "12345"


def test_limits_are_in_force(task):
    resources = {"pids": {"limit": 7}, "cpu": {"shares": 512}, "memory": {"limit": 64 << 20}}
    task.create(["/bin/sleep", "1000"], config={"linux": {"resources": resources}})
    task.call("start", container="app")

    def value(v1, v2):
        for path in task.cgroup_paths("app"):
            for name in (v1, v2):
                if (path / name).exists():
                    return (path / name).read_text().strip()
        raise AssertionError(f"neither {v1} nor {v2}")

    assert value("pids.max", "pids.max") == "7"
    assert value("memory.limit_in_bytes", "memory.max") == str(64 << 20)


@pytest.mark.parametrize("name", ["supervisor", "tasks", "notify_on_release", "cgroup.procs", "_x"])
def test_a_container_may_have_the_name_of_something_in_its_cgroup(task, name):
    task.create(["/bin/sleep", "1000"], name=name)
    task.call("start", container=name)
    task.create(["/bin/sleep", "1000"], name="x")
    for path in task.cgroup_paths(f"_{name}"):
        assert len((path / "cgroup.procs").read_text().split()) == 1
    task.call("stop", container=name, timeoutUsec=0)
    assert task.connection.event("exited")["exitCode"] == 137
    assert task.call("state")["ready"], "ecs-task lives"


# --- mounts


def test_bind_mounts(host, task):
    source = host.base / "volume"
    source.mkdir()
    (source / "file").write_text("from the host\n")
    missing = host.base / "missing/below"
    mounts = [
        {"destination": "/data/sub", "type": "bind", "source": str(source),
         "options": ["rbind", "rprivate", "ro"]},
        {"destination": "/data", "type": "bind", "source": str(missing), "options": ["rbind"]},
        {"destination": "/etc/one", "type": "bind", "source": str(source / "file"), "options": []},
    ]
    code, out = task.sh("cat /data/sub/file /etc/one; touch /data/sub/x; echo $?; echo new > /data/y",
                        config={"mounts": mounts})
    assert code == 0
    assert lines(out) == ["from the host", "from the host", "1"]
    assert (missing / "y").read_text() == "new\n"


def test_a_read_only_bind_mount_is_so_below_other_mounts_too(host):
    release = tuple(int(n) for n in re.findall(r"\d+", os.uname().release)[:2])
    if release < (5, 12):
        pytest.skip("mount_setattr(2) needs Linux 5.12")
    source = host.base / "volume"
    (source / "inner").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "x", source / "inner"], check=True)
    try:
        task = Task(host)
        mounts = [{"destination": "/v", "type": "bind", "source": str(source),
                   "options": ["rbind", "rprivate", "ro"]}]
        _, out = task.sh("touch /v/x || echo outer; touch /v/inner/x || echo inner",
                         config={"mounts": mounts})
        assert lines(out) == ["outer", "inner"]
    finally:
        subprocess.run(["umount", "-l", source / "inner"], check=True)


def test_tmpfs_mounts(task):
    mounts = [
        {"destination": "/cache", "type": "tmpfs", "source": "tmpfs",
         "options": ["noexec", "nosuid", "nodev", "size=1m", "mode=1777", "exec"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=2097152"]},
    ]
    _, out = task.sh("grep -E ' /cache | /dev/shm ' /proc/mounts | tail -2 | cut -d' ' -f2-4;"
                     "stat -c %a /cache; head -c 2000000 /dev/zero > /cache/x || echo full",
                     config={"mounts": mounts})
    found = lines(out)
    assert any(line.startswith("/cache tmpfs rw,nosuid,nodev,relatime") and "size=1024k" in line
               for line in found)
    assert any(line.startswith("/dev/shm tmpfs rw,nosuid,nodev,noexec") and "size=2048k" in line
               for line in found)
    assert found[-2:] == ["1777", "full"]


def test_host_paths_are_limited_by_root_s_configuration(host):
    allowed, other = host.base / "allowed", host.base / "other"
    allowed.mkdir()
    other.mkdir()
    (other / "secret").write_text("s")
    (allowed / "link").symlink_to(other)
    host.config.write_text(f"ECS_ALLOWED_HOST_PATHS=/nonexistent:{allowed}\n")
    task = Task(host)

    def mount(name, source):
        task.create(["/bin/true"], name=name, config={"mounts": [
            {"destination": "/m", "type": "bind", "source": str(source), "options": ["rbind"]}]})
        return task.call("start", container=name)

    mount("good", allowed / "made")
    assert (allowed / "made").is_dir()
    for name, source in (("bad", other), ("link", allowed / "link"), ("new", other / "new"),
                         ("like", Path(f"{allowed}-not")), ("through", allowed / "link/new")):
        with pytest.raises(RequestError, match="ECS_ALLOWED_HOST_PATHS"):
            mount(name, source)
    assert not (other / "new").exists() and not Path(f"{allowed}-not").exists()


# --- seccomp


SYSCALLS = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <sys/socket.h>
static void show(const char *name, long r) { printf("%s %d\n", name, r < 0 ? errno : 0); }
int main(void)
{
	long zero[16] = {0};
	show("unshare", syscall(SYS_unshare, CLONE_NEWUSER));
	show("clone3", syscall(435, zero, 64));
	show("keyctl", syscall(SYS_keyctl, 0, 0, 0, 0, 0));
	show("bpf", syscall(SYS_bpf, 0, zero, 16));
	show("io_uring_setup", syscall(425, 1, zero));
	show("mount", syscall(SYS_mount, "x", "/tmp", "tmpfs", 0, 0));
	show("future", syscall(5000));
	show("getppid", syscall(SYS_getppid));
	show("alg", socket(38, SOCK_SEQPACKET, 0));
	show("vsock", socket(40, SOCK_STREAM, 0));
	show("inet", socket(AF_INET, SOCK_DGRAM, 0));
	show("personality", syscall(SYS_personality, 0x0040000));
	return 0;
}
"""


@pytest.fixture(scope="module")
def syscalls(tmp_path_factory):
    directory = tmp_path_factory.mktemp("syscalls")
    (directory / "s.c").write_text(SYSCALLS)
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    subprocess.run(["gcc", "-static", "-o", directory / "s", directory / "s.c"], check=True)
    return directory / "s"


def syscall_results(host, task, binary, name, **changes):
    def fill(path):
        (path / "bin").mkdir()
        (path / "bin/syscalls").write_bytes(binary.read_bytes())
        (path / "bin/syscalls").chmod(0o755)

    event = task.run(["/bin/syscalls"], name=name, layers=[host.busybox_layer(), host.layer(fill)],
                     **changes)
    assert event["exitCode"] == 0
    return {k: int(v) for k, v in (line.split() for line in lines(task.output(name)))}


def test_denied_system_calls_fail_and_newer_ones_are_absent(host, task, syscalls):
    EPERM, ENOSYS = 1, 38
    found = syscall_results(host, task, syscalls, "app")
    assert {k: v for k, v in found.items() if v} == {
        "unshare": EPERM, "clone3": ENOSYS, "keyctl": EPERM, "bpf": EPERM,
        "io_uring_setup": EPERM, "mount": EPERM, "future": ENOSYS, "alg": EPERM, "vsock": EPERM,
        "personality": EPERM,
    }
    (cached,) = (host.run / "seccomp").iterdir()
    assert stat.S_IMODE(cached.stat().st_mode) == 0o600

    found = syscall_results(host, task, syscalls, "open", seccomp="unconfined")
    assert found["personality"] == 0 and found["clone3"] != ENOSYS


def test_a_spoiled_seccomp_cache_is_not_used(host, task, syscalls):
    syscall_results(host, task, syscalls, "one")
    (cached,) = (host.run / "seccomp").iterdir()
    good = cached.read_bytes()
    cached.write_bytes(b"")
    assert syscall_results(host, task, syscalls, "two")["keyctl"] == 1
    assert cached.read_bytes() == good
    (host.run / "seccomp").chmod(0o777)
    task.create(["/bin/true"], name="three")
    with pytest.raises(RequestError, match="must be root's alone"):
        task.call("start", container="three")


# --- privileged


def test_privileged_containers(task):
    _, out = task.sh("grep -E '^(CapEff|Seccomp):' /proc/self/status; ls /dev | grep -c .;"
                     "mkdir /t && mount -t tmpfs x /t && echo mounted; grep -c . /proc/keys",
                     privileged=True, seccomp="unconfined")
    own = fields(Path("/proc/self/status").read_text(), "CapEff")[0]
    found = lines(out)
    assert found[0] == f"CapEff:\t{own}" and found[1] == "Seccomp:\t0"
    assert int(found[2]) > 20 and found[3] == "mounted"


@pytest.mark.parametrize("value", ["true", "1", "t"])
def test_privileged_is_refused_by_root_s_configuration(host, value):
    host.config.write_text(f"ECS_DISABLE_PRIVILEGED={value}\n")
    task = Task(host)
    with pytest.raises(RequestError, match="ECS_DISABLE_PRIVILEGED forbids") as error:
        task.create(["/bin/true"], privileged=True)
    assert error.value.name == "CannotCreateContainerError"
    assert task.run(["/bin/true"])["exitCode"] == 0


def test_what_only_privileged_containers_have_is_refused_with_them(host):
    host.config.write_text("ECS_DISABLE_PRIVILEGED=true\n")
    task = Task(host)
    device = {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}
    for refused, names in (
        ({"maskedPaths": []}, "linux.maskedPaths is without /proc/asound"),
        ({"readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"]},
         "linux.readonlyPaths is without /proc/sysrq-trigger"),
        ({"resources": {"devices": [device, {"allow": True}]}}, r"devices\[1\] lets use more"),
        ({"resources": {"devices": [device | {"minor": -1}]}}, r"devices\[0\] lets use more"),
    ):  # fmt: skip
        with pytest.raises(RequestError, match=f"{names}.*, which ECS_DISABLE_PRIVILEGED forbids"):
            task.create(["/bin/true"], config={"linux": refused})
    allowed = {"resources": {"devices": [device, {"allow": True, "access": "m"}]}}
    assert task.run(["/bin/true"], config={"linux": allowed})["exitCode"] == 0
