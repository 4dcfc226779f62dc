from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.errors import ErrorCode, ProtocolError
from llmtunnel.protocol.hello import UNLIMITED
from llmtunnel.protocol.window import Backlog, ReceiveWindow, SendWindow, Unmetered

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
