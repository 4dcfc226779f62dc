"""One connection to the upstream: dialling, TLS, and moving bytes with back-pressure in both directions. No HTTP.

It differs from an event loop's own transport in two ways:

- A server may answer a request before it has read all of it, and close. The kernel then fails our next write, and a
  transport closes at once, although the response is still in the socket. `UpstreamConnection` reads that response.
- TLS runs here, not in the loop, so that the response can be decrypted in that case too. An end without
  ``close_notify`` is always an error: an attacker could have truncated a body that only the end of the connection
  delimits.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final, cast

from aiohappyeyeballs import start_connection

from ..config import KIB
from ..descriptors import keep_from_children
from ..errors import TunnelError, UpstreamBroken

READ_AHEAD: Final = 64 * KIB
"""Unread bytes after which a connection stops reading. asyncio reads 256 KiB at once, so it holds 320 KiB at most."""

HAPPY_EYEBALLS: Final = 0.25
"""Seconds before the next address of a name is tried in parallel (RFC 8305 section 5)."""

_RECORD: Final = 16 * KIB
"""Maximum size of a TLS record, in bytes."""


class UpstreamConnection(asyncio.Protocol):
    """One connection, used by one exchange at a time: one task reads, and one writes.

    `read` and `write` raise `UpstreamBroken`, or the error passed to `abort`.
    """

    def __init__(self, on_lost: Callable[[UpstreamConnection], None], tls: _Tls | None = None) -> None:
        self.idle = False
        """Whether no exchange uses it. Data or an end then make it useless."""
        self.reused = False
        """Whether an earlier exchange has used it."""
        self.lost = asyncio.Event()
        """Set when the event loop has closed the socket."""
        self._on_lost = on_lost
        self._tls = tls
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        self._transport: asyncio.Transport
        self._unread: list[bytes] = []
        self._unread_size = 0
        self._leftover: socket.socket | None = None
        """After a failed write: the socket, which may hold data that the upstream sent before it closed."""
        self._ended = False
        """Whether the upstream has ended properly, so that nothing of its data is missing."""
        self._error: TunnelError | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    # --- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        keep_from_children(transport)
        if self._tls is None:
            self._opened.set_result(None)
        else:
            self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        for piece in self._decrypt(data):
            self._unread.append(piece)
            self._unread_size += len(piece)
        if self.idle and (self._unread or self._ended):
            self.abort()
            return
        self._readable.set()
        if self._unread_size >= READ_AHEAD and not self._transport.is_closing():
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Part of `asyncio.Protocol`."""
        if self._tls is not None and not self._tls.ended:
            self._break("The model server closed the TLS connection without close_notify.")
        else:
            self._ended = True
        self._readable.set()
        if self.idle:
            self.abort()
        # Our half stays open, since an upgraded protocol may continue in one direction.
        return self._error is None

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of `asyncio.Protocol`."""
        if exc is not None and not (self._ended or self._error or self.idle):
            with suppress(OSError):  # no more descriptors
                self._leftover = self._transport.get_extra_info("socket").dup()
        self._break("The model server closed the connection.", exc)
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

    def _break(self, message: str, cause: Exception | None = None) -> None:
        """Make `read` and `write` fail. The first error counts."""
        if not self._opened.done():
            self._opened.set_exception(cause or ConnectionResetError("the connection closed during the TLS handshake"))
        if self._error is None:
            self._error = UpstreamBroken(message)
            self._error.__cause__ = cause

    def _decrypt(self, data: bytes) -> Iterator[bytes]:
        """Decrypt arriving bytes. If they violate TLS, the connection closes, and `read` raises the error."""
        if self._tls is None:
            yield data
            return
        try:
            yield from self._tls.receive(data)
        except ssl.SSLError as exc:
            self._break("The model server sent data that is not TLS.", exc)
            self._flush(self._tls)  # sends the alert
            self._transport.close()
            return
        self._flush(self._tls)
        if self._tls.standing and not self._opened.done():
            self._opened.set_result(None)
        self._ended = self._ended or self._tls.ended

    def _flush(self, tls: _Tls) -> None:
        data = tls.bytes_to_send()
        if data and not self._transport.is_closing():
            self._transport.write(data)

    # --- called by an exchange

    async def stand(self) -> None:
        """Wait until the connection can carry a request. Raises `OSError`, which includes `ssl.SSLError`."""
        await self._opened

    @property
    def usable(self) -> bool:
        """Whether a next exchange may start: it is open in both directions, and no data is left."""
        return not (self._ended or self._unread or self._transport.is_closing())

    @property
    def address(self) -> str:
        """Address of the other end; empty if the connection has closed meanwhile."""
        peer = self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    @property
    def silent(self) -> bool:
        """Whether the socket holds nothing that the event loop has yet to read, neither bytes nor an end."""
        return not _is_readable(self._transport.get_extra_info("socket").fileno())

    async def read(self) -> bytes:
        """Return all unread bytes, at least one; b"" if the upstream has ended."""
        while not (self._unread or self._ended or self._error):
            self._readable.clear()
            await self._readable.wait()  # a model may think for minutes; a client that disconnects ends the wait
        if self._unread:
            return self._take()
        if data := self._take_leftover():
            return data
        if self._error and not self._ended:
            raise self._error.again()
        return b""

    def _take(self) -> bytes:
        data = b"".join(self._unread)
        self._unread.clear()
        self._unread_size = 0
        if len(data) >= READ_AHEAD and not self._transport.is_closing():
            self._transport.resume_reading()
        return data

    def _take_leftover(self) -> bytes:
        """Return the next bytes in the socket of a failed write; b"" at the end.

        Such a socket never blocks: the kernel has closed the connection, so nothing more can arrive.
        """
        with suppress(OSError):
            while self._leftover is not None and (data := self._leftover.recv(READ_AHEAD)):
                if data := b"".join(self._decrypt(data)):
                    return data
        self._drop_leftover()
        return b""

    def _drop_leftover(self) -> None:
        if self._leftover is not None:
            self._leftover.close()
            self._leftover = None

    async def write(self, data: bytes) -> None:
        """Send, and wait until little of the data is buffered in this process."""
        self.write_now(data)
        await self._writable.wait()  # without a timeout, like reading
        if self._error:
            raise self._error.again()

    def write_now(self, data: bytes) -> None:
        """Send without waiting: for a head. If the connection is closed, the data is dropped, and `read` raises."""
        if self._transport.is_closing():
            return
        if self._tls is None:
            self._transport.write(data)
        else:
            self._tls.send(data)
            self._flush(self._tls)

    def end(self) -> None:
        """Close our half. What the upstream still sends can be read."""
        if self._transport.is_closing():
            return
        if self._tls is not None:
            self._tls.close()
            self._flush(self._tls)
        else:
            with suppress(OSError):  # a reset that the loop has not processed yet: it will call connection_lost
                self._transport.write_eof()

    def abort(self, reason: TunnelError | None = None) -> None:
        """Close at once, even during an exchange. A waiting `read` or `write` raises ``reason``. Idempotent."""
        if self._error is None and reason is not None:
            self._error = reason.again()
        self._ended = False
        self._unread.clear()
        self._drop_leftover()
        self._transport.abort()


class _Tls:
    """Our end of TLS, over the connection's bytes."""

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self.standing = False
        """Whether the handshake is complete."""
        self.ended = False
        """Whether the other end has sent close_notify."""

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Process arriving bytes, and iterate over their plaintext to the end. Raises `ssl.SSLError`."""
        self._incoming.write(data)
        try:
            if not self.standing:
                self._object.do_handshake()
                self.standing = True
            while piece := self._object.read(_RECORD):
                yield piece
            self.ended = True
        except ssl.SSLZeroReturnError:
            self.ended = True
        except ssl.SSLWantReadError:
            pass

    def send(self, data: bytes) -> None:
        """Encrypt data after the handshake. It never waits, since the context forbids renegotiation."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._object.write(rest) :]

    def close(self) -> None:
        """Send close_notify."""
        with suppress(ssl.SSLError):  # it expects the other end's close_notify at once
            self._object.unwrap()

    def bytes_to_send(self) -> bytes:
        """Return the bytes to send to the other end now."""
        return self._outgoing.read()


