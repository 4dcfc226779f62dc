"""A signal server as a process: its line of output, its logs, and the signals that end it."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

from . import logs
from .access import Access, TokenFile
from .accounts import FORWARDED, netloc
from .ice import IceServers
from .limits import Limits
from .output import USAGE, say
from .pages import Pages
from .registry import Cluster
from .server import THIS_MACHINE, SignalServer, open_files
from .tasks import first_of

logger = logging.getLogger(__name__)

FILES: Final = 2_384
"""Number of open files to request besides `Limits.sockets`: 16,384 in all by default."""
PAUSE: Final = 0.5
"""Minimum seconds between two evictions of strangers for that reason; asyncio tries to accept again after 1 s."""
QUIET: Final = 5.0
"""Minimum seconds between two log lines about connections that cannot be accepted."""

BY_SIGNAL: Final = 128
"""Base of the exit status of a process that a signal ended; the signal's number is added."""

NO_PROMETHEUS: Final = (
    "--metrics-listen needs the package prometheus-client. Install it, or llmtunnel with the extra llmtunnel[metrics]."
)
NO_REDIS: Final = "--redis needs the package redis. Install it, or llmtunnel with the extra llmtunnel[redis]."

_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors with which the system reports that it cannot hold another connection."""

# SIGBREAK is Ctrl-Break, and Windows sends it to a console that closes.
_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)


Address = tuple[str, int]


class CannotListen(Exception):
    """An address that the process cannot listen on, as its operator reads it."""


def run(
    host: str,
    port: int,
    *,
    limits: Limits,
    trusted: Sequence[str] | None = None,
    ice: IceServers | None = None,
    access: Access | None = None,
    tokens: TokenFile | None = None,
    forwarded_header: str = FORWARDED,
    log_addresses: bool = False,
    cluster: Cluster | None = None,
    pages: Pages | None = None,
    log_level: str,
    log_format: str = "text",
    metrics: Address | None = None,
    drain: float = 0.0,
) -> int:
    """Serve until a signal arrives, and drain. Returns the exit status.

    ``tokens``: the file of ``access``. ``metrics``: where to answer ``/metrics``; None: nowhere. ``drain``: the maximum
    seconds to drain; a second signal ends that. For the others, see `SignalServer`.
    """
    logs.set_up(log_level, log_format)
    raise_open_files(limits.sockets + FILES)
    if metrics is not None and find_spec("prometheus_client") is None:
        print(NO_PROMETHEUS, file=sys.stderr)  # noqa: T201
        return USAGE
    if cluster is not None and find_spec("redis") is None:
        print(NO_REDIS, file=sys.stderr)  # noqa: T201
        return USAGE
    try:
        make = partial(SignalServer, host, port, limits=limits, trusted_proxies=trusted or THIS_MACHINE)
        make = partial(make, ice=ice, access=access, forwarded_header=forwarded_header, log_addresses=log_addresses)
        make = partial(make, cluster=cluster, pages=pages)
        return BY_SIGNAL + asyncio.run(_serve(make, (host, port), _watching(tokens, access), metrics, drain))
    except CannotListen as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return USAGE


async def _serve(
    make: Callable[[], SignalServer],
    address: Address,
    beside: AbstractAsyncContextManager[None],
    metrics: Address | None,
    drain: float,
) -> int:
    """Serve, drain, and return the number of the signal that ended it."""
    stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    again = asyncio.Event()
    _on_signals(lambda number: again.set() if stopped.done() else stopped.set_result(number))
    server = make()
    async with AsyncExitStack() as stack:
        if metrics is not None:
            from .metrics import Metrics

            await _listen(stack, Metrics(server, *metrics), metrics, "--metrics-listen")
        await _listen(stack, server, address, "--listen")
        await stack.enter_async_context(beside)
        asyncio.get_running_loop().set_exception_handler(_Trouble(server, stopped))
        if failed := say(f"signal server listening on {server.url}\n"):
            logger.warning("Listening on %s; cannot write to standard output: %s", server.url, failed)
        number = await stopped
        if drain:
            await first_of(server.drain(drain), again.wait())
        return number


async def _listen(
    stack: AsyncExitStack, listener: AbstractAsyncContextManager[object], address: Address, flag: str
) -> None:
    try:
        await stack.enter_async_context(listener)
    except OSError as exc:
        raise CannotListen(f"Cannot listen on {netloc(*address)}: {_reason(exc, flag)}.") from exc


@asynccontextmanager
async def _watching(tokens: TokenFile | None, access: Access | None) -> AsyncIterator[None]:
    """Use changes of the file of access tokens meanwhile."""
    if tokens is None or access is None:
        yield
        return
    watching = asyncio.create_task(tokens.watch(access), name="watching the access tokens")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait([watching])


def raise_open_files(wanted: int) -> None:
    """Raise this process's limit of open files so far, if possible."""
    try:
        import resource
    except ImportError:  # Windows, where sockets are not files
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    while most > open_files():  # macOS reports no limit, and rejects more than 10,240
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (ValueError, OSError):
            most //= 2


class _Trouble:
    """Handles errors outside of any task. It logs only from time to time that connections cannot be accepted."""

    def __init__(self, server: SignalServer, stopped: asyncio.Future[int]) -> None:
        self._server = server
        self._stopped = stopped
        self._full_until = 0.0
        self._quiet_until = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an error as asyncio's exception handlers do."""
        exc = context.get("exception")
        if isinstance(exc, OSError) and exc.errno in _NO_ROOM:
            self._make_room(exc, now=loop.time())
        elif not self._is_late_attempt(exc):
            loop.default_exception_handler(context)

    def _make_room(self, exc: OSError, *, now: float) -> None:
        if now >= self._full_until:  # asyncio reports each connection that it would have accepted in one turn
            self._full_until = now + PAUSE
            self._server.make_room()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET
            logger.error("Cannot accept connections: %s (open files: at most %d)", exc.strerror, open_files())

    def _is_late_attempt(self, exc: object) -> bool:
        """Return whether asyncio has tried to accept again after the server stopped.

        asyncio does not cancel the attempt when the listening socket closes. It raises
        ``ValueError: Invalid file descriptor: -1`` then.
        """
        return self._stopped.done() and self._full_until > 0 and isinstance(exc, ValueError)


def _on_signals(stop: Callable[[int], None]) -> None:
    """Call ``stop`` with the number of each signal that ends the server.

    A signal that was ignored when the process started stays ignored, as a shell's ``&`` and ``nohup`` require.
    """
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            continue
        try:
            loop.add_signal_handler(number, stop, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda number, _frame: loop.call_soon_threadsafe(stop, number))


def _reason(exc: OSError, flag: str) -> str:
    match exc.errno:
        case errno.EADDRINUSE:
            return f"it is in use by another program; choose another with {flag}"
        case errno.EADDRNOTAVAIL | None:  # Python 3.12 and later raise it without a number
            return "this machine has no such address"
        case errno.EACCES:
            return "not permitted; choose a port above 1023"
    return exc.strerror or str(exc)
