"""The state of a session, pure: what happens to its channel and ``now`` in, what its owner hears out.

    state         what happens                            next          the owner hears
    ------------  --------------------------------------  ------------  ---------------
    INTRODUCED    a channel carries it                    STANDING      Resumed
    INTRODUCED    a channel introduces                    INTRODUCED
    INTRODUCED    the peer is heard                       INTRODUCED
    INTRODUCED    the peer is silent                      SUSPENDED     Suspended
    INTRODUCED    the channel closes                      SUSPENDED     Suspended
    STANDING      a channel carries it                    STANDING      Resumed
    STANDING      a channel introduces                    INTRODUCED
    STANDING      the peer is heard                       STANDING
    STANDING      the peer is silent                      SUSPENDED     Suspended
    STANDING      the channel closes                      SUSPENDED     Suspended
    SUSPENDED     a channel carries it                    STANDING      Resumed
    SUSPENDED     a channel introduces                    INTRODUCED
    SUSPENDED     the peer is heard, which carries it     STANDING      Resumed
    SUSPENDED     the peer is heard, which introduces     INTRODUCED
    SUSPENDED     the peer is silent                      SUSPENDED
    SUSPENDED     the channel closes                      SUSPENDED
    any           the session ends                        ENDED

A channel *introduces* where only local TCP is to carry streams, and it is of another kind. A session that is not
STANDING waits for a channel: until `Life.deadline`, when it has to end. Nothing else limits how long a state lasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final

GONE: Final = 10.0
"""Seconds that a peer has to come back after its process seems to have ended. One that was killed never does."""
FRESH: Final = 5.0
"""Seconds after which that word says nothing about a silence that begins. A dead peer is noticed within 3 s."""
_NOT_OVER_TCP: Final = "Only local TCP may carry requests, and the peer cannot be reached over it."


class State(Enum):
    """What a session can do now."""

    INTRODUCED = "introduced"
    """Its channel only introduces the peers to each other; streams wait."""
    STANDING = "standing"
    """Its channel carries streams, as far as is known."""
    SUSPENDED = "suspended"
    """Its channel is silent or closed; streams wait."""
    ENDED = "ended"
    """It is over; streams have failed."""


@dataclass(frozen=True, slots=True)
class Suspended:
    """Nothing comes or goes until the session is resumed, or ends."""

    reason: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """A channel carries the session: another one, or the same after ``gap`` seconds of silence."""

    gap: float
    first: bool
    """For the first time: until now the peers were only introduced."""


Change = Suspended | Resumed


class Life:
    """One session's state, from its first channel to its end.

    ``resume_for``: seconds that it waits for a channel; ``introduces``: its first channel does not carry streams.
    """

    def __init__(self, *, now: float, resume_for: float, introduces: bool) -> None:
        self.state = State.STANDING
        self.has_stood = not introduces
        """Whether a channel has carried it."""
        self._resume_for = resume_for
        self._introduces = introduces
        self._reason = ""
        self._waits_since = 0.0
        self._silent_since = 0.0
        self._gone_at = -inf
        """When the peer's process was said to have ended."""
        if introduces:
            self._wait(State.INTRODUCED, _NOT_OVER_TCP, now, now)

    @property
    def waits(self) -> bool:
        """Whether streams wait for a channel."""
        return self.state in (State.INTRODUCED, State.SUSPENDED)

    @property
    def deadline(self) -> float | None:
        """When a session that waits has to end: see `end_of_wait`. None while it need not."""
        if not self.waits:
            return None
        # A word that came before the silence takes nothing of the time from then on.
        gone = max(self._waits_since, self._gone_at) + GONE if self._gone_at > -inf else inf
        return min(self._waits_since + self._resume_for, gone)

    def silence(self, now: float, last_heard: float) -> float:
        """Seconds since the peer was last heard, before the wait where there is one."""
        return now - (self._silent_since if self.waits else last_heard)

    # -- what happens

    def moved(self, now: float, *, introduces: bool, last_heard: float) -> Change | None:
        """The session has another channel."""
        self._introduces = introduces
        if introduces:
            reason = _NOT_OVER_TCP
            self._wait(State.INTRODUCED, reason, now, last_heard)
            return None
        return self._stand(self.silence(now, last_heard) if self.waits else 0.0)

    def heard(self, now: float, *, last_heard: float) -> Change | None:
        """A message has come; ``last_heard``: when the one before it did."""
        if self.state is not State.SUSPENDED:
            return None
        if self._introduces:
            self.state = State.INTRODUCED
            return None
        return self._stand(self.silence(now, last_heard))

    def lost(self, now: float, reason: str, *, last_heard: float) -> Change | None:
        """The peer is silent, or the channel has closed."""
        if self.state in (State.SUSPENDED, State.ENDED):
            return None
        self._wait(State.SUSPENDED, reason, now, last_heard)
        return Suspended(reason)

    def said_gone(self, now: float) -> None:
        """Somebody says that the peer's process has ended: it is waited for less long."""
        self._gone_at = now

    def said_there(self) -> None:
        """Somebody says that the peer's process is there."""
        self._gone_at = -inf

    def end(self) -> None:
        """The session is over, for whatever reason."""
        self.state = State.ENDED

    def end_of_wait(self, now: float) -> str | None:
        """Why the session has to end now; None where it has not."""
        if self.deadline is None or now < self.deadline:
            return None
        waited = round(now - self._waits_since, 1)
        return f"{self._reason.rstrip('.')}. It did not come back within {waited:g} s."

    def _wait(self, state: State, reason: str, now: float, last_heard: float) -> None:
        if not self.waits:
            self._reason, self._waits_since, self._silent_since = reason, now, last_heard
            if now - self._gone_at > FRESH:  # the peer was there since
                self._gone_at = -inf
        self.state = state

    def _stand(self, gap: float) -> Resumed:
        first, self.has_stood = not self.has_stood, True
        self.state = State.STANDING
        self._gone_at = -inf
        return Resumed(gap, first)
