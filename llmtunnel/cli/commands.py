"""Run each command: from its parsed arguments to its exit status."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from .. import descriptors
from ..config import ProxySettings, Settings
from ..errors import SettingError, TunnelError
from ..install import on_laptop
from ..invite import DEFAULT_SIGNAL, MAYBE_CUT, ROOM, Invite
from ..status import Listening, Notice, PeerConnected, Reconnecting, SignalConnected, Waiting
from ..upstream import NAMED
from ..version import __version__
from . import logs
from .console import Console
from .options import (
    BenchCommand,
    DemoCommand,
    DoctorCommand,
    InviteCommand,
    ProxyCommand,
    ServeCommand,
    SignalCommand,
    ToyCommand,
    WebCommand,
)
from .parsers import PROG, TOY_PORT, WEB
from .signals import READER_GONE, Stop, on_signals

if TYPE_CHECKING:
    from ..tunnel import Server, Tunnel
    from ..upstream import Upstream

OLLAMA: Final = "Ollama"
"""Ollama's name in `Found`."""
OLLAMA_HINT: Final = (
    "hint: anyone who has the invite can also pull, create and delete models of Ollama."
    " --policy ollama allows only inference; --policy all keeps the current behaviour and hides this hint.\n"
)

ROOM_ALONE: Final = (
    "A room without a secret is open to anyone who knows its name, for example the signal server."
    " Add --secret, or use an invite."
)
SHORT_SECRET: Final = "The secret is short enough to guess. Use a longer one, or an invite."
LONG_ENOUGH: Final = 8
"""Characters. Each guess has to ask serve, which answers one every few seconds."""
ANY_SITE: Final = (
    "--allow-origin null lets every web site use the proxy, since any page can send this origin from a sandboxed frame."
    " Open your page at http://localhost instead, or set an --api-key."
)

KEPT_LINK: Final = (
    "A browser may keep the link in its history. --once or --expires 8h limits for how long it is of use."
)
NAMES_SIGNAL: Final = "The code names this signal server. Check that its end, after the @, is complete."

LOOKING: Final = "Checking the network. A server that does not answer takes up to 15 s.\n"
PATIENCE: Final = 2.0
"""Seconds that a command may run without output."""

Work = Coroutine[Any, Any, int]
Running = ServeCommand | ProxyCommand | DoctorCommand | BenchCommand | DemoCommand | ToyCommand | WebCommand
Command = Running | InviteCommand | SignalCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class InviteShown(Notice):
    """Serve or ``llmtunnel invite`` has made an invite. No other event contains a code."""

    event: ClassVar[str] = "invite"
    code: str = field(repr=False)
    """The invite's code."""
    command: str = field(repr=False)
    """The command for the other machine."""
    link: str | None = field(default=None, repr=False)
    """The link for a browser; null without ``--web``."""

    @classmethod
    def of(cls, invite: Invite, link: str | None = None) -> InviteShown:
        """Return the notice for an invite, and the link with it."""
        return cls(code=invite.code, command=on_laptop(invite.code).run, link=link)


def execute(command: Command) -> int:
    """Run a command, and return the exit status."""
    if isinstance(command, SignalCommand):
        from signal_server.cli import main

        # Each connection leaves garbage in cycles. Looked for as rarely as during a start, it came to 70 MB.
        gc.set_threshold(700)
        return main(command.arguments, prog=f"{PROG} signal", web_folder=WEB, version=__version__)
    if isinstance(command, InviteCommand):
        return _print_invite(command)
    return _run(command)


def _run(command: Running) -> int:
    from .. import runtime

    logs.configure(command.view.log_level)
    vital = isinstance(command, DoctorCommand | BenchCommand | DemoCommand | WebCommand)
    console = Console(json=command.view.json, plain=command.view.plain, vital=vital)
    try:
        status = runtime.run(_until_stopped(_work(command, console), console))
    except TunnelError as exc:
        status = console.fail(exc)
    except BaseException:
        console.output.close()
        raise
    return console.end(status)


def _work(command: Running, console: Console) -> Work:
    match command:
        case ServeCommand():
            return _serve(command, console)
        case ProxyCommand():
            return _proxy(command, console)
        case DoctorCommand():
            return _doctor(command, console)
        case BenchCommand():
            from .bench import bench

            return bench(command.options, console)
        case DemoCommand():
            from .demo import demo

            return demo(console, stay=command.stay)
        case ToyCommand():
            return _toy(command, console)
        case WebCommand():
            from .web import web

            return web(command, console)


async def _until_stopped(work: Work, console: Console) -> int:
    stop = Stop()
    console.output.on_gone = lambda: stop.request(READER_GONE)
    console.on_lost = lambda: stop.request(1)
    console.on_quit = lambda: stop.request(0)
    with on_signals(stop):
        return await stop.run(work)


def _print_invite(command: InviteCommand) -> int:
    console, shown = Console(json=command.json, vital=True), InviteShown.of(command.invite)
    console.say(f"{shown.code}\n")
    console.record(shown)
    return console.end(0)


async def _serve(command: ServeCommand, console: Console) -> int:
    from ..tunnel import Server

    if command.new and console.saved:
        raise SettingError(
            "This cell would show a new code, and the notebook would save it.",
            hint="Use `%tunnel serve`, which keeps the code out of the notebook, or --invite-file with a code made in"
            " advance. --plain shows the code here anyway.",
        )
    name, settings = "", command.settings
    if settings.seek:
        name, upstream = await _discover(console)
        settings = settings.found(upstream)
    if not settings.exposure.policy.chosen and (name == OLLAMA or settings.upstream.port == NAMED["ollama"]):
        console.say(OLLAMA_HINT)
    _warn(settings, console)
    server = Server(settings)
    if settings.invite is not None:
        _show_invite(server, settings.invite, console, command)
    return await keep(server, console)


