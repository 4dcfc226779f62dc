from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from llmtunnel.config import Timeouts
from llmtunnel.errors import ConnectFailed
from llmtunnel.paths import Path
from llmtunnel.transport import pipe, tcp
from llmtunnel.transport.base import Binding, Channel
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.networks import Interface
from llmtunnel.transport.pipe import TlsChannel
from llmtunnel.transport.tcp import TcpDialler, TcpListener

from ..support.pipes import LEFT, PATIENCE, RIGHT, Ear, close, pipe_of
from ..support.scripted_upstream import reset

HERE = [Interface(ipaddress.ip_address("127.0.0.1"), 8)]
QUICK = Timeouts(connect=0.3)


@asynccontextmanager
async def listening(timeouts: Timeouts | None = None) -> AsyncIterator[TcpListener]:
    listener = TcpListener(RIGHT, timeouts=timeouts or Timeouts(), loopback=True)
    await listener.start()
    try:
        yield listener
    finally:
        await listener.aclose()
        await listener.aclose()


def dialler(expected: Identity = RIGHT, timeouts: Timeouts | None = None) -> TcpDialler:
    return TcpDialler(LEFT, expected.fingerprint, timeouts=timeouts or Timeouts(), loopback=True)


def address(listener: TcpListener) -> tuple[str, int]:
    host, _, port = listener.addresses[0].rpartition(":")
    return host, int(port)


async def closed_by(listener: TcpListener, *, say: bytes = b"") -> None:
    """Come as a stranger, and wait until the listener has hung up."""
    reader, writer = await asyncio.open_connection(*address(listener))
    try:
        writer.write(say)
        async with asyncio.timeout(PATIENCE):
            await reader.read()
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.mark.usefixtures("on_each_loop")
async def test_an_expected_peer_is_taken_and_both_ends_know_each_other() -> None:
    async with listening() as listener:
        taken: asyncio.Queue[Channel] = asyncio.Queue()
        listener.expect(LEFT.fingerprint, taken.put_nowait)
        left = await dialler().dial(listener.addresses)
        right = await taken.get()
        assert left.binding == Binding(local=LEFT.fingerprint, remote=RIGHT.fingerprint)
        assert right.binding == Binding(local=RIGHT.fingerprint, remote=LEFT.fingerprint)
        assert left.path is right.path is Path.TCP
        assert left.address in listener.addresses
        assert right.address.rpartition(":")[0] == left.address.rpartition(":")[0]
        await close(left, right)


@pytest.mark.usefixtures("on_each_loop")
async def test_two_expectations_of_one_peer_are_met_and_withdrawn_apart() -> None:
    async with listening() as listener:
        first: asyncio.Queue[Channel] = asyncio.Queue()
        second: asyncio.Queue[Channel] = asyncio.Queue()
        third: asyncio.Queue[Channel] = asyncio.Queue()
        for taken in (first, second, third):
            listener.expect(LEFT.fingerprint, taken.put_nowait)
        listener.forget(LEFT.fingerprint, first.put_nowait)
        listener.forget(LEFT.fingerprint, first.put_nowait)
        ends = []
        for taken in (third, second):
            ends += [await dialler().dial(listener.addresses), await taken.get()]
        with pytest.raises(ConnectFailed):
            await dialler().dial(listener.addresses)
        assert first.empty()
        await close(*ends)


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="the system takes what it likes (Windows)")
@pytest.mark.usefixtures("on_each_loop")
async def test_the_system_takes_no_more_than_is_soon_on_its_way() -> None:
    """A token would wait behind it: what waits here is what `has_room` tells of."""

    async with listening() as listener:
        taken: asyncio.Queue[Channel] = asyncio.Queue()
        listener.expect(LEFT.fingerprint, taken.put_nowait)
        left = await dialler().dial(listener.addresses)
        right = await taken.get()
        for end in (left, right):
            sock = pipe_of(end).get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == pipe._UNSENT
        await close(left, right)


@pytest.mark.usefixtures("on_each_loop")
async def test_the_listener_takes_an_expected_peer_once_and_none_that_it_forgot() -> None:
    async with listening() as listener:
        taken: asyncio.Queue[Channel] = asyncio.Queue()
        listener.expect(LEFT.fingerprint, taken.put_nowait)
        left = await dialler().dial(listener.addresses)
        right = await taken.get()
        again = dialler()
        for _ in range(2):
            with pytest.raises(ConnectFailed):
                await again.dial(listener.addresses)
            listener.expect(LEFT.fingerprint, taken.put_nowait)
            listener.forget(LEFT.fingerprint, taken.put_nowait)
        assert taken.empty()
        await close(left, right)


