"""How long a session that no channel carries waits for one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Final

GONE: Final = 10.0
"""Seconds that a peer has to come back whose process seems to have ended: one that was killed never does."""
FRESH: Final = 5.0
"""Seconds after which that word says nothing of a silence that begins: a dead peer is noticed within 3 s."""


class Patience:
    """It lasts ``seconds`` from `start`, where `stop` does not come first; then ``give_up`` is called with why."""

    def __init__(self, seconds: float, give_up: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._give_up = give_up
        self._loop = asyncio.get_running_loop()
        self._reason = ""
        self._since = 0.0
        self._gone = inf
        """When the peer's process was said to have ended."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> bool:
        """Whether a channel is waited for."""
        return self._timer is not None

    def start(self, reason: str) -> None:
        """Nothing carries the session any more; that it is known already changes nothing."""
        if self._timer is None:
            self._reason, self._since = reason, self._loop.time()
            if self._since - self._gone > FRESH:  # it was there since
                self._gone = inf
            self._arm()

    def stop(self) -> None:
        """Something carries it, or it is over; idempotent."""
        self._gone = inf
        self._cancel()

    def expect(self, *, gone: bool) -> None:
        """The peer's process is said to have ended, or to be there after all."""
        self._gone = self._loop.time() if gone else inf
        if self._timer is not None:
            self._arm()

    def _arm(self) -> None:
        self._cancel()
        gone = max(self._since, self._gone)  # who is heard meanwhile has all of the time, whatever was said
        self._timer = self._loop.call_at(min(self._since + self._seconds, gone + GONE), self._over)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self) -> None:
        self._timer = None
        waited = self._loop.time() - self._since
        self._give_up(f"{self._reason.rstrip('.')}. It did not come back within {round(waited, 1):g} s.")
