"""Writes to a client or a peer that does not read wait, and do not pile up in this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from llmtunnel.config import Timeouts
from llmtunnel.endpoints.client_connection import ClientConnection
from llmtunnel.errors import ErrorCode, StreamReset
from llmtunnel.listener import ListenerPolicy
from llmtunnel.protocol.heads import MAX_INTERIM, ResponseHead
from llmtunnel.protocol.outbox import STREAM_ROOM
from llmtunnel.session.stream import Stream

from ..support.embedded import until
from ..support.gateway_rig import CALLED, RawClient, Rig, ok, tunnel
from ..support.session_pair import GET as GET_HEAD
from ..support.session_pair import linked

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LARGE = (b"X-Large", b"x" * 20_000)
HELD = 400_000
"""Bytes that may wait for one client: what asyncio queues, one turn's bytes, one window of a body or one head."""


async def unread(rig: Rig) -> RawClient:
    """A client that has little room in its system for what it does not read."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, rig.address)
    return RawClient(*await asyncio.open_connection(sock=raw, limit=1024))


def held(rig: Rig) -> int:
    """Bytes that wait in this process for all clients."""
    return sum(each._unsent_size + each._transport.get_write_buffer_size() for each in rig.clients)


def small_send_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system take little of what is written to clients."""
    made = ClientConnection.connection_made

    def connection_made(self: ClientConnection, transport: asyncio.BaseTransport) -> None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        made(self, transport)

    monkeypatch.setattr(ClientConnection, "connection_made", connection_made)


async def highest(rig: Rig, settled: Callable[[], object]) -> int:
    """The most that was held until ``settled()``."""
    most = 0
    while not settled():
        most = max(most, held(rig))
        await asyncio.sleep(0)
    return max(most, held(rig))


# -- at the proxy


async def test_interim_heads_wait_for_the_client_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    small_send_buffers(monkeypatch)
    ended: list[StreamReset] = []

    async def flood(stream: Stream) -> None:
        try:
            for _ in range(MAX_INTERIM):
                await stream.send_response(ok(LARGE, status=103))
                await asyncio.sleep(0)
        except (StreamReset, asyncio.CancelledError):
            ended.append(StreamReset(ErrorCode.CANCELLED, ""))
            raise

    async with tunnel(flood) as rig, await unread(rig) as client:
        client.write(GET)
        assert await highest(rig, lambda: ended) < HELD
        client.writer.transport.abort()


@pytest.mark.within(120)
async def test_a_client_that_reads_gets_all_interim_heads_until_there_are_too_many() -> None:
    async def flood(stream: Stream) -> None:
        while True:
            await stream.send_response(ok(status=103, reason=b"Early"))
            await asyncio.sleep(0)

    async with tunnel(flood) as rig:
        answer = await rig.ask(GET)
        assert answer.count(b"HTTP/1.1 103 ") == MAX_INTERIM
        assert b"HTTP/1.1 502 " in answer
        assert str(MAX_INTERIM).encode() in answer


PREFLIGHT = (
    b"OPTIONS / HTTP/1.1\r\nHost: a\r\nOrigin: http://x.example\r\nAccess-Control-Request-Method: GET\r\n"
    b"Access-Control-Request-Headers: %b\r\n\r\n" % (b"x" * 2000)
)


async def with_large_head(stream: Stream) -> None:
    await stream.send_response(ok(LARGE, (b"Content-Length", b"0")))
    await stream.send_end()


@pytest.mark.parametrize("asked", [GET, GET.replace(b"GET", b"HEAD"), PREFLIGHT])
async def test_a_client_that_sends_request_after_request_and_reads_no_answer_is_read_no_more(
    asked: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_send_buffers(monkeypatch)
    policy = ListenerPolicy(allow_hosts=CALLED.allow_hosts, allow_origins=("http://x.example",))

    async with tunnel(with_large_head, policy=policy) as rig, await unread(rig) as client:
        client.write(asked * 5_000)
        before, most = -1, 0
        while before != rig.ledger.totals.requests:
            before = rig.ledger.totals.requests
            for _ in range(20):
                most = max(most, held(rig))
                await asyncio.sleep(0.01)
        assert 0 < before < 5_000
        assert most < HELD
        client.writer.transport.abort()


async def test_a_client_that_does_not_read_gets_no_further_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    small_send_buffers(monkeypatch)
    asked = b'{"stream": true}'

    async def never(stream: Stream) -> None:
        await asyncio.Event().wait()

    async with tunnel(never, keepalive=0.0005) as rig, await unread(rig) as client:
        client.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(asked), asked)
        )
        await client.head()
        (served,) = rig.clients
        served._transport.set_write_buffer_limits(high=1024)
        await until(lambda: not served.writable)
        full = held(rig)
        await asyncio.sleep(0.3)
        assert held(rig) == full
        client.writer.transport.abort()


async def test_a_connection_that_is_to_be_closed_waits_so_long_for_a_client_that_reads_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_send_buffers(monkeypatch)

    async def answer(stream: Stream) -> None:
        await stream.send_response(ok(LARGE, LARGE, (b"Content-Length", b"0")))
        await stream.send_end()

    timeouts = Timeouts(stalled=0.3)
    async with tunnel(answer, timeouts=timeouts) as rig, await unread(rig) as client:
        client.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await until(lambda: rig.records)
        assert held(rig)
        await until(lambda: not rig.clients)
        client.writer.transport.abort()


async def test_a_slow_reader_gets_all_of_an_answer_whose_connection_is_to_be_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_send_buffers(monkeypatch)

    async def answer(stream: Stream) -> None:
        await stream.send_response(ok((b"Content-Length", b"200000")))
        await stream.send(bytes(200_000))
        await stream.send_end()

    async with tunnel(answer, timeouts=Timeouts(stalled=0.5)) as rig, await unread(rig) as client:
        client.write(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await client.head()
        left = 200_000
        while left:
            left -= len(await client.reader.read(20_000))
            await asyncio.sleep(0.02)


# -- at serve


async def test_heads_wait_for_a_peer_that_takes_nothing() -> None:
    sent = 0

    async def flood(stream: Stream) -> None:
        nonlocal sent
        while True:
            await stream.send_response(ResponseHead(status=103, fields=(LARGE,)))
            sent += 1

    async with linked(flood) as pair:
        pair.network.far.room = 0
        await pair.proxy.open(GET_HEAD, ended=True)
        await until(lambda: sent)
        await asyncio.sleep(0.05)
        (queue,) = pair.serve.line.outbox._queues.values()
        assert queue.size < STREAM_ROOM + 2 * 20_000
        assert sent <= STREAM_ROOM // 20_000 + 1
