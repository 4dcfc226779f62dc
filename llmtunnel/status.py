"""Values that every view renders: frozen, and without secrets.

`Status` is the present state. `Notice` is an event, one per line with ``--json``. `RequestRecord` is one finished
request.
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
        """The role of the other side."""
        return Role.PROXY if self is Role.SERVE else Role.SERVE


class Phase(StrEnum):
    """The state of a tunnel, from start to end."""

    STARTING = "starting"
    SIGNALING = "signaling"
    """Connecting to the signal server."""
    WAITING = "waiting"
    """In the room, without a peer."""
    CONNECTING = "connecting"
    READY = "ready"
    """At least one peer is connected."""
    RECONNECTING = "reconnecting"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether the phase is final."""
        return self in (Phase.STOPPED, Phase.FAILED)


class TurnSource(StrEnum):
    """Who has named a TURN server."""

    SETTINGS = "settings"
    """The user, by ``--turn``."""
    SIGNAL = "signal"
    """The signal server, which hands it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """One connected peer."""

    peer: str
    """Short name, derived from its key's fingerprint: constant while the peer's handle exists."""
    path: Path
    """How the peer is connected."""
    rtt: float | None = None
    """Round-trip time of the last ping, in seconds; None before the first pong."""
    since: float
    """When it connected, as Unix time."""
    version: str = "v1"
    """``v1`` for a peer of the original tunnel; ``v2`` if features beyond v1 were agreed."""
    fingerprint: str = ""
    """SHA-256 of the certificate that the peer presented, or of a page's key (protocol/README.md, section 9), in
    hexadecimal; empty if it has neither."""
    agent: str = ""
    """What the peer says that it is, such as ``llmtunnel page (Chrome)``; empty if it says nothing."""
    address: str = ""
    """``host:port`` at the other end of the path; the relay's, if there is one."""
    authenticated: bool = False
    """Whether the peer has proven that it holds the secret."""
    detail: str = ""
    """Why the peer is not on a better path, in one line; empty on the best path."""
    requests: int = 0
    """Finished requests."""
    active: int = 0
    """Running requests."""
    bytes_up: int = 0
    """Body bytes from clients to the upstream."""
    bytes_down: int = 0
    """Body bytes from the upstream to clients."""


Fields = tuple[tuple[str, str | None], ...]
"""Header fields in order: each name, with its value if it is one of the few that are shown, else None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of a long operation, as the response itself reports it: Ollama's pull of a model, for example."""

    done: int
    """Bytes done."""
    total: int
    """Bytes in total, as far as known."""
    what: str = ""
    """Current step, in the server's words: ``pulling 8934d96d3f08``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is known about a request, running or finished. Every ``…_ms`` is in milliseconds from the request's head."""

    id: int = 0
    """Number of the request, counted from 1 in this tunnel."""
    method: str
    """Method of the request."""
    path: str
    """Path without the query, which may contain a key; at most 1000 characters."""
    peer: str = ""
    """Short name of the peer."""
    started: float = 0.0
    """Unix time of the request's head."""
    status: int | None = None
    """HTTP status; None until a response head arrives."""
    queued_ms: float | None = None
    """When the request was forwarded: by a proxy to serve, by serve to the upstream."""
    first_byte_ms: float | None = None
    """When the response's head arrived."""
    first_body_ms: float | None = None
    """When the first byte of the response's body arrived."""
    first_token_ms: float | None = None
    """When the first token arrived; None if the response is not a model's stream."""
    bytes_up: int = 0
    """Body bytes from the client to the upstream."""
    bytes_down: int = 0
    """Body bytes from the upstream to the client."""
    total_up: int | None = None
    """Size of the whole request body, in bytes; None if the head does not say."""
    total_down: int | None = None
    """Size of the whole response body, in bytes; None if the head does not say."""
    progress: Progress | None = None
    """Progress that the response reports; None if it reports none."""
    model: str = ""
    """The model that answers, if the response has OpenAI's or Ollama's format and names it."""
    tokens: int | None = None
    """Tokens of the response: as it counts them, otherwise its events. None for any other response."""
    request_fields: Fields = ()
    response_fields: Fields = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveRequest(Request):
    """A running request at one moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord(Request):
    """A finished request, successful or not."""

    duration_ms: float
    """When the request ended."""
    error: str = ""
    """Why the request was incomplete, or why a complete pull of a model failed; empty if it succeeded."""
    tokens_per_second: float | None = None
    """Rate from the first token to the last; None if there are too few."""

    @property
    def failed(self) -> bool:
        """Whether the request was incomplete, or has a status of 400 or more."""
        return bool(self.error) or self.status is None or self.status >= 400

    def as_dict(self) -> dict[str, str | float | None]:
        """Return a row of `Tunnel.requests`, which describes the columns. It has no header fields."""
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
"""Keys of `RequestRecord.as_dict`, in this order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Percentiles of a time over the last finished requests, in milliseconds."""

    p50: float
    p95: float
    count: int
    """Number of requests."""

    @classmethod
    def of(cls, values: Iterable[float]) -> Percentiles | None:
        """Return the percentiles of some values by nearest rank, or None if there are none."""
        ranked = sorted(values)
        if not ranked:
            return None
        p50, p95 = (ranked[ceil(len(ranked) * share) - 1] for share in (0.5, 0.95))
        return cls(p50=p50, p95=p95, count=len(ranked))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A tunnel's figures at one moment. All counts are totals since its start."""

    time: float
    """Unix time."""
    rtt: float | None
    """Round-trip time in seconds, as the mean over all peers; None if no peer has one."""
    active: int
    """Running requests."""
    bytes_up: int
    """Body bytes from clients to the upstream."""
    bytes_down: int
    """Body bytes from the upstream to clients."""
    tokens: int
    """Tokens of all responses."""


