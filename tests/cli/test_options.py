from __future__ import annotations

from pathlib import Path

import pytest

from llmtunnel.cli.options import (
    DemoCommand,
    InviteCommand,
    ProxyCommand,
    ServeCommand,
    ShowText,
    SignalCommand,
    ToyCommand,
    View,
    parse,
)
from llmtunnel.config import DEFAULT_LISTEN, DEFAULT_SIGNAL, DEFAULT_STUN, Exposure, IceServers
from llmtunnel.errors import SettingError
from llmtunnel.invite import Invite
from llmtunnel.listener import ListenerPolicy
from llmtunnel.policy import Policy
from llmtunnel.upstream import Upstream


def serve(line: str, **environ: str) -> ServeCommand:
    command = parse(["serve", *line.split()], environ)
    assert isinstance(command, ServeCommand)
    return command


def proxy(line: str, **environ: str) -> ProxyCommand:
    command = parse(["proxy", *line.split()], environ)
    assert isinstance(command, ProxyCommand)
    return command


def test_what_is_left_out_has_the_defaults_of_the_manual() -> None:
    command = proxy("--room r")
    assert command.settings.room == "r"
    assert command.settings.signal == DEFAULT_SIGNAL == "wss://signal-server.fly.dev"
    assert command.settings.listen == DEFAULT_LISTEN == "127.0.0.1:8000"
    assert command.settings.ice == IceServers(stun=(DEFAULT_STUN,))
    assert command.view == View(json=False, log_level="warning")
    assert serve("--room r").settings.advertise == "/"


FLAGS_AND_VARIABLES = {
    "room": ("--room", "TUNNEL_ROOM", "a", "b"),
    "signal": ("--signal", "TUNNEL_SIGNAL", "ws://a", "ws://b"),
    "listen": ("--listen", "TUNNEL_LISTEN", "127.0.0.1:1", "127.0.0.1:2"),
    "turn": ("--turn", "TUNNEL_TURN", "turn:a", "turn:b"),
    "turn_user": ("--turn-user", "TUNNEL_TURN_USER", "a", "b"),
    "turn_pass": ("--turn-pass", "TUNNEL_TURN_PASS", "a", "b"),
}


@pytest.mark.parametrize("name", FLAGS_AND_VARIABLES)
def test_a_flag_wins_over_the_environment_and_that_over_the_default(name: str) -> None:
    flag, variable, in_environment, in_flag = FLAGS_AND_VARIABLES[name]
    environ = {"TUNNEL_ROOM": "other", variable: in_environment}

    def found(argv: list[str], environ: dict[str, str]) -> object:
        command = parse(["proxy", *argv], environ)
        assert isinstance(command, ProxyCommand)
        settings = command.settings
        value = getattr(settings.ice if name.startswith("turn") else settings, name)
        return value[0] if name == "turn" and value else value

    assert found([], environ) == in_environment
    assert found([flag, in_flag], environ) == in_flag
    assert found(["--room", "r"], {variable: "", "TUNNEL_ROOM": "r"}) == found(["--room", "r"], {})


def test_the_upstream_comes_from_flag_or_environment_and_is_read_with_its_own_options() -> None:
    assert serve("--room r --upstream 11434").settings.upstream == Upstream.parse("http://localhost:11434")
    assert serve("--room r", TUNNEL_UPSTREAM="ollama").settings.upstream == Upstream.parse("ollama")
    assert serve("--room r --upstream vllm", TUNNEL_UPSTREAM="ollama").settings.upstream == Upstream.parse("vllm")
    secure = serve("--room r --upstream https://gpu.example/base --upstream-insecure").settings.upstream
    assert secure.insecure
    trusted = serve("--room r --upstream https://gpu.example --upstream-ca ca.pem").settings.upstream
    assert trusted.ca_file == "ca.pem"


def test_the_upstream_may_be_a_word_of_its_own_before_or_after_the_flags() -> None:
    for line in ("vllm --room r", "--room r vllm", "--once --room r --secret s vllm --json"):
        assert serve(line, TUNNEL_UPSTREAM="ollama").settings.upstream == Upstream.parse("vllm")
    with pytest.raises(SettingError, match="are the same"):
        serve("--room r vllm --upstream vllm")
    with pytest.raises(SettingError, match="too many arguments"):
        serve("--room r vllm ollama")


