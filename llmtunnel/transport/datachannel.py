"""One reliable, ordered data channel (RFC 8831, RFC 8832) on the loop. Drives `sctp.Association` over DTLS.

Everything that arrives in one turn of the loop is answered at the end of that turn, in as few packets as possible.
"""

from __future__ import annotations

import asyncio
import logging
from struct import Struct
from typing import Final, Protocol

from ..config import KIB
from .alarm import Alarm
from .sctp.association import Association, Connected, Ended, StreamReset
from .sctp.inbound import Message

_log = logging.getLogger(__name__)

QUEUE: Final = 64 * KIB
"""Bytes in the send queue at which a channel has no more room. One more message may wait, so a small message never
waits behind more than 128 KiB. With a shorter queue, the pipe would run dry."""
QUEUE_LOW: Final = 32 * KIB

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

    def send_packet(self, packet: bytes) -> None:
        """Send a packet. It may be lost."""

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
        self._stream: int | None = None
        """The number of our stream, or None before we have one."""
        self._opens: int | None = None
        """The stream on which we open the channel, or None if the peer opens it."""
        self._is_open = False
        self._is_acknowledging = False
        """Whether we are still telling a peer of another kind that its channel is open. Many such peers listen only
        after that, so nothing else is sent before."""
        self._closing = False
        self._over = False
        self._full = False
        self._flushing: asyncio.Handle | None = None
        self._alarm = Alarm(self._association.next_timer, self._on_timer)

    @property
    def has_room(self) -> bool:
        """Whether `send` may be called."""
        return self.is_open and self._association.queued < QUEUE

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

    def trust(self) -> None:
        """See `Channel.trust`."""
        self._association.trust()
        if self._below.cut_packets(False):
            self._association.probe_path(self._loop.time())
            self._schedule()

    def receive(self, packet: bytes) -> None:
        """Process a packet."""
        now = self._loop.time()
        for event in self._association.receive_packet(packet, now):
            match event:
                case Message(stream, protocol, data):
                    self._take(stream, protocol, data)
                case Connected():
                    self._connected()
                case StreamReset(stream):
                    if stream == self._stream:
                        self._association.reset_stream(stream, now)
                        self._end("closed by the peer")
                case Ended(reason):
                    self._end(reason)
        if self._is_acknowledging and self._association.idle:
            self._is_acknowledging = False
            self._opened()
        self._schedule()

    def send(self, message: bytes) -> None:
        """Queue a message of at least one byte. `is_open` must be true."""
        assert self._stream is not None
        self._association.send(self._stream, _BINARY, message)
        self._full = self._association.queued >= QUEUE
        self._schedule()

    def close(self) -> None:
        """Close the channel once what is queued has been sent. The peer's answer arrives as `User.lose`."""
        if self._stream is not None and not self._closing:
            self._closing = True
            self._association.reset_stream(self._stream, self._loop.time())
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
            self._stream = self._opens
            label = self._label.encode()
            opening = _OPENING.pack(_OPEN, _RELIABLE, 0, 0, len(label), 0) + label
            self._association.send(self._stream, _CONTROL, opening)

    def _take(self, stream: int, protocol: int, data: bytes) -> None:
        if protocol == _CONTROL:
            self._take_control(stream, data)
        elif stream == self._stream and not self._over:
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
        if self._stream is not None or self._opens is not None or kind != _RELIABLE or label != self._label.encode():
            _log.info("The peer opened a data channel that is not the tunnel's.")
            self._association.reset_stream(stream, self._loop.time())
            return
        self._stream = stream
        self._association.send(stream, _CONTROL, _ACK)
        if self._association.peer_is_ours:
            self._opened()
        else:
            self._is_acknowledging = True

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
            while (packet := association.packet_to_send(now)) is not None:
                self._below.send_packet(packet)
            if not self._full or association.queued > QUEUE_LOW or self._over:
                break
            self._full = False
            self._user.room_available()
        self._alarm.set()

    def _on_timer(self) -> None:
        for event in self._association.handle_timer(self._loop.time()):
            if isinstance(event, Ended):
                self._end(event.reason)
        if (allowed := self._association.take_fragmentation()) is not None:
            self._below.cut_packets(allowed)
        self._flush()
