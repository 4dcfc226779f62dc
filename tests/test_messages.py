"""What users read, walked through: each error's text and hint, each option's help, each state and each row of a table.

A text says what failed, with which value, and what to do; here it is held to its form, and to the field's words.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import llmtunnel
from llmtunnel import errors
from llmtunnel.config import ProxyOptions, ReachOptions, ServeOptions
from llmtunnel.endpoints import responses
from llmtunnel.errors import ErrorCode, TunnelError
from llmtunnel.option import GROUPS, Option, declared
from llmtunnel.session import carrier
from llmtunnel.status import Phase, Role, Status
from llmtunnel.summary import state_words, waiting_words

SOURCE = Path(llmtunnel.__file__).parent
KINDS = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, TunnelError)}
TOLD = {*KINDS, "ErrorNotice", "Failure"} - {"ProtocolError"}
"""What is made of a text for users, in our source. A `ProtocolError` is never shown as it stands."""

LONGEST = 260
VALUE = "\N{WHITE SQUARE}"
"""Stands for a value that a text names."""

STILTED = re.compile(
    r"\bput out\b|\btaken in\b|\bword too many\b|\bnothing to do with\b|\bhad by it\b|\bis no (size|time|host|port)\b"
    r"|\bnone that\b|\bto be known\b|\banew\b|\bthat is heard\b|\bsits? in\b|\ba defect\b|\bof ours\b|\bas we do\b",
    re.IGNORECASE,
)
"""Phrases that a colleague would not say, some of which were ours."""

COMMAND = r": ?(\n  )?(--[a-z-]+|llmtunnel|ollama|\S+ proxy)( \S+)*"
"""What a hint may end with, so that it can be copied."""

PLACEHOLDERS = re.compile(r"\{\w*\}|%[sd]\b|%\(\w+\)|\bTODO\b|\bXXX\b")


@dataclass(frozen=True, slots=True)
class Text:
    """A text of our source, and where it stands."""

    where: str
    words: str

    def __str__(self) -> str:
        return self.where


def _words(node: ast.expr) -> str | None:
    """What an expression says, with `VALUE` for each value; None where it is made elsewhere."""
    match node:
        case ast.Constant(value=str(words)):
            return words
        case ast.JoinedStr(values=parts):
            return "".join(_words(part) or VALUE for part in parts)
    return None


def _calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(SOURCE.rglob("*.py")):
        if path.parent.name != "protocol":  # its texts go over the wire, and stay
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TOLD:
                    yield f"{path.relative_to(SOURCE).as_posix()}:{node.lineno}", node


def _texts(hints: bool) -> list[Text]:
    found = []
    for where, call in _calls():
        given = [each.value for each in call.keywords if each.arg == ("hint" if hints else "message")]
        said = map(_words, given if hints else [*call.args[:2], *given])
        found += [Text(where, words) for words in said if words]
    return found


MESSAGES, HINTS = _texts(hints=False), _texts(hints=True)


def _is_sound(words: str) -> None:
    assert "  " not in words.replace("\n  ", ""), words
    assert not re.search(r"\.\.(?!\.)(?<!\.\.\.)|\?\.|!\.| [,;:]", words), words
    assert not STILTED.search(words), words
    assert not PLACEHOLDERS.search(words), words
    assert len(words) <= LONGEST, words


def test_there_is_something_to_walk() -> None:
    assert len(MESSAGES) > 100 and len(HINTS) > 80
    assert set(errors.__all__) - {"ErrorCode"} == set(KINDS)


@pytest.mark.parametrize("text", MESSAGES, ids=str)
def test_each_message_is_a_sentence_that_may_end_with_its_value(text: Text) -> None:
    _is_sound(text.words)
    assert len(text.words) >= 12 or VALUE in text.words
    assert text.words.endswith((".", "?", VALUE)), text.words


@pytest.mark.parametrize("text", HINTS, ids=str)
def test_each_hint_ends_with_a_full_stop_or_a_command(text: Text) -> None:
    _is_sound(text.words)
    assert re.search(rf"[.?{VALUE}]$|{COMMAND}$", text.words), text.words


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_each_error_has_a_sentence_for_its_name(kind: type[TunnelError]) -> None:
    first, _, _ = (kind.__doc__ or "").partition("\n")
    assert first.endswith(".") and 10 < len(first) <= 120 and first[0].isupper()


def test_an_address_in_use_is_told_with_what_to_type() -> None:
    error = errors.AddressInUse("127.0.0.1:8000", next_free=8001)
    assert error.message == "127.0.0.1:8000 is in use by another program or tunnel."
    assert "--listen 8001" in error.hint and error.hint.endswith(".")


OPTIONS = {
    (kind.__name__, each.name): each
    for kind in (ReachOptions, ServeOptions, ProxyOptions)
    for each in declared(kind).values()
}


@pytest.mark.parametrize("option", OPTIONS.values(), ids=map(".".join, OPTIONS))
def test_each_option_says_what_it_is_on_the_command_line_and_in_python(option: Option) -> None:
    for words in (option.help, option.file, option.python):
        if words:
            _is_sound(words)
    assert 8 <= len(option.help) <= 240
    assert not option.help.endswith((".", ";", ","))
    assert 12 <= len(option.parameter_help) <= 300
    assert option.parameter_help.endswith(".")


def test_each_group_of_options_has_a_title_in_plain_words() -> None:
    for group in GROUPS:
        assert not STILTED.search(f"{group.title} {group.about or ''}")


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("phase", Phase)
def test_each_state_has_words_and_its_detail_does_not_repeat_them(role: Role, phase: Phase) -> None:
    state = state_words(Status(role=role, phase=phase, detail=waiting_words(role, "invite-4821309")))
    assert 4 < len(state.words) < 60 and "{" not in state.words
    if phase is Phase.WAITING:
        assert state.words == ("waiting for a proxy" if role is Role.SERVE else "waiting for serve")
        assert state.detail[0].isupper() and "aiting for" not in state.detail


@pytest.mark.parametrize("code", ErrorCode)
def test_each_reset_that_a_client_is_told_of_says_what_to_do(code: ErrorCode) -> None:
    told = responses.failure(errors.StreamReset(code, "It broke off.")).message
    assert told.startswith("It broke off. ")
    _is_sound(told)
    assert told.endswith(".")


def test_each_text_of_the_wire_that_is_translated_is_one_of_the_wires() -> None:
    protocol = "".join(path.read_text("utf-8") for path in (SOURCE / "protocol").glob("*.py"))
    known = {*carrier._FOR_USERS, *carrier._SERVES} - {carrier.FAREWELL}
    assert [text for text in known if text not in protocol] == []
    for text in (*carrier._FOR_USERS.values(), *carrier._SERVES.values()):
        _is_sound(text)


@pytest.mark.parametrize("remote", [True, False])
@pytest.mark.parametrize(
    ("role", "message"),
    [
        (Role.PROXY, "Wrong code: it does not match the one that serve shows."),
        (Role.SERVE, "A proxy has a wrong code: it does not match the one that is shown here."),
    ],
)
def test_a_wrong_code_is_told_as_one_on_either_side_whoever_has_found_it(
    role: Role, message: str, remote: bool
) -> None:
    error = carrier.session_error(ErrorCode.UNAUTHENTICATED, carrier.NOT_THE_SAME, remote=remote, role=role)
    assert error.message == message
    assert error.hint == "If it is the same, somebody may be between the two of you: use another signal server."


def test_words_that_nobody_knows_are_told_as_the_other_sides() -> None:
    error = carrier.session_error(ErrorCode.UNAUTHENTICATED, "Send me the code.", remote=True, role=Role.PROXY)
    assert error.message == "The other side says: Send me the code."
