"""The attacker of test_adversary.py where the relay or local TCP carries: it has the pipes, and is near by."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest

from llmtunnel.bucket import Bucket
from llmtunnel.config import Limits
from llmtunnel.errors import PeerLost, StreamReset
from llmtunnel.paths import Path
from llmtunnel.protocol import frames
from llmtunnel.protocol.frames import FrameType
from llmtunnel.protocol.greeting import Greeting
from llmtunnel.protocol.heads import RequestHead
from llmtunnel.protocol.hello import AuthOffer, Hello, ResumeOffer
from llmtunnel.protocol.keys import KeyExchange
from llmtunnel.session import link as link_module
from llmtunnel.session.access import ProxyAccess
from llmtunnel.session.attempt import Stage
from llmtunnel.session.local_tcp import DialWay
from llmtunnel.session.mux import Session
from llmtunnel.status import ErrorNotice, Role, Suspended
from llmtunnel.transport import tcp
from llmtunnel.transport.base import Channel
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.relay import open_relay
from llmtunnel.transport.tcp import TcpDialler

from ..support.embedded import PATIENCE, QUICK, quicker, until
from ..support.hostile import HostileSignal, Script, Wire, http_in
from ..support.members import Member, channel_of, pair, running
from ..support.pipes import ATTACKS, Ear
from .test_adversary import (
    ask_for_nothing,
    close_after_the_proxys_proof,
    close_at_once,
    send_back_the_proof,
    send_back_the_share,
)
from .test_paths import Invited, on, without_udp

Relayed = partial(Invited, path="relay")
LOAD = 4
SIZE = 600_000


@asynccontextmanager
async def relaying() -> AsyncIterator[HostileSignal]:
    async with HostileSignal() as server:
        server.relays = True
        yield server


async def echoed(proxy: Member, seed: int) -> None:
    """A body comes back as it was sent, as far as it comes. Raises where that is not to its end."""
    body = random.Random(seed).randbytes(SIZE)
    stream = await (await proxy.session()).open(RequestHead(method=b"POST", target=b"/echo"))

    async def send() -> None:
        for start in range(0, SIZE, 20_000):
            await stream.send(body[start : start + 20_000])
            await asyncio.sleep(0.01)
        await stream.send_end()

    sending = asyncio.create_task(send(), name="sending a body")
    came = 0
    try:
        await stream.response()
        while data := await stream.receive():
            assert data == body[came : came + len(data)], "what comes is not what was sent"
            came += len(data)
        assert came == SIZE, "it is short, and looks whole"
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def under_load(serve: Member, proxy: Member) -> list[asyncio.Task[None]]:
    """Exchanges that are all under way."""
    asking = [asyncio.create_task(echoed(proxy, seed), name="an exchange") for seed in range(LOAD)]
    await until(lambda: len(serve.started) == LOAD)
    return asking


async def spoil(server: HostileSignal, attack: str) -> None:
    """The pipe that carries, from now on; or cut it in order, as if all had been said."""
    [pipe] = [pipe for pipe in server.pipes if pipe.open]
    if attack == "cut":
        await pipe.cut()
    else:
        pipe.attack = attack


# -- a relay that does what it likes with the bytes


@pytest.mark.parametrize("attack", [*ATTACKS, "cut"])
async def test_a_relay_that_spoils_a_pipe_ends_it_and_streams_go_on_whole_over_the_next(attack: str) -> None:
    async with relaying() as server, pair(server.url, make=Relayed) as (serve, proxy):
        [session] = proxy.room.sessions
        spoilt = channel_of(session)
        asking = await under_load(serve, proxy)
        await spoil(server, attack)
        await asyncio.gather(*asking)
        assert channel_of(session) is not spoilt
        reasons = [each.reason for member in (serve, proxy) for each in member.of(Suspended)]
        told = "cut" if attack == "cut" else "altered"
        assert any(told in reason for reason in reasons), reasons
        assert proxy.room.sessions == [session]
        assert serve.connections == proxy.connections == 1


@pytest.mark.parametrize("attack", ["flip", "drop", "replay", "cut"])
@pytest.mark.parametrize("for_ever", [False, True], ids=["cannot resume", "has no other pipe"])
async def test_where_a_session_cannot_go_on_each_stream_fails_loudly(attack: str, for_ever: bool) -> None:
    make = partial(Relayed, resume_for=0.5 if for_ever else 0.0, timeouts=quicker(connect=1.0))
    async with relaying() as server, pair(server.url, make=make) as (serve, proxy):
        asking = await under_load(serve, proxy)
        server.attack = "truncate" if for_ever else None
        await spoil(server, attack)
        failures = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(each, PeerLost | StreamReset) for each in failures), failures
        server.attack = None
        assert await proxy.ask() == b"/hello"
        assert proxy.connections == 2


# -- another invited proxy


@pytest.mark.parametrize("path", [Path.RELAY, Path.TCP])
@pytest.mark.parametrize("ticket", ["its own", "the other's"])
async def test_an_invited_proxy_that_names_anothers_session_gets_one_of_its_own(
    monkeypatch: pytest.MonkeyPatch, path: Path, ticket: str
) -> None:
    """It says in HELLO that it goes on with it, over the relay or local TCP, as the proxy whose session it is would."""

    make = partial(Invited, path=str(path))
    async with relaying() as server, pair(server.url, make=make) as (serve, victim):
        thief = make(Role.PROXY, server.url)
        async with running(thief):
            [session], mine = victim.room.sessions, await thief.session()
            offers = Offers(session, thief, with_ticket=ticket == "the other's")
            monkeypatch.setattr(thief.room, "greeting", offers)
            asking = await under_load(serve, victim)
            await mine.aclose()
            await thief.heard("peer-connected", 2)
            assert await thief.ask(b"/mine") == b"/mine"
            assert path in offers.over
            [own] = thief.room.sessions
            assert own.id != session.id
            assert len({each.certificate for each in serve.room.sessions}) == 2
            assert victim.room.sessions == [session]
            await asyncio.gather(*asking)
        assert set(victim.events) <= {"signal-connected", "waiting", "peer-connected"}


class Offers:
    """A thief's greetings: each goes on with somebody else's session."""

    def __init__(self, session: Session, thief: Member, *, with_ticket: bool) -> None:
        self._session = session
        self._access = thief.room.access
        self._with_ticket = with_ticket
        self._greet = thief.room.greeting
        self.over: list[Path] = []
        """The paths on which it greeted."""
        offer = ResumeOffer(session=session.id, received=(0,) * session.line.lanes)
        thief.room._peers._offer = lambda certificate: offer  # type: ignore[method-assign]

    def __call__(self, channel: Channel) -> Greeting:
        self.over.append(channel.path)
        if self._with_ticket:
            assert isinstance(self._access, ProxyAccess)
            self._access.ticket = self._session.ticket
        return self._greet(channel)


async def test_an_invited_proxy_that_finds_anothers_listener_is_closed_before_a_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting, dial = asyncio.Event(), DialWay.open

    async def hold(way: DialWay) -> Channel:
        await waiting.wait()
        return await dial(way)

    monkeypatch.setattr(DialWay, "open", hold)
    async with relaying() as server, pair(server.url, make=Invited) as (serve, victim):
        thief = Invited(Role.PROXY, server.url, path="relay")
        async with running(thief):
            [mine] = [await thief.session()]
            listener = serve.listener
            assert listener is not None and listener.addresses
            dialler = TcpDialler(thief.identity, mine.certificate, timeouts=QUICK, loopback=True)
            for _ in range(3):
                channel, ear = await dialler.dial(listener.addresses), Ear()
                channel.attach(ear)
                with suppress(Exception):  # it may be closed by now
                    channel.send(frames.encode(FrameType.HELLO, 0, Hello().encode()))
                await ear.until(lambda ear=ear: ear.closed)  # type: ignore[misc]
                assert ear.closed == ["the other end rejected our certificate"]
                assert not ear.messages
                await channel.aclose()
            assert thief.room.sessions == [mine]
            waiting.set()
            await on(Path.TCP, victim)  # the one that was expected
            assert await victim.ask() == b"/hello"
            assert victim.connections == 1


# -- a ticket that the signal server keeps for itself


async def guess_the_secret(wire: Wire) -> None:
    share = KeyExchange(Role.PROXY, "a guess").share
    wire.send(frames.encode(FrameType.HELLO, 0, Hello(auth=AuthOffer(share=share)).encode()))
    await wire.hear(FrameType.AGREE)
    wire.send(frames.encode(FrameType.AUTH, 0, bytes(32)))
    await wire.until_closed()


async def ask_without_the_secret(wire: Wire) -> None:
    wire.send(frames.encode(FrameType.HELLO, 0, Hello().encode()))
    await wire.until_closed()


@pytest.mark.parametrize(
    ("stolen", "script"),
    [
        (Role.PROXY, close_at_once),
        (Role.PROXY, guess_the_secret),
        (Role.PROXY, ask_without_the_secret),
        (Role.SERVE, close_at_once),
        (Role.SERVE, close_after_the_proxys_proof),
        (Role.SERVE, send_back_the_proof),
        (Role.SERVE, send_back_the_share),
        (Role.SERVE, ask_for_nothing),
    ],
)
async def test_who_comes_with_a_stolen_ticket_is_nobody_and_the_two_meet_by_the_next(
    stolen: Role, script: Script
) -> None:
    async with relaying() as server:
        server.keeps = stolen
        make = partial(Relayed, timeouts=quicker(answer=1.0))
        serve, proxy = (make(role, server.url) for role in Role)
        async with running(serve, proxy):
            asking = asyncio.create_task(proxy.ask(), name="a request")
            await come_with(await server.kept.get(), server, stolen, script)
            assert not serve.connections + proxy.connections
            assert not serve.started and not http_in(server.seen)
            server.keeps = None
            assert await asking == b"/hello"
            assert serve.connections == proxy.connections == 1


async def come_with(ticket: str, server: HostileSignal, role: Role, script: Script) -> None:
    """The server opens the pipe itself, in the place of one of the two."""
    is_serve = role is Role.SERVE
    channel = await open_relay(server.url, ticket, identity=Identity(), server=is_serve, timeouts=QUICK)
    async with asyncio.timeout(PATIENCE):
        await script(Wire(channel, server.seen))
    await channel.aclose()


# -- a serve that has its proxy knock


async def test_a_serve_that_names_what_only_the_proxy_reaches_has_it_connect_nowhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The proxy's own services, its network's, a cloud's metadata, anybody's on the internet."""
    named: list[str] = []
    monkeypatch.setattr(Session, "tell_addresses", telling_instead(named))
    connected = spied_connects(monkeypatch)

    without_udp(monkeypatch)
    knocks = 0

    async def knocked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal knocks
        knocks += 1
        writer.close()

    async with relaying() as server, await asyncio.start_server(knocked, "127.0.0.1", 0) as service:
        port = service.sockets[0].getsockname()[1]
        hosts = ["127.0.0.1", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "localhost"]
        own = [f"{host}:{port}" for host in hosts]
        for addresses in (own, ["169.254.169.254:8080", "203.0.113.9:40000", "[fe80::1]:40000", "x" * 64]):
            named[:] = addresses
            serve = Invited(Role.SERVE, server.url)
            proxy = Invited(Role.PROXY, server.url, loopback=False)  # as people's are
            async with running(serve, proxy):
                assert await proxy.ask() == b"/hello"
                await until(lambda: failures(proxy))  # noqa: B023
                [failure] = failures(proxy)
                assert "no address in a network of this machine" in failure
                assert await proxy.ask() == b"/hello"
        assert not knocks
        assert {port for _, port in connected} == {int(server.url.rpartition(":")[2])}


