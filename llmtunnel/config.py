"""Every setting and its default: frozen values, no I/O.

Settings have two forms. `ServeOptions` and `ProxyOptions` hold what a user gives. Each field declares a flag, a
variable, a parameter of the Python functions, and their help (see `option`). `ServeSettings` and `ProxySettings`
hold what a tunnel needs, validated. An option's field sets the field of the same name in the settings or in their
parts. `from_env` reads ``os.environ``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Final, Self, TypeVar, cast

from .errors import SettingError
from .invite import DEFAULT_SIGNAL, Invite, check_signal
from .listener import ListenerPolicy
from .meeting import Meeting
from .option import ACCESS, EXPOSURE, MEETING, NETWORK, count, duration, option, options, seconds, size, unless_empty
from .paths import AUTO, PATHS, Path, carriers, kind, tried
from .policy import READY, Policy
from .upstream import NAMED, Upstream
from .weblink import SIGNAL, page_of, page_url, reaches, read_page

DEFAULT_STUN: Final = "stun:stun.l.google.com:19302"
DEFAULT_PORT: Final = 8000
DEFAULT_LISTEN: Final = f"127.0.0.1:{DEFAULT_PORT}"
DEFAULT_RESUME_FOR: Final = 60.0
DEFAULT_BENCH: Final = 12.0
"""Default duration of ``llmtunnel bench``, in seconds."""
ANY_UPSTREAM: Final = "ollama"
"""The upstream that serve assumes until it has found a model server."""

_PAGE_HINT: Final = (
    "Use a signal server at wss://. Or run `llmtunnel web` on each machine with a browser, and use"
    " --web http://localhost:8001 here."
)
# The URLs of RFC 7064 and RFC 7065 that transport/ice.py accepts: it does not accept IPv6 literals.
_STUN_URL: Final = re.compile(r"stun:[^?:/@\s]+(:\d{1,5})?")
_TURN_URL: Final = re.compile(r"turns?:[^?:/@\s]+(:\d{1,5})?(\?transport=(udp|tcp))?")

KIB: Final = 1024
MIB: Final = 1024 * KIB

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Every timeout, in seconds."""

    signal: float = 10.0
    """Maximum wait for the signal server: for the WebSocket to open, and for the reply to our join."""
    handshake: float = 20.0
    """Maximum time for HELLO and AGREE once the channel is open. The original allows 300 s; here a user is waiting."""
    connect: float = 30.0
    """Maximum time from the offer to the open channel."""
    answer: float = 10.0
    """Maximum time from the offer to its answer."""
    offer: float = 12.0
    """Maximum wait for an offer from a peer in the room. The original gathers candidates for 5 s before it offers."""
    ping_busy: float = 1.0
    """Silence after which the peer is pinged while streams are open."""
    dead_busy: float = 3.0
    """Silence after which the peer counts as dead while streams are open."""
    ping_idle: float = 5.0
    """Silence after which the peer is pinged while no stream is open. Short enough to keep a NAT mapping open."""
    dead_idle: float = 15.0
    """Silence after which the peer counts as dead while no stream is open."""
    dead_suspect: float = 1.0
    """Maximum wait for a pong after the signal server reported that the peer left."""
    upstream_connect: float = 10.0
    """Maximum time for TCP and TLS to the upstream. Its response has no timeout: a model may think for minutes."""
    wait_for_peer: float = 5.0
    """Maximum time that a request at the proxy waits for a peer before the client gets 503."""
    stream: float = 30.0
    """Maximum time that a request waits for one of `Limits.streams` before the client gets 503. Clients and load
    balancers time out after 60 s or more, so they still receive the 503."""
    idle_client: float = 75.0
    """Idle time after which a client's keep-alive connection closes."""
    client_head: float = 30.0
    """Maximum time for a client to finish a request head that it has begun."""
    half_closed: float = 0.5
    """Time after which a client that closed its sending half counts as disconnected, unless it has read bytes since.
    A client that disconnected and one that still waits for its response look the same until something is sent."""
    stalled: float = 300.0
    """Time without a read after which a connection that only waits to be closed is cut off. A media player pauses for
    a minute or two; nginx cuts off after 60 s."""
    linger: float = 5.0
    """Maximum time to keep reading from a rejected client that is still sending, so that it can read the response."""
    idle_upstream: float = 4.0
    """Idle time after which an upstream connection closes. Servers close theirs after 5 s or more (uvicorn: 5 s)."""
    close: float = 2.0
    """Maximum time for an orderly close, all steps together."""
    retry_first: float = 0.25
    """First delay before a retry; it doubles up to ``retry_max``."""
    retry_max: float = 3.0
    """Maximum delay before a retry."""
    retry_waiting: float = 0.5
    """Maximum delay before a retry of the signal server while streams wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A bound for everything that a peer or a client can fill."""

    window: int = 512 * KIB
    """Initial credit per stream and direction, in bytes: 10 MB/s at a round trip of 50 ms."""
    window_most: int = 4 * MIB
    """Maximum credit per stream and direction, in bytes, if the reader keeps up and the path is long: 80 MB/s at 50 ms.
    All streams of a peer together grow by an eighth of ``held`` at most, since readers that stop leave that unread."""
    streams: int = 512
    """Open streams that serve accepts from one peer."""
    journal: int = 4 * MIB
    """Unacknowledged bytes kept per direction, to be sent again on the next channel: 80 MB/s at a round trip of
    50 ms."""
    lanes: int = 8
    """Lanes of a session, 1 to 16. A packet lost on one delays none of the others."""
    v1_backlog: int = 8 * MIB
    """Unread bytes of one v1 stream, which has no credit, before it ends with an error."""
    head: int = 32 * KIB
    """Size of a request or response head on the HTTP side, in bytes (nginx: 32 KiB, Node: 16 KiB)."""
    fields: int = 200
    """Header fields in a request head (nginx has no limit, Apache 100, Go about 1 MB)."""
    response_fields: int = 1000
    """Header fields in a response head (curl: 5,000)."""
    held: int = 128 * MIB
    """Bytes that one peer can make serve hold: received heads and bodies that are unread, and responses that the peer
    does not take. It equals the full windows of 256 streams. Beyond it, new requests are rejected, and the stream that
    exceeds it ends."""
    held_in_all: int = 256 * MIB
    """Bytes that all peers together can make serve hold. Half is divided between the peers, and the rest goes to any
    peer that needs it. A proxy has one peer, which can make it hold all of this."""
    control: int = 4096
    """Control frames (credit, reset, pong) waiting for the channel before the peer is cut off."""
    read_ahead: int = 64 * KIB
    """Bytes read from a client before the tunnel takes them; asyncio reads up to 256 KiB more at once."""
    clients: int = 1024
    """Client connections of the proxy; fewer if the process has few descriptors (see `Clients`)."""
    signal_message: int = 64 * KIB
    """Size of a signalling message, in bytes. An SDP with many candidates has 5 KiB."""
    idle_upstream: int = 128
    """Idle upstream connections kept for the next requests of their clients, one per client. The pool of an SDK has up
    to 100 connections, a browser has 6 per site. Beyond this, the one that has been kept longest closes."""
    peers: int = 16
    """Proxies that serve talks to at the same time."""
    strangers: int = 16
    """Connections in progress to peers that have not sent a hello or proven themselves. Each costs sockets and about
    100 KB. When one more starts, the oldest is given up."""
    candidates: int = 48
    """Remote ICE candidates accepted from one peer: half of them host addresses (a machine with many container networks
    has 20), a quarter each server-reflexive (STUN) and relayed (TURN)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IceServers:
    """STUN and TURN servers, as URLs of RFC 7064 and RFC 7065."""

    stun: tuple[str, ...] = (DEFAULT_STUN,)
    turn: tuple[str, ...] = ()
    """Tried in parallel; the first one that works is used. All of them get the same user name and password."""
    turn_user: str | None = field(default=None, repr=False)
    turn_pass: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for url in self.stun:
            if not _STUN_URL.fullmatch(url):
                raise SettingError(f"--stun: not a STUN server's address: {url!r}.", hint="Use stun:host:port.")
        for url in self.turn:
            if not _TURN_URL.fullmatch(url):
                raise SettingError(f"--turn: not a TURN server's address: {url!r}.", hint="Use turn:host:port.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings that serve and proxy share."""

    room: str
    secret: str | None = field(default=None, repr=False)
    """The secret that both sides prove they hold. None: the room's name is enough, as in the original."""
    signal: str = DEFAULT_SIGNAL
    signal_token: str | None = field(default=None, repr=False)
    """Access token of a private signal server."""
    ice: IceServers = IceServers()
    no_signal_ice: bool = False
    """Use no STUN and TURN servers that the signal server hands out."""
    loopback: bool = False
    """Offer 127.0.0.1 as a candidate too, as the demo does. A machine without another address always does."""
    resume_for: float = DEFAULT_RESUME_FOR
    """Seconds that requests wait for a silent peer; 0: they end at once."""
    path: str = AUTO
    """One of `PATHS`. ``auto`` tries all paths and uses the best one; the others use only that path."""
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not self.resume_for >= 0:
            raise SettingError(
                f"--resume-for: not a number of seconds: {self.resume_for:g}.",
                hint="Use for example 60; 0 turns it off.",
            )
        if not _has_bytes(self.room, 256):
            raise SettingError("The room's name must be 1 to 256 bytes of UTF-8.", hint="Use --room NAME.")
        if self.secret is not None and not _has_bytes(self.secret, 1024):
            raise SettingError(
                "The secret must be 1 to 1024 bytes of UTF-8.", hint="Use --secret TEXT, or let serve make an invite."
            )
        check_signal(self.signal)
        if self.signal_token is not None and not _is_token(self.signal_token):
            raise SettingError(
                "--signal-token: a token is 1 to 256 bytes of printable text without spaces.",
                hint="Use the token that the signal server's operator has given you.",
            )
        self._check_path()

    def _check_path(self) -> None:
        if self.path not in PATHS:
            raise SettingError(f"--path: unknown value {self.path!r}.", hint=f"Use one of {', '.join(PATHS)}.")
        if self.path == AUTO:
            return
        needed = kind(Path(self.path))
        if needed.needs_turn and not self.ice.turn and self.no_signal_ice:
            raise SettingError(
                f"--path {self.path} needs a TURN server.",
                hint="Use --turn URL, or remove --no-signal-ice if the signal server hands one out.",
            )
        if needed.needs_secret and self.secret is None:
            raise SettingError(
                f"--path {self.path} needs a secret, so that each side can prove its identity.",
                hint="Use an invite, or --secret TEXT.",
            )
        if needed.needs_resume and self.resume_for == 0:
            raise SettingError(
                f"--path {self.path} needs --resume-for above 0: the two sides meet over another path first.",
                hint="Remove --resume-for, or give it more than 0.",
            )

    @property
    def carriers(self) -> frozenset[Path]:
        """The kinds of path that may carry streams."""
        return carriers(self.path)

    @property
    def tried(self) -> frozenset[Path]:
        """The kinds of path to open. Those that may not carry streams only introduce the peers to each other."""
        return tried(self.path)


