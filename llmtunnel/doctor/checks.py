"""The checks, all at once: none waits for another, and none takes longer than some seconds."""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final

from ..config import DEFAULT_STUN, IceServers, Settings
from ..endpoints import discovery, listen
from ..endpoints.origin import Origin
from ..errors import ConnectFailed, SettingError, SignalError, TunnelError
from ..listener import netloc
from ..platforms import Platform, platform
from ..signaling.client import SignalClient
from ..signaling.messages import Candidate, IceCandidate, Member, PeerJoined, RelayOffer, candidate
from ..status import Health, Role
from ..summary import size
from ..transport import servers
from ..transport.websocket import proxy_for
from ..upstream import Upstream
from .findings import Diagnosis, Facts, Finding, Verdict, mapping_of, mapping_row

SLOW: Final = 1.0
"""Seconds to the signal server and back over which a person would notice."""
ECHOES: Final = 4
"""Messages that go through the signal server, each after the one before has come back."""
CLOCK: Final = 60.0
"""Seconds that a clock may be wrong: certificates, and passwords that expire, are held to it."""
SECOND_STUN: Final = "stun:stun1.l.google.com:19302"
"""Asked beside the default one: it takes two to tell how a NAT maps."""

TERMS: Final = {
    Platform.COLAB: (
        "Google Colab. Its FAQ lists connecting to remote proxies among what its managed runtimes disallow: read it"
        " before you rely on this. https://research.google.com/colaboratory/faq.html"
    ),
    Platform.KAGGLE: (
        "Kaggle. Internet has to be switched on in the notebook's settings; what its terms say holds for what you"
        " serve. https://www.kaggle.com/terms"
    ),
    Platform.BINDER: (
        "Binder. mybinder.org lets few ports out, and asks not to be used for serving."
        " https://mybinder.readthedocs.io/en/latest/about/user-guidelines.html"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What one check found."""

    findings: tuple[Finding, ...]
    signal: bool = False
    seen: tuple[tuple[str, int], ...] = ()
    turn: bool = False
    relay: bool = False


async def diagnose(settings: Settings, *, upstream: Upstream | None, address: str) -> Diagnosis:
    """Look at all that a tunnel with these settings needs; ``address`` is where a proxy would listen."""
    parts = await asyncio.gather(
        _place(settings),
        _signal(settings),
        _stun(settings.ice),
        *(_turn(url, settings.ice) for url in settings.ice.turn),
        _upstream(upstream, settings),
        _port(address),
    )
    seen = [each for part in parts for each in part.seen]
    mapping = mapping_of(seen, servers.own_addresses())
    facts = Facts(
        signal=any(part.signal for part in parts),
        udp=bool(seen),
        mapping=mapping,
        turn=any(part.turn for part in parts),
        relay=any(part.relay for part in parts),
    )
    findings = [finding for part in parts for finding in part.findings]
    return Diagnosis(findings=(*findings, mapping_row(mapping)), facts=facts)


async def _place(settings: Settings) -> _Part:
    where = TERMS.get(platform())
    rows = [Finding(subject="platform", verdict=Verdict.POOR, detail=where)] if where else []
    if proxy := proxy_for(settings.signal):
        detail = f"The signal server is reached through {proxy}, which {proxy.variable} names."
        rows.append(Finding(subject="HTTP proxy", verdict=Verdict.GOOD, detail=detail))
    return _Part(findings=tuple(rows))


# -- the signal server


async def _signal(settings: Settings) -> _Part:
    begun = time.perf_counter()
    try:
        async with await _connect(settings) as client:
            reached = time.perf_counter() - begun
            clock = _clock(client.server_date, time.time())
            echo, offer = await _echo(client, settings)
    except SignalError as exc:
        return _Part(findings=(_bad("signal server", exc),))
    verdict = Verdict.GOOD if reached < SLOW else Verdict.POOR
    row = Finding(subject="signal server", verdict=verdict, detail=f"{settings.signal} answers in {_ms(reached)}.")
    relay = _relay_row(offer, settings)
    return _Part(findings=(row, *echo, relay, *clock), signal=True, relay=offer is not None)


def _relay_row(offer: RelayOffer | None, settings: Settings) -> Finding:
    if offer is None:
        detail = f"{settings.signal} has none."
        hint = "Only where UDP does not pass is one needed. `llmtunnel signal` runs a server that relays."
        return Finding(subject="relay", verdict=Verdict.UNKNOWN, detail=detail, hint=hint)
    detail = f"{settings.signal} relays, up to {size(offer.rate)} a second and {size(offer.total)} a day."
    return Finding(subject="relay", verdict=Verdict.GOOD, detail=detail)


async def _connect(settings: Settings) -> SignalClient:
    return await SignalClient.connect(settings.signal, timeouts=settings.timeouts, limits=settings.limits)


async def _echo(client: SignalClient, settings: Settings) -> tuple[tuple[Finding, ...], RelayOffer | None]:
    """Whether messages pass one by one: two members of a room of their own, and what one says to the other.

    And whether the signal server relays for such two.
    """
    room = f"doctor-{secrets.token_hex(8)}"
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(await _connect(settings))
        await client.join(room, role=Role.SERVE, instance=secrets.token_hex(8))
        joined = await other.join(room, role=Role.PROXY, instance=secrets.token_hex(8))
        to = await _id_of_other(client) if joined.role is not None else None
        try:
            async with asyncio.timeout(settings.timeouts.signal):
                times = [await _one_echo(client, other, to, number) for number in range(ECHOES)]
        except TimeoutError:
            detail = "Messages do not come through: something on the way holds WebSockets back."
            row = Finding(subject="WebSocket", verdict=Verdict.BAD, detail=detail, hint="Try another network.")
            return (row,), joined.relay
    worst = max(times)
    verdict = Verdict.GOOD if worst < SLOW else Verdict.POOR
    row = Finding(subject="WebSocket", verdict=verdict, detail=f"Messages pass unbuffered, {_ms(worst)} each.")
    return (row,), joined.relay


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
    """This machine's clock beside the ``Date`` that the signal server sent."""
    try:
        off = now - parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        return ()
    if abs(off) < CLOCK:
        return (Finding(subject="clock", verdict=Verdict.GOOD, detail="Agrees with the signal server's."),)
    detail = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the signal server's."
    return (Finding(subject="clock", verdict=Verdict.POOR, detail=detail, hint="Set it: certificates depend on it."),)


# -- paths


async def _stun(ice: IceServers) -> _Part:
    urls = list(dict.fromkeys([*ice.stun, *([SECOND_STUN] if ice.stun == (DEFAULT_STUN,) else [])]))
    answers = await servers.mappings(urls)
    rows = [_stun_row(url, answer) for url, answer in zip(urls, answers, strict=True)]
    seen = tuple(answer for answer in answers if not isinstance(answer, ConnectFailed))
    if urls and not seen:
        hint = "Another network, or a TURN server that speaks TCP: --turn 'turn:host:3478?transport=tcp'."
        rows.append(Finding(subject="UDP", verdict=Verdict.BAD, detail="None of them was reached by UDP.", hint=hint))
    return _Part(findings=tuple(rows), seen=seen)


def _stun_row(url: str, answer: tuple[str, int] | ConnectFailed) -> Finding:
    if isinstance(answer, ConnectFailed):
        return Finding(subject="STUN", verdict=Verdict.POOR, detail=str(answer))
    return Finding(subject="STUN", verdict=Verdict.GOOD, detail=f"{url} sees this machine as {answer[0]}:{answer[1]}.")


async def _turn(url: str, ice: IceServers) -> _Part:
    try:
        host, port = await servers.allocate(url, ice)
    except ConnectFailed as exc:
        return _Part(findings=(_bad("TURN", exc),))
    row = Finding(subject="TURN", verdict=Verdict.GOOD, detail=f"{url} relays for us at {host}:{port}.")
    return _Part(findings=(row,), turn=True)


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
