"""ecs-agent exec: an operator's commands in the containers of a host."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios

import pytest

from builddir import needs_root, program
from runtime import Task
from test_exec import read_terminal
from waiting import wait_for

pytestmark = needs_root


@pytest.fixture
def task(host):
    it = Task(host)
    it.create(["/bin/sleep", "1000"])
    it.call("start", container="app")
    return it


def command(host, *words):
    return [program("ecs-agent"), "--runtime-dir", str(host.run), "exec", *words]


def run(host, *words, **more):
    return subprocess.run(command(host, *words), capture_output=True, text=True, timeout=60,
                          check=False, **more)


def in_terminal(host, *words, rows=31, columns=91):
    """The command on a terminal of its own: (process, our side)."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    process = subprocess.Popen(command(host, *words), stdin=slave, stdout=slave, stderr=slave,
                               start_new_session=True,
                               preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    return process, master, slave


def processes(host, task):
    ran = run(host, task.id, "app", "ps")
    assert ran.returncode == 0, ran
    return ran.stdout


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_output_and_exit_code_are_passed_on(host, task, code):
    ran = run(host, task.id, "app", "--", "sh", "-c", f"echo out; echo err >&2; exit {code}")
    assert (ran.returncode, ran.stdout, ran.stderr) == (code, "out\n", "err\n")


def test_an_end_by_signal_is_128_plus_n(host, task):
    assert run(host, task.id, "app", "sh", "-c", "kill -9 $$").returncode == 137


def test_much_output_arrives_whole(host, task):
    ran = run(host, task.id, "app", "seq", "1", "200000")
    assert ran.stdout == "".join(f"{i}\n" for i in range(1, 200001))


@pytest.mark.parametrize("name", [
    lambda task: task.id[:6],
    lambda task: f"arn:aws:ecs:us-west-2:111122223333:task/c/{task.id}",
])
def test_a_task_is_found_by_prefix_and_arn(host, task, name):
    assert run(host, name(task), "app", "true").returncode == 0


def test_an_ambiguous_or_unknown_task_is_answered_with_those_there_are(host, task):
    other = Task(host)
    # What begins with nothing begins all of them.
    found = os.listdir(host.run / "tasks")
    assert sorted(found) == sorted([task.id, other.id])
    ran = run(host, "zz", "app", "true")
    assert ran.returncode == 125
    assert 'no task "zz" is on this host' in ran.stderr
    assert task.id in ran.stderr and other.id in ran.stderr
    prefix = os.path.commonprefix([task.id, other.id])
    if prefix:
        ran = run(host, prefix, "app", "true")
        assert ran.returncode == 125 and "several tasks" in ran.stderr


def test_a_common_beginning_is_ambiguous(host, task):
    (host.run / "tasks" / (task.id[:5] + "-twin")).mkdir()
    ran = run(host, task.id[:5], "app", "true")
    assert ran.returncode == 125
    assert "several tasks" in ran.stderr and task.id in ran.stderr and "-twin" in ran.stderr
    assert run(host, task.id, "app", "true").returncode == 0


def test_an_unknown_container_is_answered_with_those_there_are(host, task):
    ran = run(host, task.id, "web", "true")
    assert ran.returncode == 125
    assert ran.stderr == 'ecs-agent exec: this task has no container "web"; it has app\n'


def test_a_container_that_has_ended_is_named(host, task):
    task.call("stop", container="app", timeoutUsec=0)
    task.connection.event("exited")
    ran = run(host, task.id, "app", "true")
    assert (ran.returncode, ran.stderr) == (125, "ecs-agent exec: container app is not running\n")


def test_a_command_that_cannot_run_has_dockers_exit_codes(host, task):
    ran = run(host, task.id, "app", "nosuch")
    assert ran.returncode == 127 and '"nosuch": executable file not found in $PATH' in ran.stderr
    assert run(host, task.id, "app", "/etc/passwd").returncode == 126


def test_user_folder_and_environment(host, task):
    ran = run(host, task.id, "app", "--user", "app", "-w", "/tmp", "-eA=b c", "--env=D=e", "--",
              "sh", "-c", "id -u; pwd; echo $A $D")
    assert (ran.returncode, ran.stdout) == (0, "1000\n/tmp\nb c e\n")
    # Options may also come first, and the command may have some of its own.
    ran = run(host, "-u", "4:5", task.id, "app", "id", "-g")
    assert (ran.returncode, ran.stdout) == (0, "5\n")


def test_input_reaches_the_command_only_when_asked_for(host, task):
    text = "line\n" * 100000
    ran = run(host, "-i", task.id, "app", "cat", input=text)
    assert (ran.returncode, ran.stdout) == (0, text)
    assert run(host, task.id, "app", "cat", input=text).stdout == ""


