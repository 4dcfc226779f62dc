"""What serve exposes, on real sockets: what is refused never reaches the upstream, and nothing reaches another."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmtunnel.config import Exposure
from llmtunnel.endpoints.gateway import Gateway
from llmtunnel.errors import ErrorCode, StreamReset
from llmtunnel.policy import NotNormal, Policy, normal
from llmtunnel.protocol.heads import Fields, ResponseHead
from llmtunnel.protocol.hello import Feature
from llmtunnel.session.mux import Session
from llmtunnel.session.stream import Stream
from tests.conftest import run
from tests.support.gateway_rig import RawClient
from tests.support.scripted_upstream import OK, Rig, Scripted, answer, read_all, rig
from tests.test_policy import NORMAL, TRICKS

V1 = frozenset({Feature.SSE})
ANYTHING = Exposure(policy=Policy.parse(allow=["/*"]))
OLLAMA = Exposure(policy=Policy.parse(ready="ollama"))


async def refusal(stream: Stream, status: int) -> dict[str, str]:
    """The error that serve itself answers with, in OpenAI's form."""
    head, body = await answer(stream)
    assert head.status == status
    assert dict(head.fields)[b"Content-Type"] == b"application/json"
    error: dict[str, str] = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "code"}
    return error


async def turned_away(stream: Stream) -> None:
    """Refused by the policy, or by the protocol where the target is none that HTTP knows."""
    try:
        assert (await refusal(stream, 403))["code"] == "not_allowed"
    except StreamReset as exc:
        assert exc.code is ErrorCode.PROTOCOL


def retry_after(head: ResponseHead) -> bytes | None:
    return dict(head.fields).get(b"Retry-After")


async def exchange(tunnel: Rig, stream: Stream) -> bytes:
    """The request's first line, as the upstream got it, on a connection of its own."""
    peer = await tunnel.upstream.peer()
    line = (await peer.head()).partition(b"\r\n")[0]
    peer.say(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert (await answer(stream))[1] == b"ok"
    return line


async def test_what_the_policy_refuses_is_a_403_a_record_and_a_line_and_no_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "llmtunnel")

    async with rig(exposure=OLLAMA) as tunnel:
        stream = await tunnel.ask(b"POST", b"/api/pull?x=secret", ((b"Content-Length", b"5"),), ended=False)
        error = await refusal(stream, 403)
        assert error["code"] == "not_allowed"
        assert error["message"] == "POST /api/pull is not allowed by serve's --policy ollama."
        record = await tunnel.record()
        assert (record.method, record.path, record.status) == ("POST", "/api/pull", 403)
        assert record.error == error["message"]
        assert tunnel.upstream.accepted == 0
    lines = [each.getMessage() for each in caplog.records if "/api/pull" in each.getMessage()]
    assert len(lines) == 1
    assert "403" in lines[0]
    assert "--policy ollama" in lines[0]
    assert "secret" not in caplog.text


async def test_no_trick_with_a_path_reaches_the_upstream_under_a_policy() -> None:
    async with rig(exposure=ANYTHING) as tunnel:
        for target in TRICKS:
            if b"?" in target:
                continue
            for whole in (target, target + b"?x=1"):
                await turned_away(await tunnel.ask(target=whole))
        assert tunnel.upstream.accepted == 0


async def test_what_is_in_normal_form_and_allowed_arrives_byte_for_byte() -> None:
    async with rig(exposure=ANYTHING) as tunnel:
        for path in NORMAL:
            target = path + b"?q=//..%2f;\\%00+\xff&"
            line = await exchange(tunnel, await tunnel.ask(target=target))
            assert line == b"GET %b HTTP/1.1" % target


_PIECES = st.lists(
    st.sampled_from(
        [b"/", b".", b"..", b"%2e", b"%2F", b"%5C", b";", b"a", b"%41", b"%20", b"//", b"\\", b"?", b"#", b"%"]
    )
    | st.binary(min_size=1, max_size=3),
    max_size=8,
).map(b"".join)


