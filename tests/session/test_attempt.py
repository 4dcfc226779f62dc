from __future__ import annotations

import re
from typing import Any, cast

import pytest

from llmtunnel.errors import AuthenticationFailed, ConnectFailed, PeerLost, TunnelError, Unwelcome, VersionMismatch
from llmtunnel.session import attempt as module
from llmtunnel.session.attempt import Attempt, GiveUpAll, GoOn, Over, Stage, UseRelay, outcome, verdict

NO_PATH = ConnectFailed("No network path.")
LOST = PeerLost("It closed the connection.")
FINAL = [AuthenticationFailed("Wrong code."), Unwelcome("It was removed."), VersionMismatch("No common version.")]


class FakeWay:
    def __init__(self, name: str) -> None:
        self.name = name
        self.on_demand = name == "relay"


class FakeCarrier:
    def __init__(self, *, settled: bool) -> None:
        self.settled = self
        self.is_set = lambda: settled


def attempt(
    name: str, stage: Stage = Stage.OPENING, failure: TunnelError | None = None, *, settled: bool = True
) -> Attempt:
    made = Attempt(cast(Any, FakeWay(name)))
    made.stage, made.failure = stage, failure
    if stage not in (Stage.OPENING, Stage.WAITING):
        made.carrier = cast(Any, FakeCarrier(settled=settled))
    return made


def test_the_table_of_stages_is_the_code() -> None:
    rows = re.findall(r"^    ([A-Z]+) {2,}.+? {2,}([A-Z]+)$", module.__doc__ or "", re.MULTILINE)
    told = {(Stage[before], Stage[after]) for before, after in rows}
    assert told == {(before, after) for before, afters in module._NEXT.items() for after in afters}
    for before in Stage:
        for after in Stage:
            made = attempt("direct", before)
            if (before, after) in told:
                made.step(after)
                assert made.stage is after
            else:
                with pytest.raises(AssertionError):
                    made.step(after)


def test_the_link_is_over_with_its_last_attempt_and_the_reason_says_most() -> None:
    ended = attempt("direct", Stage.LEFT, NO_PATH)
    relay = attempt("relay", Stage.CLOSED, LOST)
    assert outcome(ended, [ended], has_session=False, session_over=True) == Over(NO_PATH)
    assert outcome(ended, [ended, relay], has_session=True, session_over=False) == Over(LOST)
    refused = attempt("tcp", Stage.LEFT, FINAL[0])
    assert verdict([ended, refused, relay]) is FINAL[0]
    assert verdict([ended, attempt("relay", Stage.LEFT, ConnectFailed("No ticket."))]) is NO_PATH


@pytest.mark.parametrize("failure", FINAL)
@pytest.mark.parametrize("greets", [False, True])
def test_a_refusal_ends_all_unless_another_channel_is_being_greeted_on(failure: TunnelError, greets: bool) -> None:
    ended = attempt("relay", Stage.LEFT, failure)
    other = attempt("direct", Stage.GREETING if greets else Stage.OPENING, settled=not greets)
    expected = GoOn() if greets else GiveUpAll(failure)
    assert outcome(ended, [other, ended], has_session=False, session_over=True) == expected


def test_with_a_session_its_end_alone_ends_the_other_attempts() -> None:
    ended, carrying = attempt("relay", Stage.LEFT, FINAL[0]), attempt("direct", Stage.CARRYING)
    assert outcome(ended, [carrying, ended], has_session=True, session_over=False) == GoOn()
    assert outcome(ended, [carrying, ended], has_session=True, session_over=True) == GiveUpAll(FINAL[0])


@pytest.mark.parametrize("others", [["relay"], ["relay", "tcp"], ["tcp"]])
def test_the_relay_is_used_at_once_where_nothing_else_is_left(others: list[str]) -> None:
    ended = attempt("direct", Stage.LEFT, NO_PATH)
    attempts = [ended, *(attempt(name) for name in others)]
    expected = UseRelay() if others == ["relay"] else GoOn()
    assert outcome(ended, attempts, has_session=False, session_over=True) == expected
