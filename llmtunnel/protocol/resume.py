"""Who may resume a session on another channel: a proxy's claim, and serve's answer (README.md section 11)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .hello import Features


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a proxy that wants to resume a session has shown on the new channel."""

    session: bytes
    """The session's id."""
    received: tuple[int, ...]
    """How many of serve's frames the proxy has, by lane."""
    certificate: bytes
    """What identifies the proxy on the new channel, as in `handshake.Agreement`; empty if nothing does."""
    ticket: bytes | None
    """The id of the ticket that the proxy uses and has to prove; None if nothing has to be proven."""
    features: Features
    """The features agreed on, on the new channel."""


Resumable = Callable[[Claim], tuple[int, ...] | None]
"""Serve's answer: how many of the proxy's frames it has, by lane, or None if this proxy has no such session."""
