"""Who may not reach whom: the host's addresses, containers' ports, the endpoints of ecs-metadata."""

import ipaddress
import os
import socket
import struct

import pytest

from builddir import needs_root, program
from network_lab import (
    BRIDGE, ENDPOINT, GATEWAY, HOST, MOMENT, SECONDS, SUBNET, expect_connection, expect_nothing, run,
)
from network_lab import host_ready as host_ready, lab as lab  # noqa: F401: fixtures
from waiting import wait_for

pytestmark = needs_root


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
