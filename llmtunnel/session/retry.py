"""When a member tries again: for the signal server, for another link, for a better path. Pure.

    event                                    another link                            a better path
    ---------------------------------------  --------------------------------------  ---------------------------
    a proxy starts                           at once
    a link carries a session                 no longer wanted                        after 45 s, on a poor path
    a session falls silent, or we moved      at once, next to the existing one       not while nothing carries
    a link fails, or a session ends          after a delay that doubles; at once
                                             if the last link had lasted
    the user asks                            at once
    a failure that no retry can fix          never

The signal server is tried again after a delay that doubles. Any of these events ends that wait.
"""

from __future__ import annotations

import random
from typing import Final

from ..config import Timeouts
from ..errors import TunnelError
from ..paths import Path, kind

FIRST: Final = 45.0
"""Seconds on a poor path before a better one is tried. The first attempts at better paths have ended by then."""
DENIED: Final = 15.0
"""Seconds until the next try of a signal server that no longer accepts our access token: its operator may correct that,
and many clients together must not reach its limits."""
LAST: Final = 600.0
"""The longest wait between two tries, in seconds. The wait doubles from `FIRST`."""


class Backoff:
    """Waits that double from the first to the last.

    Each is shortened at random, so that peers do not return together.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self._first, self._last = timeouts.retry_first, timeouts.retry_max
        self._next = self._first

    def reset(self) -> None:
        """Note a success: the next failure counts as the first one."""
        self._next = self._first

    def next(self) -> float:
        """Return the next wait in seconds."""
        delay, self._next = self._next, min(self._next * 2, self._last)
        return delay * random.uniform(0.7, 1.0)


class Retry:
    """What a member wants, and from when on."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.link_wanted = True
        """Proxy: whether it wants another link. It joins the room as a new member for that."""
        self.failure: TunnelError | None = None
        """The failure that no retry can fix, if there is one."""
        self.better_due: float | None = None
        """When to try for a better path; None if the current path is good, or nothing carries."""
        self._timeouts = timeouts
        self._link_due = 0.0
        self._better_delay = FIRST
        self._reached_at: float | None = None
        self._signal = Backoff(timeouts)
        self._link = Backoff(timeouts)

    # -- events

    def joined(self) -> None:
        """Note that the signal server has accepted us."""
        self._signal.reset()

    def reached(self, now: float) -> None:
        """Note that a link carries a session."""
        self.link_wanted = False
        self._reached_at = now

    def carries(self, path: Path, now: float) -> None:
        """Note which path carries the session. Another path is possible."""
        if not kind(path).poor:
            self.disturbed()
        elif self.better_due is None:
            self._wait_for_better(now)

    def disturbed(self) -> None:
        """Note that nothing carries the session, or that no path would be better."""
        self.better_due, self._better_delay = None, FIRST

    def want_link(self) -> None:
        """Ask for another link now, next to the existing one."""
        self.link_wanted = True
        self._link.reset()
        self._link_due = 0.0

    def link_failed(self, now: float) -> float:
        """Note that a proxy has no link. Return the seconds until the next try: 0 after a link that lasted."""
        self.link_wanted = True
        lasted = self._reached_at is not None and now - self._reached_at > self._timeouts.retry_max
        if lasted:
            self._link.reset()
            self._reached_at = None
        delay = 0.0 if lasted else self._link.next()
        self._link_due = now + delay
        return delay

    def hurry(self) -> None:
        """Treat the signal server's next failure as the first one."""
        self._signal.reset()

    # -- what is due

    def signal_delay(self, *, soon: bool, denied: bool = False) -> float:
        """Return the seconds until the next try of the signal server. ``soon``: streams wait for it."""
        if denied:
            return DENIED * random.uniform(0.7, 1.0)
        delay = self._signal.next()
        return min(delay, self._timeouts.retry_waiting) if soon else delay

    def link_delay(self, now: float) -> float:
        """Return the seconds until another link may be made: 0 for at once, or if a failure is final."""
        return 0.0 if self.failure is not None else max(0.0, self._link_due - now)

    def take_better(self, now: float) -> bool:
        """Return whether to try for a better path now. If so, the next try is due later."""
        if self.better_due is None or now < self.better_due:
            return False
        self._wait_for_better(now)
        return True

    def _wait_for_better(self, now: float) -> None:
        self.better_due = now + self._better_delay
        self._better_delay = min(2 * self._better_delay, LAST)
