"""Signalling in JavaScript passes the Python modules' own tests. `LEFT_OUT` names the others."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from llmtunnel.config import IceServers
from llmtunnel.errors import ProtocolError
from llmtunnel.signaling.messages import (
    Answer,
    Candidate,
    IceCandidate,
    IceOffer,
    IceTold,
    Joined,
    Member,
    Message,
    Offer,
    PeerJoined,
    PeerLeft,
    PipeTicket,
    RelayOffer,
    ServerError,
)
from llmtunnel.signaling.negotiation import (
    Instruction,
    MakeAnswer,
    MakeOffer,
    Rename,
    Suspect,
    TakeAnswer,
    TakeCandidate,
    TakeTicket,
)
from llmtunnel.status import Role

from ..signaling import test_messages, test_negotiation
from ..signaling.test_messages import *  # noqa: F403
from ..signaling.test_negotiation import *  # noqa: F403
from .node import Calls, JsError

LEFT_OUT = {
    "test_a_ticket_is_shown_nowhere": "a ticket is a property of an object there",
    "test_bye_says_nothing_more": "a page leaves by closing its connection",
}
"""What is not run here, and why."""

for name in LEFT_OUT:
    del globals()[name]


@pytest.fixture(scope="module", autouse=True)
def in_javascript() -> Iterator[None]:
    """`parse`, the messages that we send, and `Negotiation` are JavaScript."""
    with pytest.MonkeyPatch.context() as patch, Calls() as calls:
        patch.setattr(test_messages, "parse", Messages(calls).parse)
        patch.setattr(test_messages, "messages", Messages(calls))
        patch.setattr(test_negotiation, "Negotiation", lambda role: NegotiationThere(calls, role))
        yield


class Messages:
    """The messages in JavaScript behind the interface of `llmtunnel.signaling.messages`."""

    Message = Message

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def parse(self, text: str) -> Message | None:
        try:
            there = self._calls("messages.parse", text)
        except JsError as exc:
            assert exc.name == "ProtocolError", exc
            raise ProtocolError(exc.message) from None
        return None if there is None else message_of(there)

    def join(self, room: str, *, role: Role, **named: str) -> Any:
        return self._calls("messages.join", room, {"role": role.value, **named})

    def offer(self, sdp: str, *, to: str | None) -> Any:
        return self._calls("messages.offer", sdp, to)

    def answer(self, sdp: str, *, to: str | None) -> Any:
        return self._calls("messages.answer", sdp, to)

    def candidate(self, found: IceCandidate, *, to: str | None) -> Any:
        return self._calls("messages.candidate", candidate_there(found), to)

    def pipe(self, to: str) -> Any:
        return self._calls("messages.pipe", to)

    def ask_ice(self) -> Any:
        return self._calls("messages.askIce")


class NegotiationThere:
    """The negotiation in JavaScript behind the interface of the Python one."""

    def __init__(self, calls: Calls, role: Role) -> None:
        self._view = calls.new("negotiation.Negotiation", role.value)

    @property
    def alone(self) -> bool:
        return bool(self._view.get("alone"))

    def linked(self, member: Member) -> None:
        self._view.call("linked", member_there(member))

    def established(self, peer_id: str) -> None:
        self._view.call("established", peer_id)

    def unlinked(self, peer_id: str) -> None:
        self._view.call("unlinked", peer_id)

    def joined(self, message: Joined) -> list[Instruction]:
        peers = [member_there(each) for each in message.peers]
        return [instruction_of(each) for each in self._view.call("joined", {"peers": peers})]

    def receive(self, message: Message) -> list[Instruction]:
        return [instruction_of(each) for each in self._view.call("receive", message_there(message))]


def member_there(member: Member) -> dict[str, object]:
    return {"peerId": member.peer_id, "role": member.role and member.role.value, "instance": member.instance}


def candidate_there(found: IceCandidate) -> dict[str, object]:
    return {
        "candidate": found.candidate,
        "sdpMid": found.sdp_mid,
        "sdpMLineIndex": found.sdp_m_line_index,
        "usernameFragment": found.username_fragment,
    }


def message_there(message: Message) -> dict[str, object]:
    match message:
        case PeerJoined(member):
            return {"kind": "peer-joined", "member": member_there(member)}
        case PeerLeft(peer_id, abrupt):
            return {"kind": "peer-left", "peerId": peer_id, "abrupt": abrupt}
        case Offer(peer_id, sdp):
            return {"kind": "offer", "peerId": peer_id, "sdp": sdp}
        case Answer(peer_id, sdp):
            return {"kind": "answer", "peerId": peer_id, "sdp": sdp}
        case Candidate(peer_id, candidate):
            return {"kind": "candidate", "peerId": peer_id, "candidate": candidate_there(candidate)}
        case PipeTicket(peer_id, ticket):
            return {"kind": "pipe", "peerId": peer_id, "ticket": ticket}
    raise AssertionError(message)


def member_of(there: dict[str, Any]) -> Member:
    return Member(there["peerId"], there["role"] and Role(there["role"]), there["instance"])


def candidate_of(there: dict[str, Any]) -> IceCandidate:
    return IceCandidate(there["candidate"], there["sdpMid"], there["sdpMLineIndex"], there["usernameFragment"])


def ice_of(there: dict[str, Any] | None) -> IceOffer | None:
    if there is None:
        return None
    servers = tuple(
        IceServers(
            stun=tuple(each["stun"]), turn=tuple(each["turn"]), turn_user=each["user"], turn_pass=each["password"]
        )
        for each in there["servers"]
    )
    return IceOffer(servers=servers, ttl=float(there["ttl"]), skipped=there["skipped"])


def message_of(there: dict[str, Any]) -> Message:
    given = SimpleNamespace(**there)
    match given.kind:
        case "joined":
            peers = tuple(map(member_of, given.peers))
            role = Role(given.role) if given.role else None
            relay = given.relay and RelayOffer(**given.relay)
            return Joined(given.peerId, peers, role, given.token, relay, ice_of(given.ice))
        case "peer-joined":
            return PeerJoined(member_of(given.member))
        case "peer-left":
            return PeerLeft(given.peerId, given.abrupt)
        case "offer":
            return Offer(given.peerId, given.sdp)
        case "answer":
            return Answer(given.peerId, given.sdp)
        case "candidate":
            return Candidate(given.peerId, candidate_of(given.candidate))
        case "pipe":
            return PipeTicket(given.peerId, given.ticket)
        case "ice":
            told = ice_of(given.ice)
            assert told is not None
            return IceTold(told)
        case "error":
            return ServerError(given.message, given.code)
    raise AssertionError(given.kind)


def instruction_of(there: dict[str, Any]) -> Instruction:
    given = SimpleNamespace(**there)
    match given.do:
        case "make-offer":
            return MakeOffer(member_of(given.member))
        case "make-answer":
            return MakeAnswer(member_of(given.member), given.sdp)
        case "take-answer":
            return TakeAnswer(given.peerId, given.sdp)
        case "take-candidate":
            return TakeCandidate(given.peerId, candidate_of(given.candidate))
        case "take-ticket":
            return TakeTicket(given.peerId, given.ticket)
        case "suspect":
            return Suspect(given.peerId, given.gone)
        case "rename":
            return Rename(given.old, given.new)
    raise AssertionError(given.do)
