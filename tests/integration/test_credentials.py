"""Each task its own role: real SDKs inside containers, and neighbours that try to steal it."""

import json
import os
import pathlib
import signal

import pytest
from controlplane.client import wait_for
from harness import sdkimage
from harness.node import Node
from harness.taskdef import container, task

LONG = "trap 'exit 0' TERM; while :; do usleep 100000; done"


@pytest.fixture(scope="session")
def sdk(registry, tmp_path_factory):
    reference = f"{registry.host}/sdk:1"
    sdkimage.push(tmp_path_factory.mktemp("sdk"), reference)
    return reference


def log_json(node, group):
    def documents():
        found = []
        for line in node.logs(group):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [d for d in found if isinstance(d, dict)]

    return wait_for(documents, 90, lambda: f"log is {node.logs(group)}")


def address(found):
    return found["containers"][0]["address"]


@pytest.mark.parametrize("mode", ["bridge", "host"])
def test_an_unmodified_boto3_gets_its_task_role(node, sdk, mode):
    script = """
import json, boto3
c = boto3.Session().get_credentials()
f = c.get_frozen_credentials()
print(json.dumps({"method": c.method, "key": f.access_key}))
"""
    arn = node.standin.run_task(
        task(container(sdk, ["/usr/bin/python3", "-c", script], logs="sdk", memory=256), network_mode=mode)
    )
    found = node.standin.wait_task(arn, "STOPPED", 90)
    document = log_json(node, "sdk")[0]
    assert document["method"] == "container-role"
    assert found["containers"][0]["exitCode"] == 0
    node.wait_clean()


def test_an_unmodified_awscli_calls_with_its_task_role(node, sdk):
    ca = pathlib.Path(node.standin.ca).read_text()
    port = node.endpoint.rsplit(":", 1)[1]
    script = (
        f"cat >/tmp/ca.pem <<'E'\n{ca}\nE\nexport AWS_CA_BUNDLE=/tmp/ca.pem; "
        f"aws sts get-caller-identity --endpoint-url https://172.29.0.1:{port} | tr -d '\\n'; echo"
    )
    arn = node.standin.run_task(task(container(sdk, script, logs="cli", memory=256)))
    node.standin.wait_task(arn, "STOPPED", 120)
    document = log_json(node, "cli")[0]
    assert ":assumed-role/app/" in document["Arn"]


def test_another_task_that_knows_the_uri_is_refused(node, busybox):
    victim = node.standin.run_task(task(container(busybox, "echo $AWS_CONTAINER_CREDENTIALS_RELATIVE_URI; " + LONG, logs="victim")))
    node.standin.wait_task(victim, "RUNNING")
    uri = wait_for(lambda: node.logs("victim"), 60, "no uri")[0]
    script = f"wget -S -O - http://169.254.170.2{uri} 2>&1; echo done"
    thief = node.standin.run_task(task(container(busybox, script, logs="thief")))
    node.standin.wait_task(thief, "STOPPED")
    lines = wait_for(lambda: "done" in node.logs("thief") and node.logs("thief"), 60, "no log")
    text = "\n".join(lines)
    assert "400" in text and "AccessKeyId" not in text
    node.standin.stop_task(victim)
    node.standin.wait_task(victim, "STOPPED")


def test_a_neighbour_that_routes_the_address_through_the_task_is_refused(node, busybox):
    script = "echo $AWS_CONTAINER_CREDENTIALS_RELATIVE_URI $(hostname -i); " + LONG
    victim = node.standin.run_task(task(container(busybox, script, logs="victim")))
    node.standin.wait_task(victim, "RUNNING")
    uri, ip = wait_for(lambda: node.logs("victim"), 60, "no uri")[0].split()
    script = (
        "ip addr del 169.254.170.2/32 dev lo; "
        f"ip route add 169.254.170.2/32 via {ip} && echo routed; "
        f"for p in 80 51679; do timeout 3 wget -T 2 -O - http://169.254.170.2:$p{uri} 2>&1; done; echo done"
    )
    thief = node.standin.run_task(
        task(container(busybox, script, logs="thief", linuxParameters={"capabilities": {"add": ["NET_ADMIN"]}}))
    )
    node.standin.wait_task(thief, "STOPPED", 60)
    lines = wait_for(lambda: "done" in node.logs("thief") and node.logs("thief"), 60, "no log")
    text = "\n".join(lines)
    assert "routed" in text and "AccessKeyId" not in text
    node.standin.stop_task(victim)
    node.standin.wait_task(victim, "STOPPED")


