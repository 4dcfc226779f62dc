"""Words and short numbers that every view shows for a tunnel. Pure: they derive from the frozen values of `status`.

The panel and the terminal show the same texts, since both take them from here. There are no colours, widths or markup:
a `Severity` states the condition, and each view has its own way to show it beside the words.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise
from time import localtime, strftime
from typing import Final

from .invite import is_invites
from .paths import Path, kind
from .status import (
    ActiveRequest,
    Fields,
    Health,
    PeerStatus,
    Phase,
    Progress,
    Request,
    RequestRecord,
    Role,
    Status,
    TurnSource,
    UpstreamStatus,
)

LONGEST: Final = 400
"""Maximum length of a displayed text, in characters: the path of a request may have thousands."""
SPAN: Final = 60
"""Seconds of throughput to keep, which is also the maximum width of a sparkline."""
RATE_OVER: Final = 3.0
"""Seconds over which a rate is averaged, so that it neither jumps with each token nor lags."""
LEAST: Final = 0.5
"""Minimum time for a token rate, in seconds; over less time, it is noise."""
LARGE: Final = 1_000_000
"""Minimum size of a body whose progress is shown, in bytes: a smaller body is through before anybody looks."""
NONE: Final = "-"
"""Placeholder for a missing number."""
BLOCKS: Final = "▁▂▃▄▅▆▇█"


class Severity(StrEnum):
    """The condition of something. Where a view uses a colour for it, it also shows the mark and words."""

    GOOD = "good"
    WAIT = "wait"
    BAD = "bad"
    OFF = "off"
    """Ended on request."""

    @property
    def mark(self) -> str:
        """One character that shows the severity without colour."""
        return _MARKS[self]


_MARKS: Final = {Severity.GOOD: "●", Severity.WAIT: "◌", Severity.BAD: "✗", Severity.OFF: "○"}


# -- state of the tunnel


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A phase in words."""

    severity: Severity
    words: str
    """``ready``, ``waiting for a proxy``."""
    detail: str = ""
    """Why it is not ready, what is wrong, or why the path is not the best one; empty if there is nothing to add."""


def state_words(status: Status) -> State:
    """Describe the state of the tunnel in words."""
    if status.phase is Phase.READY and _is_down(status.upstream):
        words = "ready, but the model server does not answer"
        return State(severity=Severity.BAD, words=words, detail=_upstream_detail(status) or _detail(status))
    severity, words = _PHASES[status.phase]
    words = words.format(other="a proxy" if status.role is Role.SERVE else "serve")
    return State(severity=severity, words=words, detail=_without(words, _detail(status)))


def waiting_words(role: Role, room: str) -> str:
    """Return what to tell the side ``role`` while nobody else is in the room."""
    if role is Role.SERVE:
        return "Waiting for a proxy. On your laptop, run `llmtunnel proxy …`."
    return f"Waiting for serve. Is it running, and is the {'number' if is_invites(room) else 'room'} right?"


_PHASES: Final = {
    Phase.STARTING: (Severity.WAIT, "starting"),
    Phase.SIGNALING: (Severity.WAIT, "reaching the signal server"),
    Phase.WAITING: (Severity.WAIT, "waiting for {other}"),
    Phase.CONNECTING: (Severity.WAIT, "connecting to {other}"),
    Phase.READY: (Severity.GOOD, "ready"),
    Phase.RECONNECTING: (Severity.WAIT, "reconnecting to {other}"),
    Phase.STOPPED: (Severity.OFF, "stopped"),
    Phase.FAILED: (Severity.BAD, "failed"),
}


def upstream_words(upstream: UpstreamStatus | None) -> str:
    """Return ``answers: llama3, qwen`` or ``does not answer``; empty if the state is unknown."""
    if upstream is None or upstream.health is Health.UNKNOWN:
        return ""
    if _is_down(upstream):
        return "does not answer"
    return printable(": ".join(filter(None, ("answers", ", ".join(upstream.models)))))


def turn_words(urls: Sequence[str], source: TurnSource | None) -> str:
    """Return ``turn:turn.example.org:3478 (from the signal server)``; empty if there is no TURN server."""
    if source is None:
        return ""
    origin = "the signal server" if source is TurnSource.SIGNAL else "your settings"
    return printable(f"{', '.join(urls)} (from {origin})")