@settings(max_examples=60)
@given(st.lists(_PIECES.map(b"/".__add__), min_size=1, max_size=10))
@example([b"/a?b", b"/a%20"])
def test_a_path_is_refused_or_arrives_byte_for_byte(targets: list[bytes]) -> None:
    async def main() -> None:
        async with rig(exposure=ANYTHING) as tunnel:
            for target in targets:
                path, _, query = target.partition(b"?")
                try:
                    normal(path)
                    fine = b"#" not in query and not set(query) & {*range(0x21), 0x7F}
                except NotNormal:
                    fine = False
                accepted = tunnel.upstream.accepted
                stream = await tunnel.ask(target=target)
                if fine:
                    assert await exchange(tunnel, stream) == b"GET %b HTTP/1.1" % target
                else:
                    await turned_away(stream)
                    assert tunnel.upstream.accepted == accepted

    run(main())


async def test_the_policy_is_on_the_path_without_the_advertised_prefix_and_without_the_base_path() -> None:
    exposure = Exposure(policy=Policy.parse(allow=["/models"]))
    async with rig("http://127.0.0.1:{}/base".format, advertise="/v1", exposure=exposure) as tunnel:
        for target in (b"/v1/models", b"/models"):
            assert await exchange(tunnel, await tunnel.ask(target=target)) == b"GET /base/models HTTP/1.1"
        accepted = tunnel.upstream.accepted
        for target in (b"/base/models", b"/v1//models", b"/v1/v1/models", b"/v1/../models", b"/v1%2Fmodels"):
            await refusal(await tunnel.ask(target=target), 403)
        assert tunnel.upstream.accepted == accepted


@pytest.mark.parametrize("exposure", [ANYTHING, Exposure()], ids=["policy", "no policy"])
@pytest.mark.parametrize("body", [b"", b"hi"])
async def test_an_offer_of_http2_does_not_reach_the_upstream_and_the_request_does(
    exposure: Exposure, body: bytes
) -> None:
    offer: Fields = ((b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c"), (b"HTTP2-Settings", b"AAM"))
    length: Fields = ((b"Content-Length", b"%d" % len(body)),)
    async with rig(exposure=exposure) as tunnel:
        stream = await tunnel.ask(b"POST", b"/x", (*offer, *length, (b"A", b"b")), ended=False)
        if body:
            await stream.send(body)
        peer = await tunnel.upstream.peer()
        head = await peer.head()
        assert head.startswith(b"POST /x HTTP/1.1\r\n")
        assert head.endswith(b"\r\nContent-Length: %d\r\nA: b\r\nConnection: close\r\n\r\n" % len(body))
        assert not [name for name in (b"upgrade", b"http2") if name in head.lower()]
        assert await peer.reader.readexactly(len(body)) == body
        peer.say(OK)
        assert (await answer(stream))[1] == b"ok"


@pytest.mark.parametrize("target", [b"/v1/models/org%2Fmodel", b"/models/hf.co%2Forg%2Fmodel%3AQ4_K_M%40main?x=%2f"])
async def test_a_model_whose_name_has_a_slash_is_asked_for_byte_for_byte(target: bytes) -> None:
    async with rig(exposure=Exposure(policy=Policy.parse(ready="openai"))) as tunnel:
        assert await exchange(tunnel, await tunnel.ask(target=target)) == b"GET %b HTTP/1.1" % target


async def test_an_upgrade_is_under_the_policy_like_other_requests() -> None:
    websocket = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))
    async with rig(exposure=Exposure(policy=Policy.parse(allow=["/ws"]))) as tunnel:
        await refusal(await tunnel.ask(target=b"/other", fields=websocket, ended=False), 403)
        assert tunnel.upstream.accepted == 0
        stream = await tunnel.ask(target=b"/ws", fields=websocket, ended=False)
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi")
        assert (await stream.response()).status == 101
        assert await stream.receive() == b"hi"
        stream.reset(ErrorCode.CANCELLED, "enough")


async def test_a_method_override_is_refused_under_a_policy_and_passed_on_without_one() -> None:
    fields: Fields = ((b"X-HTTP-Method-Override", b"DELETE"),)
    async with rig(exposure=ANYTHING) as tunnel:
        error = await refusal(await tunnel.ask(b"POST", fields=fields), 403)
        assert "X-HTTP-Method-Override" in error["message"]
        assert tunnel.upstream.accepted == 0
    async with rig() as tunnel:
        stream = await tunnel.ask(b"POST", fields=fields)
        assert await exchange(tunnel, stream) == b"POST / HTTP/1.1"


