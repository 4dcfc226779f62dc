"""An HTTP client that costs little: the load generator shares two cores with what it measures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, cast

Address = tuple[str, int]
Sink = Callable[[bytes], None]

BLOCK: Final = bytes(256 * 1024)
"""What bulk data is made of."""


class Failed(Exception):
    """An exchange that did not end whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A response that came whole."""

    status: int
    size: int
    seconds: float
    """From the request's first byte to the body's last."""


class Connection(asyncio.Protocol):
    """One keep-alive connection with one exchange at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._body: Sized | Chunked | None = None
        self._status = 0
        self._sink: Sink | None = None
        self._done: asyncio.Future[int] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def transport(self) -> asyncio.Transport:
        """Its socket's transport."""
        assert self._transport is not None
        return self._transport

    async def exchange(self, target: str, *, upload: int = 0, sink: Sink | None = None) -> Answer:
        """GET ``target``, or POST ``upload`` bytes to it; ``sink`` gets the body as it comes. Raises `Failed`."""
        done = self._done = asyncio.get_running_loop().create_future()
        self._sink = sink
        began = time.perf_counter()
        self.transport.write(_head(target, upload))
        await self._upload(upload)
        try:
            size = await done
        finally:
            self._done = None
        return Answer(status=self._status, size=size, seconds=time.perf_counter() - began)

    async def _upload(self, size: int) -> None:
        while size > 0 and not self.transport.is_closing():
            await self._writable.wait()
            self.transport.write(BLOCK if size >= len(BLOCK) else bytes(size))
            size -= len(BLOCK)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._body is None:
            self._buffer += data
            head, end, data = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return
            self._buffer = b""
            self._status, self._body = _read_head(head)
        size = self._body.feed(data, self._sink)
        if size is not None:
            self._body = None
            if self._done is not None:
                self._done.set_result(size)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side closed."""
        self._writable.set()
        if self._done is not None and not self._done.done():
            self._done.set_exception(Failed(f"the connection broke: {exc}"))

    def pause_writing(self) -> None:
        """The socket is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._writable.set()


class Sized:
    """A body whose length its head told."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size

    def feed(self, data: bytes, sink: Sink | None) -> int | None:
        """Take bytes; the body's size when that was all."""
        self._left -= len(data)
        if sink is not None and data:
            sink(data)
        return None if self._left > 0 else self._size


class Chunked:
    """A body in chunks (RFC 9112 section 7.1), without extensions and trailers."""

    def __init__(self) -> None:
        self._buffer = b""
        self._size = 0

    def feed(self, data: bytes, sink: Sink | None) -> int | None:
        """Take bytes; the body's size when that was all."""
        self._buffer += data
        while (line := self._buffer.find(b"\r\n")) >= 0:
            size = int(self._buffer[:line], 16)
            end = line + 2 + size
            if len(self._buffer) < end + 2:
                break
            chunk, self._buffer = self._buffer[line + 2 : end], self._buffer[end + 2 :]
            if not size:
                return self._size
            self._size += size
            if sink is not None:
                sink(chunk)
        return None


def _head(target: str, upload: int) -> bytes:
    method = f"POST {target}" if upload else f"GET {target}"
    sized = f"Content-Length: {upload}\r\n" if upload else ""
    return f"{method} HTTP/1.1\r\nHost: localhost\r\n{sized}\r\n".encode("ascii")


def _read_head(head: bytes) -> tuple[int, Sized | Chunked]:
    lines = head.lower().split(b"\r\n")
    status = int(lines[0].split(b" ", 2)[1])
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return status, Sized(int(value))
    return status, Chunked()


@asynccontextmanager
async def connect(address: Address) -> AsyncIterator[Connection]:
    """A connection that is closed at the end. Raises ``OSError`` where nobody listens."""
    _, connection = await asyncio.get_running_loop().create_connection(Connection, *address)
    try:
        yield connection
    finally:
        connection.transport.abort()
