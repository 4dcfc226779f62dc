"""``llmtunnel bench`` as a process, with a serve of ours, of an earlier version or of the original."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from llmtunnel.cli.bench import BenchFinished
from tests.support.processes import ROOT, Process, Processes, Signal, environment
from tests.support.upstream import Upstream

WHEEL = next((ROOT / "tests" / "versions").glob("llmtunnel-0.1.0-*.whl"))
QUICK = ("--duration", "2")
ROWS = ("small request, p50", "small request, p99", "requests a second", "download", "upload", "tokens, 64 streams")


@pytest.fixture
def signal(started: Processes) -> Signal:
    return started.signal()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


def serving(
    processes: Processes, upstream: Upstream, signal: Signal, *flags: str, **environ: str
) -> tuple[Process, str]:
    """A serve, and its code."""
    serve = processes.command("serve", upstream.url, "--signal", signal.url, *flags, **environ)
    return serve, serve.wait_event("invite")["code"]


def bench(processes: Processes, *arguments: str) -> Process:
    return processes.start("-m", "llmtunnel", "bench", *arguments, name="bench")


def foreign(requests: list[Any]) -> list[str]:
    """What an upstream has received, beside what serve itself asks it to see whether it is there."""
    return [str(each) for each in requests if any(path in str(each) for path in ("small", "source", "sink", "tokens"))]


def checked(figures: dict[str, Any]) -> None:
    """Every figure is there, and a number that can be."""
    assert set(figures) == {"latency", "requests", "download", "upload", "tokens"}
    assert 0 < figures["latency"]["p50_ms"] <= figures["latency"]["p99_ms"]
    assert set(figures["latency"]) == {"p50_ms", "p99_ms", "samples", "seconds", "limited_by"}
    assert set(figures["requests"]) == {"per_second", "connections", "samples", "seconds", "limited_by"}
    assert figures["requests"]["per_second"] > 0
    for way in ("download", "upload"):
        assert set(figures[way]) == {"bytes_per_second", "bytes", "seconds", "limited_by"}
        assert figures[way]["bytes_per_second"] > 0 and figures[way]["bytes"] > 0
    assert [each["streams"] for each in figures["tokens"]] == [1, 16, 64]
    for each in figures["tokens"]:
        assert 0 <= each["gap_p50_ms"] <= each["gap_p99_ms"]
        assert each["samples"] == 10 * each["streams"] and each["sent_per_second"] == 50 * each["streams"]
        assert each["per_second"] > 0 and math.isfinite(each["per_second"])


def test_it_measures_a_serve_whose_upstream_hears_nothing_of_it(
    started: Processes, signal: Signal, upstream: Upstream
) -> None:
    serve, code = serving(started, upstream, signal, "--policy", "openai", "-v")
    measuring = started.command("bench", code, "--stun", "none", *QUICK)
    assert measuring.wait_exit(120) == 0, measuring.report()
    found = measuring.wait_event("bench")
    names = [each.name for each in fields(BenchFinished)]
    assert list(found) == ["time", "event", *names[1:]], "what the reference says of --json"
    assert found["path"] in ("direct", "tcp") and found["rtt_ms"] >= 0  # whole milliseconds on uvloop
    assert found["direct"] is None
    checked(found["tunnel"])
    assert {"signal-connected", "peer-connected", "bench"} <= {event["event"] for event in measuring.events}
    assert not {"request", "listening", "totals"} & {event["event"] for event in measuring.events}
    assert code not in "".join(measuring.lines + measuring.errors)
    assert foreign(upstream.requests) == []
    serve.wait_line(r"proxy-\w+ measures the tunnel")
    if os.name == "posix":
        serve.interrupt()
        assert serve.wait_exit() == 130
        totals = serve.wait_event("totals")
        assert totals["requests"] == totals["tokens"] == totals["bytes_down"] == totals["active"] == 0
        assert totals["bench_requests"] > 80
        assert totals["bench_bytes"] > found["tunnel"]["download"]["bytes"]


def test_without_a_code_it_measures_this_machine_beside_a_direct_connection(started: Processes) -> None:
    measuring = bench(started, *QUICK)
    assert measuring.wait_exit(120) == 0, measuring.report()
    assert measuring.errors == []
    text = "\n".join(measuring.lines)
    assert "direct      tunnel    compared" in text
    for row in ROWS:
        assert len(measuring.wait_line(f"^{row} +[0-9]").string) <= 80
    assert text.index("small request") < text.index("tokens, 64 streams") < text.index("measured in")
    measuring.wait_line("^path: direct, round trip ")


def test_on_a_narrow_terminal_no_line_is_longer_than_it(started: Processes) -> None:
    measuring = started.start("-m", "llmtunnel", "bench", *QUICK, name="bench", environ={"COLUMNS": "40"})
    assert measuring.wait_exit(120) == 0, measuring.report()
    assert max(map(len, measuring.lines)) <= 40
    for row in ROWS:
        measuring.wait_line(f"^{row} ")


@pytest.mark.parametrize(("flags", "environ"), [(("--no-bench",), {}), ((), {"TUNNEL_NO_BENCH": "1"})])
def test_a_serve_that_was_told_so_answers_no_measurement(
    started: Processes, signal: Signal, upstream: Upstream, flags: tuple[str, ...], environ: dict[str, str]
) -> None:
    _, code = serving(started, upstream, signal, *flags, **environ)
    measuring = bench(started, code, "--stun", "none")
    assert measuring.wait_exit() == 1, measuring.report()
    measuring.wait_line("^error: This serve does not answer measurements.")
    measuring.wait_line("--no-bench")
    assert foreign(upstream.requests) == []


def test_a_serve_of_an_earlier_version_is_asked_nothing(
    started: Processes, signal: Signal, upstream: Upstream, tmp_path: Path
) -> None:
    with zipfile.ZipFile(WHEEL) as wheel:
        wheel.extractall(tmp_path)
    command = ("-P", "-m", "llmtunnel", "serve", upstream.url, "--signal", signal.url, "--stun", "none", "--json")
    serve = started.start(*command, name="serve", environ=environment({"PYTHONPATH": str(tmp_path)}))
    measuring = bench(started, serve.wait_event("invite")["code"], "--stun", "none")
    assert measuring.wait_exit() == 1, measuring.report()
    measuring.wait_line("^error: This serve does not answer measurements.")
    measuring.wait_line("0.1.0")
    assert foreign(upstream.requests) == []


def test_the_originals_serve_is_asked_nothing(started: Processes, upstream: Upstream) -> None:
    signal = started.original_signal()
    started.original_serve("measured", upstream.url, signal.url)
    measuring = bench(started, "--room", "measured", "--signal", signal.url, "--stun", "none")
    assert measuring.wait_exit() == 1, measuring.report()
    measuring.wait_line("^error: This serve does not answer measurements.")
    assert upstream.requests == []


def test_a_wrong_code_is_the_error_that_it_is_for_a_proxy(
    started: Processes, signal: Signal, upstream: Upstream
) -> None:
    _, code = serving(started, upstream, signal)
    number, _, rest = code.partition("-")
    words, _, where = rest.partition("@")
    wrong = f"{number}-{'-'.join(reversed(words.split('-')))}@{where}"
    measuring = bench(started, wrong, "--stun", "none")
    assert measuring.wait_exit() == 3, measuring.report()
    measuring.wait_line("Wrong code: it does not match the one that serve shows.")


def test_a_code_for_one_proxy_is_not_used_up(started: Processes, signal: Signal, upstream: Upstream) -> None:
    _, code = serving(started, upstream, signal, "--once")
    measuring = bench(started, code, "--stun", "none")
    assert measuring.wait_exit() == 3, measuring.report()
    measuring.wait_line("would use it up. It was not used.")
    proxy = started.command("proxy", code, "--listen", "127.0.0.1:0")
    proxy.wait_event("ready")


def test_serves_limits_hold_and_are_what_limited_it(started: Processes, signal: Signal, upstream: Upstream) -> None:
    _, code = serving(started, upstream, signal, "--max-requests-per-minute", "30")
    measuring = started.command("bench", code, "--stun", "none", *QUICK)
    measuring.wait_exit(120)
    measuring.wait_line("--max-requests-per-minute")


@pytest.mark.skipif(os.name != "posix", reason="no signals are sent from outside elsewhere")
def test_ctrl_c_ends_it_cleanly(started: Processes, signal: Signal, upstream: Upstream) -> None:
    serve, code = serving(started, upstream, signal)
    for place in ((), (code, "--stun", "none")):
        measuring = bench(started, *place, "--duration", "60")
        measuring.wait_line("^small request, p50")
        measuring.interrupt()
        assert measuring.wait_exit() == 130
        assert measuring.errors == []
    serve.wait_event("peer-lost")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--duration", "0"), "--duration: not from 2 to 60 seconds: 0."),
        (("--duration", "soon"), "--duration: not a number of seconds: 'soon'"),
        (("--listen", "1"), "unknown option '--listen'"),
        (("nonsense",), ""),
    ],
)
def test_what_cannot_be_used_is_said_at_once(started: Processes, arguments: tuple[str, ...], said: str) -> None:
    measuring = bench(started, *arguments)
    assert measuring.wait_exit() == 2
    assert said in "\n".join(measuring.errors)
