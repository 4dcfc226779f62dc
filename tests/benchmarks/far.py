"""A path of 58 ms that loses packets, in the small internet (`tests/netlab`): bulk, a small request meanwhile, tokens.

It needs root, and runs by name only. ``python -m tests.benchmarks.far PORT FIGURE`` is the client, at host-b.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import pairwise
from typing import Final

from ..support.network_lab import SECRET, STUN, Lab, lab
from .client import Address, connect
from .latency import Delays
from .loop import run
from .report import Row, ms, percentile

LOSSES: Final = (0.0, 0.5, 2.0)
"""Percent of packets, each way."""
DELAY: Final = 14
"""Milliseconds of each link, each way: a round trip takes four of them, and 2 ms of the machine."""
SECONDS: Final = 8.0
"""That a bulk transfer is watched for."""


async def far(quick: bool) -> list[Row]:
    """All figures, at each loss."""
    return await asyncio.to_thread(_measure, quick)


def _measure(quick: bool) -> list[Row]:
    rows: list[Row] = []
    with lab("cone", "cone", delay=DELAY) as network:
        upstream = network.python("host-a", "tests.benchmarks.upstream")
        port = upstream.wait_line(r"upstream on port (\d+)")[1]
        tunnel = network.meet("--path", "direct", *STUN, *SECRET, upstream=f"127.0.0.1:{port}")
        tunnel.wait_path("direct")
        for loss in LOSSES[1:2] if quick else LOSSES:
            network.link("a", "--loss", str(loss))
            rows += [
                Row(figure=f"58 ms, {loss:g} % loss: {name}", tunnel=value)
                for name, value in _figures(network, 2.0 if quick else SECONDS).items()
            ]
    return rows


def _figures(network: Lab, seconds: float) -> dict[str, str]:
    client = network.python("host-b", "tests.benchmarks.far", "8000", str(seconds))
    figures: dict[str, str] = json.loads(client.wait_line(r"\{.*\}", timeout=20 * seconds + 60)[0])
    assert client.wait_exit() == 0, client.report()
    return figures


async def _client(address: Address, seconds: float) -> dict[str, str]:
    down, _ = await bulk(address, seconds, upload=False)
    up, _ = await bulk(address, seconds, upload=True)
    _, waits = await bulk(address, seconds, upload=False, ask=True)
    gaps = await _gaps(address, seconds)
    return {
        "bulk down, MB/s": f"{down:.2f}",
        "bulk up, MB/s": f"{up:.2f}",
        "a small GET beside bulk, p50": ms(percentile(waits, 0.5)),
        "a small GET beside bulk, p99": ms(percentile(waits, 0.99)),
        "20 streams of 30 tokens/s: gap, p99": ms(percentile(gaps, 0.99)),
        "20 streams of 30 tokens/s: gap, longest": ms(max(gaps)),
    }


async def bulk(address: Address, seconds: float, *, upload: bool, ask: bool = False) -> tuple[float, Delays]:
    """Megabytes a second, after the first quarter of the time; and how long small requests take meanwhile."""
    moved = 0

    def count(data: bytes) -> None:
        nonlocal moved
        moved += len(data)

    async def move() -> None:
        nonlocal moved
        async with connect(address) as client:
            if not upload:
                await client.exchange(f"/bytes?{10**10}", sink=count)
            while True:
                await client.exchange("/sink", upload=1_000_000)
                moved += 1_000_000

    waits = Delays()
    async with asyncio.TaskGroup() as group:
        senders = [group.create_task(move()) for _ in range(6 if upload else 1)]
        await asyncio.sleep(seconds / 4)
        before, began = moved, time.perf_counter()
        if ask:
            waits = await _ask(address, seconds)
        else:
            await asyncio.sleep(seconds)
        speed = (moved - before) / 1e6 / (time.perf_counter() - began)
        for sender in senders:
            sender.cancel()
    return speed, waits


async def _ask(address: Address, seconds: float) -> Delays:
    waits, end = Delays(), time.perf_counter() + seconds
    async with connect(address) as client:
        while time.perf_counter() < end:
            waits.append((await client.exchange("/small")).seconds)
    return waits


async def _gaps(address: Address, seconds: float) -> Delays:
    """Seconds between two tokens of one stream, as they arrive."""

    async def stream() -> Delays:
        arrived = Delays()
        async with connect(address) as client:
            await client.exchange(
                f"/v1/chat/completions?count={int(30 * seconds)}&rate=30",
                sink=lambda data: arrived.append(time.perf_counter()),
            )
        return [after - before for before, after in pairwise(arrived)]

    return [gap for gaps in await asyncio.gather(*(stream() for _ in range(20))) for gap in gaps]


if __name__ == "__main__":
    print(json.dumps(run(_client(("127.0.0.1", int(sys.argv[1])), float(sys.argv[2])))))
