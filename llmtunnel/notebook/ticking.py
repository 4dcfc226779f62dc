"""Redraw a tunnel's view a few times a second on one loop, until the tunnel has ended.

It uses the tunnel's loop, so that a view updates while a cell occupies the kernel's thread. Colab is an exception: its
page does not show changes from another thread. There it uses the kernel's loop, which stops while a cell runs.
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
    """Calls ``draw`` on the loop every `INTERVAL` until it returns False, and once more when the loop ends."""

    def __init__(self, draw: Callable[[], bool]) -> None:
        self._draw = draw
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Start drawing, if there is a loop and it is open. Thread-safe."""
        if loop is None:
            return
        self._loop = loop
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._begin)

    def stop(self) -> None:
        """Stop drawing. Thread-safe."""
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
            while self._draw():  # noqa: ASYNC110 (there is no event for each byte)
                await asyncio.sleep(INTERVAL)
        except asyncio.CancelledError:
            self._draw()  # the final state, since the loop ends with the last tunnel
            raise
        except Exception:
            logger.exception("A view of the tunnel failed; the tunnel continues")


def drawing_loop(tunnels: asyncio.AbstractEventLoop | None) -> asyncio.AbstractEventLoop | None:
    """Return the loop to draw on for a tunnel on the given loop. Must be called in a cell."""
    if "google.colab" not in sys.modules:
        return tunnels
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return tunnels
