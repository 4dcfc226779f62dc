"""Serve's work for one peer: one task per request, from its arrival to the end of its handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ..errors import TunnelError
from .stream import Stream

logger = logging.getLogger(__name__)

Handler = Callable[[Stream], Awaitable[None]]


class Handlers:
    """Run at most ``most`` tasks at once. Check `full` before `start`."""

    def __init__(self, handler: Handler | None, *, most: int) -> None:
        self._handler = handler
        self._most = most
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @property
    def full(self) -> bool:
        """Whether no further task may start. Handlers of streams that were reset may still be cleaning up."""
        return len(self._tasks) >= self._most

    def start(self, stream: Stream) -> None:
        """Start the handler for a request that has arrived."""
        assert self._handler is not None, "only serve receives requests"
        task = asyncio.create_task(_run(self._handler, stream), name=f"{stream.peer} stream {stream.id}")
        self._tasks[stream.id] = task
        task.add_done_callback(lambda _: self._over(stream))

    def _over(self, stream: Stream) -> None:
        # Not in the task itself: a task that is cancelled before its first step never runs.
        self._tasks.pop(stream.id, None)
        stream.free()

    def cancel(self, id: int) -> None:
        """Cancel the handler of a stream that has ended, if there is one."""
        if task := self._tasks.get(id):
            task.cancel()

    def cancel_all(self) -> None:
        """Cancel all handlers, since the session has ended."""
        for task in self._tasks.values():
            task.cancel()

    async def wait(self) -> None:
        """Wait until no handler is left. Cancelled ones clean up first; `finish` limits how long that may take."""
        if self._tasks:
            await asyncio.wait(self._tasks.values())


async def _run(handler: Handler, stream: Stream) -> None:
    try:
        await handler(stream)
    except TunnelError as exc:
        logger.debug("stream %d of %s ended: %s", stream.id, stream.peer, exc)
    except Exception:
        logger.exception("a defect while answering stream %d of %s", stream.id, stream.peer)
    finally:
        stream.finish()
