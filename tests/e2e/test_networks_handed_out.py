"""A tunnel between two symmetric NATs, over a TURN server that nobody but the signal server has named."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time

import pytest

from ..support.network_lab import PATIENCE, PUBLIC, SECRET, TURN_SECRET, Lab, lab, marks
from ..support.processes import Process

pytestmark = [*marks, pytest.mark.timeout(300)]

LIFETIME = 6.0
"""Seconds for which credentials are valid: a user's are for an hour."""
ALLOCATED = r"user <((\d+):\w+)>: incoming packet ALLOCATE processed, success"


def allocations(coturn: Process) -> dict[str, int]:
    """The user names that have got one, and when they expire."""
    found = re.findall(ALLOCATED, "\n".join([*coturn.lines, *coturn.errors]))
    return {name: int(expiry) for name, expiry in found}


def wait_until(expiry: int) -> None:
    """Until that time, by the clock that coturn has too."""
    time.sleep(max(0.0, expiry + 1 - time.time()))


def restart_coturn(made: Lab) -> None:
    """All allocations are lost, and none can be made with credentials that have expired."""
    made.coturn.kill()
    made.start_coturn()


def test_what_is_under_way_outlives_the_credentials_and_the_allocation_made_with_them() -> None:
    with lab("symmetric", "symmetric", lifetime=LIFETIME) as made:
        tunnel = made.meet(*SECRET, "--path", "turn")
        tunnel.wait_path("turn")
        for side in (tunnel.serve, tunnel.proxy):
            joined = side.wait_event("signal-connected")
            assert (joined["turn"], joined["turn_from"]) == ([f"turn:{PUBLIC}:3478"], "signal")
        client = made.load(seconds=25, size=4_000_000)
        made.coturn.wait_line(ALLOCATED)
        first, before = allocations(made.coturn), tunnel.proxy.count("resumed")
        wait_until(max(first.values()))
        assert tunnel.resumed()[before:] == [], "the path that runs goes on"
        old = made.coturn
        restart_coturn(made)
        tunnel.proxy.wait_event("resumed", after=before, path="turn", timeout=PATIENCE)
        for one in tunnel.resumed()[before:]:
            print(f"{one['path']} after a gap of {one['gap_ms'] / 1000:.2f} s")
        second = allocations(made.coturn)
        assert min(second.values()) > max(first.values()), "new credentials"
        ended = client.wait_event("load", timeout=25 + 2 * PATIENCE)
        assert ended["whole"] == ended["of"], ended["broken"]
        assert tunnel.lost() == 0, tunnel.proxy.report()
        said = "\n".join(line for side in (tunnel.serve, tunnel.proxy) for line in (*side.lines, *side.errors))
        for name in {**allocations(old), **second}:
            digest = hmac.new(TURN_SECRET.encode(), name.encode(), hashlib.sha1).digest()
            assert name not in said and base64.b64encode(digest).decode() not in said


def test_a_side_that_refuses_handed_out_servers_uses_the_relay() -> None:
    """Without UDP, and without a TURN server over TCP, there is no other path."""
    with lab("cone", "blocked-udp", lifetime=3600.0) as made:
        tunnel = made.meet(*SECRET, "--stun", "none", "--no-signal-ice")
        tunnel.wait_path("relay")
        joined = tunnel.proxy.wait_event("signal-connected")
        assert (joined["turn"], joined["turn_from"]) == ([], None)
        assert not allocations(made.coturn)
