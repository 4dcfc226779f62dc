"""That the benchmarks run and parse what they measure: not what they find."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ..support.redis_server import needs_redis
from .channel import OURS, speed
from .client import Chunked
from .harness import ROOT
from .latency import Stamps
from .report import percentile
from .upstream import STAMP

WIRE = b"3\r\nabc\r\n1A\r\n01234567890123456789012345\r\n0\r\n\r\n"


def test_figures_are_measured_and_printed_as_a_table() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--quick", "get", "memory"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| small GET, p50" in done.stdout
    assert "| memory under load, MB" in done.stdout


@needs_redis
@pytest.mark.long
@pytest.mark.timeout(180)
def test_the_signal_server_is_measured_alone_and_with_redis() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", "--quick", "signal"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("one instance", "two instances and Redis"):
        assert f"| {name}: relay, one pipe" in done.stdout
        assert f"| {name}: 300 idle members, memory for each" in done.stdout


async def test_what_a_bare_channel_of_ours_carries_is_measured() -> None:
    assert await speed(OURS, 0.5) > 0


@pytest.mark.parametrize("cut", [1, 2, 5, len(WIRE)])
def test_a_chunked_body_is_read_however_its_bytes_were_cut(cut: int) -> None:
    body, got = Chunked(), bytearray()
    sizes = [body.feed(WIRE[start : start + cut], got.extend) for start in range(0, len(WIRE), cut)]
    assert got == b"abc01234567890123456789012345"
    assert [size for size in sizes if size is not None] == [29]


def test_every_event_of_a_stream_is_counted_however_its_bytes_were_cut() -> None:
    delays: list[float] = []
    stamps = Stamps(delays)
    data = STAMP % 1 + STAMP % 2 + STAMP % 3
    for start in range(0, len(data), 7):
        stamps.feed(data[start : start + 7])
    assert stamps.seen == len(delays) == 3


def test_a_percentile_is_one_of_the_values() -> None:
    assert percentile(range(1, 101), 0.5) == 50
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([7.0], 0.99) == 7
