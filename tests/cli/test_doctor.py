"""The doctor's table, its JSON, and the command itself."""

from __future__ import annotations

import io
import json

import pytest

from llmtunnel.cli import main
from llmtunnel.cli.doctor import json_text, text
from llmtunnel.cli.options import DoctorCommand, parse
from llmtunnel.config import DEFAULT_LISTEN, DEFAULT_SIGNAL
from llmtunnel.doctor.findings import Diagnosis, Facts, Finding, Mapping, Verdict
from llmtunnel.invite import EXAMPLE

FOUND = Diagnosis(
    findings=(
        Finding(subject="signal server", verdict=Verdict.GOOD, detail="ws://s answers in 3 ms."),
        Finding(subject="TURN", verdict=Verdict.BAD, detail="[red]turn:x[/red] does not answer.", hint="Check --turn."),
        Finding(subject="NAT", verdict=Verdict.UNKNOWN, detail="How it maps is not known. " + "Words and words. " * 6),
    ),
    facts=Facts(signal=True, udp=True, mapping=Mapping.SAME),
)


@pytest.mark.parametrize("width", ["60", "80", "140"])
def test_the_table_fits_its_screen_and_what_servers_say_is_no_markup(
    width: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    shown = text(FOUND, io.StringIO())
    assert all(len(line) <= int(width) for line in shown.splitlines())
    assert "✓ signal server ws://s answers in 3 ms." in shown
    assert "✗ TURN          [red]turn:x[/red] does not answer." in shown
    assert shown.endswith("\n\nExpect a direct path.\n")
    assert "\x1b" not in shown


def test_programs_get_one_json_object() -> None:
    values = json.loads(json_text(FOUND))
    assert [each["verdict"] for each in values["findings"]] == ["good", "bad", "unknown"]
    assert values["expectation"] == "Expect a direct path."


def test_the_signal_server_is_the_codes_or_the_flags_or_the_default() -> None:
    def signal(*arguments: str) -> str:
        command = parse(["doctor", *arguments], {})
        assert isinstance(command, DoctorCommand)
        assert command.listen == DEFAULT_LISTEN
        return command.settings.signal

    assert signal() == DEFAULT_SIGNAL
    assert signal("--signal", "ws://127.0.0.1:1") == "ws://127.0.0.1:1"
    assert signal(f"{EXAMPLE}@ws://127.0.0.1:2") == "ws://127.0.0.1:2"


def test_where_nothing_is_reached_the_command_says_so_and_fails(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmtunnel.cli.logs.configure", lambda level: None)  # it is for a whole process
    arguments = ["doctor", "--signal", "ws://127.0.0.1:9", "--stun", "none", "--listen", "127.0.0.1:0"]
    assert main(arguments) == 1
    shown = capfd.readouterr().out
    assert "✗ signal server" in shown
    assert "before the signal server is reached" in shown
    assert main([*arguments, "--json"]) == 1
    assert json.loads(capfd.readouterr().out)["connects"] is False
