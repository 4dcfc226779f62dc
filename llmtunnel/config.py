"""Every setting and its default: frozen values, no I/O.

Two forms. `ServeOptions` and `ProxyOptions` are what a user gives, flat: each field declares a flag, a variable, a
parameter of Python's functions and their help (see `option`). `ServeSettings` and `ProxySettings` are what a tunnel
needs, checked. A field of the options reaches the one of the same name in the settings or in their parts.
`from_env` reads ``os.environ``.
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

DEFAULT_STUN: Final = "stun:stun.l.google.com:19302"
DEFAULT_PORT: Final = 8000
DEFAULT_LISTEN: Final = f"127.0.0.1:{DEFAULT_PORT}"
DEFAULT_RESUME_FOR: Final = 60.0
DEFAULT_BENCH: Final = 12.0
"""Seconds that ``llmtunnel bench`` measures."""
ANY_UPSTREAM: Final = "ollama"
"""The upstream of a serve that has to look for one, until it has found it."""

# What transport/ice.py takes of RFC 7064 and RFC 7065: no IPv6 literals.
_STUN_URL: Final = re.compile(r"stun:[^?:/@\s]+(:\d{1,5})?")
_TURN_URL: Final = re.compile(r"turns?:[^?:/@\s]+(:\d{1,5})?(\?transport=(udp|tcp))?")

KIB: Final = 1024
MIB: Final = 1024 * KIB

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Every wait that has a limit, in seconds."""

    signal: float = 10.0
    """The signal server's answers: to the WebSocket, and to our join."""
    handshake: float = 20.0
    """HELLO and AGREE, once the channel is open. The original allows 300; a human is waiting here."""
    connect: float = 30.0
    """Offer to open channel."""
    answer: float = 10.0
    """Offer sent to answer received."""
    offer: float = 12.0
    """Somebody is in the room to an offer of theirs. The original gathers candidates for 5 s before it offers."""
    ping_busy: float = 1.0
    """Silence from the peer after which it is pinged while streams are open."""
    dead_busy: float = 3.0
    """Silence from the peer after which it is dead while streams are open."""
    ping_idle: float = 5.0
    """The same two while nothing is in flight; frequent enough to hold a NAT's mapping open."""
    dead_idle: float = 15.0
    dead_suspect: float = 1.0
    """The signal server said that the peer left: a ping must be answered within this, or it is dead."""
    upstream_connect: float = 10.0
    """TCP and TLS to the upstream. There is no limit on its answer: a model may think for minutes."""
    wait_for_peer: float = 5.0
    """How long a request at the proxy waits for a peer before it gets 503."""
    stream: float = 30.0
    """How long a request waits for one of `Limits.streams` to end before it gets 503. Clients and load balancers give
    up after 60 s and more, so that they still hear why."""
    idle_client: float = 75.0
    """A client's keep-alive connection with no request on it."""
    client_head: float = 30.0
    """A client that has begun a request's head must finish it within this."""
    half_closed: float = 0.5
    """A client that has ended its half is taken for gone after this, unless it has taken bytes since. A client that
    has left and one that still waits for its answer look the same until something is sent to them."""
    stalled: float = 300.0
    """A connection that only waits to be closed is cut off when its client has read nothing for this long. A media
    player pauses for a minute or two; nginx cuts off after 60 s."""
    linger: float = 5.0
    """A client that is told no while it still sends is read from for as long, so that it can read the answer."""
    idle_upstream: float = 4.0
    """An idle upstream connection is kept this long; servers close theirs after 5 s and more (uvicorn: 5 s)."""
    close: float = 2.0
    """An orderly close, all steps together."""
    retry_first: float = 0.25
    """First wait before trying again; doubles up to ``retry_max``."""
    retry_max: float = 3.0
    retry_waiting: float = 0.5
    """The longest wait before the signal server is tried again while streams wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Everything that a peer or a client can fill, with its bound."""

    window: int = 512 * KIB
    """Credit per stream and direction at first, bytes: at 50 ms round trip 10 MB/s."""
    window_most: int = 4 * MIB
    """The same where a reader keeps up and the path is long: 80 MB/s. All streams of a peer together grow by an eighth
    of ``held``, since that can be unread where readers stop."""
    streams: int = 512
    """Streams open at once that serve accepts from one peer."""
    journal: int = 4 * MIB
    """Bytes a direction that are kept until the peer has acknowledged them, to be sent again on the next channel: at
    50 ms round trip 80 MB/s."""
    v1_backlog: int = 8 * MIB
    """Unread bytes of one v1 stream (which has no credit) before it ends with an error."""
    head: int = 32 * KIB
    """A request's or response's head on the HTTP side, bytes (nginx: 32 KiB, Node: 16 KiB)."""
    fields: int = 200
    """Header fields in a request's head (nginx has no limit, Apache 100, Go about 1 MB)."""
    response_fields: int = 1000
    """Header fields in a response's head (curl: 5,000)."""
    held: int = 128 * MIB
    """Bytes that one peer may make serve hold in all: heads and bodies that have come and are not read, and answers
    that it does not take. Full windows of 256 streams; more is refused, or ends the stream that it is of."""
    held_in_all: int = 256 * MIB
    """The same of all peers; half of it is divided between them and the rest is for whoever needs it. A proxy, which
    has one peer, may hold as much for that."""
    control: int = 4096
    """Control frames (credit, reset, pong) that may wait for the channel before the peer is cut off."""
    read_ahead: int = 64 * KIB
    """Bytes read from a client before the tunnel has taken them; asyncio reads 256 KiB at once on top of that."""
    clients: int = 1024
    """Client connections of the proxy at once, and fewer where the process may have few descriptors (`Clients`)."""
    signal_message: int = 64 * KIB
    """A signalling message, bytes. An SDP with many candidates has 5 KiB."""
    idle_upstream: int = 128
    """Upstream connections kept for their clients' next requests, one a client at most: an SDK's pool has up to 100
    connections, a browser 6 for each site. Beyond, the one kept longest closes."""
    peers: int = 16
    """Proxies that serve talks to at once."""
    strangers: int = 16
    """Connections being made at once, to peers that have not said hello or proven themselves: each costs sockets and
    some 100 KB. For one more, the one that has been at it longest is given up."""
    candidates: int = 48
    """Remote ICE candidates taken from one peer: half of them addresses of its own (a machine with many container
    networks has 20), a quarter each found by STUN and of TURN servers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IceServers:
    """STUN and TURN servers, as URLs of RFC 7064 and RFC 7065."""

    stun: tuple[str, ...] = (DEFAULT_STUN,)
    turn: tuple[str, ...] = ()
    """Tried side by side: what works is taken. All with the same user."""
    turn_user: str | None = None
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
    """What serve and proxy have in common."""

    room: str
    secret: str | None = field(default=None, repr=False)
    """What both sides prove that they hold. None: the room's name is all that is asked for, as in the original."""
    signal: str = DEFAULT_SIGNAL
    ice: IceServers = IceServers()
    loopback: bool = False
    """Offer 127.0.0.1 as an address too, as the demo does; done anyway where there is no other."""
    resume_for: float = DEFAULT_RESUME_FOR
    """Seconds for which requests wait for a peer that is not heard any more; 0: they end at once."""
    path: str = AUTO
    """One of `PATHS`: ``auto`` tries all that there are, and takes the best; another one, that alone."""
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
        self._check_path()

    def _check_path(self) -> None:
        if self.path not in PATHS:
            raise SettingError(f"--path: unknown value {self.path!r}.", hint=f"Use one of {', '.join(PATHS)}.")
        if self.path == AUTO:
            return
        needed = kind(Path(self.path))
        if needed.needs_turn and not self.ice.turn:
            raise SettingError(f"--path {self.path} needs a TURN server.", hint="Use --turn URL.")
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
        """The kinds of path that are opened; those that may not carry streams only introduce the peers."""
        return tried(self.path)


