"""Coroutines that run side by side until one is over, and what becomes of their defects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from ..errors import TunnelError

_log = logging.getLogger(__name__)


def report(task: asyncio.Task[Any]) -> None:
    """Log the defect that ended a task: the done callback of one that nobody awaits while the tunnel runs.

    asyncio itself tells only when the task is collected, which may be when the process ends.
    """
    if not task.cancelled() and (defect := task.exception()) is not None:
        _log.error("a defect ended the task %s", task.get_name(), exc_info=defect)


async def first_of(*work: Coroutine[Any, Any, None], name: str) -> None:
    """Run all until one returns or raises, which counts; the others are cancelled. ``name``: of their tasks.

    Where one of the others fails by a defect, that is logged.
    """
    tasks = [asyncio.create_task(each, name=name) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if task not in done and _is_defect(task):
            report(task)
    for task in sorted(done, key=_is_defect, reverse=True):
        task.result()


def _is_defect(task: asyncio.Task[Any]) -> bool:
    """Not the usual: that a socket or a peer is lost ends several tasks. aiohttp raises RuntimeError on closed ones."""
    return not task.cancelled() and not isinstance(task.exception(), TunnelError | OSError | RuntimeError | None)
