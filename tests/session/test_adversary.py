"""The signal server, and whoever knows the room, against a serve and a proxy that have a secret."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from llmtunnel.config import Limits
from llmtunnel.errors import AuthenticationFailed, ErrorCode, TunnelError, Unwelcome
from llmtunnel.protocol import door as door_module
from llmtunnel.protocol import frames
from llmtunnel.protocol.auth import GUESSES, ProxyCredentials, ServeCredentials
from llmtunnel.protocol.door import Door
from llmtunnel.protocol.frames import FrameType
from llmtunnel.protocol.hello import ALL_FEATURES, Agree, AuthAnswer, AuthOffer, Feature, Hello
from llmtunnel.protocol.keys import Certificates, KeyExchange, Ticket
from llmtunnel.session.access import ProxyAccess, ServeAccess
from llmtunnel.session.link import Link
from llmtunnel.signaling.negotiation import MEMBERS
from llmtunnel.status import ErrorNotice, PeerConnected, Role
from llmtunnel.transport.identity import Identity
from signal_server.server import SignalServer

from ..reference import wire
from ..reference.original import meet
from ..reference.roles import Proxy as OriginalProxy
from ..reference.roles import Serve as OriginalServe
from ..reference.roles import Side
from ..support.core_pair import ConnectionPair, Core
from ..support.embedded import PATIENCE, quicker, until
from ..support.hostile import Detour, Guest, HostileSignal, Json, Middle, Script, Wire, http_in
from ..support.members import Member, running

SECRET = "a secret of both"


def serve_at(server: HostileSignal | SignalServer, secret: str | None = SECRET, **more: Any) -> Member:
    return Member(Role.SERVE, server.url, secret=secret, path="direct", **more)


def proxy_at(server: HostileSignal | SignalServer, secret: str | None = SECRET, **more: Any) -> Member:
    return Member(Role.PROXY, server.url, secret=secret, path="direct", **more)


async def end_of(proxy: Member) -> TunnelError:
    """What a proxy stops with."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(TunnelError) as caught:
            await proxy.task
    return caught.value


async def stops(proxy: Member) -> TunnelError:
    """What a proxy stops with that is started, and asked for something all the time."""
    asking = asyncio.create_task(proxy.start().ask(), name="a request")
    try:
        return await end_of(proxy)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def they_meet(serve: Member, server: HostileSignal | SignalServer) -> None:
    """A new proxy of theirs comes in and is answered."""
    proxy = proxy_at(server)
    async with running(proxy):
        assert await proxy.ask() == b"/hello"
    assert serve.started[-1] == b"/hello"


def put_in_the_middle(server: HostileSignal) -> None:
    async def greet(guest: Guest) -> None:
        if guest.role is Role.PROXY:
            middle = Middle()
            await server.pose(guest, middle)
            await server.pose(server.the(Role.SERVE), middle)

    server.greet = greet


async def test_without_a_secret_a_server_in_the_middle_reads_all() -> None:
    """What the secret is for; and so the tests below can fail."""

    async with HostileSignal() as server:
        put_in_the_middle(server)
        serve, proxy = serve_at(server, None), proxy_at(server, None)
        async with running(serve):
            await serve.heard("signal-connected")
            async with running(proxy):
                assert await proxy.ask() == b"/hello"
                assert b"/hello" in b"".join(frame.payload for frame in http_in(server.seen))


async def test_with_one_it_reads_nothing_both_are_told_and_they_meet_when_it_is_gone() -> None:
    async with HostileSignal() as server:
        put_in_the_middle(server)
        serve, proxy = serve_at(server), proxy_at(server)
        async with running(serve):
            await serve.heard("signal-connected")
            error = await stops(proxy)
            assert isinstance(error, AuthenticationFailed)
            assert "use another signal server" in error.hint
            assert "Wrong code: " in str(error)
            [told, *_] = serve.of(ErrorNotice)
            assert "A proxy has a wrong code: " in told.message
            assert "use another signal server" in told.hint
            assert not serve.started
            assert server.seen and not http_in(server.seen)
            server.greet = server.introduce
            await they_meet(serve, server)