def test_an_empty_address_counts_as_not_given_as_where_a_script_has_an_unset_variable() -> None:
    for argv in (["--upstream", ""], [""]):
        command = parse(["serve", "--room", "r", *argv], {})
        assert isinstance(command, ServeCommand) and command.settings.seek
    command = parse(["proxy", "--room", "r", "--listen", ""], {})
    assert isinstance(command, ProxyCommand) and command.settings.listen == DEFAULT_LISTEN


def test_the_words_of_a_code_may_stand_behind_flags() -> None:
    invite = Invite.generate()
    command = parse(["proxy", "--listen", "127.0.0.1:0", *invite.code.split("-"), "--json"], {})
    assert isinstance(command, ProxyCommand)
    assert command.settings.secret == invite.secret


def test_an_upstream_left_out_is_to_be_looked_for_and_gets_the_header_fields_all_the_same() -> None:
    command = parse(["serve", "--room", "r", "--upstream-header", "X-Key: k"], {})
    assert isinstance(command, ServeCommand)
    assert command.settings.seek
    assert command.settings.upstream.fields == ((b"X-Key", b"k"),)


def test_header_fields_come_from_flags_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("# for the model server\nAuthorization: Bearer x\n\nX-Team: a\n")

    def fields(*argv: str, **environ: str) -> tuple[tuple[bytes, bytes], ...]:
        command = parse(["serve", "--room", "r", "--upstream", "1", *argv], environ)
        assert isinstance(command, ServeCommand) and not command.settings.seek
        return command.settings.upstream.fields

    from_file = ((b"Authorization", b"Bearer x"), (b"X-Team", b"a"))
    assert fields("--upstream-header", "X-A: 1", "--upstream-header", "X-B: 2") == (
        (b"X-A", b"1"),
        (b"X-B", b"2"),
    )
    assert fields("--upstream-header", f"@{file}") == from_file
    assert fields(TUNNEL_UPSTREAM_HEADER=f"@{file}") == from_file
    assert fields(TUNNEL_UPSTREAM_HEADER="X-A: 1\nX-B: 2") == ((b"X-A", b"1"), (b"X-B", b"2"))
    assert fields("--upstream-header", "X-C: 3", TUNNEL_UPSTREAM_HEADER="X-A: 1") == ((b"X-C", b"3"),)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("8h", 28800), ("1.5h", 5400), ("2d", 172800)]
)
def test_an_invite_can_have_an_end(text: str, seconds: float) -> None:
    command = serve(f"--upstream 1 --once --expires {text}")
    assert (command.settings.expires, command.settings.once) == (seconds, True)
    assert (serve("").settings.expires, serve("").settings.once) == (None, False)


def test_stun_servers_add_up_and_none_means_none() -> None:
    both = proxy("--room r --stun stun:a:1 --stun stun:b").settings.ice.stun
    assert both == ("stun:a:1", "stun:b")
    assert proxy("--room r --stun none").settings.ice.stun == ()


@pytest.mark.parametrize(
    ("line", "variable", "level"),
    [
        ("", "", "warning"),
        ("-v", "", "info"),
        ("-vv", "", "debug"),
        ("-v --verbose", "", "debug"),
        ("-vvv", "", "trace"),
        ("-vvvvv", "", "trace"),
        ("--log-level error", "", "error"),
        ("--log-level WARN", "", "warning"),
        ("-v --log-level error", "", "error"),
        ("", "debug", "debug"),
        ("-v", "debug", "info"),
        ("--log-level info", "trace", "info"),
    ],
)
def test_how_much_is_logged(line: str, variable: str, level: str) -> None:
    assert proxy(f"--room r {line}", LLMTUNNEL_LOG=variable).view.log_level == level


