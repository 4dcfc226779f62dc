"""Arguments and environment to settings: pure, and without an exit, so that notebook magics parse with the same words.

A flag wins over the environment, which wins over the default. What cannot be used raises `SettingError`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ..config import (
    DEFAULT_LISTEN,
    DEFAULT_SIGNAL,
    DEFAULT_STUN,
    Exposure,
    IceServers,
    ProxySettings,
    ServeSettings,
    Settings,
    Timeouts,
    from_env,
)
from ..errors import SettingError
from ..invite import Invite
from ..listener import ListenerPolicy
from ..meeting import Meeting, no_invite
from ..paths import AUTO
from ..platforms import stored_invite
from ..policy import Policy
from ..upstream import Upstream, parse_header
from ..version import __version__
from .meeting import read_meeting
from .parsers import (
    DEFAULT_LEVEL,
    LEVELS,
    OVERVIEW,
    PROG,
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
    """``llmtunnel serve``: all but the upstream, which may have to be looked for."""

    view: View
    upstream: Upstream | None
    """None: take what discovery finds, with `fields`."""
    fields: tuple[tuple[bytes, bytes], ...] = field(repr=False)
    common: Settings
    invite: Invite | None
    """Where room and secret are from one."""
    new: bool
    """The invite is a new one, to be shown."""
    expires: float | None
    once: bool
    advertise: str
    exposure: Exposure

    def settings(self, upstream: Upstream) -> ServeSettings:
        """What the tunnel needs."""
        common = self.common
        return ServeSettings(
            room=common.room,
            secret=common.secret,
            signal=common.signal,
            ice=common.ice,
            resume_for=common.resume_for,
            path=common.path,
            invite=self.invite,
            expires=self.expires,
            once=self.once,
            upstream=upstream,
            advertise=self.advertise,
            exposure=self.exposure,
        )


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
    values = _Values(given, environ)
    headers = _header_lines(values)
    meeting, new = _serve_meeting(values, environ)
    return ServeCommand(
        view=_view(values),
        common=Settings(
            room=meeting.room,
            secret=meeting.secret,
            signal=meeting.signal,
            ice=_ice(values),
            resume_for=given.resume_for,
            path=values.text("path") or AUTO,
        ),
        invite=meeting.invite,
        new=new,
        expires=given.expires,
        once=given.once,
        advertise=given.advertise,
        exposure=_exposure(given),
        fields=tuple(map(parse_header, headers)),
        upstream=_upstream(values, headers),
    )


def _proxy(argv: Sequence[str], environ: Mapping[str, str] | None) -> Parsed:
    parser = proxy_parser()
    given = parser.read(argv)
    if given.help:
        return ShowText(text=parser.format_help())
    values = _Values(given, environ)
    given.code = " ".join(given.code) or None
    meeting = read_meeting(given, values.environ)
    if meeting is None:
        raise no_invite()
    return ProxyCommand(
        view=_view(values),
        settings=ProxySettings(
            room=meeting.room,
            secret=meeting.secret,
            signal=meeting.signal,
            ice=_ice(values),
            resume_for=given.resume_for,
            path=values.text("path") or AUTO,
            timeouts=Timeouts(wait_for_peer=given.wait_for_peer),
            listen=values.text("listen") or DEFAULT_LISTEN,
            keepalive=given.keepalive,
            listener=ListenerPolicy(
                allow_hosts=tuple(given.allow_host or ()),
                allow_origins=tuple(given.allow_origin or ()),
                api_key=_api_key(values),
                no_auth=given.no_auth,
            ),
        ),
    )


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
    given.code = " ".join(given.code) or None
    meeting = read_meeting(given, values.environ) or Meeting.made(values.text("signal"))
    address = values.text("upstream")
    return DoctorCommand(
        view=_view(values),
        settings=Settings(room=meeting.room, signal=meeting.signal, ice=_ice(values)),
        upstream=Upstream.parse(address) if address else None,
        listen=values.text("listen") or DEFAULT_LISTEN,
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


def _serve_meeting(values: _Values, environ: Mapping[str, str] | None) -> tuple[Meeting, bool]:
    """What was given, or what the platform keeps for its user, or else a new invite; and whether it is new."""
    if meeting := read_meeting(values.given, values.environ):
        return meeting, False
    if stored := stored_invite(environ):
        return Meeting.of(Invite.parse(stored), signal=values.given.signal), False
    return Meeting.made(values.text("signal")), True


def _api_key(values: _Values) -> str | None:
    """A flag wins over the environment here too, ``--no-auth`` as well."""
    given = values.given
    if given.api_key is not None and given.api_key_file is not None:
        raise SettingError("--api-key and --api-key-file contradict each other.", hint="Leave one of them out.")
    if given.no_auth and given.api_key is None and given.api_key_file is None:
        return None
    key = values.text("api_key") if given.api_key_file is None else None
    path = values.text("api_key_file")
    return _key_in(path) if key is None and path is not None else key


def _key_in(path: str) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except (OSError, ValueError) as exc:
        raise SettingError(f"The key file {path!r} cannot be read: {exc}.", hint="Check --api-key-file.") from exc


def _ice(values: _Values) -> IceServers:
    stun: list[str] = values.given.stun or [DEFAULT_STUN]
    if "none" in stun:
        if len(stun) > 1:
            raise SettingError("--stun none and another --stun contradict each other.", hint="Leave one out.")
        stun = []
    return IceServers(
        stun=tuple(stun),
        turn=tuple(values.given.turn or values.environ.get("turn", "").split()),
        turn_user=values.text("turn_user"),
        turn_pass=values.text("turn_pass"),
    )


def _upstream(values: _Values, headers: list[str]) -> Upstream | None:
    given = values.given
    if given.service is not None and given.upstream is not None:
        raise SettingError("UPSTREAM and --upstream are the same.", hint="Leave one of them out.")
    address = given.service or values.text("upstream")
    if not address:
        return None
    return Upstream.parse(address, ca_file=given.upstream_ca, insecure=given.upstream_insecure, headers=headers)


def _exposure(given: argparse.Namespace) -> Exposure:
    return Exposure(
        policy=Policy.parse(ready=given.policy, allow=given.allow, deny=given.deny),
        max_requests=given.max_requests,
        max_requests_per_minute=given.max_requests_per_minute,
        max_body=given.max_body,
        on_disconnect=given.on_disconnect,
    )


def _header_lines(values: _Values) -> list[str]:
    given: list[str] | None = values.given.upstream_header
    if given is None:
        given = (values.text("upstream_header") or "").splitlines()
    return [line for entry in given for line in _expand(entry)]


def _expand(entry: str) -> list[str]:
    """A header line, or what stands in the file that ``@FILE`` names."""
    if not entry.startswith("@"):
        return [entry]
    try:
        lines = Path(entry[1:]).read_text("utf-8").splitlines()
    except (OSError, ValueError) as exc:
        raise SettingError(
            f"The header file {entry[1:]!r} cannot be read: {exc}.", hint="Check --upstream-header."
        ) from exc
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _view(values: _Values) -> View:
    verbose: int = values.given.verbose
    if values.given.log_level is None and verbose:
        level = LEVELS[min(LEVELS.index(DEFAULT_LEVEL) + verbose, len(LEVELS) - 1)]
    else:
        level = (values.text("log_level") or DEFAULT_LEVEL).lower()
    level = "warning" if level == "warn" else level
    if level not in LEVELS:
        raise SettingError(f"{level!r} is not a log level.", hint=f"It is one of {', '.join(LEVELS)}.")
    return View(json=values.given.json, plain=getattr(values.given, "plain", False), log_level=level)
