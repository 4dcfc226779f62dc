from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import sys
import time

import pytest

from llmtunnel.config import Limits, Timeouts
from llmtunnel.endpoints.gateway import Gateway
from llmtunnel.endpoints.ledger import Ledger
from llmtunnel.errors import ErrorCode, StreamReset
from llmtunnel.protocol.heads import RequestHead
from llmtunnel.protocol.hello import ALL_FEATURES, Feature
from llmtunnel.session.mux import Session
from llmtunnel.session.stream import Client, Stream

from ..support.embedded import until
from ..support.gateway_rig import CALLED, NoPeer, RawClient, answering, ok, tunnel
from ..support.model_answers import SAMPLES

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
GET_CLOSE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
V1 = frozenset({Feature.SSE})


def error_of(answer: bytes) -> dict[str, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Type: application/json" in head
    error = json.loads(body)["error"]
    assert error["type"] == "tunnel_error"
    return error


class Peer:
    """A serve that keeps what it saw and answers nothing by itself."""

    def __init__(self) -> None:
        self.streams: asyncio.Queue[Stream] = asyncio.Queue()
        self.cancelled = 0

    async def __call__(self, stream: Stream) -> None:
        self.streams.put_nowait(stream)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def echo(stream: Stream) -> None:
    """Sends the request's body back as it comes."""
    await stream.send_response(ok())
    while data := await stream.receive():
        await stream.send(data)
    await stream.send_end()


# -- discovery


async def test_discovery_of_a_serve_beside_it_is_told_that_this_is_a_proxy_and_passes_nothing_on() -> None:
    peer = Peer()
    async with tunnel(peer) as rig, await rig.connect() as client:
        client.write(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Llmtunnel-Probe: 1\r\n\r\n")
        answer = await client.reader.read()
        assert answer.startswith(b"HTTP/1.1 421 ")
        assert error_of(answer)["code"] == "proxy"
        assert peer.streams.empty()


# -- heads


async def test_a_response_passes_byte_for_byte_with_nothing_added() -> None:
    fields = ((b"X-b", b"\xff"), (b"x-B", b""), (b"Set-Cookie", b"1"), (b"Set-Cookie", b"2"))
    async with tunnel(answering(b"hi", *fields)) as rig, await rig.connect() as client:
        client.write(GET)
        assert await client.head() == (
            b"HTTP/1.1 200 OK\r\nX-b: \xff\r\nx-B: \r\nSet-Cookie: 1\r\nSet-Cookie: 2\r\nContent-Length: 2\r\n\r\n"
        )
        assert await client.reader.readexactly(2) == b"hi"


async def test_a_request_passes_byte_for_byte_but_for_host_and_hop_by_hop_fields() -> None:
    peer = Peer()
    async with tunnel(peer) as rig, await rig.connect() as client:
        client.write(
            b"PROPFIND //a/../%2F;+\xe9? HTTP/1.1\r\nX-A: 1\r\nHost: h:1\r\nx-a: \xff\r\nTE: trailers\r\n"
            b"Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nX-Forwarded-Host: outer\r\n\r\n"
        )
        stream = await peer.streams.get()
        assert stream.request == RequestHead(
            method=b"PROPFIND",
            target=b"//a/../%2F;+\xe9?",
            fields=(
                (b"X-A", b"1"),
                (b"x-a", b"\xff"),
                (b"X-Forwarded-Host", b"outer"),
                (b"X-Forwarded-Host", b"h:1"),
            ),
        )
        assert await stream.receive() == b""


async def test_an_absolute_target_is_taken_apart() -> None:
    peer = Peer()
    async with tunnel(peer) as rig, await rig.connect() as client:
        client.write(b"GET http://asked:1/a//b? HTTP/1.1\r\nHost: other\r\n\r\n")
        request = (await peer.streams.get()).request
        assert (request.target, request.fields) == (b"/a//b?", ((b"X-Forwarded-Host", b"asked:1"),))


@pytest.mark.parametrize(
    ("status", "request_bytes"),
    [
        (400, b"nonsense\r\n\r\n"),
        (400, b"\x16\x03\x01\x00"),
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 40_000),
        (501, b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n"),
        (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ],
)
async def test_a_client_that_breaks_the_rules_is_told_and_let_go(status: int, request_bytes: bytes) -> None:
    async with tunnel(Peer()) as rig, await rig.connect() as client:
        client.write(request_bytes)
        client.writer.write_eof()
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"Connection: close\r\n" in answer
        assert error_of(answer)["message"]


async def test_a_head_that_is_too_large_for_a_frame_is_refused() -> None:
    limits = Limits(head=200_000)
    async with tunnel(Peer(), limits=limits) as rig:
        answer = await rig.ask(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert error_of(answer)["code"] == "too_large"


# -- framing


async def test_a_body_of_unknown_length_is_chunked_and_every_piece_comes_at_once() -> None:
    peer = Peer()
    async with tunnel(peer) as rig, await rig.connect() as client:
        client.write(GET)
        stream = await peer.streams.get()
        await stream.send_response(ok())
        assert await client.head() == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for piece in (b"one", b"two"):
            await stream.send(piece)
            assert await client.reader.readexactly(8) == b"3\r\n" + piece + b"\r\n"
        await stream.send_end()
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"


async def test_a_client_of_http_1_0_gets_the_body_until_the_close() -> None:
    async with tunnel(echo) as rig:
        answer = await rig.ask(b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
        assert answer == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhi"


async def test_a_client_of_http_1_0_keeps_its_connection_where_it_asks() -> None:
    async with tunnel(answering(b"hi")) as rig, await rig.connect() as client:
        for _ in range(2):
            client.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert b"Connection: keep-alive\r\n" in await client.head()
            assert await client.reader.readexactly(2) == b"hi"


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 304), (b"GET", 204)])
async def test_a_response_without_a_body_keeps_its_length_and_the_connection(method: bytes, status: int) -> None:
    async def handle(stream: Stream) -> None:
        await stream.send_response(ok((b"Content-Length", b"99"), status=status))
        await stream.send_end()

    async with tunnel(handle) as rig, await rig.connect() as client:
        for _ in range(2):
            client.write(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert await client.head() == b"HTTP/1.1 %d OK\r\nContent-Length: 99\r\n\r\n" % status


@pytest.mark.parametrize("body", [b"ab", b"abcd"])
async def test_a_body_that_is_not_as_long_as_told_breaks_the_connection(body: bytes) -> None:
    async def handle(stream: Stream) -> None:
        await stream.send_response(ok((b"Content-Length", b"3")))
        await stream.send(body)
        await stream.send_end()

    async with tunnel(handle) as rig, await rig.connect() as client:
        client.write(GET)
        await client.head()
        assert len(await client.rest()) < 3
        await until(lambda: rig.records)
        assert rig.records[0].error


async def test_a_v1_response_gets_the_standard_reason() -> None:
    async def handle(stream: Stream) -> None:
        await stream.send_response(ok((b"Content-Length", b"0"), status=404, reason=b""))
        await stream.send_end()

    async with tunnel(handle, features=V1) as rig:
        assert (await rig.ask(GET_CLOSE)).startswith(b"HTTP/1.1 404 Not Found\r\n")


# -- request bodies


async def test_a_request_body_streams_while_the_response_comes() -> None:
    async with tunnel(echo) as rig, await rig.connect() as client:
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.head()
        for piece in (b"one", b"two"):
            client.write(b"3\r\n" + piece + b"\r\n")
            assert await client.reader.readexactly(8) == b"3\r\n" + piece + b"\r\n"
        client.write(b"0\r\n\r\n")
        assert await client.reader.readexactly(5) == b"0\r\n\r\n"
        client.write(GET_CLOSE)
        assert (await client.rest()).endswith(b"0\r\n\r\n")


async def test_a_body_of_unknown_length_says_so_and_a_sized_one_keeps_its_length() -> None:
    peer = Peer()
    async with tunnel(peer) as rig, await rig.connect() as client, await rig.connect() as other:
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert (await peer.streams.get()).request.fields[1:] == ((b"Transfer-Encoding", b"chunked"),)
        other.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
        assert (await peer.streams.get()).request.fields[0] == (b"Content-Length", b"3")


@pytest.mark.parametrize("features", [ALL_FEATURES, V1])
async def test_bodies_of_many_windows_pass_whole_both_ways(features: frozenset[Feature]) -> None:
    body = bytes(range(256)) * 16 * 1024

    async with tunnel(echo, features=features) as rig, await rig.connect() as client:
        client.write(b"POST / HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body))
        client.write(body)
        answer = await client.rest()
        assert answer.partition(b"\r\n\r\n")[2] == body
        await until(lambda: rig.records)
        assert (rig.records[0].bytes_up, rig.records[0].bytes_down) == (len(body), len(body))


async def test_an_upload_that_nobody_reads_stops_at_the_client() -> None:
    peer = Peer()
    async with tunnel(peer) as rig, await rig.connect() as client:
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
        await peer.streams.get()
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 50_000_000:
                client.write(bytes(100_000))
                sent += 100_000
                async with asyncio.timeout(0.3):
                    await client.writer.drain()
        assert sent < 50_000_000
        client.writer.transport.abort()


async def refuse(stream: Stream) -> None:
    """Answers without reading."""
    await stream.send_response(ok((b"Content-Length", b"2"), status=413))
    await stream.send(b"no")
    await stream.send_end()


async def test_a_response_before_the_requests_end_is_read_in_peace_and_the_connection_goes_on() -> None:
    async with tunnel(refuse) as rig, await rig.connect() as client:
        for _ in range(2):
            client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
            for _ in range(30):
                client.write(bytes(100_000))
                await client.writer.drain()
            assert (await client.head()).startswith(b"HTTP/1.1 413 ")
            assert await client.reader.readexactly(2) == b"no"


async def test_a_request_that_does_not_end_after_its_response_ends_the_connection() -> None:
    async with tunnel(refuse, timeouts=Timeouts(linger=0.1)) as rig:
        answer = await rig.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nsome")
        assert answer.endswith(b"\r\n\r\nno")


async def test_an_expectation_that_is_not_met_ends_the_connection() -> None:
    async with tunnel(refuse, timeouts=Timeouts(linger=0.1)) as rig:
        ask = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
        assert b"\r\nConnection: close\r\n" in await rig.ask(ask)


async def test_a_request_body_that_breaks_off_never_reaches_the_peer_as_whole() -> None:
    outcome: asyncio.Queue[Exception | None]

    async def handle(stream: Stream) -> None:
        try:
            while await stream.receive():
                pass
            outcome.put_nowait(None)
        except (StreamReset, asyncio.CancelledError) as exc:
            outcome.put_nowait(StreamReset(ErrorCode.CANCELLED, str(exc)))
            raise

    outcome = asyncio.Queue()
    async with tunnel(handle) as rig, await rig.connect() as client:
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        client.writer.write_eof()
        assert isinstance(await outcome.get(), StreamReset)
        assert (await client.rest()).startswith(b"HTTP/1.1 400 ")


async def test_rubbish_in_a_chunked_body_is_answered_400() -> None:
    peer = Peer()
    async with tunnel(peer) as rig, await rig.connect() as client:
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await peer.streams.get()
        client.write(b"rubbish\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 400 ")
        await until(lambda: peer.cancelled)


# -- expectations


async def test_an_expectation_is_the_upstreams_to_meet() -> None:
    peer = Peer()
    async with tunnel(peer) as rig, await rig.connect() as client:
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        stream = await peer.streams.get()
        assert (b"Expect", b"100-continue") in stream.request.fields
        await stream.send_response(ok(status=103, reason=b"Early"))
        assert await client.head() == b"HTTP/1.1 103 Early\r\n\r\n"
        await stream.send_response(ok(status=100, reason=b"Continue"))
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.write(b"hi")
        assert await stream.receive() == b"hi"


async def test_without_interim_heads_the_gateway_meets_the_expectation() -> None:
    async with tunnel(answering(b"ok"), features=V1) as rig, await rig.connect() as client:
        client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.write(b"hi")
        assert (await client.head()).startswith(b"HTTP/1.1 200 ")


# -- connections


async def test_pipelined_requests_are_answered_in_order_on_one_connection() -> None:
    async def handle(stream: Stream) -> None:
        body = stream.request.target + await stream.receive()
        await stream.send_response(ok((b"Content-Length", b"%d" % len(body))))
        await stream.send(body)
        await stream.send_end()

    async with tunnel(handle) as rig, await rig.connect() as client:
        for index in range(50):
            client.write(b"POST /%02d HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n!" % index)
        for index in range(50):
            await client.head()
            assert await client.reader.readexactly(4) == b"/%02d!" % index


async def test_a_client_that_asks_for_the_close_gets_it() -> None:
    async with tunnel(answering(b"hi")) as rig:
        assert (await rig.ask(GET_CLOSE + GET)).count(b"HTTP/1.1") == 1


class Answered:
    """A serve that answers, and knows whose each request was."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.left: list[bool] = []
        """Whether each request was said to be its client's last."""

    async def __call__(self, stream: Stream) -> None:
        self.clients.append(stream.client)
        self.left.append(stream.client.left)
        await answering(b"hi")(stream)


async def test_serve_knows_which_requests_came_on_one_connection_and_when_that_closes() -> None:
    serve = Answered()
    async with tunnel(serve) as rig:
        for _ in range(2):
            async with await rig.connect() as client:
                client.write(GET + GET)
                for _ in range(2):
                    assert b"200 OK" in await client.head()
                    await client.reader.readexactly(2)
                client.write(GET)
                assert b"200 OK" in await client.head()
                assert not serve.clients[-1].left
            await until(lambda: serve.clients[-1].left)
        one, two = serve.clients[0], serve.clients[3]
        assert serve.clients == [one, one, one, two, two, two]
        assert one is not two
        assert not any(serve.left)


@pytest.mark.parametrize(
    ("request_bytes", "last"),
    [
        (GET, False),
        (GET_CLOSE, True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False),
    ],
)
async def test_a_request_that_is_its_connections_last_says_so(request_bytes: bytes, last: bool) -> None:
    serve = Answered()
    async with tunnel(serve) as rig, await rig.connect() as client:
        client.write(request_bytes)
        assert b"200 OK" in await client.head()
        assert serve.left == [last]


@pytest.mark.parametrize("abruptly", [False, True])
async def test_a_client_that_leaves_in_the_midst_of_a_request_has_left_for_serve_too(abruptly: bool) -> None:
    peer = Peer()
    async with tunnel(peer) as rig:
        async with await rig.connect() as client:
            client.write(GET)
            stream = await peer.streams.get()
            if abruptly:
                client.writer.transport.abort()
        await until(lambda: stream.client.left and peer.cancelled)


async def test_a_client_that_ends_its_half_still_gets_its_answer() -> None:
    peer = Peer()
    async with tunnel(peer, timeouts=Timeouts(half_closed=0.5)) as rig, await rig.connect() as client:
        client.write(GET)
        client.writer.write_eof()
        stream = await peer.streams.get()
        await stream.send_response(ok())
        await stream.send(b"slow")
        await asyncio.sleep(1)
        await stream.send(b"ly")
        await stream.send_end()
        assert (await client.rest()).endswith(b"4\r\nslow\r\n2\r\nly\r\n0\r\n\r\n")


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("abruptly", [False, True])
async def test_a_client_that_leaves_cancels_its_request(begun: bool, abruptly: bool) -> None:
    peer = Peer()
    async with tunnel(peer, timeouts=Timeouts(half_closed=0.1)) as rig:
        async with await rig.connect() as client:
            client.write(GET)
            stream = await peer.streams.get()
            if begun:
                await stream.send_response(ok())
                await client.head()
            if abruptly:
                reset(client)
        await until(lambda: peer.cancelled)
        await until(lambda: rig.records)
        assert rig.records[0].error == "The client went away."


class Never:
    """A source whose session never comes."""

    async def session(self, wait: float) -> Session:
        await asyncio.Event().wait()
        raise AssertionError


@pytest.mark.parametrize("where", ["peer", "stream", "head", "events"])
async def test_a_client_that_has_ended_its_half_and_gets_nothing_counts_as_gone(where: str) -> None:
    timeouts, peer = Timeouts(half_closed=0.1, wait_for_peer=60), Peer()
    limits = Limits(streams=1)
    asked = b'{"stream": true}' if where == "events" else b""
    sessions = Never() if where == "peer" else None
    async with (
        tunnel(peer, timeouts=timeouts, limits=limits, keepalive=30, sessions=sessions) as rig,
        await rig.connect() as other,
    ):
        if where == "stream":
            other.write(GET)
            await peer.streams.get()
        async with await rig.connect() as client:
            client.write(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(asked), asked)
            )
            client.writer.write_eof()
            with pytest.raises(ConnectionResetError):
                await client.rest()
        await until(lambda: rig.records)
        assert rig.records[0].error == "The client went away."
        await until(lambda: peer.cancelled == (where in ("head", "events")))


@pytest.mark.parametrize("upgraded", [False, True])
async def test_a_client_that_leaves_after_its_half_and_while_nothing_is_sent_is_noticed(upgraded: bool) -> None:
    peer, loop = Peer(), asyncio.get_running_loop()
    async with tunnel(peer, timeouts=Timeouts(half_closed=0.5)) as rig:
        with socket.socket() as raw:
            raw.setblocking(False)
            await loop.sock_connect(raw, rig.address)
            upgrade = b"Connection: upgrade\r\nUpgrade: x\r\n"
            await loop.sock_sendall(raw, GET.replace(b"\r\n\r\n", b"\r\n" + upgrade * upgraded + b"\r\n"))
            stream = await peer.streams.get()
            raw.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.05)
            fields = ((b"Connection", b"upgrade"), (b"Upgrade", b"x")) if upgraded else ()
            await stream.send_response(ok(*fields, status=101 if upgraded else 200))
            await stream.send(b"unread")
            await asyncio.sleep(1)
            assert not peer.cancelled
        await until(lambda: peer.cancelled)  # closed with bytes unread: its system sends a reset


def reset(client: RawClient) -> None:
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0))
    client.writer.transport.abort()


