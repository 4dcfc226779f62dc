"""The table: what was measured, beside the aim and beside what others reached."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Final

NOTHING: Final = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement, as text; `figure` says what, and in which unit."""

    figure: str
    direct: str = NOTHING
    tunnel: str = NOTHING
    channel: str = NOTHING
    """A bare data channel between two processes."""
    result: str = NOTHING
    """What the tunnel adds, or its share of what it is measured by."""


HEADINGS: Final = ("figure", "direct", "tunnel", "bare channel", "result", "aim", "original", "dumbpipe")

BESIDE: Final[Mapping[str, tuple[str, str, str]]] = {
    "small GET, p50": ("under 2.5 ms", "44 ms", "0.8 ms"),
    "64 streams of 30 tokens/s, p99": ("under 30 ms", "7 ms", "8 ms"),
    "processor of a notebook's serve, panel open": ("under +5%", NOTHING, NOTHING),
    "requests a second, 16 connections": ("700", "325", "709"),
    "bulk down, direct path, MB/s": ("100", "22", "229"),
    "bulk up, direct path, MB/s": ("100", "29", "185"),
    "bulk down, local TCP, MB/s": ("240", NOTHING, "229"),
    "bulk up, local TCP, MB/s": ("240", NOTHING, "229"),
    "a page in Chromium, down, MB/s": ("20", NOTHING, NOTHING),
    "a page's opening to its first answer": ("under 1.5 s", NOTHING, NOTHING),
    "a proxy's start to its first answer": ("under 1.0 s", "0.3 s", "5 s"),
    "serve's crash and restart to an answer": ("under 3 s", "31 s", NOTHING),
    "a stalled 1 GB: memory grows, MB": ("under 16", "96", "1"),
    "a stalled 1 GB: others wait": ("under 100 ms", "340 ms", "50 ms"),
}
"""By figure: our aim, the original (a tunnel in Rust over WebRTC) and dumbpipe 0.40 (Rust, QUIC), which were measured
from outside, on another machine with 2 cores: compare with what direct reaches, not to the digit."""


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table whose columns stand in line."""
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    lines = [_line(line, widths) for line in cells]
    lines.insert(1, _line(["-" * width for width in widths], widths))
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    return *astuple(row), *BESIDE.get(row.figure, (NOTHING,) * 3)


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that is not under ``share`` (0 to 1) of all of them; of none: not a number."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def ms(seconds: float) -> str:
    """Seconds as milliseconds."""
    value = seconds * 1000
    return f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"
