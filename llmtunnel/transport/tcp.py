"""Local TCP: straight between peers that reach each other so, with no UDP stack in between. TLS inside, as `tls` says.

    listener                                        dialler
    addresses  ── inside the authenticated session ──→ dial(addresses): those that `networks.dialable` lets through
               ←─ connect, to all at once ─────────────
               ←─ TLS, on one after the other ─────────    first that shows the expected certificate

The listener takes an expected peer only, and each one once. A connection that is anything else is closed.
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
from .tasks import finish, report, stop

_log = logging.getLogger(__name__)

_STRANGERS: Final = 8
"""Connections at once that are not a peer's yet; for one more, the one that has been at it longest is given up."""
_KNOCKS: Final = 32
"""Connections at once that TLS is begun with, and then one every `_KNOCK` s: each costs a millisecond."""
_KNOCK: Final = 0.1
_CONNECT: Final = 3.0
"""Seconds that a neighbour has to accept a connection, and again to finish TLS: it is a few ms away."""
_ATTEMPTS: Final = 16
"""Addresses that one peer may have dialled at once, and then one every `_ATTEMPT` s: what it names need not be its."""
_ATTEMPT: Final = 30.0

Accept = Callable[[Channel], None]
"""Takes a channel to a peer that was expected."""


class TcpListener:
    """Listens on this machine's own addresses, a random port each, between `start` and `aclose`: only while wanted."""

    def __init__(self, identity: Identity, *, timeouts: Timeouts, loopback: bool = False) -> None:
        self._identity = identity
        self._timeout = min(_CONNECT, timeouts.connect)
        self._loopback = loopback
        self._servers: list[asyncio.Server] = []
        self._expected: dict[bytes, list[Accept]] = {}
        """By certificate; the newest last. Two links to one peer may both expect it."""
        self._strangers: list[asyncio.Task[None]] = []
        """Those who are being greeted, the one that has been at it longest first."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._knocks = Bucket(_KNOCKS, every=_KNOCK)
        self._told = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, ``host:port``, for the peers that are expected."""
        return tuple(netloc(*each.sockets[0].getsockname()[:2]) for each in self._servers if each.sockets)

    async def start(self) -> None:
        """Listen wherever it is possible: nowhere, and no error, where it is not."""
        # Shielded: asyncio loses a listening socket where it is cancelled while it makes it.
        listening = asyncio.create_task(self._listen(), name="tcp-listen")
        try:
            await asyncio.shield(listening)
        except asyncio.CancelledError:
            await asyncio.wait((listening,))  # it listens on addresses of this machine, and waits for nobody
            raise

    async def _listen(self) -> None:
        for host in listenable(interfaces(), loopback=self._loopback):
            try:
                server = await asyncio.get_running_loop().create_server(self._make_end, host, 0, backlog=_STRANGERS)
            except OSError as exc:
                _log.info("Not listening on %s for peers near by: %s", host, exc)
            else:
                descriptors.keep_from_children(server)
                self._servers.append(server)

    def expect(self, fingerprint: bytes, accept: Accept) -> None:
        """Take the peer with this certificate once, when it next comes. The newest expectation is met first."""
        self._expected.setdefault(fingerprint, []).append(accept)

    def forget(self, fingerprint: bytes, accept: Accept) -> None:
        """Withdraw one expectation; does nothing where that has been met, or never was."""
        expectations = self._expected.get(fingerprint, [])
        if accept in expectations:
            expectations.remove(accept)
        if not expectations:
            self._expected.pop(fingerprint, None)

    def _take(self, fingerprint: bytes) -> Accept | None:
        """Who takes the peer that has come; None where nobody expects it."""
        expectations = self._expected.get(fingerprint)
        if not expectations:
            return None
        accept = expectations[-1]
        self.forget(fingerprint, accept)
        return accept

    async def aclose(self) -> None:
        """Listen no more; idempotent. Channels that were given away are their owners'."""
        servers, self._servers = self._servers, []
        self._expected.clear()
        await finish(*(server.close for server in servers), partial(stop, *self._tasks))

    def _make_end(self) -> asyncio.Protocol:
        if not self._expected or not self._knocks.take(asyncio.get_running_loop().time()):
            self._tell("nobody is expected, or too many come at once")
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
        if task.cancelled():  # before its first step, it may be
            channel.give_up("given up by us")
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
        """Once: a port scan is no reason to fill a log."""
        _log.log(logging.DEBUG if self._told else logging.INFO, "A connection that is no peer's is closed: %s", reason)
        self._told = True


class _TurnedAway(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


class TcpDialler:
    """Dials one peer, which is known by its certificate, at addresses that it names."""

    def __init__(self, identity: Identity, expected: bytes, *, timeouts: Timeouts, loopback: bool = False) -> None:
        self._identity = identity
        self._expected = expected
        self._timeout = min(_CONNECT, timeouts.connect)
        self._loopback = loopback
        self._attempts = Bucket(_ATTEMPTS, every=_ATTEMPT)

    async def dial(self, addresses: Iterable[str], *, own: Iterable[Interface] | None = None) -> Channel:
        """A channel to the peer at one of them. Raises `ConnectFailed` where there is none within some seconds.

        ``own``: this machine's interfaces, where they are not to be looked up.
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
                task.add_done_callback(_close)  # and not waited for: a wait can be cancelled, and loses what there is

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
        """TLS on one after the other: were it on all, each side might take another one for the first."""
        failures: list[str] = []
        for each in asyncio.as_completed(connecting):
            try:
                return await self._secure(await each)
            except TunnelError as exc:
                failures.append(exc.message)
            except OSError as exc:  # TimeoutError is one
                _log.debug("A peer's address is not reached: %r", exc)
                if none_left := descriptors.shortage(exc):
                    failures.append(f"Cannot reach the peer over {Path.TCP}: {none_left}.")
        why = failures[0] if failures else f"Cannot reach the peer over {Path.TCP}: none of its addresses answers."
        raise ConnectFailed(why)

    async def _secure(self, sock: socket.socket) -> Channel:
        channel = TlsChannel(self._identity, server=False, path=Path.TCP, welcome=partial(_is, self._expected))
        end = sock.dup()
        await asyncio.get_running_loop().create_connection(lambda: channel, sock=end)
        if channel.gone:
            end.detach()  # uvloop has closed its descriptor, and left the number here for somebody else's to be closed
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
