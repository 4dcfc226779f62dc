"""The command line: where to listen, how many to a room, an orderly end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Final

from .limits import MAX_PROXIES, Limits

DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8787
EVERYWHERE: Final = "0.0.0.0"
USAGE: Final = 2
"""Exit status where the arguments, or the address, cannot be used."""
LEVELS: Final = ("error", "warning", "info", "debug")

Address = tuple[str, int]


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m signal_server") -> int:
    """Run a signal server until a signal ends it; returns the exit status: 2, or 128 and the signal's number."""
    arguments = _parser(prog).parse_args(argv)
    host, port = arguments.listen or arguments.port or (DEFAULT_HOST, DEFAULT_PORT)
    # Not before the arguments are read: it takes as long as all the rest.
    from .process import run

    return run(host, port, limits=Limits(proxies=arguments.max_proxies), log_level=arguments.log_level)


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
    parser.add_argument(
        "--log-level", choices=LEVELS, default="info", help="how much is logged, to standard error (default: info)"
    )
    return parser


def parse_address(text: str) -> Address:
    """Read ``host:port``, ``[::1]:port``, a bare port or a bare host. Raises `argparse.ArgumentTypeError`."""
    if text.isdecimal():
        return DEFAULT_HOST, _port(text)
    host, colon, port = text.rpartition(":")
    if text.endswith("]") or not colon:
        host, port = text, str(DEFAULT_PORT)
    bracketed = host.startswith("[") and host.endswith("]")
    if not host or (":" in host) != bracketed:
        raise argparse.ArgumentTypeError(f"{text!r} is no address: write host:port, or [::1]:port")
    return host.strip("[]"), _port(port)


def _everywhere(text: str) -> Address:
    return EVERYWHERE, _port(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:6]) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to 65535")
    return int(text)


def _proxies(text: str) -> int:
    count = int(text)
    if not 1 <= count <= MAX_PROXIES:
        raise argparse.ArgumentTypeError(f"1 to {MAX_PROXIES}")
    return count


if __name__ == "__main__":
    sys.exit(main())
