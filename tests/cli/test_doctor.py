"""The doctor's table, its JSON, and the command itself."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import subprocess
import sys
from typing import Any

import pytest

from llmtunnel.cli import main
from llmtunnel.cli.commands import LOOKING
from llmtunnel.cli.doctor import json_text, text
from llmtunnel.cli.options import DoctorCommand, parse
from llmtunnel.config import DEFAULT_LISTEN, DEFAULT_SIGNAL
from llmtunnel.doctor.findings import Diagnosis, Facts, Finding, Mapping, Verdict
from llmtunnel.invite import EXAMPLE, MAYBE_CUT, Invite
from llmtunnel.protocol.auth import SPARED

from ..support.processes import PATIENCE, ROOT, Process, Processes, environment

FOUND = Diagnosis(
    findings=(
        Finding(subject="signal server", verdict=Verdict.GOOD, detail="ws://s answers in 3 ms."),
        Finding(subject="TURN", verdict=Verdict.BAD, detail="[red]turn:x[/red] does not answer.", hint="Check --turn."),
        Finding(subject="NAT", verdict=Verdict.UNKNOWN, detail="NAT type unknown. " + "Words and words. " * 6),
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
    assert "until the signal server is reachable" in shown
    assert main([*arguments, "--json"]) == 1
    assert json.loads(capfd.readouterr().out)["connects"] is False


def asked(started: Processes, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit status of ``llmtunnel doctor``, and its JSON."""
    doctor = started.command("doctor", *arguments, "--listen", "127.0.0.1:0")
    status = doctor.wait_exit()
    return status, json.loads(doctor.wait_line(r"^\{.*")[0])


def serve_row(found: dict[str, Any]) -> dict[str, str]:
    [row] = [row for row in found["findings"] if row["subject"] == "serve"]
    return dict(row)


def shown(serve: Process) -> Invite:
    return Invite.parse(serve.wait_event("invite")["code"])


def test_with_a_code_it_says_whether_serve_is_in_the_room_and_has_the_same(started: Processes) -> None:
    signal = started.signal().url
    serve = started.command("serve", "--upstream", "1", "--signal", signal)
    invite = shown(serve)
    status, found = asked(started, invite.code)
    assert (status, found["serve"], found["secret"], found["reached"]) == (0, True, True, True)
    assert serve_row(found)["verdict"] == "good" and "the code is right" in serve_row(found)["detail"]
    assert serve.wait_event("peer-connected")["authenticated"]
    status, found = asked(started, invite.renewed().code)
    assert (status, found["serve"], found["secret"], found["reached"]) == (1, True, False, False)
    assert "Wrong code" in serve_row(found)["detail"]
    assert found["expectation"] == "No tunnel can start with this code."
    status, found = asked(started, Invite.generate(signal).code)
    assert (status, found["serve"], found["secret"], found["reached"]) == (1, False, None, False)
    assert "is not in the room" in serve_row(found)["detail"]
    status, found = asked(started, "--room", "nobody", "--signal", signal)
    assert MAYBE_CUT not in serve_row(found)["hint"]
    status, found = asked(started, "--signal", signal)
    assert not [row for row in found["findings"] if row["subject"] == "serve"]


def test_a_code_for_one_proxy_is_not_used_up(started: Processes) -> None:
    serve = started.command("serve", "--upstream", "1", "--signal", started.signal().url, "--once")
    invite = shown(serve)
    _, found = asked(started, invite.code)
    assert (found["serve"], found["secret"], found["reached"]) == (True, None, None)
    assert SPARED in serve_row(found)["detail"]
    assert not serve.count("peer-connected")
    assert started.command("proxy", invite.code, "--listen", "127.0.0.1:0").wait_event("ready")


def test_a_room_that_is_full_is_told_as_that(started: Processes) -> None:
    signal = started.original_signal().url
    started.serve("r", "http://127.0.0.1:1", signal).wait_event("waiting")
    started.proxy("r", signal).process.wait_event("ready")
    _, found = asked(started, "--room", "r", "--signal", signal)
    assert serve_row(found)["verdict"] == "poor" and "is full" in serve_row(found)["detail"]


def test_a_long_look_is_told_of_on_standard_error(started: Processes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes the connection, and says nothing
        address = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        arguments = ("doctor", "--signal", address, "--stun", "none", "--listen", "127.0.0.1:0")
        people = started.start("-m", "llmtunnel", *arguments, name="for people")
        program = started.start("-m", "llmtunnel", *arguments, "--json", name="for a program")
        people.wait_line(f"^{re.escape(LOOKING.strip())}$")
        assert people.wait_exit() == program.wait_exit() == 1
    assert people.errors == [LOOKING.strip()]
    assert LOOKING.strip() not in people.lines
    assert not program.errors


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a machine that can be put offline")
def test_a_machine_that_is_offline_is_told_in_one_line() -> None:
    offline = ["unshare", "--map-root-user", "--net", sys.executable, "-m", "llmtunnel", "doctor", EXAMPLE, "--json"]
    found = subprocess.run(offline, cwd=ROOT, env=environment({}), capture_output=True, text=True, timeout=PATIENCE)
    assert found.returncode == 1, found.stderr
    values = json.loads(found.stdout)
    [row] = [row for row in values["findings"] if row["verdict"] == "bad"]
    assert "seems to be offline" in row["detail"]
    assert {row["subject"] for row in values["findings"]} == {"network", "upstream", "listener"}


def test_it_refuses_what_the_signal_server_hands_out_where_a_tunnel_would() -> None:
    for arguments, environ, refused in (
        ([], {}, False),
        (["--no-signal-ice"], {}, True),
        ([], {"TUNNEL_NO_SIGNAL_ICE": "1"}, True),
    ):
        command = parse(["doctor", *arguments], environ)
        assert isinstance(command, DoctorCommand)
        assert command.settings.no_signal_ice is refused
