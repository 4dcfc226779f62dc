"""One request of a client: it is sent to the peer on a stream of its own, and answered.

    client                         exchange                           stream
    request's head            ->   Host moves, fields, upgrade   ->   session.open()
    body, as it arrives       ->   one task                      ->   send(), send_end()
    heads, body, end          <-   another task, with framing    <-   response(), receive()

The two directions do not wait for each other. In every case, an unfinished stream is reset. A client that has received
part of a response can always tell that it is incomplete.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol

from ..config import Timeouts
from ..errors import ErrorCode, PeerError, ProtocolError, StreamError, TunnelError
from ..protocol.heads import RequestHead, ResponseHead
from ..protocol.hello import Feature, Features
from ..session.mux import Session
from ..session.stream import Stream
from .client_connection import ClientConnection
from .duplex import beside
from .encoding import CONTINUE, ResponseEncoder, encode_response
from .guard import Verdict, readable
from .http1 import BadMessage, End, RequestEvent, RequestReader, end_to_end
from .keepalive import (
    COMMENT,
    HEAD,
    LONGEST_ERROR,
    Decoder,
    Warmer,
    asking_for_identity,
    error_event,
    is_event_stream,
    may_ask,
    unreadable,
)
from .ledger import Entry
from .responses import DEFECT, STOPPING, Failure, failure, standard_reason

CLIENT_LEFT: Final = "The client went away."


class SessionSource(Protocol):
    """Where exchanges get a session: a `Room`."""

    async def session(self, wait: float) -> Session:
        """Return a working session, after at most ``wait`` seconds. Raises `PeerNotFound`."""


class ClientBody:
    """The body of the request that a client is sending."""

    def __init__(self, client: ClientConnection, reader: RequestReader, events: Iterable[RequestEvent]) -> None:
        """``events``: events that arrived together with the head."""
        self._client = client
        self._reader = reader
        self._data = b""
        self.whole = False
        """Whether all of it has been read."""
        self._take(events)

    @property
    def begun(self) -> bool:
        """Whether part of it waits to be read."""
        return bool(self._data)

    async def read(self) -> bytes:
        """Return the bytes that have arrived, at least one, or ``b""`` at the end. Raises `BadMessage`."""
        while not (self._data or self.whole):
            data = await self._client.read()
            if not data:
                raise BadMessage(400, "its body broke off")
            self._take(self._reader.feed(data))
        taken, self._data = self._data, b""
        return taken

    async def discard(self, seconds: float) -> bool:
        """Read and discard the rest. Returns whether that was all, so that the connection can stay open."""
        with suppress(TimeoutError, BadMessage):
            async with asyncio.timeout(seconds):
                while await self.read():
                    pass
        return self.whole

    def _take(self, events: Iterable[RequestEvent]) -> None:
        for event in events:
            if isinstance(event, bytes):
                self._data += event
            elif isinstance(event, End):
                self.whole = True
                self._client.unread(self._reader.rest)


class Exchange:
    """One exchange. Call `run` once."""

    def __init__(
        self,
        client: ClientConnection,
        verdict: Verdict,
        body: ClientBody,
        entry: Entry,
        *,
        keepalive: float | None = None,
        bench: bool = False,
    ) -> None:
        """``keepalive``: seconds of silence after which a client that waits for events gets a comment.

        ``bench``: serve itself answers, see `RequestHead.bench`.
        """
        self._bench = bench
        self._client = client
        self._verdict = verdict
        request = self._request = verdict.request
        self._body = body
        self._entry = entry
        self._encoder = ResponseEncoder(request)
        warm = keepalive is not None and may_ask(request.head, request.host, verdict.cors)
        self._warmer = Warmer(keepalive) if warm and keepalive is not None else None
        self._refused_body: BadMessage | None = None
        self._stream: Stream | None = None
        self._features: Features = frozenset()

    async def run(self, sessions: SessionSource, timeouts: Timeouts) -> bool:
        """Run the whole exchange. Returns whether its connection may stay open. The client gets its failures.

        The rest of the request may still arrive later, since the response did not wait for it.
        """
        try:
            match self._verdict.answer:
                case None:
                    await self._carry(await sessions.session(timeouts.wait_for_peer))
                case Failure() as refusal:
                    self._fail(refusal)
                case answer:
                    self._answer(answer)
        except TunnelError as exc:
            self._fail(failure(self._refused_body or exc))
        except asyncio.CancelledError:
            self._cancelled()
            raise
        except Exception:
            self._fail(DEFECT)
            raise
        finally:
            if self._stream:
                self._stream.reset(ErrorCode.CANCELLED, self._entry.error or "The response is whole.")
        return self._encoder.keep_alive and not self._client.opaque

    def _answer(self, head: ResponseHead) -> None:
        """Answer instead of the peer, without a body."""
        self._client.write(self._encoder.head(head))
        self._entry.status = head.status

    # -- the request

    async def _carry(self, session: Session) -> None:
        self._features = session.features
        upgrade = self._request.upgrade and Feature.UPGRADE in self._features
        ended = self._request.length == 0 and not upgrade
        stream = await session.open(self._forwarded(upgrade), ended=ended, after=self._client.stream)
        self._stream = self._client.stream = stream
        self._entry.reached(stream.peer)
        self._entry.passed_on()
        if upgrade:
            await self._carry_upgrade(stream)
        elif self._request.length == 0:
            await self._respond(await self._final_head(stream), stream)
        else:
            async with beside(self._send_body(stream), "a request's body"):
                await self._respond(await self._awaited_head(stream), stream)

    def _forwarded(self, upgrade: bool) -> RequestHead:
        """Return the head for the peer. Host becomes the upstream's there, so the client's is in another field."""
        request = self._request
        dropped = {b"host"}
        if Feature.INTERIM not in self._features or request.version == b"1.0":
            dropped.add(b"expect")
        fields = [
            field for field in end_to_end(request.head.fields, upgrade=upgrade) if field[0].lower() not in dropped
        ]
        if self._warmer:
            fields = list(asking_for_identity(tuple(fields)))
        if request.host:
            fields.append((b"X-Forwarded-Host", request.host))  # after that of an outer proxy, as usual
        if request.length is None:
            fields.append((b"Transfer-Encoding", b"chunked"))  # indicates a body: README.md section 4
        return RequestHead(
            method=request.head.method,
            target=request.head.target,
            fields=tuple(fields),
            last=not request.keep_alive,
            bench=self._bench,
        )

    async def _send_body(self, stream: Stream) -> None:
        if self._request.expects_continue and Feature.INTERIM not in self._features and not self._body.begun:
            self._client.write(CONTINUE)
        try:
            await self._send_all(self._body.read, stream)
        except BadMessage as exc:
            self._refused_body = exc
            stream.reset(ErrorCode.CANCELLED, f"The request is not valid: {exc}.")

    async def _send_all(self, read: Callable[[], Awaitable[bytes]], stream: Stream) -> None:
        try:
            while data := await read():
                if self._warmer:
                    self._warmer.feed(data)
                await stream.send(data)
                self._entry.up(data)
            await stream.send_end()
        except (StreamError, PeerError):
            pass  # the task that reads the response reports it, or the rest is not needed

    # -- the response

    async def _awaited_head(self, stream: Stream) -> ResponseHead:
        if self._warmer is None:
            return await self._final_head(stream)
        return await self._warmer.wait(self._final_head(stream), self._keep_warm)

    @property
    def _is_warm(self) -> bool:
        """Whether the client has received an early head, which promises events."""
        return self._warmer is not None and self._warmer.begun

    def _keep_warm(self) -> bool:
        """Send a comment. Returns False if the client has not read the previous data."""
        if not self._client.writable:
            return False
        if not self._is_warm:
            self._client.write(self._encoder.head(readable(HEAD, self._verdict.cors)))
        self._client.write(self._encoder.data(COMMENT))
        return True

    async def _final_head(self, stream: Stream) -> ResponseHead:
        """Forward interim heads until the final one."""
        while (head := await stream.response()).interim:
            if self._request.version == b"1.1" and not self._is_warm:
                self._client.write(encode_response(replace(head, fields=end_to_end(head.fields))))
                await self._client.drain()
        if not head.reason and Feature.FIELDS not in self._features:  # v1 carries no reason
            head = replace(head, reason=standard_reason(head.status))
        return head

    async def _respond(self, head: ResponseHead, stream: Stream) -> None:
        if head.status == 101:
            raise ProtocolError("The other side switched protocols without being asked.")
        if self._request.expects_continue and not (self._body.begun or self._body.whole or self._entry.bytes_up):
            self._encoder.keep_alive = False  # the client decides whether it sends the body (RFC 9110, 10.1.1)
        if self._is_warm:
            await self._respond_warm(head, stream)
            return
        self._client.write(self._encoder.head(readable(head, self._verdict.cors)))
        self._entry.responded(head)
        while data := await stream.receive():
            self._entry.down(data)
            self._client.write(self._encoder.data(data))
            await self._client.drain()
        self._client.write(self._encoder.end())

    async def _respond_warm(self, head: ResponseHead, stream: Stream) -> None:
        """Continue with the promised events, or send an event that says what arrived instead."""
        self._entry.responded(head)
        decoder, goes_on = Decoder(head), is_event_stream(head)
        body = b""
        while data := await stream.receive():
            self._entry.down(data)
            if goes_on:
                for piece in decoder.decode(data):
                    self._client.write(self._encoder.data(piece))
                    await self._client.drain()
            elif not decoder.unknown:
                body = _begun(body, decoder.decode(data))
        if goes_on:
            self._client.write(self._encoder.end())
        elif decoder.unknown:
            self._end_by_event(head.status, unreadable(head.status, decoder.unknown))
        else:
            self._end_by_event(head.status, body)

    def _end_by_event(self, status: int, body: bytes) -> None:
        self._client.write(self._encoder.data(error_event(status, body)) + self._encoder.end())

    async def _carry_upgrade(self, stream: Stream) -> None:
        head = await self._final_head(stream)
        if head.status == 101:
            await self._switch(head, stream)
        else:
            with suppress(StreamError, PeerError):  # the rejection may be complete, and the rest is not needed
                await stream.send_end()
            await self._respond(head, stream)

    async def _switch(self, head: ResponseHead, stream: Stream) -> None:
        """After a 101, forward bytes in both directions, each until its own end."""
        self._client.opaque = True
        self._client.write(encode_response(replace(head, fields=end_to_end(head.fields, upgrade=True))))
        self._entry.responded(head)
        async with beside(self._send_all(self._client.read, stream), "an upgraded connection's way up") as up:
            while data := await stream.receive():
                self._entry.down(data)
                self._client.write(data)
                await self._client.drain()
            self._client.write_eof()
            await up

    # -- failures

    def _fail(self, told: Failure) -> None:
        """Report a failure to the client: with a response, or by breaking off a response that has begun."""
        self._entry.error = told.message
        if self._entry.status is None:
            head, body = told.response(None if self._is_warm else self._request.head)
            self._entry.status = head.status
            if self._is_warm:
                self._end_by_event(head.status, body)
                return
            encoder = self._encoder = ResponseEncoder(self._request)
            encoder.keep_alive = False
            self._client.write(encoder.head(readable(head, self._verdict.cors)))
            if self._request.head.method != b"HEAD":
                self._client.write(encoder.data(body))
            return
        self._encoder.keep_alive = False
        if self._encoder.until_close or self._client.opaque:
            self._client.abort()
        else:
            self._client.close()  # delivers what was written; its framing shows that it is incomplete

    def _cancelled(self) -> None:
        """Handle a client that has disconnected, or a proxy that stops."""
        if self._client.lost.is_set():
            self._entry.error = CLIENT_LEFT
        else:
            self._fail(STOPPING)


def _begun(body: bytes, pieces: Iterable[bytes]) -> bytes:
    """Return the body of an error with the pieces that have arrived, as far as it fits into an event."""
    for piece in pieces:
        if len(body) >= LONGEST_ERROR:
            break
        body += piece
    return body[:LONGEST_ERROR]
