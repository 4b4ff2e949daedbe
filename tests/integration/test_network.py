"""ecs-network on the running kernel: what it makes of the host, and its own confinement."""

import errno
import os
import subprocess
import time
from pathlib import Path

import pytest

import syscall_in
from builddir import needs_root
from network_lab import (
    BRIDGE, GATEWAY, HOST, MOMENT, MTU, OUTSIDE, SECONDS, Agent, expect_connection,
)
from network_lab import host_ready as host_ready, lab as lab  # noqa: F401: fixtures
from waiting import wait_for

pytestmark = needs_root


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


def test_attach_makes_a_flushed_table_and_says_so(host_ready):
    lab = host_ready
    one, two, three = (lab.container(f"172.29.0.{n}") for n in (5, 6, 7))
    bindings = one.attach((80, 8080, "tcp"))["bindings"]
    listener = one.ns.listen(80)
    three.ns.ip("link", "add", "eth0", "type", "veth")
    for ports in ((), ((80, 8081, "tcp"),)):
        lab.host.nft("flush", "ruleset")
        assert three.refused(*ports)[0] == "EEXIST"
        assert lab.host.nft("list", "ruleset") == ""  # else nobody would be told
        assert two.attach(*ports)["created"] is True
        expect_connection(two.ns, OUTSIDE, 7000, lab.outside.listen(7000))
        publish = {"id": one.id, "address": one.address, "bindings": bindings}
        for _ in range(2):
            assert lab.agent.ok("publish", **publish)["created"] is False
        expect_connection(lab.outside, HOST, 8080, listener)
        assert two.attach(*ports)["created"] is False
        assert len(lab.elements()) == 1 + len(ports)
    lab.host.nft("flush", "ruleset")
    assert lab.agent.ok("publish", **publish)["created"] is True


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


@pytest.mark.parametrize("address", ["172.17.0.1/16", None])
def test_the_bridge_of_somebody_else_is_neither_used_nor_removed(lab, address):
    lab.host.ip("link", "add", BRIDGE, "type", "bridge")
    if address:
        lab.host.ip("address", "add", address, "dev", BRIDGE)
    before = addresses(lab.host)
    code, message = lab.agent.refused("host")
    assert code == "EEXIST"
    assert (address or BRIDGE) in message and "made by something else" in message
    assert "--remove" not in message
    lab.agent.stop()
    done = lab.agent.remove()
    assert done.returncode == 1 and f"{BRIDGE} was made by something else" in done.stderr
    assert addresses(lab.host) == before


def test_our_own_bridge_of_another_subnet_may_be_removed(host_ready, tmp_path):
    lab = host_ready
    lab.agent.stop()
    lab.agent = Agent(lab.host, tmp_path, ECS_BRIDGE_SUBNET="10.96.0.0/12")
    code, message = lab.agent.refused("host")
    assert code == "EEXIST"
    assert GATEWAY in message and "10.96.0.0/12" in message and "--remove" in message
    lab.agent.stop()
    assert lab.agent.remove().returncode == 0
    lab.agent.start()
    assert lab.agent.ok("host")["prefix"] == 12
    lab.container("10.111.255.254").attach()


@pytest.mark.parametrize(
    "setting, value",
    [
        ("ECS_BRIDGE_NAME", "a-name-too-long0"),
        ("ECS_BRIDGE_NAME", "a/b"),
        ("ECS_BRIDGE_NAME", 'x"; flush ruleset'),
        ("ECS_BRIDGE_NAME", ".."),
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


# Going away


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
