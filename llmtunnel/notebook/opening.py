"""Turn the words after ``%tunnel serve`` or ``%tunnel proxy`` into settings. Nothing is started here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from .. import runtime
from ..cli import logs
from ..cli.commands import OLLAMA, OLLAMA_HINT, weaknesses
from ..cli.options import ProxyCommand, ServeCommand, ShowText, View, parse
from ..cli.parsers import DEFAULT_LEVEL
from ..config import ProxySettings, ServeSettings
from ..endpoints.discovery import NOT_FOUND_YET, Found, choose, discover
from ..errors import SettingError
from ..invite import Invite
from ..upstream import NAMED

LATER: Final = f"{NOT_FOUND_YET} Until one answers, requests get 502."


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A tunnel to start, and remarks to print before."""

    settings: ServeSettings | ProxySettings
    remarks: tuple[str, ...] = ()


def plan(words: list[str], *, kept: Invite | None) -> Plan | ShowText:
    """Parse the words as the command line does, and look for the upstream, which may take a moment.

    ``kept`` is the invite of the tunnel that this one replaces. It is used unless the words contain another one.
    Raises `SettingError`.
    """
    command = parse(words)
    match command:
        case ServeCommand():
            _apply(command.view)
            return _serve(command, kept)
        case ProxyCommand():
            _apply(command.view)
            return Plan(settings=command.settings, remarks=_remarks(command.settings))
        case ShowText():
            return command
        case _:
            raise SettingError(f"Unknown command: %tunnel {words[0]}.", hint="%tunnel help lists the commands.")


def _apply(view: View) -> None:
    if view.json:
        raise SettingError("--json does not work in a notebook.", hint="Remove it, and use the handle's `status`.")
    if view.log_level != DEFAULT_LEVEL:
        logs.configure(view.log_level)


def _serve(command: ServeCommand, kept: Invite | None) -> Plan:
    settings = command.settings
    if command.new and kept is not None and settings.invite is not None and kept.signal == settings.invite.signal:
        settings = replace(settings, invite=kept, room=kept.room, secret=kept.secret)
    found = _look() if settings.seek else []
    if found:
        settings = settings.found(choose(found))
    return Plan(settings=settings, remarks=(*_found(settings, found), *_remarks(settings)))


def _look() -> list[Found]:
    """Return the model servers on this machine. Runs on our own loop, since this thread's loop may be running."""
    hold = runtime.shared.hold()
    try:
        return hold.call(discover())
    finally:
        hold.close()


def _found(settings: ServeSettings, found: list[Found]) -> tuple[str, ...]:
    if settings.seek:
        return (LATER,)
    remarks = tuple(f"upstream: {server}" for server in found)
    ollama = settings.upstream.port == NAMED["ollama"] or any(server.name == OLLAMA for server in found)
    return (*remarks, OLLAMA_HINT.strip()) if ollama and not settings.exposure.policy.chosen else remarks


def _remarks(settings: ServeSettings | ProxySettings) -> tuple[str, ...]:
    return tuple(f"warning: {weak}" for weak in weaknesses(settings))
