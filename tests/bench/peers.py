"""What this agent is held against: runc and crun with the same root file system, dockerd, nginx."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import time
import uuid

from bench.measure import wait_stamp

CAPABILITIES = [
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
]  # fmt: skip


MASKED = [
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys",
    "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
    "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
]  # fmt: skip
READONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


class Oci:
    """runc or crun, with a directory as root and a network namespace of its own that nothing leads to.

    config: a config.json as Docker makes it, see Docker.config(); None: what `runc spec` writes, with
    Docker's capabilities, which lacks Docker's seccomp profile.
    """

    def __init__(self, program, work, rootfs, out, config=None):
        self.program = program
        self.dir = pathlib.Path(work) / program
        self.bundle = self.dir / "bundle"
        self.bundle.mkdir(parents=True)
        self.root = self.dir / "root"
        self.out = out
        self.config = config or self._spec()
        self.config["root"] = {"path": str(rootfs), "readonly": False}
        self.config["mounts"] = [m for m in self.config["mounts"] if m["destination"] != "/out"]
        self.config["mounts"].append(
            {"destination": "/out", "type": "bind", "source": str(out), "options": ["rbind"]}
        )
        for mount in self.config["mounts"]:
            if mount["destination"].startswith("/etc/"):
                mount["source"] = str(self.dir / mount["destination"].rsplit("/", 1)[1])
                pathlib.Path(mount["source"]).touch()

    def _spec(self):
        subprocess.run([self.program, "spec"], cwd=self.bundle, check=True)
        config = json.loads((self.bundle / "config.json").read_text())
        sets = ("bounding", "effective", "permitted")
        config["process"]["capabilities"] = {name: CAPABILITIES for name in sets}
        config["process"]["terminal"] = False
        config["linux"]["resources"]["memory"] = {"limit": 64 << 20}
        return config

    def _write(self, bundle, *args):
        self.config["process"]["args"] = ["/stamp", *args]
        (bundle / "config.json").write_text(json.dumps(self.config))

    def start_to_process(self):
        """Seconds from starting `runc run` to the container's first instruction."""
        name = f"{self.program}-{uuid.uuid4().hex[:12]}"
        self._write(self.bundle, name)
        command = [self.program, "--root", str(self.root), "run", "--bundle", str(self.bundle), name]
        began = time.time_ns()
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        stamp = self.out / name
        seconds = (wait_stamp(stamp) - began) / 1e9
        stamp.unlink()
        return seconds

    def loop(self, count):
        """Seconds that a shell needs to start this many, one after the other, until all run."""
        names = [f"{self.program}-{uuid.uuid4().hex[:12]}" for _ in range(count)]
        bundles = self.dir / "bundles"
        for name in names:
            (bundles / name).mkdir(parents=True)
            self._write(bundles / name, name, "wait")
        script = (
            'for name; do "$program" --root "$root" run --detach --bundle "$bundles/$name" "$name" || exit 1; done'
        )
        variables = {"program": self.program, "root": str(self.root), "bundles": str(bundles)}
        began = time.time_ns()
        subprocess.run(
            ["sh", "-c", script, "sh", *names], check=True, env=os.environ | variables,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        seconds = (max(wait_stamp(self.out / name) for name in names) - began) / 1e9
        for name in names:
            subprocess.run(
                [self.program, "--root", str(self.root), "delete", "--force", name], check=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            (self.out / name).unlink()
        shutil.rmtree(bundles)
        return seconds


class Docker:
    """dockerd in a network namespace (the caller's) and a mount namespace of its own."""

    def __init__(self, work, rootfs, out):
        self.dir = pathlib.Path(work) / "docker"
        self.dir.mkdir()
        self.out = out
        self.socket = self.dir / "docker.sock"
        self.cgroup = "ecs-bench-docker"
        with open(self.dir / "dockerd.log", "wb") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "dockerd",
                 "--data-root", str(self.dir / "data"), "--exec-root", str(self.dir / "exec"),
                 "--pidfile", str(self.dir / "pid"), "--host", f"unix://{self.socket}",
                 "--cgroup-parent", self.cgroup],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while subprocess.run(self._docker("version"), capture_output=True).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.dir / "dockerd.log").read_text()[-3000:])
            time.sleep(0.2)
        tar = subprocess.Popen(["tar", "-C", str(rootfs), "-c", "."], stdout=subprocess.PIPE)
        subprocess.run(self._docker("import", "-", "bench:1"), stdin=tar.stdout, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
        tar.wait()

    def _docker(self, *words):
        return ["docker", "--host", f"unix://{self.socket}", *words]

    def start_to_process(self):
        name = "docker-" + uuid.uuid4().hex[:12]
        began = time.time_ns()
        subprocess.run(
            self._docker("run", "-d", "--rm", "--memory", "64m", "-v", f"{self.out}:/out",
                         "bench:1", "/stamp", name),
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        stamp = self.out / name
        seconds = (wait_stamp(stamp) - began) / 1e9
        stamp.unlink()
        return seconds

    def config(self):
        """The config.json that dockerd gives runc, seccomp profile and all, without its hooks."""
        name = "docker-config"
        subprocess.run(
            self._docker("run", "-d", "--name", name, "--memory", "64m", "-v", f"{self.out}:/out",
                         "bench:1", "/stamp", name, "wait"),
            check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        (path,) = (self.dir / "exec").rglob("moby/*/config.json")
        config = json.loads(path.read_text())
        subprocess.run(self._docker("rm", "-f", name), check=True, stdout=subprocess.DEVNULL)
        (self.out / name).unlink()
        config.pop("hooks", None)
        config["linux"].pop("cgroupsPath", None)
        resources = config["linux"]["resources"]  # the rest is 0, or of cgroup v1 alone
        config["linux"]["resources"] = {
            "devices": resources["devices"], "memory": {"limit": resources["memory"]["limit"]},
        }  # fmt: skip
        return config

    def stop(self):
        pid = int((self.dir / "pid").read_text())
        os.kill(pid, signal.SIGTERM)
        self.process.wait(timeout=60)
        for top in (self.cgroup, f"*/{self.cgroup}"):
            for directory in pathlib.Path("/sys/fs/cgroup").glob(top):
                for path, _, _ in os.walk(directory, topdown=False):
                    os.rmdir(path)
        shutil.rmtree(self.dir, ignore_errors=True)


NGINX = """
worker_processes 1;
daemon off;
pid {dir}/pid;
error_log {dir}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 600;
  server {{
    listen 127.0.0.1:8080;
    location / {{ default_type application/json; return 200 '{body}'; }}
  }}
}}
"""


class Nginx:
    """A tuned nginx that answers the same bytes from memory."""

    def __init__(self, work, body):
        self.dir = pathlib.Path(work) / "nginx"
        self.dir.mkdir()
        self.dir.chmod(0o755)
        path = self.dir / "nginx.conf"
        path.write_text(NGINX.format(dir=self.dir, body=body))
        self.process = subprocess.Popen(
            ["nginx", "-c", str(path), "-p", str(self.dir)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.url = "http://127.0.0.1:8080/"

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=10)
