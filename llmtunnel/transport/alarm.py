"""A timer whose time moves on with every message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..protocol.liveness import OVERSLEPT


class Alarm:
    """Call ``ring`` at the time that ``due`` returns (`loop.time()`; None: never).

    It may ring early, and is then set again.
    """

    def __init__(self, due: Callable[[], float | None], ring: Callable[[], None]) -> None:
        self._due = due
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None
        self._stopped = False
        self._overslept = False
        self._at = 0.0  # uvloop's handle does not report a time that has passed

    def set(self) -> None:
        """Check the time again, since it may have changed. A later time costs nothing."""
        when = self._due()
        if when is None or self._stopped or (self._handle is not None and self._at <= when):
            return
        self._cancel()
        self._at = max(when, self._loop.time())
        self._handle = self._loop.call_at(when, self._over)

    def take_overslept(self, now: float) -> bool:
        """Return whether the alarm rang long after its time, or is long overdue. Reports this once."""
        told = self._overslept or (self._handle is not None and now - self._at > OVERSLEPT)
        self._overslept = False
        return told

    def stop(self) -> None:
        """Never ring again. Idempotent."""
        self._stopped = True
        self._cancel()

    def _cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _over(self) -> None:
        self._handle = None
        self._overslept = self._overslept or self._loop.time() - self._at > OVERSLEPT
        self._ring()
        self.set()
