"""What the upstream receives, and what the stream gets, byte for byte."""

from __future__ import annotations

import asyncio
import json
import logging
import socket

import pytest

from llmtunnel.config import Limits, Timeouts
from llmtunnel.endpoints.origin import Origin, _bad_gateway
from llmtunnel.errors import ErrorCode, SettingError, StreamReset, UpstreamUnreachable
from llmtunnel.protocol.hello import ALL_FEATURES, Feature
from llmtunnel.session.stream import Stream
from llmtunnel.upstream import Upstream
from tests.endpoints.test_http1 import ACCEPTED, REFUSED
from tests.support.model_answers import SAMPLES
from tests.support.scripted_upstream import OK, Rig, answer, read_all, rig

V1 = frozenset({Feature.SSE})


async def test_a_request_arrives_as_its_client_sent_it() -> None:
    async with rig() as tunnel:
        fields = ((b"Host", b"client:8000"), (b"X-a", b"\xff"), (b"X-A", b"2"), (b"Accept", b"*/*"))
        stream = await tunnel.ask(b"PROPFIND", b"//a/../%2F;+\xe9?", fields)
        peer = await tunnel.upstream.peer()
        assert await peer.head() == (
            b"PROPFIND //a/../%%2F;+\xe9? HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n"
            b"X-a: \xff\r\nX-A: 2\r\nAccept: */*\r\nConnection: close\r\n\r\n" % tunnel.upstream.port
        )
        peer.say(
            b"HTTP/1.1 207 Multi \xff\r\nSet-Cookie: a\r\nset-cookie: b\r\nX: \xe9\r\n"
            b"Connection: keep-alive\r\nContent-Length: 3\r\n\r\nabc"
        )
        head, body = await answer(stream)
        assert (head.status, head.reason, body) == (207, b"Multi \xff", b"abc")
        assert head.fields == (
            (b"Set-Cookie", b"a"),
            (b"set-cookie", b"b"),
            (b"X", b"\xe9"),
            (b"Content-Length", b"3"),
        )


async def test_base_path_prefix_and_extra_fields_are_put_in() -> None:
    address = "http://127.0.0.1:{}/base/".format
    async with rig(address, advertise="/v1", headers=("Authorization: Bearer x",)) as tunnel:
        stream = await tunnel.ask(target=b"/v1/models?a", fields=((b"authorization", b"mine"),))
        peer = await tunnel.upstream.peer()
        head = await peer.head()
        assert head.startswith(b"GET /base/models?a HTTP/1.1\r\n")
        assert head.endswith(b"\r\nAuthorization: Bearer x\r\n\r\n")
        assert b"mine" not in head
        peer.say(OK)
        assert (await answer(stream))[1] == b"ok"


async def test_options_asterisk_passes() -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask(b"OPTIONS", b"*")
        peer = await tunnel.upstream.peer()
        assert (await peer.head()).startswith(b"OPTIONS * HTTP/1.1\r\n")
        peer.say(b"HTTP/1.1 204 No Content\r\nAllow: GET\r\n\r\n")
        assert (await answer(stream))[0].fields == ((b"Allow", b"GET"),)


@pytest.mark.parametrize(
    ("method", "response"),
    [
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: x\r\n\r\n"),
    ],
)
async def test_a_response_without_a_body_ends_at_once_and_keeps_its_length_field(
    method: bytes, response: bytes
) -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask(method)
        peer = await tunnel.upstream.peer()
        for again in (True, False):  # the second on the same connection
            await peer.head()
            peer.say(response)
            head, body = await answer(stream)
            assert body == b""
            assert ((b"Content-Length", b"1000") in head.fields) == (b"1000" in response)
            await tunnel.record()
            if again:
                stream = await tunnel.ask(method)
        assert tunnel.upstream.accepted == 1


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: x\r\n\r\n",
            b"abcde",
        ),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc", b"abc"),
        (b"HTTP/1.0 200 OK\r\n\r\nabc", b"abc"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\nx", b"x"),
    ],
)
async def test_every_framing_of_a_response_gives_its_body_whole(response: bytes, body: bytes) -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask()
        peer = await tunnel.upstream.peer()
        await peer.head()
        for byte in range(len(response)):
            peer.say(response[byte : byte + 1])
            await asyncio.sleep(0)
        peer.close()
        head, got = await answer(stream)
        assert (head.status, got) == (200, body)
        assert not any(name.lower() == b"transfer-encoding" for name, _ in head.fields)


