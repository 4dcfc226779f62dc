"""Parts of the panel and the still picture, as HTML: pure, made of `status` and `summary`.

Paths, names and models come from strangers: every text goes through `escape` on its way in.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from ..status import ActiveRequest, Health, RequestRecord, Status
from ..summary import (
    PEER_COLUMNS,
    REQUEST_COLUMNS,
    SPAN,
    Column,
    PeerRow,
    RequestRow,
    Severity,
    Throughput,
    peer_rows,
    printable,
    rate,
    request_rows,
    size,
    state_words,
    upstream_words,
)
from .style import NO_ERROR, STALE, STYLE

ROWS: Final = 20
"""Requests under way that are shown, and as many that ended."""
SPARK: Final = 24
"""Height of a sparkline's picture; it is stretched to its place."""


def state(status: Status) -> str:
    """How the tunnel stands, what it leads to, and what is wrong."""
    now = state_words(status)
    lines = (escape(now.detail), "" if status.phase.ended else _upstream(status))
    return (
        f'<div class="lt-state" role="status">{_mark(now.severity)} <b>{escape(now.words)}</b>'
        f' <span class="lt-muted">{status.role}</span> <code>{escape(printable(status.url))}</code></div>'
        + "".join(f"<div>{line}</div>" for line in lines if line)
    )


def _upstream(status: Status) -> str:
    words = upstream_words(status.upstream)
    if status.upstream is None or not words:
        return ""
    severity = Severity.BAD if status.upstream.health is Health.DOWN else Severity.GOOD
    return f'{_mark(severity)} <span class="lt-muted">upstream</span> {escape(words)}'


def traffic(status: Status, throughput: Throughput) -> str:
    """Bytes each way, how fast, and the last minute of it; of a tunnel that has ended, the bytes alone."""
    if status.phase.ended:
        return _amounts(status)
    rates, seconds = throughput.rates, throughput.seconds(SPAN)
    ways = (("up", "↑", status.bytes_up), ("down", "↓", status.bytes_down))
    cells = (
        f'<div><span class="lt-muted">{arrow} {name}</span> <b>{rate(rates[index])}</b>'
        f' <span class="lt-muted">{size(total)} in all</span>{sparkline(seconds[index], name)}</div>'
        for index, (name, arrow, total) in enumerate(ways)
    )
    return f'<div class="lt-traffic">{"".join(cells)}</div>'


def sparkline(values: Sequence[float], name: str) -> str:
    """An area under the values, on a scale of its own."""
    peak = max(values, default=0.0) or 1.0
    points = " ".join(f"L{x} {SPARK - value / peak * (SPARK - 1):.1f}" for x, value in enumerate(values))
    last = max(len(values) - 1, 0)
    return (
        f'<svg class="lt-spark" viewBox="0 0 {last} {SPARK}" preserveAspectRatio="none" role="img"'
        f' aria-label="throughput {name}, the last minute"><path d="M0 {SPARK} {points} L{last} {SPARK}Z"/></svg>'
    )


def peers(status: Status, *, now: float) -> str:
    """A row for each peer; nothing where there is none. ``now``: Unix time."""
    rows = peer_rows(status.peers, now=now)
    table = _table("peers", PEER_COLUMNS, (f"<tr>{_cells(PEER_COLUMNS, row)}</tr>" for row in rows))
    return f'<div class="lt-title"><b>Peers</b></div>{table}' if rows else ""


def requests(status: Status, active: Sequence[ActiveRequest], ended: Sequence[RequestRecord], *, now: float) -> str:
    """Those under way, then those that ended, the newest first, `ROWS` of each. ``now``: Unix time."""
    title = f'<b>Requests</b> <span class="lt-muted">{status.active} under way, {status.requests} ended</span>'
    rows = (*request_rows(active, (), now=now, limit=ROWS), *request_rows((), ended, now=now, limit=ROWS))
    table = _table("requests", REQUEST_COLUMNS, map(_request, rows)) if rows else ""
    return f'<div class="lt-title">{title}</div>{table}'


def still(status: Status, ended: Sequence[RequestRecord], *, now: float) -> str:
    """A picture of this moment for a saved notebook, readable where every style is taken out."""
    return f'<div class="llmtunnel">{STYLE}{_picture(status, ended, now)}</div>'


def saved(status: Status, ended: Sequence[RequestRecord], *, now: float, panel: str) -> str:
    """The same, to be seen where a page has no live panel: it says of when it is. ``panel``: the model's id."""
    when = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(now))
    note = f'<div class="lt-note">Last state, saved at {when}. Run the cell again for a live view.</div>'
    picture = _picture(status, ended, now)
    return f'<div class="llmtunnel lt-saved lt-{panel}">{STYLE}{NO_ERROR}{note}{picture}</div>'


def _picture(status: Status, ended: Sequence[RequestRecord], now: float) -> str:
    parts = (state(status), _amounts(status), peers(status, now=now), requests(status, (), ended, now=now))
    return "".join(parts)


def _amounts(status: Status) -> str:
    return f"<div>{size(status.bytes_up)} up, {size(status.bytes_down)} down</div>"


def pulse(now: float) -> str:
    """What the page shows by itself where nothing replaces it in time: an animation that starts with this element."""
    words = f"No update for {STALE} s: the kernel is busy, or has stopped."
    return f'<div class="lt-stale" data-at="{now:.0f}"><div>{words}</div></div>'


def _request(row: RequestRow) -> str:
    cells = _cells(REQUEST_COLUMNS, row, {"method": f"{_mark(row.severity)} {escape(row.method)}"})
    why = f'<tr class="lt-why"><td colspan="{len(REQUEST_COLUMNS)}">{escape(row.error)}</td></tr>' if row.error else ""
    return f"<tr>{cells}</tr>{why}"


def _cells(columns: Sequence[Column], row: PeerRow | RequestRow, marked: Mapping[str, str] = {}) -> str:
    cells = []
    for column in columns:
        text = escape(getattr(row, column.name))
        whole = "" if column.numeric else f' title="{text}"'  # what is long is cut off
        cells.append(f"<td{_kind(column)}{whole}>{marked.get(column.name, text)}</td>")
    return "".join(cells)


def _table(name: str, columns: Sequence[Column], rows: Iterable[str]) -> str:
    heads = "".join(f'<th scope="col"{_kind(column)}>{column.title}</th>' for column in columns)
    body = "".join(rows)
    return f'<table class="lt-{name}" aria-label="{name}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def _kind(column: Column) -> str:
    return f' class="lt-{column.name}{" lt-number" if column.numeric else ""}"'


def _mark(severity: Severity) -> str:
    return f'<span class="lt-{severity}" aria-hidden="true">{severity.mark}</span>'
