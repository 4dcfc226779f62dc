"""A tunnel's two sides on the loop that the caller is in: `serve` and `proxy`, and the handles that they give.

    async with aio.serve("http://127.0.0.1:11434") as server: ...   # registered; share server.invite.code
    async with aio.proxy(code) as proxy: ...                        # serve is reached; proxy.url answers

``llmtunnel.serve`` and ``llmtunnel.proxy`` are the same, blocking. `Server` and `Proxy` made from settings do not wait:
see `Tunnel.start`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any, Generic, TypeVar

from . import runtime
from .config import (
    DEFAULT_LISTEN,
    DEFAULT_RESUME_FOR,
    DEFAULT_STUN,
    Exposure,
    IceServers,
    OnDisconnect,
    ProxySettings,
    ServeSettings,
)
from .invite import Invite
from .listener import ListenerPolicy
from .meeting import Meeting, no_invite
from .paths import AUTO
from .policy import Policy
from .status import Phase
from .tunnel import WAIT, Proxy, Server, Tunnel, Unsubscribe
from .upstream import Upstream

__all__ = ["WAIT", "Opening", "Proxy", "Server", "Tunnel", "Unsubscribe", "proxy", "serve"]

T = TypeVar("T", bound=Tunnel)


class Opening(Generic[T]):
    """What `serve` and `proxy` return: ``await`` it for the handle, or ``async with`` it to have it closed too."""

    def __init__(self, make: Callable[[], Awaitable[T]], phase: Phase, timeout: float | None) -> None:
        self._make, self._phase, self._timeout = make, phase, timeout
        self._tunnel: T | None = None

    def __await__(self) -> Generator[Any, None, T]:
        return self._opened().__await__()

    async def __aenter__(self) -> T:
        self._tunnel = await self._opened()
        return self._tunnel

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tunnel is not None:
            await self._tunnel.aclose()

    async def _opened(self) -> T:
        runtime.refuse_green_threads()
        tunnel = await self._make()
        try:
            await tunnel.start()
            await tunnel.wait(self._phase, timeout=self._timeout)
        except BaseException:
            await tunnel.aclose()
            raise
        return tunnel


def serve(
    upstream: str | Upstream | None = None,
    *,
    invite: str | Invite | None = None,
    room: str | None = None,
    secret: str | None = None,
    signal: str | None = None,
    expires: float | None = None,
    once: bool = False,
    advertise: str = "/",
    policy: str | None = None,
    allow: tuple[str, ...] = (),
    deny: tuple[str, ...] = (),
    max_requests: int | None = None,
    max_requests_per_minute: int | None = None,
    max_body: int | None = None,
    on_disconnect: str = OnDisconnect.CANCEL,
    stun: tuple[str, ...] = (DEFAULT_STUN,),
    turn: tuple[str, ...] = (),
    turn_user: str | None = None,
    turn_pass: str | None = None,
    resume_for: float = DEFAULT_RESUME_FOR,
    path: str = AUTO,
    timeout: float | None = WAIT,
) -> Opening[Server]:
    """Expose an HTTP service; opened when the signal server has taken us into the room.

    ``invite``: one made before; or ``room`` and ``secret`` of your own (a room alone: whoever knows its name is let
    in). With none of them a new invite is made: `Server.invite`. ``signal``: the signal server; an invite knows its
    own. ``expires``: seconds from now after which nobody new is let in. ``once``: nobody after the first proxy is.
    ``upstream``: as ``--upstream``; None looks for a model server on this machine. ``policy``, ``allow`` and ``deny``:
    what is let through, see `Policy`. ``max_…``: for each proxy, see `Exposure`; ``max_body`` in bytes.
    ``on_disconnect``: what becomes of a request whose client has left, ``cancel`` or ``drain``. ``resume_for``: seconds
    for which requests under way wait for a peer that is not heard any more; 0: they end at once. ``path``: ``auto``, or
    one of ``direct``, ``turn``, ``relay`` and ``tcp`` alone.
    Raises `SettingError`, `UpstreamNotFound`, or `WaitTimeout` after ``timeout`` seconds (None: never).
    """

    async def make() -> Server:
        meeting = Meeting.given(invite=invite, room=room, secret=secret, signal=signal) or Meeting.made(signal)
        return Server(
            ServeSettings(
                room=meeting.room,
                secret=meeting.secret,
                signal=meeting.signal,
                invite=meeting.invite,
                expires=expires,
                once=once,
                upstream=await _upstream(upstream),
                advertise=advertise,
                exposure=Exposure(
                    policy=Policy.parse(ready=policy, allow=allow, deny=deny),
                    max_requests=max_requests,
                    max_requests_per_minute=max_requests_per_minute,
                    max_body=max_body,
                    on_disconnect=on_disconnect,
                ),
                ice=IceServers(stun=stun, turn=turn, turn_user=turn_user, turn_pass=turn_pass),
                resume_for=resume_for,
                path=path,
            )
        )

    return Opening(make, Phase.WAITING, timeout)


def proxy(
    invite: str | Invite | None = None,
    *,
    room: str | None = None,
    secret: str | None = None,
    signal: str | None = None,
    listen: str = DEFAULT_LISTEN,
    allow_hosts: tuple[str, ...] = (),
    allow_origins: tuple[str, ...] = (),
    api_key: str | None = None,
    no_auth: bool = False,
    keepalive: float | None = None,
    stun: tuple[str, ...] = (DEFAULT_STUN,),
    turn: tuple[str, ...] = (),
    turn_user: str | None = None,
    turn_pass: str | None = None,
    resume_for: float = DEFAULT_RESUME_FOR,
    path: str = AUTO,
    timeout: float | None = WAIT,
) -> Opening[Proxy]:
    """Bring the other side's HTTP service here; opened when serve is reached.

    ``invite``: what serve shows, or else ``room`` and ``secret``, the same as serve has; ``signal`` too, then.
    ``listen``: as ``--listen``: ``host:port``, or a host; port 0 takes a free one. Where that is not loopback, clients
    must send ``api_key``, or ``no_auth`` says that they need not. ``allow_hosts``: as ``--allow-host``.
    ``allow_origins``: as ``--allow-origin``; ``"null"`` lets every web site in.
    ``keepalive``: seconds of silence after which a client that waits for events gets a comment; None: never.
    ``resume_for``: as in `serve`; the shorter one counts. ``path``: as in `serve`.
    Raises `AddressInUse` or another `SettingError`, `VersionMismatch`, or `WaitTimeout` after ``timeout`` seconds
    (None: never).
    """

    async def make() -> Proxy:
        meeting = Meeting.given(invite=invite, room=room, secret=secret, signal=signal)
        if meeting is None:
            raise no_invite()
        return Proxy(
            ProxySettings(
                room=meeting.room,
                secret=meeting.secret,
                signal=meeting.signal,
                listen=listen,
                listener=ListenerPolicy(
                    allow_hosts=allow_hosts, allow_origins=allow_origins, api_key=api_key, no_auth=no_auth
                ),
                keepalive=keepalive,
                ice=IceServers(stun=stun, turn=turn, turn_user=turn_user, turn_pass=turn_pass),
                resume_for=resume_for,
                path=path,
            )
        )

    return Opening(make, Phase.READY, timeout)


async def _upstream(upstream: str | Upstream | None) -> Upstream:
    if upstream is None:
        from .endpoints.discovery import choose, discover

        return choose(await discover())
    return upstream if isinstance(upstream, Upstream) else Upstream.parse(upstream)
