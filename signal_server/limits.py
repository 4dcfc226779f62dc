"""A limit for everything that a client can fill, and the token bucket that limits rates. Pure.

A limit that an operator can set has a `Flag`. The command line's flag, its check and its help are generated from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Protocol

MESSAGE: Final = 64 * 1024
"""Maximum size of a message, in bytes, in both directions. An SDP with many candidates has 5 KiB."""
ENVELOPE: Final = 256
"""Bytes that relaying may add to a message: the sender's id. A message to relay must leave space for them."""
ROOM_NAME: Final = 256
"""Maximum length of a room's name, in bytes: names are random texts of about 20."""
IDENTITY: Final = 128
"""Maximum length of a member's id, instance or token, in bytes: ours have 16 to 43."""
MAX_PROXIES: Final = 128
"""Maximum of `Limits.proxies`: their list must fit into a ``joined`` of 64 KiB, at up to 450 bytes each."""

ACCESS_TOKEN: Final = 256
"""Maximum length of an access token, in bytes."""

TOKEN_BYTES: Final = 1024
"""Bytes of a message that count as one message, so that long messages reach the rate limit sooner."""

PIPE_MESSAGE: Final = 64 * 1024
"""Maximum size of a message in a pipe, in bytes: four TLS records."""
PIPE_LEAST: Final = 512
"""Minimum bytes that a message in a pipe counts as, since an empty one costs as much work."""
HEAD: Final = 64 * 1024
"""Maximum bytes that a connection may send before it is a WebSocket. Browsers and HTTP proxies send about 2 KiB."""
NEWCOMERS: Final = 8
"""One in this many connections is reserved for clients that are not in a room yet."""
TURNS: Final = 5
"""Turns of the event loop in which a connection is accepted, read and answered, and some to spare."""
DAY: Final = 86_400.0

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


FLAG: Final = "flag"
"""Metadata key of a field's `Flag`."""


class Unit(StrEnum):
    """The unit of a limit on the command line, which is the placeholder in the help."""

    COUNT = "N"
    SIZE = "SIZE"
    """Bytes, such as 500KB, 4MiB or 20GiB."""
    SECONDS = "SECONDS"


@dataclass(frozen=True, slots=True)
class Flag:
    """The command line's flag for a limit. ``most`` is the largest allowed count."""

    name: str
    unit: Unit
    help: str
    most: int


