"""The command line: play with a node without AWS."""

import argparse
import asyncio
import json
import os
import re
import sys
import time

from .client import StandIn, StandInError

# Options of serve that are plain text or numbers: name, type, help.
_SERVE_OPTIONS = (
    ("listen", str, "address of the HTTPS services"),
    ("port", int, "port of the HTTPS services; 0 takes a free one"),
    ("imds-listen", str, "address of the instance metadata service"),
    ("imds-port", int, "port of the instance metadata service; 0 takes a free one"),
    ("admin-port", int, "port of the admin API on 127.0.0.1; 0 takes a free one"),
    ("region", str, "AWS region"),
    ("account", str, "AWS account"),
    ("access-key-id", str, "access key id known from the start"),
    ("secret-access-key", str, "its secret access key"),
    ("instance-id", str, "EC2 instance id in the instance metadata"),
    ("instance-type", str, "EC2 instance type in the instance metadata"),
    ("availability-zone", str, "availability zone; empty means <region>a"),
    ("instance-role", str, "IAM role in the instance metadata; empty means none"),
    ("imds-credentials-seconds", float, "life of the instance role's keys"),
    ("task-credentials-seconds", float, "life of the keys of task roles"),
    ("credentials-refresh-seconds", float, "how often running tasks get new keys"),
    ("heartbeat-seconds", float, "time between heartbeats"),
    ("heartbeat-ack-seconds", float, "time an agent has to acknowledge a heartbeat"),
    ("resend-seconds", float, "time after which an unacknowledged message is sent again"),
    ("ecr-password", str, "password in ECR tokens; the user is AWS"),
    ("ecr-proxy-endpoint", str, "registry of ECR tokens, such as https://127.0.0.1:5000"),
)

_PATTERNS = (
    ("name", r"[A-Za-z0-9.:_-]+", "node.example or 10.0.0.1"),
    ("cluster", r"[A-Za-z0-9_-]{1,255}", "blue"),
    ("region", r"[a-z]+(-[a-z]+)+-[0-9]+", "us-west-2"),
    ("account", r"[0-9]{12}", "111122223333"),
    ("instance_id", r"i-[0-9a-f]+", "i-0123456789abcdef0"),
    ("access_key_id", r"[A-Z0-9]{16,128}", "AKIASTANDINEXAMPLE00"),
    ("ecr_proxy_endpoint", r"|https?://[^/]+", "https://127.0.0.1:5000"),
)


