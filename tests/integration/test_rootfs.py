"""Images below containers: what a hostile one cannot do, and layers while they are mounted."""

import contextlib
import fcntl
import os
from pathlib import Path

import pytest

from builddir import needs_root
from runtime import BUSYBOX, RequestError, lines

pytestmark = needs_root


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


# --- layers


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
