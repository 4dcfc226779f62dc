"""Blocking versions of `llmtunnel.aio`: the tunnel runs on the loop thread of `runtime`, and the caller waits.

A cell that sleeps or computes does not stall the tunnel, and a blocking client in the same notebook can use the proxy.
With ``in_loop=True``, the tunnel runs on the caller's own loop instead, and neither applies: see `nested`.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from . import aio, descriptors, nested, opened, runtime
from .config import BenchOptions, ProxySettings, ServeSettings, Settings
from .endpoints.ledger import RECORDS
from .environment import Environ
from .errors import AddressInUse, TunnelError
from .given import chosen
from .invite import Invite
from .option import CALL, accepts, option, options
from .status import ActiveRequest, Notice, Phase, RequestRecord, Status
from .upstream import Upstream

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .doctor.findings import Diagnosis
    from .measure.result import BenchResult
    from .notebook.chat import Chat
    from .notebook.panel import Panel

T = TypeVar("T", bound=aio.Tunnel)
R = TypeVar("R")
S = TypeVar("S", ServeSettings, ProxySettings)
G = TypeVar("G", "_ServeCall", "_ProxyCall")
H = TypeVar("H", bound="Handle[Any]")


class Handle(Generic[T]):
    """A tunnel with blocking calls. Its properties and records are thread-safe."""

    def __init__(self, tunnel: T, hold: runtime.Hold) -> None:
        self._hold = hold
        self._tunnel = tunnel
        hold.last = tunnel.aclose

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the tunnel runs on."""
        return self._tunnel.loop

    @property
    def twin(self) -> T:
        """The async handle of the same tunnel, for code that runs on its `loop`."""
        return self._tunnel

    @property
    def status(self) -> Status:
        """Current state: phase, peers, counts of requests and bytes. Thread-safe."""
        return self._tunnel.status

    @property
    def url(self) -> str:
        """Proxy: the address where it listens, such as ``http://127.0.0.1:8000``. Serve: the upstream's address."""
        return self._tunnel.url

    def requests(self, limit: int = RECORDS) -> list[dict[str, str | float | None]]:
        """See `aio.Tunnel.requests`."""
        return self._tunnel.requests(limit)

    requests.__doc__ = aio.Tunnel.requests.__doc__

    def records(self, limit: int = RECORDS) -> tuple[RequestRecord, ...]:
        """See `aio.Tunnel.records`."""
        return self._tunnel.records(limit)

    records.__doc__ = aio.Tunnel.records.__doc__

    def history(self) -> list[dict[str, float | None]]:
        """See `aio.Tunnel.history`."""
        return self._tunnel.history()

    history.__doc__ = aio.Tunnel.history.__doc__

    def plot(self) -> Figure:
        """See `aio.Tunnel.plot`."""
        from .notebook.plot import plot

        return plot(self)

    plot.__doc__ = aio.Tunnel.plot.__doc__

    def active_requests(self) -> tuple[ActiveRequest, ...]:
        """Return the running requests, oldest first. Thread-safe."""
        return self._tunnel.active_requests()

    def subscribe(self, callback: Callable[[Notice], None]) -> aio.Unsubscribe:
        """Call a function with every future notice, on the tunnel's loop. Returns a function that cancels this.

        Parameters:
            callback: Called with each `Notice`. It must not block.
        """
        return self._tunnel.subscribe(callback)

    def wait(self, phase: Phase = Phase.READY, *, timeout: float | None = aio.WAIT, quiet: bool = False) -> None:
        """Wait until the tunnel has reached a phase.

        After 3 s, a line on standard error says what the call waits for, and again when that changes.

        Raises `WaitTimeout` after ``timeout`` seconds, `SettingError` for an unknown phase, or the error that made the
        tunnel fail.

        Parameters:
            phase: A `Phase`, or its name, such as "ready".
            timeout: Maximum time to wait, in seconds. None: no limit.
            quiet: Print nothing while waiting.
        """
        _refuse(self._hold.stuck, "wait")
        self._hold.call(self._tunnel.wait(phase, timeout=timeout, quiet=quiet))

    def reconnect(self) -> None:
        """Drop every connection, start to reconnect, and return at once. Running requests end with an error.

        Raises `TunnelError` if the tunnel is not running.
        """
        self._do("reconnect", self._tunnel.reconnect)

    def close(self) -> None:
        """Close the tunnel: end running requests with an error, notify the peers, leave the room. Idempotent.

        The loop thread ends with the last handle. In a process that was forked later, it does nothing, since the tunnel
        belongs to the parent process.
        """
        _refuse(self._hold.stuck, "close", twin="aclose")
        self._hold.close()

    def panel(self) -> Panel:
        """Return the live panel. Use its ``widget`` in your own layouts. Needs ipywidgets."""
        from .notebook.display import panel

        return panel(self)

    def _do(self, name: str, method: Callable[[], R]) -> R:
        """Call a method of the tunnel on its loop. ``name`` is the method's name, for errors."""
        _refuse(self._hold.stuck, name)
        return self._hold.call(_called(method))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ipython_display_(self) -> None:
        from .notebook.display import show_result

        show_result(self)

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
    """The serve side, which has the upstream."""

    @property
    def invite(self) -> Invite | None:
        """The invite; None if you chose a room and a secret. Give its ``code`` to those who may use the service."""
        return self._tunnel.invite

    @property
    def web_url(self) -> str | None:
        """The link that a browser opens; None without ``web``, or if the signal server has no page.

        It contains the code, so give it only to those who may use the service. A browser may keep it in its history.
        """
        return self._tunnel.web_url

    def renew_invite(self) -> Invite:
        """Make a new code for newcomers, in the same room. Connected peers stay. Raises `SettingError`.

        If serve was started with ``once``, the new code admits one more proxy. ``expires`` does not apply to it.
        """
        return self._do("renew_invite", self._tunnel.renew_invite)

    def kick(self, peer: str) -> None:
        """Disconnect a peer and block its handle. Raises `PeerNotFound`.

        Serve recognises a handle by its certificate, and each handle has a new one. It recognises a page in a browser
        by its key, which the page keeps until "Disconnect". Anyone who has the code can return with another handle,
        even in the same process. So call `renew_invite` first.

        Parameters:
            peer: Name of the peer, as in `Status.peers`.
        """
        self._do("kick", partial(self._tunnel.kick, peer))


