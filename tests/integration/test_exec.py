"""Further processes in running containers: what they are given, what they cannot get, how they end."""

import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import termios
import time
import uuid

import pytest

from builddir import needs_root
from runtime import DEFAULT_CAPS_MASK, Connection, RequestError, Task
from waiting import wait_for

pytestmark = needs_root

SLEEP = ["/bin/sleep", "1000"]


@pytest.fixture
def task(host):
    it = Task(host)
    it.create(SLEEP)
    it.call("start", container="app")
    return it


class Exec:
    """One exec over ecs-agent's connection."""

    def __init__(self, task, args, container="app", stdio=True, **members):
        self.task, self.id = task, uuid.uuid4().hex
        pairs = [os.pipe() for _ in range(3)] if stdio else []
        given = [pairs[0][0], pairs[1][1], pairs[2][1]] if stdio else []
        if stdio:
            members["stdio"] = ["stdin", "stdout", "stderr"]
        self.stdin, self.stdout, self.stderr = (
            (pairs[0][1], pairs[1][0], pairs[2][0]) if stdio else (None, None, None))
        try:
            self.answer = task.call("exec", given, container=container, exec=self.id, args=args,
                                    **members)
        finally:
            for fd in given:
                os.close(fd)

    def event(self):
        for body in self.task.connection.events:
            if body["type"] == "exec-exited" and body["exec"] == self.id:
                self.task.connection.events.remove(body)
                return body
        while True:
            body = self.task.connection.receive()
            if body["type"] == "exec-exited" and body["exec"] == self.id:
                return body
            self.task.connection.events.append(body)

    def finish(self):
        """(exit code, standard output, standard error)"""
        os.close(self.stdin)
        out, err = read_all(self.stdout), read_all(self.stderr)
        return self.event()["exitCode"], out, err


def read_all(fd):
    with os.fdopen(fd, "rb") as file:
        return file.read().decode()


def sh(task, script, **members):
    return Exec(task, ["/bin/sh", "-c", script], **members).finish()


def read_terminal(master, until, seconds=20):
    """What comes from the terminal until a text is there, or until its end (None)."""
    data, deadline = b"", time.monotonic() + seconds
    while until is None or until.encode() not in data:
        left = deadline - time.monotonic()
        assert left > 0, f"{until!r} is not in {data!r}"
        if not select.select([master], [], [], left)[0]:
            continue
        try:
            chunk = os.read(master, 65536)
        except OSError:  # EIO: nobody is on the other side any more
            chunk = b""
        if not chunk:
            assert until is None, f"{until!r} is not in {data!r}"
            break
        data += chunk
    return data.decode()


# --- what it is


def test_output_input_and_exit_code(task):
    running = Exec(task, ["/bin/sh", "-c", "cat; echo err >&2; exit 7"])
    os.write(running.stdin, b"hello")
    assert running.finish() == (7, "hello", "err\n")


def test_it_is_in_all_namespaces_and_the_cgroup_of_the_container(task):
    names = "cgroup ipc mnt net pid uts"
    code, out, _ = sh(task, f"for n in {names}; do readlink /proc/self/ns/$n; done;"
                            "cat /proc/self/cgroup; readlink /proc/1/root; cat /proc/1/cgroup")
    assert code == 0
    lines = out.splitlines()
    pid = task.container_pid()
    assert lines[:6] == [os.readlink(f"/proc/{pid}/ns/{name}") for name in names.split()]
    rest = lines[6:]
    root = rest.index("/")
    assert rest[:root] == rest[root + 1:], "not in the cgroups of process 1"


def test_its_processes_are_in_the_containers_cgroup_for_the_host(task):
    running = Exec(task, SLEEP)
    for path in task.cgroup_paths("app"):
        assert str(running.answer["pid"]) in (path / "cgroup.procs").read_text().split(), path
    task.call("exec-signal", exec=running.id, signal="KILL")
    assert running.event()["exitCode"] == 137