async def test_more_requests_at_once_than_allowed_are_429_until_one_has_ended() -> None:
    async with rig(exposure=Exposure(max_requests=1)) as tunnel:
        first = await tunnel.ask()
        peer = await tunnel.upstream.peer()
        await peer.head()
        head, body = await answer(await tunnel.ask())
        assert (head.status, retry_after(head)) == (429, b"1")
        assert b"--max-requests" in body
        assert (await tunnel.record()).status == 429
        peer.say(OK)
        assert (await answer(first))[1] == b"ok"
        await tunnel.record()
        again = await tunnel.ask()
        await peer.head()
        peer.say(OK)
        assert (await answer(again))[0].status == 200
        assert tunnel.upstream.accepted == 1


async def test_more_requests_in_a_minute_than_allowed_are_429_with_the_time_to_wait() -> None:
    now = [0.0]
    async with rig(exposure=Exposure(max_requests_per_minute=1), clock=lambda: now[0]) as tunnel:
        await exchange(tunnel, await tunnel.ask())
        now[0] = 17.5
        head, body = await answer(await tunnel.ask())
        assert (head.status, retry_after(head)) == (429, b"43")
        assert b"--max-requests-per-minute" in body
        assert tunnel.upstream.accepted == 1
        now[0] = 60.0
        await exchange(tunnel, await tunnel.ask())


async def test_a_body_whose_length_is_over_the_limit_is_413_before_anything_is_forwarded() -> None:
    for features in (None, V1):
        async with rig(exposure=Exposure(max_body=10), **({"features": features} if features else {})) as tunnel:
            stream = await tunnel.ask(b"POST", fields=((b"Content-Length", b"11"),), ended=False)
            assert (await refusal(stream, 413))["code"] == "body_too_large"
            assert tunnel.upstream.accepted == 0


async def test_a_body_of_unknown_length_is_broken_off_as_soon_as_it_is_over_the_limit() -> None:
    async with rig(exposure=Exposure(max_body=10)) as tunnel:
        stream = await tunnel.ask(b"POST", fields=((b"Transfer-Encoding", b"chunked"),), ended=False)
        await stream.send(b"12345")
        peer = await tunnel.upstream.peer()
        await peer.head()
        assert await peer.exactly(10) == b"5\r\n12345\r\n"
        await stream.send(b"678901")
        assert (await refusal(stream, 413))["code"] == "body_too_large"
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await peer.exactly(1)  # no chunk more, and no last one
        record = await tunnel.record()
        assert record.status == 413
        assert "--max-body" in record.error


async def test_a_response_under_way_is_broken_off_where_the_body_gets_too_long() -> None:
    async with rig(exposure=Exposure(max_body=10)) as tunnel:
        stream = await tunnel.ask(b"POST", fields=((b"Transfer-Encoding", b"chunked"),), ended=False)
        await stream.send(b"12345")
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
        assert (await stream.response()).status == 200
        assert await stream.receive() == b"ok"
        await stream.send(b"678901")
        with pytest.raises(StreamReset) as caught:
            await read_all(stream)
        assert caught.value.code is ErrorCode.CANCELLED
        assert await peer.ended()


async def test_a_body_of_the_limit_passes_whole() -> None:
    async with rig(exposure=Exposure(max_body=10)) as tunnel:
        stream = await tunnel.ask(b"POST", fields=((b"Transfer-Encoding", b"chunked"),), ended=False)
        await stream.send(b"1234567890")
        await stream.send_end()
        peer = await tunnel.upstream.peer()
        await peer.head()
        assert await peer.exactly(20) == b"a\r\n1234567890\r\n0\r\n\r\n"
        peer.say(OK)
        assert (await answer(stream))[0].status == 200


