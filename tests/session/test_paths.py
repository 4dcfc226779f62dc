"""One session over several paths: real WebRTC, and the signal server's relay, in one process."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest

from llmtunnel.config import Timeouts
from llmtunnel.errors import AuthenticationFailed, ConnectFailed, TunnelError
from llmtunnel.paths import Path
from llmtunnel.protocol.handshake import Agreement, ProxyHandshake
from llmtunnel.protocol.heads import RequestHead
from llmtunnel.protocol.hello import Feature
from llmtunnel.session import peers, retry, ways
from llmtunnel.session.attempt import Stage
from llmtunnel.session.carrier import Carrier
from llmtunnel.session.link import Link
from llmtunnel.session.local_tcp import DialWay
from llmtunnel.session.mux import Session
from llmtunnel.session.ways import AskedRelayWay, DirectWay, RelayWay
from llmtunnel.signaling import messages
from llmtunnel.status import ErrorNotice, PeerConnected, PeerLostNotice, Reconnecting, Resumed, Role
from llmtunnel.transport import tcp
from llmtunnel.transport.base import Channel
from llmtunnel.transport.ice import IceAgent
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.pipe import PipeChannel
from llmtunnel.transport.relay import open_relay
from llmtunnel.transport.webrtc import WebRtcChannel, WebRtcPeer
from signal_server import server as signal_module
from signal_server.limits import Limits as SignalLimits
from signal_server.limits import RelayLimits
from signal_server.server import SignalServer

from ..support.balancer import Balancer
from ..support.embedded import PATIENCE, QUICK, quicker, settle, until
from ..support.hostile import http_in
from ..support.members import Member, channel_of, pair, running, silence
from ..support.pipes import Ear
from ..support.pipes import channel as tls_end
from ..support.processes import address_of
from .test_over_tls import Forward

SECRET = "a secret that nobody guesses"
Invited = partial(Member, secret=SECRET, resume_for=PATIENCE)
LOAD = 8


def signal(**limits: Any) -> SignalServer:
    return SignalServer("127.0.0.1", 0, limits=SignalLimits(**limits))


class Gate:
    """Holds the proxy's direct way back until it is opened; counts the pipes that were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, held: bool = True) -> None:
        self.asked = 0
        self._opened = asyncio.Event()
        if not held:
            self._opened.set()
        open_direct, ask = DirectWay.open, messages.pipe

        async def hold(way: DirectWay) -> Channel:
            if way.told.is_set():  # it answers: the proxy's, which came last
                await self._opened.wait()
            return await open_direct(way)

        def count(to: str) -> str:
            self.asked += 1
            return ask(to)

        monkeypatch.setattr(DirectWay, "open", hold)
        monkeypatch.setattr(messages, "pipe", count)

    def open(self) -> None:
        self._opened.set()


