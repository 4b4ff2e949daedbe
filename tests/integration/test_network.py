"""ecs-network and the endpoints on the running kernel, in network namespaces of their own.

"host" stands for the container instance, "outside" is a neighbour it reaches through its default
route, and containers are further namespaces. The machine's own namespace is never touched.
"""

import contextlib
import ctypes
import errno
import ipaddress
import json
import os
import signal
import socket
import struct
import subprocess
import threading
import time
import uuid
from pathlib import Path

import pytest

import syscall_in
from builddir import needs_root, program

pytestmark = needs_root

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


def wait_for(condition, seconds=SECONDS):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("the condition did not come true in time")


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


# The host


def test_host_makes_bridge_table_and_sysctls(lab):
    answer = lab.agent.ok("host")
    assert answer == {
        "type": "host",
        "bridge": BRIDGE,
        "address": GATEWAY,
        "prefix": 16,
        "mtu": MTU,
        "created": True,
    }
    (link,) = lab.host.ip_json("address", "show", "dev", BRIDGE)
    assert link["linkinfo"]["info_kind"] == "bridge"
    assert link["address"] == "0a:58:ac:1d:00:01"
    assert link["mtu"] == MTU
    assert "UP" in link["flags"]
    assert [(a["local"], a["prefixlen"]) for a in link["addr_info"]] == [(GATEWAY, 16)]
    assert lab.host.sysctl("ipv4/ip_forward") == "1"
    assert lab.host.sysctl(f"ipv4/conf/{BRIDGE}/route_localnet") == "1"
    assert lab.host.sysctl("ipv4/conf/all/route_localnet") == "0"
    assert lab.host.sysctl(f"ipv6/conf/{BRIDGE}/accept_ra") == "0"
    assert lab.host.sysctl(f"ipv6/conf/{BRIDGE}/disable_ipv6") == "1"
    assert lab.elements() == {}


def test_host_repeated_changes_nothing(lab):
    lab.agent.ok("host")
    container = lab.container("172.29.0.5")
    container.attach((80, 8080, "tcp"))
    rules = lab.host.nft("list", "ruleset")
    assert lab.agent.ok("host")["created"] is False
    assert lab.host.nft("list", "ruleset") == rules
    lab.agent.stop()
    lab.agent.start()
    assert lab.agent.ok("host")["created"] is False
    assert lab.host.nft("list", "ruleset") == rules


def test_host_repairs_what_somebody_broke(host_ready):
    lab = host_ready
    rules = lab.host.nft("list", "ruleset")
    container = lab.container("172.29.0.5")
    bindings = container.attach((80, 8080, "tcp"))["bindings"]
    published = lab.elements()

    lab.host.nft("flush", "chain", "ip", "ecs_" + BRIDGE, "guard")
    lab.host.nft("add", "rule", "ip", "ecs_" + BRIDGE, "forward", "drop")
    lab.host.ip("address", "flush", "dev", BRIDGE)
    lab.host.ip("link", "set", BRIDGE, "down")
    lab.host.exec("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")
    assert lab.agent.ok("host")["created"] is False
    assert lab.elements() == published

    listener = container.ns.listen(80)
    expect_connection(lab.outside, HOST, 8080, listener)

    lab.host.nft("flush", "ruleset")
    assert lab.agent.ok("host")["created"] is True
    assert lab.host.nft("list", "ruleset") == rules
    lab.agent.ok("publish", id=container.id, address=container.address, bindings=bindings)
    assert lab.elements() == published
    expect_connection(lab.outside, HOST, 8080, listener)


def test_a_table_of_another_version_is_replaced_and_keeps_published_ports(host_ready):
    lab = host_ready
    container = lab.container("172.29.0.5")
    container.attach((80, 8080, "tcp"))
    rules = lab.host.nft("list", "ruleset")
    table = "ecs_" + BRIDGE
    lab.host.nft("delete", "chain", "ip", table, "forward")
    lab.host.nft(f"add chain ip {table} forward {{ type filter hook input priority 0; }}")
    lab.host.nft("add", "chain", "ip", table, "leftover")
    assert lab.agent.ok("host")["created"] is False
    assert lab.host.nft("list", "ruleset") == rules


def test_the_mtu_is_1500_without_a_default_route(lab):
    lab.host.ip("route", "delete", "default")
    assert lab.agent.ok("host")["mtu"] == 1500


def addresses(host):
    """All addresses; whether those of IPv6 have been found to be free is none of ours."""
    return host.ip("address").replace(" tentative", "")


@pytest.mark.parametrize(
    "breakage, words",
    [
        (["link", "add", BRIDGE, "type", "veth"], "is no bridge"),
        (["address", "add", "172.29.7.1/24", "dev", "up0"], "overlaps with 172.29.7.1/24 of up0"),
        (["address", "add", "172.16.0.1/12", "dev", "up0"], "overlaps with 172.16.0.1/12 of up0"),
    ],
)
def test_host_refuses_names_and_addresses_in_use(lab, breakage, words):
    lab.host.ip(*breakage)
    before = addresses(lab.host)
    code, message = lab.agent.refused("host")
    assert code == "EEXIST"
    assert words in message
    assert addresses(lab.host) == before
    assert lab.host.nft("list", "ruleset") == ""