def _settable(default: float, flag: str, unit: Unit, help: str, *, most: int = 10**9 - 1) -> Any:
    return field(default=default, metadata={FLAG: Flag(flag, unit, help, most)})


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """Limits of the relay. Bytes count once, on arrival. A room and an address have the same limits."""

    rate: int = _settable(4 * MIB, "--relay-rate", Unit.SIZE, "bytes per second for a room, and for an address")
    """Sustained bytes per second: a token stream has 1 KB/s, and an upload of 20 MB takes 5 s."""
    rate_all: int = _settable(32 * MIB, "--relay-rate-all", Unit.SIZE, "bytes per second in total")
    """Sustained bytes per second in total. A core carries about 300 MiB/s, and signalling must stay fast."""
    total: int = _settable(20 * GIB, "--relay-total", Unit.SIZE, "bytes per day for a room, and for an address")
    """Bytes per day: two hours at the full rate. Traffic is what a relay's operator pays for."""
    total_all: int = _settable(500 * GIB, "--relay-total-all", Unit.SIZE, "bytes per day in total")
    """Bytes per day in total."""
    pipes: int = 500
    """Simultaneous pipes of all rooms. Each uses 1 MB at worst, if both readers do not read."""
    pipes_each: int = 64
    """Simultaneous pipe ends of a room, and of an address: a full room has 16 pipes with two ends, and twice that while
    they are replaced."""
    idle: float = _settable(60.0, "--relay-idle", Unit.SECONDS, "time after which an idle pipe closes")
    """Seconds after which an idle pipe closes: sessions ping every 5 s."""
    stall: float = 20.0
    """Maximum seconds for one end to take a message: longer than a laptop's short sleep, but not forever."""
    ticket: float = 20.0
    """Seconds for which a ticket is valid, and for which one end waits for the other."""
    asks: int = 10
    """Pipes that a member may request at once; then one every `ask` s, since each notifies another member."""
    ask: float = 3.0

    def __post_init__(self) -> None:
        if min(self.rate, self.rate_all, self.total, self.total_all, self.idle) <= 0:
            raise ValueError("the relay's limits are above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of one server."""

    proxies: int = _settable(
        16, "--max-proxies", Unit.COUNT, f"proxies in a room, 1 to {MAX_PROXIES}", most=MAX_PROXIES
    )
    """Proxies in a room, besides its serve."""
    rooms: int = _settable(5_000, "--max-rooms", Unit.COUNT, "simultaneous rooms")
    """Simultaneous rooms that have a member at this instance."""
    members: int = _settable(10_000, "--max-members", Unit.COUNT, "simultaneous members of all rooms")
    """Simultaneous members at this instance: about 20 KB each."""
    sockets: int = _settable(
        14_000,
        "--max-connections",
        Unit.COUNT,
        "simultaneous connections; an eighth is for clients that are in no room yet, and two for each pipe",
        most=10**6,
    )
    """Simultaneous connections: members, pipe ends, and new connections. Each needs an open file."""
    newcomers: int = 1_750
    """Connections reserved for clients that are not in a room yet. `within` sets it."""
    rooms_each: int = _settable(600, "--rooms-per-address", Unit.COUNT, "simultaneous rooms that an address created")
    """Simultaneous rooms created by one address (a /64 of IPv6). Enough for a class of 500 behind a NAT, with a serve
    each."""
    members_each: int = _settable(
        1_200, "--members-per-address", Unit.COUNT, "simultaneous members from an address, and joins in a burst"
    )
    """Simultaneous members from one address, and joins in a burst: both sides of that class, and some that rejoin."""
    joins: float = _settable(
        300.0, "--joins-per-minute", Unit.COUNT, "sustained joins per minute from an address; more are delayed"
    )
    """Sustained joins per minute from one address; more are delayed. After a first 1,200, that class rejoins within 2
    minutes. Somebody who guesses room numbers tries 5 per second, which takes 23 days for all of 7 digits."""
    messages_each: float = _settable(
        500.0, "--messages-per-address", Unit.COUNT, "sustained messages per second from an address"
    )
    """Sustained messages per second from one address, in bursts of a minute's worth. When that class connects at once,
    its 1,000 members send 20 messages each, which count as 30 because of their length."""
    messages_room: float = _settable(
        200.0, "--messages-per-room", Unit.COUNT, "sustained messages per second in a room"
    )
    """Sustained messages per second of all members of one room, in bursts of a minute's worth. One socket alone cannot
    use it up, since `rate` is lower."""
    rate: float = 50.0
    """Sustained frames per second from one socket. A message has one or more."""
    page_rate: float = 256 * 1024
    """Sustained bytes per second of the page for browsers to one address: in a day as much as `RelayLimits.total`."""
    page_burst: float = 128 * 1024 * 1024
    """Bytes of the page at once to one address: that class opens it for the first time, 207 kB for each browser."""
    outgoing: int = 1024 * 1024
    """Bytes that may wait for one socket: more than all offers and candidates of a full room together."""
    join: float = 30.0
    """Seconds within which a socket must join for the first time."""
    heartbeat: float = 10.0
    """Seconds between pings to a socket. One that stays silent for another half of that is dropped."""
    close: float = 2.0
    """Seconds for an orderly close of a socket."""
    relay: RelayLimits | None = RelayLimits()
    """Limits of the relay. None: offer no relay."""

    def __post_init__(self) -> None:
        if not 1 <= self.proxies <= MAX_PROXIES:
            raise ValueError(f"a room takes 1 to {MAX_PROXIES} proxies")
        if min(self.rooms_each, self.members_each, self.joins, self.messages_each, self.messages_room) <= 0:
            raise ValueError("the limits of an address are above 0")

    @property
    def burst(self) -> int:
        """Frames that a socket may send in a burst: a serve that returns sends offers to all its proxies."""
        return 200 + 40 * self.proxies

    @property
    def strangers_each(self) -> int:
        """Connections from one address without a room, while others need places too."""
        return max(1, self.newcomers)

    def within(self, connections: int, *, at_once: int = 0) -> Limits:
        """Return these limits for a process that can hold this many connections, and accepts so many in one turn.

        A new connection is the last one to be replaced by newer ones. With places for five turns of newcomers, it can
        send its request and get the answer before that, however many arrive. A health check needs no more.
        """
        places = max(1, min(self.sockets, connections))
        newcomers = max(places // NEWCOMERS, min(TURNS * at_once, places // 2))
        settled = places - newcomers
        relay = self.relay and replace(self.relay, pipes=min(self.relay.pipes, settled // 8))
        ends = 2 * relay.pipes if relay else 0
        return replace(
            self, sockets=places, newcomers=newcomers, members=min(self.members, settled - ends), relay=relay
        )


class Bucket:
    """A token bucket: tokens arrive at a rate, up to a burst."""

    __slots__ = ("_burst", "_filled", "_rate", "_tokens")  # there is one for each connection and each address

    def __init__(self, *, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._filled = burst, now

    def take(self, count: float, *, now: float) -> bool:
        """Take this many tokens, or none if there are fewer. ``now`` is in seconds of any monotonic clock."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        if count > self._tokens:
            return False
        self._tokens -= count
        return True

    def owe(self, count: float, *, now: float) -> float:
        """Take this many tokens, even if there are fewer. Returns the seconds until none are owed."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled) * self._rate) - count
        self._filled = now
        return max(0.0, -self._tokens / self._rate)


class MakeBucket(Protocol):
    """Makes the bucket of a key."""

    def __call__(self, key: str, *, rate: float, burst: float, now: float) -> Bucket:
        """Return a full one."""


def own_bucket(key: str, *, rate: float, burst: float, now: float) -> Bucket:
    """Return a bucket that no other instance draws from. See `MakeBucket`."""
    return Bucket(rate=rate, burst=burst, now=now)


class SharedBucket(Bucket):
    """A bucket that several instances draw from. Each has a copy of it, and the copies are compared now and then."""

    __slots__ = ("_touched", "burst", "key", "rate", "spent")

    def __init__(self, key: str, touched: dict[str, SharedBucket], *, rate: float, burst: float, now: float) -> None:
        super().__init__(rate=rate, burst=burst, now=now)
        self.key, self.rate, self.burst = key, rate, burst
        self._touched = touched
        self.spent = 0.0
        """Tokens taken from this copy since the last comparison."""

    def take(self, count: float, *, now: float) -> bool:
        """See `Bucket`."""
        taken = super().take(count, now=now)
        if taken:
            self._spend(count)
        return taken

    def owe(self, count: float, *, now: float) -> float:
        """See `Bucket`."""
        self._spend(count)
        return super().owe(count, now=now)

    def adopt(self, tokens: float, *, now: float) -> None:
        """Set how many tokens all instances have left together. What was spent here meanwhile is taken off."""
        self._tokens, self._filled = tokens - self.spent, now

    def _spend(self, count: float) -> None:
        self.spent += count
        self._touched[self.key] = self


def frames(data: bytes, state: FrameState) -> Iterator[tuple[int, int]]:
    """Yield the first byte and the payload size of each frame that starts in a WebSocket's received bytes.

    See RFC 6455 section 5.2. The WebSocket itself rejects malformed frames.
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
    """State of `frames` between two calls."""

    head: bytes = b""
    """A frame's incomplete head."""
    skip: int = 0
    """Bytes of a payload that have yet to arrive."""


class Meter:
    """Counts a socket's frames as they arrive, including those that do not result in a message."""

    __slots__ = ("_bucket", "_cost", "_state")

    def __init__(self, cost: Callable[[int, int], int], *, rate: float, burst: float, now: float) -> None:
        self._cost = cost
        self._bucket = Bucket(rate=rate, burst=burst, now=now)
        self._state = FrameState()

    def take(self, data: bytes, *, now: float) -> bool:
        """Count received bytes. Returns False, from then on, if there are too many."""
        return all(self._bucket.take(self._cost(*frame), now=now) for frame in frames(data, self._state))


def signalling_cost(_first: int, size: int) -> int:
    """Return the cost of a signalling socket's frame."""
    return 1 if size > MESSAGE else 1 + size // TOKEN_BYTES  # one that is too long is rejected for that


def pipe_cost(first: int, size: int) -> int:
    """Return the cost of a pipe's frame. A whole message costs nothing here: its bytes slow it down (`accounts`)."""
    final, opcode = first & 0x80, first & 0x0F
    if opcode >= 8:
        return 1
    whole = final and (size > 0 or opcode == 0)
    return 0 if whole or size >= PIPE_LEAST else 1
