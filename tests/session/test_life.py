from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.session import life as module
from llmtunnel.session.life import FRESH, GONE, Life, Resumed, State, Suspended

WAIT = 60.0


def standing(*, resume_for: float = WAIT) -> Life:
    return Life(now=0.0, resume_for=resume_for, introduces=False)


def silent(at: float, *, resume_for: float = WAIT) -> Life:
    life = standing(resume_for=resume_for)
    life.lost(at, "The peer is silent.", last_heard=at)
    return life


# -- the table in the module's docstring

ROW = re.compile(r"^    ([A-Z]+|any) {2,}(.+?) {2,}([A-Z]+)(?: {2,}(\w+))?$", re.MULTILINE)


def in_state(state: State, *, introduces: bool) -> Life:
    """A session in this state, whose channel introduces, or carries."""
    life = Life(now=0.0, resume_for=WAIT, introduces=introduces)
    if state is State.SUSPENDED:
        life.lost(1.0, "The peer is silent.", last_heard=1.0)
    elif state is State.ENDED:
        life.end()
    assert life.state is state
    return life


def happens(what: str, life: Life) -> Suspended | Resumed | None:
    match what:
        case "a channel carries it":
            return life.moved(2.0, introduces=False, last_heard=1.0)
        case "a channel introduces":
            return life.moved(2.0, introduces=True, last_heard=1.0)
        case "the peer is heard" | "the peer is heard, which carries it" | "the peer is heard, which introduces":
            return life.heard(2.0, last_heard=1.0)
        case "the peer is silent" | "the channel closes":
            return life.lost(2.0, what, last_heard=1.0)
        case "the session ends":
            return life.end()
    raise AssertionError(what)


def test_the_table_is_true_and_whole() -> None:
    rows = ROW.findall(module.__doc__ or "")
    seen = set()
    for before, what, after, heard in rows:
        for state in State if before == "any" else [State[before]]:
            introduces = state is State.INTRODUCED or what.endswith("which introduces")
            change = happens(what, life := in_state(state, introduces=introduces))
            assert (life.state, type(change).__name__ if change else "") == (State[after], heard), (before, what)
            seen.add((state, what.partition(",")[0]))
    what_happens = {what for _, what in seen}
    assert len(what_happens) == 6
    alive = set(State) - {State.ENDED}
    assert seen >= {(state, what) for state in alive for what in what_happens}


@given(st.lists(st.sampled_from(["carries", "introduces", "heard", "silent", "closes", "gone", "there", "later"])))
def test_whatever_happens_a_session_waits_where_streams_do_and_never_without_an_end(events: list[str]) -> None:
    now, life = 0.0, standing()
    for event in events:
        now += 1.0
        change: Suspended | Resumed | None = None
        match event:
            case "carries" | "introduces":
                change = life.moved(now, introduces=event == "introduces", last_heard=now)
            case "heard":
                change = life.heard(now, last_heard=now)
            case "silent" | "closes":
                change = life.lost(now, event, last_heard=now)
            case "gone":
                life.said_gone(now)
            case "there":
                life.said_there()
        told = {Suspended: State.SUSPENDED, Resumed: State.STANDING}
        assert change is None or life.state is told[type(change)]
        assert life.waits == (life.state in (State.INTRODUCED, State.SUSPENDED)) == (life.deadline is not None)
        assert life.deadline is None or life.deadline <= now + WAIT


def test_what_falls_silent_while_it_only_introduces_introduces_again_when_it_is_heard() -> None:
    life = Life(now=0.0, resume_for=WAIT, introduces=True)
    assert life.lost(1.0, "The peer is silent.", last_heard=0.5) == Suspended("The peer is silent.")
    assert life.heard(2.0, last_heard=0.5) is None
    assert (life.state, life.has_stood) == (State.INTRODUCED, False)
    assert life.moved(3.0, introduces=False, last_heard=2.0) == Resumed(3.0, first=True)


# -- how long it waits


def test_it_waits_as_long_as_it_was_made_for_and_says_why_it_ends() -> None:
    life = silent(5.0)
    life.lost(9.0, "It is still silent.", last_heard=5.0)
    assert life.deadline == 65.0
    assert life.end_of_wait(64.9) is None
    assert life.end_of_wait(65.0) == "The peer is silent. It did not come back within 60 s."


@pytest.mark.parametrize("before", [False, True])
def test_a_process_that_has_ended_is_waited_for_less_long(before: bool) -> None:
    life = standing()
    if before:
        life.said_gone(100.0)
    life.lost(101.0, "It is gone.", last_heard=101.0)
    if not before:
        life.said_gone(102.0)
    assert life.deadline == (101.0 if before else 102.0) + GONE
    assert silent(0.0, resume_for=3.0).deadline == 3.0


@pytest.mark.parametrize("how", ["it comes to the room again", "it speaks", "it had spoken since"])
def test_one_that_is_there_after_all_has_all_the_time_again(how: str) -> None:
    life = standing()
    life.said_gone(100.0)
    at = 100.1 + FRESH if how == "it had spoken since" else 101.0
    life.lost(at, "It is silent.", last_heard=at)
    if how == "it speaks":
        assert life.heard(at, last_heard=at) == Resumed(0.0, first=False)
        life.lost(at, "It is silent.", last_heard=at)
    if how == "it comes to the room again":
        life.said_there()
    assert life.deadline == at + WAIT


def test_a_gap_is_counted_from_the_last_word_before_the_wait() -> None:
    life = standing()
    life.lost(10.0, "It is silent.", last_heard=7.0)
    assert life.silence(20.0, 19.0) == 13.0
    assert life.moved(20.0, introduces=False, last_heard=19.0) == Resumed(13.0, first=False)
    assert life.moved(30.0, introduces=False, last_heard=22.0) == Resumed(0.0, first=False)
