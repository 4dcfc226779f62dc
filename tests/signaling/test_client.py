from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSCloseCode, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from llmtunnel.config import DEFAULT_SIGNAL, Limits, Timeouts
from llmtunnel.errors import (
    AccessDenied,
    RoomFull,
    SignalError,
    SignalRejected,
    SignalRestarting,
    SignalUnreachable,
)
from llmtunnel.signaling import client as client_module
from llmtunnel.signaling import messages
from llmtunnel.signaling.client import SignalClient
from llmtunnel.signaling.messages import Answer, Candidate, IceCandidate, Joined, Member, Offer, PeerJoined, PeerLeft
from llmtunnel.status import Role
from llmtunnel.transport.networks import Reach
from signal_server.access import Access
from signal_server.limits import Limits as ServerLimits
from signal_server.server import SignalServer
from tests.reference.signal import application as original

PATIENCE = Timeouts(signal=10, close=1)
HURRY = Timeouts(signal=0.3, close=0.3)
Behaviour = Callable[[web.WebSocketResponse], Awaitable[Any]]


async def connect(url: str, timeouts: Timeouts = PATIENCE) -> SignalClient:
    return await SignalClient.connect(url, timeouts=timeouts, limits=Limits())


@asynccontextmanager
async def our_server(members: int = 100) -> AsyncIterator[str]:
    async with SignalServer(port=0, limits=ServerLimits(members=members)) as server:
        yield server.url


@asynccontextmanager
async def serving(server: web.Server | web.Application) -> AsyncIterator[str]:
    runner = web.ServerRunner(server) if isinstance(server, web.Server) else web.AppRunner(server)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def scripted(behave: Behaviour) -> AsyncIterator[str]:
    """A server that does with each WebSocket what the test says."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        ws = web.WebSocketResponse(timeout=1)
        await ws.prepare(request)
        await behave(ws)
        await ws.close()
        return ws

    async with serving(web.Server(answer)) as url:
        yield url


def says(*texts: str) -> Behaviour:
    """Answer the first message with these, then wait for the end."""

    async def behave(ws: web.WebSocketResponse) -> None:
        await ws.receive()
        for text in texts:
            await ws.send_str(text)
        while not ws.closed:
            await ws.receive()

    return behave


async def join(client: SignalClient, role: Role = Role.PROXY, token: str | None = None) -> Joined:
    return await client.join("R", role=role, instance=f"{role}-instance", token=token)


async def test_serve_and_proxy_meet_at_our_server() -> None:
    async with our_server() as url, await connect(url) as serve, await connect(url) as proxy:
        first = await join(serve, Role.SERVE)
        assert (first.peers, first.role) == ((), Role.SERVE)
        second = await join(proxy)
        assert second.peers == (Member(first.peer_id, Role.SERVE, "serve-instance"),)
        assert await serve.receive() == PeerJoined(Member(second.peer_id, Role.PROXY, "proxy-instance"))
        await serve.send(messages.offer("o", to=second.peer_id))
        assert await proxy.receive() == Offer(first.peer_id, "o")
        await proxy.send(messages.answer("a", to=first.peer_id))
        assert await serve.receive() == Answer(second.peer_id, "a")
        candidate = IceCandidate("candidate:1", "0", 0, None)
        await proxy.send(messages.candidate(candidate, to=first.peer_id))
        assert await serve.receive() == Candidate(second.peer_id, candidate)
        await proxy.send(messages.bye())
        assert await serve.receive() == PeerLeft(second.peer_id)
        await join(proxy)
        assert isinstance(await serve.receive(), PeerJoined)
        await proxy.aclose()
        assert isinstance(await serve.receive(), PeerLeft)


async def test_which_servers_it_may_name_depends_on_the_address_that_we_reached_it_at() -> None:
    async with our_server() as url, await connect(url) as client:
        assert client.reach is Reach.LOOPBACK


@pytest.mark.parametrize(
    ("url", "reach"),
    [
        ("wss://signal.example", Reach.PUBLIC),
        ("wss://8.8.8.8", Reach.PUBLIC),
        ("wss://169.254.169.254", Reach.PUBLIC),
        ("wss://10.0.0.5", Reach.PRIVATE),
        ("wss://[fd00::5]:8787", Reach.PRIVATE),
    ],
)
async def test_behind_an_http_proxy_only_its_url_says_where_it_is(
    url: str, reach: Reach, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy, to which we are connected, is often in our own network."""
    async with our_server() as real, await connect(real) as client:
        monkeypatch.setenv("HTTPS_PROXY", "http://10.0.0.1:3128")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.setattr(client, "_url", url)
        assert client.reach is reach


