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

PIPE_MESSAGE: Final = 64 * 1024
"""Bytes of a message in a pipe: four records of TLS."""
PIPE_LEAST: Final = 512
"""What a message in a pipe counts at least, bytes: an empty one costs as much work as that."""
DAY: Final = 86_400.0

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """What the relay takes. Bytes count once, when they come; a room and an address are held to the same."""

    rate: int = 4 * MIB
    """Bytes a second for long: a token stream has 1 KB/s, a 20 MB upload takes 5 s."""
    rate_all: int = 32 * MIB
    """The same of all together: a core carries some 300 MiB/s, and signalling is to notice nothing."""
    total: int = 20 * GIB
    """Bytes in a day: two hours at the full rate; traffic is what a relay's operator pays for."""
    total_all: int = 500 * GIB
    """The same of all together."""
    pipes: int = 500
    """Pipes at once, of all rooms: at their worst, with two readers that do not read, 1 MB each."""
    pipes_each: int = 64
    """Ends of pipes at once, of a room and of an address: a full room has 16 pipes of two, and twice that while they
    are made anew."""
    idle: float = 60.0
    """Seconds that a pipe lasts in which nothing passes: sessions ping every 5 s."""
    stall: float = 20.0
    """Seconds for one end to take a message: longer than a laptop's short sleep, and nothing that is held for good."""
    ticket: float = 20.0
    """Seconds that a ticket is good for, and that one end waits for the other."""
    asks: int = 10
    """Pipes that a member may ask for at once, and then one every `ask` s: each has another member told."""
    ask: float = 3.0

    def __post_init__(self) -> None:
        if min(self.rate, self.rate_all, self.total, self.total_all, self.idle) <= 0:
            raise ValueError("the relay's limits are above 0")


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
    relay: RelayLimits | None = RelayLimits()
    """None: there is no relay."""

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

    def owe(self, count: float, *, now: float) -> float:
        """Take so many tokens, there or not; how many seconds it takes until there are none owed."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate) - count
        self._filled = now
        return max(0.0, -self._tokens / self._rate)