def main(arguments=None):
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except StandInError as error:
        print(f"ecs-standin: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has gone; keep Python from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser():
    from .store import Options

    parser = argparse.ArgumentParser(
        prog="ecs-standin", description="A stand-in for the AWS services an ECS node talks to."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name, function, help_text):
        sub = commands.add_parser(name, help=help_text, description=help_text)
        sub.add_argument(
            "--dir", default=os.environ.get("ECS_STANDIN_DIR"), required=_dir_required(),
            help="directory of the stand-in (or ECS_STANDIN_DIR)",
        )  # fmt: skip
        sub.set_defaults(run=function)
        return sub

    serve = command("serve", _serve, "run the stand-in in the foreground")
    for name, kind, text in _SERVE_OPTIONS:
        default = getattr(Options, name.replace("-", "_"))
        serve.add_argument(
            "--" + name, type=kind, default=default, help=f"{text} (default: {default!r})"
        )
    serve.add_argument(
        "--name", action="append", default=[], help="further name or address in the certificate"
    )
    serve.add_argument(
        "--cluster", action="append", help="a cluster that exists (default: default)"
    )
    serve.add_argument("--no-cluster", action="store_true", help="no cluster exists at the start")
    serve.add_argument(
        "--no-awslogs-endpoint", action="store_true",
        help="do not point awslogs of task definitions at the stand-in",
    )  # fmt: skip

    run = command("run", _run, "run a task definition (or send a raw ACS task) from a JSON file")
    run.add_argument("file", metavar="FILE.json", help="- reads standard input")
    run.add_argument("--count", type=int, default=1, help="so many tasks, in one message")
    run.add_argument("--cluster")

    command("tasks", _tasks, "list the tasks")
    stop = command("stop", _stop, "stop a task")
    stop.add_argument("task", metavar="TASK", help="task ARN, or the beginning of its id")
    stop.add_argument("--reason")
    logs = command("logs", _logs, "show log events, or list the groups and streams")
    logs.add_argument("group", nargs="?")
    logs.add_argument("stream", nargs="?")
    events = command("events", _events, "show what happened to a task, with milliseconds")
    events.add_argument("task", metavar="TASK")
    command("instances", _instances, "list the container instances")
    violations = command("violations", _violations, "list violations; exit code 1 if there are any")
    violations.add_argument("--clear", action="store_true", help="forget them afterwards")

    fault = command("fault", _fault, "list, add or clear faults")
    fault.add_argument("service", nargs="?", help="ecs, acs, tcs, logs, ecr, sts or imds")
    fault.add_argument("kind", nargs="?", help="drop, reset, hang, delay, status, throttle, ...")
    fault.add_argument("--operation", help="name of the call or message; connect for a handshake")
    fault.add_argument("--count", type=int, help="so many times; otherwise until cleared")
    fault.add_argument("--delay", type=float, help="seconds")
    fault.add_argument("--status", type=int, help="HTTP status 400 to 599")
    fault.add_argument("--error", help="name of the exception")
    fault.add_argument("--message", help="text of the exception")
    fault.add_argument("--body", help="what a malformed answer or frame contains")
    fault.add_argument("--code", type=int, help="WebSocket close code")
    fault.add_argument("--when", choices=("before", "after"), help="of handling the request")
    fault.add_argument("--clear", action="store_true", help="clear all faults")
    return parser


def _dir_required():
    return "ECS_STANDIN_DIR" not in os.environ


def _serve(options):
    from .server import serve
    from .store import Options

    names = [name.replace("-", "_") for name, _, _ in _SERVE_OPTIONS]
    settings = {name: getattr(options, name) for name in names}
    settings["cluster"] = [] if options.no_cluster else options.cluster or ["default"]
    settings["name"] = options.name
    settings["dir"] = options.dir
    settings["awslogs_endpoint"] = not options.no_awslogs_endpoint
    problem = _problem(settings)
    if problem:
        raise StandInError(problem)
    try:
        os.makedirs(options.dir, exist_ok=True)
        asyncio.run(serve(Options(**settings), _announce))
    except OSError as error:
        raise StandInError(f"cannot listen or write: {error}") from error
    return 0


def _problem(settings):
    for name, value in settings.items():
        if name.endswith("_seconds") and not value > 0:
            return f"--{name.replace('_', '-')} is {value:g}; it must be more than 0"
        if name.endswith("port") and not 0 <= value <= 65535:
            return f"--{name.replace('_', '-')} is {value}; a port is 0 to 65535"
    for name, pattern, example in _PATTERNS:
        values = settings[name] if isinstance(settings[name], list) else [settings[name]]
        for value in values:
            if not re.fullmatch(pattern, value):
                return f"--{name.replace('_', '-')} is {value!r}; right is, for example, {example}"
    return None


def _announce(facts):
    print(
        f"""The stand-in listens at {facts['endpoint']} (metadata at {facts['imds']}).

For a node, in ecs.config:
  AWS_ENDPOINT_URL={facts['endpoint']}
  AWS_CA_BUNDLE={facts['ca']}
  AWS_DEFAULT_REGION={facts['region']}
  AWS_EC2_METADATA_SERVICE_ENDPOINT={facts['imds']}

For the aws command:
  export AWS_ACCESS_KEY_ID={facts['accessKeyId']} AWS_SECRET_ACCESS_KEY={facts['secretAccessKey']}
  export AWS_DEFAULT_REGION={facts['region']} AWS_CA_BUNDLE={facts['ca']}
  aws --endpoint-url {facts['endpoint']} ecs list-container-instances

Stop it with Ctrl-C.""",
        flush=True,
    )


def _run(options):
    standin = StandIn(options.dir)
    document = _read_json(options.file)
    if not isinstance(document, dict):
        raise StandInError(f"{options.file} holds no JSON object")
    more = {"cluster": options.cluster} if options.cluster else {}
    if "containerDefinitions" in document or "taskDefinition" in document:
        definition = document.get("taskDefinition", document)
        arns = standin.run_tasks(definition, options.count, **more)
    elif "containers" in document:
        documents = [document] * options.count
        if options.count > 1 and "arn" in document:
            raise StandInError(f"{options.file} names its arn, so it can be run only once")
        arns = standin.send_tasks(documents, **more)["tasks"]
    else:
        raise StandInError(
            f"{options.file} is neither a task definition (containerDefinitions) nor an ACS task "
            "(containers)"
        )
    for arn in arns:
        print(arn)
    return 0


def _read_json(path):
    try:
        if path == "-":
            return json.load(sys.stdin)
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise StandInError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise StandInError(f"{path} is not JSON: {error}") from None


def _table(rows):
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())


