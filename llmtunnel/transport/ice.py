"""How packets find the peer: aioice's connection, without waits for servers and with limits on what a peer can use.

aioice asks its STUN and TURN servers before it makes an offer, and an unreachable server costs 5 s. Here instead:

1. `gather_candidates` binds the host's own addresses. That is immediate, and enough for the offer or answer.
2. `gather_rest` asks every server from those sockets while the connection is already being tried. It reports each
   candidate as it arrives, so that it can be trickled to the peer.

We do not pass the peer's end-of-candidates on to aioice, which would stop looking before our own relay is ready. Its
checks continue until one is answered or our caller's time has passed.

All of that happens before any peer has proven anything. Whoever can name candidates, a stranger in the room or the
signal server, makes us send packets to addresses of its choice. So only plausible addresses get packets
(`checkable`), and addresses that have not answered get few: each connection, and all of this process together, have a
bucket of checks. A check without a token counts as lost on the way, and is sent again later.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final

import aioice
from aioice import ice, stun
from aioice.candidate import candidate_foundation, candidate_priority
from aiortc.rtcicetransport import parse_stun_turn_uri

from ..bucket import Bucket
from ..descriptors import keep_from_children
from ..paths import Path
from ..summary import printable
from .networks import checkable
from .servers import Address, IceServer, addresses, connect, tls
from .udp import UdpTransport, bind

_log = logging.getLogger(__name__)

Found = Callable[[aioice.Candidate], None]

_COMPONENT: Final = 1
_LOOPBACK: Final = "127.0.0.1"
_ASK: Final = 5.0
"""Seconds that a STUN or TURN server has to answer."""
_RELEASE: Final = 0.5
"""Seconds that a TURN server has to release its allocation when we close."""
_PAIRS: Final = 1024
"""Maximum number of candidate pairs. 48 candidates of the peer and twenty addresses of ours make 960."""
_NAMES: Final = 2
"""Names (``….local``) of a peer that we look up on the local network. A browser has one for each interface."""
_CHECKS: Final = 64
"""Checks that a connection may send at once to addresses that have not answered: the first checks of each path between
two laptops with some ten addresses each, and the repeats in the first second."""
_CHECK: Final = 0.04
"""Seconds until it may send one more. aioice begins with one path every 20 ms."""
_ALL_CHECKS: Final = 512
"""The same for all connections of this process. 16 proxies that arrive at the same moment have some 30 paths each."""
_EACH_CHECK: Final = 0.005
"""Seconds until one more. A packet has about 130 bytes: 26 KB/s while strangers keep all connections busy."""
_ECHO: Final = 4
"""Maximum number of free checks to an address, each earned by a check that came from it."""
_DATAGRAM: Final = 16_640
"""Maximum bytes of a datagram for DTLS: a record has 16 KiB, plus what DTLS adds."""
_MAY_CUT: Final = 0
_MAY_NOT_CUT: Final = 3
"""Linux's IP_PMTUDISC_DONT and IP_PMTUDISC_PROBE, for IP_MTU_DISCOVER and IPV6_MTU_DISCOVER (ip(7), ipv6(7))."""
_WAITING: Final = 128
"""Datagrams of about 1,200 bytes that may wait until DTLS begins. A socket's own buffer holds some 200."""


_all_checks = Bucket(_ALL_CHECKS, every=_EACH_CHECK)
"""One bucket for the process. A victim does not care which tunnel sends the packets."""


def _look_up_on_this_loop() -> None:
    """Have aioice look up names (``….local``) on the running loop.

    It keeps a socket and a lock for each thread. A lock that a task has waited for works on that task's loop only.
    """
    loop = asyncio.get_running_loop()
    kept = vars(ice._mdns)
    if kept.get("loop") is not loop:
        kept.clear()
        kept["loop"] = loop


