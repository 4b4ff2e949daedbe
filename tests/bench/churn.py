"""Thousands of short tasks in a row: what they leave behind, and whether memory grows."""

import time

from bench.measure import private_kib
from controlplane.client import Timeout, wait_for
from harness.node import DAEMONS
from harness.taskdef import container, task
from harness.traces import agent_keeps, left, traces

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


def memory_kib(node):
    """Of a node that has come to rest: what it has while tasks come and go says nothing of growth."""
    found = {f"ecs-{daemon}": private_kib(node.pid(daemon)) for daemon in DAEMONS}
    return found | {"the heap in use of ecs-agent": agent_keeps(node)["heap_kib"]}


def churn(node, image, count):
    """count tasks that end at once. ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION must be short."""
    for _ in range(WARM):
        batch(node, image)
    before, memory_before = settled(node), memory_kib(node)
    began = time.monotonic()
    for _ in range(BATCH, count + 1, BATCH):
        batch(node, image)
    seconds = time.monotonic() - began
    try:
        after = settled(node)
    except Timeout:
        after = traces(node)
    memory_after = memory_kib(node)
    return {
        "tasks": count,
        "tasks_per_s": count / seconds,
        "left": left(before, after),
        "kib_per_1000": {name: (kib - memory_before[name]) * 1000 / count for name, kib in memory_after.items()},
        "kib": memory_after,
    }
