from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any

import pytest

from llmtunnel.config import Limits
from llmtunnel.errors import AccessDenied, PeerLost, PeerNotFound, TunnelError, VersionMismatch
from llmtunnel.protocol.handshake import Agreement
from llmtunnel.protocol.heads import RequestHead
from llmtunnel.protocol.hello import ALL_FEATURES
from llmtunnel.session import link as link_module
from llmtunnel.session import links as links_module
from llmtunnel.session import retry as retry_module
from llmtunnel.session import room as room_module
from llmtunnel.session.carrier import Carrier
from llmtunnel.status import ErrorNotice, PeerLostNotice, Reconnecting, Resumed, Role
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.webrtc import WebRtcPeer
from signal_server.access import Access
from signal_server.limits import Limits as SignalLimits
from signal_server.server import SignalServer

from ..conftest import raised
from ..support.embedded import PATIENCE, QUICK, RawMember, descriptors, quicker, timers, until
from ..support.members import Member, pair, running, silence


def signal(port: int = 0, **limits: Any) -> SignalServer:
    return SignalServer("127.0.0.1", port, limits=SignalLimits(**limits))


def cut_off(server: SignalServer, member: Member) -> None:
    """The signal server drops a member's connection."""
    outlets = server._hub._members.items()
    [outlet] = [outlet for outlet, each in outlets if each.instance == member.instance]
    outlet.drop()


@pytest.mark.parametrize("first", [Role.SERVE, Role.PROXY])
async def test_they_meet_whoever_comes_first(first: Role) -> None:
    async with signal() as server:
        early, late = Member(first, server.url), Member(first.other, server.url)
        async with running(early):
            await early.heard("waiting")
            async with running(late):
                proxy = early if first is Role.PROXY else late
                assert await proxy.ask() == b"/hello"
                await early.reached()
                assert early.events == ["signal-connected", "waiting", "peer-connected"]
                assert late.events == ["signal-connected", "peer-connected"]


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("token", "told"), [(None, "is private"), ("wrong-token", "does not accept the access token")])
async def test_a_private_signal_server_that_refuses_us_from_the_beginning_ends_us(
    role: Role, token: str | None, told: str
) -> None:
    async with SignalServer("127.0.0.1", 0, access=Access(["right-token"])) as server:
        member = Member(role, server.url, signal_token=token)
        with pytest.raises(AccessDenied, match=told):
            await member.room.run()


async def test_a_token_that_is_withdrawn_is_told_while_the_tunnel_goes_on_and_a_valid_one_lets_us_in_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry_module, "DENIED", 0.01)
    access = Access(["right-token"])
    async with SignalServer("127.0.0.1", 0, access=access) as server:
        async with pair(server.url, make=partial(Member, signal_token="right-token")) as (serve, proxy):
            assert await proxy.ask() == b"/hello"
            access.replace(["other-token"])
            serve.room.reconnect()
            await until(lambda: [each for each in serve.notices if _denies(each)], "serve says that it is refused")
            told = next(each for each in serve.notices if _denies(each))
            assert told.reason == f"The signal server {server.url} no longer accepts this access token."
            assert "Connected peers stay connected" in told.hint and "right-token" not in f"{told}"
            assert await proxy.ask() == b"/hello"
            assert serve.connections == 1
            joined = serve.events.count("signal-connected")
            access.replace(["right-token"])
            await serve.heard("signal-connected", joined + 1)


def _denies(notice: object) -> bool:
    return isinstance(notice, Reconnecting) and "no longer accepts" in notice.reason


async def test_three_proxies_share_a_serve_and_one_that_goes_disturbs_no_other() -> None:
    async with signal() as server:
        serve = Member(Role.SERVE, server.url)
        proxies = [Member(Role.PROXY, server.url) for _ in range(3)]
        async with running(serve, *proxies):
            assert await asyncio.gather(*(proxy.ask() for proxy in proxies)) == [b"/hello"] * 3
            await serve.reached(3)
            await proxies[0].stop()
            await serve.reached(2)
            assert await asyncio.gather(*(proxy.ask() for proxy in proxies[1:])) == [b"/hello"] * 2
            assert serve.connections == 3
            assert [proxy.connections for proxy in proxies] == [1, 1, 1]