def test_host_refuses_the_bridge_of_somebody_else(lab):
    lab.host.ip("link", "add", BRIDGE, "type", "bridge")
    lab.host.ip("address", "add", "172.17.0.1/16", "dev", BRIDGE)
    before = addresses(lab.host)
    code, message = lab.agent.refused("host")
    assert code == "EEXIST"
    assert "172.17.0.1/16" in message
    assert addresses(lab.host) == before


@pytest.mark.parametrize(
    "setting, value",
    [
        ("ECS_BRIDGE_NAME", "a-name-too-long0"),
        ("ECS_BRIDGE_NAME", "a/b"),
        ("ECS_BRIDGE_NAME", 'x"; flush ruleset'),
        ("ECS_BRIDGE_NAME", ".."),
        ("ECS_BRIDGE_NAME", ""),
        ("ECS_BRIDGE_NAME", "all"),
        ("ECS_BRIDGE_SUBNET", "172.29.0.0"),
        ("ECS_BRIDGE_SUBNET", "172.29.0.0/7"),
        ("ECS_BRIDGE_SUBNET", "172.29.0.0/30"),
        ("ECS_BRIDGE_SUBNET", "172.29.0.0/16 "+"x"),
        ("ECS_BRIDGE_SUBNET", "172.29.0.5/16"),
        ("ECS_BRIDGE_SUBNET", "172.29.0/16"),
        ("ECS_BRIDGE_SUBNET", "127.0.0.0/8"),
        ("ECS_BRIDGE_SUBNET", "169.254.0.0/16"),
        ("ECS_BRIDGE_SUBNET", "224.0.0.0/8"),
        ("ECS_BRIDGE_SUBNET", "fd00::/16"),
    ],
)
def test_bad_configuration_is_refused_by_name_and_value(lab, tmp_path, setting, value):
    lab.agent.stop()
    agent = Agent(lab.host, tmp_path, **{setting: value})
    status, error = agent.stop()
    assert status == 1
    assert f"{setting}={value}" in error.replace('\\"', '"')


def test_the_smallest_subnet_and_an_odd_name_work(lab, tmp_path):
    lab.agent.stop()
    lab.agent = Agent(
        lab.host, tmp_path, ECS_BRIDGE_NAME="a.b-c_d123", ECS_BRIDGE_SUBNET="192.168.77.8/29"
    )
    answer = lab.agent.ok("host")
    assert (answer["bridge"], answer["address"], answer["prefix"]) == (
        "a.b-c_d123",
        "192.168.77.9",
        29,
    )
    container = lab.container("192.168.77.14")
    container.attach((80, 8080, "tcp"))
    expect_connection(lab.outside, HOST, 8080, container.ns.listen(80))
    for address in ("192.168.77.8", "192.168.77.9", "192.168.77.15", "192.168.77.16"):
        code, message = container.refused(address=address)
        assert code == "EINVAL"
        assert address in message and "192.168.77.8/29" in message


# Attaching


def test_attach_fills_the_namespace(host_ready):
    lab = host_ready
    container = lab.container("172.29.0.5")
    answer = container.attach()
    assert answer == {
        "type": "attached",
        "address": "172.29.0.5",
        "prefix": 16,
        "gateway": GATEWAY,
        "mac": "0a:58:ac:1d:00:05",
        "portCursor": 39999,
        "bindings": [],
    }
    eth0 = container.ns.ip_json("address", "show", "dev", "eth0")[0]
    assert eth0["address"] == answer["mac"]
    assert eth0["mtu"] == MTU
    assert [(a["local"], a["prefixlen"]) for a in eth0["addr_info"]] == [("172.29.0.5", 16)]
    routes = {r["dst"]: r for r in container.ns.ip_json("route")}
    assert routes["default"]["gateway"] == GATEWAY
    assert set(routes) == {"default", SUBNET}
    (link,) = [i for i in lab.host.ip_json("link") if i["ifname"] == container.link]
    assert link["ifalias"] == container.id
    assert link["master"] == BRIDGE
    assert link["mtu"] == MTU
    assert "UP" in link["flags"]
    assert lab.host.sysctl(f"ipv6/conf/{container.link}/disable_ipv6") == "1"


def test_containers_reach_outside_through_the_host_and_each_other_directly(host_ready):
    lab = host_ready
    one, two = lab.container("172.29.0.5"), lab.container("172.29.0.6")
    one.attach()
    two.attach()
    assert expect_connection(one.ns, OUTSIDE, 7000, lab.outside.listen(7000)) == HOST
    assert expect_connection(one.ns, two.address, 80, two.ns.listen(80)) == one.address
    assert expect_connection(one.ns, GATEWAY, 7001, lab.host.listen(7001)) == one.address
    with lab.outside.socket(socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 7002))
        assert expect_datagrams(two.ns, OUTSIDE, 7002, server) == HOST


