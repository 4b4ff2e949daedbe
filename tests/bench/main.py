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

from bench import churn, idle, starts
from bench.driver import Driver
from bench.measure import summary, wait_stamp
from bench.peers import Docker, Nginx, Oci
from controlplane.client import wait_for
from harness import images, netns
from harness.node import Node
from harness.registry import Registry

FIFTIES = 3
WRK = ["wrk", "-t1", "-c32", "-d3s"]
SETTINGS = {
    "ECS_LOGLEVEL": "info",
    "ECS_IMAGE_PULL_BEHAVIOR": "prefer-cached",
    "ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION": "1s",
}


def say(text):
    print(f"bench: {time.strftime('%T')} {text}", file=sys.stderr, flush=True)


def requests_per_second(command):
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in text:
        raise RuntimeError(f"{command}: {text}")
    return float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1))


def credentials(node, image, work, out, rounds):
    """Requests per second from inside a container: ours, and nginx with the same bytes."""
    name = "creds-" + uuid.uuid4().hex[:12]
    arn = node.standin.run_task(starts.stamp_task(image, out, name))
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
    starts.stop(node, [arn])
    (out / name).unlink()
    return ours, theirs


def _answers(url):
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return response.status == 200
    except OSError:
        return False


class Bench:
    """What the measurements share: a registry with an image, folders, results."""

    def __init__(self, arguments, work, registry):
        self.arguments = arguments
        self.work = work
        self.out = work / "out"
        self.out.mkdir()
        self.files = {"stamp": (arguments.stamp.read_bytes(), 0o755)}
        self.rootfs = work / "rootfs"
        self.rootfs.mkdir()
        subprocess.run(
            ["tar", "-x", "-C", self.rootfs], input=images.busybox_layer(self.files), check=True
        )
        self.image = f"{registry.host}/bench:1"
        images.push_busybox(work, self.image, self.files)
        self.results = {}

    def starts(self):
        docker = None if self.arguments.no_docker else Docker(self.work, self.rootfs, self.out)
        try:
            runc = Oci("runc", self.work, self.rootfs, self.out, docker and docker.config())
            with Driver(self.work, self.out, self.files) as driver, Node(SETTINGS) as node:
                self.results["idle_pss_mib"] = idle.daemons_mib(node)
                self.one_by_one(node, driver, runc, docker)
                self.fifties(node, runc)
                say("memory per task")
                self.results["memory_kib"] = idle.memory(node, self.image, self.out)
                say("credentials")
                ours, theirs = credentials(node, self.image, self.work, self.out, 3)
                self.results["credentials_per_s"] = summary(ours)
                self.results["nginx_per_s"] = summary(theirs)
        finally:
            if docker:
                docker.stop()

    def one_by_one(self, node, driver, runc, docker):
        say(f"{self.arguments.rounds} starts of each kind")
        measured = {
            "start_s": driver.start,
            "runc_run_s": runc.start_to_process,
            "payload": lambda: starts.one(node, self.image, self.out),
        }
        if docker:
            measured["docker_run_s"] = docker.start_to_process
        for measure in measured.values():
            measure()  # the image is pulled, caches are warm on all sides
        times = {name: [] for name in measured}
        for _ in range(self.arguments.rounds):
            for name, measure in measured.items():
                times[name].append(measure())
        process, running = zip(*times.pop("payload"))
        times |= {"payload_to_process_s": process, "payload_to_running_s": running}
        self.results |= {name: summary(values) for name, values in times.items()}

    def fifties(self, node, runc):
        say(f"{FIFTIES} times {starts.MANY} starts at once")
        ours, theirs = [], []
        for _ in range(FIFTIES):
            ours.append(starts.many(node, self.image, self.out))
            theirs.append(runc.loop(starts.MANY))
        self.results["fifty_tasks_s"] = summary(ours)
        self.results["fifty_runc_s"] = summary(theirs)

    def hundreds(self):
        say(f"{idle.MANY} idle tasks")
        with Node(SETTINGS) as node:
            self.results["hundreds"] = idle.hundreds(node, self.image, self.out)

    def churn(self):
        say(f"{self.arguments.churn} short tasks")
        with Node(SETTINGS) as node:
            self.results["churn"] = churn.churn(node, self.image, self.arguments.churn)

    def run(self):
        if "starts" in self.arguments.parts:
            self.starts()
        if "hundreds" in self.arguments.parts:
            self.hundreds()
        if "churn" in self.arguments.parts:
            self.churn()


PARTS = ("starts", "hundreds", "churn")


