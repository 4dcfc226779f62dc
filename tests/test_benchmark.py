"""A measurement in this process: what ends it, what serve's status says of it, and what it leaves behind."""

from __future__ import annotations

import asyncio

import pytest

from llmtunnel import aio
from llmtunnel.benchmark import Progress, bench
from llmtunnel.config import BenchOptions
from llmtunnel.errors import PeerError, SettingError, WaitTimeout
from llmtunnel.measure.phases import Phase
from llmtunnel.measure.result import BenchResult

from .support.embedded import get, proxy, started, until, world


class Watched(Progress):
    """Knows how far it is."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.known: list[BenchResult] = []

    def begins(self, phase: Phase) -> None:
        self.begun.append(phase.name)

    def found(self, so_far: BenchResult) -> None:
        self.known.append(so_far)


def options(signal: str, duration: float = 2.0) -> BenchOptions:
    return BenchOptions(room="r", signal=signal, stun=(), duration=duration)


async def test_serve_counts_a_measurement_as_what_it_is_and_serves_others_meanwhile() -> None:
    async with world() as (signal, serve):
        other, watched = proxy(signal.url), Watched()
        async with started(other):
            await other.wait(timeout=20)
            measuring = asyncio.create_task(bench(options(signal.url), progress=watched))
            await until(lambda: "download" in watched.begun)
            assert (await get(other.url))[0] == 200
            result = await measuring
        assert [each.seconds for each in watched.known] == sorted(each.seconds for each in watched.known)
        assert result == watched.known[-1] and result.tunnel.download is not None
        status = serve.status
        assert (status.requests, status.failed, status.tokens) == (1, 0, 0), "the other proxy's"
        assert status.bench_requests > 80 and status.bench_bytes > result.tunnel.download.bytes
        assert "/small" not in {record.path for record in serve.records()}
        await until(lambda: not serve.status.peers)


async def test_a_peer_that_is_put_out_measures_no_longer() -> None:
    async with world() as (signal, serve):
        watched = Watched()
        measuring = asyncio.create_task(bench(options(signal.url, 30.0), progress=watched))
        await until(lambda: "latency" in watched.begun)
        serve.kick(serve.status.peers[0].peer)
        with pytest.raises(PeerError) as ended:
            await measuring
        assert "removed and blocked" in ended.value.message


async def test_a_serve_that_ends_ends_the_measurement_with_an_error() -> None:
    async with world() as (signal, serve):
        watched = Watched()
        measuring = asyncio.create_task(bench(options(signal.url, 30.0), progress=watched))
        await until(lambda: "download" in watched.begun)
        await serve.aclose()
        with pytest.raises(PeerError):
            await measuring


async def test_a_measurement_that_is_cancelled_leaves_the_room() -> None:
    async with world() as (signal, serve):
        watched = Watched()
        measuring = asyncio.create_task(bench(options(signal.url, 30.0), progress=watched))
        await until(lambda: "requests" in watched.begun)
        measuring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await measuring
        await until(lambda: not serve.status.peers)


async def test_what_python_gives_is_checked_and_waits_no_longer_than_told() -> None:
    with pytest.raises(SettingError, match="--duration: not from 2 to 60 seconds: 1"):
        await aio.bench(duration=1)
    async with world() as (signal, _):
        with pytest.raises(WaitTimeout):
            await aio.bench(room="elsewhere", signal=signal.url, stun=(), timeout=0.5, quiet=True)
