"""Handles for the two sides of a tunnel, on the caller's event loop. Nothing here waits for the other side.

`Tunnel.start` returns at once. The tunnel keeps trying until `Tunnel.aclose`. Its state is derived from its room
instead of being stored.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from . import descriptors, runtime
from .config import ProxySettings, ServeSettings, Settings
from .endpoints.ledger import RECORDS, Ledger
from .errors import PeerNotFound, SettingError, TunnelError, WaitTimeout
from .invite import is_invites
from .status import (
    ActiveRequest,
    ErrorNotice,
    Health,
    Listening,
    Notice,
    PeerConnected,
    PeerLostNotice,
    PeerStatus,
    Phase,
    Ready,
    Reconnecting,
    RequestFinished,
    RequestRecord,
    Resumed,
    Role,
    Sample,
    SignalConnected,
    Status,
    Stopped,
    Suspended,
    TotalsNotice,
    UpstreamStatus,
    Waiting,
)
from .summary import ended, printable, waiting_words
from .transport.tasks import finish, report, stop
from .weblink import SIGNAL, link

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .endpoints.origin import Origin
    from .environment import Environ
    from .invite import Invite
    from .notebook.chat import Chat
    from .session.handlers import Handler
    from .session.mux import Session
    from .session.stream import Stream

logger = logging.getLogger(__name__)

WAIT: Final = 60.0
"""Default time to wait for the other side, in seconds."""
TOTALS_EVERY: Final = 60
"""Seconds between two `TotalsNotice`."""
TELL_EVERY: Final = 3.0
"""Seconds until a waiting call says what it waits for, and between two such lines."""
NO_PAGE: Final = "The signal server serves no page for browsers"
NO_PAGE_HINT: Final = (
    "Use a signal server that does (`llmtunnel signal`), or --web URL with a page elsewhere."
    " `llmtunnel web` serves or exports one."
)
_PROGRESS: Final = (Phase.STARTING, Phase.SIGNALING, Phase.WAITING, Phase.CONNECTING, Phase.READY)
_ENDED: Final = (Phase.STOPPED, Phase.FAILED)

Unsubscribe = Callable[[], None]

_started: Final[weakref.WeakSet[Tunnel]] = weakref.WeakSet()


class Tunnel(ABC):
    """One side of a tunnel: a handle for what runs on this loop."""

    def __init__(self, settings: Settings, role: Role) -> None:
        self._settings = settings
        self._role = role
        self._subscribers: list[Callable[[Notice], None]] = []
        self._waiters: set[asyncio.Future[None]] = set()
        self._ledger = Ledger(lambda record: self._notify(RequestFinished(record=record)))
        self._since: dict[str, float] = {}
        self._detail = ""
        self._trouble = self._signal_trouble = ("", "")
        """The last problem with the other side or with the signal server, and what to do about it."""
        self._registered = self._was_ready = False
        self._error: TunnelError | None = None
        self._task: asyncio.Task[None] | None = None
        self._sampling: asyncio.Task[None] | None = None
        self._totals_told = 0
        """Finished requests at the time of the last `TotalsNotice`."""
        self._closing: asyncio.Task[None] | None = None
        self._closed = False
        self._process = os.getpid()

    @property
    @abstractmethod
    def url(self) -> str:
        """Proxy: the address where it listens. Serve: the upstream's address."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the tunnel runs on; None before `start`."""
        return self._task.get_loop() if self._task is not None else None

    @property
    def status(self) -> Status:
        """Current state."""
        totals = self._ledger.totals
        turn, turn_from = self._room.turn
        return Status(
            role=self._role,
            phase=self._phase(),
            room=self._settings.room,
            url=self.url,
            detail=self._detail,
            peers=tuple(self._peer_status(each) for each in self._room.sessions),
            requests=totals.requests,
            active=totals.active,
            bytes_up=totals.bytes_up,
            bytes_down=totals.bytes_down,
            failed=totals.failed,
            tokens=self._ledger.tokens,
            first_byte=self._ledger.first_byte(),
            first_token=self._ledger.first_token(),
            bench_requests=self._ledger.bench.requests,
            bench_bytes=self._ledger.bench.bytes_up + self._ledger.bench.bytes_down,
            signal=self._settings.signal,
            turn=turn,
            turn_from=turn_from,
            secret=self._settings.secret is not None,
        )

    def _peer_status(self, session: Session) -> PeerStatus:
        totals = self._ledger.of(session.peer)
        return PeerStatus(
            peer=session.peer,
            path=session.path,
            rtt=session.rtt,
            since=self._since.get(session.peer, 0.0),
            version=session.version,
            fingerprint=session.certificate.hex(),
            agent=session.agent,
            address=session.address,
            authenticated=session.authenticated,
            detail=session.detail,
            requests=totals.requests,
            active=totals.active,
            bytes_up=totals.bytes_up,
            bytes_down=totals.bytes_down,
        )

    def requests(self, limit: int = RECORDS) -> list[dict[str, str | float | None]]:
        """Return the last finished requests as rows, oldest first: ``pandas.DataFrame(proxy.requests())``.

        Thread-safe.

        Columns ending in ``_ms`` are milliseconds from the request's head; None if the request did not get that far:

        - ``id``: number of the request in this tunnel, from 1
        - ``started``: when the request's head arrived, Unix time in seconds
        - ``method``, ``path``: the path without its query
        - ``status``: HTTP status; None if the client got none
        - ``error``: why the request was incomplete, or why the pull of a model failed; else empty
        - ``peer``: name of the other side; empty if it was not reached
        - ``model``: as the response names it; empty if it names none
        - ``tokens``: tokens of the response; None if no model answered
        - ``tokens_per_second``: rate from the first token to the last
        - ``queued_ms``: time until the request was forwarded
        - ``first_byte_ms``: time until the response's head arrived
        - ``first_body_ms``: time until the first byte of its body arrived
        - ``first_token_ms``: time until the first token arrived; None if the response is not a model's stream
        - ``duration_ms``: time until the end
        - ``bytes_up``, ``bytes_down``: size of the request's and the response's body, as transferred
        - ``total_up``, ``total_down``: size according to Content-Length; None without one

        Parameters:
            limit: Maximum number of requests. The tunnel keeps the last 500.
        """
        return [record.as_dict() for record in self._ledger.records(limit)]

    def records(self, limit: int = RECORDS) -> tuple[RequestRecord, ...]:
        """Return the same requests as objects, with the names of their header fields and the values of a few.

        Parameters:
            limit: Maximum number of requests. The tunnel keeps the last 500.
        """
        return self._ledger.records(limit)

    def history(self) -> list[dict[str, float | None]]:
        """Return one row for each second of the last hour, oldest first: ``pandas.DataFrame(proxy.history())``.

        Columns: ``time`` (Unix time, in seconds), ``rtt_ms`` (round-trip time in milliseconds, as the mean over all
        peers; None if no peer has one), ``active`` (running requests), and the rates since the previous row:
        ``up_bytes_per_second``, ``down_bytes_per_second`` and ``tokens_per_second``. Thread-safe.
        """
        return [_rates(before, sample) for before, sample in pairwise(self._ledger.samples())]

    def plot(self) -> Figure:
        """Plot the last hour: round-trip time, time to the first token, tokens and bytes per second.

        Returns a matplotlib figure, which a notebook displays; ``.savefig("tunnel.png")`` saves it. Raises
        `TunnelError` if matplotlib is not installed.
        """
        from .notebook.plot import plot

        return plot(self)

    def active_requests(self) -> tuple[ActiveRequest, ...]:
        """Return the running requests, oldest first. Thread-safe."""
        return self._ledger.active()

    def subscribe(self, callback: Callable[[Notice], None]) -> Unsubscribe:
        """Call a function with every future notice, on this loop. Returns a function that cancels the subscription.

        Parameters:
            callback: Called with each `Notice`. It must not block.
        """
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback) if callback in self._subscribers else None

    async def start(self) -> None:
        """Start the local part of this side, then continue in the background. Raises `SettingError`."""
        self._refuse_forked()
        runtime.refuse_green_threads()
        await self._open()
        self._task = asyncio.create_task(self._run(), name=f"llmtunnel {self._role}")
        _started.add(self)
        self._sampling = asyncio.create_task(self._sample(), name="llmtunnel samples")
        self._sampling.add_done_callback(report)

    @staticmethod
    def running() -> tuple[Tunnel, ...]:
        """Return all tunnels of this process that are started and not closed."""
        return tuple(each for each in tuple(_started) if not (each._closed or runtime.elsewhere(each._process)))

    async def wait(self, phase: Phase = Phase.READY, *, timeout: float | None = WAIT, quiet: bool = False) -> None:
        """Wait until the tunnel has reached a phase.

        After `TELL_EVERY` seconds, a line on standard error says what the call waits for, and again when that changes.
        Raises `WaitTimeout` after ``timeout`` seconds, `SettingError` for an unknown phase, or the error that made the
        tunnel fail.

        Parameters:
            phase: A `Phase`, or its name, such as "ready".
            timeout: Maximum time to wait, in seconds. None: no limit.
            quiet: Print nothing while waiting.
        """
        self._refuse_forked()
        if phase not in tuple(Phase):
            raise SettingError(f"Unknown phase {phase!r}.", hint=f"Use one of {', '.join(Phase)}.")
        phase = Phase(phase)
        telling = None
        if not quiet and phase in _PROGRESS and sys.stderr is not None:
            telling = asyncio.create_task(self._tell_what_it_does(), name=f"llmtunnel {self._role} tells what it does")
        try:
            async with asyncio.timeout(timeout):
                while not self._reached(phase):
                    await self._change()
        except TimeoutError as exc:
            raise self._late(phase, timeout) from exc
        finally:
            if telling is not None:
                telling.cancel()

    async def wait_stopped(self) -> None:
        """Wait until the tunnel has stopped. Raises the error that made it fail."""
        self._refuse_forked()
        while self._phase() not in _ENDED:
            await self._change()
        if self._error is not None:
            raise self._error.again()

    def reconnect(self) -> None:
        """Drop every connection and reconnect at once. Running requests end with an error.

        Raises `TunnelError` if the tunnel is not running.
        """
        self._refuse_forked()
        if self._task is None or self._phase() in _ENDED:
            raise TunnelError(f"The tunnel is {self._phase()} and cannot reconnect.", hint="Start a new one.")
        self._room.reconnect()

    async def aclose(self) -> None:
        """Close the tunnel: end running requests with an error, notify the peers, leave the room. Idempotent.

        In a process that was forked later, it does nothing, since the tunnel belongs to the parent process.
        """
        if runtime.elsewhere(self._process):
            return
        await asyncio.shield(self._begin_to_close())

    def close_soon(self) -> None:
        """Start `aclose` without waiting for its end. Thread-safe."""
        if self.loop is not None and not runtime.elsewhere(self._process):
            self.loop.call_soon_threadsafe(self._begin_to_close)

    def _begin_to_close(self) -> asyncio.Task[None]:
        if self._closing is None:
            self._closing = asyncio.create_task(self._end(), name=f"closing llmtunnel {self._role}")
        return self._closing

    def _refuse_forked(self) -> None:
        if runtime.elsewhere(self._process):
            raise runtime.parents_own(self._process)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _ipython_display_(self) -> None:
        from .notebook.display import show_result

        show_result(self)

    def _repr_mimebundle_(
        self, include: Collection[str] | None = None, exclude: Collection[str] | None = None
    ) -> dict[str, Any]:
        from .notebook.display import mimebundle

        return mimebundle(self, include, exclude)

    def __repr__(self) -> str:
        return f"<llmtunnel {self._role}: {self._phase()}, {self.url}>"

    # -- for the two sides to implement

    async def _open(self) -> None:
        """Open local resources, if any. Raises `SettingError`."""
        return

    @abstractmethod
    async def _close_local(self) -> None:
        """Close local resources."""

    def _make_room(self, handler: Handler | None = None) -> None:
        from .session.room import Room

        self._room = Room(self._settings, self._role, handler=handler, notify=self._notify)

    # -- running

    async def _run(self) -> None:
        try:
            await self._room.run()
        except TunnelError as exc:
            self._fail(exc)
        except Exception as exc:
            logger.exception("An internal error ended the tunnel")
            self._fail(TunnelError(f"An internal error ended the tunnel: {exc!r}.", hint="Please report this."))

    def _fail(self, error: TunnelError) -> None:
        self._error = error.again()
        self._notify(ErrorNotice(message=error.message, hint=error.hint))

    async def _end(self) -> None:
        try:
            running = [task for task in (self._task, self._sampling) if task is not None]
            await finish(partial(stop, *running), self._close_local)
        finally:
            self._closed = True
            if self._error is None:
                self._detail = ""  # the tunnel no longer waits for anything
            self._tell_totals()
            self._notify(Stopped(reason=str(self._error or "")))

    async def _sample(self) -> None:
        """Record the figures of each second, and publish the totals each minute."""
        while True:
            for _ in range(TOTALS_EVERY):
                rtts = [session.rtt for session in self._room.sessions if session.rtt is not None]
                self._ledger.sample(sum(rtts) / len(rtts) if rtts else None)
                await asyncio.sleep(1)
            self._tell_totals()

    def _tell_totals(self) -> None:
        ended = self._ledger.totals.requests + self._ledger.bench.requests
        if ended != self._totals_told:
            self._totals_told = ended
            self._publish(TotalsNotice.of(self.status))

    # -- notices

    def _notify(self, notice: Notice) -> None:
        match notice:
            case SignalConnected():
                self._registered = True
                self._detail, self._signal_trouble = "", ("", "")
            case Waiting(role=role, room=room):
                self._detail = waiting_words(role, room)
            case PeerConnected(peer=peer, time=time):
                self._since[peer] = time
                self._detail, self._trouble = "", ("", "")
            case Suspended(reason=reason):
                self._detail, self._trouble = _joined(reason, "Requests wait for it."), (reason, "")
            case Resumed():
                self._detail, self._trouble = "", ("", "")
            case PeerLostNotice(peer=peer):
                self._since.pop(peer, None)
                self._ledger.keep({each.peer for each in self._room.sessions})
            case Reconnecting(what=what, reason=reason, hint=hint):
                self._detail = _joined(reason, hint, "Retrying.")
                if what == "signal server":
                    self._registered, self._signal_trouble = False, (reason, hint)
                else:
                    self._trouble = (reason, hint)
            case ErrorNotice(message=message, hint=hint) if not self._room.standing:
                # While a peer is connected, the rejection of another one is not a problem of the tunnel.
                self._detail, self._trouble = _joined(message, hint), (message, hint)
        self._publish(notice)
        if isinstance(notice, PeerConnected) and len(self._room.sessions) == 1:
            self._was_ready = True
            self._publish(Ready(url=self.url))

    def _publish(self, notice: Notice) -> None:
        for callback in tuple(self._subscribers):
            try:
                callback(notice)
            except Exception:
                logger.exception("A subscriber raised an exception")
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    # -- phases

    def _phase(self) -> Phase:
        """Derive the phase from the current state of the room."""
        if self._error is not None:
            return Phase.FAILED
        if self._closed:
            return Phase.STOPPED
        if self._task is None:
            return Phase.STARTING
        if self._room.standing:
            return Phase.READY
        if self._room.sessions or (self._was_ready and self._role is Role.PROXY):
            return Phase.RECONNECTING
        if not self._registered:
            return Phase.SIGNALING
        return Phase.CONNECTING if self._room.connecting else Phase.WAITING

    def _reached(self, phase: Phase) -> bool:
        now = self._phase()
        if now is phase:
            return True
        if now in _ENDED:
            if self._error is not None:
                raise self._error.again()
            raise TunnelError(f"The tunnel was stopped before it was {phase}.")
        return now in _PROGRESS and phase in _PROGRESS and _PROGRESS.index(now) >= _PROGRESS.index(phase)

    # -- messages of a waiting call

    async def _tell_what_it_does(self) -> None:
        told = ""
        while True:
            await asyncio.sleep(TELL_EVERY)
            if (doing := self._doing()) != told:
                told = doing
                descriptors.write(sys.stderr, f"llmtunnel {self._role}: {printable(doing)}\n")

    def _doing(self) -> str:
        """Describe the tunnel's activity: what the signal server reports, then the problem and what to do."""
        other = self._role.other
        match self._phase():
            case Phase.SIGNALING:
                return self._detail or f"Reaching the signal server {self._settings.signal}."
            case Phase.WAITING if self._room.alone:
                doing = f"No {other} is in the room."
            case Phase.WAITING | Phase.CONNECTING:
                doing = f"{other.capitalize()} is in the room. Connecting to it."
            case Phase.RECONNECTING:
                doing = f"The connection to {other} was lost. Connecting to it again."
            case phase:
                doing = f"The tunnel is {phase}."
        return f"{doing} {self._detail}".strip()

    def _late(self, phase: Phase, timeout: float | None) -> WaitTimeout:
        """Return the error of a wait that timed out: it names the missing side, or the tunnel's activity."""
        assert timeout is not None, "the wait timed out"
        other, within = self._role.other, f"within {timeout:g} s"
        reason, hint = self._trouble
        match self._phase():
            case Phase.WAITING if not self._room.met:
                code = "code" if is_invites(self._settings.room) else "room's name"
                hint = f"Check the {code}, and that serve is running."
                if self._role is Role.SERVE:
                    hint = f"On the other machine, run `llmtunnel proxy` with this serve's {code}."
                return WaitTimeout(f"{other.capitalize()} did not appear {within}.", hint=hint)
            case Phase.STARTING | Phase.SIGNALING:
                reason, hint = self._signal_trouble
                where = "" if reason else f" {self._settings.signal}"
                failed = f"The signal server{where} was not reached {within}."
            case Phase.WAITING | Phase.CONNECTING:
                failed = f"{other.capitalize()} is in the room, but no connection to it was established {within}."
            case Phase.RECONNECTING:
                failed = f"The connection to {other} was lost, and was not restored {within}."
            case now:
                failed = f"The tunnel is not {phase} after {timeout:g} s, but {now}."
        doctor = "Run `llmtunnel doctor` to check what this network permits."
        return WaitTimeout(f"{failed} {reason}".strip(), hint=hint or doctor)

    async def _change(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)


