from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

import pytest

from llmtunnel.config import Limits, Timeouts
from llmtunnel.endpoints import clients
from llmtunnel.session.stream import Stream

from ..support.embedded import PATIENCE, until
from ..support.gateway_rig import RawClient, Rig, answering, tunnel
from .test_gateway import GET, GET_CLOSE, Peer, error_of

LOOPS = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client counts as silent soon."""
    monkeypatch.setattr(clients, "_SILENT", 0.05)


async def crowd(rig: Rig, stack: AsyncExitStack, *sent: bytes) -> list[RawClient]:
    """Clients that have each sent something, and of which the gateway knows."""
    connected = [await stack.enter_async_context(await rig.connect()) for _ in sent]
    for client, data in zip(connected, sent, strict=True):
        client.write(data)
    await until(lambda: len(rig.clients) == len(sent))
    return connected


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HT"])
async def test_a_client_without_a_request_gives_its_place_to_a_new_one(sent: bytes, quickly: None) -> None:
    async with tunnel(answering(b"hi"), limits=Limits(clients=3)) as rig, AsyncExitStack() as stack:
        silent = await crowd(rig, stack, sent, sent, sent)
        await asyncio.sleep(0.1)
        assert (await rig.ask(GET_CLOSE)).endswith(b"\r\n\r\nhi")
        answer = await silent[0].rest()
        assert error_of(answer)["code"] == "too_many_connections", "it was silent for the longest"
        silent[1].write(GET_CLOSE if sent in (b"", b"\r\n") else b"TP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert (await silent[1].rest()).endswith(b"\r\n\r\nhi")


async def test_a_kept_connection_that_is_idle_gives_its_place_too(quickly: None) -> None:
    async with tunnel(answering(b"hi"), limits=Limits(clients=1)) as rig, await rig.connect() as kept:
        kept.write(GET)
        await kept.reader.readuntil(b"hi")
        await asyncio.sleep(0.1)
        assert (await rig.ask(GET_CLOSE)).endswith(b"\r\n\r\nhi")
        assert await kept.rest() == b""


async def test_a_client_that_has_just_come_keeps_its_place_until_its_request_is_there() -> None:
    async with tunnel(answering(b"hi"), limits=Limits(clients=1)) as rig, AsyncExitStack() as stack:
        (first,) = await crowd(rig, stack, b"")
        assert error_of(await rig.ask(GET_CLOSE))["code"] == "too_many_connections"
        first.write(GET_CLOSE)
        assert (await first.rest()).endswith(b"\r\n\r\nhi")


@pytest.mark.parametrize(
    "asked", [GET, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + bytes(200_000)]
)
async def test_whoever_comes_while_all_are_answered_is_told_so_whatever_it_sends(asked: bytes, quickly: None) -> None:
    peer = Peer()
    async with tunnel(peer, limits=Limits(clients=4)) as rig, AsyncExitStack() as stack:
        await crowd(rig, stack, GET, GET, GET, GET)
        await until(lambda: rig.ledger.totals.active == 4)
        await asyncio.sleep(0.1)
        answers = await asyncio.gather(*(rig.ask(asked) for _ in range(50)))
        for answer in answers:
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: " in answer
            assert error_of(answer)["code"] == "too_many_connections"
        assert rig.ledger.totals.active == 4
        assert peer.cancelled == 0


async def test_those_who_are_turned_away_and_stay_do_not_keep_others_from_being_told(
    quickly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "_TO_READ", 0.1)

    async with tunnel(Peer(), limits=Limits(clients=4)) as rig, AsyncExitStack() as stack:
        await crowd(rig, stack, GET, GET, GET, GET)
        await until(lambda: rig.ledger.totals.active == 4)
        staying = [await stack.enter_async_context(await rig.connect()) for _ in range(20)]
        async with asyncio.timeout(PATIENCE):
            assert (await rig.ask(GET)).startswith(b"HTTP/1.1 503 ")
        assert len(rig.clients) <= 4 + 4
        del staying


async def test_a_request_that_gets_no_stream_in_time_is_answered_503() -> None:
    peer = Peer()
    limits, timeouts = Limits(streams=2), Timeouts(stream=0.2)
    async with tunnel(peer, limits=limits, timeouts=timeouts) as rig, AsyncExitStack() as stack:
        await crowd(rig, stack, GET, GET)
        await until(lambda: peer.streams.qsize() == 2)
        answer = await rig.ask(GET)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: " in answer
        error = error_of(answer)
        assert error["code"] == "too_many_requests"
        assert "2 requests" in error["message"] and "0.2 s" in error["message"]


async def test_requests_that_wait_for_a_stream_go_in_the_order_in_which_they_came() -> None:
    order: list[bytes] = []

    async def handle(stream: Stream) -> None:
        order.append(stream.request.target)
        await answering(b"hi")(stream)

    async with tunnel(handle, limits=Limits(streams=1)) as rig, AsyncExitStack() as stack:
        for number in range(20):
            client = await stack.enter_async_context(await rig.connect())
            client.write(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number)
            await until(lambda: rig.ledger.totals.requests + len(rig.ledger.active()) > number)  # noqa: B023
        await until(lambda: len(order) == 20)
        assert order == [b"/%d" % number for number in range(20)]


# -- descriptors


@dataclass
class Crowded:
    """The gateway of crowded.py."""

    process: subprocess.Popen[str]
    address: tuple[str, int]

    async def do(self, command: str) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        assert await asyncio.to_thread(self.process.stdout.readline) == "done\n"

    async def connect(self) -> RawClient:
        return RawClient(*await asyncio.open_connection(*self.address))


@contextmanager
def crowded(limit: int, loop: str) -> Iterator[Crowded]:
    pytest.importorskip("resource")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.crowded", str(limit), loop],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        host, _, port = process.stdout.readline().rpartition(":")
        try:
            yield Crowded(process, (host, int(port)))
        finally:
            process.kill()
            errors = process.stderr.read()
        assert "Traceback" not in errors
        assert errors.count("\n") < 10, errors


@pytest.mark.parametrize("loop", LOOPS)
async def test_each_of_hundreds_of_clients_is_served_or_told_whatever_the_limit_of_descriptors(loop: str) -> None:
    answers: list[bytes] = []

    async def ask(gateway: Crowded, done: asyncio.Event) -> None:
        async with await gateway.connect() as client:
            client.write(GET)
            reading = asyncio.ensure_future(client.reader.readexactly(12))
            waiting = asyncio.ensure_future(done.wait())
            await asyncio.wait((reading, waiting), return_when=asyncio.FIRST_COMPLETED)
            for each in (reading, waiting):
                each.cancel()
            answers.extend(
                each for each in await asyncio.gather(reading, return_exceptions=True) if each == b"HTTP/1.1 503"
            )
            if reading.done() and not reading.cancelled():
                reading.result()

    with crowded(256, loop) as gateway:
        done = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(400):
                group.create_task(ask(gateway, done))
            await until(lambda: len(answers) >= 400 - 128)
            await asyncio.sleep(0.2)
            done.set()
        assert len(answers) == 400 - 128, "half of the descriptors are for clients"


@pytest.mark.parametrize("loop", LOOPS)
async def test_where_no_descriptor_is_left_a_client_is_told_and_once_there_is_one_it_is_served(loop: str) -> None:
    with crowded(128, loop) as gateway:
        await gateway.do("fill")
        for _ in range(3):
            async with await gateway.connect() as client:
                client.write(GET)
                assert (await client.rest()).startswith(b"HTTP/1.1 503 ")
        await gateway.do("free")
        async with await gateway.connect() as client:
            client.write(b"nonsense\r\n\r\n")
            assert (await client.rest()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("loop", LOOPS)
async def test_where_no_descriptor_is_left_a_silent_client_gives_its_own(loop: str) -> None:
    with crowded(128, loop) as gateway:
        async with await gateway.connect() as silent:
            silent.write(b"GET / HT")
            await asyncio.sleep(0.1)
            await gateway.do("fill")
            async with await gateway.connect() as client:
                client.write(b"nonsense\r\n\r\n")
                assert (await client.rest()).startswith(b"HTTP/1.1 400 ")
            assert (await silent.rest()).startswith(b"HTTP/1.1 503 ")
