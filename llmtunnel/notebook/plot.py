"""Plot a tunnel's last hour: round-trip time, time to the first token, tokens and bytes per second. Needs matplotlib.

The plot uses copies of the tunnel's history and records. The tunnel continues, and the figure does not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from io import BytesIO
from math import nan
from typing import TYPE_CHECKING, Final, Protocol

from ..errors import TunnelError
from ..status import Percentiles, RequestRecord, Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = dict[str, float | None]

SIZE: Final = (9.0, 5.2)
"""Size of the figure, in inches."""
UP: Final = "#8250df"
DOWN: Final = "#0969da"
"""Colours of the two directions. `DOWN` is used for everything else too."""
SPAN, SHORT = timedelta(hours=1), timedelta(minutes=10)
"""Maximum time span of the plot, and the span below which the time axis shows seconds."""
UNITS: Final = ((1e9, "GB/s"), (1e6, "MB/s"), (1e3, "kB/s"))


class Handle(Protocol):
    """The part of a tunnel's handle that the plot needs."""

    @property
    def status(self) -> Status:
        """See `aio.Tunnel.status`."""

    def records(self, limit: int = ...) -> tuple[RequestRecord, ...]:
        """See `aio.Tunnel.records`."""

    def history(self) -> list[Row]:
        """See `aio.Tunnel.history`."""


def plot(handle: Handle) -> Figure:
    """Plot the history of a tunnel. Raises `TunnelError` if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as exc:
        raise TunnelError(
            "plot() needs matplotlib, which is not installed here.",
            hint="Install it with `pip install matplotlib`, in a notebook with `%pip install matplotlib`.",
        ) from exc

    history, records, status = handle.history(), handle.records(), handle.status
    figure = Figure(figsize=SIZE, layout="constrained")
    # Notebooks display the figure through this method. pyplot is not used, since its state belongs to the notebook.
    figure._repr_png_ = partial(_png, figure)  # type: ignore[attr-defined]
    (trip, token), (speed, traffic) = figure.subplots(2, 2)
    times = [_time(row["time"]) for row in history]
    answers = [each for each in records if each.first_token_ms is not None]
    _trip(trip, times, history)
    _token(token, answers, status.first_token)
    _speed(speed, times, history, records)
    _traffic(traffic, times, history)
    for axes in (trip, token, speed, traffic):
        _finish(axes, _ends(times, records))
    figure.suptitle(f"{status.role}  {status.url}", fontsize="medium")
    return figure


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _trip(axes: Axes, times: Sequence[datetime], history: Sequence[Row]) -> None:
    axes.set_title("Round-trip time, ms")
    trips = [nan if (rtt := row["rtt_ms"]) is None else rtt for row in history]
    axes.plot(times, trips, color=DOWN)  # type: ignore[arg-type]
    if all(map(_is_nan, trips)):
        _nothing(axes, "not measured yet")


def _token(axes: Axes, answers: Sequence[RequestRecord], spread: Percentiles | None) -> None:
    axes.set_title("Time to first token, ms")
    axes.plot(_starts(answers), [each.first_token_ms or 0 for each in answers], "o", color=DOWN, markersize=4)  # type: ignore[arg-type]
    if spread is None:
        _nothing(axes, "no streamed answer yet")
        return
    for value, name, style in ((spread.p50, "p50", "--"), (spread.p95, "p95", ":")):
        axes.axhline(value, color="#57606a", linestyle=style, linewidth=1, label=f"{name} {value:,.0f} ms")
    axes.legend(loc="best", fontsize="small")


def _speed(axes: Axes, times: Sequence[datetime], history: Sequence[Row], records: Sequence[RequestRecord]) -> None:
    axes.set_title("Tokens per second")
    rates = [row["tokens_per_second"] or 0.0 for row in history]
    measured = [each for each in records if each.tokens_per_second is not None]
    axes.fill_between(times, rates, color=DOWN, alpha=0.25, linewidth=0, step="pre")  # type: ignore[arg-type]
    axes.plot(times, rates, color=DOWN, linewidth=1, drawstyle="steps-pre", label="all together")  # type: ignore[arg-type]
    if not measured and not any(rates):
        _nothing(axes, "no tokens yet")
        return
    speeds = [each.tokens_per_second or 0.0 for each in measured]
    axes.plot(_starts(measured), speeds, "o", color=UP, markersize=4, label="each answer")  # type: ignore[arg-type]
    axes.legend(loc="best", fontsize="small")


def _traffic(axes: Axes, times: Sequence[datetime], history: Sequence[Row]) -> None:
    ups = [row["up_bytes_per_second"] or 0.0 for row in history]
    downs = [row["down_bytes_per_second"] or 0.0 for row in history]
    peak = max((*ups, *downs), default=0.0)
    factor, unit = next(((factor, unit) for factor, unit in UNITS if peak >= factor), (1.0, "B/s"))
    axes.set_title(f"Throughput, {unit}")
    for rates, colour, name in ((downs, DOWN, "down"), (ups, UP, "up")):
        scaled = [rate / factor for rate in rates]
        axes.plot(times, scaled, color=colour, linewidth=1, drawstyle="steps-pre", label=name)  # type: ignore[arg-type]
    if not peak:
        _nothing(axes, "no traffic yet")
        return
    axes.legend(loc="best", fontsize="small")


def _finish(axes: Axes, ends: tuple[datetime, datetime] | None) -> None:
    """Give all plots the same time axis, and start the values at zero."""
    from matplotlib.dates import AutoDateLocator, DateFormatter

    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=0)
    if ends is None:
        axes.set_xticks([])
        return
    axes.set_xlim(*ends)  # type: ignore[arg-type]
    locator = AutoDateLocator(minticks=2, maxticks=5)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    seconds = ":%S" if ends[1] - ends[0] < SHORT else ""
    axes.xaxis.set_major_formatter(DateFormatter(f"%H:%M{seconds}"))  # type: ignore[no-untyped-call]


def _nothing(axes: Axes, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color="#57606a")
    axes.set_ylim(0, 1)
    axes.set_yticks([])


def _ends(times: Sequence[datetime], records: Iterable[RequestRecord]) -> tuple[datetime, datetime] | None:
    moments = [*times, *_starts(records)]
    if not moments:
        return None
    last = max(moments)
    first = max(min(moments), last - SPAN)  # records may be older than the history
    margin = max((last - first) / 50, timedelta(seconds=0.5))
    return first - margin, last + margin


def _starts(records: Iterable[RequestRecord]) -> list[datetime]:
    return [_time(each.started) for each in records]


def _time(seconds: float | None) -> datetime:
    """Convert Unix time to local time."""
    return datetime.fromtimestamp(seconds or 0.0)


def _is_nan(value: float) -> bool:
    return value != value
