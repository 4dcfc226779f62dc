"""The result of a measurement in a notebook: a table, and small plots of its samples. Pure.

The plots are SVG with colours of their own, so that a page without style sheets still draws them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from ..measure.figures import Found, Transfer
from ..measure.table import limits, path_sentence, rows
from ..summary import rate
from .style import STYLE

DOWN: Final = "#2f81f7"
UP: Final = "#986ee2"
"""Colours of the two directions, for light and dark pages."""
WIDTH, HEIGHT = 300, 110
"""Size of a plot's area, in pixels."""
_LEFT, _TOP, _BELOW = 62, 20, 18
"""Margins of a plot for texts, in pixels."""

Point = tuple[float, float]


def html(found: Found) -> str:
    """Return the whole output."""
    local = found.direct is not None
    titles = ("", *(("direct",) if local else ()), "tunnel", "compared" if local else "")
    cells = [
        (row.label, *((row.direct,) if local else ()), row.tunnel, row.compared if local else row.remark)
        for row in rows(found.tunnel, found.direct)
    ]
    notes = [f"measured in {found.seconds:.1f} s", *limits(found), *found.notes]
    said = "".join(f'<div class="lt-muted">{escape(note)}</div>' for note in notes)
    return (
        f'{STYLE}<div class="llmtunnel lt-bench"><div><b>Tunnel</b> {escape(path_sentence(found))}</div>'
        f'<table class="lt-part" style="width: auto"><thead><tr>{"".join(map(_title, titles))}</tr></thead>'
        f"<tbody>{''.join(map(_row, cells))}</tbody></table>"
        f'<div class="lt-part">{"".join(_plots(found))}</div>{said}</div>'
    )


def _title(words: str) -> str:
    number = ' class="lt-number"' if words in ("direct", "tunnel") else ""
    return f"<th{number}>{words}</th>"


def _row(cells: Sequence[str]) -> str:
    label, *numbers, more = map(escape, cells)
    shown = "".join(f'<td class="lt-number">{each}</td>' for each in numbers)
    wide = "max-width: none"
    return f'<tr><td style="white-space: pre; {wide}">{label}</td>{shown}<td style="{wide}">{more}</td></tr>'


def _plots(found: Found) -> Iterator[str]:
    lines = [
        (name, colour, [(at, speed) for at, speed in moved.rates])
        for name, colour, moved in (("download", DOWN, found.tunnel.download), ("upload", UP, found.tunnel.upload))
        if isinstance(moved, Transfer) and len(moved.rates) > 1
    ]
    if lines:
        most_y = max(speed for _, _, points in lines for _, speed in points)
        most_x = max(points[-1][0] for _, _, points in lines)
        yield _plot(lines, most_x, most_y, top=rate(most_y), right=f"{most_x:.1f} s", title="bulk data")
    latency = found.tunnel.latency
    if latency and len(latency.values_ms) > 1:
        ranked = sorted(latency.values_ms)
        longest = ranked[-1]
        points = [(value, (index + 1) / len(ranked)) for index, value in enumerate(ranked)]
        title = "small requests: share that took no longer"
        yield _plot([("", DOWN, points)], longest, 1.0, top="100 %", right=f"{longest:.1f} ms", title=title)


def _plot(
    lines: Sequence[tuple[str, str, Sequence[Point]]],
    most_x: float,
    most_y: float,
    *,
    top: str,
    right: str,
    title: str,
) -> str:
    """Return lines in one area with labelled corners, starting at 0."""
    width, height = _LEFT + WIDTH + 8, _TOP + HEIGHT + _BELOW
    drawn, named = [], []
    for index, (name, colour, points) in enumerate(lines):
        path = " ".join(
            f"{_LEFT + x / (most_x or 1) * WIDTH:.1f},{_TOP + (1 - y / (most_y or 1)) * HEIGHT:.1f}"
            for x, y in _thinned(points)
        )
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if name:
            named.append(_text(_LEFT + WIDTH - 70 * (len(lines) - 1 - index), 12, name, anchor="end", colour=colour))
    frame = f'<path d="M{_LEFT},{_TOP}V{_TOP + HEIGHT}H{_LEFT + WIDTH}" fill="none" stroke="#888" stroke-opacity=".6"/>'
    words = (
        _text(_LEFT, 12, title)
        + _text(_LEFT - 6, _TOP + 8, top, anchor="end")
        + _text(_LEFT - 6, _TOP + HEIGHT, "0", anchor="end")
        + _text(_LEFT + WIDTH, height - 4, right, anchor="end")
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title)}" width="{width}"'
        f' height="{height}" viewBox="0 0 {width} {height}" style="max-width: 100%">'
        f"{frame}{''.join(drawn)}{words}{''.join(named)}</svg>"
    )


def _text(x: float, y: float, words: str, *, anchor: str = "start", colour: str = "currentColor") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="11" font-family="system-ui, sans-serif" text-anchor="{anchor}"'
        f' fill="{colour}">{escape(words)}</text>'
    )


def _thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Return no more points than there are pixels, including the last one."""
    step = max(1, len(points) // WIDTH)
    return points if step == 1 else [*points[::step], points[-1]]
