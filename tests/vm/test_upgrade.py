"""Upgrades, downgrades, restarts and kills of every daemon below running tasks: no task restarts, no exit
code and no log line is lost, and credentials do not fail.

ECS_UPGRADE_ROUNDS says how often all of it is done (default 1). Numbers are shown at the end.
"""

import json
import os
import pathlib
import random
import re
import subprocess
import time
from collections import Counter
from dataclasses import dataclass

import pytest
from controlplane.client import wait_for
from harness import images
from harness.taskdef import container, task

ROUNDS = int(os.environ.get("ECS_UPGRADE_ROUNDS", "1"))
TASKS = 20
ASK_EVERY_MS = 400  # of each task, so that there is one every 20 ms
WINDOW_USEC = 100_000
NEWER = "9.9.9-1"
TOP = pathlib.Path(__file__).resolve().parents[2]

# Every process of every task with the time at which it was started. Tasks may end meanwhile.
PROCESSES = """
find /sys/fs/cgroup -path '*ecstasks-*' -name cgroup.procs | while read -r file; do
    task=${file#*ecstasks-}; task=${task%%/*}
    while read -r pid; do
        read -r line <"/proc/$pid/stat" || continue
        rest=${line##*) }; set -- $rest; name=${line#*(}
        echo "$task ${name%)*} $pid ${20}"
    done <"$file"
done
true
"""


@dataclass(frozen=True)
class Operation:
    name: str
    command: str
    seconds: float  # for how long daemons go and come; something ends at a random moment of it


# dpkg takes long before it comes to the daemons.
DPKG_RESTARTS = """
main_pid() { systemctl show --property=MainPID --value ecs-metadata; }
before=$(main_pid)
begun() { while [ "$(main_pid)" = "$before" ]; do sleep 0.3; done; }
"""


def kill(*units):
    return f"systemctl kill --kill-whom=main --signal=KILL {' '.join(units)}"


OPERATIONS = [
    Operation("upgrade", f"dpkg --install /root/ecs-agent_{NEWER}.deb", 8),
    Operation("restart ecs-metadata", "systemctl restart ecs-metadata", 1.5),
    Operation("restart ecs-logs", "systemctl restart ecs-logs", 1.5),
    Operation("restart ecs-launcher", "systemctl restart ecs-launcher", 1.5),
    Operation("restart ecs", "systemctl restart ecs", 3),
    Operation("restart ecs-metadata and ecs", "systemctl restart ecs-metadata; systemctl restart ecs", 4),
    Operation("kill ecs-metadata", kill("ecs-metadata"), 1.5),
    Operation("kill ecs-logs", kill("ecs-logs"), 1.5),
    Operation("kill ecs-launcher", kill("ecs-launcher"), 1.5),
    Operation("kill ecs", kill("ecs"), 3),
    Operation("kill ecs-metadata, ecs and ecs-logs", kill("ecs-metadata", "ecs", "ecs-logs"), 4),
    Operation("downgrade", "dpkg --install /root/ecs-agent_old.deb", 8),
]
# Once, since nothing starts it again while tasks are running below it.
LAST = Operation("kill ecs-keeper", kill("ecs-tasks"), 1)
KILLS_OF_LOGS = sum("KILL" in o.command and "ecs-logs" in o.command for o in OPERATIONS)


