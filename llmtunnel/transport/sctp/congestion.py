"""How many bytes may be in flight, and how fast they are sent: strategies. Pure.

`Bbr` is the default. Like BBR (draft-ietf-ccwg-bbr; Cardwell et al., 2016), it models the path by the rate at which
bytes arrive and by the shortest round trip. A lost packet alone says nothing about the path, so loss on a radio link
does not slow it down. `NewReno` (RFC 9260 section 7) is the reference.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final, Protocol

FIRST: Final = 10
"""Packets in flight before anything is acknowledged (RFC 6928)."""
LEAST: Final = 4
"""Packets that may always be in flight."""
NEAR: Final = 0.003
"""Seconds. A path with a shorter round trip holds no data itself: bytes in flight wait in a socket's buffer."""
NEAR_WINDOW: Final = 96 * 1024
"""Bytes in flight on such a path: half of what a socket's buffer holds in packets of 1,200 bytes."""


@dataclass(slots=True)
class Sample:
    """What one acknowledgement reveals."""

    now: float
    acked: int
    """Bytes that it is the first to acknowledge."""
    lost: int
    """Bytes considered lost since the last acknowledgement."""
    flight: int
    """Bytes in flight after it."""
    delivered: int
    """Bytes acknowledged so far, in total."""
    sent_after: int
    """The same at the moment when the newest of these packets was sent."""
    rate: float | None
    """Bytes per second at which packets arrived; None if unknown."""
    app_limited: bool
    """Whether less was sent than possible, so that the rate may be the sender's own."""
    rtt: float | None
    """Round trip of the newest packet in seconds; None if it was sent twice."""


class Congestion(Protocol):
    """A strategy. Sizes are in bytes, times in seconds."""

    window: int
    """Bytes that may be in flight."""
    rate: float
    """Bytes per second at which packets are sent; infinite if nothing limits it."""

    def acknowledged(self, sample: Sample) -> None:
        """Note that something was acknowledged, or is considered lost."""

    def timed_out(self) -> None:
        """Note that nothing was acknowledged for long, so that everything in flight may be lost."""