async def test_a_client_that_does_not_read_is_not_sent_more_and_stalls_nobody() -> None:
    async def handle(stream: Stream) -> None:
        nonlocal sent
        await stream.send_response(ok())
        if stream.request.target == b"/endless":
            while True:
                await stream.send(bytes(100_000))
                sent += 100_000
        await stream.send_end()

    sent = 0

    async with tunnel(handle) as rig, await rig.connect() as client:
        client.write(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        assert b" 200 " in await rig.ask(GET_CLOSE)
        assert sent < 50_000_000
        client.writer.transport.abort()


async def test_idle_and_slow_clients_are_let_go() -> None:
    timeouts = Timeouts(idle_client=0.1, client_head=0.1, linger=0.1)
    async with tunnel(Peer(), timeouts=timeouts) as rig:
        assert await rig.ask(b"") == b""
        assert (await rig.ask(b"GET / HT")).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"\n", b"\r", b"\r\n\r\n\n\r\n"])
@pytest.mark.parametrize("first", [b"", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"])
@pytest.mark.parametrize("ends", [True, False])
async def test_an_idle_client_gets_no_answer_to_empty_lines(sent: bytes, first: bytes, ends: bool) -> None:
    """RFC 9112 section 2.2: some clients send a line's end behind a body, which is no part of the next request."""

    timeouts = Timeouts(idle_client=0.3, client_head=0.05, linger=0.1)
    async with tunnel(answering(b"ok"), timeouts=timeouts) as rig, await rig.connect() as client:
        client.write(first + sent)
        if first:
            await client.reader.readuntil(b"\r\n\r\nok")
        if ends:
            client.writer.write_eof()
        assert await client.rest() == b""


async def test_empty_lines_before_a_request_do_not_hurry_it() -> None:
    timeouts = Timeouts(idle_client=30, client_head=0.1, linger=0.1)
    async with tunnel(answering(b"ok"), timeouts=timeouts) as rig, await rig.connect() as client:
        for _ in range(3):
            client.write(b"\r\n")
            await asyncio.sleep(0.1)
        client.write(b"\r\n" + GET_CLOSE)
        assert (await client.rest()).endswith(b"\r\n\r\nok")


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_a_client_that_ends_within_a_head_gets_no_answer(sent: bytes) -> None:
    async with tunnel(answering(b"ok")) as rig, await rig.connect() as client:
        client.write(b"\r\n" + sent)
        client.writer.write_eof()
        assert await client.rest() == b""


async def test_one_client_too_many_is_told_so() -> None:
    async with tunnel(Peer(), limits=Limits(clients=1)) as rig, await rig.connect() as first:
        first.write(GET)
        await until(lambda: rig.ledger.totals.active)
        answer = await rig.ask(b"")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert error_of(answer)["code"] == "too_many_connections"


# -- failures


async def test_without_a_peer_a_request_is_answered_503_with_when_to_retry() -> None:
    gateway = Gateway(NoPeer(), listen="127.0.0.1:0", policy=CALLED, timeouts=Timeouts(wait_for_peer=0.05))
    await gateway.start()
    host, port = gateway.url.removeprefix("http://").split(":")
    async with RawClient(*await asyncio.open_connection(host, int(port))) as client:
        client.write(GET)
        answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"Retry-After: 2\r\n" in answer
    assert error_of(answer)["code"] == "no_peer"
    await gateway.aclose()


async def test_an_error_for_head_has_no_body() -> None:
    gateway = Gateway(NoPeer(), listen="127.0.0.1:0", policy=CALLED, timeouts=Timeouts(wait_for_peer=0))
    await gateway.start()
    host, port = gateway.url.removeprefix("http://").split(":")
    async with RawClient(*await asyncio.open_connection(host, int(port))) as client:
        client.write(GET.replace(b"GET", b"HEAD"))
        assert (await client.rest()).endswith(b"\r\n\r\n")
    await gateway.aclose()


@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        (ErrorCode.UPSTREAM, 502, "upstream_broken"),
        (ErrorCode.REFUSED, 503, "refused"),
        (ErrorCode.TOO_LARGE, 502, "too_large"),
        (ErrorCode.INTERNAL, 502, "internal"),
    ],
)
async def test_a_stream_reset_before_the_head_is_an_error_response(code: ErrorCode, status: int, name: str) -> None:
    async def handle(stream: Stream) -> None:
        stream.reset(code, "It went wrong.")

    async with tunnel(handle) as rig:
        answer = await rig.ask(GET)
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        error = error_of(answer)
        assert error["code"] == name
        assert error["message"].startswith("It went wrong.")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_stream_reset_in_the_body_breaks_the_connection(chunked: bool) -> None:
    peer = Peer()
    async with tunnel(peer) as rig, await rig.connect() as client:
        client.write(GET)
        stream = await peer.streams.get()
        await stream.send_response(ok(*([] if chunked else [(b"Content-Length", b"9")])))
        await stream.send(b"abc")
        await client.head()
        stream.reset(ErrorCode.UPSTREAM, "It broke.")
        assert await client.rest() == (b"3\r\nabc\r\n" if chunked else b"abc")


