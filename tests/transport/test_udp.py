"""Many datagrams in one system call: none is lost, merged or overtaken, whatever the kernel can."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import struct
import sys
from typing import Any

import pytest

from llmtunnel.transport import udp
from llmtunnel.transport.udp import UdpTransport, bind

from ..support.embedded import descriptors

pytestmark = [
    pytest.mark.usefixtures("on_each_loop"),
    pytest.mark.skipif(sys.platform == "win32", reason="loops of Windows have no readers; see test_webrtc.py"),
]

chance = random.Random(15)

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux joins datagrams")


class Socket(socket.socket):
    """A bound socket that can behave as a full one, or as one whose device or kernel lacks something."""

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.setblocking(False)
        self.bind(("127.0.0.1", 0))
        self.refuses: int | None = None
        """What sending several at once fails with."""
        self.fails: int | None = None
        """What sending one fails with."""
        self.batches = 0
        """How often several were to be sent at once."""
        self.receive_fails = 0
        """How many reads are still to fail."""

    def sendmsg(self, *arguments: Any) -> int:  # type: ignore[override]
        self.batches += 1
        if self.refuses is not None:
            raise OSError(self.refuses, os.strerror(self.refuses))
        return super().sendmsg(*arguments)

    def sendto(self, *arguments: Any) -> int:  # type: ignore[override]
        if self.fails is not None:
            raise OSError(self.fails, os.strerror(self.fails))
        return super().sendto(*arguments)

    def recvmsg(self, *arguments: Any) -> Any:
        if self.receive_fails:
            self.receive_fails -= 1
            raise ConnectionRefusedError
        return super().recvmsg(*arguments)


class End(asyncio.DatagramProtocol):
    """One end: what has arrived, and how it was handed over."""

    def __init__(self, own: Socket | None = None) -> None:
        self.own = own or Socket()
        self.address = self.own.getsockname()
        self.got: list[bytes] = []
        self.rows: list[list[bytes]] = []
        """Those that arrived together."""
        self.errors: list[Exception] = []
        self.is_lost = False
        self._news = asyncio.Event()
        self.transport = UdpTransport(asyncio.get_running_loop(), self.own, self)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.got.append(data)
        self._news.set()

    def datagrams_received(self, data: bytes, size: int, addr: Any) -> None:
        self.rows.append([data[at : at + size] for at in range(0, len(data), size)])
        self.got += self.rows[-1]
        self._news.set()

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)
        self._news.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._news.set()

    async def until_got(self, count: int) -> list[bytes]:
        while len(self.got) < count:
            self._news.clear()
            await self._news.wait()
        return self.got

    async def turns_to_get(self, count: int) -> int:
        """How many turns of the loop it takes to read so many that are there."""
        turns: set[int] = set()
        while len(self.got) < count:
            turns.add(len(self.got))
            await asyncio.sleep(0)
        return len(turns)

    async def until_failed(self) -> None:
        while not self.errors:
            self._news.clear()
            await self._news.wait()

    async def aclose(self) -> None:
        self.transport.close()
        while not self.is_lost:
            self._news.clear()
            await self._news.wait()


def datagrams(count: int, size: int, last: int | None = None) -> list[bytes]:
    """Different datagrams of one size; the last one may be shorter."""
    made = [chance.randbytes(size) for _ in range(count)]
    if last is not None:
        made[-1] = made[-1][:last]
    return made


@pytest.fixture(params=["the kernel's batches", "none"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernel has batches: the one that the test runs on, or an older one, macOS's or Windows'."""
    if request.param == "none":
        monkeypatch.setattr(udp, "_has_option", lambda *_, **__: False)
    return request.param != "none" and sys.platform.startswith("linux")


@pytest.mark.parametrize(
    ("count", "size", "last"),
    [(1, 100, None), (2, 1200, None), (16, 1445, 30), (64, 1445, None), (65, 500, 1), (200, 1445, 7), (7, 16_389, 80)],
)
async def test_a_batch_arrives_as_single_datagrams_of_the_same_sizes_and_in_order(
    kernel: bool, count: int, size: int, last: int | None
) -> None:
    left, right = End(), End()
    sent = datagrams(count, size, last)
    for at in range(0, count, 65):  # no more than the receiver's buffer holds
        left.transport.send_all(b"".join(sent[at : at + 65]), size, right.address)
        await right.until_got(min(count, at + 65))
    assert right.got == sent
    assert (left.own.batches > 0) is (len(right.rows) > 0) is (kernel and count > 1)
    await close(left, right)


