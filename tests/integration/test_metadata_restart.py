"""ecs-metadata killed, restarted and upgraded under a service manager that keeps its descriptors."""

import contextlib
import http.client
import json
import os
import signal
import socket
import threading
import time
import uuid
from pathlib import Path

import pytest
from builddir import needs_root
from harness.service_manager import Stored
from metadata import ADDRESS, Cgroup2, Metadata
from users import uid
from waiting import wait_for

pytestmark = needs_root


@pytest.fixture
def stopped():
    it = Metadata().managed()
    yield it
    it.clean()


@pytest.fixture
def metadata(stopped):
    return stopped.start()


@pytest.fixture
def complete(metadata):
    metadata.control.ok(type="complete")
    return metadata


def memory(metadata):
    """The content of the memory file, as root may read it, without its holes."""
    fd = metadata.manager.named("memory").fd
    at, found, end = 0, b"", os.fstat(fd).st_size
    while at < end:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            break
        stop = os.lseek(fd, at, os.SEEK_HOLE)
        found += os.pread(fd, stop - at, at)
        at = stop
    return found


def restart(metadata, how=signal.SIGKILL, **more):
    status = metadata.stop(how)
    assert status == (0 if how == signal.SIGTERM else -how)
    metadata.start(**more)


def hello(metadata):
    answer = metadata.control.send(type="hello")
    return {name: answer[name] for name in ("tasks", "served", "credentials", "host")}


HOWS = pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])


@HOWS
def test_credentials_are_served_after_a_restart_without_ecs_agent(complete, how):
    ns = complete.serve()
    complete.put("c1")
    before = ns.get("/v2/credentials/c1")
    restart(complete, how)
    assert ns.get("/v2/credentials/c1")[:2] == before[:2]
    restart(complete, how)
    assert ns.get("/v2/credentials/c1")[:2] == before[:2]
    assert hello(complete) == {"tasks": ["t1"], "served": {"t1": ["app"]}, "credentials": ["c1"],
                               "host": False}


@HOWS
def test_what_was_answered_has_survived(complete, how):
    """Each "ok" is followed by the end at once, over and over."""
    ns = complete.serve()
    for i in range(20):
        complete.put(f"c{i}", secretAccessKey=f"secret-{i}")
        restart(complete, how)
        for k in range(i + 1):
            status, body, _ = ns.get(f"/v2/credentials/c{k}")
            assert (status, json.loads(body)["SecretAccessKey"]) == (200, f"secret-{k}")


def test_connections_made_while_it_is_away_are_answered_by_the_next(complete):
    ns = complete.serve()
    complete.put("c1")
    complete.stop(signal.SIGKILL)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ns.get("/v2/credentials/c1")[0]))
               for _ in range(20)]
    for thread in threads:
        thread.start()
    wait_for(lambda: queued(ns) == 20)
    complete.start()
    for thread in threads:
        thread.join(20)
    assert answers == [200] * 20


def queued(ns):
    """Connections that are in the queue of the endpoint's socket."""
    local = "02AAFEA9:0050"
    lines = ns.exec("cat", "/proc/net/tcp").stdout.splitlines()[1:]
    (listening,) = [f for f in map(str.split, lines) if f[1] == local and f[3] == "0A"]
    return int(listening[4].split(":")[1], 16)


def test_no_request_fails_while_it_is_restarted_in_order(complete):
    ns = complete.serve()
    complete.put("c1")
    stop = threading.Event()
    results = []

    def ask():
        while not stop.is_set():
            try:
                results.append(ns.get("/v2/credentials/c1")[0])
            except (OSError, http.client.HTTPException) as e:
                results.append(repr(e))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        n = len(results)
        restart(complete, signal.SIGTERM)
        wait_for(lambda: len(results) > n + 8)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert set(results) == {200}, [r for r in results if r != 200][:5]


