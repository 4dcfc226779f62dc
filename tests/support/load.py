"""What is under way while networks fail: streams of events, a WebSocket, a download, an upload, checked byte for byte.

python -m tests.support.load site PORT       the service that answers it, on loopback
python -m tests.support.load client URL      all of it at once; says "begun" when each part has, its end in one line
                                     of JSON: event, whole, of, worst (the longest pause, seconds), broken
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web

STREAMS: Final = 20
PAUSE: Final = 0.1
"""Seconds between two events of a stream, and two messages of the WebSocket."""
PIECE: Final = 1 << 15
SILENCE: Final = 120.0
"""Seconds of silence after which a client gives up: more than any tunnel waits for its peer."""


class Wrong(Exception):
    """What came is not what was sent."""


def event(name: str, number: int) -> bytes:
    """One event of a stream: its own name and number show what was lost, doubled or swapped."""
    return f"data: {name} {number}\n\n".encode()


def content(size: int) -> bytes:
    """That many bytes, no two pieces alike."""
    return random.Random(size).randbytes(size)


async def paced(data: bytes, seconds: float) -> AsyncIterator[bytes]:
    """Its pieces, over that time or more."""
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]
        await asyncio.sleep(seconds * PIECE / len(data))


async def _tokens(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number in range(int(request.query["count"])):
        await response.write(event(request.query["name"], number))
        await asyncio.sleep(PAUSE)
    return response


async def _echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_str(message.data)
    return socket


async def _download(request: web.Request) -> web.StreamResponse:
    data = content(int(request.query["size"]))
    response = web.StreamResponse(headers={"Content-Length": str(len(data))})
    await response.prepare(request)
    async for piece in paced(data, float(request.query["seconds"])):
        await response.write(piece)
    return response


async def _upload(request: web.Request) -> web.Response:
    digest = hashlib.sha256()
    async for piece in request.content.iter_any():
        digest.update(piece)
    return web.Response(text=digest.hexdigest())


def site(port: int) -> None:
    """Answer until killed."""
    app = web.Application()
    app.router.add_get("/tokens", _tokens)
    app.router.add_get("/echo", _echo)
    app.router.add_get("/download", _download)
    app.router.add_post("/upload", _upload)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=lambda _: print("site on", port, flush=True))


class Pulse:
    """The longest pause of one part."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self.worst = 0.0
        self._begin = begin
        self._last = 0.0

    def beat(self) -> None:
        """Something came."""
        now = time.monotonic()
        if self._last:
            self.worst = max(self.worst, now - self._last)
        else:
            self._begin()
        self._last = now


class Client:
    """All parts, once."""

    def __init__(self, http: ClientSession, *, url: str, seconds: float, size: int) -> None:
        self._http = http
        self._url = url
        self._seconds = seconds
        self._size = size
        self._count = round(seconds / PAUSE)
        self._to_begin = STREAMS + 3
        self.broken: dict[str, str] = {}
        self.worst = 0.0

    async def run(self) -> None:
        """Until each has ended, whole or not."""
        parts = {f"stream-{number}": self._stream for number in range(STREAMS)}
        parts |= {"socket": self._socket, "download": self._download, "upload": self._upload}
        await asyncio.gather(*(self._watch(name, part) for name, part in parts.items()))
        worst = round(self.worst, 2)
        ended = {"whole": len(parts) - len(self.broken), "of": len(parts), "worst": worst, "broken": self.broken}
        print(json.dumps({"event": "load", **ended}), flush=True)

    async def _watch(self, name: str, part: Callable[[str, Pulse], Awaitable[None]]) -> None:
        pulse = Pulse(self._began)
        try:
            await part(name, pulse)
        except (ClientError, OSError, Wrong) as exc:
            self.broken[name] = repr(exc)
        if name not in ("download", "upload"):  # these pause for whatever is in front of them
            self.worst = max(self.worst, pulse.worst)

    def _began(self) -> None:
        self._to_begin -= 1
        if not self._to_begin:
            print("begun", flush=True)

    async def _stream(self, name: str, pulse: Pulse) -> None:
        body = b""
        async with self._http.get(f"{self._url}/tokens?name={name}&count={self._count}") as response:
            response.raise_for_status()
            async for line in response.content:
                pulse.beat()
                body += line
        if body != b"".join(event(name, number) for number in range(self._count)):
            raise Wrong(f"{len(body)} bytes, not those that were sent")

    async def _socket(self, name: str, pulse: Pulse) -> None:
        async with self._http.ws_connect(f"{self._url}/echo") as socket:
            sending = asyncio.create_task(self._send(name, socket.send_str))
            try:
                for number in range(self._count):
                    if (message := await socket.receive(SILENCE)).data != f"{name} {number}":
                        raise Wrong(f"{message!r} in place of {number}")
                    pulse.beat()
            finally:
                sending.cancel()

    async def _send(self, name: str, send: Callable[[str], Awaitable[None]]) -> None:
        for number in range(self._count):
            await send(f"{name} {number}")
            await asyncio.sleep(PAUSE)

    async def _download(self, name: str, pulse: Pulse) -> None:
        digest = hashlib.sha256()
        query = f"size={self._size}&seconds={self._seconds / 2}"
        async with self._http.get(f"{self._url}/download?{query}") as response:
            response.raise_for_status()
            async for piece in response.content.iter_any():
                pulse.beat()
                digest.update(piece)
        if digest.digest() != hashlib.sha256(content(self._size)).digest():
            raise Wrong("another content than was sent")

    async def _upload(self, name: str, pulse: Pulse) -> None:
        data = content(self._size)

        async def body() -> AsyncIterator[bytes]:
            async for piece in paced(data, self._seconds / 2):
                pulse.beat()
                yield piece

        async with self._http.post(f"{self._url}/upload", data=body()) as response:
            response.raise_for_status()
            if await response.text() != hashlib.sha256(data).hexdigest():
                raise Wrong("another content came than was sent")


async def client(url: str, *, seconds: float, size: int) -> int:
    """Run it all; 1 where something did not end whole."""
    timeout = ClientTimeout(total=None, sock_read=SILENCE)
    async with ClientSession(connector=TCPConnector(limit=0), timeout=timeout) as http:
        running = Client(http, url=url, seconds=seconds, size=size)
        await running.run()
    return 1 if running.broken else 0


def main() -> int:
    """Read the arguments, and be what they say."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.load", description="What is under way while networks fail."
    )
    roles = parser.add_subparsers(dest="role", required=True)
    roles.add_parser("site").add_argument("port", type=int)
    using = roles.add_parser("client")
    using.add_argument("url")
    using.add_argument("--seconds", type=float, default=20.0, help="that each stream lasts; transfers, half of it")
    using.add_argument("--size", type=int, default=20_000_000, help="bytes of each transfer")
    given = parser.parse_args()
    if given.role == "client":
        return asyncio.run(client(given.url, seconds=given.seconds, size=given.size))
    site(given.port)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