def test_input_that_nobody_reads_to_the_end_is_no_trouble(host, task):
    ran = run(host, "-i", task.id, "app", "head", "-n", "1", input="line\n" * 100000)
    assert (ran.returncode, ran.stdout) == (0, "line\n")


def test_the_container_gets_no_descriptor_of_the_operators(host, task, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("canary\n")
    with open(secret) as file:
        ran = subprocess.run(
            command(host, "-i", task.id, "app", "sh", "-c", "cat; readlink /proc/self/fd/0; "
                    "echo changed > /proc/self/fd/0; exit 0"),
            stdin=file, capture_output=True, text=True, timeout=60, check=False)
    assert ran.stdout.startswith("canary\npipe:"), ran
    assert secret.read_text() == "canary\n"


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT"])
def test_signals_reach_the_command(host, task, name):
    with subprocess.Popen(
        command(host, task.id, "app", "sh", "-c",
                f"trap 'echo got {name}; exit 4' {name}; echo on; while :; do sleep 0.1; done"),
        stdout=subprocess.PIPE, text=True,
    ) as process:
        assert process.stdout.readline() == "on\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.stdout.read() == f"got {name}\n"
        assert process.wait(20) == 4


def test_killing_the_operators_side_hangs_up(host, task):
    with subprocess.Popen(command(host, task.id, "app", "sh", "-c", "echo on; exec sleep 1001"),
                          stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "on\n"
        wait_for(lambda: "sleep 1001" in processes(host, task), what="sleep")
        process.kill()
    wait_for(lambda: "sleep 1001" not in processes(host, task), what="the end of the command")


def test_a_terminal_end_to_end(host, task):
    process, master, slave = in_terminal(host, "-it", task.id, "app", "sh")
    before = termios.tcgetattr(slave)
    os.write(master, b"stty size; tty; echo $TERM\n")
    assert "31 91\r\n/dev/pts/0\r\nxterm\r\n" in read_terminal(master, "xterm\r\n")
    assert not termios.tcgetattr(slave)[3] & termios.ECHO, "raw while it runs"

    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 111, 0, 0))

    def resized():
        os.write(master, b"stty size; echo end\n")
        return "44 111" in read_terminal(master, "end\r\n")

    wait_for(resized, what="the new size")
    os.write(master, b"tail -f /etc/group\n")
    wait_for(lambda: "tail -f /etc/group" in processes(host, task),
             what="tail in the foreground")
    os.write(master, b"\x03")
    os.write(master, b"exit 7\n")
    assert process.wait(20) == 7
    assert termios.tcgetattr(slave) == before, "the terminal is as it was"
    os.close(master)
    os.close(slave)


def test_a_terminal_is_restored_when_the_task_dies(host, task):
    process, master, slave = in_terminal(host, "-it", task.id, "app", "sh")
    before = termios.tcgetattr(slave)
    os.write(master, b"echo on$((1+1))\n")
    read_terminal(master, "on2")
    task.kill()
    assert process.wait(20) == 125
    assert termios.tcgetattr(slave) == before
    assert "the task has ended" in read_terminal(master, "ended")
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize("words, message", [
    ([], "a task and a container must be named"),
    (["t"], "a container of task t must be named"),
    (["t", "c"], "no command is given for container c"),
    (["--nope", "t", "c", "x"], "unknown option --nope"),
    (["-x", "t", "c", "x"], "unknown option -x"),
    (["t", "c", "-u"], "option -u needs a value"),
    (["--user=", "t", "c", "x"], "has an empty value"),
    (["-w", "rel", "t", "c", "x"], '--workdir "rel" must be an absolute path'),
    (["-e", "x", "t", "c", "x"], '--env "x" must be NAME=VALUE'),
    (["-it", "t", "c", "x"], "standard input is no terminal"),
    (["arn:aws:x", "c", "x"], "is neither a task's id nor its ARN"),
])
def test_a_wrong_command_line_is_named(host, words, message):
    ran = run(host, *words, stdin=subprocess.DEVNULL)
    assert ran.returncode == 125 and message in ran.stderr, ran


def test_help_and_a_host_without_tasks(host):
    ran = run(host, "--help")
    assert ran.returncode == 0 and "--workdir" in ran.stdout
    assert "this host, which has none" in run(host, "x", "c", "true").stderr


def test_only_root_may(host, task):
    ran = run(host, task.id, "app", "true", user=65534, group=65534)
    assert ran.returncode == 125 and "only root" in ran.stderr
