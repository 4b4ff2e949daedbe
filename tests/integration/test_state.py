"""The agent's state on a whole node: damaged, of another cluster, of a newer agent."""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import urllib.request

import pytest
from controlplane.client import wait_for
from harness.node import Node
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


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def truncated(path):
    with open(path, "r+b") as file:
        file.truncate(4096 + 77)


def garbage(path):
    """Every page but the first, which says what tables there are."""
    data = path.read_bytes()
    path.write_bytes(data[:4096] + os.urandom(len(data) - 4096))


def deleted(path):
    path.unlink()


def a_directory(path):
    path.unlink()
    path.mkdir()


def somebody_elses(path):
    os.chown(path, 0, 0)
    path.chmod(0o400)


def read_only(path):
    path.chmod(0o400)


def lose_state(node, damage):
    """With the agent away: its log is merged, then the database is damaged."""
    with sqlite3.connect(database(node)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    damage(database(node))


COUNT = "i=0; trap 'exit 42' TERM; while :; do i=$((i+1)); echo tick $i; usleep 50000; done"


@pytest.mark.parametrize(
    "damage", [zeros, truncated, garbage, deleted, a_directory, somebody_elses, read_only], ids=lambda f: f.__name__
)
def test_running_tasks_outlive_a_damaged_state(node, busybox, damage):
    """Bridge and host network, a published port, a role, logs: the state is lost, nothing else."""
    serve = "trap 'exit 42' TERM; echo hi >/tmp/i; httpd -f -p 80 -h /tmp & while :; do wait; done"
    arns = {
        "web": node.standin.run_task(
            task(container(busybox, serve, portMappings=[{"containerPort": 80, "hostPort": 0}]))
        ),
        "host": node.standin.run_task(task(container(busybox, COUNT), network_mode="host")),
        "short": node.standin.run_task(task(container(busybox, "trap 'exit 7' USR1; while :; do usleep 50000; done"))),
    }  # fmt: skip
    for arn in arns.values():
        node.standin.wait_task(arn, "RUNNING")
    port = node.standin.task(arns["web"])["containers"][0]["networkBindings"][0]["hostPort"]
    instance = node.standin.instance()["arn"]
    supervisors = {arn: node.supervisor_pid(arn) for arn in arns.values()}
    wait_for(lambda: saved(node, "container-instance-arn"), 10, "the registration is not saved")

    node.kill("agent")
    # It exits while nobody knows of it.
    for pid in node.task_processes(arns["short"]) - {supervisors[arns["short"]]}:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    lose_state(node, damage)
    node.start_daemon("agent")

    assert node.standin.wait_task(arns["short"], "STOPPED")["containers"][0]["exitCode"] == 7
    node.wait_connected()
    assert node.standin.instance()["arn"] == instance
    assert len(node.standin.state()["instances"]) == 1
    if damage is not read_only:  # which is simply made writable again
        assert damage is deleted or list(database(node).parent.glob("agent.db.damaged-*"))
    for name in ("web", "host"):
        assert node.supervisor_pid(arns[name]) == supervisors[arns[name]]
        assert node.standin.task(arns[name])["lastStatus"] == "RUNNING"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/i", timeout=5) as response:
        assert response.read() == b"hi\n"

    for name in ("web", "host"):
        node.standin.stop_task(arns[name])
        assert node.standin.wait_task(arns[name], "STOPPED")["containers"][0]["exitCode"] == 42
    node.wait_clean(60)
    wait_for(lambda: [m for m in node.logs("g") if m.startswith("tick ")], 30, "no line arrived")
    numbers = [int(line.split()[1]) for line in node.logs("g") if line.startswith("tick ")]
    assert sorted(set(numbers)) == list(range(1, max(numbers) + 1)), "a line is missing"


OTHER = "i-0fedcba9876543210"


def become(node, instance_id):
    """The host is another EC2 instance from now on."""
    document = {
        "accountId": "111122223333", "architecture": "x86_64", "availabilityZone": "us-west-2a",
        "imageId": "ami-0123456789abcdef0", "instanceId": instance_id, "instanceType": "m5.large",
        "privateIp": "10.0.0.11", "region": node.standin.region, "version": "2017-09-30",
    }  # fmt: skip
    node.standin.set_imds("meta-data/instance-id", instance_id)
    node.standin.set_imds("dynamic/instance-identity/document", json.dumps(document))


def test_a_supervisor_that_knows_nothing_is_removed_with_its_task(node, busybox):
    """A record of another instance."""
    arn = node.standin.run_task(task(container(busybox, "trap 'exit 0' TERM; sleep 1000 & wait")))
    node.standin.wait_task(arn, "RUNNING")
    assert node.supervisor_pid(arn)
    node.kill("agent", 15)
    lose_state(node, deleted)
    become(node, OTHER)
    node.start_daemon("agent")
    wait_for(lambda: node.supervisor_pid(arn) is None, 60, "the supervisor of a lost task goes on")
    node.wait_clean(60)


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


def change(node, *statements):
    with sqlite3.connect(database(node)) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


def test_a_state_of_a_newer_agent_that_changed_the_schema_is_refused_and_kept(node):
    node.kill("agent", 15)
    change(node, "PRAGMA user_version=99", "UPDATE instance SET value='99' WHERE key='schema-compatible'")
    node.start_daemon("agent")
    assert wait_exit(node) == 5
    with sqlite3.connect(database(node)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (99,)
        assert db.execute("SELECT value FROM instance WHERE key='cluster'").fetchone()
    db.close()


def test_a_state_of_a_newer_agent_that_only_added_is_used_and_keeps_the_additions(node, busybox):
    arn = node.standin.run_task(task(container(busybox, "trap 'exit 42' TERM; while :; do usleep 50000; done")))
    node.standin.wait_task(arn, "RUNNING")
    supervisor = node.supervisor_pid(arn)
    node.kill("agent", 15)
    with sqlite3.connect(f"file:{database(node)}?mode=ro", uri=True) as db:
        newer = db.execute("PRAGMA user_version").fetchone()[0] + 1
    change(
        node, "ALTER TABLE tasks ADD COLUMN colour TEXT NOT NULL DEFAULT 'none'",
        "ALTER TABLE containers ADD COLUMN restarts INTEGER NOT NULL DEFAULT 0",
        "UPDATE tasks SET colour='blue'", "UPDATE containers SET restarts=3", f"PRAGMA user_version={newer}",
    )  # fmt: skip
    node.start_daemon("agent")
    node.wait_connected()
    second = node.standin.run_task(task(container(busybox, "exit 3")))
    assert node.standin.wait_task(second, "STOPPED")["containers"][0]["exitCode"] == 3
    node.standin.stop_task(arn)
    assert node.standin.wait_task(arn, "STOPPED")["containers"][0]["exitCode"] == 42
    assert supervisor
    with sqlite3.connect(f"file:{database(node)}?mode=ro", uri=True) as db:
        found = dict(db.execute("SELECT arn, colour FROM tasks"))
        assert found == {arn: "blue", second: "none"}
        assert db.execute("SELECT restarts FROM containers WHERE task_arn=?", (arn,)).fetchone() == (3,)
        assert db.execute("PRAGMA user_version").fetchone() == (newer,)


def restart_host(node, orderly):
    """The host goes down, tasks told before or not, and comes up with another boot id."""
    supervisors = [pid for pid in map(node.supervisor_pid, (t["arn"] for t in node.standin.tasks())) if pid]
    node.kill("agent", signal.SIGTERM)
    for daemon in ("launcher", "logs", "metadata"):
        if not orderly:
            node.kill(daemon)
    for pid in supervisors:
        os.kill(pid, signal.SIGTERM if orderly else signal.SIGKILL)
    wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in supervisors), 30, "a supervisor goes on")
    for daemon in ("launcher", "logs", "metadata"):
        if orderly:
            node.kill(daemon, signal.SIGTERM)
    node.kill_tasks()
    node._remove_network()
    node._remove_cgroups()
    shutil.rmtree(node.run)
    change(node, "UPDATE instance SET value='another boot' WHERE key='boot-id'")
    node.start()


