"""The flags of each command, and the texts of its help."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

from ..config import DEFAULT_LISTEN, BenchOptions, ProxyOptions, ReachOptions, ServeOptions
from ..errors import SettingError
from ..invite import EXAMPLE
from ..option import OWN, Group, Option, declared, option, options, unless_empty
from ..upstream import NAMED

PROG: Final = "llmtunnel"
LEVELS: Final = ("error", "warning", "info", "debug", "trace")
"""How much is logged; ``trace`` also includes the logs of aiortc and aioice."""
DEFAULT_LEVEL: Final = "warning"
TOY_PORT: Final = 8900
TOY_LISTEN: Final = f"127.0.0.1:{TOY_PORT}"
"""Default address of the toy model server. Discovery does not probe this port, so that the toy never stands in for a
real model server by accident."""
WEB: Final = Path(__file__).parents[1] / "web"
"""Folder of the page for browsers."""
WEB_PORT: Final = 8001
WEB_LISTEN: Final = f"127.0.0.1:{WEB_PORT}"
"""Default address of ``llmtunnel web``, beside the proxy's port."""
_WRONG_CHOICE: Final = re.compile(r"(\S+): invalid choice: (.*) \(choose from (.*)\)")
"""What argparse says about a value that is not one of an option's choices."""

SECURITY: Final = """\
security:
  The code is the key: anyone who has it can use the model. Neither the signal
  server nor anybody in between learns the code, or can read the traffic.
  Other users of a machine can read command lines (ps). Pass a code or a
  secret through standard input (-), a file, or the environment."""
OVERVIEW: Final = f"""\
usage: {PROG} COMMAND [options]

Use an HTTP service of one machine on another one, through a peer-to-peer WebRTC channel.

commands:
  serve     share an HTTP service of this machine, such as a model server; shows an invite
  proxy     use on this machine what somebody serves, with their invite
  invite    make an invite in advance
  signal    run a signal server, which brings the two sides together
  web       serve the page that makes a browser a peer, on this machine
  doctor    check whether a tunnel will connect from here, and if not, why
  bench     measure a tunnel: latency, requests, throughput, tokens
  demo      try everything on this machine: both sides, a signal server, a toy model
  toy       run only the toy model server

  {PROG} COMMAND --help     the options of a command
  {PROG} --version

example:
  {PROG} serve                            on the machine with the model; shows a code
  {PROG} proxy {EXAMPLE}
  curl http://{DEFAULT_LISTEN}/api/tags

{SECURITY}
"""


