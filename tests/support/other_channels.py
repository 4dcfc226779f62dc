"""One end of a data channel by other people's WebRTC, in a process of its own.

    wrtc              libwebrtc, whose SCTP (dcsctp) is Chromium's
    pylibdatachannel  libdatachannel, whose SCTP (usrsctp) is Firefox's
    aiortc            aiortc's own

``python -m tests.support.other_channels KIND`` echoes what it gets over the channel. Its standard input has a line of
JSON for each step of `Peer` (its name, its arguments), its standard output what each returns.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final

from .processes import PATIENCE, ROOT

LABEL: Final = "tunnel"


class Peer(ABC):
    """One end. Its SDP has all candidates. ``message`` is called with each message, which is binary."""

    def __init__(self, message: Callable[[bytes], None]) -> None:
        self._message = message
        self._loop = asyncio.get_running_loop()
        self.opened = asyncio.Event()

    @abstractmethod
    async def offer(self) -> str:
        """Open the channel, and return the offer."""

    @abstractmethod
    async def answer(self, sdp: str) -> str:
        """Return the answer to an offer."""

    @abstractmethod
    async def accept(self, sdp: str) -> None:
        """Take the answer to the offer."""

    @abstractmethod
    def send(self, message: bytes) -> None:
        """Queue a message, once `opened`."""

    @abstractmethod
    async def close(self) -> None:
        """End it."""


class Wrtc(Peer):
    """libwebrtc."""

    def __init__(self, message: Callable[[bytes], None]) -> None:
        import webrtc

        super().__init__(message)
        self._webrtc = webrtc
        self._peer = webrtc.RTCPeerConnection()
        self._complete = asyncio.Event()
        self._peer.on("icegatheringstatechange", self._gathering)
        self._peer.on("datachannel", lambda event: self._use(event.channel))
        self._channel: Any = None

    def _gathering(self, event: object) -> None:
        if self._peer.ice_gathering_state == "complete":
            self._complete.set()

    def _use(self, channel: Any) -> None:
        self._channel = channel
        channel.on("message", lambda event: self._message(event.data))
        channel.on("open", lambda event: self.opened.set())
        if channel.ready_state == "open":
            self.opened.set()

    async def _described(self) -> str:
        await self._complete.wait()
        return str(self._peer.local_description.sdp)

    async def offer(self) -> str:
        self._use(self._peer.create_data_channel(LABEL))
        await self._peer.set_local_description(await self._peer.create_offer())
        return await self._described()

    async def answer(self, sdp: str) -> str:
        await self._peer.set_remote_description(self._webrtc.RTCSessionDescription(type="offer", sdp=sdp))
        await self._peer.set_local_description(await self._peer.create_answer())
        return await self._described()

    async def accept(self, sdp: str) -> None:
        await self._peer.set_remote_description(self._webrtc.RTCSessionDescription(type="answer", sdp=sdp))

    def send(self, message: bytes) -> None:
        self._channel.send(message)

    async def close(self) -> None:
        self._peer.close()


class LibDataChannel(Peer):
    """libdatachannel. Its callbacks come from a thread of its own.

    A channel's callbacks are set in that thread: to set one, the binding waits until none runs, and holds the GIL
    meanwhile, which one that runs needs.
    """

    def __init__(self, message: Callable[[bytes], None]) -> None:
        import _pylibdatachannel

        super().__init__(message)
        self._lib = _pylibdatachannel
        self._peer = _pylibdatachannel.PeerConnection()
        self._complete = asyncio.Event()
        self._peer.on_gathering_state_change(self._gathering)
        self._peer.on_data_channel(self._use)  # which returns before anything of the channel is told
        self._channel: Any = None

    def _soon(self, call: Callable[..., object], *arguments: object) -> None:
        self._loop.call_soon_threadsafe(call, *arguments)

    def _gathering(self, state: object) -> None:
        if state == self._lib.GatheringState.COMPLETE:
            self._soon(self._complete.set)

    def _use(self, channel: Any) -> None:
        self._channel = channel
        channel.on_open(lambda: self._soon(self.opened.set))
        channel.on_message(lambda message: self._soon(self._message, message))
        if channel.is_open:
            self._soon(self.opened.set)

    async def _described(self) -> str:
        await self._complete.wait()
        return str(self._peer.local_description)

    async def offer(self) -> str:
        self._use(self._peer.create_data_channel(LABEL))
        return await self._described()

    async def answer(self, sdp: str) -> str:
        self._peer.set_remote_description(self._lib.Description(sdp, self._lib.DescriptionType.OFFER))
        return await self._described()

    async def accept(self, sdp: str) -> None:
        self._peer.set_remote_description(self._lib.Description(sdp, self._lib.DescriptionType.ANSWER))

    def send(self, message: bytes) -> None:
        self._channel.send(message)

    async def close(self) -> None:
        self._peer.close()


class Aiortc(Peer):
    """aiortc."""

    def __init__(self, message: Callable[[bytes], None]) -> None:
        import aiortc

        super().__init__(message)
        self._aiortc = aiortc
        self._peer = aiortc.RTCPeerConnection(aiortc.RTCConfiguration(iceServers=[]))
        self._peer.on("datachannel", self._use)
        self._channel: Any = None

    def _use(self, channel: Any) -> None:
        self._channel = channel
        channel.on("message", self._message)
        channel.on("open", self.opened.set)
        if channel.readyState == "open":
            self.opened.set()

    async def offer(self) -> str:
        self._use(self._peer.createDataChannel(LABEL))
        await self._peer.setLocalDescription(await self._peer.createOffer())
        return str(self._peer.localDescription.sdp)

    async def answer(self, sdp: str) -> str:
        await self._peer.setRemoteDescription(self._aiortc.RTCSessionDescription(sdp, "offer"))
        await self._peer.setLocalDescription(await self._peer.createAnswer())
        return str(self._peer.localDescription.sdp)

    async def accept(self, sdp: str) -> None:
        await self._peer.setRemoteDescription(self._aiortc.RTCSessionDescription(sdp, "answer"))

    def send(self, message: bytes) -> None:
        self._channel.send(message)

    async def close(self) -> None:
        await self._peer.close()


KINDS: Final[dict[str, tuple[str, type[Peer]]]] = {
    "wrtc": ("webrtc", Wrtc),
    "pylibdatachannel": ("_pylibdatachannel", LibDataChannel),
    "aiortc": ("aiortc", Aiortc),
}
"""By the package's name: the module that it installs, and what drives it."""


