"""Which networks this machine is in, and which addresses that others name we may connect to. `dialable` is pure.

An accepted peer is still somebody else's program. So we connect to an address that it names only if this machine and
the peer may be neighbours, and never by name. A peer cannot make us connect to what only we can reach.

The signal server names STUN and TURN servers. It may name those that are as public as itself (`permitted`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

import ifaddr

from ..listener import split_netloc

Endpoint = tuple[str, int]
"""An IP address and a port."""

ADDRESSES: Final = 8
"""Addresses to listen on, or to connect to, at once. A laptop with a VPN and containers has four or five."""
_FIRST_PORT: Final = 1024
"""The lowest port that is no service. Our listeners have far higher ports."""
_SERVICES: Final = frozenset(
    {
        *(1434, 1900, 3283, 3389, 3478, 3702, 5060, 5093, 5349, 5351, 5353, 5355, 5683),
        *(10001, 11211, 17185, 27015, 27960, 32414, 37810),
    }
)
"""Higher ports of UDP services that are known to send more to forged senders than they receive (CISA's TA14-017A, and
later findings). A peer may have one of them by chance, once in thousands of connections."""
_WIDEST: Final = {4: 8, 6: 32}
"""Minimum prefix length, in bits, of a network that counts as our own. 10.0.0.0/8 is the widest private one."""
_AROUND: Final = {4: (24, 32), 6: (48, 64)}
"""Prefix lengths of networks that one person may control: a small provider's and an address; a site's and a home's."""
_OVERLAYS: Final = (IPv4Network("100.64.0.0/10"), IPv6Network("fd7a:115c:a1e0::/48"))
"""Tailscale's networks. Its interfaces have an address in one, with a prefix that shows no neighbours (/32, /128)."""
_NAT64: Final = IPv6Network("64:ff9b::/96")
"""Addresses that stand for an IPv4 address on a network without IPv4 (RFC 6052). DNS64 makes them from a name's IPv4
address."""
_LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")
"""The same for private use, where the position of the IPv4 address is unknown (RFC 8215)."""


class Reach(IntEnum):
    """Where an address can be reached from. A server may name only servers with the same reach as its own, or less."""

    PUBLIC = 0
    PRIVATE = 1
    """Only within some networks."""
    LOOPBACK = 2
    """Only on this machine."""


@dataclass(frozen=True, slots=True)
class Interface:
    """An address of this machine, and the length of its network's prefix in bits."""

    address: IPv4Address | IPv6Address
    prefix: int

    @property
    def network(self) -> IPv4Network | IPv6Network:
        """The network that the address is in."""
        if self.prefix == self.address.max_prefixlen:
            for overlay in _OVERLAYS:
                if self.address in overlay:
                    return overlay
        return ipaddress.ip_network((self.address, self.prefix), strict=False)

    def neighbours(self, address: IPv4Address | IPv6Address) -> bool:
        """Return whether that address belongs to a machine in the same network, or to this machine."""
        network = self.network
        if address not in network or network.prefixlen < _WIDEST[network.version]:
            return False
        # The network's own address and its broadcast address belong to no machine.
        bounded = network.version == 4 and network.prefixlen < 31
        return not (bounded and address in (network.network_address, network.broadcast_address))


def checkable(host: str, port: int, *, loopback: bool) -> bool:
    """Return whether a stranger may make us send a few packets to this address, to see whether it can be reached.

    A stranger has good reason to name private addresses, as two peers in one network have no others. It cannot have a
    multicast, broadcast or unspecified address, or the port of a service. This machine's own loopback address counts
    only if we offer that too.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if address.is_multicast or address.is_unspecified or (address.is_reserved and not address.is_loopback):
        return False
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address.scope_id is not None):
        return False
    return (loopback or not address.is_loopback) and _FIRST_PORT <= port < 65_536 and port not in _SERVICES


def reach(host: str) -> Reach | None:
    """Return from where an IP address can be reached.

    None: nobody may name it. It is link-local (a cloud's metadata), site-local, multicast, unspecified or reserved, or
    no IP address; or it is an IPv6 address that stands for IPv4, unless it does so for a public address by NAT64.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address in _NAT64:
        inner = IPv4Address(int(address) & 0xFFFF_FFFF)
        return Reach.PUBLIC if inner.is_global and _is_machines(inner) else None
    if not _is_machines(address):
        return None
    if isinstance(address, IPv6Address) and (address in _LOCAL_NAT64 or address.is_site_local):
        return None
    if address.is_loopback:
        return Reach.LOOPBACK
    return Reach.PUBLIC if address.is_global else Reach.PRIVATE


def permitted(host: str, within: Reach) -> bool:
    """Return whether somebody with an address of this reach may make us connect to the host."""
    found = reach(host)
    return found is not None and found <= within


def around(address: str) -> tuple[str, ...]:
    """Return the networks that the host of ``host:port`` is in, the widest first.

    A host with one address in them may have others there. A text without an IP address is a network of its own.
    """
    host, _, port = address.rpartition(":")
    text = host if port.isdecimal() else address
    try:
        ip = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return (text,)
    return tuple(str(ipaddress.ip_network((ip, bits), strict=False)) for bits in _AROUND[ip.version])


def interfaces() -> tuple[Interface, ...]:
    """Return this machine's current interface addresses."""
    return tuple(
        Interface(ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0]), ip.network_prefix)
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
    )


def listenable(own: Iterable[Interface], *, loopback: bool = False) -> list[str]:
    """Return the addresses to listen on for neighbours; the loopback address if asked, or if there is no other."""
    addresses = sorted({each.address for each in own if _is_machines(each.address)}, key=_order)
    outer = [str(each) for each in addresses if not each.is_loopback]
    inner = [str(each) for each in addresses if each.is_loopback] if loopback or not outer else []
    return (inner[:1] + outer)[:ADDRESSES]


def dialable(named: Iterable[str], own: Iterable[Interface], *, loopback: bool = False) -> list[Endpoint]:
    """Return which of a peer's addresses (``192.168.1.5:40123``, ``[fd00::5]:40123``) we may connect to.

    At most `ADDRESSES`. Only IP addresses with a port above 1023, in a network that one of ``own`` is in. ``loopback``
    accepts this machine's own loopback address too. Never link-local addresses (a cloud's metadata), multicast,
    broadcast or unspecified ones, or IPv6 addresses that stand for IPv4.
    """
    own = tuple(own)
    found: dict[Endpoint, None] = {}
    for text in named:
        endpoint = _endpoint(text)
        if endpoint is None or len(found) >= ADDRESSES:
            continue
        address, port = endpoint
        near = loopback if address.is_loopback else any(each.neighbours(address) for each in own)
        if near and _is_machines(address):
            found[str(address), port] = None
    return list(found)


def _endpoint(text: str) -> tuple[IPv4Address | IPv6Address, int] | None:
    host, port = split_netloc(text) or ("", None)
    try:
        return (ipaddress.ip_address(host), port) if port is not None and port >= _FIRST_PORT else None
    except ValueError:
        return None


def _is_machines(address: IPv4Address | IPv6Address) -> bool:
    # Before the loopback: from Python 3.13 on, ::ffff:127.0.0.1 counts as one.
    if isinstance(address, IPv6Address) and (address.ipv4_mapped or address.sixtofour or address.teredo):
        return False
    if address.is_loopback:
        return True
    if address.is_multicast or address.is_unspecified or address.is_link_local or address.is_reserved:
        return False
    return not isinstance(address, IPv6Address) or address.scope_id is None


def _order(address: IPv4Address | IPv6Address) -> tuple[int, int]:
    return address.version, int(address)
