"""When a member tries again, pure: for the signal server, for another link, for a better path.

    what happens                          another link                            a better path
    ------------------------------------  --------------------------------------  -----------------------------
    a proxy begins                        at once
    a link carries a session              not wanted any more                     after 45 s, on a poor path
    a session falls silent, or we moved   at once, beside what there is           not while nothing carries
    a link fails, or a session ends       after a delay that doubles; at once
                                          where the last one lasted
    the user asks                         at once
    a failure that no retry can mend      never

The signal server is tried again after a delay that doubles. Any of the above ends that wait.
"""

from __future__ import annotations

import random
from typing import Final

from ..config import Timeouts
from ..errors import TunnelError
from ..paths import Path, kind

FIRST: Final = 45.0
"""Seconds on a poor path until a better one is tried for. The first try, beside it, has ended by then."""
LAST: Final = 600.0
"""The longest wait between two tries; it doubles from the first."""


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


class Retry:
    """What is wanted, and from when on."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.link_wanted = True
        """Proxy: another link is. It comes to the room as a new member for that."""
        self.failure: TunnelError | None = None
        """What no retry can mend."""
        self.better_due: float | None = None
        """When a better path is tried for; None where what carries is good, or nothing carries."""
        self._timeouts = timeouts
        self._link_due = 0.0
        self._better_delay = FIRST
        self._reached_at: float | None = None
        self._signal = Backoff(timeouts)
        self._link = Backoff(timeouts)

    # -- what happens

    def joined(self) -> None:
        """The signal server is there."""
        self._signal.reset()

    def reached(self, now: float) -> None:
        """A link carries a session."""
        self.link_wanted = False
        self._reached_at = now

    def carries(self, path: Path, now: float) -> None:
        """That path carries the session, and another one may."""
        if not kind(path).poor:
            self.disturbed()
        elif self.better_due is None:
            self._wait_for_better(now)

    def disturbed(self) -> None:
        """Nothing carries the session, or nothing better is to be hoped for."""
        self.better_due, self._better_delay = None, FIRST

    def want_link(self) -> None:
        """Another link is wanted beside what there is, now."""
        self.link_wanted = True
        self._link.reset()
        self._link_due = 0.0

    def link_failed(self, now: float) -> float:
        """A proxy has no link: the delay until the next try, in seconds; 0 after a link that lasted."""
        self.link_wanted = True
        lasted = self._reached_at is not None and now - self._reached_at > self._timeouts.retry_max
        if lasted:
            self._link.reset()
            self._reached_at = None
        delay = 0.0 if lasted else self._link.next()
        self._link_due = now + delay
        return delay

    def hurry(self) -> None:
        """The next failure of the signal server is a first one."""
        self._signal.reset()

    # -- what is due

    def signal_delay(self, *, soon: bool) -> float:
        """Seconds until the signal server is tried again; ``soon``: streams wait for it."""
        delay = self._signal.next()
        return min(delay, self._timeouts.retry_waiting) if soon else delay

    def link_delay(self, now: float) -> float:
        """Seconds until another link may be made; 0 at once, or where nothing can be mended."""
        return 0.0 if self.failure is not None else max(0.0, self._link_due - now)

    def take_better(self, now: float) -> bool:
        """Whether to try for a better path now; the next time is later."""
        if self.better_due is None or now < self.better_due:
            return False
        self._wait_for_better(now)
        return True

    def _wait_for_better(self, now: float) -> None:
        self.better_due = now + self._better_delay
        self._better_delay = min(2 * self._better_delay, LAST)
