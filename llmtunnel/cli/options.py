"""Arguments and environment to settings: pure, and without an exit, so that notebook magics parse with the same words.

A flag wins over the environment, which wins over the default. What cannot be used raises `SettingError`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..config import (
    ProxyOptions,
    ProxySettings,
    ReachOptions,
    ServeOptions,
    ServeSettings,
    Settings,
    from_env,
)
from ..errors import SettingError
from ..invite import DEFAULT_SIGNAL, Invite
from ..meeting import Meeting, no_invite
from ..option import Option, declared
from ..platforms import stored_invite
from ..upstream import Upstream
from ..version import __version__
from .meeting import read_file, read_meeting
from .parsers import (
    DEFAULT_LEVEL,
    LEVELS,
    OVERVIEW,
    PROG,
    DoctorOptions,
    demo_parser,
    did_you_mean,
    doctor_parser,
    invite_parser,
    proxy_parser,
    serve_parser,
    toy_parser,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a command tells what happens."""

    json: bool = False
    plain: bool = False
    """Lines on a terminal, too."""
    log_level: str = DEFAULT_LEVEL
    """One of `LEVELS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShowText:
    """Print a text and be done: help, or the version."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeCommand:
    """``llmtunnel serve``."""

    view: View
    settings: ServeSettings
    """With ``seek``, the upstream has yet to be found: see `ServeSettings.found`."""
    new: bool
    """The invite is a new one, to be shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyCommand:
    """``llmtunnel proxy``."""

    view: View
    settings: ProxySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class InviteCommand:
    """``llmtunnel invite``: make a code ahead."""

    invite: Invite
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalCommand:
    """``llmtunnel signal``: the signal server, which stands alone, reads its own arguments."""

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
class DoctorCommand:
    """``llmtunnel doctor``."""

    view: View
    settings: Settings
    upstream: Upstream | None
    listen: str


Parsed = (
    ShowText | ServeCommand | ProxyCommand | InviteCommand | SignalCommand | DoctorCommand | DemoCommand | ToyCommand
)


def parse(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Parsed:
    """The command that the arguments ask for. Raises `SettingError`."""
    if not argv:
        raise SettingError("No command was given.", hint=f"\n{OVERVIEW}")
    name, rest = argv[0], argv[1:]
    if name in ("-h", "--help", "help"):
        return ShowText(text=OVERVIEW)
    if name in ("-V", "--version"):
        return ShowText(text=f"{PROG} {__version__}\n")
    if any(char.isdecimal() or char.isspace() for char in name):  # a code, or a command in quotes: not to be repeated
        raise SettingError("No command was given.", hint=f"With the code of an invite: {PROG} proxy CODE")
    if name not in _COMMANDS:
        raise SettingError(
            f"There is no command {name!r}.",
            hint=f"{did_you_mean(name, _COMMANDS)}\nusage: {PROG} {{{','.join(_COMMANDS)}}} [options]",
        )
    return _COMMANDS[name](rest, environ)


def _serve(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = serve_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    if given.service is not None and given.upstream is not None:
        raise SettingError("UPSTREAM and --upstream are the same.", hint="Leave one of them out.")
    given.upstream = given.service or given.upstream
    values = _Values(given, environ)
    chosen = ServeOptions(**values.of(ServeOptions))
    meeting, new = _serve_meeting(chosen, values, environ)
    return ServeCommand(view=_view(values), settings=chosen.settings(meeting), new=new)


def _proxy(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = proxy_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    values = _Values(given, environ)
    if given.no_auth:  # a flag, so it wins over a key of the environment
        values.environ = {name: text for name, text in values.environ.items() if not name.startswith("api_key")}
    chosen = ProxyOptions(**values.of(ProxyOptions))
    meeting = chosen.meeting()
    if meeting is None:
        raise no_invite()
    return ProxyCommand(view=_view(values), settings=chosen.settings(meeting))


def _demo(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = demo_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    return DemoCommand(view=_view(_Values(given, environ)), stay=given.stay)


def _toy(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = toy_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    return ToyCommand(view=_view(_Values(given, environ)), listen=given.listen)


def _doctor(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = doctor_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    values = _Values(given, environ)
    chosen = DoctorOptions(**values.of(DoctorOptions))
    meeting = chosen.meeting() or Meeting.made(values.text("signal"))
    return DoctorCommand(
        view=_view(values),
        settings=Settings(room=meeting.room, signal=meeting.signal, ice=chosen.ice),
        upstream=None if chosen.upstream is None else Upstream.parse(chosen.upstream),
        listen=chosen.listen,
    )


def _invite(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = invite_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    signal = _Values(given, environ).text("signal") or DEFAULT_SIGNAL
    return InviteCommand(invite=Invite.generate(signal), json=given.json)


def _signal(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    return SignalCommand(arguments=tuple(argv))


_COMMANDS: Final[Mapping[str, Callable[[Sequence[str], Mapping[str, str] | None], Parsed]]] = {
    "serve": _serve,
    "proxy": _proxy,
    "invite": _invite,
    "signal": _signal,
    "doctor": _doctor,
    "demo": _demo,
    "toy": _toy,
}


class _Values:
    """What was given, as a flag or else by the environment."""

    def __init__(self, given: argparse.Namespace, environ: Mapping[str, str] | None) -> None:
        self.given = given
        self.environ = from_env(environ)
        """By flag name."""

    def text(self, name: str) -> str | None:
        """One value; None where neither gives it."""
        flag: str | None = getattr(self.given, name)
        return self.environ.get(name) if flag is None else flag

    def of(self, kind: type[ReachOptions]) -> dict[str, Any]:
        """The options that are given, by name, for this class of them. Raises `SettingError`."""
        if isinstance(getattr(self.given, "code", None), list):
            self.given.code = " ".join(self.given.code) or None
        meeting = read_meeting(self.given, self.environ)
        found = {name: self._value(each) for name, each in declared(kind).items() if name not in meeting}
        return {name: value for name, value in (meeting | found).items() if value is not None}

    def _value(self, each: Option) -> object:
        value: object = getattr(self.given, each.name)
        if each.file:
            return self._key(each)
        if value is None and each.env and each.key in self.environ:
            value = each.of_variable(self.environ[each.key])
        if not isinstance(value, list):
            return value
        if each.lines:
            value = [line for entry in value for line in _expand(entry, each.flag)]
        if each.empty and each.empty in value:
            if len(value) > 1:
                raise SettingError(
                    f"{each.flag} {each.empty} and another {each.flag} contradict each other.", hint="Leave one out."
                )
            return ()
        return tuple(value)

    def _key(self, each: Option) -> str | None:
        """A text, or what the file has that is named instead of it."""
        text, path = getattr(self.given, each.name), getattr(self.given, f"{each.name}_file")
        if text is not None and path is not None:
            raise SettingError(
                f"{each.flag} and {each.flag}-file contradict each other.", hint="Leave one of them out."
            )
        if text is None and path is None:
            text, path = self.environ.get(each.key), self.environ.get(f"{each.key}_file")
        return read_file(path, f"{each.flag}-file", what="key file") if text is None and path is not None else text


def _serve_meeting(chosen: ServeOptions, values: _Values, environ: Mapping[str, str] | None) -> tuple[Meeting, bool]:
    """What was given, or what the platform keeps for its user, or else a new invite; and whether it is new."""
    if meeting := chosen.meeting():
        return meeting, False
    if stored := stored_invite(environ):
        return Meeting.of(Invite.parse(stored), signal=chosen.signal), False
    return Meeting.made(values.text("signal")), True


def _expand(entry: str, flag: str) -> list[str]:
    """A header line, or what stands in the file that ``@FILE`` names."""
    if not entry.startswith("@"):
        return [entry]
    lines = read_file(entry[1:], flag, what="header file", limit=None).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _view(values: _Values) -> View:
    verbose: int = values.given.verbose
    if values.given.log_level is None and verbose:
        level = LEVELS[min(LEVELS.index(DEFAULT_LEVEL) + verbose, len(LEVELS) - 1)]
    else:
        level = (values.text("log_level") or DEFAULT_LEVEL).lower()
    level = "warning" if level == "warn" else level
    if level not in LEVELS:
        raise SettingError(f"--log-level: unknown value {level!r}.", hint=f"Use one of {', '.join(LEVELS)}.")
    return View(json=values.given.json, plain=getattr(values.given, "plain", False), log_level=level)
