"""Parts of the panel and the still picture, as HTML: pure, made of `status` and `summary`.

Paths, names and models come from strangers: every text goes through `escape` on its way in.
"""

from __future__ import annotations

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
from .style import STYLE

ROWS: Final = 20
"""Requests under way that are shown, and as many that ended."""
SPARK: Final = 24
"""Height of a sparkline's picture; it is stretched to its place."""


def state(status: Status) -> str:
    """How the tunnel stands, what it leads to, and what is wrong."""
    now = state_words(status)
    lines = (escape(now.detail), _upstream(status))
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
    """Bytes each way, how fast, and the last minute of it."""
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
    table = _table("peers", PEER_COLUMNS, (_cells(PEER_COLUMNS, row) for row in rows))
    return f'<div class="lt-title"><b>Peers</b></div>{table}' if rows else ""


def requests(status: Status, active: Sequence[ActiveRequest], ended: Sequence[RequestRecord], *, now: float) -> str:
    """Those under way, then those that ended, the newest first, `ROWS` of each. ``now``: Unix time."""
    title = f'<b>Requests</b> <span class="lt-muted">{status.active} under way, {status.requests} ended</span>'
    rows = (*request_rows(active, (), now=now, limit=ROWS), *request_rows((), ended, now=now, limit=ROWS))
    table = _table("requests", REQUEST_COLUMNS, map(_request, rows)) if rows else ""
    return f'<div class="lt-title">{title}</div>{table}'


def still(status: Status, ended: Sequence[RequestRecord], *, now: float) -> str:
    """A picture of this moment for a saved notebook, readable where every style is taken out."""
    amounts = f"<div>{size(status.bytes_up)} up, {size(status.bytes_down)} down</div>"
    parts = (STYLE, state(status), amounts, peers(status, now=now), requests(status, (), ended, now=now))
    return f'<div class="llmtunnel">{"".join(parts)}</div>'


def _request(row: RequestRow) -> Iterable[str]:
    marked = {"method": f"{_mark(row.severity)} {escape(row.method)}"}
    if row.error:
        marked["status"] = f'<span title="{escape(row.error)}">{escape(row.status)} !</span>'
    return _cells(REQUEST_COLUMNS, row, marked)


def _cells(columns: Sequence[Column], row: PeerRow | RequestRow, marked: Mapping[str, str] = {}) -> Iterable[str]:
    for column in columns:
        text = escape(getattr(row, column.name))
        whole = "" if column.numeric else f' title="{text}"'  # what is long is cut off
        yield f"<td{_kind(column)}{whole}>{marked.get(column.name, text)}</td>"


def _table(name: str, columns: Sequence[Column], rows: Iterable[Iterable[str]]) -> str:
    heads = "".join(f'<th scope="col"{_kind(column)}>{column.title}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<table class="lt-{name}" aria-label="{name}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def _kind(column: Column) -> str:
    return ' class="lt-number"' if column.numeric else f' class="lt-{column.name}"'


def _mark(severity: Severity) -> str:
    return f'<span class="lt-{severity}" aria-hidden="true">{severity.mark}</span>'