def _without(words: str, detail: str) -> str:
    """Return the detail without a first sentence that repeats the state's words."""
    first, _, rest = detail.partition(". ")
    return rest if first.lower() == words else detail


def _detail(status: Status) -> str:
    return printable(status.detail or next((peer.detail for peer in status.peers if peer.detail), ""))


def _upstream_detail(status: Status) -> str:
    return printable(status.upstream.detail) if status.upstream else ""


def _is_down(upstream: UpstreamStatus | None) -> bool:
    return upstream is not None and upstream.health is Health.DOWN


def latency_words(status: Status) -> str:
    """Return ``first token 320 ms, p95 1.2 s`` for the last requests; empty before the first one."""
    token, byte = status.first_token, status.first_byte
    name, spread = ("first token", token) if token is not None else ("first byte", byte)
    return "" if spread is None else f"{name} {duration(spread.p50)}, p95 {duration(spread.p95)}"


# -- peers and requests, as rows of text


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table: the row's attribute, its title, and whether it is numeric (aligned to the right)."""

    name: str
    title: str
    numeric: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRow:
    """A peer, with each value as text."""

    peer: str
    path: str
    rtt: str
    since: str
    requests: str
    """Finished requests: ``12``; while some are running, ``12 done, 3 running``."""
    up: str
    down: str


PEER_COLUMNS: Final = (
    Column(name="peer", title="peer"),
    Column(name="path", title="path"),
    Column(name="rtt", title="round trip", numeric=True),
    Column(name="since", title="since", numeric=True),
    Column(name="requests", title="requests", numeric=True),
    Column(name="up", title="up", numeric=True),
    Column(name="down", title="down", numeric=True),
)


