"""What runs beside a block: its end, its failures, and those of the block."""

from __future__ import annotations

import asyncio
import logging

import pytest

from llmtunnel.config import KIB
from llmtunnel.endpoints.duplex import beside
from llmtunnel.endpoints.ledger import Entry
from llmtunnel.errors import ErrorCode, StreamReset, UpstreamBroken
from tests.support.gateway_rig import answering, tunnel
from tests.support.scripted_upstream import rig


class Defect(Exception):
    """Something that nobody expects."""


async def fail(error: Exception) -> None:
    await asyncio.sleep(0)
    raise error


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_defect_beside_cuts_the_block_short() -> None:
    with pytest.raises(Defect):
        async with beside(fail(Defect()), "work"):
            await for_ever()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_defect_beside_is_not_hidden_by_what_the_block_raises_of_it() -> None:
    with pytest.raises(Defect):
        async with beside(fail(Defect()), "work"):
            try:
                await for_ever()
            finally:
                raise UpstreamBroken("aborted")


async def test_a_defect_comes_out_of_a_block_that_has_ended() -> None:
    with pytest.raises(Defect):
        async with beside(fail(Defect()), "work") as work:
            await asyncio.wait((work,))  # type: ignore[type-var]


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    with pytest.raises(UpstreamBroken, match="of the block"):
        async with beside(for_ever(), "work"):
            raise UpstreamBroken("of the block")


async def test_the_work_is_cut_short_where_the_block_ends_first() -> None:
    async with beside(for_ever(), "work"):
        pass


async def test_a_cancelled_block_stays_cancelled() -> None:
    async def both() -> None:
        async with beside(for_ever(), "work"):
            await for_ever()

    task = asyncio.create_task(both())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()


# -- both ends of the tunnel


def break_counting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect in what each body sender calls."""

    def up(self: Entry, data: bytes) -> None:
        raise Defect

    monkeypatch.setattr(Entry, "up", up)


def has_traceback(caplog: pytest.LogCaptureFixture) -> bool:
    return any(record.exc_info and record.exc_info[0] is Defect for record in caplog.records)


async def test_a_defect_in_serves_body_sender_ends_the_exchange_loudly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        async with rig() as tunnel:
            stream = await tunnel.ask(b"POST", fields=((b"Content-Length", b"1000"),), ended=False)
            peer = await tunnel.upstream.peer()
            await peer.head()
            break_counting(monkeypatch)
            await stream.send(b"x")
            with pytest.raises(StreamReset) as caught:
                await stream.response()
            assert caught.value.code is ErrorCode.INTERNAL
            assert await peer.ended()
    assert has_traceback(caplog)


async def test_a_defect_in_the_proxys_body_sender_is_told_to_the_client(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        break_counting(monkeypatch)
        async with tunnel(answering(b"never")) as rig, await rig.connect() as client:
            client.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (64 * KIB))
            client.write(b"x" * KIB)
            assert (await client.head()).startswith(b"HTTP/1.1 502 ")
    assert has_traceback(caplog)