class Health(StrEnum):
    """Whether the upstream answers."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamStatus:
    """State of the service behind serve, as of the last check."""

    health: Health = Health.UNKNOWN
    models: tuple[str, ...] = ()
    """Models that it lists, in OpenAI's or Ollama's format; empty if it lists none."""
    detail: str = ""
    """Why it does not answer, and what happens next; empty while it answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """State of a tunnel at one moment."""

    role: Role
    phase: Phase = Phase.STARTING
    room: str = ""
    url: str = ""
    """Proxy: the address where it listens. Serve: the upstream's address."""
    detail: str = ""
    """What the tunnel is doing, or what is wrong, in one line."""
    peers: tuple[PeerStatus, ...] = ()
    requests: int = 0
    """Finished requests."""
    active: int = 0
    """Running requests."""
    bytes_up: int = 0
    """Body bytes from clients to the upstream, of finished and running requests."""
    bytes_down: int = 0
    """Body bytes from the upstream to clients, of finished and running requests."""
    failed: int = 0
    """Requests that were incomplete, or have a status of 400 or more."""
    tokens: int = 0
    """Tokens of all responses, finished and running."""
    first_byte: Percentiles | None = None
    """Time to the response's head, over the last finished requests; None before the first."""
    first_token: Percentiles | None = None
    """Time to the first token, over the last responses that a model streamed; None before the first."""
    bench_requests: int = 0
    """Serve: requests of ``llmtunnel bench``, which measured the tunnel. They count in no other figure."""
    bench_bytes: int = 0
    """Body bytes of those requests, in both directions."""
    signal: str = ""
    """URL of the signal server."""
    turn: tuple[str, ...] = ()
    """URLs of the TURN servers that a new connection uses."""
    turn_from: TurnSource | None = None
    """Who has named them; None if there are none."""
    secret: bool = False
    """Whether peers must prove that they hold a secret."""
    web: str = ""
    """Serve: URL of the page for browsers, without the code, or why there is no link; empty if none was asked for."""
    upstream: UpstreamStatus | None = None
    """Serve: state of the service behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """An event. Each kind has a subclass, whose `event` is its name in ``--json``."""

    event: ClassVar[str] = ""
    time: float = field(default_factory=time.time)
    """Unix time, seconds."""

    def as_dict(self) -> dict[str, object]:
        """Return the JSON object of ``--json``: time, event, then the notice's own fields."""
        fields = asdict(self)
        return {"time": round(fields.pop("time"), 6), "event": self.event, **fields}


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalConnected(Notice):
    """The tunnel has joined its room on the signal server."""

    event: ClassVar[str] = "signal-connected"
    signal: str
    """URL of the signal server."""
    room: str
    """Name of the room."""
    turn: tuple[str, ...] = ()
    """URLs of the TURN servers that a new connection uses."""
    turn_from: TurnSource | None = None
    """Who has named them: ``settings`` (the user) or ``signal`` (the signal server); null if there are none."""
    web: bool = False
    """Whether the signal server serves a page for browsers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Notice):
    """The other side is not in the room yet."""

    event: ClassVar[str] = "waiting"
    room: str
    """Name of the room."""
    role: Role
    """The side that waits: ``serve`` or ``proxy``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening(Notice):
    """The proxy, the toy model server or the server of the page accepts connections."""

    event: ClassVar[str] = "listening"
    url: str
    """Where clients reach it: ``http://127.0.0.1:8000``."""
    addresses: tuple[str, ...] = ()
    """Every address where it listens, as ``host:port``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConnected(Notice):
    """A peer is connected."""

    event: ClassVar[str] = "peer-connected"
    peer: str
    """Short name, derived from its fingerprint."""
    path: Path
    """How it is connected: ``direct``, ``turn``, ``relay`` or ``tcp``."""
    version: str
    """``v1`` for a peer of the original tunnel, else ``v2``."""
    address: str = ""
    """``host:port`` at the other end of the path; the relay's, if there is one."""
    fingerprint: str = ""
    """SHA-256 of its certificate, or of a page's key, in hexadecimal."""
    agent: str = ""
    """What the peer says that it is, such as ``llmtunnel page (Chrome)``; empty if it says nothing."""
    authenticated: bool = False
    """Whether the peer has proven that it holds the secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Notice):
    """The tunnel works: the first peer has connected, or a peer has connected again."""

    event: ClassVar[str] = "ready"
    url: str
    """Proxy: the address where it listens. Serve: the upstream's address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished(Notice):
    """A request has ended. Its fields are those of `RequestRecord`, without the header fields."""

    event: ClassVar[str] = "request"
    record: RequestRecord

    def as_dict(self) -> dict[str, object]:
        """Return the record's fields as one flat object."""
        return {"time": round(self.time, 6), "event": self.event, **self.record.as_dict()}


