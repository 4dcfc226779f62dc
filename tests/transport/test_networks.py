from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.transport.networks import (
    ADDRESSES,
    Interface,
    Reach,
    around,
    checkable,
    dialable,
    interfaces,
    listenable,
    permitted,
    reach,
)


def interface(text: str) -> Interface:
    address, prefix = text.split("/")
    return Interface(ipaddress.ip_address(address), int(prefix))


HOME = [interface(each) for each in ("127.0.0.1/8", "::1/128", "192.168.1.20/24", "fe80::1/64", "2001:db8:1::20/64")]
DOCKER = interface("172.17.0.1/16")
TAILSCALE = [interface("100.101.102.103/32"), interface("fd7a:115c:a1e0::1234/128")]
CARRIER = interface("100.64.3.7/24")
CLOUD = [interface("10.128.0.2/32"), interface("169.254.0.5/16")]


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("192.168.1.5:40000", HOME),
        ("192.168.1.20:40000", HOME),  # this machine's own: the peer is another process on it
        ("[2001:db8:1::5]:40000", HOME),
        ("192.168.1.5:1024", HOME),
        ("192.168.1.5:65535", HOME),
        ("172.17.0.2:40000", [DOCKER]),  # a container on this machine
        ("172.17.0.1:40000", [DOCKER]),
        ("100.64.3.9:40000", [CARRIER]),
        ("100.99.1.2:40000", TAILSCALE),
        ("[fd7a:115c:a1e0::9]:40000", TAILSCALE),
        ("10.128.0.2:40000", CLOUD),
        ("10.0.0.0:40000", [interface("10.0.0.1/31")]),  # two machines, and no broadcast
        ("203.0.113.6:40000", [interface("203.0.113.5/28")]),
    ],
)
def test_a_neighbours_address_is_dialled(text: str, own: list[Interface]) -> None:
    host = text.rpartition(":")[0].strip("[]")
    assert dialable([text], own) == [(host, int(text.rpartition(":")[2]))]


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("192.168.2.5:40000", HOME),  # another network
        ("8.8.8.8:40000", HOME),
        ("10.0.0.1:40000", HOME),
        ("172.17.0.2:40000", HOME),  # a bridge that we have not got
        ("100.99.1.2:40000", HOME),  # carrier-grade NAT that we are not in
        ("100.99.1.2:40000", [CARRIER]),
        ("[fd7a:115c:a1e0::9]:40000", HOME),
        ("10.128.0.3:40000", CLOUD),  # a cloud's machine knows of no neighbours
        ("169.254.169.254:40000", CLOUD),  # a cloud's metadata
        ("169.254.0.6:40000", CLOUD),
        ("[fe80::5]:40000", HOME),
        ("[fe80::5%eth0]:40000", HOME),
        ("[2001:db8:1::5%1]:40000", HOME),
        ("127.0.0.1:40000", HOME),
        ("127.8.8.8:40000", HOME),
        ("[::1]:40000", HOME),
        ("[::ffff:192.168.1.5]:40000", HOME),
        ("[::ffff:127.0.0.1]:40000", HOME),
        ("[2002:c0a8:0105::1]:40000", [interface("2002:c0a8:0105::2/48")]),
        ("0.0.0.0:40000", HOME),
        ("[::]:40000", HOME),
        ("224.0.0.1:40000", HOME),
        ("[ff02::1]:40000", HOME),
        ("255.255.255.255:40000", HOME),
        ("240.0.0.1:40000", [interface("240.0.0.2/8")]),
        ("192.168.1.255:40000", HOME),  # broadcast
        ("192.168.1.0:40000", HOME),
        ("8.8.8.8:40000", [interface("1.2.3.4/0")]),  # a network of everything is none
        ("[2001:db8::1]:40000", [interface("2001:db8::2/16")]),
        ("192.168.1.5:0", HOME),
        ("192.168.1.5:22", HOME),
        ("192.168.1.5:443", HOME),
        ("192.168.1.5:1023", HOME),
        ("192.168.1.5:65536", HOME),
        ("192.168.1.5:99999999", HOME),
        ("192.168.1.5:-1", HOME),
        ("192.168.1.5:٤٠٠٠٠", HOME),
        ("192.168.1.5:4 0000", HOME),
        ("192.168.1.5", HOME),
        ("192.168.1.05:40000", HOME),
        ("192.168.257:40000", HOME),
        ("3232235781:40000", HOME),
        ("[192.168.1.5]:40000", HOME),
        ("2001:db8:1::5:40000", HOME),
        ("localhost:40000", HOME),
        ("router.lan:40000", HOME),
        ("http://192.168.1.5:40000", HOME),
        ("", HOME),
        (":", HOME),
        ("[]:40000", HOME),
    ],
)
def test_what_may_be_no_neighbour_is_not_dialled(text: str, own: list[Interface]) -> None:
    assert dialable([text], own) == []


@pytest.mark.parametrize("text", ["127.0.0.1:40000", "[::1]:40000"])
def test_the_loopback_is_dialled_where_asked(text: str) -> None:
    assert len(dialable([text], HOME, loopback=True)) == 1
    assert dialable(["[::ffff:127.0.0.1]:40000", "0.0.0.0:40000"], HOME, loopback=True) == []