async def test_a_body_without_framing_that_breaks_ends_in_a_reset() -> None:
    peer = Peer()
    async with tunnel(peer) as rig, await rig.connect() as client:
        client.write(b"GET / HTTP/1.0\r\n\r\n")
        stream = await peer.streams.get()
        await stream.send_response(ok())
        await stream.send(b"abc")
        await client.head()
        stream.reset(ErrorCode.UPSTREAM, "It broke.")
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_a_peer_that_is_lost_ends_its_requests_with_errors() -> None:
    peer = Peer()
    async with tunnel(peer) as rig, await rig.connect() as waiting, await rig.connect() as reading:
        waiting.write(GET)
        await peer.streams.get()
        reading.write(GET)
        stream = await peer.streams.get()
        await stream.send_response(ok())
        await reading.head()
        await rig.serve.aclose()
        answer = await waiting.rest()
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert error_of(answer)["code"] == "peer_lost"
        assert await reading.rest() == b""


async def test_stopping_tells_those_who_wait_and_breaks_those_who_read() -> None:
    peer = Peer()
    async with (
        tunnel(peer) as rig,
        await rig.connect() as waiting,
        await rig.connect() as reading,
        await rig.connect() as idle,
    ):
        waiting.write(GET)
        await peer.streams.get()
        reading.write(GET)
        stream = await peer.streams.get()
        await stream.send_response(ok())
        await reading.head()
        await rig.gateway.aclose()
        answer = await waiting.rest()
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert error_of(answer)["code"] == "stopping"
        assert await reading.rest() == b""
        assert await idle.rest() == b""
        await until(lambda: peer.cancelled == 2)
        with pytest.raises(OSError):
            await rig.connect()


