"""What is measured how: times of files that containers write, PSS, CPU time, medians."""

import os
import pathlib
import statistics
import time

TICK = os.sysconf("SC_CLK_TCK")


def wait_stamp(path, timeout=60):
    """Nanoseconds that a container wrote to path when its first instruction ran."""
    path = pathlib.Path(path)
    deadline = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} was not written within {timeout} s")
        time.sleep(0.0005)
    return int(path.read_text())


def pss_kib(pid):
    """Proportional share of memory, as the kernel counts it."""
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0


def cpu_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def summary(values):
    """Median with the spread of the middle half."""
    values = sorted(values)
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {
        "median": statistics.median(values), "q1": quartiles[0], "q3": quartiles[2],
        "min": values[0], "max": values[-1], "n": len(values),
    }  # fmt: skip
