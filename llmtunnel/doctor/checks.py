"""The checks of the doctor. They run at the same time, and each takes a few seconds at most."""

from __future__ import annotations

import asyncio
import errno
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Final

from .. import descriptors
from ..config import DEFAULT_STUN, Settings
from ..endpoints import discovery, listen
from ..endpoints.origin import Origin
from ..errors import AuthenticationFailed, ConnectFailed, SettingError, SignalError, TunnelError
from ..invite import DEFAULT_SIGNAL, MAYBE_CUT, ROOM
from ..listener import netloc
from ..platforms import Platform, platform
from ..protocol.auth import SPARED
from ..session.access import ProxyAccess
from ..session.ice import IceBook
from ..session.room import Room
from ..signaling.client import SignalClient
from ..signaling.messages import Candidate, IceCandidate, IceOffer, Joined, Member, PeerJoined, RelayOffer, candidate
from ..status import Health, Notice, PeerConnected, Reconnecting, Role, TurnSource, Waiting
from ..summary import path_words, size, turn_words
from ..transport import servers
from ..transport.networks import Reach
from ..transport.servers import IceServer
from ..transport.tasks import stop
from ..transport.websocket import proxy_for
from ..upstream import Upstream
from .findings import Diagnosis, Facts, Finding, Verdict, mapping_of, mapping_row

SLOW: Final = 1.0
"""Round-trip time to the signal server that a person would notice, in seconds."""
LOOK: Final = 15.0
"""Maximum time to connect to serve, in seconds."""
_CUT: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})
ECHOES: Final = 4
"""Number of messages sent through the signal server, one after the other."""
CLOCK: Final = 60.0
"""Acceptable error of the clock, in seconds. Certificates and expiring passwords depend on it."""
SECOND_STUN: Final = "stun:stun1.l.google.com:19302"
"""A second STUN server, since detecting a NAT's type takes two."""

