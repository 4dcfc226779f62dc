from __future__ import annotations

import io
import json

import pytest

from llmtunnel.cli.console import Console
from llmtunnel.errors import SettingError
from llmtunnel.status import ErrorNotice, Role, Stopped


def test_people_get_sentences_and_programs_objects_and_nothing_else() -> None:
    people, programs = io.StringIO(), io.StringIO()
    for console in (Console(stream=people), Console(json=True, stream=programs)):
        console.say("hello\n")
        console.tell(ErrorNotice(message="Oh."))
        console.tell(ErrorNotice(message="Oh."))
        console.record(Stopped(), role=Role.SERVE)
    assert people.getvalue() == "hello\nerror: Oh.\n"
    lines = [json.loads(line) for line in programs.getvalue().splitlines()]
    assert [(line["event"], line.get("role")) for line in lines] == [
        ("error", None),
        ("error", None),
        ("stopped", "serve"),
    ]


def test_why_a_command_fails_is_said_on_standard_error_and_to_programs_as_an_event(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = SettingError("No.", hint="Do this.")
    programs = io.StringIO()
    assert Console(stream=io.StringIO()).fail(error) == 2
    assert capsys.readouterr().err == "error: No.\nDo this.\n"
    assert Console(json=True, stream=programs).fail(error) == 2
    assert json.loads(programs.getvalue())["message"] == "No."
    assert capsys.readouterr().err == ""


def test_programs_are_not_told_twice_why_a_tunnel_failed() -> None:
    programs = io.StringIO()
    console = Console(json=True, stream=programs)
    console.tell(ErrorNotice(message="No."))
    console.fail(SettingError("No."))
    assert len(programs.getvalue().splitlines()) == 1
