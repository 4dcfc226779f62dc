"""Both directions at once, back-pressure, cancellation, kept connections, and pipes after a 101."""

from __future__ import annotations

import asyncio
import queue
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from llmtunnel.config import KIB, MIB, Limits, Timeouts
from llmtunnel.endpoints.origin import Origin
from llmtunnel.endpoints.upstream_connection import UpstreamConnection
from llmtunnel.errors import ErrorCode, StreamReset, UpstreamBroken
from llmtunnel.protocol.heads import Fields, RequestHead
from llmtunnel.protocol.hello import ALL_FEATURES, Feature
from llmtunnel.session.stream import Stream
from llmtunnel.upstream import Upstream
from tests.support.gateway_rig import Rig as TunnelRig
from tests.support.gateway_rig import tunnel
from tests.support.scripted_upstream import OK, Peer, Rig, answer, reset, rig

CHUNKED = ((b"Transfer-Encoding", b"chunked"),)
WEBSOCKET = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Key", b"x"))
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SMALL = Limits(window=64 * KIB)
V1 = frozenset({Feature.SSE})


async def test_both_bodies_are_on_their_way_at_once() -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask(b"POST", fields=CHUNKED, ended=False)
        peer = await tunnel.upstream.peer()
        assert (await peer.head()).endswith(b"Transfer-Encoding: chunked\r\n\r\n")
        peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await stream.response()).status == 200
        for n in range(5):
            await stream.send(b"ask %d" % n)
            assert await peer.exactly(10) == b"5\r\nask %d\r\n" % n
            peer.say(b"5\r\nsay %d\r\n" % n)
            assert await stream.receive() == b"say %d" % n
        await stream.send_end()
        assert await peer.exactly(5) == b"0\r\n\r\n"
        peer.say(b"0\r\n\r\n")
        assert await stream.receive() == b""


async def test_every_piece_of_a_response_comes_when_it_is_said() -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask(fields=((b"Accept", b"application/json"),))
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        await stream.response()
        for n in range(5):
            peer.say(b"data: %d\n\n" % n)
            assert await stream.receive() == b"data: %d\n\n" % n


async def test_an_answer_before_the_body_has_come_ends_the_body_and_the_connection() -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask(b"POST", fields=CHUNKED, ended=False)
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        head, body = await answer(stream)
        assert (head.status, body) == (413, b"big")
        with pytest.raises(StreamReset) as caught:
            await send_for_ever(stream)
        assert caught.value.code is ErrorCode.NO_ERROR
        assert await peer.ended()
        record = await tunnel.record()
        assert (record.status, record.error) == (413, "")


