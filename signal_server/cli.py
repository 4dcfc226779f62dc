"""The command line: where to listen, how many to a room, an orderly end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Final

from .limits import DAY, MAX_PROXIES, Limits, RelayLimits
from .output import FAILED, say

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8787
EVERYWHERE: Final = "0.0.0.0"
SIZES: Final = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
LEVELS: Final = ("error", "warning", "info", "debug")

Address = tuple[str, int]


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m signal_server") -> int:
    """Run a signal server until a signal ends it; returns the exit status: 2, or 128 and the signal's number."""
    _open_standard()
    try:
        arguments = _parser(prog).parse_args(argv)
    except SystemExit as exc:  # help, or a mistake
        failed = say("")
        if failed and not exc.code:
            with suppress(OSError):
                sys.stderr.write(f"error: Standard output cannot be written: {failed}.\n")
            raise SystemExit(FAILED) from None
        raise
    host, port = arguments.listen or arguments.port or (DEFAULT_HOST, DEFAULT_PORT)
    # Not before the arguments are read: it takes as long as all the rest.
    from .process import run

    return run(host, port, limits=_limits(arguments), trusted=arguments.trusted_proxy, log_level=arguments.log_level)


def _open_standard() -> None:
    """Open what is closed of standard input, output and error: a socket would take the number, and get what is printed.

    Writing to standard output fails then, so that help which nobody gets is an error.
    """
    for number, (name, flags) in enumerate((("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_RDWR))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest free number: those below are open
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def _limits(arguments: argparse.Namespace) -> Limits:
    relay = RelayLimits(
        rate=arguments.relay_rate,
        rate_all=arguments.relay_rate_all,
        total=arguments.relay_total,
        total_all=arguments.relay_total_all,
        idle=arguments.relay_idle,
        pipes_each=max(RelayLimits().pipes_each, 4 * arguments.max_proxies),
    )
    return Limits(
        proxies=arguments.max_proxies,
        rooms_each=arguments.rooms_per_address,
        members_each=arguments.members_per_address,
        joins=arguments.joins_per_minute,
        relay=None if arguments.no_relay else relay,
    )


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Run a signal server, where the two sides of a tunnel find each other.",
        epilog="It sees rooms' names and addresses, and none of what passes through tunnels. Put it behind TLS.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=parse_address,
        help=f"where to listen, port 0 for a free one (default: {DEFAULT_HOST}:{DEFAULT_PORT})",
    )
    where.add_argument(
        "--port",
        metavar="PORT",
        type=_everywhere,
        help=f"listen on this port of every IPv4 interface: the same as --listen {EVERYWHERE}:PORT",
    )
    parser.add_argument(
        "--max-proxies",
        metavar="N",
        type=_proxies,
        default=Limits().proxies,
        help=f"proxies in a room, 1 to {MAX_PROXIES} (default: %(default)s)",
    )
    _add_addresses(parser.add_argument_group("by address", "IPv4 addresses, and /64 networks of IPv6"))
    _add_relay(parser.add_argument_group("relay", "for peers between whose networks nothing else passes"))
    parser.add_argument(
        "--log-level", choices=LEVELS, default="info", help="how much is logged, to standard error (default: info)"
    )
    return parser


def _add_addresses(group: argparse._ArgumentGroup) -> None:
    defaults = Limits()
    numbers = {
        "--rooms-per-address": ("rooms at once that an address has created", defaults.rooms_each),
        "--members-per-address": ("members at once from an address, and joins at once", defaults.members_each),
        "--joins-per-minute": ("joins a minute from an address for long; more are slowed", int(defaults.joins)),
    }
    for flag, (what, default) in numbers.items():
        group.add_argument(flag, metavar="N", type=_count, default=default, help=f"{what} (default: %(default)s)")
    group.add_argument(
        "--trusted-proxy",
        metavar="NETWORK",
        type=_network,
        action="append",
        help="where an HTTP server in front is whose X-Forwarded-For tells clients' addresses; repeatable"
        " (default: this machine)",
    )


def _add_relay(group: argparse._ArgumentGroup) -> None:
    defaults = RelayLimits()
    sizes = {
        "--relay-rate": ("bytes a second of a room, and of an address", defaults.rate),
        "--relay-rate-all": ("bytes a second of all together", defaults.rate_all),
        "--relay-total": ("bytes a day of a room, and of an address", defaults.total),
        "--relay-total-all": ("bytes a day of all together", defaults.total_all),
    }
    group.add_argument("--no-relay", action="store_true", help="offer none")
    for flag, (what, default) in sizes.items():
        text = f"{what}, as 500KB, 4MiB or 20GiB (default: {_shown(default)})"
        group.add_argument(flag, metavar="SIZE", type=parse_size, default=default, help=text)
    group.add_argument(
        "--relay-idle",
        metavar="SECONDS",
        type=_seconds,
        default=defaults.idle,
        help="how long a pipe lasts in which nothing passes (default: %(default)g)",
    )


def parse_size(text: str) -> int:
    """Read bytes: ``1000000``, ``10MB`` (10,000,000), ``10MiB`` (10,485,760). Raises `argparse.ArgumentTypeError`."""
    number = text.rstrip("kmgibKMGIB")
    factor = SIZES.get(text[len(number) :].lower())
    if factor is None or not (number.isascii() and number.isdecimal() and number[:-15] == "" and int(number) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no size above 0: write bytes, 10MB or 10MiB")
    return int(number) * factor


def _shown(size: int) -> str:
    for unit in ("GiB", "MiB", "KiB"):
        if size % SIZES[unit.lower()] == 0:
            return f"{size // SIZES[unit.lower()]}{unit}"
    return str(size)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds <= DAY:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0, in seconds")
    return seconds


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is no network: write 10.0.0.0/8, or an address") from exc


def parse_address(text: str) -> Address:
    """Read ``host:port``, ``[::1]:port``, a bare port or a bare host. Raises `argparse.ArgumentTypeError`."""
    if text.isdecimal():
        return DEFAULT_HOST, _port(text)
    host, colon, port = text.rpartition(":")
    if _is_ipv6(text) and not (_is_ipv6(host) and port.isdecimal() and len(port) > 1):  # ::1:8787 may mean a port
        return text, DEFAULT_PORT
    if text.endswith("]") or not colon:
        host, port = text, str(DEFAULT_PORT)
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or (":" in host) != bracketed:
        raise argparse.ArgumentTypeError(f"{text!r} is no address: write host:port, or [::1]:port")
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
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:10]) > 0 and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _proxies(text: str) -> int:
    count = int(text)
    if not 1 <= count <= MAX_PROXIES:
        raise argparse.ArgumentTypeError(f"1 to {MAX_PROXIES}")
    return count


if __name__ == "__main__":
    sys.exit(main())
