"""Coroutines that run side by side until one is over."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def first_of(*work: Coroutine[Any, Any, None], name: str) -> None:
    """Run all until one returns or raises, which counts; the others are cancelled. ``name``: of their tasks."""
    tasks = [asyncio.create_task(each, name=name) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
