"""Local TCP: a direct connection between peers that can reach each other, without UDP. TLS inside, as in `tls`.

    listener                                        dialler
    addresses  ── inside the authenticated session ──→ dial(addresses): those that `networks.dialable` lets through
               ←─ connect, to all at once ─────────────
               ←─ TLS, on one after the other ─────────    first that shows the expected certificate

The listener accepts only an expected peer, and each one once. It closes any other connection.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, cast

from .. import descriptors
from ..bucket import Bucket
from ..config import Timeouts
from ..errors import ConnectFailed, TunnelError
from ..listener import netloc
from ..paths import Path
from .base import Channel
from .identity import Identity
from .networks import Endpoint, Interface, dialable, interfaces, listenable
from .pipe import TlsChannel
from .tasks import ended, finish, report, stop

_log = logging.getLogger(__name__)

_STRANGERS: Final = 8
"""Unidentified connections at once. For one more, the oldest is abandoned."""
_KNOCKS: Final = 32
"""TLS handshakes that may begin at once, and then one every `_KNOCK` s. Each costs a millisecond."""
_KNOCK: Final = 0.1
_CONNECT: Final = 3.0
"""Seconds that a neighbour has to accept a connection, and again to finish TLS. It is a few ms away."""
_ATTEMPTS: Final = 16
"""Addresses of one peer that we may try at once, and then one every `_ATTEMPT` s. They need not be the peer's own."""
_ATTEMPT: Final = 30.0

Accept = Callable[[Channel], None]
"""Accepts a channel to an expected peer."""


class TcpListener:
    """Listen on this machine's own addresses, on a random port each, from `start` to `aclose`."""

    def __init__(self, identity: Identity, *, timeouts: Timeouts, loopback: bool = False) -> None:
        self._identity = identity
        self._timeout = min(_CONNECT, timeouts.connect)
        self._loopback = loopback
        self._listening: asyncio.Task[None] | None = None
        self._servers: list[asyncio.Server] = []
        self._expected: dict[bytes, list[Accept]] = {}
        """By certificate, the newest last. Two links to one peer may both expect it."""
        self._strangers: list[asyncio.Task[None]] = []
        """Tasks that greet unidentified peers, the oldest first."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._knocks = Bucket(_KNOCKS, every=_KNOCK)
        self._told = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, as ``host:port``, for the expected peers."""
        return tuple(netloc(*each.sockets[0].getsockname()[:2]) for each in self._servers if each.sockets)

    async def start(self) -> None:
        """Listen on every possible address. If there is none, listen on none, without an error."""
        # Shielded: if cancelled while it makes a listening socket, asyncio loses it. `aclose` waits for it.
        self._listening = asyncio.create_task(self._listen(), name="tcp-listen")
        await asyncio.shield(self._listening)

    async def _listen(self) -> None:
        for host in listenable(interfaces(), loopback=self._loopback):
            try:
                server = await asyncio.get_running_loop().create_server(self._make_end, host, 0, backlog=_STRANGERS)
            except OSError as exc:
                _log.info("Not listening on %s for local peers: %s", host, exc)
            else:
                descriptors.keep_from_children(server)
                self._servers.append(server)

    def expect(self, fingerprint: bytes, accept: Accept) -> None:
        """Accept the peer with this certificate once, when it next connects. The newest expectation is met first."""
        self._expected.setdefault(fingerprint, []).append(accept)

    def forget(self, fingerprint: bytes, accept: Accept) -> None:
        """Withdraw one expectation. Does nothing if it has been met or never existed."""
        expectations = self._expected.get(fingerprint, [])
        if accept in expectations:
            expectations.remove(accept)
        if not expectations:
            self._expected.pop(fingerprint, None)

    def _take(self, fingerprint: bytes) -> Accept | None:
        """Remove and return the newest expectation of the peer that has connected, or None if there is none."""
        expectations = self._expected.get(fingerprint)
        if not expectations:
            return None
        accept = expectations[-1]
        self.forget(fingerprint, accept)
        return accept

    async def aclose(self) -> None:
        """Stop listening. Idempotent. Channels that were passed on belong to their new owners."""
        self._expected.clear()
        listening = () if self._listening is None else (self._listening,)
        await finish(partial(ended, *listening), self._close_servers, partial(stop, *self._tasks))

    def _close_servers(self) -> None:
        while self._servers:
            self._servers.pop().close()

    def _make_end(self) -> asyncio.Protocol:
        if not self._expected or not self._knocks.take(asyncio.get_running_loop().time()):
            self._tell("no peer is expected, or too many connect at once")
            return _TurnedAway()
        channel = TlsChannel(self._identity, server=True, path=Path.TCP, welcome=self._expected.__contains__)
        if len(self._strangers) >= _STRANGERS:
            self._strangers.pop(0).cancel()
        task = asyncio.create_task(self._greet(channel), name="tcp-greet")
        self._strangers.append(task)
        self._tasks.add(task)
        task.add_done_callback(partial(self._greeted, channel))
        return channel

    def _greeted(self, channel: TlsChannel, task: asyncio.Task[None]) -> None:
        if task.cancelled():  # perhaps before its first step
            channel.give_up("abandoned by us")
        self._tasks.discard(task)
        if task in self._strangers:
            self._strangers.remove(task)
        report(task)

    async def _greet(self, channel: TlsChannel) -> None:
        try:
            await channel.stand(self._timeout)
        except ConnectFailed as exc:
            self._tell(str(exc))
        accept = self._take(channel.binding.remote) if channel.binding else None
        if accept is None:
            await channel.aclose()
        else:
            accept(channel)

    def _tell(self, reason: str) -> None:
        """Log the reason: the first one as information, since a port scan must not fill the log."""
        level = logging.DEBUG if self._told else logging.INFO
        _log.log(level, "A connection is not an expected peer's, and was closed: %s", reason)
        self._told = True