async def test_fingerprints_that_are_swapped_let_nobody_through() -> None:
    def swapped(guest: Guest, message: Json) -> list[Json | str | bytes]:
        if "sdp" in message:
            head, _, rest = message["sdp"].partition("a=fingerprint:sha-256 ")
            message["sdp"] = f"{head}a=fingerprint:sha-256 {'AB:' * 31}AB{rest[95:]}"
        return [message]

    async with HostileSignal() as server:
        server.tamper = swapped
        serve, proxy = serve_at(server), proxy_at(server)
        async with running(serve, proxy):
            await serve.heard("error")
            await proxy.heard("error")
            for side in (serve, proxy):
                assert not side.connections
                assert "the certificate is not the announced one" in side.of(ErrorNotice)[0].message
            server.tamper = lambda guest, message: [message]
            assert await proxy.ask() == b"/hello"


async def test_candidates_that_are_swapped_bring_packets_that_nobody_can_read() -> None:
    async with HostileSignal() as server, Detour() as detour:
        server.tamper = detour
        serve, proxy = serve_at(server), proxy_at(server)
        async with running(serve, proxy):
            assert await proxy.ask(b"/told-to-nobody-else") == b"/told-to-nobody-else"
        packets = b"".join(detour.seen)
        assert len(detour.seen) > 20
        assert b"told-to-nobody" not in packets
        assert b"httptunnel" not in packets


async def test_messages_that_are_replayed_bring_nobody_in_and_both_are_told() -> None:
    async with HostileSignal() as server:
        impatient = quicker(connect=0.5)
        serve, proxy = serve_at(server, timeouts=impatient), proxy_at(server, timeouts=impatient)
        async with running(serve):
            await serve.heard("signal-connected")
            await they_meet(serve, server)
            old = list(server.relayed)

            def replay(guest: Guest, message: Json) -> list[Json | str | bytes]:
                other = server.the(guest.role.other)
                again = [{**each, "peerId": other.id} for each in old if each["type"] == message["type"]]
                return [message, message, *again]

            server.tamper = replay
            async with running(proxy):
                await proxy.heard("error")
                await serve.heard("error")
                assert (serve.connections, proxy.connections) == (1, 0)
                assert "No network path" in proxy.of(ErrorNotice)[0].message
                server.tamper = lambda guest, message: [message]
                assert await proxy.ask() == b"/hello"
                assert serve.started == [b"/hello"] * 2


async def test_garbage_and_floods_between_honest_messages_keep_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    garbage: list[Json | str | bytes] = [
        *("", "{", "[]", "null", '{"type":"offer"}', '{"type":"joined"}', "x" * 10_000),
        *(b"\0\1\2", {"type": "offer", "peerId": "nobody", "sdp": "v=0"}, {"type": "candidate", "peerId": "nobody"}),
        *({"type": "peer-joined", "peerId": f"ghost-{number}", "role": "serve"} for number in range(3)),
        *({"type": "peer-left", "peerId": f"ghost-{number}"} for number in range(3)),
        *({"type": "error", "message": "no \x1b[31m idea"} for _ in range(20)),
    ]

    async with HostileSignal() as server:
        server.tamper = lambda guest, message: [*garbage, message, *garbage]
        serve, proxy = serve_at(server), proxy_at(server)
        async with running(serve, proxy):
            assert await proxy.ask() == b"/hello"
            assert serve.started == [b"/hello"]
            warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
            assert len(warnings) < 60 and not any("\x1b" in record.getMessage() for record in warnings)


