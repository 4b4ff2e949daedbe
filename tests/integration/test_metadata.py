"""ecs-metadata as containers, ecs-agent and other programs meet it, in network namespaces of its own."""

import contextlib
import errno
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

import syscall_in
from builddir import needs_root
from metadata import ADDRESS, Cgroup2, Control, Metadata, cgroup2_top, libc, run
from users import uid
from waiting import wait_for

pytestmark = needs_root

@pytest.fixture
def stopped():
    it = Metadata()
    yield it
    it.clean()


@pytest.fixture
def metadata(stopped):
    return stopped.start()


@pytest.fixture
def complete(metadata):
    metadata.control.ok(type="complete")
    return metadata


def credentials_error(code, message, status, version=2):
    return {"code": code, "message": f"CredentialsV{version}Request: {message}",
            "HTTPErrorCode": status}


# Credentials


def test_a_container_gets_its_credentials(complete):
    ns = complete.serve()
    complete.put("c1")
    for path in ("/v2/credentials/c1", "/v1/credentials?id=c1"):
        status, body, headers = ns.get(path)
        assert (status, headers["Content-Type"]) == (200, "application/json")
        document = json.loads(body)
        assert list(document) == ["RoleArn", "AccessKeyId", "SecretAccessKey", "Token", "Expiration"]
        assert document["SecretAccessKey"] == "secret/key"
        assert document["Token"] == "token+/="