async def test_stopping_does_not_wait_for_a_client_that_does_not_read() -> None:
    async def handle(stream: Stream) -> None:
        await stream.send_response(ok())
        while True:
            await stream.send(bytes(100_000))

    async with tunnel(handle, timeouts=Timeouts(close=0.1)) as rig, await rig.connect() as client:
        client.write(GET)
        await client.head()
        await asyncio.sleep(0.2)
        await rig.gateway.aclose()
        client.writer.transport.abort()


# -- records


async def test_each_exchange_leaves_a_record_and_one_line_without_the_query(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="llmtunnel.endpoints.ledger"):
        async with tunnel(answering(b"hello")) as rig:
            await rig.ask(b"POST /a?key=secret HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi")
            [record] = rig.records
            assert (record.method, record.path, record.status, record.peer) == ("POST", "/a", 200, "serve")
            assert (record.bytes_up, record.bytes_down, record.error) == (2, 5, "")
            assert record.first_byte_ms is not None
            assert 0 < record.first_byte_ms <= record.duration_ms
    [line] = [each.getMessage() for each in caplog.records if each.name == "llmtunnel.endpoints.ledger"]
    assert line.startswith("POST /a 200, 2 bytes up, 5 down")


async def test_a_models_answer_passes_untouched_and_its_record_tells_model_and_tokens() -> None:
    sample = SAMPLES["openai chat, told"]

    async with tunnel(answering(sample.body, (b"Content-Type", sample.kind))) as rig:
        answer = await rig.ask(b"POST %b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" % sample.path)
        assert answer.endswith(b"\r\n\r\n" + sample.body)
        [record] = rig.records
        assert (record.model, record.tokens) == (sample.model, sample.tokens)
        assert abs(record.started - time.time()) < 60


