from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtunnel import aio, option, sync
from llmtunnel.cli.options import ProxyCommand, ServeCommand, ShowText, parse
from llmtunnel.cli.parsers import proxy_parser, serve_parser
from llmtunnel.config import ProxyOptions, ProxySettings, ServeOptions, ServeSettings
from llmtunnel.errors import SettingError
from llmtunnel.invite import DEFAULT_SIGNAL, EXAMPLE, Invite
from llmtunnel.meeting import Meeting
from llmtunnel.notebook.completion import candidates
from llmtunnel.notebook.opening import Plan, plan
from llmtunnel.option import NETWORK, Option, accepts, declared, options
from llmtunnel.upstream import Upstream
from llmtunnel.weblink import read_page

KINDS: dict[str, type] = {"serve": ServeOptions, "proxy": ProxyOptions}
EACH = [(verb, each) for verb, kind in KINDS.items() for each in declared(kind).values()]
IN_ENVIRONMENT = [(verb, each) for verb, each in EACH if each.env]
IN_FILES = [(verb, each) for verb, each in EACH if each.file]

BESIDE: dict[str, dict[str, str]] = {
    "serve": {"room": "r", "secret": "s", "upstream": "https://gpu.example"},
    "proxy": {"room": "r", "secret": "s"},
}
"""What is given beside the option that is looked at: enough for each of them."""

READ: dict[Callable[[str], object] | None, tuple[str, object]] = {
    None: ("x", "x"),
    option.unless_empty: ("127.0.0.1:9", "127.0.0.1:9"),
    option.seconds: ("7.5", 7.5),
    option.duration: ("90s", 90.0),
    option.count: ("3", 3),
    option.size: ("10kB", 10_000),
    read_page: ("https://page.example/", "https://page.example/"),
}
"""A text that each reader reads, and its value."""

TEXTS = {
    "allow": "/x",
    "allow_origins": "https://x",
    "deny": "/x",
    "invite": EXAMPLE,
    "path": "relay",
    "policy": "openai",
    "signal": "ws://x",
    "stun": "stun:x",
    "turn": "turn:x",
    "upstream_headers": "X: x",
}
"""A text for each option whose values have a form of their own."""


OTHER_CODE = "1234567-zebra-yacht-wagon-vogue-usher"


def named(case: object) -> str:
    return case.name if isinstance(case, Option) else str(case)


def sample(each: Option) -> tuple[str, object]:
    """A text for the option's flag, and Python's value for the same."""
    if each.is_switch:
        return "", True
    text, value = READ[each.read]
    if each.choices:
        text = value = each.choices[-1]
    if each.name in TEXTS:
        text = value = TEXTS[each.name]
    return text, (value,) if each.is_repeatable else value


def beside(verb: str, each: Option) -> dict[str, str]:
    left_out = {"room", "secret"} if each.name == "invite" else {each.name}
    return {name: text for name, text in without(verb, each).items() if name not in left_out}


def without(verb: str, each: Option) -> dict[str, str]:
    """What is given instead of the option. An access token in the environment is not for the default signal server."""
    if each.name == "web":  # a link contains a code
        return {"invite": EXAMPLE, "upstream": "https://gpu.example"}
    return BESIDE[verb] | ({"signal": "ws://x"} if each.name == "signal_token" else {})


def by_words(verb: str, words: list[str], environ: dict[str, str] | None = None) -> ServeSettings | ProxySettings:
    command = parse([verb, *words], environ or {})
    assert isinstance(command, ServeCommand | ProxyCommand)
    return command.settings


def words_of(given: dict[str, str]) -> list[str]:
    return [word for name, text in given.items() for word in (f"--{name}", text)]


class Made(Exception):
    """Instead of a tunnel."""


