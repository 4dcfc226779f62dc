"""The server: HTTP on an address, a WebSocket on any of its paths, and no more connections than the process can hold.

A connection is a stranger until it joins a room, or presents a ticket for a pipe, within `Limits.join` seconds. When
places run out, a newcomer replaces the oldest stranger. So idle connections keep nobody out.

Before it stops, a server drains (`SignalServer.drain`):

    1. /readyz turns to 503, and joins are refused. A load balancer notices, and sends newcomers elsewhere.
    2. Members are asked to join again, room by room. They do, elsewhere or here once the successor listens.
    3. Pipes go on. Proxies that know how move their sessions to new pipes; the others keep theirs until the time is up.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from ipaddress import ip_network
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
from aiohttp import web

from .access import Access
from .accounts import FORWARDED, PageBytes, Strangers, client_address, is_in, netloc, network
from .connection import SignalConnection, Socket
from .forward import FIELD, REACHED, Unreachable, any_has_redis, connect, proof, proven_address, splice
from .hub import Hub
from .ice import IceServers
from .limits import HEAD, Limits, Meter, pipe_cost, signalling_cost
from .logs import http_logger
from .messages import Refused
from .page_server import ask_of, send
from .pages import Pages
from .registry import Audience, Cluster, MemoryRegistry, Registry
from .relay import End, PipeSocket, Relay, offered_ticket, status
from .statistics import Statistics
from .tasks import first_of
from .tickets import node_of

if TYPE_CHECKING:
    from .cluster import RedisRegistry

logger = logging.getLogger(__name__)

GREETING: Final = "llmtunnel signal server\n"
THIS_MACHINE: Final = ("127.0.0.0/8", "::1/128")
BACKLOG: Final = 128
"""Connections that the system queues until they are accepted. Beyond them, a client waits for 1 s."""
SPARE: Final = 32
"""Open files of a process besides its connections; Python itself has about ten."""
EVICTED: Final = 16
"""Number of strangers to drop when the system has no file left for a newcomer."""
NOTICE: Final = 2.0
"""Maximum seconds for a load balancer to notice that this server drains, before members are asked to join again."""
MOVE: Final = 10.0
"""Maximum seconds in which members are asked to join elsewhere, while Redis is lost here."""
SURE: Final = 2.0
"""Minimum seconds between two questions to other instances whether they reach Redis: some attempts to reach it here."""
MOVED_PER_SECOND: Final = 100
"""Members to ask in a second, if that takes no more than a third of the time. Each return costs its new server a TLS
handshake in front, and a join."""


class State(Enum):
    """What a load balancer has to know."""

    STARTING = auto()
    READY = auto()
    CUT_OFF = auto()
    """Redis is lost here, and reached by other instances."""
    DRAINING = auto()


@dataclass(slots=True, eq=False)
class _Visitor:
    """A TCP connection."""

    transport: asyncio.Transport
    patience: asyncio.TimerHandle


class SignalServer:
    """A running signal server: ``async with SignalServer("127.0.0.1", 0) as server: server.url``.

    Port 0 takes a free port. `start` raises `OSError` if it cannot listen on the address. ``trusted_proxies`` are the
    networks of HTTP servers in front, whose ``X-Forwarded-For`` contains the client's address. ``ice``: the STUN and
    TURN servers to hand out to members. ``access``: who may join a room; None: everybody.
    ``forwarded_header``: field that is used instead of ``X-Forwarded-For``. ``pages``: the page for browsers, if the
    server has one.

    ``cluster``: how it shares its rooms with other instances. It needs the package redis, or raises `ImportError`.
    Raises `ValueError` for an invalid URL of Redis.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8787,
        *,
        limits: Limits | None = None,
        trusted_proxies: Iterable[str] = THIS_MACHINE,
        ice: IceServers | None = None,
        access: Access | None = None,
        forwarded_header: str = FORWARDED,
        log_addresses: bool = False,
        cluster: Cluster | None = None,
        pages: Pages | None = None,
    ) -> None:
        self._host, self._port = host, port
        files = open_files()
        limits = limits or Limits()
        self._at_once = max(4, min(BACKLOG, files // 32, limits.sockets // 40))
        """Connections that asyncio accepts in one turn, which it calls the backlog."""
        # Four times as many may be accepted before the first one of them has evicted another connection.
        self._limits = limits.within(files - SPARE - 4 * self._at_once, at_once=self._at_once)
        self._draining = False
        self._cut_off = False
        self.statistics = Statistics()
        """What it has counted."""
        self._cluster = cluster
        self.shared: RedisRegistry | None = None
        """The rooms, if they are shared with other instances."""
        node = cluster.node if cluster else ""
        self._hub = Hub(self._limits, self._make_registry, node=node, ice=ice, access=access, web=pages is not None)
        self._pages = pages
        self._page_bytes = PageBytes(self._limits)
        self._sharing: asyncio.Task[None] | None = None
        self._http: aiohttp.ClientSession | None = None
        """For pipes of other instances."""
        self._trusted = tuple(ip_network(each) for each in trusted_proxies)
        self._forwarded = forwarded_header
        self._log_addresses = log_addresses
        self.relay: Relay | None = None
        """The relay; None before `start`, or if the server offers none."""
        self._visitors: dict[_Handler, _Visitor] = {}
        """All open connections."""
        self._strangers: Strangers[_Handler] = Strangers()
        self._connections: set[SignalConnection] = set()
        self._pipes: set[_Handler] = set()
        """Ends of pipes that are here."""
        self._left = asyncio.Event()
        """Set when a client leaves."""
        self._passing: set[_Handler] = set()
        """Ends of pipes of other instances."""
        self._runner: web.ServerRunner | None = None
        self._server: asyncio.Server | None = None

    def _make_registry(self, limits: Limits, audience: Audience) -> Registry:
        if self._cluster is None:
            return MemoryRegistry(limits, audience)
        from .cluster import RedisRegistry  # needs a package that one instance alone does not

        self.shared = RedisRegistry(limits, audience, cluster=self._cluster)
        return self.shared

    @property
    def state(self) -> State:
        """Shown by ``/readyz``: 200 if it is ready, otherwise 503."""
        if self._draining:
            return State.DRAINING
        # While Redis is lost to all instances, they stay ready. Otherwise a load balancer would refuse everybody.
        if self._cut_off:
            return State.CUT_OFF
        started = self._server is not None and (self.shared is None or self.shared.started)
        return State.READY if started else State.STARTING

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None, "started"
        return f"ws://{netloc(*self._server.sockets[0].getsockname()[:2])}"

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._visitors)

    @property
    def members(self) -> int:
        """Number of members whose socket is here."""
        return len(self._hub)

    @property
    def rooms(self) -> int:
        """Number of rooms that one of them is in."""
        return len(self._hub.registry)

    async def start(self) -> None:
        """Start to listen."""
        if self._limits.relay is not None and self._hub.tickets is not None:
            self.relay = Relay(self._limits, self._limits.relay, self._hub, self._hub.tickets, self.statistics)
        if self.shared is not None:
            self._http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
            self._sharing = asyncio.create_task(self._share(self.shared, self._http), name="sharing rooms")
        door = _Door(self)
        self._runner = web.ServerRunner(door, shutdown_timeout=self._limits.close)
        await self._runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                door, self._host, self._port, backlog=self._at_once
            )
        except BaseException:
            await self.aclose()
            raise
        for each in self._server.sockets:
            with each.dup() as listener:
                listener.listen(BACKLOG)

    async def drain(self, seconds: float) -> None:
        """Refuse joins from now on, and ask all members to join again elsewhere.

        Returns when no member and no pipe is left, after ``seconds`` at the latest. Call `aclose` then.
        """
        self._draining = True
        self._hub.draining = True
        if self._occupied:
            members, pipes = self.members, len(self.relay) if self.relay else 0
            logger.info(
                "Draining: %d members are asked to join again, %d pipes go on for up to %g s", members, pipes, seconds
            )
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if self._occupied:
                    await asyncio.sleep(min(NOTICE, seconds / 10))
                    await self._move_members(seconds / 3)
                while self._occupied:
                    self._left.clear()
                    await self._left.wait()

    @property
    def _occupied(self) -> bool:
        return self.members + len(self._pipes) + len(self._passing) > 0

    def _room_of(self, connection: SignalConnection) -> str:
        member = self._hub.member(connection)
        return member.room if member else ""

    async def _move_members(self, most: float) -> None:
        """Ask everybody to join again, over at most this many seconds, so that they do not return at the same moment.

        Members of the same room are asked together, since each waits for the others elsewhere.
        """
        loop = asyncio.get_running_loop()
        due, everybody = loop.time(), sorted(self._connections, key=self._room_of)
        pause = min(1 / MOVED_PER_SECOND, most / max(1, len(everybody)))
        for connection in everybody:
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            connection.move()
            due += pause

    async def _share(self, shared: RedisRegistry, http: aiohttp.ClientSession) -> None:
        await first_of(shared.run(), self._watch_redis(shared, http))

    async def _watch_redis(self, shared: RedisRegistry, http: aiohttp.ClientSession) -> None:
        """While Redis is lost to this instance alone, ask its members to join at another one."""
        found = 0
        while True:
            await asyncio.sleep(max(shared.beat, SURE) if found else shared.beat)
            # Twice, since Redis may just have come back, and they were the first to notice.
            found = found + 1 if shared.long_lost and await any_has_redis(http, shared.others()) else 0
            if found == 2:
                logger.warning("Other instances reach Redis: members are asked to join there")
                self._cut_off = self._hub.draining = True
                await self._move_members(MOVE)
                await shared.reached.wait()
                self._cut_off, self._hub.draining, found = False, self._draining, 0

    async def aclose(self) -> None:
        """Stop listening, and close every socket. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        server, self._server = self._server, None
        try:
            if server is not None:
                server.close()
            if self.relay is not None:
                self.relay.stop()
            await self._finish(*(connection.aclose() for connection in self._connections))
        finally:
            await self._finish(runner.cleanup(), self._stop_sharing())

    async def _stop_sharing(self) -> None:
        if self._sharing is not None and self.shared is not None and self._http is not None:
            self._sharing.cancel()
            await asyncio.wait([self._sharing])
            await self.shared.aclose()
            await self._http.close()

    async def _finish(self, *work: Coroutine[Any, Any, object]) -> None:
        """Run steps of the shutdown in parallel. A step that fails or takes too long is logged, and delays nothing."""
        tasks = [asyncio.create_task(each, name="closing the server") for each in work]
        # Each waits at most twice for a client, for `Limits.close` s each time.
        for patience in (3 * self._limits.close, self._limits.close):
            if hanging := [task for task in tasks if not task.done()]:
                await asyncio.wait(hanging, timeout=patience)
            for task in hanging:
                if not task.done():
                    logger.error("%s has not ended after %g s", task.get_name(), patience)
                    task.cancel()
        for task in tasks:
            if task.done() and not task.cancelled() and (exc := task.exception()) is not None:
                logger.error("%s failed", task.get_name(), exc_info=exc)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def admit(self, handler: _Handler, transport: asyncio.Transport) -> None:
        """Add a connection. It is dropped unless it becomes a member in time."""
        patience = asyncio.get_running_loop().call_later(self._limits.join, self._drop, handler)
        self._visitors[handler] = _Visitor(transport, patience)
        self.statistics.connections += 1
        remote = (transport.get_extra_info("peername") or ("",))[0]
        # For a trusted proxy in front, the request will contain the client's address.
        of = None if is_in(remote, self._trusted) else network(remote)
        self._strangers.add(handler, of)
        self._keep_places(handler, of)

    def leave(self, handler: _Handler) -> None:
        """Remove a connection that has ended. Idempotent."""
        visitor = self._visitors.pop(handler, None)
        if visitor is not None:
            visitor.patience.cancel()
            self._strangers.remove(handler)

    def make_room(self) -> None:
        """Drop the oldest strangers, since the system has no file for a newcomer."""
        for _ in range(EVICTED):
            if (oldest := self._strangers.oldest()) is not None:
                self._drop(oldest)

    def _keep_places(self, newcomer: _Handler, of: str | None) -> None:
        """Drop a stranger if its network has too many, or if there are too many connections."""
        victim = None
        if self._strangers.count(of) > self._limits.strangers_each:
            victim = self._strangers.oldest(of, but=newcomer)
        elif len(self._visitors) > self._limits.sockets:
            victim = self._strangers.oldest(but=newcomer)
        if victim is not None:
            self._drop(victim)

    def _drop(self, handler: _Handler) -> None:
        visitor = self._visitors[handler]
        self.statistics.evicted += 1
        self.leave(handler)
        visitor.transport.abort()

    def _settle(self, handler: _Handler, joined: bool = True) -> None:
        """Record that a connection has a room or a pipe, or no longer has one, so that it can be evicted again."""
        visitor = self._visitors.get(handler)
        if visitor is None:
            return
        if joined:
            visitor.patience.cancel()
            self._strangers.remove(handler)
        else:
            self._strangers.add(handler, None)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer with a WebSocket if one is requested, otherwise with the page or a line of text."""
        handler, transport = request.protocol, request.transport
        assert isinstance(handler, _Handler), "as the door makes them"
        if transport is None:
            return _plain("")  # the client has disconnected
        address = self._address(request)
        of = network(address)
        self._strangers.place(handler, of)
        self._keep_places(handler, of)
        if self._pages is not None and self._pages.is_app(request.headers.get("Host", "")):
            return await self._answer_app(request, self._pages)
        if (ticket := offered_ticket(request)) is not None:
            return await self._answer_pipe(request, handler, transport, ticket)
        socket = Socket(self._limits, self.statistics)
        if not socket.can_prepare(request):
            return await self._answer_plain(request)
        settle = partial(self._settle, handler)
        remote = address if self._log_addresses else ""
        connection = SignalConnection(
            socket, transport, self._hub, self._limits, self.statistics, network=of, remote=remote, settle=settle
        )
        handler.measure(self._meter(signalling_cost), connection.flood)
        try:
            await socket.prepare(request)
        except ConnectionError:
            return _plain("")  # the client has disconnected, and the socket never became a WebSocket
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)
            self._left.set()
        return socket

    async def _answer_app(self, request: web.BaseRequest, pages: Pages) -> web.StreamResponse:
        """Answer at a host that belongs to a web app, which must reach neither rooms nor pipes."""
        if "Upgrade" in request.headers:
            return _plain("There are no WebSockets at this host.\n", status=403)
        return await self._answer_page(request, pages)

    async def _answer_page(self, request: web.BaseRequest, pages: Pages) -> web.StreamResponse:
        answer = pages.answer(ask_of(request, self._trusted))
        try:
            of, now = network(self._address(request)), asyncio.get_running_loop().time()
            await asyncio.sleep(self._page_bytes.charge(of, len(answer.body), now=now))
            return await send(request, answer)
        except Refused as refusal:
            self.statistics.refused[refusal.code] += 1
            return _plain(f"{refusal}\n", status=429)
        except ConnectionError:
            return _plain("")  # the client has disconnected

    async def _answer_plain(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path == "/healthz":
            return _plain("ok\n")
        if path == "/readyz":
            text = self.state.name.lower()
            if self.state is State.READY and self.shared is not None:
                text += REACHED if self.shared.reached.is_set() else ", redis is lost"
            return _plain(f"{text}\n", status=200 if self.state is State.READY else 503)
        return _plain(GREETING) if self._pages is None else await self._answer_page(request, self._pages)

    async def _answer_pipe(
        self, request: web.BaseRequest, handler: _Handler, transport: asyncio.Transport, ticket: str
    ) -> web.StreamResponse:
        socket = PipeSocket(self._limits)
        if self.relay is None or not socket.can_prepare(request):
            return _plain("no relay\n", status=403)
        address = self._address(request)
        if self.shared is not None:
            node = node_of(ticket)
            if node != self.shared.node:
                return await self._forward(request, handler, transport, ticket, node=node)
            if (value := request.headers.get(FIELD)) is not None:
                proven = proven_address(self.shared.key, node=node, ticket=ticket, value=value)
                if proven is None:
                    return _plain("no such instance\n", status=403)
                address = proven
        try:
            granted, opened = self.relay.admit(ticket, address=address)
        except Refused as refusal:
            self.statistics.refused[refusal.code] += 1
            if self._log_addresses:
                logger.info("Rejected a pipe from %s: %s", self._address(request), refusal.code)
            return _plain(f"{refusal}\n", status=status(refusal))
        end = End(socket, transport, opened)
        self._settle(handler)
        handler.measure(self._meter(pipe_cost), end.flood)
        self._pipes.add(handler)
        try:
            await socket.prepare(request)
        except ConnectionError:
            return _plain("")  # as above
        else:
            with suppress(ConnectionError):  # the client has disconnected
                await self.relay.run(granted, end)
            return socket
        finally:
            opened.close()
            self._pipes.discard(handler)
            self._left.set()

    async def _forward(
        self, request: web.BaseRequest, handler: _Handler, transport: asyncio.Transport, ticket: str, *, node: str
    ) -> web.StreamResponse:
        """Pass a pipe's end on to the instance that has the pipe."""
        assert self.shared is not None and self._http is not None, "as rooms are shared"
        relay = self._limits.relay
        at = None if FIELD in request.headers else await self.shared.address_of(node)
        if at is None:
            return _plain("no such instance\n", status=403)
        if relay is None or len(self._passing) >= 2 * relay.pipes:
            return _plain("the relay has no more pipes\n", status=503)
        socket = PipeSocket(self._limits)
        self._passing.add(handler)
        try:
            self._settle(handler)
            value = proof(self.shared.key, node=node, ticket=ticket, address=self._address(request))
            async with connect(self._http, at, ticket=ticket, value=value) as other:
                handler.measure(self._meter(pipe_cost), transport.abort)
                await socket.prepare(request)
                await splice(socket, transport, other, close=self._limits.close)
        except ConnectionError:
            return _plain("")  # the client has disconnected
        except Unreachable as exc:
            return _plain(f"{exc}\n", status=exc.status)
        finally:
            self._passing.discard(handler)
            self._left.set()
        return socket

    def _address(self, request: web.BaseRequest) -> str:
        """Return the client's address, as reported by a trusted proxy if there is one."""
        return client_address(request.remote or "", request.headers.getall(self._forwarded, ()), self._trusted)

    def _meter(self, cost: Callable[[int, int], int]) -> Meter:
        now = asyncio.get_running_loop().time()
        return Meter(cost, rate=self._limits.rate, burst=self._limits.burst, now=now)


def _plain(text: str, *, status: int = 200) -> web.Response:
    """Return a response that is not a WebSocket, and closes the connection, so that it does not occupy a place."""
    response = web.Response(text=text, status=status)
    response.force_close()
    return response


def open_files() -> int:
    """Return the maximum number of open files of this process."""
    try:
        import resource
    except ImportError:  # Windows, where sockets are not files
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


class _Handler(web.RequestHandler):
    """aiohttp's handler, but every byte is counted before it is parsed; aiohttp can only count messages."""

    def __init__(self, door: _Door) -> None:
        # Without lingering_time, a task would wait for a request's body for 10 s, even after the connection's end.
        options: dict[str, Any] = {"access_log": None, "logger": door.log, "lingering_time": 0}
        super().__init__(door, loop=asyncio.get_running_loop(), **options)
        self._head = HEAD
        self._meter: Meter | None = None
        self._flood: Callable[[], None] | None = None
        self._deaf = False

    def measure(self, meter: Meter, flood: Callable[[], None]) -> None:
        """Treat further bytes as frames of a WebSocket. ``flood`` is called if there are too many."""
        self._meter, self._flood = meter, flood

    def data_received(self, data: bytes) -> None:
        """Process bytes like aiohttp, except for excess ones."""
        if self._deaf:
            return
        if self._take(data):
            super().data_received(data)
            return
        self._deaf = True
        if self._flood is None:
            if self.transport is not None:
                self.transport.abort()
            return
        if self.transport is not None:
            self.transport.pause_reading()
        self._flood()

    def _take(self, data: bytes) -> bool:
        if self._meter is not None:
            return self._meter.take(data, now=asyncio.get_running_loop().time())
        self._head -= len(data)
        return self._head >= 0


class _Door(web.Server):
    """aiohttp's server, which alone sees connections that never send a request."""

    def __init__(self, server: SignalServer) -> None:
        super().__init__(server.answer)
        self.log = http_logger()
        self._signal_server = server

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a connection, like aiohttp."""
        return _Handler(self)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Handle a new connection, like aiohttp."""
        super().connection_made(handler, transport)
        assert isinstance(handler, _Handler), "as they are made here"
        self._signal_server.admit(handler, transport)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Handle a lost connection, like aiohttp."""
        super().connection_lost(handler, exc)
        assert isinstance(handler, _Handler), "as they are made here"
        self._signal_server.leave(handler)
