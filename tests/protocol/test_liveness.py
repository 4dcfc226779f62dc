from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.config import Timeouts
from llmtunnel.protocol.liveness import OVERSLEPT, Liveness, Verdict

TIMEOUTS = Timeouts()
LIMITS = {True: (TIMEOUTS.ping_busy, TIMEOUTS.dead_busy), False: (TIMEOUTS.ping_idle, TIMEOUTS.dead_idle)}


@pytest.fixture
def liveness() -> Liveness:
    return Liveness(TIMEOUTS, 100.0)


@pytest.mark.parametrize("busy", [True, False])
def test_silence_brings_a_ping_and_a_ping_unanswered_is_death(liveness: Liveness, busy: bool) -> None:
    ping_after, dead_after = LIMITS[busy]
    assert liveness.deadline(busy=busy) == 100 + ping_after
    assert liveness.check(100 + ping_after - 0.01, busy=busy) is Verdict.ALIVE
    assert liveness.check(100 + ping_after, busy=busy) is Verdict.PING
    assert liveness.deadline(busy=busy) == 100 + dead_after
    assert liveness.check(100 + dead_after - 0.01, busy=busy) is Verdict.ALIVE
    assert liveness.check(100 + dead_after, busy=busy) is Verdict.DEAD


def test_any_message_proves_life(liveness: Liveness) -> None:
    liveness.check(101, busy=True)
    liveness.heard(103.9)
    assert liveness.check(104, busy=True) is Verdict.ALIVE
    assert liveness.deadline(busy=True) == 103.9 + TIMEOUTS.ping_busy


def test_opening_a_stream_after_a_long_idle_asks_first(liveness: Liveness) -> None:
    assert liveness.check(104.5, busy=False) is Verdict.ALIVE
    assert liveness.check(104.5, busy=True) is Verdict.PING
    assert liveness.check(104.6, busy=True) is Verdict.ALIVE


def test_a_suspected_peer_is_asked_at_once_and_has_little_time(liveness: Liveness) -> None:
    liveness.suspect()
    assert liveness.deadline(busy=False) <= 100
    assert liveness.check(100.1, busy=False) is Verdict.PING
    assert liveness.check(100.1 + TIMEOUTS.dead_suspect - 0.01, busy=False) is Verdict.ALIVE
    assert liveness.check(100.1 + TIMEOUTS.dead_suspect, busy=False) is Verdict.DEAD


def test_a_suspect_that_did_not_answer_while_we_slept_is_dead(liveness: Liveness) -> None:
    liveness.suspect()
    liveness.check(100.1, busy=False)
    assert liveness.check(500, busy=False) is Verdict.DEAD


def test_suspecting_again_gives_no_new_delay(liveness: Liveness) -> None:
    liveness.suspect()
    liveness.check(100.1, busy=False)
    liveness.suspect()
    assert liveness.check(100.1 + TIMEOUTS.dead_suspect, busy=False) is Verdict.DEAD


def test_a_suspect_that_answers_is_trusted_again(liveness: Liveness) -> None:
    liveness.suspect()
    liveness.check(100.1, busy=False)
    liveness.heard(100.2)
    assert liveness.deadline(busy=False) == 100.2 + TIMEOUTS.ping_idle


@pytest.mark.parametrize("busy", [True, False])
def test_after_we_slept_the_peer_gets_its_chance_anew(liveness: Liveness, busy: bool) -> None:
    ping_after, dead_after = LIMITS[busy]
    assert liveness.check(100 + ping_after, busy=busy) is Verdict.PING
    woke = 100 + dead_after + 3600
    assert liveness.check(woke, busy=busy) is Verdict.PING
    assert liveness.check(woke + dead_after - ping_after, busy=busy) is Verdict.DEAD


def test_a_timer_that_is_a_little_late_is_no_sleep(liveness: Liveness) -> None:
    liveness.check(101, busy=True)
    _, dead_after = LIMITS[True]
    assert liveness.check(100 + dead_after + OVERSLEPT / 2, busy=True) is Verdict.DEAD


def test_a_pong_tells_the_round_trip(liveness: Liveness) -> None:
    assert liveness.rtt is None
    liveness.pong(100.5)
    assert liveness.rtt is None, "nobody asked"
    liveness.check(101, busy=True)
    liveness.heard(101.25)
    liveness.pong(101.25)
    assert liveness.rtt == 0.25


def test_measuring_tells_the_round_trip_and_condemns_nobody(liveness: Liveness) -> None:
    liveness.measure(100)
    assert liveness.deadline(busy=False) == 100 + TIMEOUTS.ping_idle
    liveness.pong(100.25)
    assert liveness.rtt == 0.25


@given(st.lists(st.tuples(st.floats(0.01, 3), st.booleans()), max_size=50))
def test_a_peer_that_answers_each_ping_never_dies(gaps: list[tuple[float, bool]]) -> None:
    liveness, now = Liveness(TIMEOUTS, 0.0), 0.0
    for gap, busy in gaps:
        now += gap
        verdict = liveness.check(now, busy=busy)
        assert verdict is not Verdict.DEAD
        if verdict is Verdict.PING:
            liveness.heard(now)
            liveness.pong(now)


@given(st.floats(0, 1e6), st.booleans())
def test_checking_at_each_deadline_ends_within_the_limit(start: float, busy: bool) -> None:
    liveness, now = Liveness(TIMEOUTS, start), start
    for _ in range(3):
        now = liveness.deadline(busy=busy)
        if liveness.check(now, busy=busy) is Verdict.DEAD:
            break
    else:
        pytest.fail("a silent peer lives on")
    assert now - start == pytest.approx(LIMITS[busy][1])
