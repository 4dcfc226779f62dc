"""The upstream of the end-to-end tests: a `Site` on a thread of its own (`Upstream`), or as a process:
``python -m tests.support.upstream [PORT]``.

    upstream.answers[b"/path"] = reply(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")

What no test has given an answer for is answered by `PAGES`, and else by "ok".
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable

from .processes import PATIENCE, Address
from .raw_server import OK, Answer, Connection, Page, Request, Site, serve

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: %b\r\n\r\n"
EVENTS = CHUNKED % b"text/event-stream"


def pattern(start: int, length: int) -> bytes:
    """Bytes ``start`` to ``start + length`` of a stream in which a lost or doubled piece shows."""
    first = start // 8
    count = (start + length) // 8 - first + 1
    numbered = b"".join(number.to_bytes(8, "big") for number in range(first, first + count))
    return numbered[start % 8 : start % 8 + length]


async def _big(connection: Connection, request: Request) -> bool:
    """``/big?size=N``: N bytes in one sized body, as fast as they are read. The bytes sent are counted."""
    size = int(request.query["size"])
    site = connection.site
    site.sent = 0

    async def send() -> None:
        await connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        piece = pattern(0, 1 << 16)
        while site.sent < size:
            await connection.write(piece[: size - site.sent])
            site.sent += len(piece)

    return await connection.watch(request, send())


async def _endless(connection: Connection, request: Request) -> bool:
    """``/endless``: a small chunk every 20 ms for ever."""

    async def send() -> None:
        await connection.write(CHUNKED % b"text/plain")
        while True:
            await connection.chunk(b"still here\n")
            await asyncio.sleep(0.02)

    return await connection.watch(request, send())


async def _tokens(connection: Connection, request: Request) -> bool:
    """``/tokens?name=S&count=N&pause=P``: N events that carry the name and their number, P seconds apart."""
    query = request.query
    name, pause = query["name"].encode(), float(query.get("pause", "0.02"))
    await connection.write(EVENTS)
    for number in range(int(query["count"])):
        await connection.chunk(b"data: %b %d\n\n" % (name, number))
        await asyncio.sleep(pause)
    await connection.write(b"0\r\n\r\n")
    request.whole = True
    return True


async def _silent(connection: Connection, request: Request) -> bool:
    """``/silent``: not a byte, for ever."""
    return await connection.watch(request, asyncio.sleep(3600))


async def _deaf(connection: Connection, request: Request) -> bool:
    """``/deaf``: reads nothing of the body until the test says so, then all of it, and answers."""
    await connection.site.hearing.wait()
    await connection.read_body(request)
    await connection.write(OK)
    return True


async def _acknowledged(connection: Connection, request: Request) -> bool:
    """``/acknowledged?count=N``: event k is sent only after the test has seen event k-1."""
    site = connection.site
    await connection.write(EVENTS)
    for number in range(int(request.query["count"])):
        await connection.chunk(b"data: %d\n\n" % number)
        await asyncio.wait_for(site.acknowledged.acquire(), PATIENCE)
    await connection.write(b"0\r\n\r\n")
    request.whole = True
    return True


async def _echo(connection: Connection, request: Request) -> bool:
    """``/echo``: the body comes back, chunk by chunk, while it still arrives."""
    await connection.write(CHUNKED % b"application/octet-stream")
    async for piece in connection.body_of(request):
        await connection.chunk(piece)
    await connection.write(b"0\r\n\r\n")
    request.whole = True
    return True


async def _shout(connection: Connection, request: Request) -> bool:
    """``/shout``: another protocol: what comes goes back in capitals, ``bye`` ends it."""
    await connection.write(b"HTTP/1.1 101 Now Shouting\r\nConnection: Upgrade\r\nUpgrade: shout/1\r\n\r\nWELCOME\n")
    while line := await connection.reader.readline():
        await connection.write(line.upper())
        if line == b"bye\n":
            break
    else:
        request.left = time.monotonic()
    return False


async def _slow(connection: Connection, request: Request) -> bool:
    """``/slow``: an answer that begins at once and is whole only after a minute."""
    await connection.write(b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n")

    async def send() -> None:
        for _ in range(600):
            await connection.write(b".")
            await asyncio.sleep(0.1)

    return await connection.watch(request, send())


PAGES: dict[bytes, Page] = {
    b"/acknowledged": _acknowledged,
    b"/big": _big,
    b"/deaf": _deaf,
    b"/echo": _echo,
    b"/endless": _endless,
    b"/shout": _shout,
    b"/silent": _silent,
    b"/slow": _slow,
    b"/tokens": _tokens,
}


class Upstream:
    """An upstream on a thread of its own."""

    def __init__(self) -> None:
        self.site = Site(PAGES)
        self.address: Address = ("", 0)
        self._started = threading.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._main(),), name="upstream")
        self._thread.start()
        assert self._started.wait(PATIENCE), "the upstream did not start"

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        await serve(self.site, 0, self._ready, self._stop)

    def _ready(self, address: Address) -> None:
        self.address = address
        self._started.set()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.address[0]}:{self.address[1]}"

    @property
    def answers(self) -> dict[bytes, Answer]:
        """What it answers, by target."""
        return self.site.answers

    @property
    def requests(self) -> list[Request]:
        """What it received."""
        return self.site.requests

    def acknowledge(self) -> None:
        """Let ``/acknowledged`` send its next event."""
        self._loop.call_soon_threadsafe(self.site.acknowledged.release)

    def hear(self) -> None:
        """Let ``/deaf`` read."""
        self._loop.call_soon_threadsafe(self.site.hearing.set)

    def close(self) -> None:
        """End it and its connections."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


def wait_until(condition: Callable[[], object], what: str, *, timeout: float = PATIENCE) -> float:
    """Look until ``condition`` is true; the seconds that it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < timeout, f"not within {timeout} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - start


def main(port: int) -> None:
    """Run as a process that says where it listens."""
    asyncio.run(
        serve(Site(PAGES), port, lambda address: print(f"upstream on {address[1]}", flush=True), asyncio.Event())
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
