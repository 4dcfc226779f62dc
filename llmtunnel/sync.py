"""The blocking twins of `llmtunnel.aio`: the tunnel runs on the loop thread of `runtime`, the caller waits.

No logic of its own. A cell that sleeps or computes stalls nothing, and a blocking client in the same notebook can use
the proxy.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from . import aio, runtime
from .config import DEFAULT_LISTEN, DEFAULT_RESUME_FOR, DEFAULT_STUN, OnDisconnect
from .errors import TunnelError
from .invite import Invite
from .status import ActiveRequest, Notice, Phase, RequestRecord, Status
from .upstream import Upstream

T = TypeVar("T", bound=aio.Tunnel)
R = TypeVar("R")


class Handle(Generic[T]):
    """A tunnel that runs on the loop thread; what it tells is safe to read from any thread."""

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
        """See `aio.Tunnel.subscribe`; the callback is called on the loop thread."""
        return self._tunnel.subscribe(callback)

    def wait(self, phase: Phase = Phase.READY, *, timeout: float | None = aio.WAIT) -> None:
        """See `aio.Tunnel.wait`."""
        _refuse_loop_thread("wait")
        self._hold.call(self._tunnel.wait(phase, timeout=timeout))

    def close(self) -> None:
        """See `aio.Tunnel.aclose`; after the last handle the loop thread ends too."""
        _refuse_loop_thread("close", twin="aclose")
        self._hold.close()

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
        if not self._hold.released:
            _warn(f"unclosed llmtunnel {self.status.role}: {self.url}", ResourceWarning, stacklevel=1, source=self)


class Server(Handle[aio.Server]):
    """The side with the upstream."""

    @property
    def invite(self) -> Invite | None:
        """See `aio.Server.invite`."""
        return self._tunnel.invite

    def renew_invite(self) -> Invite:
        """See `aio.Server.renew_invite`."""
        return self._hold.call(_call(self._tunnel.renew_invite))

    def kick(self, peer: str) -> None:
        """See `aio.Server.kick`."""
        self._hold.call(_call(partial(self._tunnel.kick, peer)))


class Proxy(Handle[aio.Proxy]):
    """The side with the local listener."""

    @property
    def openai_base_url(self) -> str:
        """See `aio.Proxy.openai_base_url`."""
        return self._tunnel.openai_base_url

    def models(self) -> tuple[str, ...]:
        """See `aio.Proxy.models`."""
        _refuse_loop_thread("models")
        return self._hold.call(self._tunnel.models())


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
    timeout: float | None = aio.WAIT,
) -> Server:
    """See `aio.serve`; returns when the signal server has taken us into the room."""
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
                timeout=timeout,
            ),
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
    timeout: float | None = aio.WAIT,
) -> Proxy:
    """See `aio.proxy`; returns when serve is reached."""
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
                timeout=timeout,
            ),
        )
    )


def _opened(name: str, make: Callable[[], Awaitable[T]]) -> tuple[T, runtime.Hold]:
    _refuse_loop_thread(name)
    hold = runtime.shared.hold()
    try:
        return hold.call(_await(make)), hold
    except BaseException:
        hold.close()
        raise


async def _call(function: Callable[[], R]) -> R:
    return function()


async def _await(make: Callable[[], Awaitable[T]]) -> T:
    return await make()


def _refuse_loop_thread(name: str, *, twin: str | None = None) -> None:
    if runtime.shared.current:
        raise TunnelError(
            f"`{name}` would block the loop that the tunnel runs on.",
            hint=f"Await its twin in llmtunnel.aio there: `{twin or name}`.",
        )
