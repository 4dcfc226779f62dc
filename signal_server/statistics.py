"""What a server counts. Pure.

Counting is one addition to an integer, so that it costs the data path next to nothing. `metrics` reads the numbers when
somebody asks for them. Nothing here may name a room, an address or a peer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from .messages import Code

LATENCIES: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""Upper bounds of a `Histogram` of delays, in seconds. Clients notice some tenths of a second."""


class Histogram:
    """How many observed values lie within each of some upper bounds."""

    def __init__(self, bounds: Sequence[float] = LATENCIES) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """Values up to each bound and above the one before it; the last are those above all bounds."""
        self.sum = 0.0
        """Sum of all values."""

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass(slots=True, kw_only=True)
class Statistics:
    """What one server has counted since it started."""

    connections: int = 0
    """Accepted TCP connections."""
    evicted: int = 0
    """Connections without a room that were dropped: they joined none in time, or others needed their places."""
    joins: int = 0
    """Successful joins, including those of members that came back."""
    messages: int = 0
    """Messages of clients that were accepted, without those in pipes."""
    pipes: int = 0
    """Pipes of which both ends have connected."""
    relayed: int = 0
    """Bytes that pipes have carried, in both directions."""
    refused: dict[Code, int] = field(default_factory=lambda: dict.fromkeys(Code, 0))
    """Rejected messages and pipes, by reason."""
    loop_lag: Histogram = field(default_factory=Histogram)
    """Seconds by which the event loop was late. Measured only while somebody may ask, see `metrics`."""
