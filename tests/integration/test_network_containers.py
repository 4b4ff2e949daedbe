"""Containers on the bridge: attaching, published ports, what is refused, going away."""

import errno
import os
import socket
import uuid

import pytest

from builddir import needs_root
from network_lab import (
    BRIDGE, GATEWAY, HOST, MOMENT, MTU, OUTSIDE, SUBNET, expect_connection, expect_datagrams,
)
from network_lab import host_ready as host_ready, lab as lab  # noqa: F401: fixtures
from waiting import wait_for

pytestmark = needs_root


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
        "created": False,
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


def test_a_given_port_is_free_at_once_when_its_listener_has_ended(host_ready):
    """The connections that the listener has closed are in TIME_WAIT for a minute."""
    lab = host_ready
    with lab.host.listen(8080) as listener, lab.outside.connect(HOST, 8080) as client:
        listener.accept()[0].close()
        assert client.recv(1) == b""
    wait_for(lambda: ":8080 " in lab.host.exec("ss", "-Htn", "state", "time-wait").stdout)
    container = lab.container("172.29.0.5")
    container.attach((80, 8080, "tcp"))
    expect_connection(lab.outside, HOST, 8080, container.ns.listen(80))


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
    with pytest.raises(TimeoutError):
        lab.outside.connect(HOST, 8080, timeout=MOMENT).close()


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
