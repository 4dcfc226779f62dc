from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import web

from signal_server.accounts import netloc
from signal_server.limits import ENVELOPE, MESSAGE, Limits
from signal_server.relay import PROTOCOL
from signal_server.server import SignalServer

from ..support.signal_clients import HANDSHAKE, PATIENCE, Meeting, Peer, cut, masked, meeting, pour_raw


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """No client makes the server log an error, let alone a traceback."""
    caplog.set_level(logging.INFO)
    yield caplog
    told = caplog.get_records("call")  # `records` has those of this phase alone
    assert not [record.getMessage() for record in told if record.levelno >= logging.ERROR or record.exc_info]


async def assert_serves(here: Meeting, room: str = "another room") -> None:
    """Two honest peers can meet."""
    first, second = await here.member(room=room), await here.member(room=room)
    await first.hear("peer-joined")
    await first.say("offer", sdp="honest")
    assert (await second.hear("offer"))["sdp"] == "honest"
    for peer in (first, second):
        await peer.socket.close()


async def test_two_original_peers_meet_as_at_the_original_server() -> None:
    async with meeting() as here:
        first, second = await here.peer(), await here.peer()
        assert await first.join() == {"type": "joined", "peerId": first.id, "peers": []}
        assert await second.join() == {"type": "joined", "peerId": second.id, "peers": [first.id]}
        assert await first.hear() == {"type": "peer-joined", "peerId": second.id}
        await first.say("offer", sdp="o")
        assert await second.hear() == {"type": "offer", "peerId": first.id, "sdp": "o"}
        await second.say("answer", sdp="a")
        assert await first.hear() == {"type": "answer", "peerId": second.id, "sdp": "a"}
        await second.say("candidate", candidate='{"candidate":""}')
        assert await first.hear() == {
            "type": "candidate",
            "peerId": second.id,
            "candidate": '{"candidate":""}',
        }


async def test_a_third_original_peer_is_told_that_the_room_is_full_and_may_try_again() -> None:
    async with meeting() as here:
        first, second = await here.members(None, None)
        third = await here.peer()
        error = await third.refused("join", room="R")
        assert error == {"type": "error", "message": "room 'R' is full (max 2)", "code": "room-full"}
        await second.say("bye")
        assert await first.hear() == {"type": "peer-left", "peerId": second.id}
        await third.join()
        assert (await first.hear("peer-joined"))["peerId"] == third.id


async def test_who_says_bye_leaves_and_may_join_again_on_the_same_socket() -> None:
    async with meeting() as here:
        first, second = await here.members(None, None)
        await second.say("bye")
        await second.say("bye")
        assert (await second.refused("offer", sdp="s"))["message"] == "must join a room first"
        await second.join()
        assert [(await first.hear())["type"] for _ in range(2)] == ["peer-left", "peer-joined"]


@pytest.mark.parametrize("roles", [(None, None), ("serve", "proxy")])
@pytest.mark.parametrize("orderly", [True, False])
async def test_who_closes_or_loses_its_socket_has_left(orderly: bool, roles: tuple[str | None, str | None]) -> None:
    """Whether it said goodbye is told, but not to an original member."""

    async with meeting() as here:
        first, second = await here.members(*roles)
        if orderly:
            await second.socket.close()
        else:
            cut(second.socket)
        abrupt = {} if orderly or roles[0] is None else {"abrupt": True}
        assert await first.hear() == {"type": "peer-left", "peerId": second.id} | abrupt


