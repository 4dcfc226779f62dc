"""Who connects to whom, pure: what happens in the room in, what to do out.

    1. joined       members that were there before us will offer; one whose link lives (its instance says so) is kept
    2. peer-joined  we were there: offer, unless that member's link lives
    3. offer        answer, unless the link lives
    4. peer-left    the signal server's word alone ends no session: suspect it (a ping decides)

A link is one connection to one member, being made or live. A proxy has one; a serve has one for each proxy. A member
that lost its link leaves the room and joins again under a new instance, which makes it a new member to all others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from ..status import Role
from .messages import Answer, Candidate, IceCandidate, Joined, Member, Message, Offer, PeerJoined, PeerLeft, PipeTicket

MEMBERS: Final = 256
"""Members of a room that are remembered: twice what our signal server takes at most, and a bound for a hostile one."""


@dataclass(frozen=True, slots=True)
class MakeOffer:
    """Connect to a member: we offer."""

    member: Member


@dataclass(frozen=True, slots=True)
class MakeAnswer:
    """Connect to a member that offers."""

    member: Member
    sdp: str


@dataclass(frozen=True, slots=True)
class TakeAnswer:
    """A member answered our offer."""

    peer_id: str
    sdp: str


@dataclass(frozen=True, slots=True)
class TakeCandidate:
    """A member trickles a candidate."""

    peer_id: str
    candidate: IceCandidate


@dataclass(frozen=True, slots=True)
class TakeTicket:
    """A pipe through the relay to a member may be opened."""

    peer_id: str
    ticket: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Suspect:
    """A member with a link may be gone."""

    peer_id: str
    gone: bool = False
    """Its process seems to have ended."""


@dataclass(frozen=True, slots=True)
class Rename:
    """A member with a live link came back under another id."""

    old: str
    new: str


Instruction = MakeOffer | MakeAnswer | TakeAnswer | TakeCandidate | TakeTicket | Suspect | Rename


@dataclass(slots=True)
class _Known:
    member: Member
    live: bool = False


class Negotiation:
    """One member's view of the room, over as many signalling connections as it takes."""

    def __init__(self, role: Role) -> None:
        self._role = role
        self._members: dict[str, Member] = {}
        self._links: dict[str, _Known] = {}

    @property
    def alone(self) -> bool:
        """Whether nobody to talk to is in the room."""
        return not self._members

    def present(self, member: Member) -> Member | None:
        """A member as it is called now, where it is in the room."""
        return next((each for each in self._members.values() if each.instance == member.instance), None)

    # -- what the room does with links

    def linked(self, member: Member) -> None:
        """A connection to this member is being made."""
        self._links[member.peer_id] = _Known(member)

    def established(self, peer_id: str) -> None:
        """It stands."""
        self._links[peer_id].live = True

    def unlinked(self, peer_id: str) -> None:
        """It is gone."""
        self._links.pop(peer_id, None)

    # -- what the signal server says

    def joined(self, message: Joined) -> list[Instruction]:
        """We are in: links of members that are still here go on under their new ids."""
        self._members = {member.peer_id: member for member in message.peers if self._concerns(member)}
        return [instruction for member in self._members.values() for instruction in self._keep(member)]

    def receive(self, message: Message) -> list[Instruction]:
        """What to do about one message."""
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
        """Members of our own role are none of our business; one without a role may be either."""
        return member.role is not self._role

    def _peer_joined(self, member: Member) -> list[Instruction]:
        kept = self._keep(member)
        if kept:
            return kept
        if self._role is Role.PROXY and member.instance is None and (live := self._live()):
            # An original server does not say who this is. If our serve lives, it is the one that came back.
            return [Suspect(live.member.peer_id)]
        return [MakeOffer(member)]

    def _offered(self, member: Member | None, sdp: str) -> list[Instruction]:
        if member is None:
            return []
        if self._role is Role.PROXY and (live := self._live()) and live.member.instance == member.instance:
            return [Suspect(live.member.peer_id)]
        return [MakeAnswer(member, sdp)]

    def _keep(self, member: Member) -> list[Instruction]:
        """Recognise a member whose link lives, by its instance."""
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