async def test_serve_and_proxy_meet_at_the_originals_server() -> None:
    async with serving(original()) as url, await connect(url) as serve, await connect(url) as proxy:
        first = await join(serve, Role.SERVE)
        assert (first.peers, first.role, first.token) == ((), None, None)
        second = await join(proxy)
        assert second.peers == (Member(first.peer_id),)
        assert await serve.receive() == PeerJoined(Member(second.peer_id))
        await serve.send(messages.offer("o", to=None))
        assert await proxy.receive() == Offer(first.peer_id, "o")
        async with await connect(url) as third:
            with pytest.raises(RoomFull, match="full") as caught:
                await join(third)
        assert "llmtunnel signal" in caught.value.hint


async def test_a_member_that_comes_back_takes_over_from_its_ghost() -> None:
    async with our_server() as url, await connect(url) as ghost, await connect(url) as back:
        token = (await join(ghost, Role.SERVE)).token
        with pytest.raises(RoomFull, match="max 1 serve"):
            await join(back, Role.SERVE)
        assert (await join(back, Role.SERVE, token)).token == token
        with pytest.raises(SignalUnreachable, match="lost"):
            await ghost.receive()


async def test_a_full_server_rejects_us_in_its_words() -> None:
    async with our_server(members=1) as url, await connect(url) as first, await connect(url) as second:
        await join(first)
        with pytest.raises(SignalRejected, match="server is full"):
            await join(second)


async def test_a_private_server_admits_us_with_our_token_and_otherwise_says_which_flag_to_use() -> None:
    async with SignalServer(port=0, access=Access(["right-token"])) as server:
        for token, told, hint in (
            (None, "is private: it requires an access token.", "--signal-token-file FILE"),
            ("wrong-token", "does not accept the access token.", "Check --signal-token "),
        ):
            async with await connect(server.url) as client:
                with pytest.raises(AccessDenied) as caught:
                    await client.join("R", role=Role.SERVE, instance="i", access=token)
            assert str(caught.value) == f"The signal server {server.url} {told}"
            assert hint in caught.value.hint
            assert "wrong-token" not in f"{caught.value} {caught.value.hint}"
        async with await connect(server.url) as client:
            assert (await client.join("R", role=Role.SERVE, instance="i", access="right-token")).role is Role.SERVE


async def test_a_server_that_does_not_answer_our_join_is_given_up() -> None:
    async with scripted(says()) as url, await connect(url, HURRY) as client:
        with pytest.raises(SignalUnreachable, match="did not answer when this side asked to join"):
            await join(client)


@pytest.mark.parametrize("text", ["nonsense", "[]", '{"type":"offer"}', '{"type":"later"}'])
async def test_a_message_that_makes_no_sense_is_left_out(text: str) -> None:
    async with scripted(says(text, '{"type":"joined","peerId":"me","peers":[]}')) as url:
        async with await connect(url) as client:
            assert (await join(client)).peer_id == "me"


async def test_a_server_that_makes_no_sense_again_and_again_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with scripted(says(*["nonsense"] * 200)) as url, await connect(url) as client:
            with pytest.raises(SignalUnreachable, match="messages that no signal server sends"):
                await join(client)
    assert len(caplog.records) == client_module.RUBBISH


async def test_a_message_over_the_limit_ends_the_connection() -> None:
    async with scripted(says(json.dumps({"type": "later", "x": "x" * 100_000}))) as url:
        async with await connect(url) as client:
            with pytest.raises(SignalUnreachable, match="lost"):
                await join(client)


async def close(ws: web.WebSocketResponse) -> None:
    await ws.close()


async def abort(ws: web.WebSocketResponse) -> None:
    request = ws._req
    assert request is not None and request.transport is not None
    request.transport.abort()  # type: ignore[attr-defined]


@pytest.mark.parametrize("behave", [close, abort])
async def test_a_connection_that_ends_is_lost_to_who_receives_and_to_who_sends(behave: Behaviour) -> None:
    async with scripted(behave) as url, await connect(url) as client:
        for _ in range(2):
            with pytest.raises(SignalUnreachable, match="lost"):
                await client.receive()
        with pytest.raises(SignalUnreachable, match="lost"):
            await client.send(messages.bye())


@pytest.mark.parametrize("code", [WSCloseCode.GOING_AWAY, WSCloseCode.SERVICE_RESTART])
async def test_a_server_that_stops_asks_us_to_connect_again(code: WSCloseCode) -> None:
    async def behave(ws: web.WebSocketResponse) -> None:
        await ws.close(code=code)

    async with scripted(behave) as url, await connect(url) as client:
        with pytest.raises(SignalRestarting, match=f"{url} restarts, and has asked this side to connect again") as told:
            await client.receive()
        assert told.value.hint == "", "the user has nothing to do"
        with pytest.raises(SignalUnreachable, match="lost"):
            await client.receive()


async def test_a_server_that_drains_does_not_let_us_in_and_asks_us_to_connect_again() -> None:
    async with SignalServer(port=0) as server, await connect(server.url) as client:
        await server.drain(0)
        with pytest.raises(SignalRestarting, match="restarts"):
            await join(client)