async def test_redirects_are_passed_on_with_the_clients_origin() -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask(fields=((b"X-Forwarded-Host", b"127.0.0.1:8000"),))
        peer = await tunnel.upstream.peer()
        await peer.head()
        port = tunnel.upstream.port
        peer.say(b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:%d/x?y\r\nContent-Length: 0\r\n\r\n" % port)
        head, _ = await answer(stream)
        assert (b"Location", b"http://127.0.0.1:8000/x?y") in head.fields
        assert tunnel.upstream.accepted == 1


async def test_interim_responses_pass_and_a_100_is_the_upstreams() -> None:
    async with rig() as tunnel:
        fields = ((b"Expect", b"100-continue"), (b"Content-Length", b"4"))
        stream = await tunnel.ask(b"POST", fields=fields, ended=False)
        peer = await tunnel.upstream.peer()
        assert b"Expect: 100-continue\r\n" in await peer.head()
        peer.say(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert (await stream.response()).status == 100
        peer.say(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        assert (await stream.response()).fields == ((b"Link", b"</x>"),)
        await stream.send(b"body")
        await stream.send_end()
        assert await peer.exactly(4) == b"body"
        peer.say(OK)
        head, body = await answer(stream)
        assert (head.status, body) == (200, b"ok")


async def test_a_refused_expectation_is_passed_on_and_the_body_never_asked_for() -> None:
    async with rig() as tunnel:
        fields = ((b"Expect", b"100-continue"), (b"Content-Length", b"4"))
        stream = await tunnel.ask(b"POST", fields=fields, ended=False)
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(b"HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno")
        head, body = await answer(stream)
        assert (head.status, body) == (417, b"no")
        assert await peer.ended()


async def test_without_the_interim_feature_only_the_final_head_comes() -> None:
    async with rig(features=ALL_FEATURES - {Feature.INTERIM}) as tunnel:
        stream = await tunnel.ask(fields=((b"Expect", b"100-continue"),))
        peer = await tunnel.upstream.peer()
        assert b"xpect" not in await peer.head()
        peer.say(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)
        assert (await stream.response()).status == 200


@pytest.mark.parametrize(
    ("pieces", "framing", "sent"),
    [
        ([b"abc", b"de"], b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
        ([], b"", b""),
    ],
)
async def test_a_v1_request_has_a_body_where_its_frames_say_so(
    pieces: list[bytes], framing: bytes, sent: bytes
) -> None:
    async with rig(features=V1) as tunnel:
        stream = await tunnel.ask(b"POST", fields=((b"X", b"y"),), ended=False)
        for piece in pieces:
            await stream.send(piece)
            await asyncio.sleep(0.02)
        await stream.send_end()
        peer = await tunnel.upstream.peer()
        head = await peer.head()
        assert head.endswith(b"X: y\r\nConnection: close\r\n" + framing + b"\r\n")
        assert await peer.exactly(len(sent)) == sent
        peer.say(OK)
        assert (await answer(stream))[1] == b"ok"


async def test_a_v1_request_of_known_length_goes_on_before_its_body_has_come() -> None:
    async with rig(features=V1) as tunnel:
        stream = await tunnel.ask(b"PUT", fields=((b"content-length", b"3"),), ended=False)
        peer = await tunnel.upstream.peer()
        assert b"content-length: 3\r\n" in await peer.head()
        await stream.send(b"abc")
        await stream.send_end()
        assert await peer.exactly(3) == b"abc"
        peer.say(OK)
        assert (await answer(stream))[1] == b"ok"


# -- failures


def error_of(body: bytes) -> dict[str, str]:
    error: dict[str, str] = json.loads(body)["error"]
    assert body.endswith(b"\n")
    assert error["type"] == "tunnel_error"
    return error


async def test_an_upstream_that_is_down_is_a_502_that_says_what_to_do() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with rig(lambda _: f"localhost:{port}") as tunnel:
        head, body = await answer(await tunnel.ask())
        assert head.status == 502
        assert (b"Content-Type", b"application/json") in head.fields
        error = error_of(body)
        assert error["code"] == "upstream_unreachable"
        told = "The model server behind serve is not running. Ask the person who runs serve to start it."
        assert error["message"] == told
        record = await tunnel.record()
        assert (record.status, record.error) == (
            502,
            f"The model server at http://localhost:{port} does not answer.",
        )
        head, body = await answer(await tunnel.ask(b"HEAD"))
        assert (head.status, body) == (502, b"")


def test_a_client_is_not_told_where_the_model_server_is() -> None:
    for absent in (True, False):
        told = _bad_gateway(UpstreamUnreachable("The server at 10.0.0.1:8000 is odd.", hint="Try it.", absent=absent))
        assert (told.status, told.code) == (502, "upstream_unreachable")
        assert "10.0.0.1" not in told.message and "Ask the person who runs serve" in told.message


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\n\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 40_000,
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1100 + b"\r\n",
        b"HTTP/1.1 101 Unasked\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: " + b"\x01" * 20_000 + b"\r\n\r\n",
    ],
    ids=["nothing", "half a head", "ssh", "tls", "bad length", "long", "many", "unasked 101", "too long for a frame"],
)
async def test_an_upstream_that_answers_no_http_is_a_502(said: bytes) -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask()
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(said)
        if peer.writer.can_write_eof():
            peer.writer.write_eof()
        head, body = await answer(stream)
        assert head.status == 502
        assert error_of(body)["code"] == "upstream_broken"
        assert await peer.ended()


async def test_an_error_never_quotes_what_the_upstream_said() -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask()
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(b"HTTP/1.1 200 OK\r\nsecret value\r\n\r\n")
        _, body = await answer(stream)
        assert b"secret" not in body
        assert "secret" not in (await tunnel.record()).error


@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
@pytest.mark.parametrize("violent", [True, False])
async def test_a_body_that_breaks_off_is_never_ended(begun: bytes, violent: bool) -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask()
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(begun)
        assert (await stream.response()).status == 200
        assert await stream.receive() == b"abc"
        peer.rst() if violent else peer.close()
        with pytest.raises(StreamReset) as caught:
            await stream.receive()
        assert caught.value.code is ErrorCode.UPSTREAM
        record = await tunnel.record()
        assert record.status == 200
        assert record.bytes_down == 3
        assert record.error


async def test_rubbish_right_behind_good_bytes_breaks_the_body_and_not_the_head() -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask()
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n")
        assert (await stream.response()).status == 200
        assert await stream.receive() == b"abc"
        with pytest.raises(StreamReset):
            await stream.receive()
        assert await peer.ended()


async def test_a_close_delimited_body_that_is_reset_is_never_ended() -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask()
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(b"HTTP/1.1 200 OK\r\n\r\nabc")
        assert await stream.response()
        assert await stream.receive() == b"abc"
        peer.rst()
        with pytest.raises(StreamReset):
            await stream.receive()


@pytest.mark.parametrize(("target", "code"), [(b"/a b", ErrorCode.PROTOCOL), (b"http://evil/", ErrorCode.PROTOCOL)])
async def test_a_target_that_is_no_path_reaches_no_upstream(target: bytes, code: ErrorCode) -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask(target=target)
        with pytest.raises(StreamReset) as caught:
            await stream.response()
        assert caught.value.code is code
        assert tunnel.upstream.accepted == 0


async def test_a_body_longer_than_its_length_smuggles_no_second_request() -> None:
    async with rig(features=ALL_FEATURES - {Feature.LENGTH}) as tunnel:
        stream = await tunnel.ask(b"POST", fields=((b"Content-Length", b"4"),), ended=False)
        peer = await tunnel.upstream.peer()
        await peer.head()
        await stream.send(b"body")
        assert await peer.exactly(4) == b"body"
        await stream.send(b"GET /admin HTTP/1.1\r\n\r\n")
        with pytest.raises(StreamReset) as caught:
            await stream.response()
        assert caught.value.code is ErrorCode.PROTOCOL
        assert await peer.reader.read() == b""


async def test_a_body_on_a_request_without_one_is_not_sent() -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask(b"POST", ended=False)
        await stream.send(b"GET /admin HTTP/1.1\r\n\r\n")
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(OK)
        assert (await answer(stream))[1] == b"ok"
        await tunnel.origin.aclose()
        assert await peer.reader.read() == b""


async def test_a_body_shorter_than_its_length_ends_the_stream_and_the_connection() -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask(b"POST", fields=((b"Content-Length", b"4"),), ended=False)
        peer = await tunnel.upstream.peer()
        await peer.head()
        await stream.send(b"bo")
        await stream.send_end()
        with pytest.raises(StreamReset) as caught:
            await stream.response()
        assert caught.value.code is ErrorCode.TRUNCATED
        assert await peer.ended()


async def test_one_record_and_one_line_tell_of_a_request_without_its_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmtunnel.endpoints.ledger")

    async with rig() as tunnel:
        stream = await tunnel.ask(
            b"POST", b"/x?key=secret", ((b"Content-Length", b"4"), (b"Authorization", b"secret")), ended=False
        )
        peer = await tunnel.upstream.peer()
        await peer.head()
        await stream.send(b"body")
        await stream.send_end()
        await peer.exactly(4)
        peer.say(OK)
        await answer(stream)
        record = await tunnel.record()
        assert (record.method, record.path, record.status) == ("POST", "/x", 200)
        assert (record.bytes_up, record.bytes_down, record.error, record.peer) == (4, 2, "", "proxy")
        assert record.first_byte_ms is not None
        assert 0 <= record.first_byte_ms <= record.duration_ms
    lines = [each.getMessage() for each in caplog.records if each.levelno == logging.INFO]
    assert len([line for line in lines if line.startswith("POST /x 200, 4 bytes up, 2 down")]) == 1
    assert "secret" not in caplog.text


def test_an_origin_with_a_ca_file_that_is_none_is_refused_when_made() -> None:
    with pytest.raises(SettingError):
        Origin(Upstream.parse("https://h", ca_file="/nowhere/ca.pem"), timeouts=Timeouts(), limits=Limits())


async def test_each_of_many_requests_on_one_session_gets_its_own_answer() -> None:
    async with rig() as tunnel:
        answering = asyncio.create_task(echo_targets(tunnel))
        streams = [await tunnel.ask(target=b"/%d" % n) for n in range(50)]
        bodies = await asyncio.gather(*map(body_of, streams))
        assert bodies == [b"/%d" % n for n in range(50)]
        answering.cancel()
        await asyncio.wait([answering])


async def body_of(stream: Stream) -> bytes:
    await stream.response()
    return await read_all(stream)


async def echo_targets(tunnel: Rig) -> None:
    """Answer each request with its target, on every connection."""

    async def serve() -> None:
        peer = await tunnel.upstream.peer()
        while True:
            target = (await peer.head()).split()[1]
            peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target))

    await asyncio.gather(*(serve() for _ in range(50)), return_exceptions=True)