def test_user_capabilities_limits_and_flags_are_the_containers(host):
    task = Task(host)
    task.create(SLEEP, user="app", config={
        "process": {"noNewPrivileges": True, "oomScoreAdj": 123, "cwd": "/tmp",
                    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66}],
                    "env": ["PATH=/bin", "COLOUR=red"]}})
    task.call("start", container="app")
    wanted = ("grep -E '^(Cap|Seccomp:|NoNewPrivs|Groups|Uid|Gid)' /proc/$P/status;"
              "cat /proc/$P/limits /proc/$P/oom_score_adj; readlink /proc/$P/cwd")
    code, out, err = sh(task, f"P=self; {wanted}")
    assert code == 0, err
    # Of process 1 itself, which runs as the same user.
    code, other, err = sh(task, f"P=1; {wanted}")
    assert code == 0, err
    assert out == other
    assert "CapInh:\t0000000000000000" in out and "Seccomp:\t2" in out and "NoNewPrivs:\t1" in out
    assert "Uid:\t1000" in out and "2000" in out.split("Groups:")[1].splitlines()[0]
    assert f"CapBnd:\t{DEFAULT_CAPS_MASK}" in out
    assert "\n123\n/tmp\n" in out


def test_environment_user_and_directory_can_be_others(task):
    script = "id -u; id -g; id -G; pwd; echo $HOME $A $PATH; hostname"
    code, out, err = sh(task, script, user="app", cwd="/etc",
                        env=["A=b", "PATH=/bin:/x"])
    assert code == 0, err
    lines = out.splitlines()
    assert lines[:5] == ["1000", "1001", "1001 2000", "/etc", "/home/app b /bin:/x"]
    code, out, _ = sh(task, "echo $HOME; id -G", user="4321:99")
    assert (code, out) == (0, "/\n99\n")


