"""Everything that a client can fill, with its bound; and the bucket that bounds how fast. Pure.

A limit that an operator may set has a `Flag`: the command line's flag, its check and its help follow from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

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
HEAD: Final = 64 * 1024
"""Bytes that a connection may send before it is a WebSocket. Browsers and HTTP proxies send heads of some 2 KiB."""
NEWCOMERS: Final = 8
"""One in so many connections stays free for those that are not in a room yet."""
DAY: Final = 86_400.0

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


FLAG: Final = "flag"
"""Where a field's metadata has its `Flag`."""


class Unit(StrEnum):
    """What an operator gives a limit in: the placeholder in the help."""

    COUNT = "N"
    SIZE = "SIZE"
    """Bytes, as 500KB, 4MiB or 20GiB."""
    SECONDS = "SECONDS"


@dataclass(frozen=True, slots=True)
class Flag:
    """The command line's side of a limit; ``most`` is the largest count that it takes."""

    name: str
    unit: Unit
    help: str
    most: int


def _settable(default: float, flag: str, unit: Unit, help: str, *, most: int = 10**9 - 1) -> Any:
    return field(default=default, metadata={FLAG: Flag(flag, unit, help, most)})


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """What the relay takes. Bytes count once, when they come; a room and an address are held to the same."""

    rate: int = _settable(4 * MIB, "--relay-rate", Unit.SIZE, "bytes a second of a room, and of an address")
    """Bytes a second for long: a token stream has 1 KB/s, a 20 MB upload takes 5 s."""
    rate_all: int = _settable(32 * MIB, "--relay-rate-all", Unit.SIZE, "bytes a second of all together")
    """The same of all together: a core carries some 300 MiB/s, and signalling is to notice nothing."""
    total: int = _settable(20 * GIB, "--relay-total", Unit.SIZE, "bytes a day of a room, and of an address")
    """Bytes in a day: two hours at the full rate; traffic is what a relay's operator pays for."""
    total_all: int = _settable(500 * GIB, "--relay-total-all", Unit.SIZE, "bytes a day of all together")
    """The same of all together."""
    pipes: int = 500
    """Pipes at once, of all rooms: at their worst, with two readers that do not read, 1 MB each."""
    pipes_each: int = 64
    """Ends of pipes at once, of a room and of an address: a full room has 16 pipes of two, and twice that while they
    are made anew."""
    idle: float = _settable(60.0, "--relay-idle", Unit.SECONDS, "how long a pipe lasts in which nothing passes")
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

    proxies: int = _settable(
        16, "--max-proxies", Unit.COUNT, f"proxies in a room, 1 to {MAX_PROXIES}", most=MAX_PROXIES
    )
    """Proxies in a room, beside its serve."""
    rooms: int = 5_000
    """Rooms at once."""
    members: int = 10_000
    """Members at once, of all rooms: some 20 KB each."""
    sockets: int = 14_000
    """Connections at once: members, ends of pipes, and those that are neither yet, for which an eighth is kept."""
    rooms_each: int = _settable(600, "--rooms-per-address", Unit.COUNT, "rooms at once that an address has created")
    """Rooms at once that one address has created (of IPv6: a /64). A class of 500 behind one NAT, each with a serve."""
    members_each: int = _settable(
        1_200, "--members-per-address", Unit.COUNT, "members at once from an address, and joins at once"
    )
    """Members at once from one address, and joins at once: both sides of that class, and a few that come again."""
    joins: float = _settable(
        300.0, "--joins-per-minute", Unit.COUNT, "joins a minute from an address for long; more are slowed"
    )
    """Joins a minute from one address for long; more are slowed. That class comes within 2 minutes after a first 1,200.
    Whoever guesses numbers of rooms tries 5 a second, 23 days for all of 7 digits."""
    rate: float = 50.0
    """Frames a second that one socket may send for long: a message is one, or several."""
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
        if min(self.rooms_each, self.members_each, self.joins) <= 0:
            raise ValueError("the limits of an address are above 0")

    @property
    def burst(self) -> int:
        """Frames that a socket may send at once: a serve that comes back offers to all its proxies."""
        return 200 + 40 * self.proxies

    @property
    def strangers_each(self) -> int:
        """Connections from one address that are not in a room yet, where others need places too."""
        return max(1, self.sockets // NEWCOMERS)

    def within(self, connections: int) -> Limits:
        """These limits, for a process that can hold so many connections at once."""
        places = max(1, min(self.sockets, connections))
        settled = places - places // NEWCOMERS
        relay = self.relay and replace(self.relay, pipes=min(self.relay.pipes, settled // 8))
        ends = 2 * relay.pipes if relay else 0
        return replace(self, sockets=places, members=min(self.members, settled - ends), relay=relay)


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


def frames(data: bytes, state: FrameState) -> Iterator[tuple[int, int]]:
    """The frames that begin in what a WebSocket has received: each one's first byte, and its payload's size.

    RFC 6455 section 5.2. The WebSocket itself refuses malformed frames.
    """
    data, state.head = state.head + data, b""
    at, end = state.skip, len(data)
    while end - at >= 2:
        first, second = data[at], data[at + 1]
        size = second & 127
        extended = {126: 2, 127: 8}.get(size, 0)
        head = 2 + extended + (4 if second & 128 else 0)
        if end - at < head:
            break
        if extended:
            size = int.from_bytes(data[at + 2 : at + 2 + extended])
        at += head + size
        yield first, size
    state.head, state.skip = data[at:], max(0, at - end)


@dataclass(slots=True)
class FrameState:
    """Where `frames` goes on with the next bytes."""

    head: bytes = b""
    """A frame's head that has come in part."""
    skip: int = 0
    """Bytes of a payload that are still to come."""


class Meter:
    """Counts a socket's frames as they arrive, also those of which no message comes."""

    def __init__(self, cost: Callable[[int, int], int], *, rate: float, burst: float, now: float) -> None:
        self._cost = cost
        self._bucket = Bucket(rate=rate, burst=burst, now=now)
        self._state = FrameState()

    def take(self, data: bytes, *, now: float) -> bool:
        """Count what has come; False, for good, where it is too much."""
        return all(self._bucket.take(self._cost(*frame), now=now) for frame in frames(data, self._state))


def signalling_cost(_first: int, size: int) -> int:
    """What a frame of a signalling socket counts."""
    return 1 if size > MESSAGE else 1 + size // TOKEN_BYTES  # one that is too long is refused as such


def pipe_cost(first: int, size: int) -> int:
    """What a frame of a pipe counts. A whole message counts nothing here: it is slowed by its bytes (`accounts`)."""
    final, opcode = first & 0x80, first & 0x0F
    if opcode >= 8:
        return 1
    whole = final and (size > 0 or opcode == 0)
    return 0 if whole or size >= PIPE_LEAST else 1
