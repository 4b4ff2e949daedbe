"""Containers in a user namespace (ECS_USERNS_REMAP): what they are, may do, and may not touch."""

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from builddir import needs_root
from harness.node import Node
from harness.taskdef import container, task as task_definition
from runtime import DEFAULT_CAPS, DEFAULT_CAPS_MASK, Host, RequestError, Task, busybox_directory
from test_exec import sh as exec_sh
from test_execute_command import Logs, install, start
from test_oci import oci  # noqa: F401
from test_volumes import lines_of, mounts, volume

pytestmark = needs_root

FIRST = 700000
MAP = [["0", str(FIRST), "65536"]]


@pytest.fixture
def host():
    it = Host()
    it.config.write_text(f"ECS_USERNS_REMAP={FIRST}:65536\n")
    try:
        yield it
    finally:
        it.close()


@pytest.fixture
def task(host):
    return Task(host, network="none")


def copy_busybox(path):
    shutil.copytree(busybox_directory(), path, symlinks=True, dirs_exist_ok=True)


def image(host, fill=None):
    """Layers of their own: the link that other tests have leads out of the store and its mapping."""
    return [host.layer(copy_busybox), *([host.layer(fill)] if fill else [])]


def bind(source, destination, *options):
    return {"type": "bind", "source": str(source), "destination": destination,
            "options": ["rbind", "rprivate", *options]}


def owner(path):
    st = os.lstat(path)
    return st.st_uid, st.st_gid


def status(text, *names):
    values = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return [values[name].split() for name in names]


# --- what a container is and has


def fill_image(path):
    """Owners, a set-user-ID program, and one with capabilities of its own."""
    (path / "data").mkdir()
    (path / "data/theirs").write_text("of app\n")
    for name in (path / "data", path / "data/theirs"):
        os.chown(name, 1000, 1001)
    (path / "far").write_text("beyond the map\n")
    os.chown(path / "far", 70000, 70000)
    for name in ("busybox-suid", "busybox-raw"):
        shutil.copy(busybox_directory() / "bin/busybox", path / name)
    (path / "busybox-suid").chmod(0o4755)
    (path / "etc").mkdir()
    (path / "etc/passwd").write_text("root::0:0:root:/root:/bin/sh\napp:x:1000:1001:App:/home/app:/bin/sh\n")
    # VFS_CAP_REVISION_2 with CAP_NET_RAW, permitted and effective.
    os.setxattr(path / "busybox-raw", "security.capability",
                b"\x01\x00\x00\x02" + (1 << 13).to_bytes(4, "little") + bytes(12))


def test_everything_of_a_container_is_its_root_s(host, task):
    layers = image(host, fill_image)
    code, out = task.sh(
        "cat /proc/1/uid_map /proc/1/gid_map; stat -c '%u:%g %n' / /bin/busybox /etc/hosts /dev /dev/null"
        " /dev/shm /dev/mqueue /dev/console-not /cache /owned /made/by/us /work/dir /data/theirs /far 2>/dev/null;"
        "echo x > /new; echo x >> /etc/hosts; echo x > /data/theirs && chown 5:6 /new && stat -c '%u:%g' /new;"
        "grep -c . /dev/null; echo > /dev/full || echo full; exec 3<>/dev/ptmx && ls /dev/pts;"
        "stat -c '%u:%g %a' /dev/nought; head -c 1 /dev/nought | wc -c",
        layers=layers,
        config={"linux": {"devices": [{"path": "/dev/nought", "type": "c", "major": 1, "minor": 5,
                                       "fileMode": 0o640, "uid": 0, "gid": 6}]}, "process": {"cwd": "/work/dir"}, "mounts": [
            {"type": "tmpfs", "source": "t", "destination": "/cache", "options": ["size=1m"]},
            {"type": "tmpfs", "source": "t", "destination": "/owned",
             "options": ["size=1m", "uid=1000", "gid=1001"]},
            {"type": "tmpfs", "source": "t", "destination": "/made/by/us", "options": ["size=1m"]}]})
    found = out.splitlines()
    assert [line.split() for line in found[:2]] == MAP * 2
    assert found[2:13] == [
        "0:0 /", "0:0 /bin/busybox", "0:0 /etc/hosts", "0:0 /dev", "0:0 /dev/null", "0:0 /dev/shm",
        "0:0 /dev/mqueue", "0:0 /cache", "1000:1001 /owned", "0:0 /made/by/us", "0:0 /work/dir"]
    assert found[13:15] == ["1000:1001 /data/theirs", "65534:65534 /far"]
    assert found[15:] == ["5:6", "0", "full", "0", "ptmx", "0:6 640", "1"] and code == 0
    # What was written is the host's user's on the disk; the image is as it was.
    upper = host.state / "tasks" / task.id / "app/upper"
    assert owner(upper / "new") == (FIRST + 5, FIRST + 6)
    assert owner(upper / "data/theirs") == (FIRST + 1000, FIRST + 1001)
    assert owner(host.state / "images/layers" / layers[1] / "data/theirs") == (1000, 1001)


