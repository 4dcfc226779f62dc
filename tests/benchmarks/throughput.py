"""How much passes: requests a second, and megabytes a second each way."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict

from . import channel
from .channel import bare_channel
from .client import Address, Connection, connect
from .harness import tunnel
from .report import Row

CONNECTIONS = 16
ROUNDS = 3


async def requests(quick: bool) -> list[Row]:
    """Small GETs, then small POSTs, on 16 connections that stay, each with one request after another."""
    seconds = 0.5 if quick else 4.0
    rows = []
    async with tunnel() as rig:
        for kind, upload in (("requests", 0), ("POSTs of 500 bytes", 500)):
            direct = await requests_a_second(rig.upstream, seconds, upload)
            through = await requests_a_second(rig.address, seconds, upload)
            rows.append(
                Row(
                    figure=f"{kind} a second, {CONNECTIONS} connections",
                    direct=f"{direct:.0f}",
                    tunnel=f"{through:.0f}",
                    result=f"{through / direct:.2f} of direct",
                )
            )
    return rows


async def requests_a_second(address: Address, seconds: float, upload: int = 0) -> float:
    """How many answers come in a second, to GETs or to POSTs of ``upload`` bytes."""

    async def work() -> int:
        count = 0
        async with connect(address) as client:
            while time.perf_counter() < end:
                await client.exchange("/sink" if upload else "/small", upload=upload)
                count += 1
        return count

    began = time.perf_counter()
    end = began + seconds
    counts = await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return sum(counts) / (time.perf_counter() - began)


async def bulk(quick: bool) -> list[Row]:
    """Downloads and uploads beside a bare data channel, in turns; the best of each counts, as the least disturbed."""
    size = 2_000_000 if quick else 50_000_000
    speeds: dict[str, list[float]] = defaultdict(list)
    async with tunnel() as rig, bare_channel() as bare:
        for _ in range(1 if quick else ROUNDS):
            for name, address in (("direct", rig.upstream), ("tunnel", rig.address)):
                async with connect(address) as client:
                    speeds[f"{name} down"].append(await _down(client, size))
                    speeds[f"{name} up"].append(await _up(client, size))
            if bare is not None:
                speeds["bare down"].append(await channel.down(bare, size))
                speeds["bare up"].append(await channel.up(bare, size))
    best = {name: max(values) for name, values in speeds.items()}
    return [_bulk_row(way, best) for way in ("down", "up")]


def _bulk_row(way: str, best: dict[str, float]) -> Row:
    through, bare = best[f"tunnel {way}"], best.get(f"bare {way}")
    return Row(
        figure=f"bulk {way}, MB/s",
        direct=f"{best[f'direct {way}']:.0f}",
        tunnel=f"{through:.1f}",
        channel="–" if bare is None else f"{bare:.1f}",
        result="–" if bare is None else f"{through / bare:.0%} of bare",
    )


async def _down(client: Connection, size: int) -> float:
    answer = await client.exchange(f"/bytes?{size}")
    assert answer.size == size
    return size / 1e6 / answer.seconds


async def _up(client: Connection, size: int) -> float:
    return size / 1e6 / (await client.exchange("/sink", upload=size)).seconds