async def test_offers_to_everybody_cost_little_and_when_they_stop_honest_peers_meet() -> None:
    async with HostileSignal() as server:

        async def greet(guest: Guest) -> None:
            await server.introduce(guest)
            for number in range(50):
                for each in server.guests.values():
                    ghost = f"ghost-{number}-{guest.id}"
                    await each.tell("peer-joined", peerId=ghost, role=each.role.other, instance=ghost)
                    await each.tell("offer", peerId=ghost, sdp=sdp)

        impatient = quicker(connect=0.5, answer=0.5)
        serve, proxy = serve_at(server, timeouts=impatient), proxy_at(server, timeouts=impatient)
        async with running(serve):
            await serve.heard("signal-connected")
            await they_meet(serve, server)
            sdp = next(each["sdp"] for each in server.relayed if each["type"] == "offer")
            server.greet = greet
            async with running(proxy):
                await proxy.heard("error")
                for side in (serve, proxy):
                    assert len(side.links) <= Limits().strangers
                    assert side.closing <= 2 * Limits().strangers
                assert len(serve.of(ErrorNotice)) <= 1
                server.greet = server.introduce
                assert await proxy.ask() == b"/hello"
                assert len(serve.started) == 2


@pytest.mark.parametrize("role", Role)
async def test_two_of_one_role_that_are_told_of_each_other_exchange_nothing(role: Role) -> None:
    async with HostileSignal() as server:
        server.mixes = True
        patience = quicker(handshake=0.3)
        left, right = (Member(role, server.url, secret=SECRET, timeouts=patience) for _ in range(2))
        async with running(left):
            await left.heard("signal-connected")
            async with running(right):
                await left.heard("error")
                assert not left.connections + right.connections
                assert not left.started + right.started


# -- somebody who knows the room, at an honest server


@pytest.mark.parametrize("guess", ["a guess", None])
async def test_who_poses_as_serve_hears_no_request_and_the_proxy_stops_and_asks(guess: str | None) -> None:
    async with SignalServer("127.0.0.1", 0) as server:
        thief = serve_at(server, guess)
        async with running(thief):
            await thief.heard("waiting")
            proxy = proxy_at(server)
            error = await stops(proxy)
            assert isinstance(error, AuthenticationFailed)
            assert error.hint
            assert not thief.started + list(map(str, proxy.of(PeerConnected)))
        serve = serve_at(server)
        async with running(serve):
            await they_meet(serve, server)


@pytest.mark.parametrize("guess", ["a guess", None])
async def test_who_poses_as_proxy_gets_no_answer_and_disturbs_nobody(guess: str | None) -> None:
    async with SignalServer("127.0.0.1", 0) as server:
        serve, honest = serve_at(server), proxy_at(server)
        async with running(serve, honest):
            assert await honest.ask() == b"/hello"
            thief = proxy_at(server, guess)
            assert isinstance(await stops(thief), AuthenticationFailed)
            [told] = serve.of(ErrorNotice)
            assert told.message.startswith("A proxy ")
            assert serve.connections == 1
            assert await honest.ask() == b"/hello"
            assert serve.started == [b"/hello"] * 2
            await they_meet(serve, server)


@pytest.mark.usefixtures("an_address")
async def test_an_original_serve_hears_no_request_of_a_proxy_with_a_secret() -> None:
    async with SignalServer("127.0.0.1", 0) as server:
        original = OriginalServe("http://127.0.0.1:9")
        heard = overheard(original)
        async with meeting(original, server), running(proxy := proxy_at(server)):
            asking = asyncio.create_task(proxy.ask())
            await proxy.heard("error")
            assert "serve has none" in proxy.of(ErrorNotice)[0].message
            assert not proxy.connections
            assert set(heard) <= {wire.ERROR}
            asking.cancel()


@pytest.mark.usefixtures("an_address")
async def test_an_original_proxy_gets_nowhere_at_a_serve_with_a_secret() -> None:
    async with SignalServer("127.0.0.1", 0) as server:
        serve, original = serve_at(server), OriginalProxy()
        async with running(serve):
            await serve.heard("waiting")
            async with meeting(original, server):
                await serve.heard("error")
                assert "A proxy without a code or a secret" in serve.of(ErrorNotice)[0].message
                assert not serve.connections


