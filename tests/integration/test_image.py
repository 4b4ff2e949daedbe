"""ecs-image as ecs-agent and operators use it: its protocol, its processes, its store and its commands."""

import errno
import fcntl
import json
import os
import pathlib
import pwd
import signal
import subprocess
import threading

import pytest

from builddir import needs_root
from controlplane.client import wait_for
from fake_registry import Image, entry, hang_on, sha256, tar
from image_store import SMALL, Store
from image_store import fake as fake, store as store  # noqa: F401: fixtures
from users import ensure_users

pytestmark = needs_root


# --- processes -----------------------------------------------------------------------------------


def test_the_protocol_on_descriptor_3(store, fake):
    config = {"Env": ["A=b"], "Cmd": ["/bin/sh"], "Labels": {"x": "y"}, "User": "app"}
    image = Image([SMALL, tar(entry("big", os.urandom(4_000_000)))], config)
    reference = fake.put("team/app:1", image)
    with store.connect() as connection:
        answer, _ = connection.ask(type="inspect", reference=reference)
        assert answer["type"] == "error" and answer["code"] == "ENOENT"
        answer, before = connection.ask(
            type="pull", reference=reference, manifestTimeoutUsec=60_000_000,
            inactivityTimeoutUsec=60_000_000, timeoutUsec=600_000_000,
        )  # fmt: skip
        assert before[0] == {"type": "resolved", "seq": 7, "digest": sha256(image.manifest)}
        assert answer == {
            "type": "pulled", "seq": 7, "digest": sha256(image.manifest), "imageId": sha256(image.config),
            "layers": [d.removeprefix("sha256:") for d in image.diff_ids], "config": config,
        }  # fmt: skip
        inspected, _ = connection.ask(type="inspect", reference=reference)
        assert inspected == answer
        for bad in ({"type": "dance"}, {"type": "pull"}, {"type": "pull", "reference": "UPPER/../x"},
                    {"type": "pull", "reference": reference, "timeoutUsec": 0},
                    {"type": "pull", "reference": reference, "timeoutUsec": "1"},
                    {"type": "pull", "reference": reference, "auth": {"username": "x"}}):  # fmt: skip
            answer, _ = connection.ask(**bad)
            assert answer["type"] == "error" and answer["code"] == "EINVAL" and answer["message"], bad


