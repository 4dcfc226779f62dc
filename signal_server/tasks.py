"""Tasks that run side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


async def first_of(*work: Awaitable[object]) -> None:
    """Wait for the first of them, and cancel the others. Raises what it raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
