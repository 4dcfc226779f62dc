"""That the benchmarks run and parse what they measure: not what they find."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ..support.browser import CHROMIUM
from ..support.redis_server import needs_redis
from .channel import OURS, speed
from .client import Chunked
from .harness import ROOT
from .latency import Stamps
from .report import percentile
from .upstream import STAMP

WIRE = b"3\r\nabc\r\n1A\r\n01234567890123456789012345\r\n0\r\n\r\n"


def measured(*names: str, timeout: float) -> str:
    """The table that the benchmarks of these names print."""
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_figures_are_measured_and_printed_as_a_table() -> None:
    table = measured("get", "memory", timeout=60)
    assert "| small GET, p50" in table
    assert "| memory under load, MB" in table


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.timeout(120)
def test_a_page_is_measured() -> None:
    table = measured("page", timeout=110)
    assert "| a page in Chromium, down, MB/s" in table
    assert "| a page's opening to its first answer" in table


@needs_redis
@pytest.mark.long
@pytest.mark.timeout(180)
def test_the_signal_server_is_measured_alone_and_with_redis() -> None:
    table = measured("signal", timeout=170)
    for name in ("one instance", "two instances and Redis"):
        assert f"| {name}: relay, one pipe" in table
        assert f"| {name}: 300 idle members, memory for each" in table


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
