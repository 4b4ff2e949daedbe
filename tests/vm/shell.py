"""A shell in a host with the agent running; its stand-in and its registry are there meanwhile."""

import pathlib
import signal
import sys
import tempfile

import image
from harness import images
from harness.registry import Registry
from host import Host, packages_to_test

HELLO = """
The agent runs in this host, against a stand-in for AWS. From another terminal:
  {cli} run tests/controlplane/examples/hello.json
  {cli} tasks
{busybox} is an image of busybox in a registry that the host reaches.
Here: journalctl -u 'ecs*' -f; systemd-cgls; ecs-agent --check-config. Leave it with exit.
"""


def main(command):
    with tempfile.TemporaryDirectory(prefix="ecs-vm-shell-", dir="/var/tmp") as work:
        with Registry(pathlib.Path(work) / "registry") as registry:
            busybox = f"{registry.host}/busybox:1"
            images.push_busybox(work, busybox)
            with Host(image.make(packages_to_test()), registry, busybox, name="shell") as host:
                print(f"Booting ({host.console_path})", file=sys.stderr, flush=True)
                host.boot()
                host.configure()
                host.enable()
                if not command:
                    cli = f"ECS_STANDIN_DIR={host.standin.dir} tests/controlplane/ecs-standin"
                    print(HELLO.format(cli=cli, busybox=busybox), flush=True)
                return host.interactive(command)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
