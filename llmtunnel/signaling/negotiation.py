"""Who connects to whom: what happened in the room goes in, what to do comes out. Pure.

    1. joined       earlier members will make offers; a member with a live link is recognised by its instance and kept
    2. peer-joined  we were here before: make an offer, unless that member's link is live
    3. offer        answer it, unless the link is live
    4. peer-left    suspect the member: the signal server alone ends no session, and a ping decides

A link is one connection to one member, live or being made. A proxy has one; serve has one for each proxy. A member
that lost its link leaves the room and joins again under a new instance. That makes it a new member to all others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ..status import Role
from .messages import Answer, Candidate, IceCandidate, Joined, Member, Message, Offer, PeerJoined, PeerLeft, PipeTicket

MEMBERS: Final = 256
"""Maximum number of remembered members of a room: twice what our signal server admits, and a limit for a hostile
one."""


@dataclass(frozen=True, slots=True)
class MakeOffer:
    """Connect to a member by making an offer."""

    member: Member


@dataclass(frozen=True, slots=True)
class MakeAnswer:
    """Connect to a member by answering its offer."""

    member: Member
    sdp: str


@dataclass(frozen=True, slots=True)
class TakeAnswer:
    """Pass on a member's answer to our offer."""

    peer_id: str
    sdp: str


@dataclass(frozen=True, slots=True)
class TakeCandidate:
    """Pass on a candidate that a member trickles."""

    peer_id: str
    candidate: IceCandidate


@dataclass(frozen=True, slots=True)
class TakeTicket:
    """Pass on a ticket for a pipe through the relay to a member."""

    peer_id: str
    ticket: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Suspect:
    """Suspect that a member with a link has left."""

    peer_id: str
    gone: bool = False
    """Whether its process seems to have ended."""


@dataclass(frozen=True, slots=True)
class Rename:
    """Note that a member with a live link has returned under another id."""

    old: str
    new: str


Instruction = MakeOffer | MakeAnswer | TakeAnswer | TakeCandidate | TakeTicket | Suspect | Rename


@dataclass(slots=True)
class _Known:
    member: Member
    live: bool = False


class Negotiation:
    """One member's view of the room, across all of its signalling connections."""

    def __init__(self, role: Role) -> None:
        self._role = role
        self._members: dict[str, Member] = {}
        self._links: dict[str, _Known] = {}

    @property
    def alone(self) -> bool:
        """Whether the room has no member that we could connect to."""
        return not self._members

    def present(self, member: Member) -> Member | None:
        """Return a member under its current id, or None if it is not in the room."""
        return next((each for each in self._members.values() if each.instance == member.instance), None)

    # -- what the room does with links

    def linked(self, member: Member) -> None:
        """Note that a connection to this member is being made."""
        self._links[member.peer_id] = _Known(member)

    def established(self, peer_id: str) -> None:
        """Note that the connection is established."""
        self._links[peer_id].live = True

    def unlinked(self, peer_id: str) -> None:
        """Note that the connection has ended."""
        self._links.pop(peer_id, None)

    # -- messages from the signal server

    def joined(self, message: Joined) -> list[Instruction]:
        """Process our join. Links of members that are still here continue under their new ids."""
        self._members = {member.peer_id: member for member in message.peers if self._concerns(member)}
        return [instruction for member in self._members.values() for instruction in self._keep(member)]

    def receive(self, message: Message) -> list[Instruction]:
        """Return what to do about one message."""
        match message:
            case PeerJoined(member) if self._concerns(member) and len(self._members) < MEMBERS:
                self._members[member.peer_id] = member
                return self._peer_joined(member)
            case PeerLeft(peer_id, abrupt):
                self._members.pop(peer_id, None)
                return [Suspect(peer_id, gone=abrupt)] if peer_id in self._links else []
            case Offer(peer_id, sdp):
                return self._offered(self._members.get(peer_id), sdp)
            case Answer(peer_id, sdp) if peer_id in self._links:
                return [TakeAnswer(peer_id, sdp)]
            case Candidate(peer_id, candidate) if peer_id in self._links:
                return [TakeCandidate(peer_id, candidate)]
            case PipeTicket(peer_id, ticket) if peer_id in self._links:
                return [TakeTicket(peer_id, ticket)]
        return []

    def _concerns(self, member: Member) -> bool:
        """Return whether a member matters to us: it has the other role, or none and so may have either."""
        return member.role is not self._role

    def _peer_joined(self, member: Member) -> list[Instruction]:
        kept = self._keep(member)
        if kept:
            return kept
        if self._role is Role.PROXY and member.instance is None and (live := self._live()):
            # An original server does not say who this is. If our serve's link is live, it is that serve which has
            # returned.
            return [Suspect(live.member.peer_id)]
        return [MakeOffer(member)]

    def _offered(self, member: Member | None, sdp: str) -> list[Instruction]:
        if member is None:
            return []
        if self._role is Role.PROXY and (live := self._live()) and live.member.instance == member.instance:
            return [Suspect(live.member.peer_id)]
        return [MakeAnswer(member, sdp)]

    def _keep(self, member: Member) -> list[Instruction]:
        """Recognise a member with a live link by its instance."""
        if member.instance is None:
            return []
        for old, link in self._links.items():
            if link.live and link.member.instance == member.instance:
                return self._rename(old, member)
        return []

    def _rename(self, old: str, member: Member) -> list[Instruction]:
        link = self._links.pop(old)
        link.member = member
        self._links[member.peer_id] = link
        return [Rename(old, member.peer_id)]

    def _live(self) -> _Known | None:
        return next((link for link in self._links.values() if link.live), None)
