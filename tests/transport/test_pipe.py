"""Channels over a pipe in memory, with somebody hostile on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from llmtunnel.errors import ChannelClosed, ConnectFailed
from llmtunnel.paths import Path
from llmtunnel.transport import pipe
from llmtunnel.transport.base import MAX_MESSAGE, Binding
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.pipe import PipeChannel

from ..support.embedded import settle
from ..support.pipes import (
    ATTACKS,
    LEFT,
    PATIENCE,
    RIGHT,
    Ear,
    Hostile,
    Wire,
    channel,
    close,
    sealed_standing,
    sealed_wired,
    standing,
    wired,
)

Stands = Callable[[], Awaitable[tuple[PipeChannel, PipeChannel, Wire, Wire]]]


async def test_a_channel_stands_and_says_what_it_is() -> None:
    left, right, *_ = await standing()
    assert left.binding == Binding(local=LEFT.fingerprint, remote=RIGHT.fingerprint)
    assert right.binding == Binding(local=RIGHT.fingerprint, remote=LEFT.fingerprint)
    assert (left.path, left.address) == (Path.RELAY, "")
    await close(left, right)


async def test_there_is_no_room_before_tls_stands() -> None:
    left, right, *_ = await wired()
    assert not left.has_room and not right.has_room
    await left.stand(PATIENCE)
    assert left.has_room
    await close(left, right)


async def test_a_peer_that_says_nothing_is_given_up_in_time() -> None:
    left, wire = channel(LEFT, server=False)
    left.connection_made(wire)
    with pytest.raises(ConnectFailed, match=r"over relay: the other end did not finish .* within 0\.05 s"):
        await left.stand(0.05)
    wire.arrive_end()
    await left.aclose()
    with pytest.raises(ChannelClosed, match="handshake"):
        left.send(b"x")


async def test_what_comes_before_a_receiver_waits_in_the_pipe() -> None:
    left, right, _, right_wire = await standing()
    for _ in range(3):
        left.send(bytes(MAX_MESSAGE))
    await settle()
    assert right_wire.paused
    assert right._unread == b"" and right._early == []
    ear = Ear()
    right.trust()
    right.attach(ear)
    assert ear.messages == []
    await ear.until(lambda: len(ear.messages) == 3)
    await close(left, right)


async def test_a_peer_that_speaks_with_its_handshakes_last_and_leaves_is_heard_of_later() -> None:
    left, right, left_wire, right_wire = await wired()
    held = bytearray()

    def answer(data: bytes) -> None:
        left_wire.carry, left_wire.end = held.extend, lambda: None
        left_wire.arrive(data)

    right_wire.carry = answer
    await left.stand(PATIENCE)
    left.send(b"refused, because")
    closing = asyncio.create_task(left.aclose())
    await settle()
    right_wire.arrive(bytes(held))
    await right.stand(PATIENCE)
    ear = Ear()
    right.attach(ear)
    await ear.until(lambda: ear.closed)
    assert (ear.messages, ear.closed) == ([b"refused, because"], ["closed by the peer"])
    left_wire.lose()
    await closing
    await right.aclose()


async def test_a_stranger_may_send_so_much_and_no_more() -> None:
    left, right, *_ = await standing()
    ear = Ear()
    right.attach(ear)
    for number in range(100):
        if left.has_room:
            left.send(bytes([number]) * 8192)
        await settle()
    await ear.until(lambda: ear.closed)
    assert ear.closed == ["the peer sent more data than is allowed"]
    assert pipe._STRANGER - 3 * 8192 < sum(map(len, ear.messages)) < pipe._STRANGER
    await close(left, right)


async def test_who_is_let_in_in_the_middle_of_a_read_is_no_stranger_for_its_rest() -> None:
    class Host(Ear):
        def message_received(self, message: bytes) -> None:
            super().message_received(message)
            if message == b"proof":
                right.trust()

    right: Any = None
    left, right, left_wire, right_wire = await standing()
    host, read = Host(), bytearray()
    right.attach(host)
    left_wire.carry = read.extend
    left.send(b"proof")
    for _ in range(4):
        left.send(bytes(MAX_MESSAGE))
        await settle()
    right_wire.arrive(bytes(read))
    assert len(host.messages) == 5
    await close(left, right)


async def test_what_is_queued_and_the_close_come_whole_whoever_still_sends() -> None:
    left, right, *_ = await standing()
    near, far = Ear(), Ear()
    left.attach(near)
    right.attach(far)
    left.trust()
    right.trust()
    sent = [bytes([number]) * 50_000 for number in range(30)]
    for message in sent:
        await near.send(left, message)
        right.send(message)
    await left.aclose()
    await left.aclose()
    await far.until(lambda: far.closed)
    assert far.messages == sent
    assert far.closed == ["closed by the peer"]
    assert near.closed == ["closed by us"]
    for each in (left, right):
        assert not each.has_room
        with pytest.raises(ChannelClosed):
            each.send(b"more")
    await right.aclose()


async def test_a_full_pipe_has_no_room_until_it_drains() -> None:
    left, right, left_wire, _ = await standing()
    near, far = Ear(), Ear()
    left.attach(near)
    right.attach(far)
    right.trust()
    await settle()
    left_wire.stuck = True
    sent = 0
    while left.has_room:
        left.send(bytes(MAX_MESSAGE))
        sent += 1
    assert sent == 1 and near.rooms == 0
    left_wire.stuck = False
    left_wire.leave()
    await far.until(lambda: len(far.messages) == sent)
    assert near.rooms == 1 and left.has_room
    await close(left, right)


async def test_a_peer_that_never_reads_does_not_hold_a_close_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "_DRAIN", 0.05)
    left, right, left_wire, _ = await standing()
    left_wire.stuck = True
    left.send(b"lost")
    await left.aclose()
    right.data_received(b"")
    await right.aclose()


@pytest.mark.parametrize(
    ("exc", "said"),
    [(None, "was cut"), (ConnectionResetError(104, "Connection reset by peer"), "broke: Connection reset by peer")],
)
async def test_a_pipe_that_ends_without_a_word_was_cut(exc: Exception | None, said: str) -> None:
    left, right, left_wire, right_wire = await standing()
    near, far = Ear(), Ear()
    left.attach(near)
    right.attach(far)
    await settle()
    left_wire.lose(exc)
    right_wire.arrive_end()
    await near.until(lambda: near.closed)
    await far.until(lambda: far.closed)
    assert near.closed == [f"the connection {said}"]
    assert far.closed == ["the connection was cut"]
    await close(left, right)


@pytest.mark.parametrize("stands", [standing, sealed_standing], ids=["tls", "sealed"])
@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_hostile_relay_can_cut_and_nothing_else(attack: str, stands: Stands) -> None:
    left, right, left_wire, right_wire = await stands()
    near, far = Ear(), Ear()
    left.attach(near)
    right.attach(far)
    left.trust()
    right.trust()
    left_wire.carry = getattr(Hostile(right_wire.arrive), attack)
    sent = [bytes([number]) * 1000 for number in range(60)]
    for message in sent:
        if not left.has_room:
            break
        left.send(message)
        await settle()
    if not far.closed:  # the rest never comes: nothing is wrong yet, and at the end it is
        left_wire.lose()
        right_wire.arrive_end()
    await far.until(lambda: far.closed)
    assert "altered" in far.closed[0] or "cut" in far.closed[0]
    assert far.messages == sent[: len(far.messages)]
    assert len(far.messages) < len(sent)
    await close(left, right)


@pytest.mark.parametrize(
    ("begins", "attack"),
    # Each side's part of a sealed handshake is one message, so that none follows which could be lost or repeated.
    [(wired, each) for each in ATTACKS] + [(sealed_wired, each) for each in ATTACKS if each not in ("drop", "replay")],
)
async def test_a_hostile_relay_that_touches_the_handshake_ends_it(attack: str, begins: Stands) -> None:
    left, right, left_wire, right_wire = await begins()
    left_wire.carry = getattr(Hostile(right_wire.arrive), attack)
    right_wire.carry = getattr(Hostile(left_wire.arrive), attack)
    stood = await asyncio.gather(left.stand(0.2), right.stand(0.2), return_exceptions=True)
    assert any(isinstance(each, ConnectFailed) for each in stood)
    left_wire.lose()
    right_wire.lose()
    await close(left, right)


async def test_a_relay_that_plays_both_peers_shows_itself_in_the_binding() -> None:
    """It can shake hands with each: only what is bound to both certificates, or one that is expected, tells."""

    middle, middle_wire = channel(Identity(), server=True)
    victim, victim_wire = channel(LEFT, server=False)
    victim_wire.carry, middle_wire.carry = middle_wire.arrive, victim_wire.arrive
    victim.connection_made(victim_wire)
    middle.connection_made(middle_wire)
    await victim.stand(PATIENCE)
    assert victim.binding is not None
    assert victim.binding.remote != RIGHT.fingerprint
    victim_wire.lose()
    middle_wire.lose()


async def test_a_flood_of_records_that_ask_for_answers_is_bounded() -> None:
    """A peer asks for new keys over and over, and reads none of the answers."""

    left, right, left_wire, right_wire = await standing()
    near, far = Ear(), Ear()
    right.attach(far)
    left.attach(near)
    right.trust()
    await settle()
    right_wire.stuck = True
    size = 0
    for _ in range(100_000):
        right_wire.waiting += bytes(100)  # as if each had been answered: pyOpenSSL cannot ask
        left.send(b"x")
        await asyncio.sleep(0)
        size = max(size, right_wire.get_write_buffer_size())
        if far.closed:
            break
    assert far.closed == ["the peer does not read the answers that it requests"]
    assert size < pipe._QUEUE_MOST + 10_000
    left_wire.lose()
    right_wire.lose()
