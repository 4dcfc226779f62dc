"""The blocking twins of `llmtunnel.aio`: the tunnel runs on the loop thread of `runtime`, the caller waits.

No logic of its own. A cell that sleeps or computes stalls nothing, and a blocking client in the same notebook can use
the proxy. With ``in_loop=True`` neither is so: the tunnel runs on the caller's own loop, see `nested`.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from . import aio, nested, runtime
from .config import (
    DEFAULT_LISTEN,
    DEFAULT_RESUME_FOR,
    DEFAULT_STUN,
    OnDisconnect,
    ProxySettings,
    ServeSettings,
    Settings,
)
from .environment import Environ
from .errors import TunnelError
from .invite import Invite
from .paths import AUTO
from .status import ActiveRequest, Notice, Phase, RequestRecord, Status
from .upstream import Upstream

if TYPE_CHECKING:
    from .doctor.findings import Diagnosis
    from .notebook.panel import Panel

T = TypeVar("T", bound=aio.Tunnel)
R = TypeVar("R")


class Handle(Generic[T]):
    """A tunnel whose calls block; what it tells is safe to read from any thread."""

    def __init__(self, tunnel: T, hold: runtime.Hold) -> None:
        self._hold = hold
        self._tunnel = tunnel
        hold.last = tunnel.aclose

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """See `aio.Tunnel.loop`."""
        return self._tunnel.loop

    @property
    def status(self) -> Status:
        """See `aio.Tunnel.status`."""
        return self._tunnel.status

    @property
    def url(self) -> str:
        """See `aio.Tunnel.url`."""
        return self._tunnel.url

    def requests(self, limit: int = 20) -> tuple[RequestRecord, ...]:
        """See `aio.Tunnel.requests`."""
        return self._tunnel.requests(limit)

    def active_requests(self) -> tuple[ActiveRequest, ...]:
        """See `aio.Tunnel.active_requests`."""
        return self._tunnel.active_requests()

    def subscribe(self, callback: Callable[[Notice], None]) -> aio.Unsubscribe:
        """See `aio.Tunnel.subscribe`; the callback is called on the tunnel's loop, in its thread."""
        return self._tunnel.subscribe(callback)

    def wait(self, phase: Phase = Phase.READY, *, timeout: float | None = aio.WAIT) -> None:
        """See `aio.Tunnel.wait`."""
        _refuse(self._hold.stuck, "wait")
        self._hold.call(self._tunnel.wait(phase, timeout=timeout))

    def reconnect(self) -> None:
        """See `aio.Tunnel.reconnect`; returns at once."""
        self._do("reconnect", self._tunnel.reconnect)

    def close(self) -> None:
        """See `aio.Tunnel.aclose`; after the last handle the loop thread ends too."""
        _refuse(self._hold.stuck, "close", twin="aclose")
        self._hold.close()

    def panel(self) -> Panel:
        """The live panel, as core widgets: its ``widget`` is for layouts of one's own. Needs ipywidgets."""
        from .notebook.display import panel

        return panel(self)

    def _do(self, name: str, method: Callable[[], R]) -> R:
        """Call the tunnel's method of this name, on its loop."""
        _refuse(self._hold.stuck, name)
        return self._hold.call(_called(method))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, Any]:
        from .notebook.display import mimebundle

        return mimebundle(self, include, exclude)

    def __repr__(self) -> str:
        return repr(self._tunnel)

    def __del__(self, _warn: Callable[..., None] = warnings.warn) -> None:
        if not (self._hold.released or runtime.elsewhere(self._hold.process)):
            _warn(f"unclosed llmtunnel {self.status.role}: {self.url}", ResourceWarning, stacklevel=1, source=self)


class Server(Handle[aio.Server]):
    """The side with the upstream."""

    @property
    def invite(self) -> Invite | None:
        """See `aio.Server.invite`."""
        return self._tunnel.invite

    def renew_invite(self) -> Invite:
        """See `aio.Server.renew_invite`."""
        return self._do("renew_invite", self._tunnel.renew_invite)

    def kick(self, peer: str) -> None:
        """See `aio.Server.kick`."""
        self._do("kick", partial(self._tunnel.kick, peer))


