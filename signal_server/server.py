"""The server: HTTP on an address, a WebSocket on any path of it."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Final, Self

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from .connection import Connection, Socket
from .hub import Hub
from .limits import Limits

GREETING: Final = "llmtunnel signal server\n"


class SignalServer:
    """A running signal server: ``async with SignalServer("127.0.0.1", 0) as server: server.url``.

    ``port`` 0 takes a free one. `start` raises `OSError` where the address cannot be listened on.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 8787, *, limits: Limits | None = None) -> None:
        self._host, self._port = host, port
        self._limits = limits or Limits()
        self._hub = Hub(self._limits)
        self._connections: dict[asyncio.BaseTransport, Connection] = {}
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._runner is not None, "started"
        return f"ws://{netloc(*self._runner.addresses[0][:2])}"

    async def start(self) -> None:
        """Listen."""
        self._runner = web.ServerRunner(_Door(self), shutdown_timeout=self._limits.close)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Listen no more, and close every socket; idempotent."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in runner.sites:
            await site.stop()
        await asyncio.gather(*(connection.aclose() for connection in self._connections.values()))
        await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def admit(self, transport: asyncio.Transport) -> None:
        """Somebody has connected: if no WebSocket comes of it in time, that was it."""
        loop = asyncio.get_running_loop()
        loop.call_later(self._limits.join, self._drop_stranger, transport)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """A WebSocket where one is asked for, else a line of text."""
        socket = Socket(self._limits)
        if not socket.can_prepare(request):
            return web.Response(text="ok\n" if request.path == "/healthz" else GREETING)
        transport = request.transport
        if transport is None or len(self._connections) >= self._limits.sockets:
            return web.Response(status=503, text="server is full\n")
        try:
            await socket.prepare(request)
        except ConnectionError:
            return socket  # it is gone already
        await self._serve(socket, transport)
        return socket

    async def _serve(self, socket: Socket, transport: asyncio.Transport) -> None:
        connection = Connection(socket, transport, self._hub, self._limits)
        self._connections[transport] = connection
        try:
            await connection.run()
        finally:
            del self._connections[transport]

    def _drop_stranger(self, transport: asyncio.Transport) -> None:
        if transport not in self._connections:
            transport.abort()


def netloc(host: str, port: int) -> str:
    """Host and port as a URL has them: IPv6 addresses in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Door(web.Server):
    """aiohttp's server, which alone hears of connections that never ask for anything."""

    def __init__(self, server: SignalServer) -> None:
        super().__init__(server.answer, access_log=None, logger=_http_logger())
        self._signal_server = server

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._signal_server.admit(transport)


def _http_logger() -> logging.Logger:
    """For aiohttp, which would log a traceback for each client that does not speak HTTP."""
    logger = logging.getLogger("signal_server.http")
    logger.addFilter(_is_ours)
    return logger


def _is_ours(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
