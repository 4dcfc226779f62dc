"""The origin: sends each stream's request to the upstream, and streams the upstream's response back.

    stream                     exchange                      upstream
    request's head        ->   Host, fields, framing    ->   a connection of the pool
    body, as it arrives   ->   one task                 ->   written with back-pressure
    heads, body, end      <-   another task             <-   read with back-pressure

The two directions do not wait for each other. Cancelling `Origin.handle` closes the upstream connection at once.
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
    """Serve's HTTP client. `handle` is the handler of a session."""

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
        """``advertise``: prefix to remove from paths. ``clock``: seconds, for the limits per minute.

        ``admission`` counts each peer's requests; by default, this origin has its own.

        ``on_upstream`` is called with the watch's result each time it changes. Raises `SettingError`.
        """
        exposure = exposure or Exposure()
        self._admission = admission or Admission(exposure, clock=clock)
        self._drains = Drains(active=exposure.on_disconnect == OnDisconnect.DRAIN)
        self._forwarding = Forwarding(upstream=upstream, advertise=advertised(advertise))
        self._limits = limits or Limits()
        self._pool = UpstreamPool(upstream, timeouts=timeouts or Timeouts(), limits=self._limits)
        self._ledger = ledger or Ledger()
        self.watch = UpstreamWatch(self._pool, self._forwarding, limits=self._limits, on_change=on_upstream)
        """Checks of the upstream; the caller starts them if it needs them."""

    async def handle(self, stream: Stream) -> None:
        """Answer one stream. Raises `StreamReset` or `PeerLost` if it ends early; the client gets all other errors."""
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
    """A kept connection was dead; the request can be sent on another one."""


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
        """The request as it is forwarded."""
        self._entry = entry
        self._pool = pool
        self._forwarding = forwarding
        self._admission = admission
        self._drains = drains
        self._held = ExitStack()
        """The proxy's share of the limits, held until the upstream has finished."""
        self._events: Iterator[ResponseEvent] = iter(())
        """Events in the upstream's last bytes that are not processed yet."""
        self._is_sent = False
        """Whether the whole request has been sent to the upstream."""
        self._limits = limits

    async def run(self) -> None:
        """Run the whole exchange. The client gets its failures."""
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
        # Only such a request may use a kept connection, or keep its connection for the client's next one.
        shares = repeatable(request, body)
        close = not upgrade and (not shares or self._stream.client.left)
        head = self._forwarding.request(request, features, chunked=body.chunked, upgrade=upgrade, close=close)
        try:
            await self._exchange(head, body, first, upgrade=upgrade, shares=shares)
        except _StaleConnection:
            await self._exchange(head, body, first, upgrade=upgrade, shares=shares, fresh=True)

    async def _body(self) -> tuple[RequestBody, bytes]:
        """Return the request's body, and the bytes that had to be read to find out whether there is one."""
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
        """Forward the request's body. The task that reads from the connection reports failures."""
        try:
            while data := data or await self._stream.receive():
                self._entry.up(data)
                self._admission.check_length(self._entry.bytes_up)
                await connection.write(body.encode(data))
                data = b""
            await connection.write(body.end())
            self._is_sent = True
        except UpstreamError:
            pass  # the upstream may have answered before it broke off
        except TunnelError as exc:
            connection.abort(exc)

    # -- the response

    async def _answer(self, connection: UpstreamConnection, reader: ResponseReader) -> None:
        """Forward all heads, the body and its end; for a 101, only the head."""
        data = await self._first(connection)
        while True:
            self._events = response_events(reader, data)
            for event in self._events:
                await self._pass_on(event)
                if event is END or self._entry.status == 101:
                    return
            data = await connection.read()

    async def _first(self, connection: UpstreamConnection) -> bytes:
        """Return the upstream's first bytes. Raises `_StaleConnection` if a kept connection returns none.

        A kept connection only gets requests that may be sent again.
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
        """After a 101, forward bytes in both directions, each until its own end."""
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
            pass  # the upstream may have sent data before it broke off; the reading task reports that
        except TunnelError as exc:
            connection.abort(exc)
            raise

    # -- failures

    async def _fail(self, exc: TunnelError, told: Failure, code: ErrorCode) -> None:
        """Report a failure to the client: with a response, or by breaking off a response that has begun."""
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
    """Return what the client sees. It cannot change the model server, and need not know its address."""
    if not isinstance(exc, UpstreamUnreachable):
        message = f"{exc.message} Ask the person who runs serve to look at the model server's log."
        return Failure(status=502, code="upstream_broken", message=message)
    message = "Serve cannot reach the model server behind it. Ask the person who runs serve: its output says why."
    if exc.ours:
        message = f"Serve cannot connect to the model server: {exc.ours}. Ask the person who runs serve."
    elif exc.absent:
        message = "The model server behind serve is not running. Ask the person who runs serve to start it."
    return Failure(status=502, code="upstream_unreachable", message=message)