def test_the_other_commands_have_their_flags() -> None:
    assert parse(["toy", "--listen", "9"], {}) == ToyCommand(view=View(), listen="9")
    assert parse(["demo"], {}) == DemoCommand(view=View(), stay=False)
    assert proxy("--room r --plain").view == View(plain=True)
    assert parse(["demo", "--stay", "--json"], {}) == DemoCommand(view=View(json=True), stay=True)
    assert parse(["signal", "--port", "8787"], {}) == SignalCommand(arguments=("--port", "8787"))
    made, there = parse(["invite"], {}), parse(["invite", "--json"], {"TUNNEL_SIGNAL": "ws://s"})
    assert isinstance(made, InviteCommand) and isinstance(there, InviteCommand)
    assert (made.invite.signal, made.json) == (DEFAULT_SIGNAL, False)
    assert (there.invite.signal, there.json) == ("ws://s", True)
    assert proxy("--room r --wait-for-peer 0.5 --json").settings.timeouts.wait_for_peer == 0.5


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["-h"], ["serve", "--help"], ["proxy", "-h"], ["demo", "--help"], ["toy", "-h"], ["invite", "-h"]],
)
def test_help_is_a_text_and_shows_an_example_and_what_keeps_a_code_secret(argv: list[str]) -> None:
    command = parse(argv, {})
    assert isinstance(command, ShowText)
    assert "can read command lines (ps)" in " ".join(command.text.split())
    assert "example:" in command.text
    assert "security:" in command.text
    assert max(map(len, command.text.splitlines())) <= 100


def test_help_names_each_flag_and_variable_of_the_manual() -> None:
    command = parse(["serve", "--help"], {})
    assert isinstance(command, ShowText)
    words = (
        "--room --secret --secret-file --invite --invite-file --expires --once TUNNEL_SECRET TUNNEL_SECRET_FILE"
        " TUNNEL_INVITE TUNNEL_INVITE_FILE --upstream --signal"
        " --advertise --stun --turn --turn-user --turn-pass --upstream-ca --json"
        " --upstream-insecure --upstream-header --verbose --log-level TUNNEL_ROOM TUNNEL_UPSTREAM TUNNEL_SIGNAL"
        " TUNNEL_TURN TUNNEL_TURN_USER TUNNEL_TURN_PASS TUNNEL_UPSTREAM_HEADER LLMTUNNEL_LOG"
        " --policy --allow --deny --max-requests --max-requests-per-minute --max-body"
    )
    for word in words.split():
        assert word in command.text


def test_help_and_version_are_found_as_words_too() -> None:
    assert parse(["help", "serve"], {}) == parse(["serve", "--help"], {})
    assert parse(["help"], {}) == parse(["--help"], {}) == parse(["help", "nothing"], {})
    assert parse(["version"], {}) == parse(["--version"], {})


