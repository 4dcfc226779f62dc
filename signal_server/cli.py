"""The signal server's command line: where to listen, its limits, and an orderly shutdown.

Each flag is also a variable and a key of a file, which `settings` derives from the parser. A secret is declared with
`settings.add_secret`.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import Field, fields
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from .accounts import FORWARDED, netloc
from .ice import IceServers, check_stun, check_turn
from .limits import DAY, FLAG, Flag, Limits, RelayLimits, Unit
from .output import FAILED, USAGE, say
from .page_files import read_folder
from .pages import Host, Pages
from .registry import NODE, Cluster
from .settings import CLIENTS, PREFIX, SettingError, add_config, add_secret, read

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8787
EVERYWHERE: Final = "0.0.0.0"
SIZES: Final = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
LEVELS: Final = ("error", "warning", "info", "debug")
FORMATS: Final = ("text", "json")
DRAIN: Final = 30.0
"""Default of ``--drain``, in seconds: load balancers take some seconds to notice, and peers some to move."""

Address = tuple[str, int]


def main(
    argv: Sequence[str] | None = None,
    *,
    prog: str = "python -m signal_server",
    web_folder: Path | None = None,
    version: str = "",
) -> int:
    """Run a signal server until a signal ends it. Returns the exit status: 2, or 128 plus the signal's number.

    ``web_folder``: the page for browsers, unless the settings name another. ``version``: the page's version.
    """
    _open_standard()
    try:
        arguments = read(_parser(prog), argv, os.environ, warn=lambda text: _tell(f"{prog}: warning: {text}"))
        ice = _ice(arguments)
        host, port = arguments.listen or arguments.port or (DEFAULT_HOST, DEFAULT_PORT)
        cluster = _cluster(arguments, port)
        pages = _pages(arguments, web_folder, version)
    except SettingError as exc:
        _tell(f"{prog}: error: {exc}")
        return USAGE
    if arguments.access_token is arguments.access_token_file is None and any(map(os.environ.get, CLIENTS)):
        _tell(
            f"{prog}: warning: {CLIENTS[0]} is a variable of clients, and this server admits everybody."
            f" To make it private, use {PREFIX}ACCESS_TOKEN or --access-token-file."
        )
    # Imported after the arguments are parsed, since it takes as long as everything else.
    from .access import Access, TokenFile
    from .process import run

    access = None if arguments.access_token is None else Access([arguments.access_token])
    tokens = None if arguments.access_token_file is None else TokenFile(arguments.access_token_file)
    if tokens is not None:
        try:
            access = Access(tokens.read())
        except SettingError as exc:
            _tell(f"{prog}: error: {exc}")
            return USAGE
    return run(
        host,
        port,
        limits=_limits(arguments),
        trusted=arguments.trusted_proxy,
        ice=ice,
        access=access,
        tokens=tokens,
        forwarded_header=arguments.forwarded_header,
        log_addresses=arguments.log_addresses,
        cluster=cluster,
        pages=pages,
        log_level=arguments.log_level,
        log_format=arguments.log_format,
        metrics=arguments.metrics_listen,
        drain=arguments.drain,
    )


def _tell(text: str) -> None:
    with suppress(OSError):
        sys.stderr.write(f"{text}\n")


def _open_standard() -> None:
    """Open closed standard streams. Otherwise a socket would get such a number, and receive the output.

    Writes to standard output then fail, so that help that nobody receives is an error.
    """
    for number, (name, flags) in enumerate((("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_RDWR))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _cluster(arguments: argparse.Namespace, port: int) -> Cluster | None:
    if arguments.redis is None:
        return None
    if not (port or arguments.advertise):
        raise SettingError("other instances cannot know the port: name it with --advertise, or do not use port 0")
    return Cluster(
        url=arguments.redis,
        password=arguments.redis_password,
        node=arguments.instance,
        address=arguments.advertise or netloc(socket.gethostname(), port),
        prefix=arguments.redis_prefix,
    )


def _pages(arguments: argparse.Namespace, default: Path | None, version: str) -> Pages | None:
    """Return the page for browsers, if the server has one. Raises `SettingError`."""
    folder = default if arguments.web_folder is None else Path(arguments.web_folder)
    if arguments.no_web:
        return None
    if folder is None:
        if arguments.web_host or arguments.web_app_host:
            raise SettingError(
                "there is no page for --web-host: use `llmtunnel signal`, or name the page's --web-folder"
            )
        return None
    try:
        return Pages(files=read_folder(folder), version=version, host=arguments.web_host, app=arguments.web_app_host)
    except OSError as exc:
        raise SettingError(f"--web-folder: the page cannot be read: {exc}; to run without it, use --no-web") from None
    except ValueError as exc:
        raise SettingError(f"--web-app-host: {exc}") from None


def _limits(arguments: argparse.Namespace) -> Limits:
    given = _given(arguments, Limits)
    pipes_each = max(RelayLimits().pipes_each, 4 * given["proxies"])
    relay = RelayLimits(**_given(arguments, RelayLimits), pipes_each=pipes_each)
    return Limits(**given, relay=None if arguments.no_relay else relay)


def _ice(arguments: argparse.Namespace) -> IceServers | None:
    """Return the STUN and TURN servers to hand out, if there are any. Raises `SettingError`."""
    stun, turn, secret = tuple(arguments.stun or ()), tuple(arguments.turn_url or ()), arguments.turn_secret
    try:
        return IceServers(stun=stun, turn=turn, secret=secret) if stun or turn or secret else None
    except ValueError as exc:
        raise SettingError(str(exc)) from None


def _given(arguments: argparse.Namespace, limits: type[Limits | RelayLimits]) -> dict[str, Any]:
    return {each.name: getattr(arguments, _dest(flag)) for each, flag in settable(limits)}


def settable(limits: type[Limits | RelayLimits]) -> list[tuple[Field[Any], Flag]]:
    """Return the limits that have a flag."""
    return [(each, each.metadata[FLAG]) for each in fields(limits) if FLAG in each.metadata]


def _dest(flag: Flag) -> str:
    return flag.name.lstrip("-").replace("-", "_")


class _Parser(argparse.ArgumentParser):
    """As argparse's, but help that cannot be written is an error. Other messages that cannot be are lost."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout:
            if failed := say(message):
                _tell(f"error: Cannot write to standard output: {failed}.")
                raise SystemExit(FAILED)
        else:
            with suppress(OSError):
                super()._print_message(message, file)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        description="Run a signal server, which brings the two sides of a tunnel together.",
        epilog="It sees the names of rooms and the addresses of peers, but no tunnel traffic. Put it behind TLS."
        f" Each flag is also a variable ({PREFIX}RELAY_RATE for --relay-rate) and a key in the TOML file (relay-rate)."
        " The variable of a switch is 1 or 0, and that of a repeatable flag has values separated by spaces. Flags take"
        " precedence over variables, and variables over the file.",
    )
    add_config(parser)
    _add_address(parser)
    access = parser.add_argument_group(
        "access", "a private server admits clients that have an access token (--signal-token)"
    )
    add_secret(
        access,
        "--access-token",
        help="the access token that clients must send",
        metavar="TOKEN",
        read=_token,
        file_help="file with several access tokens, one a line, and comments after #; a change applies within seconds",
        load=False,
    )
    _add_limits(parser.add_argument_group("limits", "an address is an IPv4 address, or a /64 network of IPv6"), Limits)
    relay = parser.add_argument_group(
        "relay", "for peers without any other path; SIZE is in bytes, such as 500KB, 4MiB or 20GiB"
    )
    relay.add_argument("--no-relay", action="store_true", help="offer no relay")
    _add_limits(relay, RelayLimits)
    _add_web(parser.add_argument_group("web", "the page that makes a browser a peer; it needs https, or localhost"))
    _add_ice(
        parser.add_argument_group(
            "STUN and TURN servers", "handed out to members when they join, so that peers need no settings; at most 4"
        )
    )
    _add_cluster(parser.add_argument_group("instances", "several instances of the server, which share their rooms"))
    _add_operation(parser.add_argument_group("operation", "/healthz answers 200, /readyz 503 while the server drains"))
    return parser


