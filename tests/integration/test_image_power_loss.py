"""The image store on a disk that forgets, on each file system that a host may have: many power cuts, each in seconds.

ecs-image runs here, the disk is a file of fuse_disk.py. A cut comes at the n-th write, so in the middle of something;
what was not flushed is then there by chance, in any order. tests/vm/test_power.py does the same to a whole host.
ECS_POWER_CYCLES says how many cycles (6 for each file system), ECS_POWER_SEED repeats a run.
"""

import contextlib
import hashlib
import io
import json
import math
import os
import pathlib
import random
import shutil
import signal
import subprocess
import tarfile

import pytest
from builddir import needs_root
from controlplane.client import wait_for
from fake_registry import FakeRegistry, Image, entry, tar
from fuse_disk import FuseDisk
from image_store import DIR, SYM, Store, environment
from users import ensure_users

CYCLES = int(os.environ.get("ECS_POWER_CYCLES", "6"))
SEED = int(os.environ.get("ECS_POWER_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
CHANCES = (0, 0.1, 0.5, 0.9, 1)
DISK_BYTES = 384 << 20  # the least of XFS is 300 MiB

pytestmark = [
    needs_root,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="this kernel has no FUSE"),
]


class Disk:
    """A file system on the disk that forgets, at path."""

    def __init__(self, kind, directory):
        self.kind = kind
        self.path = directory / "state"
        self.path.mkdir()
        (directory / "disk.d").mkdir()
        base = directory / "base"
        with open(base, "wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run([f"mkfs.{kind}", "-q", base], check=True, stderr=subprocess.DEVNULL)
        self.fuse = FuseDisk(base, directory / "disk.d")
        self.loop = None

    def mount(self):
        found = subprocess.run(
            ["losetup", "--find", "--show", self.fuse.file], check=True, capture_output=True, text=True
        )
        self.loop = found.stdout.strip()
        subprocess.run(["mount", "-t", self.kind, self.loop, self.path], check=True)
        self.path.chmod(0o755)

    def unmount(self):
        if self.loop:
            # The last children of what was killed may be on their way out.
            wait_for(
                lambda: subprocess.run(["umount", self.path], stderr=subprocess.DEVNULL).returncode == 0
                or not self.path.is_mount(),
                30, f"{self.path} is busy",
            )  # fmt: skip
            subprocess.run(["losetup", "--detach", self.loop], check=True)
            # It is gone when the last user is, and must not write once the disk is there again.
            name = pathlib.Path("/sys/block") / pathlib.Path(self.loop).name / "loop"
            wait_for(lambda: not name.exists(), 30, f"{self.loop} is still in use")
            self.loop = None

    def close(self):
        self.fuse._say("cut 0")
        try:
            self.unmount()
        finally:
            self.fuse.stop()


@pytest.fixture(params=["ext4", "xfs", "btrfs"])
def disk(request, tmp_path):
    if not shutil.which(f"mkfs.{request.param}"):
        pytest.skip(f"mkfs.{request.param} is not installed")
    if request.param not in pathlib.Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel has no {request.param}")
    ensure_users()
    disk = Disk(request.param, tmp_path)
    try:
        yield disk
    finally:
        disk.close()


def make_image(rng, shared):
    """Random files, links and an override, above a layer that others have too."""
    layers = [shared]
    for n in range(2):
        entries = [entry(f"d{n}", kind=DIR, mode=0o755)]
        for i in range(20):
            size = rng.choice((0, 1, 4095, 4096, 4097, 20_000, 150_000))
            entries.append(entry(f"d{n}/{i}", rng.randbytes(size), mode=0o600 + i))
            entries.append(entry(f"d{n}/{i}.link", kind=SYM, linkname=str(i)))
        layers.append(tar(*entries))
    return Image(layers), layers


def expected_of(layer):
    found = {}
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        for info in archive:
            digest = hashlib.sha256(archive.extractfile(info).read()).hexdigest() if info.isreg() else info.linkname
            found[info.name] = (info.type, digest, 0 if info.issym() else info.mode)
    return found


def found_in(directory):
    found = {}
    for path in directory.rglob("*"):
        name, status = str(path.relative_to(directory)), path.lstat()
        if path.is_symlink():
            found[name] = (tarfile.SYMTYPE, os.readlink(path), 0)
        elif path.is_dir():
            found[name] = (tarfile.DIRTYPE, "", status.st_mode & 0o7777)
        else:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[name] = (tarfile.REGTYPE, digest, status.st_mode & 0o7777)
    return found


def check_store(store, known, promised):
    """Whole layers only, records only of layers that are there, and all that was promised."""
    shown = {path.name for path in (store.images / "layers").iterdir()} if store.images.exists() else set()
    for name in shown:
        assert found_in(store.images / "layers" / name) == known[name], f"layer {name}"
    references = set()
    for path in (store.images / "index").glob("*.json") if store.images.exists() else ():
        record = json.loads(path.read_text())
        references.add(record["reference"])
        assert set(record["layers"]) <= shown, f"{path} names layers that are not there"
    assert promised <= references, "an image is gone whose pull had succeeded"


def pull_in_background(store, reference):
    return subprocess.Popen(
        [store.program, *store.options, "pull", reference], env=environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def end(processes):
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


def test_a_power_cut_leaves_whole_layers_and_every_image_that_was_answered(disk, tmp_path):
    print(f"ECS_POWER_SEED={SEED} ECS_POWER_CYCLES={CYCLES}")
    rng = random.Random(SEED)
    shared = tar(entry("base", kind=DIR, mode=0o755), entry("base/file", rng.randbytes(300_000)))
    known = {hashlib.sha256(shared).hexdigest(): expected_of(shared)}
    promised, lost_blocks = set(), 0
    with FakeRegistry() as registry:
        for cycle in range(CYCLES):
            disk.mount()
            store = Store(tmp_path)
            check_store(store, known, promised)
            # Of what was there two stay, so that removals are cut as well.
            for reference in sorted(promised)[2:]:
                store.run("rm", reference)
                promised.discard(reference)
            images = [make_image(rng, shared) for _ in range(2)]
            references = [registry.put(f"c{cycle}-{i}:1", image) for i, (image, _) in enumerate(images)]
            for _, layers in images:
                known |= {hashlib.sha256(layer).hexdigest(): expected_of(layer) for layer in layers}

            removing = sorted(promised)[:1]
            processes = {reference: pull_in_background(store, reference) for reference in references}
            for reference in removing:
                promised.discard(reference)
                processes["rm"] = subprocess.Popen(
                    [store.program, *store.options, "rm", reference], env=environment(), stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                )  # fmt: skip
            if rng.random() < 0.5:
                wait_for(lambda: any(p.poll() is not None for p in processes.values()), 60, "no pull comes to an end")
            disk.fuse.cut_at(max(1, int(math.exp(rng.uniform(0, math.log(600))))))
            disk.fuse.wait_cut(rng.uniform(0, 4))
            # What has ended by now ended before the cut, or has met it and failed.
            promised |= {reference for reference in references if processes[reference].poll() == 0}
            end(processes.values())
            disk.unmount()
            lost = disk.fuse.restore(rng.randrange(1 << 31), rng.choice(CHANCES))
            lost_blocks += lost["lost"]
            print(f"{disk.kind} cycle {cycle}: {len(promised)} images promised, blocks {lost}")

        disk.mount()
        store = Store(tmp_path)
        check_store(store, known, promised)
        for reference in references:
            store.pull(reference)
        check_store(store, known, set(references))
        assert os.listdir(store.images / "staging") == []
        assert all(path.suffix == ".json" for path in (store.images / "index").iterdir())
    print(f"{disk.kind}: {lost_blocks} blocks were lost in all")