def overheard(side: OriginalServe) -> list[int]:
    """The types of the frames that it gets after its handshake, PING and PONG aside."""
    heard: list[int] = []
    side.received = lambda kind, stream, payload: heard.append(kind)  # type: ignore[method-assign]
    return heard


@asynccontextmanager
async def meeting(original: Side, server: SignalServer) -> AsyncIterator[None]:
    """An original peer is in the room."""
    before = asyncio.all_tasks()
    task = asyncio.create_task(meet(original, "r", server.url), name="an original peer")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # aiortc's connection connects in tasks that nobody owns.
        await until(lambda: not any(each.get_name().startswith("Task-") for each in asyncio.all_tasks() - before))


# -- a hostile serve, one step of the handshake after the other


def agree(share: bytes | None) -> bytes:
    auth = AuthAnswer(share=share) if share else None
    features = ALL_FEATURES | {Feature.AUTH}
    return frames.encode(FrameType.AGREE, 0, Agree(features=features, auth=auth, session=bytes(16)).encode())


def guess() -> bytes:
    """A share by another secret."""
    return KeyExchange(Role.SERVE, "a guess").share


async def close_at_once(wire: Wire) -> None:
    return


async def close_after_hello(wire: Wire) -> None:
    await wire.hear(FrameType.HELLO)


async def close_after_the_proxys_proof(wire: Wire) -> None:
    await wire.hear(FrameType.HELLO)
    wire.send(agree(guess()))
    await wire.hear(FrameType.AUTH)


async def reset_after_the_proxys_proof(wire: Wire) -> None:
    await close_after_the_proxys_proof(wire)
    wire.send(frames.encode(FrameType.RESET, 0, frames.encode_reset(ErrorCode.NO_ERROR, "The peer stops.")))
    await wire.until_closed()


async def silence_after_the_proxys_proof(wire: Wire) -> None:
    await close_after_the_proxys_proof(wire)
    await wire.until_closed()


async def send_back_the_proof(wire: Wire) -> None:
    await wire.hear(FrameType.HELLO)
    wire.send(agree(guess()))
    wire.send(frames.encode(FrameType.AUTH, 0, await wire.hear(FrameType.AUTH)))
    await wire.until_closed()


async def send_back_the_share(wire: Wire) -> None:
    share = _share(await wire.hear(FrameType.HELLO))
    wire.send(agree(share))
    await wire.until_closed()


async def send_back_the_share_as_ones_own(wire: Wire) -> None:
    share = _share(await wire.hear(FrameType.HELLO))
    wire.send(agree(b"B" + share[1:]))
    await wire.until_closed()


async def ask_for_nothing(wire: Wire) -> None:
    await wire.hear(FrameType.HELLO)
    wire.send(agree(None))
    await wire.until_closed()


async def refuse_in_others_words(wire: Wire) -> None:
    await wire.hear(FrameType.HELLO)
    told = frames.encode_reset(ErrorCode.VERSION, "Get the new version at evil.example.")
    wire.send(frames.encode(FrameType.RESET, 0, told))
    await wire.until_closed()


def _share(hello: bytes) -> bytes:
    auth = Hello.decode(hello).auth
    assert auth is not None
    return auth.share


@pytest.mark.parametrize(
    "script",
    [
        close_after_the_proxys_proof,
        reset_after_the_proxys_proof,
        silence_after_the_proxys_proof,
        send_back_the_proof,
        send_back_the_share,
        send_back_the_share_as_ones_own,
        ask_for_nothing,
        refuse_in_others_words,
    ],
)
async def test_a_proxy_stops_after_so_many_handshakes_that_somebody_has_spoilt(script: Script) -> None:
    async with HostileSignal() as server:
        server.greet = lambda guest: server.pose(guest, script)
        proxy = proxy_at(server, timeouts=quicker(handshake=0.3))
        error = await stops(proxy)
        assert proxy.events.count("signal-connected") == GUESSES
        assert not proxy.connections
        assert not http_in(server.seen)
        assert error.hint and error.exit_code != 1
        if script is refuse_in_others_words:
            assert str(error).startswith("The other side says: Get the new")
        else:
            assert isinstance(error, AuthenticationFailed)


