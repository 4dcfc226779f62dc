"""The attempts of a link to reach its member, each over one way: how far each has got, and what its end means, pure.

    stage      what happens                                              next
    ---------  --------------------------------------------------------  ---------
    OPENING    its channel is open                                       WAITING
    OPENING    its channel did not open, or it is given up               LEFT
    WAITING    no other channel is being greeted on, and it is of use    GREETING
    WAITING    it is of no use any more, or it is given up               LEFT
    GREETING   the peers have agreed, and a session moves to it          CARRYING
    GREETING   there is no agreement, or it is given up                  LEFT
    CARRYING   its channel closes, its session ends or moves elsewhere   LEFT
    LEFT       all that there was of it is closed                        CLOSED

An attempt that is LEFT keeps its channel open for a moment, so that the peer hears first that the session goes on
elsewhere. When every attempt is LEFT or CLOSED, the link is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ..errors import AuthenticationFailed, ConnectFailed, TunnelError, Unwelcome, VersionMismatch
from ..transport.base import Way
from .carrier import Carrier


class Stage(Enum):
    """How far an attempt has got."""

    OPENING = "opening"
    WAITING = "waiting"
    GREETING = "greeting"
    CARRYING = "carrying"
    LEFT = "left"
    CLOSED = "closed"


RUNNING: Final = frozenset((Stage.OPENING, Stage.WAITING, Stage.GREETING, Stage.CARRYING))
"""The stages of an attempt that may still come to something."""

_NEXT: Final = {
    Stage.OPENING: {Stage.WAITING, Stage.LEFT},
    Stage.WAITING: {Stage.GREETING, Stage.LEFT},
    Stage.GREETING: {Stage.CARRYING, Stage.LEFT},
    Stage.CARRYING: {Stage.LEFT},
    Stage.LEFT: {Stage.CLOSED},
    Stage.CLOSED: set[Stage](),
}


class Attempt:
    """One of them: the way, its channel's carrier, the task that drives it, and why it failed."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.stage = Stage.OPENING
        self.carrier: Carrier | None = None
        """From the moment that its channel is greeted on."""
        self.failure: TunnelError | None = None
        """Why it is over, or is given up."""
        self.task: asyncio.Task[Any]
        """It opens the way and stays with its channel; once the attempt is LEFT, it closes both."""

    @property
    def running(self) -> bool:
        """Whether it may still come to something."""
        return self.stage in RUNNING

    @property
    def greets(self) -> bool:
        """Whether the peers are still to agree on its channel."""
        return self.stage is Stage.GREETING and self.carrier is not None and not self.carrier.settled.is_set()

    def step(self, stage: Stage) -> None:
        """Go on to the next stage."""
        assert stage in _NEXT[self.stage], f"{self.stage} -> {stage}"
        self.stage = stage

    def __repr__(self) -> str:
        return f"<Attempt {self.way.name}: {self.stage.value}>"


# -- what the end of one means for the link


@dataclass(frozen=True, slots=True)
class GoOn:
    """Others are running."""


@dataclass(frozen=True, slots=True)
class UseRelay:
    """Only the relay is left, which waits until it is needed: it is now."""


@dataclass(frozen=True, slots=True)
class GiveUpAll:
    """No other attempt would do better."""

    reason: TunnelError


@dataclass(frozen=True, slots=True)
class Over:
    """The last one has ended, and with it the link."""

    reason: TunnelError


Outcome = GoOn | UseRelay | GiveUpAll | Over


def outcome(ended: Attempt, attempts: Iterable[Attempt], *, has_session: bool, session_over: bool) -> Outcome:
    """What the end of an attempt means. ``attempts``: all of the link, the oldest first, ``ended`` among them.

    ``has_session``: an attempt of this link has carried a session; ``session_over``: that session has ended.
    """
    attempts = list(attempts)
    running = [each for each in attempts if each.running]
    if not running:
        return Over(verdict(attempts))
    assert ended.failure is not None
    if session_over if has_session else _is_final(ended.failure) and not any(each.greets for each in running):
        return GiveUpAll(ended.failure)
    if [each.way.on_demand for each in running] == [True]:
        return UseRelay()
    return GoOn()


def verdict(attempts: Iterable[Attempt]) -> TunnelError:
    """The failure to be told: a refusal, else the last one that was said on a channel, else that of the direct way."""
    failures = [each.failure for each in attempts if each.failure is not None]
    refused = [failure for failure in failures if _is_final(failure)]
    said = [failure for failure in failures if not isinstance(failure, ConnectFailed)]
    return (refused or said or failures[:1])[-1]


def _is_final(failure: TunnelError) -> bool:
    """Whether the peer itself has refused, so that another path to it would not help."""
    return isinstance(failure, AuthenticationFailed | Unwelcome | VersionMismatch)
