"""Sending: what is queued, in flight, lost and retransmitted (RFC 9260 section 6; loss detection after RFC 8985).

A packet counts as lost if one that was sent later has arrived, and a quarter of a round trip has passed since. This
detects loss by time, and not by counting acknowledgements. So neither reordering nor a lost retransmission costs a
timeout. If the last packets of a burst are lost, nothing later arrives. Then one is sent again after two round trips (a
tail loss probe), and all are after the retransmission timeout.

*Thin* traffic, such as tokens, hides its losses if the path has lost packets lately. What is in flight is sent once
more in the next packet, or in a packet of its own if none follows soon. A lost packet then costs a few milliseconds
instead of a round trip, for twice the bytes. A receiver drops duplicates, so this works with any peer.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from math import inf
from typing import Final

from .congestion import Congestion, Sample
from .packet import (
    DATA,
    DATA_HEADER,
    FIRST,
    I_DATA,
    I_DATA_HEADER,
    IMMEDIATE,
    LAST,
    Malformed,
    Sack,
    absolute,
)
from .turns import Queued, Turns

RTO_FIRST: Final = 1.0
"""Seconds until the first packets are retransmitted (RFC 9260 section 16)."""
RTO_MIN: Final = 0.3
"""Minimum retransmission timeout in seconds, just over the 0.2 s for which a peer may delay an acknowledgement."""
RTO_MAX: Final = 1.0
"""Maximum retransmission timeout in seconds, after which a path that has returned is found. One packet per second
burdens no path. RFC 9260 says 60."""
WINDOW_MOST: Final = 16 << 20
"""Bytes that may be sent and unacknowledged, whatever window the peer announces, since we keep them."""
PROBE_MIN: Final = 0.01
"""Minimum delay of a tail loss probe in seconds."""
PEER_DELAY: Final = 0.2
"""Seconds for which a peer delays the acknowledgement of a single packet (RFC 9260 section 6.2)."""
CLOCK: Final = 1e-6
"""Seconds. No round trip is shorter."""
_LEAST_ROOM: Final = 64
"""Remaining bytes of a packet that are not worth a chunk."""
THIN: Final = 12 * 1024
"""Bytes in flight up to which traffic is thin: 40 tokens in a round trip of 60 ms, each with its headers."""
LOSSY_FOR: Final = 60.0
"""Seconds after a loss during which thin traffic is sent twice."""
COPY_AFTER: Final = 0.005
"""Seconds until the last packets of a burst are sent once more on their own."""
_UNCOPIED: Final = 128
"""Chunks that may still be sent once more: more than thin traffic has in flight."""
_COPIES: Final = 1024
"""TSNs that we remember as sent twice. A peer that reports them as duplicates says nothing about the path by that."""
QUANTUM: Final = 0.002
"""Seconds of the rate that are sent at once. Timers of event loops are no finer."""
CATCH_UP: Final = 0.02
"""The same where a loop wakes later than the rate permits a packet. The path has been idle meanwhile."""


@dataclass(slots=True, eq=False)
class _Sent:
    tsn: int
    chunk: bytes
    size: int
    number: int
    """Which transmission it was. They are counted, since many happen at the same time."""
    sent_at: float
    delivered: int
    """Total of acknowledged bytes when it was last sent."""
    delivered_at: float
    first_sent: float
    app_limited: bool
    times: int = 1
    arrived: bool = False
    lost: bool = False
    copied: bool = False
    """Whether the chunk was sent once more, next to newer ones."""


class Outbound:
    """The sending half.

    ``tsn``: the first to use; ``packet``: payload bytes of a full chunk; ``window``: bytes that the peer accepts;
    ``peer_delay``: see `PEER_DELAY`; ``interleave``: whether to send I-DATA (RFC 8260).
    """

    def __init__(
        self,
        tsn: int,
        *,
        window: int,
        packet: int,
        congestion: Congestion,
        peer_delay: float = PEER_DELAY,
        interleave: bool = False,
    ) -> None:
        self._peer_delay = peer_delay
        self._interleave = interleave
        self._header = (I_DATA_HEADER if interleave else DATA_HEADER).size
        self.congestion = congestion
        self.buffered: dict[int, int] = {}
        """Bytes of each stream that have not been sent."""
        self.queued = 0
        """The same for all streams together."""
        self.packet = packet
        """Payload bytes of a full chunk. May change."""
        self._next = tsn
        self._cumulative = tsn - 1
        self._sent: dict[int, _Sent] = {}
        """All chunks beyond the cumulative TSN, by TSN."""
        self._order: deque[tuple[int, _Sent]] = deque()
        """Chunks in flight by number of transmission, in the order in which they were sent."""
        self._transmissions = 0
        self._losses = 0
        self._again: deque[_Sent] = deque()
        """Lost chunks."""
        self._messages = Turns(interleave=interleave)
        self._sequences: dict[int, int] = {}
        self._blocks: dict[int, int] = {}
        """The gap blocks of the last acknowledgement: first and last TSN."""
        self._flight = 0
        self._outstanding = 0
        """Bytes that are in flight or lost, and that the peer may still receive."""
        self._window = min(window, WINDOW_MOST)
        self._delivered = 0
        self._delivered_at = 0.0
        self._first_sent = 0.0
        self._limited_until = -1
        """Total of acknowledged bytes up to and including which rates may be the sender's own."""
        self._newest = -1
        """The latest transmission that has arrived."""
        self._reorder = 0.25
        """The share of a round trip by which a packet may be late."""
        self.rtt: float | None = None
        """The smoothed round trip in seconds."""
        self._deviation = 0.0
        self._least = inf
        self._latest = 0.0
        self._backoff = 0
        self._probed = False
        self._timer: float | None = None
        """When to probe for a lost tail, or to consider everything lost."""
        self._reorder_timer: float | None = None
        self._next_at = 0.0
        """When the rate permits the next packet."""
        self._paced = False
        """Whether nothing but the rate delays the next packet."""
        self._probes = 0
        """Packets that may be sent whatever the window says."""
        self._lossy_until = -inf
        self._uncopied: deque[_Sent] = deque(maxlen=_UNCOPIED)
        """Chunks that may be sent once more, the oldest first. Bulk displaces those that will not be."""
        self._copied: OrderedDict[int, None] = OrderedDict()
        """TSNs that were sent once more, cut to 32 bits."""
        self._copy_timer: float | None = None

    # -- queueing and cutting

    def queue(self, stream: int, protocol: int, data: bytes) -> None:
        """Queue a message, behind all others of its stream."""
        sequence = self._sequences.get(stream, 0)
        self._sequences[stream] = (sequence + 1) & (0xFFFFFFFF if self._interleave else 0xFFFF)
        self._messages.add(Queued(stream, sequence, protocol, data))
        self.buffered[stream] = self.buffered.get(stream, 0) + len(data)
        self.queued += len(data)

    def reset_stream(self, stream: int) -> None:
        """Start the stream's sequence numbers again."""
        self._sequences.pop(stream, None)
        self._messages.forget(stream)

    @property
    def last_tsn(self) -> int:
        """The last TSN that was sent, cut to 32 bits."""
        return (self._next - 1) & 0xFFFFFFFF

    @property
    def idle(self) -> bool:
        """Whether everything has arrived."""
        return not (self._outstanding or self._messages)

    def chunks(self, now: float, room: int) -> list[bytes]:
        """Return DATA chunks for one packet, of at most ``room`` bytes; none if nothing may be sent now."""
        if not self._may_send(now):
            return self._copies_alone(now, room)
        chunks: list[bytes] = []
        before = room
        while self._again:
            sent = self._again[0]
            if sent.arrived:
                self._again.popleft()
                continue
            # A chunk that was cut when packets could be longer is sent nevertheless, in a packet of its own.
            if len(sent.chunk) > room and (chunks or len(sent.chunk) <= self.packet + self._header):
                break
            self._again.popleft()
            room = max(0, room - len(sent.chunk))
            chunks.append(self._transmit(sent, now))
        while self._messages and room > _LEAST_ROOM and (chunk := self._cut(now, room)) is not None:
            room -= len(chunk)
            chunks.append(chunk)
        if chunks:
            self._probes = max(0, self._probes - 1)
            if self._is_thin(now):
                copies, room = self._copy(room, before=len(chunks))
                chunks = copies + chunks  # a receiver sees no gap if one of these was lost
            self._pace(now, before - room)
            self._set_timer(now)
        return chunks

    # -- thin traffic

    def _is_thin(self, now: float) -> bool:
        thin = self._flight <= THIN and not self._messages and not self._again
        return thin and now < self._lossy_until and 2 * self._flight < self.congestion.window

    def _copy(self, room: int, *, before: int) -> tuple[list[bytes], int]:
        """Return chunks to send once more, except for the ``before`` last ones, and the remaining room."""
        copies: list[bytes] = []
        for _ in range(len(self._uncopied) - before):
            sent = self._uncopied[0]
            wanted = not (sent.arrived or sent.lost or sent.copied)
            if wanted and len(sent.chunk) > room:
                break
            self._uncopied.popleft()
            if wanted:
                sent.copied = True
                sent.times += 1
                copies.append(sent.chunk)
                room -= len(sent.chunk)
                self._copied[sent.tsn & 0xFFFFFFFF] = None
                if len(self._copied) > _COPIES:
                    self._copied.popitem(last=False)
        return copies, room

    def _copies_alone(self, now: float, room: int) -> list[bytes]:
        if self._copy_timer is None or now < self._copy_timer:
            return []
        self._copy_timer = None
        return self._copy(room, before=0)[0] if self._is_thin(now) else []

    def _may_send(self, now: float) -> bool:
        if not (self._again or self._messages):
            self._paced = False
            self._limit_by_app()
            return False
        if self._probes:
            return True
        if not (self._again or self._peer_takes):
            self._paced = False
            self._limit_by_app()
            return False
        if self._flight >= self.congestion.window:
            self._paced = False
            return False
        if now < self._next_at:
            self._paced = True
            return False
        return True

    @property
    def _peer_takes(self) -> bool:
        """Whether the next new chunk fits the peer's window. A single one is always sent (RFC 9260 section 6.1)."""
        if not self._outstanding:
            return True
        message = self._messages.next
        return self._outstanding + min(len(message.data) - message.sent, self.packet) <= self._window

    def _limit_by_app(self) -> None:
        if self._flight < self.congestion.window:
            self._limited_until = self._delivered + self._flight

    def _pace(self, now: float, size: int) -> None:
        """Decide when the next packet may be sent, after one of ``size`` bytes.

        A loop that is late must not lower the rate at which packets arrive. `Bbr` would take that for the path's rate.
        """
        rate = self.congestion.rate
        if rate < inf:
            since = now - (CATCH_UP if self._paced else QUANTUM)
            if self._paced and self._next_at < since:
                self._limit_by_app()
            self._next_at = max(self._next_at, since) + size / rate

    def _cut(self, now: float, room: int) -> bytes | None:
        """Cut and return the next chunk of the next message, if it is worth the remaining room of a packet."""
        message = self._messages.next
        left = len(message.data) - message.sent
        size = min(left, (room - self._header) & ~3)
        if size < left and size < self.packet // 2:
            return None
        if not (self._peer_takes or self._probes):
            return None
        tsn, self._next = self._next, self._next + 1
        flags = 0 if message.sent else FIRST
        data = message.data if size == len(message.data) else message.data[message.sent : message.sent + size]
        number = message.fragments
        self._messages.take(size)
        if size == left:
            flags |= LAST
            if not self._messages and self._flight > self.packet:
                flags |= IMMEDIATE  # RFC 7053: for the last of a burst, an acknowledgement has nothing to wait for
        self.buffered[message.stream] -= size
        self.queued -= size
        header = self._encode_header(tsn, flags, size, message, number)
        chunk = b"".join((header, data, bytes(-size & 3)))
        if not self._flight:
            self._first_sent = self._delivered_at = now
        limited = self._delivered <= self._limited_until
        self._transmissions = number = self._transmissions + 1
        sent = _Sent(tsn, chunk, size, number, now, self._delivered, self._delivered_at, self._first_sent, limited)
        self._sent[tsn] = sent
        self._order.append((number, sent))
        if now < self._lossy_until:
            self._uncopied.append(sent)
            self._copy_timer = now + COPY_AFTER
        self._flight += size
        self._outstanding += size
        return chunk

    def _encode_header(self, tsn: int, flags: int, size: int, message: Queued, number: int) -> bytes:
        """Return the header of a message's fragment of this size and number."""
        length, tsn = self._header + size, tsn & 0xFFFFFFFF
        if self._interleave:
            last = number or message.protocol  # RFC 8260 section 2.1: the first fragment has no number
            return I_DATA_HEADER.pack(I_DATA, flags, length, tsn, message.stream, 0, message.sequence, last)
        return DATA_HEADER.pack(DATA, flags, length, tsn, message.stream, message.sequence, message.protocol)

    def _transmit(self, sent: _Sent, now: float) -> bytes:
        if not self._flight:
            self._first_sent = self._delivered_at = now
        self._transmissions += 1
        sent.number, sent.sent_at, sent.lost = self._transmissions, now, False
        sent.times += 1
        sent.delivered, sent.delivered_at, sent.first_sent = self._delivered, self._delivered_at, self._first_sent
        sent.app_limited = self._delivered <= self._limited_until
        self._order.append((sent.number, sent))
        self._flight += sent.size
        return sent.chunk

    # -- acknowledgements

    def receive_sack(self, sack: Sack, now: float) -> None:
        """Process an acknowledgement. Raises `Malformed` if it names what was never sent."""
        cumulative = absolute(sack.tsn, self._cumulative)
        if cumulative >= self._next or any(start > end or cumulative + end >= self._next for start, end in sack.gaps):
            raise Malformed("it acknowledges what was not sent")
        if cumulative < self._cumulative:
            return  # an old acknowledgement
        arrived: list[_Sent] = []
        for tsn in range(self._cumulative + 1, cumulative + 1):
            sent = self._sent.pop(tsn)
            if not sent.arrived:
                arrived.append(sent)
        self._cumulative = cumulative
        self._take_blocks(cumulative, sack.gaps, arrived)
        if sack.duplicates:
            self._undo(sack.duplicates)
        self._window = min(sack.window, WINDOW_MOST)
        if arrived:
            self._backoff, self._probed = 0, False
        newest, rtt = self._take(arrived, now)
        lost = self._find_lost(now)
        if arrived or lost:
            self.congestion.acknowledged(self._sample(arrived, newest, rtt, lost, now))
        if arrived or not self._flight:
            self._set_timer(now)

    def _take_blocks(self, cumulative: int, gaps: list[tuple[int, int]], arrived: list[_Sent]) -> None:
        """Mark the chunks in gap blocks as arrived. Blocks grow at their ends, so the known part of each is skipped.

        Every sender orders its blocks by TSN. Any other block is ignored, so that no chunk is visited twice.
        """
        blocks: dict[int, int] = {}
        before = self._blocks
        last = cumulative
        for start, end in gaps:
            if cumulative + start <= last:
                continue
            first, last = cumulative + start, cumulative + end
            blocks[first] = last
            tsn = first
            while tsn <= last:
                if (known := before.get(tsn)) is not None and known <= last:
                    tsn = known + 1
                    continue
                sent = self._sent.get(tsn)
                if sent is not None and not sent.arrived:
                    arrived.append(sent)
                    sent.arrived = True
                tsn += 1
        self._blocks = blocks

    def _take(self, arrived: list[_Sent], now: float) -> tuple[_Sent | None, float | None]:
        """Account for what has arrived. Return the chunk of it that was sent last, and its round trip."""
        newest: _Sent | None = None
        for sent in arrived:
            sent.arrived = True
            self._outstanding -= sent.size
            if not sent.lost:
                self._flight -= sent.size
            self._delivered += sent.size
            if newest is None or sent.number > newest.number:
                newest = sent
        if newest is None:
            return None, None
        self._delivered_at = now
        passed = max(now - newest.sent_at, CLOCK)
        # RFC 8985 section 6.2: this acknowledges the first transmission, since it comes too soon for the latest.
        if newest.times > 1 and passed < self._least:
            return newest, None
        self._newest = max(self._newest, newest.number)
        self._first_sent = newest.sent_at
        self._latest = passed
        if newest.times > 1:
            return newest, None
        self._measure(passed)
        return newest, passed

    def _measure(self, rtt: float) -> None:
        self._least = min(self._least, rtt)
        if self.rtt is None:
            self.rtt, self._deviation = rtt, rtt / 2
            return
        self._deviation += (abs(self.rtt - rtt) - self._deviation) / 4
        self.rtt += (rtt - self.rtt) / 8

    def _sample(self, arrived: list[_Sent], newest: _Sent | None, rtt: float | None, lost: int, now: float) -> Sample:
        rate = None
        if newest is not None:
            sending = newest.sent_at - newest.first_sent
            acknowledging = now - newest.delivered_at
            interval = max(sending, acknowledging)
            if interval >= self._least:  # a shorter one comes from delayed acknowledgements
                rate = (self._delivered - newest.delivered) / interval
        return Sample(
            now=now,
            acked=sum([sent.size for sent in arrived]),
            lost=lost,
            flight=self._flight,
            delivered=self._delivered,
            sent_after=newest.delivered if newest is not None else -1,
            rate=rate,
            app_limited=newest.app_limited if newest is not None else True,
            rtt=rtt,
        )

    # -- losses

    def _find_lost(self, now: float) -> int:
        """Declare chunks lost that should have arrived, and return their bytes."""
        lost, self._reorder_timer = 0, None
        late = self._latest + max(self._reorder * min(self._least, self.rtt or 0), 0.001)
        order = self._order
        while order:
            number, sent = order[0]
            if sent.arrived or sent.lost or sent.number != number:
                order.popleft()
                continue
            if number >= self._newest:
                break
            if sent.sent_at + late > now:
                self._reorder_timer = sent.sent_at + late
                break
            order.popleft()
            lost += self._lose(sent)
        if lost:
            self._lossy_until = now + LOSSY_FOR
        return lost

    def _lose(self, sent: _Sent) -> int:
        sent.lost = True
        self._losses += 1
        self._flight -= sent.size
        self._again.append(sent)
        return sent.size

    def _undo(self, duplicates: list[int]) -> None:
        """Allow more reordering if packets arrived twice that were retransmitted: they had only been late."""
        if not self._copied.keys() >= set(duplicates):
            self._reorder = min(1.0, self._reorder + 0.25)

    @property
    def passed(self) -> tuple[int, int]:
        """How many chunks were sent, those sent again too, and how many of them were taken for lost."""
        return self._transmissions, self._losses

    # -- timers

    @property
    def timeouts(self) -> int:
        """The number of timeouts since anything was acknowledged."""
        return self._backoff

    @property
    def rto(self) -> float:
        """The retransmission timeout in seconds."""
        rto = RTO_FIRST if self.rtt is None else max(RTO_MIN, self.rtt + 4 * self._deviation)
        return float(min(rto * 2**self._backoff, max(RTO_MAX, rto)))

    def _set_timer(self, now: float) -> None:
        if not self._flight:
            self._timer = None
        elif self._probed or self.rtt is None:
            self._timer = now + self.rto
        else:
            delay = self._peer_delay if self._flight <= self.packet else 0.0
            self._timer = now + min(max(2 * self.rtt, PROBE_MIN) + delay, self.rto)

    def next_timer(self) -> float | None:
        """Return when to call `handle_timer`, or None if there is no need."""
        if not self._uncopied:
            self._copy_timer = None
        times = [at for at in (self._timer, self._reorder_timer, self._copy_timer) if at is not None]
        waits = self._again or (self._messages and self._peer_takes)
        if waits and self._flight < self.congestion.window:
            times.append(self._next_at)
        return min(times, default=None)

    def handle_timer(self, now: float) -> None:
        """Act on the timers that are due. See `next_timer`."""
        if self._reorder_timer is not None and now >= self._reorder_timer:
            lost = self._find_lost(now)
            if lost:
                self.congestion.acknowledged(self._sample([], None, None, lost, now))
                self._set_timer(now)
        if self._timer is None or now < self._timer:
            return
        if not self._probed and self.rtt is not None:
            self._probe(now)
        else:
            self._time_out()
        self._set_timer(now)

    def _probe(self, now: float) -> None:
        """Make the peer send an acknowledgement: send what is queued, or the last packet once more."""
        self._probed = True
        self._probes = 1
        if self._again or (self._messages and self._peer_takes):
            return
        while self._order:
            number, sent = self._order[-1]
            if not (sent.arrived or sent.lost or sent.number != number):
                self._order.pop()
                self._lose(sent)
                return
            self._order.pop()

    def _time_out(self) -> None:
        self._backoff = min(self._backoff + 1, 10)
        self._probed = True
        for number, sent in self._order:
            if not (sent.arrived or sent.lost or sent.number != number):
                self._lose(sent)
        self._order.clear()
        self._probes = 1
        self.congestion.timed_out()