def _rates(before: Sample, sample: Sample) -> dict[str, float | None]:
    """Return a row of `Tunnel.history`. The clock may have been set back between two samples."""
    seconds = max(sample.time - before.time, 0.001)
    return {
        "time": sample.time,
        "rtt_ms": None if sample.rtt is None else round(sample.rtt * 1000, 3),
        "active": sample.active,
        "up_bytes_per_second": (sample.bytes_up - before.bytes_up) / seconds,
        "down_bytes_per_second": (sample.bytes_down - before.bytes_down) / seconds,
        "tokens_per_second": max(sample.tokens - before.tokens, 0) / seconds,
    }


def _joined(*texts: str) -> str:
    """Return the texts as sentences on one line."""
    return " ".join(ended(text) for text in texts if text)


class Server(Tunnel):
    """The serve side, which has the upstream."""

    def __init__(self, settings: ServeSettings) -> None:
        super().__init__(settings, Role.SERVE)
        from .endpoints.admission import Admission
        from .endpoints.bench import Bench

        self._serve_settings = settings
        self._upstream = settings.upstream
        self._invite = settings.invite
        self._admission = Admission(settings.exposure, clock=time.monotonic)
        self._origin = self._make_origin()
        self._bench = Bench(self._admission, self._ledger.bench)
        self._seeking: asyncio.Task[None] | None = None
        self._signal_has_page = False
        self._make_room(self._handle)

    @property
    def invite(self) -> Invite | None:
        """The invite; None if you chose a room and a secret. Give its ``code`` to those who may use the service."""
        return self._invite

    @property
    def url(self) -> str:
        """The upstream's address."""
        return str(self._upstream)

    @property
    def web_url(self) -> str | None:
        """The link that a browser opens; None without ``web``, or if the signal server has no page.

        It contains the code, so give it only to those who may use the service. A browser may keep it in its history.
        """
        page = self._serve_settings.page
        if page is None or self._invite is None or not self._has_page:
            return None
        return link(page, self._invite)

    @property
    def _has_page(self) -> bool:
        """Whether the page of the link exists, as far as is known: the signal server says whether it has one."""
        return self._serve_settings.web != SIGNAL or self._signal_has_page

    def renew_invite(self) -> Invite:
        """Make a new code for newcomers, in the same room. Connected peers stay. Raises `SettingError`.

        If serve was started with ``once``, the new code admits one more proxy. ``expires`` does not apply to it.
        """
        self._refuse_forked()
        if self._invite is None:
            raise SettingError(
                "This serve uses --room and --secret, and has no invite.", hint="Restart it with another secret."
            )
        self._invite = self._invite.renewed()
        self._room.renew_secret(self._invite.secret)
        return self._invite

    def kick(self, peer: str) -> None:
        """Disconnect a peer and block its handle. Raises `PeerNotFound`.

        Serve recognises a handle by its certificate, and each handle has a new one. It recognises a page in a browser
        by its key, which the page keeps until "Disconnect". Anyone who has the code can return with another handle,
        even in the same process. So call `renew_invite` first.

        Parameters:
            peer: Name of the peer, as in `Status.peers`.
        """
        self._refuse_forked()
        if not self._room.put_out(peer):
            names = ", ".join(each.peer for each in self.status.peers) or "none"
            raise PeerNotFound(f"No peer named {peer!r} is connected.", hint=f"Connected now: {names}.")

    @property
    def status(self) -> Status:
        """Current state, including that of the upstream."""
        if self._seeking is None or self._seeking.done():
            upstream = self._origin.watch.status
        else:
            from .endpoints.discovery import NOT_FOUND_YET

            upstream = UpstreamStatus(health=Health.DOWN, detail=NOT_FOUND_YET)
        page = self._serve_settings.page or ""
        web = page if self._has_page or not self._registered else NO_PAGE
        return replace(super().status, upstream=upstream, web=web)

    def _notify(self, notice: Notice) -> None:
        if isinstance(notice, SignalConnected):
            self._signal_has_page = notice.web
        super()._notify(notice)
        if isinstance(notice, SignalConnected) and not self._has_page:
            self._publish(ErrorNotice(message=f"{NO_PAGE}, so there is no link.", hint=NO_PAGE_HINT))

    def _upstream_seen(self, status: UpstreamStatus) -> None:
        """Report an upstream that does not answer. It may start later, but a user who mistyped it needs to know."""
        if status.health is Health.DOWN:
            self._publish(
                ErrorNotice(
                    message=status.detail, hint="Start it, or check --upstream. Until it answers, requests get 502."
                )
            )

    async def _open(self) -> None:
        if self._serve_settings.seek:
            self._seeking = asyncio.create_task(self._seek(), name="llmtunnel seek")
            self._seeking.add_done_callback(report)
        else:
            self._origin.watch.start()

    async def _close_local(self) -> None:
        seeking = (self._seeking,) if self._seeking is not None else ()
        await finish(partial(stop, *seeking), self._close_origin)

    async def _close_origin(self) -> None:
        await self._origin.aclose()

    def _make_origin(self) -> Origin:
        from .endpoints.origin import Origin

        settings = self._serve_settings
        return Origin(
            self._upstream,
            advertise=settings.advertise,
            exposure=settings.exposure,
            admission=self._admission,
            timeouts=settings.timeouts,
            limits=settings.limits,
            ledger=self._ledger,
            on_upstream=self._upstream_seen,
        )

    async def _handle(self, stream: Stream) -> None:
        if stream.request.bench:
            await self._bench.handle(stream)
        else:
            await self._origin.handle(stream)

    async def _seek(self) -> None:
        """Look for the upstream, and forward requests to it once it is found."""
        from .endpoints.discovery import seek

        found = await seek(lambda exc: self._publish(ErrorNotice(message=exc.message, hint=exc.hint)))
        self._upstream = replace(found, fields=self._upstream.fields)
        before, self._origin = self._origin, self._make_origin()
        self._origin.watch.start()
        logger.info("The upstream is %s", self._upstream)
        await before.aclose()