def test_addresses_are_dialled_once_and_so_many_of_them() -> None:
    assert dialable(["192.168.1.5:2000", "192.168.1.5:2000"], HOME) == [("192.168.1.5", 2000)]
    named = ["8.8.8.8:2000"] * 100 + [f"192.168.1.5:{port}" for port in range(2000, 3000)]
    assert dialable(named, HOME) == [("192.168.1.5", port) for port in range(2000, 2000 + ADDRESSES)]


@given(st.lists(st.text(max_size=40) | st.ip_addresses().map(lambda each: f"{each}:2000"), max_size=20))
def test_whatever_is_named_nothing_is_raised_and_nothing_far_is_dialled(named: list[str]) -> None:
    for host, port in dialable(named, [*HOME, DOCKER]):
        assert any(ipaddress.ip_address(host) in each.network for each in [*HOME, DOCKER])
        assert port > 1023


def test_the_listener_is_on_neighbours_networks_and_the_loopback_where_asked() -> None:
    assert listenable([*HOME, DOCKER]) == ["172.17.0.1", "192.168.1.20", "2001:db8:1::20"]
    assert listenable(HOME, loopback=True) == ["127.0.0.1", "192.168.1.20", "2001:db8:1::20"]
    assert listenable(HOME[:2]) == ["127.0.0.1"]
    assert listenable([]) == []
    assert len(listenable([interface(f"10.0.{each}.1/24") for each in range(100)])) == ADDRESSES


def test_this_machines_interfaces_are_found() -> None:
    assert Interface(ipaddress.ip_address("127.0.0.1"), 8) in interfaces()


@pytest.mark.parametrize(
    ("address", "networks"),
    [
        ("192.0.2.7:40000", ("192.0.2.0/24", "192.0.2.7/32")),
        ("[2001:db8:1:2:3::9]:40000", ("2001:db8:1::/48", "2001:db8:1:2::/64")),
        ("2001:db8:1:2:3::9:40000", ("2001:db8:1::/48", "2001:db8:1:2::/64")),  # as a data channel tells it
        ("signal.example:443", ("signal.example",)),
        ("in memory", ("in memory",)),
        ("", ("",)),
    ],
)
def test_who_has_an_address_has_its_networks(address: str, networks: tuple[str, ...]) -> None:
    assert around(address) == networks


@pytest.mark.parametrize("host", ["192.0.2.1", "10.0.0.5", "169.254.7.8", "100.64.1.1", "2001:db8::1", "fd00::1"])
@pytest.mark.parametrize("port", [1024, 40_000, 65_535])
def test_a_stranger_may_be_at_any_address_that_a_machine_may_have(host: str, port: int) -> None:
    assert checkable(host, port, loopback=False)


@pytest.mark.parametrize(
    "host",
    [
        *("0.0.0.0", "224.0.0.251", "239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "ff02::1"),
        *("::ffff:10.0.0.1", "fe80::1%eth0", "example.org", "", "300.1.1.1"),
    ],
)
def test_it_cannot_be_where_no_machine_is(host: str) -> None:
    assert not checkable(host, 40_000, loopback=True)


@pytest.mark.parametrize("port", [-1, 0, 53, 80, 443, 1023, 1900, 3478, 5353, 11_211, 65_536])
def test_it_cannot_be_at_a_services_port(port: int) -> None:
    assert not checkable("192.0.2.1", port, loopback=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1"])
def test_it_is_at_this_machines_loopback_only_where_that_is_offered_to_it(host: str) -> None:
    assert checkable(host, 40_000, loopback=True)
    assert not checkable(host, 40_000, loopback=False)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, Reach.PUBLIC) for host in ("8.8.8.8", "2606:4700::1", "64:ff9b::808:808")),
        *((host, Reach.PRIVATE) for host in ("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd00::1")),
        *((host, Reach.LOOPBACK) for host in ("127.0.0.1", "127.1.2.3", "::1")),
        *((host, None) for host in ("169.254.169.254", "fe80::1", "fe80::1%1", "224.0.0.1", "ff02::1", "::")),
        *((host, None) for host in ("255.255.255.255", "240.0.0.1", "0.0.0.0", "::127.0.0.1", "fec0::1")),
        *((host, None) for host in ("::ffff:8.8.8.8", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "2002:7f00:1::")),
        *((host, None) for host in ("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::a00:1", "64:ff9b:1::808:808")),
        *((host, None) for host in ("2001:0:a9fe:a9fe::", "localhost", "", "1", "0x7f.1")),
    ],
)
def test_from_where_an_address_can_be_reached(host: str, expected: Reach | None) -> None:
    assert reach(host) is expected


@given(st.ip_addresses())
def test_who_is_public_names_public_addresses_only(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert not permitted(str(address), Reach.PUBLIC) or address.is_global
    assert not permitted(str(address), Reach.PRIVATE) or not address.is_loopback
    assert not (permitted(str(address), Reach.LOOPBACK) and (address.is_link_local or address.is_multicast))
