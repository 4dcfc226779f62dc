"""A room: its members, which of them see each other, and their notifications. Pure: it knows no sockets and no Redis.

A `Room` is a value. Whoever changes a room makes another value of it, and `news` says what that means for a member:

    join  ->  the members get peer-joined, and the newcomer gets joined
    leave ->  the members get peer-left, and whether the member's process seems to have ended

So it does not matter which instance of the server has changed the room, nor how many changes arrive at once.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

from .limits import Limits
from .messages import Code, Join, Message, Refused, Role


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """A member of a room, from joining to leaving."""

    peer_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    room: str = field(repr=False)
    role: Role | None = None
    """The side that it is on; None for an original member."""
    instance: str | None = None
    proof: str | None = field(default=None, repr=False)
    """Hash of the token that allows a client to take this member's place; an original member has none."""
    address: str = field(default="", repr=False)
    """The network that it counts towards."""
    node: str = ""
    """Name of the server's instance that has its socket."""

    def sees(self, other: Member) -> bool:
        """Whether the two see each other. Proxies do not see other proxies."""
        return self is not other and (self.role is None or self.role is not other.role)

    def description(self) -> Message:
        """Return the description for other members."""
        if self.role is None:
            return {"peerId": self.peer_id}
        return {"peerId": self.peer_id, "role": self.role.value, "instance": self.instance}


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A successful join."""

    room: Room
    """The room with the new member."""
    member: Member
    token: str | None = field(repr=False)
    """The member's token; None for an original member."""
    ghost: Member | None
    """The former member whose place it took, if any."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Room:
    """A room with its members, in the order of their joins. It exists as long as it has any."""

    name: str = field(repr=False)
    creator: str = field(default="", repr=False)
    """The network of the member that created it."""
    members: tuple[Member, ...] = ()

    def ghost(self, request: Join) -> Member | None:
        """Return the member whose place the request may take, which its token proves; None if there is none."""
        proof = proof_of(request.token or "")
        for member in self.members:
            if member.proof is not None and secrets.compare_digest(member.proof, proof):
                return member
        return None

    def admit(self, request: Join, limits: Limits, *, address: str = "", node: str = "") -> Admission:
        """Add a member. Raises `Refused` if the room has no place for it."""
        ghost = self.ghost(request)
        present = tuple(member for member in self.members if member is not ghost)
        if most := lacks_place(request.role, present, limits):
            raise Refused(Code.ROOM_FULL, f"room '{self.name}' is full (max {most})")
        token = None
        if request.role is not None:
            # The ghost's token stays valid, since the client may not have received the reply to this join.
            token = request.token if ghost is not None else secrets.token_urlsafe()
        member = Member(
            room=self.name,
            role=request.role,
            instance=request.instance,
            proof=None if token is None else proof_of(token),
            address=address,
            node=node,
        )
        creator = self.creator if self.members else address
        room = replace(self, creator=creator, members=(*present, member))
        return Admission(room=room, member=member, token=token, ghost=ghost)

    def without(self, gone: Collection[Member]) -> Room:
        """Return the room without these members."""
        return replace(self, members=tuple(member for member in self.members if member not in gone))

    def seen_by(self, member: Member) -> Iterator[Member]:
        """Yield the members that this one sees."""
        return (other for other in self.members if other.sees(member))

    def joined(self, admission: Admission) -> Message:
        """Return the message for a newcomer, with whom it sees now."""
        member = admission.member
        others = list(self.seen_by(member))
        message: Message = {"type": "joined", "peerId": member.peer_id, "peers": [other.peer_id for other in others]}
        if member.role is not None:
            members = [other.description() for other in others]
            message |= {"role": member.role.value, "token": admission.token, "members": members}
        return message

    def other(self, sender: Member, peer_id: str) -> Member:
        """Return the member with this peer id, if the sender sees it. Raises `Refused`."""
        target = next((member for member in self.members if member.peer_id == peer_id), None)
        if target is None or not target.sees(sender):
            raise Refused(Code.NO_SUCH_PEER, "no such peer")
        return target

    def targets(self, sender: Member, to: str | None) -> tuple[Member, ...]:
        """Return who gets a message: the only other member, or the one that it is addressed to. Raises `Refused`."""
        if to is None and len(self.members) <= 2:
            # The receiver may have just left: an original member would not expect an error for its candidate.
            return tuple(self.seen_by(sender))
        if to is None:
            raise Refused(Code.NO_SUCH_PEER, "say to which peer")
        return (self.other(sender, to),)


def lacks_place(role: Role | None, present: Collection[Member], limits: Limits) -> str:
    """Return the limit that keeps a member of this role out of a room with these members; empty if none does."""
    roles = [member.role for member in present]
    if (role is None or None in roles) and len(roles) >= 2:
        return "2"
    if role is Role.SERVE and Role.SERVE in roles:
        return "1 serve"
    if role is Role.PROXY and roles.count(Role.PROXY) >= limits.proxies:
        return f"{limits.proxies} proxies"
    return ""


def news(
    before: Room, after: Room, viewers: Iterable[Member], *, abrupt: Collection[str] = ()
) -> Iterator[tuple[Member, Message]]:
    """Yield what members of both are told of a change, each with its messages in order.

    ``abrupt``: peer ids of members whose connection ended without a goodbye, like that of a killed process.
    """
    then, now = frozenset(before.members), frozenset(after.members)
    left = [member for member in before.members if member not in now]
    come = [member for member in after.members if member not in then]
    for viewer in viewers:
        for member in left:
            if member.sees(viewer):
                message: Message = {"type": "peer-left", "peerId": member.peer_id}
                # An original member does not understand further fields.
                told = viewer.role is not None and member.peer_id in abrupt
                yield viewer, message | {"abrupt": True} if told else message
        for member in come:
            if member.sees(viewer):
                yield viewer, {"type": "peer-joined", **member.description()}


def proof_of(token: str) -> str:
    """Return the hash of a token, which is all that the server keeps of it."""
    return hashlib.sha256(token.encode()).hexdigest()
