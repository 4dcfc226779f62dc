"""The JavaScript core reads invites as the command line does: it passes the tests of `Invite.parse`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

import pytest

from llmtunnel.errors import SettingError
from llmtunnel.invite import DEFAULT_SIGNAL, EXAMPLE, Invite
from llmtunnel.words import WORDS
from tools import web_words

from ..fuzz import invites as spoilt
from ..fuzz import mutations
from ..test_invite import *  # noqa: F403
from .node import Calls, JsError

in_python = Invite.parse

NOT_OF_PARSE = (
    "test_there_are_enough_words_and_each_is_short_and_of_small_letters",
    "test_three_letters_tell_a_word",
    "test_two_words_differ_by_three_letters_at_least",
    "test_an_invite_is_a_value_that_shows_its_secret_in_its_code_alone",
    "test_each_new_one_is_another_and_of_the_list",
    "test_what_would_not_come_back_from_its_code_is_no_invite",
)
"""Tests that are not run again here."""

for name in NOT_OF_PARSE:
    del globals()[name]


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    with Calls() as calls:
        yield calls


@pytest.fixture(scope="module", autouse=True)
def in_javascript(calls: Calls) -> Iterator[None]:
    """`Invite.parse` is JavaScript."""

    def parse(text: str) -> Invite:
        try:
            invite = calls("invite.parseInvite", text)
        except JsError as exc:
            assert exc.name == "SettingError", exc
            raise SettingError(exc.message, hint=exc.hint) from None
        found = Invite(room=invite.get("room"), secret=invite.get("secret"), signal=invite.get("signal"))
        assert invite.get("code") == found.code
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Invite, "parse", parse)
        yield


def test_the_words_are_the_same_and_the_file_is_what_the_tool_writes(calls: Calls) -> None:
    assert web_words.FILE.read_text("utf-8") == web_words.text()
    assert tuple(calls.get("words.WORDS")) == WORDS
    assert calls.get("invite.DEFAULT_SIGNAL") == DEFAULT_SIGNAL


def told(parse: object, text: str) -> tuple[str, str]:
    """The code, or the error and its hint."""
    assert callable(parse)
    try:
        return parse(text).code, ""
    except SettingError as exc:
        return exc.message, exc.hint


def test_each_text_means_the_same_and_each_error_has_the_same_words() -> None:
    rng = Random(17)
    seen = set()
    for _ in range(500):
        words = [rng.choice(WORDS) for _ in range(5)]
        text = "-".join([f"{rng.randrange(10**7):07}", *words]) + rng.choice(spoilt.SIGNALS)
        kind = rng.randrange(8)
        if kind < 4:
            text = mutations.of_bytes(rng, text.encode()).decode("utf-8", "replace")
        elif kind < 7:
            text = "".join(mutations.of_sequence(rng, list(text), lambda _: rng.choice(spoilt.PIECES)))
        text = re.sub("[\x1c-\x1f\x85\ufeff]", " ", text)  # the two languages count other ones as white space
        expected = told(in_python, text)
        assert told(Invite.parse, text) == expected, repr(text)
        seen.add(expected[1].split()[0] if expected[1] else "")
    assert {"", "Did", "Check", "Copy", "A", "Use"} <= seen, "all kinds of errors have been compared"


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("4821309-tul", "tul"),
        ("4821309 Tulip man", "man"),
        ("4821309-tulip-mango-onion-cedar-f", "f"),
        ("4821309-tulip-zzz", "zzz"),
        ("", None),
        ("tul", None),
        ("4821309-tulip-", None),
        (f"{EXAMPLE}@sig", None),
    ],
)
def test_a_word_that_is_being_typed_can_be_completed(calls: Calls, text: str, typed: str | None) -> None:
    expected = [word for word in WORDS if typed is not None and word.startswith(typed)]
    assert calls("invite.completions", text) == expected