def lines(results):
    """(what, value, unit, target or None) of what was measured; the value may be at most the target."""

    def median(name):
        return results[name]["median"]

    if "start_s" in results:
        for name in ("start_s", "runc_run_s", "docker_run_s", "payload_to_process_s", "payload_to_running_s",
                     "fifty_tasks_s", "fifty_runc_s"):  # fmt: skip
            if name in results:
                spread = results[name]
                yield f"{name[:-2]} ({spread['q1'] * 1e3:.1f} to {spread['q3'] * 1e3:.1f})", median(name) * 1e3, "ms", None
        yield "start / runc run", median("start_s") / median("runc_run_s"), "", 0.75
        yield "payload to process / runc run", median("payload_to_process_s") / median("runc_run_s"), "", 0.75
        yield "50 tasks / 50 runc in a loop", median("fifty_tasks_s") / median("fifty_runc_s"), "", 0.5
        memory = results["memory_kib"]
        yield "private memory per task", memory["idle"], "KiB", 400
        yield "  after an exec", memory["exec"], "KiB", 400
        yield "  with a health check", memory["health"], "KiB", 400
        yield "PSS per task", memory["pss"], "KiB", 1024
        yield "PSS of all daemons, idle", results["idle_pss_mib"], "MiB", 16
        ratio = median("nginx_per_s") / median("credentials_per_s")
        yield "requests per second: nginx / credentials", ratio, "", 1
    if "guest_start_s" in results:
        for name in ("guest_start_s", "crun_run_s"):
            spread = results[name]
            yield f"{name[:-2]} ({spread['q1'] * 1e3:.0f} to {spread['q3'] * 1e3:.0f})", median(name) * 1e3, "ms", None
        yield "start / crun run, in the guest", median("guest_start_s") / median("crun_run_s"), "", 1.2
    if "hundreds" in results:
        found = results["hundreds"]
        yield f"{idle.MANY} tasks: until all are reported RUNNING", found["running_s"], "s", None
        yield "  until all are reported STOPPED", found["stopped_s"], "s", None
        yield "  until nothing is left", found["clean_s"], "s", None
        yield "  longest turn of the agent's loop", found["turn_ms"], "ms", 50
        yield "  most CPU time of a turn", found["turn_cpu_ms"], "ms", None
        yield "  slowest commit of state (a thread waits for it)", found["commit_ms"], "ms", 50
        yield "  CPU time per idle task and second", found["cpu_us_per_s"], "us", None
        yield "  private memory per task", found["private_kib"], "KiB", 400
        yield "  PSS of all daemons", found["daemons_mib"], "MiB", None
    if "churn" in results:
        found = results["churn"]
        yield f"{found['tasks']} short tasks: tasks per second", found["tasks_per_s"], "", None
        yield "  kinds of things left behind", len(found["left"]), "", 0
        for name, growth in found["kib_per_1000"].items():
            yield f"  growth of {name} in 1000 tasks", growth, "KiB", None


def table(results):
    for what, value, unit, target in lines(results):
        verdict = "" if target is None else f"target {target:g}  {'met' if value <= target else 'MISSED'}"
        print(f"  {what:<52} {value:9.3f} {unit:<4} {verdict}".rstrip())
    for what, count in results.get("churn", {}).get("left", {}).items():
        print(f"  left behind: {count} x {what}")


def measure_here(arguments):
    with tempfile.TemporaryDirectory(prefix="ecs-bench-", dir="/var/tmp") as work:
        os.chmod(work, 0o755)
        with Registry(pathlib.Path(work) / "registry") as registry:
            bench = Bench(arguments, pathlib.Path(work), registry)
            bench.run()
    return bench.results


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/run")
    parser.add_argument("json", nargs="?", type=pathlib.Path, default=pathlib.Path("bench.json"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--churn", type=int, default=2000)
    parser.add_argument("--parts", type=lambda text: text.split(","), default=PARTS)
    parser.add_argument("--no-docker", action="store_true")
    parser.add_argument("--guest", action="store_true")
    parser.add_argument("--stamp", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.guest:
        from bench import guest  # needs the modules of tests/vm

        image = guest.image.make()  # with the network that there is
        netns.enter_new()
        results = guest.measure(image, arguments.stamp, arguments.rounds)
    else:
        netns.enter_new()
        results = measure_here(arguments)
    load = os.getloadavg()
    table(results)
    print(f"  load of the machine: {load[0]:.1f} in the last minute, {load[2]:.1f} in fifteen")
    results["load"] = load
    arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
