"""What is measured how: times of files that containers write, memory, CPU time, medians."""

import os
import pathlib
import re
import signal
import statistics
import time

from controlplane.client import wait_for


def wait_stamp(path, timeout=60):
    """Nanoseconds that a container wrote to path when its first instruction ran."""
    path = pathlib.Path(path)
    deadline = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} was not written within {timeout} s")
        time.sleep(0.0005)
    return int(path.read_text())


def _rollup_kib(pid, *names):
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(re.search(rf"^{name}: +(\d+) kB$", text, re.M).group(1)) for name in names)


def pss_kib(pid):
    """Proportional share of memory, as the kernel counts it."""
    return _rollup_kib(pid, "Pss")


def private_kib(pid):
    """Memory that nobody else has, and that would be free without this process."""
    return _rollup_kib(pid, "Private_Clean", "Private_Dirty")


def cpu_seconds(pid):
    """CPU time of all its threads, to the nanosecond."""
    times = pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in times) / 1e9


def summary(values):
    """Median with the spread of the middle half."""
    values = sorted(values)
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {
        "median": statistics.median(values), "q1": quartiles[0], "q3": quartiles[2],
        "min": values[0], "max": values[-1], "n": len(values),
    }  # fmt: skip


# ecs-agent(8), SIGUSR1.
FIGURES = re.compile(
    r"(?P<tasks>\d+) tasks; (?P<turns>\d+) turns of the loop, the longest of (?P<longest_us>\d+) us,"
    r" the busiest of (?P<busiest_us>\d+) us of CPU time; slowest commit of state: (?P<commit_us>\d+) us"
)


def agent_figures(node):
    """What ecs-agent says of itself since its start."""
    log = node.log_path("agent")
    before = log.stat().st_size

    def said():
        with open(log) as file:
            file.seek(before)
            return FIGURES.search(file.read())

    os.kill(node.pid("agent"), signal.SIGUSR1)
    found = wait_for(said, 20, "ecs-agent does not answer SIGUSR1")
    return {name: int(value) for name, value in found.groupdict().items()}