TERMS: Final = {
    Platform.COLAB: (
        "Google Colab. Its FAQ says that managed runtimes may not connect to remote proxies. Read it before you rely"
        " on this. https://research.google.com/colaboratory/faq.html"
    ),
    Platform.KAGGLE: (
        "Kaggle. Switch Internet on in the notebook's settings. Kaggle's terms apply to what you serve."
        " https://www.kaggle.com/terms"
    ),
    Platform.BINDER: (
        "Binder. mybinder.org blocks most outgoing ports, and asks its users not to serve anything from it."
        " https://mybinder.readthedocs.io/en/latest/about/user-guidelines.html"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The result of one check."""

    findings: tuple[Finding, ...]
    signal: bool = False
    seen: tuple[tuple[str, int], ...] = ()
    turn: bool = False
    relay: bool = False
    turn_from: TurnSource | None = None
    """Who has named the TURN server that was checked."""
    ice: IceOffer | None = None
    """The STUN and TURN servers that the signal server hands out."""
    within: Reach = Reach.PUBLIC
    """Which addresses they may have."""
    cut: bool = False
    """Whether it failed as every check fails on an offline machine."""
    serve: bool | None = None
    secret: bool | None = None
    reached: bool | None = None


async def diagnose(settings: Settings, *, upstream: Upstream | None, address: str, peer: bool = False) -> Diagnosis:
    """Check everything that a tunnel with these settings needs. ``address`` is where a proxy would listen.

    ``peer``: also look for serve in the room. For that, connect as a proxy does, and disconnect. A secret that admits
    only one proxy is not tried.
    """
    place, (signal, stun, turn), upstream_part, port, serve = await asyncio.gather(
        _place(settings),
        _network(settings),
        _upstream(upstream, settings),
        _port(address),
        _serve(settings) if peer else _nothing(),
    )
    mapping = mapping_of(list(stun.seen), servers.own_addresses())
    facts = Facts(
        signal=signal.signal,
        udp=bool(stun.seen),
        mapping=mapping,
        turn=any(part.turn for part in turn),
        turn_from=next((part.turn_from for part in turn if part.turn), None),
        relay=signal.relay,
        serve=serve.serve if signal.signal else None,
        secret=serve.secret if signal.signal else None,
        reached=serve.reached if signal.signal else None,
    )
    network = [signal, *([serve] if signal.signal else []), stun, *turn]
    if signal.cut and stun.cut and not facts.turn:
        network = [_Part(findings=(_offline(settings),))]
    elif stun.seen or not stun.findings:
        network.append(_Part(findings=(mapping_row(mapping, turn=facts.turn),)))
    parts = [place, *network, upstream_part, port]
    return Diagnosis(findings=tuple(finding for part in parts for finding in part.findings), facts=facts)


async def _network(settings: Settings) -> tuple[_Part, _Part, list[_Part]]:
    """Check the signal server, and then the STUN and TURN servers, of which it may hand out some."""
    signal = await _signal(settings)
    book = IceBook(settings)
    now = asyncio.get_running_loop().time()
    book.told(signal.ice, within=signal.within, now=now)
    found = book.servers(now)
    stun, *turn = await asyncio.gather(
        _stun([each for each in found if not each.is_turn]), *(_turn(each) for each in found if each.is_turn)
    )
    if any(part.turn for part in turn):  # no other one is needed
        stun = replace(stun, findings=tuple(replace(each, hint="") for each in stun.findings))
    return signal, stun, turn


async def _nothing() -> _Part:
    return _Part(findings=())


def _offline(settings: Settings) -> Finding:
    detail = f"This machine seems to be offline: it reaches neither {settings.signal} nor a STUN or TURN server."
    return Finding(subject="network", verdict=Verdict.BAD, detail=detail, hint="Connect it, and try again.")


def _is_cut(exc: BaseException) -> bool:
    """Whether a failure is of a kind that occurs with every connection of an offline machine."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, socket.gaierror | TimeoutError) or getattr(cause, "errno", None) in _CUT:
            return True
        cause = cause.__cause__
    return False


async def _place(settings: Settings) -> _Part:
    where = TERMS.get(platform())
    rows = [Finding(subject="platform", verdict=Verdict.POOR, detail=where)] if where else []
    if proxy := proxy_for(settings.signal):
        detail = f"Connections to the signal server go through {proxy} (from {proxy.variable})."
        rows.append(Finding(subject="HTTP proxy", verdict=Verdict.GOOD, detail=detail))
    return _Part(findings=tuple(rows))


# -- the signal server


async def _signal(settings: Settings) -> _Part:
    begun = time.perf_counter()
    try:
        async with await _connect(settings) as client:
            reached = time.perf_counter() - begun
            clock = _clock(client.server_date, time.time())
            echo, joined = await _echo(client, settings)
            within = client.reach
    except SignalError as exc:
        return _Part(findings=(_bad("signal server", exc),), cut=_is_cut(exc))
    verdict = Verdict.GOOD if reached < SLOW else Verdict.POOR
    row = Finding(subject="signal server", verdict=verdict, detail=f"{settings.signal} answers in {_ms(reached)}.")
    relay = _relay_row(joined.relay, settings)
    rows = (row, *echo, relay, *_ice_rows(joined.ice, settings), *clock)
    return _Part(findings=rows, signal=True, relay=joined.relay is not None, ice=joined.ice, within=within)


def _ice_rows(offer: IceOffer | None, settings: Settings) -> tuple[Finding, ...]:
    if offer is None or not offer.skipped or settings.no_signal_ice:
        return ()
    detail = f"{settings.signal} names {offer.skipped} STUN or TURN servers that are not used."
    hint = "At most 4 are used: stun:, turn: or turns:, with a port of 443 or above 1023."
    return (Finding(subject="ICE servers", verdict=Verdict.POOR, detail=detail, hint=hint),)


def _relay_row(offer: RelayOffer | None, settings: Settings) -> Finding:
    if offer is None:
        detail = f"{settings.signal} has no relay."
        hint = "You need one only if UDP is blocked. `llmtunnel signal` runs a server with a relay."
        return Finding(subject="relay", verdict=Verdict.UNKNOWN, detail=detail, hint=hint)
    detail = f"{settings.signal} relays, up to {size(offer.rate)} a second and {size(offer.total)} a day."
    return Finding(subject="relay", verdict=Verdict.GOOD, detail=detail)


async def _connect(settings: Settings) -> SignalClient:
    return await SignalClient.connect(settings.signal, timeouts=settings.timeouts, limits=settings.limits)


async def _echo(client: SignalClient, settings: Settings) -> tuple[tuple[Finding, ...], Joined]:
    """Check whether each message passes at once, between two members of a separate room.

    Also returns what the signal server tells such a member, such as the relay that it offers.
    """
    room = f"doctor-{secrets.token_hex(8)}"
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(await _connect(settings))
        access = settings.signal_token
        await client.join(room, role=Role.SERVE, instance=secrets.token_hex(8), access=access)
        joined = await other.join(room, role=Role.PROXY, instance=secrets.token_hex(8), access=access)
        to = await _id_of_other(client) if joined.role is not None else None
        try:
            async with asyncio.timeout(settings.timeouts.signal):
                times = [await _one_echo(client, other, to, number) for number in range(ECHOES)]
        except TimeoutError:
            detail = "Messages do not arrive: something in the network blocks WebSockets."
            row = Finding(subject="WebSocket", verdict=Verdict.BAD, detail=detail, hint="Try another network.")
            return (row,), joined
    worst = max(times)
    verdict = Verdict.GOOD if worst < SLOW else Verdict.POOR
    row = Finding(subject="WebSocket", verdict=verdict, detail=f"Messages arrive without delay, in {_ms(worst)}.")
    return (row,), joined


async def _id_of_other(client: SignalClient) -> str:
    while True:
        match await client.receive():
            case PeerJoined(Member(peer_id=peer_id)):
                return peer_id


async def _one_echo(client: SignalClient, other: SignalClient, to: str | None, number: int) -> float:
    begun = time.perf_counter()
    await client.send(candidate(IceCandidate(candidate=str(number)), to=to))
    while True:
        match await other.receive():
            case Candidate(candidate=IceCandidate(candidate=text)) if text == str(number):
                return time.perf_counter() - begun


def _clock(date: str | None, now: float) -> tuple[Finding, ...]:
    """Compare this machine's clock with the ``Date`` that the signal server sent."""
    try:
        off = now - parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return ()
    if abs(off) < CLOCK:
        return (Finding(subject="clock", verdict=Verdict.GOOD, detail="Agrees with the signal server's clock."),)
    detail = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the signal server's clock."
    return (Finding(subject="clock", verdict=Verdict.POOR, detail=detail, hint="Set it: certificates depend on it."),)


# -- paths


async def _stun(asked: Sequence[IceServer]) -> _Part:
    named = {each.url: each for each in asked}
    if list(named) == [DEFAULT_STUN]:
        named[SECOND_STUN] = IceServer(url=SECOND_STUN)
    urls = list(named)
    answers = dict(zip(urls, await servers.mappings(list(named.values())), strict=True))
    seen = {url: answer for url, answer in answers.items() if not isinstance(answer, ConnectFailed)}
    failed = {url: answer for url, answer in answers.items() if isinstance(answer, ConnectFailed)}
    rows = [
        Finding(
            subject="STUN", verdict=Verdict.GOOD, detail=f"{_named(named[url])} sees this machine as {host}:{port}."
        )
        for url, (host, port) in seen.items()
    ]
    why = _each_cause_once(failed)
    if seen:
        rows += [Finding(subject="STUN", verdict=Verdict.POOR, detail=detail) for detail in why]
    elif urls:
        hint = "Try another network, or a TURN server over TCP: --turn 'turn:host:3478?transport=tcp'."
        detail = f"No STUN server could be reached. {' '.join(why)}"
        rows.append(Finding(subject="UDP", verdict=Verdict.BAD, detail=detail, hint=hint))
    cut = all(_is_cut(exc) for exc in failed.values())
    return _Part(findings=tuple(rows), seen=tuple(seen.values()), cut=bool(failed) and not seen and cut)


def _each_cause_once(failed: Mapping[str, ConnectFailed]) -> list[str]:
    """Return why servers failed: a sentence for each cause, with all servers that it applies to."""
    alike: dict[str, list[str]] = {}
    for url, exc in failed.items():
        alike.setdefault(exc.message.replace(url, "{}"), []).append(url)
    return [
        " ".join([str(failed[url]), *([f"The same applies to {', '.join(others)}."] if others else [])])
        for url, *others in alike.values()
    ]


async def _turn(server: IceServer) -> _Part:
    source = TurnSource.SETTINGS if server.within is None else TurnSource.SIGNAL
    try:
        host, port = await servers.allocate(server)
    except ConnectFailed as exc:
        bad = _bad("TURN", exc)
        detail = exc.message.replace(server.url, turn_words((server.url,), source), 1)
        return _Part(findings=(replace(bad, detail=detail),), turn_from=source)
    detail = f"{turn_words((server.url,), source)} works, and relays at {host}:{port}."
    row = Finding(subject="TURN", verdict=Verdict.GOOD, detail=detail)
    return _Part(findings=(row,), turn=True, turn_from=source)


def _named(server: IceServer) -> str:
    return server.url if server.within is None else f"{server.url} (from the signal server)"


# -- the other side


async def _serve(settings: Settings) -> _Part:
    """Check whether serve is in the room, can be reached, and holds the same secret."""
    told: asyncio.Future[Notice] = asyncio.get_running_loop().create_future()

    def hear(notice: Notice) -> None:
        is_news = isinstance(notice, Waiting | PeerConnected | Reconnecting)
        if is_news and not told.done():
            told.set_result(notice)

    room = Room(settings, Role.PROXY, access=ProxyAccess(settings, looks=True), notify=hear)
    looking = asyncio.create_task(room.run(), name="looking for serve")
    try:
        await asyncio.wait((looking, told), timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
        if looking.done():
            failure = looking.exception()
            assert isinstance(failure, TunnelError), "a room that ends has an error"
            return _not_let_in(failure)
        return _what_was_told(told.result() if told.done() else None, settings)
    finally:
        await stop(looking)


def _what_was_told(notice: Notice | None, settings: Settings) -> _Part:
    room = settings.room.removeprefix(ROOM)
    match notice:
        case PeerConnected(path=path, authenticated=known):
            right = ", and the code is right" if known else ""
            detail = f"It is in the room {room}. The {path_words(path)} path to it works{right}."
            row = Finding(subject="serve", verdict=Verdict.GOOD, detail=detail)
            return _Part(findings=(row,), serve=True, secret=known or None, reached=True)
        case Waiting():
            hint = "Check that `llmtunnel serve` is running, and that the number is right."
            hint += f" {MAYBE_CUT}" if room != settings.room and settings.signal == DEFAULT_SIGNAL else ""
            row = Finding(subject="serve", verdict=Verdict.BAD, detail=f"It is not in the room {room}.", hint=hint)
            return _Part(findings=(row,), serve=False, reached=False)
        case Reconnecting(reason=reason, hint=hint):  # the room is full, or the signal server became unavailable
            return _Part(findings=(Finding(subject="serve", verdict=Verdict.POOR, detail=reason, hint=hint),))
    detail = f"It is in the room {room}, but could not be reached within {LOOK:g} s."
    row = Finding(subject="serve", verdict=Verdict.BAD, detail=detail, hint="Run the doctor on the other side too.")
    return _Part(findings=(row,), serve=True, reached=False)


def _not_let_in(failure: TunnelError) -> _Part:
    detail = f"It is in the room. {failure.message}"
    if failure.message == SPARED:
        return _Part(findings=(Finding(subject="serve", verdict=Verdict.GOOD, detail=detail),), serve=True)
    row = Finding(subject="serve", verdict=Verdict.BAD, detail=detail, hint=failure.hint)
    wrong = isinstance(failure, AuthenticationFailed)
    return _Part(findings=(row,), serve=True, secret=False if wrong else None, reached=False)


# -- this machine


async def _upstream(upstream: Upstream | None, settings: Settings) -> _Part:
    if upstream is not None:
        return _Part(findings=(await _given_upstream(upstream, settings),))
    found = await discovery.discover()
    rows = [Finding(subject="upstream", verdict=Verdict.GOOD, detail=f"{each}.") for each in found]
    if not found:
        detail = "No model server answers on this machine."
        rows.append(Finding(subject="upstream", verdict=Verdict.UNKNOWN, detail=detail, hint="Only serve needs one."))
    return _Part(findings=tuple(rows))


async def _given_upstream(upstream: Upstream, settings: Settings) -> Finding:
    origin = Origin(upstream, timeouts=settings.timeouts, limits=settings.limits)
    try:
        seen = await origin.watch.look()
    finally:
        await origin.aclose()
    if seen.health is not Health.UP:
        hint = "Check --upstream, and that the model server is running."
        if descriptors.shortage():
            hint = descriptors.RAISE_IT
        return Finding(subject="upstream", verdict=Verdict.BAD, detail=seen.detail, hint=hint)
    models = f", with {', '.join(seen.models)}" if seen.models else ""
    return Finding(subject="upstream", verdict=Verdict.GOOD, detail=f"{upstream} answers{models}.")


async def _port(address: str) -> _Part:
    where = listen.parse_listen(address)
    try:
        opened = await listen.open_servers(where, asyncio.Protocol)
    except SettingError as exc:
        return _Part(findings=(_bad("listener", exc),))
    for server in opened:
        server.close()
        await server.wait_closed()
    detail = f"{netloc(where.host, where.port)} is free."
    return _Part(findings=(Finding(subject="listener", verdict=Verdict.GOOD, detail=detail),))


def _bad(subject: str, exc: TunnelError) -> Finding:
    return Finding(subject=subject, verdict=Verdict.BAD, detail=exc.message, hint=exc.hint)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
