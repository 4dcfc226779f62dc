from __future__ import annotations

import asyncio

import pytest

from llmtunnel.config import Timeouts
from llmtunnel.errors import ErrorCode
from llmtunnel.protocol.heads import Fields
from llmtunnel.protocol.hello import ALL_FEATURES, Feature
from llmtunnel.session.stream import Stream

from ..support.embedded import until
from ..support.gateway_rig import ok, tunnel

ASK = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n"
GRANTED = ok((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), status=101, reason=b"Switching Protocols")
GRANTED_BYTES = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


async def echo(stream: Stream) -> None:
    """Grants the upgrade, then sends every byte back; ends its half after the client's."""
    await stream.send_response(GRANTED)
    while data := await stream.receive():
        await stream.send(data)
    await stream.send_end()


async def test_after_a_101_bytes_pass_untouched_both_ways_until_both_have_ended() -> None:
    async with tunnel(echo) as rig, await rig.connect() as client:
        client.write(ASK + b"GET too early")
        assert await client.head() == GRANTED_BYTES
        assert await client.reader.readexactly(13) == b"GET too early"
        client.write(b"\x00\r\n\r\n\xff")
        assert await client.reader.readexactly(6) == b"\x00\r\n\r\n\xff"
        client.writer.write_eof()
        assert await client.rest() == b""
        await until(lambda: rig.records)
        record = rig.records[0]
        assert (record.status, record.bytes_up, record.bytes_down, record.error) == (101, 19, 19, "")


async def test_the_fields_that_ask_for_the_upgrade_pass() -> None:
    async def handle(stream: Stream) -> None:
        body = b"".join(b"%b=%b;" % field for field in stream.request.fields)
        await stream.send_response(ok((b"Content-Length", b"%d" % len(body)), status=426))
        await stream.send(body)
        await stream.send_end()

    async with tunnel(handle) as rig, await rig.connect() as client:
        client.write(ASK)
        await client.head()
        assert await client.reader.readuntil(b"Host=a;") == (
            b"Connection=keep-alive, Upgrade;Upgrade=websocket;X-Forwarded-Host=a;"
        )


async def test_a_refused_upgrade_passes_with_its_body_and_the_connection_goes_on() -> None:
    async def handle(stream: Stream) -> None:
        await stream.send_response(ok((b"Content-Length", b"2"), status=403))
        assert await stream.receive() == b""  # the refusal ends the request
        await stream.send(b"no")
        await stream.send_end()

    async with tunnel(handle) as rig, await rig.connect() as client:
        for _ in range(2):
            client.write(ASK)
            assert (await client.head()).startswith(b"HTTP/1.1 403 ")
            assert await client.reader.readexactly(2) == b"no"


@pytest.mark.parametrize("features", [ALL_FEATURES - {Feature.UPGRADE}, frozenset({Feature.SSE})])
async def test_without_the_feature_a_request_goes_on_as_a_normal_one(features: frozenset[Feature]) -> None:
    async def handle(stream: Stream) -> None:
        names = {name.lower() for name, _ in stream.request.fields}
        assert await stream.receive() == b""
        await stream.send_response(ok((b"Content-Length", b"0"), status=400 if b"upgrade" in names else 204))
        await stream.send_end()

    async with tunnel(handle, features=features) as rig, await rig.connect() as client:
        client.write(ASK)
        assert (await client.head()).startswith(b"HTTP/1.1 204 ")