async def test_a_serve_that_says_again_and_again_where_it_listens_is_dialled_seldom_and_nothing_piles_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dialled = 0
    dial = DialWay.open

    async def count(way: DialWay) -> Channel:
        nonlocal dialled
        dialled += 1
        return await dial(way)

    monkeypatch.setattr(DialWay, "open", count)
    monkeypatch.setattr(tcp, "listenable", lambda own, *, loopback: [])

    async with relaying() as server:
        serve, proxy = Invited(Role.SERVE, server.url), Invited(Role.PROXY, server.url)
        async with running(serve, proxy):
            assert await proxy.ask() == b"/hello"
            for number in range(200):
                serve.room.standing[0].tell_addresses((f"203.0.113.9:{40_000 + number}",))
                await asyncio.sleep(0.002)
            assert await proxy.ask() == b"/hello"
            [link] = proxy.links
            await until(lambda: not any(each.stage is Stage.LEFT for each in link.attempts), "all is closed")
            assert 1 < dialled <= 2 * link_module._DIALS
            assert len(link.attempts) <= 3 + link_module._DIALS
            proxy.links[0]._dials = Bucket(1, every=60)
            serve.room.standing[0].tell_addresses(("203.0.113.9:40000",))
            await until(lambda: len(link.attempts) <= 3, "of each kind one")