def _add_address(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=parse_address,
        help=f"where to listen; port 0 takes a free port (default: {DEFAULT_HOST}:{DEFAULT_PORT})",
    )
    where.add_argument(
        "--port",
        metavar="PORT",
        type=_everywhere,
        help=f"listen on this port of every IPv4 interface: the same as --listen {EVERYWHERE}:PORT",
    )
    parser.add_argument(
        "--trusted-proxy",
        metavar="NETWORK",
        type=_network,
        action="append",
        help="address or network of an HTTP server in front, whose X-Forwarded-For contains the client's address;"
        " repeatable (default: this machine)",
    )
    parser.add_argument(
        "--forwarded-header",
        metavar="NAME",
        type=_header,
        default=FORWARDED,
        help="header field with the client's address, which such an HTTP server sets and clients cannot set through it,"
        f" such as CF-Connecting-IP (default: {FORWARDED})",
    )


def _add_ice(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--stun", metavar="URL", type=_url(check_stun), action="append", help="STUN server, repeatable: stun:host:port"
    )
    group.add_argument(
        "--turn-url",
        metavar="URL",
        type=_url(check_turn),
        action="append",
        help="TURN server, repeatable: turn:host:port, turns: for TLS, ?transport=tcp",
    )
    add_secret(
        group,
        "--turn-secret",
        help="the secret that the TURN servers have, for credentials that expire after an hour:"
        " static-auth-secret of coturn",
    )