async def test_an_answer_followed_by_a_reset_in_the_middle_of_the_body_is_passed_on() -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask(b"POST", fields=((b"Content-Length", b"1000"),), ended=False)
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(b"HTTP/1.1 401 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
        head, body = await answer(stream)
        peer.rst()
        assert (head.status, body) == (401, b"no")


async def send_for_ever(stream: Stream) -> None:
    while True:
        await stream.send(b"x" * 10_000)


# -- cancellation


@pytest.mark.parametrize("when", ["before the head", "in the body", "in the request"])
async def test_a_client_that_goes_away_takes_the_upstream_connection_with_it(when: str) -> None:
    async with rig() as tunnel:
        asking = when == "in the request"
        stream = await tunnel.ask(b"POST", fields=CHUNKED if asking else (), ended=not asking)
        peer = await tunnel.upstream.peer()
        await peer.head()
        if when == "in the body":
            peer.say(b"HTTP/1.1 200 OK\r\n\r\nabc")
            await stream.response()
        stream.reset(ErrorCode.CANCELLED, "the client went away")
        assert await peer.ended()
        assert (await tunnel.record()).error == "The other side cancelled the request."


async def test_a_session_that_ends_closes_every_upstream_connection() -> None:
    async with rig() as tunnel:
        peers = []
        for _ in range(3):
            await tunnel.ask()
            peers.append(await tunnel.upstream.peer())
            await peers[-1].head()
        await tunnel.proxy.aclose()
        assert await asyncio.gather(*(peer.ended() for peer in peers)) == [True] * 3


async def test_closing_the_origin_ends_what_is_under_way() -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask()
        peer = await tunnel.upstream.peer()
        await peer.head()
        await tunnel.origin.aclose()
        assert await peer.ended()
        assert (await stream.response()).status == 502


# -- back-pressure


async def pour(peer: Peer, piece: bytes, limit: int) -> int:
    """Write until nothing is taken for a while; how many bytes were."""
    written = 0
    while written < limit:
        peer.say(piece)
        written += len(piece)
        try:
            async with asyncio.timeout(0.3):
                await peer.writer.drain()
        except TimeoutError:
            break
    return written


async def test_a_reader_that_stalls_stops_the_upstream_and_delays_no_other() -> None:
    async with rig(limits=SMALL) as tunnel:
        stream = await tunnel.ask(target=b"/big")
        peer = await tunnel.upstream.peer()
        await peer.head()
        size = 64 * MIB
        peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        await stream.response()
        written = await pour(peer, b"x" * 65536, size)
        assert written < 20 * MIB  # what two sockets, the connection and a window hold
        other = await tunnel.ask(target=b"/small")
        second = await tunnel.upstream.peer()
        await second.head()
        second.say(OK)
        assert (await answer(other))[1] == b"ok"
        rest = asyncio.create_task(pour(peer, b"x" * 65536, size - written))
        received = 0
        while data := await stream.receive():
            received += len(data)
        await rest
        assert received == size


async def test_an_upstream_that_does_not_read_stops_the_client() -> None:
    async with rig(limits=SMALL) as tunnel:
        size = 64 * MIB
        stream = await tunnel.ask(b"PUT", fields=((b"Content-Length", b"%d" % size),), ended=False)
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sent = 0
        try:
            while sent < size:
                async with asyncio.timeout(0.3):
                    await stream.send(b"x" * 65536)
                sent += 65536
        except TimeoutError:
            pass
        assert sent < 20 * MIB


@pytest.mark.parametrize("fields", [CHUNKED, ((b"Content-Length", b"8388608"),)], ids=["chunked", "sized"])
async def test_large_bodies_go_both_ways_whole(fields: tuple[tuple[bytes, bytes], ...]) -> None:
    async with rig() as tunnel:
        body = bytes(range(256)) * 256 * 128
        stream = await tunnel.ask(b"POST", fields=fields, ended=False)
        answering = asyncio.create_task(echo(await tunnel.upstream.peer(), len(body)))
        sending = asyncio.create_task(send_all(stream, body))
        head, got = await answer(stream)
        await asyncio.gather(answering, sending)
        assert head.status == 200
        assert got == body
        record = await tunnel.record()
        assert (record.bytes_up, record.bytes_down) == (len(body), len(body))


async def send_all(stream: Stream, body: bytes) -> None:
    await stream.send(body)
    await stream.send_end()


async def echo(peer: Peer, size: int) -> None:
    """Answer with the request's body, read to its end."""
    head = await peer.head()
    body = bytearray()
    if b"chunked" in head:
        while length := int(await peer.reader.readline(), 16):
            body += (await peer.exactly(length + 2))[:-2]
        await peer.exactly(2)
    else:
        body += await peer.exactly(size)
    peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
    peer.say(bytes(body))
    await peer.writer.drain()


# -- kept connections


async def exchange(tunnel: Rig, peer: Peer | None = None, response: bytes = OK) -> Peer:
    """One GET, answered on ``peer`` or a new connection."""
    stream = await tunnel.ask()
    peer = peer or await tunnel.upstream.peer()
    await peer.head()
    peer.say(response)
    await answer(stream)
    await tunnel.record()
    return peer


async def test_repeatable_requests_of_a_client_share_a_connection_and_another_clients_never_use_it() -> None:
    async with rig() as tunnel:
        mine = await exchange(tunnel)
        first, tunnel.before = tunnel.before, None
        theirs = await exchange(tunnel)
        tunnel.before = first
        await exchange(tunnel, mine)
        assert tunnel.upstream.accepted == 2
        assert not theirs.reader.at_eof(), "the other client's is kept too"


@pytest.mark.parametrize(
    ("method", "fields", "body"),
    [
        (b"POST", CHUNKED, b"3\r\nabc\r\n0\r\n\r\n"),
        (b"POST", ((b"Content-Length", b"3"),), b"abc"),
        (b"GET", ((b"Content-Length", b"3"),), b"abc"),
        (b"POST", ((b"Content-Length", b"0"),), b""),
        (b"PUT", (), b""),
        (b"DELETE", (), b""),
        (b"PROPFIND", (), b""),
    ],
)
async def test_a_request_with_a_body_or_that_cannot_be_repeated_has_a_connection_of_its_own(
    method: bytes, fields: Fields, body: bytes
) -> None:
    async with rig() as tunnel:
        kept = await exchange(tunnel)
        stream = await tunnel.ask(method, fields=fields, ended=not body)
        if body:
            await stream.send(b"abc")
            await stream.send_end()
        assert await kept.ended(), "a client has one connection at a time"
        peer = await tunnel.upstream.peer()
        assert b"\r\nConnection: close\r\n" in await peer.head()
        assert await peer.exactly(len(body)) == body
        peer.say(OK)
        assert (await answer(stream))[1] == b"ok"
        assert await peer.ended(), "whatever it left unread of the body is never a request"
        await tunnel.record()
        await exchange(tunnel)
        assert tunnel.upstream.accepted == 3


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"TRACE"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "fresh"])
async def test_the_last_request_of_a_client_says_so_to_the_upstream(method: bytes, kept: bool) -> None:
    async with rig() as tunnel:
        peer = await exchange(tunnel) if kept else None
        stream = await tunnel.ask(method, last=True)
        peer = peer or await tunnel.upstream.peer()
        assert b"\r\nConnection: close\r\n" in await peer.head()
        peer.say(b"HTTP/1.1 204 No Content\r\n\r\n")
        await answer(stream)
        assert await peer.ended()
        assert tunnel.upstream.accepted == 1


