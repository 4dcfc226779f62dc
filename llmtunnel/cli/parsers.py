"""The command line's words: which flags each command has, and what its help says."""

from __future__ import annotations

import argparse
import difflib
import math
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from ..config import DEFAULT_LISTEN, DEFAULT_RESUME_FOR, DEFAULT_SIGNAL, DEFAULT_STUN, OnDisconnect, Timeouts
from ..errors import SettingError
from ..invite import EXAMPLE
from ..paths import PATHS
from ..policy import READY
from ..upstream import NAMED

_SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([KMGT]?)(i?)B?)", re.IGNORECASE)

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIGNAL: Final = f"signal server (TUNNEL_SIGNAL; default: the invite's, or {DEFAULT_SIGNAL})"

_PATTERNS: Final = """\
A PATTERN is a path or a method and a path: '/v1/*', 'GET /v1/models'. * stands
for any characters, none and / among them; GET is HEAD too. What --deny matches
is refused, whatever else matches. With --allow, openai or ollama, what none of
them matches is refused. With any of these, so is a path that programs may read
in two ways (//, .., %2F but in a model's name, ...), in whatever way it was
meant."""

PROG: Final = "llmtunnel"
LEVELS: Final = ("error", "warning", "info", "debug", "trace")
"""How much is logged; ``trace`` is everything that aiortc and aioice say too."""
DEFAULT_LEVEL: Final = "warning"
TOY_PORT: Final = 8900
TOY_LISTEN: Final = f"127.0.0.1:{TOY_PORT}"
"""Of the toy model server: no port where a model server is looked for, as it shall stand in for none by accident."""

SECURITY: Final = """\
security:
  The code is the key: who has it can use the model. Neither the signal server
  nor anybody in between learns it, or what passes. Other users of a machine see
  what a command line says (ps): for a code or a secret give -, which reads it
  from standard input, a file, or the environment."""
OVERVIEW: Final = f"""\
usage: {PROG} COMMAND [options]

An HTTP service on one machine, answering on another through a peer-to-peer WebRTC channel.

commands:
  serve     let others use a local HTTP service, such as a model server; shows an invite
  proxy     answer on this machine with what is served elsewhere, by its invite
  invite    make an invite ahead
  signal    run a signal server, where the two find each other
  doctor    say why a tunnel will or will not connect from here
  demo      try it all on this machine: both sides, a signal server, a toy model
  toy       run that toy model server alone, for want of another

  {PROG} COMMAND --help     the options of a command
  {PROG} --version

example:
  {PROG} serve                            where the model is: shows a code
  {PROG} proxy {EXAMPLE}
  curl http://{DEFAULT_LISTEN}/api/tags

{SECURITY}
"""


class Parser(argparse.ArgumentParser):
    """argparse that raises `SettingError` where it would exit, and knows what was nearly meant."""

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

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        raise SettingError(f"{message[:1].upper()}{message[1:]}.", hint=f"\n{self.format_usage()}")

    @property
    def flags(self) -> tuple[str, ...]:
        """The long ones."""
        return tuple(flag for flag in self._option_string_actions if flag.startswith("--"))

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """The arguments, or `SettingError` for one that is not known."""
        found, unknown = self.parse_known_intermixed_args(argv)  # words and flags in any order
        if unknown and not found.help and not unknown[0].startswith("-"):  # it may be of a code, or a secret
            raise SettingError(f"{self.prog} was given a word too many.", hint=f"\n{self.format_usage()}")
        if unknown and not found.help:
            flag = unknown[0].partition("=")[0]  # what follows may be a secret
            meant = did_you_mean(flag, self._option_string_actions)
            raise SettingError(f"{self.prog} does not know {flag!r}.", hint=f"{meant}\n{self.format_usage()}")
        return found


def serve_parser() -> Parser:
    """``llmtunnel serve``."""
    parser = Parser(
        "serve",
        about="Let others use a local HTTP service: all who have the invite that this shows.",
        examples=[
            "serve ollama --policy ollama",
            "serve 8080 --allow '/v1/*' --expires 8h",
            "serve --invite-file code          made before: llmtunnel invite > code",
        ],
    )
    add = parser.add_argument
    add(
        "service",
        metavar="UPSTREAM",
        nargs="?",
        help=f"the service: a URL, host:port, a port, or {', '.join(NAMED)}; left out, what answers on this"
        " machine as a model server does",
    )
    _add_invite(parser, "the invite to use, instead of a new one")
    add("--upstream", metavar="URL", help="the same as UPSTREAM (TUNNEL_UPSTREAM)")
    add("--advertise", metavar="PATH", default="/", help="path prefix to take off requests (default: /)")
    add("--upstream-ca", metavar="FILE", help="authorities to trust for an https upstream, PEM")
    add("--upstream-insecure", action="store_true", help="take any certificate from an https upstream")
    add(
        "--upstream-header",
        metavar="'NAME: VALUE'",
        action="append",
        help="a field that each request gets, repeatable; @FILE: the lines of a file (TUNNEL_UPSTREAM_HEADER)",
    )
    _add_exposure(parser)
    _add_network(parser)
    _add_view(parser)
    return parser


