"""Volumes: of a task, of an image, and shared ones; what is in them, who has them, and their end."""

import contextlib
import fcntl
import os
import stat
import subprocess

import pytest

from builddir import needs_root
from controlplane.client import wait_for
from harness import images
from harness.taskdef import container, task as task_definition
from runtime import RequestError, Task

pytestmark = needs_root


def volume(source, destination, *options, **more):
    return {"type": "volume", "source": source, "destination": destination,
            "options": ["rbind", "rprivate", *options], **more}


def mounts(*items):
    return {"mounts": list(items)}


# --- ecs-task


def test_containers_of_a_task_share_its_volumes_which_end_with_it(host, task):
    task.sh("echo one > /a/file", name="one", config=mounts(volume("task/v", "/a")))
    code, out = task.sh("cat /b/file; echo x > /b/new 2>/dev/null || echo read-only", name="two",
                        config=mounts(volume("task/v", "/b", "ro")))
    assert out.splitlines() == ["one", "read-only"]
    other = Task(host)
    assert other.sh("ls -A /c", config=mounts(volume("task/v", "/c"))) == (0, "")
    task.call("end")
    assert not (host.state / "tasks" / task.id).exists()


def test_a_shared_volume_outlives_its_task(host, task):
    labels = {"owner": "web", "tier": "é"}
    task.sh("echo kept > /v/file",
            config=mounts(volume("shared/data", "/v", labels=labels)))
    task.call("end")
    directory = host.state / "volumes/data"
    assert (directory / "file").read_text() == "kept\n"
    assert os.getxattr(directory, "trusted.ecs.labels").decode() == '{"owner":"web","tier":"é"}'
    again = Task(host)
    assert again.sh("cat /v/file", config=mounts(volume("shared/data", "/v", "existing"))) == (0, "kept\n")


def test_a_shared_volume_that_must_exist_is_not_made(host, task):
    task.create(["/bin/true"], config=mounts(volume("shared/absent", "/v", "existing")))
    with pytest.raises(RequestError, match="volume absent does not exist"):
        task.call("start", container="app")
    assert list((host.state / "volumes").iterdir()) == []


def fill_image(path):
    """What a layer can hold: every kind of file, owners, modes, holes, links that lead out."""
    data = path / "data"
    (data / "deep/er").mkdir(parents=True)
    data.chmod(0o1771)
    os.chown(data, 1000, 1001)
    (data / "deep").chmod(0o700)
    os.chown(data / "deep", 33, 33)
    (data / "deep/er/file").write_text("content\n")
    (data / "deep/er/file").chmod(0o4750)
    os.utime(data / "deep/er/file", (1_000_000_000, 1_100_000_000))
    os.setxattr(data / "deep/er/file", "user.note", b"kept")
    (data / "out").symlink_to("/etc/../../../../etc/shadow")
    os.lchown(data / "out", 7, 8)
    os.mkfifo(data / "fifo", 0o622)
    with (data / "holes").open("wb") as file:
        file.truncate(1 << 42)
        file.seek(1 << 40)
        file.write(b"middle")
    for n in range(300):  # more than one read of the directory
        (data / f"many-{n:03}").touch()


@pytest.mark.parametrize("source", ["task/v", "anonymous/x-0", "shared/v"])
def test_a_new_volume_gets_what_the_image_has_there(host, task, source):
    layers = [host.busybox_layer(), host.layer(fill_image)]
    name = source.split("/")[1]
    directory = {"task": host.state / "tasks" / task.id / ".volumes" / name,
                 "anonymous": host.state / "tasks" / task.id / ".anonymous" / name,
                 "shared": host.state / "volumes" / name}[source.split("/")[0]]
    task.sh("true", layers=layers, config=mounts(volume(source, "/data")))

    found = directory.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1000, 1001, 0o1771)
    assert len(list(directory.iterdir())) == 304
    deep = (directory / "deep").stat()
    assert (deep.st_uid, stat.S_IMODE(deep.st_mode)) == (33, 0o700)
    file = directory / "deep/er/file"
    assert file.read_text() == "content\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o4750 and file.stat().st_mtime == 1_100_000_000
    assert os.getxattr(file, "user.note") == b"kept"
    link = directory / "out"
    assert os.readlink(link) == "/etc/../../../../etc/shadow" and link.lstat().st_uid == 7
    assert stat.S_ISFIFO((directory / "fifo").stat().st_mode)
    holes = (directory / "holes").stat()
    assert holes.st_size == 1 << 42 and holes.st_blocks < 1000
    with (directory / "holes").open("rb") as data:
        data.seek(1 << 40)
        assert data.read(6) == b"middle"