@pytest.mark.parametrize("features", [V1, ALL_FEATURES - {Feature.CLIENT}], ids=["v1", "an older peer"])
async def test_of_a_peer_that_does_not_tell_clients_apart_each_request_has_its_own_connection(
    features: frozenset[Feature],
) -> None:
    async with rig(features=features) as tunnel:
        for count in range(1, 4):
            stream = await tunnel.ask(last=False)
            peer = await tunnel.upstream.peer()
            assert b"\r\nConnection: close\r\n" in await peer.head()
            peer.say(OK)
            await answer(stream)
            assert await peer.ended()
            assert tunnel.upstream.accepted == count


@pytest.mark.parametrize("how", ["client", "session"])
async def test_a_kept_connection_closes_with_its_client_and_with_the_session(how: str) -> None:
    async with rig() as tunnel:
        mine = await exchange(tunnel)
        first, tunnel.before = tunnel.before, None
        theirs = await exchange(tunnel)
        assert first
        if how == "client":
            first.close_client()
            assert await mine.ended()
            await exchange(tunnel, theirs)
        else:
            await tunnel.proxy.aclose()
            assert await mine.ended()
            assert await theirs.ended()


async def test_a_client_that_closes_before_its_response_has_ended_leaves_no_connection_behind() -> None:
    """Its close may overtake the rest of a stream that is not its first."""

    async with rig() as tunnel:
        peer = await exchange(tunnel)
        stream = await tunnel.ask()
        await peer.head()
        stream.close_client()
        await tunnel.proxy.open(RequestHead(method=b"GET", target=b"/another"))  # behind the frame
        await tunnel.upstream.peer()
        peer.say(OK)
        assert (await answer(stream))[1] == b"ok"
        assert await peer.ended()


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        OK + b"HTTP/1.1 200 Smuggled\r\nContent-Length: 0\r\n\r\n",
        OK + b"HTTP/1.1 103 Early Hints\r\n\r\n",
        OK + b"\r\n",
    ],
    ids=["close", "1.0", "more than the response", "an interim one after the end", "an empty line"],
)
async def test_a_connection_that_cannot_be_used_again_is_closed(response: bytes) -> None:
    async with rig() as tunnel:
        assert await (await exchange(tunnel, response=response)).ended()
        await exchange(tunnel)
        assert tunnel.upstream.accepted == 2