def proxy_parser() -> Parser:
    """``llmtunnel proxy``."""
    parser = Parser(
        "proxy",
        about="Answer on this machine with what is served elsewhere.",
        examples=[f"proxy {EXAMPLE}", "proxy - --listen 127.0.0.1:0"],
    )
    add = parser.add_argument
    add("code", metavar="CODE", nargs="*", help="the invite that serve shows, in any spelling; - reads it")
    _add_invite(parser, "the same as CODE")
    add(
        "--listen",
        metavar="ADDRESS",
        help="where to answer: host:port, a port, or a host for port 8000; port 0 takes a free one; [::]:PORT is every"
        f" address, IPv4 too (TUNNEL_LISTEN; default: {DEFAULT_LISTEN})",
    )
    add(
        "--wait-for-peer",
        metavar="SECONDS",
        type=_seconds,
        default=Timeouts().wait_for_peer,
        help="how long a request waits for serve before it gets 503 (default: %(default)g)",
    )
    add(
        "--keepalive",
        metavar="SECONDS",
        type=_seconds,
        help="send a comment to a client that waits for a stream of events, each time the model has been silent so"
        " long before its first word; its status is 200 then, and a later error an event (default: never)",
    )
    _add_access(parser)
    _add_network(parser)
    _add_view(parser)
    return parser


def demo_parser() -> Parser:
    """``llmtunnel demo``."""
    parser = Parser(
        "demo",
        about="Start a signal server, a toy model server, serve and proxy here, and ask through the tunnel.",
        examples=["demo", "demo --stay"],
    )
    parser.add_argument("--stay", action="store_true", help="keep all of it up until Ctrl-C")
    _add_view(parser, drawn=False)
    return parser


def toy_parser() -> Parser:
    """``llmtunnel toy``."""
    parser = Parser(
        "toy",
        about="Run a toy model server: OpenAI's interface, token by token, and no model behind it.",
        examples=["toy", "toy --listen 127.0.0.1:0"],
    )
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        default=TOY_LISTEN,
        help=f"where: host:port, a port or a host; port 0: a free one (default: {TOY_LISTEN})",
    )
    _add_view(parser, drawn=False)
    return parser


def invite_parser() -> Parser:
    """``llmtunnel invite``."""
    parser = Parser(
        "invite",
        about="Make an invite ahead, for serve and proxy to be given (--invite-file, TUNNEL_INVITE).",
        examples=["invite > code", "invite --signal ws://10.0.0.2:8787"],
    )
    parser.add_argument("--signal", metavar="URL", help=_SIGNAL)
    parser.add_argument("--json", action="store_true", help="as a JSON object")
    return parser


def doctor_parser() -> Parser:
    """``llmtunnel doctor``."""
    parser = Parser(
        "doctor",
        about="Look at all that a tunnel needs here, and say what path to expect; status 1 where it cannot connect.",
        examples=["doctor", "doctor --signal ws://10.0.0.2:8787 --turn turn:host:3478 --turn-user me"],
    )
    add = parser.add_argument
    add("code", metavar="CODE", nargs="*", help="an invite, for the signal server that it names")
    _add_invite(parser, "the same as CODE")
    add("--upstream", metavar="URL", help="what serve would serve (TUNNEL_UPSTREAM; default: looks for one)")
    add("--listen", metavar="ADDRESS", help=f"where proxy would answer (TUNNEL_LISTEN; default: {DEFAULT_LISTEN})")
    _add_network(parser)
    _add_view(parser, drawn=False)
    return parser


def _add_invite(parser: Parser, about: str) -> None:
    group = parser.add_argument_group("where the two meet", "An invite, or a room and a secret of your own.")
    add = group.add_argument
    add("--invite", metavar="CODE", help=f"{about}; - reads it (TUNNEL_INVITE)")
    add("--invite-file", metavar="FILE", help="the same, from a file (TUNNEL_INVITE_FILE)")
    add("--room", metavar="NAME", help="a room's name; alone, it is all that others must know (TUNNEL_ROOM)")
    add("--secret", metavar="TEXT", help="what they must know too; - reads it (TUNNEL_SECRET)")
    add("--secret-file", metavar="FILE", help="the same, from a file (TUNNEL_SECRET_FILE)")
    add("--signal", metavar="URL", help=_SIGNAL)
    if parser.prog.endswith("serve"):
        add("--expires", metavar="TIME", type=_duration, help="let nobody new in after so long: 90s, 30m, 8h, 1d")
        add("--once", action="store_true", help="let nobody new in after the first proxy")


