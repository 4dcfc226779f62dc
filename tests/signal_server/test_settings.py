from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llmtunnel.config import BenchOptions, ProxyOptions, ServeOptions
from llmtunnel.option import declared
from signal_server.cli import _parser, main
from signal_server.settings import (
    CLIENTS,
    SettingError,
    add_config,
    add_secret,
    is_repeatable,
    is_switch,
    key_of,
    read,
    settings,
    variable_of,
)

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "signal_server/README.md").read_text("utf-8")
SECRET = "hunter2-hunter2"
CLIENT_FLAGS = ("--signal", "--signal-token-file", "--no-signal-ice", "--resume-for", "--web")


class Case:
    """A server's parser, and a file of its settings."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "signal.toml"
        self.warnings: list[str] = []

    def read(self, *argv: str, toml: str | None = None, **environ: str) -> argparse.Namespace:
        if toml is not None:
            self.file.write_text(toml, "utf-8")
            environ["TUNNEL_SIGNAL_CONFIG"] = str(self.file)
        return read(parser(), argv, environ, warn=self.warnings.append)

    def error(self, *argv: str, toml: str | None = None, **environ: str) -> str:
        with pytest.raises(SettingError) as caught:
            self.read(*argv, toml=toml, **environ)
        return str(caught.value)


def parser() -> argparse.ArgumentParser:
    """The server's own parser, and further kinds of flags, as somebody may add them."""
    made = _parser("signal")
    made.add_argument("--window", choices=("s", "l"), default="s")
    made.add_argument("--url")
    made.add_argument("--ratio", type=float, default="0.5")
    made.add_argument("--loud", action=argparse.BooleanOptionalAction, default=True)
    made.add_argument("--several", nargs="*", default=[])
    add_secret(made, "--turn-key", help="a secret of the relay")
    add_secret(made, "--entry-key", help="a secret of clients", load=False)
    return made


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_the_parser_without_variables_and_a_file_gives_what_argparse_gives(case: Case) -> None:
    found = vars(case.read())
    plain = vars(parser().parse_args([]))
    assert {name: found[name] for name in plain} == plain
    assert found["ratio"] == 0.5


def test_a_flag_precedes_a_variable_which_precedes_the_file_which_precedes_the_default(case: Case) -> None:
    toml = "relay-rate = 3"
    assert case.read().relay_rate == 4 << 20
    assert case.read(toml=toml).relay_rate == 3
    assert case.read(toml=toml, TUNNEL_SIGNAL_RELAY_RATE="2").relay_rate == 2
    assert case.read("--relay-rate", "1", toml=toml, TUNNEL_SIGNAL_RELAY_RATE="2").relay_rate == 1
    assert case.read(toml=toml, TUNNEL_SIGNAL_RELAY_RATE=" ").relay_rate == 3, "an empty variable is none"


