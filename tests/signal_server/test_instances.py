"""Several instances of the signal server on one Redis, over real sockets: members and pipes across them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType

import aiohttp
import pytest

from signal_server.forward import FIELD, proof
from signal_server.limits import PIPE_MESSAGE, Limits, RelayLimits
from signal_server.registry import Cluster
from signal_server.relay import PROTOCOL
from signal_server.server import State
from signal_server.tickets import node_of

from ..support.embedded import until
from ..support.ports import free_port
from ..support.redis_server import Wire, needs_redis, redis_server, shared_redis
from ..support.signal_clients import PATIENCE, Meeting, Peer, cut, meeting

pytestmark = needs_redis

Socket = aiohttp.ClientWebSocketResponse
QUICK = Limits(close=0.3)


@asynccontextmanager
async def instances(
    *names: str, limits: Limits = QUICK, urls: Mapping[str, str] = MappingProxyType({}), lease: float = 20.0
) -> AsyncIterator[list[Meeting]]:
    """``urls``: of Redis, for instances that do not use the shared one, or not directly."""
    prefix = f"test-{secrets.token_hex(4)}:"
    async with AsyncExitStack() as stack:
        meetings = []
        for name in names:
            port, url = free_port(), urls.get(name) or shared_redis().url
            cluster = Cluster(url=url, node=name, address=f"127.0.0.1:{port}", prefix=prefix, lease=lease)
            meetings.append(await stack.enter_async_context(meeting(limits, port=port, cluster=cluster)))
        for here in meetings:
            await until(lambda here=here: here.server.state is State.READY, "an instance has reached Redis")
        yield meetings


async def member(here: Meeting, role: str | None = None, **join: object) -> Peer:
    peer = await here.peer()
    await peer.join(**({"role": role} if role else {}), **join)
    return peer


@dataclass
class Across:
    """A serve at one instance and a proxy at the other, with a ticket each for a pipe at the proxy's."""

    one: Meeting
    two: Meeting
    serve: Peer
    proxy: Peer
    tickets: tuple[str, str]

    async def open(self, here: Meeting, ticket: str, *, path: str = "/", **headers: str) -> Socket:
        return await here.stack.enter_async_context(
            here.http.ws_connect(
                here.server.url + path,
                protocols=(PROTOCOL, ticket),
                headers=headers,
                autoclose=False,
                timeout=aiohttp.ClientWSTimeout(ws_close=0.2),
            )
        )

    async def refused(self, here: Meeting, ticket: str, **headers: str) -> int:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await self.open(here, ticket, **headers)
        return caught.value.status

    async def ends(self) -> tuple[Socket, Socket]:
        """Serve's, which passes through the other instance, and proxy's."""
        return await self.open(self.one, self.tickets[1]), await self.open(self.two, self.tickets[0])


@asynccontextmanager
async def across(limits: Limits = QUICK) -> AsyncIterator[Across]:
    async with instances("one", "two", limits=limits) as (one, two):
        serve = await member(one, "serve")
        proxy = await member(two, "proxy")
        await serve.hear("peer-joined")
        await proxy.say("pipe", to=serve.id)
        tickets = (await proxy.hear("pipe"))["ticket"], (await serve.hear("pipe"))["ticket"]
        yield Across(one, two, serve, proxy, tickets)


async def test_members_at_two_instances_see_and_reach_each_other() -> None:
    async with instances("one", "two", "three") as (one, two, three):
        serve = await member(one, "serve", instance="s")
        proxy = await two.peer()
        joined = await proxy.join(role="proxy", instance="p")
        assert joined["members"] == [{"peerId": serve.id, "role": "serve", "instance": "s"}]
        assert (await serve.hear("peer-joined"))["peerId"] == proxy.id
        other = await member(three, "proxy")
        assert (await serve.hear("peer-joined"))["peerId"] == other.id
        await serve.say("offer", sdp="o", to=proxy.id)
        assert await proxy.hear() == {"type": "offer", "peerId": serve.id, "sdp": "o"}
        for number in range(50):
            await proxy.say("candidate", candidate=str(number), to=serve.id)
        assert [(await serve.hear("candidate"))["candidate"] for _ in range(50)] == [str(each) for each in range(50)]
        assert (await other.refused("offer", sdp="o", to=proxy.id))["code"] == "no-such-peer"
        await proxy.socket.close()
        assert await serve.hear() == {"type": "peer-left", "peerId": proxy.id}
        cut(other.socket)
        assert await serve.hear() == {"type": "peer-left", "peerId": other.id, "abrupt": True}