def without_udp(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no new connection has an address to send from."""

    async def no_hosts(self: IceAgent) -> None:
        self._local_candidates_start = self._local_candidates_end = True

    monkeypatch.setattr(IceAgent, "gather_candidates", no_hosts)


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two are on networks of their own."""
    monkeypatch.setattr(tcp, "listenable", lambda own, *, loopback: [])


async def echo(proxy: Member, seed: int, size: int = 1_500_000) -> bool:
    """Whether a body that is sent piece by piece comes back whole."""
    body = random.Random(seed).randbytes(size)
    session = await proxy.session()
    stream = await session.open(RequestHead(method=b"POST", target=b"/echo"))

    async def send() -> None:
        for start in range(0, size, 50_000):
            await stream.send(body[start : start + 50_000])
            await asyncio.sleep(0.02)
        await stream.send_end()

    sending = asyncio.create_task(send(), name="sending a body")
    got = hashlib.sha256()
    await stream.response()
    while data := await stream.receive():
        got.update(data)
    await sending
    return got.digest() == hashlib.sha256(body).digest()


def failures(link: Link) -> list[TunnelError]:
    """Why attempts of it are over."""
    return [each.failure for each in link.attempts if each.failure is not None]


async def on(path: Path, *members: Member) -> None:
    """Until all of them are on this path."""
    for member in members:
        await until(lambda: [each.path for each in member.room.standing] == [path], f"on {path}")  # noqa: B023


@pytest.mark.usefixtures("apart")
async def test_the_relay_carries_first_and_a_direct_path_takes_over_under_load(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    make = partial(Invited, timeouts=quicker(answer=PATIENCE))
    async with signal() as server, pair(server.url, make=make) as (serve, proxy):
        await on(Path.RELAY, serve, proxy)
        assert proxy.room.standing[0].detail == "direct: still trying"
        asking = [asyncio.create_task(echo(proxy, seed)) for seed in range(LOAD)]
        await until(lambda: len(serve.started) == LOAD)
        gate.open()
        await on(Path.DIRECT, serve, proxy)
        assert not any(each.done() for each in asking)
        assert all(await asyncio.gather(*asking))
        assert proxy.room.standing[0].detail == ""
        assert [(each.path, each.gap_ms) for each in proxy.of(Resumed)] == [(Path.DIRECT, 0.0)]
        assert "suspended" not in proxy.events + serve.events
        assert proxy.connections == serve.connections == 1
        await until(lambda: not len(server.relay), "the pipe is dropped")


@pytest.mark.usefixtures("apart")
async def test_an_easy_direct_path_costs_the_relay_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, held=False)
    monkeypatch.setattr(peers, "HEAD_START", 2.0)
    async with signal() as server, pair(server.url, make=Invited) as (serve, proxy):
        await on(Path.DIRECT, serve, proxy)
        await asyncio.sleep(3.0)
        assert gate.asked == 0
        assert await proxy.ask() == b"/hello"


@pytest.mark.usefixtures("apart")
async def test_without_udp_the_relay_carries_before_that_is_known_and_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_udp(monkeypatch)
    make = partial(Invited, timeouts=quicker(connect=6.0))
    async with signal() as server:
        async with pair(server.url, make=make) as (serve, proxy):
            assert await proxy.ask() == b"/hello"
            assert proxy.room.standing[0].detail == "direct: still trying"
            await on(Path.RELAY, serve, proxy)
            assert all(await asyncio.gather(*(echo(proxy, seed) for seed in range(LOAD))))
            for member in (serve, proxy):
                await until(lambda: "No network path" in member.room.standing[0].detail)  # noqa: B023
            assert await proxy.ask() == b"/hello"
            assert set(proxy.events) <= {"signal-connected", "waiting", "peer-connected"}


@pytest.mark.usefixtures("apart")
async def test_a_direct_path_that_falls_silent_is_left_for_the_relay(monkeypatch: pytest.MonkeyPatch) -> None:
    make = partial(Invited, timeouts=quicker(ping_busy=0.3, dead_busy=0.9))
    async with signal() as server, pair(server.url, make=make) as (serve, proxy):
        await on(Path.DIRECT, serve, proxy)
        asking = [asyncio.create_task(echo(proxy, seed)) for seed in range(LOAD)]
        await until(lambda: len(serve.started) == LOAD)
        without_udp(monkeypatch)
        for link in serve.links + proxy.links:
            silence(link)
        await on(Path.RELAY, serve, proxy)
        assert all(await asyncio.gather(*asking))
        [resumed] = proxy.of(Resumed)
        print(f"gap {resumed.gap_ms} ms")
        assert resumed.path is Path.RELAY
        assert proxy.connections == serve.connections == 1


@pytest.mark.usefixtures("apart")
async def test_a_relay_that_is_killed_is_a_pause_until_another_path_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    make = partial(Invited, timeouts=quicker(answer=PATIENCE))
    async with signal() as server, pair(server.url, make=make) as (serve, proxy):
        await on(Path.RELAY, serve, proxy)
        asking = [asyncio.create_task(echo(proxy, seed)) for seed in range(LOAD)]
        await until(lambda: len(serve.started) == LOAD)
        monkeypatch.setattr(RelayWay, "open", no_relay)
        monkeypatch.setattr(AskedRelayWay, "open", no_relay)
        assert server.relay is not None
        server.relay.stop()
        await proxy.heard("suspended")
        gate.open()
        await on(Path.DIRECT, serve, proxy)
        assert all(await asyncio.gather(*asking))
        assert proxy.connections == serve.connections == 1


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("first", list(Role))
async def test_a_signal_server_that_was_away_is_tried_often_while_streams_wait_for_its_relay(
    monkeypatch: pytest.MonkeyPatch, first: Role
) -> None:
    """The one that comes back first offers, and that takes its time."""
    offer = WebRtcPeer.offer

    async def slow(peer: WebRtcPeer) -> str:
        await asyncio.sleep(0.1)
        return await offer(peer)

    without_udp(monkeypatch)
    monkeypatch.setattr(WebRtcPeer, "offer", slow)

    def make(role: Role, url: str) -> Member:
        often = 0.05 if role is first else 1.0
        return Invited(role, url, timeouts=quicker(retry_first=60.0, retry_max=60.0, retry_waiting=often))

    async with signal() as server:
        port = int(server.url.rpartition(":")[2])
        async with pair(server.url, make=make) as (serve, proxy):
            await on(Path.RELAY, serve, proxy)
            asking = asyncio.create_task(echo(proxy, 1))
            await until(lambda: serve.started)
            await server.aclose()
            await until(lambda: (serve.events + proxy.events).count("reconnecting") > 4)
            async with SignalServer("127.0.0.1", port):
                assert await asking


async def balanced(stack: AsyncExitStack, *servers: SignalServer) -> Balancer:
    """A load balancer in front of servers on this loop."""
    # What it has begun is accepted before they close: asyncio can forget a connection that comes as a server closes
    # (https://github.com/python/cpython/issues/109564).
    stack.push_async_callback(settle)
    return await asyncio.to_thread(stack.enter_context, Balancer(*(address_of(each.url) for each in servers)))


@pytest.mark.usefixtures("apart")
async def test_a_relay_that_drains_is_left_for_another_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    without_udp(monkeypatch)
    monkeypatch.setattr(signal_module, "NOTICE", 0.3)  # the balancer's health check needs 0.2
    async with signal() as first, signal() as second, AsyncExitStack() as stack:
        balancer = await balanced(stack, first, second)
        async with pair(balancer.url, make=Invited) as (serve, proxy):
            await on(Path.RELAY, serve, proxy)
            asking = [asyncio.create_task(echo(proxy, seed, 5_000_000)) for seed in range(2)]
            await until(lambda: len(serve.started) == 2)
            assert (first.members, second.members) == (2, 0)
            draining = asyncio.create_task(first.drain(3600.0))
            await proxy.heard("resumed")
            assert not any(each.done() for each in asking)
            assert all(await asyncio.gather(*asking))
            await draining  # ends once nobody is left there
            assert (first.members, second.members) == (0, 2)
            assert first.relay is not None and second.relay is not None
            assert (len(first.relay), len(second.relay)) == (0, 1)
        assert "suspended" not in proxy.events + serve.events
        assert [(each.path, each.gap_ms) for each in proxy.of(Resumed)] == [(Path.RELAY, 0.0)]
        assert proxy.connections == serve.connections == 1
        for member in (serve, proxy):
            told = member.of(Reconnecting)[0]
            asked = f"The signal server {balancer.url} restarts, and has asked this side to connect again."
            assert told.reason == asked
            assert (told.what, told.hint) == ("signal server", "")


@pytest.mark.usefixtures("apart")
async def test_a_session_that_cannot_move_stays_on_a_relay_that_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    without_udp(monkeypatch)
    make = partial(Member, secret=SECRET, resume_for=0.0)
    async with signal() as first, signal() as second, AsyncExitStack() as stack:
        balancer = await balanced(stack, first, second)
        async with pair(balancer.url, make=make) as (serve, proxy):
            await on(Path.RELAY, serve, proxy)
            draining = asyncio.create_task(first.drain(3600.0))
            asking = asyncio.create_task(echo(proxy, 1))
            await until(lambda: second.members == 2)
            assert await asking
            assert not draining.done() and first.relay is not None and len(first.relay) == 1
            draining.cancel()
            assert proxy.connections == serve.connections == 1


async def no_relay(way: RelayWay) -> Channel:
    raise ConnectFailed("The relay is gone.")


@pytest.mark.usefixtures("apart")
async def test_a_relay_that_plays_each_peer_to_the_other_gets_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a certificate of its own, shows it to both, and passes on what they say."""
    middle = Identity()

    async def hostile(url: str, ticket: str, *, identity: Identity, server: bool, **rest: Any) -> Channel:
        if server:
            return await open_relay(url, ticket, identity=identity, server=server, **rest)
        ours, our_wire = tls_end(identity, server=False)
        theirs, their_wire = tls_end(middle, server=True)
        our_wire.carry, our_wire.end = their_wire.arrive, their_wire.arrive_end
        their_wire.carry, their_wire.end = our_wire.arrive, our_wire.arrive_end
        theirs.connection_made(their_wire)
        ours.connection_made(our_wire)
        await asyncio.gather(ours.stand(PATIENCE), theirs.stand(PATIENCE))
        beyond = await open_relay(url, ticket, identity=middle, server=False, **rest)
        theirs.attach(Forward(beyond))
        beyond.attach(Forward(theirs))
        return ours

    without_udp(monkeypatch)
    monkeypatch.setattr(ways, "open_relay", hostile)
    async with signal() as server:
        serve, proxy = (Invited(role, server.url) for role in Role)
        async with running(serve, proxy):
            await asyncio.wait((proxy.task,), timeout=PATIENCE)
            assert isinstance(proxy.task.exception(), AuthenticationFailed)
            assert serve.connections == proxy.connections == 0
            assert serve.of(ErrorNotice)
            proxy.task = asyncio.create_task(asyncio.sleep(0))


@pytest.mark.usefixtures("apart")
async def test_who_comes_later_with_another_certificate_is_not_let_in_and_nothing_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tickets: list[str] = []
    monkeypatch.setattr(peers, "HEAD_START", PATIENCE)  # the proxy itself asks for none
    async with signal() as server, pair(server.url, make=Invited) as (serve, proxy):
        await on(Path.DIRECT, serve, proxy)
        [link], [ours] = proxy.links, serve.links
        with monkeypatch.context() as patch:
            patch.setattr(link, "take_ticket", tickets.append)
            proxy.room.send_signal(messages.pipe(link.member.peer_id))
            await until(lambda: tickets)
        ear = Ear()
        stranger = await open_relay(server.url, tickets[0], identity=Identity(), server=False, timeouts=QUICK)
        stranger.attach(ear)
        await ear.until(lambda: ear.closed)
        assert ear.closed == ["the other end rejected our certificate"]
        await stranger.aclose()
        await until(lambda: len([each for each in ours.attempts if each.running]) == 1)
        assert await proxy.ask() == b"/hello"
        assert set(serve.events) <= {"signal-connected", "waiting", "peer-connected"}


@pytest.mark.usefixtures("apart")
async def test_two_invited_proxies_without_udp_have_a_session_each(monkeypatch: pytest.MonkeyPatch) -> None:
    without_udp(monkeypatch)
    async with signal() as server, pair(server.url, make=Invited) as (serve, proxy):
        other = Invited(Role.PROXY, server.url)
        async with running(other):
            assert all(await asyncio.gather(echo(proxy, 1), echo(other, 2)))
            await serve.reached(2)
            assert proxy.room.standing[0].id != other.room.standing[0].id
        assert set(proxy.events) <= {"signal-connected", "waiting", "peer-connected"}


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("missing", ["secret", "relay"])
async def test_there_is_no_relay_without_a_secret_or_where_the_signal_server_has_none(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    gate = Gate(monkeypatch, held=False)
    without_udp(monkeypatch)
    timeouts: Timeouts = quicker(connect=1.0)
    make = partial(Member, secret=None if missing == "secret" else SECRET, timeouts=timeouts)
    async with signal(**({"relay": None} if missing == "relay" else {})) as server:
        serve, proxy = (make(role, server.url) for role in Role)
        async with running(serve, proxy):
            await proxy.heard("error")
            assert "No network path" in proxy.of(ErrorNotice)[0].message
            assert gate.asked == 0


@pytest.mark.usefixtures("apart")
async def test_a_signal_server_that_gives_no_ticket_is_told_of_only_where_nothing_else_connects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate(monkeypatch)
    make = partial(Invited, timeouts=quicker(answer=PATIENCE))
    async with signal(relay=RelayLimits(asks=0)) as server:
        serve, proxy = (make(role, server.url) for role in Role)
        async with running(serve, proxy):
            await until(lambda: proxy.links and failures(proxy.links[0]))
            assert "The signal server refused a pipe through its relay" in str(*failures(proxy.links[0]))
            gate.open()
            await on(Path.DIRECT, proxy)
            assert not proxy.of(ErrorNotice)


async def test_local_tcp_takes_over_where_the_two_are_near_and_what_dies_with_it_goes_on() -> None:
    async with signal() as server, pair(server.url, make=Invited) as (serve, proxy):
        await on(Path.TCP, serve, proxy)
        [session] = proxy.room.standing
        assert ":" in session.address
        await until(lambda: not serve.listener, "nobody is expected any more")
        asking = [asyncio.create_task(echo(proxy, seed)) for seed in range(LOAD)]
        await until(lambda: len(serve.started) == LOAD)
        channel_of(session).give_up("the cable is pulled")  # type: ignore[attr-defined]
        await proxy.heard("suspended")
        await on(Path.TCP, serve, proxy)
        assert all(await asyncio.gather(*asking))
        paths = [each.path for each in proxy.of(Resumed)]
        assert paths[0] is paths[-1] is Path.TCP and Path.DIRECT in paths
        assert proxy.connections == serve.connections == 1


async def test_connecting_anew_from_a_better_path_goes_on_and_comes_back_to_it() -> None:
    async with signal() as server, pair(server.url, make=Invited) as (serve, proxy):
        await on(Path.TCP, serve, proxy)
        asking = [asyncio.create_task(echo(proxy, seed)) for seed in range(LOAD)]
        await until(lambda: len(serve.started) == LOAD)
        proxy.room.reconnect()
        await until(lambda: len(proxy.of(Resumed)) >= 3, "to tcp, to another link, to tcp")
        await on(Path.TCP, serve, proxy)
        assert all(await asyncio.gather(*asking))
        assert not proxy.of(ErrorNotice) and proxy.connections == 1


async def test_without_udp_the_relay_introduces_and_local_tcp_carries(monkeypatch: pytest.MonkeyPatch) -> None:
    without_udp(monkeypatch)
    async with signal() as server, pair(server.url, make=Invited) as (serve, proxy):
        await on(Path.TCP, serve, proxy)
        assert await echo(proxy, 1)
        await until(lambda: not len(server.relay), "the pipe is dropped")


@pytest.mark.usefixtures("apart")
async def test_a_network_that_lets_udp_pass_later_is_noticed_and_the_relay_left_under_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "FIRST", 0.2)
    with monkeypatch.context() as blocked:
        without_udp(blocked)
        async with signal() as server, pair(server.url, make=Invited) as (serve, proxy):
            await on(Path.RELAY, serve, proxy)
            await until(lambda: not any(link.tries_direct for link in proxy.links), "there is none")
            await another_try(proxy)
            asking = [asyncio.create_task(echo(proxy, seed)) for seed in range(LOAD)]
            await until(lambda: len(serve.started) == LOAD)
            blocked.undo()
            await on(Path.DIRECT, serve, proxy)
            assert not any(each.done() for each in asking)
            assert all(await asyncio.gather(*asking))
            assert [(each.path, each.gap_ms) for each in proxy.of(Resumed)] == [(Path.DIRECT, 0.0)]
            assert proxy.better_due is None
            assert set(proxy.events + serve.events) <= {"signal-connected", "waiting", "peer-connected", "resumed"}


async def another_try(proxy: Member) -> None:
    """Until a direct path was tried beside what carries, and was none."""
    await until(lambda: any(link.spare for link in proxy.links), "one more is tried")
    await until(lambda: proxy.links and not any(link.spare for link in proxy.links), "and has failed")


@pytest.mark.usefixtures("apart")
async def test_a_try_for_a_better_path_that_fails_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST", 0.2)
    without_udp(monkeypatch)
    async with signal() as server, pair(server.url, make=Invited) as (serve, proxy):
        await until(lambda: not any(link.tries_direct for link in proxy.links), "there is no direct path")
        links = proxy.links
        for _ in range(2):
            await another_try(proxy)
        assert proxy.links == links and serve.links[0].session is serve.room.sessions[0]
        assert proxy.room.standing[0].detail.startswith("direct: ")
        assert set(proxy.events + serve.events) <= {"signal-connected", "waiting", "peer-connected"}
        asking = asyncio.create_task(echo(proxy, 1))
        await until(lambda: serve.started)
        assert server.relay is not None
        server.relay.stop()
        await proxy.heard("suspended")
        assert await asking


@pytest.mark.parametrize("who", list(Role))
@pytest.mark.parametrize("udp", [True, False])
async def test_where_local_tcp_alone_may_carry_no_byte_of_a_stream_goes_elsewhere(
    monkeypatch: pytest.MonkeyPatch, who: Role, udp: bool
) -> None:
    """Not before it is up, and not while it is away."""
    elsewhere: list[bytes] = []
    for kind in (WebRtcChannel, PipeChannel):
        monkeypatch.setattr(kind, "send", spy(kind.send, elsewhere))

    def make(role: Role, url: str) -> Member:
        return Invited(role, url, path="tcp" if role is who else "auto")

    if not udp:
        without_udp(monkeypatch)
    async with signal() as server, pair(server.url, make=make) as (serve, proxy):
        asking = [asyncio.create_task(echo(proxy, seed)) for seed in range(LOAD)]
        await until(lambda: len(serve.started) == LOAD)
        [session] = proxy.room.standing
        assert [each.path for each in proxy.of(PeerConnected) + serve.of(PeerConnected)] == [Path.TCP, Path.TCP]
        channel_of(session).give_up("the cable is pulled")  # type: ignore[attr-defined]
        await proxy.heard("resumed")
        assert all(await asyncio.gather(*asking))
        assert {each.path for each in proxy.of(Resumed) + serve.of(Resumed)} == {Path.TCP}
        assert elsewhere and not http_in(elsewhere)
        assert "peer-lost" not in proxy.events + serve.events


async def test_where_local_tcp_alone_may_carry_connecting_anew_loses_nothing() -> None:
    async with signal() as server, pair(server.url, make=partial(Invited, path="tcp")) as (serve, proxy):
        await on(Path.TCP, serve, proxy)
        [session] = proxy.room.standing
        proxy.room.reconnect()
        await proxy.heard("resumed")
        assert proxy.room.standing == [session] and session.path is Path.TCP
        assert await proxy.ask() == b"/hello"
        assert "peer-lost" not in proxy.events + serve.events


def spy(send: Callable[[Any, bytes, int], None], sent: list[bytes]) -> Callable[[Any, bytes, int], None]:
    """Keeps what goes over another path than local TCP."""

    def spying(channel: Any, message: bytes, pipe: int = 0) -> None:
        if channel.path is not Path.TCP:
            sent.append(message)
        send(channel, message, pipe)

    return spying


@pytest.mark.usefixtures("apart")
async def test_where_local_tcp_alone_may_carry_and_cannot_it_is_said_and_tried_again() -> None:
    async with signal() as server:
        serve, proxy = Invited(Role.SERVE, server.url), Invited(Role.PROXY, server.url, path="tcp")
        async with running(serve, proxy):
            await until(lambda: len([each for each in proxy.of(Reconnecting) if each.what == "peer"]) >= 2)
            [told, *_] = proxy.of(Reconnecting)
            assert "Cannot reach the peer over tcp" in told.reason and "--path auto" in told.hint
            assert not proxy.room.standing and not proxy.of(PeerConnected)
            assert not {"peer-connected", "peer-lost"} & set(serve.events)


async def test_without_a_secret_nobody_says_where_it_listens() -> None:
    async with signal() as server, pair(server.url) as (serve, proxy):
        assert Feature.PATH not in proxy.room.standing[0].features
        assert await proxy.ask() == b"/hello"
        assert not serve.listener
        await on(Path.DIRECT, serve, proxy)


@pytest.mark.usefixtures("apart")
async def test_why_a_turn_server_carries_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WebRtcChannel, "path", Path.TURN)

    async with signal() as server, pair(server.url, make=Invited) as (_, proxy):
        await on(Path.TURN, proxy)
        assert proxy.room.standing[0].detail == "direct: the two networks let nothing through directly"


@pytest.mark.parametrize("who", list(Role))
@pytest.mark.parametrize("path", [Path.DIRECT, Path.RELAY, Path.TCP])
async def test_a_path_that_one_side_restricts_itself_to_is_the_only_one(path: Path, who: Role) -> None:
    def make(role: Role, url: str) -> Member:
        return Invited(role, url, path=str(path) if role is who else "auto")

    async with signal() as server, pair(server.url, make=make) as (serve, proxy):
        await on(path, serve, proxy)
        assert await echo(proxy, 1, 100_000)
        await on(path, serve, proxy)
        assert not proxy.of(Resumed) + proxy.of(ErrorNotice) + serve.of(ErrorNotice)
        assert (Feature.PATH in proxy.room.standing[0].features) is (path is Path.TCP)


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("who", list(Role))
async def test_a_session_that_cannot_change_its_path_keeps_the_first(
    monkeypatch: pytest.MonkeyPatch, who: Role
) -> None:
    monkeypatch.setattr(peers, "PATIENT_START", 0.1)
    gate = Gate(monkeypatch)

    def make(role: Role, url: str) -> Member:
        return Invited(role, url, timeouts=quicker(answer=PATIENCE), resume_for=0.0 if role is who else PATIENCE)

    async with signal() as server, pair(server.url, make=make) as (serve, proxy):
        await on(Path.RELAY, serve, proxy)
        [link] = proxy.links
        gate.open()
        await until(lambda: failures(link))
        assert "cannot change its path" in proxy.room.standing[0].detail
        assert await echo(proxy, 1, 100_000)
        assert proxy.connections == 1


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("who", list(Role))
async def test_no_better_path_is_looked_for_where_the_session_cannot_change_to_it(
    monkeypatch: pytest.MonkeyPatch, who: Role
) -> None:
    monkeypatch.setattr(peers, "PATIENT_START", 0.1)
    monkeypatch.setattr(retry, "FIRST", 0.2)

    def make(role: Role, url: str) -> Member:
        return Invited(role, url, resume_for=0.0 if role is who else PATIENCE)

    with monkeypatch.context() as blocked:
        without_udp(blocked)
        async with signal() as server, pair(server.url, make=make) as (serve, proxy):
            await on(Path.RELAY, serve, proxy)
            await until(lambda: not any(link.tries_direct for link in proxy.links), "there is none")
            blocked.undo()
            asking = asyncio.create_task(echo(proxy, 1))
            due = proxy.better_due
            await until(lambda: proxy.better_due != due, "one would be tried now")
            assert not any(link.spare for link in proxy.links)
            assert await asking
            assert proxy.connections == 1


async def test_the_relay_alone_where_there_is_none_says_so() -> None:
    async with signal(relay=None) as server:
        proxy = Invited(Role.PROXY, server.url, path="relay")
        async with running(proxy):
            await proxy.heard("error")
            assert "has no relay" in proxy.of(ErrorNotice)[0].message


async def test_a_session_that_ends_as_it_goes_over_to_another_path_is_over_at_both_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Serve has gone over by then, and takes no farewell that comes on the path before."""
    agreed = peers.Peers.agreed

    def too_late(each: peers.Peers, carrier: Carrier, agreement: Agreement, *, name: str) -> Session | None:
        late = each._role is Role.PROXY and agreement.received is not None
        return None if late else agreed(each, carrier, agreement, name=name)

    monkeypatch.setattr(peers.Peers, "agreed", too_late)
    async with signal() as server, pair(server.url, make=Invited) as (serve, _):
        await serve.heard("peer-lost")
        assert "The other side has stopped." in serve.of(PeerLostNotice)[0].reason


class Withheld:
    """Serve's proof on the proxy's channels of one path, and all behind it, which `release` delivers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.waiting: list[tuple[Carrier, bytes]] = []
        self._active = True
        self._receive = receive = Carrier.message_received

        def hold(carrier: Carrier, message: bytes) -> None:
            handshake = carrier.greeting._handshake
            awaits_proof = isinstance(handshake, ProxyHandshake) and handshake._agree and not handshake.agreement
            if self._active and awaits_proof and carrier.channel.path is path:
                self.waiting.append((carrier, message))
            else:
                receive(carrier, message)

        monkeypatch.setattr(Carrier, "message_received", hold)

    def release(self) -> None:
        self._active = False
        for carrier, message in self.waiting:
            self._receive(carrier, message)


@pytest.mark.parametrize("path", [Path.DIRECT, Path.TCP])
@pytest.mark.parametrize("again", ["moved", "reconnect"])
async def test_a_better_path_that_is_agreed_on_as_the_proxy_rejoins_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, path: Path, again: str
) -> None:
    """Serve has moved the session to the better channel. The proxy hears so when it has left the link behind."""

    gate, withheld = Gate(monkeypatch, held=path is Path.DIRECT), Withheld(monkeypatch, path)
    if path is Path.DIRECT:
        monkeypatch.setattr(tcp, "listenable", lambda own, *, loopback: [])
    make = partial(Invited, timeouts=quicker(answer=PATIENCE))
    async with signal() as server, pair(server.url, make=make) as (serve, proxy):
        asking = [asyncio.create_task(echo(proxy, seed)) for seed in range(LOAD)]
        await until(lambda: len(serve.started) == LOAD)
        gate.open()
        await on(path, serve)
        proxy.move() if again == "moved" else proxy.room.reconnect()
        await until(lambda: proxy.left, "the link is left behind")
        withheld.release()
        assert all(await asyncio.gather(*asking))
        assert proxy.connections == serve.connections == 1
        await on(path, serve, proxy)
        assert await proxy.ask() == b"/hello"
        await until(lambda: not serve.room.connecting and not proxy.room.connecting, "no link is being made")
        assert not {"peer-lost", "error"} & {*proxy.events, *serve.events}


@pytest.mark.usefixtures("apart")
async def test_a_greeting_that_the_proxy_breaks_off_ends_no_session_that_serve_has_moved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The user has the proxy connect anew while it greets on the link that is to replace a silent one."""

    make = partial(Invited, timeouts=quicker(ping_busy=0.3, dead_busy=0.9))
    async with signal(relay=None) as server, pair(server.url, make=make) as (serve, proxy):
        await on(Path.DIRECT, serve, proxy)
        asking = [asyncio.create_task(echo(proxy, seed)) for seed in range(LOAD)]
        await until(lambda: len(serve.started) == LOAD)
        withheld = Withheld(monkeypatch, Path.DIRECT)
        for link in serve.links + proxy.links:
            silence(link)
        await until(lambda: withheld.waiting, "serve has moved the session to another link")
        proxy.room.reconnect()
        withheld.release()
        assert all(await asyncio.gather(*asking))
        assert proxy.connections == serve.connections == 1
        assert "peer-lost" not in proxy.events + serve.events


async def test_a_proxy_that_stops_while_its_session_moves_ends_it_at_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve has moved the session to local TCP, and listens there alone."""
    Withheld(monkeypatch, Path.TCP)
    async with signal() as server, pair(server.url, make=Invited) as (serve, proxy):
        await on(Path.TCP, serve)
        await proxy.stop()
        await serve.heard("peer-lost")
        assert "suspended" not in serve.events


async def test_a_channel_that_opens_while_the_proxy_stops_begins_no_other_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody would end that one in order: serve would wait for its proxy for as long as it may."""
    opened, stopping = asyncio.Event(), asyncio.Event()
    dial, close = DialWay.open, Session.aclose

    async def hold(way: DialWay) -> Channel:
        channel = await dial(way)
        opened.set()
        await stopping.wait()
        return channel

    async def close_late(session: Session, *said: Any) -> None:
        if session.role is Role.PROXY:
            stopping.set()
            [attempt] = [each for link in proxy.links for each in link.attempts if isinstance(each.way, DialWay)]
            await until(lambda: attempt.stage not in (Stage.OPENING, Stage.WAITING), "it is greeted on, or left")
            if attempt.carrier is not None:
                await attempt.carrier.settled.wait()
        await close(session, *said)

    monkeypatch.setattr(DialWay, "open", hold)
    monkeypatch.setattr(Session, "aclose", close_late)
    async with signal() as server, pair(server.url, make=Invited) as (serve, proxy):
        await opened.wait()
        await proxy.stop()
        await serve.heard("peer-lost")
        assert [lost.reason for lost in serve.of(PeerLostNotice)] == ["The other side has stopped."]
        assert serve.connections == 1
