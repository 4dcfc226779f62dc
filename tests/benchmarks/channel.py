"""A bare aiortc data channel between two processes: what there is to reach over it.

``python -m tests.benchmarks.channel`` is the answerer: an offer on its standard input, the answer on its standard
output, then over the channel: a text ``send N`` has it send N bytes, anything binary is counted, and a text ``count N``
is answered with ``done`` when N bytes have come.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from .harness import PATIENCE, ROOT
from .loop import run

MESSAGE: Final = bytes(60_000)
QUEUE: Final = 4 * len(MESSAGE)
"""Bytes that wait in the channel while more are to be sent."""
CONNECT: Final = 10.0
"""Seconds for a path: there is none on a machine with no address but 127.0.0.1, which aioice does not offer."""


class End:
    """One end of the channel."""

    def __init__(self, channel: RTCDataChannel) -> None:
        self.texts: asyncio.Queue[str] = asyncio.Queue()
        self._channel = channel
        self._received = 0
        self._grew = asyncio.Event()
        self._low = asyncio.Event()
        channel.bufferedAmountLowThreshold = QUEUE // 2
        channel.on("message", self._message)
        channel.on("bufferedamountlow", self._low.set)

    def _message(self, message: bytes | str) -> None:
        if isinstance(message, str):
            self.texts.put_nowait(message)
        else:
            self._received += len(message)
            self._grew.set()

    def say(self, text: str) -> None:
        """Send a text."""
        self._channel.send(text)

    async def send(self, size: int) -> None:
        """Send that many bytes."""
        while size > 0:
            self._low.clear()
            while size > 0 and self._channel.bufferedAmount < QUEUE:
                self._channel.send(MESSAGE[:size])
                size -= len(MESSAGE)
            if size > 0:
                await self._low.wait()

    async def receive(self, size: int) -> None:
        """Wait until that many bytes have come."""
        while self._received < size:
            self._grew.clear()
            await self._grew.wait()
        self._received -= size


@asynccontextmanager
async def bare_channel() -> AsyncIterator[End | None]:
    """A channel to an answerer in a process of its own; None where the two find no path."""
    answerer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.channel"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    peer = _peer()
    try:
        yield await _offer(peer, answerer)
    finally:
        await peer.close()
        answerer.kill()
        await answerer.wait()


async def _offer(peer: RTCPeerConnection, answerer: asyncio.subprocess.Process) -> End | None:
    assert answerer.stdin is not None
    assert answerer.stdout is not None
    opened = asyncio.Event()
    channel = peer.createDataChannel("bulk")
    channel.on("open", opened.set)
    await peer.setLocalDescription(await peer.createOffer())
    answerer.stdin.write(_description(peer))
    async with asyncio.timeout(PATIENCE):
        answer = await answerer.stdout.readline()
    await peer.setRemoteDescription(RTCSessionDescription(**json.loads(answer)))
    try:
        async with asyncio.timeout(CONNECT):
            await opened.wait()
    except TimeoutError:
        return None
    return End(channel)


async def down(end: End, size: int) -> float:
    """MB/s from the answerer."""
    began = time.perf_counter()
    end.say(f"send {size}")
    await end.receive(size)
    return size / 1e6 / (time.perf_counter() - began)


async def up(end: End, size: int) -> float:
    """MB/s to the answerer, until it has all."""
    began = time.perf_counter()
    end.say(f"count {size}")
    await end.send(size)
    await end.texts.get()
    return size / 1e6 / (time.perf_counter() - began)


def _peer() -> RTCPeerConnection:
    return RTCPeerConnection(RTCConfiguration(iceServers=[]))


def _description(peer: RTCPeerConnection) -> bytes:
    local = peer.localDescription
    return json.dumps({"sdp": local.sdp, "type": local.type}).encode("ascii") + b"\n"


async def answer() -> None:
    """The answerer's process, until killed."""
    peer = _peer()
    opened: asyncio.Queue[End] = asyncio.Queue()
    peer.on("datachannel", lambda channel: opened.put_nowait(End(channel)))
    offer = await asyncio.to_thread(sys.stdin.readline)
    await peer.setRemoteDescription(RTCSessionDescription(**json.loads(offer)))
    await peer.setLocalDescription(await peer.createAnswer())
    sys.stdout.buffer.write(_description(peer))
    sys.stdout.buffer.flush()
    end = await opened.get()
    while True:
        what, _, size = (await end.texts.get()).partition(" ")
        if what == "send":
            await end.send(int(size))
        else:
            await end.receive(int(size))
            end.say("done")


if __name__ == "__main__":
    run(answer())
