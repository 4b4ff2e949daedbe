"""A guest as a user of the package has it, with AWS and a registry of ours on the other side."""

import os
import pathlib

from controlplane.client import StandIn, StandInError, wait_for
from guest import HOST, Guest, GuestError
from harness.taskdef import container, task

CONFIG = "/etc/ecs/ecs.config"
CA = "/etc/ecs/standin.pem"
# Images come from a registry without TLS, which only loopback addresses may do.
PROXY_SOCKET = "[Socket]\nListenStream=127.0.0.1:{port}\n[Install]\nWantedBy=sockets.target\n"
PROXY_SERVICE = "[Service]\nExecStart=/lib/systemd/systemd-socket-proxyd {host}:{port}\n"
LEFTOVERS = r"""
find /sys/fs/cgroup -type d -name 'ecstasks-*'
grep -E ' /(run|var/lib)/ecs/' /proc/mounts
ip -o link | grep -o 'ecs[^:@]*' | grep -v '^ecs0$'
find /var/lib/ecs/tasks /var/lib/ecs/exits /run/ecs/tasks /var/lib/ecs/spool -mindepth 1 -maxdepth 1 ! -name '.*'
nft list ruleset | grep -oE 'comment "[0-9a-f]{12,64}"'
true
"""


def packages_to_test():
    """The .deb files in the folder that ECS_DEB_DIR names."""
    folder = os.environ.get("ECS_DEB_DIR")
    if not folder:
        raise RuntimeError("ECS_DEB_DIR must name the folder of the packages to test; tests/vm/run builds them")
    found = [path for path in pathlib.Path(folder).glob("*.deb") if "-dbgsym_" not in path.name]
    if not found:
        raise RuntimeError(f"ECS_DEB_DIR={folder}: there are no .deb files")
    return found


class Host(Guest):
    """A guest with a stand-in of its own. registry is on this side, busybox an image in it.

    registry.host, and so every reference, is the same address here and in the guest.
    """

    def __init__(self, image, registry, busybox, **more):
        super().__init__(image, **more)
        self.registry = registry
        self.busybox = busybox
        self.standin = None
        try:
            self.standin = StandIn.start(self.dir / "standin", listen="127.0.0.1", name=[HOST])
        except BaseException:
            self.remove()
            raise

    def remove(self):
        super().remove()
        if self.standin:
            self.standin.stop()
            self.standin = None

    # The agent

    def config(self, more=None):
        """Settings of ecs.config; more: further ones, None leaves one out."""

        def here(url):
            return url.replace("//127.0.0.1:", f"//{HOST}:")

        facts = self.standin.facts
        settings = {
            "ECS_CLUSTER": "default",
            "AWS_DEFAULT_REGION": self.standin.region,
            "AWS_ENDPOINT_URL": here(self.standin.endpoint),
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": here(self.standin.imds),
            "AWS_CA_BUNDLE": CA,
            "AWS_ACCESS_KEY_ID": facts["accessKeyId"],
            "AWS_SECRET_ACCESS_KEY": facts["secretAccessKey"],
            "ECS_ENABLE_TASK_IAM_ROLE": "true",
            "ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST": "true",
            "ECS_ENABLE_AWSLOGS_EXECUTIONROLE_OVERRIDE": "true",
            "ECS_AVAILABLE_LOGGING_DRIVERS": '["json-file","awslogs","none"]',
            "ECS_LOGLEVEL": "debug",
        } | (more or {})
        return {name: value for name, value in settings.items() if value is not None}

    def configure(self, more=None):
        """Write ecs.config as an administrator would, and make the registry reachable."""
        self.write(CA, pathlib.Path(self.standin.ca).read_text())
        text = "".join(f"{name}={value}\n" for name, value in self.config(more).items())
        self.run(f"cat >{CONFIG}", input=text)
        port = self.registry.port
        self.write("/etc/systemd/system/registry.socket", PROXY_SOCKET.format(port=port))
        self.write("/etc/systemd/system/registry.service", PROXY_SERVICE.format(host=HOST, port=port))
        self.run("systemctl --quiet enable --now registry.socket")

    def enable(self, timeout=60):
        """Enable and start the agent; returns the container instance once ACS is connected."""
        if self.run("systemctl --quiet enable --now ecs", check=False).returncode != 0:
            raise GuestError(f"ecs.service does not start:\n{self.journal_of_ours()}")
        return self.wait_connected(timeout)

    def wait_connected(self, timeout=60):
        def connected():
            instance = self.standin.instance()
            return instance if instance and instance["acsConnected"] else None

        return wait_for(connected, timeout, lambda: f"{self.standin.instance()}\n{self.journal_of_ours()}")

    def restart(self, unit="ecs"):
        self.run(["systemctl", "restart", unit])

    # Tasks

    def container(self, command=None, **more):
        """A container of the busybox image, see harness.taskdef."""
        return container(self.busybox, command, **more)

    def run_task(self, *containers, status="RUNNING", timeout=60, **more):
        """Run one task; returns it once it has this status."""
        return self.wait_task(self.standin.run_task(task(*containers, **more)), status, timeout)

    def wait_task(self, arn, status, timeout=60):
        try:
            return self.standin.wait_task(arn, status, timeout)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.journal_of_ours()}") from None

    def run_to_end(self, *containers, **more):
        """Run one task; returns it once it has stopped."""
        return self.run_task(*containers, status="STOPPED", **more)

    def logs(self, group="g", stream=None):
        """Lines that have arrived in CloudWatch Logs; none while the group does not exist."""
        try:
            return self.standin.logs(group, stream)
        except StandInError as error:
            if "ResourceNotFoundException" not in str(error):
                raise
            return []

    def wait_logs(self, predicate, group="g", timeout=60):
        """Wait for predicate(lines), and return the lines."""
        return wait_for(
            lambda: predicate(self.logs(group)) and self.logs(group), timeout,
            lambda: f"the log is {self.logs(group)}",
        )  # fmt: skip

    # Looking

    def journal_of_ours(self, *options):
        """What the agent's units wrote in this boot."""
        return self.journal(None, "--boot", "--unit=ecs*", *options)

    def leftovers(self):
        """What is left of tasks; empty when everything has been cleaned up."""
        return self.output(LEFTOVERS).splitlines()

    def wait_clean(self, timeout=60):
        wait_for(lambda: not self.leftovers(), timeout, lambda: "left: " + "\n".join(self.leftovers()))
