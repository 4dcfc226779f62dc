"""HELLO and AGREE: version, features and the members that features need (README.md section 3)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from ..errors import ErrorCode, ProtocolError
from .frames import ALL_FEATURES as ALL_FEATURES
from .frames import Feature as Feature
from .frames import Features as Features

PROTO: Final = "httptunnel"
VERSION: Final = 1
UNLIMITED: Final = 2**31 - 1
MIN_WINDOW: Final = 1024
MAX_LANES: Final = 16
"""Maximum number of lanes that two peers may agree on. Each costs both of them a data channel."""
MAX_COUNT: Final = 2**53 - 1
"""The highest integer that every JSON reader accepts."""
_TCP: Final = "tcp"
_KEY: Final = re.compile(r"04[0-9a-f]{128}")
"""A point of P-256, uncompressed: 65 bytes in hexadecimal."""
_HEX: Final = re.compile(r"(?:[0-9a-f]{2}){1,64}")
"""Bytes for authentication and resuming, in hexadecimal: 64 at most. A share of SPAKE2 has 33."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthOffer:
    """The proxy's authentication in HELLO."""

    share: bytes
    ticket: bytes | None = None
    """The id of the proxy's ticket, if it has one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthAnswer:
    """Serve's authentication in AGREE: a share, or a nonce if serve knows the ticket."""

    share: bytes | None = None
    nonce: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeOffer:
    """The proxy's request in HELLO to resume a session."""

    session: bytes
    """The session's id."""
    received: tuple[int, ...]
    """How many of serve's frames have arrived, for each lane."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The proxy's first message."""

    min_version: int = VERSION
    max_version: int = VERSION
    features: Features = ALL_FEATURES
    window: int = UNLIMITED
    agent: str = ""
    auth: AuthOffer | None = None
    resume: ResumeOffer | None = None
    tcp_only: bool = False
    """Whether only local TCP may carry streams."""
    lanes: int = 1
    """Maximum number of lanes that the proxy accepts."""
    identity: bytes | None = None
    """The proxy's public key, 65 bytes, if it identifies itself by one."""

    def encode(self) -> bytes:
        """Return the payload of HELLO."""
        return _dump(
            proto=PROTO,
            min_version=self.min_version,
            max_version=self.max_version,
            features=sorted(self.features),
            window=self.window,
            agent=self.agent,
            auth=self.auth and _hex(share=self.auth.share, ticket=self.auth.ticket),
            resume=self.resume and _hex(session=self.resume.session) | _counts(self.resume.received),
            path=_TCP if self.tcp_only else None,
            lanes=self.lanes if self.lanes > 1 else None,
            identity=self.identity and self.identity.hex(),
        )

    @classmethod
    def decode(cls, payload: bytes) -> Hello:
        """Return the HELLO in a payload. Raises `ProtocolError`, of code VERSION if the protocol is another."""
        values = _load(payload)
        if values.get("proto") != PROTO:
            raise ProtocolError("version: The peer speaks another protocol.", code=ErrorCode.VERSION)
        return cls(
            min_version=_integer(values, "min_version"),
            max_version=_integer(values, "max_version"),
            features=_features(values),
            window=_window(values),
            agent=_agent(values),
            auth=_offer(values),
            resume=_resume_offer(values),
            tcp_only=values.get("path") == _TCP,
            lanes=_lanes(values),
            identity=_key(values),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Agree:
    """Serve's answer to HELLO."""

    version: int = VERSION
    features: Features = frozenset()
    window: int = UNLIMITED
    streams: int = UNLIMITED
    agent: str = ""
    auth: AuthAnswer | None = None
    session: bytes | None = None
    """The id of the session that continues or begins."""
    received: tuple[int, ...] | None = None
    """How many of the proxy's frames have arrived, by lane; None if the session that it asked for does not continue."""
    tcp_only: bool = False
    """As in `Hello`."""
    once: bool = False
    """Whether the secret admits one proxy only. The proxy that proves itself now uses it up."""
    lanes: int = 1
    """The number of lanes of the session."""

    def encode(self) -> bytes:
        """Return the payload of AGREE."""
        return _dump(
            version=self.version,
            features=sorted(self.features),
            window=self.window,
            streams=self.streams,
            agent=self.agent,
            auth=self.auth and _hex(share=self.auth.share, nonce=self.auth.nonce),
            session=self.session and self.session.hex(),
            resume=None if self.received is None else _counts(self.received),
            path=_TCP if self.tcp_only else None,
            once=self.once or None,
            lanes=self.lanes if self.lanes > 1 else None,
        )

    @classmethod
    def decode(cls, payload: bytes) -> Agree:
        """Return the AGREE in a payload. Raises `ProtocolError`."""
        values = _load(payload)
        return cls(
            version=_integer(values, "version"),
            features=_features(values),
            window=_window(values),
            streams=_integer(values, "streams", default=UNLIMITED, least=1),
            agent=_agent(values),
            auth=_answer(values),
            session=_bytes(values, "session"),
            received=_received(values),
            tcp_only=values.get("path") == _TCP,
            once=values.get("once") is True,
            lanes=_lanes(values),
        )


def check_version(hello: Hello) -> None:
    """Check that the peer's range includes our version. Raises `ProtocolError` of code VERSION if it does not."""
    if not hello.min_version <= VERSION <= hello.max_version:
        theirs = f"{hello.min_version} to {hello.max_version}"
        raise ProtocolError(f"version: The proxy speaks {theirs}, this serve {VERSION}.", code=ErrorCode.VERSION)


def _dump(**values: object) -> bytes:
    present = {name: value for name, value in values.items() if value is not None}
    return json.dumps(present, separators=(",", ":")).encode()


def _hex(**values: bytes | None) -> dict[str, str]:
    return {name: value.hex() for name, value in values.items() if value is not None}


def _load(payload: bytes) -> dict[str, object]:
    try:
        values = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError("A hello is not JSON.") from exc
    if not isinstance(values, dict):
        raise ProtocolError("A hello is not a JSON object.")
    return values


def _integer(
    values: dict[str, object], name: str, *, default: int | None = None, least: int = 0, most: int = UNLIMITED
) -> int:
    value = values.get(name, default)
    if type(value) is not int or not least <= value <= most:
        raise ProtocolError(f"A hello's {name} is not a fitting integer.")
    return value


def _window(values: dict[str, object]) -> int:
    return _integer(values, "window", default=UNLIMITED, least=MIN_WINDOW)


def _features(values: dict[str, object]) -> Features:
    names = values.get("features", [])
    if not isinstance(names, list):
        raise ProtocolError("A hello's features are not a list.")
    return frozenset(feature for feature in Feature if feature.value in names)


def _offer(values: dict[str, object]) -> AuthOffer | None:
    auth = _object(values, "auth")
    if auth is None:
        return None
    share = _bytes(auth, "share")
    if share is None:
        raise ProtocolError("A hello's auth has no share.")
    return AuthOffer(share=share, ticket=_bytes(auth, "ticket"))


def _answer(values: dict[str, object]) -> AuthAnswer | None:
    auth = _object(values, "auth")
    if auth is None:
        return None
    answer = AuthAnswer(share=_bytes(auth, "share"), nonce=_bytes(auth, "nonce"))
    if (answer.share is None) is (answer.nonce is None):
        raise ProtocolError("A hello's auth has not one of share and nonce.")
    return answer


def _resume_offer(values: dict[str, object]) -> ResumeOffer | None:
    resume = _object(values, "resume")
    if resume is None:
        return None
    session = _bytes(resume, "session")
    if session is None:
        raise ProtocolError("A hello's resume has no session.")
    return ResumeOffer(session=session, received=_read_counts(resume))


def _received(values: dict[str, object]) -> tuple[int, ...] | None:
    resume = _object(values, "resume")
    return None if resume is None else _read_counts(resume)


def _counts(received: tuple[int, ...]) -> dict[str, object]:
    """An integer where there is one lane, as before there were more."""
    return {"received": received[0] if len(received) == 1 else list(received)}


def _read_counts(resume: dict[str, object]) -> tuple[int, ...]:
    counts = resume.get("received")
    if not isinstance(counts, list):
        counts = [counts]
    if not 1 <= len(counts) <= MAX_LANES:
        raise ProtocolError("A hello's received has not one count for each lane.")
    return tuple(_integer({"received": count}, "received", most=MAX_COUNT) for count in counts)


def _lanes(values: dict[str, object]) -> int:
    return _integer(values, "lanes", default=1, least=1)


def _object(values: dict[str, object], name: str) -> dict[str, object] | None:
    """Return the JSON object in this member, or None if the member is absent."""
    value = values.get(name)
    if value is not None and not isinstance(value, dict):
        raise ProtocolError(f"A hello's {name} is not an object.")
    return value


def _bytes(values: dict[str, object], name: str) -> bytes | None:
    """Return the bytes that this member has in hexadecimal, or None if the member is absent."""
    text = values.get(name)
    if text is None:
        return None
    if not isinstance(text, str) or not _HEX.fullmatch(text):
        raise ProtocolError(f"A hello's {name} is not hexadecimal, or too long.")
    return bytes.fromhex(text)


def _key(values: dict[str, object]) -> bytes | None:
    """Return the public key in ``identity``, or None if the member is absent."""
    text = values.get("identity")
    if text is None:
        return None
    if not isinstance(text, str) or not _KEY.fullmatch(text):
        raise ProtocolError("A hello's identity is not a public key in hexadecimal.")
    return bytes.fromhex(text)


def _agent(values: dict[str, object]) -> str:
    agent = values.get("agent", "")
    return agent[:100] if isinstance(agent, str) and agent.isprintable() else ""