class OnDisconnect(StrEnum):
    """What becomes of a request whose client has left."""

    CANCEL = "cancel"
    """The upstream's connection is closed: a model stops."""
    DRAIN = "drain"
    """It is let finish, and its answer dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """What serve lets proxies do. The limits are for each proxy by itself; None: no limit."""

    policy: Policy = field(default_factory=Policy)
    max_requests: int | None = None
    """At once."""
    max_requests_per_minute: int | None = None
    """In any 60 seconds."""
    max_body: int | None = None
    """Bytes of one request's body."""
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
    """What serve needs."""

    upstream: Upstream
    seek: bool = False
    """Look for a model server on this machine, until there is one: it takes the place of ``upstream`` then."""
    advertise: str = "/"
    """The path prefix that clients use and the upstream does not know."""
    exposure: Exposure = Exposure()
    expires: float | None = None
    """Seconds from the start after which nobody new is let in."""
    once: bool = False
    """The first proxy to come in is the only one."""
    no_bench: bool = False
    """Do not answer what ``llmtunnel bench`` asks to measure the tunnel."""
    invite: Invite | None = None
    """The invite that room and secret are from."""

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

    def found(self, upstream: Upstream) -> Self:
        """The same with the upstream that was looked for. It gets the header fields that were meant for it.

        Parameters:
            upstream: The upstream that was found.
        """
        return replace(self, upstream=replace(upstream, fields=self.upstream.fields), seek=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings(Settings):
    """What proxy needs."""

    listen: str = DEFAULT_LISTEN
    """``host:port``, a bare port, or a bare host for `DEFAULT_PORT`; port 0 takes a free one."""
    listener: ListenerPolicy = field(default_factory=ListenerPolicy)
    """Whom it answers."""
    keepalive: float | None = None
    """Seconds of an upstream's silence after which a client that waits for a stream of events gets a comment; None:
    never. Its status is 200 then, and an error that comes later is told as an event."""
    bench: bool = False
    """It measures the tunnel: serve itself answers every request, and the upstream gets none."""

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.keepalive is not None and self.keepalive <= 0:
            raise SettingError(
                f"--keepalive: must be above 0 seconds, got {self.keepalive:g}.", hint="Use for example 15."
            )


@options
class ReachOptions:
    """Where the two meet, and by which servers: what doctor looks at."""

    invite: str | Invite | None = option(
        "the same as CODE; - reads it",
        python="The code that serve shows, in any spelling, or an `Invite`.",
        takes=(Invite,),
        default=None,
        kw_only=False,
        metavar="CODE",
        group=MEETING,
        env=True,
        file="the same, from a file",
    )
    room: str | None = option(
        "the room's name; without a secret, anyone who knows it can join",
        default=None,
        metavar="NAME",
        group=MEETING,
        env=True,
    )
    secret: str | None = option(
        "the secret that both sides must have; - reads it",
        python="Secret that both sides need besides the room's name.",
        default=None,
        metavar="TEXT",
        group=MEETING,
        env=True,
        file="the same, from a file",
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
    stun: tuple[str, ...] = option(
        "STUN server, repeatable; none for no STUN",
        python="URLs of STUN servers. (): use none.",
        default=(DEFAULT_STUN,),
        metavar="URL",
        group=NETWORK,
        empty="none",
    )
    turn: tuple[str, ...] = option(
        "TURN server, repeatable: turn:host:port, turns: for TLS, ?transport=tcp",
        python="URLs of TURN servers: turn:host:port, turns: for TLS, ?transport=tcp. All have the same user.",
        default=(),
        metavar="URL",
        group=NETWORK,
        env=True,
    )
    turn_user: str | None = option(
        "user name at the TURN servers",
        python="The user name at the TURN servers.",
        default=None,
        metavar="NAME",
        group=NETWORK,
        env=True,
    )
    turn_pass: str | None = option(
        "password at the TURN servers",
        python="The password at the TURN servers.",
        default=None,
        metavar="TEXT",
        group=NETWORK,
        env=True,
    )

    def meeting(self) -> Meeting | None:
        """Where the two meet; None where these options do not say it. Raises `SettingError`."""
        return Meeting.given(invite=self.invite, room=self.room, secret=self.secret, signal=self.signal)

    @property
    def ice(self) -> IceServers:
        """The STUN and TURN servers. Raises `SettingError`."""
        return _made(IceServers, self)


@options
class PathOptions(ReachOptions):
    """The same, and by which path."""

    path: str = option(
        "how to reach the other side: auto tries all paths at once and uses the best that works (the default);"
        " the others use only that path: direct by UDP, a TURN server, the signal server's relay, or TCP within one"
        " network",
        python="How to reach the other side. auto tries all paths at once and uses the best one that works. The others"
        " use only that path: direct (UDP), turn (a TURN server), relay (the signal server's), tcp (if both sides are"
        " on one network).",
        default=AUTO,
        choices=PATHS,
        group=NETWORK,
        env=True,
    )


@options
class TunnelOptions(PathOptions):
    """What serve and proxy have in common."""

    resume_for: float = option(
        "how long running requests wait for a peer that has lost its connection; 0: not at all",
        python="Seconds for which running requests wait for a peer that has lost its connection; 0: they end at once."
        " The shorter time of both sides counts.",
        default=DEFAULT_RESUME_FOR,
        metavar="SECONDS",
        group=NETWORK,
        read=seconds,
    )


@options
class ServeOptions(TunnelOptions):
    """What a user gives to serve."""

    invite: str | Invite | None = option(
        "the invite to use, instead of a new one; - reads it",
        python="The invite to use, or its code, instead of a new one.",
        takes=(Invite,),
        default=None,
        metavar="CODE",
        group=MEETING,
        env=True,
        file="the same, from a file",
    )
    expires: float | str | None = option(
        "admit nobody new after this time: 90s, 30m, 8h, 1d",
        python="Seconds from now, or a text such as '8h', after which no new proxy is admitted.",
        default=None,
        metavar="TIME",
        group=MEETING,
        read=duration,
    )
    once: bool = option("admit nobody new after the first proxy", default=False, group=MEETING)
    upstream: str | int | Upstream | None = option(
        "the same as UPSTREAM",
        python="The service: a URL, host:port, a port, a name such as ollama, or an `Upstream`. None: the model server"
        " that answers on this machine.",
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
    upstream_ca: str | None = option("certificates to trust for an https upstream, PEM", default=None, metavar="FILE")
    upstream_insecure: bool = option("trust any certificate of an https upstream", default=False)
    upstream_headers: tuple[str, ...] = option(
        "a header that serve adds to each request, repeatable; @FILE: the lines of a file",
        python="Header fields to add to each request, each as 'Name: value'.",
        default=(),
        flag="--upstream-header",
        metavar="'NAME: VALUE'",
        env=True,
        lines=True,
    )
    policy: str | None = option(
        f"{', '.join(READY)}: everything (the default), or only inference and the list of models",
        python="all lets everything through. openai and ollama let only inference and the list of models through.",
        default=None,
        metavar="NAME",
        group=EXPOSURE,
        suggest=tuple(READY),
    )
    allow: tuple[str, ...] = option(
        "allow requests that match; repeatable",
        python="Patterns of requests to let through, such as '/v1/*' or 'GET /v1/models'. With any, a request that"
        " matches none of them, and no policy, is rejected.",
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
        "most requests at once, of each proxy", default=None, metavar="N", group=EXPOSURE, read=count
    )
    max_requests_per_minute: int | None = option(
        "most requests in any 60 seconds, of each proxy", default=None, metavar="N", group=EXPOSURE, read=count
    )
    on_disconnect: str = option(
        "when a client disconnects: cancel its request at the service at once (the default), or let the service"
        " finish it (drain), for one that suffers from aborts",
        python="What to do when a client disconnects: cancel cancels its request at the service; drain lets it finish,"
        " for services that suffer from aborted requests.",
        default=OnDisconnect.CANCEL.value,
        choices=tuple(map(str, OnDisconnect)),
        group=EXPOSURE,
    )
    max_body: int | str | None = option(
        "largest request body: bytes, 10MB (10^7), 10MiB (10 * 2^20)",
        python="Largest body of a request: bytes, or a text such as '10MB'.",
        default=None,
        metavar="SIZE",
        group=EXPOSURE,
        read=size,
    )
    no_bench: bool = option(
        "do not answer `llmtunnel bench`, with which a proxy measures the tunnel to serve",
        python="Do not answer `llmtunnel.bench`, with which a proxy measures the tunnel to serve.",
        default=False,
        group=EXPOSURE,
        env=True,
    )

    def settings(self, meeting: Meeting) -> ServeSettings:
        """What serve needs to meet there; without an upstream it has to look for one. Raises `SettingError`."""
        return _made(
            ServeSettings,
            self,
            meeting,
            ice=self.ice,
            upstream=self._upstream(),
            seek=self.upstream is None,
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
    """What a user gives to proxy."""

    listen: str | int = option(
        "where to answer: host:port, a port, or a host for port 8000; port 0 takes a free one; [::]:PORT is every"
        " address, IPv4 too",
        port=True,
        default=DEFAULT_LISTEN,
        metavar="ADDRESS",
        env=True,
        read=unless_empty,
    )
    wait_for_peer: float = option(
        "how long a request waits for serve before it gets 503",
        python="Seconds that a request waits for serve before it gets 503.",
        default=Timeouts().wait_for_peer,
        metavar="SECONDS",
        read=seconds,
    )
    keepalive: float | None = option(
        "send a comment to a client that waits for a stream of events, each time the model has been silent so"
        " long before its first word; its status is 200 then, and a later error an event",
        python="Until the model's first word, clients that wait for a stream of events get a comment each time it has"
        " been silent for so many seconds. Their status is 200 then, and a later error becomes an event. None: never.",
        default=None,
        metavar="SECONDS",
        read=seconds,
        default_help="never",
    )
    allow_hosts: tuple[str, ...] = option(
        "another name that clients call it by, such as host.docker.internal, repeatable; names that end in"
        " .localhost need no flag",
        python="Further names by which clients call the proxy, such as host.docker.internal. Names that end in"
        " .localhost need not be listed.",
        default=(),
        flag="--allow-host",
        metavar="NAME",
        group=ACCESS,
    )
    allow_origins: tuple[str, ...] = option(
        "pages that may use it, repeatable: https://app.example, or what a desktop app sends (app://name,"
        " vscode-webview://id, file://). null, which a page opened from a file sends: any web site can send it too",
        python="Origins of pages that may use the proxy: https://app.example, or what a desktop app sends (app://name,"
        " vscode-webview://id, file://). null permits pages opened from a file, and any web site.",
        default=(),
        flag="--allow-origin",
        metavar="ORIGIN",
        group=ACCESS,
    )
    api_key: str | None = option(
        "what clients must send, as Authorization: Bearer or X-Api-Key; needed to --listen on another address"
        " than loopback. Other users of this machine see what a command line says (ps): the environment"
        " and a file are safer",
        python="Key that clients must send, as Authorization: Bearer or X-Api-Key. Required to listen on another"
        " address than loopback.",
        default=None,
        metavar="KEY",
        group=ACCESS,
        env=True,
        file="the key, from a file",
    )
    no_auth: bool = option("listen on another address than loopback without a key", default=False, group=ACCESS)

    def settings(self, meeting: Meeting) -> ProxySettings:
        """What proxy needs to meet there. Raises `SettingError`."""
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
    """What a user gives to bench."""

    duration: float = option(
        "about how long to measure, once connected; at most 60",
        python="About how many seconds to measure, once connected; 2 to 60.",
        default=DEFAULT_BENCH,
        metavar="SECONDS",
        read=seconds,
    )

    def settings(self, meeting: Meeting, *, key: str) -> ProxySettings:
        """What the proxy needs that measures the tunnel to a serve. Raises `SettingError`.

        ``key``: what requests to its listener must carry, so that nobody else on this machine can measure.
        """
        self.check()
        listener = ListenerPolicy(api_key=key)
        return _made(ProxySettings, self, meeting, ice=self.ice, listen="127.0.0.1:0", listener=listener, bench=True)

    def check(self) -> None:
        """Raises `SettingError` where the duration cannot be used."""
        if not 2 <= self.duration <= 60:
            raise SettingError(f"--duration: not from 2 to 60 seconds: {self.duration:g}.", hint="Use for example 12.")


def _made(kind: Callable[..., T], *sources: object, **more: object) -> T:
    """A value of a dataclass: each field is what ``more``, or else the last source that has its name, says."""
    names = [each.name for each in fields(cast(Any, kind)) if each.name not in more]
    found = {name: getattr(source, name) for source in sources for name in names if hasattr(source, name)}
    return kind(**found, **more)


def _has_bytes(text: str, most: int) -> bool:
    try:
        return 0 < len(text.encode()) <= most
    except UnicodeEncodeError:  # bytes of the command line that are no UTF-8: JSON cannot carry them
        return False


def from_env(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The settings that the environment gives, by flag name: ``TUNNEL_TURN_USER`` as ``turn_user``.

    Empty variables count as not set. ``LLMTUNNEL_LOG``, the one of another name, is ``log_level``.
    """
    environ = os.environ if environ is None else environ
    prefix = "TUNNEL_"
    found = {
        name.removeprefix(prefix).lower(): value for name, value in environ.items() if name.startswith(prefix) and value
    }
    if environ.get("LLMTUNNEL_LOG"):
        found["log_level"] = environ["LLMTUNNEL_LOG"]
    return found
