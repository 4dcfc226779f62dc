"""How much passes: requests a second, and megabytes a second each way."""

from __future__ import annotations

import asyncio
import time

from . import channel
from .client import Address, connect
from .harness import tunnel
from .report import Row, rate

CONNECTIONS = 16


async def requests(quick: bool) -> list[Row]:
    """Small GETs on 16 connections that stay, each with one request after another."""
    seconds = 0.5 if quick else 4.0
    async with tunnel() as rig:
        direct = await requests_a_second(rig.upstream, seconds)
        through = await requests_a_second(rig.address, seconds)
    return [
        Row(
            figure=f"requests a second, {CONNECTIONS} connections",
            direct=f"{direct:.0f}",
            tunnel=f"{through:.0f}",
            result=f"{through / direct:.2f} of direct",
        )
    ]


async def requests_a_second(address: Address, seconds: float) -> float:
    """How many answers come in a second."""

    async def work() -> int:
        count = 0
        async with connect(address) as client:
            while time.perf_counter() < end:
                await client.exchange("/small")
                count += 1
        return count

    began = time.perf_counter()
    end = began + seconds
    counts = await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return sum(counts) / (time.perf_counter() - began)


async def bulk(quick: bool) -> list[Row]:
    """One download and one upload, beside a bare data channel."""
    size = 2_000_000 if quick else 100_000_000
    async with tunnel() as rig:
        direct = await _both_ways(rig.upstream, size)
        through = await _both_ways(rig.address, size)
    bare = await channel.measure(size)
    return [
        Row(
            figure=f"bulk {way}, MB/s",
            direct=rate(plain),
            tunnel=rate(got),
            channel=rate(best),
            result="–" if best is None else f"{got / best:.0%} of bare",
        )
        for way, plain, got, best in zip(("down", "up"), direct, through, bare, strict=True)
    ]


async def _both_ways(address: Address, size: int) -> tuple[float, float]:
    async with connect(address) as client:
        down = await client.exchange(f"/bytes?{size}")
        up = await client.exchange("/sink", upload=size)
    assert down.size == size
    return size / 1e6 / down.seconds, size / 1e6 / up.seconds
