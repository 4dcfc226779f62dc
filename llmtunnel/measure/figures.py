"""The result of a measurement: frozen values with their units, pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import ceil

from ..paths import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long small requests take, one after the other on one connection."""

    p50_ms: float
    """The median, in milliseconds."""
    p99_ms: float
    """The 99th percentile; of fewer than 100 samples the longest."""
    samples: int
    """Requests that it is made of."""
    seconds: float
    """How long it was measured."""
    limited_by: str = ""
    """What kept the figure down, as far as this side can tell; empty if it cannot."""
    values_ms: tuple[float, ...] = field(default=(), repr=False)
    """Each sample in the order of time. ``--json`` leaves it out."""

    @classmethod
    def of(cls, values: Iterable[float], seconds: float, *, limited_by: str = "") -> Times | None:
        """Of some times in seconds. None where there are none."""
        times = tuple(value * 1000 for value in values)
        if not times:
            return None
        return cls(
            p50_ms=percentile(times, 0.5),
            p99_ms=percentile(times, 0.99),
            samples=len(times),
            seconds=seconds,
            limited_by=limited_by,
            values_ms=times,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """How many small requests pass, on several connections at once."""

    per_second: float
    connections: int
    """Each has one request after another."""
    samples: int
    """Requests that ended."""
    seconds: float
    """How long it was measured."""
    limited_by: str = ""
    """See `Times.limited_by`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """How fast bulk data passes, in one request."""

    bytes_per_second: float
    """The mean without the first quarter of the time, in which windows and rates grow."""
    bytes: int
    """In all."""
    seconds: float
    """In all."""
    limited_by: str = ""
    """See `Times.limited_by`."""
    points: tuple[tuple[float, int], ...] = field(default=(), repr=False)
    """Seconds since the beginning, and the bytes until then. ``--json`` leaves it out."""

    @property
    def rates(self) -> tuple[tuple[float, float], ...]:
        """Seconds since the beginning, and the bytes a second since the point before."""
        steps = pairwise(self.points)
        return tuple((at, (count - had) / (at - before)) for (before, had), (at, count) in steps if at > before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """How steadily tokens pass, in several streams at once."""

    streams: int
    """Streams at the same time."""
    sent_per_second: float
    """Tokens a second that the other side has been asked to send, in all streams together."""
    per_second: float
    """Tokens a second that have come, of all streams together, from the first one to the last one."""
    gap_p50_ms: float
    """The median of the time between two tokens of a stream, in milliseconds."""
    gap_p99_ms: float
    """The 99th percentile of that."""
    samples: int
    """Tokens that have come."""
    seconds: float
    """From the first to the last."""
    limited_by: str = ""
    """See `Times.limited_by`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Everything that was measured on one connection. None, or a missing number of streams: it did not come about."""

    latency: Times | None = None
    requests: Requests | None = None
    download: Transfer | None = None
    upload: Transfer | None = None
    tokens: tuple[Tokens, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """As ``--json`` has it."""
        told = asdict(self)
        for name, left_out in (("latency", "values_ms"), ("download", "points"), ("upload", "points")):
            if told[name] is not None:
                del told[name][left_out]
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a measurement has found."""

    tunnel: Figures
    """Through the tunnel, from a client of a proxy's listener to serve (or the toy model server) and back."""
    direct: Figures | None = None
    """The same without a tunnel, where both sides are in this process; else None."""
    path: Path
    """How packets travel."""
    rtt_ms: float | None = None
    """The shortest round trip that was seen, in milliseconds, to 1 ms; None where none was measured."""
    loss: float | None = None
    """Share of the packets this side has sent that it took for lost, 0 to 1; None over TCP or a relay."""
    packets: int | None = None
    """Packets that ``loss`` is made of."""
    started: float
    """Unix time."""
    seconds: float
    """How long all of it took, once connected."""
    notes: tuple[str, ...] = ()
    """What there is to know of the figures: what limited them, what was left out."""

    def as_dict(self) -> dict[str, object]:
        """As ``--json`` has it: numbers in the units that their names or descriptions say, and nothing secret."""
        told = {name: getattr(self, name) for name in ("path", "rtt_ms", "loss", "packets", "started", "seconds")}
        direct = None if self.direct is None else self.direct.as_dict()
        return {**told, "tunnel": self.tunnel.as_dict(), "direct": direct, "notes": list(self.notes)}


def percentile(values: Iterable[float], share: float) -> float:
    """One of the values, at least one, that this share of them does not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(ceil(len(ranked) * share) - 1, 0)]
