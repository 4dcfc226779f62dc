"""One connection to an upstream whose socket each test holds itself: what came is read, whatever breaks."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from llmtunnel.config import KIB, MIB
from llmtunnel.endpoints import upstream_connection
from llmtunnel.endpoints.upstream_connection import UpstreamConnection, connect
from llmtunnel.errors import UpstreamBroken
from tests.support.scripted_upstream import PATIENCE, reset

OnEachLoop = Callable[..., Any]
ANSWER = b"HTTP/1.1 413 Too Large\r\n\r\n" + b"x" * 40_000


@pytest.fixture(params=["plain", "TLS 1.2", "TLS 1.3"])
def contexts(request: pytest.FixtureRequest, certificate: Path) -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
    """The client's context and the server's; None without TLS."""
    if request.param == "plain":
        return None
    ours = ssl.create_default_context(cafile=str(certificate))
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate)
    theirs.maximum_version = ssl.TLSVersion.TLSv1_2 if request.param == "TLS 1.2" else ssl.TLSVersion.TLSv1_3
    return ours, theirs


Contexts = tuple[ssl.SSLContext, ssl.SSLContext] | None


@asynccontextmanager
async def connected(contexts: Contexts) -> AsyncIterator[tuple[UpstreamConnection, socket.socket]]:
    """A connection, and the blocking socket at its other end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours, theirs = contexts or (None, None)
        connecting = asyncio.create_task(connect(*server.getsockname(), tls=ours, on_lost=lambda _: None))
        peer = (await asyncio.to_thread(server.accept))[0]
        peer.settimeout(10)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # all that is sent has come before a reset
        if theirs is not None:
            peer = await asyncio.to_thread(theirs.wrap_socket, peer, server_side=True)
    connection = await connecting
    with peer:
        try:
            yield connection, peer
        finally:
            connection.abort()
            await connection.lost.wait()


async def read_to_end(connection: UpstreamConnection) -> bytes:
    data = b""
    while piece := await connection.read():
        data += piece
    return data


# -- an answer that came before the connection broke


@pytest.mark.usefixtures("on_each_loop")
async def test_what_came_before_a_failed_write_is_read(contexts: Contexts) -> None:
    async with connected(contexts) as (connection, peer):
        peer.sendall(ANSWER)
        reset(peer)
        connection.write_now(b"the rest of an upload")  # the loop has not seen any of it
        data = b""
        with pytest.raises(UpstreamBroken):  # what only the end delimits must not look whole
            while piece := await connection.read():
                data += piece
        assert data == ANSWER
        with pytest.raises(UpstreamBroken):
            await connection.write(b"x")


@pytest.mark.usefixtures("on_each_loop")
async def test_what_came_while_nobody_read_is_read_after_a_failed_write(contexts: Contexts) -> None:
    """The connection has stopped reading, so a part of the answer lies in the kernel."""

    async with connected(contexts) as (connection, peer):
        peer.sendall(b"1" * 100 * KIB)
        await asyncio.sleep(0.1)
        peer.sendall(b"2" * 50 * KIB)
        reset(peer)
        connection.write_now(b"x")
        await connection.lost.wait()
        data = b""
        with pytest.raises(UpstreamBroken):
            while piece := await connection.read():
                data += piece
        assert data == b"1" * 100 * KIB + b"2" * 50 * KIB


@pytest.mark.usefixtures("on_each_loop")
async def test_an_answer_that_ends_in_order_is_whole_although_writing_fails(contexts: Contexts) -> None:
    async with connected(contexts) as (connection, peer):
        peer.sendall(ANSWER)
        await asyncio.to_thread(close, peer)
        with pytest.raises(UpstreamBroken):
            async with asyncio.timeout(PATIENCE):
                while True:
                    await connection.write(b"x" * KIB)
                    await asyncio.sleep(0.001)
        assert await read_to_end(connection) == ANSWER


@pytest.mark.usefixtures("on_each_loop")
async def test_what_nobody_reads_after_a_failed_write_is_closed(contexts: Contexts) -> None:
    """A socket that stays open is a warning, and fails the test."""

    async with connected(contexts) as (connection, peer):
        peer.sendall(ANSWER)
        reset(peer)
        connection.write_now(b"x")
        await connection.lost.wait()


