"""The relay over real sockets: what passes, what is bounded, who is refused."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import aiohttp
import pytest

from signal_server.limits import PIPE_MESSAGE, Limits, RelayLimits
from signal_server.relay import PROTOCOL
from signal_server.server import SignalServer

from ..support.signal_clients import HANDSHAKE, PATIENCE, Meeting, Peer, cut, masked, meeting, pour_raw

Socket = aiohttp.ClientWebSocketResponse


@dataclass
class Piped:
    """Two members of a room, and the two ends of a pipe between them."""

    here: Meeting
    serve: Peer
    proxy: Peer
    left: Socket
    right: Socket

    async def closed(self, *, said: str = "", code: int | None = None) -> None:
        """Both ends get to hear that the pipe is over, and what of."""
        for end in (self.left, self.right):
            async with asyncio.timeout(PATIENCE):
                while (raw := await end.receive()).type is aiohttp.WSMsgType.BINARY:
                    pass
            if raw.type is aiohttp.WSMsgType.CLOSE:
                assert said in raw.extra
                assert code in (None, raw.data)


def relay(**limits: float) -> Limits:
    return Limits(close=0.3, relay=RelayLimits(**limits))  # type: ignore[arg-type]


async def come(here: Meeting, ticket: str, **headers: str) -> Socket:
    return await here.stack.enter_async_context(
        here.http.ws_connect(
            here.server.url,
            protocols=(PROTOCOL, ticket),
            headers=headers,
            autoclose=False,
            timeout=aiohttp.ClientWSTimeout(ws_close=0.2),
        )
    )


async def tickets(asking: Peer, other: Peer) -> tuple[str, str]:
    await asking.say("pipe", to=other.id)
    mine, others = await asking.hear("pipe"), await other.hear("pipe")
    assert (mine["peerId"], others["peerId"]) == (other.id, asking.id)
    return mine["ticket"], others["ticket"]


async def refused(here: Meeting, ticket: str, **headers: str) -> int:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await come(here, ticket, **headers)
    return caught.value.status


@asynccontextmanager
async def piped(limits: Limits | None = None) -> AsyncIterator[Piped]:
    async with meeting(limits or relay()) as here:
        serve, proxy = await here.members("serve", "proxy")
        mine, others = await tickets(proxy, serve)
        yield Piped(here, serve, proxy, await come(here, mine), await come(here, others))


async def next_of(end: Socket) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await end.receive_bytes()


async def test_a_newcomer_is_told_of_the_relay_and_an_original_one_is_not() -> None:
    async with meeting(relay(rate=1000, total=5000, idle=7.0)) as here:
        joined = await (await here.peer()).join(role="serve")
        assert joined["relay"] == {"rate": 1000, "total": 5000, "idle": 7.0}
        assert "relay" not in await (await here.peer()).join()


async def test_messages_pass_both_ways_unchanged_and_in_order() -> None:
    async with piped() as pipe:
        assert pipe.left.protocol == PROTOCOL
        chance = random.Random(5)
        sent = [chance.randbytes(size) for size in (0, 1, 125, 126, 65_535, PIPE_MESSAGE, 7)]
        for message in sent:
            await pipe.left.send_bytes(message)
            await pipe.right.send_bytes(message[::-1])
        assert [await next_of(pipe.right) for _ in sent] == sent
        assert [await next_of(pipe.left) for _ in sent] == [message[::-1] for message in sent]


async def test_what_one_end_sends_before_the_other_comes_is_kept() -> None:
    async with meeting(relay()) as here:
        serve, proxy = await here.members("serve", "proxy")
        mine, others = await tickets(serve, proxy)
        first = await come(here, mine)
        await first.send_bytes(b"early")
        second = await come(here, others)
        assert await next_of(second) == b"early"


async def test_a_close_comes_behind_what_was_sent() -> None:
    async with piped() as pipe:
        for number in range(50):
            await pipe.left.send_bytes(bytes([number]) * 10_000)
        closing = asyncio.create_task(pipe.left.close())
        assert [(await next_of(pipe.right))[0] for _ in range(50)] == list(range(50))
        raw = await pipe.right.receive()
        assert (raw.type, raw.extra) == (aiohttp.WSMsgType.CLOSE, "the other end closed")
        await closing


async def test_an_end_that_is_cut_off_ends_the_pipe() -> None:
    async with piped() as pipe:
        cut(pipe.left)
        async with asyncio.timeout(PATIENCE):
            assert (await pipe.right.receive()).type is aiohttp.WSMsgType.CLOSE


async def test_a_pipe_outlives_its_members_leaving_the_room() -> None:
    async with piped() as pipe:
        await pipe.serve.socket.close()
        await pipe.proxy.say("bye")
        await pipe.left.send_bytes(b"still")
        assert await next_of(pipe.right) == b"still"


async def test_a_pipe_without_a_ticket_is_refused_as_is_one_with_a_used_one() -> None:
    async with meeting(relay()) as here:
        serve, proxy = await here.members("serve", "proxy")
        mine, others = await tickets(proxy, serve)
        assert await refused(here, "x" * 43) == 403
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await here.http.ws_connect(here.server.url, protocols=(PROTOCOL,))
        first = await come(here, mine)
        assert await refused(here, mine) == 403
        second = await come(here, others)
        assert await refused(here, others) == 403
        await first.send_bytes(b"undisturbed")
        assert await next_of(second) == b"undisturbed"


async def test_tickets_of_a_member_that_left_are_none() -> None:
    async with meeting(relay()) as here:
        serve, proxy = await here.members("serve", "proxy")
        mine, others = await tickets(proxy, serve)
        await proxy.say("bye")
        await serve.hear("peer-left")
        assert await refused(here, mine) == await refused(here, others) == 403


async def test_who_is_not_in_the_room_or_not_the_others_role_gets_no_ticket() -> None:
    async with meeting() as here:
        serve, proxy, other = await here.members("serve", "proxy", "proxy")
        stranger = await here.peer()
        assert (await stranger.refused("pipe", to=serve.id))["code"] == "not-joined"
        await stranger.join("elsewhere", role="proxy")
        for peer, to in ((stranger, serve.id), (proxy, other.id), (proxy, proxy.id), (proxy, ""), (proxy, 7)):
            assert (await peer.refused("pipe", to=to))["code"] == "no-such-peer"
        assert (await proxy.refused("pipe"))["code"] == "no-such-peer"
        await serve.hears_nothing()


async def test_without_a_relay_nobody_is_told_of_one_and_nobody_gets_one() -> None:
    async with meeting(Limits(relay=None)) as here:
        serve, proxy = await here.members("serve", "proxy")
        assert (await proxy.refused("pipe", to=serve.id))["code"] == "no-relay"
        assert await refused(here, "x") == 403
        assert "relay" not in await (await here.peer()).join(role="proxy")


async def test_asking_over_and_over_is_bounded() -> None:
    async with meeting(relay(asks=3)) as here:
        serve, proxy = await here.members("serve", "proxy")
        for _ in range(3):
            await tickets(proxy, serve)
        assert (await proxy.refused("pipe", to=serve.id))["code"] == "relay-limit"
        await serve.hears_nothing()


async def test_an_end_to_which_nobody_comes_is_closed() -> None:
    async with meeting(relay(ticket=0.2)) as here:
        serve, proxy = await here.members("serve", "proxy")
        mine, others = await tickets(proxy, serve)
        end = await come(here, mine)
        async with asyncio.timeout(PATIENCE):
            raw = await end.receive()
        assert (raw.type, raw.extra) == (aiohttp.WSMsgType.CLOSE, "the other end did not come")
        assert await refused(here, others) == 403


async def test_pipes_are_counted_by_room_and_by_address() -> None:
    async with meeting(relay(pipes_each=2)) as here:
        serve, proxy = await here.members("serve", "proxy")
        mine, others = await tickets(proxy, serve)
        ends = [await come(here, mine), await come(here, others)]
        mine, others = await tickets(proxy, serve)
        assert await refused(here, mine) == 503
        for end in ends:
            await end.close()
        await until_empty(here)
        mine, others = await tickets(proxy, serve)
        await come(here, mine)


async def test_behind_a_trusted_proxy_the_clients_own_address_counts() -> None:
    async with meeting(relay(pipes_each=2)) as here:
        serve, proxy = await here.member("serve", room="A"), await here.member("proxy", room="A")
        other_serve, other_proxy = await here.member("serve", room="B"), await here.member("proxy", room="B")
        await serve.hear("peer-joined")
        await other_serve.hear("peer-joined")
        for ticket in await tickets(proxy, serve):
            await come(here, ticket, **{"X-Forwarded-For": "198.51.100.7, 192.0.2.1"})
        mine, others = await tickets(other_proxy, other_serve)
        assert await refused(here, mine, **{"X-Forwarded-For": "192.0.2.1"}) == 503
        await come(here, others, **{"X-Forwarded-For": "made up"})  # it counts for the proxy


async def test_from_anywhere_else_a_forwarded_address_is_just_said() -> None:
    async with SignalServer("127.0.0.1", 0, trusted_proxies=["192.0.2.0/24"]) as server:
        said = []
        async with aiohttp.ClientSession() as http:
            server._answer_pipe = lambda request, *_: said.append(server._address(request))  # type: ignore
            with suppress(aiohttp.ClientError):
                await http.ws_connect(server.url, protocols=(PROTOCOL,), headers={"X-Forwarded-For": "192.0.2.9"})
        assert said == ["127.0.0.1"]


async def test_a_third_pipe_of_two_members_ends_their_oldest() -> None:
    async with meeting(relay()) as here:
        serve, proxy = await here.members("serve", "proxy")
        pipes = []
        for _ in range(3):
            mine, others = await tickets(proxy, serve)
            pipes.append((await come(here, mine), await come(here, others)))
        for end in pipes[0]:
            async with asyncio.timeout(PATIENCE):
                assert (await end.receive()).extra == "another pipe needs its place"
        for left, right in pipes[1:]:
            await left.send_bytes(b"stands")
            assert await next_of(right) == b"stands"


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("again", [False, True])
async def test_a_strangers_pipes_keep_no_proxy_out(whole: bool, again: bool) -> None:
    """It asks again and again, as the same member or as another, and holds its ends open; serve may come to its own."""

    async with meeting(relay(pipes_each=8)) as here:
        serve, honest = await here.members("serve", "proxy")
        stranger = await here.member("proxy")
        await serve.hear("peer-joined")
        for _ in range(8):
            mine, others = await tickets(stranger, serve)
            await come(here, mine)
            if whole:
                await come(here, others)
            if again:
                await stranger.say("bye")
                await serve.hear("peer-left")
                await stranger.join(role="proxy")
                await serve.hear("peer-joined")
        mine, others = await tickets(honest, serve)
        left, right = await come(here, mine), await come(here, others)
        await left.send_bytes(b"through")
        assert await next_of(right) == b"through"


async def test_a_pipe_of_two_members_that_stands_gives_way_to_nobody() -> None:
    async with meeting(relay(pipes_each=2)) as here:
        serve, proxy, other = await here.members("serve", "proxy", "proxy")
        mine, others = await tickets(proxy, serve)
        left, right = await come(here, mine), await come(here, others)
        mine, _ = await tickets(other, serve)
        assert await refused(here, mine) == 503
        await left.send_bytes(b"stands")
        assert await next_of(right) == b"stands"
        await proxy.say("bye")  # from here on it may have to
        await serve.hear("peer-left")
        mine, others = await tickets(other, serve)
        left, right = await come(here, mine), await come(here, others)
        await left.send_bytes(b"through")
        assert await next_of(right) == b"through"


async def test_the_second_end_of_a_pipe_that_gave_way_is_closed_at_once() -> None:
    async with meeting(relay(pipes_each=1)) as here:
        serve, proxy, other = await here.members("serve", "proxy", "proxy")
        mine, others = await tickets(proxy, serve)
        first = await come(here, mine)
        late, _ = await tickets(other, serve)
        await come(here, late)
        async with asyncio.timeout(PATIENCE):
            assert (await first.receive()).extra == "another pipe needs its place"
        assert pipe_ends(here) <= 2
        del others


def pipe_ends(here: Meeting) -> int:
    """How many connections the server counts as ends of pipes."""
    return len(here.server._pipes)


async def until_empty(here: Meeting) -> None:
    relay = here.server.relay
    assert relay is not None
    for _ in range(1000):
        if not len(relay) and not pipe_ends(here):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("a pipe is left")


async def test_a_flood_is_slowed_to_the_rate_and_nobody_else_is() -> None:
    async with piped(relay(rate=200_000, rate_all=100_000_000)) as pipe:
        loop = asyncio.get_running_loop()
        flood = asyncio.create_task(pour(pipe.left, 10_000, 60))
        began, size = loop.time(), 0
        while size < 600_000:
            size += len(await next_of(pipe.right))
        assert loop.time() - began > 1.5  # 200 KB at once, 400 KB in 2 s
        await flood
        serve, proxy = await pipe.here.member("serve", room="S"), await pipe.here.member("proxy", room="S")
        await serve.hear("peer-joined")
        await proxy.say("offer", sdp="s", to=serve.id)
        await serve.hear("offer")


@pytest.mark.parametrize("kind", ["empty", "ping"])
async def test_a_flood_of_nothing_counts_too(kind: str) -> None:
    async with piped(relay(rate=20_000)) as pipe:
        loop = asyncio.get_running_loop()
        began = loop.time()
        for _ in range(80):  # of 512 bytes each: 40 KB
            await (pipe.left.send_bytes(b"") if kind == "empty" else pipe.left.ping(b""))
        await pipe.left.send_bytes(b"last")
        while await next_of(pipe.right) != b"last":
            pass
        assert loop.time() - began > 0.5


@pytest.mark.parametrize(
    ("begin", "flood"),
    [
        (masked(0x02), masked(0x00)),
        (masked(0x02), masked(0x00, b"x")),
        (b"", masked(0x02) + masked(0x80)),
        (b"", masked(0x82)),
        (b"", masked(0x89)),
        (b"", masked(0x8A)),
    ],
    ids=lambda frame: frame[:1].hex() or "none",
)
@pytest.mark.parametrize("met", [False, True])
async def test_a_flood_of_frames_of_which_no_messages_come_ends_its_pipe(begin: bytes, flood: bytes, met: bool) -> None:
    async with meeting(relay()) as here:
        serve, proxy = await here.members("serve", "proxy")
        mine, others = await tickets(proxy, serve)
        other = await come(here, others) if met else None
        reader, writer = await asyncio.open_connection(*here.address)
        offer = f"Sec-WebSocket-Protocol: {PROTOCOL}, {mine}\r\n".encode()
        writer.write(HANDSHAKE.replace(b"Host", offer + b"Host"))
        await reader.readuntil(b"\r\n\r\n")
        pouring = asyncio.create_task(pour_raw(writer, begin, flood * 20_000))
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionResetError):
                assert b"too many frames" in await reader.read()
        pouring.cancel()
        await asyncio.wait([pouring])
        writer.transport.abort()
        if other is not None:
            async with asyncio.timeout(PATIENCE):
                while (raw := await other.receive()).type is aiohttp.WSMsgType.BINARY:
                    pass
            assert raw.extra == "one end sent too many frames"
        await until_empty(here)


async def pour(end: Socket, size: int, count: int) -> int:
    sent = 0
    with suppress(ConnectionError):
        for _ in range(count):
            await end.send_bytes(bytes(size))
            sent += size
    return sent


async def test_a_total_that_is_used_up_closes_the_pipe_and_says_so() -> None:
    async with piped(relay(total=100_000)) as pipe:
        await pour(pipe.left, 10_000, 12)
        await pipe.closed(said="total for a day", code=aiohttp.WSCloseCode.TRY_AGAIN_LATER)


async def test_a_pipe_in_which_nothing_passes_is_closed() -> None:
    async with piped(relay(idle=3.0)) as pipe:
        for _ in range(5):
            await pipe.left.send_bytes(b"alive")
            await next_of(pipe.right)
            await asyncio.sleep(0.7)
        await pipe.closed(said="nothing passed for 3 s")


async def test_a_peer_that_never_reads_fills_a_bounded_buffer_and_then_the_pipe_is_closed() -> None:
    async with piped(relay(stall=0.5, rate=1 << 40, rate_all=1 << 40)) as pipe:
        flood = asyncio.create_task(pour(pipe.left, PIPE_MESSAGE, 10_000))
        backwards = asyncio.create_task(pour(pipe.right, 1, 50))  # it is not idle
        [(relayed, ends)] = [(each, each._ends) for each in pipe.here.server.relay._pipes.values()]  # type: ignore[union-attr]
        held = 0
        while not flood.done():
            held = max(held, *(end.transport.get_write_buffer_size() for end in ends))
            await asyncio.sleep(0.01)
        assert held < 6 * PIPE_MESSAGE
        assert relayed.passed < 64 * 1024 * 1024  # what kernels keep; what comes while it closes is thrown away
        await backwards
        await until_empty(pipe.here)


async def test_a_slow_reader_slows_its_own_pipe_only() -> None:
    async with piped() as pipe:
        flood = asyncio.create_task(pour(pipe.left, PIPE_MESSAGE, 1000))
        mine, others = await tickets(pipe.serve, pipe.proxy)
        first, second = await come(pipe.here, mine), await come(pipe.here, others)
        for number in range(20):
            await first.send_bytes(bytes([number]))
            assert await next_of(second) == bytes([number])
        flood.cancel()
        with suppress(asyncio.CancelledError):
            await flood


@pytest.mark.parametrize("wrong", ["text", "long"])
async def test_what_a_pipe_does_not_take_closes_it(wrong: str) -> None:
    async with piped() as pipe:
        with suppress(ConnectionError):
            await (pipe.left.send_str("text") if wrong == "text" else pipe.left.send_bytes(bytes(PIPE_MESSAGE + 1)))
        await pipe.closed()
        await until_empty(pipe.here)


async def test_a_server_that_stops_closes_its_pipes() -> None:
    async with piped() as pipe:
        mine, _ = await tickets(pipe.serve, pipe.proxy)
        waiting = await come(pipe.here, mine)
        stopping = asyncio.create_task(pipe.here.server.aclose())
        await pipe.closed(said="the relay stops")
        assert (await waiting.receive()).extra == "the relay stops"
        await stopping


async def test_logs_tell_of_pipes_and_of_no_tickets(caplog: pytest.LogCaptureFixture) -> None:
    secrets: list[str] = []
    caplog.set_level("DEBUG")
    async with piped() as pipe:
        await pipe.left.send_bytes(b"content")
        await next_of(pipe.right)
        await pipe.left.close()
        await until_empty(pipe.here)
        secrets.extend(await tickets(pipe.proxy, pipe.serve))
        await refused(pipe.here, secrets[0] + "x")
    said = [record.getMessage() for record in caplog.records if record.name == "signal_server.relay"]
    assert any(line.endswith("a pipe has carried 7 bytes") for line in said)
    for secret in secrets:
        assert secret not in "".join(
            record.getMessage() for record in caplog.records if "aiohttp.cl" not in record.name
        )