class OnDisconnect(StrEnum):
    """What happens to a request whose client has disconnected."""

    CANCEL = "cancel"
    """The connection to the upstream closes, so a model stops generating."""
    DRAIN = "drain"
    """The upstream finishes the request, and its response is discarded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What serve lets proxies do. Each limit applies per proxy; None: no limit."""

    policy: Policy = field(default_factory=Policy)
    max_requests: int | None = None
    """Requests at the same time."""
    max_requests_per_minute: int | None = None
    """Requests in any 60 seconds."""
    max_body: int | None = None
    """Size of one request's body, in bytes."""
    on_disconnect: str = OnDisconnect.CANCEL
    """One of `OnDisconnect`."""

    def __post_init__(self) -> None:
        limits = {"--max-requests": self.max_requests, "--max-requests-per-minute": self.max_requests_per_minute}
        for flag, limit in limits.items():
            if limit is not None and limit < 1:
                raise SettingError(f"{flag}: {limit} would reject every request.", hint="Use 1 or more.")
        if self.max_body is not None and self.max_body < 0:
            raise SettingError(f"--max-body: not a size: {self.max_body}.", hint="Use for example 10MB.")
        if self.on_disconnect not in tuple(OnDisconnect):
            raise SettingError(
                f"--on-disconnect: unknown value {self.on_disconnect!r}.",
                hint=f"Use {' or '.join(map(repr, map(str, OnDisconnect)))}.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings(Settings):
    """Settings of serve."""

    upstream: Upstream
    seek: bool = False
    """Look for a model server on this machine until one answers. It then replaces ``upstream``."""
    advertise: str = "/"
    """Path prefix that clients use and the upstream does not know."""
    exposure: Exposure = Exposure()
    expires: float | None = None
    """Seconds from the start after which serve admits no new proxy."""
    once: bool = False
    """Admit only the first proxy."""
    no_bench: bool = False
    """Do not answer the requests with which ``llmtunnel bench`` measures the tunnel."""
    invite: Invite | None = None
    """The invite that room and secret come from."""
    web: str | None = None
    """URL of the page of a link for browsers, or ``signal`` for the page of the signal server. None: no link."""

    def __post_init__(self) -> None:
        # By name: a class with slots is made anew, and a bare super() would know the old one.
        Settings.__post_init__(self)
        if self.expires is not None and not 0 < self.expires < math.inf:
            raise SettingError(
                f"--expires: not a time from now: {self.expires:g} s.", hint="Use for example 30m or 8h."
            )
        if self.secret is None and (self.expires is not None or self.once):
            raise SettingError(
                "--expires and --once need a secret: without one, serve cannot recognise a proxy that comes back.",
                hint="Use an invite, or --room with --secret.",
            )
        if self.web is not None:
            self._check_web()

    def _check_web(self) -> None:
        if self.invite is None:
            raise SettingError(
                "--web: a link contains a code, and this serve has none.", hint="Remove --room and --secret, or --web."
            )
        try:
            page = self.page
        except ValueError as exc:
            raise SettingError(f"--web: {exc}.", hint=_PAGE_HINT) from exc
        if page is not None and not reaches(page, self.signal):
            raise SettingError(
                f"--web: a page over https cannot use the signal server {self.signal}, which has no TLS.",
                hint=_PAGE_HINT,
            )

    @property
    def page(self) -> str | None:
        """URL of the page of a link for browsers. Raises `ValueError` if a browser would not run the page there."""
        if self.web is None:
            return None
        return page_of(self.signal) if self.web == SIGNAL else page_url(self.web)

    def found(self, upstream: Upstream) -> Self:
        """Return a copy with the upstream that was found. It gets the header fields that were given for it.

        Parameters:
            upstream: The upstream that was found.
        """
        return replace(self, upstream=replace(upstream, fields=self.upstream.fields), seek=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings(Settings):
    """Settings of proxy."""

    listen: str = DEFAULT_LISTEN
    """``host:port``, a port, or a host for `DEFAULT_PORT`. Port 0 takes a free port."""
    listener: ListenerPolicy = field(default_factory=ListenerPolicy)
    """Rules for who may use the listener."""
    keepalive: float | None = None
    """Seconds of silence of the upstream after which a client that waits for an event stream gets a comment; None:
    never. Its status is then 200, and a later error is sent as an event."""
    bench: bool = False
    """Measure the tunnel: serve itself answers every request, and the upstream gets none."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.keepalive is not None and self.keepalive <= 0:
            raise SettingError(
                f"--keepalive: must be above 0 seconds, got {self.keepalive:g}.", hint="Use for example 15."
            )


@options
class ReachOptions:
    """How to reach the other side: the options that doctor shares with serve and proxy."""

    invite: str | Invite | None = option(
        "the same as CODE; - reads it from standard input",
        python="The code that serve shows, in any spelling, or an `Invite`.",
        takes=(Invite,),
        default=None,
        kw_only=False,
        metavar="CODE",
        group=MEETING,
        env=True,
        file="file that contains the code",
    )
    room: str | None = option(
        "the room's name; without a secret, anyone who knows it can join",
        default=None,
        metavar="NAME",
        group=MEETING,
        env=True,
    )
    secret: str | None = option(
        "the secret that both sides must have; - reads it from standard input",
        python="The secret. Both sides must have the same one.",
        default=None,
        metavar="TEXT",
        group=MEETING,
        env=True,
        file="file that contains the secret",
    )
    signal: str | None = option(
        "the signal server's URL",
        python=f"The signal server's URL. None: the one that the invite names, or {DEFAULT_SIGNAL}.",
        default=None,
        metavar="URL",
        group=MEETING,
        env=True,
        default_help=f"the invite's, or {DEFAULT_SIGNAL}",
    )
    signal_token: str | None = option(
        "access token of a private signal server. Other users of this machine can read a command line (ps): the"
        " environment and a file are safer",
        python="Access token of a private signal server.",
        default=None,
        metavar="TOKEN",
        group=MEETING,
        env=True,
        file="file that contains the token",
    )
    stun: tuple[str, ...] = option(
        "URL of a STUN server, repeatable; none: use no STUN",
        python="URLs of STUN servers. (): use no STUN.",
        default=(DEFAULT_STUN,),
        metavar="URL",
        group=NETWORK,
        empty="none",
    )
    turn: tuple[str, ...] = option(
        "URL of a TURN server, repeatable: turn:host:port, turns: for TLS, ?transport=tcp",
        python="URLs of TURN servers: turn:host:port, turns: for TLS, ?transport=tcp. All get the same user name and"
        " password.",
        default=(),
        metavar="URL",
        group=NETWORK,
        env=True,
    )
    turn_user: str | None = option(
        "user name for the TURN servers",
        python="User name for the TURN servers.",
        default=None,
        metavar="NAME",
        group=NETWORK,
        env=True,
    )
    turn_pass: str | None = option(
        "password for the TURN servers",
        python="Password for the TURN servers.",
        default=None,
        metavar="TEXT",
        group=NETWORK,
        env=True,
    )

    no_signal_ice: bool = option(
        "do not use the STUN and TURN servers that the signal server hands out",
        python="Do not use the STUN and TURN servers that the signal server hands out.",
        default=False,
        group=NETWORK,
        env=True,
    )

    def meeting(self) -> Meeting | None:
        """Return where the two sides meet, or None if the options do not say. Raises `SettingError`."""
        return Meeting.given(invite=self.invite, room=self.room, secret=self.secret, signal=self.signal)

    @property
    def ice(self) -> IceServers:
        """Return the STUN and TURN servers. Raises `SettingError`."""
        return _made(IceServers, self)


@options
class PathOptions(ReachOptions):
    """The same options, and the path to use."""

    path: str = option(
        "how to reach the other side. auto (the default) tries all paths at once and uses the best one that works."
        " The others use one path: direct (UDP), turn (a TURN server), relay (the signal server's relay), or tcp"
        " (both sides on one network)",
        python="How to reach the other side. auto tries all paths at once and uses the best one that works. The others"
        " use one path: direct (UDP), turn (a TURN server), relay (the signal server's relay), or tcp (both sides"
        " on one network).",
        default=AUTO,
        choices=PATHS,
        group=NETWORK,
        env=True,
    )


@options
class TunnelOptions(PathOptions):
    """Options that serve and proxy share."""

    resume_for: float = option(
        "how long running requests wait for a peer that has lost its connection; 0: they fail at once",
        python="How long running requests wait for a peer that has lost its connection, in seconds. 0: they fail at"
        " once. The smaller value of the two sides applies.",
        default=DEFAULT_RESUME_FOR,
        metavar="SECONDS",
        group=NETWORK,
        read=seconds,
    )


@options
class ServeOptions(TunnelOptions):
    """Options of serve."""

    invite: str | Invite | None = option(
        "use this invite instead of a new one; - reads it from standard input",
        python="Invite to use instead of a new one: its code, or an `Invite`.",
        takes=(Invite,),
        default=None,
        metavar="CODE",
        group=MEETING,
        env=True,
        file="file that contains the code",
    )
    expires: float | str | None = option(
        "admit no new proxy after this time: 90s, 30m, 8h, 1d",
        python="Time after which no new proxy is admitted: seconds from now, or a string such as '8h'.",
        default=None,
        metavar="TIME",
        group=MEETING,
        read=duration,
    )
    once: bool = option("admit only the first proxy", default=False, group=MEETING)
    web: str | bool | None = option(
        "also show a link with the code, and its QR code: a browser that opens it needs no llmtunnel. The page is the"
        " signal server's, or the one at URL. Whoever serves the page could read what passes through it",
        python="Page for a link with the code, `Server.web_url`: a browser that opens it needs no llmtunnel. True uses"
        " the signal server's page; a string is the URL of another one. Whoever serves the page could read what passes"
        " through it.",
        takes=(bool,),
        default=None,
        metavar="URL",
        group=MEETING,
        env=True,
        alone=SIGNAL,
        read=read_page,
        default_help="no link",
    )
    upstream: str | int | Upstream | None = option(
        "the same as UPSTREAM",
        python="The service to share: a URL, host:port, a port, a name such as ollama, or an `Upstream`. None: the"
        " model server that answers on this machine.",
        port=True,
        takes=(Upstream,),
        default=None,
        kw_only=False,
        metavar="URL",
        env=True,
        suggest=tuple(NAMED),
        read=unless_empty,
    )
    advertise: str = option("path prefix to remove from requests", default="/", metavar="PATH")
    upstream_ca: str | None = option(
        "PEM file with the certificates to trust for an https upstream", default=None, metavar="FILE"
    )
    upstream_insecure: bool = option("accept any certificate from an https upstream", default=False)
    upstream_headers: tuple[str, ...] = option(
        "header field that serve adds to each request, repeatable; @FILE reads one field per line from a file",
        python="Header fields that serve adds to each request, each as 'Name: value'. '@FILE' reads one field per line"
        " from a file.",
        default=(),
        flag="--upstream-header",
        metavar="'NAME: VALUE'",
        env=True,
        lines=True,
    )
    policy: str | None = option(
        f"{', '.join(READY)}. all (the default) allows every request; openai and ollama allow only inference and the"
        " list of models",
        python="all allows every request. openai and ollama allow only inference and the list of models.",
        default=None,
        metavar="NAME",
        group=EXPOSURE,
        suggest=tuple(READY),
    )
    allow: tuple[str, ...] = option(
        "allow requests that match; repeatable",
        python="Patterns of requests to allow, such as '/v1/*' or 'GET /v1/models'. With at least one, serve rejects a"
        " request that matches neither a pattern nor the policy.",
        default=(),
        metavar="PATTERN",
        group=EXPOSURE,
    )
    deny: tuple[str, ...] = option(
        "reject requests that match; repeatable",
        python="Patterns of requests to reject, whatever else matches.",
        default=(),
        metavar="PATTERN",
        group=EXPOSURE,
    )
    max_requests: int | None = option(
        "maximum number of simultaneous requests per proxy", default=None, metavar="N", group=EXPOSURE, read=count
    )
    max_requests_per_minute: int | None = option(
        "maximum number of requests per proxy in any 60 seconds", default=None, metavar="N", group=EXPOSURE, read=count
    )
    on_disconnect: str = option(
        "what to do when a client disconnects: cancel (the default) cancels its request at the service at once; drain"
        " lets the service finish it, for services that do not tolerate aborted requests",
        python="What to do when a client disconnects. cancel cancels its request at the service at once. drain lets the"
        " service finish it, for services that do not tolerate aborted requests.",
        default=OnDisconnect.CANCEL.value,
        choices=tuple(map(str, OnDisconnect)),
        group=EXPOSURE,
    )
    max_body: int | str | None = option(
        "maximum size of a request body: bytes, 10MB (10^7), 10MiB (10 * 2^20)",
        python="Maximum size of a request body: bytes, or a string such as '10MB'.",
        default=None,
        metavar="SIZE",
        group=EXPOSURE,
        read=size,
    )
    no_bench: bool = option(
        "do not answer `llmtunnel bench`, which measures the tunnel from the proxy's side",
        python="Do not answer `llmtunnel.bench`, which measures the tunnel from the proxy's side.",
        default=False,
        group=EXPOSURE,
        env=True,
    )

    def settings(self, meeting: Meeting) -> ServeSettings:
        """Return the settings of a serve in that room. Without an upstream, it looks for one. Raises `SettingError`."""
        return _made(
            ServeSettings,
            self,
            meeting,
            ice=self.ice,
            upstream=self._upstream(),
            seek=self.upstream is None,
            web=(SIGNAL if self.web else None) if isinstance(self.web, bool) else self.web,
            exposure=_made(Exposure, self, policy=Policy.parse(ready=self.policy, allow=self.allow, deny=self.deny)),
        )

    def _upstream(self) -> Upstream:
        headers = self.upstream_headers
        if self.upstream is None:
            return Upstream.parse(ANY_UPSTREAM, headers=headers)
        if not isinstance(self.upstream, Upstream):
            return Upstream.parse(
                str(self.upstream), ca_file=self.upstream_ca, insecure=self.upstream_insecure, headers=headers
            )
        if self.upstream_ca is not None or self.upstream_insecure or headers:
            raise SettingError(
                "upstream_ca, upstream_insecure and upstream_headers cannot be combined with an Upstream object.",
                hint="Remove upstream_ca, upstream_insecure and upstream_headers, and make the Upstream with them.",
            )
        return self.upstream


@options
class ProxyOptions(TunnelOptions):
    """Options of proxy."""

    listen: str | int = option(
        "where to listen: host:port, a port, or a host for port 8000. Port 0 takes a free port; [::]:PORT listens on"
        " every address, IPv4 too",
        port=True,
        default=DEFAULT_LISTEN,
        metavar="ADDRESS",
        env=True,
        read=unless_empty,
    )
    wait_for_peer: float = option(
        "how long a request waits for serve before the client gets 503",
        python="How long a request waits for serve before the client gets 503, in seconds.",
        default=Timeouts().wait_for_peer,
        metavar="SECONDS",
        read=seconds,
    )
    keepalive: float | None = option(
        "until the model's first token, send a comment to a client of an event stream each time the model has been"
        " silent this long. The client's status is then 200, and a later error is sent as an event",
        python="Until the model's first token, clients of an event stream get a comment each time the model has been"
        " silent this long, in seconds. Their status is then 200, and a later error is sent as an event. None: never.",
        default=None,
        metavar="SECONDS",
        read=seconds,
        default_help="never",
    )
    allow_hosts: tuple[str, ...] = option(
        "further host name that clients use for the proxy, such as host.docker.internal; repeatable. Names ending in"
        " .localhost need no flag",
        python="Further host names that clients use for the proxy, such as host.docker.internal. Names ending in"
        " .localhost need not be listed.",
        default=(),
        flag="--allow-host",
        metavar="NAME",
        group=ACCESS,
    )
    allow_origins: tuple[str, ...] = option(
        "origin of pages that may use the proxy, repeatable: https://app.example, or what a desktop app sends"
        " (app://name, vscode-webview://id, file://). null allows pages opened from a file, and also any web site",
        python="Origins of pages that may use the proxy: https://app.example, or what a desktop app sends (app://name,"
        " vscode-webview://id, file://). null allows pages opened from a file, and also any web site.",
        default=(),
        flag="--allow-origin",
        metavar="ORIGIN",
        group=ACCESS,
    )
    api_key: str | None = option(
        "key that clients must send, as Authorization: Bearer or X-Api-Key. Required to --listen on a non-loopback"
        " address. Other users of this machine can read a command line (ps): the environment and a file are safer",
        python="Key that clients must send, as Authorization: Bearer or X-Api-Key. Required to listen on a non-loopback"
        " address.",
        default=None,
        metavar="KEY",
        group=ACCESS,
        env=True,
        file="file that contains the key",
    )
    no_auth: bool = option("allow a non-loopback --listen address without a key", default=False, group=ACCESS)

    def settings(self, meeting: Meeting) -> ProxySettings:
        """Return the settings of a proxy in that room. Raises `SettingError`."""
        return _made(
            ProxySettings,
            self,
            meeting,
            ice=self.ice,
            listen=str(self.listen),
            timeouts=Timeouts(wait_for_peer=self.wait_for_peer),
            listener=_made(ListenerPolicy, self),
        )


@options
class BenchOptions(PathOptions):
    """Options of bench."""

    duration: float = option(
        "how long to measure after the connection is established, approximately; 2 to 60",
        python="How long to measure after the connection is established, approximately, in seconds; 2 to 60.",
        default=DEFAULT_BENCH,
        metavar="SECONDS",
        read=seconds,
    )

    def settings(self, meeting: Meeting, *, key: str) -> ProxySettings:
        """Return the settings of the proxy that measures the tunnel to a serve. Raises `SettingError`.

        ``key``: key that its listener requires, so that nobody else on this machine can use it.
        """
        self.check()
        listener = ListenerPolicy(api_key=key)
        return _made(ProxySettings, self, meeting, ice=self.ice, listen="127.0.0.1:0", listener=listener, bench=True)

    def check(self) -> None:
        """Raise `SettingError` if the duration is invalid."""
        if not 2 <= self.duration <= 60:
            raise SettingError(f"--duration: not from 2 to 60 seconds: {self.duration:g}.", hint="Use for example 12.")


def _made(kind: Callable[..., T], *sources: object, **more: object) -> T:
    """Make a dataclass value. Each field comes from ``more``, or from the last source that has an attribute for it."""
    names = [each.name for each in fields(cast(Any, kind)) if each.name not in more]
    found = {name: getattr(source, name) for source in sources for name in names if hasattr(source, name)}
    return kind(**found, **more)


def _has_bytes(text: str, most: int) -> bool:
    try:
        return 0 < len(text.encode()) <= most
    except UnicodeEncodeError:  # the command line had bytes that are not UTF-8, which JSON cannot carry
        return False


def _is_token(text: str) -> bool:
    return _has_bytes(text, 256) and text.isprintable() and " " not in text


def from_env(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the settings in the environment by flag name: ``TUNNEL_TURN_USER`` as ``turn_user``.

    Empty variables count as not set. ``LLMTUNNEL_LOG`` has no ``TUNNEL_`` prefix; it becomes ``log_level``.
    """
    environ = os.environ if environ is None else environ
    prefix = "TUNNEL_"
    found = {
        name.removeprefix(prefix).lower(): value for name, value in environ.items() if name.startswith(prefix) and value
    }
    if environ.get("LLMTUNNEL_LOG"):
        found["log_level"] = environ["LLMTUNNEL_LOG"]
    return found
