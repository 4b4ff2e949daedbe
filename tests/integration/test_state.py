"""The agent's state on a whole node: damaged, of another cluster, of a newer agent."""

import sqlite3

from controlplane.client import wait_for
from harness.taskdef import container, task


def database(node):
    return node.state / "data/agent.db"


def saved(node, key):
    with sqlite3.connect(f"file:{database(node)}?mode=ro", uri=True) as db:
        return db.execute("SELECT value FROM instance WHERE key=?", (key,)).fetchone()


def wait_exit(node):
    """The exit code of an agent that ends by itself."""
    process = node.processes.pop("agent")
    return process.wait(timeout=20)


def test_a_damaged_state_is_set_aside_and_its_tasks_are_removed(node, busybox):
    arn = node.standin.run_task(task(container(busybox, "trap 'exit 0' TERM; sleep 1000 & wait")))
    node.standin.wait_task(arn, "RUNNING")
    supervisor = node.supervisor_pid(arn)
    assert supervisor
    node.kill("agent")
    database(node).write_bytes(b"this is no database" * 1000)
    for suffix in ("-wal", "-shm"):
        database(node).with_name("agent.db" + suffix).unlink(missing_ok=True)

    node.start_daemon("agent")
    wait_for(lambda: node.supervisor_pid(arn) is None, 60, "the supervisor of a lost task goes on")
    node.wait_clean(60)
    assert list(database(node).parent.glob("agent.db.damaged-*"))
    wait_for(lambda: saved(node, "container-instance-arn"), 30, "the node does not register anew")


def test_a_state_of_another_cluster_ends_the_agent_for_good_and_leaves_tasks(node, busybox):
    arn = node.standin.run_task(task(container(busybox, "sleep 1000", stopTimeout=2)))
    node.standin.wait_task(arn, "RUNNING")
    node.kill("agent", 15)
    before = node.config["ECS_CLUSTER"]
    node.config["ECS_CLUSTER"] = "another"
    node.write_config()
    node.start_daemon("agent")
    assert wait_exit(node) == 5
    assert node.supervisor_pid(arn)

    node.config["ECS_CLUSTER"] = before
    node.write_config()
    node.start_daemon("agent")
    node.wait_connected()
    node.standin.stop_task(arn)
    node.standin.wait_task(arn, "STOPPED")


def test_a_state_of_a_newer_agent_is_refused_and_kept(node):
    node.kill("agent", 15)
    with sqlite3.connect(database(node)) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    node.start_daemon("agent")
    assert wait_exit(node) == 5
    with sqlite3.connect(database(node)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)
        assert db.execute("SELECT value FROM instance WHERE key='cluster'").fetchone()
    db.close()


def test_records_go_after_the_cleanup_time_and_hold_no_secret(busybox):
    from harness.node import Node

    with Node({"ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION": "1s"}) as node:
        arn = node.standin.run_task(task(container(busybox, "exit 0")))
        node.standin.wait_task(arn, "STOPPED")

        def rows():
            with sqlite3.connect(f"file:{database(node)}?mode=ro", uri=True) as db:
                return [db.execute(f"SELECT count(*) FROM {t}").fetchone()[0]
                        for t in ("tasks", "containers", "outbox")]  # fmt: skip

        wait_for(lambda: rows() == [0, 0, 0], 30, lambda: f"rows left: {rows()}")
        for path in database(node).parent.glob("agent.db*"):
            assert b"SecretAccessKey" not in path.read_bytes()