async def test_a_serve_and_three_proxies_share_a_room_and_each_proxy_sees_the_serve_alone() -> None:
    async with meeting() as here:
        serve, *proxies = await here.members("serve", "proxy", "proxy", "proxy")
        for proxy in proxies:
            await serve.say("offer", sdp=f"for {proxy.id}", to=proxy.id)
        for proxy in proxies:
            offer = {"type": "offer", "peerId": serve.id, "sdp": f"for {proxy.id}"}
            assert await proxy.hear() == offer
            await proxy.say("answer", sdp=f"of {proxy.id}", to=serve.id)
            answer = {"type": "answer", "peerId": proxy.id, "sdp": f"of {proxy.id}"}
            assert await serve.hear() == answer
        assert (await proxies[0].refused("offer", sdp="s", to=proxies[1].id))["code"] == "no-such-peer"
        await proxies[0].say("bye")
        assert await serve.hear() == {"type": "peer-left", "peerId": proxies[0].id}
        for proxy in proxies:
            await proxy.hears_nothing()


async def test_a_serve_that_comes_back_takes_over_and_its_ghosts_socket_is_closed() -> None:
    async with meeting() as here:
        ghost, proxy = await here.members("serve", "proxy")
        serve = await here.peer()
        assert (await serve.refused("join", room="R", role="serve", token="guess"))["code"] == "room-full"
        joined = await serve.join(role="serve", instance="i", token=ghost.token)
        assert (joined["token"], joined["peers"]) == (ghost.token, [proxy.id])
        assert await proxy.hear() == {"type": "peer-left", "peerId": ghost.id}
        assert await proxy.hear() == {
            "type": "peer-joined",
            "peerId": serve.id,
            "role": "serve",
            "instance": "i",
        }
        await ghost.closed()
        await proxy.hears_nothing()
        await proxy.say("offer", sdp="s", to=serve.id)
        await serve.hear("offer")


REFUSED = [
    ("nonsense", "invalid-json", "invalid JSON"),
    ("[1]", "invalid-json", "invalid JSON: not an object"),
    ("[" * 60_000, "invalid-json", "invalid JSON"),
    ('{"type":"offer"}', "invalid-json", "invalid JSON: offer without sdp"),
    ('{"type":"answer","sdp":"\\ud800"}', "invalid-json", "invalid JSON: answer without sdp"),
    ("{}", "unknown-type", "unknown message type"),
    ('{"type":"join","room":7}', "room-required", "room name required"),
    ('{"type":"join","room":"' + "x" * 257 + '"}', "room-required", "room name required (max 256 bytes)"),
    ('{"type":"join","room":"\\udc00"}', "room-required", "room name required (max 256 bytes)"),
    ('{"type":"offer","sdp":"s"}', "not-joined", "must join a room first"),
]


@pytest.mark.parametrize(("text", "code", "message"), REFUSED, ids=lambda value: value[:20])
async def test_what_makes_no_sense_is_refused_and_the_socket_stays(text: str, code: str, message: str) -> None:
    async with meeting() as here:
        peer = await here.peer()
        await peer.socket.send_str(text)
        assert await peer.hear() == {"type": "error", "message": message, "code": code}
        await peer.join()


async def test_binary_messages_are_refused_and_the_socket_stays() -> None:
    async with meeting() as here:
        peer = await here.peer()
        await peer.socket.send_bytes(b'{"type":"join","room":"R"}')
        assert (await peer.hear("error"))["code"] == "invalid-json"
        await peer.join()


async def test_who_is_in_a_room_cannot_join_another() -> None:
    async with meeting() as here:
        first, second = await here.members(None, None)
        assert (await second.refused("join", room="S"))["code"] == "already-joined"
        await first.say("offer", sdp="s")
        await second.hear("offer")


async def test_a_full_server_says_so_to_who_joins() -> None:
    async with meeting(Limits(members=1)) as here:
        await here.member()
        late = await here.peer()
        error = await late.refused("join", room="R")
        assert (error["code"], error["message"]) == ("server-full", "server is full")


