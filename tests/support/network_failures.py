"""What may happen to a tunnel in the small internet: to its network, to what is between, to itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from .network_lab import PATIENCE, Lab, Tunnel

Strike = Callable[[Lab, Tunnel], None]
"""Makes it happen; returns when it is over, where it ends by itself."""


def cut(side: str, seconds: float) -> Strike:
    """A side's link is down for a while."""

    def strike(made: Lab, _: Tunnel) -> None:
        made.link(side, "--down")
        time.sleep(seconds)
        made.link(side, "--up")

    return strike


def renumber(made: Lab, _: Tunnel) -> None:
    """The client's router gets a new public address, and forgets whom it let in."""
    made.change("renumber", "b")


def block_udp(made: Lab, _: Tunnel) -> None:
    """The client's network drops all UDP from now on."""
    made.udp("b", blocked=True)


def pass_udp(made: Lab, _: Tunnel) -> None:
    """It lets UDP pass again."""
    made.udp("b", blocked=False)


def kill_turn(made: Lab, _: Tunnel) -> None:
    """The TURN server in between dies, and does not come back."""
    made.coturn.kill()


def kill_signal(seconds: float) -> Strike:
    """The signal server dies, its relay too, and is gone back to when it is started again after a while."""

    def strike(made: Lab, tunnel: Tunnel) -> None:
        before = tunnel.proxy.count("signal-connected")
        made.signal.kill()
        time.sleep(seconds)
        made.start_signal()
        tunnel.proxy.wait_event("signal-connected", after=before, timeout=PATIENCE)

    return strike


def lose(made: Lab, _: Tunnel) -> None:
    """5 % of all packets between the two are lost from now on, each way, and others overtake each other."""
    for side in ("a", "b"):
        made.link(side, "--loss", "2.5", "--jitter", "5")


def mend(made: Lab, _: Tunnel) -> None:
    """No packet is lost any more."""
    for side in ("a", "b"):
        made.link(side, "--loss", "0", "--jitter", "0")


def stop(role: str, seconds: float) -> Strike:
    """One of the two is stopped for a while, as a machine that sleeps."""

    def strike(_: Lab, tunnel: Tunnel) -> None:
        process = tunnel.serve if role == "serve" else tunnel.proxy
        process.freeze()
        time.sleep(seconds)
        process.thaw()

    return strike
