"""How a server stops without dropping anybody."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from signal_server import server as server_module
from signal_server.limits import Limits
from signal_server.registry import Cluster
from signal_server.server import SignalServer, State

from ..support.ports import free_port
from ..support.signal_clients import HANDSHAKE, PATIENCE, Meeting, Peer, masked, meeting
from .test_relay import come, next_of, tickets


async def ready(server: SignalServer, http: aiohttp.ClientSession) -> tuple[int, str]:
    async with http.get(server.url.replace("ws", "http", 1) + "/readyz") as response:
        return response.status, await response.text()


@asynccontextmanager
async def draining(here: Meeting, seconds: float) -> AsyncIterator[asyncio.Task[None]]:
    """Drain meanwhile."""
    task = asyncio.create_task(here.server.drain(seconds))
    try:
        await asyncio.sleep(0)
        assert here.server.state is State.DRAINING
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def told(*peers: Peer) -> None:
    """All of these are asked to join again."""
    assert [await peer.closed() for peer in peers] == [aiohttp.WSCloseCode.SERVICE_RESTART] * len(peers)


async def test_readyz_says_that_it_drains_and_healthz_that_it_lives() -> None:
    async with meeting() as here:
        assert await ready(here.server, here.http) == (200, "ready\n")
        await here.member()
        async with draining(here, PATIENCE):
            assert await ready(here.server, here.http) == (503, "draining\n")
            async with here.http.get(here.server.url.replace("ws", "http", 1) + "/healthz") as response:
                assert response.status == 200


async def test_it_is_starting_until_it_listens() -> None:
    server = SignalServer("127.0.0.1", 0)
    assert server.state is State.STARTING
    async with server, aiohttp.ClientSession() as http:
        assert await ready(server, http) == (200, "ready\n")


async def test_it_is_starting_until_it_has_reached_redis() -> None:
    cluster = Cluster(url=f"redis://127.0.0.1:{free_port()}", node="a", address="127.0.0.1:9")
    async with SignalServer("127.0.0.1", 0, cluster=cluster) as server, aiohttp.ClientSession() as http:
        assert await ready(server, http) == (503, "starting\n")


async def test_members_are_asked_to_join_again_and_the_drain_ends_when_the_last_one_has_gone() -> None:
    async with meeting() as here:
        peers = await here.members("serve", "proxy")
        async with draining(here, PATIENCE) as task:
            await told(*peers)
            await task
        assert (here.server.members, here.server.rooms) == (0, 0)


async def test_what_was_sent_to_a_member_reaches_it_before_the_close() -> None:
    async with meeting() as here:
        serve, proxy = await here.members("serve", "proxy")
        async with draining(here, PATIENCE):
            await proxy.say("offer", sdp="last words", to=serve.id)
            assert (await serve.hear("offer"))["sdp"] == "last words"
            await told(proxy)


async def test_a_newcomer_is_refused_with_a_code_and_asked_to_join_again() -> None:
    async with meeting() as here:
        early = await here.peer()
        await here.member()
        async with draining(here, PATIENCE):
            for peer in (early, await here.peer()):
                assert (await peer.refused("join", room="R", role="serve"))["code"] == "draining"
                await told(peer)
    assert here.server.statistics.refused["draining"] == 2  # type: ignore[index]


async def test_a_member_that_comes_back_with_its_token_is_refused_as_well() -> None:
    async with meeting() as here:
        serve = await here.member("serve")
        async with draining(here, PATIENCE):
            back = await here.peer()
            assert (await back.refused("join", room="R", role="serve", token=serve.token))["code"] == "draining"


async def test_a_join_that_is_held_is_ended() -> None:
    async with meeting(Limits(members_each=1, joins=15)) as here:
        await here.member()
        held = await here.peer()
        await held.say("join", room="S")  # for 4 s
        await (await here.peer()).hears_nothing()
        async with draining(here, 1.0) as task:
            await told(held)
            await task


async def test_members_are_asked_one_after_the_other_room_by_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MOVED_PER_SECOND", 20)
    async with meeting() as here:
        peers = {}
        for index in range(6):
            room = "AB"[index % 2]
            peers[index] = room, await here.member(room=room, role="proxy")
        order = []

        async def wait(room: str, peer: Peer) -> None:
            await told(peer)
            order.append(room)

        begun = time.monotonic()
        async with draining(here, PATIENCE):
            await asyncio.gather(*(wait(*each) for each in peers.values()))
        assert order == ["A"] * 3 + ["B"] * 3
        assert time.monotonic() - begun >= 5 / 20


async def test_all_members_are_asked_within_a_third_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MOVED_PER_SECOND", 0.001)
    async with meeting() as here:
        peers = [await here.member(room=str(number)) for number in range(20)]
        async with draining(here, 3.0) as task:
            await told(*peers)
            await task
        assert here.server.members == 0


async def test_a_pipe_goes_on_until_its_members_have_moved() -> None:
    async with meeting() as here:
        serve, proxy = await here.members("serve", "proxy")
        mine, others = await tickets(proxy, serve)
        left, right = await come(here, mine), await come(here, others)
        async with draining(here, PATIENCE) as task:
            await told(serve, proxy)
            for number in range(20):
                await left.send_bytes(b"%d" % number)
                assert await next_of(right) == b"%d" % number
            assert not task.done()
            await left.close()
            async with asyncio.timeout(PATIENCE):
                await task


async def test_a_pipe_with_an_open_ticket_can_still_be_opened() -> None:
    async with meeting() as here:
        serve, proxy = await here.members("serve", "proxy")
        mine, others = await tickets(proxy, serve)
        left = await come(here, mine)
        async with draining(here, PATIENCE):
            right = await come(here, others)
            await left.send_bytes(b"late")
            assert await next_of(right) == b"late"


async def test_a_pipe_that_nobody_moves_ends_with_the_time() -> None:
    async with meeting() as here:
        serve, proxy = await here.members("serve", "proxy")
        mine, others = await tickets(proxy, serve)
        left, _right = await come(here, mine), await come(here, others)
        async with draining(here, 0.5) as task:
            await task
        await here.server.aclose()
        async with asyncio.timeout(PATIENCE):
            assert (await left.receive()).data == aiohttp.WSCloseCode.GOING_AWAY


async def test_a_member_that_does_not_answer_the_close_delays_nobody_for_long() -> None:
    async with meeting(Limits(close=0.2)) as here:
        reader, writer = await asyncio.open_connection(*here.address)
        writer.write(HANDSHAKE + masked(0x81, b'{"type":"join","room":"R"}'))
        while b"joined" not in await reader.read(4096):
            pass
        async with draining(here, PATIENCE) as task, asyncio.timeout(PATIENCE):
            await task
        writer.close()


async def test_an_empty_server_drains_at_once_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with meeting() as here:
        await here.peer()  # no member
        begun = time.monotonic()
        await here.server.drain(PATIENCE)
        assert time.monotonic() - begun < server_module.NOTICE
    assert "Draining" not in caplog.text
