"""What each command does, from its arguments to its exit status."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ..errors import TunnelError
from ..upstream import NAMED
from . import logs
from .console import Console
from .options import DemoCommand, ProxyCommand, ServeCommand, SignalCommand
from .parsers import PROG
from .signals import READER_GONE, Stop, on_signals

if TYPE_CHECKING:
    from ..aio import Tunnel
    from ..upstream import Upstream

OLLAMA: Final = "Ollama"
"""Its name in `Found`."""
OLLAMA_HINT: Final = (
    "hint: with Ollama, whoever is in the room may pull, create and delete models too;"
    " --policy ollama lets inference through alone (--policy all: as now, without this line)\n"
)

Work = Coroutine[Any, Any, int]
Command = ServeCommand | ProxyCommand | DemoCommand | SignalCommand


def execute(command: Command) -> int:
    """Run a command, and return the exit status."""
    if isinstance(command, SignalCommand):
        from signal_server.cli import main

        return main(command.arguments, prog=f"{PROG} signal")
    return _run(command)


def _run(command: ServeCommand | ProxyCommand | DemoCommand) -> int:
    from .. import runtime

    logs.configure(command.view.log_level)
    console = Console(json=command.view.json)
    try:
        return runtime.run(_until_stopped(_work(command, console), console))
    except TunnelError as exc:
        return console.fail(exc)
    finally:
        console.output.close()


def _work(command: ServeCommand | ProxyCommand | DemoCommand, console: Console) -> Work:
    match command:
        case ServeCommand():
            return _serve(command, console)
        case ProxyCommand():
            return _proxy(command, console)
        case DemoCommand():
            from .demo import demo

            return demo(console, stay=command.stay)


async def _until_stopped(work: Work, console: Console) -> int:
    stop = Stop()
    console.output.on_gone = lambda: stop.request(READER_GONE)
    with on_signals(stop):
        return await stop.run(work)


async def _serve(command: ServeCommand, console: Console) -> int:
    from .. import aio

    if command.upstream is None:
        name, found = await _discover(console)
        upstream = replace(found, fields=command.fields)
    else:
        name, upstream = "", command.upstream
    if not command.exposure.policy.chosen and (name == OLLAMA or upstream.port == NAMED["ollama"]):
        console.say(OLLAMA_HINT)
    return await keep(aio.Server(command.settings(upstream)), console)


async def _proxy(command: ProxyCommand, console: Console) -> int:
    from .. import aio

    return await keep(aio.Proxy(command.settings), console)


async def keep(tunnel: Tunnel, console: Console) -> int:
    """Run a tunnel until it ends or the task is cancelled, then close it; tells what happens meanwhile."""
    unsubscribe = tunnel.subscribe(console.tell)
    try:
        await tunnel.start()
        await tunnel.wait_stopped()
        return 0
    finally:
        await tunnel.aclose()
        unsubscribe()


async def _discover(console: Console) -> tuple[str, Upstream]:
    """What is found on this machine: which kind of server, and where."""
    from ..endpoints.discovery import choose, discover

    found = await discover()
    upstream = choose(found)
    console.say(f"upstream: {found[0]}\n")
    return found[0].name, upstream