@pytest.fixture(scope="module")
def newer(packages, tmp_path_factory):
    """The package under test, and the same files as a higher version."""
    (old,) = [p for p in packages if p.name.startswith("ecs-agent_")]
    output = tmp_path_factory.mktemp("newer")
    subprocess.run(
        [TOP / "packaging/build-deb", "--from", old, "--version", NEWER, "--output", output],
        check=True, capture_output=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    (new,) = output.glob("*.deb")
    return old, new


@pytest.fixture(scope="module")
def probe(registry, tmp_path_factory):
    """Reference of an image with the program probe."""
    work = tmp_path_factory.mktemp("probe")
    subprocess.run(
        ["cc", "-std=gnu17", "-O2", "-static", "-o", work / "probe", TOP / "tests/vm/probe.c"], check=True
    )
    reference = f"{registry.host}/probe:1"
    images.push_busybox(work, reference, {"probe": ((work / "probe").read_bytes(), 0o755)})
    return reference


def probe_task(probe, *arguments, logs):
    definition = container(probe, ["/probe", *map(str, arguments)], logs=logs, memory=16)
    # TLS is dear in an emulated machine.
    definition["logConfiguration"]["options"]["awslogs-force-flush-interval-seconds"] = "5"
    return task(definition, family=logs)


def task_id(arn):
    return arn.rsplit("/", 1)[1]


def processes(host):
    """{task id: {(name, pid, start time), ...}}, supervisors included."""
    found = {}
    for line in host.output(PROCESSES).splitlines():
        owner, name, pid, started = line.split()
        found.setdefault(owner, set()).add((name, int(pid), int(started)))
    return found


def process_of(found, arn):
    (pid,) = [pid for name, pid, _ in found[task_id(arn)] if name == "probe"]
    return pid


def settle(host, operation):
    """All daemons run again and the agent has its session."""
    for unit in ("ecs-metadata", "ecs-tasks", "ecs-launcher", "ecs"):
        try:
            host.wait_unit(unit, timeout=90)
        except AssertionError as error:
            raise AssertionError(f"after {operation.name}: {error}") from None
    host.wait_connected(90)


def do(host, operation, mortal_pid):
    """The operation, and somewhere in the middle of it the end of a task; returns how long it took."""
    began = time.monotonic()
    delay = random.uniform(0, operation.seconds)
    done = host.run(
        f"{DPKG_RESTARTS if 'dpkg' in operation.command else 'begun() { true; }'}\n"
        f"( begun; sleep {delay:.3f}; kill -USR1 {mortal_pid} ) & {operation.command} >/tmp/operation 2>&1; code=$?; "
        "wait; cat /tmp/operation; exit $code", timeout=300,
    )  # fmt: skip
    assert "could not be restarted" not in done.stdout, done.stdout
    return time.monotonic() - began


def rows(host, group, stream):
    return {int(n): rest for n, _, rest in (line.partition(" ") for line in host.logs(group, stream))}


def streams(host, group, arns):
    """{arn: lines} with every line of each, as soon as the last has arrived."""

    def all_ended():
        by_arn = {arn: host.logs(group, f"t/app/{task_id(arn)}") for arn in arns}
        return by_arn if all(any(is_last(line) for line in lines) for lines in by_arn.values()) else None

    return wait_for(all_ended, 180, lambda: "lines are missing at the end: " + repr(
        {arn: host.logs(group, f"t/app/{task_id(arn)}")[-3:] for arn in arns}))  # fmt: skip


def is_last(line):
    number, _, text = line.partition(" ")
    return text.startswith("END ") or (text == "last words" and int(number) == 6)


def check_lines(arn, lines, repeats):
    """Nothing is missing; a line may be repeated as often as ecs-logs was killed."""
    counts = Counter(int(line.split()[0]) for line in lines)
    numbers = sorted(counts)
    missing = set(range(1, numbers[-1] + 1)) - set(numbers)
    assert not missing, f"{arn}: {len(missing)} of {numbers[-1]} lines are lost: {sorted(missing)[:10]}"
    assert max(counts.values()) <= 1 + repeats, f"{arn}: a line is there {max(counts.values())} times"
    return len(numbers), sum(counts.values()) - len(numbers)


def test_nothing_is_lost_over_upgrades_restarts_and_kills(guest, newer, probe, tell):
    old, new = newer
    # A hundred audit lines in a second are more than a journal in an emulated machine should get.
    guest.configure({"ECS_AUDIT_LOGFILE": "/var/log/ecs/audit.log"})
    guest.restart()
    guest.wait_connected()
    guest.put(old, "/root/ecs-agent_old.deb")
    guest.put(new, f"/root/ecs-agent_{NEWER}.deb")
    arns = guest.standin.run_tasks(
        probe_task(probe, "ask", ASK_EVERY_MS, logs="ask"), count=TASKS)  # fmt: skip
    for arn in arns:
        guest.wait_task(arn, "RUNNING", 180)
    before = {task_id(arn): processes(guest)[task_id(arn)] for arn in arns}
    took, exits, all_mortals = Counter(), {}, []

    for round_ in range(ROUNDS):
        operations = OPERATIONS + [LAST] * (round_ == ROUNDS - 1)
        mortals = guest.standin.run_tasks(probe_task(probe, "mortal", 40 + round_ % 60, logs="mortal"),
                                          count=len(operations))  # fmt: skip
        for arn in mortals:
            guest.wait_task(arn, "RUNNING", 180)
        pids = processes(guest)
        all_mortals += mortals
        for operation, mortal in zip(operations, mortals):
            took[operation.name] += do(guest, operation, process_of(pids, mortal))
            settle(guest, operation)
            stopped = guest.wait_task(mortal, "STOPPED", 120)
            exits[mortal] = stopped["containers"][0].get("exitCode")
            assert exits[mortal] == 40 + round_ % 60, f"{operation.name}: {stopped}"
            now = processes(guest)
            assert {key: now.get(key) for key in before} == before, f"{operation.name}: tasks were restarted"
        version = guest.output("dpkg-query -W -f '${Version}' ecs-agent")
        assert version != NEWER

    for arn in arns:
        assert guest.standin.task(arn)["lastStatus"] == "RUNNING"
        guest.standin.stop_task(arn)
    for arn in arns:
        stopped = guest.wait_task(arn, "STOPPED", 180)
        assert stopped["containers"][0]["exitCode"] == 0, stopped

    n_lines = n_repeated = 0
    asked = streams(guest, "ask", arns)
    for group in (asked, streams(guest, "mortal", all_mortals)):
        for arn, lines in group.items():
            n, repeated = check_lines(arn, lines, KILLS_OF_LOGS * ROUNDS)
            n_lines, n_repeated = n_lines + n, n_repeated + repeated
    ends = [numbers_of(line) for lines in asked.values() for line in lines if " END " in line]
    failures = sorted({line for lines in asked.values() for line in lines if " FAIL " in line})
    total = {name: sum(end[name] for end in ends) for name in ("ok", "failed")}
    window = max(end["window_us"] for end in ends)
    slowest = max(end["slowest_us"] for end in ends)
    outage = longest_outage(failures)

    tell(f"{ROUNDS} rounds of {len(OPERATIONS)} operations under {TASKS} tasks: "
         f"{len(exits)} exit codes; {n_lines} log lines, {n_repeated} of them repeated; "
         f"{total['ok']} requests for credentials, {total['failed']} failed, "
         f"for {window / 1000:.1f} ms in one task and {outage} ms in all, "
         f"slowest request {slowest / 1000:.0f} ms")  # fmt: skip
    tell("seconds: " + ", ".join(f"{name} {n / ROUNDS:.1f}" for name, n in took.items()))
    tell("\n".join(failures))
    assert len(exits) == ROUNDS * len(OPERATIONS) + 1
    assert min(end["ok"] for end in ends) > 10 * ROUNDS
    # Only a request that the killed process was working on may fail: never the next one too, and none that another
    # task begins meanwhile.
    for failure in failures:
        assert re.search(r" FAIL \((no answer|cut off|Connection reset by peer)\) ", failure), failure
    assert window <= WINDOW_USEC and outage * 1000 <= WINDOW_USEC, failures


def longest_outage(failures):
    """Milliseconds, of all tasks together: of failures within a second of each other, from the end of the first to the
    last beginning of one. 0: all had begun before anything failed, so a single moment has broken them."""
    longest, group = 0, []
    for end, begin in sorted((f["at_ms"], f["at_ms"] - f["after_us"] // 1000) for f in map(numbers_of, failures)):
        if group and end - group[-1][0] > 1000:
            group = []
        group.append((end, begin))
        longest = max(longest, max(begin for _, begin in group) - group[0][0])
    return longest


def numbers_of(line):
    return {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", line)}


def test_nothing_of_the_tasks_is_left(guest):
    guest.wait_clean(120)
    held = guest.unit("ecs-metadata", "NFileDescriptorStore", "NRestarts", "ActiveState")
    assert int(held["NFileDescriptorStore"]) <= 4, "memory, audit log, and the host's endpoint"


def test_more_sockets_than_a_process_may_usually_have_come_back(guest, tell):
    """systemd passes them on below the unit's LimitNOFILE= and names them in one string."""
    n = int(os.environ.get("ECS_UPGRADE_SOCKETS", "1100"))
    guest.run("systemctl stop ecs")
    guest.put(TOP / "tests/vm/many_sockets.py", "/root/many_sockets.py")
    result = json.loads(guest.output(f"python3 /root/many_sockets.py {n}", timeout=600))
    guest.run("systemctl start ecs")
    tell(f"{n} sockets: restart of ecs-metadata in {result['seconds']} s")
    assert result == {"stored": n, "served": n, "left": 0, "answer": "HTTP/1.1 400 Bad Request",
                      "seconds": result["seconds"]}  # fmt: skip
    guest.wait_connected()