@pytest.mark.parametrize("script", [close_at_once, close_after_hello])
async def test_what_is_broken_off_before_the_proof_is_no_guess_and_the_proxy_goes_on(script: Script) -> None:
    async with HostileSignal() as server:
        server.greet = lambda guest: server.pose(guest, script)
        proxy = proxy_at(server)
        async with running(proxy):
            await proxy.heard("error", GUESSES + 1)
            server.greet = server.introduce
            serve = serve_at(server)
            async with running(serve):
                assert await proxy.ask() == b"/hello"


async def test_while_a_session_stands_guesses_are_as_few_and_it_goes_on() -> None:
    async with HostileSignal() as server:
        serve, proxy = serve_at(server), proxy_at(server)
        async with running(serve):
            await serve.heard("signal-connected")
            session = await proxy.start().session()
            for number in range(GUESSES + 2):
                await server.pose(server.the(Role.PROXY), close_after_the_proxys_proof)
                await until(lambda: said(server, FrameType.HELLO) > number and len(proxy.links) == 1)  # noqa: B023
            assert said(server, FrameType.AUTH) == GUESSES
            assert len(proxy.of(ErrorNotice)) == 1
            assert proxy.room.sessions == [session]
            await session.aclose()
            assert await proxy.ask() == b"/hello"  # by its ticket
            await serve.stop()
            async with running(serve_at(server)):
                assert isinstance(await end_of(proxy), AuthenticationFailed)


@pytest.mark.parametrize("hide", ["peer-left", "offer", "peer-joined"])
async def test_a_guess_counts_also_where_the_signal_server_hides_how_it_ended(hide: str) -> None:
    """It takes the link from the proxy when it has heard its proof, by word of a leaving or of a newer connection."""

    async with HostileSignal() as server:

        async def greet(guest: Guest) -> None:
            async def script(wire: Wire) -> None:
                await close_after_the_proxys_proof(wire)
                await guest.tell(hide, peerId=id_, sdp="v=0", role="serve", instance="another")
                await wire.until_closed()

            id_ = await server.pose(guest, script)

        server.greet = greet
        proxy = proxy_at(server, timeouts=quicker(connect=0.5, answer=0.5))
        assert isinstance(await stops(proxy), AuthenticationFailed)
        assert said(server, FrameType.AUTH) == GUESSES


def said(server: HostileSignal, type_: FrameType) -> int:
    """How many frames of a type its guests have sent to members that are not there."""
    return [message[0] for message in server.seen].count(type_)


# -- guesses at serve


async def a_guess_that_is_broken_off(server: HostileSignal) -> None:
    """Somebody says hello to serve, gets its share, and is gone."""
    done = asyncio.Event()

    async def script(wire: Wire) -> None:
        share = KeyExchange(Role.PROXY, "a guess").share
        wire.send(frames.encode(FrameType.HELLO, 0, Hello(auth=AuthOffer(share=share)).encode()))
        await wire.receive()
        done.set()

    await server.pose(server.the(Role.SERVE), script)
    await asyncio.wait_for(done.wait(), PATIENCE)


def spend_guesses(serve: Member) -> None:
    """Strangers have been there."""
    access, now = serve.room.access, asyncio.get_running_loop().time()
    assert isinstance(access, ServeAccess)
    while access.door.knock(b"stranger", (), now):
        pass


async def test_handshakes_that_are_broken_off_use_the_strangers_guesses_up_and_time_brings_new_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door_module, "GUESSES", 2)
    monkeypatch.setattr(door_module, "GUESS_EVERY", 1.0)
    async with HostileSignal() as server:
        serve, proxy = serve_at(server), proxy_at(server)
        async with running(serve):
            await serve.heard("signal-connected")
            for _ in range(2):
                await a_guess_that_is_broken_off(server)
            access, now = serve.room.access, asyncio.get_running_loop().time()
            assert isinstance(access, ServeAccess) and not access.door.guesses.has_one(now)
            async with running(proxy):
                assert await proxy.ask() == b"/hello"
                assert not proxy.of(ErrorNotice)


