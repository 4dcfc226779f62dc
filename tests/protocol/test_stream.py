from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.errors import ErrorCode, ProtocolError
from llmtunnel.protocol.stream import Half, State, Step

LEGAL = {
    (State.WAITING, Step.INTERIM): State.WAITING,
    (State.WAITING, Step.HEAD): State.OPEN,
    (State.OPEN, Step.BODY): State.OPEN,
    (State.OPEN, Step.END): State.ENDED,
}
"""README.md section 5, written again."""


@pytest.mark.parametrize(("state", "step"), list(itertools.product(State, Step)))
def test_every_step_in_every_state_is_legal_or_an_error(state: State, step: Step) -> None:
    half = Half()
    half.state = state
    if (state, step) in LEGAL:
        half.step(step)
        assert half.state is LEGAL[state, step]
    else:
        with pytest.raises(ProtocolError) as caught:
            half.step(step, 5)
        assert caught.value.code is ErrorCode.PROTOCOL
        assert (half.state, half.length) == (state, 0)


@given(st.lists(st.sampled_from(Step)))
def test_whatever_comes_a_half_is_interims_then_a_head_then_bodies_then_an_end(steps: list[Step]) -> None:
    half, taken = Half(), []
    for step in steps:
        try:
            half.step(step, 1 if step is Step.BODY else 0)
        except ProtocolError:
            continue
        taken.append(step)
    shape = [step for step, _ in itertools.groupby(taken)]
    assert [step for step in Step if step in shape] == shape
    assert taken.count(Step.HEAD) <= 1 and taken.count(Step.END) <= 1
    assert half.length == taken.count(Step.BODY)


def test_an_end_that_tells_another_length_is_a_truncation() -> None:
    half = Half()
    half.step(Step.HEAD)
    half.step(Step.BODY, 10)
    half.step(Step.END)
    half.check_length(10)
    for told in (0, 9, 11, 2**64 - 1):
        with pytest.raises(ProtocolError) as caught:
            half.check_length(told)
        assert caught.value.code is ErrorCode.TRUNCATED
