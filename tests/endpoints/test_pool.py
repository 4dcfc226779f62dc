from __future__ import annotations

import asyncio
import select
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtunnel.config import MIB, Limits, Timeouts
from llmtunnel.endpoints.pool import UpstreamPool
from llmtunnel.endpoints.upstream_connection import READ_AHEAD, UpstreamConnection, _is_readable
from llmtunnel.errors import SettingError, UpstreamBroken, UpstreamUnreachable
from llmtunnel.session.stream import Client
from llmtunnel.upstream import Upstream
from tests.conftest import raised, run
from tests.support.scripted_upstream import PATIENCE, Peer, Scripted


@asynccontextmanager
async def pool_of(
    upstream: Upstream, *, timeouts: Timeouts | None = None, limits: Limits | None = None
) -> AsyncIterator[UpstreamPool]:
    pool = UpstreamPool(upstream, timeouts=timeouts or Timeouts(), limits=limits or Limits())
    try:
        yield pool
    finally:
        await pool.aclose()


@asynccontextmanager
async def plain(
    *, timeouts: Timeouts | None = None, limits: Limits | None = None
) -> AsyncIterator[tuple[Scripted, UpstreamPool]]:
    scripted = Scripted()
    async with scripted.listening():
        upstream = Upstream.parse(f"127.0.0.1:{scripted.port}")
        async with pool_of(upstream, timeouts=timeouts, limits=limits) as pool:
            yield scripted, pool


async def gone(pool: UpstreamPool) -> None:
    """Wait until no connection is idle."""
    async with asyncio.timeout(PATIENCE):
        while pool.idle:  # noqa: ASYNC110 - the pool has nobody to tell but its own next exchange
            await asyncio.sleep(0.005)


async def test_a_connection_that_was_released_is_its_clients_alone() -> None:
    async with plain() as (scripted, pool):
        mine, yours = Client(), Client()
        one, two = await pool.acquire(mine), await pool.acquire(yours)
        assert not one.reused
        pool.release(one, mine)
        assert await pool.acquire(yours) not in (one, two)
        pool.release(two, yours)
        assert pool.idle == 2
        assert await pool.acquire(yours) is two
        assert await pool.acquire(mine) is one
        assert one.reused
        assert await pool.acquire(Client()) not in (one, two)
        for _ in range(4):
            await scripted.peer()
        assert scripted.accepted == 4


async def test_a_fresh_connection_takes_the_place_of_the_one_that_is_kept() -> None:
    async with plain() as (scripted, pool):
        client = Client()
        kept = await pool.acquire(client)
        peer = await scripted.peer()
        pool.release(kept, client)
        fresh = await pool.acquire(client, fresh=True)
        assert (fresh.reused, kept.lost.is_set(), pool.idle) == (False, True, 0)
        assert await peer.ended()


async def test_a_client_that_leaves_takes_its_connection_with_it_and_no_other() -> None:
    async with plain() as (scripted, pool):
        leaving, staying = Client(), Client()
        for client in (leaving, staying):
            pool.release(await pool.acquire(client), client)
        peers = [await scripted.peer(), await scripted.peer()]
        leaving.leave()
        assert await peers[0].ended()
        assert pool.idle == 1
        assert (await pool.acquire(staying)).reused


async def test_for_a_client_that_has_left_nothing_is_kept() -> None:
    async with plain() as (scripted, pool):
        client = Client()
        connection = await pool.acquire(client)
        client.leave()
        assert not connection.lost.is_set(), "its request may be let finish"
        pool.release(connection, client)
        assert pool.idle == 0
        assert await (await scripted.peer()).ended()


@pytest.mark.parametrize("how", ["end", "data"])
async def test_what_the_event_loop_has_not_seen_yet_counts_before_a_connection_is_used_again(how: str) -> None:
    async with plain() as (scripted, pool):
        client = Client()
        kept = await pool.acquire(client)
        peer = await scripted.peer()
        pool.release(kept, client)
        raw: socket.socket = peer.writer.get_extra_info("socket")
        if how == "data":
            peer.say(b"HTTP/1.1 408 Slow\r\n\r\n")
        else:
            raw.shutdown(socket.SHUT_WR)
        assert kept.usable, "the loop has not had a turn to read"
        assert await pool.acquire(client) is not kept
        assert kept.lost.is_set()


