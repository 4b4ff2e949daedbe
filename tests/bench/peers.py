"""What this agent is held against: runc with the same root file system, dockerd, nginx."""

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


class Runc:
    """runc run: namespaces, capabilities and cgroup limits like ours, a new network namespace."""

    def __init__(self, work, rootfs, out):
        self.bundle = pathlib.Path(work) / "bundle"
        self.bundle.mkdir()
        self.root = pathlib.Path(work) / "runc"
        self.out = out
        subprocess.run(["runc", "spec"], cwd=self.bundle, check=True)
        self.config = json.loads((self.bundle / "config.json").read_text())
        sets = ("bounding", "effective", "permitted")
        self.config["process"]["capabilities"] = {name: CAPABILITIES for name in sets}
        self.config["process"]["terminal"] = False
        self.config["root"] = {"path": str(rootfs), "readonly": False}
        self.config["linux"]["resources"]["memory"] = {"limit": 64 << 20}
        self.config["mounts"].append(
            {"destination": "/out", "type": "bind", "source": str(out), "options": ["rbind"]}
        )

    def start_to_process(self):
        """Seconds from starting `runc run` to the container's first instruction."""
        name = "runc-" + uuid.uuid4().hex[:12]
        self.config["process"]["args"] = ["/stamp", name]
        (self.bundle / "config.json").write_text(json.dumps(self.config))
        command = ["runc", "--root", str(self.root), "run", "--bundle", str(self.bundle), name]
        began = time.time_ns()
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        stamp = self.out / name
        seconds = (wait_stamp(stamp) - began) / 1e9
        stamp.unlink()
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