def peer_rows(peers: Iterable[PeerStatus], *, now: float) -> tuple[PeerRow, ...]:
    """Return a row for each peer, in their order. ``now`` is Unix time."""
    return tuple(
        PeerRow(
            peer=printable(peer.peer),
            path=path_words(peer.path),
            rtt=NONE if peer.rtt is None else duration(peer.rtt * 1000),
            since=age(now - peer.since) if peer.since else NONE,
            requests=f"{peer.requests} done, {peer.active} running" if peer.active else str(peer.requests),
            up=size(peer.bytes_up),
            down=size(peer.bytes_down),
        )
        for peer in peers
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRow:
    """A running or finished request, with each value as text."""

    id: int
    """See `Request.id`."""
    severity: Severity
    """WAIT while the request is running."""
    method: str
    path: str
    status: str
    first_byte: str
    duration: str
    up: str
    down: str
    tokens: str
    token_rate: str
    model: str
    peer: str
    error: str = ""
    progress: str = ""
    """Progress of a long request: ``42 %, 1.9 GB of 4.7 GB, pulling 8934d96d``; empty if unknown."""
    fraction: float | None = None
    """Progress from 0 to 1; None if the total is unknown."""


REQUEST_COLUMNS: Final = (
    Column(name="method", title="method"),
    Column(name="path", title="path"),
    Column(name="status", title="status", numeric=True),
    Column(name="first_byte", title="first byte", numeric=True),
    Column(name="duration", title="duration", numeric=True),
    Column(name="tokens", title="tokens", numeric=True),
    Column(name="token_rate", title="tokens/s", numeric=True),
    Column(name="model", title="model"),
)
"""Columns of a view's request table. A narrow view omits columns from the right."""


def request_rows(
    active: Sequence[ActiveRequest], ended: Sequence[RequestRecord], *, now: float, limit: int
) -> tuple[RequestRow, ...]:
    """Return at most ``limit`` rows: running requests first, then finished ones, each with the newest first.

    ``ended`` is in the order of `Tunnel.records`, with the oldest first. ``now`` is Unix time.
    """
    under_way = sorted(active, key=lambda each: each.started, reverse=True)[:limit]
    room = limit - len(under_way)
    newest = ended[: -room - 1 : -1] if room else ()
    return (*(_under_way(each, now) for each in under_way), *map(_ended, newest))


def _under_way(request: ActiveRequest, now: float) -> RequestRow:
    elapsed = max(now - request.started, 0.0)
    answering = elapsed - (request.first_byte_ms or 0.0) / 1000
    rate = request.tokens / answering if request.tokens and answering >= LEAST else None
    row = _row(request, Severity.WAIT, milliseconds=elapsed * 1000, token_rate=rate)
    progress, fraction = _progress(request)
    return replace(row, progress=printable(progress), fraction=fraction)


def _progress(request: ActiveRequest) -> tuple[str, float | None]:
    """Return the progress in words and as a fraction: as the response reports it, else from the body's size."""
    if told := request.progress:
        return _told_words(told), _share(told.done, told.total)[1] if told.total else None
    answered = request.status is not None
    way, done, total = (
        ("down", request.bytes_down, request.total_down) if answered else ("up", request.bytes_up, request.total_up)
    )
    if request.tokens is not None or max(done, total or 0) < LARGE:
        return "", None
    words, fraction = _share(done, total)
    return f"{words} {way}", fraction


def _told_words(told: Progress) -> str:
    words = _share(told.done, told.total)[0] if told.total else ""
    return ", ".join(filter(None, (words, told.what)))


def _share(done: int, total: int | None) -> tuple[str, float | None]:
    if total is None:
        return size(done), None
    fraction = min(done / total, 1.0)
    return f"{int(fraction * 100)} %, {size(done)} of {size(total)}", fraction


def _ended(record: RequestRecord) -> RequestRow:
    return _row(
        record,
        Severity.BAD if record.failed else Severity.GOOD,
        milliseconds=record.duration_ms,
        token_rate=record.tokens_per_second,
        error=record.error,
    )


def _row(
    request: ActiveRequest | RequestRecord,
    severity: Severity,
    *,
    milliseconds: float,
    token_rate: float | None,
    error: str = "",
) -> RequestRow:
    return RequestRow(
        id=request.id,
        severity=severity,
        method=printable(request.method),
        path=printable(request.path),
        status=NONE if request.status is None else str(request.status),
        first_byte=NONE if request.first_byte_ms is None else duration(request.first_byte_ms),
        duration=duration(milliseconds),
        up=size(request.bytes_up),
        down=size(request.bytes_down),
        tokens=NONE if request.tokens is None else str(request.tokens),
        token_rate=NONE if token_rate is None else f"{token_rate:.1f}",
        model=printable(request.model),
        peer=printable(request.peer),
        error=printable(error),
    )


def request_facts(request: Request) -> tuple[tuple[str, str], ...]:
    """Return name and value of everything known beyond the row: sizes, the time of each phase, header fields."""
    record = request if isinstance(request, RequestRecord) else None
    facts = [
        ("started", strftime("%Y-%m-%d %H:%M:%S %Z", localtime(request.started)) if request.started else ""),
        ("peer", request.peer),
        ("request body", _of_all(request.bytes_up, request.total_up)),
        ("response body", _of_all(request.bytes_down, request.total_down)),
        *((name, _after(getattr(request, phase))) for name, phase in _PHASES_OF_A_REQUEST),
        ("end", _after(record.duration_ms) if record is not None else ""),
        ("tokens", "" if request.tokens is None else str(request.tokens)),
        ("model", request.model),
        ("progress", _told_words(request.progress) if request.progress is not None else ""),
        ("error", record.error if record is not None else ""),
        ("request fields", _fields(request.request_fields)),
        ("response fields", _fields(request.response_fields)),
    ]
    return tuple((name, printable(value)) for name, value in facts if value)


_PHASES_OF_A_REQUEST: Final = (
    ("passed on", "queued_ms"),
    ("response head", "first_byte_ms"),
    ("first body byte", "first_body_ms"),
    ("first token", "first_token_ms"),
)


def _of_all(passed: int, total: int | None) -> str:
    return size(passed) if total in (None, passed) else f"{size(passed)} of {size(total or 0)}"


def _after(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"after {duration(milliseconds)}"


def _fields(fields: Fields) -> str:
    """Return the field names, with the values that the record keeps."""
    return ", ".join(name if value is None else f"{name}: {value}" for name, value in fields)


def total_words(status: Status) -> str:
    """Return ``2 under way, 14 ended, 1 failed, 620 tokens, first token 320 ms, p95 1.2 s``."""
    words = [f"{status.active} under way", f"{status.requests} ended"]
    if status.failed:
        words.append(f"{status.failed} failed")
    if status.tokens:
        words.append(f"{status.tokens} tokens")
    return ", ".join(filter(None, (*words, latency_words(status), bench_words(status))))


def bench_words(status: Status) -> str:
    """``bench: 310 requests, 120.0 MB``: what has measured the tunnel; empty if nothing has."""
    if not status.bench_requests:
        return ""
    return f"bench: {status.bench_requests} requests, {size(status.bench_bytes)}"


# -- throughput


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A tunnel's byte counts at one moment."""

    time: float
    """Seconds of any clock."""
    up: int
    down: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """A tunnel's byte counts over the last minute: a value, from which `added` makes the next one."""

    samples: tuple[Sample, ...] = ()
    """Samples with the oldest first: the first and the last one of each second."""

    def added(self, status: Status, *, now: float) -> Throughput:
        """Return a copy with the current counts. It may be called at any rate."""
        sample = Sample(time=now, up=status.bytes_up, down=status.bytes_down)
        kept = self.samples
        if len(kept) > 1 and int(kept[-2].time) == int(kept[-1].time) == int(now):
            kept = kept[:-1]
        oldest = now - SPAN - 2
        return Throughput(samples=(*(each for each in kept if each.time >= oldest), sample))

    @property
    def rates(self) -> tuple[float, float]:
        """Bytes per second up and down, over the last `RATE_OVER` seconds."""
        if not self.samples:
            return 0.0, 0.0
        last = self.samples[-1]
        took = min(last.time - self.samples[0].time, RATE_OVER)
        up, down = self._at(last.time - took)
        return (max(last.up - up, 0.0) / took, max(last.down - down, 0.0) / took) if took > 0 else (0.0, 0.0)

    def seconds(self, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the bytes up and down in each of the last ``count`` whole seconds, with the oldest first."""
        if not self.samples:
            return (0.0,) * count, (0.0,) * count
        end = int(self.samples[-1].time)
        totals = [self._at(end - back) for back in range(count, -1, -1)]
        ups, downs = zip(*totals, strict=True)
        return _steps(ups), _steps(downs)

    def sparklines(self, count: int) -> tuple[str, str]:
        """Return the same as sparklines, up and down, each with its own scale."""
        up, down = self.seconds(count)
        return sparkline(up), sparkline(down)

    def _at(self, time: float) -> tuple[float, float]:
        """Return the counts at a time, interpolated linearly between two samples."""
        index = bisect_left(self.samples, time, key=lambda sample: sample.time)
        if index in (0, len(self.samples)):
            edge = self.samples[min(index, len(self.samples) - 1)]
            return edge.up, edge.down
        before, after = self.samples[index - 1 : index + 1]
        share = (time - before.time) / (after.time - before.time)
        return before.up + share * (after.up - before.up), before.down + share * (after.down - before.down)


def _steps(totals: Sequence[float]) -> tuple[float, ...]:
    return tuple(max(after - before, 0.0) for before, after in pairwise(totals))


def sparkline(values: Sequence[float]) -> str:
    """Return a block for each value. The highest value gets a full block, and zero the lowest one."""
    peak, steps = max(values, default=0.0), len(BLOCKS) - 2
    return "".join(BLOCKS[1 + int(value / peak * steps)] if value else BLOCKS[0] for value in values)


# -- words and numbers


def path_words(path: Path) -> str:
    """Return the path's name for people."""
    return kind(path).label


def ended(text: str) -> str:
    """Return the text as a sentence: with a full stop, unless it has an end mark."""
    return text if text.endswith((".", "!", "?")) else text + "."


def printable(text: str, longest: int = LONGEST) -> str:
    """Return the text on one line, without control characters: parts of it come from peers and clients."""
    shown = text if text.isprintable() else "".join(map(_shown, text))
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _shown(char: str) -> str:
    return char if char.isprintable() else "\N{REPLACEMENT CHARACTER}"


def size(count: float) -> str:
    """Format a number of bytes: ``999 B``, ``1.0 kB``, ``12.3 MB``."""
    value, unit = float(count), "B"
    for bigger in ("kB", "MB", "GB", "TB"):
        if value < 999.95:
            break
        value, unit = value / 1000, bigger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def rate(bytes_per_second: float) -> str:
    """Format a throughput: ``12.3 MB/s``."""
    return f"{size(bytes_per_second)}/s"


def duration(milliseconds: float) -> str:
    """Format a time: ``3 ms``, ``2.5 s``."""
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def age(seconds: float) -> str:
    """Format an age: ``12 s``, ``3 min``, ``5 h``, ``2 d``."""
    value, unit = max(seconds, 0.0), "s"
    for bigger, factor in (("min", 60), ("h", 60), ("d", 24)):
        if value < factor:
            break
        value, unit = value / factor, bigger
    return f"{int(value)} {unit}"
