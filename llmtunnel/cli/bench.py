"""``llmtunnel bench``: print a table that grows during the measurement, or one JSON object."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from ..benchmark import Progress
from ..benchmark import bench as measure
from ..config import BenchOptions
from ..measure.phases import Phase
from ..measure.result import BenchResult
from ..measure.table import WIDE, foot, head, line, rows, titles
from ..status import Listening, Notice, Ready, RequestFinished, Stopped, TotalsNotice
from .console import Console

ABOUT: Final = "Measuring for about {:g} s.\n\n"
_UNTOLD: Final = (Listening, Ready, RequestFinished, Stopped, TotalsNotice)
"""Notices of the measuring proxy that are not shown, since its listener and requests are internal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchFinished(Notice):
    """``bench`` only: the figures. Fields that end in ``_ms`` are milliseconds."""

    event: ClassVar[str] = "bench"
    path: str
    """How packets travel: ``direct``, ``turn``, ``relay`` or ``tcp``."""
    rtt_ms: float | None
    """Shortest round-trip time, in milliseconds."""
    loss: float | None
    """Share of this side's packets that it considered lost, from 0 to 1; null over TCP or a relay."""
    packets: int | None
    """Number of packets that ``loss`` is based on."""
    started: float
    """When the measurement started, as Unix time."""
    seconds: float
    """Duration of the measurement once connected, in seconds."""
    tunnel: dict[str, Any]
    """``latency`` (``p50_ms``, ``p99_ms``), ``requests`` (``per_second``, ``connections``), ``download`` and ``upload``
    (``bytes_per_second``, ``bytes``), ``tokens``: a list (``streams``, ``sent_per_second``, ``per_second``,
    ``gap_p50_ms``, ``gap_p99_ms``). Each has its ``seconds``, the number of ``samples`` if it has samples, and the text
    ``limited_by`` if something can limit it. Null: the measurement failed."""
    direct: dict[str, Any] | None
    """The same figures without a tunnel, if both sides are on this machine; else null."""
    notes: list[str]
    """Remarks about the figures, for people."""


async def bench(options: BenchOptions, console: Console) -> int:
    """Measure, and print the figures. Returns 0 if every measurement succeeded."""
    progress = _Told(console, options.duration)
    result = await measure(options, timeout=None, progress=progress)
    progress.end(result)
    console.record(BenchFinished(**result.as_dict()))  # type: ignore[arg-type]
    figures = result.tunnel
    return 0 if figures.latency and figures.requests and figures.download and figures.upload and figures.tokens else 1


class _Told(Progress):
    """Prints each row as soon as it is known."""

    def __init__(self, console: Console, duration: float) -> None:
        self._console = console
        self._duration = duration
        self._rows = 0
        self._width = max(shutil.get_terminal_size((WIDE, 24)).columns, 20)

    def heard(self, notice: Notice) -> None:
        """See `Progress.heard`."""
        if not isinstance(notice, _UNTOLD):
            self._console.tell(notice)

    def connected(self, so_far: BenchResult) -> None:
        """See `Progress.connected`."""
        local = so_far.direct is not None
        self._console.say(ABOUT.format(self._duration))
        self._lines(titles(width=self._width, local=local))

    def begins(self, phase: Phase) -> None:
        """See `Progress.begins`."""

    def found(self, so_far: BenchResult) -> None:
        """See `Progress.found`."""
        known = list(rows(so_far.tunnel, so_far.direct))
        local = so_far.direct is not None
        self._lines([line(row, width=self._width, local=local) for row in known[self._rows :]])
        self._rows = len(known)

    def end(self, result: BenchResult) -> None:
        """Print the result's last lines."""
        self._lines(["", *(each for each in head(result, width=self._width) if each)])
        self._lines(each for each in foot(result, width=self._width) if each)

    def _lines(self, lines: Any) -> None:
        self._console.say("".join(f"{each.rstrip()}\n" for each in lines))
