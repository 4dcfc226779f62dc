"""``%tunnel`` and ``%%tunnel``: the commands in a notebook. They return at once, and the panel shows what happens.

A mistake raises IPython's `UsageError`: one line without a traceback, and the cell counts as failed.

``%%tunnel serve`` at the top of a cell equals ``%tunnel serve`` in its first line: an input transformer replaces it. So
the rest of the cell runs as usual, with its ``await``, its errors and its last value.
"""

from __future__ import annotations

import getpass
import json
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from IPython.core.error import StdinNotImplementedError, UsageError
from IPython.display import display as show

from .. import opened, sync
from ..aio import WAIT
from ..cli import doctor
from ..cli.commands import InviteShown
from ..cli.options import BenchCommand, DoctorCommand, ShowText, parse
from ..cli.parsers import did_you_mean
from ..errors import SettingError, TunnelError
from ..install import on_laptop
from . import completer, display, tables
from .completion import ALL, NAME, VERBS, candidates
from .opening import plan
from .registry import AnyHandle, Registry, invite_of

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ..aio import Tunnel

HELP: Final = """\
Use an HTTP service of one machine on another one, through a peer-to-peer channel.

  %tunnel serve [UPSTREAM] [--name NAME] ...   share a model server of this machine: finds it, makes an invite
  %tunnel proxy CODE [--name NAME] ...         use what somebody serves; with - as CODE, prompts for the code
  %tunnel status [NAME]                        show the state
  %tunnel invite [NAME] [--plain]              show the code for a moment, without saving it in the notebook
  %tunnel peers [NAME|all]                     list the connected peers
  %tunnel kick PEER                            disconnect and block a peer; with the code, its user can reconnect
  %tunnel reconnect [NAME]                     drop all connections, and connect again
  %tunnel stop [NAME|all]                      stop a tunnel; all includes those of llmtunnel.serve and .proxy
  %tunnel doctor [CODE] ...                    check whether a tunnel will connect from here, and if not, why
  %tunnel bench [CODE] ...                     measure a tunnel; without a code, both sides on this machine

  %%tunnel serve ...     at the top of a cell: start the tunnel, then run the cell, such as a model server

serve and proxy accept the flags of the command line: %tunnel serve --help lists them. NAME is serve or proxy, unless
you choose another one. A new tunnel replaces the one of the same name, and keeps its invite.
"""
_UNDONE_BY: Final = "_llmtunnel_undo"
_WORD: Final = re.compile(r"""(?:[^\s'"\\]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")+""")
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_OVER_A_CELL: Final = re.compile(r"%%tunnel[ \t]+(?:serve|proxy)\b")
_HIDDEN: Final = "\n\nPress Enter to hide it. "


def load(shell: InteractiveShell) -> None:
    """Register the magics, and replace those of an earlier load."""
    unload(shell)
    # Python hides this warning by default. In a notebook, it means that a rerun cell left a second tunnel open.
    warnings.filterwarnings("always", "unclosed llmtunnel", ResourceWarning)
    magics = Magics(shell)
    register = shell.magics_manager.register_function
    register(magics.line, "line", "tunnel")
    register(magics.cell, "cell", "tunnel")
    transform = _over_a_cell  # kept in a variable, since after a reload the name refers to another function
    shell.input_transformers_cleanup.append(transform)
    incomplete = completer.install(shell, magics.candidates)

    def undo() -> None:
        incomplete()
        shell.input_transformers_cleanup.remove(transform)
        for kind in ("line", "cell"):
            shell.magics_manager.magics[kind].pop("tunnel", None)

    vars(shell)[_UNDONE_BY] = undo


def unload(shell: InteractiveShell) -> None:
    """Remove the magics. Tunnels keep running, and ``%load_ext llmtunnel`` finds them again."""
    if undo := vars(shell).pop(_UNDONE_BY, None):
        undo()


def _over_a_cell(lines: list[str]) -> list[str]:
    if lines and _OVER_A_CELL.match(lines[0]):
        return [lines[0].removeprefix("%"), *lines[1:]]
    return lines