async def test_a_serve_that_dies_and_comes_back_is_reached_again_and_what_was_under_way_ends_with_an_error() -> None:
    async with signal() as server, pair(server.url) as (serve, proxy):
        asking = asyncio.create_task(proxy.ask(b"/never"))
        await until(lambda: serve.started)
        await serve.die()
        with pytest.raises(PeerLost):
            await asking
        again = Member(Role.SERVE, server.url)
        async with running(again):
            assert await proxy.ask() == b"/hello"
            assert proxy.connections == 2
            order = [event for event in proxy.events if event not in ("signal-connected", "waiting")]
            assert order == ["peer-connected", "suspended", "peer-lost", "reconnecting", "peer-connected"]


async def test_a_serve_that_is_back_before_its_end_was_noticed_takes_over_and_the_loss_is_told_first() -> None:
    slow = quicker(dead_suspect=30.0, dead_idle=60.0, dead_busy=60.0)
    async with signal() as server, pair(server.url, make=partial(Member, timeouts=slow)) as (serve, proxy):
        await serve.die()
        again = Member(Role.SERVE, server.url)
        async with running(again):
            await proxy.heard("peer-connected", 2)
            assert await proxy.ask() == b"/hello"
            assert [event for event in proxy.events if event.startswith("peer")] == [
                "peer-connected",
                "peer-lost",
                "peer-connected",
            ]
            await until(lambda: len(proxy.links) == 1, "the old link is closed")


async def test_a_proxy_that_dies_is_forgotten_and_its_successor_is_served() -> None:
    async with signal() as server, pair(server.url) as (serve, proxy):
        await proxy.die()
        again = Member(Role.PROXY, server.url)
        async with running(again):
            assert await again.ask() == b"/hello"
            await serve.heard("peer-lost")
            await serve.reached(1)
        # Not the second time for certain: the first proxy may have been there before serve.
        await until(lambda: serve.events[-2:] == ["peer-lost", "waiting"], "serve is alone again")


@pytest.mark.parametrize("role", list(Role))
async def test_one_that_connects_anew_when_told_to_goes_on_with_its_session(role: Role) -> None:
    async with signal() as server, pair(server.url) as (serve, proxy):
        told, session, links = (serve if role is Role.SERVE else proxy), await proxy.session(), proxy.links
        told.room.reconnect()
        await told.heard("signal-connected", 2)
        assert await proxy.ask() == b"/hello"
        if told is proxy:
            await until(lambda: proxy.links and proxy.links[0].session is session, "it goes on over another link")
            assert proxy.links != links
            assert await proxy.ask() == b"/hello"
        assert proxy.connections == serve.connections == 1


async def test_a_serve_that_came_anew_stays_whatever_becomes_of_its_sessions() -> None:
    async with signal() as server, pair(server.url) as (serve, proxy):
        serve.room.reconnect()
        await serve.heard("signal-connected", 2)
        await proxy.die()
        await serve.heard("peer-lost")
        assert serve.events.count("signal-connected") == 2


async def test_connecting_anew_ends_the_wait_for_a_signal_server_that_was_away() -> None:
    async with signal() as server:
        url = server.url
    member = Member(Role.SERVE, url, timeouts=quicker(retry_first=60.0, retry_max=60.0))
    async with running(member):
        await member.heard("reconnecting")
        async with signal(int(url.rpartition(":")[2])):
            member.room.reconnect()
            await member.heard("signal-connected")


async def test_links_outlive_the_signal_server_and_new_proxies_join_when_it_is_back() -> None:
    async with signal() as server:
        url, port = server.url, int(server.url.rpartition(":")[2])
        async with pair(url) as (serve, proxy):
            links = serve.links + proxy.links
            await server.aclose()
            await serve.heard("reconnecting")
            await proxy.heard("reconnecting")
            assert await proxy.ask() == b"/hello"
            async with signal(port):
                second = Member(Role.PROXY, url)
                async with running(second):
                    assert await second.ask() == b"/hello"
                    await serve.heard("signal-connected", 2)
                    await proxy.heard("signal-connected", 2)
                    assert await proxy.ask() == b"/hello"
                    assert set(links) <= {*serve.links, *proxy.links}
                    assert (serve.connections, proxy.connections) == (2, 1)
                    assert not serve.of(PeerLostNotice) + proxy.of(PeerLostNotice)