@pytest.mark.usefixtures("on_each_loop")
async def test_another_peer_is_not_taken_and_is_told() -> None:
    async with listening() as listener:
        listener.expect(Identity().fingerprint, lambda channel: pytest.fail("taken"))
        left = await dialler().dial(listener.addresses)  # the client's side stands before its certificate is seen
        ear = Ear()
        left.attach(ear)
        await ear.until(lambda: ear.closed)
        assert ear.closed == ["the other end rejected our certificate"]
        await left.aclose()


@pytest.mark.usefixtures("on_each_loop")
async def test_a_listener_with_another_certificate_is_not_spoken_to() -> None:
    async with listening() as listener:
        listener.expect(LEFT.fingerprint, lambda channel: pytest.fail("taken"))
        with pytest.raises(ConnectFailed, match="over tcp: the other end shows an unexpected certificate"):
            await dialler(expected=LEFT).dial(listener.addresses)


@pytest.mark.usefixtures("on_each_loop")
async def test_addresses_that_do_not_answer_do_not_keep_the_one_that_does() -> None:
    async with listening() as listener, silent() as mute:
        taken: asyncio.Queue[Channel] = asyncio.Queue()
        listener.expect(LEFT.fingerprint, taken.put_nowait)
        closed_port = socket.create_server(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{closed_port.getsockname()[1]}"
        closed_port.close()
        left = await dialler(timeouts=QUICK).dial([nobody, mute, *listener.addresses])
        await close(left, await taken.get())


@asynccontextmanager
async def silent() -> AsyncIterator[str]:
    """Somebody who accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.usefixtures("on_each_loop")
async def test_whoever_gives_up_again_and_again_leaves_no_socket_open() -> None:
    """What is left open warns when it is collected, which fails the test."""

    async with listening() as listener, silent() as mute:
        for turns in range(0, 40, 2):
            taken: list[Channel] = []
            listener.expect(LEFT.fingerprint, taken.append)
            dialling = asyncio.create_task(dialler().dial([mute, *listener.addresses]))
            for _ in range(turns):
                await asyncio.sleep(0.001)
            while not dialling.done():
                dialling.cancel()
                await asyncio.sleep(0)
            if not dialling.cancelled():
                await dialling.result().aclose()
            for channel in taken:
                await channel.aclose()
            gc.collect()


@pytest.mark.usefixtures("on_each_loop")
async def test_nobody_near_by_is_said_in_a_sentence() -> None:
    async with silent() as mute:
        with pytest.raises(ConnectFailed, match="not finish the handshake"):
            await dialler(timeouts=QUICK).dial([mute])
    with pytest.raises(ConnectFailed, match="none of its addresses answers"):
        await dialler(timeouts=QUICK).dial([mute])
    with pytest.raises(ConnectFailed, match="no address in a network of this machine"):
        await dialler().dial(["8.8.8.8:9999", "rubbish"])
    with pytest.raises(ConnectFailed, match="no address in a network of this machine"):
        await TcpDialler(LEFT, RIGHT.fingerprint, timeouts=QUICK).dial([mute])


@pytest.mark.usefixtures("on_each_loop")
async def test_a_peer_has_us_knock_so_often_and_no_more() -> None:
    knocks: list[tuple[str, int]] = []

    class Counting(TcpDialler):
        async def _connect(self, endpoint: tuple[str, int]) -> socket.socket:
            knocks.append(endpoint)
            raise ConnectionRefusedError

    victim = Counting(LEFT, RIGHT.fingerprint, timeouts=QUICK)
    for start in range(2000, 3000, 10):
        with pytest.raises(ConnectFailed):
            await victim.dial([f"127.5.5.5:{start}", f"127.0.0.9:{start}"], own=[])
        with pytest.raises(ConnectFailed):
            await victim.dial(
                [f"192.168.1.{start % 200 + 1}:{start + each}" for each in range(10)],
                own=[Interface(ipaddress.ip_address("192.168.1.2"), 24)],
            )
    assert len(knocks) == tcp._ATTEMPTS
    assert all(host.startswith("192.168.1.") for host, _ in knocks)


@pytest.mark.usefixtures("on_each_loop")
async def test_giving_a_dial_up_leaves_nothing() -> None:
    async with silent() as mute:
        dialling = asyncio.create_task(dialler().dial([mute]))
        await asyncio.sleep(0.05)
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 300_000, b"\x16\x03\x01"])
@pytest.mark.usefixtures("on_each_loop")
async def test_garbage_at_the_listener_is_closed(said: bytes) -> None:
    async with listening(QUICK) as listener:
        listener.expect(LEFT.fingerprint, lambda channel: pytest.fail("taken"))
        await closed_by(listener, say=said)


@pytest.mark.usefixtures("on_each_loop")
async def test_a_listener_that_expects_nobody_closes_at_once() -> None:
    async with listening() as listener:
        await closed_by(listener)


@pytest.mark.usefixtures("on_each_loop")
async def test_a_port_scan_is_bounded_logged_once_and_keeps_no_peer_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "llmtunnel.transport.tcp")
    async with listening() as listener:
        taken: asyncio.Queue[Channel] = asyncio.Queue()
        listener.expect(LEFT.fingerprint, taken.put_nowait)
        scanners = [await asyncio.open_connection(*address(listener)) for _ in range(20)]
        left = await dialler().dial(listener.addresses)
        right = await taken.get()
        assert len(listener._strangers) <= tcp._STRANGERS
        for reader, writer in scanners[: 20 - tcp._STRANGERS]:
            async with asyncio.timeout(PATIENCE):
                with suppress(ConnectionError):
                    await reader.read()  # until they are hung up on
            writer.close()
        for _, writer in scanners[20 - tcp._STRANGERS :]:
            writer.close()
        for _ in range(40):
            await closed_by(listener)
        await close(left, right)
    assert len(caplog.records) == 1
    assert "not an expected peer's" in caplog.text


@pytest.mark.usefixtures("on_each_loop")
async def test_a_machine_that_lets_nobody_listen_says_no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "listenable", lambda own, *, loopback: ["203.0.113.1"])
    async with listening() as listener:
        assert listener.addresses == ()


@pytest.mark.usefixtures("on_each_loop")
async def test_a_start_that_is_cancelled_twice_leaves_no_listening_socket() -> None:
    for turns in range(8):
        listener = TcpListener(RIGHT, timeouts=Timeouts(), loopback=True)
        starting = asyncio.create_task(listener.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait((starting,))
        await listener.aclose()
        await asyncio.sleep(0.01)
        assert listener.addresses == ()


async def dialled_and_reset() -> TlsChannel:
    """A channel whose pipe the other end has reset, which the loop has not seen."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        channel = TlsChannel(LEFT, server=False, path=Path.TCP)
        await asyncio.get_running_loop().create_connection(lambda: channel, sock=sock)
        reset(server.accept()[0])
        return channel


@pytest.mark.usefixtures("on_each_loop")
async def test_closing_a_pipe_that_was_reset_unseen_finishes() -> None:
    channel = await dialled_and_reset()
    async with asyncio.timeout(PATIENCE):
        await channel.aclose()
    assert channel.gone


@pytest.mark.usefixtures("on_each_loop")
async def test_a_handshake_over_a_pipe_that_was_reset_unseen_is_given_up_like_any() -> None:
    channel = await dialled_and_reset()
    channel.give_up("it takes too long")
    with pytest.raises(ConnectFailed, match="takes too long"):
        await channel.stand(PATIENCE)
    await channel.aclose()


@pytest.mark.usefixtures("on_each_loop")
async def test_a_dialled_socket_that_is_reset_at_once_is_closed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop loses track of a socket whose first write fails: its number would be closed again, as another's."""

    given: list[socket.socket] = []
    dup = socket.socket.dup
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        reset(server.accept()[0])
        monkeypatch.setattr(socket.socket, "dup", lambda sock: given.append(dup(sock)) or given[-1])
        with ours, pytest.raises(ConnectFailed):
            await dialler()._secure(ours)
        assert [each.fileno() for each in given] == [-1]


@pytest.mark.usefixtures("on_each_loop")
async def test_the_last_words_of_a_peer_come_although_we_go_on_sending() -> None:
    """It closes while we write: our next write fails, and what it said before lies unread."""

    async with listening() as listener:
        coming: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
        listener.expect(LEFT.fingerprint, coming.set_result)
        ours = await dialler().dial(listener.addresses, own=HERE)
        theirs, ear = await coming, Ear()
        ours.trust()
        theirs.trust()
        ours.attach(ear)
        theirs.attach(Ear())
        closing = None
        for turn in range(2_000):
            if ours.has_room and not ear.closed:
                ours.send(bytes(60_000))
            if turn == 100:
                theirs.send(b"last words")
                closing = asyncio.create_task(theirs.aclose())
            await asyncio.sleep(0)
        assert closing is not None
        await closing
        await ear.until(lambda: ear.closed)
        assert (ear.messages, ear.closed) == ([b"last words"], ["closed by the peer"])
        await ours.aclose()