class Magics:
    """The magics of one IPython shell."""

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._tunnels = Registry(shell)
        self._verbs: Mapping[str, Callable[[list[str]], None]] = {
            "serve": lambda words: self._open("serve", words),
            "proxy": lambda words: self._open("proxy", words),
            "status": self._status,
            "invite": self._invite,
            "peers": self._peers,
            "kick": self._kick,
            "stop": self._stop,
            "reconnect": self._reconnect,
            "doctor": self._doctor,
            "bench": self._bench,
            "help": lambda words: _say(HELP),
        }
        assert tuple(self._verbs) == VERBS

    def line(self, line: str) -> None:
        """Run ``%tunnel``. `HELP` replaces this docstring."""
        try:
            verb, *words = _split(line) or ["help"]
            if verb in ("-h", "--help"):
                verb = "help"
            if verb not in self._verbs:
                raise _no_verb(verb)
            self._verbs[verb](words)
        except TunnelError as exc:
            raise UsageError(_one_line(exc)) from None

    def cell(self, line: str, cell: str) -> None:
        """Run ``%%tunnel``. Only called if `_over_a_cell` did not recognise the line."""
        raise UsageError("%%tunnel must be the cell's first line, as %%tunnel serve or %%tunnel proxy.")

    def candidates(self, words: list[str]) -> list[str]:
        """Return completions for the word after these ones."""
        peers = [peer.peer for _, handle in self._tunnels for peer in handle.status.peers]
        return candidates(words, tunnels=self._tunnels.names, peers=peers)

    # -- opening

    def _open(self, verb: str, words: list[str]) -> None:
        name, words = _take_name(words, default=verb)
        before = self._tunnels.running(name)
        kept = None if before is None else invite_of(before)
        made = plan([verb, *self._asked(words)], kept=kept)
        if isinstance(made, ShowText):
            _say(f"{made.text}\n{NAME} NAME: %tunnel's name for it (default: {verb}); replaces one of that name\n")
            return
        self._tunnels.stop(name)
        if before is not None:
            _say(f"{name}: the earlier tunnel of this name was stopped and replaced\n")
        for remark in made.remarks:
            _say(f"{remark}\n")
        handle = sync.start(made.settings)
        self._tunnels.put(name, handle)
        self._show(name, handle)

    def _asked(self, words: list[str]) -> list[str]:
        """Replace ``-`` with what the user types at a prompt, since a notebook is saved with the text of its cells."""
        try:
            return [getpass.getpass("code or secret: ") if word == "-" else word for word in words]
        except StdinNotImplementedError:
            raise SettingError(
                "'-' prompts for the code, but this notebook cannot prompt.", hint="Set TUNNEL_INVITE instead."
            ) from None

    # -- looking

    def _status(self, words: list[str]) -> None:
        named = _only_name(words)
        if named is not None or not self._tunnels.names:
            self._show(*self._tunnels.chosen(named))
            return
        for name, handle in self._tunnels:
            self._show(name, handle)

    def _show(self, name: str, handle: AnyHandle) -> None:
        """Show the panel, or a line if there is none. With several tunnels, say which one the panel belongs to."""
        if not self._in_kernel:
            _say(tables.summary(name, handle.status))
            return
        if len(self._tunnels.names) > 1:
            _say(f"{name}:\n")
        display.show(handle)

    def _peers(self, words: list[str]) -> None:
        named = _only_name(words)
        if named != ALL:
            _, handle = self._tunnels.chosen(named, or_all=True)
            _say(tables.peers(handle.status))
            return
        for name, handle in self._tunnels:
            _say(f"{name}:\n{tables.peers(handle.status)}")

    def _invite(self, words: list[str]) -> None:
        plain = "--plain" in words
        named = _only_name([word for word in words if word != "--plain"])
        serving = [name for name, each in self._tunnels if invite_of(each)]
        name, handle = self._tunnels.chosen(named or (serving[0] if len(serving) == 1 else None))
        if (invite := invite_of(handle)) is None:
            raise SettingError(f"{name} has no invite to show.", hint="Use the code that the other side shows.")
        self._tell_code(handle, InviteShown.of(invite, getattr(handle, "web_url", None)), plain=plain)

    def _tell_code(self, handle: AnyHandle, shown: InviteShown, *, plain: bool) -> None:
        """Show the code to a person, in nothing that is saved with the notebook."""
        text = f"invite: {shown.code}\n  on the other machine: {shown.command}"
        text += f"\n  or, with uv, if llmtunnel is not installed there: {on_laptop(shown.code).uvx}"
        text += f"\n  or, in a browser: {shown.link}" if shown.link else ""
        if not self._in_kernel:
            _say(f"{text}\n")
        elif not self._is_watched:
            _say("The code is not shown: no page displays this run, and its output is saved.\n")
        elif plain or not display.has_widgets():
            # A prompt is not output: pages do not save it before it is answered.
            try:
                input(text + _HIDDEN)
            finally:
                _clear_output()
        else:
            display.panel(handle).reveal()
            _say("The panel shows the code for a minute. If you see no panel: %tunnel invite --plain\n")
            display.show(handle)

    @property
    def _in_kernel(self) -> bool:
        return hasattr(self._shell, "kernel")

    @property
    def _is_watched(self) -> bool:
        """Whether the page can prompt its user. A notebook that a program runs has no page."""
        return bool(getattr(getattr(self._shell, "kernel", None), "_allow_stdin", False))

    # -- doing

    def _kick(self, words: list[str]) -> None:
        if len(words) != 1:
            raise SettingError("kick needs the name of one peer.", hint="%tunnel peers lists them.")
        for _, handle in self._tunnels:
            if hasattr(handle, "kick") and words[0] in [peer.peer for peer in handle.status.peers]:
                handle.kick(words[0])
                _say(f"{words[0]} was removed and blocked\n")
                return
        raise SettingError(f"No peer named {words[0]!r} is connected.", hint="%tunnel peers lists them.")

    def _stop(self, words: list[str]) -> None:
        named = _only_name(words)
        if named == ALL:
            self._stop_all()
            return
        if not self._tunnels.names and opened.running():
            raise SettingError(
                "No tunnel here was started by %tunnel.",
                hint="%tunnel stop all also stops those of llmtunnel.serve and llmtunnel.proxy.",
            )
        name, _ = self._tunnels.chosen(named, or_all=True)
        self._tunnels.stop(name)
        _say(f"{name}: stopped\n")

    def _stop_all(self) -> None:
        """Stop all tunnels of this process, including those that Python functions opened."""
        names = self._tunnels.names
        for name in names:
            self._tunnels.stop(name)
            _say(f"{name}: stopped\n")
        blocking, others = opened.running(), opened.others()
        for each in blocking:
            each.close()
            _say(f"{self._called(each.tunnel)}: stopped\n")
        for tunnel in others:
            tunnel.close_soon()  # do not wait: it may run on the same loop as this cell
            _say(f"{self._called(tunnel)}: stopping\n")
        if not (names or blocking or others):
            _say("no tunnel is running here\n")

    def _called(self, tunnel: Tunnel) -> str:
        """Return the notebook's variable for the tunnel, if any, and its role and URL."""
        ours = ((name, value) for name, value in self._shell.user_ns.items() if name[:1] != "_")
        names = [
            name
            for name, value in ours
            if type(value).__module__.partition(".")[0] == "llmtunnel" and getattr(value, "_tunnel", value) is tunnel
        ]
        status = tunnel.status
        return f"{names[0] if names else 'a tunnel'} ({status.role}, {status.url})"

    def _reconnect(self, words: list[str]) -> None:
        name, handle = self._tunnels.chosen(_only_name(words))
        handle.reconnect()
        _say(f"{name}: reconnecting\n")

    def _doctor(self, words: list[str]) -> None:
        command = parse(["doctor", *self._asked(words)])
        if isinstance(command, ShowText):
            _say(command.text)
            return
        assert isinstance(command, DoctorCommand), "by its name"
        found = sync.diagnose(command.settings, upstream=command.upstream, address=command.listen, peer=command.peer)
        _say(doctor.json_text(found) if command.view.json else doctor.text(found, sys.stdout))

    def _bench(self, words: list[str]) -> None:
        command = parse(["bench", *self._asked(words)])
        if isinstance(command, ShowText):
            _say(command.text)
            return
        assert isinstance(command, BenchCommand), "by its name"
        found = sync.measure(command.options, timeout=WAIT, quiet=command.view.json)
        if command.view.json:
            _say(json.dumps(found.as_dict()))
        else:
            show(found)  # type: ignore[no-untyped-call]