async def test_strangers_at_one_address_who_take_every_guess_delay_an_invited_proxy_from_elsewhere_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They come straight; it comes through the relay, where they are not."""

    monkeypatch.setattr(door_module, "GUESSES", 4)
    async with HostileSignal() as server:
        server.relays = True
        serve = Member(Role.SERVE, server.url, secret=SECRET)
        guesses: list[float] = []
        loop = asyncio.get_running_loop()
        share = KeyExchange(Role.PROXY, "a guess").share
        hello = frames.encode(FrameType.HELLO, 0, Hello(auth=AuthOffer(share=share)).encode())

        async def guess(wire: Wire) -> None:
            wire.send(hello)
            answer = await wire.receive()
            if answer is not None and answer[0] == FrameType.AGREE:
                guesses.append(loop.time())

        async def besiege() -> None:
            while True:
                server.identity = Identity()
                await server.pose(server.the(Role.SERVE), guess)
                await asyncio.sleep(0.25)

        async with running(serve):
            await serve.heard("signal-connected")
            siege = asyncio.create_task(besiege(), name="a siege")
            try:
                await until(lambda: len(guesses) >= 6, "strangers take all guesses")
                begun = loop.time()
                proxy = Member(Role.PROXY, server.url, secret=SECRET, path="relay")
                async with running(proxy):
                    assert await proxy.ask() == b"/hello"
                    waited = loop.time() - begun
                    assert not proxy.of(ErrorNotice)
            finally:
                siege.cancel()
                await asyncio.gather(siege, return_exceptions=True)
            assert waited < 3 * door_module.GUESS_EVERY
            assert len(guesses) <= 4 + (guesses[-1] - guesses[0]) / door_module.GUESS_EVERY + 1


async def test_who_was_in_comes_back_past_strangers_who_have_used_all_guesses_up() -> None:
    async with SignalServer("127.0.0.1", 0) as server:
        serve, proxy = serve_at(server), proxy_at(server)
        async with running(serve, proxy):
            await proxy.reached()
            spend_guesses(serve)
            [link] = serve.links
            assert link.session is not None
            await link.session.aclose()
            await proxy.heard("peer-connected", 2)
            assert await proxy.ask() == b"/hello"
            assert not proxy.of(ErrorNotice)


async def test_a_peer_that_comes_in_again_and_again_has_nobody_elses_ticket_forgotten() -> None:
    async with SignalServer("127.0.0.1", 0) as server:
        serve, proxy = serve_at(server), proxy_at(server)
        async with running(serve, proxy):
            session = await proxy.session()
            access, now = serve.room.access, asyncio.get_running_loop().time()
            assert isinstance(access, ServeAccess)
            for number in range(2 * door_module.TICKETS):
                certificate = number.to_bytes(32)
                assert access.door.knock(certificate, (), now)
                access.door.enter(certificate, Ticket(id=certificate[16:], key=certificate), now)
            spend_guesses(serve)
            [link] = serve.links
            await link.attempts[0].carrier.channel.aclose()  # the channel goes, the session waits
            await until(lambda: proxy.events.count("resumed"), "the session goes on")
            assert proxy.room.sessions == [session]
            assert await proxy.ask() == b"/hello"


async def test_a_thousand_strangers_cost_little_and_an_honest_proxy_comes_in_among_them() -> None:
    async with HostileSignal() as server:
        serve, most = serve_at(server), 0

        async def come(first: int, last: int) -> None:
            nonlocal most
            for number in range(first, last):
                await server.the(Role.SERVE).tell("peer-joined", peerId=f"s{number}", role="proxy", instance="s")
                await server.the(Role.SERVE).tell("peer-left", peerId=f"s{number - 8}")
                await asyncio.sleep(0.002)
                most = max(most, len(serve.links) + serve.closing)

        async with running(serve):
            await serve.heard("signal-connected")
            await come(0, 500)
            proxy = proxy_at(server)
            async with running(proxy):
                others = asyncio.create_task(come(500, 1000))
                assert await proxy.ask() == b"/hello"
                await others
                assert 1 < most <= 3 * Limits().strangers + 1
                assert len(serve.of(ErrorNotice)) <= 2
                assert serve.known <= MEMBERS


# -- who is in


@dataclass
class Knock:
    """One proxy at one door, as far as its proof, which is still on its way."""

    door: Door
    ticket: Ticket | None = None

    def __post_init__(self) -> None:
        seen = Certificates(proxy=b"p" * 32, serve=b"s" * 32)
        self.pair = ConnectionPair(
            hello=False,
            proxy_credentials=ProxyCredentials(room="r", certificates=seen, secret=SECRET, ticket=self.ticket),
            serve_credentials=ServeCredentials(room="r", certificates=seen, door=self.door),
        )
        for end in (self.pair.proxy, self.pair.serve):
            self.pair.flush(end)
            self.pair.deliver(self.pair.other(end))

    def come_in(self) -> ErrorCode | None:
        """The proof arrives; None where the proxy is in, else with what it is turned away."""
        self.pair.pump()
        proxy, serve = self.pair.proxy.connection, self.pair.serve.connection
        assert proxy.established is serve.established
        assert proxy.established is (serve.ended is None)
        return serve.ended.code if serve.ended else None


@pytest.mark.parametrize("returns", [False, True])
def test_who_is_put_out_between_its_hello_and_its_proof_stays_out(returns: bool) -> None:
    door = Door(SECRET)
    ticket = None
    if returns:
        first = Knock(door)
        assert first.come_in() is None
        ticket = first.pair.proxy.connection.ticket
    knock = Knock(door, ticket)
    door.put_out(b"p" * 32)
    assert knock.come_in() is ErrorCode.UNWELCOME


def test_a_code_that_was_changed_between_hello_and_proof_lets_nobody_in() -> None:
    door = Door(SECRET, once=True)
    knock = Knock(door)
    door.renew("another")
    assert knock.come_in() is ErrorCode.UNWELCOME
    door.renew(SECRET)
    assert Knock(door).come_in() is None


def test_of_a_thousand_guesses_at_once_few_are_computed_and_who_was_in_comes_back_between_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door, computed = Door(SECRET), 0
    first = Knock(door)
    assert first.come_in() is None

    def count(exchange: KeyExchange, share: bytes) -> bytes:
        nonlocal computed
        computed += 1
        return finish(exchange, share)

    finish = KeyExchange.finish
    monkeypatch.setattr(KeyExchange, "finish", count)
    hello = Hello(auth=AuthOffer(share=KeyExchange(Role.PROXY, "a guess").share)).encode()
    strangers = Certificates(proxy=b"x" * 32, serve=b"s" * 32)
    for _ in range(1000):
        serve = Core(Role.SERVE, now=0.0, credentials=ServeCredentials(room="r", certificates=strangers, door=door))
        serve.receive_message(frames.encode(FrameType.HELLO, 0, hello), 0.0)
        serve.receive_message(frames.encode(FrameType.AUTH, 0, bytes(32)), 0.0)
        assert serve.ended is not None and not serve.established
    assert computed == door_module.GUESSES
    assert not door.knock(b"another", (), 0.0)
    assert Knock(door, first.pair.proxy.connection.ticket).come_in() is None


async def test_an_invited_proxy_with_anothers_ticket_is_itself_and_the_other_goes_on() -> None:
    async with SignalServer("127.0.0.1", 0) as server:
        serve, victim, thief = serve_at(server), proxy_at(server), proxy_at(server)
        async with running(serve, victim, thief):
            session = await victim.session()
            mine = await thief.session()
            stolen, own = victim.room.access, thief.room.access
            assert isinstance(stolen, ProxyAccess) and isinstance(own, ProxyAccess)
            own.ticket = stolen.ticket
            await mine.aclose()
            await thief.heard("peer-connected", 2)
            assert await thief.ask() == b"/hello"
            assert victim.room.sessions == [session]
            assert await victim.ask() == b"/hello"
            assert own.ticket != stolen.ticket
            assert len({link.certificate for link in serve.links}) == 2


async def test_two_certificates_that_are_called_the_same_are_two_and_are_put_out_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name has 32 bits of a fingerprint: who is invited can make a certificate that has another's."""
    named = Link._name

    def name(link: Link, certificate: bytes, *, is_key: bool = False) -> None:
        named(link, certificate, is_key=is_key)
        link.name = "proxy-twin"

    monkeypatch.setattr(Link, "_name", name)
    async with SignalServer("127.0.0.1", 0) as server:
        serve, one, two = serve_at(server), proxy_at(server), proxy_at(server)
        async with running(serve):
            for proxy in (one, two):
                proxy.start()
                assert await proxy.ask() == b"/hello"
            await serve.reached(2)
            assert await one.ask() == b"/hello"
            assert serve.room.put_out("proxy-twin")
            assert isinstance(await end_of(one), Unwelcome)
            assert isinstance(await end_of(two), Unwelcome)


