from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from llmtunnel.cli.console import GIVING_UP, Console
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


@pytest.mark.parametrize("apart", [False, True])
def test_a_command_that_ends_for_a_reason_that_was_said_repeats_it_only_on_another_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    error = SettingError("No.", hint="Do this.")
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        monkeypatch.setattr(sys, "stderr", err if apart else out)
        console = Console(stream=out)
        console.tell(ErrorNotice(message=error.message, hint=error.hint))
        console.tell(Stopped(reason=error.message))
        assert console.fail(error) == 2
    told, complaint = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
    assert told == "error: No. Do this.\nstopped\n" + ("" if apart else GIVING_UP)
    assert complaint == ("error: No.\nDo this.\n" if apart else "")


def test_programs_are_not_told_twice_why_a_tunnel_failed() -> None:
    programs = io.StringIO()
    console = Console(json=True, stream=programs)
    console.tell(ErrorNotice(message="No."))
    console.fail(SettingError("No."))
    assert len(programs.getvalue().splitlines()) == 1