class IceAgent(aioice.Connection):
    """One ICE agent with one component. ``loopback``: offer 127.0.0.1 too. A machine with no other address always does.

    ``paths``: see `Settings.tried`.
    """

    def __init__(
        self, *, servers: Sequence[IceServer], candidates: int, loopback: bool, paths: frozenset[Path] = frozenset(Path)
    ) -> None:
        super().__init__(ice_controlling=False)
        _look_up_on_this_loop()
        needed = {False: Path.DIRECT, True: Path.TURN}
        self._servers = [each for each in servers if needed[each.is_turn] in paths]
        self._paths = paths
        self._loopback = loopback
        self._room = {"host": candidates // 2, "srflx": candidates // 4, "relay": candidates // 4}
        self._names = _NAMES
        self._checks = Bucket(_CHECKS, every=_CHECK)
        self._echoes: Counter[tuple[str, int]] = Counter()
        """Valid checks (with our password) that came from an address, and that no check of ours has answered."""
        self._deliver: Callable[[list[bytes]], None] | None = None
        self._handed_out: set[tuple[str, int]] = set()
        self._binding: asyncio.Task[None] | None = None

    @property
    def complete(self) -> bool:
        """Whether `gather_rest` has nothing to do."""
        return not self._servers

    @property
    def path(self) -> Path:
        """How packets travel, as far as we know."""
        pair = self._nominated.get(_COMPONENT)
        if pair is None:
            return Path.UNKNOWN
        relayed = "relay" in (pair.local_candidate.type, pair.remote_candidate.type)
        return Path.TURN if relayed else Path.DIRECT

    @property
    def address(self) -> str:
        """``host:port`` of the peer, or of its TURN server if it is behind one; empty until that is known."""
        pair = self._nominated.get(_COMPONENT)
        return f"{pair.remote_candidate.host}:{pair.remote_candidate.port}" if pair else ""

    async def gather_candidates(self) -> None:
        """Bind the host's own addresses. Also bind the loopback address if asked, or if there is no other."""
        if Path.DIRECT not in self._paths:
            self._local_candidates_start = self._local_candidates_end = True
            return
        # Shielded: if cancelled while it opens a socket, aioice loses those that it has.
        self._binding = asyncio.create_task(self._bind(), name="ice-bind")
        await asyncio.shield(self._binding)

    async def _bind(self) -> None:
        await super().gather_candidates()
        if self._loopback or not self._local_candidates:
            self._local_candidates += await self.get_component_candidates(_COMPONENT, [_LOOPBACK])
        self._handed_out |= {(each.host, each.port) for each in self._local_candidates}
        keep_from_children(*(each.transport for each in self._protocols))

    async def get_component_candidates(
        self, component: int, addresses: list[str], timeout: int = 5
    ) -> list[aioice.Candidate]:
        """Bind these addresses, each to a socket of ours. aioice's would carry one datagram in each system call."""
        candidates = []
        for address in addresses:
            protocol = _Protocol(self)
            try:
                await bind(address, protocol)
            except OSError as exc:
                _log.info("Cannot bind %s: %r", address, exc)
                continue
            host, port = protocol.transport.get_extra_info("sockname")[:2]
            protocol.local_candidate = aioice.Candidate(
                foundation=candidate_foundation("host", "udp", host),
                component=component,
                transport="udp",
                priority=candidate_priority(component, "host"),
                host=host,
                port=port,
                type="host",
            )
            self._protocols.append(protocol)
            candidates.append(protocol.local_candidate)
        return candidates

    async def gather_rest(self, found: Found) -> None:
        """Ask all servers at once. ``found`` is called with each new candidate. Never raises."""
        ask = {False: self._reflect, True: self._relay}
        await asyncio.gather(*(ask[each.is_turn](each, found) for each in self._servers))

    def take(self, texts: Iterable[str]) -> list[aioice.Candidate]:
        """Return the usable candidates of a peer, as far as there is room. `add_remote_candidate` accepts each."""
        usable = [candidate for text in texts if (candidate := parse_candidate(text)) and self._may_use(candidate)]
        taken = [candidate for candidate in usable if self._take_room(candidate)]
        if len(taken) < len(usable):
            _log.info("The peer sends too many candidates; %d ignored.", len(usable) - len(taken))
        return taken

    def _may_use(self, candidate: aioice.Candidate) -> bool:
        return Path.TURN in self._paths or (Path.DIRECT in self._paths and candidate.type != "relay")

    def _take_room(self, candidate: aioice.Candidate) -> bool:
        """Reserve room for one candidate of its type, and for a name if it is one. Return whether there was room."""
        if self._room.get(candidate.type, 0) < 1 or (_is_name(candidate.host) and self._names < 1):
            return False
        self._room[candidate.type] -= 1
        self._names -= _is_name(candidate.host)
        return True

    # -- checks

    def may_send(self, message: stun.Message, addr: tuple[str, int]) -> bool:
        """Return whether a STUN message may be sent to an address."""
        # Only a check names the peer. Other messages are requests to a STUN server of ours, or answers.
        is_check = message.message_class == stun.Class.REQUEST and "USERNAME" in message.attributes
        return not is_check or self._may_check(addr)

    def _may_check(self, addr: tuple[str, int]) -> bool:
        if any(pair.remote_addr == addr for pair in self._nominated.values()):  # it has answered
            return True
        if not self._is_checkable(addr):
            return False
        if self._echoes[addr]:
            self._echoes[addr] -= 1
            return True
        now = time.monotonic()
        return self._checks.has_one(now) and _all_checks.take(now) and self._checks.take(now)

    def _is_checkable(self, addr: tuple[str, int]) -> bool:
        own = any(each.host == _LOOPBACK for each in self._local_candidates)
        return checkable(addr[0], addr[1], loopback=own)

    def request_received(self, message: stun.Message, addr: tuple[str, int], protocol: ice.StunProtocol) -> None:
        """Answer a check if its address is plausible. The sender may be forged, and would receive our answer."""
        if self._is_checkable(addr):
            super().request_received(message, addr, protocol)

    def data_received(self, data: bytes, component: int) -> None:
        """Accept a datagram for DTLS, from any sender."""
        self.datagrams_received([data])

    def datagrams_received(self, datagrams: list[bytes]) -> None:
        """Accept datagrams for DTLS, from any sender.

        An empty one would end aiortc's reader; a flood would fill memory.
        """
        datagrams = [each for each in datagrams if 0 < len(each) <= _DATAGRAM]
        if self._deliver is not None:
            self._deliver(datagrams)
            return
        for each in datagrams[: max(0, _WAITING - self._queue.qsize())]:
            super().data_received(each, _COMPONENT)

    def deliver(self, receive: Callable[[list[bytes]], None]) -> None:
        """Pass all datagrams to ``receive`` from now on, starting with those that wait.

        The end is reported as before.
        """
        waiting = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
        self._deliver = receive
        receive([each[0] for each in waiting if each is not None])
        if None in waiting:
            self._queue.put_nowait(None)

    def cut_datagrams(self, allowed: bool) -> bool:
        """Set whether the system may send a datagram to the peer in fragments. Return False if that cannot be set.

        If it may not, a datagram that is too long for the path is lost. This is how a probe finds out (RFC 8899).
        """
        pair = self._nominated.get(_COMPONENT)
        if pair is None or pair.local_candidate.type == "relay" or not sys.platform.startswith("linux"):
            return False
        own = pair.protocol.transport.get_extra_info("socket")
        level, option = (socket.IPPROTO_IP, 10) if own.family == socket.AF_INET else (socket.IPPROTO_IPV6, 23)
        own.setsockopt(level, option, _MAY_CUT if allowed else _MAY_NOT_CUT)
        return True

    def transmit(self, datagrams: bytes, size: int) -> None:
        """Send datagrams of ``size`` bytes each to the peer without waiting. The last may be shorter.

        They are lost if there is no path.
        """
        pair = self._nominated.get(_COMPONENT)
        if pair is None:
            return
        transport = pair.protocol.transport
        if len(datagrams) > size and isinstance(transport, UdpTransport):
            transport.send_all(datagrams, size, pair.remote_addr)
            return
        for at in range(0, len(datagrams), size):  # through a TURN server, or on a loop with sockets of its own
            transport.sendto(datagrams[at : at + size], pair.remote_addr)

    def check_incoming(self, message: stun.Message, addr: tuple[str, int], protocol: ice.StunProtocol) -> None:
        """Handle a check from the peer. Each port that it checks from is one more candidate, so limit their number."""
        if len(self._check_list) < _PAIRS:
            self._echoes[addr] = min(_ECHO, self._echoes[addr] + 1)
            super().check_incoming(message, addr, protocol)

    async def get_event(self) -> ice.ConnectionEvent:
        """Wait for the connection to close. aioice returns None once it has, and aiortc would ask again without end."""
        return await super().get_event() or ice.ConnectionClosed()

    async def close(self) -> None:
        """Close every socket. A TURN server that no longer answers costs `_RELEASE` s, and not a minute."""
        if self._binding is not None:
            await asyncio.wait((self._binding,))  # it opens sockets of this machine, and waits for no peer
        relays = [each for each in self._protocols if each.local_candidate.type == "relay"]
        give_up = asyncio.get_running_loop().call_later(_RELEASE, _abandon, relays)
        try:
            await super().close()
        finally:
            give_up.cancel()

    async def _reflect(self, server: IceServer, found: Found) -> None:
        try:
            address = (await addresses(server, family=socket.AF_INET))[0]
        except Exception as exc:  # no such name, no resolver, an address that the signal server may not name
            _log.info("%s: %r", server.url, exc)
            return
        hosts = [each for each in self._protocols if _is_v4_host(each.local_candidate)]
        await asyncio.gather(*(self._reflect_one(host, address, found) for host in hosts))

    async def _reflect_one(self, host: ice.StunProtocol, address: tuple[str, int], found: Found) -> None:
        try:
            async with asyncio.timeout(_ASK):
                candidate, _ = await ice.server_reflexive_candidate(host, address)
        except Exception as exc:  # no answer, or any error that a broken one causes in aioice
            _log.info("STUN server %s:%d, asked from %s: %r", *address, host.local_candidate.host, exc)
            return
        self._hand_out(candidate, found)

    async def _relay(self, server: IceServer, found: Found) -> None:
        def use(address: Address) -> Awaitable[tuple[aioice.Candidate, ice.StunProtocol]]:
            return ice.relayed_candidate(
                component=_COMPONENT,
                hide_related_address=False,
                protocol_factory=lambda: _Protocol(self),
                turn_server=address,
                turn_username=server.user,
                turn_password=server.password,
                turn_ssl=tls(server),  # type: ignore[arg-type]  # it passes it on to asyncio, which takes a context too
                turn_transport=parse_stun_turn_uri(server.url)["transport"],
            )

        try:
            async with asyncio.timeout(_ASK):
                candidate, protocol = await connect(server, use)
        except Exception as exc:  # refused, no answer, or any error that a broken one causes in aioice
            _log.warning("%s cannot be used: %s", server.url, printable(str(exc)) or "no answer")
            return
        keep_from_children(protocol.transport)
        self._protocols.append(protocol)
        self._local_candidates.append(candidate)
        for remote in self.remote_candidates:
            self._pair_remote_candidate(remote)
        self.sort_check_list()
        self._hand_out(candidate, found)

    def _hand_out(self, candidate: aioice.Candidate, found: Found) -> None:
        """Report a candidate once.

        Without a NAT the reflexive address is the host's, and two servers see the same one.
        """
        address = (candidate.host, candidate.port)
        if address not in self._handed_out:
            self._handed_out.add(address)
            found(candidate)


class _Protocol(ice.StunProtocol):
    """One socket of an agent, or its place at a TURN server."""

    def __init__(self, agent: IceAgent) -> None:
        super().__init__(agent)
        self._agent = agent

    def send_stun(self, message: stun.Message, addr: tuple[str, int]) -> None:
        """Send a STUN message, if its address may get one."""
        if self._agent.may_send(message, addr):
            super().send_stun(message, addr)

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        """Recognise DTLS by its first byte (RFC 7983). aioice would first try to parse each datagram as STUN."""
        if isinstance(data, bytes) and _is_dtls(data):
            self._agent.datagrams_received([data])
        else:
            super().datagram_received(data, addr)

    def datagrams_received(self, data: bytes, size: int, addr: tuple[Any, ...]) -> None:
        """See `udp.Receiver`. A check may be among them."""
        datagrams = [data[at : at + size] for at in range(0, len(data), size)]
        self._agent.datagrams_received([each for each in datagrams if _is_dtls(each)])
        for each in datagrams:
            if not _is_dtls(each):
                super().datagram_received(each, addr)


def _is_dtls(datagram: bytes) -> bool:
    return len(datagram) > 0 and 20 <= datagram[0] < 64


def parse_candidate(text: str) -> aioice.Candidate | None:
    """Return a peer's candidate, with or without ``candidate:`` before it, or None if nothing can be sent to it."""
    try:
        candidate = aioice.Candidate.from_sdp(text.removeprefix("candidate:"))
        # Whether we offer our own loopback address to the peer is known when a check is sent.
        usable = (
            candidate.component == _COMPONENT
            and candidate.transport.lower() == "udp"  # Firefox also sends candidates for TCP
            and (_is_name(candidate.host) or checkable(candidate.host, candidate.port, loopback=True))
        )
    except ValueError:
        usable = False
    if not usable:
        _log.debug("Candidate ignored: %.100r", text)
        return None
    return candidate


def _is_name(host: str) -> bool:
    """Return whether the host is a name that hides a browser's address. aioice looks it up by mDNS."""
    return host.endswith(".local") and len(host) <= 64


def _is_v4_host(candidate: aioice.Candidate) -> bool:
    return candidate.type == "host" and ipaddress.ip_address(candidate.host).version == 4


def _abandon(relays: list[ice.StunProtocol]) -> None:
    """Cancel the wait for TURN servers to release our allocations. aioice then closes the socket."""
    for relay in relays:
        closing = getattr(relay.transport, "_TurnTransport__close_task", None)
        if closing is not None:
            closing.cancel()