class Proxy(Handle[aio.Proxy]):
    """The side with the local listener."""

    @property
    def openai_base_url(self) -> str:
        """See `aio.Proxy.openai_base_url`."""
        return self._tunnel.openai_base_url

    def models(self) -> tuple[str, ...]:
        """See `aio.Proxy.models`."""
        _refuse(self._hold.stuck, "models")
        return self._hold.call(self._tunnel.models())

    def environ(self, *, api_key: str | None = None) -> Environ:
        """See `aio.Proxy.environ`."""
        return self._tunnel.environ(api_key=api_key)


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
    timeout: float | None = aio.WAIT,
    in_loop: bool = False,
) -> Server:
    """See `aio.serve`; returns when the signal server has taken us into the room.

    ``in_loop``: run on the loop that runs here already, such as a notebook's, see `nested`.
    """
    return Server(
        *_opened(
            "serve",
            lambda: aio.serve(
                upstream,
                invite=invite,
                room=room,
                secret=secret,
                signal=signal,
                expires=expires,
                once=once,
                advertise=advertise,
                policy=policy,
                allow=allow,
                deny=deny,
                max_requests=max_requests,
                max_requests_per_minute=max_requests_per_minute,
                max_body=max_body,
                on_disconnect=on_disconnect,
                stun=stun,
                turn=turn,
                turn_user=turn_user,
                turn_pass=turn_pass,
                resume_for=resume_for,
                path=path,
                timeout=timeout,
            ),
            in_loop=in_loop,
        )
    )


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
    timeout: float | None = aio.WAIT,
    in_loop: bool = False,
) -> Proxy:
    """See `aio.proxy`; returns when serve is reached. ``in_loop``: as for `serve`."""
    return Proxy(
        *_opened(
            "proxy",
            lambda: aio.proxy(
                invite,
                room=room,
                secret=secret,
                signal=signal,
                listen=listen,
                allow_hosts=allow_hosts,
                allow_origins=allow_origins,
                api_key=api_key,
                no_auth=no_auth,
                keepalive=keepalive,
                stun=stun,
                turn=turn,
                turn_user=turn_user,
                turn_pass=turn_pass,
                resume_for=resume_for,
                path=path,
                timeout=timeout,
            ),
            in_loop=in_loop,
        )
    )


def diagnose(settings: Settings, *, upstream: Upstream | None, address: str) -> Diagnosis:
    """See `doctor.checks.diagnose`; takes some seconds."""
    from .doctor.checks import diagnose

    hold = _thread("diagnose")
    try:
        return hold.call(diagnose(settings, upstream=upstream, address=address))
    finally:
        hold.close()


def start(settings: ServeSettings | ProxySettings) -> Server | Proxy:
    """A tunnel that is started and not waited for: its status tells how it goes. Raises `SettingError`."""

    async def make() -> aio.Server | aio.Proxy:
        tunnel = aio.Server(settings) if isinstance(settings, ServeSettings) else aio.Proxy(settings)
        try:
            await tunnel.start()
        except BaseException:
            await tunnel.aclose()
            raise
        return tunnel

    tunnel, hold = _opened("start", make, in_loop=False)
    return Server(tunnel, hold) if isinstance(tunnel, aio.Server) else Proxy(tunnel, hold)


def _opened(name: str, make: Callable[[], Awaitable[T]], *, in_loop: bool) -> tuple[T, runtime.Hold]:
    hold = nested.hold(name) if in_loop else _thread(name)
    try:
        return hold.call(_await(make)), hold
    except BaseException:
        hold.close()
        raise


def _thread(name: str) -> runtime.Hold:
    _refuse(runtime.shared.current, name)
    return runtime.shared.hold()


async def _await(make: Callable[[], Awaitable[T]]) -> T:
    return await make()


async def _called(call: Callable[[], R]) -> R:
    return call()


def _refuse(stuck: bool, name: str, *, twin: str | None = None) -> None:
    if stuck:
        raise TunnelError(
            f"`{name}` would block the loop that the tunnel runs on.",
            hint=f"Use its twin in llmtunnel.aio there: `{twin or name}`.",
        )