async def test_a_signal_server_that_comes_late_is_found_and_what_to_do_is_told() -> None:
    async with signal() as server:
        url, port = server.url, int(server.url.rpartition(":")[2])
    serve, proxy = Member(Role.SERVE, url), Member(Role.PROXY, url)
    async with running(serve, proxy):
        await serve.heard("reconnecting", 2)
        [first, second] = serve.of(Reconnecting)[:2]
        assert first.what == "signal server"
        assert "nothing listens there" in first.reason
        assert "llmtunnel signal" in first.hint
        assert 0 < first.delay < second.delay * 1.5
        async with signal(port):
            assert await proxy.ask() == b"/hello"


async def test_a_full_room_is_told_and_entered_when_there_is_a_place() -> None:
    async with signal() as server, pair(server.url) as (serve, proxy):
        second = Member(Role.SERVE, server.url)
        async with running(second):
            await second.heard("reconnecting")
            assert "full" in second.of(Reconnecting)[0].reason
            assert second.of(Reconnecting)[0].hint
            await serve.stop()
            await second.reached()
            assert await proxy.ask() == b"/hello"


async def test_a_serve_that_the_signal_server_has_lost_takes_its_own_place_again() -> None:
    """Its ghost is still in the room: the token proves that it is the same."""

    async with signal() as server, pair(server.url) as (serve, proxy):
        links = serve.links + proxy.links
        cut_off(server, serve)
        await serve.heard("signal-connected", 2)
        await until(lambda: not proxy.alone)
        assert await proxy.ask() == b"/hello"
        assert links == serve.links + proxy.links


async def test_who_is_said_to_have_left_but_answers_is_kept() -> None:
    async with signal() as server, pair(server.url) as (serve, proxy):
        session = serve.room.sessions[0]
        async with signal() as elsewhere:
            proxy.room._settings = Member(Role.PROXY, elsewhere.url).room._settings
            cut_off(server, proxy)
            await until(lambda: serve.alone)
            await proxy.heard("signal-connected", 2)
            await asyncio.sleep(2 * QUICK.dead_suspect)
            assert serve.room.sessions == [session]
            assert await proxy.ask() == b"/hello"
            assert "peer-lost" not in serve.events + proxy.events
            assert serve.events[-1] == "peer-connected"


async def test_a_member_that_never_answers_an_offer_is_told_of_and_does_not_stand_in_the_way() -> None:
    async with signal() as server:
        proxy = Member(Role.PROXY, server.url, timeouts=quicker(answer=0.2))
        async with running(proxy):
            await proxy.heard("waiting")
            async with await RawMember.join(server.url, role="serve") as mute:
                await mute.hear("offer")
                await proxy.heard("error")
                assert "did not answer" in proxy.of(ErrorNotice)[0].message
                await proxy.heard("reconnecting")
            serve = Member(Role.SERVE, server.url)
            async with running(serve):
                assert await proxy.ask() == b"/hello"


async def test_a_serve_that_never_offers_is_asked_again_by_joining_again() -> None:
    async with signal() as server, await RawMember.join(server.url, role="serve") as mute:
        proxy = Member(Role.PROXY, server.url, timeouts=quicker(offer=0.2))
        async with running(proxy):
            first = await mute.hear("peer-joined")
            second = await mute.hear("peer-joined")
            assert first["instance"] != second["instance"]


async def test_a_proxy_that_is_alone_does_not_join_again() -> None:
    async with signal() as server:
        proxy = Member(Role.PROXY, server.url, timeouts=quicker(offer=0.1))
        mute = await RawMember.join(server.url, role="serve")
        async with running(proxy):
            await mute.hear("peer-joined")
            await mute.aclose()
            await proxy.heard("waiting")
            joined = proxy.events.count("signal-connected")
            await asyncio.sleep(0.5)
            assert proxy.events.count("signal-connected") == joined


@pytest.mark.parametrize("sdp", ["garbage", "", "v=0\r\n", "v=0\r\nm=application 9 UDP/DTLS/SCTP x\r\n" * 9])
async def test_garbage_for_an_offer_is_told_and_serve_serves_on(sdp: str) -> None:
    async with signal() as server, pair(server.url) as (serve, proxy):
        async with await RawMember.join(server.url, role="proxy") as raw:
            serve_id = (await raw.hear("offer"))["peerId"]
            await raw.say(type="offer", to=serve_id, sdp=sdp)
            await raw.say(type="candidate", to=serve_id, candidate='{"candidate":"rubbish"}')
            await serve.heard("error")
            await until(lambda: len(serve.links) == 1)
            assert await proxy.ask() == b"/hello"


