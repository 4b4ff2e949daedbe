"""A host with ecs-network, its containers and a neighbour, in network namespaces of their own.

"host" stands for the container instance, "outside" is a neighbour it reaches through its default
route, and containers are further namespaces. The machine's own namespace is never touched.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import threading
import uuid
from pathlib import Path

import pytest

from builddir import program

BRIDGE = "ecs-t0"
SUBNET = "172.29.0.0/16"
GATEWAY = "172.29.0.1"
HOST = "10.77.0.1"
OUTSIDE = "10.77.0.2"
ENDPOINT = "169.254.170.2"
MTU = 1400
CLONE_NEWNET = 0x40000000
SECONDS = 10  # the longest wait for anything that must come
MOMENT = 0.3  # how long something that must not come is waited for

libc = ctypes.CDLL(None, use_errno=True)


def run(*args, check=True, **kwargs):
    done = subprocess.run(args, capture_output=True, text=True, timeout=60, **kwargs)
    if check:
        assert done.returncode == 0, f"{args}: {done.stderr}"
    return done


class Namespace:
    """A named network namespace, with lo up."""

    def __init__(self, name):
        self.name = f"ecs-test-{uuid.uuid4().hex[:8]}-{name}"
        self.path = f"/run/netns/{self.name}"
        run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def remove(self):
        run("ip", "netns", "delete", self.name, check=False)

    def ip(self, *args, **kwargs):
        return run("ip", "-n", self.name, *args, **kwargs).stdout

    def ip_json(self, *args):
        return json.loads(self.ip("-json", "-details", *args) or "[]")

    def exec(self, *args, **kwargs):
        return run("ip", "netns", "exec", self.name, *args, **kwargs)

    def nft(self, *args, **kwargs):
        return self.exec("nft", *args, **kwargs).stdout

    def sysctl(self, name):
        return self.exec("cat", "/proc/sys/net/" + name).stdout.strip()

    def inside(self, function, *args):
        """function(*args) in a thread that has entered the namespace."""
        result = []

        def enter():
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(fd, CLONE_NEWNET) < 0:
                    raise OSError(ctypes.get_errno(), "setns")
                result.append((function(*args), None))
            except BaseException as error:  # handed to the caller's thread
                result.append((None, error))
            finally:
                os.close(fd)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        value, error = result[0]
        if error:
            raise error
        return value

    def socket(self, kind=socket.SOCK_STREAM):
        sock = self.inside(socket.socket, socket.AF_INET, kind)
        sock.settimeout(SECONDS)
        return sock

    def listen(self, port, address="0.0.0.0"):
        sock = self.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen()
        return sock

    def connect(self, address, port, source=None, timeout=SECONDS):
        sock = self.socket()
        sock.settimeout(timeout)
        try:
            if source:
                sock.bind((source, 0))
            sock.connect((address, port))
        except BaseException:
            sock.close()
            raise
        sock.settimeout(SECONDS)
        return sock


class Agent:
    """The other end of ecs-network's connection."""

    def __init__(self, host, directory, **config):
        settings = {"ECS_BRIDGE_NAME": BRIDGE, "ECS_BRIDGE_SUBNET": SUBNET, **config}
        self.config = Path(directory) / "ecs.config"
        self.config.write_text("".join(f"{k}={v}\n" for k, v in settings.items()))
        self.host = host
        self.directory = directory
        self.start()

    def command(self, *args):
        return [
            program("netns/ecs-network"),
            *("--config", str(self.config)),
            *("--state-dir", str(self.directory), "--runtime-dir", str(self.directory)),
            *args,
        ]

    def start(self):
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(SECONDS)
        with theirs:
            fd = theirs.fileno()
            script = f'exec 3<&{fd}; exec "$@"' if fd != 3 else 'exec "$@"'
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.host.name]
                + ["bash", "-c", script, "bash", *self.command()],
                pass_fds=[fd],
                stderr=subprocess.PIPE,
                text=True,
            )
        self.seq = 0

    def stop(self):
        """End the connection, as ecs-agent does; the process follows."""
        self.sock.close()
        try:
            _, error = self.process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode, error

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        self.sock.close()

    def remove(self):
        return self.host.exec(*self.command("--remove"), check=False)

    def send(self, kind, fds=(), **members):
        self.seq += 1
        text = json.dumps({"type": kind, "seq": self.seq, **members}).encode()
        socket.send_fds(self.sock, [struct.pack("<I", len(text)) + text], list(fds))

    def receive(self):
        data, fds, _, _ = socket.recv_fds(self.sock, 4, 64)
        while len(data) < 4:
            more = self.sock.recv(4 - len(data))
            assert more, "the connection has ended"
            data += more
        (length,) = struct.unpack("<I", data)
        text = b""
        while len(text) < length:
            text += self.sock.recv(length - len(text))
        body = json.loads(text)
        assert body.pop("seq") == self.seq
        return body, fds

    def ask(self, kind, fds=(), **members):
        self.send(kind, fds, **members)
        return self.receive()

    def ok(self, kind, fds=(), **members):
        """The answer, which carries no descriptor."""
        body, got = self.ask(kind, fds, **members)
        assert body["type"] != "error", body
        assert not got
        return body

    def refused(self, kind, fds=(), **members):
        body, got = self.ask(kind, fds, **members)
        assert body["type"] == "error", body
        assert not got
        return body.get("code"), body["message"]


