"""An image with Debian's awscli and boto3, made by mmdebstrap and cached between runs."""

import hashlib
import os
import pathlib
import subprocess

from . import images

PACKAGES = "awscli,python3-boto3,ca-certificates"
EXCLUDE = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
CACHE = pathlib.Path(os.environ.get("ECS_TEST_CACHE", "/var/cache/ecs-agent-tests"))


def make():
    """The root file system as a tar, from the cache where it is. Needs Debian's registry."""
    options = [f"--dpkgopt=path-exclude={path}" for path in EXCLUDE]
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", *options, "bookworm"]
    name = hashlib.sha256(" ".join(command).encode()).hexdigest()[:16]
    path = CACHE / f"sdk-{name}.tar"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        partial = CACHE / f"sdk-{name}.{os.getpid()}.tar"
        try:
            subprocess.run([*command, str(partial)], check=True, stdin=subprocess.DEVNULL)
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
    return path


def push(work, reference):
    """Push the image to a registry on loopback."""
    layout = pathlib.Path(work) / "sdk-layout"
    config = {"Cmd": ["/bin/bash"], "Env": ["PATH=/usr/bin:/bin", "HOME=/root"]}
    images.write_layout(layout, [make().read_bytes()], config)
    images.push(layout, reference)


if __name__ == "__main__":
    make()
