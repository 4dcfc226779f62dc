"""A complete measurement: of a serve with a proxy of its own, or of both sides with a toy model server here.

The proxy's listener has a key of its own, so that nobody else on this machine can use it. The proxy only sends requests
that serve itself answers (`endpoints.bench`). A serve that does not answer them is distinguished from a broken tunnel.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final
from urllib.parse import urlsplit

from signal_server.server import SignalServer

from . import descriptors
from .config import BenchOptions, IceServers, ProxySettings, ServeSettings
from .endpoints.toy import Toy
from .errors import PeerError, PeerLost, TunnelError, Unwelcome, UpstreamError
from .invite import Invite
from .measure.client import Address, Declined
from .measure.figures import Figures
from .measure.phases import DECLINED, PHASES, RELAY_BYTES, WARM_UP, Bounds, Phase
from .measure.result import BenchResult
from .paths import AUTO, Path
from .protocol.auth import SPARED
from .protocol.hello import Feature
from .session.mux import Session
from .status import Notice
from .status import Phase as State
from .tunnel import WAIT, Proxy, Server
from .upstream import Upstream

HOST: Final = "127.0.0.1"
LOCAL: Final = "both sides, the toy model server and what measures share one process here"

Hear = Callable[[Notice], None]


class Progress:
    """Receives the progress of a measurement, and ignores it unless a subclass overrides this. No call may block."""

    def heard(self, notice: Notice) -> None:
        """The proxy has published a notice."""

    def connected(self, so_far: BenchResult) -> None:
        """The measurement starts now."""

    def begins(self, phase: Phase) -> None:
        """This phase starts now."""

    def found(self, so_far: BenchResult) -> None:
        """Another figure is known."""


async def bench(
    options: BenchOptions, *, timeout: float | None = WAIT, quiet: bool = True, progress: Progress | None = None
) -> BenchResult:
    """Measure a tunnel. ``timeout``: maximum seconds to wait for serve; ``quiet``: see `Tunnel.wait`.

    Raises what a proxy's wait raises, or `PeerError` if serve does not answer measurements.
    """
    options.check()
    progress = progress or (Progress() if quiet else _Said(options.duration))
    if options.meeting() is None:
        async with _here(options) as (proxy, direct):
            return await _measured(proxy, options.duration, progress, direct=direct)
    async with _proxy(options, progress.heard) as proxy:
        try:
            await proxy.wait(State.READY, timeout=timeout, quiet=quiet)
        except Unwelcome as exc:
            raise _spared() if exc.message == SPARED else exc from None
        return await _measured(proxy, options.duration, progress)


class _Said(Progress):
    """Says on standard error how long the measurement takes."""

    def __init__(self, duration: float) -> None:
        self._duration = duration

    def connected(self, so_far: BenchResult) -> None:
        """See `Progress.connected`."""
        if sys.stderr is not None:
            descriptors.write(sys.stderr, f"llmtunnel bench: measuring for about {self._duration:g} s\n")


class _Bench(Proxy):
    """A proxy that gives access to its session."""

    def __init__(self, settings: ProxySettings, key: str = "") -> None:
        super().__init__(settings)
        self._bench_key = key

    async def carried(self) -> Session:
        """Return the session that carries requests now. Raises `PeerNotFound`."""
        return await self._room.session(self._settings.timeouts.wait_for_peer)

    async def failed(self) -> None:
        """Raise what ended the tunnel, if something did: a kick, for example."""
        if self.status.phase is State.FAILED:
            await self.wait_stopped()

    @property
    def listens_at(self) -> Address:
        """Address for requests."""
        return _address(self.url, self._bench_key)


@asynccontextmanager
async def _proxy(options: BenchOptions, hear: Hear) -> AsyncIterator[_Bench]:
    meeting, key = options.meeting(), secrets.token_urlsafe(24)
    assert meeting is not None, "looked at before"
    proxy = _Bench(options.settings(meeting, key=key), key)
    proxy.subscribe(hear)
    try:
        await proxy.start()
        yield proxy
    finally:
        await proxy.aclose()


@asynccontextmanager
async def _here(options: BenchOptions) -> AsyncIterator[tuple[_Bench, Address]]:
    """Start both sides on this machine, as in the demo. Yields the proxy, and the address of the toy model server."""
    async with AsyncExitStack() as stack:
        toy = await stack.enter_async_context(Toy(HOST, delay=0, measured=True))
        signal = await stack.enter_async_context(SignalServer(HOST, 0))
        invite = Invite.generate(signal.url)
        common: dict[str, Any] = {
            "room": invite.room,
            "secret": invite.secret,
            "signal": invite.signal,
            "ice": IceServers(stun=(), turn=options.turn, turn_user=options.turn_user, turn_pass=options.turn_pass),
            "no_signal_ice": True,  # it hands out none
            "loopback": True,
            "path": Path.DIRECT.value if options.path == AUTO else options.path,  # local TCP would be used otherwise
        }
        serve = Server(ServeSettings(**common, invite=invite, upstream=Upstream.parse(toy.url)))
        proxy = _Bench(ProxySettings(**common, listen=f"{HOST}:0"))
        for tunnel in (serve, proxy):
            stack.push_async_callback(tunnel.aclose)
            await tunnel.start()
        await proxy.wait(State.READY, quiet=True)
        yield proxy, _address(toy.url)


async def _measured(
    proxy: _Bench, duration: float, progress: Progress, *, direct: Address | None = None
) -> BenchResult:
    try:
        return await _measure(proxy, duration, progress, direct=direct)
    except PeerError:
        await proxy.failed()
        raise


async def _measure(proxy: _Bench, duration: float, progress: Progress, *, direct: Address | None = None) -> BenchResult:
    session = await proxy.carried()
    if direct is None and Feature.BENCH not in session.features:
        raise _unanswered()
    # A better path may become available within a second, and neither side's code is warm yet.
    with suppress(Declined):
        await _run(WARM_UP, proxy.listens_at, Bounds(seconds=1.0))
    session = await proxy.carried()
    began, loss = time.perf_counter(), _Loss(session)
    result = BenchResult(
        tunnel=Figures(),
        direct=None if direct is None else Figures(),
        path=session.path,
        rtt_ms=_rtt(session, None),
        started=time.time(),
        seconds=0.0,
        notes=(LOCAL,) if direct else (),
    )
    progress.connected(result)
    for phase in PHASES:
        progress.begins(phase)
        session.measure()
        bounds = Bounds(seconds=duration * phase.share / (1 if direct is None else 2))
        if session.path is Path.RELAY:
            bounds = replace(bounds, bytes=RELAY_BYTES)
        if direct is not None and result.direct is not None:
            result = replace(result, direct=phase.put(result.direct, await _run(phase, direct, bounds)))
        try:
            found = await _run(phase, proxy.listens_at, bounds)
            why = "" if found else f"{phase.name}: no data arrived in time"
        except Declined as exc:
            found, why = None, f"{phase.name}: not measured, serve says: {exc.message}"
        session = await proxy.carried()
        lost, packets = loss.now(session)
        result = replace(
            result,
            tunnel=phase.put(result.tunnel, found),
            path=session.path,
            rtt_ms=_rtt(session, result.rtt_ms),
            loss=lost,
            packets=packets,
            seconds=time.perf_counter() - began,
            notes=_notes(result, session, why),
        )
        progress.found(result)
    return result


async def _run(phase: Phase, address: Address, bounds: Bounds) -> object:
    try:
        return await phase.measure(address, bounds)
    except Declined as exc:
        if exc.status in DECLINED:
            raise
        raise PeerError(f"The tunnel did not answer a measurement: {exc.message}") from exc
    except (UpstreamError, OSError) as exc:
        raise PeerLost(f"The tunnel broke while it was measured ({phase.name}).", hint="Try again.") from exc


def _notes(result: BenchResult, session: Session, why: str) -> tuple[str, ...]:
    notes = [*result.notes, *((why,) if why else ())]
    if session.path is not result.path:
        notes.append(f"the path changed meanwhile, from {result.path} to {session.path}")
    return tuple(notes)


class _Loss:
    """Packets lost since the start, while the same path is in use."""

    def __init__(self, session: Session) -> None:
        self._began = session.passed
        self._path = session.path

    def now(self, session: Session) -> tuple[float | None, int | None]:
        """Return the share, and the number of packets; None if unknown."""
        passed = session.passed
        if self._began is None or passed is None or passed < self._began or session.path is not self._path:
            return None, None
        sent, lost = passed[0] - self._began[0], passed[1] - self._began[1]
        return (lost / sent, sent) if sent else (None, None)


def _rtt(session: Session, before: float | None) -> float | None:
    """Return the shortest round-trip time so far, in milliseconds."""
    known = [each for each in (before, None if session.rtt is None else session.rtt * 1000) if each is not None]
    return min(known, default=None)


def _address(url: str, key: str = "") -> Address:
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None, "an address that we listen on"
    return Address(parts.hostname, parts.port, key)


def _unanswered() -> TunnelError:
    return PeerError(
        "This serve does not answer measurements.",
        hint="It was started with --no-bench, or runs llmtunnel 0.1.0 or another program. On that machine, update"
        " llmtunnel and start serve without --no-bench. `llmtunnel bench` without a code measures this machine.",
    )


def _spared() -> TunnelError:
    return Unwelcome(
        "The code is for one proxy, and a measurement would use it up. It was not used.",
        hint="Ask the person who runs serve for a code without --once.",
    )
