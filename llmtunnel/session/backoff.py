"""How long to wait before the next try."""

from __future__ import annotations

import random

from ..config import Timeouts


class Backoff:
    """Doubling waits between a first and a last, each shortened at random so that many peers do not come at once."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._first, self._last = timeouts.retry_first, timeouts.retry_max
        self._next = self._first

    def reset(self) -> None:
        """It worked: the next failure is a first one."""
        self._next = self._first

    def next(self) -> float:
        """Seconds to wait now."""
        delay, self._next = self._next, min(self._next * 2, self._last)
        return delay * random.uniform(0.7, 1.0)
