"""Serve and proxy behind NATs of their own, with a signal server, STUN and TURN on the public side between them."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import pytest

from ..support import network_lab
from ..support.network_lab import PUBLIC, SECRET, STUN, TURN, TURN_TCP, URL, Lab, lab, marks

pytestmark = marks

ASK = f"""
import time, urllib.request
assert urllib.request.urlopen("{URL}/tokens?name=first&count=1", timeout=60).read() == b"data: first 0\\n\\n"
print(f"answered at {{time.time()}}", flush=True)
"""
SLOW = 10.0
"""Seconds to a first response that are too many on any machine; 3 are aimed at."""
NATS = ("none", "cone", "symmetric", "blocked-udp")
OFTEN = {("cone", "cone"), ("symmetric", "cone"), ("cone", "blocked-udp")}
"""What the usual run tries; all others are `long`."""


def best(pair: set[str]) -> str:
    """The best path between two networks, with STUN and the relay alone."""
    if "blocked-udp" in pair or pair in ({"symmetric"}, {"symmetric", "cone"}):
        return "relay"
    return "direct"


def connects_by(made: Lab, path: str, *flags: str) -> float:
    """A first request is answered, and traffic takes that path in the end; seconds from proxy's start to the answer."""
    tunnel = made.meet(*flags)
    begun = tunnel.proxy.wait_event("listening")["time"]
    client = made.run("host-b", "client", sys.executable, "-c", ASK)
    took = float(client.wait_line(r"answered at (\S+)", timeout=60)[1]) - begun
    first = tunnel.proxy.wait_event("peer-connected")["path"]
    tunnel.wait_path(path)
    assert tunnel.path == path, tunnel.proxy.report()
    print(f"first response after {took:.2f} s, by {first}; then {path}")
    return took


@pytest.mark.parametrize(
    ("nat_a", "nat_b"),
    [pytest.param(*pair, marks=() if pair in OFTEN else pytest.mark.long) for pair in product(NATS, NATS)],
)
def test_any_two_networks_are_connected_by_the_best_path_there_is(nat_a: str, nat_b: str) -> None:
    with lab(nat_a, nat_b) as made:
        assert connects_by(made, best({nat_a, nat_b}), *STUN, *SECRET) < SLOW


@pytest.mark.parametrize(
    ("nat_a", "nat_b"),
    [
        ("symmetric", "symmetric"),
        pytest.param("symmetric", "cone", marks=pytest.mark.long),
        pytest.param("cone", "symmetric", marks=pytest.mark.long),
    ],
)
def test_routers_that_change_ports_are_crossed_by_turn(nat_a: str, nat_b: str) -> None:
    with lab(nat_a, nat_b) as made:
        assert connects_by(made, "turn", *STUN, *TURN, *SECRET) < SLOW


@pytest.mark.parametrize(
    ("nat_a", "nat_b"),
    [
        pytest.param(*pair, marks=() if pair == ("blocked-udp", "cone") else pytest.mark.long)
        for pair in product(NATS, NATS)
        if "blocked-udp" in pair
    ],
)
def test_a_network_without_udp_is_left_by_turn_over_tcp(nat_a: str, nat_b: str) -> None:
    with lab(nat_a, nat_b) as made:
        assert connects_by(made, "turn", *STUN, *TURN_TCP, *SECRET) < SLOW


@pytest.mark.parametrize(
    ("path", "flags"),
    [
        pytest.param("turn", TURN, id="turn"),
        pytest.param("turn", TURN_TCP, id="turn over tcp", marks=pytest.mark.long),
        pytest.param("relay", (), id="relay", marks=pytest.mark.long),
        pytest.param("direct", (), id="direct", marks=pytest.mark.long),
    ],
)
def test_a_path_that_is_asked_for_is_the_only_one_though_there_are_better_ones(
    path: str, flags: tuple[str, ...]
) -> None:
    with lab("none", "none") as made:
        connects_by(made, path, "--path", path, *flags, *SECRET)


def test_servers_that_do_not_answer_hold_nobody_up() -> None:
    silent = ("--stun", f"stun:{PUBLIC}:9", "--turn", f"turn:{PUBLIC}:9", "--turn-user", "u", "--turn-pass", "p")
    with lab("none", "none") as made:
        assert connects_by(made, "direct", *silent) < 5.0  # which each would cost, had anybody waited for it


def test_all_of_a_lab_ends_though_the_time_of_the_test_is_over_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = tmp_path / "stays.py"
    stays.write_text("import time\nprint('on', flush=True)\ntime.sleep(600)", "utf-8")
    monkeypatch.setattr(network_lab, "NETLAB", stays)
    made = Lab()
    network, host, last = (made.start(name) for name in ("network", "host", "last"))
    for each in (network, host, last):
        each.wait_line("on")

    def late() -> int:
        pytest.fail("the time is over")

    monkeypatch.setattr(host, "stop", late)
    with pytest.raises(pytest.fail.Exception, match="the time is over"):
        made.close()
    assert not (network.running or host.running or last.running)
