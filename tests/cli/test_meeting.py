from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmtunnel import given
from llmtunnel.cli import meeting as cli_meeting
from llmtunnel.cli.options import ProxyCommand, ServeCommand, parse
from llmtunnel.config import DEFAULT_SIGNAL
from llmtunnel.errors import SettingError
from llmtunnel.invite import EXAMPLE, Invite

OTHER = "1234567-zebra-yacht-wagon-vogue-usher@ws://10.0.0.2:8787"
OF_EXAMPLE = ("invite-4821309", "tulip-mango-onion-cedar-fruit", DEFAULT_SIGNAL)
OF_OTHER = ("invite-1234567", "zebra-yacht-wagon-vogue-usher", "ws://10.0.0.2:8787")


@pytest.fixture
def code_file(tmp_path: Path) -> str:
    file = tmp_path / "code"
    file.write_text(f"{EXAMPLE}\n", "utf-8")
    return str(file)


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    file = tmp_path / "secret"
    file.write_text("of the file\n", "utf-8")
    return str(file)


def proxy(*argv: str, **environ: str) -> tuple[str, str | None, str]:
    command = parse(["proxy", *argv], environ)
    assert isinstance(command, ProxyCommand)
    return command.settings.room, command.settings.secret, command.settings.signal


def serve(*argv: str, **environ: str) -> ServeCommand:
    command = parse(["serve", *argv], environ)
    assert isinstance(command, ServeCommand)
    return command


