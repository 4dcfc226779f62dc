"""Reliable, ordered data channels (RFC 8831, RFC 8832) on the loop. Drives `sctp.Association` over DTLS.

At first there is one, which either side opens. `DataChannel.split` makes one for each lane. The proxy opens the
others, since it is the first to send on each. All of them end together.

Everything that arrives in one turn of the loop is answered at the end of that turn, in as few packets as possible.
"""

from __future__ import annotations

import asyncio
import logging
from struct import Struct
from typing import Final, Protocol

from ..config import KIB
from .alarm import Alarm
from .base import MAX_MESSAGE
from .sctp.association import Association, Connected, Ended, Event, StreamReset
from .sctp.inbound import Message

_log = logging.getLogger(__name__)

QUEUE: Final = 64 * KIB
"""Bytes in the send queue at which there is no more room. A lane always has room for its even share of them. One more
message may wait, so a small message never waits behind more than 128 KiB of its lane. With a shorter queue, the pipe
would run dry."""
QUEUE_LOW: Final = 32 * KIB
"""Bytes down to which the queue runs before there is room again, shared in the same way."""

BATCH: Final = 48 * KIB
"""Bytes of packets that are encrypted and sent at once: what one system call sends, and half of what is in flight on
one machine. With more, the peer would wait for the first one."""

_TURN: Final = 0.002
"""Seconds for which one lane's message may hold the others up."""
_SHORT: Final = 16 * KIB
"""Bytes below which messages are not cut for that: each costs the processor as much as some KiB."""

_CONTROL: Final = 50
_TEXT: Final = 51
_BINARY: Final = 53
_EMPTY: Final = (56, 57)
"""Payload protocol identifiers (RFC 8831 section 8)."""
_OPEN: Final = 3
_ACK: Final = b"\2"
_OPENING: Final = Struct("!BBHLHH")
"""Type, channel type, priority, reliability, lengths of label and protocol (RFC 8832 section 5.1)."""
_RELIABLE: Final = 0


class Below(Protocol):
    """What carries the packets."""

    def send_packets(self, packets: list[bytes]) -> None:
        """Send packets. Each of them may be lost."""

    def cut_packets(self, allowed: bool) -> bool:
        """Allow or forbid the fragmentation of packets from now on. Return False if that cannot be set."""


class User(Protocol):
    """The user of the channel. None of these may raise or block."""

    def channel_opened(self) -> None:
        """Note that both sides may send."""

    def message_received(self, message: bytes) -> None:
        """Accept a complete message."""

    def room_available(self) -> None:
        """Note that there is room again after there was none."""

    def lose(self, reason: str) -> None:
        """Note that the channel has ended."""