@pytest.mark.parametrize("orderly", [True, False], ids=["orderly", "power loss"])
def test_a_restart_of_the_host(node, busybox, orderly):
    """Exit codes where there are any, a reason where not; the same instance; nothing is left."""
    stop = "trap 'echo last words; exit 42' TERM; while :; do usleep 50000; done"
    arns = [node.standin.run_task(task(container(busybox, stop))) for _ in range(2)]
    sidecar = node.standin.run_task(
        task(
            container(busybox, "trap 'exit 3' TERM; while :; do usleep 50000; done", name="db"),
            container(busybox, "trap 'usleep 300000; exit 4' TERM; while :; do usleep 50000; done", name="app",
                      dependsOn=[{"containerName": "db", "condition": "START"}]),
        )
    )  # fmt: skip
    for arn in [*arns, sidecar]:
        node.standin.wait_task(arn, "RUNNING")
    instance = node.standin.instance()["arn"]
    wait_for(lambda: saved(node, "boot-id"), 10, "no boot id is kept")
    restart_host(node, orderly)

    for arn in arns:
        found = node.standin.wait_task(arn, "STOPPED")
        assert found["stoppedReason"] == "The host was restarted while the task was running"
        if orderly:
            assert found["containers"][0]["exitCode"] == 42
        else:
            assert "exitCode" not in found["containers"][0]
            assert found["containers"][0]["reason"].startswith("ContainerVanishedError: The host was restarted")
    found = {c["name"]: c for c in node.standin.wait_task(sidecar, "STOPPED")["containers"]}
    if orderly:
        assert (found["app"]["exitCode"], found["db"]["exitCode"]) == (4, 3)
    node.wait_connected()
    assert node.standin.instance()["arn"] == instance
    if orderly:
        node.wait_clean(60)
        assert node.logs("g").count("last words") == 2
    else:  # what was not shipped before waits for keys that went with the power
        wait_for(lambda: all("/spool/" in line for line in node.leftovers()), 60,
                 lambda: "left: " + "\n".join(node.leftovers()))  # fmt: skip
    again = node.standin.run_task(task(container(busybox, "exit 5")))
    assert node.standin.wait_task(again, "STOPPED")["containers"][0]["exitCode"] == 5


