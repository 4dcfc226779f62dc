from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiortc import rtcsctptransport as aiortc_sctp

from llmtunnel.transport import sctp

from ..support.webrtc_ends import connected

Attack = Callable[[sctp.Sctp], Any]


def data(rogue: sctp.Sctp, user_data: bytes, *, flags: int = 3, protocol: int = 53, stream: int = 1) -> Any:
    chunk = aiortc_sctp.DataChunk(flags=flags)
    chunk.tsn, chunk.stream_id, chunk.stream_seq, chunk.protocol = rogue._local_tsn, stream, 0, protocol
    chunk.user_data = user_data
    rogue._local_tsn = (rogue._local_tsn + 1) % 2**32
    return chunk


async def never_ending_message(rogue: sctp.Sctp) -> None:
    await rogue._send_chunk(data(rogue, b"x", flags=2, stream=7))
    for _ in range(sctp._FRAGMENTS + 1):
        await rogue._send_chunk(data(rogue, b"x", flags=0, stream=7))
        await asyncio.sleep(0)


async def data_channels_without_end(rogue: sctp.Sctp) -> None:
    for stream in range(100, 100 + sctp._STREAMS + 1):
        await rogue._send_chunk(data(rogue, b"x", stream=stream))


async def a_data_channel_opened_twice(rogue: sctp.Sctp) -> None:
    for _ in range(2):
        opening = b"\3\0\0\0\0\0\0\0\0\0\0\0"
        await rogue._send_chunk(data(rogue, opening, flags=7, protocol=50, stream=9))


async def text_that_is_none(rogue: sctp.Sctp) -> None:
    stream = next(iter(rogue._data_channels))
    await rogue._send_chunk(data(rogue, b"\xff\xff", flags=7, protocol=51, stream=stream))


@pytest.mark.parametrize(
    "attack", [never_ending_message, data_channels_without_end, a_data_channel_opened_twice, text_that_is_none]
)
async def test_a_peer_that_breaks_sctp_loses_its_channel_and_nothing_is_thrown(attack: Attack) -> None:
    left, right = await connected()
    await attack(left.peer._sctp)
    await right.until(lambda: bool(right.closed))
    assert right.closed[0].startswith("the peer ")
    assert not right.channel.has_room
    await left.peer.aclose()
    await right.peer.aclose()


@pytest.mark.parametrize("trusted", [True, False])
async def test_fragments_of_a_stranger_are_fewer_than_those_of_who_was_let_in(trusted: bool) -> None:
    left, right = await connected(trust=trusted)
    rogue = left.peer._sctp
    for number in range(sctp._FRAGMENTS_FIRST + 1):
        await rogue._send_chunk(data(rogue, b"x", flags=0 if number else 2, stream=7))
        await asyncio.sleep(0)
    if trusted:
        await right.send(b"still here")
        await left.until(lambda: left.messages == [b"still here"])
    else:
        await right.until(lambda: bool(right.closed))
    waiting = right.peer._sctp._inbound_streams[7].reassembly
    assert len(waiting) == sctp._FRAGMENTS_FIRST + 1
    await left.peer.aclose()
    await right.peer.aclose()


async def test_an_acknowledgement_of_what_was_not_sent_is_dropped() -> None:
    left, right = await connected()
    sack = aiortc_sctp.SackChunk()
    sack.cumulative_tsn = right.peer._sctp._last_sacked_tsn
    sack.gaps = [(1, 65_535)] * 250
    await left.peer._sctp._send_chunk(sack)
    await right.send(b"still here")
    await left.until(lambda: left.messages == [b"still here"])
    await left.peer.aclose()
    await right.peer.aclose()


async def test_packets_that_wait_together_are_acknowledged_by_twos(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = await connected()
    acknowledged: list[bytes] = []
    send = right.peer._sctp._send_chunk

    async def counting(chunk: aiortc_sctp.Chunk) -> None:
        if isinstance(chunk, aiortc_sctp.SackChunk):
            acknowledged.append(bytes(chunk))
        await send(chunk)

    monkeypatch.setattr(right.peer._sctp, "_send_chunk", counting)
    monkeypatch.setattr(right.peer._sctp, "_more_waits", lambda: True)
    for number in range(10):
        await left.send(b"%d" % number)
    await right.until(lambda: len(right.messages) == 10)
    assert len(acknowledged) == 5
    await left.peer.aclose()
    await right.peer.aclose()


async def test_on_a_near_path_no_more_is_on_the_way_than_the_peers_socket_holds() -> None:
    left, right = await connected()
    for _ in range(100):
        await left.send(bytes(16_384))
    await right.until(lambda: len(right.messages) == 100)
    assert left.peer._sctp._cwnd <= sctp._CWND_NEAR
    assert left.peer._sctp._rto < 1.0
    await left.peer.aclose()
    await right.peer.aclose()


async def test_after_the_end_no_timer_runs_any_more() -> None:
    left, right = await connected()
    left.peer._connection.data_received = lambda *_: None  # type: ignore[method-assign]
    await left.send(bytes(10_000))
    await left.peer.aclose()
    association = left.peer._sctp
    association._t3_expired()
    await asyncio.sleep(0.01)
    assert association._t3_handle is None
    await right.peer.aclose()
