"""One connection to the upstream: dialling it, TLS, and moving bytes with back-pressure both ways. No HTTP here.

Two things differ from what an event loop's transport does by itself:

- A server may answer a request before it has read all of it, and close. The kernel then fails our next write, and the
  transport closes at once, although the answer lies unread in the socket. `UpstreamConnection` reads it all the same.
- TLS runs here, not in the loop. So the answer can be decrypted in that case too. And an end without ``close_notify``
  is an error on every loop: anybody could have cut a body that only the end of the connection delimits.
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
"""Unread bytes after which a connection stops reading; asyncio reads 256 KiB at once, so it holds 320 KiB at most."""

HAPPY_EYEBALLS: Final = 0.25
"""Seconds before the next address of a name is tried beside the first (RFC 8305 section 5)."""

_RECORD: Final = 16 * KIB
"""Bytes in one TLS record, at most."""


class UpstreamConnection(asyncio.Protocol):
    """One connection, used by one exchange at a time: one task reads, one writes.

    `read` and `write` raise `UpstreamBroken`, or what `abort` was given.
    """

    def __init__(self, on_lost: Callable[[UpstreamConnection], None], tls: _Tls | None = None) -> None:
        self.idle = False
        """Nobody expects anything of it: data or an end is a reason to throw it away."""
        self.reused = False
        """An exchange before this one ended on it."""
        self.lost = asyncio.Event()
        """The event loop has closed the socket."""
        self._on_lost = on_lost
        self._tls = tls
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())
        self._transport: asyncio.Transport
        self._unread: list[bytes] = []
        self._unread_size = 0
        self._leftover: socket.socket | None = None
        """After a failed write: the socket, which may hold what the upstream sent before it closed."""
        self._ended = False
        """The upstream has ended in order: nothing is missing of what it sent."""
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
        # Our half stays open: an upgraded protocol may go on in one direction.
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
        """Have `read` and `write` fail; the first error counts."""
        if not self._opened.done():
            self._opened.set_exception(cause or ConnectionResetError("the connection closed during the TLS handshake"))
        if self._error is None:
            self._error = UpstreamBroken(message)
            self._error.__cause__ = cause

    def _decrypt(self, data: bytes) -> Iterator[bytes]:
        """What arriving bytes carry. Where they break TLS, the connection closes, and `read` tells."""
        if self._tls is None:
            yield data
            return
        try:
            yield from self._tls.receive(data)
        except ssl.SSLError as exc:
            self._break("The model server sent data that is not TLS.", exc)
            self._flush(self._tls)  # the alert that tells it so
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

    # --- what an exchange calls

    async def stand(self) -> None:
        """Return when the connection can carry a request. Raises `OSError`, and `ssl.SSLError` is one."""
        await self._opened

    @property
    def usable(self) -> bool:
        """Whether a next exchange may begin: it is open both ways, and nothing is left of the one before."""
        return not (self._ended or self._unread or self._transport.is_closing())

    @property
    def address(self) -> str:
        """The other end's; empty where the connection has gone meanwhile."""
        peer = self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    @property
    def silent(self) -> bool:
        """Whether nothing has come, neither bytes nor an end, that the event loop has yet to read."""
        return not _is_readable(self._transport.get_extra_info("socket").fileno())

    async def read(self) -> bytes:
        """All bytes that have come and are not yet read, at least one; b"" where the upstream has ended."""
        while not (self._unread or self._ended or self._error):
            self._readable.clear()
            await self._readable.wait()  # a model may think for minutes; the client ends the wait by leaving
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
        """The next bytes that the socket of a failed write still holds; b"" where that is all.

        Such a socket never blocks: the kernel has closed the connection, and nothing can arrive any more.
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
        """Send; returns when little of it waits in this process."""
        self.write_now(data)
        await self._writable.wait()  # as for reading
        if self._error:
            raise self._error.again()

    def write_now(self, data: bytes) -> None:
        """Send without waiting: for a head. What cannot be sent any more is dropped, and `read` tells."""
        if self._transport.is_closing():
            return
        if self._tls is None:
            self._transport.write(data)
        else:
            self._tls.send(data)
            self._flush(self._tls)

    def end(self) -> None:
        """Nothing more will be written; what the upstream still sends can be read."""
        if self._transport.is_closing():
            return
        if self._tls is not None:
            self._tls.close()
            self._flush(self._tls)
        else:
            with suppress(OSError):  # a reset has come that the loop has not seen: it calls connection_lost
                self._transport.write_eof()

    def abort(self, reason: TunnelError | None = None) -> None:
        """Close at once, whatever is under way; a waiting `read` or `write` raises ``reason``. Idempotent."""
        if self._error is None and reason is not None:
            self._error = reason.again()
        self._ended = False
        self._unread.clear()
        self._drop_leftover()
        self._transport.abort()


class _Tls:
    """Our end of TLS, over bytes that the connection carries."""

    def __init__(self, context: ssl.SSLContext, name: str) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self.standing = False
        """The handshake is through."""
        self.ended = False
        """The other end has said that nothing more comes."""

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Take bytes that came; iterate over what they carry to the end. Raises `ssl.SSLError`."""
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
        """Send, once the handshake is through; it waits for nothing, since the context forbids renegotiation."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._object.write(rest) :]

    def close(self) -> None:
        """Say that nothing more comes from us."""
        with suppress(ssl.SSLError):  # it asks for the other end's word at once
            self._object.unwrap()

    def bytes_to_send(self) -> bytes:
        """What is to go to the other end now."""
        return self._outgoing.read()


def _is_readable(descriptor: int) -> bool:
    """Whether something can be read from a socket now: bytes, an end or an error."""
    if not hasattr(select, "poll"):  # Windows, where select takes descriptors of any value
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


async def connect(
    host: str, port: int, *, tls: ssl.SSLContext | None, on_lost: Callable[[UpstreamConnection], None]
) -> UpstreamConnection:
    """Connect to the first address of a host that answers. Raises `OSError`; `ssl.SSLError` is one."""
    sock = await _dial(host, port)
    end = None if tls is None else _Tls(tls, host.partition("%")[0])
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: UpstreamConnection(on_lost, end), sock=sock)
    if connection.lost.is_set():
        sock.detach()  # uvloop has closed its descriptor, and left the number here for somebody else's to be closed
    try:
        await connection.stand()
    except BaseException:
        connection.abort()
        raise
    return connection


async def _dial(host: str, port: int) -> socket.socket:
    """A socket that is connected to one of a name's addresses: they race, since any of them may be dead (RFC 8305).

    Not by ``create_connection``: uvloop has no race there, and asyncio's may leave a socket open where it is cancelled.
    """
    try:  # an address is not looked up
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [(*each[:4], _with_zone(*each[4])) for each in found]
    return await start_connection(addresses, happy_eyeballs_delay=HAPPY_EYEBALLS)


def _with_zone(host: Any, port: Any, flow: int = 0, zone: int = 0) -> tuple[Any, ...]:
    """A socket's address, whose host names its zone: uvloop's ``sock_connect`` looks for it nowhere else."""
    return (f"{host}%{zone}", port, flow, zone) if zone and "%" not in host else (host, port)