def test_users_and_capabilities_are_the_namespace_s(host, task):
    layers = image(host, fill_image)
    task.create(["/bin/sleep", "1000"], layers=layers, user="app")
    task.call("start", container="app")
    pid = task.container_pid()
    text = Path(f"/proc/{pid}/status").read_text()
    assert status(text, "Uid", "Gid") == [[str(FIRST + 1000)] * 4, [str(FIRST + 1001)] * 4]
    assert status(text, "Groups", "CapBnd", "CapEff") == [
        [str(FIRST + 1001), str(FIRST + 2000)], [DEFAULT_CAPS_MASK], ["0" * 16]]
    for kind in ("user", "mnt", "ipc", "uts", "net", "cgroup", "pid"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")

    # An exec is in it, as the container's user or another; programs of the image have their rights.
    script = ("id -u; id -G; /busybox-suid su root -c 'id -u'; grep CapEff /proc/self/status;"
              "/busybox-raw cat /proc/self/status | grep CapEff")
    assert exec_sh(task, script)[:2] == (
        0, "1000\n1001 2000\n0\nCapEff:\t0000000000000000\nCapEff:\t0000000000002000\n")
    code, out, _ = exec_sh(task, "cat /proc/self/uid_map; id", user="0:0")
    assert code == 0 and out.split()[:3] == MAP[0] and "uid=0" in out

    # Root's capabilities count for the network namespace (a raw socket, a port below 1024) ...
    code, out = task.sh("ping -c 1 -q 127.0.0.1 | grep -c '1 packets received';"
                        "nc -l -p 80 -w 1 < /dev/null & sleep 0.2; netstat -ltn | grep -c :80; hostname x 2>&1",
                        name="root", layers=layers,
                        config={"linux": {"sysctl": {"net.ipv4.ip_unprivileged_port_start": "1024",
                                                     "net.ipv4.ping_group_range": "1 0"}}})
    assert out.splitlines() == ["1", "1", "hostname: sethostname: Operation not permitted"]
    # ... and, where given, for all that belongs to it; never for what is the host's.
    more = [*DEFAULT_CAPS, "CAP_SYS_ADMIN", "CAP_SYS_TIME", "CAP_SYS_MODULE", "CAP_SYS_RAWIO"]
    code, out = task.sh(
        "hostname mine && hostname; mount -t tmpfs x /tmp && echo mounted; umount /proc/keys || echo locked;"
        "mount -o remount,rw /proc/sys || echo read-only; date -s '2001-01-01 00:00:00' 2>&1 | grep -q not && echo no time;"
        "mknod /tmp/sda b 8 0 || echo no device; mount -t ext4 /dev/null /tmp 2>/dev/null || echo no disk;"
        "mount -t proc x /tmp || echo no proc; echo 1 > /proc/sys/kernel/panic || echo no sysctl",
        name="more", layers=layers, seccomp="unconfined", config={"process": {"capabilities": {
            "bounding": more, "permitted": more, "effective": more}}})
    assert out.splitlines() == ["mine", "mounted", "locked", "read-only", "no time", "no device",
                                "no disk", "no proc", "no sysctl"]


def test_containers_that_share_processes_and_memory_are_in_one(host):
    task = Task(host, network="none", pidMode="task", ipcMode="task")
    layers = image(host)
    more = [*DEFAULT_CAPS, "CAP_SYS_PTRACE"]
    task.create(["/bin/sh", "-c", "echo x > /dev/shm/mark; exec tail -f /dev/null"], name="one", layers=layers,
                config={"process": {"env": ["PATH=/bin", "MARK=of-one"]}})
    task.call("start", container="one")
    code, out = task.sh("until test -e /dev/shm/mark; do sleep 0.05; done; pid=$(pidof tail);"
                        "tr '\\0' '\\n' < /proc/$pid/environ | grep -c MARK=of-one;"
                        "for p in self $pid; do readlink /proc/$p/ns/user; done;"
                        "cat /proc/1/environ || echo not of the host; kill $pid", name="two", layers=layers,
                        config={"process": {"capabilities": {
                            "bounding": more, "permitted": more, "effective": more}}})
    found = out.splitlines()
    assert code == 0 and found[0] == "1" and found[1] == found[2] and found[3:] == ["not of the host"]
    assert task.connection.event("exited", "one")["exitCode"] == 143
    owner_cap = [*DEFAULT_CAPS, "CAP_IPC_OWNER"]
    with pytest.raises(RequestError, match="CAP_IPC_OWNER has no effect"):
        task.create(["/bin/true"], name="three", layers=layers, config={"process": {"capabilities": {
            "bounding": owner_cap, "permitted": owner_cap, "effective": owner_cap}}})


def test_a_container_starts_again_and_ends_with_its_init(host, task):
    layers = image(host)
    task.create(["/bin/sh", "-c", "ls -A /dev/mqueue | wc -l; readlink /proc/self/ns/ipc; id -u"],
                layers=layers, restart=True, init=True, user="app")
    for _ in range(2):
        task.call("start", container="app")
        assert task.connection.event("exited", "app")["exitCode"] == 0
    found = task.output().splitlines()
    assert found[0::3] == ["0", "0"] and found[2::3] == ["1000", "1000"]
    assert os.readlink("/proc/self/ns/ipc") not in found
    assert owner(host.state / "tasks" / task.id / "app/upper") == (FIRST, FIRST)


# --- what it may not touch


def test_root_in_a_container_is_nobody_on_the_host(host, task):
    shared = host.base / "shared"
    shared.mkdir()
    secret, readable = shared / "secret", shared / "readable"
    for path, mode in ((secret, 0o600), (readable, 0o644)):
        path.write_text("canary")
        path.chmod(mode)
    given = host.base / "given"
    given.mkdir()
    os.chown(given, FIRST, FIRST)
    layers = image(host)
    code, out = task.sh(
        "cd /shared; stat -c %u:%g secret; cat readable; echo; cat secret || echo no read;"
        "echo x > readable || echo no write; chmod 777 readable || echo no chmod;"
        "chown 0 secret || echo no chown; rm -f secret || echo no remove; touch new || echo no file;"
        "ln -s /etc/shadow link || echo no link;"
        "cp /id /given/suid && chmod 4755 /given/suid && stat -c '%u %a' /given/suid; id > /missing/f",
        layers=layers, config=mounts(bind(shared, "/shared"), bind(given, "/given"),
                                     bind(host.base / "a/missing", "/missing"), bind("/usr/bin/id", "/id")))
    assert code == 0
    assert out.splitlines() == ["65534:65534", "canary", "no read", "no write", "no chmod", "no chown",
                                "no remove", "no file", "no link", "0 4755"]
    assert sorted(os.listdir(shared)) == ["readable", "secret"]
    assert secret.read_text() == readable.read_text() == "canary"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600 and owner(secret) == (0, 0)
    # A set-user-ID program of root's is that of a user who has nothing, for whoever runs it.
    assert owner(given / "suid") == (FIRST, FIRST) and (given / "suid").stat().st_mode & stat.S_ISUID
    ran = subprocess.run([given / "suid", "-u"], capture_output=True, text=True, check=True,
                         user=65534, group=65534, extra_groups=[])
    assert ran.stdout == f"{FIRST}\n"
    assert owner(host.base / "a/missing") == (FIRST, FIRST) and owner(host.base / "a/missing/f") == (FIRST, FIRST)


def test_volumes_have_the_container_s_ids_on_the_disk(host, task):
    def fill(path):
        fill_image(path)
        (path / "data/deep").mkdir(mode=0o700)
        (path / "data/deep").chmod(0o700)
        shutil.copy(path / "busybox-raw", path / "data/busybox-raw")
        os.setxattr(path / "data/busybox-raw", "security.capability",
                    os.getxattr(path / "busybox-raw", "security.capability"))

    layers = image(host, fill)
    code, out = task.sh(
        "stat -c '%u:%g %n' /data /data/theirs /data/deep;"
        "echo x > /data/mine; echo x > /t/b; chown 33:34 /t/b; stat -c %u:%g /data/mine /t/b;"
        "su app -s /bin/sh -c '/data/busybox-raw cat /proc/self/status | grep CapEff; echo x > /data/app'; cat /ro/theirs;"
        "touch /ro/x || echo read-only",
        layers=layers, config=mounts(volume("shared/data", "/data"), volume("task/scratch", "/t"),
                                                 volume("shared/data", "/ro", "ro")))
    assert code == 0
    assert out.splitlines() == [
        "1000:1001 /data", "1000:1001 /data/theirs", "0:0 /data/deep", "0:0", "33:34",
        "CapEff:\t0000000000002000", "of app", "read-only"]
    data = host.state / "volumes/data"
    assert {name: owner(data / name) for name in (".", "theirs", "deep", "mine", "app")} == {
        ".": (1000, 1001), "theirs": (1000, 1001), "deep": (0, 0), "mine": (0, 0), "app": (1000, 1001)}
    assert owner(host.state / "tasks" / task.id / ".volumes/scratch/b") == (33, 34)
    task.call("end")

    # The same ids for a task that is not remapped.
    host.config.write_text("")
    code, out = Task(host, network="none").sh("stat -c %u:%g /v/mine /v/theirs", config=mounts(
        volume("shared/data", "/v")))
    assert out.splitlines() == ["0:0", "1000:1001"]


# --- what is refused


def test_what_belongs_to_the_host_is_refused_or_let_through(host):
    def refused(task, match, **changes):
        with pytest.raises(RequestError, match=match):
            task.create(["/bin/true"], name="no", **changes)

    task = Task(host, network="none")
    layers = image(host)
    refused(task, "no is privileged, which it cannot have in a user namespace", privileged=True)
    refused(task, "no has UsernsMode host, which .*ECS_USERNS_REMAP_ALLOW_HOST is not true", userns="host")
    refused(task, 'container.userns is "private"; it must be host', userns="private")
    refused(task, "mount at /t: uid=65536 is no id of the container's user namespace", layers=layers,
            config={"mounts": [{"type": "tmpfs", "source": "t", "destination": "/t", "options": ["uid=65536"]}]})
    refused(Task(host, network="host"), "has network mode host")
    for user in ("65536", "0:65536"):
        task.create(["/bin/true"], name=f"u{len(user)}", layers=layers, user=user)
        with pytest.raises(RequestError, match="is not among the ids of the container's user namespace"):
            task.call("start", container=f"u{len(user)}")
    task.call("end")

    host.config.write_text(f"ECS_USERNS_REMAP={FIRST}:65536\nECS_USERNS_REMAP_ALLOW_HOST=true\n")
    with_host, without = Task(host, network="host"), Task(host, network="none")
    assert with_host.sh("read a b c < /proc/self/uid_map; echo $a $b") == (0, "0 0\n")
    assert without.sh("read a b c < /proc/self/uid_map; echo $a $b", name="a", userns="host") == (0, "0 0\n")
    assert without.sh("read a b c < /proc/self/uid_map; echo $a $b", name="b",
                      layers=layers) == (0, f"0 {FIRST}\n")


@pytest.mark.parametrize("setting, match", [
    ("no-such-name", "has no range for \"no-such-name\"; there must be a line such as"),
    ("100000:1000", "1000 ids; there must be 65536 at least"),
    ("0:65536", "it must begin at 65536 or above"),
    ("100000:many", "must be two numbers"),
])
def test_a_setting_that_cannot_be_is_told_of_each_task(host, setting, match):
    host.config.write_text(f"ECS_USERNS_REMAP={setting}\n")
    with pytest.raises(RequestError, match=f'ECS_USERNS_REMAP is "{setting}": .*{match}'):
        Task(host, network="none").create(["/bin/true"], layers=image(host))


def test_a_file_system_without_id_mapped_mounts_is_named(host):
    layers = image(host)
    for name, top in (("data", host.state / "volumes/data"), ("layers", host.state / "images/layers")):
        top.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "ramfs", "x", top], check=True)
        try:
            if name == "data":
                task = Task(host, network="none")
                task.create(["/bin/true"], layers=layers, config=mounts(volume("shared/data", "/v")))
                with pytest.raises(RequestError, match=r"volume data: its file system \(ramfs\) has no id-mapped"):
                    task.call("start", container="app")
                continue
            with pytest.raises(RequestError, match=rf"the file system of {top} \(ramfs\) has no id-mapped"):
                Task(host, network="none").create(["/bin/true"], layers=image(host))
        finally:
            subprocess.run(["umount", "-l", top], check=True)


