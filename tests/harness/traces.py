"""What tasks could leave behind on a node, counted, to be compared before and after."""

import json
import os
import pathlib
import re
import signal
import socket
import sqlite3
import struct
from collections import Counter

from controlplane.client import wait_for

from .node import DAEMONS

TABLES = ("tasks", "containers", "outbox")
KEPT_OPEN = 10  # connections to AWS may be kept for the next request
KEPT = re.compile(
    r"kept: (?P<ended_tasks>\d+) ended tasks, (?P<credentials>\d+) credentials, (?P<reports>\d+) reports,"
    r" (?P<acknowledgements>\d+) acknowledgements, (?P<addresses>\d+) addresses; heap: (?P<heap_kib>\d+) KiB"
)


def rows(node):
    """Rows about tasks in ecs-agent's database."""
    connection = sqlite3.connect(f"file:{node.state}/data/agent.db?mode=ro", uri=True, timeout=10)
    try:
        return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}
    finally:
        connection.close()


def descriptors(node):
    """Open files of each daemon by kind, as "agent: socket"."""
    found = Counter()
    for daemon in DAEMONS:
        directory = pathlib.Path(f"/proc/{node.pid(daemon)}/fd")
        for path in directory.iterdir():
            try:
                kind = os.readlink(path).split(":")[0]
            except OSError:
                continue
            found[f"descriptors of {daemon}: {kind if not kind.startswith('/') else 'file'}"] += 1
    return found


def programs(node):
    """Processes of this node's other programs: supervisors, pulls, ecs-network, zombies too."""
    found = Counter()
    launcher = str(node.pid("launcher"))
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            name, rest = path.read_text().rsplit(")", 1)
        except OSError:
            continue
        if rest.split()[1] == launcher:
            found["processes: " + name.split("(", 1)[1]] += 1
    return found


def files(node):
    """Files and directories of the state and runtime directories, images aside."""
    found = Counter()
    for top in (node.state, node.run):
        for directory in top.iterdir():
            if directory.name != "images" and directory.is_dir():
                found[f"files in {directory}"] = sum(1 for _ in directory.rglob("*"))
    return found


def agent_keeps(node):
    """What ecs-agent says that it keeps in memory (ecs-agent(8), SIGUSR1)."""
    log = node.log_path("agent")
    before = log.stat().st_size

    def said():
        with open(log) as file:
            file.seek(before)
            return KEPT.search(file.read())

    os.kill(node.pid("agent"), signal.SIGUSR1)
    found = wait_for(said, 20, "ecs-agent does not answer SIGUSR1")
    return {name: int(value) for name, value in found.groupdict().items()}


def metadata_has(node):
    """What is in the memory of ecs-metadata (iam-creds/protocol.h, "hello")."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(str(node.run / "metadata/control.sock"))
        with connection.makefile("rwb") as file:
            text = json.dumps({"type": "hello", "seq": 1}).encode()
            file.write(struct.pack("<I", len(text)) + text)
            file.flush()
            (size,) = struct.unpack("<I", file.read(4))
            hello = json.loads(file.read(size))
    return {name: len(hello[name]) for name in ("tasks", "credentials", "served")}


def watches(node):
    """Directories that ecs-logs watches."""
    infos = pathlib.Path(f"/proc/{node.pid('logs')}/fdinfo").iterdir()
    return sum(path.read_text().count("inotify wd:") for path in infos)


def memory(node):
    """What the daemons remember of tasks."""
    found = Counter({f"memory of agent: {name}": n for name, n in agent_keeps(node).items() if name != "heap_kib"})
    found += Counter({f"memory of metadata: {name}": n for name, n in metadata_has(node).items()})
    found["memory of logs: watches"] = watches(node)
    return found


def traces(node):
    """All of that, and what Node.leftovers() finds; what is 0 is left out."""
    found = Counter({f"rows: {table}": count for table, count in rows(node).items()})
    found += descriptors(node) + programs(node) + files(node) + memory(node)
    found["left of tasks"] = len(node.leftovers())
    return +found


def left(before, after):
    """What there is more of after many tasks, as {what: count}."""
    return {
        what: count for what, count in (after - before).items()
        if not (what.startswith("descriptors ") and count <= KEPT_OPEN)
    }  # fmt: skip