def test_published_tcp_ports_from_everywhere(host_ready):
    lab = host_ready
    one, two = lab.container("172.29.0.5"), lab.container("172.29.0.6")
    answer = one.attach((80, 8080, "tcp"), (443, 0, "tcp"))
    two.attach()
    assert answer["portCursor"] == 40000
    assert answer["bindings"] == [
        {"containerPort": 80, "hostPort": 8080, "protocol": "tcp", "bindIP": "0.0.0.0"},
        {"containerPort": 443, "hostPort": 40000, "protocol": "tcp", "bindIP": "0.0.0.0"},
    ]
    for inner, outer in ((80, 8080), (443, 40000)):
        listener = one.ns.listen(inner)
        assert expect_connection(lab.outside, HOST, outer, listener) == OUTSIDE
        assert expect_connection(lab.host, HOST, outer, listener) == HOST
        assert expect_connection(lab.host, "127.0.0.1", outer, listener) == GATEWAY
        assert expect_connection(lab.host, GATEWAY, outer, listener) == GATEWAY
        assert expect_connection(two.ns, HOST, outer, listener) == GATEWAY
        assert expect_connection(two.ns, GATEWAY, outer, listener) == GATEWAY
        assert expect_connection(one.ns, HOST, outer, listener) == GATEWAY  # its own port


def test_published_udp_ports_from_everywhere(host_ready):
    lab = host_ready
    one, two = lab.container("172.29.0.5"), lab.container("172.29.0.6")
    one.attach((53, 5353, "udp"), (54, 0, "udp"))
    two.attach()
    for inner, outer in ((53, 5353), (54, 40000)):
        with one.ns.socket(socket.SOCK_DGRAM) as server:
            server.bind(("0.0.0.0", inner))
            assert expect_datagrams(lab.outside, HOST, outer, server) == OUTSIDE
            assert expect_datagrams(lab.host, HOST, outer, server) == HOST
            assert expect_datagrams(lab.host, "127.0.0.1", outer, server) == GATEWAY
            assert expect_datagrams(two.ns, HOST, outer, server) == GATEWAY
            assert expect_datagrams(one.ns, HOST, outer, server) == GATEWAY


def test_a_udp_client_that_keeps_sending_follows_the_port(host_ready):
    """The kernel decides on NAT once for each flow, and a flow lives while datagrams come."""
    lab = host_ready
    one, two = lab.container("172.29.0.5"), lab.container("172.29.0.6")

    def reaches(client, container):
        with container.ns.socket(socket.SOCK_DGRAM) as server:
            server.bind(("0.0.0.0", 514))
            client.send(b"line")
            data, peer = server.recvfrom(100)
            assert data == b"line"
            server.sendto(b"noted", peer)
        assert client.recv(100) == b"noted"

    with lab.outside.socket(socket.SOCK_DGRAM) as far, lab.host.socket(socket.SOCK_DGRAM) as near:
        far.connect((HOST, 5140))
        near.connect(("127.0.0.1", 5140))
        with lab.host.socket(socket.SOCK_DGRAM) as swallows:  # so that no ICMP error comes back
            swallows.bind(("0.0.0.0", 5140))
            for client in (far, near):
                client.send(b"lost: nothing is published yet")
        for container in (one, two, one):
            container.attach((514, 5140, "udp"))
            reaches(far, container)
            reaches(near, container)
            lab.agent.ok("detach", id=container.id)
            container.release()

        # Once more without a detach: another container on the port of one that died.
        one.attach((514, 5140, "udp"))
        reaches(far, one)
        one.release()
        two.attach((514, 5140, "udp"))
        reaches(far, two)
        reaches(near, two)


def test_flows_to_the_same_port_of_other_hosts_are_left_alone(host_ready):
    lab = host_ready
    one, two = lab.container("172.29.0.5"), lab.container("172.29.0.6")
    one.attach()
    with lab.outside.socket(socket.SOCK_DGRAM) as server, one.ns.socket(
        socket.SOCK_DGRAM
    ) as client:
        server.bind(("0.0.0.0", 5140))
        client.connect((OUTSIDE, 5140))
        client.send(b"question")
        _, peer = server.recvfrom(100)
        two.attach((514, 5140, "udp"))
        lab.agent.ok("detach", id=two.id)
        server.sendto(b"late answer", peer)  # finds its way back only while the flow is known
        assert client.recv(100) == b"late answer"


def test_the_same_port_of_tcp_and_udp_are_two(host_ready):
    lab = host_ready
    one, two = lab.container("172.29.0.5"), lab.container("172.29.0.6")
    one.attach((80, 9000, "tcp"))
    two.attach((80, 9000, "udp"))
    expect_connection(lab.outside, HOST, 9000, one.ns.listen(80))
    with two.ns.socket(socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 80))
        expect_datagrams(lab.outside, HOST, 9000, server)