def status(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def wait_confined(connection):
    unpack, network = connection.halves()
    for pid in (unpack, network):
        wait_for(lambda pid=pid: status(pid)["Seccomp"] == "2", 10, f"{pid} has no filter")
    return unpack, network


def test_the_halves_have_no_more_rights_than_they_need(store):
    with store.connect() as connection:
        unpack, network = wait_confined(connection)
        assert status(network)["Uid"].split() == [str(pwd.getpwnam("ecs-image").pw_uid)] * 4
        for field in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb"):
            assert int(status(network)[field], 16) == 0
        # CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SYS_ADMIN, MKNOD, SETFCAP
        allowed = sum(1 << n for n in (0, 1, 3, 4, 21, 27, 31))
        for field in ("CapPrm", "CapEff", "CapBnd"):
            assert int(status(unpack)[field], 16) == allowed
        assert os.readlink(f"/proc/{unpack}/root") == str(store.images)
        assert os.readlink(f"/proc/{unpack}/ns/net") != os.readlink("/proc/self/ns/net")
        for pid in (unpack, network):
            assert status(pid)["NoNewPrivs"] == "1"


def test_what_the_filters_forbid_is_refused(store):
    from syscall_in import EXECVE, GETPID, KEYCTL, MOUNT, PTRACE, UNSHARE, syscall_in

    chroot, setns, bpf, setuid = 161, 308, 321, 105
    with store.connect() as connection:
        for pid in wait_confined(connection):
            assert syscall_in(pid, GETPID) == pid
            for number in (EXECVE, MOUNT, PTRACE, UNSHARE, KEYCTL, chroot, setns, bpf, setuid):
                assert syscall_in(pid, number) == -errno.EPERM, number


def test_hanging_up_ends_the_pull_and_all_its_processes(store, fake):
    image, release = Image([tar(entry("x", os.urandom(100_000)))]), threading.Event()
    hang_on(fake, image.layer_digest, release, send=image.blobs[image.layer_digest][:50_000])
    connection = store.connect()
    try:
        connection.send(type="pull", reference=fake.put("app:1", image))
        name = image.diff_ids[0].removeprefix("sha256:")
        wait_for(lambda: (store.images / "staging" / name).exists(), 20, "no staging")
        assert connection.receive()["type"] == "resolved"
        connection.close()  # waits for the process
    finally:
        release.set()
    store.has_only()
    assert list((store.images / "index").iterdir()) == []


@pytest.mark.parametrize("victim", ["unpack", "network", "both"])
def test_what_sigkill_leaves_is_removed_by_the_next_pull(store, fake, victim):
    image, release = Image([SMALL, tar(entry("x", os.urandom(100_000)))]), threading.Event()
    blob = image.document["layers"][1]["digest"]
    hang_on(fake, blob, release, send=image.blobs[blob][:50_000])
    reference = fake.put("app:1", image)
    connection = store.connect()
    try:
        connection.send(type="pull", reference=reference)
        name = image.diff_ids[1].removeprefix("sha256:")
        wait_for(lambda: (store.images / "staging" / name).exists(), 20, "no staging")
        wait_for(lambda: store.layer(image, 0).exists(), 20, "first layer is not there")
        unpack, network = connection.halves()
        for pid in {"unpack": [unpack], "network": [network], "both": [unpack, network]}[victim]:
            os.kill(pid, signal.SIGKILL)
        connection.close()
    finally:
        release.set()
    assert not store.layer(image, 1).exists()
    fake.on_request = lambda handler: False
    fake.requests.clear()
    store.pull(reference)
    store.has_only(image)
    assert fake.requests_for(image.layer_digest) == []  # a finished layer stays


def test_two_pulls_at_once_share_each_layer(store, fake):
    image = Image([tar(entry(f"f{i}", os.urandom(500_000))) for i in range(6)])
    reference = fake.put("app:1", image)
    gate = threading.Barrier(2)

    def together(handler):
        if "/manifests/" in handler.path:
            gate.wait(30)

    fake.on_request = together
    with store.connect() as one, store.connect() as other:
        for connection in (one, other):
            connection.send(type="pull", seq=7, reference=reference)
        for connection in (one, other):
            while (answer := connection.receive())["type"] in ("resolved", "progress"):
                pass
            assert answer["type"] == "pulled", answer
    for layer in image.document["layers"]:
        assert len(fake.requests_for(layer["digest"])) == 1
    store.has_only(image)


# --- disk ----------------------------------------------------------------------------------------


@pytest.fixture
def small_store(tmp_path):
    ensure_users()
    (tmp_path / "state").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m,mode=755", "small", str(tmp_path / "state")], check=True)
    try:
        yield Store(tmp_path)
    finally:
        subprocess.run(["umount", str(tmp_path / "state")], check=True)


def test_a_full_disk_is_named_and_left_clean(small_store, fake):
    big, fits = Image([SMALL, tar(entry("x", bytes(40_000_000)))]), Image([SMALL])
    with small_store.connect() as connection:
        answer, _ = connection.ask(type="pull", reference=fake.put("big:1", big))
    assert answer["code"] == "ENOSPC" and answer["name"] == "CannotPullContainerError", answer
    assert "no space left on device" in answer["message"].lower()
    assert str(small_store.images) in answer["message"]
    assert os.listdir(small_store.images / "staging") == []
    assert not small_store.layer(big, 1).exists()
    free = os.statvfs(small_store.state)
    assert free.f_bavail * free.f_frsize > 12 << 20
    small_store.pull(fake.put("fits:1", fits))


# --- the operator's commands ---------------------------------------------------------------------


def test_images_are_listed_inspected_and_removed(store, fake):
    base = tar(entry("base", b"b"))
    first, second = Image([base], {"Cmd": ["one"]}), Image([base, SMALL], {"Cmd": ["two"]})
    one, two = fake.put("first:1", first), fake.put("second:1", second)
    store.pull(one)
    store.pull(two)
    listed = store.run("ls").stdout
    assert one in listed and two in listed
    shown = json.loads(store.run("inspect", two).stdout)
    assert shown["config"] == {"Cmd": ["two"]} and len(shown["layers"]) == 2

    assert store.run("rm", one).returncode == 0
    store.has_only(second)  # the base is the other image's as well
    gone = store.run("inspect", one)
    assert gone.returncode == 1 and "is not in the store" in gone.stderr
    assert store.run("rm", one).returncode == 1
    assert store.run("rm", two).returncode == 0
    store.has_only()


def test_layers_in_use_stay_until_they_are_released(store, fake):
    image, other = Image([SMALL]), Image([tar(entry("o", b"o"))])
    reference = fake.put("app:1", image)
    store.pull(reference)
    store.pull(fake.put("other:1", other))
    mounted = os.open(store.layer(image), os.O_RDONLY)
    fcntl.flock(mounted, fcntl.LOCK_SH)
    assert store.run("rm", reference).returncode == 0
    store.has_only(image, other)
    os.close(mounted)
    store.run("rm", fake.put("other:1", other))
    store.has_only()


def test_a_sweep_takes_what_a_broken_pull_has_left_but_not_during_another(store, fake):
    image, release = Image([SMALL, tar(entry("x", os.urandom(100_000)))]), threading.Event()
    reference, other = fake.put("app:1", image), fake.put("other:1", Image([tar(entry("o", b"o"))]))
    blob = image.document["layers"][1]["digest"]
    hang_on(fake, blob, release, send=image.blobs[blob][:50_000])
    with store.connect() as pulling, store.connect() as asking:
        pulling.send(type="pull", reference=reference)
        wait_for(lambda: store.layer(image, 0).exists(), 20, "first layer is not there")
        answer, _ = asking.ask(type="sweep")
        assert answer["type"] == "error" and answer["code"] == "EAGAIN", answer
        assert store.layer(image, 0).exists()
    release.set()
    fake.on_request = lambda handler: False
    store.pull(other)
    with store.connect() as connection:
        answer, _ = connection.ask(type="sweep")
        assert answer["type"] == "swept" and answer["layersRemoved"] == 1, answer
        store.has_only(Image([tar(entry("o", b"o"))]))


def test_the_list_tells_what_an_operator_has_pulled(store, fake):
    image = Image([SMALL])
    by_hand, by_agent = fake.put("hand:1", image), fake.put("agent:1", image)
    store.pull(by_hand)
    with store.connect() as connection:
        assert connection.ask(type="pull", reference=by_agent)[0]["type"] == "pulled"
        listed = {i["reference"]: i.get("byOperator") for i in connection.ask(type="list")[0]["images"]}
        assert listed == {by_hand: True, by_agent: None}
        # A task that pulls it makes it one of its own.
        assert connection.ask(type="pull", reference=by_hand)[0]["type"] == "pulled"
        listed = {i["reference"]: i.get("byOperator") for i in connection.ask(type="list")[0]["images"]}
        assert listed == {by_hand: None, by_agent: None}


def test_a_tag_that_moved_is_followed(store, fake):
    old, new = Image([SMALL], {"Cmd": ["old"]}), Image([SMALL], {"Cmd": ["new"]})
    assert store.pull(fake.put("app:1", old)) == sha256(old.manifest)
    assert store.pull(fake.put("app:1", new)) == sha256(new.manifest)
    shown = json.loads(store.run("inspect", f"{fake.host}/app:1").stdout)
    assert shown["config"] == {"Cmd": ["new"]}


@pytest.mark.parametrize("arguments, word", [
    ((), "command is missing"), (("dance",), "dance"), (("pull",), "one image reference"),
    (("pull", "a", "b"), "one image reference"), (("ls", "x"), "no arguments"), (("--oops",), "--oops"),
    (("pull", "Bad Reference"), '"Bad"'), (("--serve",), "descriptor 3"), (("--serve", "ls"), "--serve"),
    (("--username", "x", "ls"), "--username"),
])  # fmt: skip
def test_a_wrong_command_line_is_explained(store, arguments, word):
    done = store.run(*arguments, input="")
    assert done.returncode == 1
    assert word in done.stderr


def test_help_and_version(store):
    done = store.run("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("pull REF", "ls ", "inspect REF", "rm REF", "--state-dir"))
    assert store.run("--version").stdout.startswith("ecs-")