def installed(kind: str) -> bool:
    """Whether this environment has the package."""
    return find_spec(KINDS[kind][0]) is not None


async def serve(peer: Peer) -> None:
    """Take the steps that standard input names, until it ends."""
    steps: dict[str, Callable[..., Awaitable[str | None]]] = {
        "offer": peer.offer,
        "answer": peer.answer,
        "accept": peer.accept,
    }
    while line := await asyncio.to_thread(sys.stdin.readline):
        step, *arguments = json.loads(line)
        print(json.dumps(await steps[step](*arguments)), flush=True)


class Remote:
    """The same steps, taken by a process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    async def offer(self) -> str:
        """See `Peer`."""
        return str(await self._take("offer"))

    async def answer(self, sdp: str) -> str:
        """See `Peer`."""
        return str(await self._take("answer", sdp))

    async def accept(self, sdp: str) -> None:
        """See `Peer`."""
        await self._take("accept", sdp)

    async def _take(self, *step: str) -> object:
        assert self._process.stdin is not None
        print(json.dumps(step), file=self._process.stdin, flush=True)
        return await self.said(0)

    async def said(self, seconds: float) -> object:
        """The value on its next line, which takes so long, or a little longer."""
        assert self._process.stdout is not None
        async with asyncio.timeout(seconds + PATIENCE):
            line = await asyncio.to_thread(self._process.stdout.readline)
        assert line, "the other end's process has ended"
        return json.loads(line)


@contextmanager
def other_process(*command: str, at: Sequence[str] = ()) -> Iterator[Remote]:
    """A module of ours that calls `serve`, with its arguments. ``at``: a command that runs it elsewhere."""
    process = subprocess.Popen(
        [*at, sys.executable, "-m", *command],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )
    with process:
        try:
            yield Remote(process)
        finally:
            process.kill()


async def _echo(kind: str) -> None:
    peer = KINDS[kind][1](lambda message: peer.send(message))
    await serve(peer)


if __name__ == "__main__":
    asyncio.run(_echo(sys.argv[1]))
