"""The benchmark: each measurement of this agent beside one of a tuned peer, in the same run."""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid

from bench.measure import cpu_seconds, pss_kib, summary, wait_stamp
from bench.peers import Docker, Nginx, Runc
from controlplane.client import wait_for
from harness import images, netns
from harness.node import Node
from harness.registry import Registry
from harness.taskdef import container, task

MANY = 50
IDLE_TASKS = 20
IDLE_SECONDS = 20
WRK = ["wrk", "-t1", "-c32", "-d3s"]

# The most that each ratio may be.
TARGETS = {
    "payload to process / runc run": 1.5,
    "50 tasks / 50 x runc run": 1.0,
    "idle PSS of all daemons, MiB": 16.0,
    "PSS per running task, MiB": 1.0,
    "nginx / credential requests per second": 1.0,
}


def stamp_task(image, out, name, count_memory=64):
    definition = task(
        container(image, ["/stamp", name, "wait"], logs=None, memory=count_memory, cpu=2,
                  mountPoints=[{"sourceVolume": "out", "containerPath": "/out"}]),
        family="bench", volumes=[{"name": "out", "host": {"sourcePath": str(out)}}],
    )  # fmt: skip
    return definition


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


def stop(node, arns):
    for arn in arns:
        node.standin.stop_task(arn)
    for arn in arns:
        node.standin.wait_task(arn, "STOPPED", 120)


def one_start(node, image, out):
    """Seconds from payload to process, and to RUNNING reported."""
    name = "ours-" + uuid.uuid4().hex[:12]
    arn = node.standin.run_task(stamp_task(image, out, name))
    stamp = wait_stamp(out / name)
    found = node.standin.wait_task(arn, "RUNNING")
    (out / name).unlink()
    stop(node, [arn])
    return (stamp - sent_ns(found)) / 1e9, (running_ns(found) - sent_ns(found)) / 1e9


def many_starts(node, image, out):
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


def idle_memory(node):
    """MiB of PSS of all daemons."""
    return sum(pss_kib(process.pid) for process in node.processes.values()) / 1024


def per_task(node, image, out):
    """MiB of PSS and milliseconds of CPU time per second for each of many idle tasks."""
    before = stamps_in(out)
    arns = node.standin.run_tasks(stamp_task(image, out, "-", 8), count=IDLE_TASKS)
    for arn in arns:
        node.standin.wait_task(arn, "RUNNING", 120)
    supervisors = [node.supervisor_pid(arn) for arn in arns]
    daemons = [process.pid for process in node.processes.values()]
    start = sum(map(cpu_seconds, supervisors + daemons)), time.monotonic()
    time.sleep(IDLE_SECONDS)
    used = sum(map(cpu_seconds, supervisors + daemons)) - start[0]
    seconds = time.monotonic() - start[1]
    memory = sum(map(pss_kib, supervisors)) / len(supervisors) / 1024
    stop(node, arns)
    for path in stamps_in(out) - before:
        path.unlink()
    return memory, used / seconds / len(arns) * 1000