def test_a_given_port_that_is_taken_is_named_and_nothing_is_left(host_ready):
    lab = host_ready
    container = lab.container("172.29.0.5")
    with lab.host.listen(8081, "127.0.0.1"):
        code, message = container.refused((79, 8079, "tcp"), (80, 8081, "tcp"))
    assert (code, message) == ("EADDRINUSE", "host port 8081/tcp is already in use")
    assert not container.is_attached
    assert lab.elements() == {}
    lab.host.listen(8079).close()

    container.attach((80, 8081, "tcp"))
    other = lab.container("172.29.0.6")
    assert other.refused((80, 8081, "tcp"))[0] == "EADDRINUSE"
    assert other.refused((80, 70, "tcp"), (81, 70, "tcp"))[0] == "EADDRINUSE"
    other.attach((80, 70, "tcp"))


def test_ports_are_found_after_the_cursor_and_the_scan_wraps_once(host_ready):
    lab = host_ready
    one, two, three = (lab.container(f"172.29.0.{n}") for n in (5, 6, 7))
    with lab.host.listen(40009):
        answer = one.attach((1, 0, "tcp"), (2, 0, "udp"), (3, 0, "tcp"), portCursor=40007)
    assert [b["hostPort"] for b in answer["bindings"]] == [40008, 40009, 40000]
    assert answer["portCursor"] == 40000

    # A given port is bound first, also when it is listed last.
    answer = two.attach((1, 0, "tcp"), (2, 40001, "tcp"), portCursor=40000)
    assert [b["hostPort"] for b in answer["bindings"]] == [40002, 40001]

    answer = two.attach(*((n, 0, "tcp") for n in range(1, 9)), portCursor=5)
    assert sorted(b["hostPort"] for b in answer["bindings"]) == [*range(40001, 40008), 40009]
    code, message = three.refused((1, 0, "tcp"))
    assert (code, message) == ("EADDRINUSE", "a host port is unavailable")
    assert not three.is_attached
    three.attach((1, 0, "udp"))


