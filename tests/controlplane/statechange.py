"""What a SubmitTaskStateChange must be, given what the agent said about the task before."""

import ipaddress
import json
import time

from .task import RANK

_TIMES = ("pullStartedAt", "pullStoppedAt", "executionStoppedAt")


def check(task, change):
    """Yield (rule, text) for each rule the change breaks."""
    if "attachments" in change:
        yield from _check_attachment_form(change)
        return
    for name in ("status", "reason"):
        if name not in change:
            yield "missing-member", f"{name} is required in a task state change"
    yield from _check_order(task, change)
    yield from _check_times(task, change)
    for container in change.get("containers", ()):
        yield from _check_container(task, container)
    yield from _check_managed_agents(task, change)
    if change.get("status") == "STOPPED":
        yield from _check_all_containers_stopped(task, change)


def _check_attachment_form(change):
    extra = sorted(set(change) - {"cluster", "task", "attachments"})
    if extra:
        yield "attachment-form", f"attachments are sent with nothing else, here {', '.join(extra)}"


def _check_order(task, change):
    status = change.get("status")
    if status is None:
        return
    if RANK[status] < RANK[task.last]:
        yield "status-backwards", f"task went from {task.last} to {status}"
    if status == "STOPPED" and task.stopped_submission is not None:
        if canonical(change) != task.stopped_submission:
            yield "second-stopped", "STOPPED was reported before with other content"


def canonical(change):
    return json.dumps(change, sort_keys=True)


def _check_times(task, change):
    latest = time.time() + 300
    for name in _TIMES:
        value = change.get(name)
        if value is None:
            continue
        if not 1_500_000_000 < value < latest:
            yield "timestamp", f"{name} {value} is not a recent time in seconds"
        earlier = task.times.get(name)
        if name != "pullStoppedAt" and earlier is not None and earlier != value:
            yield "timestamp", f"{name} changed from {earlier} to {value}"
    merged = {**task.times, **{n: change[n] for n in _TIMES if n in change}}
    started, stopped, executed = (merged.get(name) for name in _TIMES)
    if stopped is not None and started is None:
        yield "timestamp", "pullStoppedAt without pullStartedAt"
    if started is not None and stopped is not None and started > stopped:
        yield "timestamp", f"pullStartedAt {started} is after pullStoppedAt {stopped}"
    if started is not None and executed is not None and started > executed:
        yield "timestamp", f"pullStartedAt {started} is after executionStoppedAt {executed}"


def _check_container(task, container):
    name = container["containerName"]
    known = task.containers.get(name)
    if known is None:
        yield "unknown-container", f"container '{name}' is not of this task"
        return
    status = container["status"]
    if RANK[status] < RANK[known["lastStatus"]]:
        yield "status-backwards", f"container '{name}' went from {known['lastStatus']} to {status}"
    if "exitCode" in container and status != "STOPPED":
        yield "exit-code", f"container '{name}' is {status} with an exit code"
    if "exitCode" in known and container.get("exitCode", known["exitCode"]) != known["exitCode"]:
        text = f"container '{name}' exited with {known['exitCode']}, now {container['exitCode']}"
        yield "exit-code", text
    bindings = container.get("networkBindings", ())
    if len(bindings) > 100 and any("hostPortRange" in binding for binding in bindings):
        yield "network-binding", f"{len(bindings)} bindings of '{name}' with a range, at most 100"
    for binding in bindings:
        yield from _check_binding(name, binding)


def _check_binding(name, binding):
    try:
        ipaddress.ip_address(binding["bindIP"])
    except ValueError:
        yield "network-binding", f"bindIP '{binding['bindIP']}' of '{name}' is not an address"
    forms = ({"containerPort", "hostPort"}, {"containerPortRange", "hostPortRange"})
    if set(binding) - {"bindIP", "protocol"} not in forms:
        text = f"a binding of '{name}' needs containerPort and hostPort, or both ranges: {binding}"
        yield "network-binding", text
        return
    if "hostPortRange" in binding:
        spans = []
        for member in ("containerPortRange", "hostPortRange"):
            first, last = (int(port) for port in binding[member].split("-"))
            if not 1 <= first <= last <= 65535:
                yield "network-binding", f"{member} of '{name}' is '{binding[member]}'"
            spans.append(last - first)
        if spans[0] != spans[1]:
            yield "network-binding", f"ranges of '{name}' differ in length: {binding}"


def _check_managed_agents(task, change):
    known = {c["name"]: c["lastStatus"] for c in task.containers.values()}
    known |= {c["containerName"]: c["status"] for c in change.get("containers", ())}
    told = {}
    for agent in change.get("managedAgents", ()):
        key = (agent["containerName"], agent["managedAgentName"])
        text = f"{key[1]} of container '{key[0]}'"
        if key[0] not in task.containers:
            yield "unknown-container", f"managed agent of container '{key[0]}'"
        elif key not in task.wanted_agents:
            yield "managed-agent", f"{text} was not asked for"
        elif key in told:
            yield "managed-agent", f"{text} is there twice"
        elif agent["status"] == "RUNNING" and known[key[0]] != "RUNNING":
            yield "managed-agent", f"{text} is RUNNING and its container {known[key[0]]}"
        told[key] = agent["status"]
    last = {(a["containerName"], a["managedAgentName"]): a["status"] for a in task.managed_agents}
    for (container, name), status in (last | told).items():
        if status == "RUNNING" and known.get(container) == "STOPPED":
            yield "managed-agent", f"container '{container}' is STOPPED and its {name} is not"


def _check_all_containers_stopped(task, change):
    now = {c["containerName"]: c["status"] for c in change.get("containers", ())}
    for name, container in task.containers.items():
        status = now.get(name, container["lastStatus"])
        if status == "RUNNING":
            yield "running-in-stopped", f"task is STOPPED but container '{name}' is still RUNNING"
