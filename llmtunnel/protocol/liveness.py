"""Whether the peer is alive: when to ping, and when silence means death (README.md section 8).

Any message proves life. A ping goes out after a silence, and only a ping that stays unanswered condemns the peer. A
timer that fires long after its time means that *this* process slept (a suspended laptop, SIGSTOP): then the peer gets
its chance anew.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from ..config import Timeouts

OVERSLEPT: Final = 1.0
"""Seconds that a timer may be late before we take it that the process was stopped."""


class Verdict(Enum):
    """What `Liveness.check` finds."""

    ALIVE = auto()
    PING = auto()
    """Send one now."""
    DEAD = auto()


class Liveness:
    """The clock of one session. ``busy`` is whether streams are open."""

    def __init__(self, timeouts: Timeouts, now: float) -> None:
        self._timeouts = timeouts
        self._heard = now
        self._pinged: float | None = None
        """When the ping that is unanswered went out, for judging silence."""
        self._sent: float | None = None
        """The same, for measuring the round trip."""
        self._suspected = False
        self._given_up = False
        self.rtt: float | None = None
        """Seconds of the last round trip."""

    @property
    def last_heard(self) -> float:
        """When the last message came."""
        return self._heard

    def heard(self, now: float) -> None:
        """A message came."""
        self._heard = now
        self._given_up = False
        self._pinged = None
        self._suspected = False

    def pong(self, now: float) -> None:
        """A PONG came."""
        if self._sent is not None:
            self.rtt, self._sent = now - self._sent, None

    def measure(self, now: float) -> None:
        """A ping goes out for the round trip alone: that it stays unanswered condemns nobody."""
        self._sent = now

    def suspect(self) -> None:
        """Somebody says that the peer is gone: ask it at once, and give it little time."""
        if not self._suspected and not self._given_up:  # hearing it again gives no new delay
            self._suspected, self._pinged = True, None

    def renew(self, now: float) -> None:
        """The channel is another one."""
        self.heard(now)
        self._sent = self.rtt = None

    def give_up(self) -> None:
        """Ask no more until something is heard."""
        self._given_up = True

    def deadline(self, *, busy: bool) -> float | None:
        """When `check` has something to say next; None where it has given up."""
        if self._given_up:
            return None
        ping_after, dead_after = self._limits(busy)
        if self._pinged is None:
            return self._heard + ping_after
        return self._pinged + dead_after - ping_after

    def check(self, now: float, *, busy: bool) -> Verdict:
        """Call at the `deadline`; PING counts as done."""
        deadline = self.deadline(busy=busy)
        if deadline is None or now < deadline:
            return Verdict.ALIVE
        if self._pinged is not None and (self._suspected or now - deadline < OVERSLEPT):
            self.give_up()
            return Verdict.DEAD
        self._pinged = self._sent = now
        return Verdict.PING

    def _limits(self, busy: bool) -> tuple[float, float]:
        t = self._timeouts
        if self._suspected:
            return 0.0, t.dead_suspect
        return (t.ping_busy, t.dead_busy) if busy else (t.ping_idle, t.dead_idle)
