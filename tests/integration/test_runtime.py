"""ecs-task on the running kernel: what containers are given, what they cannot do, what is left."""

import contextlib
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import uuid
from pathlib import Path

import pytest

from builddir import needs_root
from runtime import BUSYBOX, DEFAULT_CAPS_MASK, Host, RequestError, Task, wait_for

pytestmark = needs_root


@pytest.fixture
def host():
    it = Host()
    try:
        yield it
    finally:
        it.close()


@pytest.fixture
def task(host):
    return Task(host)


def lines(text):
    return text.strip().splitlines()


def fields(status, *names):
    """Values of "Name:\tvalue" lines of a /proc/<pid>/status."""
    values = dict(line.split(":", 1) for line in lines(status) if ":" in line)
    return [values[name].strip() for name in names]


def assert_nothing_left(host, task):
    for path in task.cgroup_paths(""):
        assert not path.exists()
    assert not (host.state / "tasks" / task.id).exists()
    assert not (host.run / "tasks" / task.id).exists()
    assert str(host.base) not in Path("/proc/self/mountinfo").read_text()


# --- running and ending


def test_output_exit_code_and_times_are_reported(task):
    event = task.run(["/bin/sh", "-c", "echo out; echo err >&2; exit 7"])
    assert event["exitCode"] == 7
    assert "signal" not in event and event["oomKilled"] is False
    assert task.output() == "out\n"
    assert task.output(stream=2) == "err\n"
    (state,) = task.call("state")["containers"]
    assert (state["status"], state["exitCode"]) == ("stopped", 7)
    assert state["startedTime"] <= state["exitTime"] == event["time"]


def test_an_exit_is_on_disk_for_the_agent_before_it_is_sent(host, task):
    event = task.run(["/bin/false"])
    path = host.run / "tasks" / task.id / "exit-app.json"
    assert json.loads(path.read_text()) == event
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o2750


@pytest.mark.parametrize("name", ["TERM", "KILL", "USR1", "ABRT"])
def test_a_signal_counts_as_128_plus_n(task, name):
    number = getattr(signal, f"SIG{name}")
    # Process 1 is not killed by its own signals, so a parent outside it must send them.
    task.create(["/bin/sh", "-c", f"trap 'exit {128 + number}' {name}; sleep 1000 & wait"]
                if name != "KILL" else ["/bin/sleep", "1000"])
    pid = task.call("start", container="app")["pid"]
    if name != "KILL":
        wait_for(lambda: int(fields(Path(f"/proc/{pid}/status").read_text(), "SigCgt")[0], 16)
                 & 1 << (number - 1), what="the trap")
    os.kill(pid, number)
    event = task.connection.event("exited")
    assert event["exitCode"] == 128 + number
    if name == "KILL":
        assert event["signal"] == number and event["oomKilled"] is False


