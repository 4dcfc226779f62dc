"""The HTTP service behind the tunnel, in as few instructions as it takes: ``python -m tests.benchmarks.upstream``.

GET  /small                     200 and a few bytes
GET  /bytes?N                   N bytes
POST /sink                      reads the body, then as /small

GET  /v1/chat/completions?count=N&rate=R
                                N events of a streamed chat, R a second, each with the time at which it was sent
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, cast
from urllib.parse import parse_qs

from .client import BLOCK
from .loop import run

SMALL: Final = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"status":"ok"}'
EVENTS: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
STAMP: Final = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1767225600,"model":"benchmark",'
    b'"choices":[{"index":0,"delta":{"content":"%020d"},"logprobs":null,"finish_reason":null}]}\n\n'
)
"""An event: nanoseconds of the clock that all processes of a machine share (`time.perf_counter_ns`)."""
STAMP_SIZE: Final = len(STAMP % 0)
STAMP_TIME: Final = slice(at := STAMP.index(b"%020d"), at + 20)
"""Where in an event its time stands."""


class Server(asyncio.Protocol):
    """One client's connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._unread = 0
        self._unsent = 0
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """It went."""
        self._unsent = 0
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Bytes of a body that is counted only, or of a head."""
        if self._unread:
            self._read(data)
            return
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if end:
            self._buffer = b""
            self._answer(head, rest)

    def _answer(self, head: bytes, rest: bytes) -> None:
        path, _, query = head.split(b" ", 2)[1].partition(b"?")
        if path == b"/sink":
            self._unread = _content_length(head)
            self._read(rest)
        elif path == b"/bytes":
            self._unsent = int(query)
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self._unsent)
            self._send()
        elif path == b"/v1/chat/completions":
            values = parse_qs(query.decode("ascii"))
            self._transport.write(EVENTS)
            self._token(int(values["count"][0]), 1 / float(values["rate"][0]), self._loop.time())
        else:
            self._transport.write(SMALL)

    def _read(self, data: bytes) -> None:
        self._unread -= len(data)
        if self._unread <= 0:
            self._unread = 0
            self._transport.write(SMALL)

    def _send(self) -> None:
        while self._unsent and not self._paused:
            block = BLOCK[: self._unsent]
            self._unsent -= len(block)
            self._transport.write(block)

    def _token(self, left: int, pause: float, due: float) -> None:
        if not left:
            self._transport.write(b"0\r\n\r\n")
            return
        self._transport.write(b"%x\r\n" % STAMP_SIZE + STAMP % time.perf_counter_ns() + b"\r\n")
        self._timer = self._loop.call_at(due + pause, self._token, left - 1, pause, due + pause)

    def pause_writing(self) -> None:
        """The socket is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._paused = False
        self._send()


def _content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name == b"content-length":
            return int(value)
    raise ValueError("a body without a length")


async def main() -> None:
    """Answer on a free port of loopback until killed."""
    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0, backlog=512)
    print(f"upstream on port {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    run(main())
