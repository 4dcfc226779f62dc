"""Tasks from their start to their end: side by side until one is over, stopped, or closed step by step.

Nothing here waits without a limit for a task that has been told to end, and no defect goes unseen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine
from functools import partial
from typing import Any, Final

from ..errors import TunnelError

_log = logging.getLogger(__name__)

STEP: Final = 10.0
"""Seconds that one step of a shutdown may take. Each that waits for a peer or a server has a limit of its own, of 1 to
5 s: only a defect needs as long as this."""
HURRY: Final = 0.5
"""Seconds for each step once the shutdown itself is cancelled."""
GRACE: Final = 3.0
"""Seconds that a cancelled step or task has to end before it is left to itself: some steps of its own, in a hurry."""

Step = Callable[[], object]
"""A step of a shutdown: it is called, and where it returns an awaitable, that is awaited."""


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
        await stop(*tasks)
    for task in tasks:
        if task not in done and task.done() and _is_defect(task):
            report(task)
    for task in sorted(done, key=_is_defect, reverse=True):
        task.result()


async def finish(*steps: Step, together: bool = False) -> None:
    """Run every step of a shutdown, one after the other or ``together``, whatever becomes of the others.

    A step that raises is reported in the log. One that has not ended after `STEP` seconds is reported and cancelled.
    Where the shutdown itself is cancelled, so is the step under way. The other ones are run all the same, in a hurry,
    before that is raised.
    """
    cancelled: asyncio.CancelledError | None = None
    for row in [steps] if together else [(step,) for step in steps]:
        tasks = [task for step in row if (task := _begin(step)) is not None]
        try:
            await _outlast(tasks, HURRY if cancelled else STEP)
        except asyncio.CancelledError as exc:
            cancelled = exc
        for task in tasks:
            _tell(task)
    if cancelled is not None:
        raise cancelled


async def stop(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended; one that has not after `STEP` seconds is reported.

    Their failures are not: whoever makes a task that nobody awaits has it `report`.
    """
    for task in tasks:
        task.cancel()
    try:
        await _outlast(tasks, STEP)
    finally:
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()  # or asyncio would say that nobody has looked at it


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Wait until tasks that close something have ended, as a step of a shutdown. Where it is cancelled, so are they."""
    if not tasks:
        return
    try:
        await asyncio.wait(tasks)  # `finish` bounds its steps
    except asyncio.CancelledError:
        await stop(*tasks)
        raise


def _begin(step: Step) -> asyncio.Task[None] | None:
    """Call a step; the task that awaits what it returns."""
    try:
        result = step()
    except Exception as exc:
        _complain(_name(step), exc)
        return None
    return asyncio.create_task(_await(result), name=_name(step)) if isinstance(result, Awaitable) else None


async def _await(result: Awaitable[Any]) -> None:
    await result


async def _outlast(tasks: Collection[asyncio.Task[Any]], limit: float) -> None:
    """Wait until all have ended. After ``limit`` seconds those that have not are cancelled, and after `GRACE` left.

    Where the wait is cancelled, so are they, at once; that is raised when they have ended, or are left.
    """
    loop = asyncio.get_running_loop()
    deadline, cancelled = loop.time() + limit, None
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending, timeout=max(0.0, deadline - loop.time()))
        except asyncio.CancelledError as exc:
            cancelled = exc
            break
        if loop.time() >= deadline:
            break
    level = logging.DEBUG if cancelled else logging.ERROR
    for task in pending:
        if not task.done():
            _log.log(level, "%s has not ended after %g s, and is cancelled", task.get_name(), limit)
            task.cancel()
    deadline = loop.time() + GRACE
    while (pending := [task for task in tasks if not task.done()]) and loop.time() < deadline:
        try:
            await asyncio.wait(pending, timeout=deadline - loop.time())
        except asyncio.CancelledError as exc:
            cancelled = exc
    for task in pending:
        _log.error("%s has not ended %g s after it was cancelled", task.get_name(), GRACE)
        task.add_done_callback(report)
    if cancelled is not None:
        raise cancelled


def _tell(task: asyncio.Task[None]) -> None:
    """What has become of a step."""
    if task.done() and not task.cancelled() and (exc := task.exception()) is not None:
        _complain(task.get_name(), exc)


def _complain(name: str, exc: BaseException) -> None:
    if isinstance(exc, TunnelError | OSError):
        _log.warning("%s failed: %r", name, exc)
    else:
        _log.error("a defect ended %s", name, exc_info=exc)


def _name(step: Step) -> str:
    while isinstance(step, partial):
        step = step.func
    return f"closing: {getattr(step, '__qualname__', step)}"


def _is_defect(task: asyncio.Task[Any]) -> bool:
    """Not the usual: that a socket or a peer is lost ends several tasks. aiohttp raises RuntimeError on closed ones."""
    return not task.cancelled() and not isinstance(task.exception(), TunnelError | OSError | RuntimeError | None)