def test_held_sockets_keep_the_port_and_take_nothing_in(host_ready):
    lab = host_ready
    container = lab.container("172.29.0.5")
    container.attach((80, 8080, "tcp"), (53, 5353, "udp"))
    for fd, kind in zip(container.held, (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
        held = socket.socket(fileno=os.dup(fd))
        with held, lab.host.socket(kind) as other:
            assert held.type == kind
            assert held.getsockname() == ("0.0.0.0", 8080 if kind == socket.SOCK_STREAM else 5353)
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError) as refused:
                other.bind(held.getsockname())
            assert refused.value.errno == errno.EADDRINUSE

    lab.host.nft("flush", "ruleset")
    held = socket.socket(fileno=os.dup(container.held[1]))
    with held, lab.outside.socket(socket.SOCK_DGRAM) as client:
        for _ in range(10):
            client.sendto(b"x" * 100, (HOST, 5353))
        held.settimeout(MOMENT)
        with pytest.raises(TimeoutError):
            held.recv(100)


def test_a_repeated_attach_replaces_the_one_before(host_ready):
    lab = host_ready
    container = lab.container("172.29.0.5")
    container.attach((80, 8080, "tcp"), (81, 8081, "tcp"))
    container.attach((80, 0, "tcp"), address="172.29.0.9")
    assert lab.elements() == {("tcp", 40000): ("172.29.0.9", 80, container.id)}
    eth0 = container.ns.ip_json("address", "show", "dev", "eth0")[0]
    assert [a["local"] for a in eth0["addr_info"]] == ["172.29.0.9"]
    expect_connection(lab.outside, HOST, 40000, container.ns.listen(80))


def test_ports_that_a_dead_container_left_are_replaced(host_ready):
    lab = host_ready
    dead, new = lab.container("172.29.0.5"), lab.container("172.29.0.6")
    dead.attach((80, 8080, "tcp"), (81, 8081, "tcp"))
    dead.release()
    new.attach((8, 8080, "tcp"))
    assert lab.elements() == {
        ("tcp", 8080): (new.address, 8, new.id),
        ("tcp", 8081): (dead.address, 81, dead.id),
    }


def test_a_namespace_with_an_eth0_is_refused_and_nothing_is_left(host_ready):
    lab = host_ready
    container = lab.container("172.29.0.5")
    container.ns.ip("link", "add", "eth0", "type", "veth")
    code, _ = container.refused((80, 8080, "tcp"))
    assert code == "EEXIST"
    assert not container.is_attached
    assert lab.elements() == {}
    lab.host.listen(8080).close()


def test_attach_before_host_says_what_is_missing(lab):
    container = lab.container("172.29.0.5")
    code, message = container.refused((80, 8080, "tcp"))
    assert code == "ENOENT"
    assert BRIDGE in message
    lab.host.listen(8080).close()


@pytest.mark.parametrize(
    "members, words",
    [
        ({"id": "ABC"}, 'id "ABC"'),
        ({"id": "f" * 63}, "64 lower-case hex digits"),
        ({"id": None}, "id"),
        ({"address": "172.29.0.1"}, 'address "172.29.0.1"'),
        ({"address": "172.29.0.0"}, "host address of 172.29.0.0/16"),
        ({"address": "172.29.255.255"}, "172.29.255.255"),
        ({"address": "172.30.0.5"}, "172.30.0.5"),
        ({"address": "172.29.0.5/16"}, "172.29.0.5/16"),
        ({"address": 7}, "address"),
        ({"ports": None}, "ports"),
        ({"ports": [7]}, "ports"),
        ({"ports": [{"containerPort": 0, "hostPort": 1}]}, "containerPort"),
        ({"ports": [{"containerPort": 1, "hostPort": 65536}]}, "hostPort"),
        ({"ports": [{"containerPort": 1}]}, "hostPort"),
        ({"ports": [{"containerPort": 1, "hostPort": 1, "protocol": "sctp"}]}, '"sctp"'),
        ({"ports": [{"containerPort": 1, "hostPort": 1, "bindIP": "10.77.0.1"}]}, "10.77.0.1"),
        ({"ports": [{"containerPort": 1, "hostPort": 1, "hostIP": "::"}]}, '"hostIP"'),
        ({"ports": [{"containerPort": n, "hostPort": 0} for n in range(1, 66)]}, "65 ports"),
        ({"portRange": [2, 1]}, "2 is greater than 1"),
        ({"portRange": [0, 1]}, "portRange"),
        ({"portRange": [1, 2, 3]}, "portRange"),
        ({"portRange": None, "ports": [{"containerPort": 1, "hostPort": 0}]}, "portRange"),
        ({"portCursor": 65536}, "portCursor"),
        ({"mtu": 9000}, '"mtu"'),
    ],
)
def test_malformed_attach_is_refused_by_name(host_ready, members, words):
    container = host_ready.container("172.29.0.5")
    code, message = container.refused(**members)
    assert code in ("EINVAL", "ERANGE")
    assert words in message
    assert not container.is_attached


def test_other_malformed_requests_are_refused_and_the_connection_goes_on(host_ready):
    lab = host_ready
    one = lab.container("172.29.0.5")
    assert "reboot" in lab.agent.refused("reboot")[1]
    assert '"force"' in lab.agent.refused("detach", id=one.id, force=True)[1]
    assert "id" in lab.agent.refused("detach")[1]
    assert "keep" in lab.agent.refused("prune")[1]
    assert "keep" in lab.agent.refused("prune", keep=["x"])[1]
    assert "keep" in lab.agent.refused("prune", keep=[7])[1]
    assert "metadata" in lab.agent.refused("host", metadata="yes")[1]
    zero = [{"containerPort": 80, "hostPort": 0}]
    assert "hostPort" in lab.agent.refused(
        "publish", id=one.id, address=one.address, bindings=zero
    )[1]
    assert "0 descriptors" in lab.agent.refused("attach", **one.request())[1]
    with open("/dev/null") as null:
        assert "no network namespace" in lab.agent.refused(
            "attach", [null.fileno()], **one.request()
        )[1]
    with open("/proc/self/ns/uts") as uts:
        assert lab.agent.refused("attach", [uts.fileno()], **one.request())[0] == "EINVAL"
    one.attach()


# Going away


def test_detach_leaves_nothing_and_may_be_repeated(host_ready):
    lab = host_ready
    one, two = lab.container("172.29.0.5"), lab.container("172.29.0.6")
    before = lab.host.ip("link"), lab.host.nft("list", "ruleset")
    one.attach((80, 8080, "tcp"), (53, 0, "udp"))
    lab.agent.ok("detach", id=one.id)
    one.release()
    assert not one.is_attached
    assert lab.host.nft("list", "ruleset") == before[1]
    assert "eth0" not in one.ns.ip("link")
    lab.agent.ok("detach", id=one.id)
    lab.agent.ok("detach", id=two.id)
    lab.host.listen(8080).close()

    two.attach((80, 8080, "tcp"))
    lab.agent.ok("detach", id=one.id)
    expect_connection(lab.outside, HOST, 8080, two.ns.listen(80))


def test_prune_removes_all_but_what_is_kept(host_ready):
    lab = host_ready
    kept, running, dead = (lab.container(f"172.29.0.{n}") for n in (5, 6, 7))
    for n, container in enumerate((kept, running, dead)):
        container.attach((80, 8080 + n, "tcp"), (81, 9080 + n, "udp"))
    lab.host.ip("link", "add", "ecs0123456789ab", "type", "veth")  # not on our bridge
    lab.host.ip("link", "add", "other0", "type", "veth")
    lab.host.ip("link", "set", "other0", "master", BRIDGE)  # not of a container
    dead.ns.remove()
    wait_for(lambda: not dead.is_attached)

    answer = lab.agent.ok("prune", keep=[kept.id, uuid.uuid4().hex * 2])
    assert sorted(answer["removed"]) == sorted([running.id, dead.id])
    assert kept.is_attached and not running.is_attached
    assert {comment for *_, comment in lab.elements().values()} == {kept.id}
    assert {i["ifname"] for i in lab.host.ip_json("link")} >= {"ecs0123456789ab", "other0"}
    expect_connection(lab.outside, HOST, 8080, kept.ns.listen(80))
    assert lab.agent.ok("prune", keep=[])["removed"] == [kept.id]
    assert lab.elements() == {}


def test_what_others_change_in_the_table_meanwhile_is_seen(host_ready):
    lab = host_ready
    one, two = lab.container("172.29.0.5"), lab.container("172.29.0.6")
    one.attach((80, 8080, "tcp"), (81, 8081, "tcp"))
    table = "ecs_" + BRIDGE
    lab.host.nft(f"delete element ip {table} ports {{ tcp . 8080 }}")
    lab.host.nft(f"add element ip {table} ports {{ tcp . 9090 : {two.address} . 9 }}")  # no id
    lab.host.nft(
        f'add element ip {table} ports {{ udp . 7 comment "{two.id}" : {two.address} . 7 }}'
    )
    lab.agent.ok("detach", id=one.id)
    assert "8081" not in lab.host.nft("list", "ruleset")
    assert lab.agent.ok("prune", keep=[])["removed"] == [two.id]
    left = lab.host.nft("list", "map", "ip", table, "ports")
    assert "9090" in left and " 7 " not in left
    one.attach((80, 0, "tcp"))
    lab.host.nft("add", "table", "ip", "unrelated")
    two.attach((80, 0, "tcp"))
    lab.agent.ok("detach", id=one.id)
    assert [e[2] for e in lab.elements_with_id()] == [two.id]


def test_prune_finds_a_link_whose_maker_was_killed_before_it_had_an_alias(host_ready):
    lab = host_ready
    one, two = lab.container("172.29.0.5"), lab.container("172.29.0.6")
    for container in (one, two):
        container.attach()
        lab.host.ip("link", "set", "dev", container.link, "alias", "")
    assert lab.agent.ok("prune", keep=[one.id])["removed"] == [two.id[:12]]
    assert one.is_attached and not two.is_attached


def test_remove_takes_everything_away(lab):
    before = addresses(lab.host), lab.host.nft("list", "ruleset")
    _, fds = lab.agent.ask("host", metadata=True)
    container = lab.container("172.29.0.5")
    container.attach((80, 8080, "tcp"))
    busy = lab.agent.remove()
    assert busy.returncode == 1 and "stop ecs.service first" in busy.stderr
    assert lab.agent.stop() == (0, "")
    for fd in fds:
        os.close(fd)
    for _ in range(2):
        done = lab.agent.remove()
        assert (done.returncode, done.stderr) == (0, "")
        assert (addresses(lab.host), lab.host.nft("list", "ruleset")) == before


def test_remove_works_when_the_runtime_directory_is_gone(host_ready, tmp_path):
    lab = host_ready
    lab.agent.stop()
    lab.agent.directory = tmp_path / "gone"
    done = lab.agent.remove()
    assert (done.returncode, done.stderr) == (0, "")
    assert BRIDGE not in lab.host.ip("link")


def test_remove_touches_no_link_that_is_no_bridge(lab, tmp_path):
    lab.agent.stop()
    agent = Agent(lab.host, tmp_path, ECS_BRIDGE_NAME="up0")
    agent.stop()
    done = agent.remove()
    assert done.returncode == 1 and "up0 is no bridge" in done.stderr
    assert "up0" in lab.host.ip("link")


def test_killed_at_any_moment_the_next_one_finds_its_way(host_ready):
    """SIGKILL a little later each time, then everything once more."""
    lab = host_ready
    container = lab.container("172.29.0.5")
    listener = container.ns.listen(80)
    for delay in range(0, 24):
        with open(container.ns.path) as ns:
            lab.agent.send("attach", [ns.fileno()], **container.request([(80, 8080, "tcp")]))
        deadline = time.monotonic() + delay / 3000
        while time.monotonic() < deadline:
            pass
        lab.agent.kill()
        lab.agent.start()
        lab.agent.ok("host")
        container.attach((80, 8080, "tcp"))
        assert lab.elements() == {("tcp", 8080): (container.address, 80, container.id)}
        expect_connection(lab.outside, HOST, 8080, listener)
        if delay % 2:
            lab.agent.ok("prune", keep=[])
            assert not container.is_attached
            assert lab.elements() == {}
        container.release()


def test_a_second_one_waits_for_the_first(host_ready, tmp_path):
    lab = host_ready
    first = lab.agent
    second = Agent(lab.host, tmp_path)
    lab.stack.callback(lambda: second.process.poll() is None and second.kill())
    second.send("host")
    second.sock.settimeout(MOMENT)
    with pytest.raises(TimeoutError):
        second.receive()
    second.sock.settimeout(SECONDS)
    first.ok("host")
    first.stop()
    assert second.receive()[0]["type"] == "host"
    second.stop()


# What must not pass


def raw_udp(source, destination, port):
    """An IPv4 packet with a UDP datagram, addresses as we like."""
    payload = struct.pack("!HHHH", 4444, port, 8 + 4, 0) + b"evil"
    return (
        struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, socket.IPPROTO_UDP, 0)
        + socket.inet_aton(source)
        + socket.inet_aton(destination)
        + payload
    )


