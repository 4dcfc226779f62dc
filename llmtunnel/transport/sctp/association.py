"""An association: the handshake, which packets are sent, timers, the end (RFC 9260 sections 5, 8 and 9, RFC 6525).

    state         what happens                          next
    ------------  ------------------------------------  ------------
    CLOSED        we begin, and send INIT               INIT_SENT
    CLOSED        the peer's COOKIE ECHO                ESTABLISHED
    INIT_SENT     the peer's INIT ACK                   COOKIE_SENT
    INIT_SENT     the peer's COOKIE ECHO                ESTABLISHED
    COOKIE_SENT   the peer's COOKIE ACK                 ESTABLISHED
    COOKIE_SENT   the peer's COOKIE ECHO                ESTABLISHED
    any           ABORT or SHUTDOWN, a breach, the end  ENDED

Either side, or both, may begin. In each of the first three states, an INIT is answered but not stored: the cookie
carries the peer's parameters. If the peer breaks the protocol, the association ends with an ABORT.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from math import inf
from struct import Struct
from typing import Final, NamedTuple

from . import packet
from .congestion import Bbr, Congestion
from .inbound import Inbound, Message
from .outbound import PEER_DELAY, RTO_FIRST, Outbound
from .packet import Chunk, Init, Malformed
from .pmtu import BLACK_HOLE, BROWSER, PACKET, SIZES, PathMtu

STREAMS: Final = 256
"""Number of streams in each direction that we announce."""
WINDOW: Final = 4 << 20
"""Bytes that may wait for others to become messages: two round trips of 50 ms at 40 MB/s."""
WINDOW_FIRST: Final = 128 << 10
"""The same for a stranger, which sends a hello of one message. A message has at most 64 KiB."""
DELAY: Final = 0.025
"""Seconds for which a peer of ours delays an acknowledgement, and a little more."""
_OURS: Final = 0x8C11
"""A parameter by which peers of ours recognise each other; others skip it (RFC 9260 section 3.2.1). Its value is the
longest packet that the peer accepts."""
_LONGEST: Final = Struct("!H")
_PROBE: Final = Struct("!8sH")
"""The content of a probing HEARTBEAT: a secret, so that only its arrival acknowledges it, and the packet's size."""
_INITS: Final = 12
"""How often an INIT or a COOKIE ECHO is sent."""
_ECHO: Final = 512
"""Bytes of a HEARTBEAT that we send back."""
_ACKNOWLEDGEMENTS: Final = 64
"""Acknowledgements that may wait to be sent: a batch of packets makes half as many as it has packets."""
_COOKIE: Final = 32
"""Bytes of a cookie's signature."""
_DATA: Final = Struct("!LHHL")
_I_DATA: Final = Struct("!LHHLL")
_SAID: Final = Struct("!LLLH??")
_RESET_FIXED: Final = Struct("!LLL")
_RESET: Final = Struct("!LLLH")
_RESPONSE: Final = Struct("!LL")
_PERFORMED: Final = 1
_BAD_NUMBER: Final = 5
_IN_PROGRESS: Final = 6


@dataclass(frozen=True, slots=True)
class Connected:
    """Both sides may send."""


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The peer sends nothing more on this stream, and its sequence numbers start again."""

    stream: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The association has ended."""

    reason: str


Event = Connected | Message | StreamReset | Ended


class State(Enum):
    """How far an association has progressed."""

    CLOSED = "closed"
    INIT_SENT = "init sent"
    COOKIE_SENT = "cookie sent"
    ESTABLISHED = "established"
    ENDED = "ended"


class _Said(NamedTuple):
    """What an INIT or INIT ACK says of the peer, as a cookie carries it."""

    tag: int
    window: int
    tsn: int
    takes: int
    """The longest packet in bytes that a peer of ours accepts; 0 for any other peer."""
    needs_no_checksum: bool
    interleaves: bool


@dataclass(slots=True)
class _Repeated:
    """A chunk that is sent again until it is answered."""

    chunk: bytes
    due: float
    tries: int = 0


