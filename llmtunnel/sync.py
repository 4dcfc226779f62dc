"""The blocking twins of `llmtunnel.aio`: the tunnel runs on the loop thread of `runtime`, the caller waits.

No logic of its own. A cell that sleeps or computes stalls nothing, and a blocking client in the same notebook can use
the proxy. With ``in_loop=True`` neither is so: the tunnel runs on the caller's own loop, see `nested`.
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
    """A tunnel whose calls block. Any thread may read its properties and records."""

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
        """The present state: phase, peers, counts of requests and bytes. Any thread may read it."""
        return self._tunnel.status

    @property
    def url(self) -> str:
        """Proxy: where it listens, ``http://127.0.0.1:8000``. Serve: the upstream's address."""
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
        """Return the requests under way, oldest first. Call it from any thread."""
        return self._tunnel.active_requests()

    def subscribe(self, callback: Callable[[Notice], None]) -> aio.Unsubscribe:
        """Call a function with every notice from now on, on the tunnel's loop. Return a function that ends that.

        Parameters:
            callback: Called with each `Notice`. It must not block.
        """
        return self._tunnel.subscribe(callback)

    def wait(self, phase: Phase = Phase.READY, *, timeout: float | None = aio.WAIT, quiet: bool = False) -> None:
        """Return when the tunnel is in this phase or further.

        From 3 s on, standard error says in one line what the call waits for, and again when that changes.

        Raises `WaitTimeout` after ``timeout`` seconds, `SettingError` if there is no such phase, or the error with
        which the tunnel failed.

        Parameters:
            phase: A `Phase`, or its name, such as "ready".
            timeout: Seconds to wait. None: no limit.
            quiet: Say nothing meanwhile.
        """
        _refuse(self._hold.stuck, "wait")
        self._hold.call(self._tunnel.wait(phase, timeout=timeout, quiet=quiet))

    def reconnect(self) -> None:
        """Drop every connection and connect again. Return at once. Requests under way end with an error.

        Raises `TunnelError` if the tunnel is not running.
        """
        self._do("reconnect", self._tunnel.reconnect)

    def close(self) -> None:
        """Close the tunnel: end requests under way with an error, tell the peers, leave the room. Idempotent.

        The loop thread ends with the last handle. In a process that was forked since, it does nothing: the tunnel
        belongs to the parent.
        """
        _refuse(self._hold.stuck, "close", twin="aclose")
        self._hold.close()

    def panel(self) -> Panel:
        """Return the live panel. Its ``widget`` is for layouts of your own. Needs ipywidgets."""
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
    """Serve: the side with the upstream."""

    @property
    def invite(self) -> Invite | None:
        """The invite; None if you chose a room and a secret. Its ``code`` is for those who may use the service."""
        return self._tunnel.invite

    def renew_invite(self) -> Invite:
        """Make a new code for newcomers, in the same room. Connected peers stay. Raises `SettingError`.

        If serve was started with ``once``, one more proxy may use the new code. ``expires`` does not apply to it.
        """
        return self._do("renew_invite", self._tunnel.renew_invite)

    def kick(self, peer: str) -> None:
        """Disconnect a peer and block its handle. Raises `PeerNotFound`.

        Serve recognises a handle by its certificate, and each handle has a new one. Whoever has the code can come back
        with another handle, even in the same process: call `renew_invite` as well.

        Parameters:
            peer: The peer's name, as in `Status.peers`.
        """
        self._do("kick", partial(self._tunnel.kick, peer))


