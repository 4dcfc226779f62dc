from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.config import KIB, Limits
from llmtunnel.errors import ErrorCode, ProtocolError
from llmtunnel.protocol.events import DataReceived
from llmtunnel.protocol.hello import UNLIMITED
from llmtunnel.protocol.window import Backlog, Budget, ReceiveWindow, SendWindow, Unmetered

from ..support.core_pair import OK, ConnectionPair

steps = st.lists(st.tuples(st.sampled_from(["send", "read"]), st.integers(1, 5000)), max_size=200)


class Pipe:
    """A sender that obeys, a receiver that reads when it likes, and credit that crosses at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sender, self.receiver = SendWindow(size), ReceiveWindow(size)
        self.unread = 0

    def send(self, wanted: int) -> int:
        size = min(wanted, self.sender.available)
        self.sender.spend(size)
        self.receiver.receive(size)
        self.unread += size
        return size

    def read(self, wanted: int) -> None:
        size = min(wanted, self.unread)
        self.unread -= size
        if size and (grant := self.receiver.consume(size)):
            assert grant * 2 >= self.size, "a grant is worth its frame"
            self.sender.add(grant)


@given(st.integers(1, 10_000), steps)
def test_never_more_than_the_window_is_unread_and_no_credit_is_lost(
    size: int, given_steps: list[tuple[str, int]]
) -> None:
    pipe = Pipe(size)
    for step, amount in given_steps:
        pipe.send(amount) if step == "send" else pipe.read(amount)
        assert 0 <= pipe.unread <= size
        assert pipe.sender.available + pipe.unread + pipe.receiver.consumed == size
    pipe.read(size)
    assert pipe.send(1) == 1, "a sender that obeys is never stuck once the reader drains"


def test_one_byte_past_the_window_is_too_much() -> None:
    window = ReceiveWindow(10)
    window.receive(10)
    with pytest.raises(ProtocolError) as caught:
        window.receive(1)
    assert caught.value.code is ErrorCode.FLOW_CONTROL


def test_bytes_that_were_read_but_not_granted_again_still_count() -> None:
    window = ReceiveWindow(10)
    window.receive(10)
    assert window.consume(4) == 0
    with pytest.raises(ProtocolError):
        window.receive(1)


def test_credit_past_two_gib_is_refused() -> None:
    window = SendWindow(UNLIMITED - 5)
    window.add(5)
    with pytest.raises(ProtocolError) as caught:
        window.add(1)
    assert caught.value.code is ErrorCode.PROTOCOL


def test_without_credit_a_body_may_be_longer_than_any_window() -> None:
    window = Unmetered()
    for _ in range(3):
        window.spend(UNLIMITED)
    assert window.available == UNLIMITED


def test_a_v1_backlog_is_bounded_by_what_is_unread_and_grants_nothing() -> None:
    backlog = Backlog(100)
    for _ in range(50):
        backlog.receive(100)
        assert backlog.consume(100) == 0
    backlog.receive(100)
    with pytest.raises(ProtocolError) as caught:
        backlog.receive(1)
    assert caught.value.code is ErrorCode.FLOW_CONTROL


# -- what all streams of a peer hold


def test_a_budget_is_full_at_its_limit_and_a_new_stream_may_have_half_of_it() -> None:
    budget = Budget(100)
    assert budget.take(50, new=True)
    assert not budget.take(1, new=True)
    assert budget.take(50) and not budget.take(1)
    assert budget.used == 100
    budget.give(100)
    assert budget.take(100)


def test_a_peer_that_holds_all_that_it_may_leaves_each_other_one_its_share() -> None:
    others = Budget(100)
    peers = [Budget(90, share=10, others=others) for _ in range(5)]
    assert peers[0].take(90) and not peers[0].take(1)
    assert peers[1].take(30) and not peers[1].take(1)
    assert all(peer.take(10) and not peer.take(1) for peer in peers[2:])
    peers[0].give(50)
    assert peers[2].take(50)
    assert sum(peer.used for peer in peers) == 100 + 5 * 10


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.booleans()), max_size=200))
def test_budgets_never_hold_more_than_they_may_and_give_back_all(
    steps: list[tuple[int, int, bool]],
) -> None:
    others = Budget(60)
    peers = [Budget(50, share=10, others=others) for _ in range(4)]
    held = [0] * 4
    for number, size, back in steps:
        peer = peers[number]
        if back:
            size = min(size, held[number])
            peer.give(size)
            held[number] -= size
        elif peer.take(size):
            held[number] += size
        else:
            assert held[number] + size > 10, "a share is for one peer alone"
        assert [each.used for each in peers] == held
        assert max(held) <= 50 and others.used == sum(max(0, each - 10) for each in held) <= 60
    for peer, size in zip(peers, held, strict=True):
        peer.give(size)
    assert others.used == 0


# -- windows that grow


LIMITS = Limits(window=512 * KIB, window_most=4096 * KIB, held=8 * 8192 * KIB)


def download(pair: ConnectionPair, stream: int, *, round_trip: float, rounds: int = 1) -> list[int]:
    """What serve may send in each round trip, where it always has more and proxy reads what comes."""
    amounts = []
    for _ in range(rounds):
        pair.now += round_trip
        amounts.append(fill(pair, stream, reads=True))
        pair.pump()
    return amounts


def fill(pair: ConnectionPair, stream: int, *, reads: bool, most: int = 1 << 30) -> int:
    """Have serve send until its credit is used up, or so many bytes; how many. What proxy grants stays on its way."""
    amount = 0
    data = memoryview(bytes(1_000_000))
    while size := pair.serve.connection.send_data(stream, data[: most - amount]):
        amount += size
        pair.flush(pair.serve)
        while pair.proxy.inbox:
            for event in pair.deliver(pair.proxy):
                if reads and isinstance(event, DataReceived):
                    pair.proxy.connection.consumed(stream, len(event.data))
    return amount


def answering(pair: ConnectionPair) -> int:
    stream = pair.open(ended=True)
    pair.serve.connection.send_response(stream, OK)
    pair.pump()
    return stream


def test_a_window_that_holds_its_sender_up_grows_to_its_most() -> None:
    pair = ConnectionPair(limits=LIMITS)
    stream = answering(pair)
    amounts = download(pair, stream, round_trip=0.05, rounds=20)
    assert amounts[0] == 512 * KIB
    assert amounts[-1] >= 2048 * KIB
    assert pair.proxy.connection.streams[stream].rx_window.size == 4096 * KIB


def test_a_window_that_is_not_used_up_stays() -> None:
    pair = ConnectionPair(limits=LIMITS)
    stream = answering(pair)
    for _ in range(100):
        pair.now += 0.1
        fill(pair, stream, reads=True, most=50 * KIB)
        pair.pump()
    assert pair.proxy.connection.streams[stream].rx_window.size == 512 * KIB


def test_what_all_windows_have_grown_by_is_bounded_and_free_again_with_the_stream() -> None:
    pair = ConnectionPair(limits=LIMITS)
    for _ in range(3):
        streams = [answering(pair) for _ in range(5)]
        for _ in range(20):
            for stream in streams:
                download(pair, stream, round_trip=0.001)
        windows = [pair.proxy.connection.streams[stream].rx_window for stream in streams]
        assert 4096 * KIB < sum(window.grown for window in windows) <= 8192 * KIB
        for stream in streams:
            pair.proxy.connection.reset(stream, ErrorCode.CANCELLED, "")
        pair.pump()


def test_a_reader_that_falls_behind_has_its_first_window_again() -> None:
    pair = ConnectionPair(limits=LIMITS)
    stream = answering(pair)
    download(pair, stream, round_trip=0.05, rounds=20)
    window = pair.proxy.connection.streams[stream].rx_window
    assert window.size == 4096 * KIB
    for _ in range(20):
        fill(pair, stream, reads=False)
        pair.proxy.connection.consumed(stream, window.size // 2)
        pair.pump()
    assert window.size == 512 * KIB