def test_a_request_that_has_begun_is_answered_before_the_end(complete):
    ns = complete.serve()
    complete.put("c1")
    with ns.connect() as fresh, ns.connect() as idle:
        idle.sendall(b"GET /v2/credentials/c1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(12) == b"HTTP/1.1 200"
        fresh.sendall(b"GET /v2/credentials/c1 HT")
        time.sleep(0.05)
        complete.process.send_signal(signal.SIGTERM)
        complete.manager.wait(lambda m: "STOPPING=1" in m.states)
        while idle.recv(65536):
            pass  # an idle connection is closed
        fresh.sendall(b"TP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while part := fresh.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200") and b"\r\nConnection: close\r\n" in answer
    assert b"ASIAEXAMPLE" in answer
    assert complete.process.wait(10) == 0
    complete.start()


def test_silent_connections_do_not_hold_up_the_end(complete):
    ns = complete.serve()
    with ns.connect(), ns.connect() as begun:
        begun.sendall(b"GET /v2")
        wait_for(lambda: queued(ns) == 0)
        assert complete.stop() == 0  # within ten seconds
    complete.start()


# Waiting for what is not known yet


def timed(function):
    began = time.monotonic()
    result = function()
    return result, time.monotonic() - began


def in_thread(function):
    result = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()

    def join():
        thread.join(20)
        return result[0]

    return join


def test_a_request_for_what_is_not_known_yet_waits_for_it(complete):
    ns, other = complete.serve(), complete.serve("t2")
    complete.put("here")
    restart(complete)
    late = in_thread(lambda: ns.get("/v2/credentials/late"))
    document = in_thread(lambda: ns.get("/v4/e1"))
    foreign = in_thread(lambda: other.get("/v2/credentials/late"))
    wait_for(lambda: complete.log_text().count("ready") == 2)
    assert ns.get("/v2/credentials/here")[0] == 200, "the loop goes on"
    complete.put("late")
    assert late()[0] == 200
    complete.control.ok(type="documents", taskId="t1", documents={"/v4/e1": {"Name": "x"}})
    status, body, _ = document()
    assert (status, json.loads(body)) == (200, {"Name": "x"})
    complete.control.ok(type="complete")
    assert foreign()[0] == 400


def test_what_does_not_come_is_answered_not_yet_in_time(complete):
    ns = complete.serve()
    restart(complete)
    (answer, seconds), (document, _) = timed(lambda: ns.get("/v2/credentials/c1")), \
        timed(lambda: ns.get("/v4/e1"))
    assert answer[0] == document[0] == 503
    assert json.loads(answer[1])["code"] == "CredentialsUninitialized"
    print(f"waited {seconds:.3f} s")
    # Unknown paths have nothing to wait for, and what is known does not wait.
    assert ns.get("/nothing")[0] == 404


def test_many_waiting_requests_are_let_go_at_the_end(complete):
    ns = complete.serve()
    restart(complete)
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(ns.connect()) for _ in range(100)]
        for s in crowd:
            s.sendall(b"GET /v2/credentials/none HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: queued(ns) == 0)
        complete.control.ok(type="release", taskId="t1", all=True)
        for s in crowd:
            with contextlib.suppress(ConnectionResetError):
                while s.recv(65536):
                    pass
    ns2 = complete.serve("t3")
    with ns2.connect() as s:
        s.sendall(b"GET /v2/credentials/none HTTP/1.1\r\nHost: x\r\n\r\n")
        assert complete.stop(signal.SIGTERM) == 0
    complete.start()


# What is kept, and what is not


@pytest.fixture
def service():
    cgroup = Cgroup2()
    yield cgroup
    cgroup.remove()


def test_everything_of_a_host_with_tasks_comes_back(stopped, service):
    host = stopped.namespace()
    stopped.start(namespace=host)
    with host.listen() as s, open("/dev/null", "rb") as link:
        stopped.control.ok([s, link], type="serve-host")
    stopped.control.ok(type="host-container", taskId="th", container="web", cgroupId=4711)
    spaces = {(t, c): stopped.serve(t, c) for t in ("t1", "t2") for c in ("app", "side" + "x" * 251)}
    stopped.put("c1", "t1", forMounts=True)
    stopped.put("c2", "t2", role_type="TaskExecution")
    stopped.put("c3", "t2")
    stopped.put("instance", task=None, role_type="Instance", taskArn=None)
    audit = stopped.dir / "audit.log"
    with open(audit, "ab") as file:
        stopped.control.ok([file], type="configure", cluster="blue", containerInstanceArn="arn:ci",
                           requestsPerSecond=7, burst=9)
    stopped.manager.wait(lambda m: m.names() == ["1", "2", "3", "4", "audit", "host", "link", "memory"])
    restart(stopped, namespace=host)
    assert hello(stopped) == {
        "tasks": wait_any_order(hello(stopped)["tasks"], ["t1", "t2", "th"]),
        "served": {"th": ["web"], **{t: wait_any_order(hello(stopped)["served"][t],
                                                       [c for (k, c) in spaces if k == t])
                                     for t in ("t1", "t2")}},
        "credentials": ["c1", "c2", "c3", "instance"], "host": True,
    }
    for (task, _), ns in spaces.items():
        assert ns.get(f"/v2/credentials/c{task[1]}")[0] == 200
        assert ns.get(f"/v2/credentials/c{3 - int(task[1])}")[0] == 503, "a neighbour's"
    assert (service.fetch(host, "/v2/credentials/c1"), service.fetch(host, "/v2/credentials/c3")) == (200, 503), \
        "of the two only one is for root of the host"
    assert "blue arn:ci" in wait_for(audit.read_text)
    stopped.control.ok(type="documents", taskId="t1", documents={"/v4/e1": {}})
    limit = spaces[("t1", "app")].get("/v4/e1")[2]["X-Rate-Limit-Limit"]
    assert limit == "7.00"


def wait_any_order(got, want):
    assert sorted(got) == sorted(want)
    return got


def test_release_wipes_the_memory_that_survives(complete):
    canary, other = f"canary{uuid.uuid4().hex}", f"canary{uuid.uuid4().hex}"
    complete.serve()
    complete.put("c1", secretAccessKey=canary, sessionToken=canary)
    complete.put("c2", "t2", secretAccessKey=other)
    assert memory(complete).count(canary.encode()) == 2
    complete.control.ok(type="release", taskId="t1", all=True)
    assert memory(complete).count(canary.encode()) == 0
    assert memory(complete).count(other.encode()) == 1
    complete.manager.wait(lambda m: m.names() == ["memory"])
    restart(complete)
    assert memory(complete).count(canary.encode()) == 0
    assert hello(complete)["credentials"] == ["c2"]


def test_replaced_and_removed_credentials_are_wiped(complete):
    old, new = f"canary{uuid.uuid4().hex}", f"canary{uuid.uuid4().hex}"
    complete.put("c1", secretAccessKey=old)
    complete.put("c1", secretAccessKey=new)
    assert (memory(complete).count(old.encode()), memory(complete).count(new.encode())) == (0, 1)
    complete.control.ok(type="remove-credentials", credentialsId="c1")
    assert memory(complete).count(new.encode()) == 0


def test_the_task_role_is_wiped_before_the_execution_role(complete):
    app, execution = f"canary{uuid.uuid4().hex}", f"canary{uuid.uuid4().hex}"
    complete.serve()
    complete.put("c1", secretAccessKey=app)
    complete.put("c2", role_type="TaskExecution", secretAccessKey=execution)
    complete.control.ok(type="release", taskId="t1")
    restart(complete)
    assert (memory(complete).count(app.encode()), memory(complete).count(execution.encode())) == (0, 1)
    assert complete.control.send(type="get-credentials", credentialsId="c2")["type"] == "credentials"


def test_expired_credentials_are_not_served_after_a_restart(complete):
    ns = complete.serve()
    complete.put("c1", seconds=-1)
    restart(complete)
    status, body, _ = ns.get("/v2/credentials/c1")
    assert (status, json.loads(body)["code"]) == (503, "CredentialsExpired")
    complete.control.refused(type="get-credentials", credentialsId="c1")


def test_the_memory_is_no_file_and_closed_to_others(complete):
    complete.put("c1")
    fd = complete.manager.named("memory").fd
    status = os.fstat(fd)
    assert os.readlink(f"/proc/self/fd/{fd}").startswith("/memfd:")
    assert (status.st_mode & 0o777, status.st_uid, status.st_nlink) == (0o600, uid("ecs-metadata"), 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)  # sealed, so a reader cannot fall off its end
    done = os.fork()
    if done == 0:
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(uid("ecs-metadata"), uid("ecs-metadata"), uid("ecs-metadata"))
        try:
            os.listdir(f"/proc/{complete.process.pid}/fd")
        except PermissionError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(done, 0)[1] == 0


def test_without_a_service_manager_nothing_is_made():
    it = Metadata()
    try:
        it.start()
        it.put("c1")
        links = [os.readlink(p) for p in Path(f"/proc/{it.process.pid}/fd").iterdir()]
        assert not [link for link in links if "memfd" in link]
    finally:
        it.clean()


# What does not fit together


def test_a_full_store_loses_sockets_which_hello_shows(stopped):
    stopped.managed_again(limit=3)
    stopped.start()
    spaces = [stopped.serve(f"t{i}") for i in range(4)]
    for i in range(4):
        stopped.put(f"c{i}", f"t{i}")
    stopped.manager.wait(lambda m: m.dropped == 2)
    restart(stopped)
    assert hello(stopped)["served"] == {"t0": ["app"], "t1": ["app"]}
    assert sorted(hello(stopped)["credentials"]) == ["c0", "c1", "c2", "c3"]
    assert [spaces[i].get(f"/v2/credentials/c{i}")[0] for i in range(2)] == [200, 200]
    spaces[2].remove_from(stopped)
    again = stopped.serve("t2")
    assert again.get("/v2/credentials/c2")[0] == 200


def damage(metadata, how):
    fd = metadata.manager.named("memory").fd
    if how == "zeros":
        os.pwrite(fd, bytes(4096), 0)
    elif how == "noise":
        os.pwrite(fd, os.urandom(65536), 0)
    elif how == "block":
        for slot in (4096, 4096 + (16 << 20)):
            data = os.pread(fd, 200, slot)
            os.pwrite(fd, bytes(b ^ 1 for b in data), slot)
    elif how == "another":
        new = os.memfd_create("x")
        os.dup2(new, fd)
        os.close(new)
    elif how == "gone":
        with metadata.manager.lock:
            entry = metadata.manager.named("memory")
            metadata.manager.stored.remove(entry)
            os.close(entry.fd)


@pytest.mark.parametrize("how", ["zeros", "noise", "block", "another", "gone"])
def test_damaged_memory_is_set_aside_and_filled_again(complete, how):
    ns = complete.serve()
    complete.put("c1")
    complete.stop(signal.SIGKILL)
    damage(complete, how)
    complete.start()
    assert hello(complete) == {"tasks": [], "served": {}, "credentials": [], "host": False}
    # Sockets that are nobody's are given up, so that nothing stays open for ever.
    complete.manager.wait(lambda m: m.names() == ["memory"])
    complete.serve(namespace=complete.namespace())
    complete.put("c1")
    restart(complete)
    assert hello(complete)["served"] == {"t1": ["app"]}
    assert hello(complete)["credentials"] == ["c1"]
    ns.remove_from(complete)


def test_a_socket_is_known_by_itself_and_not_by_its_name(complete):
    """Names in the store exchanged: each container still gets its own."""
    one, two = complete.serve("t1"), complete.serve("t2")
    complete.put("c1", "t1")
    complete.put("c2", "t2")
    complete.manager.wait(lambda m: m.names() == ["1", "2", "memory"])
    complete.stop(signal.SIGKILL)
    a, b = complete.manager.named("1"), complete.manager.named("2")
    a.name, b.name = b.name, a.name
    complete.start()
    assert one.get("/v2/credentials/c1")[0] == two.get("/v2/credentials/c2")[0] == 200
    assert one.get("/v2/credentials/c2")[0] == 503
    complete.control.ok(type="release", taskId="t1")
    complete.manager.wait(lambda m: m.names() == ["1", "memory"])
    assert two.get("/v2/credentials/c2")[0] == 200


def test_foreign_descriptors_in_the_store_are_given_up(complete):
    complete.serve()
    complete.stop(signal.SIGKILL)
    with socket.socket() as s, socket.socket(socket.AF_UNIX) as u, open("/dev/zero") as f:
        for name, file in (("77", s), ("host", u), ("audit", f), ("strange", s), ("link", f)):
            complete.manager.stored.append(Stored(name, os.dup(file.fileno())))
    complete.start()
    complete.manager.wait(lambda m: m.names() == ["1", "memory"])
    assert hello(complete)["served"] == {"t1": ["app"]}
    assert hello(complete)["host"] is False


def test_the_same_socket_handed_over_again_stays_stored(complete):
    ns = complete.namespace()
    complete.put("c1")
    with ns.listen() as s:
        for _ in range(3):
            complete.control.ok([s], type="serve", taskId="t1", container="app")
    assert ns.get("/v2/credentials/c1")[0] == 200
    complete.control.send(type="hello")
    wait_for(lambda: len(complete.manager.names()) == 2)
    restart(complete)
    assert ns.get("/v2/credentials/c1")[0] == 200
    complete.control.ok(type="release", taskId="t1")
    complete.manager.wait(lambda m: m.names() == ["memory"])


def test_a_socket_that_its_namespace_has_destroyed_is_let_go(complete):
    """Who is CAP_NET_ADMIN in a task can do that; it must not keep the loop busy."""
    ns = complete.serve()
    other = complete.serve("t2")
    complete.put("c2", "t2")
    done = ns.exec("ss", "-K", "-l", "-t", "src", ADDRESS)
    assert done.returncode == 0, done.stderr
    with contextlib.suppress(AssertionError):
        wait_for(lambda: "t1" not in hello(complete)["served"], 3)
    if "t1" in hello(complete)["served"]:
        pytest.skip("this kernel has no SOCK_DESTROY")
    complete.manager.wait(lambda m: m.names() == ["2", "memory"])
    before = cpu_ticks(complete.process.pid)
    assert other.get("/v2/credentials/c2")[0] == 200
    time.sleep(0.5)
    assert cpu_ticks(complete.process.pid) - before < 25


def cpu_ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_a_kill_at_any_moment_loses_nothing_that_was_answered(complete):
    """ecs-agent sends as fast as it can while ecs-metadata is killed: what it was told "ok" is there."""
    complete.serve()
    acknowledged = set()
    for round_ in range(8):
        done = threading.Event()

        def send(round_=round_):
            with contextlib.suppress(OSError, EOFError):
                for i in range(1000):
                    name = f"c{round_}-{i}"
                    complete.put(name, f"t{i % 50}")
                    acknowledged.add(name)
            done.set()

        thread = threading.Thread(target=send)
        thread.start()
        wait_for(lambda: len([a for a in acknowledged if a.startswith(f"c{round_}-")]) > 10 * round_ + 3)
        complete.process.kill()
        complete.process.wait(10)
        assert done.wait(20)
        thread.join()
        complete.control.close()
        complete.start()
        assert acknowledged <= set(hello(complete)["credentials"])
