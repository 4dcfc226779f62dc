"""Turn arguments and environment into settings. Pure, and without an exit, so that the notebook magics can use it too.

A flag takes precedence over the environment, and the environment over the default. Invalid values raise `SettingError`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from ..config import (
    BenchOptions,
    ProxyOptions,
    ProxySettings,
    ReachOptions,
    ServeOptions,
    ServeSettings,
    Settings,
    from_env,
)
from ..errors import SettingError
from ..given import CODE, chosen
from ..invite import DEFAULT_SIGNAL, Invite
from ..meeting import Meeting, no_invite
from ..option import declared
from ..upstream import Upstream
from ..version import __version__
from .meeting import read_line
from .parsers import (
    DEFAULT_LEVEL,
    LEVELS,
    OVERVIEW,
    PROG,
    DoctorOptions,
    bench_parser,
    demo_parser,
    did_you_mean,
    doctor_parser,
    invite_parser,
    proxy_parser,
    serve_parser,
    toy_parser,
    web_parser,
)

Options = TypeVar("Options", bound=ReachOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a command reports what happens."""

    json: bool = False
    plain: bool = False
    """Print lines on a terminal too, instead of the view."""
    log_level: str = DEFAULT_LEVEL
    """One of `LEVELS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowText:
    """Print a text (help, or the version) and exit."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeCommand:
    """``llmtunnel serve``."""

    view: View
    settings: ServeSettings
    """With ``seek``, serve still has to find the upstream: see `ServeSettings.found`."""
    new: bool
    """Whether the invite is new, so that serve displays it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyCommand:
    """``llmtunnel proxy``."""

    view: View
    settings: ProxySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class InviteCommand:
    """``llmtunnel invite``: make a code in advance."""

    invite: Invite
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalCommand:
    """``llmtunnel signal``: the signal server is independent, and parses its own arguments."""

    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoCommand:
    """``llmtunnel demo``."""

    view: View
    stay: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyCommand:
    """``llmtunnel toy``."""

    view: View
    listen: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WebCommand:
    """``llmtunnel web``."""

    view: View
    listen: str
    export: str | None = None
    """The folder to write the page to, instead of serving it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorCommand:
    """``llmtunnel doctor``."""

    view: View
    settings: Settings
    upstream: Upstream | None
    listen: str
    peer: bool
    """Whether a code or a room was given, so that doctor checks for serve in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCommand:
    """``llmtunnel bench``."""

    view: View
    options: BenchOptions


Parsed = (
    ShowText
    | ServeCommand
    | ProxyCommand
    | InviteCommand
    | SignalCommand
    | DoctorCommand
    | BenchCommand
    | DemoCommand
    | ToyCommand
    | WebCommand
)


def parse(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Parsed:
    """Return the command that the arguments ask for. Raises `SettingError`."""
    if not argv:
        raise SettingError("No command was given.", hint=f"\n{OVERVIEW}")
    name, rest = argv[0], argv[1:]
    if name == "help" and rest and rest[0] in _COMMANDS:
        return _COMMANDS[rest[0]](["--help"], environ)
    if name in ("-h", "--help", "help"):
        return ShowText(text=OVERVIEW)
    if name in ("-V", "--version", "version"):
        return ShowText(text=f"{PROG} {__version__}\n")
    if any(char.isdecimal() or char.isspace() for char in name):  # a code, or a quoted command: not to be repeated
        raise SettingError("No command was given.", hint=f"To use a code: {PROG} proxy CODE")
    if name not in _COMMANDS:
        what = "option" if name.startswith("-") else "command"
        meant = did_you_mean(name, (*_COMMANDS, "--help", "--version"))
        raise SettingError(
            f"Unknown {what} {name!r}.", hint=f"{meant}\nCommands: {', '.join(_COMMANDS)}. Help: {PROG} --help".strip()
        )
    return _COMMANDS[name](rest, environ)


def _serve(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = serve_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    if given.service is not None and given.upstream is not None:
        raise SettingError("UPSTREAM and --upstream are the same.", hint="Use only one of them.")
    given.upstream = given.service or given.upstream
    options = _options(ServeOptions, given, environ)
    meeting = options.meeting()
    settings = options.settings(meeting or Meeting.made(options.signal))
    return ServeCommand(view=_view(given, environ), settings=settings, new=meeting is None)


def _proxy(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = proxy_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    options = _options(ProxyOptions, given, environ)
    meeting = options.meeting()
    if meeting is None:
        raise no_invite()
    return ProxyCommand(view=_view(given, environ), settings=options.settings(meeting))


def _demo(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = demo_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    return DemoCommand(view=_view(given, environ), stay=given.stay)


def _toy(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = toy_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    return ToyCommand(view=_view(given, environ), listen=given.listen)


def _web(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = web_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    if given.export == "":  # Path would read it as the current folder
        raise SettingError("--export: no folder was named.", hint="Use for example --export public.")
    return WebCommand(view=_view(given, environ), listen=given.listen, export=given.export)


def _doctor(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = doctor_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    options = _options(DoctorOptions, given, environ)
    given_meeting = options.meeting()
    meeting = given_meeting or Meeting.made(options.signal)
    return DoctorCommand(
        view=_view(given, environ),
        settings=Settings(
            room=meeting.room,
            secret=meeting.secret,
            signal=meeting.signal,
            signal_token=options.signal_token,
            ice=options.ice,
            no_signal_ice=options.no_signal_ice,
        ),
        upstream=None if options.upstream is None else Upstream.parse(options.upstream),
        listen=options.listen,
        peer=given_meeting is not None,
    )


def _bench(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = bench_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    options = _options(BenchOptions, given, environ)
    options.check()
    options.meeting()
    return BenchCommand(view=_view(given, environ), options=options)


def _invite(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = invite_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    signal = given.signal or from_env(environ).get("signal", DEFAULT_SIGNAL)
    return InviteCommand(invite=Invite.generate(signal), json=given.json)


def _signal(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    return SignalCommand(arguments=tuple(argv))


_COMMANDS: Final[Mapping[str, Callable[[Sequence[str], Mapping[str, str] | None], Parsed]]] = {
    "serve": _serve,
    "proxy": _proxy,
    "invite": _invite,
    "signal": _signal,
    "web": _web,
    "doctor": _doctor,
    "bench": _bench,
    "demo": _demo,
    "toy": _toy,
}


def _options(kind: type[Options], given: argparse.Namespace, environ: Mapping[str, str] | None) -> Options:
    """Return the options from flags and environment. Raises `SettingError`."""
    words = getattr(given, CODE, None)
    flags = vars(given) | ({CODE: " ".join(words) or None} if words is not None else {})
    for name, each in declared(kind).items():
        if each.empty and each.empty in (flags[name] or ()):
            if len(flags[name]) > 1:
                raise SettingError(
                    f"{each.flag} {each.empty} and another {each.flag} contradict each other.",
                    hint="Use only one of them.",
                )
            flags[name] = ()
    return chosen(kind, flags, environ, spelled=_spelled, read_line=read_line)


def _spelled(name: str) -> str:
    return "The code" if name == CODE else f"--{name.replace('_', '-')}"


def _view(given: argparse.Namespace, environ: Mapping[str, str] | None) -> View:
    verbose: int = given.verbose
    if given.log_level is None and verbose:
        level = LEVELS[min(LEVELS.index(DEFAULT_LEVEL) + verbose, len(LEVELS) - 1)]
    else:
        level = (given.log_level or from_env(environ).get("log_level", DEFAULT_LEVEL)).lower()
    level = "warning" if level == "warn" else level
    if level not in LEVELS:
        raise SettingError(f"--log-level: unknown value {level!r}.", hint=f"Use one of {', '.join(LEVELS)}.")
    return View(json=given.json, plain=getattr(given, "plain", False), log_level=level)