async def test_original_members_at_two_instances_hear_what_the_original_server_says() -> None:
    async with instances("one", "two") as (one, two):
        first, second = await one.peer(), await two.peer()
        await first.join()
        assert (await second.join())["peers"] == [first.id]
        assert await first.hear() == {"type": "peer-joined", "peerId": second.id}
        await first.say("offer", sdp="o")
        assert await second.hear() == {"type": "offer", "peerId": first.id, "sdp": "o"}
        await second.say("answer", sdp="a")
        assert await first.hear() == {"type": "answer", "peerId": second.id, "sdp": "a"}
        third = await one.peer()
        assert (await third.refused("join", room="R"))["message"] == "room 'R' is full (max 2)"


async def test_a_client_that_comes_back_to_another_instance_takes_its_ghosts_place() -> None:
    async with instances("one", "two") as (one, two):
        serve = await member(one, "serve")
        back = await two.peer()
        await back.join(role="serve", token=serve.token)
        assert back.token == serve.token
        await serve.closed()


async def test_a_ticket_names_the_instance_that_was_asked_for_the_pipe() -> None:
    async with across() as pipe:
        assert [node_of(ticket) for ticket in pipe.tickets] == ["two", "two"]


async def test_a_pipes_ends_meet_at_its_instance_whatever_path_they_come_by() -> None:
    async with across() as pipe:
        mine, others = pipe.tickets
        left, right = await pipe.open(pipe.two, others, path="/at/two"), await pipe.open(pipe.two, mine)
        await left.send_bytes(b"hello")
        assert await right.receive_bytes(timeout=PATIENCE) == b"hello"


async def test_an_end_that_comes_to_another_instance_is_passed_on() -> None:
    async with across() as pipe:
        left, right = await pipe.ends()
        assert left.protocol == PROTOCOL
        sent = [bytes([size % 251]) * size for size in (0, 1, 125, 126, 65_535, PIPE_MESSAGE, 7)]
        for message in sent:
            await left.send_bytes(message)
            await right.send_bytes(message[::-1])
        assert [await right.receive_bytes(timeout=PATIENCE) for _ in sent] == sent
        assert [await left.receive_bytes(timeout=PATIENCE) for _ in sent] == [message[::-1] for message in sent]


@pytest.mark.parametrize("first", [0, 1])
async def test_the_end_of_either_end_comes_behind_what_was_sent(first: int) -> None:
    async with across() as pipe:
        ends = await pipe.ends()
        for number in range(50):
            await ends[first].send_bytes(bytes([number]) * 10_000)
        closing = asyncio.create_task(ends[first].close(), name="closing")
        other = ends[1 - first]
        assert [(await other.receive_bytes(timeout=PATIENCE))[0] for _ in range(50)] == list(range(50))
        assert (await other.receive(timeout=PATIENCE)).type is aiohttp.WSMsgType.CLOSE
        await other.close()
        await closing


async def test_the_reason_of_the_pipes_instance_reaches_an_end_elsewhere() -> None:
    async with across(Limits(close=0.3, relay=RelayLimits(total=100_000))) as pipe:
        left, _ = await pipe.ends()
        for _ in range(3):
            await left.send_bytes(bytes(50_000))
        while (raw := await left.receive(timeout=PATIENCE)).type is aiohttp.WSMsgType.BINARY:
            pass
        assert (raw.data, raw.extra) == (1013, "the relay's total for a day is used up")


async def test_a_slow_reader_behind_another_instance_slows_its_own_pipe_alone() -> None:
    async with across() as pipe:
        _, right = await pipe.ends()
        sent = 0

        async def pour() -> None:
            nonlocal sent
            while True:
                await right.send_bytes(bytes(PIPE_MESSAGE))
                sent += PIPE_MESSAGE

        pouring = asyncio.create_task(pour(), name="pouring")
        last = -1
        while sent > last:
            last = sent
            await asyncio.sleep(1)
        assert sent < 32_000_000
        pouring.cancel()
        await asyncio.wait([pouring])


async def test_an_end_counts_at_the_pipes_instance_towards_its_own_address() -> None:
    async with across(Limits(close=0.3, relay=RelayLimits(pipes_each=1))) as pipe:
        one = await pipe.open(pipe.one, pipe.tickets[1], **{"X-Forwarded-For": "192.0.2.7"})
        assert not one.closed
        # The address of the other end is another one, and the room has one place, which is taken.
        assert await pipe.refused(pipe.two, pipe.tickets[0], **{"X-Forwarded-For": "192.0.2.8"}) == 503