@options
class DoctorOptions(ReachOptions):
    """Options of ``llmtunnel doctor``."""

    upstream: str | None = option(
        "the service that serve would share",
        default=None,
        metavar="URL",
        env=True,
        suggest=tuple(NAMED),
        default_help="looks for a model server",
        read=unless_empty,
    )
    listen: str = option(
        "where proxy would listen", default=DEFAULT_LISTEN, metavar="ADDRESS", env=True, read=unless_empty
    )


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises `SettingError` instead of exiting, and suggests what was probably meant."""

    def __init__(self, command: str, *, about: str, examples: Iterable[str]) -> None:
        lines = "".join(f"  {PROG} {example}\n" for example in examples)
        super().__init__(
            prog=f"{PROG} {command}",
            description=about,
            epilog=f"example:\n{lines}\n{SECURITY}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.add_argument("-h", "--help", action="store_true", help="show this and exit")
        self._alone: dict[str, str] = {}
        """Values of flags that may stand alone."""
        self.suggestions: dict[str, tuple[str, ...]] = {}
        """Values that completion offers for a flag."""

    def add_options(self, kind: type) -> None:
        """Add the flags of a class of options, each under the title of its group. A flag that is not given is None."""
        under: dict[Group, Any] = {OWN: self}
        for each in declared(kind).values():
            if each.group not in under:
                under[each.group] = self.add_argument_group(*each.group)
            add = under[each.group].add_argument
            add(each.flag, dest=each.name, default=None, help=each.flag_help, **_how(each))
            if each.file:
                about = f"{each.file} ({each.variable}_FILE)"
                add(f"{each.flag}-file", dest=f"{each.name}_file", metavar="FILE", help=about)
            if each.alone:
                self._alone[each.flag] = each.alone
            self.suggestions[each.flag] = each.suggest or each.choices

    def error(self, message: str) -> NoReturn:
        """Raise `SettingError`; argparse calls this."""
        message = message.removeprefix("argument ")
        if wrong := _WRONG_CHOICE.fullmatch(message):
            message = f"{wrong[1]}: unknown value {wrong[2]}. Use one of {wrong[3]}"
        message = message.replace(": expected one argument", " needs a value")
        told = message if message.startswith("-") else f"{message[:1].upper()}{message[1:]}"
        raise SettingError(f"{told}.", hint=self._all_options)

    @property
    def _all_options(self) -> str:
        """A hint in place of the usage, which has twenty lines and would push the error out of sight."""
        return f"All options: {self.prog} --help"

    @property
    def flags(self) -> tuple[str, ...]:
        """The long flags."""
        return tuple(flag for flag in self._option_string_actions if flag.startswith("--"))

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments. Raises `SettingError` for an unknown one."""
        words = list(map(self._with_value, argv, [*argv[1:], ""]))
        found, unknown = self.parse_known_intermixed_args(words)  # words and flags in any order
        if unknown and not found.help and not unknown[0].startswith("-"):  # it may be part of a code or a secret
            hint = "Put quotes around a value that has spaces in it."
            for flag in self._alone.keys() & {*argv}:
                hint += f"\nThe value of {flag} is a URL that begins with https:// or http://."
            raise SettingError(f"{self.prog}: too many arguments.", hint=f"{hint}\n{self._all_options}")
        if unknown and not found.help:
            flag = unknown[0].partition("=")[0]  # the value may be a secret
            meant = did_you_mean(flag, self._option_string_actions)
            raise SettingError(f"{self.prog}: unknown option {flag!r}.", hint=f"{meant}\n{self._all_options}".strip())
        return found

    def _with_value(self, word: str, following: str) -> str:
        """Give a flag that stands alone its value. Otherwise argparse takes any word after it for that."""
        return f"{word}={self._alone[word]}" if word in self._alone and "://" not in following else word


def serve_parser() -> Parser:
    """``llmtunnel serve``."""
    parser = Parser(
        "serve",
        about="Share an HTTP service of this machine with everyone who has the invite. Shows the invite.",
        examples=[
            "serve ollama --policy ollama",
            "serve 8080 --allow '/v1/*' --expires 8h",
            "serve ollama --web --once         shows a link that a browser opens",
            "serve --invite-file code          made in advance: llmtunnel invite > code",
        ],
    )
    parser.add_argument(
        "service",
        metavar="UPSTREAM",
        nargs="?",
        help=f"the service: a URL, host:port, a port, or {', '.join(NAMED)}. Without it, serve looks for a model"
        " server on this machine",
    )
    parser.add_options(ServeOptions)
    _add_view(parser)
    return parser


def proxy_parser() -> Parser:
    """``llmtunnel proxy``."""
    parser = Parser(
        "proxy",
        about="Use on this machine the service that somebody else serves.",
        examples=[f"proxy {EXAMPLE}", "proxy - --listen 127.0.0.1:0"],
    )
    _add_code(parser)
    parser.add_options(ProxyOptions)
    _add_view(parser)
    return parser


def demo_parser() -> Parser:
    """``llmtunnel demo``."""
    parser = Parser(
        "demo",
        about="Start a signal server, a toy model server, serve and proxy here, and send a request through them.",
        examples=["demo", "demo --stay"],
    )
    parser.add_argument("--stay", action="store_true", help="keep everything running until Ctrl-C")
    _add_view(parser, drawn=False)
    return parser


