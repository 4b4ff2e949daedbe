"""The main job, shown to a person: one task of two containers from registration to STOPPED."""

import json
import pathlib
import sys
import tempfile
import time
import urllib.request

from controlplane.client import StandInError, Timeout, wait_for

from . import images, netns
from .node import Node
from .registry import Registry
from .taskdef import container, task

SHOW = r"""#!/bin/sh
# Shows what the task was given: its credentials, with what is secret masked, and its metadata.
set -e
url="http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
echo "credentials from $url"
wget -q -O - "$url" | sed -E 's/"(SecretAccessKey|Token)": ?"[^"]*"/"\1":"********"/g'
echo
echo "metadata from $ECS_CONTAINER_METADATA_URI_V4/task"
wget -q -O - "$ECS_CONTAINER_METADATA_URI_V4/task"
echo
"""
SERVE = r"""#!/bin/sh
echo "a page from $(hostname)" >/var/www/index.html
httpd -f -p 80 -h /var/www &
trap 'echo "stopping"; kill %1; exit 0' TERM
echo "serving"
wait
"""


class Failed(Exception):
    """Something that should have happened did not."""


def say(text):
    print(text, flush=True)


def main():
    netns.enter_new()
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="ecs-quickstart-", dir="/var/tmp") as work:
            with Registry(pathlib.Path(work) / "registry") as registry:
                say(f"  registry       docker-registry at {registry.host}")
                reference = f"{registry.host}/quickstart:1"
                files = {"bin/show": (SHOW.encode(), 0o755), "bin/serve": (SERVE.encode(), 0o755)}
                digest = images.push_busybox(work, reference, files)
                say(f"  image          {reference} ({digest[:19]}...)")
                with Node() as node:
                    run(node, reference)
                    node.standin.assert_no_violations()
    except (Failed, Timeout, StandInError, AssertionError, OSError) as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    say(f"Everything really happened, in {time.monotonic() - began:.1f} s; no trace is left.")
    return 0


def run(node, reference):
    standin = node.standin
    instance = standin.wait_instance()
    say(f"  stand-in       ECS, ACS, CloudWatch Logs and IMDS at {standin.endpoint}")
    say(f"  registered     {instance['arn']}")
    arn = standin.run_task(definition(reference))
    say(f"  task           {arn}")
    running = standin.wait_task(arn, lambda t: web(t).get("networkBindings"))
    binding = web(running)["networkBindings"][0]
    page = fetch(binding["hostPort"])
    say(f"  http           127.0.0.1:{binding['hostPort']} -> container port "
        f"{binding['containerPort']}: {page.strip()}")  # fmt: skip
    credentials = wait_for(
        lambda: shown(node.logs("quickstart")), 60,
        lambda: f"the credentials were not logged: {standin.logs('quickstart')}",
    )  # fmt: skip
    check_credentials(credentials, arn)
    standin.stop_task(arn)
    stopped = standin.wait_task(arn, "STOPPED", 60)
    wait_for(
        lambda: "stopping" in node.logs("quickstart"), 60,
        lambda: f"the last line was not delivered: {standin.logs('quickstart')}",
    )  # fmt: skip
    node.wait_clean(60)
    report(standin, stopped)


def definition(reference):
    return task(
        container(reference, ["/bin/show"], name="credentials", logs="quickstart", essential=False),
        container(
            reference, ["/bin/serve"], name="web", logs="quickstart", memory=32,
            portMappings=[{"containerPort": 80, "hostPort": 0}],
        ),
        family="quickstart",
    )  # fmt: skip


def web(found):
    return next((c for c in found["containers"] if c["name"] == "web"), {})


def fetch(port):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def page():
        try:
            with opener.open(f"http://127.0.0.1:{port}/", timeout=5) as response:
                return response.read().decode()
        except OSError:
            return None

    return wait_for(page, 30, f"127.0.0.1:{port} does not answer")


def shown(lines):
    """The credentials and metadata documents, once both are in the log."""
    documents = []
    for line in lines:
        try:
            documents.append(json.loads(line))
        except ValueError:
            continue
    found = {}
    for document in documents:
        if isinstance(document, dict):
            found.update(document)
    return found if {"AccessKeyId", "TaskARN"} <= set(found) else None


def check_credentials(found, arn):
    if found.get("SecretAccessKey") != "********":
        raise Failed("the secret key is not masked in the log")
    if found["TaskARN"] != arn:
        raise Failed(f"metadata is of {found['TaskARN']}, not of {arn}")
    if not found.get("RoleArn"):
        raise Failed("the credentials name no role")


def report(standin, stopped):
    say("  timeline")
    start = stopped["timeline"][0]["ms"]
    for event in stopped["timeline"]:
        say(f"    {event['ms'] - start:7.0f} ms  {event['event']:<18} {describe(event)}")
    say("  log lines read back from CloudWatch Logs (the stand-in's)")
    for line in standin.logs("quickstart"):
        say(f"    {line[:200]}")
    say("  exit codes")
    for one in stopped["containers"]:
        say(f"    {one['name']:<12} {one.get('exitCode')}")
        if one.get("exitCode") != 0:
            raise Failed(f"container {one['name']} ended with {one.get('exitCode')}: {one.get('reason')}")


def describe(event):
    """What a state change says of the task and of each container."""
    words = [event.get("status") or event.get("desiredStatus") or event.get("reason") or ""]
    for one in event.get("containers", ()):
        code = f" ({one['exitCode']})" if "exitCode" in one else ""
        ports = "".join(
            f" {b['hostPort']}->{b['containerPort']}/{b['protocol']}"
            for b in one.get("networkBindings", ())
        )
        words.append(f"{one['containerName']} {one['status']}{code}{ports}")
    return ", ".join(word for word in words if word)


if __name__ == "__main__":
    sys.exit(main())
