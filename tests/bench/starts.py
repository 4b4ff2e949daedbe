"""How long starts take: one after the other, and fifty in one payload."""

import uuid

from bench.measure import wait_stamp
from controlplane.client import wait_for
from harness.taskdef import container, task

MANY = 50


def stamp_task(image, out, name, memory=64, **more):
    return task(
        container(image, ["/stamp", name, "wait"], logs=None, memory=memory, cpu=2,
                  mountPoints=[{"sourceVolume": "out", "containerPath": "/out"}], **more),
        family="bench", volumes=[{"name": "out", "host": {"sourcePath": str(out)}}],
    )  # fmt: skip


def stamps_in(out):
    return {path for path in out.iterdir() if not path.name.startswith(".")}


def sent_ns(found):
    """When the payload left the control plane."""
    return found["timeline"][0]["ms"] * 1_000_000


def running_ns(found):
    for event in found["timeline"]:
        if event["event"] == "state-change" and event.get("status") == "RUNNING":
            return event["ms"] * 1_000_000
    raise AssertionError(f"no RUNNING in {found['timeline']}")


def stop(node, arns, timeout=120):
    for arn in arns:
        node.standin.stop_task(arn)
    for arn in arns:
        node.standin.wait_task(arn, "STOPPED", timeout)


def one(node, image, out):
    """Seconds from payload to process, and to RUNNING reported."""
    name = "ours-" + uuid.uuid4().hex[:12]
    arn = node.standin.run_task(stamp_task(image, out, name))
    stamp = wait_stamp(out / name)
    found = node.standin.wait_task(arn, "RUNNING")
    (out / name).unlink()
    stop(node, [arn])
    return (stamp - sent_ns(found)) / 1e9, (running_ns(found) - sent_ns(found)) / 1e9


def many(node, image, out):
    """Seconds from one payload of MANY tasks to the last process."""
    before = stamps_in(out)
    arns = node.standin.run_tasks(stamp_task(image, out, "-", 8), count=MANY)
    stamps = wait_for(
        lambda: len(stamps_in(out) - before) >= MANY and stamps_in(out) - before, 120,
        lambda: f"{len(stamps_in(out) - before)} of {MANY} tasks run",
    )  # fmt: skip
    last = max(wait_stamp(path) for path in stamps)
    sent = sent_ns(node.standin.task(arns[0]))
    stop(node, arns)
    for path in stamps:
        path.unlink()
    node.wait_clean(120)
    return (last - sent) / 1e9
