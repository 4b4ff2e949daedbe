"""Starts a stand-in and talks to its admin API. Standard library only, for tests and the CLI."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

TESTS = pathlib.Path(__file__).resolve().parent.parent


class StandInError(Exception):
    """What the stand-in answered to a request it could not do."""


class Timeout(AssertionError):
    """A condition that did not come true; the text says what was true instead."""


def wait_for(condition, timeout, what):
    """Poll condition() until it is true, and return what it returned."""
    deadline = time.monotonic() + timeout
    while True:
        asked = time.monotonic()
        result = condition()
        if result:
            return result
        now = time.monotonic()
        if now > deadline:
            description = what() if callable(what) else what
            raise Timeout(f"not within {timeout:g} s: {description}")
        # A question that costs much must not take the CPU from what is waited for.
        time.sleep(min(max(0.02, 2 * (now - asked)), 1))


class StandIn:
    """A running stand-in. Facts of standin.json are attributes: endpoint, imds, ca, admin."""

    def __init__(self, directory):
        self.dir = pathlib.Path(directory)
        self.process = None
        self._load()

    def _load(self):
        path = self.dir / "standin.json"
        try:
            self.facts = json.loads(path.read_text())
        except FileNotFoundError:
            raise StandInError(f"no stand-in has been started in {self.dir} ({path})") from None
        for name in ("endpoint", "imds", "ca", "admin", "region", "account"):
            setattr(self, name, self.facts[name])

    @classmethod
    def start(cls, directory, timeout=30, **options):
        """Start one with the options of `serve`; listen="10.0.0.1" is --listen 10.0.0.1."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        facts = directory / "standin.json"
        facts.unlink(missing_ok=True)
        command = [sys.executable, "-m", "controlplane", "serve", "--dir", str(directory)]
        for name, value in options.items():
            command += _option("--" + name.replace("_", "-"), value)
        environment = dict(os.environ, PYTHONPATH=str(TESTS), PYTHONDONTWRITEBYTECODE="1")
        with open(directory / "standin.log", "wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

        def started():
            if process.poll() is not None:
                text = (directory / "standin.log").read_text()
                raise StandInError(f"the stand-in ended with {process.returncode}: {text}")
            return facts.exists()

        try:
            wait_for(started, timeout, "standin.json was not written")
            standin = cls(directory)
        except BaseException:
            process.kill()
            process.wait()
            raise
        standin.process = process
        return standin

    def stop(self):
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def environment(self):
        """Variables for botocore, boto3 and the aws command."""
        return {
            "AWS_ACCESS_KEY_ID": self.facts["accessKeyId"],
            "AWS_SECRET_ACCESS_KEY": self.facts["secretAccessKey"],
            "AWS_DEFAULT_REGION": self.region,
            "AWS_CA_BUNDLE": self.ca,
            # botocore 1.29 joins the path without a slash of its own.
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.imds + "/",
        }

    # Requests

    def request(self, method, path, document=None, **query):
        query = {name: value for name, value in query.items() if value is not None}
        url = self.admin + path + ("?" + urllib.parse.urlencode(query) if query else "")
        data = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(url, data=data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise StandInError(json.load(error).get("error", str(error))) from None
        except urllib.error.URLError as error:
            text = f"no stand-in answers at {self.admin}: {error.reason}"
            raise StandInError(text) from None

    def post(self, path, **document):
        return self.request("POST", path, {k: v for k, v in document.items() if v is not None})

    # What is known

    def state(self):
        return self.request("GET", "/state")

    def violations(self):
        return self.request("GET", "/violations")["violations"]

    def clear_violations(self):
        self.request("DELETE", "/violations")

    def assert_no_violations(self):
        found = self.violations()
        assert not found, "violations:\n" + "\n".join(
            f"  {v['service']} {v['operation']} {v['rule']}: {v['text']}" for v in found
        )

    def calls(self, service=None, operation=None):
        return self.request("GET", "/calls", service=service, operation=operation)["calls"]

    def instance(self):
        """The only container instance, or None while none is registered."""
        instances = self.state()["instances"]
        assert len(instances) <= 1, f"{len(instances)} container instances"
        return instances[0] if instances else None

    def wait_instance(self, predicate=None, timeout=30):
        """Wait until an instance is registered and, by default, connected to ACS."""
        wanted = predicate or (lambda instance: instance["acsConnected"])

        def ready():
            instance = self.instance()
            return instance if instance and wanted(instance) else None

        return wait_for(ready, timeout, lambda: f"instance is {json.dumps(self.instance())}")

    def tasks(self):
        return self.request("GET", "/tasks")["tasks"]

    def task(self, arn):
        return self.request("GET", f"/tasks/{arn}")

    def wait_task(self, arn, predicate, timeout=30):
        """Wait for a status ("RUNNING") or for predicate(task), and return the task."""
        if isinstance(predicate, str):
            status = predicate

            def predicate(task):
                return task["lastStatus"] == status

        def ready():
            task = self.task(arn)
            return task if predicate(task) else None

        return wait_for(ready, timeout, lambda: f"task is {json.dumps(self.task(arn), indent=1)}")

    def logs(self, group, stream=None):
        """The messages of a stream, or of all streams of a group, in order of time."""
        events = self.request("GET", "/logs", group=group, stream=stream)["events"]
        return [event["message"] for event in events]

    def log_events(self, group, stream=None):
        return self.request("GET", "/logs", group=group, stream=stream)["events"]

    # Tasks

    def run_tasks(self, definition, count=1, **more):
        """Run count tasks of a definition in one payload message; returns their ARNs."""
        return self.post("/run", taskDefinition=definition, count=count, **more)["tasks"]

    def run_task(self, definition, **more):
        return self.run_tasks(definition, **more)[0]

    def send_tasks(self, tasks, exact=False, **more):
        """Send ACS Task documents; returns {"tasks": [arn...], "messageId": ...}."""
        return self.post("/tasks", tasks=tasks, exact=exact, **more)

    def send_task(self, task, exact=False, **more):
        arns = self.send_tasks([task], exact=exact, **more)["tasks"]
        return arns[0] if arns else None

    def stop_task(self, arn, reason=None):
        return self.post(f"/stop/{arn}", reason=reason)

    # Faults

    def fault(self, service, fault, operation=None, **more):
        """fault("ecs", "status", "SubmitTaskStateChange", status=503, count=2)"""
        match = {"service": service}
        if operation:
            match["operation"] = operation
        return self.post("/faults", match=match, fault=fault, **more)

    def faults(self):
        return self.request("GET", "/faults")["faults"]

    def clear_faults(self):
        self.request("DELETE", "/faults")

    # ACS

    def kill_acs(self, code=None, **more):
        """End the ACS connection: reset without a word, or closed with a code."""
        self.post("/acs/disconnect", code=code, **more)

    def send_message(self, kind, message=None, **more):
        return self.post("/acs/message", type=kind, message=message or {}, **more)

    def send_frame(self, text, **more):
        self.post("/acs/frame", text=text, **more)

    def heartbeat(self, **more):
        return self.post("/acs/heartbeat", **more)

    def send_manifest(self, **more):
        return self.post("/acs/manifest", **more)

    def refresh_credentials(self, task=None, **more):
        return self.post("/acs/credentials", task=task, **more)["messages"]

    def answer_verifications(self, answer):
        self.post("/acs/verification", answer=answer)

    def set_imds(self, path, value):
        self.request("POST", "/imds", {"path": path, "value": value})


def _option(name, value):
    if value is True:
        return [name]
    if value is False or value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in (name, str(item))]
    return [name, str(value)]
