"""ecs-logs between a log spool and CloudWatch Logs: nothing is lost, whatever dies or hangs."""

import json
import os
import pathlib
import pwd
import signal
import subprocess
import tempfile
import time

import pytest
import spool
import users
from builddir import needs_root, program
from controlplane.client import StandIn, wait_for

pytestmark = needs_root

REGION = "us-west-2"


class Shipper:
    """Directories of a node, a stand-in for AWS, keys, and one ecs-logs at a time."""

    def __init__(self, directory):
        users.ensure_users()
        self.dir = pathlib.Path(directory)
        self.dir.chmod(0o755)
        self.state = self.dir / "state"
        self.run = self.dir / "run"
        self.spool = self.state / "spool"
        for path in (self.state, self.run, self.spool, self.state / "logs"):
            path.mkdir()
            path.chmod(0o755)
        user = pwd.getpwnam("ecs-logs")
        os.chown(self.spool, 0, user.pw_gid)
        self.spool.chmod(0o770)
        os.chown(self.state / "logs", user.pw_uid, user.pw_gid)
        (self.state / "logs").chmod(0o750)
        self.standin = StandIn.start(self.dir / "standin", region=REGION)
        (self.dir / "standin").chmod(0o755)
        ca = self.dir / "ca.pem"
        ca.write_bytes(pathlib.Path(self.standin.ca).read_bytes())
        ca.chmod(0o644)
        self.ca = ca
        self.metadata = spool.Metadata(self.run)
        facts = self.standin.facts
        self.metadata.put("instance", facts["accessKeyId"], facts["secretAccessKey"])
        self.metadata.start()
        self.process = None
        self.arguments = []
        self.environment = {}

    def start(self):
        environment = {
            "PATH": "/usr/bin:/bin", "AWS_CA_BUNDLE": str(self.ca), "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.standin.endpoint, "ECS_LOGLEVEL": "debug",
            "ASAN_OPTIONS": "detect_leaks=0",
        }  # fmt: skip
        command = [
            program("ecs-logs"), "--config", str(self.dir / "none"), "--state-dir",
            str(self.state), "--runtime-dir", str(self.run), *self.arguments,
        ]  # fmt: skip
        with open(self.dir / "ecs-logs.log", "ab") as log:
            self.process = subprocess.Popen(
                users.as_user("ecs-logs", command), env=environment | self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def log(self):
        return (self.dir / "ecs-logs.log").read_text(errors="replace")

    def stop(self):
        """An orderly end; returns how long it took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=30) == 0, self.log()
        self.process = None
        return time.monotonic() - started

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def close(self):
        if self.process:
            self.kill()
        self.metadata.stop()
        self.standin.stop()
        log = self.log() if (self.dir / "ecs-logs.log").exists() else ""
        assert "Sanitizer" not in log and "runtime error" not in log, log

    def stream(self, name, driver="awslogs", task="0123456789abcdef0123456789abcdef", **more):
        options = more.pop("options", None)
        if options is None:
            options = {
                "awslogs-group": "g", "awslogs-region": REGION, "awslogs-stream": name,
                "awslogs-create-group": "true", "awslogs-force-flush-interval-seconds": "1",
            }  # fmt: skip
        return spool.SpoolStream(self.spool, task, name, driver, options, **more)

    def messages(self, stream, group="g"):
        if stream not in self.standin.state()["logGroups"].get(group, {}):
            return []
        return self.standin.logs(group, stream)

    def wait_messages(self, stream, expected, timeout=60, group="g"):
        def found():
            assert not self.process or self.process.poll() is None, self.log()
            return self.messages(stream, group) == expected

        wait_for(found, timeout, lambda: f"{self.messages(stream, group)[:20]}\n{self.log()}")

    def wait_gone(self, stream, timeout=60):
        wait_for(stream.is_gone, timeout, lambda: f"{os.listdir(stream.dir)}\n{self.log()}")


@pytest.fixture
def shipper():
    # Not below pytest's own directory, which other users cannot enter.
    with tempfile.TemporaryDirectory(prefix="ecs-logs-test-", ignore_cleanup_errors=True) as directory:
        running = Shipper(directory)
        try:
            yield running
            running.standin.assert_no_violations()
        finally:
            running.close()


def test_lines_arrive_in_order_and_the_spool_is_removed(shipper):
    shipper.start()
    stream = shipper.stream("app")
    stream.lines("one", "", "two", "drei \u00fc \u20ac")
    stream.record("err", stream=spool.STDERR)
    stream.record("half")
    stream.record("or\n", stream=spool.STDERR)
    stream.gap(3, 99)
    stream.record(b"bad \xff\xc3 bytes\n")
    stream.record("no newline")
    stream.end()
    expected = [
        "one", "two", "drei \u00fc \u20ac", "error", "half",
        "[3 records (99 bytes) of output were dropped here: the log buffer was full]",
        b"bad \xff\xc3 bytes".decode(errors="replace"), "no newline",
    ]  # fmt: skip
    shipper.wait_messages("app", expected)
    shipper.wait_gone(stream)
    wait_for(lambda: not os.listdir(shipper.spool), 10, "the directory of the task is left")


def test_lines_are_sent_while_the_container_runs(shipper):
    shipper.start()
    stream = shipper.stream("app")
    stream.lines("first")
    shipper.wait_messages("app", ["first"])
    stream.record("begun, ")
    stream.lines("and ended", "third")
    shipper.wait_messages("app", ["first", "begun, and ended", "third"])
    assert not stream.is_gone()
    assert stream.position()["inFlight"] == 0
