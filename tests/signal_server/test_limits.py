from __future__ import annotations

import pytest

from signal_server.limits import MAX_PROXIES, Bucket, Limits, RelayLimits


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