@dataclass(frozen=True, slots=True, kw_only=True)
class TotalsNotice(Notice):
    """Totals since the start: once a minute if a request has ended meanwhile, and before ``stopped``."""

    event: ClassVar[str] = "totals"
    requests: int
    """Finished requests."""
    failed: int
    """Finished requests that were incomplete, or have a status of 400 or more."""
    active: int
    """Running requests."""
    bytes_up: int
    """Body bytes from clients to the upstream."""
    bytes_down: int
    """Body bytes from the upstream to clients."""
    tokens: int
    """Tokens of all responses."""
    first_byte: Percentiles | None
    """Time to the response's head over the last requests: ``p50`` and ``p95`` in milliseconds, and ``count``."""
    first_token: Percentiles | None
    """The same for the time to the first token."""
    bench_requests: int = 0
    """Serve: requests of ``llmtunnel bench``, which measured the tunnel. They count in no other figure."""
    bench_bytes: int = 0
    """Body bytes of those requests, in both directions."""

    @classmethod
    def of(cls, status: Status) -> TotalsNotice:
        """Return the totals of a status."""
        return cls(**{each.name: getattr(status, each.name) for each in fields(cls) if each.name != "time"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended(Notice):
    """A peer is silent. Running requests wait for it, up to ``--resume-for``."""

    event: ClassVar[str] = "suspended"
    peer: str
    """Its short name."""
    reason: str
    """Why the path failed."""
    path: Path
    """The path that has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Notice):
    """Requests with a peer continue where they stopped, after a silence or on a better path. No data was lost."""

    event: ClassVar[str] = "resumed"
    peer: str
    """Its short name."""
    path: Path
    """The path that is in use now."""
    gap_ms: float
    """Milliseconds of silence; 0 for a switch to another path without a pause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLostNotice(Notice):
    """A peer has disconnected, and its running requests have failed."""

    event: ClassVar[str] = "peer-lost"
    peer: str
    """Its short name."""
    reason: str
    """Why it disconnected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnecting(Notice):
    """A connection has failed, and will be retried."""

    event: ClassVar[str] = "reconnecting"
    what: str
    """What the connection leads to: the signal server, or a peer."""
    reason: str
    """Why it failed."""
    delay: float
    """Seconds until the next attempt."""
    hint: str = ""
    """What the user can do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorNotice(Notice):
    """Something failed that the user should know about. The tunnel continues if it can."""

    event: ClassVar[str] = "error"
    message: str
    """What failed."""
    hint: str = ""
    """What the user can do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Notice):
    """The tunnel has stopped."""

    event: ClassVar[str] = "stopped"
    reason: str = ""
    """Why it stopped; empty if it was closed on request."""
