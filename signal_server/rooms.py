"""Members of rooms, which of them see each other, and their notifications. Pure: nothing here knows about sockets.

`Rooms` is the interface that could also be implemented for the rooms of several servers.

    join  ->  the members get peer-joined, and the newcomer gets joined
    leave ->  the members get peer-left, and whether the member's process seems to have ended
    relay ->  the only other member gets the message, or the one that it is addressed to
"""

from __future__ import annotations

import secrets
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .limits import Limits
from .messages import Code, Join, Message, PassOn, Refused, Role


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """A member of a room, from joining to leaving."""

    peer_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    room: str = field(repr=False)
    role: Role | None = None
    """The side that it is on; None for an original member."""
    instance: str | None = None
    token: str | None = field(default=None, repr=False)
    """Token that allows a client to take this member's place; an original member has none."""
    address: str = field(default="", repr=False)
    """The address that it counts towards."""

    def sees(self, other: Member) -> bool:
        """Whether the two see each other. Proxies do not see other proxies."""
        return self is not other and (self.role is None or self.role is not other.role)

    def description(self) -> Message:
        """Return the description for other members."""
        if self.role is None:
            return {"peerId": self.peer_id}
        return {"peerId": self.peer_id, "role": self.role.value, "instance": self.instance}


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message for a member."""

    to: Member
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A successful join."""

    member: Member
    ghost: Member | None
    """The former member whose place it took, if any."""
    deliveries: list[Delivery]


class Rooms:
    """All rooms of a server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._rooms: dict[str, dict[str, Member]] = {}
        self._count = 0
        self._creators: dict[str, str] = {}
        """The address that created each room."""
        self._members_of: Counter[str] = Counter()
        self._rooms_of: Counter[str] = Counter()
        """Counts by address; an address without any is missing."""

    def __len__(self) -> int:
        return len(self._rooms)

    def members(self, room: str) -> tuple[Member, ...]:
        """Return the members of a room, in the order of their joins."""
        return tuple(self._rooms.get(room, {}).values())

    def returns(self, request: Join) -> bool:
        """Whether the request comes from a member that is still in the room."""
        return self._ghost(request) is not None

    def join(self, request: Join, address: str = "") -> Admission:
        """Add a member. Raises `Refused`, and then changes nothing."""
        ghost = self._ghost(request)
        if ghost is None:
            self._check_server(request)
            self._check_address(request, address)
        self._check_room(request, [member for member in self.members(request.room) if member is not ghost])
        deliveries = self.leave(ghost) if ghost else []
        member = _member(request, ghost, address)
        others = [other for other in self.members(request.room) if other.sees(member)]
        if request.room not in self._rooms:
            self._creators[request.room] = address
            self._rooms_of[address] += 1
        self._rooms.setdefault(request.room, {})[member.peer_id] = member
        self._members_of[address] += 1
        self._count += 1
        arrival: Message = {"type": "peer-joined", **member.description()}
        deliveries += [Delivery(other, arrival) for other in others]
        deliveries.append(Delivery(member, _joined(member, others) | self._offer(member)))
        return Admission(member=member, ghost=ghost, deliveries=deliveries)

    def leave(self, member: Member, *, abrupt: bool = False) -> list[Delivery]:
        """Remove a member. ``abrupt``: its connection ended without a goodbye, like that of a killed process."""
        room = self._rooms[member.room]
        del room[member.peer_id]
        self._count -= 1
        _decrease(self._members_of, member.address)
        if not room:
            del self._rooms[member.room]
            _decrease(self._rooms_of, self._creators.pop(member.room))
        departure: Message = {"type": "peer-left", "peerId": member.peer_id}
        more: Message = {"abrupt": True} if abrupt else {}
        others = [other for other in room.values() if other.sees(member)]
        # An original member does not understand further fields.
        return [Delivery(other, departure | more if other.role else departure) for other in others]

    def relay(self, sender: Member, request: PassOn) -> list[Delivery]:
        """Forward a message. Raises `Refused`."""
        message = request.message(sender.peer_id)
        return [Delivery(target, message) for target in self._targets(sender, request.to)]

    def other(self, sender: Member, peer_id: str) -> Member:
        """Return the member with this peer id. Raises `Refused`."""
        target = self._rooms[sender.room].get(peer_id)
        if target is None or not target.sees(sender):
            raise Refused(Code.NO_SUCH_PEER, "no such peer")
        return target

    def _targets(self, sender: Member, to: str | None) -> Iterator[Member]:
        room = self._rooms[sender.room]
        if to is None and len(room) <= 2:
            # The receiver may have just left: an original member would not expect an error for its candidate.
            yield from (other for other in room.values() if other.sees(sender))
        elif (target := room.get(to or "")) and target.sees(sender):
            yield target
        else:
            raise Refused(Code.NO_SUCH_PEER, "no such peer" if to else "say to which peer")

    def _offer(self, member: Member) -> Message:
        """Describe the relay to a newcomer; an original member would not understand it."""
        relay = self._limits.relay
        if relay is None or member.role is None:
            return {}
        return {"relay": {"rate": relay.rate, "total": relay.total, "idle": relay.idle}}

    def _ghost(self, request: Join) -> Member | None:
        """Return the member with this token, or None."""
        token = (request.token or "").encode()
        for member in self.members(request.room):
            if member.token and secrets.compare_digest(member.token.encode(), token):
                return member
        return None

    def _check_server(self, request: Join) -> None:
        """Raise `Refused` if the server is full."""
        new_room = request.room not in self._rooms
        if self._count >= self._limits.members or (new_room and len(self._rooms) >= self._limits.rooms):
            raise Refused(Code.SERVER_FULL, "server is full")

    def _check_address(self, request: Join, address: str) -> None:
        """Raise `Refused` if the address has reached its limits."""
        limits, new_room = self._limits, request.room not in self._rooms
        if self._members_of[address] >= limits.members_each:
            raise Refused(Code.ADDRESS_LIMIT, f"your address has too many members (max {limits.members_each})")
        if new_room and self._rooms_of[address] >= limits.rooms_each:
            raise Refused(Code.ADDRESS_LIMIT, f"your address has too many rooms (max {limits.rooms_each})")

    def _check_room(self, request: Join, present: list[Member]) -> None:
        """Raise `Refused` if the room has no place besides those who are present."""
        roles = [member.role for member in present]
        most = ""
        if (request.role is None or None in roles) and len(roles) >= 2:
            most = "2"
        elif request.role is Role.SERVE and Role.SERVE in roles:
            most = "1 serve"
        elif request.role is Role.PROXY and roles.count(Role.PROXY) >= self._limits.proxies:
            most = f"{self._limits.proxies} proxies"
        if most:
            raise Refused(Code.ROOM_FULL, f"room '{request.room}' is full (max {most})")


def _decrease(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


def _member(request: Join, ghost: Member | None, address: str) -> Member:
    token = None
    if request.role is not None:
        # The ghost's token stays valid, since the client may not have received the reply to this join.
        token = (ghost and ghost.token) or secrets.token_urlsafe()
    return Member(room=request.room, role=request.role, instance=request.instance, token=token, address=address)


def _joined(member: Member, others: Iterable[Member]) -> Message:
    message: Message = {"type": "joined", "peerId": member.peer_id, "peers": [other.peer_id for other in others]}
    if member.role is not None:
        members = [other.description() for other in others]
        message |= {"role": member.role.value, "token": member.token, "members": members}
    return message