# -- the end


def close(peer: socket.socket) -> None:
    """In order: over TLS with close_notify."""
    if isinstance(peer, ssl.SSLSocket):
        peer.settimeout(0.2)
        with suppress(OSError):  # it waits for our close_notify
            peer.unwrap()
    else:
        peer.shutdown(socket.SHUT_WR)
    peer.close()


@pytest.mark.usefixtures("on_each_loop")
async def test_an_end_in_order_is_an_end(contexts: Contexts) -> None:
    async with connected(contexts) as (connection, peer):
        peer.sendall(ANSWER)
        await asyncio.to_thread(close, peer)
        assert await read_to_end(connection) == ANSWER


@pytest.mark.parametrize("contexts", ["TLS 1.2", "TLS 1.3"], indirect=True)
@pytest.mark.usefixtures("on_each_loop")
async def test_an_end_without_close_notify_is_an_error_behind_what_came(contexts: Contexts) -> None:
    async with connected(contexts) as (connection, peer):
        peer.sendall(ANSWER)
        peer.shutdown(socket.SHUT_WR)
        data = b""
        while len(data) < len(ANSWER):
            data += await connection.read()
        assert data == ANSWER
        with pytest.raises(UpstreamBroken, match="close_notify"):
            await connection.read()


@pytest.mark.usefixtures("on_each_loop")
async def test_after_our_end_the_other_direction_goes_on(contexts: Contexts) -> None:
    async with connected(contexts) as (connection, peer):
        await connection.write(b"asked")
        connection.end()
        assert await asyncio.to_thread(peer.recv, 100) == b"asked"
        assert await asyncio.to_thread(peer.recv, 100) == b""
        peer.sendall(ANSWER)
        await asyncio.to_thread(close, peer)
        assert await read_to_end(connection) == ANSWER


@pytest.mark.usefixtures("on_each_loop")
async def test_an_end_after_a_reset_that_the_loop_has_not_seen_is_no_error(contexts: Contexts) -> None:
    async with connected(contexts) as (connection, peer):
        reset(peer)
        connection.end()
        with pytest.raises(UpstreamBroken):
            await connection.read()