def test_a_container_may_bind_port_80_of_all_addresses(node, busybox):
    script = (
        "httpd -p 0.0.0.0:80 -h /etc; wget -q -O - http://127.0.0.1/group | head -1; "
        "wget -q -O - http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI | grep -c AccessKeyId"
    )
    arn = node.standin.run_task(task(container(busybox, script, logs="port80")))
    node.standin.wait_task(arn, "STOPPED")
    wait_for(lambda: node.logs("port80") == ["root:x:0:", "1"], 60,
             lambda: f"{node.logs('port80')}")  # fmt: skip


def test_credentials_are_served_while_the_agent_is_away_and_refreshed_after(node, busybox):
    script = (
        "trap 'exit 0' TERM; while :; do "
        "wget -q -O - http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI || echo '{\"failed\":1}'; echo; usleep 200000; done"
    )
    arn = node.standin.run_task(task(container(busybox, script, logs="away")))
    node.standin.wait_task(arn, "RUNNING")
    first = log_json(node, "away")[0]["AccessKeyId"]
    node.kill("agent")
    count = len(log_json(node, "away"))
    wait_for(lambda: len(log_json(node, "away")) > count + 5, 60, "nothing is served")
    node.start_daemon("agent")
    node.wait_connected()
    node.standin.refresh_credentials()
    wait_for(lambda: log_json(node, "away")[-1].get("AccessKeyId") not in (first, None), 60, "not refreshed")
    assert not [d for d in log_json(node, "away") if "failed" in d]
    # A metadata server that lost its memory is filled again.
    node.restart("metadata")
    count = len(log_json(node, "away"))
    wait_for(lambda: [d for d in log_json(node, "away")[count + 3 :] if "AccessKeyId" in d], 60, "not refilled")
    node.standin.stop_task(arn)
    node.standin.wait_task(arn, "STOPPED")
    node.wait_clean()


ASKING = (
    "trap 'exit 0' TERM; i=0; while :; do i=$((i+1)); "
    "k=$(wget -q -O - http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI 2>/dev/null | grep -o 'ASIA[A-Z0-9]*\\|AKIA[A-Z0-9]*' | head -1); "
    "echo $i ${k:-failed}; usleep 100000; done"
)


def test_both_roles_survive_the_end_of_every_daemon(busybox):
    """Killed together, with the agent staying away: only the service manager is left to hold what the
    container asks for and what its logs are sent with."""
    with Node(managed=True) as node:
        arn = node.standin.run_task(task(container(busybox, ASKING, logs="kept")))
        node.standin.wait_task(arn, "RUNNING")
        wait_for(lambda: len(node.logs("kept")) > 3, 60, "no log")
        for how in (signal.SIGKILL, signal.SIGTERM):
            for daemon in ("agent", "metadata", "logs"):
                node.processes[daemon].send_signal(how)
            for daemon in ("agent", "metadata", "logs"):
                node.processes.pop(daemon).wait(timeout=20)
            node.start_daemon("metadata")
            node.start_daemon("logs")
            count = len(node.logs("kept"))
            wait_for(lambda: len(node.logs("kept")) > count + 10, 60, lambda: f"no more than {count} lines")
            node.start_daemon("agent")
            node.wait_connected()
        node.standin.stop_task(arn)
        found = node.standin.wait_task(arn, "STOPPED")
        assert found["containers"][0]["exitCode"] == 0
        lines = wait_for(lambda: complete(node.logs("kept")), 60, lambda: f"{node.logs('kept')}")
        # A request that is under way when its server is killed may fail, nothing after it.
        assert sum(line.endswith(" failed") for line in lines) <= 1, lines
        node.wait_clean()
        wait_for(lambda: not [n for n in node.manager.names() if n not in ("memory", "host", "link", "audit")],
                 20, lambda: f"{node.manager.names()}")  # fmt: skip


def complete(lines):
    """The lines in order without repetitions, if none is missing up to the last."""
    by_number = {int(line.split()[0]): line for line in lines}
    numbers = sorted(by_number)
    return [by_number[n] for n in numbers] if numbers == list(range(1, len(numbers) + 1)) else None


