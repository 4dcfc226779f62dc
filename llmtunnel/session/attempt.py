"""A link's attempts to reach its member, each over one way: the stage of each, and what its end means. Pure.

    stage      what happens                                              next
    ---------  --------------------------------------------------------  ---------
    OPENING    its channel opens                                         WAITING
    OPENING    its channel does not open, or it is abandoned             LEFT
    WAITING    no other channel is being greeted on, and it is useful    GREETING
    WAITING    it is no longer useful, or it is abandoned                LEFT
    GREETING   the peers agree, and a session moves to it                CARRYING
    GREETING   the peers do not agree, or it is abandoned                LEFT
    CARRYING   its channel closes, its session ends or moves elsewhere   LEFT
    LEFT       everything that belonged to it is closed                  CLOSED

An attempt that is LEFT keeps its channel open for a moment. So the peer learns first that the session continues
elsewhere. When every attempt is LEFT or CLOSED, the link has ended.
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
    """How far an attempt has progressed."""

    OPENING = "opening"
    WAITING = "waiting"
    GREETING = "greeting"
    CARRYING = "carrying"
    LEFT = "left"
    CLOSED = "closed"


RUNNING: Final = frozenset((Stage.OPENING, Stage.WAITING, Stage.GREETING, Stage.CARRYING))
"""The stages of an attempt that may still succeed."""

_NEXT: Final = {
    Stage.OPENING: {Stage.WAITING, Stage.LEFT},
    Stage.WAITING: {Stage.GREETING, Stage.LEFT},
    Stage.GREETING: {Stage.CARRYING, Stage.LEFT},
    Stage.CARRYING: {Stage.LEFT},
    Stage.LEFT: {Stage.CLOSED},
    Stage.CLOSED: set[Stage](),
}


class Attempt:
    """One attempt: its way, the carrier of its channel, the task that drives it, and why it failed."""

    def __init__(self, way: Way) -> None:
        self.way = way
        self.stage = Stage.OPENING
        self.carrier: Carrier | None = None
        """Set when the greeting on its channel starts."""
        self.failure: TunnelError | None = None
        """Why the attempt has ended, or is being abandoned."""
        self.task: asyncio.Task[Any]
        """Opens the way and stays with its channel. When the attempt is LEFT, another task takes its place and closes
        both."""

    @property
    def running(self) -> bool:
        """Whether the attempt may still succeed."""
        return self.stage in RUNNING

    @property
    def greets(self) -> bool:
        """Whether the peers are still negotiating on its channel."""
        return self.stage is Stage.GREETING and self.carrier is not None and not self.carrier.settled.is_set()

    def step(self, stage: Stage) -> None:
        """Move to the next stage."""
        assert stage in _NEXT[self.stage], f"{self.stage} -> {stage}"
        self.stage = stage

    def __repr__(self) -> str:
        return f"<Attempt {self.way.name}: {self.stage.value}>"


# -- what the end of an attempt means for the link


@dataclass(frozen=True, slots=True)
class GoOn:
    """Other attempts are running: nothing to do."""


@dataclass(frozen=True, slots=True)
class UseRelay:
    """Only the relay is left. It waits until it is needed, and it is needed now."""


@dataclass(frozen=True, slots=True)
class GiveUpAll:
    """Abandon the other attempts: none of them would do better."""

    reason: TunnelError


@dataclass(frozen=True, slots=True)
class Over:
    """The last attempt has ended, and with it the link."""

    reason: TunnelError


Outcome = GoOn | UseRelay | GiveUpAll | Over


def outcome(ended: Attempt, attempts: Iterable[Attempt], *, has_session: bool, session_over: bool) -> Outcome:
    """Return what the end of an attempt means. ``attempts``: all of the link, the oldest first, including ``ended``.

    ``has_session``: an attempt of this link has carried a session. ``session_over``: that session has ended.
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
    """Return the failure to report: a rejection, else the last one from a channel, else that of the direct way."""
    failures = [each.failure for each in attempts if each.failure is not None]
    refused = [failure for failure in failures if _is_final(failure)]
    said = [failure for failure in failures if not isinstance(failure, ConnectFailed)]
    return (refused or said or failures[:1])[-1]


def _is_final(failure: TunnelError) -> bool:
    """Whether the peer itself has refused, so that another path to it would not help."""
    return isinstance(failure, AuthenticationFailed | Unwelcome | VersionMismatch)