@pytest.mark.parametrize(
    ("argv", "message", "hint"),
    [
        ([], "No command", "--help"),
        (["prxy"], "Unknown command 'prxy'", "mean 'proxy'?"),
        (["--verison"], "Unknown option '--verison'", "mean '--version'?"),
        (["proxy"], "No invite", "llmtunnel proxy CODE"),
        (["4821309-tulip"], "No command", "llmtunnel proxy CODE"),
        (["proxy 4821309-tulip"], "No command", "llmtunnel proxy CODE"),
        (["serve", "4821309-tulip"], "The upstream's address is not valid", "For a code, use --invite."),
        (["serve", "80", "4821309-tulip"], "too many arguments", "llmtunnel serve --help"),
        (
            ["serve", "80", "--web", "chat.example.org"],
            "too many arguments",
            "value of --web is a URL that begins with",
        ),
        (["serve", "--room", "r", "--upstraem", "1"], "unknown option '--upstraem'", "mean '--upstream'?"),
        (["serve", "--room", "r", "--upstraem=1"], "unknown option '--upstraem'", "mean '--upstream'?"),
        (["serve", "--room", "r", "--up", "1"], "unknown option '--up'", "llmtunnel serve --help"),
        (["proxy", "--room", "r", "8000"], "The code and --room contradict", "Leave one"),
        (["proxy", "--room"], "--room needs a value", "llmtunnel proxy --help"),
        (["proxy", "--room", ""], "The room's name", "--room"),
        (["proxy", "--room", "r" * 300], "256", "--room"),
        (["serve", "--room", "r" * 300], "256", "--room"),
        (
            ["proxy", "--room", "r", "--signal", "http://x"],
            "--signal: must start with ws:// or wss://, got 'http://x'.",
            "ws://",
        ),
        (["proxy", "--room", "r", "--stun", "x"], "STUN", "stun:"),
        (["proxy", "--room", "r", "--stun", "none", "--stun", "stun:x"], "contradict", ""),
        (["proxy", "--room", "r", "--turn", "stun:x"], "TURN", "turn:"),
        (["proxy", "--room", "r", "--log-level", "loud"], "'loud'", "info"),
        (["proxy", "--room", "r", "--wait-for-peer", "soon"], "not a number of seconds: 'soon'", "--help"),
        (["proxy", "--room", "r", "--wait-for-peer", "-1"], "", "--help"),
        (["proxy", "--room", "r", "--wait-for-peer", "inf"], "seconds", "--help"),
        (["proxy", "--room", "r", "--wait-for-peer", "nan"], "seconds", "--help"),
        (["proxy", "--room", "r", "--allow-host", "http://x"], "not a host name", "--allow-host"),
        (["proxy", "--room", "r", "--allow-host", ""], "not a host name", "--allow-host"),
        (["proxy", "--room", "r", "--allow-origin", "*"], "origin", "--allow-origin"),
        (["proxy", "--room", "r", "--api-key", ""], "empty", "token_urlsafe"),
        (["proxy", "--room", "r", "--api-key", "k", "--api-key-file", "f"], "contradict", ""),
        (["proxy", "--room", "r", "--api-key", "k", "--no-auth"], "contradict", ""),
        (["proxy", "--room", "r", "--api-key-file", "/nonexistent"], "cannot be read", "--api-key-file"),
        (["proxy", "--room", "r", "--api-kye=s3cret"], "unknown option '--api-kye'", "mean '--api-key'?"),
        (["serve", "--room", "r", "--upstream", "ftp://x"], "http", ""),
        (["serve", "--room", "r", "--upstream-header", "@/nonexistent"], "cannot be read", "--upstream-header"),
        (
            ["serve", "--room", "r", "--upstream-header", "no colon"],
            "--upstream-header: the text",
            "",
        ),
        (["serve", "--room", "r", "--policy", "openia"], "--policy: unknown value 'openia'", "openai"),
        (["serve", "--room", "r", "--allow", "v1"], "never matches", "GET /v1/models"),
        (["serve", "--room", "r", "--deny", "GET POST /v1"], "Not a pattern", "GET /v1/models"),
        (["serve", "--room", "r", "--deny", "/v1?x"], "query", "Remove the query"),
        (["serve", "--room", "r", "--max-requests", "0"], "--max-requests: not a whole number above 0: '0'", "--help"),
        (["serve", "--room", "r", "--max-requests-per-minute", "many"], "'many'", "--help"),
        (["serve", "--room", "r", "--max-body", "10 potatoes"], "--max-body: not a size: '10 potatoes'", "--help"),
        (["serve", "--room", "r", "--max-body", "-1"], "--max-body", "--help"),
        (["serve", "--expires", "8"], "not a duration: '8'", "--help"),
        (["serve", "--expires", "0h"], "not a duration: '0h'", "--help"),
        (["serve", "--expires", "soon"], "not a duration: 'soon'", "--help"),
        (["invite", "--signal", "http://x"], "must start with ws:// or wss://, got 'http://x'.", "ws://"),
        (["invite", "--room", "r"], "unknown option '--room'", "llmtunnel invite --help"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_says_what_to_type(argv: list[str], message: str, hint: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse(argv, {})
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_what_serve_exposes_is_everything_unless_told() -> None:
    command = serve("--room r --upstream 1")
    assert command.settings.exposure == Exposure()


def test_what_serve_exposes_is_told_by_flags_that_add_up() -> None:
    line = "--room r --policy openai --allow /health --deny /v1/models/* --deny /x --max-requests 4"
    command = serve(f"{line} --max-requests-per-minute 60 --max-body 10MB")
    assert command.settings.exposure == Exposure(
        policy=Policy.parse(ready="openai", allow=["/health"], deny=["/v1/models/*", "/x"]),
        max_requests=4,
        max_requests_per_minute=60,
        max_body=10_000_000,
    )
    with_a_method = parse(["serve", "--room", "r", "--allow", "GET /v1/models"], {})
    assert isinstance(with_a_method, ServeCommand)
    assert with_a_method.settings.exposure.policy == Policy.parse(allow=["GET /v1/models"])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1234", 1234),
        ("10B", 10),
        ("10MB", 10_000_000),
        ("10mb", 10_000_000),
        ("10M", 10_000_000),
        ("1.5k", 1500),
        ("2KiB", 2048),
        ("1GiB", 1 << 30),
        ("1T", 10**12),
    ],
)
def test_a_size_is_bytes_or_has_a_unit(text: str, size: int) -> None:
    assert serve(f"--room r --max-body {text}").settings.exposure.max_body == size


# -- who may use the listener


def test_who_may_use_the_listener_comes_from_repeatable_flags() -> None:
    line = "--room r --allow-host a --allow-host b --allow-origin https://c --allow-origin http://d:1 --no-auth"
    assert proxy(line).settings.listener == ListenerPolicy(
        allow_hosts=("a", "b"), allow_origins=("https://c", "http://d:1"), no_auth=True
    )
    assert proxy("--room r").settings.listener == ListenerPolicy()


def test_the_key_comes_from_a_flag_a_file_or_the_environment_and_a_flag_wins(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("of-the-file\n", "utf-8")

    def key(line: str, **environ: str) -> str | None:
        return proxy(f"--room r {line}", **environ).settings.listener.api_key

    by_environment = {"TUNNEL_API_KEY": "of-the-environment"}
    assert key("") is None
    assert key("", TUNNEL_API_KEY="") is None
    assert key("", **by_environment) == "of-the-environment"
    assert key("--api-key of-the-flag", **by_environment) == "of-the-flag"
    assert key(f"--api-key-file {file}", **by_environment) == "of-the-file"
    assert key("", TUNNEL_API_KEY_FILE=str(file)) == "of-the-file"
    assert key("--api-key of-the-flag", TUNNEL_API_KEY_FILE=str(file)) == "of-the-flag"
    assert key("--no-auth", **by_environment) is None


def test_the_help_says_that_a_key_is_safer_in_the_environment_or_a_file() -> None:
    command = parse(["proxy", "--help"], {})
    assert isinstance(command, ShowText)
    text = " ".join(command.text.split())
    words = "--allow-host --allow-origin --api-key --api-key-file --no-auth TUNNEL_API_KEY host.docker.internal"
    for word in words.split():
        assert word in text
    assert "(ps): the environment and a file are safer" in text


def test_no_secret_shows_in_a_repr() -> None:
    assert "s3cret" not in repr(proxy("--room r --api-key s3cret"))
    assert "s3cret" not in repr(proxy("--room r --secret s3cret"))
    command = parse(
        ["serve", "--room", "r", "--upstream", "1", "--upstream-header", "Authorization: s3cret", "--turn-pass=hush"],
        {},
    )
    assert isinstance(command, ServeCommand)
    assert "hush" not in repr(command)
    assert "s3cret" not in repr(command)


def test_several_turn_servers_may_be_given() -> None:
    urls = ("turn:a", "turns:b:443?transport=tcp")
    flags = [word for url in urls for word in ("--turn", url)]
    for arguments, environ in ((flags, {}), ([], {"TUNNEL_TURN": " ".join(urls)})):
        command = parse(["proxy", "--room", "r", *arguments], environ)
        assert isinstance(command, ProxyCommand)
        assert command.settings.ice.turn == urls


def test_a_path_is_given_by_flag_or_environment_and_the_flag_wins() -> None:
    line = "--room r --secret s"
    assert serve(line).settings.path == "auto"
    assert serve(f"{line} --path relay").settings.path == "relay"
    assert proxy(line, TUNNEL_PATH="relay").settings.path == "relay"
    assert proxy(f"{line} --path direct", TUNNEL_PATH="relay").settings.path == "direct"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--room r --path relay", "needs a secret"),
        ("--room r --secret s --path turn --no-signal-ice", "needs a TURN server"),
    ],
)
def test_a_path_that_cannot_be_is_refused(line: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        proxy(line)
