"""One client's TCP connection: bytes with back-pressure, and detection of a client that has disconnected. No HTTP.

All writes of one turn of the loop are sent together, in one packet if they fit. Nothing is delayed longer than that.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, Protocol, cast

from ..config import KIB, Limits, Timeouts
from ..descriptors import keep_from_children
from ..session.stream import Stream

_FLUSH: Final = 64 * KIB
"""Number of bytes written in one turn of the loop after which they are sent at once."""

_RESET_ON_CLOSE: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""SO_LINGER: enabled, with a time of 0, so that a close sends a reset."""

Serve = Callable[["ClientConnection"], Coroutine[Any, Any, None]]


class Register(Protocol):
    """Receives open and closed connections."""

    def add(self, client: ClientConnection, /) -> None:
        """Add an open connection."""

    def discard(self, client: ClientConnection, /) -> None:
        """Remove a closed connection."""


class ClientConnection(asyncio.Protocol):
    """Runs ``serve`` as a task, and cancels it when the client disconnects. One task reads at a time."""

    def __init__(self, serve: Serve, clients: Register, *, limits: Limits, timeouts: Timeouts) -> None:
        """``clients`` contains the connection while it is open."""
        self.lost = asyncio.Event()
        """Set when the socket is closed."""
        self.opaque = False
        """Whether it carries another protocol than HTTP, in which an end of the client's half is only that."""
        self.stream: Stream | None = None
        """The stream of its last request that was sent to a peer."""
        self.task: asyncio.Task[None]
        self._serve = serve
        self._clients = clients
        self._read_ahead = limits.read_ahead
        self._half_closed = timeouts.half_closed
        self._stalled = timeouts.stalled
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._unread = b""
        self._ended = False
        self._interrupted = False
        self._readable = asyncio.Event()
        self._unsent: list[bytes] = []
        self._unsent_size = 0
        self._sent_since_end = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._leaving: asyncio.TimerHandle | None = None

    # -- what the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        keep_from_children(transport)
        self._clients.add(self)
        self.task = self._loop.create_task(self._serve(self), name="a client of the gateway")

    def data_received(self, data: bytes) -> None:
        """Part of `asyncio.Protocol`."""
        self._unread += data
        self._readable.set()
        if len(self._unread) >= self._read_ahead:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """Part of `asyncio.Protocol`."""
        self._ended = True
        self._readable.set()
        self._leaving = self._loop.call_later(self._half_closed, self._find_out)
        return True  # the client may still wait for its response

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of `asyncio.Protocol`."""
        self._ended = True
        self._readable.set()
        self._writable.set()
        if self._leaving:
            self._leaving.cancel()
        self.lost.set()
        self.task.cancel()
        self._clients.discard(self)

    def pause_writing(self) -> None:
        """Part of `asyncio.Protocol`."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Part of `asyncio.Protocol`."""
        self._writable.set()

    def _find_out(self) -> None:
        """After the client's end, check repeatedly whether it has disconnected or waits for its response."""
        waits = self.opaque or self._sent_since_end or self._transport.get_write_buffer_size()
        if not waits or self._refused():
            self.abort()
        else:  # nothing may be sent for minutes, so that no failing write reveals it
            self._leaving = self._loop.call_later(self._half_closed, self._find_out)

    def _refused(self) -> bool:
        """Whether the client's machine has reported that nobody reads the data."""
        with suppress(OSError):
            return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        return True

    @property
    def _socket(self) -> socket.socket:
        return cast(socket.socket, self._transport.get_extra_info("socket"))

    # -- reading

    @property
    def has_unread(self) -> bool:
        """Whether unread bytes have arrived."""
        return bool(self._unread)

    async def read(self) -> bytes:
        """Return all unread bytes, at least one; ``b""`` if the client has ended.

        After `interrupt`, it returns ``b""`` once.
        """
        if not (self._unread or self._ended or self._interrupted):
            self._readable.clear()
            await self._readable.wait()  # the caller decides how long a client may be silent
        self._interrupted = False
        data, self._unread = self._unread, b""
        if len(data) >= self._read_ahead and not self._transport.is_closing():
            self._transport.resume_reading()
        return data

    def interrupt(self) -> None:
        """Make `read` return, now or when it is called next."""
        self._interrupted = True
        self._readable.set()

    def unread(self, data: bytes) -> None:
        """Put bytes back, to be read first."""
        self._unread = data + self._unread

    # -- writing

    def write(self, data: bytes) -> None:
        """Send data with everything else written in this turn. If the connection is closed, the data is dropped."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)
        self._unsent_size += len(data)
        if self._unsent_size >= _FLUSH:
            self._flush()

    @property
    def writable(self) -> bool:
        """Whether little of the written data is buffered in this process."""
        return self._writable.is_set()

    async def drain(self) -> None:
        """Wait until little of the written data is buffered in this process."""
        await self._writable.wait()  # a client may read as slowly as it likes, as without a tunnel

    def write_eof(self) -> None:
        """Close our half."""
        self._flush()
        if not self._transport.is_closing():
            with suppress(OSError):  # the client has just disconnected: connection_lost follows
                self._transport.write_eof()

    def _flush(self) -> None:
        data = b"".join(self._unsent)
        self._unsent.clear()
        self._unsent_size = 0
        if data and not self._transport.is_closing():
            self._sent_since_end = self._ended
            self._transport.write(data)

    # -- ending

    def close(self) -> None:
        """Close when all data is sent, or some time after the client stopped reading it. Idempotent."""
        self._flush()
        self._transport.close()
        if self._leaving:
            self._leaving.cancel()
        self._await_reader(self._transport.get_write_buffer_size())

    def _await_reader(self, unsent: int) -> None:
        """Check from time to time that the client still reads the rest, since a close alone would wait forever."""
        if unsent and not self.lost.is_set():
            self._leaving = self._loop.call_later(self._stalled, self._look_after, unsent)

    def _look_after(self, unsent: int) -> None:
        left = self._transport.get_write_buffer_size()
        if left < unsent:
            self._await_reader(left)
        else:
            self.abort()

    def abort(self) -> None:
        """Close with a reset, so that the client does not take a partial response as complete. Idempotent."""
        self._unsent.clear()
        self._unsent_size = 0
        if not self._transport.is_closing():
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    async def linger(self, seconds: float) -> None:
        """Close, but read for a while: closing with unread bytes would reset data that the client has yet to read."""
        self.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await self.read():
                    pass
        self.close()