def test_sockets_that_the_service_manager_lost_are_fetched_again(busybox):
    with Node(managed=True) as node:
        arn = node.standin.run_task(task(container(busybox, ASKING, logs="lost")))
        node.standin.wait_task(arn, "RUNNING")
        wait_for(lambda: len(node.logs("lost")) > 3, 60, "no log")
        node.kill("metadata")
        with node.manager.lock:
            for entry in [e for e in node.manager.stored if e.name != "memory"]:
                os.close(entry.fd)
                node.manager.stored.remove(entry)
        node.start_daemon("metadata")
        count = len(node.logs("lost"))
        wait_for(lambda: len(node.logs("lost")) > count + 10, 60, "the endpoint is not served again")
        assert not node.logs("lost")[-1].endswith(" failed")
        wait_for(lambda: {"memory", "host", "link"} < set(node.manager.names()), 20,
                 lambda: f"{node.manager.names()}")  # fmt: skip
        node.standin.stop_task(arn)
        node.standin.wait_task(arn, "STOPPED")
        node.wait_clean()


def test_metadata_describes_the_task(node, busybox):
    script = 'wget -q -O - "$ECS_CONTAINER_METADATA_URI_V4/task"; echo; wget -q -O - "$ECS_CONTAINER_METADATA_URI_V4"; echo'
    arn = node.standin.run_task(task(container(busybox, script, logs="meta"), family="fam"))
    node.standin.wait_task(arn, "STOPPED")
    wait_for(lambda: len(log_json(node, "meta")) == 2, 60, lambda: f"{node.logs('meta')}")
    whole, own = log_json(node, "meta")
    assert whole["TaskARN"] == arn and whole["Family"] == "fam" and whole["Cluster"] == "default"
    assert own["Name"] == "app" and own["Networks"][0]["NetworkMode"] == "bridge"
    assert own["Networks"][0]["IPv4Addresses"][0].startswith("172.29.")


def read(path):
    """What a file holds; nothing where it went away or is no plain file."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_secrets_are_nowhere_on_disk_or_in_logs(node, busybox):
    canaries = {"accessKeyId": "AKIACANARY0000000001", "secretAccessKey": "CANARY/secret/0123456789",
                "sessionToken": "CANARYtoken0123456789"}  # fmt: skip
    arn = node.standin.send_task({
        "arn": "arn:aws:ecs:us-west-2:111122223333:task/default/0000000000000000000000000000cafe",
        "desiredStatus": "RUNNING", "family": "canary", "version": "1", "networkMode": "bridge",
        "roleCredentials": {"credentialsId": "canary-1", "roleArn": "arn:aws:iam::111122223333:role/app",
                            "expiration": "2035-01-01T00:00:00Z", **canaries},
        "containers": [{
            "name": "app", "image": busybox, "essential": True, "memory": 64,
            "command": ["/bin/sh", "-c", "wget -q -O /dev/null http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI && echo served; " + LONG],
            "dockerConfig": {"config": "{}", "hostConfig": "{\"NetworkMode\":\"bridge\"}", "version": "1.18"},
        }],
    })  # fmt: skip
    node.standin.wait_task(arn, "RUNNING")
    output = node.state / "logs"
    wait_for(lambda: any(b"served" in read(p) for p in output.rglob("*")), 30,
             lambda: f"not served: {list(output.rglob('*'))}")  # fmt: skip
    looked_at = 0
    for directory, _, files in os.walk(node.base):
        if "standin" in pathlib.Path(directory).relative_to(node.base).parts:
            continue
        for name in files:
            data = read(pathlib.Path(directory, name))
            looked_at += bool(data)
            for canary in ("secretAccessKey", "sessionToken"):
                assert canaries[canary].encode() not in data, (directory, name)
    assert looked_at > 5
    pids = [process.pid for process in node.processes.values()] + list(node.task_processes(arn))
    for pid in pids:
        for file in ("environ", "cmdline"):
            assert b"CANARY" not in read(pathlib.Path(f"/proc/{pid}/{file}")), (pid, file)
    node.standin.stop_task(arn)
    node.standin.wait_task(arn, "STOPPED")


def test_the_audit_log_has_a_line_for_each_credentials_request(busybox):
    import pwd

    from harness.node import Node

    with Node(start=False) as node:
        user = pwd.getpwnam("ecs-agent")
        (node.base / "audit").mkdir()
        os.chown(node.base / "audit", user.pw_uid, user.pw_gid)
        path = node.base / "audit" / "audit.log"
        node.config["ECS_AUDIT_LOGFILE"] = str(path)
        node.write_config()
        node.start()
        script = "wget -q -O /dev/null http://169.254.170.2$AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"
        arn = node.standin.run_task(task(container(busybox, script, logs=None)))
        node.standin.wait_task(arn, "STOPPED")
        lines = wait_for(lambda: path.exists() and path.read_text().splitlines(), 20, "no audit line")
        fields = lines[0].split(" ")
        assert fields[1] == "200" and fields[3] == '"/v2/credentials"' and arn in fields
        assert "GetCredentials" in fields
