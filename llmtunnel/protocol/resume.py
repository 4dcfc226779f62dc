"""Who may go on with a session on another channel: what a proxy claims, and what serve makes of it (README.md)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .hello import Features


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a proxy that wants a session back has shown of itself on the new channel."""

    session: bytes
    """The session's id."""
    received: int
    """How many frames of serve's the proxy has."""
    certificate: bytes
    """SHA-256 of the one that the proxy showed on the new channel; empty where that has none."""
    ticket: bytes | None
    """The id of the ticket by which it comes, and which it has to prove; None where nothing is to be proven."""
    features: Features
    """What is agreed on, on the new channel."""


Resumable = Callable[[Claim], int | None]
"""Serve's answer: how many of the proxy's frames it has, or None where there is no such session for this proxy."""