Magics.line.__doc__ = Magics.cell.__doc__ = HELP


def _no_verb(word: str) -> SettingError:
    if meant := did_you_mean(word, VERBS):
        return SettingError(f"Unknown command: %tunnel {word}.", hint=meant)
    # It may be a code, and the notebook saves this message.
    return SettingError("Unknown %tunnel command.", hint=f"Use one of {', '.join(VERBS)}: %tunnel proxy CODE.")


def _split(line: str) -> list[str]:
    """Split the line as a shell does, up to a comment. Raises `SettingError`."""
    for match in _WORD.finditer(line):
        if match[0].startswith("#"):
            line = line[: match.start()]
            break
    try:
        return shlex.split(line)
    except ValueError as exc:
        raise SettingError("A quote on this line is not closed.", hint="Close it, or put a \\ before it.") from exc


def _take_name(words: list[str], *, default: str) -> tuple[str, list[str]]:
    """Return the tunnel's name, and the words without it. Raises `SettingError`."""
    rest, name = [], default
    remaining = iter(words)
    for word in remaining:
        if word == NAME:
            name = next(remaining, "")
        elif word.startswith(f"{NAME}="):
            name = word.removeprefix(f"{NAME}=")
        else:
            rest.append(word)
    if not _NAME.fullmatch(name) or name == ALL:
        raise SettingError(
            f"Not a valid name for a tunnel: {name!r}.", hint=f"Use letters, digits, . _ and -, but not {ALL}."
        )
    return name, rest


def _only_name(words: list[str]) -> str | None:
    if len(words) > 1:
        raise SettingError("Too many names: this command takes one.", hint="%tunnel help lists the commands.")
    return words[0] if words else None


def _one_line(error: TunnelError) -> str:
    """Return message and hint on one line, without the usage, for which only a terminal has space."""
    hint = " ".join(error.hint.partition("usage:")[0].split())
    return f"{error.message} {hint}".rstrip()


def _clear_output() -> None:
    from IPython.display import clear_output

    clear_output()  # type: ignore[no-untyped-call]


def _say(text: str) -> None:
    sys.stdout.write(text)