class Proxy(Handle[aio.Proxy]):
    """The proxy side, which has the local listener."""

    @property
    def openai_base_url(self) -> str:
        """The ``base_url`` for OpenAI clients."""
        return self._tunnel.openai_base_url

    @property
    def needs_key(self) -> bool:
        """See `aio.Proxy.needs_key`."""
        return self._tunnel.needs_key

    def models(self) -> tuple[str, ...]:
        """Return the models that the other side lists, in OpenAI's or Ollama's format. Empty if it lists none.

        The request uses the tunnel directly, so it needs no key for the listener. Raises `PeerNotFound` or another
        `PeerError`, or `UpstreamError`.
        """
        _refuse(self._hold.stuck, "models")
        return self._hold.call(self._tunnel.models())

    def chat(self) -> Chat:
        """See `aio.Proxy.chat`."""
        return self._tunnel.chat()

    chat.__doc__ = aio.Proxy.chat.__doc__

    def environ(self, *, api_key: str | None = None) -> Environ:
        """See `aio.Proxy.environ`."""
        return self._tunnel.environ(api_key=api_key)

    environ.__doc__ = aio.Proxy.environ.__doc__


@options
class _Where:
    in_loop: bool = option(
        "Run the tunnel on the event loop that already runs in this thread, such as a notebook's.",
        default=False,
        group=CALL,
    )


@options
class _ServeCall(_Where, aio.ServeCall):
    """Parameters of `serve`."""


@options
class _ProxyCall(_Where, aio.ProxyCall):
    """Parameters of `proxy`."""


@options
class _BenchCall(_Where, aio.BenchCall):
    """Parameters of `bench`."""


@accepts(_ServeCall, chosen)
def serve(given: _ServeCall) -> Server:
    """Share an HTTP service. Returns once serve has joined its room on the signal server.

    The blocking version of `aio.serve`. Name the place to meet with ``invite``, or with ``room`` and ``secret``.
    Without them, serve makes a new invite: `Server.invite`. Raises `SettingError`, `UpstreamNotFound` or `WaitTimeout`.

    In IPython, a later cell that serves the same upstream again replaces this tunnel and keeps its invite.

    An option that is missing or None takes its value from its environment variable, if set. The command line and
    ``%tunnel`` read the same variables.
    """
    return _open("serve", given, aio.serve_settings, aio.Server, Server, Phase.WAITING)


@accepts(_ProxyCall, chosen)
def proxy(given: _ProxyCall) -> Proxy:
    """Use the other side's HTTP service on this machine. Returns once proxy is connected to serve.

    The blocking version of `aio.proxy`. Name the place to meet with ``invite``, or with ``room``, ``secret`` and
    ``signal``: the same values as for serve. Raises `AddressInUse` or another `SettingError`, `VersionMismatch` or
    `WaitTimeout`.

    In IPython, a later cell that uses the same code and address again replaces this tunnel.

    An option that is missing or None takes its value from its environment variable, if set. The command line and
    ``%tunnel`` read the same variables.
    """
    return _open("proxy", given, aio.proxy_settings, aio.Proxy, Proxy, Phase.READY)


@accepts(_BenchCall, chosen)
def bench(given: _BenchCall) -> BenchResult:
    """Measure the tunnel to a serve. Takes about 12 s once it is connected.

    The blocking version of `aio.bench`. It uses a proxy of its own, which nobody else can use. Serve itself answers, so
    the model server behind it gets no request. Without an invite, or a room and a secret, it measures both sides on
    this machine, and compares them with the same requests without a tunnel.

    Returns the figures: ``print`` shows a table, and a notebook draws it. Raises what `proxy` raises, or `PeerError` if
    this serve does not answer measurements.

    An option that is missing or None takes its value from its environment variable, if set. The command line reads the
    same variables.
    """
    return measure(given, timeout=given.timeout, quiet=given.quiet, in_loop=given.in_loop)


