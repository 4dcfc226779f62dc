"""Parts of the panel and the static picture, as HTML. Pure: they derive from `status` and `summary`.

Paths, names and models come from untrusted peers and clients, so every text is escaped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from ..status import ActiveRequest, Health, Request, RequestRecord, Status
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
    request_facts,
    request_rows,
    size,
    state_words,
    total_words,
    turn_words,
    upstream_words,
)
from .style import NO_ERROR, STALE, STYLE

ROWS: Final = 20
"""Maximum number of running requests, and of finished ones, that are shown."""
SPARK: Final = 24
"""Height of a sparkline's view box; the page stretches it to fit."""


def state(status: Status) -> str:
    """Return the state of the tunnel, its target, and what is wrong."""
    now = state_words(status)
    lines = (escape(now.detail), *(() if status.phase.ended else (_upstream(status), _turn(status), _web(status))))
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


def _turn(status: Status) -> str:
    words = turn_words(status.turn, status.turn_from)
    return f'<span class="lt-muted">TURN server</span> {escape(words)}' if words else ""


def _web(status: Status) -> str:
    return f'<span class="lt-muted">page for browsers</span> {escape(printable(status.web))}' if status.web else ""


def traffic(status: Status, throughput: Throughput) -> str:
    """Return the bytes in each direction, their rates, and the last minute; after the tunnel's end, only the bytes."""
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
    """Return an area chart of the values, on a scale of its own."""
    peak = max(values, default=0.0) or 1.0
    points = " ".join(f"L{x} {SPARK - value / peak * (SPARK - 1):.1f}" for x, value in enumerate(values))
    last = max(len(values) - 1, 0)
    return (
        f'<svg class="lt-spark" viewBox="0 0 {last} {SPARK}" preserveAspectRatio="none" role="img"'
        f' aria-label="throughput {name}, the last minute"><path d="M0 {SPARK} {points} L{last} {SPARK}Z"/></svg>'
    )


def peers(status: Status, *, now: float) -> str:
    """Return a row for each peer, or nothing without peers. ``now`` is Unix time."""
    rows = peer_rows(status.peers, now=now)
    table = _table("peers", PEER_COLUMNS, (f"<tr>{_cells(PEER_COLUMNS, row)}</tr>" for row in rows))
    return f'<div class="lt-title"><b>Peers</b></div>{table}' if rows else ""


def requests(
    status: Status,
    active: Sequence[ActiveRequest],
    ended: Sequence[RequestRecord],
    *,
    now: float,
    details: bool = False,
) -> str:
    """Return running requests, then finished ones, each with the newest first and at most `ROWS`. ``now``: Unix time.

    ``details``: add a row below each request, which is hidden until `choosing` shows it.
    """
    title = f'<b>Requests</b> <span class="lt-muted">{escape(total_words(status))}</span>'
    rows = (*request_rows(active, (), now=now, limit=ROWS), *request_rows((), ended, now=now, limit=ROWS))
    known = {request.id: request for request in (*active, *ended)} if details else {}
    table = _table("requests", REQUEST_COLUMNS, (_request(row, known.get(row.id)) for row in rows)) if rows else ""
    return f'<div class="lt-title">{title}</div>{table}'


def choosing(requests: str, panel: str) -> str:
    """Make a click on a request show its details, and a second click hide them. ``panel``: the model's id.

    The choice is stored in a style sheet in the page (`CHOICE`), so that it needs no kernel and survives a redraw.
    """
    choose = _CHOOSE.replace("PANEL", panel)
    # The pointer may be released on another element than it was pressed on, since the table is redrawn all the time.
    by_mouse, by_key = f"if (event.button === 0) {{{choose}}}", f"if (event.detail === 0) {{{choose}}}"
    return f'<div data-lm-suppress-shortcuts="true" onpointerdown="{by_mouse}" onclick="{by_key}">{requests}</div>'


CHOICE: Final = '<style class="lt-choice"></style>'
"""The page keeps here which request's details it shows."""
_CHOOSE: Final = """
const row = event.target.closest('tr[data-id]');
if (!row) return;
const choice = this.closest('.llmtunnel').querySelector('style.lt-choice'), id = row.dataset.id;
choice.dataset.id = choice.dataset.id === id ? '' : id;
choice.textContent = choice.dataset.id && `.lt-PANEL tr.lt-details[data-of='${id}'] { display: table-row; }`;
"""