@pytest.mark.parametrize("size", [MESSAGE + 1, 1024 * 1024, 8 * 1024 * 1024])
async def test_too_large_a_message_is_said_and_ends_its_sender_alone(size: int) -> None:
    async with meeting() as here:
        first, second = await here.members(None, None)
        text = json.dumps({"type": "join", "room": ""})
        await second.socket.send_str(text.replace('""', '"' + "x" * (size - len(text)) + '"'))
        error = await second.hear("error")
        assert (error["code"], error["message"]) == ("too-large", f"message too large (max {MESSAGE} bytes)")
        assert await second.closed() == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
        assert (await first.hear("peer-left"))["peerId"] == second.id
        await assert_serves(here)


async def test_the_largest_message_that_is_relayed_arrives() -> None:
    async with meeting() as here:
        first, second = await here.members(None, None)
        sdp = "x" * (MESSAGE - ENVELOPE - len('{"type": "offer", "sdp": ""}'))
        await first.say("offer", sdp=sdp)
        assert (await second.hear("offer"))["sdp"] == sdp
        await first.say("offer", sdp=sdp + "x")
        assert (await first.hear("error"))["code"] == "too-large"
        await first.closed()


@pytest.mark.parametrize("kind", ["text", "binary", "ping"])
async def test_a_flood_is_said_and_ends_its_sender_alone(kind: str) -> None:
    limits = Limits(proxies=1, rate=1)

    async with meeting(limits) as here:
        first, second = await here.members(None, None)
        flood = asyncio.create_task(pour(second, kind, 3 * limits.burst))
        while (error := await second.hear("error"))["code"] != "too-fast":
            pass
        assert error["message"] == "too many messages"
        await second.closed()
        await flood
        assert (await first.hear("peer-left"))["peerId"] == second.id
        await assert_serves(here)


async def pour(peer: Peer, kind: str, count: int) -> None:
    with suppress(ConnectionError):
        for _ in range(count):
            match kind:
                case "text":
                    await peer.socket.send_str("{}")
                case "binary":
                    await peer.socket.send_bytes(b"")
                case "ping":
                    await peer.socket.ping()


async def test_long_messages_count_for_more() -> None:
    limits = Limits(proxies=1, rate=1)

    async with meeting(limits) as here:
        first, _second = await here.members(None, None)
        for _ in range(limits.burst // 60 + 1):
            await first.say("offer", sdp="x" * 60 * 1024)
        assert (await first.hear("error"))["code"] == "too-fast"


async def test_a_member_that_does_not_read_is_dropped_and_stalls_nobody() -> None:
    limits = Limits(rate=1e9, outgoing=128 * 1024)

    async with meeting(limits) as here:
        serve, slow, fast = await here.members("serve", "proxy", "proxy")
        started = time.monotonic()
        flood = asyncio.create_task(flood_until_left(serve, slow))
        for _ in range(20):
            await fast.say("candidate", candidate="c", to=serve.id)
        await flood
        assert time.monotonic() - started < PATIENCE
        await fast.say("bye")
        while (await serve.hear())["type"] != "peer-left":
            pass


async def flood_until_left(serve: Peer, slow: Peer) -> None:
    """Send to a peer that reads nothing until the server says that it left; 64 MB must be more than any buffers."""
    sdp = "x" * 60 * 1024
    for _ in range(1000):
        await serve.say("offer", sdp=sdp, to=slow.id)
        await serve.say("no such type")
        while (message := await serve.hear("error", "candidate", "peer-left"))["type"] == "candidate":
            pass
        if message["type"] == "peer-left":
            assert message["peerId"] == slow.id
            return
    raise AssertionError("still there")


async def test_a_member_that_answers_no_pings_is_dropped() -> None:
    async with meeting(Limits(heartbeat=0.2)) as here:
        first, second = await here.members(None, None)  # aiohttp's client answers pings while it receives
        assert await first.hear() == {"type": "peer-left", "peerId": second.id}


async def test_a_socket_that_joins_no_room_is_dropped_and_one_that_did_is_not() -> None:
    async with meeting(Limits(join=1.5)) as here:
        member, idler = await here.member(), await here.peer()
        await idler.closed()
        await member.say("bye")
        await asyncio.sleep(1.7)
        await member.join()


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_a_connection_of_which_no_websocket_comes_is_dropped(said: bytes) -> None:
    async with meeting(Limits(join=0.3)) as here:
        reader, writer = await asyncio.open_connection(*here.address)
        writer.write(said)
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionResetError):
                await reader.read()
        writer.close()
        await assert_serves(here)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\0" * 100_000,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000,
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
    ids=lambda garbage: repr(garbage[:20]),
)
async def test_garbage_in_place_of_http_is_nobody_elses_trouble(garbage: bytes) -> None:
    async with meeting() as here:
        reader, writer = await asyncio.open_connection(*here.address)
        writer.write(garbage)
        writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionResetError):
                await reader.read()
        writer.close()
        await assert_serves(here)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x81\x82\0\0\0\0\xff\xff",  # a text that is not UTF-8
        b"\x83\x80\0\0\0\0",  # an opcode that is not one
        b"\xf1\x80\0\0\0\0",  # reserved bits
        b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",  # 2^64-1 bytes
        b"\x89\xfe\xff\xff\0\0\0\0",  # a ping of 64 KiB
        b"\x81",
        b"\x01\x80\0\0\0\0" * 2,  # a message within a message
        b"\x88\x81\0\0\0\0\0",  # half a close code
    ],
    ids=lambda frame: frame[:6].hex(),
)
async def test_broken_frames_are_nobody_elses_trouble(frame: bytes) -> None:
    async with meeting(Limits(close=0.3)) as here:
        reader, writer = await asyncio.open_connection(*here.address)
        writer.write(HANDSHAKE)
        assert b" 101 " in await reader.readline()
        writer.write(frame)
        writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionResetError):
                await reader.read()
        writer.close()
        await assert_serves(here)