async def test_nobody_else_says_which_address_an_end_has() -> None:
    async with across() as pipe:
        forged = [
            proof(b"guess", node="two", ticket=pipe.tickets[1], address="192.0.2.9"),
            "192.0.2.9",
            "192.0.2.9 1 2 3",
            "192.0.2.9 é ",
            "",
        ]
        for value in forged:
            for here in (pipe.one, pipe.two):
                assert await pipe.refused(here, pipe.tickets[1], **{FIELD: value}) == 403
        left, right = await pipe.ends()  # the ticket is still good
        await left.send_bytes(b"x")
        assert await right.receive_bytes(timeout=PATIENCE) == b"x"


@pytest.mark.parametrize("ticket", ["three.abc", "abc", ".abc", "two.abc", "one.abc"])
async def test_what_is_no_ticket_is_refused_everywhere(ticket: str) -> None:
    async with across() as pipe:
        for here in (pipe.one, pipe.two):
            assert await pipe.refused(here, ticket) == 403


async def test_a_pipe_whose_instance_cannot_be_reached_is_refused_as_full() -> None:
    async with across() as pipe:
        await pipe.two.server.aclose()
        assert await pipe.refused(pipe.one, pipe.tickets[1]) in (403, 503)


async def test_a_pipe_whose_instance_dies_ends_at_once_elsewhere() -> None:
    async with across() as pipe:
        left, _ = await pipe.ends()
        await pipe.two.server.aclose()
        raw = await left.receive(timeout=PATIENCE)
        assert raw.type is aiohttp.WSMsgType.CLOSE
        assert raw.data in (aiohttp.WSCloseCode.GOING_AWAY, aiohttp.WSCloseCode.OK)


async def test_members_that_leave_take_their_tickets_with_them_at_every_instance() -> None:
    async with across() as pipe:
        await pipe.serve.socket.close()
        await pipe.proxy.hear("peer-left")
        assert await pipe.refused(pipe.two, pipe.tickets[1]) == 403


async def readyz(here: Meeting) -> tuple[int, str]:
    async with here.http.get(here.server.url.replace("ws", "http", 1) + "/readyz") as response:
        return response.status, (await response.text()).strip()


async def test_an_instance_that_alone_has_lost_redis_asks_its_members_to_join_at_another_one() -> None:
    wire = Wire(shared_redis().port)
    async with instances("one", "two", urls={"one": await wire.open()}, lease=1.5) as (one, two):
        serve, proxy = await member(one, "serve"), await member(two, "proxy")
        assert await readyz(one) == (200, "ready, redis is reached")
        wire.cut()
        assert await serve.closed() == 1012
        assert await readyz(one) == (503, "cut_off")
        assert (await (await one.peer()).refused("join", room="R", role="proxy"))["code"] == "draining"
        assert (await proxy.hear("peer-left"))["peerId"] == serve.id
        back = await two.peer()
        await back.join(role="serve", token=serve.token)
        assert (await proxy.hear("peer-joined"))["peerId"] == back.id
        wire.mend()
        await until(lambda: one.server.state is State.READY)
        await member(one, "proxy")
        assert (await back.hear("peer-joined"))["role"] == "proxy"
    await wire.aclose()


async def test_instances_that_have_all_lost_redis_stay_ready_and_keep_their_members() -> None:
    with redis_server() as server:
        async with instances("one", "two", urls=dict.fromkeys(("one", "two"), server.url), lease=1.0) as here:
            serve, near, far = [await member(here[at], role) for at, role in ((0, "serve"), (0, "proxy"), (1, "proxy"))]
            server.kill()
            for peer in (serve, near, far):
                while (message := await peer.hear())["type"] != "error":
                    pass
                assert message["code"] == "unavailable"
            await asyncio.sleep(2.5)  # several leases, after which they would have moved
            for each in here:
                assert await readyz(each) == (200, "ready, redis is lost")
            await serve.say("offer", sdp="o", to=near.id)
            assert (await near.hear())["type"] == "offer"
            server.start()
            for each in here:
                await until(lambda each=each: each.server.shared.reached.is_set())
            newcomer = await member(here[1], "proxy")
            while (message := await serve.hear()).get("peerId") != newcomer.id:
                assert message["type"] in ("peer-joined", "peer-left", "error")
            await newcomer.say("offer", sdp="o", to=serve.id)
            assert (await serve.hear())["type"] == "offer"