def by_python(call: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> ServeSettings | ProxySettings:
    """The settings with which a function of `aio` or `sync` would make a tunnel."""
    made: list[ServeSettings | ProxySettings] = []

    def instead(settings: ServeSettings | ProxySettings) -> None:
        made.append(settings)
        raise Made

    async def main() -> None:
        opening = call()
        assert isinstance(opening, aio.Opening)
        await opening

    monkeypatch.setattr(aio, "Server", instead)
    monkeypatch.setattr(aio, "Proxy", instead)
    with pytest.raises(Made):
        opening = call()
        if isinstance(opening, aio.Opening):
            asyncio.run(main())
    [settings] = made
    return settings


@pytest.mark.parametrize(("verb", "each"), EACH, ids=named)
def test_an_option_has_the_same_effect_as_a_flag_in_a_magic_and_in_python(
    verb: str, each: Option, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = sample(each)
    given = beside(verb, each)
    words = [*words_of(given), each.flag, *([text] if text else [])]
    by_flag = by_words(verb, words)
    assert by_flag != by_words(verb, words_of(BESIDE[verb])), "it has no effect"
    planned = plan([verb, *words], kept=None)
    assert isinstance(planned, Plan)
    assert planned.settings == by_flag
    for module in (aio, sync):
        function = getattr(module, verb)
        assert by_python(lambda function=function: function(**given, **{each.name: value}), monkeypatch) == by_flag


WAYS = ["command", "magic", "aio", "sync"]


def by_way(
    way: str, verb: str, words: list[str], given: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> ServeSettings | ProxySettings:
    """The settings by one of the four ways, with the variables that this process has."""
    if way == "command":
        return by_words(verb, words, dict(os.environ))
    if way == "magic":
        planned = plan([verb, *words], kept=None)
        assert isinstance(planned, Plan)
        return planned.settings
    function = getattr({"aio": aio, "sync": sync}[way], verb)
    return by_python(lambda: function(**given), monkeypatch)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("verb", "each"), IN_ENVIRONMENT, ids=named)
def test_a_variable_says_the_same_as_the_parameter_which_wins(
    way: str, verb: str, each: Option, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = sample(each)
    given: dict[str, object] = dict(beside(verb, each))
    words = words_of(beside(verb, each))
    flag = [each.flag] if each.is_switch else [each.flag, text]
    explicit = by_way(way, verb, [*words, *flag], given | {each.name: value}, monkeypatch)
    # With an upstream alone, as whatever else says where they meet leaves the variables of that aside.
    monkeypatch.setenv(each.variable, text or "1")
    assert by_way(way, verb, words, given, monkeypatch) == explicit != by_words(verb, words_of(without(verb, each)))
    wrong = {"invite": OTHER_CODE, "upstream": "vllm"}.get(each.name, "not this")
    monkeypatch.setenv(each.variable, wrong)
    assert by_way(way, verb, [*words, *flag], given | {each.name: value}, monkeypatch) == explicit


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("yes", True), (" ON ", True), ("0", False), ("False", False), ("", False)]
)
def test_a_variable_turns_a_switch_on_or_off(text: str, value: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNNEL_NO_BENCH", text)
    for way in WAYS:
        settings = by_way(way, "serve", words_of(BESIDE["serve"]), dict(BESIDE["serve"]), monkeypatch)
        assert isinstance(settings, ServeSettings) and settings.no_bench is value
    by_hand = by_way("sync", "serve", [], {**BESIDE["serve"], "no_bench": False}, monkeypatch)
    assert isinstance(by_hand, ServeSettings) and not by_hand.no_bench


def test_a_variable_of_a_switch_that_is_neither_on_nor_off_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNNEL_NO_BENCH", "maybe")
    with pytest.raises(SettingError, match=r"TUNNEL_NO_BENCH: neither on nor off: 'maybe'\. Use 1 or 0"):
        by_way("sync", "serve", [], dict(BESIDE["serve"]), monkeypatch)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("verb", "each"), [case for case in EACH if not case[1].env], ids=named)
def test_an_option_without_a_variable_is_not_read_from_the_environment(
    way: str, verb: str, each: Option, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, _ = sample(each)
    given: dict[str, object] = dict(beside(verb, each))
    words = words_of(beside(verb, each))
    before = by_way(way, verb, words, given, monkeypatch)
    monkeypatch.setenv(each.variable, text or "1")
    assert by_way(way, verb, words, given, monkeypatch) == before


@pytest.mark.parametrize("way", WAYS)
def test_an_explicit_default_beats_the_environment(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for verb, each in IN_ENVIRONMENT:
        if each.default and not each.is_repeatable:
            text, _ = sample(each)
            given: dict[str, object] = {**beside(verb, each), each.name: each.default}
            words = [*words_of(beside(verb, each)), each.flag, str(each.default)]
            expected = by_way(way, verb, words, given, monkeypatch)
            with monkeypatch.context() as inner:
                inner.setenv(each.variable, text)
                assert by_way(way, verb, words, given, monkeypatch) == expected


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("verb", "each"), IN_FILES, ids=named)
def test_a_variable_may_name_a_file_in_every_way(
    way: str, verb: str, each: Option, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = sample(each)
    file = tmp_path / "file"
    file.write_text(f"{text}\n", "utf-8")
    given: dict[str, object] = dict(beside(verb, each))
    words = words_of(beside(verb, each))
    explicit = by_way(way, verb, [*words, each.flag, text], given | {each.name: value}, monkeypatch)
    monkeypatch.setenv(f"{each.variable}_FILE", str(file))
    assert by_way(way, verb, words, given, monkeypatch) == explicit


@pytest.mark.parametrize("way", WAYS)
def test_where_the_two_meet_counts_as_one_thing_in_every_way(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("ROOM", "r"), ("SECRET", "s"), ("SIGNAL", "ws://elsewhere")):
        monkeypatch.setenv(f"TUNNEL_{name}", text)
    by_invite = by_way(way, "proxy", ["--invite", EXAMPLE], {"invite": EXAMPLE}, monkeypatch)
    assert by_invite == ProxyOptions(EXAMPLE).settings(Meeting.of(Invite.parse(EXAMPLE)))
    by_room = by_way(way, "proxy", ["--room", "q"], {"room": "q"}, monkeypatch)
    assert (by_room.room, by_room.secret, by_room.signal) == ("q", "s", "ws://elsewhere")
    monkeypatch.setenv("TUNNEL_INVITE", EXAMPLE)
    with pytest.raises(SettingError, match="TUNNEL_INVITE and TUNNEL_ROOM contradict"):
        by_way(way, "proxy", [], {}, monkeypatch)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("named", "used", "sent"),
    [
        ("ws://ours.example", "ws://ours.example", True),
        ("WS://Ours.example", "ws://ours.example", True),
        ("ws://ours.example", "ws://theirs.example", False),
        ("not an address", "ws://theirs.example", False),
        (None, "ws://theirs.example", True),
        (None, None, False),
        (DEFAULT_SIGNAL, None, True),
    ],
)
def test_an_access_token_in_the_environment_goes_to_no_other_signal_server(
    way: str, named: str | None, used: str | None, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNNEL_SIGNAL_TOKEN", "a-token")
    if named is not None:
        monkeypatch.setenv("TUNNEL_SIGNAL", named)
    code = Invite.generate(used or DEFAULT_SIGNAL).code
    invited = by_way(way, "proxy", ["--invite", code], {"invite": code}, monkeypatch)
    assert (invited.signal, invited.signal_token) == (used or DEFAULT_SIGNAL, "a-token" if sent else None)
    if used is not None:
        words = ["--room", "r", "--signal", used]
        meeting = {"room": "r", "signal": used}
        assert by_way(way, "proxy", words, dict(meeting), monkeypatch).signal_token == invited.signal_token
        flag = by_way(way, "proxy", [*words, "--signal-token", "x"], {**meeting, "signal_token": "x"}, monkeypatch)
        assert flag.signal_token == "x", "who names it in the call means this server"


@pytest.mark.parametrize("token", ["", "two words", "tab\t", "line\n", "x" * 257, "\ud800"])
def test_an_access_token_that_no_server_takes_is_an_error_without_it(token: str) -> None:
    with pytest.raises(SettingError, match="--signal-token: a token is 1 to 256 bytes") as caught:
        ProxySettings(room="r", signal_token=token)
    assert not token or token not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("way", WAYS)
def test_a_new_invite_is_for_the_signal_server_that_the_environment_names(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNNEL_SIGNAL", "ws://a")
    settings = by_way(way, "serve", ["80"], {"upstream": 80}, monkeypatch)
    assert isinstance(settings, ServeSettings)
    assert settings.invite is not None
    assert settings.signal == settings.invite.signal == "ws://a"


@pytest.mark.parametrize("way", WAYS)
def test_a_listener_without_a_key_leaves_the_key_of_the_environment_aside(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNNEL_API_KEY", "k")
    settings = by_way(way, "proxy", ["--room", "r", "--no-auth"], {"room": "r", "no_auth": True}, monkeypatch)
    assert isinstance(settings, ProxySettings)
    assert settings.listener.api_key is None


def test_an_upstream_of_its_own_leaves_the_header_fields_of_the_environment_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TUNNEL_UPSTREAM_HEADER", "Authorization: Bearer t")
    upstream = Upstream.parse("https://gpu.example")
    settings = by_python(lambda: sync.serve(upstream, room="r"), monkeypatch)
    assert isinstance(settings, ServeSettings)
    assert settings.upstream == upstream


# -- what Python's parameters take


@pytest.mark.parametrize(
    ("verb", "given", "same"),
    [
        ("serve", {"upstream": 11434}, {"upstream": "11434"}),
        ("proxy", {"listen": 9000}, {"listen": "9000"}),
        ("serve", {"upstream": 1, "expires": "8h", "secret": "s"}, {"upstream": 1, "expires": 28800, "secret": "s"}),
        ("serve", {"upstream": 1, "max_body": "10MB"}, {"upstream": 1, "max_body": 10_000_000}),
        ("serve", {"upstream": 1, "allow": "/v1/*"}, {"upstream": 1, "allow": ("/v1/*",)}),
        ("serve", {"upstream": 1, "deny": ["/a", "/b"]}, {"upstream": 1, "deny": ("/a", "/b")}),
        ("proxy", {"listen": None, "path": None, "stun": None}, {}),
        ("proxy", {"stun": []}, {"stun": ()}),
    ],
)
def test_values_are_taken_as_a_person_writes_them(
    verb: str, given: dict[str, Any], same: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [by_way("sync", verb, [], {"room": "r", **each}, monkeypatch) for each in (given, same)]
    assert settings[0] == settings[1]


def test_a_port_is_a_number_on_the_command_line_and_in_a_magic_too() -> None:
    for way in ("command", "magic"):
        settings = by_way(way, "serve", ["11434", "--room", "r"], {}, pytest.MonkeyPatch())
        assert isinstance(settings, ServeSettings)
        assert settings.upstream == Upstream.parse("http://localhost:11434")


class Odd:
    """A value that no option takes; its repr must not be shown."""

    def __repr__(self) -> str:
        return "tulip"


@pytest.mark.parametrize(
    ("verb", "each"),
    [
        (verb, each)
        for verb, kind in {"serve": aio.ServeCall, "proxy": aio.ProxyCall}.items()
        for each in declared(kind).values()
    ],
    ids=named,
)
def test_a_value_of_a_wrong_type_is_a_setting_error_that_names_the_parameter(verb: str, each: Option) -> None:
    function = getattr(sync, verb)
    with pytest.raises(SettingError, match=rf"^{each.name} must be .*, not Odd\.") as caught:
        function(**{each.name: Odd()})
    assert caught.value.hint == each.parameter_help
    assert "tulip" not in caught.value.message


@pytest.mark.parametrize(
    ("verb", "given", "said"),
    [
        ("serve", {"expires": "soon"}, "expires: not a duration: 'soon'"),
        ("proxy", {"timeout": -1}, "timeout: "),
        ("proxy", {"timeout": float("nan")}, "timeout: "),
        ("serve", {"once": 1}, "once must be True or False, not int"),
        ("serve", {"max_requests": 2.5}, "max_requests must be a whole number, not float"),
        ("serve", {"allow": ("/a", 3)}, "allow must be a string, not int"),
        ("proxy", {"invite": 4821309}, "invite must be a string, not int"),
        ("serve", {"upstream": True}, "upstream must be a string, not bool"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_too(verb: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        getattr(sync, verb)(**given)
    assert caught.value.message.startswith(said)


@pytest.mark.parametrize(("verb", "each"), IN_FILES, ids=named)
def test_a_file_says_the_same_as_the_flag(verb: str, each: Option, tmp_path: Path) -> None:
    text, _ = sample(each)
    file = tmp_path / "file"
    file.write_text(f"{text}\n", "utf-8")
    words = words_of(beside(verb, each))
    by_flag = by_words(verb, [*words, each.flag, text])
    assert by_words(verb, [*words, f"{each.flag}-file", str(file)]) == by_flag
    assert by_words(verb, words, {f"{each.variable}_FILE": str(file)}) == by_flag


def test_options_that_are_not_given_are_the_settings_that_are_not_given() -> None:
    meeting = Meeting(room="r")
    assert ProxyOptions().settings(meeting) == ProxySettings(room="r")
    serve = ServeSettings(room="r", upstream=Upstream.parse("ollama"), seek=True)
    assert ServeOptions().settings(meeting) == serve
    assert serve.found(Upstream.parse("80")) == ServeSettings(room="r", upstream=Upstream.parse("80"))


def test_python_takes_objects_where_the_command_line_has_texts() -> None:
    invite, upstream = Invite.parse(EXAMPLE), Upstream.parse("https://gpu.example", insecure=True)
    meeting = ServeOptions(invite=invite).meeting()
    assert meeting == ProxyOptions(EXAMPLE).meeting() == Meeting.of(invite)
    assert ServeOptions(upstream).settings(meeting).upstream == upstream
    with pytest.raises(SettingError, match="cannot be combined with an Upstream") as caught:
        ServeOptions(upstream, upstream_headers=("X: x",)).settings(meeting)
    assert "upstream_headers" in caught.value.hint


def test_a_server_that_is_found_gets_the_header_fields_that_were_given() -> None:
    settings = ServeOptions(upstream_headers=("X: x",)).settings(Meeting(room="r"))
    assert settings.seek
    assert settings.found(Upstream.parse("80")).upstream.fields == ((b"X", b"x"),)


# -- signatures, help and completion

FUNCTIONS: list[tuple[Callable[..., Any], type, tuple[str, ...]]] = [
    (aio.serve, ServeOptions, ("timeout", "quiet")),
    (aio.proxy, ProxyOptions, ("timeout", "quiet")),
    (sync.serve, ServeOptions, ("timeout", "quiet", "in_loop")),
    (sync.proxy, ProxyOptions, ("timeout", "quiet", "in_loop")),
]


@pytest.mark.parametrize(("function", "kind", "more"), FUNCTIONS, ids=lambda case: getattr(case, "__name__", ""))
def test_a_function_shows_each_option_with_its_default_and_its_documentation(
    function: Callable[..., Any], kind: type, more: tuple[str, ...]
) -> None:
    parameters = inspect.signature(function).parameters
    assert set(parameters) == {*declared(kind), *more}
    assert tuple(parameters)[-len(more) :] == more
    for name, each in declared(kind).items():
        assert parameters[name].default == each.default
    first, *others = parameters.values()
    assert first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert {each.kind for each in others} == {inspect.Parameter.KEYWORD_ONLY}
    text = inspect.getdoc(function) or ""
    for name in parameters:
        assert f"\n    {name}: " in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("function", [aio.serve, sync.proxy])
def test_an_argument_that_is_not_known_is_a_type_error_of_the_function(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=rf"^{function.__name__}\(\) got an unexpected keyword argument 'bogus'"):
        function(bogus=1)
    with pytest.raises(TypeError, match=rf"^{function.__name__}\(\) too many positional"):
        function("x", "y")


@pytest.mark.parametrize(("verb", "parser"), [("serve", serve_parser()), ("proxy", proxy_parser())])
def test_help_and_completion_know_each_option(verb: str, parser: Any) -> None:
    shown = parse([verb, "--help"], {})
    assert isinstance(shown, ShowText)
    text = " ".join(shown.text.split())
    for each in declared(KINDS[verb]).values():
        assert f"{each.flag} " in text
        assert " ".join(each.flag_help.split()) in text
        assert (each.variable in text) is each.env
        assert (f"{each.flag}-file" in text) is bool(each.file)
        assert each.flag in candidates([verb, "x"], tunnels=(), peers=())
        if values := each.suggest or each.choices:
            assert candidates([verb, each.flag], tunnels=(), peers=()) == list(values)


def test_the_notebooks_completer_offers_the_parameters() -> None:
    from IPython.core.completer import provisionalcompleter
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.user_ns["serve"] = sync.serve
    text = "serve(max_"
    for jedi in (True, False):
        shell.Completer.use_jedi = jedi
        with provisionalcompleter():
            found = {each.text for each in shell.Completer.completions(text, len(text))}
        assert {"max_body=", "max_requests=", "max_requests_per_minute="} <= found


# -- what an option is


@options
class Sample:
    quick: bool = option.option("be quick", default=False, group=NETWORK)
    ports: tuple[int, ...] = option.option("ports", default=(), env=True, read=int)
    lines: tuple[str, ...] = option.option("lines", default=(), env=True, lines=True)
    wait: float = option.option("how long", default=3.0, metavar="SECONDS", env=True, read=option.seconds)
    first: str = option.option("what", python="What comes.", default="a", kw_only=False, flag="--at-first")


def test_options_come_in_the_order_of_their_groups_and_have_names_and_help() -> None:
    found = declared(Sample)
    assert list(found) == ["ports", "lines", "wait", "first", "quick"]
    assert [each.flag for each in found.values()] == ["--ports", "--lines", "--wait", "--at-first", "--quick"]
    assert found["wait"].flag_help == "how long (TUNNEL_WAIT; default: 3)"
    assert found["ports"].flag_help == "ports (TUNNEL_PORTS, separated by spaces)"
    assert found["lines"].flag_help == "lines (TUNNEL_LINES)"
    assert found["first"].flag_help == "what (default: a)"
    assert (found["first"].parameter_help, found["wait"].parameter_help) == ("What comes.", "How long.")
    assert found["quick"].is_switch and not found["wait"].is_switch


def test_a_variables_text_becomes_what_its_flag_gives() -> None:
    found = declared(Sample)
    assert found["ports"].of_variable("1 2") == [1, 2]
    assert found["lines"].of_variable("a b\nc") == ["a b", "c"]
    assert found["wait"].of_variable("2") == 2.0
    with pytest.raises(SettingError, match="TUNNEL_WAIT: not a number of seconds: 'soon'"):
        found["wait"].of_variable("soon")


def test_a_function_that_accepts_options_gets_them_as_one_value() -> None:
    @accepts(Sample)
    def function(given: Sample) -> tuple[str, bool]:
        """Do it."""
        return given.first, given.quick

    assert function("b", quick=True) == ("b", True)
    assert str(inspect.signature(function)).startswith("(first: 'str' = 'a', *, ports: 'tuple[int, ...]' = ()")
    assert (function.__doc__ or "").splitlines()[:4] == ["Do it.", "", "Parameters:", "    first: What comes."]
