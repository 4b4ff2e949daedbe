"""Power cuts at random moments while images are pulled and tasks are started.

Each cycle boots the host on the disk as the last cut left it (disk.py: any part of what was not flushed is gone),
looks at everything that is there, starts more, and cuts again. ECS_POWER_CYCLES says how many cycles (3),
ECS_POWER_SEED repeats a run: contents, moments and losses follow from it, as far as the host is as fast again;
ECS_POWER_LOG names a file that tells of each cycle as it ends.
"""

import dataclasses
import hashlib
import io
import math
import os
import pathlib
import random
import tarfile
import threading
import time

import pytest
from controlplane.client import wait_for
from disk import ForgetfulDisk
from harness import images
from harness.taskdef import container
from harness.taskdef import task as task_definition
from host import Host

CYCLES = int(os.environ.get("ECS_POWER_CYCLES", "3"))
SEED = int(os.environ.get("ECS_POWER_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
CHANCES = (0, 0.1, 0.5, 0.9, 1)
SETTINGS = {"ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION": "1s"}

# What costs each of many boots its time and has no part in this.
MASKED = """systemd-logind.service dev-hugepages.mount dev-mqueue.mount kmod-static-nodes.service
    modprobe@configfs.service modprobe@dm_mod.service modprobe@drm.service modprobe@efi_pstore.service
    modprobe@fuse.service modprobe@loop.service e2scrub_all.timer systemd-tmpfiles-clean.timer logrotate.timer"""

STORE = "/var/lib/ecs/images"
VERIFY = "/bin/busybox sha256sum -c -s /manifest || exit 3"
# Stopped while it verifies, it still says what it has found.
RUN = f"trap over=1 TERM; {VERIFY}; echo verified; while [ ! $over ]; do sleep 1; done"

# Kind, mode and link target of everything in the layers, and the digest of each file.
LOOK = f"""cd {STORE}/layers
find . -mindepth 2 -printf '%y\\t%m\\t%P\\t%l\\n'
echo ---
find . -type f -exec sha256sum {{}} +
echo ---
ls {STORE}/staging
ls {STORE}/index | grep -v '\\.json$'
true
"""


@dataclasses.dataclass
class Image:
    reference: str
    diff_ids: list


class Images:
    """Makes images of random contents, and knows what is in every layer."""

    def __init__(self, registry, work, rng):
        self.registry = registry
        self.work = pathlib.Path(work)
        self.rng = rng
        self.layers = {}  # hex of the diffID: {path: (kind, mode, link, digest)}
        self.base = images.busybox_layer()
        self.shared = self._layer(self._files("shared"))

    def _files(self, top, n=12):
        files = {}
        for i in range(n):
            size = self.rng.choice((0, 1, 100, 4095, 4096, 4097, 20_000, 60_000, 150_000))
            files[f"{top}/{i % 3}/{i}"] = self.rng.randbytes(size)
        return files

    def _layer(self, files):
        """A tar of these files and their directories."""
        out = io.BytesIO()
        directories = sorted({str(p) for path in files for p in pathlib.PurePath(path).parents if str(p) != "."})
        with tarfile.open(fileobj=out, mode="w") as tar:
            for name in directories:
                info = tarfile.TarInfo(name)
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size, info.mode = len(data), self.rng.choice((0o644, 0o755, 0o600))
                tar.addfile(info, io.BytesIO(data))
                link = tarfile.TarInfo(name + ".link")
                link.type, link.linkname = tarfile.SYMTYPE, pathlib.PurePath(name).name
                tar.addfile(link)
        return out.getvalue()

    def _know(self, layer):
        """Its diffID."""
        name = hashlib.sha256(layer).hexdigest()
        if name not in self.layers:
            found = self.layers[name] = {}
            with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
                for info in tar:
                    data = tar.extractfile(info).read() if info.isreg() else None
                    kind = "d" if info.isdir() else "l" if info.issym() else "f"
                    digest = hashlib.sha256(data).hexdigest() if info.isreg() else ""
                    found[info.name] = (kind, f"{info.mode:o}" if kind != "l" else "777", info.linkname, digest)
        return name

    def make(self, name):
        """Push an image of five layers; the upper ones replace files of the lower ones."""
        middle, upper = self._files("middle"), self._files("upper")
        upper["middle/0/0"] = self.rng.randbytes(3000)
        layers = [self.base, self.shared, self._layer(middle), self._layer(upper)]
        shown = {}
        for layer in layers:
            for path, (kind, _, _, digest) in self.layers[self._know(layer)].items():
                if kind == "f":
                    shown[path] = digest
        manifest = "".join(f"{digest}  /{path}\n" for path, digest in shown.items())
        layers.append(self._layer({"manifest": manifest.encode()}))
        layout = self.work / name
        images.write_layout(layout, layers)
        reference = f"{self.registry.host}/{name}:1"
        images.push(layout, reference)
        return Image(reference, [self._know(layer) for layer in layers])

    def check(self, looked):
        """What LOOK has found must be whole layers, and nothing else. Returns how many."""
        shown, digests, rest = (part.strip("\n").splitlines() for part in looked.split("---\n"))
        assert rest == [], f"left in the store: {rest}"
        by_path = dict(reversed(line.removeprefix("\\").split(maxsplit=1)) for line in digests)
        found = {}
        for line in shown:
            kind, mode, path, link = line.split("\t")
            layer, _, name = path.partition("/")
            found.setdefault(layer, {})[name] = (kind, mode, link, by_path.get(f"./{path}", ""))
        for name, content in found.items():
            assert name in self.layers, f"layer {name} was never pushed"
            wrong = {
                path: (content.get(path), self.layers[name].get(path))
                for path in content.keys() | self.layers[name].keys()
                if content.get(path) != self.layers[name].get(path)
            }
            assert not wrong, f"layer {name} differs (found, right): {wrong}"
        return len(found)


class PowerHost(Host):
    """Its disk forgets at a power cut what was not flushed."""

    def __init__(self, *arguments, **more):
        self.disk = None
        super().__init__(*arguments, **more)
        try:
            self.disk = ForgetfulDisk(self.image.disk, self.dir)
        except BaseException:
            self.remove()
            raise

    def drive(self):
        return f"if=virtio,format=raw,file=nbd+unix:///?socket={self.disk.socket},cache=writeback"

    def cut(self, seed, chance):
        self.kill()
        return self.disk.cut(seed, chance)

    def remove(self):
        super().remove()
        if self.disk:
            self.disk.stop()
            self.disk = None


class Background(threading.Thread):
    """A call beside ours; result() waits for it."""

    def __init__(self, function, *arguments):
        super().__init__(daemon=True)
        self.call = lambda: function(*arguments)
        self.value = self.error = None
        self.start()

    def run(self):
        try:
            self.value = self.call()
        except BaseException as error:
            self.error = error

    def result(self):
        self.join()
        if self.error:
            raise self.error
        return self.value


@pytest.fixture(scope="module")
def guest(installed_image, registry, busybox):
    with PowerHost(installed_image, registry, busybox, name="power") as host:
        yield host


@pytest.fixture(scope="module")
def made(registry, tmp_path_factory):
    return Images(registry, tmp_path_factory.mktemp("power"), random.Random(SEED))


def say(text):
    """Also while pytest captures: fifty cycles are long."""
    print(text, flush=True)
    if path := os.environ.get("ECS_POWER_LOG"):
        with open(path, "a") as log:
            log.write(text + "\n")


def task(*containers):
    """Without an execution role: credentials of roles are in memory only, those of the instance come again."""
    definition = task_definition(*containers)
    del definition["executionRoleArn"]
    return definition


def start_tasks(guest, new, old):
    """Tasks of this cycle's images and of the last one's."""

    def one(image, command, logs="g", name="app"):
        return container(image.reference, command, logs=logs, name=name)

    tasks = [
        task(one(new[0], VERIFY)),
        task(one(new[1], RUN)),
        task(one(new[2], VERIFY, name="a"), one(new[0], RUN, logs=None, name="b")),
    ] + [task(one(image, RUN)) for image in old[:1]]
    return [guest.standin.run_task(definition) for definition in tasks]


def wait_reported(guest, tasks):
    """Tasks of the life before, by the status they had: what ran is STOPPED, with a reason where no exit code tells
    why. What had not started yet is started now; it is stopped in the end."""

    def reported():
        return all(
            guest.standin.task(arn)["lastStatus"] in ("STOPPED", *("RUNNING",) * (status == "PENDING"))
            for arn, status in tasks.items()
        )

    def describe():
        return f"{tasks}\n{[guest.standin.task(arn) for arn in tasks]}\n{guest.journal_of_ours()}"

    wait_for(reported, 240, describe)
    for arn in tasks:
        if guest.standin.task(arn)["lastStatus"] == "RUNNING":
            guest.standin.stop_task(arn)
    for arn in tasks:
        stopped = guest.wait_task(arn, "STOPPED", 240)
        codes = [one.get("exitCode") for one in stopped["containers"]]
        assert 3 not in codes, f"an image was used whose files are wrong: {stopped}"
        reasons = [stopped["stoppedReason"], *(one.get("reason") for one in stopped["containers"])]
        assert any(reasons) or None not in codes, f"no reason: {stopped}"


def verify(guest, old):
    """The images of the last cycle, as far as they came: every file is right, whatever was pulled again. Returns how
    long that took."""
    began = time.monotonic()
    containers = [container(image.reference, VERIFY, name=f"c{n}", essential=n == 0) for n, image in enumerate(old)]
    containers[0]["dependsOn"] = [{"containerName": one["name"], "condition": "COMPLETE"} for one in containers[1:]]
    stopped = guest.wait_task(guest.standin.run_task(task(*containers)), "STOPPED", 240)
    codes = [one.get("exitCode") for one in stopped["containers"]]
    assert codes == [0] * len(old), f"{stopped}\n{guest.journal_of_ours()}"
    return time.monotonic() - began


def test_no_power_cut_costs_more_than_what_ran(guest, made):
    say(f"ECS_POWER_SEED={SEED} ECS_POWER_CYCLES={CYCLES}")
    rng = random.Random(SEED + 1)
    guest.boot()
    guest.configure(SETTINGS)
    instance = guest.enable()["arn"]
    guest.run(["systemctl", "--quiet", "mask", *MASKED.split()])
    guest.run("sync")  # what an administrator has set up is not what is tested

    old, running, removing, span = [], {}, None, 8
    for cycle in range(CYCLES + 1):
        began = time.monotonic()
        new = Background(lambda cycle=cycle: [made.make(f"c{cycle}-{n}") for n in range(3)])
        if cycle > 0:
            guest.boot(300)
            assert guest.wait_connected(240)["arn"] == instance
            booted = time.monotonic() - began
            wait_reported(guest, running)
            span = 1.5 * verify(guest, old)  # what pulls and starts take on this machine, and a bit of what follows
            guest.wait_clean(240)
            layers = made.check(guest.run(LOOK).stdout)
            say(
                f"cycle {cycle}: connected after {booted:.1f} s, {layers} whole layers, "
                f"all right after {time.monotonic() - began:.1f} s"
            )
        new = new.result()
        if cycle == CYCLES:
            break

        # By the clock, or after so many writes to the disk: then some wait for a flush.
        part, chance = rng.random(), rng.choice(CHANCES)
        writes = None if rng.random() < 0.3 else int(math.exp(rng.uniform(0, math.log(2000))))
        if writes:
            guest.disk.freeze(writes)
        asked = time.monotonic()
        arns = start_tasks(guest, new, old)
        if old:
            words = " ".join(image.reference for image in old[1:])
            removing = Background(guest.run, f"for i in {words}; do ecs-image rm $i; done", False)
        if writes:
            guest.disk.wait_frozen(2 * span)
        else:
            time.sleep(part * span)
        after = time.monotonic() - asked
        running = {arn: guest.standin.task(arn)["lastStatus"] for arn in arns}
        lost = guest.cut(rng.randrange(1 << 31), chance)
        say(
            f"cycle {cycle}: cut after {after:.2f} s, {writes} writes with {' '.join(running.values())}; "
            f"unflushed blocks kept with chance {chance}: {lost}"
        )
        if removing:
            removing.join()  # it has lost its connection, or was done before
        old = new
    guest.standin.assert_no_violations()