# --- by other ways


def test_ecs_exec_s_log_directory_is_its_root_s(host, task):
    install(host.state)
    layers = image(host)
    start(host, task=task, layers=layers, args=["/bin/sleep", "1000"])
    Logs(host.state, task.id).wait("ready")
    assert owner(Logs(host.state, task.id).path) == (0, 0)


def test_a_bundle_with_a_user_namespace(oci):  # noqa: F811
    def change(config):
        config["linux"]["namespaces"].append({"type": "user"})
        for name, first in (("uidMappings", FIRST), ("gidMappings", FIRST + 100000)):
            config["linux"][name] = [{"containerID": 0, "hostID": first, "size": 1000},
                                     {"containerID": 1000, "hostID": first + 2000, "size": 1}]
        config["process"]["user"] = {"uid": 1000, "gid": 1000}

    ran = oci.run("cat /proc/self/uid_map /proc/self/gid_map; id -u; id -g; stat -c %u:%g / /etc /dev", change)
    found = [line.split() for line in ran.stdout.splitlines()]
    assert ran.returncode == 0, ran
    assert found == [["0", str(FIRST), "1000"], ["1000", str(FIRST + 2000), "1"],
                     ["0", str(FIRST + 100000), "1000"], ["1000", str(FIRST + 102000), "1"],
                     ["1000"], ["1000"], ["65534:65534"], ["65534:65534"], ["0:0"]]

    id_, _ = oci.create(["sleep", "1000"], change)
    pid = oci.state(id_)["pid"]
    text = Path(f"/proc/{pid}/status").read_text()
    assert status(text, "Uid")[0][0] in (str(FIRST), str(FIRST + 2000))
    assert oci("exec", "--user", "5:6", id_, "sh", "-c", "id -u; cat /proc/self/uid_map", check=False)
    oci("start", id_)
    ran = oci("exec", "--user", "5:6", id_, "sh", "-c", "id -u; read a b c < /proc/self/uid_map; echo $b")
    assert ran.stdout.split() == ["5", str(FIRST)]
    oci("kill", id_, "KILL")
    oci("delete", "--force", id_)


