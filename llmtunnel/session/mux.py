"""A session: many streams, over one channel after the other. It drives `protocol.connection`, which has all the rules.

Messages are sent when the channel has room, and once per turn of the loop. So everything written in one turn shares a
message. If the channel falls silent or closes, streams wait for at most ``resume_for`` seconds: until the channel
speaks again, or another one replaces it (`Session.resume`). They also wait on a channel that only introduces the peers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final, Protocol
from weakref import WeakValueDictionary

from ..config import Limits, Timeouts
from ..errors import ChannelClosed, ErrorCode, PeerLost, ProtocolError, StreamReset, TooManyStreams, TunnelError
from ..paths import Path
from ..protocol.connection import Connection
from ..protocol.events import (
    ClientClosed,
    ConnectionEnded,
    DataReceived,
    EndReceived,
    Event,
    PeerSilent,
    RequestReceived,
    ResponseReceived,
    RestUnwanted,
    StreamEnded,
    Told,
)
from ..protocol.frames import FrameType
from ..protocol.handshake import Agreement
from ..protocol.heads import RequestHead, ResponseHead
from ..protocol.hello import Feature, Features
from ..protocol.keys import Ticket
from ..protocol.line import Line
from ..protocol.window import Budget
from ..status import Role
from ..transport.alarm import Alarm
from ..transport.tasks import finish
from .carrier import FAREWELL, Carrier, session_error
from .handlers import Handler, Handlers
from .life import Change, Life, Resumed, State
from .stream import Client, Stream

logger = logging.getLogger(__name__)

SETTLE: Final = 1.0
"""Seconds that an orderly end waits for what is under way. The channel below waits as long."""


class Owner(Protocol):
    """The owner of a session, which learns what happens to it. Neither call may raise or block."""

    def session_changed(self, session: Session, change: Change) -> None:
        """Note that streams wait from now on, or continue."""

    def session_ended(self, session: Session, error: TunnelError) -> None:
        """Note that the session has ended. This is the last call, and happens once."""


class Session:
    """What two peers share over their channels. Use `open` (proxy) or the handler (serve), then `aclose`."""

    def __init__(
        self,
        role: Role,
        agreement: Agreement,
        carrier: Carrier,
        *,
        peer: str,
        handler: Handler | None = None,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
        resume_for: float = 0.0,
        owner: Owner | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.role = role
        self.peer = peer
        """The short name of the other side."""
        self.ticket: Ticket | None = agreement.ticket
        """Proxy: the ticket with which it comes back, if it has proven itself."""
        self.id = agreement.session
        self.certificate = agreement.certificate
        """What identifies the peer, as in `Agreement`; empty if nothing does."""
        self.agent = agreement.agent
        """What the peer says that it is, for people."""
        self.detail = ""
        """Why the session is not on a better path, for people; empty if it is on the best one possible."""
        self._addresses_came: Callable[[tuple[str, ...]], None] = lambda addresses: None
        self._carrier = carrier
        self._owner = owner
        self._resumes = resume_for > 0
        self._limits = limits or Limits()
        self.budget = budget or Budget(self._limits.held)
        """Limits what its streams may hold for the peer."""
        self._timeouts = timeouts or Timeouts()
        self._handlers = Handlers(handler, most=2 * self._limits.streams)
        self._loop = asyncio.get_running_loop()
        self._connection = Connection(
            role, agreement, now=self._loop.time(), limits=self._limits, timeouts=self._timeouts
        )
        introduces = self._introduces(agreement)
        self._life = Life(now=self._loop.time(), resume_for=resume_for, introduces=introduces)
        self.line.hold(introduces)
        self._streams: dict[int, Stream] = {}
        self._clients: WeakValueDictionary[int, Client] = WeakValueDictionary()
        """Serve: by the id of their first stream. A client is remembered while it has a stream, or while an upstream
        connection is kept for it. So the limits of those also bound this dictionary, whatever a peer does."""
        self._queue: deque[asyncio.Future[None]] = deque()
        """Requests that wait until the peer accepts one more stream."""
        self._flush_handle: asyncio.Handle | None = None
        self._alarm = Alarm(self._next_timer, self._on_timer)
        self._ended: asyncio.Future[TunnelError] = self._loop.create_future()
        self._heard = asyncio.Event()
        """Set with each message, and at the end; `_settle` waits for it."""
        carrier.carry(self)
        self.line.outbox.split(self._split(carrier))
        self._alarm.set()
        self.line.measure(self._loop.time())
        self._schedule_flush()

    @property
    def features(self) -> Features:
        """The features that both sides agreed on."""
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
    def path(self) -> Path:
        """How packets travel."""
        return self._carrier.channel.path

    @property
    def address(self) -> str:
        """The other end's address, for people."""
        return self._carrier.channel.address

    @property
    def passed(self) -> tuple[int, int] | None:
        """See `Channel.passed`, of the channel that carries it now."""
        return self._carrier.channel.passed

    @property
    def rtt(self) -> float | None:
        """The round trip of the last ping, in seconds."""
        return self.line.rtt

    @property
    def active(self) -> int:
        """The number of open streams."""
        return len(self._streams)

    @property
    def error(self) -> TunnelError | None:
        """Why the session has ended, or None while it has not."""
        return self._ended.result() if self._ended.done() else None

    @property
    def suspended(self) -> bool:
        """Whether the session has no working channel and waits for one."""
        return self._life.waits

    @property
    def introduced(self) -> bool:
        """Whether the session's channel only introduces the peers, since only local TCP may carry streams."""
        return self._life.state is State.INTRODUCED

    @property
    def has_stood(self) -> bool:
        """Whether a channel has ever carried the session."""
        return self._life.has_stood

    @property
    def line(self) -> Line:
        """The session's frames in order. The greeting on the next channel asks it what to resume."""
        return self._connection.line

    def resume(self, agreement: Agreement, carrier: Carrier) -> None:
        """Continue over another channel, as agreed. The session ignores the old channel, and its owner closes that."""
        last, self._carrier = self._carrier, carrier
        last.leave("The session continues over another connection.")
        carrier.carry(self)
        introduces = self._introduces(agreement)
        self.line.hold(introduces)
        change = self._life.moved(self._loop.time(), introduces=introduces, last_heard=self.line.last_heard)
        try:
            self.line.resume(agreement, self._loop.time(), pipes=self._split(carrier))
        except ProtocolError as exc:
            self._abandon(exc.code, exc.message)
            return
        self.line.measure(self._loop.time())
        self._flush()
        self._tell(change)

    async def open(self, head: RequestHead, *, ended: bool = False, after: Stream | None = None) -> Stream:
        """Proxy: begin an exchange, once the peer accepts one more. ``ended``: the request has no body.

        ``after`` is the stream of the previous request on the same client connection, on whatever session. Raises
        `PeerLost`, `TooManyStreams` if the peer accepts none in time, or `ProtocolError` of code TOO_LARGE.
        """
        if after is not None and after.session is self:
            head = replace(head, client=after.client_id)
        try:
            async with asyncio.timeout(self._timeouts.stream):
                id = await self._open_stream(head, ended)
        except TimeoutError as exc:
            raise TooManyStreams(
                f"The other side already works on {self.active} requests of this proxy, its limit. None of them ended"
                f" within {self._timeouts.stream:g} s.",
                hint="Send fewer requests at once, or send this one again later.",
            ) from exc
        stream = self._streams[id] = Stream(self, id, head)
        self._schedule_flush()
        return stream

    async def _open_stream(self, head: RequestHead, ended: bool) -> int:
        """Return the new stream's number, once the peer accepts it. Requests proceed in the order of their arrival."""
        self._check()
        if not self._queue:
            with suppress(TooManyStreams):
                return self._connection.open_stream(head, ended=ended)
        turn = self._loop.create_future()
        self._queue.append(turn)
        try:
            while True:
                await turn
                self._check()
                with suppress(TooManyStreams):
                    return self._connection.open_stream(head, ended=ended)
                turn = self._queue[0] = self._loop.create_future()
        finally:
            self._queue.remove(turn)
            self._slot_is_free()

    def _slot_is_free(self) -> None:
        """Let the first request in the queue try again: a stream has ended, or the queue is shorter."""
        if self._queue and not self._queue[0].done():
            self._queue[0].set_result(None)

    def tell_addresses(self, addresses: tuple[str, ...]) -> None:
        """Serve: announce where it listens for this peer. Call this only if `Feature.PATH` is agreed on."""
        self._connection.tell(FrameType.PATH, addresses)
        self._schedule_flush()

    def close_client(self, client: int) -> None:
        """See `StreamOwner`."""
        self._connection.close_client(client)
        self._schedule_flush()

    def hear_addresses(self, came: Callable[[tuple[str, ...]], None]) -> None:
        """Proxy: call ``came`` whenever serve announces where it listens for us. The addresses may be any text."""
        self._addresses_came = came

    def explain(self, detail: str) -> None:
        """Record why the session is not on a better path."""
        self.detail = detail

    def measure(self) -> None:
        """Ask for the round trip now: `rtt` is another one once the answer has come."""
        self.line.measure(self._loop.time())
        self._schedule_flush()

    def suspect(self, *, gone: bool = False) -> None:
        """Find out within about a second whether the peer has left, as reported. ``gone``: its process has ended."""
        if gone:
            self._life.said_gone(self._loop.time())
        self.line.suspect()
        self._alarm.set()

    def reassure(self) -> None:
        """Note a report that the peer's process is running."""
        self._life.said_there()

    def miss(self, reason: str) -> None:
        """Proxy: note that local TCP has failed. If nothing else may carry the session, end it, unless streams wait."""
        if self.introduced and not self._streams:
            hint = "Are both machines on one network or VPN? --path auto also tries all other paths."
            self._abandon(ErrorCode.INTERNAL, reason, PeerLost(reason, hint=hint))

    async def aclose(self, code: ErrorCode = ErrorCode.NO_ERROR, message: str = FAREWELL) -> None:
        """End all streams with an error on both sides, send the reason, and close the channel. Idempotent."""
        await finish(
            self._settle,
            partial(self._connection.close, code, message),
            self._flush,
            partial(self._end, PeerLost(message)),
            self._carrier.aclose,
            self._handlers.wait,
        )

    async def _settle(self) -> None:
        """Wait a moment until the peer has what was sent. Our last message could overtake it on another lane."""
        sent = self.line.sent
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE):
                while (
                    self._life.state is State.STANDING and self.line.outbox.pipes > 1 and not self.line.confirms(sent)
                ):
                    self._flush()
                    self._heard.clear()
                    await self._heard.wait()

    # -- for streams

    def send_response(self, stream: int, head: ResponseHead) -> None:
        """See `StreamOwner`."""
        self._connection.send_response(stream, head)
        self._schedule_flush()

    def takes_head(self, stream: int) -> bool:
        """See `StreamOwner`."""
        return self._connection.takes_head(stream)

    def send_data(self, stream: int, data: memoryview) -> int:
        """See `StreamOwner`."""
        taken = self._connection.send_data(stream, data)
        self._schedule_flush()
        return taken

    def send_end(self, stream: int) -> None:
        """See `StreamOwner`."""
        self._connection.send_end(stream)
        self._forget_if_finished(stream)
        self._schedule_flush()

    def reset(self, stream: int, code: ErrorCode, message: str) -> None:
        """See `StreamOwner`."""
        self._connection.reset(stream, code, message)
        self._forget_if_finished(stream)
        self._schedule_flush()

    def consumed(self, stream: int, size: int) -> None:
        """See `StreamOwner`."""
        self._connection.consumed(stream, size)
        self._schedule_flush()

    # -- called by the carrier

    def message_received(self, message: bytes) -> None:
        """See `transport.base.Receiver`."""
        now = self._loop.time()
        slept = self._has_slept(now)
        change = self._life.heard(now, last_heard=self.line.last_heard)
        if change is None and slept and self._life.state is State.STANDING:
            change = Resumed(self._life.silence(now, self.line.last_heard), first=False)
        self._tell(change)
        self._dispatch(self._connection.receive_message(message, now))
        self._heard.set()
        self._schedule_flush()

    def room_available(self) -> None:
        """See `transport.base.Receiver`."""
        self._flush()

    def channel_closed(self, reason: str) -> None:
        """See `transport.base.Receiver`."""
        reason = f"The connection to the peer closed: {reason}"
        if self.line.resumable and self._resumes:
            self.line.suspend()
            self._lose(reason)
        else:
            self._end(PeerLost(reason))

    # -- events

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            self._take(event)
        for event in events:
            # Only after the last event: a reset that follows the end in one message is for a stream that we still know.
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
                self._answer(id, request)
            case StreamEnded(id, code, message, remote):
                self._stream_ended(id, StreamReset(code, message, remote=remote))
            case RestUnwanted(id):
                self._stream_ended(id, StreamReset(ErrorCode.NO_ERROR, "The request's rest is not needed."))
            case ClientClosed(id):
                if client := self._clients.pop(id, None):
                    client.leave()
            case Told(FrameType.PATH, addresses):
                self._addresses_came(addresses)
            case PeerSilent():
                self._lose("The peer is silent.")
            case ConnectionEnded(code, message, remote):
                self._flush()
                self._end(session_error(code, message, remote=remote, role=self.role))

    def _answer(self, id: int, request: RequestHead) -> None:
        if self._handlers.full:  # the peer resets streams faster than handlers clean up
            self.reset(id, ErrorCode.REFUSED, "Too many requests at once.")
            return
        stream = Stream(self, id, request, client=self._client_of(id, request))
        if not stream.admit():
            self.reset(id, ErrorCode.REFUSED, "Too much waits for this proxy, or of it, at serve.")
            return
        self._streams[id] = stream
        self._handlers.start(stream)

    def _client_of(self, id: int, request: RequestHead) -> Client:
        if Feature.CLIENT not in self.features:
            return Client(left=True)
        client = self._clients.setdefault(request.client or id, Client())
        client.left = client.left or request.last
        return client

    def _stream_ended(self, id: int, error: StreamReset) -> None:
        stream = self._streams.pop(id, None)
        if stream is None:
            return
        if not error.remote:
            logger.warning("stream %d of %s broke the protocol: %s", id, self.peer, error)
        stream.rx_ended(error)
        self._handlers.cancel(id)
        self._slot_is_free()

    def _forget_if_finished(self, id: int) -> None:
        if not self._connection.is_open(id):
            self._streams.pop(id, None)
            self._slot_is_free()

    def _check(self) -> None:
        if self._ended.done():
            raise self._ended.result().again()

    def _end(self, error: TunnelError) -> None:
        """End the session. The first reason counts."""
        if self._ended.done():
            return
        self._ended.set_result(error)
        self._carrier.leave(error.message)
        self._heard.set()
        for stream in self._streams.values():
            stream.rx_ended(error)
        self._streams.clear()
        self._handlers.cancel_all()
        for client in list(self._clients.values()):
            client.leave()
        self._slot_is_free()
        self._life.end()
        self._alarm.stop()
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        if self._owner is not None:
            self._owner.session_ended(self, error)

    # -- without a channel

    def _introduces(self, agreement: Agreement) -> bool:
        """Return whether the channel may not carry streams."""
        return agreement.tcp_only and self.path is not Path.TCP

    def _lose(self, reason: str) -> None:
        """Suspend the session, since its channel does not work, as far as we know."""
        self._tell(self._life.lost(self._loop.time(), reason, last_heard=self.line.last_heard))

    def _tell(self, change: Change | None) -> None:
        self._alarm.set()
        if change is not None and self._owner is not None:
            self._owner.session_changed(self, change)

    def _has_slept(self, now: float) -> bool:
        """Return whether this process was stopped and the peer was silent for long. The alarm could not report that."""
        return self._alarm.take_overslept(now) and now - self.line.last_heard > self._timeouts.dead_busy

    def _abandon(self, code: ErrorCode, message: str, error: TunnelError | None = None) -> None:
        """End the session, and tell the peer why if possible. ``error``: what it means for us, if not the usual."""
        self._connection.close(code, message)
        self._flush()
        self._end(error or session_error(code, message, remote=False, role=self.role))

    # -- the channel

    def _split(self, carrier: Carrier) -> int:
        """Give each lane a pipe of its own, if the channel can. Return the channel's number of pipes."""
        if self.line.lanes == 1:
            return 1
        return carrier.channel.split(self.line.lanes, opens=self.role is Role.PROXY)

    def _schedule_flush(self) -> None:
        if self._flush_handle is None and not self._ended.done():
            self._flush_handle = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_handle, channel = None, self._carrier.channel
        try:
            size = channel.message_size
            for pipe in self.line.outbox.ready:
                while (
                    channel.takes(pipe) and (message := self._connection.message_to_send(pipe, size=size)) is not None
                ):
                    channel.send(message, pipe)
        except ChannelClosed as exc:
            self.channel_closed(str(exc))
            return
        for id in self._connection.take_writable():
            if stream := self._streams.get(id):
                stream.wake_writer()
        self._alarm.set()

    def _next_timer(self) -> float | None:
        due = [each for each in (self._connection.next_timer(), self._life.deadline) if each is not None]
        return min(due) if due else None

    def _on_timer(self) -> None:
        now = self._loop.time()
        if (why := self._life.end_of_wait(now)) is not None:
            self._abandon(ErrorCode.INTERNAL, why)
            return
        self._dispatch(self._connection.handle_timer(now))
        self._schedule_flush()

    def __repr__(self) -> str:
        return f"<Session {self.role} with {self.peer}: {self.error or self._life.state.value}>"
