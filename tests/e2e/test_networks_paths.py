"""Where UDP does not pass, or does not any more, the signal server's relay carries."""

from __future__ import annotations

import sys
import time

import pytest

from .test_networks import PUBLIC, STUN, lab, pytestmark  # noqa: F401  (the mark is this module's too)
from .test_networks_resume import finish, under_way

SECRET = ("--secret", "a secret that nobody guesses")
FIRST = """
import sys, time, urllib.request
print("asked", flush=True)
begun = time.monotonic()
urllib.request.urlopen(sys.argv[1], timeout=20).read()
print(f"answered after {time.monotonic() - begun:.2f}", flush=True)
"""


@pytest.mark.parametrize(("nat_a", "nat_b"), [("blocked-udp", "cone"), ("cone", "blocked-udp")])
def test_a_network_without_udp_is_left_by_the_relay_and_the_first_response_is_there_soon(
    nat_a: str, nat_b: str
) -> None:
    with lab(nat_a, nat_b, delay=15) as made:
        common = ("--room", "lab", "--signal", f"ws://{PUBLIC}:8787", "--json", *STUN, *SECRET)
        serve = made.llmtunnel("host-a", "serve", "--upstream", "127.0.0.1:9000", *common)
        serve.wait_event("signal-connected")
        proxy = made.llmtunnel("host-b", "proxy", "--listen", "127.0.0.1:8000", *common)
        begun = proxy.wait_event("listening")["time"]
        connected = proxy.wait_event("peer-connected")
        client = made.run("host-b", "client", sys.executable, "-c", FIRST, "http://127.0.0.1:8000/")
        response = float(client.wait_line(r"answered after (\S+)")[1])
        took = connected["time"] - begun + response
        print(f"{connected['path']} up after {connected['time'] - begun:.2f} s, response in {response:.2f} s")
        assert connected["path"] == "relay"
        assert took < 3.0


def test_udp_that_is_blocked_from_now_on_is_a_pause_and_the_relay_goes_on() -> None:
    with lab("cone", "cone") as made:
        serve, proxy, client = under_way(made, *STUN, *SECRET)
        if proxy.wait_event("peer-connected")["path"] == "relay":
            proxy.wait_event("resumed", path="direct")
        blocked = time.time()
        made.run("nat-b", "iptables", "iptables", "-I", "FORWARD", "-p", "udp", "-j", "DROP").wait_exit()
        resumed = proxy.wait_event("resumed", path="relay")
        print(f"relay {resumed['time'] - blocked:.2f} s after UDP was blocked, gap {resumed['gap_ms']:.0f} ms")
        finish(client, serve, proxy)