@asynccontextmanager
async def gateway(tunnel: Rig) -> AsyncIterator[tuple[str, int]]:
    """A listener before the rig, and where it is."""

    class Source:
        async def session(self, wait: float) -> Session:
            return tunnel.proxy

    listener = Gateway(Source(), listen="127.0.0.1:0")
    await listener.start()
    host, _, port = listener.addresses[0].rpartition(":")
    try:
        yield host, int(port)
    finally:
        await listener.aclose()


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{evil}/x",
        "//127.0.0.1:{evil}/x",
        "/http://127.0.0.1:{evil}/x",
        "/@127.0.0.1:{evil}/x",
        "@127.0.0.1:{evil}/x",
        ":{evil}/x",
        ".evil:{evil}/x",
        "/\\127.0.0.1:{evil}/x",
        "/x?url=http://127.0.0.1:{evil}/",
        "127.0.0.1:{evil}",
        "*",
    ],
)
async def test_no_request_makes_serve_talk_to_another_than_its_upstream(target: str) -> None:
    evil = Scripted()
    async with evil.listening(), rig() as tunnel, gateway(tunnel) as address:
        other = f"127.0.0.1:{evil.port}".encode()
        where = target.format(evil=evil.port).encode()
        fields = ((b"Host", other), (b"X-Forwarded-Host", other), (b"Forwarded", b"host=" + other))
        lines = b"".join(b"%b: %b\r\n" % field for field in fields)
        reader, writer = await asyncio.open_connection(*address)
        async with RawClient(reader, writer) as client:  # as a client of an honest proxy
            client.write(b"GET %b HTTP/1.1\r\n%bConnection: close\r\n\r\n" % (where, lines))
            await answered(tunnel, client)
        stream = await tunnel.ask(target=where, fields=fields)  # as a proxy that is not
        reading = asyncio.create_task(outcome(stream))
        await serve_one(tunnel, reading)
        assert evil.accepted == 0


async def answered(tunnel: Rig, client: RawClient) -> None:
    reading = asyncio.create_task(client.rest())
    await serve_one(tunnel, reading)


async def outcome(stream: Stream) -> int | None:
    try:
        return (await answer(stream))[0].status
    except StreamReset:
        return None


async def serve_one(tunnel: Rig, reading: asyncio.Task[object]) -> None:
    """Be the upstream of one request, if it comes there, redirecting it; then the request has its answer."""
    accepting = asyncio.create_task(tunnel.upstream.peer())
    await asyncio.wait((accepting, reading), return_when=asyncio.FIRST_COMPLETED)
    if accepting.done():
        peer = accepting.result()
        head = await peer.head()
        assert b"Host: 127.0.0.1:%d\r\n" % tunnel.upstream.port in head
        peer.say(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await reading
        return
    accepting.cancel()
    await asyncio.gather(accepting, return_exceptions=True)


@pytest.mark.parametrize("status", [301, 302, 303, 305, 307, 308, 401, 407])
async def test_what_the_upstream_answers_does_not_make_serve_talk_to_another(status: int) -> None:
    evil = Scripted()
    async with evil.listening(), rig() as tunnel:
        stream = await tunnel.ask()
        peer = await tunnel.upstream.peer()
        await peer.head()
        elsewhere = b"http://127.0.0.1:%d/x" % evil.port
        peer.say(
            b'HTTP/1.1 %d Go\r\nLocation: %b\r\nAlt-Svc: h2=":%d"\r\nRefresh: 0; url=%b\r\n'
            b"Content-Length: 0\r\n\r\n" % (status, elsewhere, evil.port, elsewhere)
        )
        head, _ = await answer(stream)
        assert (head.status, dict(head.fields)[b"Location"]) == (status, elsewhere)
        await tunnel.record()
        stream = await tunnel.ask()
        await peer.head()
        peer.say(OK)
        await answer(stream)
        assert evil.accepted == 0


async def test_an_upgrade_stays_on_the_connection_to_the_upstream() -> None:
    evil = Scripted()
    async with evil.listening(), rig() as tunnel:
        other = b"127.0.0.1:%d" % evil.port
        fields = ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Host", other), (b"Origin", other))
        stream = await tunnel.ask(target=b"/ws", fields=fields, ended=False)
        peer = await tunnel.upstream.peer()
        await peer.head()
        peer.say(
            b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nLocation: http://%b/\r\n\r\n" % other
        )
        assert (await stream.response()).status == 101
        await stream.send(b"CONNECT %b HTTP/1.1\r\n\r\n" % other)
        assert (await peer.head()).startswith(b"CONNECT ")
        stream.reset(ErrorCode.CANCELLED, "enough")
        assert await peer.ended()
        assert evil.accepted == 0
