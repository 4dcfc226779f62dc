"""The relay's client, through a real signal server and through others that only look like one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from llmtunnel.config import Limits, Timeouts
from llmtunnel.errors import ConnectFailed
from llmtunnel.paths import Path
from llmtunnel.signaling.client import SignalClient
from llmtunnel.signaling.messages import Joined, PeerJoined, PipeTicket, RelayOffer, pipe
from llmtunnel.status import Role
from llmtunnel.transport.base import MAX_MESSAGE, Binding, Channel
from llmtunnel.transport.pipe import TlsChannel
from llmtunnel.transport.relay import PROTOCOL, SocketTransport, open_relay
from signal_server.limits import Limits as ServerLimits
from signal_server.limits import RelayLimits
from signal_server.server import SignalServer

from ..support.embedded import until
from ..support.pipes import LEFT, PATIENCE, RIGHT, Ear, close, pipe_of

Run = Callable[..., Any]
QUICK = Timeouts(signal=2.0, connect=1.0, close=0.3)
PATIENT = Timeouts(signal=PATIENCE, connect=PATIENCE, close=0.3)


@pytest.fixture(name="run")
def run_on_each_loop(on_each_loop: Run) -> Run:
    return on_each_loop


@asynccontextmanager
async def meeting(limits: ServerLimits | None = None) -> AsyncIterator[tuple[SignalServer, str, str]]:
    """A signal server, and the tickets that a proxy and a serve have got from it."""
    async with SignalServer("127.0.0.1", 0, limits=limits) as server:
        serve, _ = await member(server.url, Role.SERVE)
        proxy, joined = await member(server.url, Role.PROXY)
        assert isinstance(await serve.receive(), PeerJoined)
        await proxy.send(pipe(joined.peers[0].peer_id))
        mine, others = await proxy.receive(), await serve.receive()
        assert isinstance(mine, PipeTicket) and isinstance(others, PipeTicket)
        assert mine.peer_id == joined.peers[0].peer_id and others.peer_id == joined.peer_id
        yield server, mine.ticket, others.ticket
        await serve.aclose()
        await proxy.aclose()


async def member(url: str, role: Role) -> tuple[SignalClient, Joined]:
    client = await SignalClient.connect(url, timeouts=QUICK, limits=Limits())
    return client, await client.join("R", role=role, instance=role)


@asynccontextmanager
async def relayed(limits: ServerLimits | None = None) -> AsyncIterator[tuple[Channel, Channel]]:
    async with meeting(limits) as (server, mine, others):
        left, right = await asyncio.gather(
            open_relay(server.url, mine, identity=LEFT, server=False, timeouts=PATIENT),
            open_relay(server.url, others, identity=RIGHT, server=True, timeouts=PATIENT),
        )
        yield left, right
        await close(left, right)


def relay(**limits: float) -> ServerLimits:
    return ServerLimits(close=0.3, relay=RelayLimits(**limits))  # type: ignore[arg-type]


@pytest.mark.usefixtures("on_each_loop")
async def test_a_server_says_what_its_relay_carries() -> None:
    async with SignalServer("127.0.0.1", 0, limits=relay(rate=5, total=6, idle=7)) as server:
        client, joined = await member(server.url, Role.PROXY)
        assert joined.relay == RelayOffer(rate=5, total=6, idle=7)
        await client.aclose()


@pytest.mark.usefixtures("on_each_loop")
async def test_two_peers_meet_through_the_relay_and_see_each_others_certificate() -> None:
    async with relayed() as (left, right):
        assert left.binding == Binding(local=LEFT.fingerprint, remote=RIGHT.fingerprint)
        assert right.binding == Binding(local=RIGHT.fingerprint, remote=LEFT.fingerprint)
        assert left.path is Path.RELAY
        assert left.address == right.address and left.address.startswith("127.0.0.1:")


@pytest.mark.usefixtures("on_each_loop")
async def test_bulk_passes_both_ways_and_the_queue_stays_short() -> None:
    async with relayed(relay(rate=1 << 40, rate_all=1 << 40)) as (left, right):
        near, far = Ear(), Ear()
        for end, ear in ((left, near), (right, far)):
            end.attach(ear)
            end.trust()
        sent = [bytes([number]) * MAX_MESSAGE for number in range(100)]

        async def bulk(end: Channel, ear: Ear) -> None:
            for message in sent:
                await ear.send(end, message)
                assert pipe_of(end).get_write_buffer_size() < 3 * MAX_MESSAGE

        await asyncio.gather(bulk(left, near), bulk(right, far))
        await far.until(lambda: len(far.messages) == len(sent))
        await near.until(lambda: len(near.messages) == len(sent))
        assert near.messages == far.messages == sent


@pytest.mark.usefixtures("on_each_loop")
async def test_an_orderly_close_is_told_from_a_cut() -> None:
    async with relayed() as (left, right):
        far = Ear()
        right.attach(far)
        left.send(b"last")
        await left.aclose()
        await far.until(lambda: far.closed)
        assert (far.messages, far.closed) == ([b"last"], ["closed by the peer"])


@pytest.mark.usefixtures("on_each_loop")
async def test_what_the_relay_says_as_it_closes_is_told() -> None:
    async with relayed(relay(idle=0.3)) as (left, right):
        near, far = Ear(), Ear()
        left.attach(near)
        right.attach(far)
        await near.until(lambda: near.closed)
        await far.until(lambda: far.closed)
        expected = "the connection broke: the relay says: nothing passed for 0.3 s"
        assert near.closed == far.closed == [expected]


@pytest.mark.usefixtures("on_each_loop")
async def test_a_relay_that_dies_is_a_cut() -> None:
    async with meeting() as (server, mine, others):
        left, right = await asyncio.gather(
            open_relay(server.url, mine, identity=LEFT, server=False, timeouts=PATIENT),
            open_relay(server.url, others, identity=RIGHT, server=True, timeouts=PATIENT),
        )
        near = Ear()
        left.attach(near)
        pipe_of(right).abort()
        await near.until(lambda: near.closed)
        assert "cut" in near.closed[0] or "broke" in near.closed[0]
        await close(left, right)


def test_a_ticket_that_is_none_is_said(run: Run) -> None:
    async def main() -> None:
        async with SignalServer("127.0.0.1", 0) as server:
            url = server.url
            with pytest.raises(ConnectFailed, match="rejected our ticket"):
                await open_relay(url, "x", identity=LEFT, server=False, timeouts=QUICK)
        with pytest.raises(ConnectFailed, match="cannot connect to the relay"):
            await open_relay(url, "x", identity=LEFT, server=False, timeouts=QUICK)

    async def closed() -> None:
        async with meeting(relay(pipes_each=1)) as (server, mine, others):
            url = server.url
            waiting = asyncio.create_task(open_relay(url, mine, identity=LEFT, server=False, timeouts=QUICK))
            await until(lambda: server.relay)  # it has its place
            with pytest.raises(ConnectFailed, match="no free pipe"):
                await open_relay(url, others, identity=RIGHT, server=True, timeouts=QUICK)
            with pytest.raises(ConnectFailed):
                await waiting

    run(main())
    run(closed())


@pytest.mark.usefixtures("on_each_loop")
async def test_a_peer_that_does_not_come_is_waited_for_so_long() -> None:
    async with meeting() as (server, mine, _):
        with pytest.raises(ConnectFailed, match="not finish the handshake within 1 s"):
            await open_relay(server.url, mine, identity=LEFT, server=False, timeouts=QUICK)
    async with meeting(relay(ticket=0.3)) as (server, mine, _):
        with pytest.raises(ConnectFailed, match="the connection was cut"):
            await open_relay(server.url, mine, identity=LEFT, server=False, timeouts=QUICK)


@pytest.mark.usefixtures("on_each_loop")
async def test_giving_up_while_it_is_being_opened_leaves_nothing() -> None:
    async with meeting() as (server, mine, _):
        for rounds in (*range(30), 1000):
            opening = asyncio.create_task(open_relay(server.url, mine, identity=LEFT, server=False, timeouts=QUICK))
            for _ in range(rounds):
                await asyncio.sleep(0)
            opening.cancel()
            with pytest.raises((asyncio.CancelledError, ConnectFailed)):
                await opening
    del opening
    gc.collect()  # a socket that was left fails this test, not a later one


@pytest.mark.usefixtures("on_each_loop")
async def test_an_https_proxy_of_the_environment_is_used_for_wss(monkeypatch: pytest.MonkeyPatch) -> None:
    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set_result(await reader.readline())
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    asked: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    async with await asyncio.start_server(proxy, "127.0.0.1", 0) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with pytest.raises(
            ConnectFailed,
            match=r"The HTTP proxy http://127\.0\.0\.1:\d+ refused to connect to .* \(HTTP status 403\)",
        ):
            await open_relay("wss://signal.example.org", "x", identity=LEFT, server=False, timeouts=QUICK)
        assert await asked == b"CONNECT signal.example.org:443 HTTP/1.1\r\n"


@asynccontextmanager
async def impostor(answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """An HTTP server that is not a relay."""
    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.mark.usefixtures("on_each_loop")
async def test_a_server_that_knows_no_pipes_is_no_relay() -> None:
    async def takes_anything(request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        return socket

    async def web_page(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text="hello")

    for answer, said in ((takes_anything, "is not a relay"), (web_page, "HTTP status 200")):
        async with impostor(answer) as url:
            with pytest.raises(ConnectFailed, match=said):
                await open_relay(url, "x", identity=LEFT, server=False, timeouts=QUICK)


@pytest.mark.usefixtures("on_each_loop")
async def test_a_relay_that_speaks_for_itself_gets_no_further_than_the_handshake() -> None:
    async def talks(request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=(PROTOCOL,))
        await socket.prepare(request)
        for data in (b"\x16\x03\x03\x00\x05hello", bytes(60_000)):
            await socket.send_bytes(data)
        await socket.receive()
        return socket

    async with impostor(talks) as url:
        with pytest.raises(ConnectFailed, match=r"over relay: the other end does not speak TLS 1\.3"):
            await open_relay(url, "x", identity=LEFT, server=False, timeouts=QUICK)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.usefixtures("on_each_loop")
async def test_a_ticket_goes_nowhere_else_when_the_relay_redirects(status: int) -> None:
    heard = []

    async def hears(request: web.BaseRequest) -> web.StreamResponse:
        heard.append(request.headers.get("Sec-WebSocket-Protocol"))
        return web.Response()

    async with impostor(hears) as target:

        async def redirects(_request: web.BaseRequest) -> web.StreamResponse:
            return web.Response(status=status, headers={"Location": target.replace("ws", "http", 1)})

        async with impostor(redirects) as url:
            with pytest.raises(ConnectFailed, match=f"the relay redirects to {target}, and llmtunnel does not"):
                await open_relay(url, "ticket", identity=LEFT, server=False, timeouts=QUICK)
    assert heard == []


@pytest.mark.usefixtures("on_each_loop")
async def test_text_from_a_relay_ends_the_channel() -> None:
    async def texts(request: web.BaseRequest) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=(PROTOCOL,))
        await socket.prepare(request)
        await socket.send_str("text")
        await socket.receive()
        return socket

    async with impostor(texts) as url:
        with pytest.raises(ConnectFailed, match="the relay closed the connection"):
            await open_relay(url, "x", identity=LEFT, server=False, timeouts=QUICK)


@pytest.mark.usefixtures("on_each_loop")
async def test_a_pipe_whose_socket_does_not_close_in_order_is_over_all_the_same() -> None:
    class Broken:
        def __init__(self) -> None:
            self.socket = self

        def get_extra_info(self, name: str) -> None:
            return None

        async def receive(self) -> None:
            raise ConnectionResetError("gone")

        async def send_bytes(self, data: bytes) -> None:
            raise ConnectionResetError("gone")

        async def aclose(self, patience: float) -> None:
            raise OSError("cannot be closed")

    channel = TlsChannel(LEFT, server=False, path=Path.RELAY)
    _pipe = SocketTransport(Broken(), channel, patience=1)  # type: ignore[arg-type]
    with pytest.raises(ConnectFailed, match="gone"):
        await channel.stand(PATIENCE)
    async with asyncio.timeout(PATIENCE):
        await channel.aclose()