async def _proxy(command: ProxyCommand, console: Console) -> int:
    from ..tunnel import Proxy

    settings = command.settings
    _warn(settings, console)
    return await keep(Proxy(settings), console, then=_doubting(settings, console))


def _doubting(settings: ProxySettings, console: Console) -> Callable[[Notice], None]:
    """Return a listener that says once that the end of the code may be missing; nothing else would reveal that.

    The end of a code names the signal server.
    """
    doubts: dict[type[Notice], str] = {}
    if settings.room.startswith(ROOM):
        doubts = {Waiting: MAYBE_CUT} if settings.signal == DEFAULT_SIGNAL else {Reconnecting: NAMES_SIGNAL}

    def hear(notice: Notice) -> None:
        if text := doubts.pop(type(notice), ""):
            console.say(f"{text}\n")
        elif isinstance(notice, SignalConnected):
            doubts.pop(Reconnecting, None)
        elif isinstance(notice, PeerConnected):
            doubts.clear()

    return hear


async def _doctor(command: DoctorCommand, console: Console) -> int:
    from ..doctor.checks import diagnose
    from .doctor import json_text, text

    # On standard error, since standard output is for the table.
    told = "" if command.view.json else LOOKING
    waiting = asyncio.get_running_loop().call_later(PATIENCE, descriptors.write, sys.stderr, told)
    try:
        found = await diagnose(command.settings, upstream=command.upstream, address=command.listen, peer=command.peer)
    finally:
        waiting.cancel()
    if command.view.json:
        console.write(json_text(found))
    else:
        console.say(text(found, sys.stdout))
    return 0 if found.connects else 1


async def _toy(command: ToyCommand, console: Console) -> int:
    from ..endpoints.listen import parse_listen
    from ..endpoints.toy import Toy

    listen = parse_listen(command.listen, port=TOY_PORT)
    async with Toy(listen.host, listen.port) as toy:
        console.record(Listening(url=toy.url, addresses=toy.addresses))
        console.say(f"toy model server on {toy.url}\n  for others: {PROG} serve {toy.url}\n")
        await asyncio.Event().wait()  # until a signal cancels it
    return 0


def _warn(settings: Settings, console: Console) -> None:
    for weak in weaknesses(settings):
        console.warn(weak)


def weaknesses(settings: Settings) -> tuple[str, ...]:
    """Return the weaknesses of the secret and of the listener's rules, in a line each."""
    found = []
    if settings.secret is None:
        found.append(ROOM_ALONE)
    elif len(settings.secret) < LONG_ENOUGH:
        found.append(SHORT_SECRET)
    if isinstance(settings, ProxySettings) and settings.listener.any_site:
        found.append(ANY_SITE)
    return tuple(found)


def _show_invite(server: Server, invite: Invite, console: Console, command: ServeCommand) -> None:
    """Display the invite once, as soon as it can be used: the signal server has admitted us to its room.

    The command has a line of its own, however long it is: a terminal that wraps it still copies it whole. An invite
    that the user passed to serve is not displayed, since it may have been stored to keep it out of a notebook's output.
    """
    ends = _ends(command)

    def show(notice: Notice) -> None:
        if not isinstance(notice, SignalConnected):
            return
        unsubscribe()
        if not command.new:
            console.say(f"invite: {invite.room}, as passed to serve{ends}\n")
            if server.web_url:
                console.say(f"link for a browser: {command.settings.page}#CODE\n")
            return
        shown = InviteShown.of(invite, server.web_url)
        told = f"invite: {shown.code}\non your laptop, run{ends}:\n{shown.command}\n"
        told += f"or, with uv, if llmtunnel is not installed there:\n{on_laptop(invite.code).uvx}\n"
        if shown.link:
            told += f"or, without installing anything, open this link in a browser:\n{shown.link}\n"
            told += "" if ends else f"{KEPT_LINK}\n"
        console.record(shown)
        console.show_invite(told, shown.link or "")

    unsubscribe = server.subscribe(show)


def _ends(command: ServeCommand) -> str:
    """Return the limits of the invite as text, or an empty string."""
    settings = command.settings
    ends = ["for one proxy"] if settings.once else []
    if settings.expires is not None:
        ends.append(time.strftime("until %Y-%m-%d %H:%M", time.localtime(time.time() + settings.expires)))
    return f" ({', '.join(ends)})" if ends else ""


async def keep(tunnel: Tunnel, console: Console, *, then: Callable[[Notice], None] = lambda notice: None) -> int:
    """Run a tunnel until it ends or the task is cancelled, then close it. Reports all events meanwhile.

    ``then`` is called with each notice after it was reported.
    """

    def tell(notice: Notice) -> None:
        console.tell(notice)
        then(notice)

    unsubscribe = tunnel.subscribe(tell)
    try:
        with console.watching(tunnel):
            await tunnel.start()
            await tunnel.wait_stopped()
        return 0
    finally:
        await tunnel.aclose()
        unsubscribe()


async def _discover(console: Console) -> tuple[str, Upstream]:
    """Return the kind of the server that was found on this machine, and its upstream."""
    from ..endpoints.discovery import choose, discover

    found = await discover()
    upstream = choose(found)
    console.say(f"upstream: {found[0]}\n")
    return found[0].name, upstream
