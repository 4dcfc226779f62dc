from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from matplotlib.dates import num2date
from matplotlib.figure import Figure

from llmtunnel.errors import TunnelError
from llmtunnel.notebook.plot import SPAN, plot
from llmtunnel.status import Percentiles, RequestRecord, Status

from ..support.scripted_handle import NOW, record, status

PNG = b"\x89PNG\r\n"


@dataclass
class Handle:
    """A tunnel with a history."""

    status: Status = field(default_factory=status)
    ended: tuple[RequestRecord, ...] = ()
    rows: list[dict[str, float | None]] = field(default_factory=list)

    def records(self, limit: int = 500) -> tuple[RequestRecord, ...]:
        return self.ended[-limit:]

    def history(self) -> list[dict[str, float | None]]:
        return self.rows


def row(second: int, *, rtt: float | None = 20.0, up: float = 0.0, down: float = 0.0, tokens: float = 0.0) -> Any:
    return {
        "time": NOW + second,
        "rtt_ms": rtt,
        "active": 0,
        "up_bytes_per_second": up,
        "down_bytes_per_second": down,
        "tokens_per_second": tokens,
    }


def texts(figure: Figure) -> list[list[str]]:
    """The title of each of the four, and what stands in it."""
    return [[axes.get_title(), *(text.get_text() for text in axes.texts)] for axes in figure.axes]


def lines(figure: Figure, number: int) -> list[Sequence[float]]:
    """The values of what is drawn in one of the four."""
    return [list(line.get_ydata()) for line in figure.axes[number].lines]  # type: ignore[arg-type]


def png(figure: Figure) -> bytes:
    drawn: bytes = figure._repr_png_()  # type: ignore[attr-defined]
    return drawn


def test_what_is_drawn_is_the_history_and_the_records() -> None:
    answers = tuple(
        record(started=NOW + second, first_token_ms=100.0 * second, tokens_per_second=second * 7.0, tokens=9)
        for second in (1, 2)
    )
    spread = Percentiles(p50=100, p95=200, count=2)
    rows = [row(0, rtt=None), row(1, up=2_000_000, down=4_000_000, tokens=9), row(2, up=1_000_000)]
    figure = plot(Handle(status(first_token=spread), (*answers, record(started=NOW)), rows))
    assert texts(figure) == [
        *(["Round-trip time, ms"], ["Time to first token, ms"], ["Tokens per second"], ["Throughput, MB/s"]),
    ]
    [trips] = lines(figure, 0)
    assert trips[0] != trips[0], "unknown is a gap, and not 0"
    assert trips[1:] == [20.0, 20.0]
    assert lines(figure, 1) == [[100.0, 200.0], [100, 100], [200, 200]]
    assert lines(figure, 2) == [[0.0, 9.0, 0.0], [7.0, 14.0]]
    assert lines(figure, 3) == [[0.0, 4.0, 0.0], [0.0, 2.0, 1.0]]
    labels = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes[1:]]  # type: ignore[union-attr]
    assert labels == [["p50 100 ms", "p95 200 ms"], ["all together", "each answer"], ["down", "up"]]
    assert png(figure).startswith(PNG)


def test_a_tunnel_without_a_history_says_so() -> None:
    figure = plot(Handle())
    assert texts(figure) == [
        ["Round-trip time, ms", "not measured yet"],
        ["Time to first token, ms", "no streamed answer yet"],
        ["Tokens per second", "no tokens yet"],
        ["Throughput, B/s", "no traffic yet"],
    ]
    assert png(figure).startswith(PNG)


def test_no_more_than_the_last_hour_is_shown_on_one_axis_of_time() -> None:
    old = record(started=NOW - 10 * SPAN.total_seconds(), first_token_ms=5.0)
    figure = plot(Handle(status(), (old,), [row(second) for second in range(3)]))
    ends = {tuple(num2date(edge) for edge in axes.get_xlim()) for axes in figure.axes}
    [(first, last)] = ends
    assert SPAN <= last - first <= 1.1 * SPAN
    assert png(figure).startswith(PNG)


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(TunnelError, match="needs matplotlib") as caught:
        plot(Handle())
    assert "pip install matplotlib" in caught.value.hint
