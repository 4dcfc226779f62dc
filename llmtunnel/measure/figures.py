"""The figures of a measurement: frozen values with their units. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import ceil

from ..paths import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Latency of small requests, one after the other on one connection."""

    p50_ms: float
    """Median, in milliseconds."""
    p99_ms: float
    """99th percentile, in milliseconds; with fewer than 100 samples, the maximum."""
    samples: int
    """Number of requests."""
    seconds: float
    """Duration of the measurement, in seconds."""
    limited_by: str = ""
    """What limited the figure, as far as this side can tell; empty if unknown."""
    values_ms: tuple[float, ...] = field(default=(), repr=False)
    """Every sample in order of time, in milliseconds. ``--json`` omits it."""

    @classmethod
    def of(cls, values: Iterable[float], seconds: float, *, limited_by: str = "") -> Times | None:
        """Return the figures of some times in seconds, or None without times."""
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
    """Rate of small requests, on several connections at once."""

    per_second: float
    connections: int
    """Number of connections, each with one request after another."""
    samples: int
    """Number of finished requests."""
    seconds: float
    """Duration of the measurement, in seconds."""
    limited_by: str = ""
    """See `Times.limited_by`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Throughput of bulk data, in one request."""

    bytes_per_second: float
    """Mean throughput, without the first quarter of the time, in which windows and rates grow."""
    bytes: int
    """Bytes in total."""
    seconds: float
    """Duration of the transfer, in seconds."""
    limited_by: str = ""
    """See `Times.limited_by`."""
    points: tuple[tuple[float, int], ...] = field(default=(), repr=False)
    """Seconds since the start, with the bytes until then. ``--json`` omits it."""

    @property
    def rates(self) -> tuple[tuple[float, float], ...]:
        """Seconds since the start, with the bytes per second since the previous point."""
        steps = pairwise(self.points)
        return tuple((at, (count - had) / (at - before)) for (before, had), (at, count) in steps if at > before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Steadiness of tokens, in several streams at once."""

    streams: int
    """Number of simultaneous streams."""
    sent_per_second: float
    """Tokens per second that the other side was asked to send, over all streams."""
    per_second: float
    """Tokens per second that arrived, over all streams, from the first one to the last one."""
    gap_p50_ms: float
    """Median time between two tokens of a stream, in milliseconds."""
    gap_p99_ms: float
    """99th percentile of the time between two tokens, in milliseconds."""
    samples: int
    """Number of tokens that arrived."""
    seconds: float
    """Seconds from the first token to the last."""
    limited_by: str = ""
    """See `Times.limited_by`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All figures of one connection. None, or a missing number of streams, means that a measurement failed."""

    latency: Times | None = None
    requests: Requests | None = None
    download: Transfer | None = None
    upload: Transfer | None = None
    tokens: tuple[Tokens, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return the figures as in ``--json``."""
        told = asdict(self)
        for name, left_out in (("latency", "values_ms"), ("download", "points"), ("upload", "points")):
            if told[name] is not None:
                del told[name][left_out]
        return told


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The result of a measurement."""

    tunnel: Figures
    """Figures through the tunnel: from a client of a proxy's listener to serve (or the toy model server) and back."""
    direct: Figures | None = None
    """The same figures without a tunnel, if both sides are in this process; else None."""
    path: Path
    """How packets travel."""
    rtt_ms: float | None = None
    """Shortest round-trip time, in milliseconds, with a resolution of 1 ms; None if there is no measurement."""
    loss: float | None = None
    """Share of this side's packets that it considered lost, from 0 to 1; None over TCP or a relay."""
    packets: int | None = None
    """Number of packets that ``loss`` is based on."""
    started: float
    """When the measurement started, as Unix time."""
    seconds: float
    """Duration of the whole measurement once connected, in seconds."""
    notes: tuple[str, ...] = ()
    """Remarks for people: what limited the figures, and what was omitted."""

    def as_dict(self) -> dict[str, object]:
        """Return the result as in ``--json``. Names or descriptions state the units. Nothing in it is secret."""
        told = {name: getattr(self, name) for name in ("path", "rtt_ms", "loss", "packets", "started", "seconds")}
        direct = None if self.direct is None else self.direct.as_dict()
        return {**told, "tunnel": self.tunnel.as_dict(), "direct": direct, "notes": list(self.notes)}


def percentile(values: Iterable[float], share: float) -> float:
    """Return the percentile of at least one value, by nearest rank."""
    ranked = sorted(values)
    return ranked[max(ceil(len(ranked) * share) - 1, 0)]
