"""The terminal view of a tunnel: frozen values in, a rich renderable out. Pure; no line exceeds the given width.

From top to bottom: state, peers, throughput, requests, keys. `summary` decides what to show and in which words; this
module adds position and colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from ..status import ActiveRequest, RequestRecord, Role, Status
from ..summary import (
    NONE,
    PEER_COLUMNS,
    REQUEST_COLUMNS,
    SPAN,
    Column,
    PeerRow,
    RequestRow,
    Severity,
    Throughput,
    bench_words,
    latency_words,
    peer_rows,
    printable,
    rate,
    request_rows,
    size,
    state_words,
    turn_words,
    upstream_words,
)

if TYPE_CHECKING:
    from rich.segment import Segment, Segments

Line = list["Segment"]

ROOMY: Final = 32
"""Terminal height from which empty lines separate the parts."""
REQUESTS: Final = 20
"""Maximum rows of the request table, as in the panel."""
PEERS: Final = 5
"""Lines of height per peer row, so that the requests keep enough space."""
DETAIL: Final = 2
"""Lines for the detail of a state; a narrow view has twice as many."""
READABLE: Final = 60
"""Width below which a view counts as narrow, in columns."""
NARROW: Final = 12
"""Columns that a path keeps. To give it that much, the table drops columns from the right, but never the path."""
ANSWER: Final = ("tokens", "token_rate", "model")
"""The last columns. They are omitted if no request has a value, and a failed request shows its error in their place."""
LEGIBLE: Final = 10
"""Minimum columns for the error of a request; in fewer, it says nothing."""
GAP: Final = "  "
MARGIN: Final = "  "
LABEL: Final = 9
"""Columns of the labels on the left."""

_COLOURS: Final = {Severity.GOOD: "green", Severity.WAIT: "yellow", Severity.BAD: "red", Severity.OFF: "bright_black"}


def render(
    status: Status,
    requests: Sequence[RequestRecord],
    active: Sequence[ActiveRequest],
    *,
    throughput: Throughput,
    now: float,
    width: int,
    height: int,
    keys: str = "",
) -> Segments:
    """Render the view at one moment (``now``, Unix time), in at most ``height`` lines of at most ``width`` columns.

    ``requests`` is in the order of `Tunnel.records`. ``keys`` is the last line.
    """
    from rich.segment import Segment, Segments

    apart = [_line(width)] if height >= ROOMY else []
    below = [*apart, _line(width, (f"{MARGIN}{keys}", "dim"))] if keys else []
    lines: list[Line] = []
    for part in (
        _standing(status, width),
        _peers(peer_rows(status.peers, now=now), width, height),
        _throughput(status, throughput, width),
    ):
        lines += [*part, *apart] if part else []
    room = height - len(lines) - len(below)
    requested = (f"{MARGIN}requests: {status.active} now, {status.requests} ended", "bold")
    more = "".join(f"{GAP}{words}" for words in (latency_words(status), bench_words(status)) if words)
    lines.append(_line(width, requested, (more, "dim")))
    lines += _requests(request_rows(active, requests, now=now, limit=max(min(room - 2, REQUESTS), 0)), width)
    lines = [*lines[: max(height - len(below), 1)], *below][:height]
    return Segments(segment for line in lines for segment in (*line, Segment.line()))


def _standing(status: Status, width: int) -> list[Line]:
    state = state_words(status)
    colour = _COLOURS[state.severity]
    room, most = max(width - len(MARGIN), len(MARGIN)), DETAIL if width >= READABLE else 2 * DETAIL
    words = wrap(state.words, room, max_lines=DETAIL, placeholder="…")
    why = wrap(state.detail, room, max_lines=most, placeholder="…")
    marks = (f"{state.severity.mark} ", *(MARGIN for _ in words[1:]))
    lines = [_line(width, (f"{mark}{line}", f"bold {colour}")) for mark, line in zip(marks, words, strict=True)]
    lines += [_line(width, (f"{MARGIN}{line}", colour)) for line in why]
    here = "upstream" if status.role is Role.SERVE else "url"
    facts = (
        (here, GAP.join(filter(None, (status.url, upstream_words(status.upstream))))),
        ("signal", status.signal),
        ("turn", turn_words(status.turn, status.turn_from)),
        ("web", status.web),
    )
    return lines + [_line(width, _label(label), (printable(fact), "")) for label, fact in facts if fact]


def _peers(rows: Sequence[PeerRow], width: int, height: int) -> list[Line]:
    if not rows:
        return []
    shown = rows[: max(height // PEERS, 1)]
    table = _Table(PEER_COLUMNS, shown, width - len(MARGIN))
    lines = [_line(width, (f"{MARGIN}{table.head}", "dim"))]
    lines += [_line(width, (f"{MARGIN}{table.line(row)}", "")) for row in shown]
    more = len(rows) - len(shown)
    return [*lines, _line(width, (f"{MARGIN}and {more} more", "dim"))] if more else lines


def _throughput(status: Status, throughput: Throughput, width: int) -> list[Line]:
    cells = min(max(width - 40, 0), SPAN)
    ways = zip(
        ("up", "down"),
        throughput.rates,
        throughput.sparklines(cells),
        (status.bytes_up, status.bytes_down),
        strict=True,
    )
    return [
        _line(
            width,
            _label(way),
            (f"{rate(speed):>10}{GAP}" if cells else f"{rate(speed)}{GAP}", ""),
            (blocks, "cyan"),
            (f"{GAP}{size(total):>8} in all", "dim"),
        )
        for way, speed, blocks, total in ways
    ]


def _requests(rows: Sequence[RequestRow], width: int) -> list[Line]:
    if not rows:
        return []
    columns = [column for column in REQUEST_COLUMNS if column.name not in ANSWER or _is_told(column, rows)]
    table = _Table(columns, rows, width - len(MARGIN), elastic="path")
    lines = [_line(width, (f"{MARGIN}{table.head}", "dim"))]
    for row in rows:
        mark = (f"{row.severity.mark} ", _COLOURS[row.severity])
        lines.append(_line(width, mark, (table.line(row, note=row.error or row.progress), "")))
    return lines


def _is_told(column: Column, rows: Sequence[RequestRow]) -> bool:
    return any(getattr(row, column.name) not in ("", NONE) for row in rows)


class _Table:
    """A table of text: as many columns as fit, with the elastic one shortened to the remaining width."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[object], width: int, elastic: str = "") -> None:
        from rich.cells import cell_len

        self._columns = list(columns)
        self._room = width
        self._widths = {
            column.name: max(len(column.title), *(cell_len(getattr(row, column.name)) for row in rows))
            for column in columns
        }
        natural = self._widths.get(elastic, 0)
        self._widths |= {elastic: min(natural, NARROW)} if elastic else {}
        least = 1 + next((at for at, column in enumerate(columns) if column.name == elastic), 0)
        while self._total() > width and len(self._columns) > least:
            self._columns.pop()
        if elastic:
            self._widths[elastic] = max(min(natural, self._widths[elastic] + width - self._total()), 0)

    @property
    def head(self) -> str:
        """The titles of the columns."""
        return self._joined(column.title for column in self._columns).rstrip()

    def line(self, row: object, note: str = "") -> str:
        """Return a row. A note replaces the values of the columns in `ANSWER`."""
        names = (column.name for column in self._columns if not (note and column.name in ANSWER))
        cells = self._joined(getattr(row, name) for name in names)
        fits = note and self._room - len(cells) >= LEGIBLE
        return (f"{cells}{GAP}{note}" if fits else cells).rstrip()

    def _total(self) -> int:
        return sum(self._widths[column.name] + len(GAP) for column in self._columns) - len(GAP)

    def _joined(self, cells: Iterable[str]) -> str:
        # There may be fewer cells than columns: a note replaces the last ones.
        return GAP.join(
            _fitted(cell, self._widths[column.name], right=column.numeric)
            for column, cell in zip(self._columns, cells, strict=False)
        )


def _fitted(text: str, width: int, *, right: bool = False) -> str:
    """Return the text in exactly ``width`` columns; a longer text loses its end."""
    from rich.cells import cell_len, set_cell_size

    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…" if width else ""
    padding = " " * (width - length)
    return padding + text if right else text + padding


def _label(word: str) -> tuple[str, str]:
    return f"{MARGIN}{word:<{LABEL}}", "dim"


def _line(width: int, *parts: tuple[str, str]) -> Line:
    """Return texts with their styles, cut to the width. It uses segments, since a `Text` is several times as slow."""
    from rich.cells import cell_len
    from rich.segment import Segment
    from rich.style import Style

    line: Line = []
    for text, style in parts:
        length = cell_len(text)
        line.append(Segment(text if length <= width else _fitted(text, width), Style.parse(style)))
        width = max(width - length, 0)
    return line
