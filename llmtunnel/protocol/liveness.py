"""Whether the peer is alive: when to ping, and when silence means that it is dead (README.md section 8).

Any message proves that the peer is alive. A ping is sent after a silence, and only an unanswered ping makes the peer
dead. A timer that fires long after its time means that *this* process slept (a suspended laptop, SIGSTOP). The peer
then gets another ping first.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from ..config import Timeouts

OVERSLEPT: Final = 1.0
"""Seconds that a timer may be late before we conclude that the process was stopped."""


class Verdict(Enum):
    """What `Liveness.check` finds."""

    ALIVE = auto()
    PING = auto()
    """Send a ping now."""
    DEAD = auto()


class Liveness:
    """The clock of one session. ``busy``: whether streams are open."""

    def __init__(self, timeouts: Timeouts, now: float) -> None:
        self._timeouts = timeouts
        self._heard = now
        self._pinged: float | None = None
        """When the unanswered ping was sent, for judging silence."""
        self._sent: float | None = None
        """The same, for measuring the round trip."""
        self._suspected = False
        self._given_up = False
        self.rtt: float | None = None
        """The last round trip in seconds."""

    @property
    def last_heard(self) -> float:
        """When the last message arrived."""
        return self._heard

    def heard(self, now: float) -> None:
        """Note that a message has arrived."""
        self._heard = now
        self._given_up = False
        self._pinged = None
        self._suspected = False

    def pong(self, now: float) -> None:
        """Note that a PONG has arrived."""
        if self._sent is not None:
            self.rtt, self._sent = now - self._sent, None

    def measure(self, now: float) -> None:
        """Note a ping that only measures the round trip. The peer need not answer it to stay alive.

        While an earlier ping is unanswered, that one measures instead: the first answer is its own.
        """
        if self._sent is None:
            self._sent = now

    def suspect(self) -> None:
        """Ask the peer at once, and give it little time, since it is said to have left."""
        if not self._suspected and not self._given_up:  # a repeated report grants no new delay
            self._suspected, self._pinged = True, None

    def renew(self, now: float) -> None:
        """Start again on a new channel."""
        self.heard(now)
        self._sent = self.rtt = None

    def give_up(self) -> None:
        """Send no more pings until something is heard."""
        self._given_up = True

    def deadline(self, *, busy: bool) -> float | None:
        """Return when to call `check` next, or None if it has given up."""
        if self._given_up:
            return None
        ping_after, dead_after = self._limits(busy)
        if self._pinged is None:
            return self._heard + ping_after
        return self._pinged + dead_after - ping_after

    def check(self, now: float, *, busy: bool) -> Verdict:
        """Return what is due at the `deadline`. PING counts as sent."""
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