def typed(monkeypatch: pytest.MonkeyPatch, text: str, *, terminal: bool = False) -> None:
    stdin = io.StringIO(text)
    monkeypatch.setattr(stdin, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stdin", stdin)


def test_the_code_is_an_argument_or_several(code_file: str) -> None:
    assert proxy(EXAMPLE) == proxy(*EXAMPLE.upper().split("-")) == OF_EXAMPLE
    assert proxy("--json", "4,821,309", "tulip", "mango", "onion", "cedar", "fruit", "-v") == OF_EXAMPLE
    assert proxy(f"llmtunnel proxy {OTHER}") == OF_OTHER


def test_both_sides_take_an_invite_by_flag_file_and_environment(code_file: str) -> None:
    ways: list[tuple[list[str], dict[str, str]]] = [
        (["--invite", EXAMPLE], {}),
        (["--invite-file", code_file], {}),
        ([], {"TUNNEL_INVITE": EXAMPLE}),
        ([], {"TUNNEL_INVITE_FILE": code_file}),
    ]
    for argv, environ in ways:
        assert proxy(*argv, **environ) == OF_EXAMPLE
        command = serve(*argv, **environ)
        assert (command.settings.room, command.settings.secret, command.settings.signal) == OF_EXAMPLE
        assert (command.settings.invite, command.new) == (Invite.parse(EXAMPLE), False)


def test_serve_makes_an_invite_where_nothing_is_given_for_the_signal_server_that_is() -> None:
    command = serve("--signal", "ws://a")
    assert command.new
    assert command.settings.invite is not None
    assert command.settings.invite.signal == command.settings.signal == "ws://a"
    assert command.settings.secret == command.settings.invite.secret
    again = serve(TUNNEL_SIGNAL="ws://b")
    assert again.settings.invite is not None
    assert again.settings.signal == "ws://b"
    assert again.settings.invite.secret != command.settings.invite.secret


@pytest.mark.parametrize(
    ("argv", "environ", "secret"),
    [
        ([], {}, None),
        (["--secret", "flag"], {}, "flag"),
        ([], {"TUNNEL_SECRET": "environment"}, "environment"),
        (["--secret", "flag"], {"TUNNEL_SECRET": "environment"}, "flag"),
        (["--secret", "flag"], {"TUNNEL_SECRET_FILE": "/nonexistent"}, "flag"),
        (["--secret-file", "FILE"], {"TUNNEL_SECRET": "environment"}, "of the file"),
        ([], {"TUNNEL_SECRET_FILE": "FILE"}, "of the file"),
    ],
)
def test_a_rooms_secret_comes_from_flag_file_or_environment(
    secret_file: str, argv: list[str], environ: dict[str, str], secret: str | None
) -> None:
    argv = [secret_file if each == "FILE" else each for each in argv]
    environ = {name: secret_file if text == "FILE" else text for name, text in environ.items()}
    assert proxy("--room", "r", *argv, **environ) == ("r", secret, DEFAULT_SIGNAL)
    assert proxy(*argv, TUNNEL_ROOM="r", **environ) == ("r", secret, DEFAULT_SIGNAL)
    command = serve("--room", "r", *argv, **environ)
    assert (command.settings.secret, command.settings.invite, command.new) == (secret, None, False)


def test_an_invite_that_is_a_flag_leaves_the_environment_aside_and_so_does_a_room() -> None:
    around = {"TUNNEL_ROOM": "r", "TUNNEL_SECRET": "s", "TUNNEL_SIGNAL": "ws://elsewhere"}
    assert proxy(EXAMPLE, **around) == proxy("--invite", EXAMPLE, **around) == OF_EXAMPLE
    assert proxy(OTHER, TUNNEL_INVITE=EXAMPLE) == OF_OTHER
    assert proxy("--room", "r", TUNNEL_INVITE=EXAMPLE) == ("r", None, DEFAULT_SIGNAL)
    assert proxy("--room", "r", TUNNEL_INVITE=EXAMPLE, TUNNEL_SECRET="s") == ("r", "s", DEFAULT_SIGNAL)


def test_an_invite_knows_its_signal_server_and_a_room_asks_the_environment() -> None:
    assert proxy(TUNNEL_INVITE=OTHER, TUNNEL_SIGNAL="ws://elsewhere") == OF_OTHER
    assert proxy(OTHER, "--signal", "ws://10.0.0.2:8787") == OF_OTHER
    assert proxy("--room", "r", TUNNEL_SIGNAL="ws://a")[2] == "ws://a"
    assert proxy("--room", "r", "--signal", "ws://b", TUNNEL_SIGNAL="ws://a")[2] == "ws://b"


@pytest.mark.parametrize("role", ["serve", "proxy"])
@pytest.mark.parametrize(
    ("argv", "environ", "message"),
    [
        (["--invite", EXAMPLE, "--invite-file", "f"], {}, "--invite and --invite-file contradict"),
        (["--invite", EXAMPLE, "--secret", "s"], {}, "--invite and --secret contradict"),
        (["--invite-file", "f", "--room", "r"], {}, "--invite-file and --room contradict"),
        (["--room", "r", "--secret", "s", "--secret-file", "f"], {}, "--secret and --secret-file contradict"),
        ([], {"TUNNEL_INVITE": EXAMPLE, "TUNNEL_ROOM": "r"}, "TUNNEL_INVITE and TUNNEL_ROOM contradict"),
        ([], {"TUNNEL_INVITE": EXAMPLE, "TUNNEL_SECRET": "s"}, "TUNNEL_INVITE and TUNNEL_SECRET contradict"),
        (["--secret", "s"], {}, "without --room"),
        (["--secret", "s"], {"TUNNEL_INVITE": EXAMPLE}, "without --room"),
        ([], {"TUNNEL_SECRET": "s"}, "without --room"),
        (["--room", "r", "--secret", ""], {}, "1 to 1024 bytes"),
        (["--room", "r", "--secret", "s" * 1025], {}, "1 to 1024 bytes"),
        (["--invite", ""], {}, "begins with a number"),
        (["--invite", EXAMPLE, "--signal", "ws://other"], {}, "is for the signal server"),
        (["--invite-file", "/nonexistent"], {}, "'/nonexistent' cannot be read"),
        (["--room", "r", "--secret-file", "/nonexistent"], {}, "'/nonexistent' cannot be read"),
    ],
)
def test_what_contradicts_itself_or_cannot_be_read_is_an_error_that_shows_no_code(
    role: str, argv: list[str], environ: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingError) as caught:
        parse([role, *argv], environ)
    assert message in caught.value.message
    assert caught.value.hint
    assert "tulip" not in caught.value.message + caught.value.hint.replace(EXAMPLE, "")


@pytest.mark.parametrize("flag", ["--room", "--secret", "--invite", "--invite-file"])
def test_a_code_says_all_and_another_flag_contradicts_it(flag: str) -> None:
    with pytest.raises(SettingError, match=f"The code and {flag} contradict"):
        proxy(EXAMPLE, flag, "x")


@pytest.mark.parametrize("role", ["serve", "proxy"])
@pytest.mark.parametrize("argv", [["4821309", "--json", "tulip"], ["--bogus", EXAMPLE], [f"--bogus={EXAMPLE}"]])
def test_words_of_a_code_in_a_wrong_place_are_not_repeated(role: str, argv: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        parse([role, *argv], {})
    assert "tulip" not in caught.value.message + caught.value.hint.replace(EXAMPLE, "")


def test_once_and_expires_need_to_know_who_comes_back() -> None:
    for flags in (["--once"], ["--expires", "8h"]):
        with pytest.raises(SettingError, match="need a secret") as caught:
            serve("--room", "r", "--upstream", "1", *flags)
        assert "--secret" in caught.value.hint


# -- standard input


def test_a_hyphen_reads_a_line_of_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for argv in (["-"], ["--invite", "-"]):
        typed(monkeypatch, f"{EXAMPLE}\nmore")
        assert proxy(*argv) == OF_EXAMPLE
    typed(monkeypatch, f"{EXAMPLE}\n")
    assert serve("--invite", "-").settings.invite == Invite.parse(EXAMPLE)
    typed(monkeypatch, "of the line\n")
    assert proxy("--room", "r", "--secret", "-") == ("r", "of the line", DEFAULT_SIGNAL)


def test_a_file_that_cannot_be_read_is_an_error_that_says_why_in_words(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path, why in ((tmp_path, "cannot be read: is a directory."), (binary, "is not text in UTF-8.")):
        with pytest.raises(SettingError) as refused:
            proxy("--invite-file", str(path))
        assert refused.value.message == f"The file {str(path)!r} {why}"


def test_nothing_on_standard_input_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for argv, what in ((["-"], "code"), (["--room", "r", "--secret", "-"], "secret")):
        typed(monkeypatch, "\n")
        with pytest.raises(SettingError, match=f"Standard input is empty, and '-' reads the {what}"):
            proxy(*argv)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    with pytest.raises(SettingError, match="Cannot read the code from"):
        proxy("-")


def test_a_person_at_a_terminal_is_asked_and_a_secret_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(monkeypatch, f"{EXAMPLE}\n", terminal=True)
    assert proxy("-") == OF_EXAMPLE
    assert capsys.readouterr().err == "code: "
    hidden = SimpleNamespace(getpass=lambda prompt: f"answer to {prompt}")
    monkeypatch.setattr(cli_meeting, "getpass", hidden)
    typed(monkeypatch, "", terminal=True)
    assert proxy("--room", "r", "--secret", "-")[1] == "answer to secret: "


@pytest.mark.parametrize("columns", [8, 20, 23, 30, 47])
def test_a_code_that_was_broken_into_lines_is_put_together_where_it_is_pasted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    code = f"{EXAMPLE}@ws://10.0.0.2:8787"
    lines = [code[at : at + columns] for at in range(0, len(code), columns)]
    typed(monkeypatch, "\n".join(lines) + "\n", terminal=True)
    assert proxy("-")[2] == "ws://10.0.0.2:8787"
    assert capsys.readouterr().err == "code: " + "it goes on: " * (len(lines) - 1)


def test_who_has_no_more_of_a_code_is_told_that_it_was_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, "4821309-tulip-mango\n\n", terminal=True)
    with pytest.raises(SettingError, match="cut off"):
        proxy("-")


# -- the platform


def test_serve_takes_the_invite_that_its_user_has_stored_with_the_platform_where_none_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(given, "stored_invite", lambda environ: OTHER)
    command = serve()
    assert (command.settings.invite, command.new) == (Invite.parse(OTHER), False)
    assert command.settings.signal == "ws://10.0.0.2:8787"
    assert serve(TUNNEL_INVITE=EXAMPLE).settings.invite == Invite.parse(EXAMPLE)
    assert serve("--room", "r").settings.invite is None
    with pytest.raises(SettingError, match="is for the signal server"):
        serve("--signal", "ws://other")
    monkeypatch.setattr(given, "stored_invite", lambda environ: "nonsense")
    with pytest.raises(SettingError, match="begins with a number"):
        serve()