def _tasks(options):
    rows = [("TASK", "DEFINITION", "DESIRED", "LAST", "CONTAINERS", "REASON")]
    for task in StandIn(options.dir).tasks():
        containers = []
        for container in task["containers"]:
            code = f"({container['exitCode']})" if "exitCode" in container else ""
            containers.append(f"{container['name']}={container['lastStatus']}{code}")
        definition = f"{task['family']}:{task['revision']}"
        reason = task["stoppedReason"] or ""
        rows.append(
            (task["id"], definition, task["desiredStatus"], task["lastStatus"],
             ",".join(containers), reason)
        )  # fmt: skip
    _table(rows)
    return 0


def _stop(options):
    task = StandIn(options.dir).stop_task(options.task, options.reason)
    print(f"{task['arn']} desired {task['desiredStatus']}, last {task['lastStatus']}")
    return 0


def _logs(options):
    standin = StandIn(options.dir)
    if options.group is None:
        rows = [("GROUP", "STREAM", "EVENTS")]
        for group, streams in standin.state()["logGroups"].items():
            rows += [(group, name, stream["events"]) for name, stream in streams.items()]
            if not streams:
                rows.append((group, "", 0))
        _table(rows)
        return 0
    for event in standin.log_events(options.group, options.stream):
        stream = "" if options.stream else event["stream"] + "  "
        print(f"{_time(event['timestamp'])}  {stream}{event['message']}")
    return 0


def _events(options):
    task = StandIn(options.dir).task(options.task)
    start = task["timeline"][0]["ms"]
    for event in task["timeline"]:
        details = {name: event[name] for name in event if name not in ("ms", "event")}
        text = " ".join(f"{name}={_short(value)}" for name, value in details.items())
        print(f"{_time(event['ms'])}  +{event['ms'] - start:<8d}  {event['event']:<18s} {text}")
    return 0


def _short(value):
    if isinstance(value, list) and value and isinstance(value[0], dict):
        items = []
        for item in value:
            name = item.get("containerName") or item.get("attachmentArn") or ""
            rest = [f"{k}={_short(v)}" for k, v in item.items() if k != "containerName"]
            items.append(f"{name}({', '.join(rest)})")
        return " ".join(items)
    return value if isinstance(value, str) else json.dumps(value)


def _instances(options):
    rows = [("INSTANCE", "CLUSTER", "STATUS", "EC2", "ACS", "TCS", "UNACKED")]
    for instance in StandIn(options.dir).state()["instances"]:
        rows.append(
            (instance["arn"].rsplit("/", 1)[-1], instance["cluster"], instance["status"],
             instance["ec2InstanceId"] or "-", "yes" if instance["acsConnected"] else "no",
             "yes" if instance["tcsConnected"] else "no", len(instance["outbox"]))
        )  # fmt: skip
    _table(rows)
    return 0


def _violations(options):
    standin = StandIn(options.dir)
    found = standin.violations()
    for violation in found:
        where = f"{violation['service']} {violation['operation']}"
        print(f"{_time(violation['ms'])}  {where}  {violation['rule']}: {violation['text']}")
    if options.clear:
        standin.clear_violations()
    if not found:
        print("no violations")
    return 1 if found else 0


def _fault(options):
    standin = StandIn(options.dir)
    if options.clear:
        if options.service:
            raise StandInError("--clear clears all faults and takes no service")
        standin.clear_faults()
        return 0
    if options.service is None:
        rows = [("ID", "SERVICE", "OPERATION", "FAULT", "LEFT", "HITS")]
        for fault in standin.faults():
            left = "-" if fault["count"] is None else fault["count"] - fault["hits"]
            operation = fault["operation"] or "*"
            rows.append(
                (fault["id"], fault["service"], operation, fault["kind"], left, fault["hits"])
            )
        _table(rows)
        return 0
    if options.kind is None:
        raise StandInError("fault needs a service and a kind, such as: fault ecs throttle")
    names = ("count", "delay", "status", "error", "message", "body", "code", "when")
    more = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    fault = standin.fault(options.service, options.kind, options.operation, **more)
    print(f"fault {fault['id']}")
    return 0


def _time(ms):
    return time.strftime("%H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}"
