"""When to try for a better path than the one that carries: a network that let no UDP pass may let it pass by now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ..status import Path

FIRST: Final = 45.0
"""Seconds on a poor path until a better one is tried for. The first try, beside it, has ended by then."""
LAST: Final = 600.0
"""The longest wait between two tries; it doubles from the first."""
POOR: Final = (Path.TURN, Path.RELAY)


class Upgrade:
    """Calls ``attempt`` now and then while what carries is told to be poor."""

    def __init__(self, attempt: Callable[[], None]) -> None:
        self._attempt = attempt
        self._delay = FIRST
        self._timer: asyncio.TimerHandle | None = None

    def carries(self, path: Path) -> None:
        """That path does from now on."""
        if path not in POOR:
            self.stop()
        elif self._timer is None:
            self._arm()

    def stop(self) -> None:
        """Nothing does, or it is as good as can be hoped for; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._delay = FIRST

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._delay, self._try)
        self._delay = min(2 * self._delay, LAST)

    def _try(self) -> None:
        self._arm()
        self._attempt()
