"""The state of a session: events of its channel and ``now`` go in, what its owner should know comes out. Pure.

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

A channel *introduces* if only local TCP may carry streams and the channel is of another kind. A session that is not
STANDING waits for a channel until `Life.deadline`, and then has to end. Nothing else limits how long a state lasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Final

GONE: Final = 10.0
"""Seconds that a peer has to come back after its process seems to have ended. A killed process never comes back."""
FRESH: Final = 5.0
"""Seconds after which such a report no longer applies to a silence that begins. A dead peer is noticed within 3 s."""
_NOT_OVER_TCP: Final = "Only local TCP may carry requests, and the peer cannot be reached over it."


class State(Enum):
    """What a session can do now."""

    INTRODUCED = "introduced"
    """Its channel only introduces the peers to each other. Streams wait."""
    STANDING = "standing"
    """Its channel carries streams, as far as we know."""
    SUSPENDED = "suspended"
    """Its channel is silent or closed. Streams wait."""
    ENDED = "ended"
    """The session has ended, and its streams have failed."""


@dataclass(frozen=True, slots=True)
class Suspended:
    """Nothing is sent or received until the session resumes or ends."""

    reason: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """A channel carries the session: another one, or the same one after ``gap`` seconds of silence."""

    gap: float
    first: bool
    """Whether this is the first time. Until now the peers were only introduced."""


Change = Suspended | Resumed


class Life:
    """The state of one session, from its first channel to its end.

    ``resume_for``: seconds that the session waits for a channel. ``introduces``: its first channel carries no streams.
    """

    def __init__(self, *, now: float, resume_for: float, introduces: bool) -> None:
        self.state = State.STANDING
        self.has_stood = not introduces
        """Whether a channel has ever carried the session."""
        self._resume_for = resume_for
        self._introduces = introduces
        self._reason = ""
        self._waits_since = 0.0
        self._silent_since = 0.0
        self._gone_at = -inf
        """When a report said that the peer's process had ended."""
        if introduces:
            self._wait(State.INTRODUCED, _NOT_OVER_TCP, now, now)

    @property
    def waits(self) -> bool:
        """Whether streams wait for a channel."""
        return self.state in (State.INTRODUCED, State.SUSPENDED)

    @property
    def deadline(self) -> float | None:
        """When a waiting session has to end (see `end_of_wait`), or None if it does not wait."""
        if not self.waits:
            return None
        # The time runs from the start of the wait if the report came earlier.
        gone = max(self._waits_since, self._gone_at) + GONE if self._gone_at > -inf else inf
        return min(self._waits_since + self._resume_for, gone)

    def silence(self, now: float, last_heard: float) -> float:
        """Return the seconds since the peer was last heard. During a wait, count from before the wait."""
        return now - (self._silent_since if self.waits else last_heard)

    # -- what happens

    def moved(self, now: float, *, introduces: bool, last_heard: float) -> Change | None:
        """Note that the session has moved to another channel."""
        self._introduces = introduces
        if introduces:
            reason = _NOT_OVER_TCP
            self._wait(State.INTRODUCED, reason, now, last_heard)
            return None
        return self._stand(self.silence(now, last_heard) if self.waits else 0.0)

    def heard(self, now: float, *, last_heard: float) -> Change | None:
        """Note that a message has arrived. ``last_heard``: when the previous message arrived."""
        if self.state is not State.SUSPENDED:
            return None
        if self._introduces:
            self.state = State.INTRODUCED
            return None
        return self._stand(self.silence(now, last_heard))

    def lost(self, now: float, reason: str, *, last_heard: float) -> Change | None:
        """Note that the peer is silent, or that the channel has closed."""
        if self.state in (State.SUSPENDED, State.ENDED):
            return None
        self._wait(State.SUSPENDED, reason, now, last_heard)
        return Suspended(reason)

    def said_gone(self, now: float) -> None:
        """Note a report that the peer's process has ended, which shortens the wait for it."""
        self._gone_at = now

    def said_there(self) -> None:
        """Note a report that the peer's process is running."""
        self._gone_at = -inf

    def end(self) -> None:
        """End the session, whatever the reason."""
        self.state = State.ENDED

    def end_of_wait(self, now: float) -> str | None:
        """Return why the session has to end now, or None if it does not have to."""
        if self.deadline is None or now < self.deadline:
            return None
        waited = round(now - self._waits_since, 1)
        return f"{self._reason.rstrip('.')}. It did not come back within {waited:g} s."

    def _wait(self, state: State, reason: str, now: float, last_heard: float) -> None:
        if not self.waits:
            self._reason, self._waits_since, self._silent_since = reason, now, last_heard
            if now - self._gone_at > FRESH:  # the peer has been there since the report
                self._gone_at = -inf
        self.state = state

    def _stand(self, gap: float) -> Resumed:
        first, self.has_stood = not self.has_stood, True
        self.state = State.STANDING
        self._gone_at = -inf
        return Resumed(gap, first)
