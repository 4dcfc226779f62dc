"""When a view of a tunnel is drawn anew: a few times a second, on one loop, until the tunnel has ended.

On the tunnel's loop, so that a view lives while a cell keeps the kernel's thread. Colab is the exception: its page does
not redraw what another thread changes, so there it is the kernel's loop, which stands while a cell runs.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

logger = logging.getLogger(__name__)

INTERVAL: Final = 0.25
"""Seconds between two drawings."""


class Ticking:
    """Calls ``draw`` on the loop each `INTERVAL` until it says that it is done, and once more where the loop ends."""

    def __init__(self, draw: Callable[[], bool]) -> None:
        self._draw = draw
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Begin, from any thread; nothing where the loop has ended, or there is none."""
        if loop is None:
            return
        self._loop = loop
        with suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(self._begin)

    def stop(self) -> None:
        """End, from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._end)

    def _begin(self) -> None:
        assert self._loop is not None, "it was started"
        self._task = self._loop.create_task(self._run(), name="llmtunnel panel")

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            while self._draw():  # noqa: ASYNC110 (nothing tells of each byte)
                await asyncio.sleep(INTERVAL)
        except asyncio.CancelledError:
            self._draw()  # how it ended: the loop ends with the last tunnel
            raise
        except Exception:
            logger.exception("a view of the tunnel failed; the tunnel goes on")


def drawing_loop(tunnels: asyncio.AbstractEventLoop | None) -> asyncio.AbstractEventLoop | None:
    """The loop to draw on, where the tunnel runs on that one; called in a cell."""
    if "google.colab" not in sys.modules:
        return tunnels
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return tunnels
