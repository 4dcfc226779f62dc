"""``python -m tests.benchmarks [--quick] [--mtu 1280] [figure…]``: measure, and print the table. See --help."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from . import channel, fair, far, latency, memory, page, panel, signalling, soak, startup, throughput
from .loop import run
from .report import Row, table

FIGURES: dict[str, Callable[[bool], Awaitable[list[Row]]]] = {
    "get": latency.get,
    "sse": latency.sse,
    "streams": latency.streams,
    "panel": panel.panel,
    "page": page.page,
    "requests": throughput.requests,
    "bulk": throughput.bulk,
    "channels": channel.channels,
    "start": startup.start,
    "recovery": startup.recovery,
    "memory": memory.memory,
    "stall": memory.stall,
}

BY_NAME: dict[str, Callable[[bool], Awaitable[list[Row]]]] = {
    "far": far.far,
    "far-channels": channel.far,
    "fair": fair.fair,
    "signal": signalling.signal,
}
"""What needs minutes, and some of them root."""

SHORT: Final = (
    'ip link set lo mtu "$1" up && ip link add own type veth peer name other && ip link set other up && '
    'ip address add 192.0.2.1/24 dev own && ip link set own up && shift && exec "$@"'
)
"""A machine of its own in a network namespace, with an address, which other people's WebRTC needs."""


async def measure(names: Sequence[str], *, quick: bool, seconds: float) -> list[Row]:
    """The rows of the figures, one figure after another."""
    rows: list[Row] = []
    for name in names:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        rows += await (soak.soak(seconds) if name == "soak" else (FIGURES | BY_NAME)[name](quick))
    return rows


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description="Measure the tunnel on loopback.")
    parser.add_argument(
        "figures",
        nargs="*",
        metavar="figure",
        help=f"of {', '.join(FIGURES)}; none: all. Or soak, {', '.join(BY_NAME)}",
    )
    parser.add_argument("--quick", action="store_true", help="a fraction of the time, for figures that say little")
    parser.add_argument(
        "--mtu", type=int, help="bytes of the longest packet on loopback, such as 1280 (Linux; default: as it is)"
    )
    parser.add_argument("--seconds", type=float, default=600.0, help="that a soak lasts (default: 600)")
    given = parser.parse_args()
    if unknown := set(given.figures) - {*FIGURES, *BY_NAME, "soak"}:
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    if given.mtu:
        at = sys.argv.index("--mtu")
        rest = sys.argv[1:at] + sys.argv[at + 2 :]
        again = ("sh", "-c", SHORT, "sh", str(given.mtu), sys.executable, "-m", "tests.benchmarks", *rest)
        os.execvp("unshare", ("unshare", "-n" if os.geteuid() == 0 else "-rn", *again))
    print(table(run(measure(given.figures or list(FIGURES), quick=given.quick, seconds=given.seconds))))


if __name__ == "__main__":
    main()
