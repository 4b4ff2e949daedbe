"""What tasks cost that do nothing: memory of their supervisors, CPU time, and five hundred of them."""

import pathlib
import subprocess
import time

from bench.measure import agent_figures, cpu_seconds, private_kib, pss_kib
from bench.starts import running_ns, sent_ns, stamp_task, stamps_in, stop
from harness.node import programs_dir

TASKS = 20
MANY = 500
PER_PAYLOAD = 50
SECONDS = 15
CHECK = {"command": ["CMD", "/bin/true"], "interval": 5, "timeout": 5, "retries": 3}
CHECKED_SECONDS = 12  # two checks


def daemons_mib(node):
    """PSS of all daemons."""
    return sum(pss_kib(process.pid) for process in node.processes.values()) / 1024


def supervisors(arns):
    """Pids of the tasks' ecs-task; Node.supervisor_pid() looks through /proc for each."""
    wanted = {arn.rsplit("/", 1)[1] for arn in arns}
    pids = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        if words[0].endswith("ecs-task") and wanted.intersection(words):
            pids.append(int(path.parent.name))
    assert len(pids) == len(arns), f"{len(pids)} supervisors of {len(arns)} tasks"
    return pids


def private_per_task(pids):
    return sum(map(private_kib, pids)) / len(pids)


def run(node, image, out, count, **more):
    arns = []
    for _ in range(0, count, PER_PAYLOAD):
        arns += node.standin.run_tasks(
            stamp_task(image, out, "-", 8, **more), count=min(count, PER_PAYLOAD)
        )
    for arn in arns:
        node.standin.wait_task(arn, "RUNNING", 300)
    return arns


def forget_stamps(out):
    for path in stamps_in(out):
        path.unlink()


def execute(node, arn):
    subprocess.run(
        [programs_dir() / "ecs-agent", "--runtime-dir", node.run, "exec", arn, "app", "--", "/bin/true"],
        check=True, stdin=subprocess.DEVNULL, capture_output=True,
    )  # fmt: skip


def memory(node, image, out):
    """KiB of private memory per task: idle, after an exec, and with a health check."""
    arns = run(node, image, out, TASKS)
    pids = supervisors(arns)
    found = {"idle": private_per_task(pids), "pss": sum(map(pss_kib, pids)) / len(pids)}
    for arn in arns:
        execute(node, arn)
    found["exec"] = private_per_task(pids)
    stop(node, arns)

    arns = run(node, image, out, TASKS, healthCheck=CHECK)
    time.sleep(CHECKED_SECONDS)
    found["health"] = private_per_task(supervisors(arns))
    stop(node, arns)
    forget_stamps(out)
    node.wait_clean(120)
    return found


def hundreds(node, image, out):
    """MANY tasks start, idle, and stop; the node was started for them."""
    arns = run(node, image, out, MANY)
    tasks = [node.standin.task(arn) for arn in arns]
    found = {"running_s": (max(map(running_ns, tasks)) - min(map(sent_ns, tasks))) / 1e9}
    started = agent_figures(node)

    pids = supervisors(arns) + [process.pid for process in node.processes.values()]
    time.sleep(2)
    used, since = sum(map(cpu_seconds, pids)), time.monotonic()
    time.sleep(SECONDS)
    used = sum(map(cpu_seconds, pids)) - used
    found["cpu_us_per_s"] = used / (time.monotonic() - since) / MANY * 1e6
    found["daemons_mib"] = daemons_mib(node)
    found["private_kib"] = private_per_task(pids[:MANY])

    began = time.monotonic()
    stop(node, arns, 300)
    found["stopped_s"] = time.monotonic() - began
    node.wait_clean(300)
    found["clean_s"] = time.monotonic() - began
    ended = agent_figures(node)
    forget_stamps(out)
    found["starting_turn_ms"] = started["longest_us"] / 1000
    found["turn_ms"] = ended["longest_us"] / 1000
    found["turn_cpu_ms"] = ended["busiest_us"] / 1000
    found["commit_ms"] = ended["commit_us"] / 1000
    return found
