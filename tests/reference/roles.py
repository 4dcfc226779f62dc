"""What the original does with frames, as serve and as proxy."""

from __future__ import annotations

import asyncio
import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from . import wire

Json = dict[str, Any]
Send = Callable[[bytes], None]
Frames = asyncio.Queue[wire.Frame]
FEATURES = ["sse"]
HEADERS_WITHIN = 60.0
NOT_TO_UPSTREAM = {"host", "connection", "transfer-encoding"}
NOT_TO_CLIENT = {"connection", "transfer-encoding"}


class Refused(ConnectionError):
    """The other side is no tunnel of a version that this one speaks."""


class Side(ABC):
    """One role of the original."""

    def __init__(self) -> None:
        self._send: Send | None = None

    @abstractmethod
    async def shake_hands(self, send: Send, frames: Frames) -> None:
        """HELLO from the proxy, AGREE from serve."""

    @abstractmethod
    def received(self, kind: int, stream: int, payload: bytes) -> None:
        """A frame came, other than PING and PONG; unknown ones are skipped."""

    def lost(self) -> None:
        """The connection is gone."""
        self._send = None

    def send(self, kind: int, stream: int, payload: bytes = b"") -> None:
        """Send a frame, if there still is somebody."""
        if self._send is not None:
            with contextlib.suppress(Exception):  # aiortc raises InvalidStateError on a channel that just closed
                self._send(wire.pack(kind, stream, payload))

    def send_json(self, kind: int, stream: int, value: Json) -> None:
        """Send a frame of JSON."""
        self.send(kind, stream, json.dumps(value).encode())


async def first(frames: Frames, kind: int) -> Json:
    while (frame := await frames.get())[0] != kind:
        pass
    value: Json = json.loads(frame[2])
    return value


class Serve(Side):
    """Collects each request to its REQ_END, then asks the upstream; redirects are followed."""

    def __init__(self, upstream: str) -> None:
        super().__init__()
        self._upstream = upstream.rstrip("/")
        self._waiting: dict[int, tuple[Json, bytearray]] = {}
        self._asking: set[asyncio.Task[None]] = set()

    async def shake_hands(self, send: Send, frames: Frames) -> None:
        hello = await first(frames, wire.HELLO)
        if hello["proto"] != "httptunnel" or not hello["min_version"] <= 1 <= hello["max_version"]:
            raise Refused(f"HELLO {hello}")
        self._send = send
        common = [feature for feature in hello["features"] if feature in FEATURES]
        self.send_json(wire.AGREE, 0, {"version": 1, "features": common})

    def received(self, kind: int, stream: int, payload: bytes) -> None:
        if kind == wire.REQ_HEADERS:
            self._waiting[stream] = (json.loads(payload), bytearray())
        elif kind == wire.REQ_BODY and stream in self._waiting:
            self._waiting[stream][1].extend(payload)
        elif kind == wire.REQ_END and stream in self._waiting:
            head, body = self._waiting.pop(stream)
            task = asyncio.create_task(self._ask(stream, head, bytes(body)), name=f"request-{stream}")
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self, stream: int, head: Json, body: bytes) -> None:
        headers = {name: value for name, value in head["headers"].items() if name.lower() not in NOT_TO_UPSTREAM}
        url = URL(self._upstream + head["path"], encoded=True)
        try:
            async with (
                aiohttp.ClientSession(auto_decompress=False) as http,
                http.request(head["method"], url, headers=headers, data=body or None) as response,
            ):
                await self._answer(stream, response)
        except (aiohttp.ClientError, ConnectionError) as exc:
            message = {"stream_id": stream, "status": 502, "headers": {"content-type": "text/plain"}}
            self.send_json(wire.RES_HEADERS, stream, message)
            self.send(wire.RES_BODY, stream, f"Bad Gateway: {exc}".encode())
            self.send(wire.RES_END, stream)

    async def _answer(self, stream: int, response: aiohttp.ClientResponse) -> None:
        headers = {name.lower(): value for name, value in response.headers.items() if name.lower() not in NOT_TO_CLIENT}
        self.send_json(wire.RES_HEADERS, stream, {"stream_id": stream, "status": response.status, "headers": headers})
        try:
            async for piece in response.content.iter_any():
                for part in wire.pieces(piece):
                    self.send(wire.RES_BODY, stream, part)
        except (aiohttp.ClientError, ConnectionError) as exc:
            self.send(wire.ERROR, stream, f"upstream: {exc}".encode())
        self.send(wire.RES_END, stream)


class Proxy(Side):
    """Takes requests on a port of its own and gives each a stream."""

    def __init__(self) -> None:
        super().__init__()
        self._streams: dict[int, Frames] = {}
        self._last = 0

    async def shake_hands(self, send: Send, frames: Frames) -> None:
        self._send = send
        hello = {"proto": "httptunnel", "min_version": 1, "max_version": 1, "features": FEATURES}
        self.send_json(wire.HELLO, 0, hello)
        agreed = await first(frames, wire.AGREE)
        if agreed["version"] != 1:
            raise Refused(f"AGREE {agreed}")

    def received(self, kind: int, stream: int, payload: bytes) -> None:
        if stream in self._streams:
            self._streams[stream].put_nowait((kind, stream, payload))

    def lost(self) -> None:
        super().lost()
        for stream, frames in self._streams.items():
            frames.put_nowait((wire.ERROR, stream, b"connection lost"))

    async def listen(self, port: int) -> str:
        """Answer on loopback; the URL."""
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, auto_decompress=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self._send is None:
            return web.Response(status=503, text="Tunnel not ready")
        self._last += 1
        stream = self._last
        frames: Frames = asyncio.Queue()
        self._streams[stream] = frames
        try:
            await self._ask(request, stream)
            return await self._answer(request, frames)
        finally:
            del self._streams[stream]

    async def _ask(self, request: web.Request, stream: int) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        head = {"stream_id": stream, "method": request.method, "path": request.raw_path, "headers": headers}
        self.send_json(wire.REQ_HEADERS, stream, head)
        async for piece in request.content.iter_any():
            for part in wire.pieces(piece):
                self.send(wire.REQ_BODY, stream, part)
        self.send(wire.REQ_END, stream)

    async def _answer(self, request: web.Request, frames: Frames) -> web.StreamResponse:
        try:
            async with asyncio.timeout(HEADERS_WITHIN):
                kind, _, payload = await frames.get()
        except TimeoutError:
            return web.Response(status=504, text="Gateway Timeout")
        if kind != wire.RES_HEADERS:
            return web.Response(status=502, text=payload.decode("utf-8", "replace"))
        head = json.loads(payload)
        kept = {name: value for name, value in head["headers"].items() if name.lower() not in NOT_TO_CLIENT}
        response = web.StreamResponse(status=head["status"], headers=CIMultiDict(kept))
        await response.prepare(request)
        while (frame := await frames.get())[0] == wire.RES_BODY:
            await response.write(frame[2])
        return response