def _add_operation(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--drain",
        metavar="SECONDS",
        type=partial(_seconds, least=0.0),
        default=DRAIN,
        help="maximum time from a signal to the end. Members are asked to join again, and relayed tunnels move to new"
        f" pipes. 0 ends at once, and so does a second signal (default: {DRAIN:g})",
    )
    group.add_argument(
        "--metrics-listen",
        metavar="HOST:PORT",
        type=parse_address,
        help="answer /metrics there, in Prometheus' format, without any protection (default: nowhere)",
    )
    group.add_argument(
        "--log-level", choices=LEVELS, default="info", help="how much to log to standard error (default: info)"
    )
    group.add_argument(
        "--log-format", choices=FORMATS, default="text", help="log lines, or one JSON object a line (default: text)"
    )
    group.add_argument(
        "--log-addresses", action="store_true", help="log the addresses of clients that join, leave or are rejected"
    )


def _add_cluster(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--redis",
        metavar="URL",
        type=_redis,
        help="Redis through which they share them, such as redis://HOST:6379/0; rediss:// uses TLS"
        " (needs llmtunnel[redis])",
    )
    add_secret(group, "--redis-password", help="Redis's password")
    group.add_argument(
        "--redis-prefix",
        metavar="TEXT",
        default="llmtunnel:",
        help="begins each key in Redis; servers that share no rooms need different ones (default: llmtunnel:)",
    )
    group.add_argument(
        "--instance",
        metavar="NAME",
        type=_instance,
        default=_instance_name(socket.gethostname()),
        help="name of this instance, which no other one may have (default: the host's name)",
    )
    group.add_argument(
        "--advertise",
        metavar="HOST:PORT",
        type=_host_port,
        help="where the other instances reach this one (default: the host's name, and the port of --listen)",
    )