def test_the_files_flag_precedes_its_variable(case: Case, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("relay-rate = 7", "utf-8")
    assert case.read("--config", str(other), toml="relay-rate = 3").relay_rate == 7


def test_a_list_replaces_the_list_of_a_weaker_source(case: Case) -> None:
    toml = 'trusted-proxy = ["10.0.0.1", "10.0.0.2"]\nseveral = ["a"]'
    assert case.read(toml=toml).trusted_proxy == ["10.0.0.1/32", "10.0.0.2/32"]
    assert case.read(toml=toml, TUNNEL_SIGNAL_TRUSTED_PROXY="10.0.0.3  ::1").trusted_proxy == ["10.0.0.3/32", "::1/128"]
    assert case.read("--trusted-proxy", "::1", toml=toml, TUNNEL_SIGNAL_TRUSTED_PROXY="::").trusted_proxy == ["::1/128"]
    assert case.read(toml=toml, TUNNEL_SIGNAL_SEVERAL="b c").several == ["b", "c"]


def test_switches_can_be_switched_off_again_by_a_stronger_source(case: Case) -> None:
    assert case.read(toml="no-relay = true").no_relay is True
    assert case.read(toml="no-relay = true", TUNNEL_SIGNAL_NO_RELAY="off").no_relay is False
    assert case.read(toml="loud = false").loud is False
    assert case.read("--loud", toml="loud = false").loud is True
    assert case.read("--no-loud", TUNNEL_SIGNAL_LOUD="1").loud is False


def test_settings_that_exclude_each_other_count_as_one(case: Case) -> None:
    found = case.read("--port", "1", toml='listen = "[::1]:2"', TUNNEL_SIGNAL_LISTEN="127.0.0.1:3")
    assert (found.port, found.listen) == (("0.0.0.0", 1), None)
    found = case.read(toml='listen = "[::1]:2"', TUNNEL_SIGNAL_PORT="3")
    assert (found.port, found.listen) == (("0.0.0.0", 3), None)
    told = case.error(TUNNEL_SIGNAL_LISTEN="[::1]:2", TUNNEL_SIGNAL_PORT="3")
    assert told == "TUNNEL_SIGNAL_LISTEN and TUNNEL_SIGNAL_PORT contradict each other: leave one of them out"
    told = case.error(toml="port = 1\nlisten = 2")
    assert told.startswith(f"{case.file}: listen and {case.file}: port contradict")


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"RELAY_RATE": "4XB"}, "TUNNEL_SIGNAL_RELAY_RATE: '4XB' is not a size above 0: use bytes, 10MB or 10MiB"),
        ({"NO_RELAY": "perhaps"}, "TUNNEL_SIGNAL_NO_RELAY: 'perhaps' is neither on nor off: use 1 or 0"),
        ({"WINDOW": "m"}, "TUNNEL_SIGNAL_WINDOW: unknown value 'm': use s, l"),
        ({"TRUSTED_PROXY": "::1 caddy"}, "TUNNEL_SIGNAL_TRUSTED_PROXY: 'caddy' is not a network: use 10.0.0.0/8, or"),
        ({"PORT": "tcp://10.0.0.1:8787"}, "TUNNEL_SIGNAL_PORT: 'tcp://10.0.0.1:8787' is not a port: use 0 to 65535"),
        ({"CONFIG": "/nonexistent/x.toml"}, "/nonexistent/x.toml: cannot be read: no such file or directory; check"),
        ({"CONFIG": "/nonexistent\0"}, "/nonexistent\0: cannot be read: embedded null byte; check"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(case: Case, environ: Mapping[str, str], told: str) -> None:
    assert case.error(**{f"TUNNEL_SIGNAL_{name}": text for name, text in environ.items()}).startswith(told)


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("relay_rate = 3", "unknown key 'relay_rate'. Did you mean 'relay-rate'?"),
        ("config = 'x'", "unknown key 'config'. A key is a flag without the hyphens in front: see --help"),
        ("help = true", "unknown key 'help'. A key"),
        ("[relay]\nrate = 3", "unknown key 'relay'. Did you mean"),
        (
            "relay-rate = true",
            'relay-rate: expected a string or a number, not true or false; write relay-rate = "SIZE"',
        ),
        ("relay-rate = [1]", "relay-rate: expected a string or a number, not a list; write"),
        ("relay-rate = 2026-01-01", "relay-rate: expected a string or a number, not a date or a time; write"),
        ("relay-rate = -1", "relay-rate: '-1' is not a size above 0: use bytes, 10MB or 10MiB"),
        ("max-proxies = 1.5", "max-proxies: '1.5' is not a number from 1 to 128"),
        ("relay-idle = inf", "relay-idle: 'inf' is not a time above 0, in seconds"),
        ("relay-idle = nan", "relay-idle: 'nan' is not a time above 0, in seconds"),
        ("no-relay = 1", "no-relay: expected true or false, not a number; write no-relay = true"),
        ("url = 1", 'url: expected a string, not a number; write url = "URL"'),
        ("window = 'm'", "window: unknown value 'm': use s, l"),
        ("window.a = 1", 'window: expected a string, not a table; write window = "s"'),
        (
            "trusted-proxy = '::1'",
            'trusted-proxy: expected a list, not a string; write trusted-proxy = ["NETWORK", "NET',
        ),
        ("trusted-proxy = [['::1']]", "trusted-proxy: expected a string or a number, not a list; write"),
        ("relay-rate 3", "not valid TOML: Expected '=' after a key in a key/value pair (at line 1, column 12)"),
        ("relay-rate = 3\nrelay-rate = 3", "not valid TOML: Cannot overwrite a value"),
    ],
)
def test_a_key_that_cannot_be_used_is_named_with_its_file(case: Case, toml: str, told: str) -> None:
    text = case.error(toml=toml).removeprefix(f"{case.file}: ")
    assert text.startswith(told)


