"""HELLO and AGREE: version and features (README.md section 3)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..errors import ErrorCode, ProtocolError

PROTO: Final = "httptunnel"
VERSION: Final = 1
UNLIMITED: Final = 2**31 - 1
MIN_WINDOW: Final = 1024


class Feature(StrEnum):
    """What two peers may agree on beyond v1."""

    SSE = "sse"
    FIELDS = "fields"
    RESET = "reset"
    CREDIT = "credit"
    LENGTH = "length"
    INTERIM = "interim"
    UPGRADE = "upgrade"
    BUNDLE = "bundle"


Features = frozenset[Feature]
ALL_FEATURES: Final[Features] = frozenset(Feature)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What the proxy says first."""

    min_version: int = VERSION
    max_version: int = VERSION
    features: Features = ALL_FEATURES
    window: int = UNLIMITED
    agent: str = ""

    def encode(self) -> bytes:
        """The payload of HELLO."""
        return _dump(
            proto=PROTO,
            min_version=self.min_version,
            max_version=self.max_version,
            features=sorted(self.features),
            window=self.window,
            agent=self.agent,
        )

    @classmethod
    def decode(cls, payload: bytes) -> Hello:
        """Raises `ProtocolError`, of code VERSION where the protocol is another."""
        values = _load(payload)
        if values.get("proto") != PROTO:
            raise ProtocolError("version: The peer speaks another protocol.", code=ErrorCode.VERSION)
        return cls(
            min_version=_integer(values, "min_version"),
            max_version=_integer(values, "max_version"),
            features=_features(values),
            window=_window(values),
            agent=_agent(values),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Agree:
    """What serve answers."""

    version: int = VERSION
    features: Features = frozenset()
    window: int = UNLIMITED
    streams: int = UNLIMITED
    agent: str = ""

    def encode(self) -> bytes:
        """The payload of AGREE."""
        return _dump(
            version=self.version,
            features=sorted(self.features),
            window=self.window,
            streams=self.streams,
            agent=self.agent,
        )

    @classmethod
    def decode(cls, payload: bytes) -> Agree:
        """Raises `ProtocolError`."""
        values = _load(payload)
        return cls(
            version=_integer(values, "version"),
            features=_features(values),
            window=_window(values),
            streams=_integer(values, "streams", default=UNLIMITED, least=1),
            agent=_agent(values),
        )


def check_version(hello: Hello) -> None:
    """Raises `ProtocolError` of code VERSION where the peer's range leaves ours out."""
    if not hello.min_version <= VERSION <= hello.max_version:
        theirs = f"{hello.min_version} to {hello.max_version}"
        raise ProtocolError(f"version: The proxy speaks {theirs}, this serve {VERSION}.", code=ErrorCode.VERSION)


def _dump(**values: object) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode()


def _load(payload: bytes) -> dict[str, object]:
    try:
        values = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError("A hello is not JSON.") from exc
    if not isinstance(values, dict):
        raise ProtocolError("A hello is not a JSON object.")
    return values


def _integer(values: dict[str, object], name: str, *, default: int | None = None, least: int = 0) -> int:
    value = values.get(name, default)
    if type(value) is not int or not least <= value <= UNLIMITED:
        raise ProtocolError(f"A hello's {name} is not a fitting integer.")
    return value


def _window(values: dict[str, object]) -> int:
    return _integer(values, "window", default=UNLIMITED, least=MIN_WINDOW)


def _features(values: dict[str, object]) -> Features:
    names = values.get("features", [])
    if not isinstance(names, list):
        raise ProtocolError("A hello's features are not a list.")
    return frozenset(feature for feature in Feature if feature.value in names)


def _agent(values: dict[str, object]) -> str:
    agent = values.get("agent", "")
    return agent[:100] if isinstance(agent, str) and agent.isprintable() else ""
