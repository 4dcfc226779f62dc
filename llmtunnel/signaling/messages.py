"""The signalling messages as typed values, to and from JSON (protocol/README.md section 10). Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ..config import IceServers
from ..errors import ProtocolError
from ..status import Role

MAX_ID: Final = 128
"""Maximum characters of a peer's id, an instance or a token, which are kept and shown. UUIDs have 36."""
MAX_TEXT: Final = 300
"""Characters of an error's text that are kept for display."""

MAX_ICE: Final = 4
"""STUN and TURN servers that are used. Each costs packets for every connection, to a place that the server chooses."""
MAX_URL: Final = 255
"""Maximum characters of a STUN or TURN server's URL."""
MAX_CREDENTIAL: Final = 512
"""Maximum characters of a user name or credential for a TURN server. Ours have 28. RFC 8489 allows a user name 508
bytes."""
MAX_TTL: Final = 7 * 86_400.0
"""Maximum number of seconds that credentials count as valid."""
_FIRST_PORT: Final = 1024
_HTTPS: Final = 443
# Narrower than the URLs of a user, since these are the signal server's: printable, without IPv6 literals, and without
# TURN over DTLS, for which aioice would use UDP without encryption.
_HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252})"
_STUN: Final = re.compile(rf"stun:{_HOST}(?::([0-9]{{1,5}}))?")
_TURN: Final = re.compile(
    rf"turn:{_HOST}(?::([0-9]{{1,5}}))?(?:\?transport=(?:udp|tcp))?"
    rf"|turns:{_HOST}(?::([0-9]{{1,5}}))?(?:\?transport=tcp)?"
)