def send_raw_to_bridge(container, packet):
    """Send it to the bridge's MAC, whatever the container's routes say."""

    def checksum(header):
        total = sum(struct.unpack("!10H", header))
        total = (total >> 16) + (total & 0xFFFF)
        return ~(total + (total >> 16)) & 0xFFFF

    packet = packet[:10] + struct.pack("!H", checksum(packet[:20])) + packet[12:]
    frame = bytes.fromhex("0a58ac1d0001") + container_mac(container) + b"\x08\x00" + packet

    def send():
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind(("eth0", 0))
            sock.send(frame)

    container.ns.inside(send)


def container_mac(container):
    return bytes.fromhex("0a58") + ipaddress.IPv4Address(container.address).packed


@pytest.mark.parametrize(
    "source, destination, with_rules, arrives",
    [
        ("172.29.0.5", GATEWAY, True, True),  # the control: frames made this way do arrive
        ("172.29.0.5", "127.0.0.1", True, False),
        ("172.29.0.5", "127.0.0.1", False, True),  # and it is the rule that stops them
        ("127.0.0.1", GATEWAY, True, False),
        ("127.0.0.1", "127.0.0.1", True, False),
        ("172.29.0.5", ENDPOINT, True, False),
        (ENDPOINT, GATEWAY, True, False),
        ("10.77.0.9", GATEWAY, True, False),
    ],
)
def test_packets_from_the_bridge_with_addresses_of_the_host(
    lab, source, destination, with_rules, arrives
):
    _, fds = lab.agent.ask("host", metadata=True)
    for fd in fds:
        os.close(fd)
    container = lab.container("172.29.0.5")
    container.attach()
    if not with_rules:
        lab.host.nft("flush", "chain", "ip", "ecs_" + BRIDGE, "guard")
    with lab.host.socket(socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", 6000))
        server.settimeout(SECONDS if arrives else MOMENT)
        send_raw_to_bridge(container, raw_udp(source, destination, 6000))
        if arrives:
            assert server.recv(100) == b"evil"
        else:
            with pytest.raises(TimeoutError):
                server.recv(100)


def test_a_neighbour_reaches_published_ports_only(host_ready):
    lab = host_ready
    container = lab.container("172.29.0.5")
    container.attach((80, 8080, "tcp"))
    lab.outside.ip("route", "add", SUBNET, "via", HOST)
    published, hidden = container.ns.listen(80), container.ns.listen(81)
    expect_connection(lab.outside, HOST, 8080, published)
    expect_nothing(lab.outside, container.address, 81, hidden)
    expect_nothing(lab.outside, container.address, 80, published)
    expect_connection(lab.host, container.address, 81, hidden)


# The endpoint


def open_endpoint(ns):
    """The listening socket and the BPF link's descriptor."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        tool = program("tests/integration/netns_tool")
        run(tool, ns.path, str(theirs.fileno()), pass_fds=[theirs.fileno()])
        _, (fd, link), _, _ = socket.recv_fds(ours, 1, 2)
    listener = socket.socket(fileno=fd)
    listener.settimeout(SECONDS)
    return listener, link


def test_the_hosts_endpoint_serves_the_host_also_when_port_80_is_published(lab):
    body, (fd, link) = lab.agent.ask("host", metadata=True)
    assert body["type"] == "host"
    lab.agent.stop()  # it needs no ecs-network to live on
    lab.agent.start()
    container = lab.container("172.29.0.5")
    container.attach((80, 80, "tcp"), (51679, 51679, "udp"))
    own = container.ns.listen(80)
    with socket.socket(fileno=fd) as listener:
        listener.settimeout(SECONDS)
        assert expect_connection(lab.host, ENDPOINT, 80, listener) == ENDPOINT
        expect_connection(lab.host, HOST, 80, own)
        expect_connection(lab.host, "127.0.0.1", 80, own)

        lab.outside.ip("route", "add", ENDPOINT, "via", HOST)
        expect_nothing(lab.outside, ENDPOINT, 51679, listener)
        expect_nothing(lab.outside, ENDPOINT, 80, listener)
        container.ns.ip("route", "add", ENDPOINT, "via", GATEWAY)
        expect_nothing(container.ns, ENDPOINT, 80, listener)

        code, message = lab.agent.refused("host", metadata=True)
        assert code == "EADDRINUSE" and "169.254.170.2:51679" in message
        assert lab.agent.ok("host")["created"] is False
    os.close(link)
    _, fds = lab.agent.ask("host", metadata=True)
    assert len(fds) == 2
    for each in fds:
        os.close(each)


def test_a_containers_endpoint_refuses_neighbours(host_ready):
    lab = host_ready
    one, two = lab.container("172.29.0.5"), lab.container("172.29.0.6")
    listener, link = open_endpoint(one.ns)
    one.attach((80, 8080, "tcp"), (51679, 8081, "tcp"))
    two.attach()
    with listener:
        own = one.ns.listen(80)
        assert expect_connection(one.ns, ENDPOINT, 80, listener) == ENDPOINT
        assert expect_connection(one.ns, "127.0.0.1", 80, own) == "127.0.0.1"

        # A neighbour gets what the container serves itself, never the endpoint. (Where bridged
        # packets meet nft as well, the guard drops them before; here that is not relied on.)
        lab.host.nft("flush", "chain", "ip", "ecs_" + BRIDGE, "guard")
        two.ns.ip("route", "add", ENDPOINT, "via", one.address)
        assert expect_connection(two.ns, ENDPOINT, 80, own) == two.address
        expect_nothing(two.ns, ENDPOINT, 51679, listener)
        expect_nothing(two.ns, one.address, 51679, listener)
        expect_connection(lab.outside, HOST, 8080, own)
        expect_nothing(lab.outside, HOST, 8081, listener)

        # Not even with the right address on it: the kernel takes it for forged.
        two.ns.ip("address", "add", ENDPOINT + "/32", "dev", "lo")
        two.ns.ip("route", "del", "local", ENDPOINT, "table", "local")
        expect_nothing(two.ns, ENDPOINT, 80, listener, source=ENDPOINT)

        # The container's own connections from another address are not the endpoint's business.
        assert expect_connection(one.ns, ENDPOINT, 80, own, source=one.address) == one.address
    os.close(link)


def test_the_namespace_ends_when_socket_and_link_are_closed(host_ready):
    lab = host_ready
    container = lab.container("172.29.0.5")
    listener, link = open_endpoint(container.ns)
    container.attach()
    container.ns.remove()
    # While the socket is open the namespace lives, with its link.
    assert expect_connection_to(listener)
    assert container.is_attached
    os.close(link)
    listener.close()
    wait_for(lambda: not container.is_attached)


def expect_connection_to(listener):
    return listener.getsockname() == (ENDPOINT, 51679)


# Confinement


def test_it_keeps_three_capabilities_and_a_system_call_filter(host_ready):
    lab = host_ready
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{lab.agent.process.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    kept = 1 << 10 | 1 << 12 | 1 << 21  # net_bind_service, net_admin, sys_admin
    assert int(status["CapEff"], 16) == kept
    assert int(status["CapPrm"], 16) == kept
    assert int(status["CapBnd"], 16) == kept
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def is_asleep(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize(
    "call, args, unfiltered",
    [
        (syscall_in.EXECVE, [], errno.EFAULT),
        (syscall_in.PTRACE, [99], errno.ESRCH),
        (syscall_in.MOUNT, [], errno.EFAULT),
        (syscall_in.UNSHARE, [0x1], errno.EINVAL),
        (syscall_in.KEYCTL, [99999], errno.EOPNOTSUPP),
    ],
)
def test_system_calls_that_it_does_not_need_are_refused(host_ready, call, args, unfiltered):
    with subprocess.Popen(["sleep", "60"]) as control:
        try:
            wait_for(lambda: is_asleep(control.pid))
            assert syscall_in.syscall_in(control.pid, syscall_in.GETPID) == control.pid
            assert syscall_in.syscall_in(control.pid, call, *args) == -unfiltered
        finally:
            control.kill()
    pid = host_ready.agent.process.pid
    wait_for(lambda: is_asleep(pid))
    assert syscall_in.syscall_in(pid, syscall_in.GETPID) == pid
    assert syscall_in.syscall_in(pid, call, *args) == -errno.EPERM
    host_ready.agent.ok("host")


def test_junk_on_the_connection_ends_the_process_with_words(lab):
    lab.agent.sock.sendall(b"\xff\xff\xff\x7fnot a message")
    lab.agent.process.wait(SECONDS)
    status, error = lab.agent.stop()
    assert status == 1
    assert error


def test_arguments_are_refused_by_name(lab):
    done = lab.host.exec(*lab.agent.command("surplus"), check=False)
    assert done.returncode == 1 and "surplus" in done.stderr
    done = lab.host.exec(*lab.agent.command("--status"), check=False)
    assert done.returncode == 1 and "--status" in done.stderr