def test_a_file_that_is_not_text_is_an_error(case: Case) -> None:
    case.file.write_bytes(b"\xff\xfe")
    assert case.error("--config", str(case.file)) == f"{case.file}: not text in UTF-8: save it as UTF-8"


def test_a_secret_comes_from_each_source(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{SECRET}\n", "utf-8")
    path = str(file)
    assert case.read().turn_key is None
    for found in (
        case.read("--turn-key", SECRET),
        case.read("--turn-key-file", path, TUNNEL_SIGNAL_TURN_KEY="other"),
        case.read(TUNNEL_SIGNAL_TURN_KEY=SECRET, toml='turn-key = "other"'),
        case.read(TUNNEL_SIGNAL_TURN_KEY_FILE=path),
        case.read(toml=f'turn-key = "{SECRET}"'),
        case.read(toml=f"turn-key-file = {path!r}"),
    ):
        assert found.turn_key == SECRET
    assert case.read(TUNNEL_SIGNAL_ENTRY_KEY_FILE="/nonexistent").entry_key_file == "/nonexistent"


def test_no_error_and_no_help_contains_a_secret(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "key"
    file.write_text(SECRET * 400, "utf-8")
    told = [
        case.error(TUNNEL_SIGNAL_TURN_KEY_FILE=str(file)),
        case.error(TUNNEL_SIGNAL_TURN_KEY_FILE=str(file), TUNNEL_SIGNAL_TURN_KEY=SECRET),
        case.error(toml=f"turn-key = ['{SECRET}']"),
        case.error(toml=f"turn-key = '{SECRET}"),
        case.error(toml=f"turn-key = {SECRET}"),
    ]
    file.write_bytes(SECRET.encode() + b"\xff")
    told += [case.error("--turn-key-file", str(file)), case.error("--turn-key-file", str(tmp_path))]
    file.write_text(" \n", "utf-8")
    told += [
        case.error("--turn-key-file", str(file)),
        case.error(TUNNEL_SIGNAL_NO_RELAY="x", TUNNEL_SIGNAL_TURN_KEY=SECRET),
    ]
    for argv in (["--turn-key", SECRET, "--turn-key-file", "x"], ["--turn-key", " "], ["--help"]):
        monkeypatch.setenv("TUNNEL_SIGNAL_TURN_KEY", SECRET)
        with pytest.raises(SystemExit):
            case.read(*argv)
        shown = capsys.readouterr()
        told.append(shown.out + shown.err)
    assert all(told) and not any(SECRET in each for each in told)
    assert "others on this machine can read command lines" in " ".join(told[-1].split())


def test_variables_that_look_like_settings_and_are_none_cause_a_warning(case: Case) -> None:
    case.read(TUNNEL_SIGNAL_RELAYRATE="1", TUNNEL_SIGNAL_HELP="1", TUNNEL_SIGNAL_RELAY_RATE="1", TUNNEL_SIGNAL="ws://a")
    case.read(**dict.fromkeys(CLIENTS, SECRET))
    expected = "not settings of the signal server, and ignored: TUNNEL_SIGNAL_HELP, TUNNEL_SIGNAL_RELAYRATE"
    assert case.warnings == [expected]


def test_no_variable_is_also_one_of_clients() -> None:
    ours = {variable_of(action) for action in settings(_parser("x"))} | {"TUNNEL_SIGNAL_CONFIG"}
    options = [each for kind in (ServeOptions, ProxyOptions, BenchOptions) for each in declared(kind).values()]
    theirs = {name for each in options for name in (each.variable, f"{each.variable}_FILE")}
    assert len(ours) > 10 and "TUNNEL_SIGNAL" in theirs
    assert ours.isdisjoint(theirs | set(CLIENTS))
    assert {name for name in theirs if name.startswith("TUNNEL_SIGNAL_")} - {"TUNNEL_SIGNAL_FILE"} <= set(CLIENTS)


@pytest.mark.parametrize("action", list(settings(_parser("x"))), ids=key_of)
def test_each_flag_of_the_server_is_a_variable_and_a_key_with_the_same_meaning(
    case: Case, action: argparse.Action, tmp_path: Path
) -> None:
    flag, key, variable = f"--{key_of(action)}", key_of(action), variable_of(action)
    file = tmp_path / "secret"
    file.write_text("s", "utf-8")
    file_first = [str(file)] if key.endswith("-file") else []
    texts = ["7", "::1", "127.0.0.1:7", "stun:a", "turn:a", "redis://a", str(file), "a"]
    candidates: list[str] = [*map(str, action.choices or ()), *file_first, *texts]
    text = next(each for each in candidates if is_switch(action) or _takes(action, each))
    by_flag = case.read(*([flag] if is_switch(action) else [flag, text]))
    by_variable = case.read(**{variable: "1" if is_switch(action) else text})
    value = "true" if is_switch(action) else f"[{text!r}]" if is_repeatable(action) else f"{text!r}"
    by_key = case.read(toml=f"{key} = {value}")
    assert vars(by_flag) | {"config": 0} == vars(by_variable) | {"config": 0} == vars(by_key) | {"config": 0}
    assert getattr(by_flag, action.dest) != getattr(case.read(), action.dest) or text in map(str, action.choices or ())


def _takes(action: argparse.Action, text: str) -> bool:
    try:
        value = action.type(text) if callable(action.type) else text
    except argparse.ArgumentTypeError:
        return False
    return value != action.default


def test_the_readmes_rows_mean_the_same_in_each_column(case: Case) -> None:
    rows = re.findall(r"^\| `(--\S.*?)` \| `(TUNNEL_SIGNAL_\w+)=(.*?)` \| `(.*?)` \|$", README, re.MULTILINE)
    assert len(rows) >= 4
    for argv, variable, text, line in rows:
        by_flag = vars(case.read(*shlex.split(argv)))
        assert by_flag != vars(case.read())
        assert by_flag | {"config": 0} == vars(case.read(**{variable: text})) | {"config": 0}
        assert by_flag | {"config": 0} == vars(case.read(toml=line)) | {"config": 0}


def test_the_readmes_file_is_valid(case: Case) -> None:
    [block] = re.findall(r"^    # signal\.toml\n((?:    .*\n)+)", README, re.MULTILINE)
    found: dict[str, Any] = vars(case.read(toml=block.replace("    ", "")))
    assert found["listen"] == ("0.0.0.0", 8787)
    assert found["joins_per_minute"] == 600


def test_the_readme_names_each_flag_and_no_other() -> None:
    known = {f"--{key_of(action)}" for action in settings(_parser("x"))} | {"--config", "--help"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+[a-z]", re.sub(r"^    .*$", "", README, flags=re.MULTILINE)))
    assert named - known <= {*CLIENT_FLAGS}, "what clients take"
    assert known - named <= {"--port", "--log-level"}, "what needs no more words than in --help"


@pytest.mark.parametrize(
    ("environ", "status", "told"),
    [
        ({"TUNNEL_SIGNAL_RELAY_RATE": "x"}, 2, "llmtunnel signal: error: TUNNEL_SIGNAL_RELAY_RATE: 'x' is not a size"),
        (
            {"TUNNEL_SIGNAL_RELAYRATE": "1"},
            0,
            "llmtunnel signal: warning: not settings of the signal server, and ignored:",
        ),
    ],
)
def test_the_command_line_reads_variables(
    environ: dict[str, str],
    status: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, text in environ.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr("signal_server.process.run", lambda *args, **more: 0)
    assert main([], prog="llmtunnel signal") == status
    assert capsys.readouterr().err.startswith(told)


def test_a_file_by_variable_starts_a_server_where_it_says(tmp_path: Path) -> None:
    file = tmp_path / "signal.toml"
    file.write_text('listen = "127.0.0.1:0"\nlog-level = "error"', "utf-8")
    command = [sys.executable, "-m", "signal_server", "--config", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
    assert re.fullmatch(r"signal server listening on ws://127\.0\.0\.1:\d+\n", line)
    assert not line.endswith(":8787\n")


def test_add_config_adds_one_flag() -> None:
    made = argparse.ArgumentParser()
    add_config(made)
    assert made.parse_args(["--config", "x"]).config == "x"