def _add_exposure(parser: Parser) -> None:
    group = parser.add_argument_group(
        "what is let through",
        _PATTERNS,
    )
    add = group.add_argument
    add(
        "--policy",
        metavar="NAME",
        help=f"{', '.join(READY)}: everything (the default), or inference and the list of models alone",
    )
    add("--allow", metavar="PATTERN", action="append", default=[], help="let this through; repeatable")
    add("--deny", metavar="PATTERN", action="append", default=[], help="refuse this; repeatable")
    add("--max-requests", metavar="N", type=_count, help="requests at once, for each proxy")
    add("--max-requests-per-minute", metavar="N", type=_count, help="requests in any 60 seconds, for each proxy")
    add(
        "--on-disconnect",
        choices=tuple(OnDisconnect),
        default=OnDisconnect.CANCEL,
        help="what becomes of a request whose client has left: the service is told at once (the default), or let"
        " finish, for one that suffers from aborts",
    )
    add("--max-body", metavar="SIZE", type=_size, help="of a request's body: bytes, 10MB (10^7), 10MiB (10 * 2^20)")


def _add_access(parser: Parser) -> None:
    add = parser.add_argument_group("who may use it, beside programs on this machine").add_argument
    add(
        "--allow-host",
        metavar="NAME",
        action="append",
        help="another name that clients call it by, such as host.docker.internal, repeatable; names that end in"
        " .localhost need no flag",
    )
    add(
        "--allow-origin",
        metavar="ORIGIN",
        action="append",
        help="pages that may use it, repeatable: https://app.example, or what a desktop app sends (app://name,"
        " vscode-webview://id, file://). null, which a page opened from a file sends: any web site can send it too",
    )
    add(
        "--api-key",
        metavar="KEY",
        help="what clients must send, as Authorization: Bearer or X-Api-Key; needed to --listen on another address"
        " than loopback. Other users of this machine see what a command line says (ps): the environment"
        " and a file are safer (TUNNEL_API_KEY)",
    )
    add("--api-key-file", metavar="FILE", help="the key, from a file (TUNNEL_API_KEY_FILE)")
    add("--no-auth", action="store_true", help="listen on another address than loopback without a key")


def _add_network(parser: Parser) -> None:
    add = parser.add_argument_group("network").add_argument
    add(
        "--stun",
        metavar="URL",
        action="append",
        help=f"STUN server, repeatable; none for no STUN (default: {DEFAULT_STUN})",
    )
    add(
        "--turn",
        metavar="URL",
        action="append",
        help="TURN server, repeatable: turn:host:port, turns: for TLS, ?transport=tcp (TUNNEL_TURN, spaces between)",
    )
    add("--turn-user", metavar="NAME", help="its user (TUNNEL_TURN_USER)")
    add("--turn-pass", metavar="TEXT", help="its password (TUNNEL_TURN_PASS)")
    if not parser.prog.endswith("doctor"):
        add(
            "--path",
            choices=PATHS,
            help="how to reach the other side: all ways at once, and the best that works (the default), or that one"
            " alone: direct by UDP, by a TURN server, by the signal server's relay, or by TCP where the two are on one"
            " network (TUNNEL_PATH)",
        )
        add(
            "--resume-for",
            metavar="SECONDS",
            type=_seconds,
            default=DEFAULT_RESUME_FOR,
            help="how long requests under way wait for a peer that is not heard any more;"
            f" 0: not at all (default: {DEFAULT_RESUME_FOR:g})",
        )


def _add_view(parser: Parser, *, drawn: bool = True) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="one JSON object a line on standard output")
    if drawn:
        add("--plain", action="store_true", help="lines on a terminal too, in place of the view")
    add("-v", "--verbose", action="count", default=0, help="log more, to standard error; up to -vvv")
    add("--log-level", metavar="LEVEL", help=f"{', '.join(LEVELS)} (LLMTUNNEL_LOG; default: {DEFAULT_LEVEL})")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        value = float(text)
        if 0 <= value < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")


def _duration(text: str) -> float:
    number, unit = text[:-1], text[-1:]
    if unit in _UNITS and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", number) and float(number):
        return float(number) * _UNITS[unit]
    raise argparse.ArgumentTypeError(f"{text!r} is not a time, as 90s, 30m, 8h and 1d are")


def _count(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text) and int(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size, as 10MB is")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " KMGT".index(prefix.upper() or " "))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question for the known word that is close, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean {close[0]}?" if close else ""
