"""The registry of rooms: its interface, and an implementation for a server that is one process.

`MemoryRegistry` serves one instance of the server alone. `cluster.RedisRegistry` shares the rooms among several.
Whichever it is, an instance knows the rooms that its own members are in, and tells these members what changes.
"""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from .limits import Limits, MakeBucket, own_bucket
from .messages import Code, Join, Message, Refused
from .rooms import Admission, Member, Room, news

LEASE: Final = 10.0
"""Seconds of silence after which an instance counts as dead. Its members are ghosts until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """How an instance of a server shares its rooms with the others. Raises `ValueError` for an invalid name."""

    url: str = field(repr=False)
    """URL of Redis: ``redis://HOST:PORT/DATABASE``, or ``rediss://`` for TLS. It may contain a password."""
    password: str | None = field(default=None, repr=False)
    """Password for Redis, in place of the URL's."""
    node: str
    """Name of this instance, which no other one has: letters, digits, ``-`` and ``_``."""
    address: str
    """``host:port`` where the other instances reach this one."""
    prefix: str = "llmtunnel:"
    """Begins each key in Redis. Servers that share a Redis but no rooms need different ones."""
    lease: float = LEASE
    """See `LEASE`."""

    def __post_init__(self) -> None:
        if not NODE.fullmatch(self.node):
            raise ValueError(f"{self.node!r} is not a name of 1 to 63 letters, digits, - and _")


NODE: Final = re.compile(r"[A-Za-z0-9_-]{1,63}")
"""The name of an instance: it becomes a part of tickets and of a URL's path."""


class Audience(Protocol):
    """The members of this instance, as a registry sees them. Neither method may raise or block."""

    def tell(self, member: Member, message: Message) -> None:
        """Send a message to a member of this instance."""

    def gone(self, member: Member) -> None:
        """Forget a member of a room that this instance knows, which has left or lost its place.

        If its socket is here, it is cut off.
        """


class Registry(Protocol):
    """All rooms, as one instance of the server sees them."""

    @property
    def key(self) -> bytes:
        """Random bytes that all instances know, and nobody else."""

    @property
    def make_bucket(self) -> MakeBucket:
        """Makes the buckets of rates and totals that hold for all instances together."""

    def __len__(self) -> int:
        """Return the number of rooms that this instance knows."""

    def room(self, name: str) -> Room:
        """Return a room, as this instance knows it: an empty one unless a member of it is here."""

    async def returns(self, request: Join) -> bool:
        """Whether the request comes from a member that is still in the room. Raises `Refused`."""

    async def join(self, request: Join, address: str) -> tuple[Admission, list[Message]]:
        """Add a member, whose socket is here. Raises `Refused`, and then changes nothing.

        Returns what the member is told, in order: that it has joined, and what has come for it since.
        """

    def leave(self, member: Member, *, abrupt: bool = False) -> None:
        """Remove a member whose socket is here. ``abrupt``: see `rooms.news`."""

    def send(self, sender: Member, target: Member, message: Message) -> None:
        """Send a message to a member that the sender sees, on any instance. Raises `Refused`."""


