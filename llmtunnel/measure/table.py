"""The figures as text, one row each, for a terminal of any width. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from textwrap import wrap
from typing import Final, NamedTuple

from ..summary import path_words, rate, size
from .figures import Figures, Found, Times, Tokens

WIDE: Final = 80
NARROW: Final = 60
"""Width below which a row has neither a remark nor a comparison, in columns."""


class Row(NamedTuple):
    """The texts for one figure."""

    label: str
    tunnel: str
    direct: str = ""
    compared: str = ""
    """The tunnel's figure compared with the direct one: the difference, or the ratio."""
    remark: str = ""
    """What the tunnel's figure is based on."""


def text(found: Found, *, width: int = WIDE) -> str:
    """Return the whole text: the connection, a row for each figure, and remarks."""
    lines = [*head(found, width=width), *titles(width=width, local=found.direct is not None)]
    lines += [line(row, width=width, local=found.direct is not None) for row in rows(found.tunnel, found.direct)]
    return "\n".join([*lines, *foot(found, width=width)])


def head(found: Found, *, width: int) -> Iterator[str]:
    """Yield the lines about the path."""
    yield from wrap(f"path: {path_sentence(found)}", width)
    yield ""


def path_sentence(found: Found) -> str:
    """Return ``direct, round trip 12.3 ms, 0.20 % of 1,234 packets taken for lost``."""
    words = [path_words(found.path)]
    if found.rtt_ms is not None:
        words.append(f"round trip {'under 1 ms' if found.rtt_ms < 1 else _ms(found.rtt_ms)}")
    if found.loss is not None and found.packets:
        words.append(f"{found.loss * 100:.2f} % of {found.packets:,} packets taken for lost")
    return ", ".join(words)


def titles(*, width: int, local: bool) -> list[str]:
    """Return the titles of the columns, if there is more than one."""
    return [line(Row("", "tunnel", "direct", "compared"), width=width, local=True)] if local else []


def line(row: Row, *, width: int, local: bool) -> str:
    """Return one row, without its last column if there is no space."""
    first, each = (19, 10) if width < NARROW else (22, 12)
    shown = f"{row.label:<{first}}{f'{row.direct:>{each}}' if local else ''}{row.tunnel:>{each}}"
    more = f"{row.compared:>{each}}" if local else f"   {row.remark}" if row.remark else ""
    return shown + more if width >= NARROW and len(shown + more) <= width else shown


def rows(tunnel: Figures, direct: Figures | None = None) -> Iterator[Row]:
    """Yield the rows of all known figures."""
    other = direct or Figures()
    if tunnel.latency:
        yield from _latency(tunnel.latency, other.latency)
    if tunnel.requests:
        many = tunnel.requests
        plain = other.requests.per_second if other.requests else None
        made_of = f"{many.samples} in {_s(many.seconds)}, {many.connections} connections"
        yield _share("requests a second", many.per_second, plain, lambda value: f"{value:,.0f}", made_of)
    for name, moved, beside in (
        ("download", tunnel.download, other.download),
        ("upload", tunnel.upload, other.upload),
    ):
        if moved:
            made_of = f"{size(moved.bytes)} in {_s(moved.seconds)}"
            plain = beside.bytes_per_second if beside else None
            yield _share(name, moved.bytes_per_second, plain, _rate, made_of)
    for flow in tunnel.tokens:
        yield from _tokens(flow, next((each for each in other.tokens if each.streams == flow.streams), None))


def foot(found: Found, *, width: int) -> Iterator[str]:
    """Yield the duration and the remarks."""
    yield ""
    for each in (f"measured in {_s(found.seconds)}", *limits(found), *found.notes):
        yield from wrap(each, width, subsequent_indent="  ")


def limits(found: Found) -> Iterator[str]:
    """Yield what limited figures: each cause once, with the figures that it applies to."""
    causes: dict[str, list[str]] = {}
    figures = found.tunnel
    parts: list[tuple[str, object]] = [
        *(("small requests", figures.latency), ("requests", figures.requests)),
        *(("download", figures.download), ("upload", figures.upload)),
        *((streams_words(each.streams), each) for each in figures.tokens),
    ]
    for name, part in parts:
        if cause := getattr(part, "limited_by", ""):
            causes.setdefault(cause, []).append(name)
    for cause, names in causes.items():
        yield f"limit of {', '.join(names)}: {cause}"


def streams_words(count: int) -> str:
    """Return ``1 stream`` or ``16 streams``."""
    return f"{count} stream{'s' * (count != 1)}"


def _latency(times: Times, beside: Times | None) -> Iterator[Row]:
    made_of = f"{times.samples} requests in {_s(times.seconds)}"
    for name, value, plain in (
        ("p50", times.p50_ms, beside.p50_ms if beside else None),
        ("p99", times.p99_ms, beside.p99_ms if beside else None),
    ):
        yield _added(f"small request, {name}", value, plain, made_of)
        made_of = ""


def _tokens(flow: Tokens, beside: Tokens | None) -> Iterator[Row]:
    label = f"tokens, {streams_words(flow.streams)}"
    made_of = f"of {flow.sent_per_second:,.0f}/s sent"
    yield _share(
        label, flow.per_second, beside.per_second if beside else None, lambda value: f"{value:,.0f}/s", made_of
    )
    made_of = f"p50 {_ms(flow.gap_p50_ms)}, {flow.samples} tokens in {_s(flow.seconds)}"
    yield _added("  between two, p99", flow.gap_p99_ms, beside.gap_p99_ms if beside else None, made_of)


def _share(label: str, value: float, plain: float | None, shown: Callable[[float], str], made_of: str) -> Row:
    if plain is None:
        return Row(label, shown(value), remark=made_of)
    return Row(label, shown(value), shown(plain), f"× {value / plain:.2f}" if plain else "", made_of)


def _added(label: str, value: float, plain: float | None, made_of: str) -> Row:
    if plain is None:
        return Row(label, _ms(value), remark=made_of)
    return Row(label, _ms(value), _ms(plain), f"{'+' if value >= plain else '-'}{_ms(abs(value - plain))}", made_of)


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms" if milliseconds < 99.95 else f"{milliseconds:.0f} ms"


def _rate(bytes_per_second: float) -> str:
    shown = rate(bytes_per_second)
    number, _, unit = shown.partition(" ")
    return shown if len(shown) <= 9 else f"{float(number):.0f} {unit}"


def _s(seconds: float) -> str:
    return f"{seconds:.1f} s"
