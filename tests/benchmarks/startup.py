"""How long one waits: for a proxy's first answer, and for an answer after serve has crashed."""

from __future__ import annotations

import time

from .harness import ground, tunnel
from .report import Row


async def start(quick: bool) -> list[Row]:
    """From starting a proxy to its first answer, a few times."""
    seconds: list[float] = []
    async with ground() as rig:
        rig.serve()
        await rig.proxy()
        await rig.answered()
        for _ in range(1 if quick else 5):
            rig.processes.pop().kill()
            began = time.perf_counter()
            await rig.proxy()
            await rig.answered()
            seconds.append(time.perf_counter() - began)
    return [Row(figure="a proxy's start to its first answer", tunnel=_spread(seconds))]


async def recovery(quick: bool) -> list[Row]:
    """Serve is killed and started again at once, while a client asks one request after another."""
    seconds: list[float] = []
    async with tunnel() as rig:
        for _ in range(1 if quick else 3):
            next(process for process in reversed(rig.processes) if process.name == "serve").kill()
            began = time.perf_counter()
            rig.serve()
            await rig.answered()
            seconds.append(time.perf_counter() - began)
    return [Row(figure="serve's crash and restart to an answer", tunnel=_spread(seconds))]


def _spread(seconds: list[float]) -> str:
    """The median, and the worst."""
    return f"{sorted(seconds)[len(seconds) // 2]:.2f} s (worst {max(seconds):.2f})"
