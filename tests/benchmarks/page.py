"""A page in Chromium as the proxy: how much passes each way, and how long one waits after opening it."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from llmtunnel.invite import Invite

from ..support.browser import CHROMIUM, Page, browser
from .client import connect
from .harness import Rig, ground
from .report import Row

WORDS = "tulip-mango-onion-cedar-fruit"
ROUNDS = 3

PEER = """
    (async () => {
        const [{parseInvite}, {Peer}] = await Promise.all([import('/core/invite.js'), import('/peer/peer.js')]);
        window.peer = new Peer(parseInvite(%s), {stun: []});
        window.read = async (target) => {
            const {body} = await peer.request({target});
            const reader = body.getReader();
            let size = 0;
            for (let next = await reader.read(); !next.done; next = await reader.read()) {
                size += next.value.length;
            }
            return size;
        };
        await read('/small');
        return performance.now() / 1000;
    })()
"""
"""Makes a peer, and returns the seconds from the navigation until a small answer was read."""

DOWN = "(async () => { const began = performance.now(); const size = await read('/bytes?%d'); \
return [size, (performance.now() - began) / 1000]; })()"
UP = "(async () => { const body = new Blob([new Uint8Array(%d)]); const began = performance.now(); \
const {body: answer} = await peer.request({method: 'POST', target: '/sink', body}); \
await new Response(answer).text(); return [body.size, (performance.now() - began) / 1000]; })()"


async def page(quick: bool) -> list[Row]:
    """Downloads and uploads of a page, in turns with those without a tunnel. The best of each counts.

    Each round opens the page anew in a browser that runs already.
    """
    if CHROMIUM is None:
        print("no Chromium: a page is not measured", file=sys.stderr)
        return []
    size = 2_000_000 if quick else 50_000_000
    rounds = 1 if quick else ROUNDS
    waits: list[float] = []
    speeds: dict[str, list[float]] = {"down": [], "up": [], "direct down": [], "direct up": []}
    async with ground("--secret", WORDS) as rig:
        rig.room = "invite-4821309"
        await rig.serve().line("in the room")
        code = Invite(room=rig.room, secret=WORDS, signal=rig.signal_url).code
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, browser(Path(folder)) as tab:
            for _ in range(rounds):
                waits.append(_open(tab, rig, code))
                for way, script in (("down", DOWN), ("up", UP)):
                    speeds[way].append(_speed(tab, script % size))
                    speeds[f"direct {way}"].append(await _direct(rig, way, size))
    rows = [_row(way, max(speeds[way]), max(speeds[f"direct {way}"])) for way in ("down", "up")]
    told = f"{sorted(waits)[len(waits) // 2]:.2f} s (worst {max(waits):.2f})"
    return [*rows, Row(figure="a page's opening to its first answer", tunnel=told)]


def _open(tab: Page, rig: Rig, code: str) -> float:
    tab.open("about:blank")
    tab.open(rig.signal_url.replace("ws://127.0.0.1", "http://localhost"))
    tab.until("document.readyState !== 'loading' && location.protocol === 'http:'")
    return float(tab.js(PEER % json.dumps(code)))


def _speed(tab: Page, script: str) -> float:
    size, seconds = tab.js(script)
    return float(size / 1e6 / seconds)


async def _direct(rig: Rig, way: str, size: int) -> float:
    async with connect(rig.upstream) as client:
        answer = await (client.exchange(f"/bytes?{size}") if way == "down" else client.exchange("/sink", upload=size))
        return size / 1e6 / answer.seconds


def _row(way: str, speed: float, direct: float) -> Row:
    return Row(
        figure=f"a page in Chromium, {way}, MB/s",
        direct=f"{direct:.0f}",
        tunnel=f"{speed:.1f}",
        result=f"{speed / direct:.0%} of direct",
    )
