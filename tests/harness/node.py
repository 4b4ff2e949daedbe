"""A node under test: the daemons as an installation would run them, in directories of their own."""

import json
import os
import pathlib
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import uuid

from controlplane.client import StandIn, StandInError, wait_for

from .service_manager import ServiceManager

DAEMONS = ("launcher", "metadata", "logs", "agent")
USERS = {"metadata": "ecs-metadata", "logs": "ecs-logs", "agent": "ecs-agent"}
SANITIZER = re.compile(rb"ERROR: (Address|Leak)Sanitizer|runtime error:|AddressSanitizer:DEADLYSIGNAL")


def programs_dir():
    """Where the programs to test are installed: ECS_PROGRAMS, else /usr/libexec/ecs."""
    return pathlib.Path(os.environ.get("ECS_PROGRAMS", "/usr/libexec/ecs"))


class Node:
    """Directories, configuration and processes of one node. Use as a context manager.

    config: further lines of ecs.config. standin: a running StandIn, or None to start one.
    managed: a service manager keeps descriptors for ecs-metadata, as systemd does.
    The caller is in the network namespace that is to be the host's.
    """

    def __init__(self, config=None, standin=None, standin_options=None, start=True, managed=False):
        self.name = uuid.uuid4().hex[:6]
        self.base = pathlib.Path(tempfile.mkdtemp(prefix="ecs-node-", dir="/var/tmp"))
        self.base.chmod(0o755)
        self.state = self.base / "state"
        self.run = self.base / "run"
        self.logs_dir = self.base / "log"
        self.config_path = self.base / "ecs.config"
        self.cgroup_parent = f"ecs-test-{self.name}"
        self.bridge = f"ecs{self.name}"
        self.processes = {}
        self.manager = None
        self.own_standin = standin is None
        self.standin = None
        try:
            self.logs_dir.mkdir()
            self.manager = ServiceManager(self.base) if managed else None
            self.standin = standin or StandIn.start(
                self.base / "standin", listen="0.0.0.0", name=["172.29.0.1"],
                **(standin_options or {}),
            )  # fmt: skip
            self.config = self._default_config() | (config or {})
            self.write_config()
            if start:
                self.start()
        except BaseException:
            self.stop(check=False)
            raise

    def _default_config(self):
        facts = self.standin.facts
        return {
            "ECS_CLUSTER": "default",
            "AWS_DEFAULT_REGION": self.standin.region,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.standin.imds,
            "AWS_CA_BUNDLE": self.standin.ca,
            "AWS_ACCESS_KEY_ID": facts["accessKeyId"],
            "AWS_SECRET_ACCESS_KEY": facts["secretAccessKey"],
            "ECS_ENABLE_TASK_IAM_ROLE": "true",
            "ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST": "true",
            "ECS_ENABLE_AWSLOGS_EXECUTIONROLE_OVERRIDE": "true",
            "ECS_AVAILABLE_LOGGING_DRIVERS": '["json-file","awslogs","none"]',
            "ECS_LOGLEVEL": "debug",
            "ECS_BRIDGE_NAME": self.bridge,
        }

    @property
    def endpoint(self):
        """The stand-in as this host reaches it."""
        return re.sub(r"//[^:/]+:", "//127.0.0.1:", self.standin.endpoint)

    def write_config(self):
        text = "".join(f"{key}={value}\n" for key, value in self.config.items() if value is not None)
        self.config_path.write_text(text)
        os.chown(self.config_path, 0, pwd.getpwnam("ecs-agent").pw_gid)
        self.config_path.chmod(0o640)

    # Processes

    def environment(self, daemon):
        environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        if daemon != "agent":  # systemd gives these to the others by EnvironmentFile=
            names = ("AWS_ENDPOINT_URL", "AWS_CA_BUNDLE", "AWS_DEFAULT_REGION", "ECS_LOGLEVEL")
            environment |= {n: self.config[n] for n in names if self.config.get(n)}
        return environment

    def command(self, daemon):
        program = [
            str(programs_dir() / f"ecs-{daemon}"), "--config", str(self.config_path),
            "--state-dir", str(self.state), "--runtime-dir", str(self.run),
        ]  # fmt: skip
        if daemon == "launcher":
            return program + ["--cgroup-parent", self.cgroup_parent]
        user = pwd.getpwnam(USERS[daemon])
        drop = [
            "setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups",
            "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs",
        ]  # fmt: skip
        return drop + program

    def log_path(self, daemon):
        return self.logs_dir / f"{daemon}.log"

    def start_daemon(self, daemon):
        assert daemon not in self.processes, f"{daemon} runs already"
        with open(self.log_path(daemon), "ab") as log:
            popen = self.manager.popen if self.manager and daemon == "metadata" else subprocess.Popen
            self.processes[daemon] = popen(
                self.command(daemon), env=self.environment(daemon), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, cwd="/",
            )  # fmt: skip

    def start(self, wait=True):
        self.start_daemon("launcher")
        wait_for((self.run / "launcher.sock").exists, 20, self._not_started("launcher"))
        self.start_daemon("metadata")
        self.start_daemon("logs")
        wait_for((self.run / "metadata/control.sock").exists, 20, self._not_started("metadata"))
        self.start_daemon("agent")
        if wait:
            self.wait_connected()

    def _not_started(self, daemon):
        return lambda: f"ecs-{daemon} did not start: {self.log_path(daemon).read_text()[-2000:]}"

    def wait_connected(self, timeout=60):
        def state():
            return f"{self.standin.instance()}; agent: {self.log_path('agent').read_text()[-2000:]}"

        def connected():
            instance = self.standin.instance()
            return instance if instance and instance["acsConnected"] else None

        return wait_for(connected, timeout, state)

    def kill(self, daemon, how=signal.SIGKILL):
        """Send a signal and wait for the end; returns the exit status."""
        process = self.processes.pop(daemon)
        process.send_signal(how)
        return process.wait(timeout=20)

    def restart(self, daemon, how=signal.SIGKILL):
        self.kill(daemon, how)
        self.start_daemon(daemon)

    def pid(self, daemon):
        return self.processes[daemon].pid

    # Looking

    def log_events(self, group, stream=None):
        """Events that have arrived in CloudWatch Logs; none while the group does not exist."""
        try:
            return self.standin.log_events(group, stream)
        except StandInError as error:
            if "ResourceNotFoundException" not in str(error):
                raise
            return []

    def logs(self, group, stream=None):
        return [event["message"] for event in self.log_events(group, stream)]

    def supervisor_pid(self, arn):
        """The pid of a task's ecs-task."""
        task_id = arn.rsplit("/", 1)[1].encode()
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if words and words[0].endswith(b"ecs-task") and task_id in words:
                return int(path.parent.name)
        return None

    def task_processes(self, arn):
        """Pids of everything in the cgroups of a task, its supervisor included."""
        name = "ecstasks-" + arn.rsplit("/", 1)[1]
        return self._pids_below(self._cgroup_dirs(name))

    @staticmethod
    def _pids_below(directories):
        """Processes in these cgroups and below; cgroups may go away meanwhile."""
        pids = set()
        for directory in directories:
            for path, _, _ in os.walk(directory):
                try:
                    pids |= {int(n) for n in pathlib.Path(path, "cgroup.procs").read_text().split()}
                except OSError:
                    continue
        return pids - {0}

    def _cgroup_dirs(self, name=""):
        mounts = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        for _, mount, kind, *_ in mounts:
            if kind in ("cgroup", "cgroup2"):
                path = pathlib.Path(mount) / self.cgroup_parent / name
                if path.is_dir():
                    yield path

    def leftovers(self):
        """What is left of tasks on this host; empty when everything has been cleaned up."""
        found = []
        for directory in self._cgroup_dirs():
            found += [f"cgroup {path}" for path in directory.glob("ecstasks-*")]
        for line in pathlib.Path("/proc/mounts").read_text().splitlines():
            if str(self.base) in line:
                found.append(f"mount {line}")
        links = json.loads(
            subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout or "[]"
        )
        found += [
            f"link {link['ifname']}" for link in links
            if link["ifname"].startswith("ecs") and link["ifname"] != self.bridge
        ]  # fmt: skip
        found += [f"directory {path}" for path in (self.state / "tasks").glob("[!.]*")]
        found += [f"directory {path}" for path in (self.state / "exits").glob("*")]
        found += [f"directory {path}" for path in (self.run / "tasks").glob("*")]
        found += [f"directory {path}" for path in (self.state / "spool").glob("*")]
        found += [f"nft element {line}" for line in self._nft_elements()]
        return found

    def _nft_elements(self):
        rules = subprocess.run(
            ["nft", "list", "ruleset"], capture_output=True, text=True, check=True
        ).stdout
        return re.findall(r'comment "([0-9a-f]{12,64})"', rules)

    def wait_clean(self, timeout=30):
        wait_for(lambda: not self.leftovers(), timeout, lambda: "left: " + "\n".join(self.leftovers()))

    def check_logs(self):
        """No sanitizer report in any daemon's log."""
        for path in self.logs_dir.glob("*.log"):
            data = path.read_bytes()
            match = SANITIZER.search(data)
            if match:
                text = data[max(0, match.start() - 500) : match.start() + 6000]
                raise AssertionError(f"{path.name}: {text.decode(errors='replace')}")

    # The end

    def stop(self, check=True):
        """End everything and remove every trace, whatever state it is in."""
        for daemon in reversed(DAEMONS):
            process = self.processes.pop(daemon, None)
            if process:
                process.terminate()
                try:
                    process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.kill_tasks()
        if self.manager:
            self.manager.stop()
            self.manager = None
        self._remove_network()
        self._remove_cgroups()
        if self.own_standin and self.standin:
            self.standin.stop()
        try:
            if check:
                self.check_logs()
        finally:
            if os.environ.get("ECS_TEST_KEEP") != "1":
                shutil.rmtree(self.base, ignore_errors=True)

    def kill_tasks(self):
        def ended():
            left = self._pids_below(self._cgroup_dirs())
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            return not left

        wait_for(ended, 20, lambda: f"processes {self._pids_below(self._cgroup_dirs())} do not end")

    def _remove_network(self):
        """Without a configuration nothing was started, and the default bridge is not ours."""
        program = programs_dir() / "ecs-network"
        if self.config_path.exists() and program.exists():
            subprocess.run(
                [str(program), "--remove", "--config", str(self.config_path)],
                env=self.environment("network"), check=False, capture_output=True,
            )  # fmt: skip

    def _remove_cgroups(self):
        def removed():
            for directory in list(self._cgroup_dirs()):
                for path, _, _ in os.walk(directory, topdown=False):
                    try:
                        os.rmdir(path)
                    except OSError:
                        pass
            return not list(self._cgroup_dirs())

        wait_for(removed, 20, lambda: f"cgroups {list(self._cgroup_dirs())} cannot be removed")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
