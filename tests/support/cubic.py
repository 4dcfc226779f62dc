"""TCP's usual congestion control, to share a simulated link with: CUBIC (RFC 9438)."""

from __future__ import annotations

from math import inf

from llmtunnel.transport.sctp.congestion import FIRST, LEAST, Sample

_BACK = 0.7
_C = 0.4
_ADDITIVE = 3 * (1 - _BACK) / (1 + _BACK)


class Cubic:
    """A `Congestion`. It fills a queue until packets are lost."""

    def __init__(self, packet: int) -> None:
        self.window = FIRST * packet
        self.rate = inf
        self._packet = packet
        self._threshold = 1 << 62
        self._recovers_until = -1
        self._most = 0.0
        """The window at the last loss, in packets."""
        self._began: float | None = None
        self._inflection = 0.0
        """Seconds after that at which the curve is flat."""
        self._friendly = 0.0
        """What Reno would have."""
        self._rtt = 0.0

    def acknowledged(self, sample: Sample) -> None:
        """See `Congestion`."""
        self._rtt = sample.rtt or self._rtt
        window = self.window / self._packet
        if sample.lost and sample.delivered > self._recovers_until:
            self._most = window * (1 + _BACK) / 2 if window < self._most else window
            self.window = self._threshold = max(int(_BACK * self.window), LEAST * self._packet)
            self._began, self._recovers_until = None, sample.delivered + sample.flight
        elif sample.app_limited or sample.delivered <= self._recovers_until:
            return
        elif self.window < self._threshold:
            self.window += sample.acked
        else:
            self.window += int((self._target(sample, window) - window) / window * sample.acked)

    def _target(self, sample: Sample, window: float) -> float:
        if self._began is None:
            self._began, self._friendly = sample.now, window
            self._inflection = (max(0.0, self._most - window) / _C) ** (1 / 3)
            self._most = max(self._most, window)
        self._friendly += _ADDITIVE * sample.acked / self.window
        curve = _C * (sample.now - self._began + self._rtt - self._inflection) ** 3 + self._most
        return min(max(curve, self._friendly, window), 1.5 * window)

    def timed_out(self) -> None:
        """See `Congestion`."""
        self._threshold, self._began = max(self.window // 2, LEAST * self._packet), None
        self.window = self._packet
