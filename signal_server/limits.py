"""Everything that a client can fill, with its bound; and the bucket that bounds how fast. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MESSAGE: Final = 64 * 1024
"""A message's bytes, both ways. An SDP with many candidates has 5 KiB."""
ENVELOPE: Final = 256
"""What relaying may add to a message: the sender's id. A message to relay must leave that room."""
ROOM_NAME: Final = 256
"""A room's name, bytes: names are random texts of some 20."""
IDENTITY: Final = 128
"""A member's id, instance or token, bytes: ours have 16 to 43."""
MAX_PROXIES: Final = 128
"""The most that `Limits.proxies` may be: their list must fit a ``joined`` of 64 KiB, at up to 450 bytes each."""

TOKEN_BYTES: Final = 1024
"""Each begun KiB of a message counts as one message: a flood of long ones is one sooner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one server takes."""

    proxies: int = 16
    """Proxies in a room, beside its serve."""
    rooms: int = 5_000
    """Rooms at once."""
    members: int = 10_000
    """Members at once, of all rooms: some 20 KB each."""
    sockets: int = 12_000
    """WebSockets at once: members, and those who have not joined yet."""
    rate: float = 50.0
    """Messages a second that one socket may send for long."""
    outgoing: int = 1024 * 1024
    """Bytes that may wait for one socket: more than all of a full room's offers and candidates together."""
    join: float = 30.0
    """Seconds until a socket must have joined for the first time."""
    heartbeat: float = 10.0
    """Seconds between pings to a socket; one that is silent for half of that more is dropped."""
    close: float = 2.0
    """Seconds for an orderly close of a socket."""

    def __post_init__(self) -> None:
        if not 1 <= self.proxies <= MAX_PROXIES:
            raise ValueError(f"a room takes 1 to {MAX_PROXIES} proxies")

    @property
    def burst(self) -> int:
        """Messages that a socket may send at once: a serve that comes back offers to all its proxies."""
        return 200 + 40 * self.proxies


class Bucket:
    """Tokens that come at a rate, up to a burst (token bucket)."""

    def __init__(self, *, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._filled = burst, now

    def take(self, count: float, *, now: float) -> bool:
        """Take so many tokens, or none where there are fewer. ``now`` is in seconds of any steady clock."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if count > self._tokens:
            return False
        self._tokens -= count
        return True