@asynccontextmanager
async def raw_socket(here: Meeting) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """An opened WebSocket, by hand."""
    reader, writer = await asyncio.open_connection(*here.address)
    try:
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
    finally:
        writer.transport.abort()


@pytest.mark.parametrize(
    ("begin", "flood"),
    [
        (masked(0x01), masked(0x00)),  # a message in endless empty parts
        (masked(0x02), masked(0x00)),
        (masked(0x01), masked(0x00, b"x")),
        (b"", masked(0x01) + masked(0x80)),
        (b"", masked(0x81)),
        (b"", masked(0x82)),
        (b"", masked(0x89)),
        (b"", masked(0x8A)),
        (masked(0x01), masked(0x8A)),
    ],
    ids=lambda frame: frame[:1].hex() or "none",
)
async def test_a_flood_of_empty_frames_is_said_and_ends_its_sender_alone(begin: bytes, flood: bytes) -> None:
    async with meeting(Limits(close=0.3)) as here, raw_socket(here) as (reader, writer):
        worked = time.process_time()
        pouring = asyncio.create_task(pour_raw(writer, begin, flood * 20_000))
        async with asyncio.timeout(PATIENCE):
            with suppress(asyncio.IncompleteReadError, ConnectionResetError):
                said = await reader.readuntil(b"too-fast")
                await reader.read()
        assert said.endswith(b'"code":"too-fast')
        pouring.cancel()
        await asyncio.wait([pouring])
        assert time.process_time() - worked < 2
        await assert_serves(here)


