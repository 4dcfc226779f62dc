"""Every setting and its default, once: frozen values, no I/O.

The command line (``cli/options.py``) and the environment fill these in; `from_env` reads ``os.environ``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from .errors import SettingError
from .listener import ListenerPolicy
from .paths import AUTO, PATHS, carriers, kind, tried
from .policy import Policy
from .status import Path
from .upstream import Upstream

if TYPE_CHECKING:
    from .invite import Invite

DEFAULT_SIGNAL: Final = "wss://signal-server.fly.dev"
"""The original's public signal server. It keeps two members to a room."""

DEFAULT_STUN: Final = "stun:stun.l.google.com:19302"
DEFAULT_PORT: Final = 8000
DEFAULT_LISTEN: Final = f"127.0.0.1:{DEFAULT_PORT}"
DEFAULT_RESUME_FOR: Final = 60.0

# What aiortc takes of RFC 7064 and RFC 7065: no IPv6 literals.
_STUN_URL: Final = re.compile(r"stun:[^?:/@\s]+(:\d{1,5})?")
_TURN_URL: Final = re.compile(r"turns?:[^?:/@\s]+(:\d{1,5})?(\?transport=(udp|tcp))?")

KIB: Final = 1024
MIB: Final = 1024 * KIB


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
    """Credit per stream and direction, bytes: at 50 ms round trip 10 MB/s, what aiortc carries at its best."""
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
                raise SettingError(f"{url!r} is not a STUN server's address.", hint="Write stun:host:port.")
        for url in self.turn:
            if not _TURN_URL.fullmatch(url):
                raise SettingError(f"{url!r} is not a TURN server's address.", hint="Write turn:host:port.")


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
            raise SettingError("--resume-for is a number of seconds.", hint="0 turns it off.")
        if not _has_bytes(self.room, 256):
            raise SettingError("A room's name is 1 to 256 bytes of UTF-8.", hint="Give one with --room.")
        if self.secret is not None and not _has_bytes(self.secret, 1024):
            raise SettingError("A secret is 1 to 1024 bytes of UTF-8.", hint="Or have serve make an invite.")
        check_signal(self.signal)
        self._check_path()

    def _check_path(self) -> None:
        if self.path not in PATHS:
            raise SettingError(f"{self.path!r} is not a path.", hint=f"Give one of {', '.join(PATHS)}.")
        if self.path == AUTO:
            return
        needed = kind(Path(self.path))
        if needed.needs_turn and not self.ice.turn:
            raise SettingError(f"--path {self.path} needs a TURN server.", hint="Give one with --turn.")
        if needed.needs_secret and self.secret is None:
            raise SettingError(
                f"--path {self.path} needs a secret, by which each side proves who it is.",
                hint="Use an invite, or --secret.",
            )
        if needed.needs_resume and self.resume_for == 0:
            raise SettingError(
                f"--path {self.path} needs --resume-for above 0: the peers meet over another path first.",
                hint="Leave --resume-for as it is.",
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
                raise SettingError(f"{flag} {limit} would let no request through.", hint="Give 1 or more.")
        if self.max_body is not None and self.max_body < 0:
            raise SettingError(f"--max-body {self.max_body} is no size.", hint="Give a size like 10MB.")
        if self.on_disconnect not in tuple(OnDisconnect):
            raise SettingError(
                f"{self.on_disconnect!r} is nothing to do with a request.", hint=f"Give {' or '.join(OnDisconnect)}."
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
    invite: Invite | None = None
    """The invite that room and secret are from."""

    def __post_init__(self) -> None:
        # By name: a class with slots is made anew, and a bare super() would know the old one.
        Settings.__post_init__(self)
        if self.expires is not None and not 0 < self.expires < math.inf:
            raise SettingError(f"--expires {self.expires:g} is no time from now.", hint="Give one like 8h.")
        if self.secret is None and (self.expires is not None or self.once):
            raise SettingError(
                "Without a secret, serve cannot tell who comes back from who is new.",
                hint="--expires and --once need an invite, or --room with --secret.",
            )


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

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.keepalive is not None and self.keepalive <= 0:
            raise SettingError(f"--keepalive {self.keepalive:g} is no time.", hint="Give some seconds, such as 15.")


def check_signal(url: str) -> None:
    """Raise `SettingError` where this is not a signal server's address."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        good = False
    if not good:
        raise SettingError(
            f"{url!r} is not a signal server's address.", hint="It is like ws://host:port or wss://host."
        )


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
