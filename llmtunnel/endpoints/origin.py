"""The origin: puts each stream's request to the upstream, and the upstream's response on the stream, as both come.

    stream                     exchange                      upstream
    request's head        ->   Host, fields, framing    ->   a connection of the pool
    body, as it comes     ->   one task                 ->   written with back-pressure
    heads, body, end      <-   another                  <-   read with back-pressure

The two directions do not wait for each other. Cancelling `Origin.handle` closes the upstream's connection at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final

from ..config import Exposure, Limits, OnDisconnect, Timeouts
from ..errors import ErrorCode, ProtocolError, TunnelError, UpstreamBroken, UpstreamError, UpstreamUnreachable
from ..protocol.heads import ResponseHead
from ..protocol.hello import Feature
from ..session.stream import Stream
from ..status import UpstreamStatus
from ..transport.tasks import finish
from ..upstream import Upstream
from .admission import Admission, Refused
from .drains import Drains
from .duplex import beside
from .forwarding import (
    Forwarding,
    RequestBody,
    advertised,
    repeatable,
    request_body,
    response_events,
    wants_upgrade,
)
from .http1 import END, ResponseEvent, ResponseReader
from .ledger import Entry, Ledger
from .pool import UpstreamPool
from .responses import Failure
from .upstream_connection import UpstreamConnection
from .watch import UpstreamWatch

GIVEN_UP: Final = "The other side cancelled the request."


class Origin:
    """Serve's HTTP client: `handle` is a session's handler."""

    def __init__(
        self,
        upstream: Upstream,
        *,
        advertise: str = "/",
        exposure: Exposure | None = None,
        admission: Admission | None = None,
        clock: Callable[[], float] = time.monotonic,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        ledger: Ledger | None = None,
        on_upstream: Callable[[UpstreamStatus], None] = lambda status: None,
    ) -> None:
        """``advertise``: a prefix taken off paths that begin with it. ``clock``: of limits per minute, in seconds.

        ``admission``: what counts each peer's requests, where not this origin's alone.

        ``on_upstream`` is called with what the watch sees, where that changes.
        Raises `SettingError`.
        """
        exposure = exposure or Exposure()
        self._admission = admission or Admission(exposure, clock=clock)
        self._drains = Drains(active=exposure.on_disconnect == OnDisconnect.DRAIN)
        self._forwarding = Forwarding(upstream=upstream, advertise=advertised(advertise))
        self._limits = limits or Limits()
        self._pool = UpstreamPool(upstream, timeouts=timeouts or Timeouts(), limits=self._limits)
        self._ledger = ledger or Ledger()
        self.watch = UpstreamWatch(self._pool, self._forwarding, limits=self._limits, on_change=on_upstream)
        """To be started by whoever wants to know of the upstream."""

    async def handle(self, stream: Stream) -> None:
        """Answer one stream. Raises `StreamReset` or `PeerLost` where it ends early; all else is told to the client."""
        entry = self._ledger.begin(stream.request)
        entry.reached(stream.peer)
        try:
            await _Exchange(
                stream, entry, self._pool, self._forwarding, self._admission, self._drains, self._limits
            ).run()
        except asyncio.CancelledError:
            entry.error = GIVEN_UP
            raise
        except Exception as exc:
            entry.error = str(exc)
            raise
        finally:
            self._ledger.end(entry)
            if entry.status == 502:
                self.watch.doubt()

    async def aclose(self) -> None:
        """Stop watching the upstream, and close every connection to it."""
        await finish(self.watch.aclose, self._drains.aclose, self._pool.aclose)


class _StaleConnection(Exception):
    """A kept connection had died; the request can be put on another."""


class _Exchange:
    """One request and its response."""

    def __init__(
        self,
        stream: Stream,
        entry: Entry,
        pool: UpstreamPool,
        forwarding: Forwarding,
        admission: Admission,
        drains: Drains,
        limits: Limits,
    ) -> None:
        self._stream = stream
        self._request = stream.request
        """As it is passed on."""
        self._entry = entry
        self._pool = pool
        self._forwarding = forwarding
        self._admission = admission
        self._drains = drains
        self._held = ExitStack()
        """What is held of the proxy's limits until the upstream has nothing more to do."""
        self._events: Iterator[ResponseEvent] = iter(())
        """What the upstream's last bytes have still to tell."""
        self._is_sent = False
        """The request is whole at the upstream."""
        self._limits = limits

    async def run(self) -> None:
        """The whole exchange, whose failures the client hears of."""
        try:
            self._request = self._admission.check(self._stream.request, self._forwarding.target(self._stream.request))
            with self._held:
                self._held.enter_context(self._admission.admitted(self._stream.peer))
                await self._forward()
        except Refused as exc:
            await self._fail(exc, exc.told, ErrorCode.CANCELLED)
        except UpstreamError as exc:
            await self._fail(exc, _bad_gateway(exc), ErrorCode.UPSTREAM)
        except ProtocolError as exc:
            self._entry.error = exc.message
            self._stream.reset(exc.code, exc.message)

    # -- the request

    async def _forward(self) -> None:
        request, features = self._request, self._stream.features
        body, first = await self._body()
        self._admission.check_length(body.length)
        upgrade = wants_upgrade(request, features) and body.whole
        # Only such a request goes on a connection that was used before, or leaves it to the client's next one.
        shares = repeatable(request, body)
        close = not upgrade and (not shares or self._stream.client.left)
        head = self._forwarding.request(request, features, chunked=body.chunked, upgrade=upgrade, close=close)
        try:
            await self._exchange(head, body, first, upgrade=upgrade, shares=shares)
        except _StaleConnection:
            await self._exchange(head, body, first, upgrade=upgrade, shares=shares, fresh=True)

    async def _body(self) -> tuple[RequestBody, bytes]:
        """The request's body, and what had to be read of it to know that there is one."""
        body = request_body(self._stream.request, self._stream.features)
        if body is not None:
            return body, b""
        first = await self._stream.receive()
        return RequestBody(None if first else 0), first

    async def _exchange(
        self, head: bytes, body: RequestBody, first: bytes, *, upgrade: bool, shares: bool, fresh: bool = False
    ) -> None:
        connection = await self._pool.acquire(self._stream.client, fresh=fresh or not shares)
        reader = ResponseReader(self._stream.request.method, upgrade=upgrade, limits=self._limits)
        try:
            connection.write_now(head)
            self._entry.passed_on()
            self._is_sent = body.whole
            if body.whole:
                await self._answer(connection, reader)
            else:
                async with beside(self._send_body(connection, body, first), f"body of {self._stream.id}"):
                    await self._answer(connection, reader)
            if self._entry.status == 101:
                await self._pipe(connection, reader.rest)
        except asyncio.CancelledError:
            piped = self._entry.status == 101
            if piped or not (self._is_sent and self._drains.take(connection, reader, self._events, self._held)):
                connection.abort()
            raise
        except BaseException:
            connection.abort()
            raise
        if shares and reader.keep_alive:
            self._pool.release(connection, self._stream.client)
        else:
            connection.abort()

    async def _send_body(self, connection: UpstreamConnection, body: RequestBody, data: bytes) -> None:
        """Pass the request's body on. What goes wrong here is told by the task that reads from the connection."""
        try:
            while data := data or await self._stream.receive():
                self._entry.up(data)
                self._admission.check_length(self._entry.bytes_up)
                await connection.write(body.encode(data))
                data = b""
            await connection.write(body.end())
            self._is_sent = True
        except UpstreamError:
            pass  # it may have answered before it broke off
        except TunnelError as exc:
            connection.abort(exc)

    # -- the response

    async def _answer(self, connection: UpstreamConnection, reader: ResponseReader) -> None:
        """Pass on all heads, the body and its end; for a 101 the head alone."""
        data = await self._first(connection)
        while True:
            self._events = response_events(reader, data)
            for event in self._events:
                await self._pass_on(event)
                if event is END or self._entry.status == 101:
                    return
            data = await connection.read()

    async def _first(self, connection: UpstreamConnection) -> bytes:
        """The first bytes that the upstream says. Raises `_StaleConnection` where a kept one says none.

        On a kept connection there are only requests that may be sent again.
        """
        try:
            data = await connection.read()
        except UpstreamBroken as exc:
            if connection.reused:
                raise _StaleConnection from exc
            raise
        if connection.reused and not data:
            raise _StaleConnection
        return data

    async def _pass_on(self, event: ResponseEvent) -> None:
        if isinstance(event, bytes):
            self._entry.down(event)
            await self._stream.send(event)
        elif isinstance(event, ResponseHead):
            await self._send_head(event)
        else:
            await self._stream.send_end()

    async def _send_head(self, head: ResponseHead) -> None:
        if head.interim and Feature.INTERIM not in self._stream.features:
            return
        try:
            await self._stream.send_response(self._forwarding.response(head, self._stream.request))
        except ProtocolError as exc:
            raise UpstreamBroken("The header of the model server's response is too large for the tunnel.") from exc
        if not head.interim:
            self._entry.responded(head)

    async def _pipe(self, connection: UpstreamConnection, data: bytes) -> None:
        """After a 101: bytes both ways, each direction until its own end."""
        async with beside(self._pipe_up(connection), f"pipe of {self._stream.id}") as up:
            while data := data or await connection.read():
                await self._pass_on(data)
                data = b""
            await self._stream.send_end()
            await up

    async def _pipe_up(self, connection: UpstreamConnection) -> None:
        try:
            while data := await self._stream.receive():
                self._entry.up(data)
                await connection.write(data)
            connection.end()
        except UpstreamError:
            pass  # it may have said something before it broke off: whoever reads from it tells
        except TunnelError as exc:
            connection.abort(exc)
            raise

    # -- failures

    async def _fail(self, exc: TunnelError, told: Failure, code: ErrorCode) -> None:
        """Tell the client: with a response where there is none yet, by breaking it off where there is."""
        self._entry.error = exc.message
        if self._entry.status is not None:
            self._stream.reset(code, exc.message)
            return
        head, body = told.response(self._stream.request)
        await self._send_head(head)
        if self._stream.request.method != b"HEAD":
            await self._pass_on(body)
        await self._stream.send_end()


def _bad_gateway(exc: UpstreamError) -> Failure:
    """What the client reads: it can change nothing about the model server, and need not know where that is."""
    if not isinstance(exc, UpstreamUnreachable):
        message = f"{exc.message} Ask whoever runs serve to look at the model server's log."
        return Failure(status=502, code="upstream_broken", message=message)
    message = "Serve cannot reach the model server behind it. Ask whoever runs serve: there, serve says why."
    if exc.ours:
        message = f"Serve cannot connect to the model server: {exc.ours}. Ask whoever runs serve."
    elif exc.absent:
        message = "The model server behind serve is not running. Ask whoever runs serve to start it."
    return Failure(status=502, code="upstream_unreachable", message=message)
