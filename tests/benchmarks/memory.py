"""What each process holds: at rest, under load, and while somebody reads nothing of a gigabyte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from .client import Address, connect
from .harness import Rig, tunnel
from .report import Row, ms
from .throughput import requests_a_second

Sizes = dict[str, float]
"""MB by process."""
GIGABYTE = 1_000_000_000


async def memory(quick: bool) -> list[Row]:
    """At rest, and while 16 connections ask as fast as they can."""
    async with tunnel() as rig:
        idle = rig.memory()
        loaded = await _highest(rig, requests_a_second(rig.address, 0.5 if quick else 4.0))
    return [
        Row(figure="memory idle, MB", tunnel=_sizes(idle)),
        Row(figure="memory under load, MB", tunnel=_sizes(loaded)),
    ]


async def stall(quick: bool) -> list[Row]:
    """Somebody asks for 1 GB and stops reading: what the tunnel holds then, and how long others wait."""
    async with tunnel() as rig:
        idle = rig.memory()
        async with _stalled(rig.address):
            grown = await _highest(rig, asyncio.sleep(0.5 if quick else 4.0))
            wait = await _longest_wait(rig.address)
    growth = {name: size - idle[name] for name, size in grown.items()}
    total = f"+{sum(growth.values()):.1f}" if growth else "–"
    return [
        Row(figure="a stalled 1 GB: memory grows, MB", tunnel=_sizes(growth), result=total),
        Row(figure="a stalled 1 GB: others wait", tunnel=ms(wait)),
    ]


@asynccontextmanager
async def _stalled(address: Address) -> AsyncIterator[None]:
    begun = asyncio.Event()
    async with connect(address) as client:

        def stop(_: bytes) -> None:
            client.transport.pause_reading()
            begun.set()

        download = asyncio.create_task(client.exchange(f"/bytes?{GIGABYTE}", sink=stop), name="stalled")
        try:
            await begun.wait()
            yield
        finally:
            download.cancel()
            await asyncio.gather(download, return_exceptions=True)


async def _longest_wait(address: Address) -> float:
    """The longest of a few requests, each on a connection of its own, in seconds."""
    waits: list[float] = []
    for _ in range(10):
        async with connect(address) as client:
            waits.append((await client.exchange("/small")).seconds)
    return max(waits)


async def _highest(rig: Rig, load: Awaitable[object]) -> Sizes:
    """The most that each process held until ``load`` was done."""
    highest = rig.memory()
    task = asyncio.ensure_future(load)
    while not task.done():
        await asyncio.wait((task,), timeout=0.1)
        highest = {name: max(size, highest[name]) for name, size in rig.memory().items()}
    task.result()
    return highest


def _sizes(sizes: Sizes) -> str:
    return ", ".join(f"{name} {size:.0f}" for name, size in sizes.items()) or "–"