@pytest.mark.usefixtures("on_each_loop")
async def test_much_passes_both_ways_at_once(contexts: Contexts) -> None:
    size = 8 * MIB

    def echo(peer: socket.socket) -> None:
        for _ in range(size // (64 * KIB)):
            received = b""
            while len(received) < 64 * KIB:
                received += peer.recv(64 * KIB - len(received))
            peer.sendall(received)

    async with connected(contexts) as (connection, peer):
        data = bytes(range(256)) * (size // 256)
        echoing = asyncio.create_task(asyncio.to_thread(echo, peer))

        async def send() -> None:
            for start in range(0, size, 100_000):
                await connection.write(data[start : start + 100_000])

        sending = asyncio.create_task(send())
        received = bytearray()
        while len(received) < size:
            received += await connection.read()
        assert received == data
        await asyncio.gather(sending, echoing)


@pytest.mark.usefixtures("on_each_loop")
async def test_tls_tickets_are_no_data_on_an_idle_connection(certificate: Path) -> None:
    """TLS 1.3 sends tickets behind the handshake: bytes of TLS, not of the upstream."""
    ours = ssl.create_default_context(cafile=str(certificate))
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate)

    async with connected((ours, theirs)) as (connection, peer):
        connection.idle = True
        await asyncio.sleep(0.1)
        assert connection.usable
        close(peer)
        await connection.lost.wait()


# -- the handshake


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.usefixtures("on_each_loop")
async def test_a_server_that_leaves_in_the_handshake_is_an_error(how: str, certificate: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        context = ssl.create_default_context(cafile=str(certificate))
        connecting = asyncio.create_task(connect(*server.getsockname(), tls=context, on_lost=lambda _: None))
        peer = (await asyncio.to_thread(server.accept))[0]
        peer.close() if how == "end" else reset(peer)
        with pytest.raises(OSError):
            await connecting


@pytest.mark.usefixtures("on_each_loop")
async def test_a_descriptor_is_closed_once_where_the_connection_is_reset_at_once(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first write fails within connection_made; uvloop then loses track of the socket that it was given."""

    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        reset(server.accept()[0])

        async def dialled(host: str, port: int) -> socket.socket:
            return ours

        monkeypatch.setattr(upstream_connection, "_dial", dialled)
        context = ssl.create_default_context(cafile=str(certificate))
        with pytest.raises(OSError):
            await connect("localhost", 1, tls=context, on_lost=lambda _: None)
        assert ours.fileno() == -1


# -- the race of a name's addresses


@contextmanager
def listening(host: str, port: int) -> Iterator[int]:
    """An address that takes connections; its port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as server:
        yield server.getsockname()[1]


@contextmanager
def silent(host: str, port: int) -> Iterator[None]:
    """An address that does not answer: its queue of connections is full."""
    with ExitStack() as stack:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server = stack.enter_context(socket.create_server((host, port), family=family, backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket(family))
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield


async def dial(*hosts: str, port: int, tls: ssl.SSLContext | None = None) -> str:
    """Connect to a name that has these addresses, in this order; the one that it became."""
    loop = asyncio.get_running_loop()
    look_up = loop.getaddrinfo

    async def getaddrinfo(host: Any, port: Any, **options: Any) -> list[Any]:
        asked = hosts if host == "localhost" else [host]
        return [found for each in asked for found in await look_up(each, port, **options)]

    loop.getaddrinfo = getaddrinfo  # type: ignore[assignment]
    lost = asyncio.Event()
    async with asyncio.timeout(PATIENCE):
        connection = await connect("localhost", port, tls=tls, on_lost=lambda _: lost.set())
    address = connection.address
    connection.abort()
    await lost.wait()
    return address


@pytest.mark.usefixtures("on_each_loop")
async def test_a_dead_address_does_not_hold_up_a_good_one() -> None:
    with listening("127.0.0.1", 0) as port, silent("::1", port):
        assert await dial("::1", "127.0.0.1", port=port) == "127.0.0.1"  # the dead one would take for ever


@pytest.mark.usefixtures("on_each_loop")
async def test_of_many_addresses_that_refuse_or_are_silent_the_good_one_is_found() -> None:
    with listening("127.0.0.1", 0) as port, silent("::1", port), silent("127.0.0.3", port):
        hosts = ["::1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.1"]
        assert await dial(*hosts, port=port) == "127.0.0.1"


@pytest.mark.usefixtures("on_each_loop")
async def test_families_take_turns() -> None:
    """A network without IPv6 must not cost a wait for each of many IPv6 addresses."""
    with listening("127.0.0.1", 0) as port, silent("::1", port):
        # One after the other, each 0.25 s after the last, they would take a minute.
        assert await dial(*["::1"] * 240, "127.0.0.1", port=port) == "127.0.0.1"


@pytest.mark.usefixtures("on_each_loop")
async def test_where_all_refuse_that_is_the_error() -> None:
    with listening("127.0.0.1", 0) as port:
        pass
    with pytest.raises(ConnectionRefusedError):
        await dial("127.0.0.2", "127.0.0.1", port=port)


@pytest.mark.parametrize("after", [0.0, 0.1, 0.3])
def test_a_race_that_is_given_up_leaves_no_socket(on_each_loop: OnEachLoop, after: float) -> None:
    async def main(port: int) -> None:
        racing = asyncio.create_task(dial("::1", "127.0.0.2", port=port))
        await asyncio.sleep(after)
        racing.cancel()
        await asyncio.wait((racing,))
        assert racing.cancelled()

    with listening("127.0.0.1", 0) as port, silent("::1", port), silent("127.0.0.2", port):
        on_each_loop(main(port))


@pytest.mark.parametrize(
    ("address", "given"),
    [
        (("fe80::1", 80, 0, 2), ("fe80::1%2", 80, 0, 2)),
        (("::1", 80, 0, 0), ("::1", 80)),
        (("127.0.0.1", 80), ("127.0.0.1", 80)),
    ],
)
def test_a_link_local_address_is_reached_by_its_zone(address: Any, given: Any) -> None:
    """Most machines have none that they reach themselves by, so what the loop is given is looked at."""
    assert upstream_connection._with_zone(*address) == given