async def test_garbage_for_an_answer_is_told_at_once_and_answers_after_it_count_for_nothing() -> None:
    async with signal() as server:
        serve = Member(Role.SERVE, server.url, timeouts=quicker(answer=30.0))
        async with running(serve):
            await serve.heard("waiting")
            async with await RawMember.join(server.url, role="proxy") as raw:
                serve_id = (await raw.hear("offer"))["peerId"]
                for sdp in ("garbage", "more of it"):
                    await raw.say(type="answer", to=serve_id, sdp=sdp)
                await serve.heard("error")
                await until(lambda: not serve.links)
                assert len(serve.of(ErrorNotice)) == 1


async def test_an_answer_that_nobody_asked_for_does_not_disturb_ours() -> None:
    """Offer and answer from the same member at once: the second is no answer to an offer of ours."""

    async with signal() as server:
        serve = Member(Role.SERVE, server.url)
        async with running(serve):
            await serve.heard("waiting")
            async with await RawMember.join(server.url, role="proxy") as raw:
                serve_id = (await raw.hear("offer"))["peerId"]
                peer = WebRtcPeer(
                    servers=(),
                    timeouts=QUICK,
                    limits=Limits(),
                    identity=Identity(),
                    on_candidate=lambda _: None,
                    loopback=True,
                )
                sdp = await peer.offer()
                await raw.say(type="offer", to=serve_id, sdp=sdp)
                await raw.say(type="answer", to=serve_id, sdp=sdp)
                await peer.accept((await raw.hear("answer"))["sdp"])
                await peer.channel()
                assert not serve.of(ErrorNotice)
                await peer.aclose()


async def test_members_beyond_the_limit_are_left_out_until_there_is_room() -> None:
    async with signal() as server:
        serve = Member(Role.SERVE, server.url, limits=Limits(peers=2))
        crowd = [Member(Role.PROXY, server.url) for _ in range(2)]
        async with running(serve, *crowd):
            await serve.reached(2)
            proxy = Member(Role.PROXY, server.url, timeouts=quicker(offer=0.2))
            async with running(proxy):
                await proxy.heard("signal-connected", 2)
                assert len(serve.links) == 2
                assert not proxy.links
                await crowd[0].stop()
                assert await proxy.ask() == b"/hello"


async def test_strangers_who_never_answer_keep_nobody_out() -> None:
    async with signal() as server:
        serve = Member(Role.SERVE, server.url, limits=Limits(strangers=2))
        async with running(serve):
            await serve.heard("waiting")
            crowd = [await RawMember.join(server.url, role="proxy") for _ in range(5)]
            for raw in crowd:
                await raw.hear("offer")
            assert len(serve.links) == 2
            proxy = Member(Role.PROXY, server.url)
            async with running(proxy):
                assert await proxy.ask() == b"/hello"
            for raw in crowd:
                await raw.aclose()


async def test_only_so_many_arrive_at_once_and_more_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links_module, "ARRIVALS", 2)
    monkeypatch.setattr(links_module, "ARRIVAL_EVERY", 1.0)
    async with signal() as server:
        serve = Member(Role.SERVE, server.url)
        async with running(serve):
            await serve.heard("waiting")
            crowd = [await RawMember.join(server.url, role="proxy") for _ in range(5)]
            await until(lambda: serve.known == 5)
            assert len(serve.links) == 2
            for raw in crowd:
                await raw.aclose()
            proxy = Member(Role.PROXY, server.url, timeouts=quicker(offer=0.5))
            async with running(proxy):
                assert await proxy.ask() == b"/hello"


async def test_messages_that_the_signal_server_does_not_take_are_dropped_beyond_a_bound(
    caplog: pytest.LogCaptureFixture,
) -> None:
    member = Member(Role.SERVE, "ws://127.0.0.1:9")
    for _ in range(room_module.OUTGOING):
        member.room.send_signal("message")
    assert not caplog.messages
    for _ in range(10):
        member.room.send_signal("message")
    assert caplog.messages == ["the signal server accepts no messages: one was dropped"] * 10