_TICKET: Final = re.compile(r"[\w.~-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Member:
    """Another member of the room."""

    peer_id: str
    role: Role | None = None
    """None: an original member, or a server that does not report roles."""
    instance: str | None = None


@dataclass(frozen=True, slots=True)
class IceCandidate:
    """A candidate as in WebRTC's RTCIceCandidateInit. An empty ``candidate`` means the end of candidates."""

    candidate: str
    sdp_mid: str | None = None
    sdp_m_line_index: int | None = None
    username_fragment: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayOffer:
    """The limits of the signal server's relay. 0: the server does not report this limit."""

    rate: float = 0.0
    """Bytes per second, for a room."""
    total: float = 0.0
    """Bytes per day, for a room."""
    idle: float = 0.0
    """Seconds without a message after which a pipe closes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IceOffer:
    """The STUN and TURN servers that the signal server hands out, as far as they may be used."""

    servers: tuple[IceServers, ...] = ()
    """One entry for each user name."""
    ttl: float = 0.0
    """Seconds for which the credentials are valid. 0: the server does not report that."""
    skipped: int = 0
    """URLs that are not used: too many, or of a kind that the signal server may not name."""


@dataclass(frozen=True, slots=True)
class Joined:
    """We have joined the room."""

    peer_id: str
    peers: tuple[Member, ...] = ()
    role: Role | None = None
    """Our role, echoed by a server that knows roles. There, messages are addressed."""
    token: str | None = None
    relay: RelayOffer | None = None
    """None: the server has no relay."""
    ice: IceOffer | None = None
    """None: the server hands out no STUN or TURN servers."""
    web: bool = False
    """Whether the server serves a page that makes a browser a peer."""


@dataclass(frozen=True, slots=True)
class PeerJoined:
    """A member has joined."""

    member: Member


@dataclass(frozen=True, slots=True)
class PeerLeft:
    """A member has left, or lost the signal server."""

    peer_id: str
    abrupt: bool = False
    """Whether its connection ended without a goodbye, as that of a killed process does."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer from a member."""

    peer_id: str
    sdp: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer from a member."""

    peer_id: str
    sdp: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """An ICE candidate from a member."""

    peer_id: str
    candidate: IceCandidate


@dataclass(frozen=True, slots=True)
class PipeTicket:
    """A ticket to open a pipe to a member. One of the two has asked for the pipe."""

    peer_id: str
    ticket: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class IceTold:
    """The STUN and TURN servers again, with new credentials, as we have asked."""

    ice: IceOffer


@dataclass(frozen=True, slots=True)
class ServerError:
    """An error from the signal server."""

    message: str
    code: str | None = None


Message = Joined | PeerJoined | PeerLeft | Offer | Answer | Candidate | PipeTicket | IceTold | ServerError


def parse(text: str) -> Message | None:
    """Return the server's message, or None if we do not know its type. Raises `ProtocolError`."""
    values = _object(text)
    match values.get("type"):
        case "joined":
            return Joined(
                _id(values),
                _members(values),
                _role(values),
                _optional(values, "token"),
                _relay(values.get("relay")),
                _ice(values.get("ice")),
                values.get("web") is True,
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
        case "ice":
            return IceTold(_ice(values.get("ice")) or IceOffer())
        case "error":
            return ServerError(_shown(_text(values, "message")), _optional(values, "code"))
    return None


def join(room: str, *, role: Role, instance: str, token: str | None = None, access: str | None = None) -> str:
    """Return the message to join a room.

    ``token`` proves that we are an earlier member, and ``access`` that we may use a private signal server.
    """
    return _dump(type="join", room=room, role=role.value, instance=instance, token=token, access=access)


def offer(sdp: str, *, to: str | None) -> str:
    """Return the message that offers a connection. ``to``: None if the server knows no roles, here and below."""
    return _dump(type="offer", sdp=sdp, to=to)


def answer(sdp: str, *, to: str | None) -> str:
    """Return the message that answers an offer."""
    return _dump(type="answer", sdp=sdp, to=to)


def candidate(found: IceCandidate, *, to: str | None) -> str:
    """Return the message that trickles a candidate: a JSON text within the JSON message, as in the original."""
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
    """Return the message that asks for a pipe through the relay to a member. Both receive a ticket."""
    return _dump(type="pipe", to=to)


def ask_ice() -> str:
    """Return the message that asks for the STUN and TURN servers again, with new credentials."""
    return _dump(type="ice")


def bye() -> str:
    """Return the message that leaves the room. The connection stays open."""
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
    """Return whether the text can be encoded. JSON may escape half a surrogate pair."""
    return text.isascii() or not any("\ud800" <= each <= "\udfff" for each in text)


def _id(values: dict[str, Any]) -> str:
    value = _text(values, "peerId")
    if not 0 < len(value) <= MAX_ID:
        raise ProtocolError("A signalling message has an invalid peerId.")
    return value


def _optional(values: dict[str, Any], name: str) -> str | None:
    value = values.get(name)
    return value if isinstance(value, str) and len(value) <= MAX_ID and _is_unicode(value) else None


def _shown(text: str) -> str:
    """Return an external text for a terminal: short, on one line, without control characters."""
    return "".join(each if each.isprintable() else " " for each in text[:MAX_TEXT])


def _role(values: dict[str, Any]) -> Role | None:
    value = values.get("role")
    return Role(value) if value in ("serve", "proxy") else None


def _member(values: dict[str, Any]) -> Member:
    return Member(_id(values), _role(values), _optional(values, "instance"))


def _members(values: dict[str, Any]) -> tuple[Member, ...]:
    """Return ``members`` if the server knows roles, else the plain ids of ``peers``."""
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


def _ice(offer: object) -> IceOffer | None:
    """Return the servers that may be used. A hostile server may name anything, in any number."""
    if not isinstance(offer, dict) or not isinstance(offer.get("servers"), list):
        return None
    servers: list[IceServers] = []
    left, skipped = MAX_ICE, 0
    for entry in offer["servers"]:
        urls = list(_ice_urls(entry))
        usable = [url for url in urls if _is_ice_url(url, _STUN)]
        credentials = _credentials(entry)
        turn = [url for url in urls if _is_ice_url(url, _TURN)] if credentials else []
        stun, turn = usable[:left], turn[: max(0, left - len(usable))]
        left -= len(stun) + len(turn)
        skipped += len(urls) - len(stun) - len(turn)
        if turn and credentials:
            servers.append(
                IceServers(stun=tuple(stun), turn=tuple(turn), turn_user=credentials[0], turn_pass=credentials[1])
            )
        elif stun:
            servers.append(IceServers(stun=tuple(stun)))
    return IceOffer(servers=tuple(servers), ttl=min(_number(offer, "ttl"), MAX_TTL), skipped=skipped)


def _ice_urls(entry: object) -> Iterator[str]:
    """Yield the URLs of an RTCIceServer, which are a list or a single one. An invalid one is yielded as empty."""
    urls = entry.get("urls") if isinstance(entry, dict) else None
    for url in urls if isinstance(urls, list) else (urls,):
        yield url if isinstance(url, str) else ""


def _is_ice_url(url: str, pattern: re.Pattern[str]) -> bool:
    match = pattern.fullmatch(url) if len(url) <= MAX_URL else None
    if match is None:
        return False
    ports = [int(text) for text in match.groups() if text]
    return all(port == _HTTPS or _FIRST_PORT <= port < 65_536 for port in ports)


def _credentials(entry: object) -> tuple[str, str] | None:
    if not isinstance(entry, dict):
        return None
    found = [entry.get(name) for name in ("username", "credential")]
    if all(isinstance(each, str) and 0 < len(each) <= MAX_CREDENTIAL and each.isprintable() for each in found):
        return str(found[0]), str(found[1])
    return None


def _ticket(values: dict[str, Any]) -> str:
    """Return the ticket, which must be a token (RFC 9110 section 5.6.2) since it becomes part of an HTTP field."""
    value = _text(values, "ticket")
    if not _TICKET.fullmatch(value):
        raise ProtocolError("A signalling message has an invalid ticket.")
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
