"""The protocol of one session, from the agreement on: messages and ``now`` in, events and messages out. Pure.

This module handles streams. line.py gets their frames across whole, over one channel after the other.

    1. greeting.py      HELLO, AGREE, AUTH                                     -> an agreement on both sides
    2. proxy -> serve   REQ_HEADERS n, REQ_BODY n …, REQ_END n
       serve -> proxy   RES_HEADERS n, RES_BODY n …, RES_END n                 the two halves run side by side
       either           RESET n (or ERROR n), CREDIT n, PING, PONG
    3. either           RESET 0 (or ERROR 0), and the channel closes           -> ConnectionEnded

A peer's mistake never raises an exception in the caller. It ends the stream or the connection with the error that
README.md specifies, and causes an event. A caller's mistake is an assertion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from ..config import Limits, Timeouts
from ..errors import ErrorCode, ProtocolError, TooManyStreams
from ..status import Role
from . import fields, frames
from .events import (
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
from .frames import MAX_STREAM, Frame, FrameType
from .handshake import Agreement
from .heads import RequestHead, ResponseHead
from .hello import Feature
from .line import TAKEN, Line
from .outbox import QUANTUM
from .stream import State, Step, StreamState
from .window import Backlog, ReceiveWindow, SendWindow, Unmetered

_BODY: Final = {Role.PROXY: FrameType.REQ_BODY, Role.SERVE: FrameType.RES_BODY}
_END: Final = {Role.PROXY: FrameType.REQ_END, Role.SERVE: FrameType.RES_END}


class Connection:
    """The protocol of one peer, from the agreement with it on."""

    def __init__(
        self,
        role: Role,
        agreement: Agreement,
        *,
        now: float,
        limits: Limits | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self.role = role
        self.features = agreement.features
        """The features that both sides agreed on."""
        self.ended: ConnectionEnded | None = None
        self._agreement = agreement
        self._limits = limits or Limits()
        self.line = Line(agreement, limits=self._limits, timeouts=timeouts or Timeouts(), now=now)
        self._outbox = self.line.outbox
        self._events: list[Event] = []
        self._credited: set[int] = set()
        self.streams: dict[int, StreamState] = {}
        """The open streams, by number."""
        self._lanes: int = self.line.lanes
        self._last: list[int] = [0, *range(1 - self._lanes, 0)]
        """The last stream of each lane. A lane without a stream has a number below its first one."""
        self._now = now
        """When the last message arrived."""
        handlers = self._make_handlers()
        self._of_streams = {type: handlers[type] for type in handlers if frames.KINDS[type].stands_on(1)}
        self._of_session = {type: handlers[type] for type in handlers if frames.KINDS[type].stands_on(0)}
        """The handler of each type of frame that may arrive."""

    # -- receiving messages

    def receive_message(self, message: bytes, now: float) -> list[Event]:
        """Process one message from the channel, and return its events in order."""
        self._now = now
        if self.ended is None:
            try:
                for frame in self.line.frames_of(message, now):
                    if self.ended is None:
                        self._rx_frame(frame)
                self._check_control()
            except ProtocolError as exc:
                self._fail(exc)
        return self._take_events()

    def next_timer(self) -> float | None:
        """Return when to call `handle_timer`. This may change with each message."""
        if self.ended is not None:
            return None
        return self.line.next_timer(busy=bool(self.streams))

    def handle_timer(self, now: float) -> list[Event]:
        """Act at the time of `next_timer`, or shortly before it."""
        if self.ended is None and self.line.is_dead(now, busy=bool(self.streams)):
            if self.line.resumable:
                self._events.append(PeerSilent())
            else:
                self._end(ErrorCode.INTERNAL, "The peer is silent.", remote=True)
        return self._take_events()

    # -- sending

    def message_to_send(self, pipe: int = 0, *, size: int = frames.MAX_MESSAGE) -> bytes | None:
        """See `Line.message_to_send`."""
        return self.line.message_to_send(pipe, size=size)

    def take_writable(self) -> list[int]:
        """Return the streams whose `send_data` took less than it was given, and which take more now."""
        candidates, self._credited = self._credited | self._outbox.take_cut(), set()
        return [stream for stream in candidates if self._unblock(stream)]

    def is_open(self, stream: int) -> bool:
        """Return whether a stream is open: not finished on both sides, and not reset."""
        return stream in self.streams

    def open_stream(self, head: RequestHead, *, ended: bool = False) -> int:
        """Proxy: begin an exchange. ``ended``: the request has no body.

        Raises `TooManyStreams`, or `ProtocolError` of code TOO_LARGE if the head does not fit a frame.
        """
        assert self.role is Role.PROXY and self.ended is None
        lane = head.client % self._lanes if head.client else self._choose_lane()
        stream = self._last[lane] + self._lanes
        if len(self.streams) >= self._agreement.streams or stream > MAX_STREAM:
            raise TooManyStreams("The other side takes no more requests at once.")
        payload = fields.encode_request(stream, head, self.features)
        self._last[lane] = stream
        state = self._add_stream(stream)
        state.tx.step(Step.HEAD)
        self._outbox.add_frame(stream, frames.encode(FrameType.REQ_HEADERS, stream, payload))
        if ended:
            self.send_end(stream)
        return stream

    def _choose_lane(self) -> int:
        """Return the lane with the least under way. Among equals, return the one that was chosen least recently."""
        if self._lanes == 1:
            return 0
        loads = [0] * self._lanes
        for stream, state in self.streams.items():
            loads[stream % self._lanes] += QUANTUM + state.rx.length + state.tx.length
        return min(range(self._lanes), key=lambda lane: (loads[lane], self._last[lane]))

    def send_response(self, stream: int, head: ResponseHead) -> None:
        """Serve: send a response's head. Raises `ProtocolError` of code TOO_LARGE; then nothing was sent."""
        state = self.streams.get(stream)
        if state is None:
            return
        payload = fields.encode_response(stream, head, self.features)
        state.tx.step(Step.INTERIM if head.interim else Step.HEAD)
        self._outbox.add_frame(stream, frames.encode(FrameType.RES_HEADERS, stream, payload))

    def takes_head(self, stream: int) -> bool:
        """Return whether the outbox has room for a head. If not, `take_writable` reports the stream once it has."""
        state = self.streams.get(stream)
        if state is not None:
            state.blocked = self._outbox.room(stream) <= 0
        return state is None or not state.blocked

    def send_data(self, stream: int, data: memoryview) -> int:
        """Send body bytes, and return how many were taken, as credit and the outbox permit.

        If not all were taken, `take_writable` reports the stream once it takes more.
        """
        state = self.streams.get(stream)
        if state is None:
            return len(data)
        size = min(len(data), state.tx_window.available, self._outbox.room(stream))
        if size > 0:
            state.tx.step(Step.BODY, size)
            state.tx_window.spend(size)
            self._outbox.add_body(stream, _BODY[self.role], data[:size])
        state.blocked = size < len(data)
        return size

    def send_end(self, stream: int) -> None:
        """End our half of a stream: it is complete."""
        state = self.streams.get(stream)
        if state is None:
            return
        state.tx.step(Step.END)
        length = frames.encode_length(state.tx.length) if Feature.LENGTH in self.features else b""
        self._outbox.add_frame(stream, frames.encode(_END[self.role], stream, length))
        self._retire(stream, state)

    def reset(self, stream: int, code: ErrorCode, message: str) -> None:
        """Abandon a stream, or (serve, NO_ERROR, after the response's end) the rest of its request."""
        state = self.streams.pop(stream, None)
        if state is None:
            return
        if code not in _AFTER_THE_REST and self._outbox.drop(stream):
            return  # not even resets may pile up if clients come and go while nothing can be sent
        self._tx_reset(stream, state, code, message)

    def consumed(self, stream: int, size: int) -> None:
        """Note that the application has consumed body bytes of a `DataReceived`."""
        state = self.streams.get(stream)
        if state is None:
            return
        grant = state.rx_window.consume(size)
        if grant and state.rx.state is State.OPEN:
            grant += self._grow(state.rx_window)
            self._outbox.add_urgent(frames.encode(FrameType.CREDIT, stream, frames.encode_credit(grant)))

    def _grow(self, window: ReceiveWindow) -> int:
        """Return what to grant in addition to the consumed bytes, if the window limits its sender."""
        if not window.is_short(self._now, self.line.rtt or _RTT) or window.size * 2 > self._limits.window_most:
            return 0
        grown = sum(state.rx_window.grown for state in self.streams.values())
        if grown + window.size > self._limits.held // 8:
            return 0
        more = window.size
        window.grow(more)
        return more

    def close_client(self, client: int) -> None:
        """Proxy: report that a client's connection has closed. ``client`` is the id of the first stream that it used.

        The frame follows those that this stream has queued. It may overtake frames of the client's later streams, and
        serve accepts either order.
        """
        if Feature.CLIENT in self.features and self.ended is None:
            self._outbox.add_frame(client, frames.encode(FrameType.CLIENT_CLOSED, client))

    def tell(self, type: FrameType, value: Any) -> None:
        """Send a frame of the session that has a `frames.Codec`, if its feature is agreed on.

        The frame has no number: if the channel is lost, the frame may be lost too.
        """
        kind = frames.KINDS[type]
        assert kind.codec is not None and kind.sender is not self.role.other and kind.is_known(self.features)
        self.line.control(type, kind.codec.encode(value))

    def close(self, code: ErrorCode, message: str) -> None:
        """End the session in order. One last message remains to be sent."""
        if self.ended is None:
            self._tx_session_error(code, message)
            self._end(code, message, remote=False)
            self._events.clear()

    # -- receiving

    def _make_handlers(self) -> dict[int, Callable[[Frame], None]]:
        takes: dict[int, Callable[[Frame], None]] = {
            FrameType.REQ_HEADERS: self._rx_request,
            FrameType.REQ_BODY: self._rx_body,
            FrameType.REQ_END: self._rx_end,
            FrameType.CLIENT_CLOSED: self._rx_client_closed,
            FrameType.RES_HEADERS: self._rx_response,
            FrameType.RES_BODY: self._rx_body,
            FrameType.RES_END: self._rx_end,
            FrameType.RESET: self._rx_reset,
            FrameType.CREDIT: self._rx_credit,
            FrameType.ERROR: self._rx_error,
        }
        takes |= {kind.type: self._rx_told for kind in frames.KINDS.values() if kind.codec is not None}
        return {type: takes[type] for type in frames.expected(self.role, self.features) if type not in TAKEN}

    def _rx_frame(self, frame: Frame) -> None:
        if frame.of_stream:
            if handler := self._of_streams.get(frame.type):
                try:
                    handler(frame)
                except ProtocolError as exc:
                    self._fail_stream(frame.stream, exc)
                return
        elif handler := self._of_session.get(frame.type):
            handler(frame)
            return
        if frame.type in self._of_streams or frame.type in self._of_session:
            raise ProtocolError(f"A frame of type {frame.type} came {'on' if frame.stream else 'without'} a stream.")
        if frames.is_breach(frame.type, self.features):
            raise ProtocolError(f"A frame of type {frame.type} came from the wrong side, or late.")

    def _rx_told(self, frame: Frame) -> None:
        codec = frames.KINDS[frame.type].codec
        assert codec is not None
        self._events.append(Told(frame.type, codec.decode(frame.payload)))

    def _rx_request(self, frame: Frame) -> None:
        stream = frame.stream
        if stream in self.streams:
            raise ProtocolError("A second head came on a stream.")
        if stream <= self._last[stream % self._lanes]:
            return
        if stream > MAX_STREAM:
            raise ProtocolError("A stream's number is too high.")
        self._last[stream % self._lanes] = stream
        # A peer has not seen the end of a stream that still waits here. Without this limit, a peer that does not read
        # could make answers pile up. With lanes, a stream may arrive ahead of the end of another lane's.
        most = self._limits.streams if self._lanes == 1 else 2 * self._limits.streams
        if len(self.streams.keys() | self._outbox.streams) >= most:
            raise ProtocolError("Too many requests at once.", code=ErrorCode.REFUSED)
        head = fields.decode_request(frame.payload, self.features)
        if head.client >= stream or head.client % self._lanes != stream % self._lanes:
            head = replace(head, client=0)
        self._add_stream(stream).rx.step(Step.HEAD)
        self._events.append(RequestReceived(stream, head))

    def _rx_client_closed(self, frame: Frame) -> None:
        # The first stream may never have arrived: the proxy may have withdrawn its head before sending it.
        self._events.append(ClientClosed(frame.stream))

    def _rx_response(self, frame: Frame) -> None:
        state = self._find(frame.stream)
        if state is None:
            return
        head = fields.decode_response(frame.payload, self.features)
        if head.interim and Feature.INTERIM not in self.features:
            raise ProtocolError("An interim response came, which was not agreed on.")
        state.rx.step(Step.INTERIM if head.interim else Step.HEAD)
        self._events.append(ResponseReceived(frame.stream, head))

    def _rx_body(self, frame: Frame) -> None:
        state = self._find(frame.stream)
        if state is None or not frame.payload:
            return
        size = len(frame.payload)
        if size > frames.MAX_BODY:
            raise ProtocolError("A body frame is too long.")
        state.rx.step(Step.BODY, size)
        state.rx_window.receive(size)
        self._events.append(DataReceived(frame.stream, frame.payload))

    def _rx_end(self, frame: Frame) -> None:
        state = self._find(frame.stream)
        if state is None:
            return
        state.rx.step(Step.END)
        if Feature.LENGTH in self.features:
            state.rx.check_length(frames.decode_length(frame.payload))
        self._events.append(EndReceived(frame.stream))
        self._retire(frame.stream, state)

    def _rx_reset(self, frame: Frame) -> None:
        if frame.stream == 0:
            self._rx_session_error(frame)
        else:
            self._rx_stream_ended(frame.stream, *frames.decode_reset(frame.payload))

    def _rx_error(self, frame: Frame) -> None:
        if frame.stream == 0:
            self._rx_session_error(frame)
        else:
            self._rx_stream_ended(frame.stream, ErrorCode.INTERNAL, frames.decode_text(frame.payload))

    def _rx_stream_ended(self, stream: int, code: ErrorCode, message: str) -> None:
        state = self.streams.pop(stream, None)
        if state is None:
            return
        self._outbox.drop(stream)
        if code is ErrorCode.NO_ERROR and state.rx.state is State.ENDED:
            self._events.append(RestUnwanted(stream))
        else:
            self._events.append(StreamEnded(stream, code, message, remote=True))

    def _rx_credit(self, frame: Frame) -> None:
        state = self._find(frame.stream)
        if state is None:
            return
        state.tx_window.add(frames.decode_credit(frame.payload))
        self._credited.add(frame.stream)

    def _rx_session_error(self, frame: Frame) -> None:
        code, message = frames.decode_session_error(frame)
        self._end(code, message, remote=True)

    # -- streams

    def _find(self, stream: int) -> StreamState | None:
        """Return the stream's state, or None if it is gone. Raises `ProtocolError` if it never existed."""
        state = self.streams.get(stream)
        if state is None and stream > self._last[stream % self._lanes]:
            raise ProtocolError("A frame came for a stream that nobody opened.")
        return state

    def _add_stream(self, stream: int) -> StreamState:
        credit = Feature.CREDIT in self.features
        rx_window = ReceiveWindow(self._limits.window) if credit else Backlog(self._limits.v1_backlog)
        tx_window = SendWindow(self._agreement.window) if credit else Unmetered()
        state = StreamState(rx_window=rx_window, tx_window=tx_window)
        self.streams[stream] = state
        return state

    def _retire(self, stream: int, state: StreamState) -> None:
        if state.finished:
            self.streams.pop(stream, None)

    def _unblock(self, stream: int) -> bool:
        state = self.streams.get(stream)
        if state is None or not state.blocked:
            return False
        state.blocked = not (state.tx_window.available and self._outbox.room(stream) > 0)
        return not state.blocked

    def _fail_stream(self, stream: int, exc: ProtocolError) -> None:
        """Reset one stream after a peer's mistake, tell the application, and continue."""
        state = self.streams.pop(stream, None)
        self._outbox.drop(stream)
        self._tx_reset(stream, state, exc.code, exc.message)
        if state is not None:
            self._events.append(StreamEnded(stream, exc.code, exc.message, remote=False))

    def _tx_reset(self, stream: int, state: StreamState | None, code: ErrorCode, message: str) -> None:
        if Feature.RESET in self.features:
            payload = frames.encode_reset(code, message)
            self._outbox.add_frame(stream, frames.encode(FrameType.RESET, stream, payload))
        elif code is not ErrorCode.NO_ERROR:
            self._outbox.add_frame(stream, frames.encode(FrameType.ERROR, stream, frames.encode_error(message)))
            if self.role is Role.SERVE and state is not None and state.tx.state is State.OPEN:
                # The original serve also sends this after an error in the middle of a body.
                self._outbox.add_frame(stream, frames.encode(FrameType.RES_END, stream))

    # -- the session

    def _check_control(self) -> None:
        if self._outbox.waiting > self._limits.control:
            raise ProtocolError("The peer asks for more answers than it takes.")

    def _fail(self, exc: ProtocolError) -> None:
        """End the session after a peer's mistake that affects more than a stream."""
        self._tx_session_error(exc.code, exc.message)
        self._end(exc.code, exc.message, remote=False)

    def _tx_session_error(self, code: ErrorCode, message: str) -> None:
        if Feature.RESET in self.features:
            self.line.control(FrameType.RESET, frames.encode_reset(code, message))
        else:
            self.line.control(FrameType.ERROR, frames.encode_error(message))

    def _end(self, code: ErrorCode, message: str, *, remote: bool) -> None:
        self.ended = ConnectionEnded(code, message, remote)
        self.streams.clear()
        self._outbox.drop_streams()
        self._events.append(self.ended)

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events


_RTT: Final = 0.05
"""Assumed round trip in seconds, before one is measured."""
_AFTER_THE_REST: Final = (ErrorCode.NO_ERROR, ErrorCode.UPSTREAM)
"""A reset with one of these codes overtakes nothing of its stream. The response is complete, or has to end where the
upstream's did."""