def test_botocore_fetches_them(complete):
    ns = complete.serve()
    complete.put("c1")
    script = """
import botocore.session
found = botocore.session.get_session().get_credentials().get_frozen_credentials()
print(found.access_key, found.secret_key, found.token)
"""
    done = ns.exec(sys.executable, "-c", script, env={
        "PATH": os.environ["PATH"], "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/c1",
        "AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_CONFIG_FILE": "/nonexistent"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ASIAEXAMPLE", "secret/key", "token+/="]


def test_the_credentials_of_a_neighbour_are_unknown(complete):
    mine, theirs = complete.serve("t1"), complete.serve("t2")
    complete.put("c1", "t1")
    complete.put("c2", "t2")
    assert mine.get("/v2/credentials/c1")[0] == 200
    status, body, _ = mine.get("/v2/credentials/c2")
    assert (status, json.loads(body)) == \
        (400, credentials_error("InvalidIdInRequest", "Credentials not found", 400))
    assert mine.get("/v2/credentials/c2")[1] == mine.get("/v2/credentials/no-such-id")[1]
    assert theirs.get("/v1/credentials?id=c1")[0] == 400
    assert theirs.get("/v2/credentials/c2")[0] == 200


def test_the_credentials_of_the_instance_are_for_no_container(complete):
    ns = complete.serve()
    complete.put("instance", task=None, role_type="Instance", taskArn=None)
    assert ns.get("/v2/credentials/instance")[0] == 400


@pytest.mark.parametrize("path,version", [
    ("/v2/credentials/", 2), ("/v2/credentials", 2), ("/v1/credentials", 1), ("/v1/credentials?id=", 1),
])
def test_a_missing_id_is_told(complete, path, version):
    status, body, _ = complete.serve().get(path)
    assert status == 400
    assert json.loads(body) == \
        credentials_error("NoIdInRequest", "No Credential ID in the request", 400, version)


def test_expired_credentials_are_never_answered(complete):
    ns = complete.serve()
    complete.put("c1", seconds=-1)
    status, body, _ = ns.get("/v2/credentials/c1")
    assert (status, json.loads(body)) == \
        (503, credentials_error("CredentialsExpired", "Credentials expired", 503))
    complete.put("c1")
    assert ns.get("/v2/credentials/c1")[0] == 200


def test_any_method_is_answered(complete):
    ns = complete.serve()
    complete.put("c1")
    for method in ("GET", "PUT", "DELETE", "OPTIONS", "POST"):
        assert ns.get("/v2/credentials/c1", method, {"Content-Length": "0"})[0] == 200, method
    status, body, headers = ns.get("/v2/credentials/c1", "HEAD")
    assert (status, body) == (200, "")
    assert int(headers["Content-Length"]) > 50


def test_a_connection_can_be_used_again(complete):
    ns = complete.serve()
    complete.put("c1")
    with ns.connect() as s:
        connection = http.client.HTTPConnection(ADDRESS)
        connection.sock = s
        for _ in range(50):
            connection.request("GET", "/v2/credentials/c1")
            assert json.loads(connection.getresponse().read())["AccessKeyId"] == "ASIAEXAMPLE"
        assert connection.sock is s


def test_removed_and_released_credentials_are_gone(complete):
    ns = complete.serve()
    complete.put("c1")
    complete.put("c2", role_type="TaskExecution")
    complete.control.ok(type="remove-credentials", credentialsId="c1")
    assert ns.get("/v2/credentials/c1")[0] == 400
    assert ns.get("/v2/credentials/c2")[0] == 200
    complete.control.ok(type="release", taskId="t1")
    answer = complete.control.send(type="get-credentials", credentialsId="c2")
    assert answer["type"] == "credentials", "the logs of a stopped task may still be shipped"
    complete.control.ok(type="release", taskId="t1", all=True)
    assert complete.control.refused(type="get-credentials", credentialsId="c2")[0] == "ENOENT"


# Documents


def test_documents_are_for_the_containers_of_their_task(complete):
    mine, theirs = complete.serve("t1"), complete.serve("t2")
    documents = {"/v4/e1": {"DockerId": "d", "Name": "app"}, "/v4/e1/task": {"Family": "f"}}
    complete.control.ok(type="documents", taskId="t1", documents=documents)
    status, body, headers = mine.get("/v4/e1")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert json.loads(body) == documents["/v4/e1"]
    assert headers["X-Rate-Limit-Limit"] == "40.00"
    assert headers["X-Rate-Limit-Duration"] == "1"
    assert headers["X-Rate-Limit-Request-Remote-Addr"].startswith(ADDRESS + ":")
    assert json.loads(mine.get("/v4/e1/task")[1]) == documents["/v4/e1/task"]
    status, body, _ = theirs.get("/v4/e1")
    assert status == 404
    assert json.loads(body) == (
        "V4 container metadata handler: unable to get container ID from request: "
        "unable to get docker ID from v3 endpoint ID: e1")
    complete.control.ok(type="documents", taskId="t1", documents={})
    assert mine.get("/v4/e1")[0] == 404


def test_a_large_document_arrives_whole(complete):
    ns = complete.serve()
    text = "x" * 3_000_000
    complete.control.ok(type="documents", taskId="t1", documents={"/v4/e1": text})
    assert json.loads(ns.get("/v4/e1")[1]) == text


def test_unknown_paths_are_not_found(complete):
    status, body, headers = complete.serve().get("/v5/x")
    assert (status, body) == (404, "404 page not found\n")
    assert headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("path,clean", [
    ("//v2/credentials/c1", "/v2/credentials/c1"), ("/v4//e1/task?x=1", "/v4/e1/task?x=1"),
    ("/v1//credentials?id=c1", "/v1/credentials?id=c1"),
])
def test_duplicate_slashes_lead_to_the_clean_path(complete, path, clean):
    status, body, headers = complete.serve().get(path)
    assert (status, body, headers["Location"]) == (301, "", clean)


def test_metadata_is_rate_limited_and_credentials_are_not(complete):
    mine, theirs = complete.serve("t1"), complete.serve("t2")
    complete.put("c1")
    complete.control.ok(type="configure", cluster="blue", requestsPerSecond=1, burst=5)
    complete.control.ok(type="documents", taskId="t1", documents={"/v4/e1": {}, "/v4/e1/task": {}})
    answers = [mine.get("/v4/e1") for _ in range(20)]
    statuses = [a[0] for a in answers]
    assert statuses[:5] == [200] * 5
    assert 429 in statuses
    limited = answers[statuses.index(429)]
    assert limited[1] == "You have reached maximum request limit."
    assert limited[2]["Content-Type"] == "text/plain; charset=utf-8"
    assert mine.get("/v4/e1/task")[0] == 200, "another path"
    assert theirs.get("/v4/e1")[0] == 404, "another task"
    assert [mine.get("/v2/credentials/c1")[0] for _ in range(100)] == [200] * 100


# Who is asking


def test_a_peer_with_another_address_is_closed(complete):
    ns = complete.namespace()
    ns.ip("addr", "add", "10.99.0.1/32", "dev", "lo")
    complete.serve(namespace=ns)
    complete.put("c1")
    with ns.connect(source="10.99.0.1") as s:
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            s.sendall(b"GET /v2/credentials/c1 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert s.recv(1) == b""
    assert ns.get("/v2/credentials/c1")[0] == 200


def test_a_neighbour_that_routes_to_the_endpoint_is_closed(complete):
    """169.254.170.2 by way of the task's own address, as from a hostile container on the bridge."""
    task, hostile = complete.namespace(), complete.namespace(address=None)
    a, b = f"v{uuid.uuid4().hex[:8]}", f"v{uuid.uuid4().hex[:8]}"
    run("ip", "link", "add", a, "netns", task.name, "type", "veth", "peer", "name", b, "netns",
        hostile.name)
    task.ip("addr", "add", "10.98.0.1/24", "dev", a)
    task.ip("link", "set", a, "up")
    hostile.ip("addr", "add", "10.98.0.2/24", "dev", b)
    hostile.ip("link", "set", b, "up")
    hostile.ip("route", "add", f"{ADDRESS}/32", "via", "10.98.0.1")
    complete.serve(namespace=task)
    complete.put("c1")
    with contextlib.suppress(OSError):
        with hostile.connect() as s:
            s.sendall(b"GET /v2/credentials/c1 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert s.recv(1) == b""
    assert task.get("/v2/credentials/c1")[0] == 200


@pytest.fixture
def cgroups():
    made = [Cgroup2() for _ in range(3)]
    yield made
    for cgroup in made:
        cgroup.remove()


@pytest.fixture
def below_task():
    """What a container can make below its own cgroup."""
    made = [Cgroup2(f"ecstasks-{uuid.uuid4().hex}")]
    for name in ("app", "inner"):
        made.append(Cgroup2(name, made[-1]))
    yield made[-1]
    for cgroup in reversed(made):
        if cgroup.path.exists():
            cgroup.remove()


@pytest.fixture
def host(stopped):
    """Its network namespace is the host's."""
    host = stopped.namespace()
    stopped.start(namespace=host)
    stopped.control.ok(type="complete")
    with host.listen() as s:
        stopped.control.ok([s], type="serve-host")
    assert stopped.control.send(type="hello")["host"] is True
    return host


def test_in_host_mode_the_cgroup_tells_who_is_asking(stopped, host, cgroups):
    for i, cgroup in enumerate(cgroups[:2], 1):
        stopped.put(f"c{i}", f"t{i}", forMounts=True)
        stopped.control.ok(type="host-container", taskId=f"t{i}", container="app", cgroupId=cgroup.id)
    assert cgroups[0].fetch(host, "/v2/credentials/c1") == 200
    assert cgroups[0].fetch(host, "/v2/credentials/c2") == 400
    assert cgroups[1].fetch(host, "/v2/credentials/c2") == 200
    assert cgroups[1].fetch(host, "/v2/credentials/c1") == 400
    stopped.control.ok(type="release", taskId="t1")
    assert cgroups[0].fetch(host, "/v2/credentials/c1") == 400


def test_root_of_the_host_gets_roles_for_mounts_alone(stopped, host, cgroups, below_task):
    service = cgroups[0]
    stopped.put("c1", "t1", forMounts=True)
    stopped.put("c2", "t2")
    stopped.put("c3", "t3", forMounts=False)
    stopped.put("x1", "t1", "TaskExecution")
    stopped.put("instance", task=None, role_type="Instance", taskArn=None)
    assert service.fetch(host, "/v2/credentials/c1") == 200
    for other in ("c2", "c3", "x1", "instance", "unknown"):
        assert service.fetch(host, f"/v2/credentials/{other}") == 400, other
    assert service.fetch(host, "/v2/credentials/c1", user=65534) == 400
    # A container gets out of its task's cgroup neither by one that it makes below its own, nor by
    # having been in one that is no more.
    assert below_task.fetch(host, "/v2/credentials/c1") == 400
    gone = f"enter('{service.path}'); os.rmdir('{below_task.path}')"
    assert below_task.fetch(host, "/v2/credentials/c1", then=gone) == 400
    # It may change with the task's next credentials.
    stopped.put("c1", "t1")
    assert service.fetch(host, "/v2/credentials/c1") == 400
    stopped.put("c1", "t1", forMounts=True)
    assert service.fetch(host, "/v2/credentials/c1") == 200
    stopped.control.ok(type="release", taskId="t1")
    assert service.fetch(host, "/v2/credentials/c1") == 400
    assert stopped.control.refused(**PUT_EXECUTION, forMounts=True)[0] == "EINVAL"
    assert "forMounts" in stopped.control.refused(**PUT_EXECUTION, forMounts="yes")[1]


PUT_EXECUTION = {
    "type": "put-credentials", "credentialsId": "x2", "taskId": "t2", "roleType": "TaskExecution",
    "roleArn": "r", "accessKeyId": "k", "secretAccessKey": "s", "sessionToken": "t",
    "expiration": "2036-07-01T10:00:00Z",
}


# Restarts


def test_after_a_restart_unknown_means_not_yet(metadata):
    ns = metadata.serve()
    metadata.put("c1")
    metadata.control.ok(type="complete")
    metadata.stop(signal.SIGKILL)
    metadata.start()
    assert metadata.control.send(type="hello") == \
        {"type": "hello", "seq": 1, "tasks": [], "served": {}, "credentials": [], "host": False}
    metadata.serve(namespace=ns)
    status, body, _ = ns.get("/v2/credentials/c1")
    assert (status, json.loads(body)) == \
        (503, credentials_error("CredentialsUninitialized", "Credentials uninitialized for ID", 503))
    assert ns.get("/v4/e1")[0] == 503
    assert ns.get("/nothing")[0] == 404
    assert metadata.control.refused(type="get-credentials", credentialsId="c1")[0] == "EAGAIN"
    metadata.put("c1")
    assert ns.get("/v2/credentials/c1")[0] == 200, "what is here is served"
    metadata.control.ok(type="complete")
    assert ns.get("/v2/credentials/c2")[0] == 400
    assert ns.get("/v4/e1")[0] == 404
    hello = metadata.control.send(type="hello")
    assert (hello["tasks"], hello["credentials"]) == (["t1"], ["c1"])


def test_it_keeps_serving_while_ecs_agent_is_away(complete):
    ns = complete.serve()
    complete.put("c1")
    complete.control.close()
    assert ns.get("/v2/credentials/c1")[0] == 200
    complete.control = Control(complete.path)
    assert complete.control.send(type="hello")["credentials"] == ["c1"]
    assert ns.get("/v2/credentials/unknown")[0] == 400, "complete stays complete"


def test_release_closes_every_socket_of_the_task(complete):
    ns = complete.serve()
    complete.put("c1")
    inode = os.stat(f"/var/run/netns/{ns.name}").st_ino
    with ns.connect() as idle:
        idle.sendall(b"GET /v2/credentials/c1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(12) == b"HTTP/1.1 200"
        complete.control.ok(type="release", taskId="t1")
        wait_for(lambda: not sockets_of(complete.process.pid, inode, ns))
        with contextlib.suppress(ConnectionResetError):
            while idle.recv(65536):
                pass
    with pytest.raises(ConnectionRefusedError):
        ns.connect()


def sockets_of(pid, inode, ns):
    """Inodes of TCP sockets of the namespace that the process holds."""
    table = ns.exec("cat", "/proc/net/tcp").stdout.splitlines()[1:]
    inside = {line.split()[9] for line in table}
    held = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            match = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd))
            if match:
                held.add(match[1])
    return inside & held


def test_serving_again_replaces_the_socket(complete):
    complete.put("c1")
    first = complete.serve()
    second = complete.serve()
    assert second.get("/v2/credentials/c1")[0] == 200
    with pytest.raises(ConnectionRefusedError):
        first.connect()


# Load and abuse


def test_a_flood_of_connections_leaves_room_for_other_tasks(complete):
    hostile, other = complete.serve("t1"), complete.serve("t2")
    complete.put("c1", "t1")
    complete.put("c2", "t2")
    flood = []
    try:
        for _ in range(600):
            def attempt():
                s = socket.socket()
                s.setblocking(False)
                s.connect_ex((ADDRESS, 80))
                return s
            flood.append(hostile.inside(attempt))
        for _ in range(20):
            assert other.get("/v2/credentials/c2")[0] == 200
    finally:
        for s in flood:
            s.close()
    wait_for(lambda: hostile.get("/v2/credentials/c1")[0] == 200, 20)


def test_running_out_of_descriptors_passes(stopped):
    stopped.start(prefix=["prlimit", "--nofile=40:40"])
    stopped.control.ok(type="complete")
    ns = stopped.serve()
    stopped.put("c1")
    def attempt():
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex((ADDRESS, 80))
        return s
    crowd = [ns.inside(attempt) for _ in range(60)]
    wait_for(lambda: "trying again" in stopped.log_text())
    for s in crowd:
        s.close()
    assert ns.get("/v2/credentials/c1")[0] == 200


@pytest.mark.parametrize("sent", [b"", b"GET /v2/credentials/c1 HT", b"GET / HTTP/1.1\r\nX: "])
def test_a_slow_request_is_ended_however_it_drips(complete, sent):
    ns = complete.serve()
    began = time.monotonic()
    with ns.connect() as s:
        s.sendall(sent)
        s.settimeout(0.2)
        while time.monotonic() - began < 30:
            try:
                if not s.recv(4096):
                    break
            except socket.timeout:
                with contextlib.suppress(OSError):
                    s.sendall(b"x")  # never idle
            except ConnectionError:
                break
        else:
            raise AssertionError("the connection is still open")


def test_a_slow_reader_is_ended(complete):
    ns = complete.serve()
    complete.control.ok(type="documents", taskId="t1", documents={"/v4/e1": "x" * 4_000_000})
    def make():
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect((ADDRESS, 80))
        return s
    with ns.inside(make) as s:
        s.sendall(b"GET /v4/e1 HTTP/1.1\r\nHost: x\r\n\r\n")
        inode = os.stat(f"/var/run/netns/{ns.name}").st_ino
        wait_for(lambda: len(sockets_of(complete.process.pid, inode, ns)) == 2)
        wait_for(lambda: len(sockets_of(complete.process.pid, inode, ns)) == 1, 30)


@pytest.mark.parametrize("garbage", [
    b"\0" * 4096, b"GET\r\n\r\n", b"GET " + b"/x" * 40000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20000 + b"\r\n",
    b"GET /%00%zz/%2e%2e HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"POST /v2/credentials/c1 HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 100000,
    b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", b"GET http://x//y HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
], ids=["nul", "no-version", "long-target", "many-headers", "bad-escapes", "large-body", "star",
        "absolute", "bad-chunk"])
def test_garbage_does_not_disturb_the_next(complete, garbage):
    ns = complete.serve()
    complete.put("c1")
    with ns.connect() as s:
        with contextlib.suppress(OSError):
            s.sendall(garbage)
            s.shutdown(socket.SHUT_WR)
            while s.recv(65536):
                pass
    assert ns.get("/v2/credentials/c1")[0] == 200


# The control socket


CLIENT = """
import json, socket, struct, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(20)
s.connect(sys.argv[1])
for line in sys.argv[2:]:
    data = line.encode()
    try:
        s.sendall(struct.pack("<I", len(data)) + data)
    except OSError:
        print("closed")
        break
    head = b""
    try:
        while len(head) < 4:
            part = s.recv(4 - len(head))
            if not part:
                print("closed")
                sys.exit()
            head += part
    except ConnectionResetError:
        print("closed")
        sys.exit()
    (n,) = struct.unpack("<I", head)
    data = b""
    while len(data) < n:
        data += s.recv(n - len(data))
    print(data.decode())
"""


def ask_as(metadata, user, *messages):
    done = subprocess.run(
        ["setpriv", "--reuid", user, "--clear-groups", sys.executable, "-c", CLIENT, metadata.path,
         *map(json.dumps, messages)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [line if line == "closed" else json.loads(line) for line in done.stdout.splitlines()]


def test_rights_follow_the_user(complete):
    complete.put("app")
    complete.put("exec", role_type="TaskExecution")
    complete.put("instance", task=None, role_type="Instance", taskArn=None)
    gets = [{"type": "get-credentials", "credentialsId": i} for i in ("app", "exec", "instance", "no")]
    for user in ("ecs-logs", "ecs-image"):
        app, execution, instance, unknown = ask_as(complete, user, *gets)
        assert (app["type"], app["code"]) == ("error", "ENOENT")
        assert execution["type"] == instance["type"] == "credentials"
        assert execution["secretAccessKey"] == "secret/key"
        assert unknown["code"] == "ENOENT"
        for refused in ask_as(complete, user, {"type": "hello"}, {"type": "complete"},
                              {"type": "release", "taskId": "t1"},
                              {"type": "put-credentials", "credentialsId": "x"},
                              {"type": "remove-credentials", "credentialsId": "app"},
                              {"type": "documents"}, {"type": "serve"}, {"type": "configure"}):
            assert (refused["type"], refused["code"]) == ("error", "EACCES")
    assert [a["type"] for a in ask_as(complete, "ecs-agent", *gets[:3], {"type": "hello"})] == \
        ["credentials"] * 3 + ["hello"]
    for user in ("nobody", "ecs-metadata"):
        assert ask_as(complete, user, gets[1]) == ["closed"]


def test_expired_credentials_are_an_error_for_programs_too(complete):
    complete.put("exec", role_type="TaskExecution", seconds=-5)
    assert complete.control.refused(type="get-credentials", credentialsId="exec")[0] == "EKEYEXPIRED"


@pytest.mark.parametrize("message,says", [
    ({"type": "nonsense"}, "nonsense"),
    ({"type": "put-credentials"}, "credentialsId"),
    ({"type": "put-credentials", "credentialsId": 5}, "credentialsId"),
    ({"type": "serve", "taskId": "t", "container": "c"}, "descriptor"),
    ({"type": "serve-host"}, "descriptors"),
    ({"type": "documents", "taskId": "t", "documents": []}, "documents"),
    ({"type": "documents", "taskId": "t", "documents": {"x": 1}}, "x"),
    ({"type": "documents", "taskId": "", "documents": {}}, "task id"),
    ({"type": "configure", "requestsPerSecond": 0}, "requestsPerSecond"),
    ({"type": "configure", "burst": -1}, "burst"),
    ({"type": "host-container", "taskId": "t", "container": "c", "cgroupId": 0}, "cgroupId"),
    ({"type": "release"}, "taskId"),
])
def test_bad_requests_are_refused_by_name(metadata, message, says):
    assert says in metadata.control.refused(**message)[1]
    assert metadata.control.send(type="hello")["type"] == "hello"


def test_only_the_endpoints_sockets_are_served(metadata):
    ns = metadata.namespace()
    wrong = [ns.listen(address="127.0.0.1"), socket.socket(), open("/dev/null", "rb")]
    for s in wrong:
        with s:
            assert metadata.control.refused([s], type="serve", taskId="t", container="c")[0] == "EINVAL"


def test_broken_messages_end_the_connection_alone(complete):
    for data in (b"\xff\xff\xff\xff", b"\x05\0\0\0hello", b"\x02\0\0\0{}", b"\x02\0\0\0[]"):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(complete.path)
            s.sendall(data)
            with contextlib.suppress(ConnectionResetError):
                assert s.recv(16) == b""
    assert complete.control.send(type="hello")["type"] == "hello"


# The audit log


def test_the_audit_log_has_a_line_for_each_request(complete):
    ns = complete.serve()
    complete.put("c1")
    complete.put("c2", role_type="TaskExecution")
    path = complete.dir / "audit.log"
    with open(path, "ab") as file:
        complete.control.ok([file], type="configure", cluster="blue",
                            containerInstanceArn="arn:ci")
    agent = {"User-Agent": 'sdk "x"'}
    ns.get("/v2/credentials/c1", headers=agent)
    ns.get("/v1/credentials?id=c2", headers=agent)
    ns.get("/v2/credentials/nobody-knows", headers=agent)
    when, who, sdk = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", r"169\.254\.170\.2:\d+", r'"sdk \\"x\\""'
    arn = "arn:aws:ecs:us-west-2:111122223333:task/blue/t1"
    want = [
        rf'{when} 200 {who} "/v2/credentials" {sdk} {arn} GetCredentials 1 blue arn:ci',
        rf'{when} 200 {who} "/v1/credentials" {sdk} {arn} GetCredentialsExecutionRole 1 blue arn:ci',
        rf'{when} 400 {who} "/v2/credentials" {sdk} - ',
    ]
    lines = wait_for(lambda: len(text := path.read_text().splitlines()) >= 3 and text)
    assert len(lines) == 3
    for line, pattern in zip(lines, want):
        assert re.fullmatch(pattern, line), line


def test_without_a_file_audit_lines_go_to_the_log(complete):
    ns = complete.serve()
    complete.put("c1")
    ns.get("/v2/credentials/c1")
    wait_for(lambda: "GetCredentials" in complete.log_text())
    assert "c1" not in complete.log_text().split("GetCredentials")[1].splitlines()[0]


# Confinement


def status_of(pid):
    return dict(line.split(":\t", 1) for line in
                Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


@pytest.mark.parametrize("as_root", [False, True])
def test_it_runs_without_privileges(stopped, as_root):
    stopped.as_root = as_root
    stopped.start()
    status = status_of(stopped.process.pid)
    assert set(status["Uid"].split()) == {str(uid("ecs-metadata"))}
    assert status["Groups"].split() == []
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert status["NoNewPrivs"].strip() == "1"
    assert status["Seccomp"].strip() == "2"
    limits = Path(f"/proc/{stopped.process.pid}/limits").read_text()
    assert re.search(r"Max core file size\s+0\s+0", limits)


def test_system_calls_that_it_does_not_need_are_refused(metadata):
    pid = metadata.process.pid
    for number in (syscall_in.EXECVE, syscall_in.PTRACE, syscall_in.MOUNT, syscall_in.UNSHARE,
                   syscall_in.KEYCTL):
        assert syscall_in.syscall_in(pid, number) == -errno.EPERM, number
    assert syscall_in.syscall_in(pid, syscall_in.GETPID) == pid


OPENAT, AT_FDCWD = 257, -100


def test_it_opens_no_files_any_more(metadata):
    if landlock_version() < 1:
        pytest.skip("the kernel has no Landlock")
    pid = metadata.process.pid
    waiting = wait_for(lambda: (f := Path(f"/proc/{pid}/syscall").read_text().split())[1:] and f)
    path = int(waiting[-2], 16) - 16384  # below what is in use

    def open_there(name):
        with open(f"/proc/{pid}/mem", "r+b", 0) as memory:
            memory.seek(path)
            memory.write(name + b"\0")
        return syscall_in.syscall_in(pid, OPENAT, AT_FDCWD & (1 << 64) - 1, path, 0)

    cgroups = cgroup2_top().encode()
    for closed in (b"/etc/passwd", b"/etc", b"/sys", cgroups + b"/cgroup.procs"):
        assert open_there(closed) == -errno.EACCES, closed
    assert open_there(cgroups) >= 0, "by which it knows processes of the host"


def landlock_version():
    return libc.syscall(444, None, 0, 1)


def test_secrets_are_neither_in_its_environment_nor_in_a_core(complete):
    canary = f"canary{uuid.uuid4().hex}"
    ns = complete.serve()
    complete.put("c1", secretAccessKey=canary, sessionToken=canary)
    assert canary in ns.get("/v2/credentials/c1")[1]
    pid = complete.process.pid
    for file in ("environ", "cmdline"):
        assert canary.encode() not in Path(f"/proc/{pid}/{file}").read_bytes()
    # Others of the same user can neither trace it nor read its memory.
    done = subprocess.run(["setpriv", "--reuid", "ecs-metadata", "--clear-groups", "cat",
                           f"/proc/{pid}/environ"], capture_output=True)
    assert done.returncode != 0
    assert canary not in complete.log_text()


def test_released_secrets_are_wiped_from_memory(complete):
    """Reads the whole memory of the process, as root may."""
    canary = f"canary{uuid.uuid4().hex}"
    ns = complete.serve()
    complete.put("c1", secretAccessKey=canary)
    assert canary in ns.get("/v2/credentials/c1")[1]
    assert complete.control.send(type="get-credentials", credentialsId="c1")["secretAccessKey"] == canary
    assert count_in_memory(complete.process.pid, canary) >= 1
    complete.control.ok(type="release", taskId="t1", all=True)
    assert count_in_memory(complete.process.pid, canary) == 0


def count_in_memory(pid, text):
    n = 0
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            match = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if not match:
                continue
            start, end = (int(x, 16) for x in match.groups())
            if end - start > 1 << 30:
                continue  # a sanitizer's shadow
            with contextlib.suppress(OSError):
                memory.seek(start)
                n += memory.read(end - start).count(text.encode())
    return n
