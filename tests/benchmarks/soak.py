"""Whether anything is ever lost, and whether memory grows, while a network fails at random for minutes.

It runs in the small internet of network namespaces, which needs root.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from typing import Final

from ..support.network_failures import Strike, block_udp, cut, kill_signal, lose, mend, pass_udp, renumber, stop
from ..support.network_lab import NEEDS, PATIENCE, SECRET, STUN, Lab, Tunnel, available, lab
from .report import Row

ROUND: Final = 20.0
"""Seconds that one client's streams last; then comes the next one."""
SIZE: Final = 5_000_000
"""Bytes of each client's download and upload."""


async def soak(seconds: float) -> list[Row]:
    """One client after the other, each with streams, a WebSocket and transfers, for so long."""
    if not available:
        raise SystemExit(f"soak: {NEEDS}")
    return await asyncio.to_thread(_soak, seconds)


def _soak(seconds: float) -> list[Row]:
    with lab("cone", "cone") as made:
        tunnel = made.meet(*STUN, *SECRET)
        tunnel.wait_path("direct")
        rounds = [_round(made, tunnel, until=0.0)]  # one in peace, for what a tunnel holds once it has been used
        held = [_memory(tunnel)]
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            rounds.append(_round(made, tunnel, until=until))
            held.append(_memory(tunnel))
            print(_told(held[-1:]), file=sys.stderr)
        cuts = len([one for one in tunnel.proxy.events if one["event"] == "resumed"])
    whole, worst = sum(one[0] for one in rounds), max(one[1] for one in rounds)
    return [
        Row(figure=f"soak of {seconds:.0f} s: whole", tunnel=f"{whole} of {whole + sum(one[2] for one in rounds)}"),
        Row(figure="soak: longest pause of a stream", tunnel=f"{worst:.1f} s", result=f"resumed {cuts} times"),
        Row(
            figure="soak: memory, MB, at the start, half-way, at the end",
            tunnel=_told([held[0], held[len(held) // 2], held[-1]]),
        ),
    ]


def _round(made: Lab, tunnel: Tunnel, *, until: float) -> tuple[int, float, int]:
    """One client, struck while its streams last; how many parts were whole, the longest pause, how many were not."""
    assert tunnel.serve.running and tunnel.proxy.running, tunnel.proxy.report() + tunnel.serve.report()
    client = made.load(seconds=ROUND, size=SIZE)
    until = min(until, time.monotonic() + ROUND)
    while time.monotonic() < until:
        what, strikes = _misfortune()
        print(what, file=sys.stderr)
        for strike in strikes:
            strike(made, tunnel)
            time.sleep(random.uniform(0.5, 5.0))
    ended = client.wait_event("load", timeout=ROUND + 2 * PATIENCE)
    print(f"{ended['whole']} of {ended['of']} whole, longest pause {ended['worst']:.1f} s", file=sys.stderr)
    for name, why in ended["broken"].items():
        print(f"{name}: {why}", file=sys.stderr)
    return ended["whole"], ended["worst"], len(ended["broken"])


def _misfortune() -> tuple[str, tuple[Strike, ...]]:
    """What may happen next; what does not end by itself, with its end."""
    seconds = random.uniform(0.2, 8.0)
    what = {
        f"serve's network is cut for {seconds:.1f} s": (cut("a", seconds),),
        f"proxy's network is cut for {seconds:.1f} s": (cut("b", seconds),),
        f"serve is stopped for {seconds:.1f} s": (stop("serve", seconds),),
        f"proxy is stopped for {seconds:.1f} s": (stop("proxy", seconds),),
        f"the signal server is gone for {seconds:.1f} s": (kill_signal(seconds),),
        "proxy has a new address": (renumber,),
        "UDP is blocked for a while": (block_udp, pass_udp),
        "packets are lost for a while": (lose, mend),
    }
    return random.choice(list(what.items()))


def _memory(tunnel: Tunnel) -> dict[str, float]:
    """MB by process."""
    return {"serve": tunnel.serve.resident / 1e6, "proxy": tunnel.proxy.resident / 1e6}


def _told(held: list[dict[str, float]]) -> str:
    return ", ".join(f"{name} {' → '.join(f'{each[name]:.0f}' for each in held)}" for name in held[0])
