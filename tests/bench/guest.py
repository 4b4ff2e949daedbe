"""Starts held against crun on cgroup v2: in a host in qemu, which is slow, so only ratios count.

On this side: dockerd says what to run, and everything is copied into the guest. There, main() of
bench.inside does the measuring.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import image
from bench.peers import Docker
from guest import Guest
from harness import images
from harness.node import programs_dir

TESTS = pathlib.Path(__file__).resolve().parents[1]
CRUN = "/usr/bin/crun"


def docker_config(work, stamp):
    """As Docker makes it here, less what only cgroup v1 has."""
    out, rootfs = work / "out", work / "rootfs"
    out.mkdir()
    rootfs.mkdir()
    layer = images.busybox_layer({"stamp": (stamp.read_bytes(), 0o755)})
    subprocess.run(["tar", "-x", "-C", rootfs], input=layer, check=True)
    docker = Docker(work, rootfs, out)
    try:
        return docker.config()
    finally:
        docker.stop()


def libraries(program):
    """Files of the shared libraries that a program needs."""
    text = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    return re.findall(r"=> (/\S+)", text)


def copy(guest, work, stamp, config):
    crun = work / "crun"
    crun.mkdir()
    for path in [CRUN, *libraries(CRUN)]:
        shutil.copy(path, crun)
    guest.put(crun, "/srv/crun")
    guest.put(programs_dir(), "/srv/programs")
    for name in ("tests", "packaging"):
        guest.put(TESTS.parent / name, f"/srv/{name}")
    guest.put(stamp, "/srv/stamp")
    guest.write("/srv/config.json", json.dumps(config))


def measure(disk, stamp, rounds):
    """What bench.inside says, in a guest with this image."""
    with tempfile.TemporaryDirectory(prefix="ecs-bench-", dir="/var/tmp") as name:
        work = pathlib.Path(name)
        os.chmod(work, 0o755)
        config = docker_config(work, stamp)
        with Guest(disk, name="bench", memory=2048) as guest:
            guest.boot()
            copy(guest, work, stamp, config)
            guest.run(["bash", "-c", ". /srv/packaging/setup.sh && ecs_make_users"])
            said = guest.output(
                "cd /srv && PYTHONPATH=tests ECS_BUSYBOX=/bin/busybox ECS_PROGRAMS=/srv/programs "
                f"PYTHONDONTWRITEBYTECODE=1 python3 -m bench.inside {rounds}",
                timeout=60 + rounds * 60,
            )
    return json.loads(said)