class Proxy(Handle[aio.Proxy]):
    """Proxy: the side with the local listener."""

    @property
    def openai_base_url(self) -> str:
        """The ``base_url`` for OpenAI clients."""
        return self._tunnel.openai_base_url

    @property
    def needs_key(self) -> bool:
        """See `aio.Proxy.needs_key`."""
        return self._tunnel.needs_key

    def models(self) -> tuple[str, ...]:
        """Return the models that the other side lists, in OpenAI's way or Ollama's. Empty if it lists none.

        The request goes through the tunnel itself, so it needs no key of the listener. Raises `PeerNotFound` or another
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
        "Run on the event loop that already runs here, such as a notebook's.",
        default=False,
        group=CALL,
    )


@options
class _ServeCall(_Where, aio.ServeCall):
    """What `serve` takes."""


@options
class _ProxyCall(_Where, aio.ProxyCall):
    """What `proxy` takes."""


@options
class _BenchCall(_Where, aio.BenchCall):
    """What `bench` takes."""


@accepts(_ServeCall, chosen)
def serve(given: _ServeCall) -> Server:
    """Share an HTTP service. Return when it has joined its room on the signal server.

    The blocking twin of `aio.serve`. ``invite``, or ``room`` and ``secret``, say where the two sides meet. Without
    them, serve makes a new invite: `Server.invite`. Raises `SettingError`, `UpstreamNotFound` or `WaitTimeout`.

    In IPython, a later cell that serves the same upstream again replaces this tunnel and keeps its invite.

    If you leave an option out, or pass None, its variable in the environment counts. The command line and ``%tunnel``
    read the same variables.
    """
    return _open("serve", given, aio.serve_settings, aio.Server, Server, Phase.WAITING)


@accepts(_ProxyCall, chosen)
def proxy(given: _ProxyCall) -> Proxy:
    """Use the other side's HTTP service on this machine. Return when serve is connected.

    The blocking twin of `aio.proxy`. ``invite``, or ``room``, ``secret`` and ``signal``, say where the two sides meet:
    the same as at serve. Raises `AddressInUse` or another `SettingError`, `VersionMismatch` or
    `WaitTimeout`.

    In IPython, a later cell that uses the same code and address again replaces this tunnel.

    If you leave an option out, or pass None, its variable in the environment counts. The command line and ``%tunnel``
    read the same variables.
    """
    return _open("proxy", given, aio.proxy_settings, aio.Proxy, Proxy, Phase.READY)


@accepts(_BenchCall, chosen)
def bench(given: _BenchCall) -> BenchResult:
    """Measure the tunnel to a serve, by a proxy of its own that nobody else can use; about 12 s once it is connected.

    The blocking twin of `aio.bench`. Serve itself answers: the model server behind it gets no request. Without an
    invite, or a room and a secret, it measures both sides on this machine, beside the same requests without a tunnel.
    Returns the figures: ``print`` shows a table, and a notebook draws it. Raises what `proxy` raises, or `PeerError` if
    this serve answers no measurement.

    If you leave an option out, or pass None, its variable in the environment counts. The command line reads the same
    variables.
    """
    return measure(given, timeout=given.timeout, quiet=given.quiet, in_loop=given.in_loop)


if TYPE_CHECKING:  # mypy complains of an ignore that it does not need: these parameters are known to it
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
    """See `doctor.checks.diagnose`; takes some seconds."""
    from .doctor.checks import diagnose

    hold = _thread("diagnose")
    try:
        return hold.call(diagnose(settings, upstream=upstream, address=address, peer=peer))
    finally:
        hold.close()


def start(settings: ServeSettings | ProxySettings) -> Server | Proxy:
    """A tunnel that is started and not waited for: its status tells how it goes. Raises `SettingError`."""
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
    """Open a tunnel and wait for it. In a notebook its panel is there at once, and shows what is waited for."""
    with _closed_if_it_fails(nested.hold(name) if given.in_loop else _thread(name)) as hold:
        chosen = given.meeting() is not None
        settings = _replacing(hold.call(settings_of(given)), given=chosen, quiet=given.quiet)
        handle = _noted(handle_of(hold.call(_started(make, settings)), hold), settings, given=chosen)
        drawn = not given.quiet and _drawn(handle)
        hold.call(handle._tunnel.wait(phase, timeout=given.timeout, quiet=given.quiet or drawn))
        return handle


@contextmanager
def _closed_if_it_fails(hold: runtime.Hold) -> Iterator[runtime.Hold]:
    """What is opened with the hold ends with it, where that fails; a port that is taken is told by whom."""
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
    """The settings, once the tunnel of an earlier cell is closed whose place theirs takes."""
    before = opened.earlier(settings, given=given, cell=_cell())
    if before is None:
        return settings
    status = before.tunnel.status
    before.close()
    if not quiet and sys.stdout is not None:
        line = f"the {status.role} of an earlier cell ({status.url}) was stopped, this one takes its place"
        descriptors.write(sys.stdout, f"llmtunnel: {line}\n")
    return opened.in_place_of(before, settings, given=given)


def _cell() -> int | None:
    """The number of the cell that IPython runs; None outside IPython."""
    if "IPython" not in sys.modules:
        return None
    from .notebook.display import cell

    return cell()


def _drawn(handle: Handle[Any]) -> bool:
    """Whether the handle's panel is displayed now, and lives while the cell runs."""
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
            hint=f"Use its twin in llmtunnel.aio there: `{twin or name}`.",
        )
