"""A token bucket."""

from __future__ import annotations

from llmtunnel.bucket import Bucket


def test_it_begins_full_and_fills_with_time_up_to_its_size() -> None:
    bucket = Bucket(2, every=10.0)
    assert [bucket.take(100.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(at) for at in (109.0, 110.0, 110.0)] == [False, True, False]
    assert [bucket.take(1000.0) for _ in range(3)] == [True, True, False]


def test_what_is_given_back_can_be_taken_and_does_not_make_it_larger() -> None:
    bucket = Bucket(1, every=10.0)
    bucket.give()
    assert [bucket.take(0.0) for _ in range(2)] == [True, False]
    bucket.give()
    assert bucket.take(0.0)
