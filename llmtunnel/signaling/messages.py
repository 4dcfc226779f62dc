"""The signalling messages, typed, to and from JSON (protocol/README.md section 10). Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from ..errors import ProtocolError
from ..status import Role

MAX_ID: Final = 128
"""Characters of a peer's id, an instance or a token: they are kept and shown. UUIDs have 36."""
MAX_TEXT: Final = 300
"""Characters of an error's text that are kept, to be shown."""

_TICKET: Final = re.compile(r"[\w.~-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody else in the room."""

    peer_id: str
    role: Role | None = None
    """None: an original member, or a server that does not tell."""
    instance: str | None = None


@dataclass(frozen=True, slots=True)
class IceCandidate:
    """A candidate as WebRTC's RTCIceCandidateInit has it; an empty ``candidate`` is the end of candidates."""

    candidate: str
    sdp_mid: str | None = None
    sdp_m_line_index: int | None = None
    username_fragment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOffer:
    """The signal server relays, within these limits; 0 where it does not tell one."""

    rate: float = 0.0
    """Bytes a second of a room."""
    total: float = 0.0
    """Bytes a day of a room."""
    idle: float = 0.0
    """Seconds that a pipe lasts in which nothing passes."""


@dataclass(frozen=True, slots=True)
class Joined:
    """We are in the room."""

    peer_id: str
    peers: tuple[Member, ...] = ()
    role: Role | None = None
    """Ours, echoed by a server that knows roles: there, messages are addressed."""
    token: str | None = None
    relay: RelayOffer | None = None
    """None where there is no relay."""


@dataclass(frozen=True, slots=True)
class PeerJoined:
    """Somebody came."""

    member: Member


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """Somebody went, or lost the signal server."""

    peer_id: str
    abrupt: bool = False
    """Its connection ended without a goodbye, as that of a killed process does."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A member's offer."""

    peer_id: str
    sdp: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A member's answer."""

    peer_id: str
    sdp: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A member's ICE candidate."""

    peer_id: str
    candidate: IceCandidate


@dataclass(frozen=True, slots=True)
class PipeTicket:
    """A pipe to a member may be opened with this ticket: one of the two has asked for it."""

    peer_id: str
    ticket: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerError:
    """The signal server objects."""

    message: str
    code: str | None = None


Message = Joined | PeerJoined | PeerLeft | Offer | Answer | Candidate | PipeTicket | ServerError


def parse(text: str) -> Message | None:
    """What the server said; None for a type that we do not know. Raises `ProtocolError`."""
    values = _object(text)
    match values.get("type"):
        case "joined":
            return Joined(
                _id(values), _members(values), _role(values), _optional(values, "token"), _relay(values.get("relay"))
            )
        case "peer-joined":
            return PeerJoined(_member(values))
        case "peer-left":
            return PeerLeft(_id(values), values.get("abrupt") is True)
        case "offer":
            return Offer(_id(values), _text(values, "sdp"))
        case "answer":
            return Answer(_id(values), _text(values, "sdp"))
        case "candidate":
            return Candidate(_id(values), _candidate(_text(values, "candidate")))
        case "pipe":
            return PipeTicket(_id(values), _ticket(values))
        case "error":
            return ServerError(_shown(_text(values, "message")), _optional(values, "code"))
    return None


def join(room: str, *, role: Role, instance: str, token: str | None = None) -> str:
    """Enter a room; ``token`` proves that we are a member that was there before."""
    return _dump(type="join", room=room, role=role.value, instance=instance, token=token)


def offer(sdp: str, *, to: str | None) -> str:
    """Offer a connection; ``to`` is None where the server knows no roles, here and below."""
    return _dump(type="offer", sdp=sdp, to=to)


def answer(sdp: str, *, to: str | None) -> str:
    """Answer an offer."""
    return _dump(type="answer", sdp=sdp, to=to)


def candidate(found: IceCandidate, *, to: str | None) -> str:
    """Trickle a candidate: a JSON text within the JSON message, as the original has it."""
    inner = json.dumps(
        {
            "candidate": found.candidate,
            "sdpMid": found.sdp_mid,
            "sdpMLineIndex": found.sdp_m_line_index,
            "usernameFragment": found.username_fragment,
        }
    )
    return _dump(type="candidate", candidate=inner, to=to)


def pipe(to: str) -> str:
    """Ask for a pipe through the relay to a member: both are sent a ticket."""
    return _dump(type="pipe", to=to)


def bye() -> str:
    """Leave the room; the connection stays."""
    return _dump(type="bye")


def _dump(**values: object) -> str:
    return json.dumps({name: value for name, value in values.items() if value is not None})


def _object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError("A signalling message is not JSON.") from exc
    if not isinstance(values, dict):
        raise ProtocolError("A signalling message is not a JSON object.")
    return values


def _text(values: dict[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not _is_unicode(value):
        raise ProtocolError(f"A signalling message has no {name}.")
    return value


def _is_unicode(text: str) -> bool:
    """Whether it can be encoded: JSON may escape half a surrogate pair."""
    return text.isascii() or not any("\ud800" <= each <= "\udfff" for each in text)


def _id(values: dict[str, Any]) -> str:
    value = _text(values, "peerId")
    if not 0 < len(value) <= MAX_ID:
        raise ProtocolError("A signalling message has an impossible peerId.")
    return value


def _optional(values: dict[str, Any], name: str) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) and len(value) <= MAX_ID and _is_unicode(value) else None


def _shown(text: str) -> str:
    """Text of somebody else's for a terminal: short, on one line, with no control characters."""
    return "".join(each if each.isprintable() else " " for each in text[:MAX_TEXT])


def _role(values: dict[str, Any]) -> Role | None:
    value = values.get("role")
    return Role(value) if value in ("serve", "proxy") else None


def _member(values: dict[str, Any]) -> Member:
    return Member(_id(values), _role(values), _optional(values, "instance"))


def _members(values: dict[str, Any]) -> tuple[Member, ...]:
    """``members`` where the server knows roles, else the bare ids of ``peers``."""
    members = values.get("members")
    if isinstance(members, list) and all(isinstance(each, dict) for each in members):
        return tuple(_member(each) for each in members)
    peers = values.get("peers")
    if not isinstance(peers, list) or not all(isinstance(each, str) for each in peers):
        raise ProtocolError("A joined message has no peers.")
    return tuple(_member({"peerId": each}) for each in peers)


def _relay(offer: object) -> RelayOffer | None:
    if not isinstance(offer, dict):
        return None
    return RelayOffer(rate=_number(offer, "rate"), total=_number(offer, "total"), idle=_number(offer, "idle"))


def _number(values: dict[str, Any], name: str) -> float:
    value = values.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**63:
        return float(value)
    return 0.0


def _ticket(values: dict[str, Any]) -> str:
    """It becomes a field of an HTTP request: a token (RFC 9110 section 5.6.2)."""
    value = _text(values, "ticket")
    if not _TICKET.fullmatch(value):
        raise ProtocolError("A signalling message has an impossible ticket.")
    return value


def _candidate(text: str) -> IceCandidate:
    values = _object(text)
    index = values.get("sdpMLineIndex")
    return IceCandidate(
        candidate=_text(values, "candidate"),
        sdp_mid=_optional(values, "sdpMid"),
        sdp_m_line_index=index if type(index) is int else None,
        username_fragment=_optional(values, "usernameFragment"),
    )
