from __future__ import annotations

import copy
import itertools
import math
import pickle
import re
import string
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmtunnel.config import DEFAULT_SIGNAL
from llmtunnel.errors import SettingError
from llmtunnel.invite import COUNT, DIGITS, EXAMPLE, LONGEST_WORD, Invite
from llmtunnel.words import WORDS

WHOLE = "Copy all of it"

SIGNALS = (
    DEFAULT_SIGNAL,
    "wss://signal.example",
    "wss://signal.example:8443/room?x=1",
    "ws://10.0.0.2:8787",
    "ws://[::1]:8787/A/b",
)

invites = st.builds(
    lambda number, words, signal: Invite(room=f"invite-{number:07}", secret="-".join(words), signal=signal),
    st.integers(0, 10**DIGITS - 1),
    st.lists(st.sampled_from(WORDS), min_size=COUNT, max_size=COUNT),
    st.sampled_from(SIGNALS),
)


def refused(text: str) -> SettingError:
    with pytest.raises(SettingError) as caught:
        Invite.parse(text)
    return caught.value


# -- the words


def distance(one: str, other: str, most: int) -> int:
    """Levenshtein's, or something over ``most`` where it is more than that."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
        if min(row) > most:
            return most + 1
    return row[-1]


def test_there_are_enough_words_and_each_is_short_and_of_small_letters() -> None:
    assert len(set(WORDS)) == len(WORDS) == 6**4 - 1
    assert all(re.fullmatch("[a-z]{3,10}", word) for word in WORDS)
    assert math.log2(len(WORDS) ** COUNT) > 51


def test_three_letters_tell_a_word() -> None:
    assert len({word[:3] for word in WORDS}) == len(WORDS)


def test_two_words_differ_by_three_letters_at_least() -> None:
    # Words that two edits make the same leave the same behind where each loses some two letters.
    left: dict[str, set[str]] = {}
    for word in WORDS:
        for count in range(3):
            for gone in itertools.combinations(range(len(word)), count):
                left.setdefault("".join(char for at, char in enumerate(word) if at not in gone), set()).add(word)
    suspects = {pair for words in left.values() for pair in itertools.combinations(sorted(words), 2)}
    assert len(suspects) > 50
    assert all(distance(*pair, most=2) > 2 for pair in suspects)


# -- a value


def test_an_invite_is_a_value_that_shows_its_secret_in_its_code_alone() -> None:
    invite = Invite.parse(EXAMPLE)
    assert invite == Invite(room="invite-4821309", secret="tulip-mango-onion-cedar-fruit", signal=DEFAULT_SIGNAL)
    assert hash(invite) == hash(Invite.parse(EXAMPLE))
    assert invite.code == EXAMPLE
    assert pickle.loads(pickle.dumps(invite)) == copy.copy(invite) == invite
    for shown in (repr(invite), str(invite), f"{invite}"):
        assert "invite-4821309" in shown
        assert not any(word in shown for word in invite.secret.split("-"))
    with pytest.raises(FrozenInstanceError) as caught:
        invite.secret = "x"  # type: ignore[misc]
    assert "tulip" not in str(caught.value)


def test_each_new_one_is_another_and_of_the_list() -> None:
    made = [Invite.generate() for _ in range(200)]
    assert len({invite.code for invite in made}) == 200
    assert len({word for invite in made for word in invite.secret.split("-")}) > 400
    assert all(re.fullmatch(r"[1-9][0-9]{6}(-[a-z]+){5}", invite.code) for invite in made)


@pytest.mark.parametrize(
    ("signal", "code"),
    [
        (DEFAULT_SIGNAL, EXAMPLE),
        ("wss://signal.example", f"{EXAMPLE}@signal.example"),
        ("wss://Signal.Example/", f"{EXAMPLE}@signal.example"),
        ("signal.example:8443", f"{EXAMPLE}@signal.example:8443"),
        ("ws://10.0.0.2:8787", f"{EXAMPLE}@ws://10.0.0.2:8787"),
        ("WS://[::1]:8787/Path", f"{EXAMPLE}@ws://[::1]:8787/Path"),
    ],
)
def test_the_signal_server_is_in_the_code_where_it_is_another_than_the_default(signal: str, code: str) -> None:
    invite = Invite(room="invite-4821309", secret="tulip-mango-onion-cedar-fruit", signal=signal)
    assert invite.code == code
    assert Invite.parse(code) == invite


@pytest.mark.parametrize(
    "fields",
    [
        {"room": "r"},
        {"room": "invite-123"},
        {"room": "invite-4821309\n"},
        {"secret": "tulip-mango-onion-cedar"},
        {"secret": "tulip-mango-onion-cedar-maple"},
        {"secret": "Tulip-mango-onion-cedar-fruit"},
        {"signal": "http://signal.example"},
        {"signal": "wss://user:password@signal.example"},
        {"signal": ""},
    ],
)
def test_what_would_not_come_back_from_its_code_is_no_invite(fields: dict[str, str]) -> None:
    whole = {"room": "invite-4821309", "secret": "tulip-mango-onion-cedar-fruit"}
    with pytest.raises(SettingError) as caught:
        Invite(**{**whole, **fields})
    assert caught.value.hint
    assert "tulip" not in f"{caught.value} {caught.value.hint}".lower()


# -- what is forgiven


@given(invites)
def test_a_code_gives_back_its_invite(invite: Invite) -> None:
    assert Invite.parse(invite.code) == invite


@given(invites, st.data())
def test_case_and_separators_are_forgiven_and_what_stands_around(invite: Invite, data: st.DataObject) -> None:
    code, at, address = invite.code.partition("@")
    number, *words = code.split("-")
    between = st.sampled_from(["-", " ", "  ", "-- ", ", ", ",", "_", ".", "\n", " \u2013 ", "\u2011", "\xa0", "/"])
    told = [data.draw(st.sampled_from([word, word.upper(), word.title()])) for word in words]
    text = number + "".join(data.draw(between) + word for word in told)
    before = data.draw(
        st.sampled_from(["", "  ", "llmtunnel proxy ", "$ python3 -m llmtunnel proxy '", "my code is: ", "me@gpu2:~$ "])
    )
    after = data.draw(st.sampled_from(["", " ", "\n", "'", ".", '",']))
    assert Invite.parse(f"{before}{text}{at and data.draw(st.sampled_from(['@', ' @ ']))}{address}{after}") == invite


@given(invites, st.sampled_from(["", " ", ",", ".", "'", "\u2019", "\u202f", "-", "_"]))
def test_the_number_may_be_in_groups(invite: Invite, separator: str) -> None:
    number, rest = invite.code[:DIGITS], invite.code[DIGITS:]
    assert Invite.parse(f"{number[0]}{separator}{number[1:4]}{separator}{number[4:]}{rest}") == invite
    assert Invite.parse(separator.join(number) + rest) == invite


@given(invites)
def test_words_may_be_run_together_and_split_anywhere(invite: Invite) -> None:
    letters = invite.secret.replace("-", "")
    number, at = invite.code[:DIGITS], "@" + invite.signal
    assert Invite.parse(number + letters + at) == invite
    assert Invite.parse(f"{number} {' '.join(letters)} {at}") == invite


@given(invites, st.data())
def test_a_words_first_letters_are_enough_from_three_on(invite: Invite, data: st.DataObject) -> None:
    number, *words = invite.code.partition("@")[0].split("-")
    short = [word[: data.draw(st.integers(3, len(word)))] for word in words]
    try:
        assert Invite.parse(f"{'-'.join([number, *short])}@{invite.signal}") == invite
    except SettingError as exc:  # the start of one word may be a letter away from another word
        assert "Did you mean" in exc.hint or "Check them" in exc.hint


def test_the_first_three_letters_alone_tell_most_words_and_the_others_are_asked_about() -> None:
    def told(word: str) -> bool:
        try:
            return Invite.parse(EXAMPLE.replace("tulip", word[:3])).secret.startswith(f"{word}-")
        except SettingError as exc:
            assert word in exc.hint, "another is a letter away"
            return False

    assert sum(map(told, WORDS)) > 0.85 * len(WORDS)


def with_a_slip(word: str, place: int, letter: str, kind: str) -> str:
    """One mistake of a person who types."""
    place %= len(word)
    match kind:
        case "wrong":
            return word[:place] + letter + word[place + 1 :]
        case "missing":
            return word[:place] + word[place + 1 :]
        case "more":
            return word[:place] + letter + word[place:]
        case _:
            return word[:place] + word[place : place + 2][::-1] + word[place + 2 :]


slips = st.builds(
    lambda *slip: slip,
    st.integers(0, 9),
    st.sampled_from(string.ascii_lowercase),
    st.sampled_from(["wrong", "missing", "more", "swapped"]),
)


@given(invites, st.lists(slips, min_size=COUNT, max_size=COUNT))
def test_a_slip_in_every_word_is_forgiven_or_asked_about_and_never_taken_for_another_word(
    invite: Invite, made: list[tuple[int, str, str]]
) -> None:
    words = invite.secret.split("-")
    typed = [with_a_slip(word, *slip) for word, slip in zip(words, made, strict=True)]
    try:
        found = Invite.parse(" ".join([invite.code[:DIGITS], *typed, f"@{invite.signal}"]))
    except SettingError as exc:
        assert "not a code word" in exc.message or "not code words" in exc.message
    else:
        assert found == invite


def test_nearly_every_slip_in_every_word_is_forgiven() -> None:
    total = forgiven = 0
    for word in WORDS[::60]:
        for place, letter, kind in itertools.product(range(len(word)), "aez", ("wrong", "missing", "more", "swapped")):
            total += 1
            typed = with_a_slip(word, place, letter, kind)
            try:
                forgiven += Invite.parse(EXAMPLE.replace("tulip", typed)).secret.startswith(f"{word}-")
            except SettingError as exc:
                assert word in exc.hint
    assert forgiven > 0.99 * total


# -- what is not


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "begins with a number", EXAMPLE),
        ("tulip-mango-onion-cedar-fruit", "begins with a number", EXAMPLE),
        ("tulip-mango-onion-cedar-fruit 4821309", "cut off: it has none of its 5 words", WHOLE),
        ("482130-tulip-mango-onion-cedar-fruit", "7 digits, not 6", EXAMPLE),
        ("48213091-tulip-mango-onion-cedar-fruit", "7 digits, not 8", EXAMPLE),
        ("48213", "cut off in the middle of its number", WHOLE),
        ("4821309", "cut off: it has none of its 5 words", WHOLE),
        ("4821309-tulip-mango-onion-cedar-", "cut off: it has 4 of its 5 words", WHOLE),
        ("4821309-tulip-mango-onion-cedar-fru", "cut off in the middle of a word", WHOLE),
        ("4821309-tulip-mangp-onion", "5 words after its number, not 3", EXAMPLE),
        ("4821309-tulip-mango-onion-cedar@signal.example", "5 words after its number, not 4", EXAMPLE),
        (f"{EXAMPLE}-tulip", "5 words after its number, not 6", EXAMPLE),
        (f"{EXAMPLE} --listen 9000", "5 words after its number, not 7", EXAMPLE),
        ("4821309-tulip-mango-onioning-cedar-fruit", "'onioning' (word 3) is not a code word.", "Did you mean onion"),
        ("4821309-dwan-mango-onion-cedar-fruit", "'dwan' (word 1) is not a code word.", "Did you mean dawn or swan?"),
        ("4821309-tulip-mango-onion-cedar-zzzzzz", "'zzzzzz' (word 5) is not a code word.", "Check it."),
        ("4821309-tulip-qqq-onion-zzzz-fruit", "Words 2 and 4 of the code are not code words.", "Check them."),
        ("4821309-www-qqq-onion-zzzz-fruit", "Words 1, 2 and 4", "Check them."),
        ("4821309-tulip-mango-onion-cedar-verylongpasswordofmine", "'verylongpassword' (word 5)", "Check it."),
        (f"{EXAMPLE}@http://x", "signal server's address", "@host in a code"),
        (f"{EXAMPLE}@a b", "signal server's address", "@host in a code"),
        (f"{EXAMPLE}@me:password@host", "signal server's address", "@host in a code"),
        (f"{EXAMPLE}@ws://host:99999", "signal server's address", "@host in a code"),
        ("x" * 5000, "too long", EXAMPLE),
    ],
)
def test_what_is_no_code_is_an_error_that_says_where_and_what_to_do(text: str, message: str, hint: str) -> None:
    error = refused(text)
    assert message in error.message
    assert hint in error.hint


@given(invites)
def test_a_code_that_was_cut_off_anywhere_before_its_address_is_an_error_that_says_so(invite: Invite) -> None:
    code = invite.code.partition("@")[0]
    for end in range(1, len(code)):
        assert refused(code[:end]).message.startswith("The code was cut off")


@pytest.mark.parametrize(
    ("address", "cuts"),
    [("ws://10.0.0.2:8787", {0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14}), ("ws://[::1]:80", set(range(12)) - {1, 10})],
)
def test_an_address_that_cannot_be_all_of_it_was_cut_off(address: str, cuts: set[int]) -> None:
    def told(end: int) -> bool:
        try:
            return not Invite.parse(f"{EXAMPLE}@{address[:end]}")
        except SettingError as exc:
            return exc.message == "The code was cut off: it ends within the signal server's address."

    assert {end for end in range(len(address)) if told(end)} == cuts
    assert Invite.parse(f"{EXAMPLE}@{address}").signal == address


@given(invites, st.lists(st.text(string.ascii_lowercase, max_size=12), min_size=COUNT, max_size=COUNT), st.data())
def test_an_error_has_none_of_the_right_words_in_it_and_of_several_wrong_ones_none_as_it_was_typed(
    invite: Invite, wrong: list[str], data: st.DataObject
) -> None:
    right = invite.secret.split("-")
    spoilt = data.draw(st.sets(st.integers(0, COUNT - 1), min_size=1))
    typed = [wrong[place] if place in spoilt else word for place, word in enumerate(right)]
    try:
        Invite.parse(f"{invite.code[:DIGITS]}-{'-'.join(typed)}")
    except SettingError as exc:
        assert exc.__cause__ is None
        said = exc.message + exc.hint.replace(EXAMPLE, "").replace("again", "")
        told = set(re.findall("[a-z]+", said.partition("Did you mean")[0].lower()))
        assert not told & (set(right) - {"number", "signal", "word"})
        assert sum(f"{word[:LONGEST_WORD]!r}" in exc.message for word in typed if word) <= 1
        assert exc.message.count("'") <= 2, "one word at most"
        asked = set(re.findall("[a-z]+", said.partition("Did you mean")[2])) - {"or"}
        assert len(asked) <= 2, "of one word"
        assert len(spoilt) > 1 or not asked & {right[place] for place in range(COUNT) if place not in spoilt}


@given(st.one_of(st.text(), st.text("0123456789-@ ,.:/[]abeglnotu\u0661\ud800", max_size=80)))
@example(f"{EXAMPLE}@ws://h/p/?")
@example(f"{EXAMPLE}@ws://h#")
@example(f"{EXAMPLE}@ws://[::1")
@example(f"{EXAMPLE}@\ud800")
@example("\N{FULLWIDTH DIGIT FOUR}821309-tulip-mango-onion-cedar-fruit@\N{FULLWIDTH LATIN SMALL LETTER A}")
def test_any_text_is_an_invite_that_comes_back_or_an_error(text: str) -> None:
    try:
        invite = Invite.parse(text)
    except SettingError as exc:
        assert exc.hint
    else:
        assert Invite.parse(invite.code) == invite
