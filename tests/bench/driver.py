"""Starts containers as ecs-agent does, by ecs-launcher, ecs-task and ecs-network; no AWS is involved."""

import array
import json
import os
import pathlib
import shutil
import socket
import struct
import subprocess
import time
import uuid

from bench.measure import wait_stamp
from bench.peers import CAPABILITIES, MASKED, READONLY
from controlplane.client import wait_for
from harness import images
from harness.node import programs_dir

CGROUPS = pathlib.Path("/sys/fs/cgroup")


class Connection:
    """lib/ipc messages over a connected socket; descriptors that come along are kept in fds."""

    def __init__(self, path, line):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(60)
        self.socket.connect(str(path))
        self.socket.sendall(line)
        self.data = b""
        self.fds = []
        self.seq = 0

    def call(self, kind, fds=(), **members):
        """The answer to a request; events are passed over."""
        self.seq += 1
        text = json.dumps({"type": kind, "seq": self.seq, **members}).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        data = struct.pack("<I", len(text)) + text
        self.socket.sendall(data[self.socket.sendmsg([data], rights) :])
        while True:
            message = self.receive()
            if message["type"] == "error":
                raise RuntimeError(f"{kind}: {message['message']}")
            if message.get("seq") == self.seq:
                return message

    def receive(self):
        while len(self.data) < 4 or len(self.data) < 4 + struct.unpack("<I", self.data[:4])[0]:
            chunk, ancillary, _, _ = self.socket.recvmsg(65536, socket.CMSG_SPACE(64 * 4))
            if not chunk:
                raise ConnectionError("the program ended the connection")
            for level, kind, rights in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self.fds += array.array("i", rights)
            self.data += chunk
        (size,) = struct.unpack("<I", self.data[:4])
        text, self.data = self.data[4 : 4 + size], self.data[4 + size :]
        return json.loads(text)

    def wait_end(self):
        while self.socket.recv(65536):
            pass

    def close(self):
        self.socket.close()
        for fd in self.fds:
            os.close(fd)


class Driver:
    """An ecs-launcher of its own, with a bridge and an image. Use as a context manager.

    The caller is in the network namespace that is to be the host's.
    """

    def __init__(self, work, out, files):
        name = uuid.uuid4().hex[:6]
        self.base = pathlib.Path(work) / "driver"
        self.base.mkdir()
        self.base.chmod(0o755)
        self.out = out
        self.run, self.state = self.base / "run", self.base / "state"
        self.parent = f"ecs-bench-{name}"
        config = self.base / "ecs.config"
        config.write_text(f"ECS_BRIDGE_NAME=bench{name}\nECS_BRIDGE_SUBNET=172.28.0.0/16\nECS_LOGLEVEL=warn\n")
        self.options = ["--config", config, "--state-dir", self.state, "--runtime-dir", self.run]
        self.network = None
        with open(self.base / "log", "wb") as log:
            self.launcher = subprocess.Popen(
                [programs_dir() / "ecs-launcher", *self.options, "--cgroup-parent", self.parent],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        wait_for((self.run / "launcher.sock").exists, 20, "ecs-launcher did not start")
        self.layer = uuid.uuid4().hex * 2
        layer = self.state / "images/layers" / self.layer
        layer.mkdir()
        layer.chmod(0o755)
        subprocess.run(["tar", "-x", "-C", layer], input=images.busybox_layer(files), check=True)
        self.network = Connection(self.run / "launcher.sock", b"network\n")
        self.bridge = self.network.call("host")
        self.addresses = 0

    def start(self):
        """One container through its life; seconds until its first instruction."""
        task_id, container_id = uuid.uuid4().hex, uuid.uuid4().hex * 2
        stamp = self.out / f"driver-{task_id}"
        self.addresses = self.addresses % 200 + 1
        address = self.bridge["address"].rsplit(".", 1)[0] + f".{self.addresses + 1}"
        container = self.container(container_id, stamp.name)

        began = time.time_ns()
        task = Connection(self.run / "launcher.sock", f"task {task_id}\n".encode())
        task.call("setup", task={"arn": f"arn:aws:ecs:x:1:task/c/{task_id}", "networkMode": "bridge",
                                 "cgroup": {}})  # fmt: skip
        task.call("create", container=container)
        attached = self.network.call("attach", fds=task.fds[:1], id=container_id, address=address, ports=[])
        task.call(
            "start", container="app",
            network={name: attached[name] for name in ("address", "prefix", "gateway")},
        )  # fmt: skip
        seconds = (wait_stamp(stamp) - began) / 1e9

        stamp.unlink()
        while task.receive()["type"] != "exited":
            pass
        self.network.call("detach", id=container_id)
        task.call("end")
        task.wait_end()
        task.close()
        reaper = Connection(self.run / "launcher.sock", f"reap {task_id}\n".encode())
        reaper.receive()
        reaper.close()
        return seconds

    def container(self, container_id, stamp):
        """The "container" of agent/task/protocol.h, with Docker's defaults as a task has them."""
        capabilities = {name: CAPABILITIES for name in ("bounding", "permitted", "effective")}
        return {
            "name": "app",
            "id": container_id,
            "layers": [self.layer],
            "config": {
                "ociVersion": "1.0.2",
                "process": {"args": ["/stamp", stamp], "cwd": "/", "terminal": False,
                            "env": ["PATH=/bin"], "capabilities": capabilities},
                "root": {"readonly": False},
                "mounts": [{"destination": "/out", "type": "bind", "source": str(self.out),
                            "options": ["rbind"]}],
                "linux": {"resources": {"memory": {"limit": 64 << 20}}, "maskedPaths": MASKED,
                          "readonlyPaths": READONLY},
            },
            "seccomp": "default",
            "log": {"driver": "none"},
        }  # fmt: skip

    def stop(self):
        if self.network:
            self.network.close()
        self.launcher.terminate()
        self.launcher.wait(20)
        subprocess.run([programs_dir() / "ecs-network", "--remove", *self.options], check=False)
        for top in [CGROUPS, *CGROUPS.glob("*")]:
            for path, _, _ in os.walk(top / self.parent, topdown=False):
                os.rmdir(path)
        shutil.rmtree(self.base, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
