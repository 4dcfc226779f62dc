"""Two SCTP associations and a network between them, in simulated time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random

from llmtunnel.transport.sctp.association import Association, Ended, Event, State
from llmtunnel.transport.sctp.inbound import Message

HEADERS = 60
"""Bytes that IP, UDP and DTLS add to a packet."""


@dataclass(slots=True, kw_only=True)
class Wire:
    """One direction. ``rate``: bytes a second; ``queue``: bytes that wait in front of it; chances are 0 to 1."""

    rng: Random
    rate: float = 25e6
    delay: float = 0.03
    queue: float = 1e6
    loss: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    """The chance that a packet comes up to ten delays later, behind others."""
    mtu: int = 1 << 16
    """Bytes of the longest packet that passes; longer ones only while they may travel in pieces."""
    pieces: bool = False
    cut: Callable[[float], bool] = lambda now: False
    held_until: float = 0.0
    """When a spike of the delay ends: what would arrive earlier arrives then."""
    dropped: int = 0
    _free: float = 0.0

    def arrivals(self, size: int, now: float) -> list[float]:
        """When a packet arrives: never, once, or twice."""
        size += HEADERS
        too_long = size - HEADERS > self.mtu and not self.pieces
        if self.cut(now) or too_long or self.rng.random() < self.loss:
            return []
        if (self._free - now) * self.rate > self.queue:
            self.dropped += 1
            return []
        self._free = max(self._free, now) + size / self.rate
        times = 2 if self.rng.random() < self.twice else 1
        return [max(self.held_until, self._free + self.delay + self._lateness()) for _ in range(times)]

    def _lateness(self) -> float:
        return self.rng.uniform(0, 10 * self.delay) if self.rng.random() < self.late else 0.0


@dataclass(slots=True)
class Side:
    """One association, and what it told."""

    association: Association
    wire: Wire
    events: list[Event] = field(default_factory=list)
    packets: int = 0
    peer: Side = field(init=False)
    turn: float = -1.0
    """When its loop's last turn began."""
    busy_until: float = -1.0
    """Before then its loop takes no other turn."""

    @property
    def messages(self) -> list[Message]:
        return [event for event in self.events if isinstance(event, Message)]

    @property
    def ended(self) -> str | None:
        return next((event.reason for event in self.events if isinstance(event, Ended)), None)


class Network:
    """``left`` begins. `run` plays it; ``refill`` is called before a side sends, and may give it more.

    ``busy``: seconds that a side's loop does other things after each of its turns.
    """

    def __init__(
        self,
        left: Wire,
        right: Wire,
        *,
        make: Callable[[], Association] = Association,
        refill: Callable[[Side, float], None] = lambda side, now: None,
        busy: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.now = 0.0
        self._refill = refill
        self._busy = busy
        self._sides: list[Side] = []
        self._under_way: list[tuple[float, int, Side, bytes]] = []
        self._number = count()
        self.left, self.right = self.join(make, left, right)

    def join(self, make: Callable[[], Association], left: Wire, right: Wire) -> tuple[Side, Side]:
        """Two more associations, over the wires of others or their own; the first of the two begins now."""
        pair = Side(make(), left), Side(make(), right)
        pair[0].peer, pair[1].peer = pair[1], pair[0]
        self._sides += pair
        pair[0].association.begin(self.now)
        self.send_all()
        return pair

    def run(self, until: Callable[[], bool], *, seconds: float, steps: int = 2_000_000) -> None:
        """Play until that is so. Fails where it is not within simulated ``seconds``, or so many steps."""
        end = self.now + seconds
        self.send_all()
        for _ in range(steps):
            if until():
                return
            assert self.step(end), f"it is not so after {seconds} s"
        raise AssertionError(f"it is not so after {steps} steps: a livelock")

    def pass_time(self, seconds: float) -> None:
        """Play for so long."""
        end = self.now + seconds
        self.send_all()
        while self.step(end):
            pass
        self.now = end

    def inject(self, side: Side, packet: bytes) -> None:
        """Have a side receive a packet now."""
        side.events += side.association.receive_packet(packet, self.now)
        self.send_all()

    def step(self, end: float) -> bool:
        """Go on to what happens next; False where that is not before ``end``."""
        when, side = end, None
        for each in self._sides:
            at = each.association.next_timer()
            if at is not None and (at := self._turn(each, at)) < when:
                when, side = at, each
        if self._under_way and self._under_way[0][0] <= when:
            when, number, receiver, packet = heapq.heappop(self._under_way)
            if when >= end:
                heapq.heappush(self._under_way, (when, number, receiver, packet))
                return False
            if (turn := self._turn(receiver, when)) > when:
                heapq.heappush(self._under_way, (turn, number, receiver, packet))
                return True
            self._begin(receiver, when)
            receiver.events += receiver.association.receive_packet(packet, self.now)
            self._send_of(receiver)
            return True
        if side is None:
            return False
        self._begin(side, when)
        side.events += side.association.handle_timer(self.now)
        if (allowed := side.association.take_fragmentation()) is not None:
            side.wire.pieces = allowed
        self._send_of(side)
        return True

    def _turn(self, side: Side, at: float) -> float:
        """When the side's loop takes what is due at that time."""
        return at if at <= side.turn else max(at, side.busy_until)

    def _begin(self, side: Side, when: float) -> None:
        self.now = max(self.now, when)
        if self.now > side.turn:
            side.turn, side.busy_until = self.now, self.now + self._busy()

    def send_all(self) -> None:
        """Put on the wire what both sides have to send."""
        for side in self._sides:
            self._send_of(side)

    def _send_of(self, side: Side) -> None:
        while True:
            if side.association.state is State.ESTABLISHED:
                self._refill(side, self.now)
            packet = side.association.packet_to_send(self.now)
            if packet is None:
                break
            side.packets += 1
            for at in side.wire.arrivals(len(packet), self.now):
                heapq.heappush(self._under_way, (at, next(self._number), side.peer, packet))
