"""Thousands of short tasks in a row: what they leave behind, and whether memory grows."""

import time

from bench.measure import rss_kib, slope
from controlplane.client import Timeout, wait_for
from harness.node import DAEMONS
from harness.taskdef import container, task
from harness.traces import left, traces

BATCH = 50
WARM = 4  # batches until caches of all kinds are filled
CLEANED_SECONDS = 120


def definition(image):
    return task(container(image, ["/bin/true"], memory=8, cpu=2), family="churn")


def batch(node, image):
    arns = node.standin.run_tasks(definition(image), count=BATCH)
    for arn in arns:
        node.standin.wait_task(arn, "STOPPED", 120)


def settled(node):
    """Traces when nothing of a task is left, the rows of ended tasks included."""
    node.wait_clean(CLEANED_SECONDS)
    wait_for(lambda: traces(node)["rows: tasks"] == 0, CLEANED_SECONDS, lambda: f"left: {traces(node)}")
    time.sleep(5)  # ecs-network, ecs-logs and connections to AWS, each with a few seconds to spare
    return traces(node)


def churn(node, image, count):
    """count tasks that end at once. ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION must be short."""
    for _ in range(WARM):
        batch(node, image)
    before = settled(node)
    memory = {daemon: [] for daemon in DAEMONS}
    began = time.monotonic()
    for done in range(BATCH, count + 1, BATCH):
        batch(node, image)
        for daemon in DAEMONS:
            memory[daemon].append((done / 1000, rss_kib(node.pid(daemon))))
    seconds = time.monotonic() - began
    try:
        after = settled(node)
    except Timeout:
        after = traces(node)
    return {
        "tasks": count,
        "tasks_per_s": count / seconds,
        "left": left(before, after),
        "rss_kib_per_1000": {daemon: slope(points) for daemon, points in memory.items()},
        "rss_kib": {daemon: points[-1][1] for daemon, points in memory.items()},
    }