if TYPE_CHECKING:  # mypy rejects an unneeded ignore, so these lines prove that it knows the parameters
    serve(8.5)  # type: ignore[arg-type]
    proxy(no_such_option=True)  # type: ignore[call-arg]


def measure(options: BenchOptions, *, timeout: float | None, quiet: bool, in_loop: bool = False) -> BenchResult:
    """See `benchmark.bench`."""
    from .benchmark import bench

    hold = nested.hold("bench") if in_loop else _thread("bench")
    try:
        return hold.call(bench(options, timeout=timeout, quiet=quiet))
    finally:
        hold.close()


def diagnose(settings: Settings, *, upstream: Upstream | None, address: str, peer: bool = False) -> Diagnosis:
    """Run `doctor.checks.diagnose` and wait for it, which takes some seconds."""
    from .doctor.checks import diagnose

    hold = _thread("diagnose")
    try:
        return hold.call(diagnose(settings, upstream=upstream, address=address, peer=peer))
    finally:
        hold.close()


def start(settings: ServeSettings | ProxySettings) -> Server | Proxy:
    """Start a tunnel and return without waiting for a connection. Raises `SettingError`."""
    with _closed_if_it_fails(_thread("start")) as hold:
        if isinstance(settings, ServeSettings):
            return _noted(Server(hold.call(_started(aio.Server, settings)), hold), settings, given=True)
        return _noted(Proxy(hold.call(_started(aio.Proxy, settings)), hold), settings, given=True)


def _open(
    name: str,
    given: G,
    settings_of: Callable[[G], Coroutine[Any, Any, S]],
    make: Callable[[S], T],
    handle_of: Callable[[T, runtime.Hold], H],
    phase: Phase,
) -> H:
    """Open a tunnel and wait for it. A notebook shows its panel at once, and the panel shows what it waits for."""
    with _closed_if_it_fails(nested.hold(name) if given.in_loop else _thread(name)) as hold:
        chosen = given.meeting() is not None
        settings = _replacing(hold.call(settings_of(given)), given=chosen, quiet=given.quiet)
        handle = _noted(handle_of(hold.call(_started(make, settings)), hold), settings, given=chosen)
        drawn = not given.quiet and _drawn(handle)
        hold.call(handle._tunnel.wait(phase, timeout=given.timeout, quiet=given.quiet or drawn))
        return handle


@contextmanager
def _closed_if_it_fails(hold: runtime.Hold) -> Iterator[runtime.Hold]:
    """Close the hold if the block fails. For a port in use, say whether a proxy of this process uses it."""
    try:
        yield hold
    except AddressInUse as exc:
        hold.close()
        own = opened.listens(exc.address)
        raise AddressInUse(exc.address, next_free=exc.next_free, own=own) from exc.__cause__
    except BaseException:
        hold.close()
        raise


async def _started(make: Callable[[S], T], settings: S) -> T:
    tunnel = make(settings)
    try:
        await tunnel.start()
    except BaseException:
        await tunnel.aclose()
        raise
    return tunnel


def _noted(handle: H, settings: Settings, *, given: bool) -> H:
    tunnel, hold = handle._tunnel, handle._hold
    opened.note(opened.Opened(tunnel=tunnel, hold=hold, settings=settings, given=given, cell=_cell()))
    return handle


def _replacing(settings: S, *, given: bool, quiet: bool) -> S:
    """Close the tunnel of an earlier cell that these settings replace, if any, and return the adapted settings."""
    before = opened.earlier(settings, given=given, cell=_cell())
    if before is None:
        return settings
    status = before.tunnel.status
    before.close()
    if not quiet and sys.stdout is not None:
        line = f"this {status.role} replaces the one of an earlier cell ({status.url}), which was stopped"
        descriptors.write(sys.stdout, f"llmtunnel: {line}\n")
    return opened.in_place_of(before, settings, given=given)


def _cell() -> int | None:
    """Return the number of the cell that IPython runs, or None outside IPython."""
    if "IPython" not in sys.modules:
        return None
    from .notebook.display import cell

    return cell()


def _drawn(handle: Handle[Any]) -> bool:
    """Display the handle's panel if it updates while the cell runs. Returns whether it was displayed."""
    if "IPython" not in sys.modules:
        return False
    from .notebook.display import draw

    return draw(handle)


def _thread(name: str) -> runtime.Hold:
    _refuse(runtime.shared.current, name)
    return runtime.shared.hold()


async def _called(call: Callable[[], R]) -> R:
    return call()


def _refuse(stuck: bool, name: str, *, twin: str | None = None) -> None:
    if stuck:
        raise TunnelError(
            f"`{name}` would block the event loop that the tunnel runs on.",
            hint=f"Use its async version in llmtunnel.aio: `{twin or name}`.",
        )