def clone(node, other):
    """Stop the node where it stands, and give another its disk."""
    for daemon in list(node.processes):
        node.kill(daemon)
    node.kill_tasks()
    node._remove_network()
    node._remove_cgroups()
    shutil.rmtree(other.state, ignore_errors=True)
    shutil.copytree(node.state, other.state, symlinks=True)
    for path in [node.state, *node.state.rglob("*")]:
        st = path.lstat()
        copy = other.state / path.relative_to(node.state)
        os.chown(copy, st.st_uid, st.st_gid, follow_symlinks=False)
    change(other, "UPDATE instance SET value='another boot' WHERE key='boot-id'")


def test_a_copy_of_a_node_registers_anew_and_says_nothing_for_the_other(node, busybox):
    """Tasks, unsent events and unshipped logs in the state belong to the host it was copied from."""
    stop = "trap 'exit 42' TERM; echo secret line; while :; do usleep 50000; done"
    arns = [node.standin.run_task(task(container(busybox, stop))) for _ in range(2)]
    for arn in arns:
        node.standin.wait_task(arn, "RUNNING")
    wait_for(lambda: node.logs("g").count("secret line") == 2, 30, "no line arrived")
    # From here on nothing gets out: what is in the state is unsent.
    node.kill("logs")
    node.standin.fault("ecs", "status", "SubmitTaskStateChange", status=503)
    ended = node.standin.run_task(task(container(busybox, "echo unshipped; exit 3")))

    def events():
        with sqlite3.connect(f"file:{database(node)}?mode=ro", uri=True) as db:
            return db.execute("SELECT count(*) FROM outbox WHERE task_arn=?", (ended,)).fetchone()[0]

    wait_for(lambda: events() >= 2, 30, "no event is in the outbox")
    images = {path.name for path in (node.state / "images/layers").iterdir()}
    with Node(start=False) as other:
        wait_for(lambda: saved(node, "boot-id"), 10, "no boot id is kept")
        clone(node, other)
        become(other, OTHER)
        other.start()
        assert other.standin.instance()["ec2InstanceId"] == OTHER
        assert {path.name for path in (other.state / "images/layers").iterdir()} == images
        other.wait_clean(30)
        assert len(list(database(other).parent.glob("agent.db.damaged-*[0-9]"))) == 1
        again = other.standin.run_task(task(container(busybox, "echo of its own; exit 5")))
        assert other.standin.wait_task(again, "STOPPED")["containers"][0]["exitCode"] == 5
        wait_for(lambda: other.logs("g"), 30, "no line arrived")
        other.wait_clean(30)
        assert other.logs("g") == ["of its own"]
        reported = {call["request"]["task"] for call in other.standin.calls("ecs", "SubmitTaskStateChange")}
        assert reported == {again}