async def test_an_honest_message_in_many_parts_arrives() -> None:
    async with meeting() as here, raw_socket(here) as (reader, writer):
        text = b'{"type":"join","room":"R"}'
        parts = [masked(0x01, text[:1]), *(masked(0x00, text[at : at + 1]) for at in range(1, len(text)))]
        for part in (*parts, masked(0x89, b"ping"), masked(0x80)):
            writer.write(part)
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            await reader.readuntil(b'"joined"')


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 8000 + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=lambda head: head[:15].decode(),
)
async def test_a_connection_that_is_no_websocket_sends_little(head: bytes) -> None:
    async with meeting() as here:
        _, writer = await asyncio.open_connection(*here.address)
        sent = 0
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionError):
                writer.write(head)
                while True:
                    writer.write(b"X: y\r\n" * 1000)
                    await writer.drain()
                    sent += 6000
        writer.close()
        assert sent < 32 * 1024 * 1024  # what the kernel's buffers take
        await assert_serves(here)


async def crowd(here: Meeting, count: int) -> list[asyncio.StreamWriter]:
    return [(await asyncio.open_connection(*here.address))[1] for _ in range(count)]


async def test_strangers_make_room_for_newcomers_the_oldest_first_and_members_stay() -> None:
    async with meeting(Limits(sockets=10)) as here:
        first, idler = await here.member(), await here.peer()
        strangers = await crowd(here, 30)
        await idler.closed()
        second = await here.member()
        assert (await first.hear("peer-joined"))["peerId"] == second.id
        assert len(here.server._visitors) <= 10
        for each in strangers:
            each.transport.abort()


async def test_who_has_left_its_room_makes_room_too() -> None:
    async with meeting(Limits(sockets=10)) as here:
        leaver = await here.member()
        await leaver.say("bye")
        await leaver.hears_nothing()
        strangers = await crowd(here, 30)
        await leaver.closed()
        for each in strangers:
            each.transport.abort()


async def test_an_address_with_many_strangers_makes_its_own_go() -> None:
    limits = Limits(sockets=160)  # 20 strangers of an address

    async with meeting(limits) as here:
        other = await here.peer(address="192.0.2.2")
        first, *peers = [await here.peer(address="192.0.2.1") for _ in range(21)]
        await first.closed()
        for each in (other, *peers):
            await each.hears_nothing()


async def test_behind_no_proxy_the_connections_own_address_counts() -> None:
    async with meeting(Limits(sockets=160), trusted_proxies=["192.0.2.0/24"]) as here:
        first, *peers = [await here.peer(address=f"192.0.2.{number}") for number in range(21)]
        await first.closed()
        await peers[0].hears_nothing()


