"""Which networks this machine is in, and which addresses that a peer names may be dialled. `dialable` is pure.

A peer that is let in is still somebody else's program: what it names is dialled only where this machine and the peer
may be neighbours, and never by name, so that it cannot have us knock on what only we reach.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

import ifaddr

from ..listener import split_netloc

Endpoint = tuple[str, int]
"""An IP address and a port."""

ADDRESSES: Final = 8
"""Addresses listened on, and dialled, at once: a laptop with a VPN and containers has four or five."""
_FIRST_PORT: Final = 1024
"""Ports below are services; listeners of ours are far above."""
_SERVICES: Final = frozenset(
    {
        *(1434, 1900, 3283, 3389, 3478, 3702, 5060, 5093, 5349, 5351, 5353, 5355, 5683),
        *(10001, 11211, 17185, 27015, 27960, 32414, 37810),
    }
)
"""Higher ports of UDP services that are known to answer forged senders with more than they got (CISA's TA14-017A, and
those found since). One of a peer's own may be among them by chance: once in thousands of connections."""
_WIDEST: Final = {4: 8, 6: 32}
"""Bits of a prefix, at least, for a network to be one's own: 10.0.0.0/8 is the widest there is."""
_AROUND: Final = {4: (24, 32), 6: (48, 64)}
"""Bits of the networks that one somebody may have all of: a small provider's and an address; a site's and a home's."""
_OVERLAYS: Final = (IPv4Network("100.64.0.0/10"), IPv6Network("fd7a:115c:a1e0::/48"))
"""Tailscale's networks: its interfaces have an address in one and tell of no neighbours (/32, /128)."""


@dataclass(frozen=True, slots=True)
class Interface:
    """An address of this machine's, and how many of its bits are the network's."""

    address: IPv4Address | IPv6Address
    prefix: int

    @property
    def network(self) -> IPv4Network | IPv6Network:
        """The network that it is in."""
        if self.prefix == self.address.max_prefixlen:
            for overlay in _OVERLAYS:
                if self.address in overlay:
                    return overlay
        return ipaddress.ip_network((self.address, self.prefix), strict=False)

    def neighbours(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether that address is a machine's in the same network, or this one's."""
        network = self.network
        if address not in network or network.prefixlen < _WIDEST[network.version]:
            return False
        # The network's own address and its broadcast are not a machine's.
        bounded = network.version == 4 and network.prefixlen < 31
        return not (bounded and address in (network.network_address, network.broadcast_address))


def checkable(host: str, port: int, *, loopback: bool) -> bool:
    """Whether a stranger may have us send a few packets there, to see whether it can be reached.

    It names private addresses for good reason, as two peers in one network have no others. What it cannot be at are
    multicast, broadcast and unspecified addresses and the ports of services, and this machine's own loopback only
    where that is offered to it too.
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


def around(address: str) -> tuple[str, ...]:
    """The networks that the host of ``host:port`` is in, the widest first: who has one address has others of these.

    A text without an IP address is a network of its own.
    """
    host, _, port = address.rpartition(":")
    text = host if port.isdecimal() else address
    try:
        ip = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return (text,)
    return tuple(str(ipaddress.ip_network((ip, bits), strict=False)) for bits in _AROUND[ip.version])


def interfaces() -> tuple[Interface, ...]:
    """This machine's, now."""
    return tuple(
        Interface(ipaddress.ip_address(ip.ip if isinstance(ip.ip, str) else ip.ip[0]), ip.network_prefix)
        for adapter in ifaddr.get_adapters()
        for ip in adapter.ips
    )


def listenable(own: Iterable[Interface], *, loopback: bool = False) -> list[str]:
    """The addresses to listen on for neighbours; the loopback's where asked, or where there is no other."""
    addresses = sorted({each.address for each in own if _is_machines(each.address)}, key=_order)
    outer = [str(each) for each in addresses if not each.is_loopback]
    inner = [str(each) for each in addresses if each.is_loopback] if loopback or not outer else []
    return (inner[:1] + outer)[:ADDRESSES]


def dialable(named: Iterable[str], own: Iterable[Interface], *, loopback: bool = False) -> list[Endpoint]:
    """Which of a peer's addresses (``192.168.1.5:40123``, ``[fd00::5]:40123``) may be dialled: `ADDRESSES` at most.

    Only IP addresses, with a port over 1023, in a network that one of ``own`` is in; ``loopback`` takes this machine's
    own loopback too. Never link-local ones (a cloud's metadata), multicast, broadcast or unspecified ones, nor IPv6
    that stands for IPv4.
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
    if address.is_loopback:
        return True
    if address.is_multicast or address.is_unspecified or address.is_link_local or address.is_reserved:
        return False
    if isinstance(address, IPv6Address):
        stands_for_v4 = address.ipv4_mapped or address.sixtofour or address.teredo
        return address.scope_id is None and not stands_for_v4
    return True


def _order(address: IPv4Address | IPv6Address) -> tuple[int, int]:
    return address.version, int(address)
