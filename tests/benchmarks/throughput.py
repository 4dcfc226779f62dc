"""How much passes: requests a second, and megabytes a second each way."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Final

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


PATHS: Final = {
    "direct path": ("--path", "direct"),
    "local TCP": ("--path", "tcp", "--secret", "a secret that nobody guesses"),
}


async def bulk(quick: bool) -> list[Row]:
    """Downloads and uploads over each path that a machine has to itself, and without a tunnel, in turns.

    The best of each counts, as the least disturbed.
    """
    size = 2_000_000 if quick else 50_000_000
    rows: list[Row] = []
    for path, flags in PATHS.items():
        speeds: dict[str, list[float]] = defaultdict(list)
        costs: dict[str, list[tuple[float, float]]] = defaultdict(list)
        async with tunnel(*flags) as rig:
            for _ in range(1 if quick else ROUNDS):
                for way, move in (("down", _down), ("up", _up)):
                    async with connect(rig.upstream) as client:
                        speeds[f"direct {way}"].append(await move(client, size))
                    before = rig.processor()
                    async with connect(rig.address) as client:
                        speeds[f"tunnel {way}"].append(await move(client, size))
                    serve, proxy = (
                        (after - start) / size * 1e9 for after, start in zip(rig.processor(), before, strict=True)
                    )
                    costs[way].append((serve, proxy))
        best = {name: max(values) for name, values in speeds.items()}
        rows += [_bulk_row(way, path, best) for way in ("down", "up")]
        for way in ("down", "up"):
            serve, proxy = min(costs[way])
            figure = f"processor time per MB {way}, {path}: serve / proxy"
            rows.append(Row(figure=figure, tunnel=f"{serve:.0f} / {proxy:.0f} ms"))
    return rows


def _bulk_row(way: str, path: str, best: dict[str, float]) -> Row:
    direct, through = best[f"direct {way}"], best[f"tunnel {way}"]
    return Row(
        figure=f"bulk {way}, {path}, MB/s",
        direct=f"{direct:.0f}",
        tunnel=f"{through:.1f}",
        result=f"{through / direct:.0%} of direct",
    )


async def _down(client: Connection, size: int) -> float:
    answer = await client.exchange(f"/bytes?{size}")
    assert answer.size == size
    return size / 1e6 / answer.seconds


async def _up(client: Connection, size: int) -> float:
    return size / 1e6 / (await client.exchange("/sink", upload=size)).seconds