@pytest.mark.parametrize(
    ("trusted", "fields", "of"),
    [
        ("127.0.0.1", {"CF-Connecting-IP": "198.51.100.1"}, "198.51.100.1"),
        ("127.0.0.1", {"cf-connecting-ip": "198.51.100.1", "X-Forwarded-For": "203.0.113.9"}, "198.51.100.1"),
        ("127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, "127.0.0.1"),  # clients may set it
        ("127.0.0.1", {"CF-Connecting-IP": "unknown"}, "127.0.0.1"),
        ("10.0.0.1", {"CF-Connecting-IP": "198.51.100.1"}, "127.0.0.1"),  # not from a trusted proxy
    ],
)
async def test_a_named_header_alone_contains_the_clients_address(
    trusted: str, fields: dict[str, str], of: str, log: pytest.LogCaptureFixture
) -> None:
    async with meeting(trusted_proxies=[trusted], forwarded_header="CF-Connecting-IP", log_addresses=True) as here:
        async with here.http.ws_connect(here.server.url, headers=fields) as socket:
            await Peer(socket).join()
    [joined] = [line for line in log.messages if "joined" in line]
    assert joined.endswith(f", from {of}")


async def test_messages_of_an_address_are_delayed_and_then_refused_and_others_are_not() -> None:
    async with meeting(Limits(messages_each=1)) as here:
        peers = [await here.peer(address="192.0.2.1") for _ in range(4)]
        other = await here.peer(address="192.0.2.2")
        for _ in range(60):
            assert (await peers[0].refused("no such type"))["code"] == "unknown-type"
        for peer in peers:
            await peer.say("no such type")
        codes = [(await peer.hear("error"))["code"] for peer in peers]
        assert codes.count("address-limit") == 2, "one waited for a second, one for two"
        await other.hears_nothing()


async def test_messages_in_a_room_are_delayed_and_then_refused_and_other_rooms_are_not() -> None:
    async with meeting(Limits(messages_room=1)) as here:
        serve, *proxies = await here.members("serve", "proxy", "proxy", "proxy")
        other = await here.member(room="another")
        for _ in range(60):
            await serve.hears_nothing()
        for peer in (serve, *proxies):
            await peer.say("no such type")
        codes = [(await peer.hear("error"))["code"] for peer in (serve, *proxies)]
        assert codes.count("room-limit") == 2, "one waited for a second, one for two"
        await other.hears_nothing()


ROOM, THERE = "a-room-that-nobody-may-know", "203.0.113.77"
HOSTILE = [
    '{"type":"join","room":"' + ROOM,
    '{"type":"join","room":"' + ROOM + '"}',
    '{"type":"join","room":"' + ROOM + '","role":"serve","access":"x"}',
    '{"type":"' + ROOM + '"}',
    '{"type":"pipe","to":"' + ROOM + '"}',
    '{"type":"offer","sdp":"' + ROOM + '","to":"' + ROOM + '"}',
    '{"type":"bye"}',
    "[" * 50_000,
    '{"type":"join","room":"' + ROOM * 200 + '"}',
]


@pytest.mark.parametrize("log_addresses", [False, True])
async def test_nothing_that_a_client_sends_is_logged_and_its_address_only_if_asked_for(
    log_addresses: bool, log: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("signal_server").setLevel(logging.DEBUG)
    log.set_level(logging.DEBUG)
    fields = f"X-Forwarded-For: {THERE}\r\n".encode()
    heads = [
        HANDSHAKE.replace(b"GET /", b"GET /" + ROOM.encode()).removesuffix(b"\r\n") + fields + b"\r\n",
        b"GET /" + ROOM.encode() + b" HTTP/1.1\r\nHost: x\r\n" + fields + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x" + ROOM.encode() + b"\r\n" + fields + b"\r\n",
        ROOM.encode() * 10 + b"\r\n\r\n",
        HANDSHAKE.removesuffix(b"\r\n") + fields + f"Sec-WebSocket-Protocol: {PROTOCOL}, {ROOM}\r\n\r\n".encode(),
    ]
    async with meeting(Limits(proxies=1, members_each=20), log_addresses=log_addresses) as here:
        for head in heads:
            reader, writer = await asyncio.open_connection(*here.address)
            writer.write(head)
            if head.startswith(HANDSHAKE[:4]) and ROOM.encode() in head[:40]:
                await reader.readuntil(b"\r\n\r\n")
            writer.write_eof()
            await reader.read()
            writer.close()
        for _ in range(4):
            peer = await here.peer(address=THERE)
            for text in HOSTILE:
                await peer.socket.send_str(text)
            await peer.say("no such type")
            while (await peer.hear()).get("code") not in ("unknown-type", "too-fast"):
                pass
        await assert_serves(here)
    told = "\n".join(line for record in log.records if record.name.startswith("signal") for line in [f"{record.msg}"])
    everything = log.text + told
    assert ROOM not in everything
    assert (THERE in everything) is log_addresses
    if log_addresses:
        assert f"Rejected a message from {THERE}: " in everything and f"Rejected a pipe from {THERE}" in everything
    else:
        assert "127.0.0.1" not in "".join(line for line in everything.splitlines() if "signal_server" in line)


async def test_an_error_of_the_servers_own_is_logged_without_the_clients_address(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("signal_server.server._plain", lambda *args, **more: 1 / 0)
    async with meeting() as here, here.http.get(f"http{here.server.url.removeprefix('ws')}/{ROOM}") as response:
        assert response.status == 500
    [record] = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert record.getMessage() == "Error handling request" and record.exc_info
    assert "127.0.0.1" not in caplog.text and ROOM not in caplog.text
    caplog.clear()


async def test_an_answer_that_is_no_websocket_is_its_connections_last() -> None:
    async with meeting() as here:
        reader, writer = await asyncio.open_connection(*here.address)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        async with asyncio.timeout(PATIENCE):
            said = await reader.read()
        writer.close()
        assert said.count(b"HTTP/1.1 200") == 1
        assert b"\r\nConnection: close\r\n" in said


async def test_who_joins_one_room_after_the_other_is_slowed_and_others_are_not() -> None:
    limits = Limits(members_each=10, joins=120)  # 2 a second

    async with meeting(limits) as here:
        loop = asyncio.get_running_loop()
        guesser = await here.peer(address="192.0.2.1")
        begun = loop.time()
        for number in range(14):
            await guesser.join(f"room {number}")
            await guesser.say("bye")
        assert loop.time() - begun > 1.9
        waiting = asyncio.create_task(guesser.join("one more"), name="one more")
        await here.member(room="R", address="192.0.2.2")
        assert not waiting.done()
        await waiting


async def test_too_many_joins_at_once_are_refused_and_none_waits_for_long(log: pytest.LogCaptureFixture) -> None:
    limits = Limits(members_each=1, joins=60)

    async with meeting(limits) as here:
        peers = [await here.peer() for _ in range(20)]
        for number, each in enumerate(peers):
            await each.say("join", room=f"room {number}")
        codes = [(await each.hear()).get("code") for each in peers]
        assert codes.count("address-limit") >= 14
        assert None in codes
        await peers[-1].hears_nothing()  # it may try again
    assert [record.levelname for record in log.records if "--trusted-proxy" in record.getMessage()] == ["WARNING"]


async def test_who_comes_back_with_its_token_is_not_slowed() -> None:
    async with meeting(Limits(members_each=3, joins=1)) as here:
        serve = await here.member("serve")
        for _ in range(10):
            back = await here.peer()
            await back.join(role="serve", token=serve.token)
            serve = back


async def test_rooms_and_members_are_counted_by_address() -> None:
    async with meeting(Limits(rooms_each=2, members_each=3)) as here:
        for room in "AB":
            await here.member(room=room, address="2001:db8::1")
        late = await here.peer(address="2001:db8::2")  # in the same /64
        error = await late.refused("join", room="C")
        assert error == {
            "type": "error",
            "message": "your address has too many rooms (max 2)",
            "code": "address-limit",
        }
        await late.join("A")
        last = await here.peer(address="2001:db8::3")
        assert "too many members" in (await last.refused("join", room="B"))["message"]
        await here.member(room="C", address="2001:db8:0:1::1")
        await late.say("bye")
        await last.join("B")


async def test_clients_that_go_at_any_moment_leave_nothing_behind() -> None:
    async with meeting() as here:
        for cut in range(0, len(HANDSHAKE) + 1, 8):
            with socket.create_connection(here.address) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                client.send(HANDSHAKE[: cut or None])
            await asyncio.sleep(0)
        await assert_serves(here)


@pytest.mark.parametrize("path", ["/", "//", "/any/path?query", "/%2F..%0A"])
async def test_any_path_is_a_websocket_or_a_line_of_text(path: str) -> None:
    async with meeting() as here:
        await (await here.peer(path)).join()
        async with here.http.get(here.server.url.replace("ws", "http", 1) + path) as response:
            assert (response.status, await response.text()) == (200, "llmtunnel signal server\n")


async def test_healthz_answers_ok() -> None:
    async with meeting() as here, here.http.get(here.server.url.replace("ws", "http", 1) + "/healthz") as response:
        assert (response.status, await response.text()) == (200, "ok\n")


async def test_a_server_full_of_members_says_so_to_newcomers_until_one_goes() -> None:
    async with meeting(Limits(sockets=1)) as here:
        only = await here.member()
        late = await here.peer()
        assert (await late.refused("join", room="S"))["code"] == "server-full"
        await only.socket.close()
        await late.join()


async def test_a_server_that_stops_says_so_to_its_clients() -> None:
    async with meeting() as here:
        peers = [await here.member(), await here.peer()]
        closing = asyncio.create_task(here.server.aclose())
        assert [await peer.closed() for peer in peers] == [aiohttp.WSCloseCode.GOING_AWAY] * 2
        await closing
        await here.server.aclose()


async def test_a_server_stops_in_time_whatever_its_clients_do() -> None:
    async with meeting(Limits(rate=1e9, close=0.3)) as here:
        silent = [await here.member() for _ in range(2)]  # they read nothing, not even the close
        for _ in range(100):
            await silent[0].say("offer", sdp="x" * 60 * 1024)
        _, stranger = await asyncio.open_connection(*here.address)
        async with asyncio.timeout(PATIENCE):
            await here.server.aclose()
        stranger.close()


async def test_a_server_that_stops_waits_for_no_join_that_it_holds() -> None:
    async with meeting(Limits(members_each=1, joins=15)) as here:
        await here.member()
        held = await here.peer()
        await held.say("join", room="S")  # for 4 s
        await (await here.peer()).hears_nothing()
        await here.server.aclose()
        async with asyncio.timeout(PATIENCE):
            said = await held.socket.receive()
        assert said.type is aiohttp.WSMsgType.CLOSE, "it has not joined"


async def test_an_address_in_use_is_an_error_and_leaves_nothing_behind() -> None:
    async with meeting() as here:
        with pytest.raises(OSError, match="in use"):
            await SignalServer(*here.address).start()
        await assert_serves(here)


def test_an_ipv6_address_has_its_brackets() -> None:
    assert [netloc("::1", 80), netloc("127.0.0.1", 80)] == ["[::1]:80", "127.0.0.1:80"]


async def test_logs_tell_who_comes_and_goes_and_no_secrets(log: pytest.LogCaptureFixture) -> None:
    async with meeting() as here:
        first = await here.member("serve", room="room-secret")
        second = await here.member("proxy", room="room-secret")
        await first.say("offer", sdp="sdp-secret", to=second.id)
        await second.hear("offer")
        await second.refused("join", room="room-secret")
    said = [record.getMessage() for record in log.records if record.name.startswith("signal_server")]
    assert [line.partition(": ")[2] for line in said[:2]] == ["serve joined, 1 inside", "proxy joined, 2 inside"]
    assert [line.partition(": ")[2] for line in said[2:]][-1].endswith("left, 0 inside")
    assert len({line.partition(":")[0] for line in said}) == 1
    assert "secret" not in log.text


async def test_a_client_that_is_gone_in_the_middle_of_the_upgrade_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = web.StreamResponse.prepare

    async def prepare(self: web.StreamResponse, request: web.BaseRequest) -> object:
        writer = await prepared(self, request)
        if isinstance(self, web.WebSocketResponse):
            raise ConnectionResetError("Cannot write to closing transport")
        return writer

    async with meeting() as here:
        first, second = await here.members("serve", "proxy")
        await second.say("pipe", to=first.id)
        ticket = (await second.hear("pipe"))["ticket"]
        pipe = HANDSHAKE.removesuffix(b"\r\n") + f"Sec-WebSocket-Protocol: {PROTOCOL}, {ticket}\r\n\r\n".encode()
        with monkeypatch.context() as patch:
            patch.setattr(web.StreamResponse, "prepare", prepare)
            for handshake in (HANDSHAKE, pipe):
                reader, writer = await asyncio.open_connection(*here.address)
                writer.write(handshake)
                async with asyncio.timeout(PATIENCE):
                    await reader.read()  # to its end
                writer.close()
        await assert_serves(here)
