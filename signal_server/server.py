"""The server: HTTP on an address, a WebSocket on any path of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from types import TracebackType
from typing import Final, Self

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from .connection import Connection, Socket
from .hub import Hub
from .limits import Limits
from .messages import Refused
from .relay import End, PipeSocket, Relay, offered_ticket, status

GREETING: Final = "llmtunnel signal server\n"
THIS_MACHINE: Final = ("127.0.0.0/8", "::1/128")


class SignalServer:
    """A running signal server: ``async with SignalServer("127.0.0.1", 0) as server: server.url``.

    ``port`` 0 takes a free one. `start` raises `OSError` where the address cannot be listened on. ``trusted_proxies``
    are the networks of HTTP servers in front whose ``X-Forwarded-For`` tells clients' addresses.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8787,
        *,
        limits: Limits | None = None,
        trusted_proxies: Iterable[str] = THIS_MACHINE,
    ) -> None:
        self._host, self._port = host, port
        self._limits = limits or Limits()
        self._hub = Hub(self._limits)
        self._trusted = tuple(ip_network(each) for each in trusted_proxies)
        self._relay: Relay | None = None
        self._connections: dict[asyncio.BaseTransport, Connection] = {}
        self._pipes: set[asyncio.BaseTransport] = set()
        self._runner: web.ServerRunner | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._runner is not None, "started"
        return f"ws://{netloc(*self._runner.addresses[0][:2])}"

    async def start(self) -> None:
        """Listen."""
        if self._limits.relay is not None and self._hub.tickets is not None:
            self._relay = Relay(self._limits, self._limits.relay, self._hub.tickets, alias=self._hub.alias)
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
        if self._relay is not None:
            self._relay.stop()
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
        if (ticket := offered_ticket(request)) is not None:
            return await self._answer_pipe(request, ticket)
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

    async def _answer_pipe(self, request: web.BaseRequest, ticket: str) -> web.StreamResponse:
        socket, transport = PipeSocket(self._limits), request.transport
        if self._relay is None or transport is None or not socket.can_prepare(request):
            return web.Response(status=403, text="no relay\n")
        try:
            granted, accounts = self._relay.admit(ticket, address=self._address(request))
        except Refused as refusal:
            return web.Response(status=status(refusal), text=f"{refusal}\n")
        self._pipes.add(transport)
        try:
            await socket.prepare(request)
            await self._relay.run(granted, End(socket, transport, accounts))
        except ConnectionError:
            pass  # it is gone already
        finally:
            accounts.close()
            self._pipes.discard(transport)
        return socket

    def _address(self, request: web.BaseRequest) -> str:
        """The client's address: where a trusted proxy is it, what that says."""
        remote = request.remote or ""
        forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        try:
            trusted = any(ip_address(remote) in each for each in self._trusted)
            return str(ip_address(forwarded)) if trusted else remote
        except ValueError:
            return remote

    async def _serve(self, socket: Socket, transport: asyncio.Transport) -> None:
        connection = Connection(socket, transport, self._hub, self._limits)
        self._connections[transport] = connection
        try:
            await connection.run()
        finally:
            del self._connections[transport]

    def _drop_stranger(self, transport: asyncio.Transport) -> None:
        if transport not in self._connections and transport not in self._pipes:
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