async def test_an_exchange_under_way_is_told_with_what_has_passed_both_ways() -> None:
    sample, asked = SAMPLES["ollama chat"], asyncio.Event()

    async def handle(stream: Stream) -> None:
        await stream.send_response(ok((b"Content-Type", sample.kind)))
        await stream.send(sample.body[:200])
        assert await stream.receive() == b"hi"
        asked.set()
        await asyncio.Event().wait()

    async with tunnel(handle) as rig, await rig.connect() as client:
        client.write(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhi" % sample.path)
        await client.head()
        await asked.wait()
        await until(lambda: rig.ledger.totals.bytes_down == 200)
        [active] = rig.ledger.active()
        assert (active.method, active.path, active.peer, active.status) == ("POST", "/api/chat", "serve", 200)
        assert (active.bytes_up, active.bytes_down, active.model, active.tokens) == (2, 200, "llama:8b", 2)
        assert active.first_byte_ms is not None
        assert rig.ledger.of("serve") == rig.ledger.totals
        assert not rig.records


async def test_a_request_that_waits_for_a_peer_is_under_way_with_nobody() -> None:
    ledger = Ledger()
    gateway = Gateway(NoPeer(), listen="127.0.0.1:0", ledger=ledger, timeouts=Timeouts(wait_for_peer=30))
    await gateway.start()
    _, writer = await asyncio.open_connection(*gateway.addresses[0].split(":"))
    writer.write(b"GET /a HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    await until(ledger.active)
    [active] = ledger.active()
    assert (active.path, active.peer, active.status) == ("/a", "", None)
    writer.close()
    await gateway.aclose()
    assert (ledger.totals.requests, ledger.totals.active) == (1, 0)
