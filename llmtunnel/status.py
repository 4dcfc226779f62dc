"""What every view renders: frozen values, with no secret in them.

`Status` is the present; `Notice` is what just happened, one a line for ``--json``; `RequestRecord` is one finished
exchange.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import ClassVar

from .paths import Path


class Role(StrEnum):
    """Which side of the tunnel a peer is."""

    SERVE = "serve"
    PROXY = "proxy"

    @property
    def other(self) -> Role:
        """The role it talks to."""
        return Role.PROXY if self is Role.SERVE else Role.SERVE


class Phase(StrEnum):
    """How far a tunnel is."""

    STARTING = "starting"
    SIGNALING = "signaling"
    """Reaching the signal server."""
    WAITING = "waiting"
    """In the room, with nobody to talk to."""
    CONNECTING = "connecting"
    READY = "ready"
    """At least one peer is reached."""
    RECONNECTING = "reconnecting"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """One peer that is reached."""

    peer: str
    """A short name, made of its key's fingerprint: stable while its handle lives."""
    path: Path
    rtt: float | None = None
    """Round-trip time of the last ping, seconds."""
    since: float
    """Unix time."""
    version: str = "v1"
    """``v1`` for an original peer, ``v2`` where features beyond it were agreed."""
    fingerprint: str = ""
    """SHA-256 of the certificate that it showed, hexadecimal; empty where its channel has none."""
    address: str = ""
    """``host:port`` at the other end of the path; a relay's, where there is one."""
    authenticated: bool = False
    """It has proven that it holds the secret."""
    detail: str = ""
    """Why it is not on a better path, one line; empty where it is on the best."""
    requests: int = 0
    """Exchanges with it that ended."""
    active: int = 0
    """Exchanges with it under way."""
    bytes_up: int = 0
    bytes_down: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One exchange that ended, well or not."""

    method: str
    path: str
    """Without the query, which may hold a key."""
    status: int | None
    """None where no response head was seen."""
    bytes_up: int
    """Body bytes from client to upstream."""
    bytes_down: int
    first_byte_ms: float | None
    """From the request's head to the response's."""
    duration_ms: float
    error: str = ""
    """Why it did not end whole; empty where it did."""
    peer: str = ""
    started: float = 0.0
    """Unix time of the request's head."""
    model: str = ""
    """The model that answered, where the response is OpenAI's or Ollama's and says so."""
    tokens: int | None = None
    """Tokens of the answer, as the response counts them, or else its events; None where it is no such response."""
    tokens_per_second: float | None = None
    """From the first token to the last."""

    def __str__(self) -> str:
        error = f": {self.error}" if self.error else ""
        return (
            f"{self.method} {self.path} {self.status or '-'}, {self.bytes_up} bytes up, {self.bytes_down} down,"
            f" {self.duration_ms:.0f} ms{error}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRequest:
    """One exchange under way, at one moment."""

    method: str
    path: str
    """Without the query."""
    peer: str
    started: float
    """Unix time of the request's head."""
    status: int | None = None
    """None before the response's head."""
    first_byte_ms: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    model: str = ""
    tokens: int | None = None


class Health(StrEnum):
    """Whether the upstream answers."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamStatus:
    """The service behind serve, as last seen."""

    health: Health = Health.UNKNOWN
    models: tuple[str, ...] = ()
    """What it lists, in OpenAI's or Ollama's way; empty where it lists none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A tunnel at one moment."""

    role: Role
    phase: Phase = Phase.STARTING
    room: str = ""
    url: str = ""
    """Proxy: where it listens. Serve: the upstream's address."""
    detail: str = ""
    """One line on what is going on, or what is wrong."""
    peers: tuple[PeerStatus, ...] = ()
    requests: int = 0
    """Exchanges that ended."""
    active: int = 0
    """Exchanges under way."""
    bytes_up: int = 0
    """Body bytes from clients to the upstream, of exchanges that ended and that are under way."""
    bytes_down: int = 0
    signal: str = ""
    """The signal server's address."""
    secret: bool = False
    """Peers have to prove that they hold a secret."""
    upstream: UpstreamStatus | None = None
    """Serve: the service behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that happened; a subclass each, `event` is its name in ``--json``."""

    event: ClassVar[str] = ""
    time: float = field(default_factory=time.time)
    """Unix time, seconds."""

    def as_dict(self) -> dict[str, object]:
        """The JSON object of ``--json``: time, event, then the notice's own fields."""
        fields = asdict(self)
        return {"time": round(fields.pop("time"), 6), "event": self.event, **fields}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalConnected(Notice):
    """The signal server took us into the room."""

    event: ClassVar[str] = "signal-connected"
    signal: str
    room: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Notice):
    """Nobody to talk to is in the room."""

    event: ClassVar[str] = "waiting"
    room: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening(Notice):
    """The proxy accepts connections."""

    event: ClassVar[str] = "listening"
    url: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConnected(Notice):
    """A peer is reached."""

    event: ClassVar[str] = "peer-connected"
    peer: str
    path: Path
    version: str
    address: str = ""
    fingerprint: str = ""
    authenticated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Notice):
    """The tunnel works: the first peer is reached, or one is again."""

    event: ClassVar[str] = "ready"
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished(Notice):
    """An exchange ended."""

    event: ClassVar[str] = "request"
    record: RequestRecord

    def as_dict(self) -> dict[str, object]:
        """The record's fields, flat."""
        return {"time": round(self.time, 6), "event": self.event, **asdict(self.record)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended(Notice):
    """Nothing comes from a peer any more; requests under way wait for it."""

    event: ClassVar[str] = "suspended"
    peer: str
    reason: str
    path: Path
    """The one that has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Notice):
    """What goes on with a peer goes on where it was, or on a better path; nothing was lost."""

    event: ClassVar[str] = "resumed"
    peer: str
    path: Path
    gap_ms: float
    """For how long nothing was heard from it; 0 where it goes on without a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLostNotice(Notice):
    """A peer that was reached is gone, and what was under way with it has ended."""

    event: ClassVar[str] = "peer-lost"
    peer: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnecting(Notice):
    """Something is tried again: what, why and in how many seconds."""

    event: ClassVar[str] = "reconnecting"
    what: str
    reason: str
    delay: float
    hint: str = ""
    """What the user can do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorNotice(Notice):
    """Something went wrong that the user should know of; the tunnel goes on where it can."""

    event: ClassVar[str] = "error"
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Notice):
    """The tunnel is closed."""

    event: ClassVar[str] = "stopped"
    reason: str = ""
