"""A bare data channel between two processes, ours and other people's, on loopback and far apart.

``python -m tests.benchmarks.channel KIND send`` is one process, ``… KIND receive SECONDS`` the other. They are
introduced as `tests.support.other_channels` says. Then the first sends as fast as it can, and the second prints how
many megabytes a second come, after a quarter of the time.

Each message is answered by a small one, and at most `UNDER_WAY` bytes wait for that: not every implementation tells how
much it has queued.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from ..support.network_lab import NETLAB, lab
from ..support.other_channels import KINDS, Peer, installed, other_process, serve
from ..support.webrtc_ends import End
from .far import DELAY, LOSSES
from .loop import run
from .report import Row

OURS: Final = "llmtunnel"
MESSAGE: Final = bytes(60_000)
CREDIT: Final = b"c"
UNDER_WAY: Final = 8_000_000


class Ours(Peer):
    """A channel of `llmtunnel.transport`."""

    def __init__(self, message: object) -> None:
        super().__init__(message)  # type: ignore[arg-type]
        self._end = End()
        self._end.message_received = self._message  # type: ignore[method-assign]

    async def offer(self) -> str:
        return await self._end.peer.offer()

    async def answer(self, sdp: str) -> str:
        answer = await self._end.peer.answer(sdp)
        self._opening = asyncio.create_task(self._open())
        return answer

    async def accept(self, sdp: str) -> None:
        await self._end.peer.accept(sdp)
        self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        await self._end.open()
        self.opened.set()

    def send(self, message: bytes) -> None:
        self._end.channel.send(message)

    async def close(self) -> None:
        await self._end.peer.aclose()


class Bulk:
    """Either end."""

    def __init__(self, kind: str) -> None:
        self.peer = Ours(self._take) if kind == OURS else KINDS[kind][1](self._take)
        self._received = 0
        self._under_way = 0
        self._news = asyncio.Event()

    def _take(self, message: bytes) -> None:
        if len(message) == len(CREDIT):
            self._under_way -= len(MESSAGE)
            self._news.set()
        else:
            self._received += len(message)
            self.peer.send(CREDIT)

    async def send(self) -> None:
        """Send until killed."""
        await self.peer.opened.wait()
        while True:
            while self._under_way < UNDER_WAY:
                self.peer.send(MESSAGE)
                self._under_way += len(MESSAGE)
            self._news.clear()
            await self._news.wait()

    async def receive(self, seconds: float) -> float:
        """MB/s."""
        await self.peer.opened.wait()
        await asyncio.sleep(seconds / 4)
        before, began = self._received, time.perf_counter()
        await asyncio.sleep(seconds)
        return (self._received - before) / 1e6 / (time.perf_counter() - began)


async def speed(kind: str, seconds: float, *, at: tuple[Sequence[str], Sequence[str]] = ((), ())) -> float:
    """MB/s from one process to another. ``at``: the commands that run each of them elsewhere."""
    module = "tests.benchmarks.channel"
    with ExitStack() as ends:
        sender = ends.enter_context(other_process(module, kind, "send", at=at[0]))
        receiver = ends.enter_context(other_process(module, kind, "receive", str(seconds), at=at[1]))
        await receiver.accept(await sender.answer(await receiver.offer()))
        return float(str(await receiver.said(2 * seconds)))


async def channels(quick: bool) -> list[Row]:
    """On loopback, each kind that is installed, in turns; the best of each counts."""
    speeds = {kind: [0.0] for kind in (OURS, *KINDS)}
    for _ in range(1 if quick else 3):
        for kind, values in speeds.items():
            if kind == OURS or installed(kind):
                values.append(await speed(kind, 0.5 if quick else 3.0))
    return [
        Row(figure=f"bare channel of {kind}, MB/s", channel=_text(kind, f"{max(values):.1f}"))
        for kind, values in speeds.items()
    ]


async def far(quick: bool) -> list[Row]:
    """The same in the small internet, where a round trip takes 58 ms, at each loss."""
    rows: list[Row] = []
    exec_at = [(str(NETLAB), "exec", host, "--") for host in ("host-a", "host-b")]
    with lab("none", "none", delay=DELAY) as network:
        for loss in LOSSES[1:2] if quick else LOSSES:
            network.link("a", "--loss", str(loss))
            for kind in (OURS, *KINDS):
                found = ""
                if kind == OURS or installed(kind):
                    found = f"{await speed(kind, 2.0 if quick else 8.0, at=(exec_at[0], exec_at[1])):.2f}"
                figure = f"58 ms, {loss:g} % loss: bare channel of {kind}, MB/s"
                rows.append(Row(figure=figure, channel=_text(kind, found)))
    return rows


def _text(kind: str, found: str) -> str:
    return found if kind == OURS or installed(kind) else "not installed"


async def _main(kind: str, what: str, *seconds: str) -> None:
    bulk = Bulk(kind)
    steps = asyncio.create_task(serve(bulk.peer))
    if what == "send":
        await bulk.send()
    else:
        print(await bulk.receive(float(seconds[0])), flush=True)
    await steps


if __name__ == "__main__":
    run(_main(*sys.argv[1:]))