async def test_strangers_who_fail_again_and_again_do_not_fill_the_screen() -> None:
    async with signal() as server:
        serve = Member(Role.SERVE, server.url)
        async with running(serve):
            await serve.heard("waiting")
            async with await RawMember.join(server.url, role="proxy") as raw:
                serve_id = (await raw.hear("offer"))["peerId"]
                for number in range(10):
                    await raw.say(type="offer", to=serve_id, sdp=f"garbage {number}")
                await serve.heard("error")
                await until(lambda: not serve.links)
            assert len(serve.of(ErrorNotice)) == 1


async def test_a_member_that_goes_at_once_leaves_nothing_behind() -> None:
    """Its coming and its going arrive together: the link is given up before it has begun."""

    async with signal() as server:
        serve = Member(Role.SERVE, server.url)
        async with running(serve):
            await serve.heard("waiting")
            async with await RawMember.join(server.url, role="proxy") as raw:
                for _ in range(10):
                    await raw.say(type="bye")
                    await raw.say(type="join", room="r", role="proxy", instance="x")
            await until(lambda: not serve.links and serve.alone)
            assert any("left before a connection came up" in notice.message for notice in serve.of(ErrorNotice))
            await until(lambda: not serve.closing)


async def test_a_link_that_is_given_up_before_its_first_step_is_over_too() -> None:
    async with signal() as server:
        proxy = Member(Role.PROXY, server.url)
        async with running(proxy):
            await proxy.heard("waiting")
            member = link_module.Member("somebody", Role.SERVE, "i")
            link = proxy.room._new_link(member)
            assert link is not None
            link.offer()
            link.suspect()
            await until(lambda: not proxy.links)
            await proxy.heard("signal-connected", 2)


async def test_a_newer_link_with_the_same_member_takes_the_place_of_the_older() -> None:
    async with signal() as server:
        serve = Member(Role.SERVE, server.url)
        async with running(serve):
            await serve.heard("waiting")
            async with await RawMember.join(server.url, role="proxy") as raw:
                offer = await raw.hear("offer")
                [first] = serve.links
                await raw.say(type="offer", to=offer["peerId"], sdp=offer["sdp"])
                await raw.hear("answer")
                [second] = serve.links
                assert second is not first
                await until(lambda: not any(each.running for each in first.attempts))
                await until(lambda: not serve.closing)
                assert serve.links == (second,)
                assert not serve.of(ErrorNotice)


@pytest.mark.parametrize("received", [None, 0])
async def test_a_link_that_is_being_closed_carries_nothing_and_says_nothing_more(received: int | None) -> None:
    """Where the agreement resumes a session, no last word may end that session at the peer."""

    async with signal() as server, pair(server.url) as (_serve, proxy):
        [link] = proxy.links
        proxy.kept.leave(link)
        assert proxy.kept.forget(link)
        proxy.notices.clear()
        carrier = link.attempts[0].carrier
        assert carrier is not None and carrier.error is None
        agreement = Agreement(features=ALL_FEATURES, window=65_536, received=received)
        assert proxy.room.link_agreed(link, carrier, agreement) is None
        assert (carrier.error is not None) == (received is not None)
        proxy.room.link_over(link, PeerLost("late"))
        assert proxy.events == []
        await link.aclose(stopping=False)