@pytest.mark.parametrize(
    "late", [b"HTTP/1.1 200 Late\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\n\r\n", b"\0"]
)
async def test_what_comes_after_a_response_closes_the_connection_and_reaches_nobody(late: bytes) -> None:
    async with rig() as tunnel:
        peer = await exchange(tunnel)
        peer.say(late)
        assert await peer.ended()
        await exchange(tunnel)
        assert tunnel.upstream.accepted == 2


@pytest.mark.parametrize("violent", [True, False])
async def test_a_get_on_a_connection_that_had_died_is_put_on_a_fresh_one(violent: bool) -> None:
    async with rig() as tunnel:
        peer = await exchange(tunnel)
        stream = await tunnel.ask()
        await peer.head()
        peer.rst() if violent else peer.close()
        fresh = await tunnel.upstream.peer()
        await fresh.head()
        fresh.say(OK)
        assert (await answer(stream))[1] == b"ok"


async def test_a_get_is_repeated_once_only_and_never_on_a_fresh_connection() -> None:
    async with rig() as tunnel:
        peer = await exchange(tunnel)
        stream = await tunnel.ask()
        await peer.head()
        peer.rst()
        second = await tunnel.upstream.peer()
        await second.head()
        second.rst()
        assert (await stream.response()).status == 502
        assert tunnel.upstream.accepted == 2


async def test_an_answer_that_had_begun_is_not_asked_for_again() -> None:
    async with rig() as tunnel:
        peer = await exchange(tunnel)
        stream = await tunnel.ask()
        await peer.head()
        peer.say(b"HTTP/1.1 2")
        peer.close()
        assert (await stream.response()).status == 502
        assert tunnel.upstream.accepted == 1


async def test_an_upstream_that_thinks_longer_than_any_limit_of_ours_is_waited_for() -> None:
    limits = Timeouts(upstream_connect=0.5, idle_upstream=0.05)
    async with rig(timeouts=limits) as tunnel:
        stream = await tunnel.ask()
        peer = await tunnel.upstream.peer()
        await peer.head()
        await asyncio.sleep(1)
        peer.say(OK)
        assert (await answer(stream))[1] == b"ok"


# -- upgrades


async def upgraded(tunnel: Rig, more: bytes = b"") -> tuple[Stream, Peer]:
    stream = await tunnel.ask(target=b"/ws", fields=WEBSOCKET, ended=False)
    peer = await tunnel.upstream.peer()
    head = await peer.head()
    assert b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n" in head
    peer.say(SWITCH + more)
    response = await stream.response()
    assert response.status == 101
    assert response.fields == ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
    return stream, peer


async def test_after_a_101_bytes_pass_both_ways_as_they_are() -> None:
    async with rig() as tunnel:
        stream, peer = await upgraded(tunnel, b"\x00first")
        assert await stream.receive() == b"\x00first"
        await stream.send(b"\xff\r\n\r\n")
        assert await peer.exactly(5) == b"\xff\r\n\r\n"
        peer.say(b"HTTP/1.1 200 OK\r\n\r\n")
        assert await stream.receive() == b"HTTP/1.1 200 OK\r\n\r\n"
        peer.close()
        assert await stream.receive() == b""
        await stream.send_end()
        record = await tunnel.record()
        assert (record.status, record.bytes_up, record.bytes_down, record.error) == (101, 5, 25, "")


