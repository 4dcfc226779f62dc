"""The small internet (`tests/netlab`) while it is up: serve at host-a, proxy at host-b, all that is public between.

Its names are fixed, so that there is one at a time on a machine: another one waits.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from .coturn import LAST_THREAD
from .processes import Event, Process, assert_sound

NETLAB: Final = Path(__file__).resolve().parents[1] / "netlab" / "netlab.py"
PUBLIC: Final = "198.51.100.1"
STUN: Final = ("--stun", f"stun:{PUBLIC}:3478")
TURN: Final = ("--turn", f"turn:{PUBLIC}:3478", "--turn-user", "u", "--turn-pass", "p")
TURN_SECRET: Final = "a secret of coturn and the signal server"
TURN_TCP: Final = ("--turn", f"turn:{PUBLIC}:3478?transport=tcp", *TURN[2:])
SECRET: Final = ("--secret", "a secret that nobody guesses")
"""Without one there is no relay."""
SIGNAL: Final = f"{PUBLIC}:8787"
URL: Final = "http://127.0.0.1:8000"
PATIENCE: Final = 60.0
"""Seconds that a path may take to come up, or back: far over what it takes, for machines that are busy."""

NEEDS: Final = "needs Linux, root, /dev/net/tun, iproute2, iptables, conntrack and coturn"
available: Final = (
    sys.platform == "linux"
    and os.geteuid() == 0
    and Path("/dev/net/tun").exists()
    and all(map(shutil.which, ("ip", "iptables", "conntrack", "turnserver")))
)
"""Whether this machine can have one."""
marks = [
    pytest.mark.skipif(not available, reason=NEEDS),
    pytest.mark.xdist_group("lab"),  # there is one of it on a machine
    pytest.mark.timeout(300),  # more than all that such a test waits for, so that what does not come is named
]
"""Of each module whose tests have one."""


class Lab:
    """What runs at its hosts ends with it."""

    signal: Process
    """The signal server; the relay is a part of it."""
    coturn: Process
    """STUN and TURN."""

    def __init__(self, *, lifetime: float | None = None) -> None:
        self._processes: list[Process] = []
        self._lifetime = lifetime

    def start(self, name: str, *arguments: str) -> Process:
        """A command of `netlab.py`."""
        process = Process([str(NETLAB), *arguments], name=name)
        self._processes.append(process)
        return process

    def change(self, *arguments: str) -> None:
        """A command of `netlab.py` that is done at once."""
        process = self.start(arguments[0], *arguments)
        assert process.wait_exit() == 0, process.report()

    def run(self, where: str, name: str, *command: str) -> Process:
        """Any command, in one of the namespaces."""
        return self.start(name, "exec", where, "--", *command)

    def python(self, where: str, module: str, *arguments: str) -> Process:
        """A module of ours."""
        return self.run(where, (*arguments, module)[0], sys.executable, "-m", module, *arguments)

    def link(self, side: str, *changes: str) -> None:
        """Change a side's link to the public network: ``--down``, ``--up``, ``--loss 5`` …"""
        self.change("link", side, *changes)

    def udp(self, side: str, *, blocked: bool) -> None:
        """A side's router drops all UDP from now on, or lets it pass again."""
        rule = ("FORWARD", "-p", "udp", "-j", "DROP")
        self.change("exec", f"nat-{side}", "--", "iptables", "-I" if blocked else "-D", *rule)

    def start_signal(self) -> None:
        """Listening when this returns. It hands out the TURN server if there is a secret for that."""
        if self._lifetime is None:
            self.signal = self.python("inet", "llmtunnel", "signal", "--listen", SIGNAL)
        else:
            told = (SIGNAL, f"turn:{PUBLIC}:3478", TURN_SECRET, str(self._lifetime))
            self.signal = self.python("inet", "tests.support.handing_out", *told)
        self.signal.wait_line("listening")

    def start_coturn(self) -> None:
        """Listening when this returns. Its users have a password, or credentials from the signal server."""
        users = ("--lt-cred-mech", "-u", "u:p")
        if self._lifetime is not None:
            users = ("--use-auth-secret", "--static-auth-secret", TURN_SECRET)
        flags = ("-n", "-v", "--no-tls", "--no-dtls", "-L", PUBLIC, "-p", "3478", *users, "-r", "lab")
        self.coturn = self.run("inet", "turnserver", "turnserver", *flags, "--no-cli", "--log-file", "stdout")
        self.coturn.wait_line(LAST_THREAD)

    def meet(self, *flags: str, upstream: str = "127.0.0.1:9000") -> Tunnel:
        """A serve in its room, and a proxy that listens."""
        common = ("--room", "lab", "--signal", f"ws://{SIGNAL}", "--json", "-v", *flags)
        serve = self.python("host-a", "llmtunnel", "serve", "--upstream", upstream, *common)
        serve.wait_event("signal-connected")
        listen = ("--listen", URL.removeprefix("http://"), "--wait-for-peer", "30")
        proxy = self.python("host-b", "llmtunnel", "proxy", *listen, *common)
        proxy.wait_event("listening")
        return Tunnel(serve, proxy)

    def load(self, *, seconds: float, size: int) -> Process:
        """The client at host-b of what is under way (`tests/support/load.py`), begun."""
        client = self.python(
            "host-b", "tests.support.load", "client", URL, "--seconds", str(seconds), "--size", str(size)
        )
        client.wait_line("begun", timeout=PATIENCE)
        return client

    def close(self) -> None:
        """End all, the newest first, the network last; fails where one of them has shown a defect, or has to be killed.

        The others end all the same, also where the test's time is over meanwhile: the next lab waits for this network.
        """
        with ExitStack() as ending:
            for process in self._processes:
                ending.callback(process.kill)
                ending.callback(process.stop)
                ending.callback(process.thaw)
        assert_sound(self._processes)


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A serve at host-a and a proxy at host-b."""

    serve: Process
    proxy: Process

    def wait_path(self, path: str) -> None:
        """Until traffic takes that path: from the beginning, or once a better one than the first has come up."""
        self.proxy.wait_line(rf'"(peer-connected|resumed)".*"path": "{path}"', timeout=PATIENCE)

    @property
    def path(self) -> str:
        """The one that traffic takes, as proxy has told last; empty before any."""
        paths = [one["path"] for one in self.proxy.events if one["event"] in ("peer-connected", "resumed")]
        return paths[-1] if paths else ""

    def resumed(self) -> list[Event]:
        """Each time that all went on, on the same path or another one, as proxy has told."""
        return [one for one in self.proxy.events if one["event"] == "resumed"]

    def lost(self) -> int:
        """How often either side has given the other up."""
        return self.serve.count("peer-lost") + self.proxy.count("peer-lost")


@contextmanager
def lab(nat_a: str, nat_b: str, *, delay: int = 15, lifetime: float | None = None) -> Iterator[Lab]:
    """Two hosts behind such NATs, four times the delay (ms) apart; coturn, a signal server, and a service at host-a.

    ``lifetime``: the signal server hands out coturn, with credentials for so many seconds.
    """
    made = Lab(lifetime=lifetime)
    try:
        network = made.start("netlab", "up", "--nat-a", nat_a, "--nat-b", nat_b, "--delay", str(delay))
        network.wait_line("netlab: up", timeout=PATIENCE)
        made.start_coturn()
        made.start_signal()
        made.python("host-a", "tests.support.load", "site", "9000").wait_line("site on")
        yield made
    finally:
        made.close()
