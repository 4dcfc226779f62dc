"""The guard where it stands: before a stream is opened, on real sockets."""

from __future__ import annotations

import asyncio

import pytest

from llmtunnel.endpoints.gateway import Gateway
from llmtunnel.errors import SettingError
from llmtunnel.listener import ListenerPolicy
from llmtunnel.session.stream import Stream

from ..support.embedded import until
from ..support.gateway_rig import NoPeer, answering, ok, tunnel
from .test_gateway import Peer, error_of

NOBODY = ListenerPolicy()
APP = ListenerPolicy(allow_origins=("https://app.example",))
KEYED = ListenerPolicy(api_key="s3cret")
SHARE = b"Access-Control-Allow-Origin: https://app.example\r\nVary: Origin\r\n"
FROM_APP = b"Host: localhost\r\nOrigin: https://app.example\r\n"


@pytest.mark.parametrize(
    ("code", "fields"),
    [
        ("foreign_host", b"Host: evil.example\r\n"),
        ("foreign_origin", b"Host: localhost\r\nOrigin: https://evil.example\r\n"),
        ("foreign_origin", b"Host: localhost\r\nSec-Fetch-Site: cross-site\r\n"),
        (
            "foreign_origin",
            b"Host: localhost\r\nOrigin: null\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
        ),
    ],
)
async def test_what_is_refused_is_told_recorded_and_never_reaches_the_peer(code: str, fields: bytes) -> None:
    peer = Peer()
    async with tunnel(peer, policy=NOBODY) as rig:
        answer = await rig.ask(b"GET /secret HTTP/1.1\r\n" + fields + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert b"Access-Control" not in answer
        assert error_of(answer)["code"] == code
        assert peer.streams.empty()
        (record,) = rig.records
        assert (record.path, record.status, record.peer) == ("/secret", 403, "")
        assert "--allow-" in record.error


async def test_a_refused_upload_is_read_in_peace_so_that_its_client_can_read_why() -> None:
    async with tunnel(Peer(), policy=NOBODY) as rig, await rig.connect() as client:
        client.write(b"POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 3000000\r\n\r\n")
        for _ in range(30):
            client.write(bytes(100_000))
            await client.writer.drain()
        client.writer.write_eof()
        assert (await client.rest()).startswith(b"HTTP/1.1 403 ")


async def test_a_refused_head_request_gets_no_body() -> None:
    async with tunnel(Peer(), policy=NOBODY) as rig:
        answer = await rig.ask(b"HEAD / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert answer.endswith(b"\r\n\r\n")


async def test_every_request_of_a_connection_is_judged() -> None:
    async with tunnel(answering(b"hi"), policy=NOBODY) as rig:
        fine, foreign = (
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        )
        answer = await rig.ask(fine + foreign + fine)
        assert (answer.count(b"HTTP/1.1 200"), answer.count(b"HTTP/1.1 403"), answer.count(b"HTTP/1.1 ")) == (
            1,
            1,
            2,
        )


async def test_discovery_is_answered_whatever_the_guard_would_say() -> None:
    async with tunnel(Peer(), policy=KEYED) as rig:
        probe = b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nX-Llmtunnel-Probe: 1\r\n\r\n"
        assert (await rig.ask(probe)).startswith(b"HTTP/1.1 421 ")


# -- CORS


async def test_a_preflight_is_answered_here_and_the_connection_goes_on() -> None:
    peer = Peer()
    async with tunnel(peer, policy=APP) as rig, await rig.connect() as client:
        for _ in range(2):
            client.write(b"OPTIONS /x HTTP/1.1\r\n" + FROM_APP + b"Access-Control-Request-Method: POST\r\n\r\n")
            assert await client.head() == (
                b"HTTP/1.1 204 No Content\r\n" + SHARE + b"Access-Control-Allow-Methods: POST\r\n"
                b"Access-Control-Max-Age: 600\r\n\r\n"
            )
        assert peer.streams.empty()
        assert [(record.method, record.status, record.error) for record in rig.records] == [("OPTIONS", 204, "")] * 2


async def test_an_allowed_page_can_read_the_response() -> None:
    async with tunnel(answering(b"hi"), policy=APP) as rig, await rig.connect() as client:
        client.write(b"GET / HTTP/1.1\r\n" + FROM_APP + b"\r\n")
        assert await client.head() == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n" + SHARE + b"\r\n"


async def test_the_upstreams_own_word_about_who_may_read_stands() -> None:
    said = (b"access-control-allow-origin", b"*")
    async with tunnel(answering(b"hi", said), policy=APP) as rig, await rig.connect() as client:
        client.write(b"GET / HTTP/1.1\r\n" + FROM_APP + b"\r\n")
        head = await client.head()
        assert head == b"HTTP/1.1 200 OK\r\naccess-control-allow-origin: *\r\nContent-Length: 2\r\n\r\n"


async def test_an_allowed_page_can_read_failures_too() -> None:
    async def broken(stream: Stream) -> None:
        raise RuntimeError("as tests do")

    async with tunnel(broken, policy=APP) as rig:
        answer = await rig.ask(b"GET / HTTP/1.1\r\n" + FROM_APP + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert SHARE in answer


# -- the key


async def test_the_key_lets_in_and_goes_no_further() -> None:
    seen: list[Stream] = []

    async def handle(stream: Stream) -> None:
        seen.append(stream)
        await stream.send_response(ok((b"Content-Length", b"0")))
        await stream.send_end()

    async with tunnel(handle, policy=KEYED) as rig, await rig.connect() as client:
        for sent in (b"Authorization: Bearer s3cret", b"X-API-Key: s3cret"):
            client.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: 1\r\n" + sent + b"\r\n\r\n")
            assert (await client.head()).startswith(b"HTTP/1.1 200 ")
        for stream in seen:
            assert stream.request.fields == ((b"X-A", b"1"), (b"X-Forwarded-Host", b"localhost"))


async def test_another_key_or_none_is_401_and_reaches_nobody() -> None:
    peer = Peer()
    async with tunnel(peer, policy=KEYED) as rig:
        for sent in (b"", b"Authorization: Bearer other\r\n"):
            answer = await rig.ask(b"GET / HTTP/1.1\r\nHost: localhost\r\n" + sent + b"\r\n")
            assert answer.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
            assert b'WWW-Authenticate: Bearer realm="llmtunnel"\r\n' in answer
            assert error_of(answer)["code"] == "invalid_api_key"
        await until(lambda: len(rig.records) == 2)
        assert peer.streams.empty()
        assert "s3cret" not in repr(rig.records)


async def test_an_address_that_other_machines_reach_needs_a_key_before_anything_listens() -> None:
    with pytest.raises(SettingError, match="other machines"):
        Gateway(NoPeer(), listen="0.0.0.0:0")

    gateway = Gateway(NoPeer(), listen="0.0.0.0:0", policy=KEYED)
    await gateway.start()
    port = int(gateway.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
    writer.close()
    await writer.wait_closed()
    await gateway.aclose()
