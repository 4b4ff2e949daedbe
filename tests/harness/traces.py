"""What tasks could leave behind on a node, counted, to be compared before and after."""

import os
import pathlib
import sqlite3
from collections import Counter

from .node import DAEMONS

TABLES = ("tasks", "containers", "outbox")
KEPT_OPEN = 10  # connections to AWS may be kept for the next request


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


def traces(node):
    """All of that, and what Node.leftovers() finds; what is 0 is left out."""
    found = Counter({f"rows: {table}": count for table, count in rows(node).items()})
    found += descriptors(node) + programs(node) + files(node)
    found["left of tasks"] = len(node.leftovers())
    return +found


def left(before, after):
    """What there is more of after many tasks, as {what: count}."""
    return {
        what: count for what, count in (after - before).items()
        if not (what.startswith("descriptors ") and count <= KEPT_OPEN)
    }  # fmt: skip