async def test_batches_of_several_senders_and_single_datagrams_stay_apart(kernel: bool) -> None:
    right, senders = End(), [End() for _ in range(3)]
    sent: list[list[bytes]] = [[] for _ in senders]
    for number in range(24):
        for sender, log in zip(senders, sent, strict=True):
            size = (1445, 700, 60, 1200)[number % 4]
            batch = datagrams(1 + number % 3, size, size if number % 2 else size - 7)
            sender.transport.send_all(b"".join(batch), size, right.address)
            log += batch
        await right.until_got(sum(map(len, sent)))
    for log in sent:
        assert [each for each in right.got if each in log] == log
    assert len(right.got) == sum(map(len, sent))
    await close(right, *senders)


@on_linux
async def test_what_the_kernel_joins_is_cut_at_the_same_places(kernel: bool) -> None:
    """The sender is not ours: rows of any size, each with a shorter one at its end."""
    right = End()
    sent: list[bytes] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for size in (1, 37, 800, 1445, 9000):
            batch = datagrams(5, size, max(1, size // 2))
            control = [(socket.IPPROTO_UDP, udp._UDP_SEGMENT, struct.pack("@H", size))]
            sender.sendmsg(batch, control, 0, right.address)
            sender.sendto(b"alone", right.address)
            sent += [*batch, b"alone"]
            await right.until_got(len(sent))
    assert right.got == sent
    assert [each for row in right.rows for each in row] == [each for each in sent if each != b"alone"] or not kernel
    await close(right)


@on_linux
async def test_joined_datagrams_whose_size_is_cut_off_are_lost_and_not_merged(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = End(), End()
    monkeypatch.setattr(udp, "_CONTROL", 0)
    left.transport.send_all(b"".join(datagrams(4, 1000)), 1000, right.address)
    left.transport.sendto(b"next", right.address)
    assert await right.until_got(1) == [b"next"]
    await close(left, right)


async def test_a_datagram_that_is_longer_than_a_read_is_lost_and_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = End(), End()
    monkeypatch.setattr(udp, "_BUFFER", 1000)
    for size in (1001, 1000):
        left.transport.sendto(bytes(size), right.address)
    assert await right.until_got(1) == [bytes(1000)]
    await close(left, right)


@on_linux
@pytest.mark.parametrize("refusal", [errno.EIO, errno.EINVAL, errno.EMSGSIZE])
async def test_a_device_that_refuses_batches_gets_single_datagrams_from_then_on(refusal: int) -> None:
    left, right = End(), End()
    left.own.refuses = refusal
    sent = datagrams(10, 1445, 9)
    for _ in range(3):
        left.transport.send_all(b"".join(sent), 1445, right.address)
    assert await right.until_got(30) == 3 * sent
    assert (left.own.batches, left.errors) == (1, [])
    await close(left, right)


@on_linux
async def test_a_batch_that_fails_for_a_moment_is_sent_in_single_datagrams_once() -> None:
    left, right = End(), End()
    sent = datagrams(10, 1445, 9)
    for refusal in (errno.ENOBUFS, None):
        left.own.refuses = refusal
        left.transport.send_all(b"".join(sent), 1445, right.address)
    assert await right.until_got(20) == 2 * sent
    assert left.own.batches == 2
    await close(left, right)


@on_linux
async def test_what_is_too_long_for_the_path_says_nothing_of_batches() -> None:
    left, right = End(), End()
    sent = datagrams(3, 1445)
    left.own.refuses = left.own.fails = errno.EMSGSIZE
    left.transport.send_all(b"".join(sent), 1445, right.address)
    assert [exc.errno for exc in left.errors if isinstance(exc, OSError)] == 3 * [errno.EMSGSIZE]
    left.own.refuses = left.own.fails = None
    left.transport.send_all(b"".join(sent), 1445, right.address)
    assert await right.until_got(3) == sent
    assert left.own.batches == 2
    await close(left, right)


@on_linux
@pytest.mark.parametrize("option", [udp._UDP_SEGMENT, udp._UDP_GRO])
async def test_an_option_that_a_system_accepts_and_ignores_is_not_used(option: int) -> None:
    """Nanos does that. A batch would be one long datagram there."""

    class Ignoring(Socket):
        def setsockopt(self, *arguments: Any) -> None:  # type: ignore[override]
            if arguments[1] != option:
                super().setsockopt(*arguments)

    left, right = End(Ignoring()), End(Ignoring())
    sent = datagrams(10, 1445)
    left.transport.send_all(b"".join(sent), 1445, right.address)
    assert await right.until_got(10) == sent
    assert (left.own.batches, len(right.rows)) == ((0, 0) if option == udp._UDP_SEGMENT else (1, 0))
    await close(left, right)


@pytest.mark.parametrize("full", [errno.EAGAIN, errno.EINTR])
async def test_what_a_full_socket_has_no_room_for_waits_in_order_and_within_a_limit(kernel: bool, full: int) -> None:
    left, right = End(), End()
    sent = datagrams(30, 1445)
    left.own.refuses = left.own.fails = full
    for each in sent[:10]:
        left.transport.sendto(each, right.address)
    left.transport.send_all(b"".join(sent[10:20]), 1445, right.address)
    await asyncio.sleep(0)  # the loop finds the socket writable, and it still has no room
    assert left.transport.get_write_buffer_size() == 20 * 1445
    left.own.refuses = left.own.fails = None
    left.transport.send_all(b"".join(sent[20:]), 1445, right.address)
    assert await right.until_got(30) == sent
    assert left.transport.get_write_buffer_size() == 0
    left.own.refuses = left.own.fails = full
    for _ in range(3000):
        left.transport.send_all(bytes(16 * 1445), 1445, right.address)
    assert left.transport.get_write_buffer_size() <= udp._QUEUE
    await close(left, right)
    assert left.errors == []


async def test_the_rest_of_a_batch_waits_if_the_socket_fills_up_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a batch is sent one by one."""
    monkeypatch.setattr(udp, "_has_option", lambda *_, **__: False)

    class Narrow(Socket):
        room = 4

        def sendto(self, *arguments: Any) -> int:  # type: ignore[override]
            if self.room == 0:
                self.room = 4
                raise BlockingIOError
            self.room -= 1
            return super().sendto(*arguments)

    left, right = End(Narrow()), End()
    sent = datagrams(30, 1445, 8)
    left.transport.send_all(b"".join(sent), 1445, right.address)
    assert left.transport.get_write_buffer_size() == 25 * 1445 + 8
    assert await right.until_got(30) == sent
    await close(left, right)


async def test_an_error_that_the_system_reports_ends_nothing(kernel: bool) -> None:
    left, right = End(), End()
    right.own.receive_fails = 2  # a host that the network says nobody listens at
    left.transport.sendto(b"one", right.address)
    assert await right.until_got(1) == [b"one"]
    assert [type(exc) for exc in right.errors] == 2 * [ConnectionRefusedError]
    left.own.fails = errno.ENETUNREACH
    left.transport.sendto(b"lost", right.address)
    left.own.fails = None
    left.transport.sendto(b"two", right.address)
    assert await right.until_got(2) == [b"one", b"two"]
    assert len(left.errors) == 1
    await close(left, right)


async def test_a_flood_leaves_other_tasks_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = End(), End()
    monkeypatch.setattr(udp, "_TURN", 3000)
    for each in datagrams(60, 1000):
        left.transport.sendto(each, right.address)
    assert await right.turns_to_get(60) >= 60 // 3
    await close(left, right)


@pytest.mark.parametrize(("size", "turns"), [(80, 1), (300, 20), (1200, 1)], ids=["acknowledgements", "tokens", "bulk"])
async def test_acknowledgements_and_bulk_are_read_together_and_tokens_one_by_one(size: int, turns: int) -> None:
    left, right = End(), End()
    for each in datagrams(20, size):
        left.transport.sendto(each, right.address)
    assert await right.turns_to_get(20) == turns
    await close(left, right)


async def test_a_closed_socket_sends_and_receives_nothing_and_is_gone() -> None:
    before = descriptors()
    left, right = End(), End()
    left.own.refuses = left.own.fails = errno.EAGAIN
    left.transport.sendto(b"waits", right.address)
    right.transport.sendto(b"unread", left.address)
    left.transport.close()
    left.transport.abort()
    left.transport.sendto(b"after", right.address)
    assert left.transport.is_closing() and not right.transport.is_closing()
    await close(left)
    assert (left.got, left.transport.get_write_buffer_size()) == ([], 0)
    await close(right)
    assert right.got == []
    assert descriptors() == before


async def test_an_address_that_cannot_be_bound_leaves_no_socket() -> None:
    before = descriptors()
    with pytest.raises(OSError):
        await bind("203.0.113.7", asyncio.DatagramProtocol())
    assert descriptors() == before


async def close(*ends: End) -> None:
    for end in ends:
        await end.aclose()
