"""A server for the page alone, and how an aiohttp server answers with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from .accounts import Networks, is_in
from .logs import http_logger
from .page_files import Files, read_folder, state_of
from .pages import Answer, Ask, Pages

PIECE: Final = 32 * 1024
"""Bytes written at once. A browser that does not read makes the server hold this much, beside what asyncio buffers."""
PATIENCE: Final = 30.0
"""Maximum seconds of a connection. Each is for one request."""
CLOSE: Final = 2.0
"""Seconds for open connections when the server stops."""


def ask_of(request: web.BaseRequest, trusted: Networks = ()) -> Ask:
    """Return what decides the answer. ``trusted``: networks of HTTP servers in front that may report the scheme."""
    fields = request.headers
    scheme = fields.get("X-Forwarded-Proto", "").rpartition(",")[2].strip().lower()
    reported = scheme in ("http", "https") and is_in(request.remote or "", trusted)
    return Ask(
        method=request.method,
        path=request.rel_url.raw_path,
        host=fields.get("Host", ""),
        scheme=scheme if reported else "",
        known=fields.get("If-None-Match", ""),
        encodings=fields.get("Accept-Encoding", ""),
        site=fields.get("Sec-Fetch-Site", ""),
    )


async def send(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    """Send a response, and close the connection, so that it does not occupy a place. The request's body is not read."""
    response = web.StreamResponse(status=answer.status, headers=answer.fields)
    response.force_close()
    await response.prepare(request)
    body = memoryview(answer.body)
    for start in range(0, len(body), PIECE):
        await response.write(body[start : start + PIECE])
    await response.write_eof()
    return response


class PageServer:
    """Answers with the page, wherever its owner listens: each connection gets a protocol of `start`.

    ``make`` makes the pages of the folder's files. When a file changes, the next request gets the new one. Raises
    `OSError` if the files cannot be read at first. Later, as during an upgrade, the earlier ones stay.
    """

    def __init__(self, folder: Path, make: Callable[[Files], Pages]) -> None:
        self._folder = folder
        self._state = state_of(folder)
        self._pages = make(read_folder(folder))
        options: dict[str, Any] = {"access_log": None, "logger": http_logger(), "lingering_time": 0}
        server = web.Server(self._answer, keepalive_timeout=PATIENCE, **options)
        self._runner = web.ServerRunner(server, shutdown_timeout=CLOSE)

    async def start(self) -> Callable[[], asyncio.Protocol]:
        """Return what makes the protocol of a connection."""
        await self._runner.setup()
        assert self._runner.server is not None, "set up"
        return self._runner.server

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        with suppress(OSError):
            if (state := state_of(self._folder)) != self._state:
                self._pages, self._state = replace(self._pages, files=read_folder(self._folder)), state
        try:
            async with asyncio.timeout(PATIENCE):
                return await send(request, self._pages.answer(ask_of(request)))
        except (TimeoutError, ConnectionError):  # the browser does not read, or has left
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