@pytest.mark.parametrize("args, code, message", [
    (["nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
    (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
    (["/etc"], 126, 'exec: "/etc": is a directory'),
])
def test_a_command_that_cannot_run_is_named(task, args, code, message):
    with pytest.raises(RequestError) as error:
        Exec(task, args, stdio=False)
    assert error.value.message == message and error.value.exit_code == code
    assert sh(task, "exit 3")[0] == 3, "the container must not have noticed"


@pytest.mark.parametrize("members, message", [
    ({"user": "nobodyhere"}, "unable to find user nobodyhere"),
    ({"cwd": "relative"}, "must be an absolute path"),
    ({"cwd": "/nosuch"}, "working directory /nosuch"),
    ({"env": ["=x"]}, r"env\[0\] must be NAME=VALUE"),
    ({"args": []}, "no command specified"),
    ({"args": ["a", 1]}, r"args\[1\] must be a string"),
    ({"container": "other"}, 'no container "other"; it has app'),
    ({"stdio": ["stdin"]}, "stdio names 1 descriptors, 0 came"),
    ({"stdio": ["stdoops"]}, 'stdio has "stdoops"'),
    ({"exec": "../x"}, 'exec is "../x"'),
    ({"size": {"rows": 70000, "columns": 1}}, "rows"),
])
def test_a_wrong_request_is_refused_by_name(task, members, message):
    request = {"container": "app", "exec": "e", "args": ["/bin/true"], **members}
    with pytest.raises(RequestError, match=message):
        task.call("exec", **request)


def test_only_where_something_runs(task):
    task.call("stop", container="app", timeoutUsec=0)
    task.connection.event("exited")
    with pytest.raises(RequestError, match="app is not running") as error:
        Exec(task, SLEEP, stdio=False)
    assert error.value.code == "ESRCH"


def test_an_id_in_use_is_refused_and_is_in_the_state_until_it_ends(task):
    running = Exec(task, SLEEP)
    (container,) = task.call("state")["containers"]
    assert container["execs"] == [{"exec": running.id, "pid": running.answer["pid"]}]
    with pytest.raises(RequestError, match="runs already"):
        task.call("exec", container="app", exec=running.id, args=SLEEP)
    task.reconnect()  # the agent restarts: the exec goes on
    assert task.call("state")["containers"][0]["execs"] == container["execs"]
    task.call("exec-signal", exec=running.id, signal="TERM")
    event = running.event()
    assert (event["exitCode"], event["signal"]) == (143, 15)
    assert task.call("state")["containers"][0]["execs"] == []
    with pytest.raises(RequestError, match="No such process"):
        task.call("exec-signal", exec=running.id, signal="TERM")


def test_they_end_with_the_container(task):
    running = [Exec(task, ["/bin/sh", "-c", "trap '' TERM HUP; sleep 1000"]) for _ in range(3)]
    task.call("stop", container="app", timeoutUsec=0)
    task.connection.event("exited")
    assert [one.event()["exitCode"] for one in running] == [137] * 3
    assert task.call("end")["type"] == "ended"


def test_many_in_a_row_leave_nothing_behind(task):
    supervisor = task.pid

    def things():
        fds = sorted(os.readlink(f"/proc/{supervisor}/fd/{fd}").split(":")[0]
                     for fd in os.listdir(f"/proc/{supervisor}/fd"))
        children = open(f"/proc/{supervisor}/task/{supervisor}/children").read().split()
        return fds, children

    assert sh(task, "true")[0] == 0
    # The container itself; the helper may be collected a moment after the program.
    wait_for(lambda: len(things()[1]) == 1, what="only the container")
    before = things()
    for i in range(50):
        assert Exec(task, ["/bin/sh", "-c", f"exit {i}"]).finish()[0] == i
    with pytest.raises(RequestError):
        Exec(task, ["nosuch"], stdio=False)
    wait_for(lambda: things() == before, what="the same descriptors and children as before")


def test_no_more_than_so_many_at_once(task):
    for i in range(32):
        task.call("exec", container="app", exec=f"e{i}", args=SLEEP)
    with pytest.raises(RequestError, match="32 processes") as error:
        task.call("exec", container="app", exec="e32", args=SLEEP)
    assert error.value.code == "EAGAIN"


def test_a_container_with_an_init_and_a_restarted_one(host):
    task = Task(host)
    task.create(["/bin/sh", "-c", "sleep 1000"], init=True, restart=True)
    for _ in range(2):
        task.call("start", container="app")
        assert sh(task, "cat /proc/1/comm")[1] == "init\n"
        task.call("stop", container="app", timeoutUsec=0)
        task.connection.event("exited")


# --- what it must not get


def test_no_descriptor_and_no_directory_of_the_host_leak(task):
    code, out, _ = sh(task, "ls -l /proc/$$/fd; readlink /proc/$$/cwd; readlink /proc/$$/root")
    assert code == 0
    links = [line.split(" -> ") for line in out.splitlines() if " -> " in line]
    assert sorted(left.split()[-1] for left, _ in links) == ["0", "1", "2"]
    assert all(right.startswith("pipe:") for _, right in links)
    assert out.endswith("/\n/\n")
    for fd in range(3, 40):  # CVE-2024-21626
        with pytest.raises(RequestError, match="working directory"):
            Exec(task, ["/bin/true"], stdio=False, cwd=f"/proc/self/fd/{fd}")


def test_the_program_cannot_be_reached_through_proc_exe(host):
    """CVE-2019-5736: a program of the image that is a link to /proc/self/exe."""
    def fill(path):
        (path / "bin").mkdir()
        (path / "bin/evil").symlink_to("/proc/self/exe")

    task = Task(host)
    task.create(SLEEP, layers=[host.busybox_layer(), host.layer(fill)])
    task.call("start", container="app")
    before = open(f"/proc/{task.pid}/exe", "rb").read()
    with contextlib.suppress(RequestError):
        Exec(task, ["/bin/evil"], stdio=False).event()
    # Whoever opens it for writing while it runs is refused: the file is on a read-only mount.
    code, _, err = sh(task, "for p in /proc/[0-9]*; do : 3>>$p/exe; done")
    assert code != 0 or "Read-only" in err or "Text file busy" in err
    assert open(f"/proc/{task.pid}/exe", "rb").read() == before


def test_only_the_finished_process_is_seen_inside(host):
    """A tracer in the container (CAP_SYS_PTRACE) must not meet a process with more than it has."""
    caps = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_SETUID", "CAP_SETGID"]
    watch = (
        "while :; do for p in /proc/[0-9]*; do "
        "grep -s CapPrm $p/status; done; done | grep -v 0000000000080[0-9a-f]* > /more"
    )
    task = Task(host)
    task.create(["/bin/sh", "-c", watch], seccomp="unconfined", config={"process": {
        "capabilities": {"bounding": caps, "permitted": caps, "effective": caps}}})
    task.call("start", container="app")
    for _ in range(40):
        assert sh(task, "true")[0] == 0
    code, out, _ = sh(task, "grep CapPrm /proc/self/status; cat /more")
    mask = f"{1 << 19 | 1 << 1 | 1 << 6 | 1 << 7:016x}"
    assert (code, out) == (0, f"CapPrm:\t{mask}\n")


def test_a_dev_null_that_is_none_is_not_written_to(task):
    assert sh(task, "rm /dev/null; echo canary > /dev/null")[0] == 0
    with pytest.raises(RequestError, match="enter the container"):
        Exec(task, ["/bin/true"], stdio=False)
    with pytest.raises(RequestError, match="enter the container"):
        Exec(task, ["/bin/cat", "/dev/null"])


# --- terminals


def terminal(task, args, container="app", **members):
    task.call("exec", container=container, exec="t", args=args, terminal=True,
              size={"rows": 33, "columns": 99}, **members)
    (master,) = task.connection.take_fds()
    return master


def test_a_terminal_is_of_the_containers_devpts_and_has_a_size(task):
    master = terminal(task, ["/bin/sh", "-c", "tty; stty size; echo $TERM; ls /dev/pts; read x; "
                                              "stty size; ps -o pid,tty | cat"])
    text = read_terminal(master, "ptmx")
    assert "/dev/pts/0\r\n33 99\r\nxterm\r\n" in text
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
    os.write(master, b"go\n")
    assert "50 120\r\n" in read_terminal(master, None)
    assert task.connection.event("exec-exited")["exitCode"] == 0
    os.close(master)


def test_a_terminal_controls_the_program(task):
    master = terminal(task, ["/bin/sh", "-c", "trap 'echo caught; exit 5' INT; echo on; "
                                              "while :; do sleep 1; done"])
    read_terminal(master, "on")
    os.write(master, b"\x03")
    assert "caught" in read_terminal(master, "caught")
    assert task.connection.event("exec-exited")["exitCode"] == 5
    os.close(master)


def test_closing_the_terminal_hangs_up(task):
    master = terminal(task, ["/bin/sh", "-c", "echo on; sleep 1000"])
    read_terminal(master, "on")
    os.close(master)
    assert task.connection.event("exec-exited")["signal"] == signal.SIGHUP


def test_a_terminal_belongs_to_the_user(task):
    master = terminal(task, ["/bin/sh", "-c", "stat -c %u $(tty); echo x > /dev/stdout"],
                      user="app")
    assert read_terminal(master, None) == "1000\r\nx\r\n"
    os.close(master)


def test_a_false_devpts_is_refused(task):
    """/dev/pts replaced by something of the container's."""
    assert sh(task, "rm -f /dev/ptmx; mknod /dev/ptmx c 1 5")[0] == 0
    master = terminal(task, ["/bin/tty"])  # /dev/ptmx is not used at all
    assert read_terminal(master, None) == "/dev/pts/0\r\n"
    os.close(master)


# --- operators


def operator(task):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(str(task.host.run / "tasks" / task.id / "exec.sock"))
    return Connection(sock)


def test_an_operator_has_a_socket_of_roots_and_displaces_nobody(task):
    path = task.host.run / "tasks" / task.id / "exec.sock"
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (0, 0o600)
    connection = operator(task)
    connection.call("exec", container="app", args=["/bin/sh", "-c", "exit 9"])
    event = connection.event("exec-exited")
    assert event["exitCode"] == 9 and "exec" not in event
    assert task.call("state")["type"] == "state", "ecs-agent's connection is still there"
    assert task.connection.events == [], "what is an operator's is not told to ecs-agent"
    connection.close()


@pytest.mark.parametrize("type_", ["state", "stop", "end", "create", "record"])
def test_an_operator_can_do_nothing_else(task, type_):
    connection = operator(task)
    with pytest.raises(RequestError, match="is not for an operator"):
        connection.call(type_, container="app")
    connection.close()


def test_an_operator_who_leaves_hangs_up(task):
    connection = operator(task)
    pid = connection.call("exec", container="app", args=SLEEP)["pid"]
    assert os.path.exists(f"/proc/{pid}")
    connection.close()
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), what="the end of the program")
    assert task.call("state")["containers"][0]["status"] == "running"


def test_operators_come_and_go_in_numbers(task):
    connections = [operator(task) for _ in range(16)]
    for connection in connections:
        connection.call("exec", container="app", args=SLEEP)
    with operator(task).sock as one_too_many:
        assert one_too_many.recv(1) == b""
    for connection in connections:
        connection.close()
    def again():
        connection = operator(task)
        with contextlib.suppress(ConnectionError, OSError):
            connection.call("exec", container="app", args=["/bin/true"])
            return connection.event("exec-exited")["exitCode"] == 0
        return False
    wait_for(again, what="room for another operator")


# --- terminals and input of containers


def test_a_container_with_a_terminal_logs_what_it_shows(host):
    task = Task(host)
    event = task.run(["/bin/sh", "-c", "tty; test -c /dev/console && echo console; echo $TERM;"
                      "stty size; echo err >&2; echo direct > /dev/console"],
                     config={"process": {"terminal": True,
                                         "consoleSize": {"height": 20, "width": 70}}})
    assert event["exitCode"] == 0
    assert task.output() == "/dev/pts/0\r\nconsole\r\nxterm\r\n20 70\r\nerr\r\ndirect\r\n"
    assert task.output(stream=2) == ""


def test_a_terminal_nobody_logs_does_not_stop_the_container(host):
    task = Task(host)
    event = task.run(["/bin/sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x"],
                     config={"process": {"terminal": True}}, log={"driver": "none"})
    assert event["exitCode"] == 0


def test_a_long_output_on_a_terminal_is_logged_to_the_end(host):
    task = Task(host)
    task.run(["/bin/sh", "-c", "seq 1 20000"], config={"process": {"terminal": True}}, init=True)
    assert task.output() == "".join(f"{i}\r\n" for i in range(1, 20001))


def test_interactive_input_has_no_end(host):
    task = Task(host)
    task.create(["/bin/sh", "-c", "echo on; read x; echo ended"], interactive=True)
    task.call("start", container="app")
    wait_for(lambda: task.output() == "on\n")
    assert sh(task, "readlink /proc/1/fd/0")[1].startswith("pipe:")
    # Without it the read would have come back at once.
    assert task.call("state")["containers"][0]["status"] == "running"
    task.create(["/bin/sh", "-c", "read x; echo ended"], name="other")
    task.call("start", container="other")
    assert task.connection.event("exited", "other")["exitCode"] == 0
    assert task.output() == "on\n"


def test_a_terminal_with_interactive_waits_for_input(host):
    task = Task(host)
    task.create(["/bin/sh", "-c", "echo on; read x; echo ended"], interactive=True,
                config={"process": {"terminal": True}})
    task.call("start", container="app")
    wait_for(lambda: task.output() == "on\r\n")
    assert task.call("state")["containers"][0]["status"] == "running"