async def test_a_server_that_has_gone_silent_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "HEARTBEAT", 0.2)

    silence = asyncio.Event()

    async def behave(_ws: web.WebSocketResponse) -> None:
        await silence.wait()

    async with scripted(behave) as url, await connect(url) as client:
        with pytest.raises(SignalUnreachable, match="lost"):
            await client.receive()
        silence.set()


def test_the_heartbeat_finds_a_dead_server_within_20_s() -> None:
    assert client_module.HEARTBEAT * 1.5 <= 20


async def test_closing_waits_for_no_server_that_is_silent() -> None:
    silence = asyncio.Event()

    async def behave(_ws: web.WebSocketResponse) -> None:
        await silence.wait()

    async with scripted(behave) as url:
        client = await connect(url, HURRY)
        async with asyncio.timeout(5):
            await client.aclose()
            await client.aclose()
        silence.set()


async def test_a_receive_that_is_cancelled_leaves_a_client_that_closes() -> None:
    async with our_server() as url, await connect(url) as client:
        receiving = asyncio.create_task(client.receive())
        await asyncio.sleep(0.05)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving


async def failure(url: str, timeouts: Timeouts = PATIENCE) -> SignalError:
    with pytest.raises(SignalUnreachable) as caught:
        await connect(url, timeouts)
    assert caught.value.hint
    return caught.value


async def test_nothing_that_listens_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    error = await failure(f"ws://127.0.0.1:{port}")
    assert str(error) == f"Cannot reach the signal server ws://127.0.0.1:{port}: nothing listens there."
    assert "llmtunnel signal" in error.hint


async def test_a_name_that_is_not_known_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nowhere(*_args: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", nowhere)
    error = await failure("wss://no.such.name.invalid")
    assert str(error) == "Cannot look up no.such.name.invalid."
    assert error.hint == "Is this machine online, and is --signal right?"
    assert (await failure(DEFAULT_SIGNAL)).hint == "Is this machine online?"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert (await failure(DEFAULT_SIGNAL)).hint.endswith("On Kaggle, switch Internet on in the notebook's settings.")


@pytest.mark.parametrize("url", ["ws://[::1", "nonsense", "ws://"])
async def test_what_is_no_address_is_said(url: str) -> None:
    assert "not a signal server's address" in str(await failure(url))


async def test_a_web_server_is_told_from_a_signal_server() -> None:
    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=404)

    async with serving(web.Server(answer)) as url:
        assert "is not a signal server: it answered with HTTP status 404." in str(await failure(url))


async def test_a_server_that_is_away_is_told_from_a_web_server_by_what_the_one_in_front_of_it_says() -> None:
    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=503)

    async with serving(web.Server(answer)) as url:
        error = await failure(url)
        assert str(error) == f"The signal server {url} is not available now: the answer was HTTP status 503."


async def test_a_redirect_is_said_with_both_addresses_and_is_not_followed() -> None:
    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=307, headers={"Location": "https://other.example:8443/signal?key=1"})

    async with serving(web.Server(answer)) as url:
        error = await failure(url)
        said = f"The signal server {url} redirects to wss://other.example:8443/signal,"
        assert str(error) == f"{said} and llmtunnel does not follow redirects."
        assert "--signal wss://other.example:8443/signal." in error.hint


@asynccontextmanager
async def raw(said: bytes, *, hang: bool = False) -> AsyncIterator[str]:
    """A server that says something which is not HTTP, and hangs up or does not."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(said)
        if hang:
            await gone.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        gone.set()


async def test_a_server_of_another_protocol_is_told_from_a_signal_server() -> None:
    async with raw(b"220 mail.example.org ESMTP\r\n") as address:
        assert str(await failure(f"ws://{address}")).endswith("is not a signal server: it did not answer with HTTP.")
    async with raw(b"") as address:
        assert "closed the connection" in str(await failure(f"ws://{address}"))


async def test_a_server_that_takes_a_connection_and_says_nothing_is_given_up() -> None:
    async with raw(b"", hang=True) as address:
        assert "did not answer in time" in str(await failure(f"ws://{address}", HURRY))


async def test_wss_to_a_server_without_tls_is_said() -> None:
    async with our_server() as url:
        error = await failure(url.replace("ws:", "wss:", 1))
        assert "does not speak TLS" in str(error)
        assert "ws://" in error.hint


async def test_an_https_proxy_of_the_environment_is_used_for_wss(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set_result(await reader.readline())
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        error = await failure("wss://signal.example.org")
        assert await asked == b"CONNECT signal.example.org:443 HTTP/1.1\r\n"
        assert "403" in str(error)


async def test_a_certificate_that_nobody_has_signed_is_said(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(self_signed(tmp_path))
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context) as server:
        error = await failure(f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        assert "is not trusted" in str(error)


async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def self_signed(folder: Path) -> Path:
    """A PEM file with a key and its certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
    ).sign(key, hashes.SHA256())
    encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file = folder / "server.pem"
    file.write_bytes(key.private_bytes(*encoding) + certificate.public_bytes(serialization.Encoding.PEM))
    return file
