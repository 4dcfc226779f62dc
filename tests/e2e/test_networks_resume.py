"""What is under way outlives what happens to networks, and to processes: each byte arrives, once and in order."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from ..support.network_failures import Strike, block_udp, cut, kill_signal, kill_turn, lose, pass_udp, renumber, stop
from ..support.network_lab import PATIENCE, SECRET, STUN, TURN, lab, marks

pytestmark = marks

MEGABYTE = 1_000_000
AGAIN = 90.0
"""Seconds within which a better path is tried for: the first time after 45."""
SOON = 20.0
"""Seconds from its end within which all goes on: far over what it takes, for machines that are busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Something that happens between two networks, and what is under way meanwhile."""

    strike: Strike
    seconds: float
    """How long streams last: longer than the strike."""
    size: int = 20 * MEGABYTE
    nats: tuple[str, str] = ("cone", "cone")
    flags: tuple[str, ...] = (*STUN, *SECRET)
    path: str = "direct"
    """The path that is struck."""
    then: str = ""
    """The one that all goes on over, as proxy tells; empty where there may be nothing to tell."""
    pause: float = 0.0
    """Seconds for which a stream has paused at least, or it was not struck."""


OFTEN = {
    "a cut of 3 s": Failure(strike=cut("b", 3), then="direct", seconds=5, size=4 * MEGABYTE, pause=2),
    "a new address": Failure(strike=renumber, then="direct", seconds=4, size=4 * MEGABYTE),
    "UDP blocked": Failure(strike=block_udp, then="relay", seconds=4, size=4 * MEGABYTE),
}
LONG = {
    "a cut of 10 s at serve": Failure(strike=cut("a", 10), then="direct", seconds=22, pause=9),
    "a cut of 10 s at proxy": Failure(strike=cut("b", 10), then="direct", seconds=22, pause=9),
    "a cut of 10 s at serve, on the relay": Failure(
        strike=cut("a", 10), nats=("cone", "blocked-udp"), path="relay", then="relay", seconds=25, pause=9
    ),
    "a cut of 10 s at proxy, on the relay": Failure(
        strike=cut("b", 10), nats=("cone", "blocked-udp"), path="relay", then="relay", seconds=25, pause=9
    ),
    "a new address, 20 MB": Failure(strike=renumber, then="direct", seconds=20),
    "UDP blocked, 20 MB": Failure(strike=block_udp, then="relay", seconds=20),
    "TURN killed": Failure(
        strike=kill_turn,
        nats=("symmetric", "symmetric"),
        flags=(*STUN, *TURN, *SECRET),
        path="turn",
        then="relay",
        seconds=20,
    ),
    "the relay killed for 5 s": Failure(
        strike=kill_signal(5), nats=("cone", "blocked-udp"), path="relay", then="relay", seconds=25, pause=4
    ),
    "the signal server killed for a minute": Failure(strike=kill_signal(60), seconds=75),
    "5 % loss": Failure(strike=lose, seconds=20, size=2 * MEGABYTE),
    "5 % loss on the relay": Failure(
        strike=lose, nats=("cone", "blocked-udp"), path="relay", seconds=20, size=2 * MEGABYTE
    ),
    "serve stopped for 15 s": Failure(strike=stop("serve", 15), seconds=28, pause=14),
    "proxy stopped for 15 s": Failure(strike=stop("proxy", 15), seconds=28, pause=14),
}


@pytest.mark.long
def test_what_the_relay_carries_goes_back_to_a_direct_path_when_udp_passes_again() -> None:
    with lab("cone", "cone") as made:
        tunnel = made.meet(*STUN, *SECRET)
        tunnel.wait_path("direct")
        block_udp(made, tunnel)
        client = made.load(seconds=AGAIN, size=20 * MEGABYTE)
        tunnel.wait_path("relay")
        pass_udp(made, tunnel)
        passed, before = time.time(), tunnel.proxy.count("resumed")
        again = tunnel.proxy.wait_event("resumed", after=before, path="direct", timeout=AGAIN)
        print(f"direct {again['time'] - passed:.1f} s after it, gap {again['gap_ms'] / 1000:.2f} s")
        ended = client.wait_event("load", timeout=AGAIN + 2 * PATIENCE)
        assert ended["whole"] == ended["of"], ended["broken"]
        assert tunnel.lost() == 0, tunnel.proxy.report()


@pytest.mark.parametrize(
    "failure",
    [
        *(pytest.param(failure, id=name) for name, failure in OFTEN.items()),
        *(pytest.param(failure, id=name, marks=pytest.mark.long) for name, failure in LONG.items()),
    ],
)
def test_what_is_under_way_arrives_byte_for_byte_whatever_happens(failure: Failure) -> None:
    with lab(*failure.nats) as made:
        tunnel = made.meet(*failure.flags)
        tunnel.wait_path(failure.path)
        client = made.load(seconds=failure.seconds, size=failure.size)
        before = tunnel.proxy.count("resumed")
        failure.strike(made, tunnel)
        over = time.time()
        if failure.then:
            tunnel.proxy.wait_event("resumed", after=before, path=failure.then, timeout=SOON)
        ended = client.wait_event("load", timeout=failure.seconds + 2 * PATIENCE)
        for one in tunnel.resumed()[before:]:
            print(f"{one['path']} {one['time'] - over:.2f} s after it, gap {one['gap_ms'] / 1000:.2f} s")
        print(f"{ended['whole']} of {ended['of']} whole, longest pause of a stream {ended['worst']:.2f} s")
        assert ended["whole"] == ended["of"], ended["broken"]
        assert ended["worst"] >= failure.pause
        assert tunnel.lost() == 0, tunnel.proxy.report()