async def test_each_direction_of_a_pipe_ends_by_itself() -> None:
    async with rig() as tunnel:
        stream, peer = await upgraded(tunnel)
        await stream.send(b"last")
        await stream.send_end()
        assert await peer.reader.read() == b"last"
        peer.say(b"still here")
        assert await stream.receive() == b"still here"
        peer.writer.write_eof()
        assert await stream.receive() == b""
        assert await peer.ended()


async def test_a_pipe_whose_upstream_breaks_is_broken_and_not_ended() -> None:
    async with rig() as tunnel:
        stream, peer = await upgraded(tunnel)
        peer.rst()
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert caught.value.code is ErrorCode.UPSTREAM


async def test_a_pipe_whose_client_breaks_is_broken_at_the_upstream() -> None:
    async with rig() as tunnel:
        stream, peer = await upgraded(tunnel)
        stream.reset(ErrorCode.CANCELLED, "gone")
        assert await peer.ended()


async def test_a_refused_upgrade_passes_with_its_body() -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask(fields=WEBSOCKET, ended=False)
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(b"HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nsoz.")
        head, body = await answer(stream)
        assert (head.status, body) == (403, b"soz.")
        await tunnel.record()
        await exchange(tunnel, peer)  # the connection goes on


async def test_without_the_feature_an_upgrade_is_an_ordinary_request() -> None:
    async with rig(features=ALL_FEATURES - {Feature.UPGRADE}) as tunnel:
        stream = await tunnel.ask(fields=WEBSOCKET)
        peer = await tunnel.upstream.peer()
        head = await peer.head()
        assert b"pgrade" not in head
        assert b"Sec-WebSocket-Key: x\r\n" in head
        peer.say(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
        assert (await answer(stream))[0].status == 426


async def test_a_pipe_holds_little_for_a_side_that_does_not_read() -> None:
    async with rig(limits=SMALL) as tunnel:
        stream, peer = await upgraded(tunnel)
        assert await pour(peer, b"x" * 65536, 64 * MIB) < 20 * MIB
        stream.reset(ErrorCode.CANCELLED, "gone")


# -- an upstream that ends early, or not in order


BIG = b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig"


@asynccontextmanager
async def blocking_upstream(
    serve: Callable[[socket.socket], None], *, certificate: Path | None = None
) -> AsyncIterator[TunnelRig]:
    """A whole tunnel before a server that runs ``serve`` on one connection after the other, in a thread."""
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)

    def accept(server: socket.socket) -> None:
        with suppress(OSError):  # it is shut down
            while True:
                raw = server.accept()[0]
                raw.settimeout(10)
                with context.wrap_socket(raw, server_side=True) if context else raw as end:
                    serve(end)

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept, args=(server,))
        accepting.start()
        scheme, ca_file = ("https", str(certificate)) if certificate else ("http", None)
        origin = Origin(Upstream.parse(f"{scheme}://127.0.0.1:{server.getsockname()[1]}", ca_file=ca_file))
        try:
            async with tunnel(origin.handle) as whole:
                yield whole
        finally:
            await origin.aclose()
            server.shutdown(socket.SHUT_RDWR)
            await asyncio.to_thread(accepting.join)


@pytest.mark.usefixtures("on_each_loop")
async def test_an_upload_that_is_refused_before_it_has_ended_gets_the_refusal() -> None:
    """As a server with a limit does it: it reads some, answers and closes, with the rest unread: a reset."""

    def refuse(raw: socket.socket) -> None:
        received = 0
        while received < 2 * MIB:
            received += len(raw.recv(64 * KIB))
        raw.sendall(BIG)

    async with blocking_upstream(refuse) as whole:
        for _ in range(10):
            async with await whole.connect() as client:
                client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (30 * MIB))
                client.write(bytes(30 * MIB))
                assert (await client.head()).startswith(b"HTTP/1.1 413 ")
                assert await client.reader.readexactly(3) == b"big"


