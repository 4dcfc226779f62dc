"""Requests whose client has left: told to the upstream at once, or let finish."""

from __future__ import annotations

import asyncio

import pytest

from llmtunnel.config import Exposure, OnDisconnect
from llmtunnel.endpoints import drains
from llmtunnel.errors import ErrorCode, SettingError

from ..support.scripted_upstream import Peer, Rig, rig

DRAIN = Exposure(on_disconnect=OnDisconnect.DRAIN)
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b"5\r\nhello\r\n"


async def left(made: Rig, *, said: bytes = b"") -> Peer:
    """The upstream's side of a request whose client has left, after the upstream has said so much."""
    stream = await made.ask()
    peer = await made.upstream.peer()
    await peer.head()
    peer.say(said)
    if said:
        await stream.response()
        await stream.receive()
    stream.reset(ErrorCode.CANCELLED, "The client went away.")
    await made.record()
    return peer


@pytest.mark.parametrize("said", [b"", HEAD + CHUNK], ids=["before-the-head", "within-the-body"])
async def test_an_upstream_is_told_at_once_that_a_client_has_left(said: bytes) -> None:
    async with rig() as made:
        assert await (await left(made, said=said)).ended()


@pytest.mark.parametrize("said", [b"", HEAD + CHUNK], ids=["before-the-head", "within-the-body"])
async def test_where_it_is_to_be_let_finish_it_is_read_to_its_end(said: bytes) -> None:
    async with rig(exposure=DRAIN) as made:
        peer = await left(made, said=said)
        peer.say((b"" if said else HEAD) + CHUNK * 20_000)
        await asyncio.wait_for(peer.writer.drain(), 10)
        assert not peer.reader.at_eof()
        peer.say(b"0\r\n\r\n")
        assert await peer.ended()


async def test_a_response_whose_end_came_with_its_last_bytes_is_seen_to_have_ended() -> None:
    async with rig(exposure=DRAIN) as made:
        stream = await made.ask()
        peer = await made.upstream.peer()
        await peer.head()
        body = b"x" * 4_000_000  # more than credit lets through: serve waits in the middle of what it has read
        peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await stream.response()
        stream.reset(ErrorCode.CANCELLED, "The client went away.")
        await made.record()
        assert await peer.ended()


async def test_a_request_that_was_not_whole_is_not_let_finish() -> None:
    async with rig(exposure=DRAIN) as made:
        stream = await made.ask(b"POST", fields=((b"Content-Length", b"10"),), ended=False)
        await stream.send(b"half")
        peer = await made.upstream.peer()
        await peer.head()
        assert await peer.exactly(4) == b"half"
        stream.reset(ErrorCode.CANCELLED, "The client went away.")
        assert await peer.ended()


async def test_what_is_let_finish_counts_among_its_proxys_requests() -> None:
    exposure = Exposure(on_disconnect=OnDisconnect.DRAIN, max_requests=1)
    async with rig(exposure=exposure) as made:
        peer = await left(made)
        assert (await (await made.ask()).response()).status == 429
        peer.say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert await peer.ended()
        stream = await made.ask()
        await (await made.upstream.peer()).head()
        stream.reset(ErrorCode.CANCELLED, "")


async def test_so_many_are_let_finish_at_once_and_no_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drains, "MOST", 1)
    monkeypatch.setattr(drains, "LONGEST", 0.3)
    async with rig(exposure=DRAIN) as made:
        first = await left(made)
        assert await (await left(made)).ended()
        assert await first.ended()


async def test_serve_ends_without_waiting_for_them() -> None:
    async with rig(exposure=DRAIN) as made:
        peer = await left(made)
        await made.origin.aclose()
        assert await peer.ended()


def test_anything_else_is_refused_with_what_may_be_said() -> None:
    with pytest.raises(SettingError) as refused:
        Exposure(on_disconnect="wait")
    assert "'cancel' or 'drain'" in refused.value.hint