def _details(request: Request) -> str:
    facts = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in request_facts(request))
    return (
        f'<tr class="lt-details" data-of="{request.id}"><td colspan="{len(REQUEST_COLUMNS)}"><dl>{facts}</dl></td></tr>'
    )


def usage(url: str, models: Sequence[str], *, key: bool) -> str:
    """Return values for clients, to be copied. ``url``: OpenAI's base URL; ``key``: whether the proxy needs a key."""
    model = models[0] if models else "MODEL"
    snippet = "\n".join(
        (
            "from openai import OpenAI",
            f"client = OpenAI(base_url={_quoted(url)}, api_key={_quoted('YOUR KEY' if key else 'none')})",
            f"client.chat.completions.create(model={_quoted(model)}, messages=[{_SAY}])",
        )
    )
    more = len(models) - MODELS
    names = "".join(field("Model", name) for name in models[:MODELS])
    rest = f'<div class="lt-hint">and {more} more: <code>proxy.models()</code></div>' if more > 0 else ""
    return (
        f"<details open><summary>Use it</summary>{field('Base URL', url)}{names}{rest}"
        f'<div class="lt-field"><span>Python</span><textarea readonly rows="3" wrap="off" aria-label="Python"'
        f' data-lm-suppress-shortcuts="true">{escape(snippet)}</textarea>{_COPY_BUTTON}</div></details>'
    )


_SAY: Final = '{"role": "user", "content": "Hello"}'
MODELS: Final = 4
"""Maximum number of models that `usage` names."""


def field(title: str, value: str, *, name: str = "", copied: bool = True) -> str:
    """Return a text with a copy button. Without ``copied``, the button is hidden until a script sets the text."""
    button = _COPY_BUTTON if copied else _COPY_BUTTON.replace("<button", "<button hidden")
    named = f' name="{name}"' if name else ""
    return (
        f'<label class="lt-field"><span>{title}</span><input{named} readonly value="{escape(printable(value))}"'
        f' onclick="this.select()" data-lm-suppress-shortcuts="true">{button}</label>'
    )


# Uses no clipboard API, which only exists in secure contexts, so that it works on plain http pages as well.
_COPY: Final = """
this.previousElementSibling.select();
this.textContent = document.execCommand('copy') ? 'Copied' : 'Press Ctrl+C'"""
_COPY_BUTTON: Final = f'<button type="button" onclick="{_COPY}">Copy</button>'


def _quoted(text: str) -> str:
    return json.dumps(printable(text), ensure_ascii=False)


def still(status: Status, ended: Sequence[RequestRecord], *, now: float) -> str:
    """Return a picture of this moment for a saved notebook, readable even if every style is removed."""
    return f'<div class="llmtunnel">{STYLE}{_picture(status, ended, now)}</div>'


def saved(status: Status, ended: Sequence[RequestRecord], *, now: float, panel: str) -> str:
    """Return the same picture with its time, for pages without a live panel. ``panel`` is the model's id."""
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
    """Return an element that the page animates after some time, unless a newer one replaces it before."""
    words = f"No update for {STALE} s: the kernel is busy, or has stopped."
    return f'<div class="lt-stale" data-at="{now:.0f}"><div>{words}</div></div>'


def _request(row: RequestRow, known: Request | None) -> str:
    method = escape(row.method)
    if known is not None:
        method = f'<button type="button" class="lt-open" title="Show or hide details">{method}</button>'
    path = escape(row.path).replace("/", "/<wbr>")  # allows line breaks in a narrow panel
    cells = _cells(REQUEST_COLUMNS, row, {"method": f"{_mark(row.severity)} {method}", "path": path})
    below = ""
    if row.progress:
        bar = "" if row.fraction is None else f'<progress max="1" value="{row.fraction:.3f}"></progress> '
        below += _wide("progress", f"{bar}{escape(row.progress)}")
    if row.error:
        below += _wide("why", escape(row.error))
    if known is None:
        return f"<tr>{cells}</tr>{below}"
    return f'<tr data-id="{row.id}">{cells}</tr>{below}{_details(known)}'


def _wide(name: str, content: str) -> str:
    return f'<tr class="lt-{name}"><td colspan="{len(REQUEST_COLUMNS)}">{content}</td></tr>'


def _cells(columns: Sequence[Column], row: PeerRow | RequestRow, marked: Mapping[str, str] = {}) -> str:
    cells = []
    for column in columns:
        text = escape(getattr(row, column.name))
        whole = "" if column.numeric else f' title="{text}"'  # long texts are cut off
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
