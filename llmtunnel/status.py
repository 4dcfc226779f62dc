"""What every view renders: frozen values, with no secret in them.

`Status` is the present; `Notice` is what just happened, one a line for ``--json``; `RequestRecord` is one finished
exchange.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from math import ceil
from typing import ClassVar, Final

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

    @property
    def ended(self) -> bool:
        """Whether no other phase comes after it."""
        return self in (Phase.STOPPED, Phase.FAILED)


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


Fields = tuple[tuple[str, str | None], ...]
"""Header fields in order: the name, and the value where it is one of the few that are shown; None for all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How much of a long piece of work is done, as the answer itself tells: Ollama's pull of a model, for example."""

    done: int
    """Bytes."""
    total: int
    """Bytes, of what is known so far."""
    what: str = ""
    """What is being done, in the server's words: ``pulling 8934d96d3f08``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is known of one exchange at any time. All ``…_ms`` count milliseconds from the request's head."""

    id: int = 0
    """Counts the requests of this tunnel from 1."""
    method: str
    """The request's method."""
    path: str
    """Without the query, which may hold a key; at most 1000 characters."""
    peer: str = ""
    """The peer's short name."""
    started: float = 0.0
    """Unix time of the request's head."""
    status: int | None = None
    """None where no response head was seen (yet)."""
    queued_ms: float | None = None
    """When the request was passed on: to serve by a proxy, to the upstream by serve."""
    first_byte_ms: float | None = None
    """When the response's head came."""
    first_body_ms: float | None = None
    """When the first byte of its body came."""
    first_token_ms: float | None = None
    """When the first token came; None where the response is not a model's stream."""
    bytes_up: int = 0
    """Body bytes from client to upstream."""
    bytes_down: int = 0
    """Body bytes from upstream to client."""
    total_up: int | None = None
    """Bytes that the whole request's body has; None where its head does not tell."""
    total_down: int | None = None
    """Bytes that the whole response's body has; None where its head does not tell."""
    progress: Progress | None = None
    """What the response itself tells of long work; None where it tells nothing."""
    model: str = ""
    """The model that answers, where the response is OpenAI's or Ollama's and says so."""
    tokens: int | None = None
    """Tokens of the answer, as the response counts them, or else its events; None where it is no such response."""
    request_fields: Fields = ()
    response_fields: Fields = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRequest(Request):
    """One exchange under way, at one moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord(Request):
    """One exchange that ended, well or not."""

    duration_ms: float
    """When it ended."""
    error: str = ""
    """Why it did not end whole, or why the pull of a model failed that did; empty if all went well."""
    tokens_per_second: float | None = None
    """From the first token to the last; None if there is no such rate."""

    @property
    def failed(self) -> bool:
        """It did not end whole, or with a status of 400 and more."""
        return bool(self.error) or self.status is None or self.status >= 400

    def as_dict(self) -> dict[str, str | float | None]:
        """A row of `Tunnel.requests`, which describes the columns: what has one value, without header fields."""
        return {name: getattr(self, name) for name in COLUMNS}

    def __str__(self) -> str:
        error = f": {self.error}" if self.error else ""
        return (
            f"{self.method} {self.path} {self.status or '-'}, {self.bytes_up} bytes up, {self.bytes_down} down,"
            f" {self.duration_ms:.0f} ms{error}"
        )


COLUMNS: Final = (
    *("id", "started", "method", "path", "status", "error", "peer", "model", "tokens", "tokens_per_second"),
    *("queued_ms", "first_byte_ms", "first_body_ms", "first_token_ms", "duration_ms"),
    *("bytes_up", "bytes_down", "total_up", "total_down"),
)
"""Of `RequestRecord.as_dict`, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """How a time is spread over the last requests that ended, in milliseconds."""

    p50: float
    p95: float
    count: int
    """Requests that it is made of."""

    @classmethod
    def of(cls, values: Iterable[float]) -> Percentiles | None:
        """Of some values: each is one of them (nearest rank). None where there are none."""
        ranked = sorted(values)
        if not ranked:
            return None
        p50, p95 = (ranked[ceil(len(ranked) * share) - 1] for share in (0.5, 0.95))
        return cls(p50=p50, p95=p95, count=len(ranked))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A tunnel's figures at one moment; those without a unit of time count from its start."""

    time: float
    """Unix time."""
    rtt: float | None
    """Round-trip time in seconds, the mean of all peers'; None where no peer has one."""
    active: int
    bytes_up: int
    bytes_down: int
    tokens: int


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
    detail: str = ""
    """Why it does not answer, and what is done about it; empty where it answers."""


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
    failed: int = 0
    """Exchanges that did not end whole, or with a status of 400 and more."""
    tokens: int = 0
    """Tokens of all answers, of those under way too."""
    first_byte: Percentiles | None = None
    """Time to the response's head, over the last requests that ended; None before the first."""
    first_token: Percentiles | None = None
    """Time to the first token, of those that a model answered by a stream."""
    bench_requests: int = 0
    """Serve: exchanges that measured the tunnel, by ``llmtunnel bench``. They count in nothing else here."""
    bench_bytes: int = 0
    """Body bytes of those, both ways."""
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
    """The tunnel has joined its room on the signal server."""

    event: ClassVar[str] = "signal-connected"
    signal: str
    """The signal server's URL."""
    room: str
    """The room's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Notice):
    """The other side is not in the room yet."""

    event: ClassVar[str] = "waiting"
    room: str
    """The room's name."""
    role: Role
    """The side that waits: ``serve`` or ``proxy``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening(Notice):
    """The proxy, or the toy model server, accepts connections."""

    event: ClassVar[str] = "listening"
    url: str
    """Where clients reach it: ``http://127.0.0.1:8000``."""
    addresses: tuple[str, ...] = ()
    """Every address on which it listens, as ``host:port``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConnected(Notice):
    """A peer is connected."""

    event: ClassVar[str] = "peer-connected"
    peer: str
    """Its short name, made of the fingerprint."""
    path: Path
    """How it is connected: ``direct``, ``turn``, ``relay`` or ``tcp``."""
    version: str
    """``v1`` for a peer of the original tunnel, else ``v2``."""
    address: str = ""
    """``host:port`` at the other end of the path; the relay's, where there is one."""
    fingerprint: str = ""
    """SHA-256 of its certificate, hexadecimal."""
    authenticated: bool = False
    """Whether it has proven that it holds the secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Notice):
    """The tunnel works: the first peer is connected, or one is connected again."""

    event: ClassVar[str] = "ready"
    url: str
    """Proxy: where it listens. Serve: the upstream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished(Notice):
    """A request has ended. Its fields are those of `RequestRecord`, without the header fields."""

    event: ClassVar[str] = "request"
    record: RequestRecord

    def as_dict(self) -> dict[str, object]:
        """The record's fields, flat."""
        return {"time": round(self.time, 6), "event": self.event, **self.record.as_dict()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalsNotice(Notice):
    """What has passed since the start: once a minute if a request has ended meanwhile, and before ``stopped``."""

    event: ClassVar[str] = "totals"
    requests: int
    """Requests that have ended."""
    failed: int
    """Those of them that broke off, or ended with a status of 400 or more."""
    active: int
    """Requests under way."""
    bytes_up: int
    """Body bytes from clients to the upstream."""
    bytes_down: int
    """Body bytes from the upstream to clients."""
    tokens: int
    """Tokens of all answers."""
    first_byte: Percentiles | None
    """Time to the response's head, over the last requests: ``p50`` and ``p95`` in milliseconds, and their ``count``."""
    first_token: Percentiles | None
    """The same for the time to the first token."""
    bench_requests: int = 0
    """Serve: requests that measured the tunnel (`llmtunnel bench`), which count in nothing else."""
    bench_bytes: int = 0
    """Body bytes of those, both ways."""

    @classmethod
    def of(cls, status: Status) -> TotalsNotice:
        """As a status has them."""
        return cls(**{each.name: getattr(status, each.name) for each in fields(cls) if each.name != "time"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended(Notice):
    """A peer is silent. Requests under way wait for it, for as long as ``--resume-for`` says."""

    event: ClassVar[str] = "suspended"
    peer: str
    """Its short name."""
    reason: str
    """What happened to the path."""
    path: Path
    """The path that has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Notice):
    """Requests with a peer continue where they were, after a silence or on a better path. Nothing was lost."""

    event: ClassVar[str] = "resumed"
    peer: str
    """Its short name."""
    path: Path
    """The path that is used now."""
    gap_ms: float
    """Milliseconds of silence; 0 for a move to another path without a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLostNotice(Notice):
    """A peer is gone, and requests under way with it have ended with an error."""

    event: ClassVar[str] = "peer-lost"
    peer: str
    """Its short name."""
    reason: str
    """Why it is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnecting(Notice):
    """A connection has failed and will be tried again."""

    event: ClassVar[str] = "reconnecting"
    what: str
    """Whose connection: the signal server's, or a peer's."""
    reason: str
    """Why it failed."""
    delay: float
    """Seconds until the next attempt."""
    hint: str = ""
    """What the user can do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorNotice(Notice):
    """Something went wrong that the user should know of. The tunnel continues where it can."""

    event: ClassVar[str] = "error"
    message: str
    """What failed."""
    hint: str = ""
    """What the user can do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Notice):
    """The tunnel is closed."""

    event: ClassVar[str] = "stopped"
    reason: str = ""
    """Why; empty if it was closed on request."""