@pytest.mark.parametrize(
    ("protocol", "passed"),
    [
        (b"h2c", ()),
        (b"TLS/1.0", ()),
        (b"HTTP/2.0, tls/1.2", ()),
        (b"h2c, websocket", ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))),
        (
            b"shout/1",
            ((b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"shout/1"), (b"HTTP2-Settings", b"AAM")),
        ),
    ],
)
async def test_an_upgrade_to_http2_or_tls_goes_no_further_than_the_listener(protocol: bytes, passed: Fields) -> None:
    async def handle(stream: Stream) -> None:
        assert stream.request.fields == (*passed, (b"X-Forwarded-Host", b"a"))
        if not passed:
            assert await stream.receive() == b""  # an ordinary request, which has ended
        await stream.send_response(ok((b"Content-Length", b"2")))
        await stream.send(b"ok")
        await stream.send_end()

    asked = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: AAM\r\n" % protocol
    async with tunnel(handle) as rig, await rig.connect() as client:
        for _ in range(2):  # the connection goes on
            client.write(b"GET / HTTP/1.1\r\nHost: a\r\n" + asked + b"\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
            assert await client.reader.readexactly(2) == b"ok"


async def test_an_upgrade_with_a_body_goes_on_as_a_normal_request() -> None:
    async def handle(stream: Stream) -> None:
        assert stream.request.fields == ((b"Content-Length", b"2"), (b"X-Forwarded-Host", b"a"))
        body = await stream.receive()
        await stream.send_response(ok((b"Content-Length", b"2")))
        await stream.send(body)
        await stream.send_end()

    async with tunnel(handle) as rig, await rig.connect() as client:
        client.write(ASK.replace(b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\nhi"))
        await client.head()
        assert await client.reader.readexactly(2) == b"hi"


async def test_a_101_that_nobody_asked_for_is_no_answer() -> None:
    async def handle(stream: Stream) -> None:
        await stream.send_response(GRANTED)
        await asyncio.Event().wait()

    async with tunnel(handle) as rig:
        assert (await rig.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 502 ")


async def test_a_half_that_has_ended_leaves_the_other_open() -> None:
    async def handle(stream: Stream) -> None:
        await stream.send_response(GRANTED)
        await stream.send(b"bye")
        await stream.send_end()
        received = b""
        while data := await stream.receive():
            received += data
        got.put_nowait(received)

    got: asyncio.Queue[bytes]
    got = asyncio.Queue()
    async with tunnel(handle, timeouts=Timeouts(half_closed=0.05)) as rig, await rig.connect() as client:
        client.write(ASK)
        await client.head()
        assert await client.rest() == b"bye"
        client.write(b"still ")
        await asyncio.sleep(0.1)
        client.write(b"here")
        client.writer.write_eof()
        assert await got.get() == b"still here"


async def test_a_quiet_peer_may_be_silent_long_after_the_clients_end() -> None:
    async def handle(stream: Stream) -> None:
        await stream.send_response(GRANTED)
        assert await stream.receive() == b""
        await asyncio.sleep(0.2)
        await stream.send(b"last words")
        await stream.send_end()

    async with tunnel(handle, timeouts=Timeouts(half_closed=0.05)) as rig, await rig.connect() as client:
        client.write(ASK)
        await client.head()
        client.writer.write_eof()
        assert await client.rest() == b"last words"


async def test_a_pipe_whose_stream_breaks_ends_in_a_reset() -> None:
    async def handle(stream: Stream) -> None:
        await stream.send_response(GRANTED)
        await stream.receive()
        stream.reset(ErrorCode.UPSTREAM, "It broke.")

    async with tunnel(handle) as rig, await rig.connect() as client:
        client.write(ASK)
        await client.head()
        client.write(b"x")
        with pytest.raises(ConnectionResetError):
            await client.rest()


async def test_a_client_that_leaves_a_pipe_ends_its_stream() -> None:
    ended = asyncio.Event()

    async def handle(stream: Stream) -> None:
        await stream.send_response(GRANTED)
        try:
            while True:
                await stream.send(bytes(10_000))
        finally:
            ended.set()

    async with tunnel(handle) as rig:
        async with await rig.connect() as client:
            client.write(ASK)
            await client.head()
            client.writer.transport.abort()
        await ended.wait()


async def test_megabytes_pass_both_ways_at_once() -> None:
    data = bytes(range(256)) * 16 * 1024

    async with tunnel(echo) as rig, await rig.connect() as client:
        client.write(ASK)
        await client.head()
        client.write(data)
        client.writer.write_eof()
        assert await client.rest() == data


async def test_what_passes_after_a_101_counts_as_it_passes() -> None:
    async with tunnel(echo) as rig, await rig.connect() as client:
        client.write(ASK)
        await client.head()
        client.write(b"four")
        await client.reader.readexactly(4)
        [active] = rig.ledger.active()
        assert (active.status, active.bytes_up, active.bytes_down) == (101, 4, 4)
        assert (rig.ledger.totals.bytes_up, rig.ledger.totals.bytes_down) == (4, 4)