class Container:
    """A namespace that is attached, and what came back for it."""

    def __init__(self, lab, address):
        self.lab = lab
        self.address = address
        self.id = uuid.uuid4().hex * 2
        self.ns = lab.namespace(address.rpartition(".")[2])
        self.held = []

    @property
    def link(self):
        return "ecs" + self.id[:12]

    def request(self, ports=(), **members):
        return {
            "id": self.id,
            "address": self.address,
            "ports": [
                {"containerPort": inner, "hostPort": outer, "protocol": protocol}
                for inner, outer, protocol in ports
            ],
            "portRange": [40000, 40009],
            "portCursor": 39999,
            **members,
        }

    def attach(self, *ports, **members):
        self.release()
        with open(self.ns.path) as ns:
            body, self.held = self.lab.agent.ask(
                "attach", [ns.fileno()], **self.request(ports, **members)
            )
        assert body["type"] == "attached", body
        assert len(self.held) == len(ports)
        return body

    def refused(self, *ports, **members):
        with open(self.ns.path) as ns:
            return self.lab.agent.refused(
                "attach", [ns.fileno()], **{**self.request(ports), **members}
            )

    def release(self):
        for fd in self.held:
            os.close(fd)
        self.held = []

    @property
    def is_attached(self):
        return any(link["ifname"] == self.link for link in self.lab.host.ip_json("link"))


class Lab:
    def __init__(self, stack, directory):
        self.stack = stack
        self.host = self.namespace("host")
        self.outside = self.namespace("outside")
        self.host.ip(
            *("link", "add", "up0", "mtu", str(MTU), "type", "veth", "peer", "name", "eth0"),
            *("netns", self.outside.name),
        )
        self.host.ip("address", "add", HOST + "/24", "dev", "up0")
        self.host.ip("link", "set", "up0", "up")
        self.outside.ip("address", "add", OUTSIDE + "/24", "dev", "eth0")
        self.outside.ip("link", "set", "eth0", "up")
        self.host.ip("route", "add", "default", "via", OUTSIDE)
        self.agent = Agent(self.host, directory)
        stack.callback(lambda: self.agent.process.poll() is None and self.agent.kill())

    def namespace(self, name):
        ns = Namespace(name)
        self.stack.callback(ns.remove)
        return ns

    def container(self, address):
        container = Container(self, address)
        self.stack.callback(container.release)
        return container

    def elements_with_id(self):
        listing = json.loads(self.host.nft("-j", "list", "map", "ip", "ecs_" + BRIDGE, "ports"))
        (port_map,) = [o["map"] for o in listing["nftables"] if "map" in o]
        return [
            (*value["concat"], key["elem"]["comment"])
            for key, value in port_map.get("elem", [])
            if "elem" in key
        ]

    def elements(self):
        """(protocol, host port) -> (address, container port, comment) of the published ports."""
        listing = json.loads(self.host.nft("-j", "list", "map", "ip", "ecs_" + BRIDGE, "ports"))
        (port_map,) = [o["map"] for o in listing["nftables"] if "map" in o]
        return {
            tuple(key["elem"]["val"]["concat"]): (*value["concat"], key["elem"]["comment"])
            for key, value in port_map.get("elem", [])
        }


@pytest.fixture
def lab(tmp_path):
    with contextlib.ExitStack() as stack:
        yield Lab(stack, tmp_path)


@pytest.fixture
def host_ready(lab):
    lab.agent.ok("host")
    return lab


def expect_connection(client_ns, address, port, listener, source=None):
    """A connection and data both ways; returns the peer that the server sees."""
    with client_ns.connect(address, port, source) as client:
        server, peer = listener.accept()
        with server:
            server.settimeout(SECONDS)
            client.sendall(b"question")
            assert server.recv(8) == b"question"
            server.sendall(b"answer")
            assert client.recv(6) == b"answer"
            client.close()
    return peer[0]


def expect_datagrams(client_ns, address, port, server):
    """The same with UDP; the answer must come from where the question went."""
    with client_ns.socket(socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        client.send(b"question")
        data, peer = server.recvfrom(100)
        assert data == b"question"
        server.sendto(b"answer", peer)
        assert client.recv(100) == b"answer"
    return peer[0]


def expect_nothing(client_ns, address, port, listener, source=None):
    with pytest.raises(OSError):
        client_ns.connect(address, port, source, timeout=MOMENT).close()
    listener.settimeout(0)
    with pytest.raises(BlockingIOError):
        listener.accept()
    listener.settimeout(SECONDS)
