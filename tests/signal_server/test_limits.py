from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signal_server.accounts import MINUTE
from signal_server.limits import (
    MAX_PROXIES,
    MESSAGE,
    NEWCOMERS,
    PIPE_LEAST,
    Bucket,
    FrameState,
    Limits,
    Meter,
    RelayLimits,
    frames,
    pipe_cost,
    signalling_cost,
)


def test_a_bucket_gives_its_burst_at_once_and_then_its_rate() -> None:
    bucket = Bucket(rate=2, burst=3, now=0)
    assert [bucket.take(1, now=0) for _ in range(4)] == [True, True, True, False]
    assert bucket.take(1, now=0.5)
    assert not bucket.take(1, now=0.6)


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = Bucket(rate=100, burst=3, now=0)
    assert not bucket.take(4, now=1000)
    assert bucket.take(3, now=1000)


def test_a_refused_take_costs_nothing() -> None:
    bucket = Bucket(rate=0, burst=3, now=0)
    assert not bucket.take(4, now=1)
    assert bucket.take(3, now=1)


@pytest.mark.parametrize("proxies", [0, -1, MAX_PROXIES + 1])
def test_a_room_takes_no_impossible_number_of_proxies(proxies: int) -> None:
    with pytest.raises(ValueError, match="1 to 128"):
        Limits(proxies=proxies)


def test_what_is_owed_to_a_bucket_is_a_wait_and_is_paid_off_by_time() -> None:
    bucket = Bucket(rate=2, burst=3, now=0)
    assert [bucket.owe(2, now=0) for _ in range(3)] == [0, 0.5, 1.5]
    assert not bucket.take(1, now=1.5)
    assert bucket.owe(1, now=2) == 0


@pytest.mark.parametrize("name", ["rate", "rate_all", "total", "total_all", "idle"])
def test_a_relay_that_carries_nothing_is_none(name: str) -> None:
    with pytest.raises(ValueError, match="above 0"):
        RelayLimits(**{name: 0})  # type: ignore[arg-type]


def test_a_full_room_has_a_pipe_for_each_proxy() -> None:
    assert RelayLimits().pipes_each >= 2 * 2 * Limits().proxies


def test_a_serve_may_greet_a_full_room_at_once() -> None:
    # An offer of 5 KiB and twenty candidates for each proxy.
    for proxies in (1, 16, MAX_PROXIES):
        assert Limits(proxies=proxies).burst >= proxies * (6 + 20)


def frame(first: int, size: int, *, masked: bool = True) -> bytes:
    """A WebSocket frame of that many zeros."""
    length = (
        bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2) if size < 65_536 else b"\x7f" + size.to_bytes(8)
    )
    head = bytes([first, length[0] | (0x80 if masked else 0)]) + length[1:]
    return head + bytes(4 if masked else 0) + bytes(size)


FRAMES = st.lists(
    st.tuples(st.integers(0, 255), st.sampled_from([0, 1, 125, 126, 1000, 65_535, 65_536]), st.booleans()), max_size=8
)


@given(FRAMES, st.data())
def test_frames_are_found_however_they_arrive(said: list[tuple[int, int, bool]], data: st.DataObject) -> None:
    sent = b"".join(frame(first, size, masked=masked) for first, size, masked in said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=20)))
    state, found = FrameState(), []
    for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        found += list(frames(sent[begin:end], state))
        assert len(state.head) < 14
    assert found == [(first, size) for first, size, _ in said]
    assert (state.head, state.skip) == (b"", 0)


@given(st.binary(max_size=300), st.integers(1, 20))
def test_what_is_no_frame_is_counted_all_the_same(noise: bytes, step: int) -> None:
    meter = Meter(signalling_cost, rate=1, burst=1e6, now=0)
    for at in range(0, len(noise), step):
        meter.take(noise[at : at + step], now=0)


@pytest.mark.parametrize("first", [0x00, 0x80, 0x01, 0x02, 0x81, 0x82, 0x89, 0x8A], ids=hex)
def test_empty_frames_are_too_many_once_the_burst_is_used_up(first: int) -> None:
    meter = Meter(signalling_cost, rate=10, burst=5, now=0)
    assert meter.take(frame(first, 0) * 5, now=0)
    assert not meter.take(frame(first, 0), now=0)
    assert meter.take(frame(first, 0) * 5, now=10)
    assert not meter.take(frame(first, 0) * 1_000_000, now=10)


@pytest.mark.parametrize(
    ("size", "cost"), [(0, 1), (1023, 1), (1024, 2), (MESSAGE, 65), (MESSAGE + 1, 1), (1 << 62, 1)]
)
def test_a_message_counts_by_its_size_unless_it_is_refused_for_it(size: int, cost: int) -> None:
    assert signalling_cost(0x81, size) == cost


@pytest.mark.parametrize(
    ("first", "size", "cost"),
    [
        (0x82, 1, 0),  # a message: its bytes count, when it is passed on
        (0x82, MESSAGE, 0),
        (0x80, 0, 0),  # the last part of one
        (0x02, PIPE_LEAST, 0),
        (0x00, PIPE_LEAST, 0),
        (0x82, 0, 1),
        (0x02, PIPE_LEAST - 1, 1),
        (0x00, 0, 1),
        (0x89, 0, 1),
        (0x8A, 125, 1),
    ],
)
def test_in_a_pipe_frames_count_of_which_no_message_comes(first: int, size: int, cost: int) -> None:
    assert pipe_cost(first, size) == cost


@pytest.mark.parametrize("connections", [1, 2, 7, 8, 60, 160, 736, 3552, 14_000, 1_000_000])
def test_a_process_that_can_hold_few_connections_keeps_places_for_newcomers(connections: int) -> None:
    limits = Limits().within(connections)
    assert limits.sockets == min(connections, Limits().sockets)
    assert limits.relay is not None
    settled = limits.members + 2 * limits.relay.pipes
    assert 1 <= settled <= limits.sockets - limits.sockets // NEWCOMERS
    assert limits.strangers_each >= 1


@pytest.mark.parametrize(("connections", "at_once"), [(12, 4), (192, 8), (864, 32), (3_552, 128), (14_000, 128)])
def test_a_newcomer_is_answered_before_newer_ones_replace_it(connections: int, at_once: int) -> None:
    limits = Limits().within(connections, at_once=at_once)
    assert limits.strangers_each == limits.newcomers >= min(5 * at_once, connections // 2)
    assert limits.members >= connections // 4


def test_one_socket_cannot_use_up_what_its_room_may_say() -> None:
    assert Limits().messages_room > Limits().rate


def test_a_full_room_and_a_class_may_connect_at_once() -> None:
    each = 30  # messages of one member, long ones counted as several
    assert MINUTE * Limits().messages_room >= (MAX_PROXIES + 1) * 2 * each
    assert MINUTE * Limits().messages_each >= 2 * 500 * each


def test_a_process_that_can_hold_many_is_bounded_by_the_limits_alone() -> None:
    assert Limits().within(1 << 40) == Limits()
    assert Limits(relay=None).within(1 << 40) == Limits(relay=None)


@pytest.mark.parametrize("name", ["rooms_each", "members_each", "joins", "messages_each", "messages_room"])
def test_an_address_that_may_have_nothing_is_no_limit(name: str) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Limits(**{name: 0})  # type: ignore[arg-type]
