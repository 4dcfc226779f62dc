"""Both sides of a tunnel on the caller's event loop: `serve`, `proxy` and their handles.

    async with aio.serve("http://127.0.0.1:11434") as server: ...   # in its room; share server.invite.code
    async with aio.proxy(code) as proxy: ...                        # connected to serve; clients use proxy.url

``llmtunnel.serve`` and ``llmtunnel.proxy`` are the blocking versions. A `Server` or `Proxy` made from settings does not
wait: see `Tunnel.start`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from types import NoneType, TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from . import runtime
from .config import BenchOptions, ProxyOptions, ProxySettings, ServeOptions, ServeSettings
from .given import chosen
from .meeting import Meeting, no_invite
from .option import CALL, accepts, option, options, seconds
from .status import Phase
from .tunnel import WAIT, Proxy, Server, Tunnel, Unsubscribe

if TYPE_CHECKING:
    from .measure.result import BenchResult

__all__ = ["WAIT", "Opening", "Proxy", "Server", "Tunnel", "Unsubscribe", "bench", "proxy", "serve"]

T = TypeVar("T", bound=Tunnel)


class Opening(Generic[T]):
    """Result of `serve` and `proxy`: ``await`` it to get the handle, or use ``async with`` to also close it."""

    def __init__(
        self, make: Callable[[], Awaitable[T]], phase: Phase, timeout: float | None, *, quiet: bool = False
    ) -> None:
        self._make, self._phase, self._timeout, self._quiet = make, phase, timeout, quiet
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
            await tunnel.wait(self._phase, timeout=self._timeout, quiet=self._quiet)
        except BaseException:
            await tunnel.aclose()
            raise
        return tunnel


@options
class Wait:
    """How `serve` and `proxy` wait."""

    timeout: float | None = option(
        "Maximum time to wait, in seconds, after which `WaitTimeout` is raised. None: no limit.",
        default=WAIT,
        group=CALL,
        read=seconds,
        takes=(NoneType,),
    )
    quiet: bool = option(
        "Print nothing while waiting. Otherwise, after 3 s, a line on standard error says what the call waits for, and"
        " again when that changes. A blocking call in a notebook displays the panel at once instead.",
        default=False,
        group=CALL,
    )


@options
class ServeCall(ServeOptions, Wait):
    """Parameters of `serve`."""


@options
class ProxyCall(ProxyOptions, Wait):
    """Parameters of `proxy`."""


@options
class BenchCall(BenchOptions, Wait):
    """What `bench` takes."""


async def serve_settings(given: ServeCall) -> ServeSettings:
    """Return the settings of these options, and look for the upstream if they name none. Raises `SettingError`."""
    settings = given.settings(given.meeting() or Meeting.made(given.signal))
    if settings.seek:
        from .endpoints.discovery import choose, discover

        settings = settings.found(choose(await discover()))
    return settings


async def proxy_settings(given: ProxyCall) -> ProxySettings:
    """Return the settings of these options. Raises `SettingError`."""
    meeting = given.meeting()
    if meeting is None:
        raise no_invite()
    return given.settings(meeting)


@accepts(ServeCall, chosen)
def serve(given: ServeCall) -> Opening[Server]:
    """Share an HTTP service. Waits until serve has joined its room on the signal server.

    Name the place to meet with ``invite``, or with ``room`` and ``secret``. Without them, serve makes a new invite:
    `Server.invite`. Raises `SettingError`, `UpstreamNotFound` or `WaitTimeout`.

    An option that is missing or None takes its value from its environment variable, if set. The command line and
    ``%tunnel`` read the same variables.
    """

    async def make() -> Server:
        return Server(await serve_settings(given))

    return Opening(make, Phase.WAITING, given.timeout, quiet=given.quiet)


@accepts(ProxyCall, chosen)
def proxy(given: ProxyCall) -> Opening[Proxy]:
    """Use the other side's HTTP service on this machine. Waits until proxy is connected to serve.

    Name the place to meet with ``invite``, or with ``room``, ``secret`` and ``signal``: the same values as for serve.
    Raises `AddressInUse` or another `SettingError`, `VersionMismatch` or `WaitTimeout`.

    An option that is missing or None takes its value from its environment variable, if set. The command line and
    ``%tunnel`` read the same variables.
    """

    async def make() -> Proxy:
        return Proxy(await proxy_settings(given))

    return Opening(make, Phase.READY, given.timeout, quiet=given.quiet)


@accepts(BenchCall, chosen)
async def bench(given: BenchCall) -> BenchResult:
    """Measure the tunnel to a serve. Takes about 12 s once it is connected.

    It uses a proxy of its own, which nobody else can use. Serve itself answers, so the model server behind it gets no
    request. Without an invite, or a room and a secret, it measures both sides on this machine, and compares them with
    the same requests without a tunnel.

    Returns the figures: ``print`` shows a table, and a notebook draws it. Raises what `proxy` raises, or `PeerError` if
    this serve does not answer measurements.

    An option that is missing or None takes its value from its environment variable, if set. The command line reads the
    same variables.
    """
    from .benchmark import bench

    return await bench(given, timeout=given.timeout, quiet=given.quiet)