class _TurnedAway(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


class TcpDialler:
    """Connects to one peer, known by its certificate, at addresses that it announces."""

    def __init__(self, identity: Identity, expected: bytes, *, timeouts: Timeouts, loopback: bool = False) -> None:
        self._identity = identity
        self._expected = expected
        self._timeout = min(_CONNECT, timeouts.connect)
        self._loopback = loopback
        self._attempts = Bucket(_ATTEMPTS, every=_ATTEMPT)

    async def dial(self, addresses: Iterable[str], *, own: Iterable[Interface] | None = None) -> Channel:
        """Open a channel to the peer at one of the addresses. Raises `ConnectFailed` if that fails within some seconds.

        ``own``: this machine's interfaces; by default they are looked up.
        """
        near = dialable(addresses, interfaces() if own is None else own, loopback=self._loopback)
        now = asyncio.get_running_loop().time()
        allowed = [endpoint for endpoint in near if self._attempts.take(now)]
        if not allowed:
            why = "it listed too many addresses" if near else "it has no address in a network of this machine"
            raise ConnectFailed(f"Cannot reach the peer over {Path.TCP}: {why}.")
        connecting = [asyncio.create_task(self._connect(each), name="tcp-connect") for each in allowed]
        try:
            return await self._first(connecting)
        finally:
            for task in connecting:
                task.cancel()
                task.add_done_callback(_close)  # not awaited: a wait can be cancelled, and would lose the socket

    async def _connect(self, endpoint: Endpoint) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in endpoint[0] else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            async with asyncio.timeout(self._timeout):
                await asyncio.get_running_loop().sock_connect(sock, endpoint)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _first(self, connecting: list[asyncio.Task[socket.socket]]) -> Channel:
        """Try TLS on one connection after the other.

        If it ran on all, the two sides might disagree on which is the first.
        """
        failures: list[str] = []
        for each in asyncio.as_completed(connecting):
            try:
                return await self._secure(await each)
            except TunnelError as exc:
                failures.append(exc.message)
            except OSError as exc:  # including TimeoutError
                _log.debug("Cannot reach an address of the peer: %r", exc)
                if none_left := descriptors.shortage(exc):
                    failures.append(f"Cannot reach the peer over {Path.TCP}: {none_left}.")
        why = failures[0] if failures else f"Cannot reach the peer over {Path.TCP}: none of its addresses answers."
        raise ConnectFailed(why)

    async def _secure(self, sock: socket.socket) -> Channel:
        channel = TlsChannel(self._identity, server=False, path=Path.TCP, welcome=partial(_is, self._expected))
        end = sock.dup()
        await asyncio.get_running_loop().create_connection(lambda: channel, sock=end)
        if channel.gone:
            end.detach()  # uvloop has closed the descriptor: closing `end` would close whatever has its number by then
        try:
            await channel.stand(self._timeout)
        except BaseException:
            await channel.aclose()
            raise
        return channel


def _is(expected: bytes, fingerprint: bytes) -> bool:
    return fingerprint == expected


def _close(connecting: asyncio.Task[socket.socket]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()