class Local:
    """The part of a registry that is the same everywhere: the rooms that this instance knows, and their members here.

    Its own limits protect the process, and so they count only what is here.
    """

    def __init__(self, limits: Limits, audience: Audience) -> None:
        self._limits = limits
        self._audience = audience
        self.key = secrets.token_bytes(32)
        """See `Registry`."""
        self.make_bucket: MakeBucket = own_bucket
        """See `Registry`."""
        self._rooms: dict[str, Room] = {}
        self._here: dict[str, Member] = {}
        """Members whose socket is here, by peer id, including those that are about to join."""
        self._joining: dict[str, list[Message]] = {}
        """Messages for members whose join is under way. Each gets them after its ``joined``."""

    def __len__(self) -> int:
        return len(self._rooms)

    def room(self, name: str) -> Room:
        """See `Registry`."""
        return self._rooms.get(name) or Room(name=name)

    def _check_server(self, name: str) -> None:
        """Raise `Refused` if this instance is full."""
        new_room = name not in self._rooms
        if len(self._here) >= self._limits.members or (new_room and len(self._rooms) >= self._limits.rooms):
            raise Refused(Code.SERVER_FULL, "server is full")

    def _change(self, after: Room, *, abrupt: Collection[str] = ()) -> None:
        """Replace a room by what it is now, and tell its members here. A newcomer is told by its own join."""
        before = self.room(after.name)
        now = frozenset(after.members)
        gone = [member for member in before.members if member not in now]
        for member in gone:
            self._here.pop(member.peer_id, None)
        if any(member.peer_id in self._here for member in after.members):
            self._rooms[after.name] = after
        else:
            self._rooms.pop(after.name, None)
        for member in gone:
            self._audience.gone(member)
        viewers = [each for each in before.members if each.peer_id in self._here and each.peer_id not in self._joining]
        for member, message in news(before, after, viewers, abrupt=abrupt):
            self._audience.tell(member, message)


class MemoryRegistry(Local):
    """The rooms of a server that has one instance."""

    def __init__(self, limits: Limits, audience: Audience) -> None:
        super().__init__(limits, audience)
        self._members_of: Counter[str] = Counter()
        self._rooms_of: Counter[str] = Counter()
        """Counts by network; one without any is missing."""

    async def returns(self, request: Join) -> bool:
        """See `Registry`."""
        return self.room(request.room).ghost(request) is not None

    async def join(self, request: Join, address: str) -> tuple[Admission, list[Message]]:
        """See `Registry`."""
        before = self.room(request.room)
        if before.ghost(request) is None:
            self._check_server(request.room)
            self._check_address(before, address)
        admission = before.admit(request, self._limits, address=address)
        self._count(before, admission.room)
        self._here[admission.member.peer_id] = admission.member
        self._change(admission.room)
        return admission, [admission.room.joined(admission)]

    def leave(self, member: Member, *, abrupt: bool = False) -> None:
        """See `Registry`."""
        before = self.room(member.room)
        after = before.without([member])
        self._count(before, after)
        self._change(after, abrupt=[member.peer_id] if abrupt else [])

    def send(self, sender: Member, target: Member, message: Message) -> None:
        """See `Registry`."""
        self._audience.tell(target, message)

    def _check_address(self, room: Room, address: str) -> None:
        """Raise `Refused` if the network has reached its limits."""
        limits = self._limits
        if self._members_of[address] >= limits.members_each:
            raise too_many_members(limits)
        if not room.members and self._rooms_of[address] >= limits.rooms_each:
            raise too_many_rooms(limits)

    def _count(self, before: Room, after: Room) -> None:
        for of, network, difference in differences(before, after):
            counts = self._members_of if of == MEMBERS else self._rooms_of
            counts[network] += difference
            if not counts[network]:
                del counts[network]


MEMBERS: Final = "members"
ROOMS: Final = "rooms"


def differences(before: Room, after: Room) -> Iterator[tuple[str, str, int]]:
    """Yield what a change of a room changes of a network's counts: of `MEMBERS` or `ROOMS`, which network, how many."""
    counts = Counter(member.address for member in after.members)
    counts.subtract(member.address for member in before.members)
    yield from ((MEMBERS, network, difference) for network, difference in counts.items() if difference)
    if not before.members and after.members:
        yield ROOMS, after.creator, 1
    if before.members and not after.members:
        yield ROOMS, before.creator, -1


def too_many_members(limits: Limits) -> Refused:
    """Return the rejection of a network that has too many members."""
    return Refused(Code.ADDRESS_LIMIT, f"your address has too many members (max {limits.members_each})")


def too_many_rooms(limits: Limits) -> Refused:
    """Return the rejection of a network that has created too many rooms."""
    return Refused(Code.ADDRESS_LIMIT, f"your address has too many rooms (max {limits.rooms_each})")
