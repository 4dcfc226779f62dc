"""The values that a measurement returns, and how they are shown."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from llmtunnel.measure.figures import Figures, Requests, Times, Tokens, Transfer, percentile
from llmtunnel.measure.result import BenchResult
from llmtunnel.measure.table import text
from llmtunnel.paths import Path

LIMIT = "stopped after 256.0 MB"


def figures(factor: float = 1.0) -> Figures:
    points = tuple((step / 10, int(step * 1e6 / factor)) for step in range(20))
    flow = Transfer(bytes_per_second=1e7 / factor, bytes=19_000_000, seconds=1.9, limited_by=LIMIT, points=points)
    return Figures(
        latency=Times.of([0.001 * factor * each for each in range(1, 101)], 1.5),
        requests=Requests(per_second=1234.5 / factor, connections=16, samples=1851, seconds=1.5),
        download=flow,
        upload=replace(flow, bytes_per_second=987_654_321.0),
        tokens=tuple(
            Tokens(
                streams=count,
                sent_per_second=50.0 * count,
                per_second=49.9 * count,
                gap_p50_ms=20.0 * factor,
                gap_p99_ms=33.3 * factor,
                samples=60 * count,
                seconds=1.2,
            )
            for count in (1, 16, 64)
        ),
    )


def found(*, local: bool = False) -> BenchResult:
    return BenchResult(
        tunnel=figures(2.0),
        direct=figures() if local else None,
        path=Path.DIRECT,
        rtt_ms=12.34,
        loss=0.005,
        packets=12_000,
        started=1_800_000_000.0,
        seconds=12.1,
        notes=("<b>a note</b> & more",),
    )


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(each) for each in range(1, 201)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (100.0, 198.0, 7.0)


def test_times_say_how_many_they_are_of() -> None:
    times = figures().latency
    assert times is not None
    assert (times.p50_ms, times.p99_ms, times.samples) == (pytest.approx(50), pytest.approx(99), 100)
    assert Times.of([], 1.0) is None


@pytest.mark.parametrize("local", [False, True])
def test_the_object_of_json_has_plain_values_and_no_series(local: bool) -> None:
    told = json.loads(json.dumps(found(local=local).as_dict(), allow_nan=False))
    assert list(told) == ["path", "rtt_ms", "loss", "packets", "started", "seconds", "tunnel", "direct", "notes"]
    assert (told["path"], told["direct"] is None) == ("direct", not local)
    assert "values_ms" not in told["tunnel"]["latency"] and "points" not in told["tunnel"]["upload"]
    assert told["tunnel"]["tokens"][2]["streams"] == 64


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_table_fits_and_keeps_its_columns_apart(width: int, local: bool) -> None:
    lines = text(found(local=local), width=width).splitlines()
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if line.startswith("upload"))
    assert re.fullmatch(r"upload +(988 MB/s +)?988 MB/s( +.*)?" if local else r"upload +988 MB/s( +.*)?", row)
    assert any(line.startswith("tokens, 64 streams") and "3,194/s" in line for line in lines)


def test_the_table_says_what_the_figures_are_of_and_what_limited_them() -> None:
    shown = str(found())
    assert "1851 in 1.5 s, 16 connections" in shown
    assert f"limit of download, upload: {LIMIT}" in shown
    assert "path: direct" in shown and "round trip 12.3 ms, 0.50 % of 12,000 packets taken for lost" in shown
    local = str(found(local=True))
    assert re.search(r"small request, p50 +50\.0 ms +100 ms +\+50\.0 ms\n", local)
    assert re.search(r"requests a second +1,234 +617 +× 0\.50\n", local)


def test_what_could_not_be_measured_is_left_out() -> None:
    empty = replace(found(), tunnel=Figures(), loss=None, packets=None, rtt_ms=None, notes=())
    assert "small request" not in str(empty) and "path: direct" in str(empty)
    assert empty.as_dict()["tunnel"] == dict.fromkeys(("latency", "requests", "download", "upload")) | {"tokens": ()}
    assert "<svg" not in empty._repr_html_()


def test_a_notebook_gets_a_table_and_two_plots_with_nothing_left_unescaped() -> None:
    html = found(local=True)._repr_html_()
    assert html.count("<svg") == html.count("</svg>") == 2
    assert "&lt;b&gt;a note&lt;/b&gt; &amp; more" in html and "<b>a note" not in html
    assert html.count("<tr>") == 1 + 11
    assert not re.search(r"nan|inf[^o]", re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL))
    for x, y in re.findall(r"([-\d.]+),([-\d.]+)", " ".join(re.findall(r'points="([^"]+)"', html))):
        assert 0 <= float(x) <= 375 and 0 <= float(y) <= 150
