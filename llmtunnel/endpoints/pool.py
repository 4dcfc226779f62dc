"""Connections to the upstream: opening, keeping, moving bytes with back-pressure both ways. No HTTP here."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from ..config import KIB, Limits, Timeouts
from ..errors import SettingError, UpstreamBroken, UpstreamUnreachable
from ..upstream import Upstream

READ_AHEAD: Final = 64 * KIB
"""Unread bytes after which a connection stops reading; asyncio reads 256 KiB at once, so it holds 320 KiB at most."""

HAPPY_EYEBALLS: Final = 0.25
"""Seconds before the next address of a name is tried beside the first (RFC 8305 section 5)."""


class UpstreamConnection(asyncio.Protocol):
    """One connection, used by one exchange at a time: one task reads, one writes.

    `read` and `write` raise `UpstreamBroken`, or what `abort` was given.
    """

    def __init__(self, on_lost: Callable[[UpstreamConnection], None]) -> None:
        self.idle = False
        """Nobody expects anything of it: data or an end is a reason to throw it away."""
        self.reused = False
        """An exchange before this one ended on it."""
        self.lost = asyncio.Event()
        """The socket is gone."""
        self._on_lost = on_lost
        self._transport: asyncio.Transport
        self._unread: list[bytes] = []
        self._unread_size = 0
        self._ended = False
        self._error: Exception | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    # --- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        if self.idle:
            self.abort()
            return
        self._unread.append(data)
        self._unread_size += len(data)
        self._readable.set()
        if self._unread_size >= READ_AHEAD:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Part of `asyncio.Protocol`."""
        self._ended = True
        self._readable.set()
        if self.idle:
            self.abort()
        # The other half stays open where it can: an upgraded protocol may go on in one direction.
        return self._transport.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of `asyncio.Protocol`."""
        if self._error is None and (exc is not None or not self._ended):
            self._error = UpstreamBroken("The upstream broke the connection off.")
            self._error.__cause__ = exc
        self._ended = True
        self._readable.set()
        self._writable.set()
        self.lost.set()
        self._on_lost(self)

    def pause_writing(self) -> None:
        """Part of `asyncio.Protocol`."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Part of `asyncio.Protocol`."""
        self._writable.set()

    # --- what an exchange calls

    @property
    def usable(self) -> bool:
        """Whether a next exchange may begin: it is open both ways, and nothing is left of the one before."""
        return not (self._ended or self._unread or self._transport.is_closing())

    async def read(self) -> bytes:
        """All bytes that have come and are not yet read, at least one; b"" where the upstream has ended."""
        if not (self._unread or self._ended):
            self._readable.clear()
            await self._readable.wait()
        if self._unread:
            return self._take()
        if self._error:
            raise self._error
        return b""

    def _take(self) -> bytes:
        data = b"".join(self._unread)
        self._unread.clear()
        self._unread_size = 0
        if len(data) >= READ_AHEAD and not self._transport.is_closing():
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """Send; returns when little of it waits in this process."""
        self.write_now(data)
        await self._writable.wait()
        if self._error:
            raise self._error

    def write_now(self, data: bytes) -> None:
        """Send without waiting: for a head. What cannot be sent any more is dropped, and `read` tells."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def end(self) -> None:
        """Nothing more will be written. TLS cannot end one half alone: there the connection closes."""
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._ended = True
            self._transport.close()

    def abort(self, reason: Exception | None = None) -> None:
        """Close at once, whatever is under way; a waiting `read` or `write` raises ``reason``. Idempotent."""
        self._error = self._error or reason
        self._unread.clear()
        self._transport.abort()


class UpstreamPool:
    """Opens connections to one upstream and keeps those that have nothing to do for a while."""

    def __init__(self, upstream: Upstream, *, timeouts: Timeouts, limits: Limits) -> None:
        """Raises `SettingError` where the upstream's CA file cannot be used."""
        self._upstream = upstream
        self._timeouts = timeouts
        self._limits = limits
        self._tls = _tls_context(upstream) if upstream.scheme == "https" else None
        self._open: set[UpstreamConnection] = set()
        self._idle: dict[UpstreamConnection, asyncio.TimerHandle] = {}

    @property
    def idle(self) -> int:
        """How many connections wait for a request."""
        return len(self._idle)

    async def acquire(self, *, fresh: bool = False) -> UpstreamConnection:
        """An open connection, an idle one unless it must be ``fresh``. Raises `UpstreamUnreachable`."""
        while self._idle and not fresh:
            connection, timer = self._idle.popitem()  # the one used last: the others may go
            timer.cancel()
            if connection.usable:
                connection.idle, connection.reused = False, True
                return connection
        return await self._connect()

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose exchange ended in order; one that cannot be used again is closed."""
        if not connection.usable or len(self._idle) >= self._limits.idle_upstream:
            connection.abort()
            return
        connection.idle = True
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.call_later(self._timeouts.idle_upstream, connection.abort)

    async def aclose(self) -> None:
        """Close every connection, those in use too, and wait until their sockets are gone."""
        for connection in list(self._open):
            connection.abort()
            await connection.lost.wait()

    def _forget(self, connection: UpstreamConnection) -> None:
        self._open.discard(connection)
        timer = self._idle.pop(connection, None)
        if timer:
            timer.cancel()

    async def _connect(self) -> UpstreamConnection:
        try:
            async with asyncio.timeout(self._timeouts.upstream_connect):
                connection = await self._open_socket()
        except OSError as exc:
            raise _unreachable(self._upstream, exc) from exc
        self._open.add(connection)
        return connection

    async def _open_socket(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        # uvloop does not know the argument and tries addresses in turn, which suits one that refuses. A single address
        # needs no race, whose socket asyncio would leave open where it is cancelled as it ends.
        race = isinstance(loop, asyncio.BaseEventLoop) and not _is_address(self._upstream.host)
        stagger: dict[str, Any] = {"happy_eyeballs_delay": HAPPY_EYEBALLS} if race else {}
        _, connection = await loop.create_connection(
            lambda: UpstreamConnection(self._forget),
            self._upstream.host,
            self._upstream.port,
            ssl=self._tls,
            server_hostname=self._upstream.host.partition("%")[0] if self._tls else None,
            **stagger,
        )
        return connection


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _tls_context(upstream: Upstream) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=upstream.ca_file)
    except OSError as exc:
        raise SettingError(
            f"The authorities in {upstream.ca_file} cannot be used: {exc.strerror or exc}.",
            hint="--upstream-ca names a file with certificates in PEM form.",
        ) from exc
    context.set_alpn_protocols(["http/1.1"])
    if upstream.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _unreachable(upstream: Upstream, exc: OSError) -> UpstreamUnreachable:
    """What to tell of a connection that did not come up, and what may be done about it."""
    where = upstream.origin
    match exc:
        case ssl.SSLCertVerificationError():
            message = f"The certificate of the upstream {where} is not trusted: {exc.verify_message}."
            hint = "Name the authority behind it with --upstream-ca FILE, or take any with --upstream-insecure."
        case ssl.SSLError():
            message = f"The upstream {where} does not speak TLS as we do: {exc.reason or exc}."
            hint = f"If it speaks plain HTTP: --upstream http://{where.partition('://')[2]}"
        case socket.gaierror():
            message = f"The upstream's name {upstream.host} is not known."
            hint = "Check the name in --upstream."
        case TimeoutError():
            message = f"The upstream {where} does not answer."
            hint = "Check the address in --upstream, and that no firewall is in between."
        case _:
            message = f"The upstream {where} does not accept connections."
            hint = "Is the model server running there? Another address is given with --upstream."
    return UpstreamUnreachable(message, hint=hint)