@pytest.mark.parametrize("args, code, message", [
    (["nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
    (["/nosuch"], 127, 'exec: "/nosuch": stat /nosuch: no such file or directory'),
    (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
    (["/etc"], 126, 'exec: "/etc": is a directory'),
])
def test_a_command_that_cannot_run_is_named(task, args, code, message):
    task.create(args)
    with pytest.raises(RequestError) as error:
        task.call("start", container="app")
    assert error.value.name == "CannotStartContainerError"
    assert error.value.message == message
    assert error.value.exit_code == code
    assert error.value.body["container"] == "app"
    (state,) = task.call("state")["containers"]
    assert (state["status"], state["exitCode"]) == ("stopped", code)


def test_a_program_that_is_no_program_is_not_executable(host, task):
    def fill(path):
        (path / "bin").mkdir()
        (path / "bin/text").write_bytes(b"\x00\x01no program")
        (path / "bin/text").chmod(0o755)
        (path / "bin/script").write_text("#!/no/interpreter\n")
        (path / "bin/script").chmod(0o755)

    layers = [host.busybox_layer(), host.layer(fill)]
    for name, code in (("text", 126), ("script", 127)):
        task.create([name], name=name, layers=layers)
        with pytest.raises(RequestError) as error:
            task.call("start", container=name)
        assert error.value.exit_code == code, error.value


def test_stop_sends_the_stop_signal_and_then_kills(task):
    task.create(["/bin/sh", "-c", "trap 'exit 3' USR1; echo ready; while :; do sleep 1000 & wait; done"],
                name="polite", stopSignal="SIGUSR1")
    task.create(["/bin/sh", "-c", "trap '' TERM; echo ready; sleep 1000"], name="deaf")
    for name in ("polite", "deaf"):
        task.call("start", container=name)
        wait_for(lambda: task.output(name) == "ready\n")

    assert task.call("stop", container="polite", timeoutUsec=30_000_000)["type"] == "stopping"
    assert task.connection.event("exited", "polite")["exitCode"] == 3

    task.call("stop", container="deaf", timeoutUsec=30_000_000)
    task.call("stop", container="deaf", timeoutUsec=1000)  # the shorter one counts
    event = task.connection.event("exited", "deaf")
    assert (event["exitCode"], event["signal"]) == (137, signal.SIGKILL)


def test_a_container_that_never_ran_stops_without_an_exit_code(task):
    task.create(["/bin/true"])
    task.call("stop", container="app")
    assert "exitCode" not in task.connection.event("exited")
    with pytest.raises(RequestError, match="started already"):
        task.call("start", container="app")


def test_everything_of_a_container_ends_with_its_first_process(task):
    task.create(["/bin/sh", "-c", "setsid sleep 1000 & setsid sleep 1001 & echo on; read x < /tmp/f"])
    task.call("start", container="app")
    task.output  # noqa: B018
    path = task.cgroup_paths("app")[0] / "cgroup.procs"
    # "read" fails at once: the shell ends with its children alive.
    task.connection.event("exited")
    assert path.read_text() == ""


def test_an_oom_kill_is_told_from_other_kills(task):
    eat = ["/bin/sh", "-c", "exec tail -c 200000000 /dev/zero"]
    limit = {"linux": {"resources": {"memory": {"limit": 16 << 20, "swap": 16 << 20}}}}
    event = task.run(eat, config=limit)
    assert (event["exitCode"], event["oomKilled"]) == (137, True)
    assert task.call("state")["containers"][0]["oomKilled"] is True


def test_an_oom_kill_of_a_child_that_the_program_survives_is_not_reported(task):
    script = "tail -c 200000000 /dev/zero; echo survived; exit 0"
    limit = {"linux": {"resources": {"memory": {"limit": 16 << 20, "swap": 16 << 20}}}}
    event = task.run(["/bin/sh", "-c", script], config=limit)
    assert (event["exitCode"], event["oomKilled"]) == (0, False)
    assert task.output() == "survived\n"


def test_two_containers_run_side_by_side(task):
    for name in ("one", "two"):
        task.create(["/bin/sh", "-c", f"echo {name} > /mine; cat /mine; sleep 1000"], name=name)
        task.call("start", container=name)
    wait_for(lambda: task.output("one") == "one\n" and task.output("two") == "two\n")
    task.call("stop", container="one", timeoutUsec=0)
    task.connection.event("exited", "one")
    states = {c["name"]: c["status"] for c in task.call("state")["containers"]}
    assert states == {"one": "stopped", "two": "running"}
    with pytest.raises(RequestError) as error:
        task.call("end")
    assert error.value.code == "EBUSY"


def test_a_container_made_with_restart_keeps_its_files_and_its_log(task):
    task.create(["/bin/sh", "-c", "echo x >> /count; wc -l < /count; exit 4"], restart=True)
    end = task.host.state / "spool" / task.id / "app/end"
    for _ in range(3):
        task.call("start", container="app")
        assert task.connection.event("exited")["exitCode"] == 4
        assert not end.exists()
    assert lines(task.output()) == ["1", "2", "3"]
    task.call("end")
    assert end.exists()


def test_a_restart_is_told_with_what_a_policy_needs_and_keeps_the_network(host):
    """One start is without "network": the files and the namespace are those of before."""
    task = Task(host, network="bridge")
    task.create(["/bin/sh", "-c", "cat /etc/hosts | tail -n 2; readlink /proc/self/ns/net; sleep 0.2"], restart=True,
                config={"hostname": "web-1"}, linkedHosts=["172.29.0.9 db 0123456789ab ecs-db"])
    for fd in task.connection.take_fds():
        os.close(fd)
    network = {"address": "172.29.0.5", "prefix": 16, "gateway": "172.29.0.1"}
    for n in range(2):
        assert task.call("start", container="app", **({} if n else {"network": network}))["restarts"] == n
        event = task.connection.event("exited")
        (state,) = task.call("state")["containers"]
        assert 200_000 <= event["ranUsec"] == state["ranUsec"] and state.get("restarts", 0) == n
    first, second = lines(task.output())[:3], lines(task.output())[3:]
    assert first == second
    assert first[:2] == ["172.29.0.9\tdb 0123456789ab ecs-db", "172.29.0.5\tweb-1"]


def test_without_restart_a_second_start_is_refused(task):
    task.run(["/bin/true"])
    with pytest.raises(RequestError, match="started already"):
        task.call("start", container="app")


def test_init_collects_orphans_and_passes_signals_on(task):
    script = ("sh -c 'sleep 0.01 &' ; trap 'exit 9' TERM; echo $$ $(cat /proc/1/comm);"
              " while :; do sleep 1000 & wait; done")
    task.create(["/bin/sh", "-c", script], init=True)
    task.call("start", container="app")
    wait_for(lambda: task.output())
    assert task.output() == "2 init\n"
    processes = task.cgroup_paths("app")[0] / "cgroup.procs"

    def zombies():
        states = []
        for pid in processes.read_text().split():
            with contextlib.suppress(OSError):
                states.append(fields(Path(f"/proc/{pid}/status").read_text(), "State")[0][0])
        return states.count("Z")

    wait_for(lambda: zombies() == 0)
    task.call("stop", container="app", timeoutUsec=30_000_000)
    assert task.connection.event("exited")["exitCode"] == 9


# --- what a container is


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


# --- hostile images


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_an_image_cannot_choose_where_kernel_file_systems_are_mounted(host, task, name):
    canary = host.base / "canary"
    canary.mkdir()

    def fill(path):
        (path / name).symlink_to(canary)

    task.create(["/bin/true"], layers=[host.busybox_layer(), host.layer(fill)])
    with pytest.raises(RequestError, match=f"the image's /{name} is a symbolic link"):
        task.call("start", container="app")
    assert list(canary.iterdir()) == []


def test_links_in_etc_stay_inside_the_container(host, task):
    canary = host.base / "canary"
    canary.mkdir()
    (canary / "hosts").write_text("untouched")

    def fill(path):
        (path / "conf").mkdir()
        (path / "etc").symlink_to(str(canary))

    def fill_base(path):
        (path / "bin").mkdir()
        (path / "bin/sh").write_bytes(Path(BUSYBOX).read_bytes())
        (path / "bin/sh").chmod(0o755)

    # /etc leads to an absolute path of the host, which inside is one of the image's own.
    code, out = task.sh("while read a b; do echo $b; done < /etc/hosts",
                        layers=[host.layer(fill_base), host.layer(fill)])
    assert code == 0 and "localhost" in out
    assert (canary / "hosts").read_text() == "untouched"
    assert sorted(os.listdir(canary)) == ["hosts"]


def test_a_dangling_resolv_conf_is_made_where_it_points_inside(host, task):
    def fill(path):
        (path / "etc").mkdir()
        (path / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")

    code, out = task.sh("cat /run/systemd/resolve/stub-resolv.conf",
                        layers=[host.busybox_layer(), host.layer(fill)],
                        dns={"servers": ["10.1.2.3"]})
    assert code == 0 and out == "nameserver 10.1.2.3\n"


def test_a_working_directory_through_proc_is_refused(host, task):
    def fill(path):
        (path / "way").symlink_to("/proc/self/fd/3")

    layers = [host.busybox_layer(), host.layer(fill)]
    for n, cwd in enumerate(("/proc/self/fd/3", "/proc/self/fd/4/x", "/way")):
        task.create(["/bin/pwd"], name=f"c{n}", layers=layers, config={"process": {"cwd": cwd}})
        with pytest.raises(RequestError, match="working directory"):
            task.call("start", container=f"c{n}")


def test_mounts_inside_proc_are_refused(host, task):
    def fill(path):
        (path / "way").symlink_to("proc")

    for n, target in enumerate(("/proc/self/attr", "/proc", "/./proc/sys", "/way/sys/kernel")):
        with pytest.raises(RequestError, match="nothing can be mounted inside /proc"):
            task.create(["/bin/true"], name=f"c{n}", layers=[host.busybox_layer(), host.layer(fill)],
                        config={"mounts": [{"destination": target, "type": "bind",
                                            "source": str(host.base), "options": []}]})
            task.call("start", container=f"c{n}")


def test_mount_targets_behind_links_stay_inside(host, task):
    outside = host.base / "outside"
    outside.mkdir()
    source = host.base / "source"
    source.mkdir()
    (source / "mark").write_text("m")

    def fill(path):
        (path / "up").symlink_to("../../../../../../.." + str(outside))
        (path / "loop").symlink_to("loop")

    mount = {"type": "bind", "source": str(source), "options": ["rbind"]}
    code, out = task.sh(f"cat {outside}/mark", layers=[host.busybox_layer(), host.layer(fill)],
                        config={"mounts": [{**mount, "destination": "/up"}]})
    assert code == 0 and out == "m"
    assert list(outside.iterdir()) == []

    task.create(["/bin/true"], name="loop", layers=[host.busybox_layer(), host.layer(fill)],
                config={"mounts": [{**mount, "destination": "/loop/x"}]})
    with pytest.raises(RequestError, match="mount at /loop/x"):
        task.call("start", container="loop")


def test_hostile_passwd_files_are_bounded(host, task):
    def big(path):
        (path / "etc").mkdir()
        with (path / "etc/passwd").open("wb") as file:
            file.truncate(1 << 40)

    def fifo(path):
        (path / "etc").mkdir()
        os.mkfifo(path / "etc/group")

    for name, fill in (("big", big), ("fifo", fifo)):
        task.create(["/bin/true"], name=name, layers=[host.busybox_layer(), host.layer(fill)],
                    user="app")
        with pytest.raises(RequestError, match="/etc/passwd and /etc/group"):
            task.call("start", container=name)


def test_our_program_cannot_be_written_by_a_container(host, task):
    """CVE-2019-5736: the command is /proc/self/exe, or a script run by it."""
    binary = Path(f"/proc/{task.pid}/exe")
    with pytest.raises(OSError):
        binary.open("r+b")

    def fill(path):
        (path / "script").write_text("#!/proc/self/exe\n")
        (path / "script").chmod(0o755)

    for name, args in (("direct", ["/proc/self/exe"]), ("script", ["/script"])):
        task.create(args, name=name, layers=[host.busybox_layer(), host.layer(fill)])
        with contextlib.suppress(RequestError):
            task.call("start", container=name)
            # Without its libraries in the image it cannot run for long.
            assert task.connection.event("exited", name)["exitCode"] != 0


def test_a_set_uid_program_works_and_does_not_with_no_new_privs(host, task):
    def fill(path):
        (path / "bin").mkdir()
        target = path / "bin/suid"
        target.write_bytes(Path(BUSYBOX).read_bytes())
        (path / "bin/whoami").unlink(missing_ok=True)
        target.rename(path / "bin/id")
        (path / "bin/id").chmod(0o4755)

    layers = [host.busybox_layer(), host.layer(fill)]
    _, out = task.sh("id -u", name="with", layers=layers, user="app")
    busybox_drops = out  # busybox gives set-uid up for applets that need none
    assert busybox_drops.strip() in ("0", "1000")
    task.create(["/bin/id", "-u"], name="without", layers=layers, user="app",
                config={"process": {"noNewPrivileges": True}})
    task.call("start", container="without")
    task.connection.event("exited", "without")
    assert task.output("without") == "1000\n"


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


# --- refusals


@pytest.mark.parametrize("changes, message", [
    ({"config": {"process": {"terminal": 1}}}, "terminal"),
    ({"config": {"process": {"consoleSize": {"height": 70000, "width": 1}}}}, "consoleSize"),
    ({"config": {"process": {"selinuxLabel": "x"}}}, "process.selinuxLabel is"),
    ({"config": {"linux": {"seccomp": {}}}}, "linux.seccomp is not supported"),
    ({"config": {"hooks": {}}}, "config.hooks is not supported"),
    ({"config": {"process": {"args": []}}}, "no command specified"),
    ({"config": {"process": {"cwd": "x/y"}}}, "absolute path"),
    ({"config": {"process": {"cwd": "/a/../../b"}}}, "must not contain"),
    ({"config": {"process": {"capabilities": {"inheritable": ["CAP_CHOWN"]}}}}, "inheritable"),
    ({"config": {"process": {"capabilities": {"ambient": ["CAP_CHOWN"]}}}}, "ambient"),
    ({"config": {"process": {"capabilities": {"bounding": ["CAP_NONE"]}}}}, "CAP_NONE"),
    ({"config": {"process": {"rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}}}, "RLIMIT_X"),
    ({"config": {"linux": {"sysctl": {"kernel.core_pattern": "|/x"}}}}, "kernel.core_pattern"),
    ({"config": {"linux": {"sysctl": {"net.ipv4.ip_forward": "1"}}}}, "in host network mode"),
    ({"config": {"mounts": [{"destination": "/x", "type": "overlay", "source": "/"}]}}, "overlay"),
    ({"config": {"mounts": [{"destination": "/x", "type": "bind", "source": "/", "options": ["z"]}]}},
     'option "z"'),
    ({"seccomp": "my-profile"}, "my-profile"),
    ({"seccomp": {"path": "my-profile"}}, "seccomp.path"),
    ({"stopSignal": "SIGNOPE"}, "SIGNOPE"),
    ({"domainname": "two words"}, 'domainname is "two words"'),
    ({"domainname": "d" * 52}, "at most 64"),
    ({"id": "zz"}, "container.id"),
    ({"name": "../x"}, "container.name"),
    ({"layers": ["../../etc"]}, "64 hex digits"),
    ({"layers": ["0" * 64]}, "image layer"),
    ({"surprise": 1}, "container.surprise is not supported"),
    ({"log": {"mode": "sometimes"}}, "log.mode"),
])
def test_what_is_wrong_or_unknown_is_refused_by_name(task, changes, message):
    with pytest.raises(RequestError) as error:
        task.create(["/bin/true"], **changes)
    assert message in error.value.message
    assert error.value.name == "CannotCreateContainerError"
    assert task.call("state")["containers"] == []
    for path in task.cgroup_paths(changes.get("name", "app")):
        if path.name != "supervisor":
            assert not path.exists()


def test_requests_out_of_order_are_refused(host, task):
    with pytest.raises(RequestError, match="set up already"):
        task.call("setup", task={"networkMode": "host"})
    with pytest.raises(RequestError, match="no container"):
        task.call("start", container="nobody")
    with pytest.raises(RequestError, match="unknown request"):
        task.call("reboot")
    task.create(["/bin/true"])
    with pytest.raises(RequestError, match="exists already"):
        task.create(["/bin/true"])


def test_a_create_whose_answer_was_lost_is_answered_again(task):
    container = task.spec(["/bin/sh", "-c", "echo once"])
    task.call("create", container=container)
    task.reconnect()
    again = task.call("create", container=container)
    assert again["container"] == "app" and again["cgroupId"]
    task.call("start", container="app")
    assert task.connection.event("exited", "app")["exitCode"] == 0
    assert task.output("app") == "once\n"
    with pytest.raises(RequestError, match="exists already"):
        task.call("create", container=container)


# --- the spool


def test_much_output_arrives_whole_and_in_order(task):
    event = task.run(["/bin/sh", "-c", "seq 1 200000; echo end >&2"])
    assert event["exitCode"] == 0
    assert task.output() == "".join(f"{n}\n" for n in range(1, 200001))
    directory = task.host.state / "spool" / task.id / "app"
    assert (directory / "end").exists()
    log = json.loads((directory / "log.json").read_text())
    assert (log["driver"], log["taskId"]) == ("awslogs", task.id)
    segments = sorted(directory.glob("*.seg"))
    assert len(segments) > 1 and all(s.stat().st_size <= 1 << 20 for s in segments)
    assert stat.S_IMODE(segments[0].stat().st_mode) == 0o640


def test_blocking_mode_stops_the_program_until_there_is_room(task):
    bound = 256 * 1024
    task.create(["/bin/sh", "-c", "head -c 3000000 /dev/zero; echo over >&2"],
                log={"maxBytes": bound})
    task.call("start", container="app")
    directory = task.host.state / "spool" / task.id / "app"

    def segments():
        return sorted(directory.glob("*.seg"))

    wait_for(lambda: sum(s.stat().st_size for s in segments()) >= bound, what="the bound")
    assert task.call("state")["containers"][0]["status"] == "running"
    assert sum(s.stat().st_size for s in segments()) < bound + 2 * 65536 + 4096

    total = 0
    while total < 3000000 or not (directory / "end").exists():
        found = segments()
        complete = found if (directory / "end").exists() else found[:-1]
        for segment in complete:
            data = segment.read_bytes()
            while data:
                length, stream = int.from_bytes(data[4:8], "little"), data[12]
                assert stream in (1, 2)
                total += length if stream == 1 else 0
                data = data[24 + length :]
            segment.unlink()
        select.select([], [], [], 0.005)
    assert total == 3000000
    assert task.connection.event("exited")["exitCode"] == 0


def test_non_blocking_mode_drops_counts_and_leaves_a_gap(task):
    bound = 256 * 1024
    task.create(["/bin/sh", "-c", "head -c 3000000 /dev/zero; echo over >&2; sleep 1000"],
                log={"maxBytes": bound, "mode": "non-blocking"})
    task.call("start", container="app")
    directory = task.host.state / "spool" / task.id / "app"
    dropped = task.connection.event("dropped")
    assert dropped["container"] == "app" and dropped["records"] > 0
    wait_for(lambda: len(list(directory.glob("*.seg"))) > 1)
    for segment in sorted(directory.glob("*.seg"))[:-1]:
        segment.unlink()
    task.call("stop", container="app", timeoutUsec=0)
    task.connection.event("exited")
    gaps = [data for stream, data in task.records() if stream == 3]
    totals = [int.from_bytes(gap[8:16], "little") for gap in gaps]
    written = sum(len(data) for stream, data in task.records() if stream == 1)
    assert gaps and sum(totals) + written <= 3000005
    assert sum(totals) > 1000000


def test_driver_none_discards(task):
    event = task.run(["/bin/sh", "-c", "echo lost; readlink /proc/self/fd/1"], log={"driver": "none"})
    assert event["exitCode"] == 0
    assert not (task.host.state / "spool" / task.id).exists()


def test_a_pipe_that_another_container_holds_does_not_delay_the_exit(host, task):
    shared = host.base / "shared"
    shared.mkdir()
    os.mkfifo(shared / "fifo")
    mounts = [{"destination": "/s", "type": "bind", "source": str(shared), "options": []}]
    # The second container opens the first one's pipe by way of its own /proc: not possible across
    # pid namespaces, so it is handed over by descriptor through the host.
    task.create(["/bin/sh", "-c", "echo hello; read x < /s/fifo"], config={"mounts": mounts})
    pid = task.call("start", container="app")["pid"]
    held = os.open(f"/proc/{pid}/fd/1", os.O_WRONLY)
    try:
        (shared / "fifo").open("w").close()
        assert task.connection.event("exited")["type"] == "exited"
        assert task.output() == "hello\n"
    finally:
        os.close(held)


# --- restarts of the agent, deaths, ends


def test_a_restarted_agent_finds_the_task_and_its_exits(host, task):
    task.create(["/bin/sh", "-c", "read x < /tmp/go"], name="late")
    task.create(["/bin/sleep", "1000"], name="runs")
    pid = task.call("start", container="runs")["pid"]
    task.connection.close()
    task.reconnect()
    states = {c["name"]: c for c in task.call("state")["containers"]}
    assert states["late"]["status"] == "created"
    assert (states["runs"]["status"], states["runs"]["pid"]) == ("running", pid)

    task.connection.close()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: (host.run / "tasks" / task.id / "exit-runs.json").exists())
    task.reconnect()
    states = {c["name"]: c for c in task.call("state")["containers"]}
    assert (states["runs"]["status"], states["runs"]["exitCode"]) == ("stopped", 137)


def test_the_newest_connection_replaces_the_one_before(task):
    task.reconnect()
    old = task.connection
    task.connection = None
    task.reconnect()
    assert task.call("state")["ready"] is True
    with pytest.raises(ConnectionError):
        old.call("state")
    old.close()


def test_other_users_cannot_connect(host, task):
    path = host.run / "tasks" / task.id / "control.sock"
    os.chmod(host.run / "tasks", 0o755)
    os.chmod(path.parent, 0o755)
    os.chmod(path, 0o666)
    script = ("import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
              "s.settimeout(20); print(s.recv(1))")
    done = subprocess.run(["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
                           "/usr/bin/python3", "-c", script, str(path)],
                          capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "b''", done.stderr
    assert task.call("state")["ready"] is True


def test_end_leaves_nothing_but_the_spool(host, task):
    task.run(["/bin/true"])
    assert task.call("end")["type"] == "ended"
    assert task.process.wait(30) == 0
    assert not (host.state / "tasks" / task.id).exists()
    assert not (host.run / "tasks" / task.id).exists()
    assert (host.state / "spool" / task.id / "app/end").exists()
    answer, _ = task.reap()
    assert answer["type"] == "reaped"
    assert_nothing_left(host, task)


def processes_below(task):
    found = []
    for path in task.cgroup_paths("")[0].rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in path.read_text().split()]
    return found


def test_killing_ecs_task_kills_every_process_whatever_its_user(host):
    task = Task(host, network="none")
    for name, user in (("root", ""), ("other", "1234:1234")):
        task.create(["/bin/sh", "-c", "trap '' TERM HUP INT; setsid sleep 1000 & echo on; sleep 1001"],
                    name=name, user=user)
        for fd in task.connection.take_fds():
            os.close(fd)
        task.call("start", container=name)
        wait_for(lambda: task.output(name) == "on\n")
    pids = processes_below(task)
    assert len(pids) >= 6
    os.kill(task.pid, signal.SIGKILL)
    task.process.wait(30)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))

    for _ in range(2):
        answer, done = task.reap()
        assert answer["type"] == "reaped" and done.returncode == 0
        assert_nothing_left(host, task)
    assert (host.state / "spool" / task.id / "root/end").exists()


def test_reap_kills_what_still_runs(host, task):
    task.create(["/bin/sleep", "1000"])
    task.call("start", container="app")
    answer, done = task.reap()
    assert answer["type"] == "reaped", done.stderr
    task.process.wait(30)
    assert_nothing_left(host, task)


def test_reap_of_a_task_that_never_was(host, task):
    task.kill()
    task.reap()
    task.id = str(uuid.uuid4())
    answer, done = task.reap()
    assert answer["type"] == "reaped" and done.returncode == 0


def test_sigterm_stops_all_and_keeps_the_exits(host, task):
    task.create(["/bin/sh", "-c", "trap 'exit 5' TERM; echo on; while :; do sleep 1000 & wait; done"])
    task.call("start", container="app")
    wait_for(lambda: task.output() == "on\n")
    os.kill(task.pid, signal.SIGTERM)
    assert task.connection.event("exited")["exitCode"] == 5
    assert task.process.wait(30) == 0
    assert json.loads((host.run / "tasks" / task.id / "exit-app.json").read_text())["exitCode"] == 5
    directory = host.state / "exits" / task.id
    assert json.loads((directory / "exit-app.json").read_text())["exitCode"] == 5
    assert stat.S_IMODE(directory.stat().st_mode) == 0o2750
    assert (directory / "exit-app.json").stat().st_gid == (host.state / "exits").stat().st_gid


def test_sigterm_stops_in_the_order_that_was_told(host, task):
    """Each with its own timeout; what depends on others first; nothing starts any more."""
    note = "trap 'usleep 200000; exit 3' TERM; echo on; while :; do usleep 20000; done"
    for name in ("db", "cache", "app"):
        task.create(["/bin/sh", "-c", note], name=name)
        task.call("start", container=name)
    task.create(["/bin/sh", "-c", "trap '' TERM; echo on; while :; do usleep 20000; done"], name="deaf")
    task.call("start", container="deaf")
    task.create(["/bin/true"], name="idle")
    task.create(["/bin/sh", "-c", "exit 9"], name="done")
    task.call("start", container="done")
    assert task.connection.event("exited", "done")["exitCode"] == 9
    wait_for(lambda: all(task.output(name) == "on\n" for name in ("db", "cache", "app", "deaf")))
    with pytest.raises(RequestError, match="name"):
        task.call("stop-order", containers=[{"after": []}])
    with pytest.raises(RequestError, match="after"):
        task.call("stop-order", containers=[{"name": "db", "after": [1]}])
    task.call("stop-order", containers=[
        {"name": "db", "timeoutUsec": 30000000, "after": ["cache", "app", "unknown"]},
        {"name": "cache", "timeoutUsec": 30000000, "after": ["app"]},
        {"name": "app", "timeoutUsec": 30000000, "after": []},
        {"name": "deaf", "timeoutUsec": 100000},
    ])  # fmt: skip
    os.kill(task.pid, signal.SIGTERM)
    order = {}
    for name, code in (("app", 3), ("cache", 3), ("db", 3), ("deaf", 137)):
        event = task.connection.event("exited", name)
        assert event["exitCode"] == code
        order[name] = event["time"]
    assert order["app"] < order["cache"] < order["db"]
    assert task.process.wait(30) == 0
    kept = {p.name: json.loads(p.read_text())["exitCode"] for p in (host.state / "exits" / task.id).iterdir()}
    assert kept == {"exit-app.json": 3, "exit-cache.json": 3, "exit-db.json": 3, "exit-deaf.json": 137,
                    "exit-done.json": 9}  # fmt: skip


def test_a_circular_stop_order_stops_all_the_same(task):
    for name in ("a", "b"):
        task.create(["/bin/sh", "-c", "trap 'exit 4' TERM; echo on; while :; do usleep 20000; done"], name=name)
        task.call("start", container=name)
    wait_for(lambda: task.output("a") == task.output("b") == "on\n")
    task.call("stop-order", containers=[{"name": "a", "after": ["b"]}, {"name": "b", "after": ["a"]}])
    os.kill(task.pid, signal.SIGTERM)
    assert task.connection.event("exited", "a")["exitCode"] == 4
    assert task.connection.event("exited", "b")["exitCode"] == 4
    assert task.process.wait(30) == 0


def test_nothing_starts_while_the_host_shuts_down(task):
    task.create(["/bin/sh", "-c", "trap '' TERM; echo on; while :; do usleep 20000; done"])
    task.create(["/bin/true"], name="late")
    task.call("start", container="app")
    wait_for(lambda: task.output() == "on\n")
    task.call("stop-order", containers=[{"name": "late", "after": ["app"]}])
    os.kill(task.pid, signal.SIGTERM)

    def refused():
        try:
            task.call("create", container={})
        except RequestError as error:
            return "shut down" in str(error)
        return False

    wait_for(refused)
    with pytest.raises(RequestError, match="shut down"):
        task.call("start", container="late")
    task.call("stop", container="app", timeoutUsec=0)
    assert task.connection.event("exited", "app")["exitCode"] == 137
    assert task.process.wait(30) == 0


def test_the_record_of_a_task_is_given_back_when_asked_for(task):
    assert "record" not in task.call("state", record=True)
    record = {"task": {"arn": "a", "n": 2**62, "umlaut": "ä\n"}, "containers": [{}, None, 1.5]}
    task.call("record", record={"old": True})
    task.call("record", record=record)
    assert task.call("state", record=True)["record"] == record
    assert "record" not in task.call("state")
    with pytest.raises(RequestError, match="1048576"):
        task.call("record", record={"text": "x" * 1048576})
    with pytest.raises(RequestError, match="record"):
        task.call("record")
    assert task.call("state", record=True)["record"] == record


def test_host_ports_are_held_until_the_end(host):
    task = Task(host, network="bridge")
    task.create(["/bin/true"])
    for fd in task.connection.take_fds():
        os.close(fd)
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        number = port.getsockname()[1]
        task.call("start", (port.fileno(),), container="app",
                  network={"address": "172.29.0.5", "prefix": 16, "gateway": "172.29.0.1"})
    task.connection.event("exited")
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", number))
    task.call("end")
    task.process.wait(30)
    with socket.socket() as other:
        other.bind(("127.0.0.1", number))


def test_without_a_setup_it_ends_with_the_connection(host):
    task = Task(host, setup=False)
    run_dir = host.run / "tasks" / task.id
    assert task.call("state") == {"type": "state", "seq": 1, "ready": False, "containers": [], "volumes": []}
    with pytest.raises(RequestError, match='"create" before "setup"'):
        task.create(["/bin/true"])
    assert run_dir.exists()
    task.connection.close()
    assert task.process.wait(30) == 0
    assert not run_dir.exists()


def test_ecs_task_must_be_the_first_process_of_a_namespace(host):
    from builddir import program

    done = subprocess.run([program("ecs-task"), *host.options(), "abc"], capture_output=True,
                          text=True, timeout=30)
    assert done.returncode != 0
    assert "must be the first process of a pid namespace" in done.stderr


def test_a_hundred_layers(host, task):
    def numbered(n):
        return lambda path: (path / f"layer-{n}").write_text(str(n))

    layers = [host.busybox_layer()] + [host.layer(numbered(n)) for n in range(120)]
    code, out = task.sh("ls / | grep -c layer-; cat /layer-0 /layer-119", layers=layers)
    assert code == 0 and lines(out) == ["120", "0119"]


@contextlib.contextmanager
def layer_lock(host, layer, operation):
    """flock(2) on a layer's directory, as ecs-image takes it before it removes the layer."""
    fd = os.open(host.state / "images/layers" / layer, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, operation | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def test_layers_are_locked_while_they_are_mounted(host, task):
    layers = [host.layer(lambda path: None), host.busybox_layer()]
    spare = host.layer(lambda path: None)

    def locked():
        found = []
        for layer in [*layers, spare]:
            try:
                with layer_lock(host, layer, fcntl.LOCK_EX):
                    pass
            except BlockingIOError:
                found.append(layer)
        return found

    assert locked() == []
    task.create(["/bin/sleep", "1000"], layers=layers)
    assert locked() == layers
    task.call("start", container="app")
    task.create(["/bin/true"], name="second", layers=layers)
    assert locked() == layers
    task.call("stop", container="app", timeoutUsec=0)
    task.call("stop", container="second", timeoutUsec=0)
    task.connection.event("exited", "app")
    assert locked() == layers
    task.call("end")
    assert task.process.wait(30) == 0
    assert locked() == []


def test_a_layer_that_is_gone_or_being_removed_is_named(host, task):
    layer, absent = host.layer(lambda path: None), "ab" * 32
    with pytest.raises(RequestError, match=f"image layer {absent}") as error:
        task.create(["/bin/true"], layers=[host.busybox_layer(), absent])
    assert (error.value.name, error.value.code) == ("CannotCreateContainerError", "ENOENT")
    with layer_lock(host, layer, fcntl.LOCK_EX):
        with pytest.raises(RequestError, match=f"image layer {layer} is being removed") as error:
            task.create(["/bin/true"], layers=[host.busybox_layer(), layer])
        assert error.value.code == "ENOENT"
    assert task.run(["/bin/true"], layers=[layer, host.busybox_layer()])["exitCode"] == 0


def test_the_image_is_not_written_to(host, task):
    layer = host.busybox_layer()
    task.sh("echo x > /etc/passwd; rm /bin/ls; touch /new", layers=[layer])
    path = host.state / "images/layers" / layer
    assert "root:x" in (path / "etc/passwd").read_text()
    assert (path / "bin/ls").is_symlink() and not (path / "new").exists()