def test_a_volume_is_filled_once_and_not_at_all_with_nocopy(host, task):
    layers = [host.busybox_layer(), host.layer(fill_image)]
    task.sh("rm -rf /data/* ; echo mine > /data/mine", name="a", layers=layers,
            config=mounts(volume("task/v", "/data")))
    _, out = task.sh("ls /data", name="b", layers=layers, config=mounts(volume("task/v", "/data")))
    assert out == "mine\n"
    _, out = task.sh("ls /data", name="c", layers=layers,
                     config=mounts(volume("task/w", "/data", "nocopy")))
    assert out == ""


@contextlib.contextmanager
def small_disk(path, size):
    path.mkdir(mode=0o755, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0755,size={size}", "small", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def test_a_copy_that_ends_half_way_does_not_count(host):
    def fill(path):
        (path / "data").mkdir()
        for n in range(8):
            (path / f"data/{n}").write_bytes(bytes([n]) * (4 << 20))
        os.chown(path / "data", 1000, 1001)
        (path / "data").chmod(0o751)

    def start(name, **limits):
        task.create(["/bin/sh", "-c", "stat -c '%u:%g %a' /data; du -a /data/*; echo x >> /data/7"], name=name,
                    layers=layers, config={"linux": {"resources": limits}, **mounts(volume("shared/v", "/data"))})
        task.connection.seq += 1
        task.connection.send({"type": "start", "seq": task.connection.seq, "container": name})

    layers, volumes = [host.busybox_layer(), host.layer(fill)], host.state / "volumes"
    with small_disk(volumes, "10m"):
        task = Task(host)
        start("full")
        assert "No space left" in task.connection.event("error")["message"]
        assert list((volumes / "v").iterdir()) == [] and os.statvfs(volumes).f_bfree > 0
        subprocess.run(["mount", "-o", "remount,size=64m", volumes], check=True)
        start("killed", memory={"limit": 16 << 20, "swap": 16 << 20})
        assert "killed before it ran" in task.connection.event("error")["message"]
        assert list((volumes / "v").iterdir()) == []
        assert os.statvfs(volumes).f_blocks - os.statvfs(volumes).f_bfree > 256, "it was not half way"

        names = ["one", "two"]  # at the same time: neither runs before all is there
        for name in names:
            start(name)
        for name in names:
            assert task.connection.event("exited", name)["exitCode"] == 0
            found = task.output(name).splitlines()
            assert found[0] == "1000:1001 751"
            assert [line.split()[1] for line in found[1:]] == [f"/data/{n}" for n in range(8)]
            assert [line.split()[0] for line in found[1:8]] == ["4096"] * 7
        assert (volumes / "v/7").read_bytes() == b"\7" * (4 << 20) + b"x\nx\n"
        assert list((volumes / ".fill").iterdir()) == []
        task.kill()


def test_a_copy_that_was_whole_moves_in_beside_what_containers_wrote(host, task):
    """As a power cut leaves it, and whatever the next container has there."""
    left = host.state / "volumes/.fill/v"
    for name in ("done/sub", "done/both", "new"):
        (left / name).mkdir(parents=True)
    for name in ("done/sub/file", "done/mine", "done/both/image", "new/part"):
        (left / name).write_text("image\n")
    (left / "done").chmod(0o1777)
    (host.state / "volumes/v/both").mkdir(parents=True)
    (host.state / "volumes/v/mine").write_text("container\n")
    _, out = task.sh("stat -c %a /data; cd /data && find . -type f | sort && cat mine sub/file",
                     config=mounts(volume("shared/v", "/data", "nocopy")))
    assert out.splitlines() == ["1777", "./mine", "./sub/file", "container", "image"]
    assert list(left.parent.iterdir()) == []


@pytest.mark.parametrize("place", ["a directory", "a disk of its own"])
def test_a_container_s_lock_on_a_volume_holds_up_no_other(host, place):
    """flock(2) is about the inode, which each container that mounts the volume can open."""
    def fill(path):
        (path / "data").mkdir()
        (path / "data/file").write_text("image\n")
        (path / "data").chmod(0o1771)

    directory = host.state / "volumes/v"
    directory.mkdir()
    layers = [host.busybox_layer(), host.layer(fill)]
    with small_disk(directory, "8m") if place == "a disk of its own" else contextlib.nullcontext():
        task = Task(host)
        fd = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            for name in ("fills", "finds"):
                _, out = task.sh("cat /data/file; stat -c %a /data", name=name, layers=layers,
                                 config=mounts(volume("shared/v", "/data")))
                assert out.split() == ["image", "1771"]
        finally:
            os.close(fd)
        assert list((host.state / "volumes/.fill").iterdir()) == []
        task.kill()


def test_a_volume_does_not_take_what_another_mount_has(host, task):
    """Only the image fills a volume: not a host path that is mounted around it."""
    outside = host.base / "outside"
    (outside / "inner").mkdir(parents=True)
    (outside / "inner/secret").write_text("secret")
    _, out = task.sh("ls /o/inner", config=mounts(
        {"type": "bind", "source": str(outside), "destination": "/o", "options": ["rbind"]},
        volume("task/v", "/o/inner")))
    assert out == ""


def test_an_image_link_does_not_lead_the_copy_out(host, task):
    canary = host.base / "canary"
    canary.mkdir()
    (canary / "secret").write_text("secret")

    def fill(path):
        (path / "data").symlink_to(canary)

    code, out = task.sh("find / -name proc -prune -o -name secret -print",
                        layers=[host.busybox_layer(), host.layer(fill)],
                        config=mounts(volume("task/v", "/data")))
    assert code == 0 and out == ""


def test_image_volumes_can_be_written_below_a_read_only_root(host, task):
    _, out = task.sh("echo x > /data/x && cat /data/x; (echo x > /x) 2>/dev/null || echo read-only",
                     config={"root": {"readonly": True}, **mounts(volume("anonymous/a-0", "/data"))})
    assert out.splitlines() == ["x", "read-only"]


@pytest.mark.parametrize("source", [
    "v", "task/", "task/../x", "task/.hidden", "task/a/b", "other/v", "/var/lib", "task/" + "x" * 256,
])
def test_names_of_volumes_that_are_none_are_refused(task, source):
    with pytest.raises(RequestError, match="is no volume"):
        task.create(["/bin/true"], config=mounts(volume(source, "/v")))


# --- whole nodes


def lines_of(node, count, group="g"):
    return wait_for(lambda: len(node.logs(group)) >= count and node.logs(group), 60,
                    lambda: f"log is {node.logs(group)}")


@pytest.fixture(scope="module")
def data_image(registry, tmp_path_factory):
    reference = f"{registry.host}/data:1"
    images.push_busybox(tmp_path_factory.mktemp("data"), reference,
                        {"srv/site/index.html": (b"from the image\n", 0o644)},
                        {"Cmd": ["true"], "Env": ["PATH=/bin"], "Volumes": {"/srv/site": {}, "/cache/": {}}})
    return reference


def test_volumes_from_a_data_container(node, busybox, data_image):
    arn = node.standin.run_task(task_definition(
        container(data_image, "true", name="data", essential=False, logs=None,
                  mountPoints=[{"sourceVolume": "scratch", "containerPath": "/scratch"}]),
        container(data_image, ["no-such-program"], name="nothing-but-data", essential=False, logs=None),
        container(busybox, "cat /srv/site/index.html; echo x > /scratch/x && cat /scratch/x; "
                           "(echo x > /srv/site/x) 2>/dev/null || echo read-only; grep ' /cache ' /proc/mounts | cut -d' ' -f3; "
                           "wget -q -O - $ECS_CONTAINER_METADATA_URI_V4 | grep -o '\"Destination\":\"[^\"]*\"' | sort",
                  linuxParameters={"tmpfs": [{"containerPath": "/cache", "size": 1}]},
                  volumesFrom=[{"sourceContainer": "data", "readOnly": True},
                               {"sourceContainer": "nothing-but-data", "readOnly": True}],
                  mountPoints=[{"sourceVolume": "scratch", "containerPath": "/scratch"}]),
        volumes=[{"name": "scratch", "host": {}}],
    ))
    node.standin.wait_task(arn, "STOPPED", 60)
    assert lines_of(node, 6)[:4] == ["from the image", "x", "read-only", "tmpfs"]
    assert lines_of(node, 6)[4:] == [f'"Destination":"{path}"' for path in ("/scratch", "/srv/site")]
    node.wait_clean()


def test_docker_volumes_of_scope_shared_and_task(node, busybox):
    def run(command, group, **configuration):
        arn = node.standin.run_task(task_definition(
            container(busybox, command, logs=group,
                      mountPoints=[{"sourceVolume": "data", "containerPath": "/data"}]),
            volumes=[{"name": "data", "dockerVolumeConfiguration": configuration}]))
        return node.standin.wait_task(arn, "STOPPED", 60)

    run("echo first >> /data/f", "g1", scope="shared", autoprovision=True, labels={"a": "b"})
    run("cat /data/f", "g2", scope="shared", driver="local")
    assert lines_of(node, 1, "g2") == ["first"]
    run("ls /data; echo end", "g3", scope="task")
    assert lines_of(node, 1, "g3") == ["end"]

    found = node.standin.run_task(task_definition(
        container(busybox, "true", mountPoints=[{"sourceVolume": "none", "containerPath": "/d"}]),
        volumes=[{"name": "none", "dockerVolumeConfiguration": {"scope": "shared"}}]))
    found = node.standin.wait_task(found, "STOPPED", 60)
    assert "volume none does not exist" in found["containers"][0]["reason"]
    node.wait_clean()
    assert [path.name for path in (node.state / "volumes").iterdir()] == ["data"]