@pytest.mark.parametrize("secret", [SECRET, None])
async def test_who_was_put_out_stays_out_with_a_secret_and_without(secret: str | None) -> None:
    async with SignalServer("127.0.0.1", 0) as server:
        serve, proxy, other = serve_at(server, secret), proxy_at(server, secret), proxy_at(server, secret)
        async with running(serve, other):
            proxy.start()
            await serve.reached(2)
            [link] = [each for each in serve.links if each.certificate == proxy.identity.fingerprint]
            assert serve.room.put_out(link.name)
            assert not serve.room.put_out(link.name)
            error = await end_of(proxy)
            assert isinstance(error, Unwelcome)
            assert str(error) == "Serve has removed and blocked this proxy."
            proxy.start()  # the same process, the same certificate, with its ticket and the secret
            assert isinstance(await end_of(proxy), Unwelcome)
            assert proxy.connections == 1
            assert await other.ask() == b"/hello"
            await other.stop()
            await until(lambda: not serve.links)
            again = proxy_at(server, secret)  # another handle: kept out by a new code alone
            async with running(again):
                assert await again.ask() == b"/hello"
                assert again.identity.fingerprint != proxy.identity.fingerprint
            if secret is not None:
                serve.room.renew_secret("a new code")
                assert isinstance(await end_of(proxy_at(server, secret).start()), AuthenticationFailed)
                async with running(fresh := proxy_at(server, "a new code")):
                    assert await fresh.ask() == b"/hello"


async def test_an_invite_for_one_lets_one_in_who_may_come_back() -> None:
    async with SignalServer("127.0.0.1", 0) as server:
        serve, first, second = serve_at(server, once=True), proxy_at(server), proxy_at(server)
        async with running(serve, first):
            session = await first.session()
            error = await end_of(second.start())
            assert isinstance(error, Unwelcome)
            assert "for one proxy" in str(error)
            assert error.hint
            await session.aclose()
            await first.heard("peer-connected", 2)
            assert await first.ask() == b"/hello"


async def test_an_invite_that_has_expired_lets_nobody_new_in() -> None:
    async with SignalServer("127.0.0.1", 0) as server:
        serve, first, second = serve_at(server, expires=3600.0), proxy_at(server), proxy_at(server)
        async with running(serve, first):
            session = await first.session()
            access = serve.room.access
            assert isinstance(access, ServeAccess)
            access.door.expires = asyncio.get_running_loop().time()
            error = await end_of(second.start())
            assert isinstance(error, Unwelcome)
            assert "expired" in str(error)
            await session.aclose()
            await first.heard("peer-connected", 2)