# --- a whole node


def test_a_node_that_remaps(busybox):
    with Node(config={"ECS_USERNS_REMAP": f"{FIRST}:65536"}) as node:
        (node.base / "given").mkdir()
        os.chown(node.base / "given", FIRST, FIRST)
        arn = node.standin.run_task(task_definition(
            container(busybox, "read a b c < /proc/self/uid_map; echo $b; ping -c 1 -q 172.29.0.1 > /dev/null && echo net;"
                               "wget -q -O - $ECS_CONTAINER_METADATA_URI_V4 | grep -c DockerName; echo x > /s/x;"
                               "stat -c %u /s/x; echo x > /g/x",
                      mountPoints=[{"sourceVolume": "s", "containerPath": "/s"},
                                   {"sourceVolume": "g", "containerPath": "/g"}],
                      healthCheck={"command": ["CMD-SHELL", "test $(id -u) = 0"], "interval": 5, "retries": 1}),
            volumes=[{"name": "s", "host": {}}, {"name": "g", "host": {"sourcePath": str(node.base / "given")}}]))
        stopped = node.standin.wait_task(arn, "STOPPED", 60)
        assert stopped["containers"][0]["exitCode"] == 0, stopped
        assert lines_of(node, 4) == [str(FIRST), "net", "1", "0"]
        assert owner(node.base / "given/x") == (FIRST, FIRST)
        arn = node.standin.run_task(task_definition(container(busybox, "true", privileged=True)))
        stopped = node.standin.wait_task(arn, "STOPPED", 60)
        assert "is privileged, which it cannot have in a user namespace" in stopped["containers"][0]["reason"]
        node.wait_clean()
        node.standin.assert_no_violations()
