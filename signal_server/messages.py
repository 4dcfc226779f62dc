"""Parse the messages of clients, and make the replies. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from .limits import ACCESS_TOKEN, ENVELOPE, IDENTITY, MESSAGE, ROOM_NAME

Message = dict[str, object]
"""A message to a client, before it becomes JSON."""

_PAYLOAD: Final = {"offer": "sdp", "answer": "sdp", "candidate": "candidate"}
"""The relayed message types, with the single field of each."""


class Role(StrEnum):
    """The side of a tunnel that a member is on. An original member does not state it."""

    SERVE = "serve"
    PROXY = "proxy"


class Code(StrEnum):
    """Why a message was rejected, as in ``error``."""

    INVALID_JSON = "invalid-json"
    UNKNOWN_TYPE = "unknown-type"
    ROOM_REQUIRED = "room-required"
    NOT_JOINED = "not-joined"
    ALREADY_JOINED = "already-joined"
    ROOM_FULL = "room-full"
    NO_SUCH_PEER = "no-such-peer"
    TOO_LARGE = "too-large"
    TOO_FAST = "too-fast"
    SERVER_FULL = "server-full"
    ADDRESS_LIMIT = "address-limit"
    NO_RELAY = "no-relay"
    RELAY_LIMIT = "relay-limit"
    ROOM_LIMIT = "room-limit"
    UNAVAILABLE = "unavailable"
    ACCESS_TOKEN = "access-token"
    DRAINING = "draining"


class Refused(Exception):
    """A message that is rejected. The client gets an error."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code

    @property
    def fatal(self) -> bool:
        """Whether its sender is cut off."""
        return self.code in (Code.TOO_LARGE, Code.TOO_FAST, Code.DRAINING)

    @property
    def message(self) -> Message:
        """The ``error`` message."""
        return {"type": "error", "message": str(self), "code": self.code.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """Join a room."""

    room: str = field(repr=False)
    role: Role | None = None
    instance: str | None = None
    token: str | None = field(default=None, repr=False)
    access: str | None = field(default=None, repr=False)
    """The access token for a private server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassOn:
    """Forward an offer, an answer or a candidate."""

    type: str
    text: str = field(repr=False)
    to: str | None = None
    """The target's peer id; None if the message has no target."""

    def message(self, sender: str) -> Message:
        """Return the message for the other member."""
        return {"type": self.type, "peerId": sender, _PAYLOAD[self.type]: self.text}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPipe:
    """Open a pipe to a member."""

    to: str


@dataclass(frozen=True, slots=True)
class AskIce:
    """Ask for the STUN and TURN servers again, since the credentials expire."""


@dataclass(frozen=True, slots=True)
class Bye:
    """Leave the room."""


Request = Join | PassOn | OpenPipe | AskIce | Bye


def too_large() -> Refused:
    """Return the rejection of a message that exceeds the limit."""
    return Refused(Code.TOO_LARGE, f"message too large (max {MESSAGE} bytes)")


def unknown_type() -> Refused:
    """Return the rejection of a message whose type means nothing here."""
    return Refused(Code.UNKNOWN_TYPE, "unknown message type")


def too_fast() -> Refused:
    """Return the rejection of a socket that exceeds `limits.Limits.rate`."""
    return Refused(Code.TOO_FAST, "too many messages")


def parse(text: str) -> Request:
    """Parse a client's message. Raises `Refused`."""
    values = _object(text)
    kind = values.get("type")
    if kind == "join":
        return _join(values)
    if kind == "bye":
        return Bye()
    if kind == "ice":
        return AskIce()
    if kind == "pipe":
        return OpenPipe(to=_text(values, "to", most=IDENTITY) or "")
    if not isinstance(kind, str) or kind not in _PAYLOAD:
        raise unknown_type()
    if len(text.encode()) > MESSAGE - ENVELOPE:
        raise too_large()
    return _relay(kind, values)


def encode(message: Message) -> str:
    """Return the JSON text. A relayed message never grows, except for the envelope."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def _object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):  # an integer with thousands of digits raises ValueError too
        raise Refused(Code.INVALID_JSON, "invalid JSON") from None
    if not isinstance(values, dict):
        raise Refused(Code.INVALID_JSON, "invalid JSON: not an object")
    return values


def _join(values: dict[str, Any]) -> Join:
    room = _text(values, "room", most=ROOM_NAME)
    if not room:
        raise Refused(Code.ROOM_REQUIRED, "room name required" + _too_long(values.get("room")))
    role = values.get("role")
    instance = _text(values, "instance", most=IDENTITY)
    return Join(
        room=room,
        role=Role(role) if role in ("serve", "proxy") else None,
        # Control characters would take six times as many bytes in the list that a newcomer gets.
        instance=instance if instance and instance.isprintable() else None,
        token=_text(values, "token", most=IDENTITY),
        access=_text(values, "access", most=ACCESS_TOKEN),
    )


def _too_long(room: object) -> str:
    return f" (max {ROOM_NAME} bytes)" if room and isinstance(room, str) else ""


def _relay(kind: str, values: dict[str, Any]) -> PassOn:
    text = _text(values, _PAYLOAD[kind], most=MESSAGE)
    if text is None:
        raise Refused(Code.INVALID_JSON, f"invalid JSON: {kind} without {_PAYLOAD[kind]}")
    addressed = values.get("to") is not None
    # A target that is not a text matches no member, instead of counting as missing.
    return PassOn(type=kind, text=text, to=(_text(values, "to", most=IDENTITY) or "") if addressed else None)


def _text(values: dict[str, Any], name: str, *, most: int) -> str | None:
    """Return a text of at most this many bytes; None if it is missing, or not Unicode (half a surrogate pair)."""
    value = values.get(name)
    if not isinstance(value, str):
        return None
    try:
        return value if len(value.encode()) <= most else None
    except UnicodeEncodeError:
        return None