def _is_readable(descriptor: int) -> bool:
    """Whether a read from the socket would return at once: bytes, an end or an error."""
    if not hasattr(select, "poll"):  # Windows, where select accepts descriptors of any value
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


async def connect(
    host: str, port: int, *, tls: ssl.SSLContext | None, on_lost: Callable[[UpstreamConnection], None]
) -> UpstreamConnection:
    """Connect to the first address of a host that answers. Raises `OSError`, which includes `ssl.SSLError`."""
    sock = await _dial(host, port)
    end = None if tls is None else _Tls(tls, host.partition("%")[0])
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: UpstreamConnection(on_lost, end), sock=sock)
    if connection.lost.is_set():
        sock.detach()  # uvloop has closed the descriptor, and its number may belong to another file by now
    try:
        await connection.stand()
    except BaseException:
        connection.abort()
        raise
    return connection


async def _dial(host: str, port: int) -> socket.socket:
    """Return a socket connected to one of a name's addresses. They race, since any of them may be dead (RFC 8305).

    ``create_connection`` cannot be used: uvloop's has no race, and a cancelled one of asyncio may leak a socket.
    """
    try:  # an address needs no lookup
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [(*each[:4], _with_zone(*each[4])) for each in found]
    return await start_connection(addresses, happy_eyeballs_delay=HAPPY_EYEBALLS)


def _with_zone(host: Any, port: Any, flow: int = 0, zone: int = 0) -> tuple[Any, ...]:
    """Return a socket address whose host contains its zone, since uvloop's ``sock_connect`` only looks there."""
    return (f"{host}%{zone}", port, flow, zone) if zone and "%" not in host else (host, port)