def _add_web(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--no-web", action="store_true", help="serve no page")
    group.add_argument(
        "--web-host",
        metavar="HOST[:PORT]",
        type=_host,
        help="the page's host, as the address bar shows it; other hosts lead there (default: every host)",
    )
    group.add_argument(
        "--web-app-host",
        metavar="HOST[:PORT]",
        type=partial(_host, pattern=True),
        help="host for the web apps that come through tunnels, which must not be the page's. *.app.example.org gives"
        " each tunnel a name of its own. It also needs --web-host (default: *.localhost if the page is opened at"
        " localhost, otherwise none: the page then only has the chat)",
    )
    group.add_argument(
        "--web-folder", metavar="DIR", help="folder with the page's files (default: those that come with llmtunnel)"
    )


def _host(text: str, *, pattern: bool = False) -> Host:
    try:
        return Host.given(text, pattern=pattern)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def _redis(text: str) -> str:
    if urlsplit(text).scheme not in ("redis", "rediss", "unix"):
        # The text may contain a password.
        raise argparse.ArgumentTypeError("not a URL of Redis: use redis://HOST:6379/0, or rediss:// for TLS")
    return text


def _instance(text: str) -> str:
    if not NODE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name: use 1 to 63 letters, digits, - and _")
    return text


def _instance_name(host: str) -> str:
    """Return a name for an instance on this host."""
    return "".join(each if NODE.fullmatch(each) else "-" for each in host)[:63] or "signal"


def _host_port(text: str) -> str:
    host, port = parse_address(text)
    if ":" not in text or not port:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address with a port: use host:port")
    return netloc(host, port)


def _add_limits(group: argparse._ArgumentGroup, limits: type[Limits | RelayLimits]) -> None:
    for each, flag in settable(limits):
        default: Any = each.default
        read: dict[Unit, Callable[[str], float]] = {
            Unit.COUNT: partial(_count, most=flag.most),
            Unit.SIZE: parse_size,
            Unit.SECONDS: _seconds,
        }
        help = f"{flag.help} (default: {shown(default, flag.unit)})"
        group.add_argument(flag.name, metavar=flag.unit, type=read[flag.unit], default=default, help=help)


def parse_size(text: str) -> int:
    """Parse bytes: ``1000000``, ``10MB`` (10,000,000), ``10MiB`` (10,485,760). Raises `argparse.ArgumentTypeError`."""
    number = text.rstrip("kmgibKMGIB")
    factor = SIZES.get(text[len(number) :].lower())
    if factor is None or not (number.isascii() and number.isdecimal() and number[:-15] == "" and int(number) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size above 0: use bytes, 10MB or 10MiB")
    return int(number) * factor


def shown(value: float, unit: Unit) -> str:
    """Return a limit's value as its operator writes it."""
    if unit is Unit.SIZE:
        for suffix in ("GiB", "MiB", "KiB"):
            if value % SIZES[suffix.lower()] == 0:
                return f"{value // SIZES[suffix.lower()]}{suffix}"
    return f"{value:.0f}" if value == int(value) else str(value)


def _seconds(text: str, *, least: float | None = None) -> float:
    """Parse seconds above 0, or from ``least`` on. Raises `argparse.ArgumentTypeError`."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (0 < seconds <= DAY or seconds == least):
        what = "a time above 0" if least is None else f"a time from {least:g} on"
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}, in seconds")
    return seconds


def _url(check: Callable[[str], str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        try:
            return check(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(str(exc)) from None

    return read


def _token(text: str) -> str:
    from .access import check_token

    try:
        return check_token(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"the token {exc}") from exc


def _header(text: str) -> str:
    if text.lower() == "forwarded":
        raise argparse.ArgumentTypeError(f"the field Forwarded is not supported: use {FORWARDED}")
    if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", text, re.ASCII):  # RFC 9110, section 5.1
        raise argparse.ArgumentTypeError(f"{text!r} is not a header field's name: use for example CF-Connecting-IP")
    return text


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not a network: use 10.0.0.0/8, or an address") from exc


def parse_address(text: str) -> Address:
    """Parse ``host:port``, ``[::1]:port``, a port or a host. Raises `argparse.ArgumentTypeError`."""
    if text.isdecimal():
        return DEFAULT_HOST, _port(text)
    host, colon, port = text.rpartition(":")
    if _is_ipv6(text) and not (_is_ipv6(host) and port.isdecimal() and len(port) > 1):  # ::1:8787 may mean a port
        return text, DEFAULT_PORT
    if text.endswith("]") or not colon:
        host, port = text, str(DEFAULT_PORT)
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or (":" in host) != bracketed:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address: use host:port, or [::1]:port")
    return host.strip("[]"), _port(port)


def _is_ipv6(text: str) -> bool:
    try:
        return ip_address(text).version == 6
    except ValueError:
        return False


def _everywhere(text: str) -> Address:
    return EVERYWHERE, _port(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:6]) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: use 0 to 65535")
    return int(text)


def _count(text: str, *, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 0 < int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {most}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
