"""What a session tells of itself, to whoever keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..errors import TunnelError

if TYPE_CHECKING:
    from .mux import Session


class Owner(Protocol):
    """None of these may raise or block."""

    def session_suspended(self, session: Session, reason: str) -> None:
        """Nothing comes or goes until it is resumed, or ends."""

    def session_resumed(self, session: Session, gap: float) -> None:
        """It goes on, over the same channel or over another, after ``gap`` seconds of silence."""

    def session_ended(self, session: Session, error: TunnelError) -> None:
        """It is over, once, as the last call."""
