"""Serve and proxy behind NATs of their own, with a signal server, STUN and TURN on the public side between them."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .processes import Process

NETLAB = Path(__file__).resolve().parents[1] / "netlab" / "netlab.py"
PUBLIC = "198.51.100.1"
STUN = ("--stun", f"stun:{PUBLIC}:3478")
TURN = ("--turn", f"turn:{PUBLIC}:3478", "--turn-user", "u", "--turn-pass", "p")
TURN_TCP = ("--turn", f"turn:{PUBLIC}:3478?transport=tcp", *TURN[2:])

pytestmark = pytest.mark.skipif(
    sys.platform != "linux"
    or os.geteuid() != 0
    or not Path("/dev/net/tun").exists()
    or not all(map(shutil.which, ("ip", "iptables", "turnserver"))),
    reason="needs root, /dev/net/tun, iproute2, iptables and coturn",
)


class Lab:
    """The small internet, while it is up."""

    def __init__(self) -> None:
        self._processes: list[Process] = []

    def start(self, name: str, *arguments: str) -> Process:
        process = Process([str(NETLAB), *arguments], name=name)
        self._processes.append(process)
        return process

    def run(self, where: str, name: str, *command: str) -> Process:
        return self.start(name, "exec", where, "--", *command)

    def llmtunnel(self, where: str, name: str, *flags: str) -> Process:
        return self.run(where, name, sys.executable, "-m", "llmtunnel", name, *flags)

    def get(self, where: str, url: str) -> str:
        """The body that a client there gets."""
        script = f"import urllib.request; print(urllib.request.urlopen({url!r}, timeout=20).read().decode())"
        client = self.run(where, "client", sys.executable, "-c", script)
        assert client.wait_exit() == 0, client.report()
        return "\n".join(client.lines)

    def close(self) -> None:
        for process in reversed(self._processes):
            process.stop()


@contextmanager
def lab(nat_a: str, nat_b: str, *, delay: int = 10) -> Iterator[Lab]:
    """Two hosts behind such NATs, four times the delay apart (ms); coturn and a signal server between them."""
    made = Lab()
    try:
        made.start("netlab", "up", "--nat-a", nat_a, "--nat-b", nat_b, "--delay", str(delay)).wait_line("netlab: up")
        coturn = ("-n", "--no-tls", "--no-dtls", "-L", PUBLIC, "-p", "3478", "--lt-cred-mech", "-u", "u:p", "-r", "lab")
        turn = made.run("inet", "turnserver", "turnserver", *coturn, "--no-cli", "--log-file", "stdout")
        turn.wait_line("Total General servers")
        made.llmtunnel("inet", "signal", "--listen", f"{PUBLIC}:8787").wait_line("listening")
        made.run("host-a", "upstream", sys.executable, "-m", "http.server", "9000", "--directory", str(NETLAB.parent))
        yield made
    finally:
        made.close()


def path_between(made: Lab, *flags: str) -> str:
    """Connect serve at host-a with proxy at host-b, and fetch something; the path that it took."""
    common = ("--room", "lab", "--signal", f"ws://{PUBLIC}:8787", "--json", *flags)
    made.llmtunnel("host-a", "serve", "--upstream", "127.0.0.1:9000", *common).wait_event("signal-connected")
    begun = time.monotonic()
    proxy = made.llmtunnel("host-b", "proxy", "--listen", "127.0.0.1:8000", *common)
    connected = proxy.wait_event("peer-connected")
    print(f"{connected['path']} after {time.monotonic() - begun:.2f} s")
    assert "netlab.py" in made.get("host-b", "http://127.0.0.1:8000/")
    return str(connected["path"])


def test_two_home_routers_are_crossed_directly_with_the_help_of_stun() -> None:
    with lab("cone", "cone") as made:
        assert path_between(made, *STUN) == "direct"


def test_routers_that_change_ports_are_crossed_by_turn() -> None:
    with lab("symmetric", "symmetric") as made:
        assert path_between(made, *STUN, *TURN) == "turn"


def test_a_network_without_udp_is_left_by_turn_over_tcp() -> None:
    with lab("blocked-udp", "cone") as made:
        assert path_between(made, *STUN, *TURN_TCP) == "turn"


def test_servers_that_do_not_answer_hold_nobody_up() -> None:
    silent = ("--stun", f"stun:{PUBLIC}:9", "--turn", f"turn:{PUBLIC}:9", "--turn-user", "u", "--turn-pass", "p")
    with lab("none", "none") as made:
        begun = time.monotonic()
        assert path_between(made, *silent) == "direct"
        assert time.monotonic() - begun < 10.0  # each would cost 5 s a side, had anybody waited for it