class Association:
    """One side.

    ``congestion`` makes its strategy for packets of a given size; ``port`` is the peer's. ``zero_checksum`` (RFC 9653)
    and ``interleaving`` (I-DATA, RFC 8260): whether to use these if the peer does, too.
    """

    def __init__(
        self,
        *,
        congestion: Callable[[int], Congestion] = Bbr,
        port: int = packet.PORT,
        zero_checksum: bool = True,
        interleaving: bool = True,
    ) -> None:
        self.state = State.CLOSED
        self._zero_checksum = zero_checksum
        self._interleaving = interleaving
        self._ports = packet.PORT, port
        self._make_congestion = congestion
        self._tag = int.from_bytes(os.urandom(4)) or 1
        self._peer_tag = 0
        self._tsn = int.from_bytes(os.urandom(4))
        self._window = WINDOW_FIRST
        self._mtu: PathMtu | None = None
        """None until the path is probed."""
        self._peer_takes = 0
        """See `_Said.takes`."""
        self._has_checksum = True
        """Whether packets that we send have a checksum. The peer's never need one."""
        self._data = packet.DATA
        """The type of all chunks with data."""
        self._fragmentation: bool | None = None
        self._secret = os.urandom(_COOKIE)
        self._inbound: Inbound | None = None
        self._outbound: Outbound | None = None
        self._waiting: list[tuple[int, int, bytes]] = []
        """Messages that were to be sent before the peer was known."""
        self._control: list[bytes] = []
        """Chunks to send at once."""
        self._acknowledgements: list[bytes] = []
        """Chunks for one packet each, before the acknowledgement that `_inbound` has due."""
        self._handshake: _Repeated | None = None
        self._reset: _Repeated | None = None
        self._resetting: list[int] = []
        """Our streams whose end is requested; the first one by `_reset`."""
        self._reset_number = self._tsn
        self._peer_reset: tuple[int, int, list[int]] | None = None
        """The peer's request that waits for its last TSN: number, TSN, streams."""
        self._peer_reset_done = -1

    # -- called by the user

    def begin(self, now: float) -> None:
        """Send INIT."""
        self.state = State.INIT_SENT
        self._handshake = _Repeated(packet.encode_init(packet.INIT, self._init(self._tag, {})), now)
        self._repeat_handshake(now)

    def send(self, stream: int, protocol: int, data: bytes) -> None:
        """Queue a message of at least one byte. It is delivered in order, or the association ends."""
        assert data
        if self._outbound is not None:
            self._outbound.queue(stream, protocol, data)
        else:
            self._waiting.append((stream, protocol, data))

    def reset_stream(self, stream: int, now: float) -> None:
        """End our half of a stream, once what is queued has been sent."""
        if stream not in self._resetting:
            self._resetting.append(stream)
        self._ask_for_reset(now)

    def trust(self) -> None:
        """Enlarge the receive window, since the peer has been accepted."""
        self._window = WINDOW
        if self._inbound is not None:
            self._inbound.open_window(WINDOW)

    def probe_path(self, now: float, *, page: bool = False) -> None:
        """Start to probe how long packets may be. Nothing below may fragment a packet from now on (IP's DF).

        ``page``: whether the peer is a page in a browser. Of others that are not ours, aiortc fails on long packets.
        """
        takes = self._peer_takes or (BROWSER if page else 0)
        if self._mtu is None and takes:
            self._mtu = PathMtu(takes, now)

    def take_fragmentation(self) -> bool | None:
        """Return whether packets may be fragmented from now on, or None if that has not changed. Reports it once.

        They may if packets that were sent are now too long for the path, until the path is probed again.
        """
        allowed, self._fragmentation = self._fragmentation, None
        return allowed

    @property
    def packet_size(self) -> int:
        """Maximum bytes in a packet now."""
        return self._mtu.size if self._mtu is not None else PACKET

    @property
    def _payload(self) -> int:
        """Bytes of data in a packet with one chunk."""
        header = packet.I_DATA_HEADER if self._data == packet.I_DATA else packet.DATA_HEADER
        return self.packet_size - packet.HEADER_SIZE - header.size

    def abort(self) -> None:
        """End the association at once. The last packet is an ABORT for the peer."""
        if self._peer_tag and self.state is not State.ENDED:
            self._control = [packet.chunk(packet.ABORT)]
        self.state = State.ENDED

    @property
    def queued(self) -> int:
        """Bytes that have not been sent for the first time."""
        if self._outbound is None:
            return sum(len(data) for *_, data in self._waiting)
        return self._outbound.queued

    def queued_of(self, stream: int | None) -> int:
        """The same for one stream, once the peer is known; 0 for None."""
        assert self._outbound is not None
        return self._outbound.buffered.get(stream, 0) if stream is not None else 0

    @property
    def peer_is_ours(self) -> bool:
        """Whether the peer, once known, uses this SCTP."""
        return self._peer_takes > 0

    @property
    def idle(self) -> bool:
        """Whether the peer has everything that was sent or queued."""
        return self._outbound is None or self._outbound.idle

    @property
    def rtt(self) -> float | None:
        """The smoothed round trip in seconds; None before it is measured."""
        return self._outbound.rtt if self._outbound else None

    @property
    def passed(self) -> tuple[int, int]:
        """See `Outbound.passed`."""
        return self._outbound.passed if self._outbound else (0, 0)

    @property
    def congestion(self) -> Congestion | None:
        """The strategy that decides how much may be in flight; None before the peer is known."""
        return self._outbound.congestion if self._outbound else None

    # -- sending

    def packet_to_send(self, now: float) -> bytes | None:
        """Return the next packet, or None if there is none to send now."""
        chunks, room = self._take_control_chunks(PACKET - packet.HEADER_SIZE)
        if not chunks and (probe := self._probe(now)) is not None:
            return probe
        if not chunks and self._acknowledgements and self.state is not State.ENDED:
            return self._seal([self._acknowledgements.pop(0)])
        if self._inbound is None or self._outbound is None or self.state is State.ENDED or self._control or not room:
            return self._seal(chunks) if chunks else None
        due = self._inbound.due
        if due is not None and (due <= now or chunks):
            sack = packet.encode_sack(self._inbound.take_sack((room - packet.SACK_SIZE) // packet.GAP_SIZE))
            chunks.append(sack)
            room -= len(sack)
        # Only data makes a packet long. We notice its loss here, but not the loss of an acknowledgement.
        room += self.packet_size - PACKET
        if self.state is State.ESTABLISHED:
            chunks += self._outbound.chunks(now, room)
            if self._resetting and self._reset is None:
                self._ask_for_reset(now)  # for the next packet, after the last of its data
        return self._seal(chunks) if chunks else None

    def _probe(self, now: float) -> bytes | None:
        if self._mtu is None or self._outbound is None or self.state is not State.ESTABLISHED:
            return None
        size = self._mtu.probe(now, self._outbound.rto)
        if size is None:
            return None
        asks = packet.chunk(packet.HEARTBEAT, packet.encode_parameters([(1, _PROBE.pack(self._secret[:8], size))]))
        pad = packet.chunk(packet.PAD, bytes(size - packet.HEADER_SIZE - len(asks) - 4))
        return self._seal([asks, pad])

    def _take_heartbeat_ack(self, body: bytes, now: float) -> None:
        said = dict(packet.decode_parameters(body)).get(1, b"")
        if self._mtu is None or self._outbound is None or len(said) != _PROBE.size:
            return
        secret, size = _PROBE.unpack(said)
        if hmac.compare_digest(secret, self._secret[:8]):
            self._mtu.acknowledged(size, now)
            self._outbound.packet = self._payload

    def _take_control_chunks(self, room: int) -> tuple[list[bytes], int]:
        """Return the chunks for one packet, and the remaining room.

        INIT and INIT ACK each need a packet of their own.
        """
        chunks: list[bytes] = []
        while self._control and len(self._control[0]) <= room - packet.SACK_SIZE:
            alone = self._control[0][0] in (packet.INIT, packet.INIT_ACK)
            if alone and chunks:
                break
            chunks.append(self._control.pop(0))
            room -= len(chunks[-1])
            if alone:
                return chunks, 0
        return chunks, room

    def _seal(self, chunks: list[bytes]) -> bytes:
        first = chunks[0][0]
        tag = 0 if first == packet.INIT else self._peer_tag
        # RFC 9653 section 5.2: a COOKIE ECHO needs one.
        has_checksum = self._has_checksum or first == packet.COOKIE_ECHO
        return packet.seal(tag, chunks, ports=self._ports, has_checksum=has_checksum)

    def next_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None if there is no need."""
        if self.state is State.ENDED:
            return None
        times = [each.due for each in (self._handshake, self._reset) if each is not None]
        if self._inbound is not None and self._inbound.due is not None:
            times.append(self._inbound.due)
        if self._outbound is not None and self.state is State.ESTABLISHED:
            times.append(self._outbound.next_timer() or inf)
            if self._mtu is not None and self._mtu.due is not None:
                times.append(self._mtu.due)
        return min((at for at in times if at < inf), default=None)

    def handle_timer(self, now: float) -> list[Event]:
        """Act on the timers that are due. See `next_timer`."""
        if self._handshake is not None and now >= self._handshake.due:
            if self._handshake.tries >= _INITS:
                return self._end("the peer does not answer")
            self._repeat_handshake(now)
        if self._reset is not None and now >= self._reset.due:
            self._repeat_reset(now)
        if self._outbound is not None:
            self._outbound.handle_timer(now)
            if self.packet_size > PACKET and self._outbound.timeouts >= BLACK_HOLE:
                self._fall_back(now)
            if self._mtu is not None and self._mtu.recover(now):
                self._fragmentation = False
        return []

    def _fall_back(self, now: float) -> None:
        assert self._mtu is not None and self._outbound is not None
        self._mtu.fall_back(now)
        self._outbound.packet = self._payload
        self._fragmentation = True

    def _repeat_handshake(self, now: float) -> None:
        assert self._handshake is not None
        self._handshake.tries += 1
        self._handshake.due = now + RTO_FIRST
        self._control.append(self._handshake.chunk)

    # -- receiving

    def receive_packet(self, data: bytes, now: float) -> list[Event]:
        """Process a packet and return its events. Never raises, whatever the packet contains."""
        if self.state is State.ENDED:
            return []
        try:
            tag, chunks = packet.parse(data)
        except Malformed:
            return []  # RFC 9260 section 6.8: a wrong checksum counts as a loss
        first = chunks[0]
        if tag != (0 if first.type == packet.INIT else self._tag):
            return []  # section 8.5
        try:
            return self._take_all(chunks, now)
        except Malformed as exc:
            self.abort()
            return [Ended(f"the peer broke SCTP: {exc}")]

    def _take_all(self, chunks: list[Chunk], now: float) -> list[Event]:
        self._acknowledge_before(now)
        events: list[Event] = []
        has_data = False
        for chunk in chunks:
            if chunk.type in (packet.DATA, packet.I_DATA):
                has_data = self._take_data(chunk, events) or has_data
            elif chunk.type == packet.SACK:
                if self._outbound is not None:
                    self._outbound.receive_sack(packet.decode_sack(chunk.body), now)
            else:
                events += self._take_control(chunk, now)
        if has_data:
            assert self._inbound is not None
            self._inbound.packet_ended(now)
            if self._peer_reset is not None:
                events += self._finish_peer_reset()
        return events

    def _acknowledge_before(self, now: float) -> None:
        """Keep the acknowledgement that an earlier packet of this batch has made due, unless the peer is ours.

        Others send a few packets for each acknowledgement (libwebrtc: four), so one for a whole batch would hold their
        congestion window down for ever. Ours go by time, and take one for many.
        """
        inbound = self._inbound
        if inbound is None or inbound.due is None or inbound.due > now or self.peer_is_ours:
            return
        if len(self._acknowledgements) < _ACKNOWLEDGEMENTS:
            room = PACKET - packet.HEADER_SIZE - packet.SACK_SIZE
            self._acknowledgements.append(packet.encode_sack(inbound.take_sack(room // packet.GAP_SIZE)))

    def _take_data(self, chunk: Chunk, events: list[Event]) -> bool:
        if self._inbound is None or self.state not in (State.ESTABLISHED, State.COOKIE_SENT):
            return False
        if chunk.type != self._data:
            raise Malformed("it sends DATA in place of I-DATA, or the reverse")  # RFC 8260 section 2.2.2
        body, interleaved = chunk.body, chunk.type == packet.I_DATA
        fixed = _I_DATA if interleaved else _DATA
        if len(body) < fixed.size:
            raise Malformed("a DATA chunk is too short")
        if interleaved:
            tsn, stream, _, sequence, last = _I_DATA.unpack_from(body)
            protocol, number = (last, 0) if chunk.flags & packet.FIRST else (0, last)
            events += self._inbound.receive_data(
                chunk.flags, tsn, stream, sequence, protocol, body[fixed.size :], number=number
            )
        else:
            tsn, stream, sequence, protocol = _DATA.unpack_from(body)
            events += self._inbound.receive_data(chunk.flags, tsn, stream, sequence, protocol, body[fixed.size :])
        return True

    def _take_control(self, chunk: Chunk, now: float) -> list[Event]:
        match chunk.type:
            case packet.INIT:
                self._take_init(packet.decode_init(chunk.body))
            case packet.INIT_ACK if self.state is State.INIT_SENT:
                self._take_init_ack(packet.decode_init(chunk.body), now)
            case packet.COOKIE_ECHO:
                return self._take_cookie(chunk.body)
            case packet.COOKIE_ACK if self.state is State.COOKIE_SENT:
                return self._establish()
            case packet.HEARTBEAT:
                self._control.append(packet.chunk(packet.HEARTBEAT_ACK, chunk.body[:_ECHO]))
            case packet.HEARTBEAT_ACK:
                self._take_heartbeat_ack(chunk.body, now)
            case packet.RE_CONFIG:
                return self._take_reconfig(chunk.body, now)
            case packet.ABORT:
                self.state = State.ENDED
                return [Ended("the peer ended it")]
            case packet.SHUTDOWN:
                self._control = [packet.chunk(packet.SHUTDOWN_ACK)]
                self.state = State.ENDED
                return [Ended("the peer closed it")]
        return []

    # -- the handshake

    def _init(self, tag: int, parameters: dict[int, bytes]) -> Init:
        extensions = [packet.RE_CONFIG]
        if self._interleaving:
            # Firefox uses I-DATA only with a peer that has the second one, too.
            extensions += [packet.I_DATA, packet.I_FORWARD_TSN]
        supported = {packet.SUPPORTED_EXTENSIONS: bytes(extensions), _OURS: _LONGEST.pack(SIZES[-1])}
        if self._zero_checksum:
            supported[packet.ZERO_CHECKSUM] = packet.OVER_DTLS
        return Init(tag, self._window, STREAMS, STREAMS, self._tsn, supported | parameters)

    def _take_init(self, init: Init) -> None:
        if self.state in (State.ESTABLISHED, State.ENDED):
            return  # a restart (RFC 9260 section 5.2.2), which no DTLS connection outlives
        self._peer_tag = init.tag
        acknowledgement = self._init(self._tag, {packet.COOKIE: self._sign(_SAID.pack(*_said(init)))})
        self._control.append(packet.encode_init(packet.INIT_ACK, acknowledgement))

    def _sign(self, said: bytes) -> bytes:
        return hmac.digest(self._secret, said, "sha256") + said

    def _take_init_ack(self, init: Init, now: float) -> None:
        cookie = init.parameters.get(packet.COOKIE)
        if cookie is None:
            raise Malformed("an INIT ACK has no cookie")
        self._peer_is(_said(init))
        self.state = State.COOKIE_SENT
        self._handshake = _Repeated(packet.chunk(packet.COOKIE_ECHO, cookie), now)
        self._repeat_handshake(now)

    def _take_cookie(self, cookie: bytes) -> list[Event]:
        said = cookie[_COOKIE:]
        if not hmac.compare_digest(self._sign(said), cookie):
            return []
        self._control.append(packet.chunk(packet.COOKIE_ACK))
        if self.state is State.ESTABLISHED:
            return []  # our COOKIE ACK was lost
        self._peer_is(_Said(*_SAID.unpack(said)))
        return self._establish()

    def _peer_is(self, said: _Said) -> None:
        if self._inbound is not None and self._peer_tag == said.tag:
            return
        self._peer_tag, self._peer_takes = said.tag, said.takes
        self._has_checksum = not (self._zero_checksum and said.needs_no_checksum)
        interleave = self._interleaving and said.interleaves
        self._data = packet.I_DATA if interleave else packet.DATA
        self._inbound = Inbound(said.tsn, window=self._window, streams=STREAMS, interleaved=interleave)
        self._outbound = Outbound(
            self._tsn,
            window=said.window,
            packet=self._payload,
            congestion=self._make_congestion(self._payload),
            peer_delay=DELAY if said.takes else PEER_DELAY,
            interleave=interleave,
        )
        for each in self._waiting:
            self._outbound.queue(*each)
        self._peer_reset_done = (said.tsn - 1) & 0xFFFFFFFF

    def _establish(self) -> list[Event]:
        self.state = State.ESTABLISHED
        self._handshake = None
        return [Connected()]

    def _end(self, reason: str) -> list[Event]:
        self.abort()
        return [Ended(reason)]

    # -- the end of a stream (RFC 6525)

    def _ask_for_reset(self, now: float) -> None:
        outbound = self._outbound
        if outbound is None or self.state is not State.ESTABLISHED or self._reset is not None or not self._resetting:
            return
        stream = self._resetting[0]
        if outbound.buffered.get(stream):
            return
        request = _RESET.pack(self._reset_number & 0xFFFFFFFF, self._peer_reset_done, outbound.last_tsn, stream)
        self._reset = _Repeated(
            packet.chunk(packet.RE_CONFIG, packet.encode_parameters([(packet.OUTGOING_RESET, request)])), now
        )
        self._repeat_reset(now)

    def _repeat_reset(self, now: float) -> None:
        assert self._reset is not None and self._outbound is not None
        self._reset.due = now + self._outbound.rto
        self._control.append(self._reset.chunk)

    def _take_reconfig(self, body: bytes, now: float) -> list[Event]:
        events: list[Event] = []
        for type, value in packet.decode_parameters(body):
            if type == packet.RESET_RESPONSE and len(value) >= 8:
                number, result = _RESPONSE.unpack_from(value)
                self._take_reset_response(number, result, now)
            elif type == packet.OUTGOING_RESET and len(value) >= 12 and len(value) % 2 == 0:
                number, _, last = _RESET_FIXED.unpack_from(value)
                streams = [int.from_bytes(value[at : at + 2]) for at in range(12, len(value), 2)]
                events += self._take_peer_reset(number, last, streams)
        return events

    def _take_reset_response(self, number: int, result: int, now: float) -> None:
        if self._reset is None or number != self._reset_number & 0xFFFFFFFF:
            return
        assert self._outbound is not None
        if result == _IN_PROGRESS:
            self._reset.due = now + (self._outbound.rtt or self._outbound.rto)
            return
        self._reset = None
        self._reset_number += 1
        self._outbound.reset_stream(self._resetting.pop(0))
        self._ask_for_reset(now)

    def _take_peer_reset(self, number: int, last: int, streams: list[int]) -> list[Event]:
        if self._inbound is None:
            return []
        if number == self._peer_reset_done:
            self._respond(number, _PERFORMED)
            return []
        if number != (self._peer_reset_done + 1) & 0xFFFFFFFF:
            self._respond(number, _BAD_NUMBER)
            return []
        self._peer_reset = number, last, streams
        events = self._finish_peer_reset()
        if self._peer_reset is not None:
            self._respond(number, _IN_PROGRESS)
        return events

    def _finish_peer_reset(self) -> list[Event]:
        assert self._peer_reset is not None and self._inbound is not None
        number, last, streams = self._peer_reset
        if not self._inbound.has_all(last):
            return []
        self._peer_reset, self._peer_reset_done = None, number
        for stream in streams:
            self._inbound.reset_stream(stream)
        self._respond(number, _PERFORMED)
        return [StreamReset(stream) for stream in streams]

    def _respond(self, number: int, result: int) -> None:
        value = _RESPONSE.pack(number, result)
        self._control.append(packet.chunk(packet.RE_CONFIG, packet.encode_parameters([(packet.RESET_RESPONSE, value)])))


def _said(init: Init) -> _Said:
    longest = init.parameters.get(_OURS, b"")
    return _Said(
        init.tag,
        init.window,
        init.tsn,
        takes=int.from_bytes(longest[: _LONGEST.size]) if len(longest) >= _LONGEST.size else 0,
        needs_no_checksum=init.parameters.get(packet.ZERO_CHECKSUM) == packet.OVER_DTLS,
        interleaves=packet.I_DATA in init.parameters.get(packet.SUPPORTED_EXTENSIONS, b""),
    )
