"""Runs integration tests inside a guest: its cgroup v2, its kernel, its users.

The tests and the built programs are copied as they are; Debian's libraries are the same on both
sides. The arguments are those of pytest, with files named as in tests/integration.
"""

import os
import pathlib
import shlex
import shutil
import signal
import sys
import tempfile

import image
from guest import Guest

TESTS = pathlib.Path(__file__).resolve().parents[1]
BUILT = ("ecs-*", "netns/ecs-network", "tests/integration/*", "tests/unit/test_sigv4")


def copy(guest, build, programs):
    """Everything to /srv: sources that tests read, test programs, the installed programs."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as built:
        for pattern in BUILT:
            for path in build.glob(pattern):
                if path.is_file() and os.access(path, os.X_OK):
                    target = pathlib.Path(built) / path.relative_to(build)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target)
        guest.put(built, "/srv/build")
    guest.put(programs, "/srv/programs")
    for name in ("tests", "packaging"):
        guest.put(TESTS.parent / name, f"/srv/{name}")


def main(arguments):
    build, programs = (pathlib.Path(os.environ[name]) for name in ("ECS_BUILD_DIR", "ECS_PROGRAMS"))
    words = [f"tests/integration/{word}" if word.startswith("test_") else word for word in arguments]
    command = (
        "cd /srv && ECS_BUSYBOX=/bin/busybox ECS_BUILD_DIR=/srv/build ECS_PROGRAMS=/srv/programs "
        "PYTHONDONTWRITEBYTECODE=1 python3 -m pytest -p no:cacheprovider -rsfE " + shlex.join(words)
    )
    with Guest(image.make(), name="integration", memory=4096) as guest:
        guest.boot()
        copy(guest, build, programs)
        guest.run(["bash", "-c", ". /srv/packaging/setup.sh && ecs_make_users"])
        return guest.interactive([command])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