def test_a_host_waits_to_be_told_whether_it_is_still_the_instance_of_its_state(node):
    """Started anew while the instance metadata is away: no registration before it says."""
    instance = node.standin.instance()["arn"]
    wait_for(lambda: saved(node, "boot-id"), 10, "no boot id is kept")
    node.kill("agent", signal.SIGTERM)
    change(node, "UPDATE instance SET value='another boot' WHERE key='boot-id'")
    calls = len(node.standin.calls("ecs", "RegisterContainerInstance"))
    node.standin.fault("imds", "reset")
    node.start_daemon("agent")
    wait_for(lambda: "waiting for the instance metadata" in node.log_path("agent").read_text(), 60, "it does not wait")
    assert len(node.standin.calls("ecs", "RegisterContainerInstance")) == calls
    node.standin.clear_faults()
    node.wait_connected()
    assert node.standin.instance()["arn"] == instance


def test_a_restart_of_the_agent_alone_needs_no_instance_metadata(node, busybox):
    arn = node.standin.run_task(task(container(busybox, "trap 'exit 42' TERM; while :; do usleep 50000; done")))
    node.standin.wait_task(arn, "RUNNING")
    instance = node.standin.instance()["arn"]
    wait_for(lambda: saved(node, "boot-id"), 10, "no boot id is kept")
    node.kill("agent")
    node.standin.fault("imds", "reset")
    node.start_daemon("agent")
    node.wait_connected()
    assert node.standin.instance()["arn"] == instance
    node.standin.stop_task(arn)
    assert node.standin.wait_task(arn, "STOPPED")["containers"][0]["exitCode"] == 42


def test_another_machine_id_makes_another_instance_where_there_is_no_ec2(node):
    wait_for(lambda: saved(node, "machine-id"), 10, "no machine id is kept")
    node.kill("agent", signal.SIGTERM)
    change(
        node, "DELETE FROM instance WHERE key='ec2-instance-id'",
        "UPDATE instance SET value='00000000000000000000000000000000' WHERE key='machine-id'",
    )  # fmt: skip
    node.start_daemon("agent")
    wait_for(lambda: len(node.standin.state()["instances"]) == 2, 30, "it does not register anew")
    assert len(list(database(node).parent.glob("agent.db.damaged-*[0-9]"))) == 1


def test_records_go_after_the_cleanup_time_and_hold_no_secret(busybox):
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
