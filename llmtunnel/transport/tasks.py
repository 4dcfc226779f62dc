"""Tasks from their start to their end: run side by side until one ends, stopped, or closed step by step.

Nothing here waits without a limit for a task that has been cancelled, and no defect goes unseen.
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
"""Seconds that one step of a shutdown may take. Each step that waits for a peer or a server has a limit of its own, of
1 to 5 s. Only a defect needs this long."""
HURRY: Final = 0.5
"""Seconds for each step after the shutdown itself was cancelled."""
GRACE: Final = 3.0
"""Seconds that a cancelled step or task has to end before nobody waits for it: enough for a few hurried steps."""

Step = Callable[[], object]
"""A step of a shutdown: called, and awaited if it returns an awaitable."""


def report(task: asyncio.Task[Any]) -> None:
    """Log the defect that ended a task. This is the done callback of a task that nobody awaits while the tunnel runs.

    asyncio itself reports it only when the task is collected, perhaps not before the process ends.
    """
    if not task.cancelled() and (defect := task.exception()) is not None:
        _log.error("a defect ended the task %s", task.get_name(), exc_info=defect)


async def first_of(*work: Coroutine[Any, Any, None], name: str) -> None:
    """Run all until one returns or raises, which determines the result. Cancel the others. ``name``: for their tasks.

    If one of the others fails by a defect, that is logged.
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
    """Run every step of a shutdown, one after the other or ``together``, whatever happens to the others.

    A step that raises is logged. One that has not ended after `STEP` seconds is logged and cancelled. If the shutdown
    itself is cancelled, so is the current step. The remaining steps still run, in a hurry, before the cancellation is
    raised.
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
    """Cancel tasks and wait until they have ended. One that has not after `STEP` seconds is logged.

    Their failures are not logged: code that makes a task which nobody awaits adds `report` to it.
    """
    for task in tasks:
        task.cancel()
    try:
        await _outlast(tasks, STEP)
    finally:
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()  # otherwise asyncio would complain that the exception was never retrieved


async def ended(*tasks: asyncio.Task[Any]) -> None:
    """Wait, as a step of a shutdown, until tasks that close something have ended. If cancelled, cancel them too."""
    if not tasks:
        return
    try:
        await asyncio.wait(tasks)  # `finish` limits its steps
    except asyncio.CancelledError:
        await stop(*tasks)
        raise


def _begin(step: Step) -> asyncio.Task[None] | None:
    """Call a step, and return the task that awaits its result, if any."""
    try:
        result = step()
    except Exception as exc:
        _complain(_name(step), exc)
        return None
    return asyncio.create_task(_await(result), name=_name(step)) if isinstance(result, Awaitable) else None


async def _await(result: Awaitable[Any]) -> None:
    await result


async def _outlast(tasks: Collection[asyncio.Task[Any]], limit: float) -> None:
    """Wait until all have ended. Cancel those that have not after ``limit`` seconds, and abandon them after `GRACE`.

    If the wait is cancelled, cancel them at once, and raise the cancellation when they have ended or are abandoned.
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
    """Log the failure of a step, if it failed."""
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
    """Return whether a task failed in an unusual way. The loss of a socket or a peer usually ends several tasks.

    aiohttp raises RuntimeError on closed sockets.
    """
    return not task.cancelled() and not isinstance(task.exception(), TunnelError | OSError | RuntimeError | None)