class Proxy(Tunnel):
    """The proxy side, which has the local listener."""

    def __init__(self, settings: ProxySettings) -> None:
        super().__init__(settings, Role.PROXY)
        from .endpoints.gateway import Gateway

        self._api_key = settings.listener.api_key
        self._make_room()
        self._gateway = Gateway(
            self._room,
            listen=settings.listen,
            policy=settings.listener,
            keepalive=settings.keepalive,
            bench=settings.bench,
            timeouts=settings.timeouts,
            limits=settings.limits,
            ledger=self._ledger,
        )

    @property
    def url(self) -> str:
        """The address where it listens, such as ``http://127.0.0.1:8000``; empty before `start`."""
        return self._gateway.url

    @property
    def openai_base_url(self) -> str:
        """The ``base_url`` for OpenAI clients."""
        return f"{self.url}/v1"

    @property
    def needs_key(self) -> bool:
        """Whether the listener requires a key from its clients."""
        return self._api_key is not None

    async def models(self) -> tuple[str, ...]:
        """Return the models that the other side lists, in OpenAI's or Ollama's format. Empty if it lists none.

        The request uses the tunnel directly, so it needs no key for the listener. Raises `PeerNotFound` or another
        `PeerError`, or `UpstreamError`.
        """
        from .endpoints.models import models_through

        self._refuse_forked()
        return await models_through(await self._room.session(self._settings.timeouts.wait_for_peer))

    def chat(self) -> Chat:
        """Open a small chat with the models of the other side, in a notebook. It appears at the end of the cell.

        Answers stream, even while a cell runs. *Stop* ends an answer and cancels the request at the model server. The
        conversation is kept only in memory, but a page that saves the state of widgets also saves what the chat shows.
        Use its ``widget`` in your own layouts, and ``close()`` to remove it. Raises `TunnelError` outside a notebook.
        """
        from .notebook.display import has_widgets

        self._refuse_forked()
        if not has_widgets():
            raise TunnelError(
                "chat() shows widgets, and this is not a notebook.",
                hint=f"Point a chat program at {self.openai_base_url} instead.",
            )
        from .notebook.chat import Chat

        return Chat(self.url, loop=self.loop, key=self._api_key or "")

    def environ(self, *, api_key: str | None = None) -> Environ:
        """Make OpenAI and Ollama clients in this process use the proxy, from now on or within a ``with``.

        Sets OPENAI_BASE_URL, OPENAI_API_BASE, OLLAMA_HOST and OLLAMA_API_BASE. Also sets OPENAI_API_KEY and
        OLLAMA_API_KEY, since a key for OpenAI or Ollama itself must not reach the other side. Adds the listener to
        NO_PROXY and no_proxy, so that the requests bypass an HTTP proxy in the environment.

        Parameters:
            api_key: Key for OPENAI_API_KEY and OLLAMA_API_KEY. None: the listener's key, or a placeholder if it has
                none.
        """
        from .environment import for_clients

        return for_clients(self.url, api_key=api_key or self._api_key)

    async def _open(self) -> None:
        # Shielded: asyncio leaks a listening socket if it is cancelled while creating it.
        starting = asyncio.create_task(self._gateway.start(), name="llmtunnel listener")
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await asyncio.wait((starting,))  # quick, since it only binds local addresses
            raise
        self._notify(Listening(url=self.url, addresses=self._gateway.addresses))

    async def _close_local(self) -> None:
        await self._gateway.aclose()