def refuse_versions(monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
    """Sessions of that role find no common version."""
    start = Carrier.start

    def mismatch(carrier: Carrier) -> None:
        if carrier.greeting.role is role:
            carrier._end(VersionMismatch("No common version.", hint="Install another."))
        else:
            start(carrier)

    monkeypatch.setattr(Carrier, "start", mismatch)


async def test_another_version_ends_a_proxy_with_the_reason_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_versions(monkeypatch, Role.PROXY)
    async with signal() as server:
        serve, proxy = Member(Role.SERVE, server.url), Member(Role.PROXY, server.url)
        async with running(serve):
            proxy.start()
            with pytest.raises(VersionMismatch, match="No common version"):
                await proxy.task
            assert "error" not in proxy.events, "who runs the room tells it"
            assert "reconnecting" not in proxy.events


async def test_another_version_ends_a_proxy_also_while_the_signal_server_is_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with signal() as server:
        slow = quicker(retry_first=60.0, retry_max=60.0)
        async with pair(server.url, make=partial(Member, timeouts=slow)) as (_serve, proxy):
            await server.aclose()
            await proxy.heard("reconnecting")
            proxy.room.sessions[0]._end(VersionMismatch("No common version."))
            with pytest.raises(VersionMismatch):
                await proxy.task
            proxy.task = asyncio.create_task(asyncio.sleep(0))


async def test_another_version_only_refuses_the_peer_at_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    async with signal() as server, pair(server.url) as (serve, proxy):
        refuse_versions(monkeypatch, Role.SERVE)
        stranger = Member(Role.PROXY, server.url)
        async with running(stranger):
            await serve.heard("error")
            assert serve.of(ErrorNotice)[0].hint == "Install another."
            assert await proxy.ask() == b"/hello"


async def test_a_session_that_never_lasts_is_tried_again_later_and_later() -> None:
    async with signal() as server:
        timeouts = quicker(retry_first=0.02, retry_max=0.5)
        serve = Member(Role.SERVE, server.url)
        proxy = Member(Role.PROXY, server.url, timeouts=timeouts)
        async with running(serve, proxy):
            for round in range(1, 5):
                await serve.heard("peer-connected", round)
                for session in serve.room.sessions:
                    await session.aclose()
            await proxy.heard("reconnecting", 4)
            delays = [notice.delay for notice in proxy.of(Reconnecting)]
            assert delays[3] > 3 * delays[0] > 0


async def test_a_defect_in_a_link_is_logged_and_only_that_link_ends(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        async with signal() as server, pair(server.url) as (serve, proxy):

            async def broken(peer: WebRtcPeer) -> str:
                raise OSError("no more sockets")

            monkeypatch.setattr(WebRtcPeer, "offer", broken)
            async with await RawMember.join(server.url, role="proxy"):
                await serve.heard("error")
            assert "no more sockets" in serve.of(ErrorNotice)[0].message
            assert await proxy.ask() == b"/hello"
    assert "a defect ended the connection" in caplog.text
    caplog.clear()


async def test_without_a_session_asking_for_one_ends_in_time_and_says_what_to_do() -> None:
    async with signal() as server:
        proxy = Member(Role.PROXY, server.url)
        async with running(proxy):
            with pytest.raises(PeerNotFound) as caught:
                await proxy.room.session(0.05)
            assert "llmtunnel serve" in caught.value.hint


async def test_a_session_that_comes_while_several_wait_is_given_to_all() -> None:
    async with signal() as server:
        serve, proxy = Member(Role.SERVE, server.url), Member(Role.PROXY, server.url)
        async with running(proxy):
            waiting = [asyncio.create_task(proxy.session()) for _ in range(3)]
            await proxy.heard("waiting")
            async with running(serve):
                assert len(set(await asyncio.gather(*waiting))) == 1


async def test_a_member_that_stops_tells_the_other_side_at_once_and_speaks_of_no_loss_itself() -> None:
    async with signal() as server, pair(server.url) as (serve, proxy):
        asking = asyncio.create_task(proxy.ask(b"/never"))
        await until(lambda: serve.started)
        await serve.stop()
        with pytest.raises(TunnelError):
            await asking
        await proxy.heard("peer-lost")
        assert "has stopped" in proxy.of(PeerLostNotice)[0].reason
        assert "peer-lost" not in serve.events


async def test_a_silent_death_of_the_path_is_noticed_without_the_signal_server_and_streams_go_on_over_another() -> None:
    quick = quicker(ping_idle=0.2, dead_idle=0.6, ping_busy=0.1, dead_busy=0.4)
    make = partial(Member, timeouts=quick, resume_for=PATIENCE)
    async with signal() as server, pair(server.url, make=make) as (serve, proxy):
        session = await proxy.session()
        stream = await session.open(RequestHead(method=b"POST", target=b"/echo"))
        await stream.send(b"before")
        assert await stream.receive() == b"before"
        silence(serve.links[0])
        await stream.send(b"meanwhile")
        assert await stream.receive() == b"meanwhile"
        await stream.send_end()
        assert await stream.receive() == b""
        for member in (serve, proxy):
            await member.heard("resumed")
            assert "peer-lost" not in member.events
            assert member.of(Resumed)[0].gap_ms > 0
        assert (serve.connections, proxy.connections) == (1, 1)
        await until(lambda: not serve.left and not proxy.left, "the old path is closed")


async def test_another_path_is_made_beside_one_that_works_and_nobody_waits() -> None:
    async with signal() as server, pair(server.url) as (serve, proxy):
        [link] = proxy.links
        session = await proxy.session()
        asking = [asyncio.create_task(proxy.ask(b"/%d" % number)) for number in range(20)]
        proxy.move()
        await proxy.heard("resumed")
        assert await asyncio.gather(*asking) == [b"/%d" % number for number in range(20)]
        assert await proxy.session() is session
        assert proxy.links != (link,)
        assert proxy.of(Resumed)[0].gap_ms == 0
        assert "suspended" not in proxy.events + serve.events


async def test_a_serve_that_moved_comes_to_the_signal_server_anew() -> None:
    async with signal() as server, pair(server.url) as (serve, proxy):
        serve.move()
        await serve.heard("signal-connected", 2)
        assert await proxy.ask() == b"/hello"
        assert "peer-lost" not in proxy.events + serve.events


async def test_a_session_that_nobody_comes_back_to_ends_in_time() -> None:
    quick = quicker(ping_busy=0.1, dead_busy=0.3)
    async with signal() as server, pair(server.url, make=partial(Member, timeouts=quick)) as (serve, proxy):
        asking = asyncio.create_task(proxy.ask(b"/never"))
        await until(lambda: serve.started)
        await serve.die()
        await proxy.heard("suspended")
        with pytest.raises(PeerNotFound):
            await proxy.room.session(0.05)
        with pytest.raises(PeerLost, match="1 s"):
            await asking
        assert [event for event in proxy.events if event in ("suspended", "peer-lost")] == [
            "suspended",
            "peer-lost",
        ]


@pytest.mark.parametrize("who", Role)
async def test_where_one_side_does_not_want_to_resume_a_silent_peer_is_lost_at_once(who: Role) -> None:
    def make(role: Role, url: str) -> Member:
        timeouts = quicker(ping_idle=0.2, dead_idle=0.6)
        return Member(role, url, timeouts=timeouts, resume_for=0.0 if role is who else PATIENCE)

    async with signal() as server, pair(server.url, make=make) as (serve, proxy):
        silence(serve.links[0])
        await proxy.heard("peer-lost")
        assert "suspended" not in proxy.events + serve.events
        assert await proxy.ask() == b"/hello"


async def test_a_member_that_offers_again_and_again_has_few_connections_at_once() -> None:
    async with signal() as server:
        serve, most = Member(Role.SERVE, server.url, limits=Limits(strangers=2)), 0
        async with running(serve):
            await serve.heard("waiting")
            async with await RawMember.join(server.url, role="proxy") as raw:
                offer = await raw.hear("offer")
                for _ in range(50):
                    await raw.say(type="offer", to=offer["peerId"], sdp=offer["sdp"])
                    await asyncio.sleep(0)
                    most = max(most, len(serve.links) + serve.closing)
                await raw.say(type="bye")
                await until(lambda: serve.alone and not serve.links)
                assert most <= 2 + 2 * 2
            proxy = Member(Role.PROXY, server.url)
            async with running(proxy):
                assert await proxy.ask() == b"/hello"


@pytest.mark.parametrize("role", Role)
async def test_a_cancel_at_any_moment_leaves_no_task_socket_or_timer(role: Role) -> None:
    async with signal() as server:
        before = descriptors()
        other = Member(role.other, server.url)
        async with running(other):
            await other.heard("waiting")
            for milliseconds in range(0, 160, 8):
                member = Member(role, server.url).start()
                await asyncio.sleep(milliseconds / 1000)
                await member.stop()
                assert not member.closing
                assert not member.links
        await until(lambda: descriptors() == before, "sockets are closed")
        assert not timers()


async def test_a_room_that_has_given_up_says_the_same_each_time() -> None:
    member = Member(Role.PROXY, "ws://127.0.0.1:9")
    member.give_up(VersionMismatch("No common version.", hint="Install another."))
    [error, *_] = await raised(member.room.run)
    assert isinstance(error, VersionMismatch) and error.hint == "Install another."