class DataChannel:
    """A data channel. Pass the packets that arrive to `receive`. ``port``: the peer's SCTP port."""

    def __init__(self, label: str, user: User, below: Below, *, port: int) -> None:
        self._label = label
        self._user = user
        self._below = below
        self._loop = asyncio.get_running_loop()
        self._association = Association(port=port)
        self._streams: list[int | None] = [None]
        """The number of each lane's stream, or None before its channel is open."""
        self._opens: int | None = None
        """The stream on which we open the channel, or None if the peer opens it."""
        self._is_open = False
        self._is_acknowledging = False
        """Whether we are still telling a peer of another kind that its channel is open. Many such peers listen only
        after that, so nothing else is sent before."""
        self._closing = False
        self._ending = False
        """Whether we have asked the peer to end the channel, since no lane has anything queued."""
        self._over = False
        self._full: set[int] = set()
        """Lanes that were asked for room, and had none."""
        self._flushing: asyncio.Handle | None = None
        self._alarm = Alarm(self._association.next_timer, self._on_timer)

    @property
    def message_size(self) -> int:
        """See `Channel.message_size`. Others may wait until a message has been sent, so that should take `_TURN`."""
        congestion = self._association.congestion
        if congestion is None or len(self._streams) == 1:
            return MAX_MESSAGE
        return int(min(max(congestion.rate * _TURN, _SHORT), MAX_MESSAGE))

    def takes(self, lane: int) -> bool:
        """Whether `send` may be called for a lane. If its queue is too long, `User.room_available` follows."""
        if not self.is_open or self._streams[lane] is None:
            return False
        if self._has_less(lane, QUEUE):
            return True
        self._full.add(lane)
        return False

    def _has_less(self, lane: int, most: int) -> bool:
        """Return whether less than ``most`` bytes are queued, or less for this lane than its share of them."""
        if self._association.queued < most:
            return True
        queued = self._association.queued_of(self._streams[lane]) if len(self._streams) > 1 else most
        return queued * sum([self._association.queued_of(stream) > 0 for stream in self._streams]) < most

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._is_open and not self._closing and not self._over

    @property
    def passed(self) -> tuple[int, int]:
        """See `Channel.passed`."""
        return self._association.passed

    def start(self, *, opens: int | None) -> None:
        """Connect. ``opens``: the stream on which we open the channel, or None if the peer opens it."""
        self._opens = opens
        if opens is not None:
            self._association.begin(self._loop.time())
        self._flush()

    def split(self, lanes: int, *, opens: bool) -> None:
        """Use a channel for each lane. ``opens``: whether we open the missing ones; otherwise the peer does."""
        first = self._streams[0]
        assert first is not None and len(self._streams) == 1, "it is open, and not split"
        self._streams += [None] * (lanes - 1)
        if opens:
            # RFC 8832 section 6: each side opens streams of one parity, the even or the odd ones.
            parity = first % 2 if self._opens is not None else 1 - first % 2
            for lane in range(1, lanes):
                self._open(lane, parity + 2 * lane)
            self._schedule()

    def trust(self, *, page: bool = False) -> None:
        """See `Channel.trust`."""
        self._association.trust()
        if self._below.cut_packets(False):
            self._association.probe_path(self._loop.time(), page=page)
            self._schedule()

    def receive(self, packets: list[bytes]) -> None:
        """Process packets."""
        association, now = self._association, self._loop.time()
        for packet in packets:
            for event in association.receive_packet(packet, now):
                self._handle(event, now)
        if self._is_acknowledging and association.idle:
            self._is_acknowledging = False
            self._opened()
        self._schedule()

    def _handle(self, event: Event, now: float) -> None:
        match event:
            case Message(stream, protocol, data):
                self._take(stream, protocol, data)
            case Connected():
                self._connected()
            case StreamReset(stream):
                if stream in self._streams:
                    self._association.reset_stream(stream, now)
                    self._end("closed by the peer")
            case Ended(reason):
                self._end(reason)

    def send(self, message: bytes, lane: int = 0) -> None:
        """Queue a message of at least one byte. `is_open` must be true, and the lane's channel open."""
        stream = self._streams[lane]
        assert stream is not None
        self._association.send(stream, _BINARY, message)
        self._schedule()

    def close(self) -> None:
        """Close the channel once what is queued has been sent. The peer's answer arrives as `User.lose`."""
        if self._streams[0] is not None and not self._closing:
            self._closing = True
            self._schedule()

    def abort(self) -> None:
        """Close the channel now, and tell the peer. Idempotent."""
        self._over = True
        self._association.abort()
        self._flush()
        self._alarm.stop()

    # -- receiving

    def _connected(self) -> None:
        if self._opens is not None:
            self._open(0, self._opens)

    def _open(self, lane: int, stream: int) -> None:
        """Open a lane's channel. Data on it may follow at once (RFC 8832 section 6)."""
        self._streams[lane] = stream
        label = self._label_of(lane)
        self._association.send(stream, _CONTROL, _OPENING.pack(_OPEN, _RELIABLE, 0, 0, len(label), 0) + label)

    def _label_of(self, lane: int) -> bytes:
        return (f"{self._label}/{lane}" if lane else self._label).encode()

    def _take(self, stream: int, protocol: int, data: bytes) -> None:
        if protocol == _CONTROL:
            self._take_control(stream, data)
        elif stream in self._streams and not self._over:
            self._opened()  # RFC 8832 section 6: data implies the acknowledgement
            self._user.message_received(b"" if protocol in _EMPTY else data)

    def _take_control(self, stream: int, data: bytes) -> None:
        if data[:1] == _ACK and stream == self._opens:
            self._opened()
        elif data[0] == _OPEN:
            self._take_opening(stream, data)

    def _take_opening(self, stream: int, data: bytes) -> None:
        if len(data) < _OPENING.size:
            self._end("the peer sent an invalid request to open a data channel")
            return
        _, kind, _, _, length, _ = _OPENING.unpack_from(data)
        label = data[_OPENING.size : _OPENING.size + length]
        lane = self._lane_to_open(label) if kind == _RELIABLE and stream not in self._streams else None
        if lane is None:
            _log.info("The peer opened a data channel that is not the tunnel's.")
            self._association.reset_stream(stream, self._loop.time())
            return
        self._streams[lane] = stream
        self._association.send(stream, _CONTROL, _ACK)
        if lane:
            self._full.add(lane)  # so that the user learns that there is room
        elif self._association.peer_is_ours:
            self._opened()
        else:
            self._is_acknowledging = True

    def _lane_to_open(self, label: bytes) -> int | None:
        """Return the lane whose channel the peer may open with this label, or None."""
        for lane, stream in enumerate(self._streams):
            if stream is None and label == self._label_of(lane) and (lane or self._opens is None):
                return lane
        return None

    def _opened(self) -> None:
        if not self._is_open:
            self._is_open = True
            self._user.channel_opened()

    def _end(self, reason: str) -> None:
        if not self._over:
            self._over = True
            self._user.lose(reason)

    # -- sending

    def _schedule(self) -> None:
        if self._flushing is None:
            self._flushing = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        association, now = self._association, self._loop.time()
        while True:
            packets, size = [], 0
            while (packet := association.packet_to_send(now)) is not None:
                packets.append(packet)
                size += len(packet)
                if size + len(packet) > BATCH:
                    self._below.send_packets(packets)
                    packets, size = [], 0
            if packets:
                self._below.send_packets(packets)
            if self._closing and not self._ending and not association.queued:
                self._ending = True
                association.reset_stream(self._streams[0] or 0, now)
                continue
            if not self._full or self._over:
                break
            available = {lane for lane in self._full if self._has_less(lane, QUEUE_LOW + 1)}
            if not available:
                break
            self._full -= available
            self._user.room_available()
        self._alarm.set()

    def _on_timer(self) -> None:
        for event in self._association.handle_timer(self._loop.time()):
            if isinstance(event, Ended):
                self._end(event.reason)
        if (allowed := self._association.take_fragmentation()) is not None:
            self._below.cut_packets(allowed)
        self._flush()