@pytest.mark.parametrize("upgraded", [False, True])
@pytest.mark.usefixtures("on_each_loop")
async def test_what_the_upstream_says_before_its_reset_fails_our_write_is_passed_on(
    upgraded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reset comes between the answer and a write, before the loop has looked: none of it by chance."""
    asked = b"Content-Length: 1000\r\n\r\n"
    if upgraded:
        asked = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    holding: queue.Queue[socket.socket] = queue.Queue()
    ended = threading.Event()

    def hold(raw: socket.socket) -> None:
        raw.recv(64 * KIB)
        holding.put(raw)
        ended.wait(10)

    async with blocking_upstream(hold) as whole, await whole.connect() as client:
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\n" + asked)
        raw = await asyncio.to_thread(holding.get)
        if upgraded:
            raw.sendall(SWITCH)
            await client.head()
        write_now = UpstreamConnection.write_now

        def after_a_reset(connection: UpstreamConnection, data: bytes) -> None:
            if raw.fileno() != -1:
                raw.sendall(b"last words" if upgraded else BIG)
                reset(raw)
                ended.set()
            write_now(connection, data)

        monkeypatch.setattr(UpstreamConnection, "write_now", after_a_reset)
        client.write(b"x")
        said = b"last words" if upgraded else b"big"
        if not upgraded:
            assert (await client.head()).startswith(b"HTTP/1.1 413 ")
        assert await client.reader.readexactly(len(said)) == said


async def test_an_upgraded_upstream_is_heard_to_its_end_although_nothing_can_be_written_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = asyncio.Event()

    async def write(connection: UpstreamConnection, data: bytes) -> None:
        failed.set()
        raise UpstreamBroken("The upstream takes no more.")

    async with rig() as tunnel:
        stream = await tunnel.ask(fields=WEBSOCKET, ended=False)
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(SWITCH)
        assert (await stream.response()).status == 101
        monkeypatch.setattr(UpstreamConnection, "write", write)
        await stream.send(b"x")
        await failed.wait()
        await asyncio.sleep(0)
        peer.say(b"last words")
        peer.close()
        assert await stream.receive() == b"last words"
        assert await stream.receive() == b""


CUT = {
    "a length": (b"Content-Length: 2\r\n\r\nok", True),
    "chunks": (b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", True),
    "no body": (b"Content-Length: 0\r\n\r\n", True),
    "too little for its length": (b"Content-Length: 3\r\n\r\nok", False),
    "chunks without the last": (b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", False),
    "only the end": (b"\r\nok", False),
}


@pytest.mark.parametrize("how", CUT)
@pytest.mark.usefixtures("on_each_loop")
async def test_an_answer_over_tls_that_ends_without_close_notify_is_whole_where_its_framing_says_so(
    how: str, certificate: Path
) -> None:
    """RFC 9112 section 9.8: anybody may have cut what only the end of the connection delimits."""
    said, whole = CUT[how]

    def answer_and_leave(raw: socket.socket) -> None:
        raw.recv(64 * KIB)
        raw.sendall(b"HTTP/1.1 200 OK\r\n" + said)
        raw.shutdown(socket.SHUT_WR)  # TCP's end alone

    async with blocking_upstream(answer_and_leave, certificate=certificate) as tunnel:
        answered = await tunnel.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
        if how == "only the end":  # it is passed on in chunks
            assert not answered.endswith(b"0\r\n\r\n")
        record = tunnel.records[0]
        assert (record.error == "") is whole


@pytest.mark.usefixtures("on_each_loop")
async def test_an_answer_over_tls_that_only_the_end_delimits_is_whole_with_close_notify(certificate: Path) -> None:
    def answer_and_end(raw: socket.socket) -> None:
        raw.recv(64 * KIB)
        raw.sendall(b"HTTP/1.1 200 OK\r\n\r\nok")
        assert isinstance(raw, ssl.SSLSocket)
        raw.settimeout(1)
        with suppress(OSError):  # close_notify goes out; ours is not waited for
            raw.unwrap()

    async with blocking_upstream(answer_and_end, certificate=certificate) as tunnel:
        answered = await tunnel.ask(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert answered.endswith(b"2\r\nok\r\n0\r\n\r\n")
        assert tunnel.records[0].error == ""