def toy_parser() -> Parser:
    """``llmtunnel toy``."""
    parser = Parser(
        "toy",
        about="Run a toy model server: it has the OpenAI API and streams token by token, but has no model.",
        examples=["toy", "toy --listen 127.0.0.1:0"],
    )
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        default=TOY_LISTEN,
        help=f"where to listen: host:port, a port or a host. Port 0 takes a free port (default: {TOY_LISTEN})",
    )
    _add_view(parser, drawn=False)
    return parser


def web_parser() -> Parser:
    """``llmtunnel web``."""
    parser = Parser(
        "web",
        about="Serve the page that makes a browser a peer: it uses a tunnel without llmtunnel on its machine.\n"
        "With --export, write the page to a folder instead, for any server of static files. It then has\n"
        "the chat, but shows no web apps, which need a host name of their own.",
        examples=["web", "web --listen 127.0.0.1:0", "web --export public"],
    )
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        default=WEB_LISTEN,
        help=f"where to listen: host:port, a port or a host. Port 0 takes a free port (default: {WEB_LISTEN})",
    )
    parser.add_argument("--export", metavar="DIR", help="write the page's files to this folder, and exit")
    _add_view(parser, drawn=False)
    return parser


def invite_parser() -> Parser:
    """``llmtunnel invite``."""
    parser = Parser(
        "invite",
        about="Make an invite in advance, for serve and proxy (--invite-file, TUNNEL_INVITE).",
        examples=["invite > code", "invite --signal ws://10.0.0.2:8787"],
    )
    parser.add_argument("--signal", metavar="URL", help=declared(ReachOptions)["signal"].flag_help)
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    return parser


def doctor_parser() -> Parser:
    """``llmtunnel doctor``."""
    parser = Parser(
        "doctor",
        about="Check everything that a tunnel needs from here, and say which path to expect.\n"
        "The exit status is 1 if it cannot connect.",
        examples=["doctor", "doctor --signal ws://10.0.0.2:8787 --turn turn:host:3478 --turn-user me"],
    )
    _add_code(parser, "an invite: also check whether serve is in its room, and whether the code is right")
    parser.add_options(DoctorOptions)
    _add_view(parser, drawn=False)
    return parser


def bench_parser() -> Parser:
    """``llmtunnel bench``."""
    parser = Parser(
        "bench",
        about="Measure the tunnel to a serve: latency, requests, throughput in each direction, tokens.\n"
        "Serve itself answers, so the model server gets no request. Without a code, measure both sides\n"
        "on this machine, with a toy model server. The exit status is 1 if a measurement failed.",
        examples=[f"bench {EXAMPLE}", "bench", "bench - --path relay --json"],
    )
    _add_code(parser)
    parser.add_options(BenchOptions)
    _add_view(parser, drawn=False)
    return parser


def _how(each: Option) -> dict[str, Any]:
    """Return argparse's keyword arguments for an option."""
    if each.is_switch:
        return {"action": "store_true"}
    return {
        **({"nargs": "?", "const": each.alone} if each.alone else {}),
        "action": "append" if each.is_repeatable else "store",
        "metavar": each.metavar,
        "choices": each.choices or None,
        "type": str if each.read is None else _reader(each.read),
    }


def _reader(read: Callable[[str], object]) -> Callable[[str], object]:
    """Return the same function, with an error type whose text argparse shows."""

    def typed(text: str) -> object:
        try:
            return read(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from exc

    return typed


def _add_code(
    parser: Parser,
    help: str = "the invite that serve shows, in any case and with any separators; - reads it from standard input",
) -> None:
    """Add the invite, which may be written as several arguments."""
    parser.add_argument("code", metavar="CODE", nargs="*", help=help)


def _add_view(parser: Parser, *, drawn: bool = True) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="print one JSON object per line on standard output")
    if drawn:
        add("--plain", action="store_true", help="print lines instead of the view, even on a terminal")
    add("-v", "--verbose", action="count", default=0, help="log more to standard error; up to -vvv")
    add("--log-level", metavar="LEVEL", help=f"{', '.join(LEVELS)} (LLMTUNNEL_LOG; default: {DEFAULT_LEVEL})")
    parser.suggestions["--log-level"] = LEVELS


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question with the closest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else ""
