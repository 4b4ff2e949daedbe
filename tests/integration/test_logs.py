"""ecs-logs between a log spool and CloudWatch Logs: nothing is lost, whatever dies or hangs."""

import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
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
        self.wrapper = []  # of the command line
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
                self.wrapper + users.as_user("ecs-logs", command), env=environment | self.environment,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        return self

    def log(self):
        return (self.dir / "ecs-logs.log").read_text(errors="replace")

    def maps(self):
        return pathlib.Path(f"/proc/{self.process.pid}/maps").read_text()

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


def numbered(n, start=0):
    return [f"line {i} of a container that writes a lot {i * 7919 % 104729:06}" for i in range(start, start + n)]


def write_slowly(stream, lines, seconds, per_record=50):
    """Like a busy container: records now and then, for about so long."""
    records = [lines[i : i + per_record] for i in range(0, len(lines), per_record)]
    started = time.monotonic()
    for i, record in enumerate(records):
        stream.lines(*record)
        ahead = started + seconds * i / len(records) - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
    stream.end()


def in_background(*calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def repeats(messages, expected):
    """How often something is repeated: every line must be there, and in order the first time."""
    seen = set()
    first = [m for m in messages if not (m in seen or seen.add(m))]
    assert first == expected
    return len(messages) - len(first)


def test_fifty_thousand_lines_survive_orderly_restarts_exactly_once(shipper):
    streams = {name: shipper.stream(name) for name in ("a", "b")}
    lines = numbered(50000)
    shipper.start()
    writers = in_background(
        lambda: write_slowly(streams["a"], lines, 6), lambda: write_slowly(streams["b"], lines, 6)
    )
    while any(writer.is_alive() for writer in writers):
        time.sleep(0.7)  # how long a life lasts is what this varies
        shipper.stop()
        shipper.start()
    for name, stream in streams.items():
        shipper.wait_gone(stream)
        assert shipper.messages(name) == lines
    shipper.stop()


def test_a_kill_repeats_one_batch_at_most_and_loses_nothing(shipper):
    stream = shipper.stream("app")
    lines = numbered(50000)
    # Answers come late, so that a kill meets a batch that was taken and not confirmed.
    shipper.standin.fault("logs", "delay", "PutLogEvents", delay=0.3)
    shipper.start()
    (writer,) = in_background(lambda: write_slowly(stream, lines, 6))
    kills = 0
    while writer.is_alive():
        time.sleep(0.9)  # a kill must be able to come at any moment
        shipper.kill()
        kills += 1
        shipper.start()
    shipper.wait_gone(stream)
    assert kills >= 3
    puts = shipper.standin.state()["logGroups"]["g"]["app"]["puts"]
    assert repeats(shipper.messages("app"), lines) <= kills * 10000
    assert puts >= 5
    shipper.stop()


def test_a_batch_that_was_taken_before_a_kill_is_repeated_alone(shipper):
    """The worst moment: the sink has the batch, the answer is under way, and more was written since."""
    stream = shipper.stream("app")
    shipper.start()
    stream.lines("before")
    shipper.wait_messages("app", ["before"])
    shipper.standin.fault("logs", "hang", "PutLogEvents", when="after", count=1)
    stream.lines("one", "two")
    shipper.wait_messages("app", ["before", "one", "two"])
    assert stream.position()["inFlight"] == 2
    stream.lines("three")
    shipper.kill()
    shipper.start()
    stream.end()
    shipper.wait_gone(stream)
    assert shipper.messages("app") == ["before", "one", "two", "one", "two", "three"]
    assert shipper.standin.state()["logGroups"]["g"]["app"]["puts"] == 4  # they came as a batch again


@pytest.mark.parametrize("fault", ["reset", "drop", "status", "throttle", "malformed"])
def test_a_sink_that_fails_loses_and_repeats_nothing(shipper, fault):
    streams = {name: shipper.stream(name) for name in ("a", "b", "c")}
    lines = numbered(50000)
    shipper.start()
    streams["a"].lines("first")
    shipper.wait_messages("a", ["first"])
    shipper.standin.fault("logs", fault)
    for stream in streams.values():
        stream.lines(*lines)
        stream.end()
    wait_for(lambda: shipper.log().count("not delivered") >= 6, 30, shipper.log)
    assert not any(stream.is_gone() for stream in streams.values())
    shipper.standin.clear_faults()
    for name, stream in streams.items():
        shipper.wait_gone(stream)
        assert shipper.messages(name) == (["first"] if name == "a" else []) + lines
    shipper.stop()


def test_an_orderly_stop_waits_for_the_answer(shipper):
    stream = shipper.stream("app")
    shipper.standin.fault("logs", "delay", "PutLogEvents", delay=2.0, count=1)
    shipper.start()
    stream.lines("one", "two")
    wait_for(lambda: (stream.dir / "position").exists(), 10, shipper.log)
    shipper.stop()
    assert shipper.messages("app") == ["one", "two"]
    assert stream.position()["inFlight"] == 0
    stream.end()
    shipper.start()
    shipper.wait_gone(stream)
    assert shipper.messages("app") == ["one", "two"]


def test_one_stream_that_hangs_delays_no_other(shipper):
    """Many streams go to a sink that accepts connections and never answers."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(300)
        for i in range(100):
            options = {
                "awslogs-group": "g", "awslogs-stream": f"deaf{i}",
                "awslogs-endpoint": f"http://127.0.0.1:{deaf.getsockname()[1]}",
            }  # fmt: skip
            shipper.stream(f"deaf{i}", options=options).lines("x")
        shipper.start()
        good = shipper.stream("good")
        lines = numbered(20000)
        good.lines(*lines)
        good.end()
        shipper.wait_messages("good", lines, timeout=20)


def test_group_and_stream_are_made_when_they_are_missing(shipper):
    for create in ("true", "false"):
        options = {
            "awslogs-group": f"group-{create}", "awslogs-create-group": create,
            "awslogs-stream-prefix": "web", "awslogs-force-flush-interval-seconds": "1",
        }  # fmt: skip
        shipper.stream("app", task=f"task-{create}", options=options).lines("hello")
    shipper.start()
    shipper.wait_messages("web/app/task-true", ["hello"], group="group-true")
    wait_for(lambda: "log group does not exist" in shipper.log(), 20, shipper.log)
    assert "group-false" not in shipper.standin.state()["logGroups"]
    aws(shipper, "create_log_group", logGroupName="group-false")
    shipper.wait_messages("web/app/task-false", ["hello"], group="group-false")


def aws(shipper, operation, **arguments):
    import boto3

    environment = shipper.standin.environment()
    client = boto3.client(
        "logs", region_name=REGION, endpoint_url=shipper.standin.endpoint, verify=str(shipper.ca),
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    return getattr(client, operation)(**arguments)


@pytest.fixture
def small_spool(shipper):
    """A file system of its own for the spool, of 80 MiB."""
    gid = pwd.getpwnam("ecs-logs").pw_gid
    options = f"size=80m,mode=0770,gid={gid}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "ecs-logs-test", shipper.spool], check=True)
    try:
        yield shipper
    finally:
        subprocess.run(["umount", "-l", shipper.spool], check=True)


def test_ended_logs_that_are_refused_are_kept_within_a_bound(small_spool):
    """A tenth of the file system, here 8 MiB, each log counted as 1 MiB at least: the oldest of a
    crash loop without a log group go first. A sink that is only down costs nothing."""
    shipper = small_spool
    missing = {
        "awslogs-group": "later", "awslogs-create-group": "false",
        "awslogs-force-flush-interval-seconds": "1",
    }  # fmt: skip

    def refused(name, hours=None):
        stream = shipper.stream(name, options=missing | {"awslogs-stream": name})
        stream.lines(name)
        if hours:
            stream.end()
            then = time.time() - hours * 3600
            os.utime(stream.dir / "end", (then, then))
        return stream

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        down = refused("down", 20 * 24)
        document = json.loads((down.dir / "log.json").read_text())
        document["options"]["awslogs-endpoint"] = f"http://127.0.0.1:{closed.getsockname()[1]}"
        (down.dir / "log.json").write_text(json.dumps(document))
        ancient, running = refused("ancient", 15 * 24), refused("running")
        loop = [refused(f"loop{i}", 100 - i) for i in range(10)]
        (loop[0].dir / "00000002.seg").write_bytes(bytes(2 << 20))
        shipper.start()
        for stream in (ancient, *loop[:2]):
            shipper.wait_gone(stream)
        assert not any(stream.is_gone() for stream in (down, running, *loop[2:]))
        given_up = re.findall(
            r"(\d+) bytes of the log for group later, stream (\w+) are given up: ([^,]*)", shipper.log()
        )
        assert {name: why for _, name, why in given_up} == {
            "ancient": "it ended 14 days ago",
            "loop0": "it is the oldest of ended logs that are refused",
            "loop1": "it is the oldest of ended logs that are refused",
        }
        assert {name: int(size) for size, name, _ in given_up}["loop0"] == (2 << 20) + 24 + len("loop0\n")
    aws(shipper, "create_log_group", logGroupName="later")
    for stream in loop[2:]:
        shipper.wait_messages(stream.dir.name, [stream.dir.name], group="later")
        shipper.wait_gone(stream)
    assert not down.is_gone() and shipper.log().count("are given up") == 3


def test_a_stream_without_a_name_is_named_by_the_container_id(shipper):
    options = {"awslogs-group": "g", "awslogs-create-group": "true", "awslogs-format": "json/emf"}
    stream = shipper.stream("app", options=options)
    stream.lines("{}")
    stream.end()
    shipper.start()
    shipper.wait_messages("c" * 64, ["{}"])
    assert shipper.standin.state()["logGroups"]["g"]["c" * 64]["formats"] == ["json/emf"]


def test_a_stream_that_was_deleted_is_made_again(shipper):
    stream = shipper.stream("app")
    shipper.start()
    stream.lines("one")
    shipper.wait_messages("app", ["one"])
    aws(shipper, "delete_log_group", logGroupName="g")
    stream.lines("two")
    stream.end()
    shipper.wait_messages("app", ["two"])
    shipper.wait_gone(stream)


def test_keys_are_waited_for(shipper):
    """ecs-metadata is away, then without the keys, then has some that AWS does not know."""
    shipper.metadata.stop()
    shipper.metadata.path.unlink()
    stream = shipper.stream("app", credentialsId="execution")
    shipper.start()
    stream.lines("one")
    stream.end()
    wait_for(lambda: "No such file" in shipper.log(), 10, shipper.log)
    shipper.metadata.start()
    wait_for(lambda: "execution" in shipper.metadata.asked, 30, shipper.log)
    shipper.metadata.answers["execution"] = "EAGAIN"
    wait_for(lambda: "no keys: EAGAIN" in shipper.log(), 30, shipper.log)
    shipper.metadata.put("execution", "AKIAWRONG", "wrong")
    wait_for(lambda: "UnrecognizedClientException" in shipper.log() or "InvalidSignature" in shipper.log(),
             30, shipper.log)  # fmt: skip
    assert not stream.is_gone()
    facts = shipper.standin.facts
    shipper.metadata.put("execution", facts["accessKeyId"], facts["secretAccessKey"])
    shipper.wait_messages("app", ["one"])
    shipper.wait_gone(stream)
    shipper.standin.clear_violations()


def test_a_log_that_ended_hours_ago_and_whose_role_is_unknown_is_removed(shipper):
    """As after a restart of the host, which loses the credentials of roles. Those of the instance
    come again, if only later than ecs-metadata has been told all that is known."""
    old, young, running = (
        shipper.stream(name, credentialsId="gone") for name in ("old", "young", "running")
    )
    instance = shipper.stream("instance")
    for stream in (old, young, running, instance):
        stream.lines("one")
    for stream in (old, young, instance):
        stream.end()
    then = time.time() - 7 * 3600
    for stream in (old, instance):
        os.utime(stream.dir / "end", (then, then))
    shipper.metadata.answers |= {"gone": "EAGAIN", "instance": "ENOENT"}
    shipper.start()
    wait_for(lambda: "no keys: EAGAIN" in shipper.log(), 30, shipper.log)
    assert not old.is_gone()  # they may come
    shipper.metadata.answers["gone"] = "ENOENT"
    shipper.wait_gone(old)
    assert not young.is_gone() and not running.is_gone()
    wait_for(lambda: "credentials instance: no keys: ENOENT" in shipper.log(), 30, shipper.log)
    facts = shipper.standin.facts
    for name in ("gone", "instance"):
        shipper.metadata.put(name, facts["accessKeyId"], facts["secretAccessKey"])
    for stream in (young, instance):
        shipper.wait_messages(stream.dir.name, ["one"])
        shipper.wait_gone(stream)


def test_events_that_are_too_old_do_not_stop_the_others(shipper):
    stream = shipper.stream("app")
    now = time.time_ns() // 1000
    stream.lines("ancient", time_usec=now - 20 * 24 * 3600 * 1000000)
    stream.lines("new")
    stream.lines("from the future", time_usec=now + 24 * 3600 * 1000000)
    stream.end()
    shipper.start()
    shipper.wait_gone(stream)
    assert shipper.messages("app") == ["new"]
    assert shipper.log().count("too old or too new") == 2


def test_json_files_are_dockers_and_rotate(shipper):
    options = {"max-size": "100k", "max-file": "3"}
    stream = shipper.stream("app", driver="json-file", options=options)
    lines = numbered(8000)
    shipper.start()
    stream.lines(*lines[:1000])
    directory = shipper.state / "logs" / stream.dir.parent.name
    wait_for(lambda: (directory / "app-json.log").exists(), 10, shipper.log)
    shipper.kill()
    for i in range(1000, 8000, 100):
        stream.lines(*lines[i : i + 100])
    stream.end()
    shipper.start()
    shipper.wait_gone(stream)
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["app-json.log", "app-json.log.1", "app-json.log.2"]
    found = []
    for name in reversed(names):
        data = (directory / name).read_bytes()
        assert len(data) < 100 * 1024 + 200
        assert name == "app-json.log" or len(data) >= 100 * 1024
        found += [json.loads(line) for line in data.splitlines()]
    assert [entry["log"] for entry in found] == [line + "\n" for line in lines[-len(found) :]]
    assert {entry["stream"] for entry in found} == {"stdout"}


def test_a_json_file_that_was_half_written_is_put_right(shipper):
    stream = shipper.stream("app", driver="json-file", options={})
    shipper.start()
    stream.lines("one")
    path = shipper.state / "logs" / stream.dir.parent.name / "app-json.log"
    wait_for(lambda: path.exists() and path.read_bytes().endswith(b"\n"), 10, shipper.log)
    wait_for(lambda: stream.position()["inFlight"] == 0, 10, shipper.log)
    shipper.kill()
    # As if killed in the middle of writing "two": the position says a batch of one line.
    before = path.read_bytes()
    position = stream.dir / "position"
    head = json.loads(position.read_bytes())
    head |= {"inFlight": 1, "fileBytes": len(before)}
    position.write_text(json.dumps(head) + "\n")
    with open(path, "ab") as file:
        file.write(b'{"log":"tw')
    stream.lines("two", "three")
    stream.end()
    shipper.start()
    shipper.wait_gone(stream)
    logs = [json.loads(line)["log"] for line in path.read_bytes().splitlines()]
    assert logs == ["one\n", "two\n", "three\n"]


def test_a_damaged_position_costs_a_repeat_and_no_line(shipper):
    stream = shipper.stream("app")
    shipper.start()
    stream.lines("one")
    shipper.wait_messages("app", ["one"])
    shipper.stop()
    (stream.dir / "position").write_bytes(b"")
    stream.lines("two")
    stream.end()
    shipper.start()
    shipper.wait_gone(stream)
    assert shipper.messages("app") == ["one", "one", "two"]


@pytest.mark.parametrize("left", [None, b"", b'{"driver":"aws', bytes(300)])
def test_a_stream_whose_log_json_a_power_loss_took_is_removed_once_it_has_ended(shipper, left):
    stream = shipper.stream("app")
    stream.lines("nobody knows where to")
    if left is None:
        (stream.dir / "log.json").unlink()
    else:
        (stream.dir / "log.json").write_bytes(left)
    other = shipper.stream("other")
    other.lines("this one is whole")
    other.end()
    shipper.start()
    shipper.wait_messages("other", ["this one is whole"])
    assert stream.dir.exists()  # it may not be ours to judge yet
    stream.end()
    shipper.wait_gone(stream)
    assert shipper.messages("other") == ["this one is whole"]


def test_an_old_position_takes_nothing_back_from_a_json_file(shipper):
    """After a power loss that kept the file and the deletion of a segment, but not the latest position."""
    stream = shipper.stream("app", driver="json-file", options={}, segment_bytes=2000)
    stream.lines(*numbered(20))
    shipper.start()
    path = shipper.state / "logs" / stream.dir.parent.name / "app-json.log"
    wait_for(lambda: path.exists() and path.read_bytes().count(b"\n") == 20, 10, shipper.log)
    stream.lines(*numbered(200, 20))
    wait_for(lambda: path.read_bytes().count(b"\n") == 220, 10, shipper.log)
    wait_for(lambda: not (stream.dir / "00000001.seg").exists(), 10, shipper.log)
    shipper.kill()
    head = json.loads((stream.dir / "position").read_bytes())
    head |= {"segment": 1, "offset": 0, "inFlight": 20, "fileBytes": 0}
    (stream.dir / "position").write_text(json.dumps(head) + "\n")
    with open(path, "ab") as file:
        file.write(b'{"log":"half' + bytes(50))
    stream.lines("last")
    stream.end()
    shipper.start()
    shipper.wait_gone(stream)
    logs = [json.loads(line)["log"] for line in path.read_bytes().splitlines()]
    assert logs[:220] == [line + "\n" for line in numbered(220)]
    assert logs[-1] == "last\n"


def test_delivered_segments_are_deleted_while_the_container_runs(shipper):
    stream = shipper.stream("app", segment_bytes=20000)
    shipper.start()
    lines = numbered(5000)
    for i in range(0, 5000, 100):
        stream.lines(*lines[i : i + 100])
    shipper.wait_messages("app", lines)
    wait_for(lambda: len(stream.segments()) == 1, 10, lambda: str(stream.segments()))


def test_it_ends_when_the_spool_is_empty(shipper):
    shipper.arguments = ["--exit-when-idle"]
    stream = shipper.stream("app")
    stream.lines("one")
    stream.end()
    shipper.start()
    shipper.wait_gone(stream)
    assert shipper.process.wait(timeout=60) == 0
    shipper.process = None
    assert shipper.messages("app") == ["one"]


def test_an_idle_process_uses_no_cpu(shipper):
    stream = shipper.stream("app")
    shipper.start()
    stream.lines("one")
    shipper.wait_messages("app", ["one"])
    wait_for(lambda: stream.position()["inFlight"] == 0, 10, shipper.log)

    def switches():
        status = pathlib.Path(f"/proc/{shipper.process.pid}/status").read_text()
        return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.M)[1])

    def is_quiet():
        before = switches()
        time.sleep(3)  # what is tested is that nothing happens in this time
        return switches() == before

    wait_for(is_quiet, 30, shipper.log)


class RealWriter:
    """Lines through lib/spool_writer, which ecs-task uses; reads its input as a container's pipe."""

    def __init__(self, shipper, name, max_bytes, mode):
        self.name = name
        self.dir = shipper.spool / "real" / name
        document = {
            "taskId": "real", "containerName": name, "containerId": "c" * 64, "driver": "awslogs",
            "credentialsId": "instance", "maxBytes": max_bytes, "mode": mode,
            "options": {
                "awslogs-group": "g", "awslogs-create-group": "true", "awslogs-stream": name,
                "awslogs-force-flush-interval-seconds": "1",
            },
        }  # fmt: skip
        self.process = subprocess.Popen(
            [program("tests/integration/spool_tool"), str(shipper.spool), "real", name,
             json.dumps(document), str(max_bytes), mode],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def write(self, lines):
        for line in lines:
            self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self):
        """Returns the records and bytes that the writer has dropped."""
        self.process.stdin.close()
        assert self.process.wait(timeout=60) == 0
        records, size = self.process.stdout.read().split()
        self.process.stdout.close()
        return int(records), int(size)

    def is_gone(self):
        return not self.dir.exists()


def test_a_blocked_container_goes_on_when_the_sink_comes_back(shipper):
    """Four times the bound is written while the sink is down: the writer waits, nothing is lost."""
    shipper.start()
    shipper.standin.fault("logs", "drop")
    writer = RealWriter(shipper, "app", 1 << 20, "blocking")
    lines = numbered(90000)
    assert sum(map(len, lines)) > 4 << 20
    (thread,) = in_background(lambda: writer.write(lines))
    wait_for(lambda: sum(f.stat().st_size for f in writer.dir.glob("*.seg")) > 900000, 30, "no room used")
    wait_for(lambda: "not delivered (2 tries" in shipper.log(), 30, shipper.log)
    assert thread.is_alive()
    shipper.standin.clear_faults()
    thread.join(timeout=60)
    assert writer.end() == (0, 0)
    wait_for(writer.is_gone, 60, shipper.log)
    assert shipper.messages("app") == lines


def test_what_a_full_buffer_drops_is_told_where_it_is_missing(shipper):
    shipper.start()
    shipper.standin.fault("logs", "drop")
    writer = RealWriter(shipper, "app", 1 << 20, "non-blocking")
    lines = numbered(40000)
    writer.write(lines)
    wait_for(lambda: "not delivered (2 tries" in shipper.log(), 30, shipper.log)
    shipper.standin.clear_faults()
    records, size = writer.end()
    assert records > 0
    wait_for(writer.is_gone, 60, shipper.log)
    messages = shipper.messages("app")
    gaps = [re.fullmatch(r"\[(\d+) records \((\d+) bytes\) of output were dropped here.*", m) for m in messages]
    gaps = [gap for gap in gaps if gap]
    assert sum(int(gap[1]) for gap in gaps) == records
    assert sum(int(gap[2]) for gap in gaps) == size
    written = set(lines)
    whole = sum(len(m) + 1 for m in messages if m in written)
    assert whole <= sum(len(line) + 1 for line in lines) - size
    assert whole + size > sum(len(line) + 1 for line in lines) - 200 * (len(gaps) + 1)


def test_a_sink_that_hangs_is_given_up_and_tried_again(shipper):
    stream = shipper.stream("app")
    shipper.start()
    shipper.standin.fault("logs", "hang")
    lines = numbered(20000)
    stream.lines(*lines)
    stream.end()
    wait_for(lambda: "not delivered" in shipper.log(), 60, shipper.log)
    shipper.standin.clear_faults()
    shipper.wait_gone(stream)
    assert shipper.messages("app") == lines


def test_a_hanging_sink_does_not_delay_an_orderly_stop_for_long(shipper):
    stream = shipper.stream("app")
    shipper.start()
    shipper.standin.fault("logs", "hang", "PutLogEvents")
    stream.lines("one")
    wait_for(lambda: (stream.dir / "position").exists() and stream.position()["inFlight"] == 1, 10, shipper.log)
    shipper.stop()
    shipper.standin.clear_faults()
    stream.end()
    shipper.start()
    shipper.wait_gone(stream)
    assert shipper.messages("app") == ["one"]


def test_it_runs_without_privileges_and_confined(shipper):
    shipper.stream("app").lines("one")
    shipper.start()
    shipper.wait_messages("app", ["one"])
    status = pathlib.Path(f"/proc/{shipper.process.pid}/status").read_text()
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    user = pwd.getpwnam("ecs-logs")
    assert set(facts["Uid"].split()) == {str(user.pw_uid)}
    assert set(facts["Gid"].split()) == {str(user.pw_gid)}
    assert facts["Groups"].split() == []
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(facts[name], 16) == 0, name
    assert facts["NoNewPrivs"] == "1"
    assert facts["Seccomp"] == "2"
    assert os.stat(f"/proc/{shipper.process.pid}/environ").st_uid == 0  # not dumpable


def test_bad_arguments_are_refused_by_name(shipper):
    for arguments, words in (
        (["--frobnicate"], "--frobnicate"), (["now"], "now"), (["--state-dir"], "--state-dir"),
    ):  # fmt: skip
        result = subprocess.run([program("ecs-logs"), *arguments], capture_output=True, text=True)
        assert result.returncode == 2
        assert words in result.stderr
    result = subprocess.run(
        users.as_user("ecs-logs", [program("ecs-logs"), "--state-dir", "/nonexistent"]),
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 1
    assert "/nonexistent/spool" in result.stderr


def test_a_log_configuration_that_cannot_be_followed_leaves_the_spool_alone(shipper):
    stream = shipper.stream("app", options={"awslogs-group": "g", "awslogs-multiline-pattern": "^x"})
    stream.lines("one")
    stream.end()
    shipper.start()
    wait_for(lambda: "awslogs-multiline-pattern is not supported" in shipper.log(), 10, shipper.log)
    good = shipper.stream("good")
    good.lines("two")
    good.end()
    shipper.wait_gone(good)
    assert stream.segments() == ["00000001.seg"]


# A user namespace of its own, with all ids (which a process outside must map), has limits of its own.
IN_NAMESPACE_WITH_TWO_WATCHES = """
import ctypes, os, sys
entered, enter = os.pipe()
pid = os.getpid()
mapper = os.fork()
if mapper == 0:
    os.read(entered, 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{pid}/{name}", "w") as file:
            file.write("0 0 65536")
    os._exit(0)
assert ctypes.CDLL(None).unshare(0x10000000) == 0
os.write(enter, b"x")
assert os.waitpid(mapper, 0)[1] == 0
with open("/proc/sys/user/max_inotify_watches", "w") as file:
    file.write("2")
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_without_inotify_watches_it_still_finds_everything(shipper):
    """The user's watches are used up (here: allowed are two): the rest is looked at now and then."""
    shipper.wrapper = [sys.executable, "-c", IN_NAMESPACE_WITH_TWO_WATCHES]
    torn = shipper.stream("torn", task="torn")
    torn.lines("of a log whose log.json a power loss took")
    (torn.dir / "log.json").unlink()
    shipper.start()
    first = shipper.stream("first", task="one")
    first.lines("a")
    shipper.wait_messages("first", ["a"])
    wait_for(lambda: "No space left on device" in shipper.log(), 10, shipper.log)
    torn.end()  # found at the next look, which takes it from the list it goes through
    first.lines("b")
    second = shipper.stream("second", task="two")
    second.lines("c")
    shipper.wait_messages("first", ["a", "b"])
    shipper.wait_messages("second", ["c"])
    shipper.wait_gone(torn)
    for stream in (first, second):
        stream.end()
        shipper.wait_gone(stream)


def test_a_sink_that_is_down_costs_no_memory(shipper):
    """Two hundred MiB wait for a sink that takes the requests and never answers."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(300)
        line = "x" * 1000 + "\n"
        for i in range(100):
            options = {
                "awslogs-group": "g", "awslogs-stream": f"deaf{i}",
                "awslogs-endpoint": f"http://127.0.0.1:{deaf.getsockname()[1]}",
                "awslogs-create-stream": "false",
            }  # fmt: skip
            stream = shipper.stream(f"deaf{i}", options=options)
            for _ in range(20):
                stream.record(line * 100)
            stream.flush()
        shipper.start()

        def peak():
            status = pathlib.Path(f"/proc/{shipper.process.pid}/status").read_text()
            return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)[1]) * 1024

        wait_for(lambda: peak() > 48 << 20, 30, lambda: f"{peak()} bytes\n{shipper.log()[-2000:]}")
        wait_for(lambda: shipper.log().count("not delivered") >= 40, 60, shipper.log)
        assert peak() < (120 << 20 if "asan" not in shipper.maps() else 400 << 20)


def test_a_directory_that_somebody_removes_is_forgotten(shipper):
    shipper.arguments = ["--exit-when-idle"]
    stream = shipper.stream("app")
    shipper.start()
    stream.lines("one")
    shipper.wait_messages("app", ["one"])
    shutil.rmtree(stream.dir)
    wait_for(lambda: "removed by somebody else" in shipper.log(), 10, shipper.log)
    stream = shipper.stream("app")
    stream.lines("two")
    stream.end()
    shipper.wait_messages("app", ["one", "two"])
    shipper.wait_gone(stream)


def test_a_container_that_begins_after_another_log_is_delivered_is_found(shipper):
    """The task's directory goes with its first log and comes back with the next, while the
    supervisor may hold the old one open."""
    shipper.start()
    first = shipper.stream("init")
    held = os.open(first.dir.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        first.lines("first")
        first.end()
        shipper.wait_messages("init", ["first"])
        wait_for(lambda: not first.dir.parent.exists(), 30, shipper.log)
        second = shipper.stream("app")
        second.lines("second")
        second.end()
        shipper.wait_messages("app", ["second"])
        shipper.wait_gone(second)
    finally:
        os.close(held)
