"""Long work through a whole tunnel: how far it is, told by both sides while its bytes pass at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from llmtunnel.status import Progress
from llmtunnel.summary import request_rows
from llmtunnel.tunnel import Proxy, Server
from signal_server.server import SignalServer

from .support.embedded import PATIENCE, proxy, server, started, until

MB = 1_000_000


class Ollama:
    """An upstream that says what the test puts into ``says``, at once, and ends with b""."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[bytes] = asyncio.Queue()
        application = web.Application(client_max_size=100 * MB)
        application.router.add_post("/api/pull", self._lines)
        application.router.add_get("/file", self._file)
        application.router.add_post("/upload", self._upload)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)

    async def __aenter__(self) -> str:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aexit__(self, *exc_info: object) -> None:
        await self._runner.cleanup()

    async def _say(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        await response.prepare(request)
        while data := await self.says.get():
            await response.write(data)
        return response

    async def _lines(self, request: web.Request) -> web.StreamResponse:
        return await self._say(request, web.StreamResponse(headers={"Content-Type": "application/x-ndjson"}))

    async def _file(self, request: web.Request) -> web.StreamResponse:
        return await self._say(request, web.StreamResponse(headers={"Content-Length": str(4 * MB)}))

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"bytes": len(await request.read())})


@asynccontextmanager
async def tunnel() -> AsyncIterator[tuple[Ollama, Server, Proxy, aiohttp.ClientSession]]:
    upstream = Ollama()
    async with upstream as url, SignalServer("127.0.0.1", 0) as signal:
        serving, reaching = server(signal.url, url), proxy(signal.url)
        async with started(serving, reaching):
            await reaching.wait(timeout=PATIENCE)
            async with aiohttp.ClientSession(reaching.url) as client:
                yield upstream, serving, reaching, client


def told(side: Server | Proxy) -> str:
    """What views say of the only request under way."""
    [active] = side.active_requests()
    [row] = request_rows([active], (), now=active.started, limit=1)
    return row.progress


async def test_a_pull_is_told_by_both_sides_while_each_of_its_lines_passes_at_once() -> None:
    lines = [
        {"status": "pulling manifest"},
        {"status": "pulling 8934d96d", "digest": "sha256:8934d96d", "total": 4_700_000_000},
        {"status": "pulling 8934d96d", "digest": "sha256:8934d96d", "total": 4_700_000_000, "completed": 1_900_000_000},
        {"status": "success"},
    ]
    views = [
        "pulling manifest",
        "0 %, 0 B of 4.7 GB, pulling 8934d96d",
        "40 %, 1.9 GB of 4.7 GB, pulling 8934d96d",
        "40 %, 1.9 GB of 4.7 GB, success",
    ]
    async with tunnel() as (upstream, serving, reaching, client):
        async with client.post("/api/pull", json={"model": "llama3.2"}) as response:
            for line, view in zip(lines, views, strict=True):
                said = json.dumps(line).encode() + b"\n"
                upstream.says.put_nowait(said)
                assert await asyncio.wait_for(response.content.readexactly(len(said)), PATIENCE) == said
                assert (told(reaching), told(serving)) == (view, view)
            upstream.says.put_nowait(b"")
            assert await response.read() == b""
        for side in (serving, reaching):
            await until(lambda side=side: side.status.active == 0)  # type: ignore[misc]
            record = side.records()[-1]
            assert record.progress == Progress(done=1_900_000_000, total=4_700_000_000, what="success")
            assert (record.tokens, record.model) == (None, "")


async def test_a_download_tells_how_much_of_it_has_passed() -> None:
    async with tunnel() as (upstream, serving, reaching, client):
        async with client.get("/file") as response:
            upstream.says.put_nowait(b"x" * 3 * MB)
            await response.content.readexactly(3 * MB)
            for side in (serving, reaching):
                [active] = side.active_requests()
                assert (active.bytes_down, active.total_down) == (3 * MB, 4 * MB)
                assert told(side) == "75 %, 3.0 MB of 4.0 MB down"
            upstream.says.put_nowait(b"x" * MB)
            await response.read()
            upstream.says.put_nowait(b"")
        await until(lambda: reaching.status.active == 0)
        [row] = reaching.requests()
        assert (row["bytes_down"], row["total_down"], row["error"]) == (4 * MB, 4 * MB, "")


async def test_an_upload_tells_how_much_of_it_has_passed() -> None:
    half, go_on = b"x" * 2 * MB, asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield half
        await go_on.wait()
        yield half

    async with tunnel() as (_upstream, serving, reaching, client):
        sending = asyncio.create_task(client.post("/upload", data=body(), headers={"Content-Length": str(4 * MB)}))
        for side in (reaching, serving):
            await until(lambda side=side: [each.bytes_up for each in side.active_requests()] == [2 * MB])  # type: ignore[misc]
            assert told(side) == "50 %, 2.0 MB of 4.0 MB up"
        go_on.set()
        async with await sending as response:
            assert await response.json() == {"bytes": 4 * MB}
