"""The states of a stream: one table for both halves and both roles (README.md section 5).

Everything that decides whether a frame is legal on a stream is here. This module does not know our role.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ..errors import ErrorCode, ProtocolError
from .window import ReceiveWindow, SendWindow


class State(Enum):
    """How far one half (the request or the response) has progressed."""

    WAITING = "waiting"
    OPEN = "open"
    ENDED = "ended"

    __hash__ = object.__hash__  # for the table: Enum's own is a Python call, twice for each frame


class Step(Enum):
    """What may happen to a half."""

    INTERIM = "interim head"
    HEAD = "head"
    BODY = "body"
    END = "end"

    __hash__ = object.__hash__


TRANSITIONS: Final[dict[tuple[State, Step], State]] = {
    (State.WAITING, Step.INTERIM): State.WAITING,
    (State.WAITING, Step.HEAD): State.OPEN,
    (State.OPEN, Step.BODY): State.OPEN,
    (State.OPEN, Step.END): State.ENDED,
}
"""Every transition that is not listed is an error."""


class Half:
    """One direction: its state, and how many body bytes it has carried."""

    __slots__ = ("length", "state")

    def __init__(self) -> None:
        self.state = State.WAITING
        self.length = 0

    def step(self, step: Step, size: int = 0) -> None:
        """Make a transition. Raises `ProtocolError` if the table does not have it."""
        state = TRANSITIONS.get((self.state, step))
        if state is None:
            raise ProtocolError(f"A {step.value} came while the half was {self.state.value}.")
        self.state = state
        self.length += size

    def check_length(self, told: int) -> None:
        """Check the length in the END. Raises `ProtocolError` of code TRUNCATED if it differs from what was carried."""
        if told != self.length:
            raise ProtocolError(f"A body of {told} bytes ended after {self.length}.", code=ErrorCode.TRUNCATED)


class StreamState:
    """What the connection knows of one stream."""

    __slots__ = ("blocked", "rx", "rx_window", "tx", "tx_window")

    def __init__(self, *, rx_window: ReceiveWindow, tx_window: SendWindow) -> None:
        self.rx, self.tx = Half(), Half()
        self.rx_window, self.tx_window = rx_window, tx_window
        self.blocked = False
        """Whether the application has more to send than was taken, and waits until it can."""

    @property
    def finished(self) -> bool:
        """Whether both halves have ended."""
        return self.rx.state is State.ENDED and self.tx.state is State.ENDED