class NewReno:
    """RFC 9260 section 7: a window that grows by what is acknowledged, and halves for a loss once per round trip."""

    def __init__(self, packet: int) -> None:
        self.window = FIRST * packet
        self.rate = inf
        self._packet = packet
        self._threshold = 1 << 62
        self._recovers_until = -1
        """Total of acknowledged bytes after which a loss counts as a new one."""

    def acknowledged(self, sample: Sample) -> None:
        """See `Congestion`."""
        if sample.lost and sample.delivered > self._recovers_until:
            self._threshold = max(self.window // 2, LEAST * self._packet)
            self.window = self._threshold
            self._recovers_until = sample.delivered + sample.flight
        elif sample.app_limited:
            return
        elif self.window < self._threshold:
            self.window += sample.acked
        else:
            self.window += max(1, self._packet * sample.acked // self.window)

    def timed_out(self) -> None:
        """See `Congestion`."""
        self._threshold = max(self.window // 2, LEAST * self._packet)
        self.window = self._packet


class Phase(Enum):
    """The phases of `Bbr`."""

    STARTUP = "startup"
    """Double the rate until the path is full."""
    DRAIN = "drain"
    """Let the queue drain that `STARTUP` has built."""
    PROBE_RATE = "probe rate"
    """Send at the path's rate, and a little faster now and then to see whether there is more."""
    PROBE_RTT = "probe rtt"
    """Send slowly for a moment, so that the queue empties and the shortest round trip becomes visible."""


_STARTUP_GAIN: Final = 2.77
_DRAIN_GAIN: Final = 0.35
_CYCLE: Final = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
"""Gains of the rate, each for the duration of a shortest round trip."""
_WINDOW_GAIN: Final = 2.0
_RATE_ROUNDS: Final = 10
"""Round trips for which the highest rate counts."""
_FULL_ROUNDS: Final = 3
"""The path is full after this many round trips in which the rate has not grown by a quarter."""
_RTT_FOR: Final = 10.0
"""Seconds for which the shortest round trip counts."""
_RTT_TIME: Final = 0.2
"""Duration of `Phase.PROBE_RTT` in seconds."""
_LOSS: Final = 0.15
"""If a greater share of a round trip's bytes is lost, a queue has overflowed. Radio links lose less."""
_BACK: Final = 0.7
"""The share of the bytes in flight that the window keeps in that case."""
_RATE_LEAST: Final = 250_000.0
"""Lower bound of the rate, in bytes per second. It does not delay tokens on a path that never carried more than tokens.
Only the window limits what a slower path gets at once."""
_MARGIN: Final = 0.99
"""The rate is a little lower than the path's, so that a queue drains."""


class Bbr:
    """A strategy after BBR. ``packet``: bytes in one packet."""

    def __init__(self, packet: int) -> None:
        self.window = FIRST * packet
        self.rate = inf
        self.phase = Phase.STARTUP
        self._packet = packet
        self._rates: deque[tuple[int, float]] = deque()
        """Round and rate, by falling rate: the first has the highest rate of the last rounds."""
        self._rate_round = 0
        """The rounds of `_rates`: those in which the application had enough to send. Others do not age a rate."""
        self._round = 0
        self._round_ends = 0
        """Bytes delivered when the round ends."""
        self._rtt_least = inf
        self._rtt_seen = 0.0
        """When the shortest round trip was seen."""
        self._full_rate = 0.0
        self._full_rounds = 0
        self._filled = False
        self._cycle = 2
        self._cycle_began = 0.0
        self._rtt_until: float | None = None
        """When `Phase.PROBE_RTT` ends; None while the queue is still draining."""
        self._ceiling: float = inf
        """Bytes in flight that the path's queue can hold."""
        self._round_acked = self._round_lost = 0
        self._clump, self._clump_began = 0, 0.0
        """Bytes acknowledged since ``_clump_began``, when at most as many had been as the rate predicts."""
        self._extra = self._extra_before = 0.0
        """Bytes that have arrived at once beyond the rate: in the last rounds, and in the rounds before those."""

    @property
    def bandwidth(self) -> float:
        """Bytes per second that the path carries, as far as we know; 0 if unknown."""
        return self._rates[0][1] if self._rates else 0.0

    @property
    def _product(self) -> float:
        """Bytes that the path itself holds: the bandwidth-delay product."""
        return self.bandwidth * self._rtt_least if self._rtt_least < inf else 0.0

    def acknowledged(self, sample: Sample) -> None:
        """See `Congestion`."""
        round_began = sample.sent_after >= self._round_ends
        if round_began:
            self._round += 1
            self._round_ends = sample.delivered
        self._take_rate(sample, round_began)
        self._take_loss(sample, round_began)
        self._take_extra(sample, round_began)
        expired = sample.now > self._rtt_seen + _RTT_FOR
        if sample.rtt is not None and (sample.rtt <= self._rtt_least or expired):
            self._rtt_least, self._rtt_seen = sample.rtt, sample.now
        self._step(sample, round_began, expired)
        self._set(sample)

    def timed_out(self) -> None:
        """See `Congestion`. Keeps the model of the path: either the path comes back, or another one is measured."""
        self.window = LEAST * self._packet

    # -- the model of the path

    def _take_rate(self, sample: Sample, round_began: bool) -> None:
        self._rate_round += round_began and not sample.app_limited
        if sample.rate is not None and (not sample.app_limited or sample.rate >= self.bandwidth):
            while self._rates and self._rates[-1][1] <= sample.rate:
                self._rates.pop()
            self._rates.append((self._rate_round, sample.rate))
        while len(self._rates) > 1 and self._rates[0][0] < self._rate_round - _RATE_ROUNDS:
            self._rates.popleft()

    def _take_loss(self, sample: Sample, round_began: bool) -> None:
        if round_began:
            few = self._round_lost <= _LOSS / 3 * (self._round_acked + self._round_lost)
            if self._ceiling < inf and few and self._gain > 1 and not sample.app_limited:
                self._ceiling *= 1.25
            self._round_acked = self._round_lost = 0
        self._round_acked += sample.acked
        self._round_lost += sample.lost
        total = self._round_acked + self._round_lost
        if sample.lost and self._round_lost > _LOSS * total and self._round_lost > 8 * self._packet:
            self._ceiling = max(_BACK * (sample.flight + sample.lost), self._product, LEAST * self._packet)
            self._round_acked = self._round_lost = 0
            self._filled = True

    def _take_extra(self, sample: Sample, round_began: bool) -> None:
        """Update how much arrives at once beyond the rate: the draft's "extra acked", the most of the last rounds."""
        expected = self.bandwidth * (sample.now - self._clump_began)
        if self._clump <= expected:
            self._clump, self._clump_began, expected = 0, sample.now, 0.0
        self._clump += sample.acked
        if round_began and self._round % _RATE_ROUNDS == 0:
            self._extra_before, self._extra = self._extra, 0.0
        self._extra = max(self._extra, min(self._clump - expected, float(self.window)))

    # -- decisions

    @property
    def _gain(self) -> float:
        match self.phase:
            case Phase.STARTUP:
                return _STARTUP_GAIN
            case Phase.DRAIN:
                return _DRAIN_GAIN
            case Phase.PROBE_RTT:
                return 1.0
        return _CYCLE[self._cycle]

    def _step(self, sample: Sample, round_began: bool, expired: bool) -> None:
        if not self._filled and round_began and not sample.app_limited:
            if self.bandwidth >= 1.25 * self._full_rate:
                self._full_rate, self._full_rounds = self.bandwidth, 0
            else:
                self._full_rounds += 1
                self._filled = self._full_rounds >= _FULL_ROUNDS
        if self.phase is Phase.STARTUP and self._filled:
            self.phase = Phase.DRAIN
        if self.phase is Phase.DRAIN and sample.flight <= self._product:
            self._probe_rate(sample.now)
        if self.phase is Phase.PROBE_RATE:
            self._go_round(sample)
        if expired and self.phase is not Phase.PROBE_RTT and sample.flight > self._slow_window:
            self.phase, self._rtt_until = Phase.PROBE_RTT, None
        if self.phase is Phase.PROBE_RTT:
            self._probe_rtt(sample)

    def _go_round(self, sample: Sample) -> None:
        lasted = sample.now - self._cycle_began > self._rtt_least
        gain = _CYCLE[self._cycle]
        if gain > 1:
            done = lasted and (sample.lost > 0 or sample.flight >= gain * self._product)
        elif gain < 1:
            done = lasted or sample.flight <= self._product
        else:
            done = lasted
        if done:
            self._cycle, self._cycle_began = (self._cycle + 1) % len(_CYCLE), sample.now

    def _probe_rate(self, now: float) -> None:
        self.phase, self._cycle, self._cycle_began = Phase.PROBE_RATE, 2, now

    def _probe_rtt(self, sample: Sample) -> None:
        if self._rtt_until is None and sample.flight <= self._slow_window:
            self._rtt_until = sample.now + _RTT_TIME
        if self._rtt_until is not None and sample.now > self._rtt_until:
            self._rtt_seen = sample.now
            if self._filled:
                self._probe_rate(sample.now)
            else:
                self.phase = Phase.STARTUP

    @property
    def _slow_window(self) -> int:
        return max(int(0.5 * self._product), LEAST * self._packet)

    def _set(self, sample: Sample) -> None:
        if not self._rates or self._rtt_least == inf:
            self.window += sample.acked
            return
        if self._rtt_least < NEAR:
            self.rate, self.window = inf, int(min(NEAR_WINDOW, self._ceiling))
            return
        self.rate = max(_MARGIN * self._gain * self.bandwidth, _RATE_LEAST)
        if self.phase is Phase.PROBE_RTT:
            self.window = self._slow_window
            return
        gain = _WINDOW_GAIN if self._filled else _STARTUP_GAIN
        target = gain * self._product + max(self._extra, self._extra_before) + LEAST * self._packet
        grown = self.window + sample.acked
        # Until the path is full, the window grows by what arrives, so that a rate that is still too low does not limit
        # it.
        target = min(target, grown) if self._filled else max(target, grown)
        self.window = max(int(min(target, self._ceiling)), LEAST * self._packet)