def requests_per_second(command):
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in text:
        raise RuntimeError(f"{command}: {text}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))


def credentials(node, image, work, out, rounds):
    """Requests per second from inside a container: ours, and nginx with the same bytes."""
    name = "creds-" + uuid.uuid4().hex[:12]
    arn = node.standin.run_task(stamp_task(image, out, name))
    wait_stamp(out / name)
    node.standin.wait_task(arn, "RUNNING")
    pid = max(node.task_processes(arn) - {node.supervisor_pid(arn)})
    environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    uri = dict(v.split(b"=", 1) for v in environment if v)[b"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]
    enter = ["nsenter", f"--net=/proc/{pid}/ns/net"]
    url = "http://169.254.170.2" + uri.decode()
    body = subprocess.run([*enter, "curl", "-s", url], check=True, capture_output=True, text=True).stdout
    nginx = Nginx(work, body)
    try:
        wait_for(lambda: _answers(nginx.url), 20, "nginx does not answer")
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(requests_per_second([*enter, *WRK, url]))
            theirs.append(requests_per_second([*WRK, nginx.url]))
    finally:
        nginx.stop()
    stop(node, [arn])
    return ours, theirs


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return response.status == 200
    except OSError:
        return False


def run(arguments, work):
    out = work / "out"
    out.mkdir()
    rootfs = work / "rootfs"
    stamp = arguments.stamp.read_bytes()
    files = {"stamp": (stamp, 0o755)}
    rootfs.mkdir()
    subprocess.run(["tar", "-x", "-C", str(rootfs)], input=images.busybox_layer(files), check=True)
    results = {}
    with Registry(work / "registry") as registry:
        image = f"{registry.host}/bench:1"
        images.push_busybox(work, image, files)
        runc = Runc(work, rootfs, out)
        docker = None if arguments.no_docker else Docker(work, rootfs, out)
        try:
            with Node({"ECS_LOGLEVEL": "info", "ECS_IMAGE_PULL_BEHAVIOR": "prefer-cached"}) as node:
                measure(node, image, out, work, runc, docker, arguments.rounds, results)
        finally:
            if docker:
                docker.stop()
    return results


def measure(node, image, out, work, runc, docker, rounds, results):
    results["idle_pss_mib"] = idle_memory(node)
    one_start(node, image, out)  # the image is pulled, caches are warm on all sides
    runc.start_to_process()
    process, reported, runc_times, docker_times = [], [], [], []
    for _ in range(rounds):
        a, b = one_start(node, image, out)
        process.append(a)
        reported.append(b)
        runc_times.append(runc.start_to_process())
        if docker:
            docker_times.append(docker.start_to_process())
    results["payload_to_process_s"] = summary(process)
    results["payload_to_running_s"] = summary(reported)
    results["runc_run_s"] = summary(runc_times)
    if docker:
        results["docker_run_s"] = summary(docker_times)
    results["fifty_tasks_s"] = summary([many_starts(node, image, out) for _ in range(3)])
    results["task_pss_mib"], results["task_cpu_ms_per_s"] = per_task(node, image, out)
    node.wait_clean(120)
    ours, theirs = credentials(node, image, work, out, 3)
    results["credentials_per_s"] = summary(ours)
    results["nginx_per_s"] = summary(theirs)


def ratios(results):
    runc = results["runc_run_s"]["median"]
    return {
        "payload to process / runc run": results["payload_to_process_s"]["median"] / runc,
        "50 tasks / 50 x runc run": results["fifty_tasks_s"]["median"] / (MANY * runc),
        "idle PSS of all daemons, MiB": results["idle_pss_mib"],
        "PSS per running task, MiB": results["task_pss_mib"],
        "nginx / credential requests per second": results["nginx_per_s"]["median"]
        / results["credentials_per_s"]["median"],
    }


def table(results):
    for name, value in results.items():
        if isinstance(value, dict) and "median" in value:
            print(f"  {name:<24} {value['median']:12.4f}  ({value['q1']:.4f} to {value['q3']:.4f}, n={value['n']})")
        elif not isinstance(value, dict):
            print(f"  {name:<24} {value:12.4f}")
    print()
    for name, value in results["ratios"].items():
        target = TARGETS[name]
        print(f"  {name:<40} {value:8.3f}  target at most {target:g}  {'met' if value <= target else 'MISSED'}")


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/run")
    parser.add_argument("json", nargs="?", type=pathlib.Path, default=pathlib.Path("bench.json"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-docker", action="store_true")
    parser.add_argument("--stamp", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    netns.enter_new()
    with tempfile.TemporaryDirectory(prefix="ecs-bench-", dir="/var/tmp") as work:
        os.chmod(work, 0o755)
        results = run(arguments, pathlib.Path(work))
    results["ratios"] = ratios(results)
    table(results)
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
