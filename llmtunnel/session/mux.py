"""A session: many streams over one channel. Drives `protocol.connection` and owns nothing of its rules.

Messages go down when the channel has room, and once per turn of the loop, so that what is written in one turn shares a
message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from .. import version
from ..config import Limits, Timeouts
from ..errors import (
    AuthenticationFailed,
    ChannelClosed,
    ErrorCode,
    PeerError,
    PeerLost,
    StreamReset,
    TooManyStreams,
    TunnelError,
    Unwelcome,
    VersionMismatch,
)
from ..protocol.connection import Connection
from ..protocol.events import (
    ConnectionEnded,
    DataReceived,
    EndReceived,
    Established,
    Event,
    RequestReceived,
    ResponseReceived,
    RestUnwanted,
    StreamEnded,
)
from ..protocol.handshake import Credentials
from ..protocol.heads import RequestHead, ResponseHead
from ..protocol.hello import ALL_FEATURES, Feature, Features
from ..protocol.keys import Ticket
from ..status import Path, Role
from ..transport.base import Channel
from .stream import Stream

logger = logging.getLogger(__name__)

AGENT = f"llmtunnel/{version.__version__}"
FAREWELL = "The peer stops."
NOT_PROVEN = (
    "It can be a mistyped code: compare it with the other side's. Where it is the same, somebody between you poses as"
    " the other side: use a signal server that you trust (--signal)."
)
Handler = Callable[[Stream], Awaitable[None]]


class Session:
    """What two peers keep over a channel. Use `start`, then `open` (proxy) or the handler (serve), then `aclose`."""

    def __init__(
        self,
        channel: Channel,
        role: Role,
        *,
        peer: str,
        handler: Handler | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        features: Features = ALL_FEATURES,
        credentials: Credentials | None = None,
    ) -> None:
        self.role = role
        self.peer = peer
        """The other side's short name."""
        self._channel = channel
        self._handler = handler
        self._limits = limits or Limits()
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(
            role,
            now=self._loop.time(),
            limits=self._limits,
            timeouts=timeouts,
            features=features,
            agent=AGENT,
            credentials=credentials,
        )
        self._streams: dict[int, Stream] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._slot = asyncio.Event()
        self._flush_handle: asyncio.Handle | None = None
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0  # uvloop's handle of a time that has come does not tell it
        self._established: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[TunnelError] = self._loop.create_future()

    @property
    def features(self) -> Features:
        """What both sides agreed on; empty before `start` has returned."""
        return self._connection.features

    @property
    def version(self) -> str:
        """``v1`` with an original peer, ``v2`` with one that agreed on more."""
        return "v2" if self.features - {Feature.SSE} else "v1"

    @property
    def authenticated(self) -> bool:
        """Whether both sides have proven that they hold the secret."""
        return Feature.AUTH in self.features

    @property
    def ticket(self) -> Ticket | None:
        """Proxy: what it comes back with, where it has proven itself."""
        return self._connection.ticket

    @property
    def path(self) -> Path:
        """How packets travel."""
        return self._channel.path

    @property
    def address(self) -> str:
        """The other end's, for people."""
        return self._channel.address

    @property
    def certificate(self) -> bytes:
        """SHA-256 of the one that the peer showed; empty where its channel has none."""
        return self._channel.binding.remote if self._channel.binding else b""

    @property
    def rtt(self) -> float | None:
        """The last ping's round trip, seconds."""
        return self._connection.rtt

    @property
    def active(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def error(self) -> TunnelError | None:
        """Why the session is over; None while it is not."""
        return self._ended.result() if self._ended.done() else None

    async def start(self) -> None:
        """Say hello, and prove to each other what is to be proven. Raises the `PeerError` that ends the session."""
        self._channel.attach(self)
        self._schedule_flush()
        self._arm()
        await self._established

    async def open(self, head: RequestHead, *, ended: bool = False) -> Stream:
        """Proxy: begin an exchange, when the peer takes one more; ``ended`` where the request has no body.

        Raises `PeerLost`, or `ProtocolError` of code TOO_LARGE.
        """
        while True:
            self._check()
            try:
                id = self._connection.open_stream(head, ended=ended)
                break
            except TooManyStreams:
                self._slot.clear()
                await self._slot.wait()
        stream = self._streams[id] = Stream(self, id, head)
        self._schedule_flush()
        return stream

    def suspect(self) -> None:
        """Somebody says that the peer is gone: find out within a second or so."""
        self._connection.suspect()
        self._arm()

    async def wait_ended(self) -> TunnelError:
        """Why the session ended, once it has."""
        return await asyncio.shield(self._ended)

    async def aclose(self, code: ErrorCode = ErrorCode.NO_ERROR, message: str = FAREWELL) -> None:
        """End all streams with an error on both sides, say why, and close the channel; idempotent."""
        self._connection.close(code, message)
        self._flush()
        self._end(PeerLost(message))
        await self._channel.aclose()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    # -- for streams

    def send_response(self, stream: int, head: ResponseHead) -> None:
        """See `Stream.send_response`."""
        self._connection.send_response(stream, head)
        self._schedule_flush()

    def send_data(self, stream: int, data: memoryview) -> int:
        """How many bytes were taken; the stream's writer is woken when more would be."""
        taken = self._connection.send_data(stream, data)
        self._schedule_flush()
        return taken

    def send_end(self, stream: int) -> None:
        """See `Stream.send_end`."""
        self._connection.send_end(stream)
        self._forget_if_finished(stream)
        self._schedule_flush()

    def reset(self, stream: int, code: ErrorCode, message: str) -> None:
        """See `Stream.reset`."""
        self._connection.reset(stream, code, message)
        self._forget_if_finished(stream)
        self._schedule_flush()

    def consumed(self, stream: int, size: int) -> None:
        """The application took body bytes: the peer may send more."""
        self._connection.consumed(stream, size)
        self._schedule_flush()

    # -- called by the channel

    def message_received(self, message: bytes) -> None:
        """See `transport.base.Receiver`."""
        self._dispatch(self._connection.receive_message(message, self._loop.time()))
        self._schedule_flush()

    def room_available(self) -> None:
        """See `transport.base.Receiver`."""
        self._flush()

    def channel_closed(self, reason: str) -> None:
        """See `transport.base.Receiver`."""
        self._end(PeerLost(f"The connection to the peer closed: {reason}"))

    # -- events

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            self._take(event)
        for event in events:
            # Not before the last: a reset behind the end, in one message, is for a stream that we still know.
            if isinstance(event, EndReceived):
                self._forget_if_finished(event.stream)

    def _take(self, event: Event) -> None:
        match event:
            case DataReceived(id, data):
                if stream := self._streams.get(id):
                    stream.rx_data(data)
            case EndReceived(id):
                if stream := self._streams.get(id):
                    stream.rx_end()
            case ResponseReceived(id, head):
                if stream := self._streams.get(id):
                    stream.rx_head(head)
            case RequestReceived(id, request):
                self._start_handler(id, request)
            case StreamEnded(id, code, message, remote):
                self._stream_ended(id, StreamReset(code, message, remote=remote))
            case RestUnwanted(id):
                self._stream_ended(id, StreamReset(ErrorCode.NO_ERROR, "The request's rest is not needed."))
            case Established():
                self._channel.trust()
                if not self._established.done():
                    self._established.set_result(None)
            case ConnectionEnded(code, message, remote):
                self._flush()
                self._end(_session_error(code, message, remote=remote))

    def _start_handler(self, id: int, request: RequestHead) -> None:
        assert self._handler is not None, "only serve receives requests"
        if len(self._tasks) >= 2 * self._limits.streams:
            # Handlers of streams that were reset are still cleaning up, and the peer resets faster than they can.
            self.reset(id, ErrorCode.REFUSED, "Too many requests at once.")
            return
        stream = self._streams[id] = Stream(self, id, request)
        task = self._loop.create_task(self._run_handler(self._handler, stream), name=f"{self.peer} stream {id}")
        self._tasks[id] = task
        task.add_done_callback(lambda _: self._tasks.pop(id, None))

    async def _run_handler(self, handler: Handler, stream: Stream) -> None:
        try:
            await handler(stream)
        except TunnelError as exc:
            logger.debug("stream %d of %s ended: %s", stream.id, self.peer, exc)
        except Exception:
            logger.exception("a defect while answering stream %d of %s", stream.id, self.peer)
        finally:
            stream.finish()

    def _stream_ended(self, id: int, error: StreamReset) -> None:
        stream = self._streams.pop(id, None)
        if stream is None:
            return
        if not error.remote:
            logger.warning("stream %d of %s broke the protocol: %s", id, self.peer, error)
        stream.rx_ended(error)
        if task := self._tasks.get(id):
            task.cancel()
        self._slot.set()

    def _forget_if_finished(self, id: int) -> None:
        if not self._connection.is_open(id):
            self._streams.pop(id, None)
            self._slot.set()

    def _check(self) -> None:
        if self._ended.done():
            raise self._ended.result()

    def _end(self, error: TunnelError) -> None:
        """The session is over, for whatever reason came first."""
        if self._ended.done():
            return
        if self._connection.was_guessed and isinstance(error, PeerLost):
            error = AuthenticationFailed(f"The other side has not proven itself: {error.message}", hint=NOT_PROVEN)
        self._ended.set_result(error)
        if not self._established.done():
            self._established.set_exception(error)
            self._established.exception()  # nobody may be waiting for it
        for stream in self._streams.values():
            stream.rx_ended(error)
        self._streams.clear()
        for task in self._tasks.values():
            task.cancel()
        self._slot.set()
        for handle in (self._timer, self._flush_handle):
            if handle is not None:
                handle.cancel()

    # -- the channel

    def _schedule_flush(self) -> None:
        if self._flush_handle is None and not self._ended.done():
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_handle = None
        try:
            while self._channel.has_room and (message := self._connection.message_to_send()) is not None:
                self._channel.send(message)
        except ChannelClosed as exc:
            self._end(PeerLost(f"The connection to the peer closed: {exc}"))
            return
        for id in self._connection.take_writable():
            if stream := self._streams.get(id):
                stream.wake_writer()
        self._arm()

    # -- the timer

    def _arm(self) -> None:
        """Keep one timer that fires at the connection's, or before it (it moves on with every message)."""
        when = self._connection.next_timer()
        if when is None or self._ended.done():
            return
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._dispatch(self._connection.handle_timer(self._loop.time()))
        self._schedule_flush()
        self._arm()

    def __repr__(self) -> str:
        state: Any = self.error or ("established" if self._established.done() else "starting")
        return f"<Session {self.role} with {self.peer}: {state}>"


def _session_error(code: ErrorCode, message: str, *, remote: bool) -> PeerError:
    # Whoever it is may write here what it likes: users must not take it for our own words.
    told = f"The other side says: {message}" if remote else message
    match code:
        case ErrorCode.VERSION:
            return VersionMismatch(told, hint="Install the same version of llmtunnel on both sides.")
        case ErrorCode.UNAUTHENTICATED:
            return AuthenticationFailed(told, hint=NOT_PROVEN)
        case ErrorCode.UNWELCOME:
            return Unwelcome(told, hint="Ask who runs serve for a new code.")
    return PeerLost(f"The session ended: {message}")