async def test_an_exchange_under_way_is_told_with_what_has_passed_and_its_record_with_the_models_count() -> None:
    sample = SAMPLES["ollama chat"]

    async with rig() as tunnel:
        stream = await tunnel.ask(b"POST", sample.path, ((b"Content-Length", b"4"),), ended=False)
        peer = await tunnel.upstream.peer()
        await peer.head()
        await stream.send(b"bo")
        await peer.exactly(2)
        peer.say(b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n\r\n%b" % (sample.kind, sample.body[:200]))
        await stream.response()
        received = await stream.receive()
        [active] = tunnel.ledger.active()
        assert (active.method, active.path, active.peer, active.status) == ("POST", "/api/chat", "proxy", 200)
        assert (active.bytes_up, active.bytes_down, active.model) == (2, 200, "llama:8b")
        await stream.send(b"dy")
        await stream.send_end()
        await peer.exactly(2)
        peer.say(sample.body[200:])
        peer.close()
        assert received + await read_all(stream) == sample.body
        record = await tunnel.record()
        assert (record.model, record.tokens, record.tokens_per_second) == ("llama:8b", 42, 21.0)
        assert tunnel.ledger.of("proxy") == tunnel.ledger.totals


async def test_what_passes_after_a_101_counts_as_it_passes() -> None:
    async with rig() as tunnel:
        fields = ((b"Connection", b"Upgrade"), (b"Upgrade", b"x"))
        stream = await tunnel.ask(b"GET", b"/", fields, ended=False)
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nabc")
        await stream.response()
        assert await stream.receive() == b"abc"
        await stream.send(b"four")
        await peer.exactly(4)
        [active] = tunnel.ledger.active()
        assert (active.status, active.bytes_up, active.bytes_down) == (101, 4, 3)


@pytest.mark.parametrize("name", ACCEPTED)
async def test_an_odd_response_that_other_clients_take_reaches_the_client(name: str) -> None:
    async with rig() as tunnel:
        stream = await tunnel.ask()
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(ACCEPTED[name][0])
        peer.writer.write_eof()
        head, body = await answer(stream)
        assert head.status != 502
        assert body == b"hello"


AT_THE_HEAD = sorted(
    name for name in REFUSED if "chunk's" not in name and "chunk " not in name and "endless" not in name
)


@pytest.mark.parametrize("name", AT_THE_HEAD)
async def test_an_odd_response_that_is_refused_is_a_502_that_names_what_is_odd(name: str) -> None:
    data, named = REFUSED[name]

    async with rig() as tunnel:
        stream = await tunnel.ask()
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(data)
        head, body = await answer(stream)
        assert head.status == 502
        assert named in error_of(body)["message"]