@pytest.mark.parametrize("poll", [True, False], ids=["poll", "select, as on Windows"])
@pytest.mark.parametrize("event", ["nothing", "data", "end", "reset"])
def test_a_socket_tells_without_being_read_whether_something_has_come(
    monkeypatch: pytest.MonkeyPatch, *, poll: bool, event: str
) -> None:
    if not poll:
        monkeypatch.delattr(select, "poll", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.create_connection(listening.getsockname()) as near:
        far, _ = listening.accept()
        with far:
            if event == "data":
                far.send(b"x")
            elif event == "end":
                far.shutdown(socket.SHUT_WR)
            elif event == "reset":
                far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                far.close()
            assert _is_readable(near.fileno()) is (event != "nothing")


@pytest.mark.parametrize("how", ["end", "reset", "data"])
async def test_an_idle_connection_that_says_anything_is_thrown_away(how: str) -> None:
    async with plain() as (scripted, pool):
        client = Client()
        connection = await pool.acquire(client)
        peer = await scripted.peer()
        pool.release(connection, client)
        if how == "data":
            peer.say(b"HTTP/1.1 408 Slow\r\n\r\n")
        else:
            peer.rst() if how == "reset" else peer.close()
        await gone(pool)
        assert await pool.acquire(client) is not connection


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with plain(timeouts=Timeouts(idle_upstream=0.05)) as (scripted, pool):
        client = Client()
        pool.release(await pool.acquire(client), client)
        assert await (await scripted.peer()).ended()
        await gone(pool)


async def test_of_more_connections_than_are_kept_the_one_kept_longest_closes() -> None:
    async with plain(limits=Limits(idle_upstream=2)) as (scripted, pool):
        clients = [Client() for _ in range(4)]
        connections = [await pool.acquire(client) for client in clients]
        peers = [await scripted.peer() for _ in connections]
        for connection, client in zip(connections, clients, strict=True):
            pool.release(connection, client)
        assert pool.idle == 2
        assert [await peer.ended() for peer in peers[:2]] == [True, True]
        assert [await pool.acquire(client) for client in clients[2:]] == connections[2:]


NAMES = ["acquire", "acquire fresh", "release", "leave", "say", "end"]
OPERATIONS = st.tuples(st.sampled_from(NAMES), st.integers(0, 3))


@settings(max_examples=60)
@given(st.lists(OPERATIONS, max_size=30))
def test_whatever_happens_a_connection_serves_one_client_and_of_its_own_a_client_has_one_kept(
    operations: list[tuple[str, int]],
) -> None:
    async def main() -> None:
        async with plain(limits=Limits(idle_upstream=3)) as (scripted, pool):
            clients = [Client() for _ in range(4)]
            owner: dict[UpstreamConnection, tuple[Client, Peer]] = {}
            used: list[list[UpstreamConnection]] = [[] for _ in clients]
            for name, number in operations:
                client = clients[number]
                theirs = [peer for who, peer in owner.values() if who is client]
                if name.startswith("acquire"):
                    connection = await pool.acquire(client, fresh=name.endswith("fresh"))
                    if connection not in owner:
                        owner[connection] = client, await scripted.peer()
                    assert owner[connection][0] is client
                    assert connection not in used[number]
                    assert connection.reused <= (name == "acquire")
                    used[number].append(connection)
                elif name == "release" and used[number]:
                    pool.release(used[number].pop(), client)
                elif name == "leave":
                    client.leave()
                    clients[number] = Client()
                    used[number].clear()
                elif theirs and name == "say":
                    theirs[-1].say(b"late")
                elif theirs and name == "end":
                    theirs[-1].close()
                assert pool.idle <= 3
                assert set(pool._kept) <= set(clients)
            for client in clients:
                client.leave()
            await gone(pool)

    run(main())


async def test_a_connection_with_something_unread_is_not_kept() -> None:
    async with plain() as (scripted, pool):
        client = Client()
        connection = await pool.acquire(client)
        peer = await scripted.peer()
        peer.say(b"left over")
        await asyncio.sleep(0.05)
        pool.release(connection, client)
        assert pool.idle == 0
        assert await peer.ended()


async def test_closing_the_pool_closes_connections_in_use_and_idle() -> None:
    async with plain() as (scripted, pool):
        client = Client()
        used, idle = await pool.connect(), await pool.acquire(client)
        peers = [await scripted.peer(), await scripted.peer()]
        pool.release(idle, client)
        await pool.aclose()
        assert await asyncio.gather(*(peer.ended() for peer in peers)) == [True, True]
        with pytest.raises(UpstreamBroken):
            await used.read()
        await pool.aclose()


# -- a connection


async def test_what_came_before_an_end_is_read_first() -> None:
    async with plain() as (scripted, pool):
        connection = await pool.connect()
        peer = await scripted.peer()
        peer.say(b"abc")
        peer.close()
        await asyncio.sleep(0.05)
        assert [await connection.read(), await connection.read(), await connection.read()] == [b"abc", b"", b""]


async def test_a_reset_is_an_error_for_the_reader_and_the_writer() -> None:
    async with plain() as (scripted, pool):
        connection = await pool.connect()
        (await scripted.peer()).rst()
        for call in (connection.read, lambda: connection.write(b"x")):
            [error, *_] = await raised(call)
            assert isinstance(error, UpstreamBroken)
        connection.end()
        connection.abort()


async def test_an_abort_wakes_whoever_waits_with_its_reason() -> None:
    async with plain() as (_, pool):
        connection = await pool.connect()
        waiting = asyncio.create_task(connection.read())
        await asyncio.sleep(0)
        connection.abort(UpstreamUnreachable("enough"))
        with pytest.raises(UpstreamUnreachable, match="enough"):
            await waiting
        await raised(connection.read)


async def test_a_writer_waits_while_the_upstream_does_not_read() -> None:
    async with plain() as (scripted, pool):
        connection = await pool.connect()
        peer = await scripted.peer()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        written = 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                while True:
                    await connection.write(b"x" * 65536)
                    written += 65536
        assert written < 20 * MIB
        peer.writer.transport.resume_reading()  # type: ignore[attr-defined]
        reading = asyncio.create_task(peer.exactly(written + 65536 + 1))  # the write that waited was queued
        async with asyncio.timeout(5):
            await connection.write(b"x")
            await reading


async def test_reading_goes_on_after_a_pause() -> None:
    async with plain() as (scripted, pool):
        connection = await pool.connect()
        peer = await scripted.peer()
        size = 16 * MIB
        peer.say(b"x" * size)
        left = size
        while left != (left := peer.writer.transport.get_write_buffer_size()):  # noqa: ASYNC110 - until no more of it is read
            await asyncio.sleep(0.1)
        first = await connection.read()
        assert READ_AHEAD <= len(first) < 2 * MIB
        received = len(first)
        while received < size:
            received += len(await connection.read())
        assert received == size


# -- reaching the upstream


def test_a_host_name_is_reached_on_either_loopback_address() -> None:
    async def main(host: str) -> None:
        scripted = Scripted()
        async with scripted.listening(host=host):
            async with pool_of(Upstream.parse(str(scripted.port))) as pool:
                await pool.connect()
                await scripted.peer()

    run(main("127.0.0.1"))
    if "::1" in {address[4][0] for address in socket.getaddrinfo("localhost", 80)}:
        run(main("::1"))


def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that are looked up on this loop from now on."""
    loop = asyncio.get_running_loop()
    asked: list[str] = []
    look_up = loop.getaddrinfo

    async def counted(host: str, *rest: Any, **options: Any) -> Any:
        asked.append(host)
        return await look_up(host, *rest, **options)

    monkeypatch.setattr(loop, "getaddrinfo", counted)
    return asked


def remember(pool: UpstreamPool, address: str, *, seconds: float) -> None:
    """As if the upstream's name had had this address, which counts for so long from now on."""
    pool._familiar = address, asyncio.get_running_loop().time() + seconds


async def test_a_name_of_this_machine_is_not_looked_up_for_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = looked_up(monkeypatch)
    scripted = Scripted()
    async with scripted.listening():
        asked.clear()
        async with pool_of(Upstream.parse(str(scripted.port))) as pool:
            for _ in range(3):
                await pool.connect()
                await scripted.peer()
            assert asked == ["localhost"]
            remember(pool, "127.0.0.1", seconds=-1)
            for _ in range(2):
                await pool.connect()
                await scripted.peer()
            assert asked == ["localhost"] * 2


async def test_an_upstream_that_has_left_the_address_where_it_was_is_looked_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = looked_up(monkeypatch)
    scripted = Scripted()
    async with scripted.listening(host="127.0.0.1"):
        asked.clear()
        async with pool_of(Upstream.parse(str(scripted.port))) as pool:
            remember(pool, "::1", seconds=10)
            for _ in range(2):
                await pool.connect()
                await scripted.peer()
            assert asked == ["localhost"], "and then no more"


def unreachable(upstream: Upstream, timeouts: Timeouts | None = None) -> UpstreamUnreachable:
    async def main() -> UpstreamUnreachable:
        async with pool_of(upstream, timeouts=timeouts) as pool:
            with pytest.raises(UpstreamUnreachable) as caught:
                await pool.connect()
            return caught.value

    error: UpstreamUnreachable = run(main())
    return error


def test_a_port_with_no_server_says_where_and_what_to_do() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        error = unreachable(Upstream.parse(f"127.0.0.1:{port}"))
        assert f"http://127.0.0.1:{port}" in error.message
        assert "--upstream" in error.hint


def test_a_name_that_is_not_known_says_so() -> None:
    error = unreachable(Upstream.parse("http://no-such-host.invalid:80"))
    assert "no-such-host.invalid" in error.message
    assert "--upstream" in error.hint


async def test_a_server_that_does_not_finish_tls_is_given_up_in_time() -> None:
    scripted = Scripted()
    async with scripted.listening():
        upstream = Upstream.parse(f"https://127.0.0.1:{scripted.port}")
        async with pool_of(upstream, timeouts=Timeouts(upstream_connect=0.1)) as pool:
            with pytest.raises(UpstreamUnreachable, match="does not answer"):
                await pool.connect()


async def test_a_plain_server_behind_https_is_a_hint_to_write_http() -> None:
    scripted = Scripted()
    async with scripted.listening():
        async with pool_of(Upstream.parse(f"https://127.0.0.1:{scripted.port}")) as pool:
            connecting = asyncio.create_task(pool.connect())
            (await scripted.peer()).say(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(UpstreamUnreachable) as caught:
                await connecting
            address = f"127.0.0.1:{scripted.port}"
            assert caught.value.message == f"The server at {address} does not speak TLS."
            assert caught.value.hint == f"Try http://{address}."
            assert not caught.value.absent


async def test_a_server_that_hangs_up_on_tls_may_not_speak_it() -> None:
    scripted = Scripted()
    async with scripted.listening():
        async with pool_of(Upstream.parse(f"https://127.0.0.1:{scripted.port}")) as pool:
            connecting = asyncio.create_task(pool.connect())
            (await scripted.peer()).close()
            with pytest.raises(UpstreamUnreachable, match="closed the connection during the TLS handshake") as caught:
                await connecting
            assert f"http://127.0.0.1:{scripted.port}" in caught.value.hint


# -- TLS


@asynccontextmanager
async def secure(certificate: Path) -> AsyncIterator[Scripted]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2", "http/1.1"])
    scripted = Scripted()
    async with scripted.listening(context):
        yield scripted


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("insecure", [True, False])
async def test_an_https_upstream_is_reached_with_its_authority_or_without_asking(
    certificate: Path, host: str, insecure: bool
) -> None:
    async with secure(certificate) as scripted:
        upstream = Upstream.parse(
            f"https://{host}:{scripted.port}",
            ca_file=None if insecure else str(certificate),
            insecure=insecure,
        )
        async with pool_of(upstream) as pool:
            client = Client()
            connection = await pool.acquire(client)
            peer = await scripted.peer()
            tls: ssl.SSLObject = peer.writer.get_extra_info("ssl_object")
            assert tls.selected_alpn_protocol() == "http/1.1"
            await connection.write(b"x" * MIB)
            assert await peer.exactly(MIB) == b"x" * MIB
            peer.say(b"y" * MIB)
            received = 0
            while received < MIB:
                received += len(await connection.read())
            pool.release(connection, client)
            assert await pool.acquire(client) is connection
            connection.end()
            assert await peer.ended()
            assert await connection.read() == b""


async def test_a_certificate_that_is_not_trusted_is_a_hint_to_the_flags(certificate: Path) -> None:
    async with secure(certificate) as scripted:
        async with pool_of(Upstream.parse(f"https://127.0.0.1:{scripted.port}")) as pool:
            with pytest.raises(UpstreamUnreachable, match="not trusted") as caught:
                await pool.connect()
            assert "--upstream-ca" in caught.value.hint
            assert "--upstream-insecure" in caught.value.hint


@pytest.mark.parametrize("content", [None, "", "not a certificate"])
def test_a_ca_file_that_cannot_be_used_is_a_setting_error(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingError) as caught:
        UpstreamPool(Upstream.parse("https://h", ca_file=str(path)), timeouts=Timeouts(), limits=Limits())
    assert str(path) in caught.value.message
    assert "--upstream-ca" in caught.value.hint