def failures(proxy: Member) -> list[str]:
    """Why local TCP has not come up."""
    attempts = [each for link in proxy.links for each in link.attempts]
    return [str(each.failure) for each in attempts if each.failure and isinstance(each.way, DialWay)]


def telling_instead(named: list[str]) -> Callable[[Session, tuple[str, ...]], None]:
    """In place of where serve listens, something else is told."""
    tell = Session.tell_addresses

    def telling(session: Session, addresses: tuple[str, ...]) -> None:
        tell(session, tuple(named))

    return telling


def spied_connects(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Whither anything in this process connects from now on, by TCP."""
    connected: list[tuple[str, int]] = []
    connect = asyncio.SelectorEventLoop.sock_connect

    async def sock_connect(loop: Any, sock: socket.socket, address: Any) -> None:
        connected.append(address[:2])
        await connect(loop, sock, address)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", sock_connect)
    return connected


# -- a signal server that says too much


async def test_a_hundred_tickets_a_second_have_serve_open_few_pipes() -> None:
    async with relaying() as server, pair(server.url, make=Relayed) as (serve, proxy):
        [carrying] = server.pipes
        asking = await under_load(serve, proxy)
        begun, at_once = asyncio.get_running_loop().time(), 0
        told, peer = server.the(Role.SERVE), server.the(Role.PROXY)
        for _ in range(100):
            await told.tell("pipe", peerId=peer.id, ticket=server.ticket())
            await asyncio.sleep(0.01)
            at_once = max(at_once, sum(pipe.open for pipe in server.pipes))
        took = asyncio.get_running_loop().time() - begun
        opened = sum(pipe.opened for pipe in server.pipes if pipe is not carrying)
        assert 0 < opened <= link_module._PIPES + took / link_module._PIPE
        assert at_once <= 1 + link_module._PIPES
        await asyncio.gather(*asking)
        assert serve.connections == proxy.connections == 1
        assert set(serve.events) <= {"signal-connected", "waiting", "peer-connected"}


async def test_tickets_for_members_that_are_not_there_have_serve_open_few_pipes_at_once() -> None:
    async with relaying() as server, pair(server.url, make=Relayed) as (serve, proxy):
        told, at_once = server.the(Role.SERVE), 0
        for number in range(100):
            ghost = f"ghost-{number}"
            await told.tell("peer-joined", peerId=ghost, role="proxy", instance=ghost)
            for _ in range(10):
                await told.tell("pipe", peerId=ghost, ticket=server.ticket())
            await asyncio.sleep(0.01)
            at_once = max(at_once, sum(pipe.open for pipe in server.pipes))
        assert 1 < at_once <= 1 + 4 * Limits().strangers
        assert await proxy.ask() == b"/hello"
        assert serve.connections == proxy.connections == 1
        assert len(serve.of(ErrorNotice)) <= 1


@pytest.mark.parametrize("path", [Path.TCP, Path.DIRECT, Path.RELAY])
async def test_peers_that_are_said_to_be_killed_again_and_again_are_asked_and_nothing_ends(path: Path) -> None:
    # A machine that is busy for half a second must not look like a peer that was killed.
    make = partial(Invited, path=str(path), timeouts=quicker(dead_suspect=10.0))
    async with relaying() as server, pair(server.url, make=make) as (serve, proxy):
        await on(path, serve, proxy)
        [session] = proxy.room.sessions
        await until(lambda: session.rtt is not None)
        measured = session.rtt
        asking = await under_load(serve, proxy)
        while not all(each.done() for each in asking):
            for guest, other in ((Role.SERVE, Role.PROXY), (Role.PROXY, Role.SERVE)):
                await server.the(guest).tell("peer-left", peerId=server.the(other).id, abrupt=True)
            await asyncio.sleep(0.01)
        await asyncio.gather(*asking)
        assert session.rtt != measured, "it was asked"
        assert proxy.room.standing == [session]
        assert serve.connections == proxy.connections == 1
