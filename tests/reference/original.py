"""A peer that behaves as the original tunnel does, in both roles, flaws included; plain aiortc and aiohttp.

    python -m tests.reference.original serve --room R --upstream URL --signal WS
    python -m tests.reference.original proxy --room R --signal WS

It knows wire v1 and nothing else. Lines on standard output tell a test what happens, as one JSON object each.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import aioice.ice
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.exceptions import InvalidStateError
from aiortc.sdp import candidate_from_sdp

from . import wire
from .roles import Proxy, Serve, Side

Json = dict[str, Any]
PING_EVERY = 10.0
HELLO_WITHIN = 300.0
RETRY_FIRST, RETRY_MOST = 2.0, 60.0


def tell(event: str, **members: object) -> None:
    """One line for the test that started this process."""
    print(json.dumps({"event": event, **members}), flush=True)


class SignalLost(Exception):
    """The signal server went, or said no."""


class Meeting:
    """From joining the room to an open data channel, and until the peer connection fails."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._described = False
        self._early: list[Json] = []
        self.channel: asyncio.Future[RTCDataChannel] = asyncio.get_running_loop().create_future()
        self.failed = asyncio.Event()
        self._connection.on("datachannel", self._opened)
        self._connection.on("connectionstatechange", self._state_changed)

    async def follow(self, room: str) -> None:
        """Act on what the signal server says, until it or the connection goes."""
        await self._say("join", room=room)
        async for message in self._socket:
            await self._received(json.loads(message.data))

    async def close(self) -> None:
        """Leave the room and the connection."""
        with contextlib.suppress(ConnectionError):
            await self._say("bye")
        await self._connection.close()

    async def _say(self, kind: str, **members: object) -> None:
        await self._socket.send_str(json.dumps({"type": kind, **members}))

    async def _received(self, message: Json) -> None:
        match message["type"]:
            case "joined":
                tell("joined", peers=len(message["peers"]))
            case "peer-joined" if not self.channel.done():
                await self._offer()
            case "offer":
                await self._answer(message["sdp"])
            case "answer":
                await self._describe_remote(message["sdp"], "answer")
            case "candidate":
                await self._candidate(json.loads(message["candidate"]))
            case "error":
                tell("refused", message=message["message"])
                raise SignalLost(message["message"])

    async def _offer(self) -> None:
        channel = self._connection.createDataChannel("tunnel", ordered=True)
        channel.on("open", lambda: self._opened(channel))
        await self._connection.setLocalDescription(await self._connection.createOffer())
        await self._say("offer", sdp=self._connection.localDescription.sdp)
        await self._trickle()

    async def _answer(self, sdp: str) -> None:
        await self._describe_remote(sdp, "offer")
        await self._connection.setLocalDescription(await self._connection.createAnswer())
        await self._say("answer", sdp=self._connection.localDescription.sdp)
        await self._trickle()

    async def _describe_remote(self, sdp: str, kind: str) -> None:
        await self._connection.setRemoteDescription(RTCSessionDescription(sdp, kind))
        self._described = True
        for candidate in self._early:
            await self._add(candidate)

    async def _trickle(self) -> None:
        """The candidates of the description once more, each in a message of its own."""
        for line in self._connection.localDescription.sdp.splitlines():
            if line.startswith("a=candidate:"):
                candidate = {"candidate": line[2:], "sdpMid": "0", "sdpMLineIndex": 0, "usernameFragment": None}
                await self._say("candidate", candidate=json.dumps(candidate))

    async def _candidate(self, candidate: Json) -> None:
        if self._described:
            await self._add(candidate)
        else:
            self._early.append(candidate)

    async def _add(self, candidate: Json) -> None:
        text = candidate["candidate"].removeprefix("candidate:")
        if not text:
            return
        parsed = candidate_from_sdp(text)
        parsed.sdpMid, parsed.sdpMLineIndex = candidate.get("sdpMid"), candidate.get("sdpMLineIndex")
        await self._connection.addIceCandidate(parsed)

    def _opened(self, channel: RTCDataChannel) -> None:
        if channel.label == "tunnel" and not self.channel.done():
            channel.on("close", self.failed.set)
            self.channel.set_result(channel)

    def _state_changed(self) -> None:
        if self._connection.connectionState in ("failed", "closed"):
            self.failed.set()


async def talk(side: Side, channel: RTCDataChannel) -> None:
    """Shake hands, then carry frames until cancelled."""
    frames: asyncio.Queue[wire.Frame] = asyncio.Queue()

    def received(message: bytes | str) -> None:
        frame = wire.unpack(message) if isinstance(message, bytes) else None
        if frame is not None:
            frames.put_nowait(frame)

    channel.on("message", received)
    async with asyncio.timeout(HELLO_WITHIN):
        await side.shake_hands(channel.send, frames)
    tell("ready")
    async with asyncio.TaskGroup() as group:
        group.create_task(_ping(channel), name="ping")
        while True:
            kind, stream, payload = await frames.get()
            if kind == wire.PING:
                channel.send(wire.pack(wire.PONG, 0))
            elif kind != wire.PONG:
                side.received(kind, stream, payload)


async def _ping(channel: RTCDataChannel) -> None:
    while True:
        await asyncio.sleep(PING_EVERY)
        channel.send(wire.pack(wire.PING, 0))


async def meet(side: Side, room: str, signal: str) -> None:
    """One round: join, connect, talk, until anything of that fails."""
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(signal) as socket,
        closing(Meeting(socket)) as meeting,
        asyncio.TaskGroup() as group,
    ):
        follow = group.create_task(_follow(meeting, room), name="follow")
        channel = await meeting.channel
        talking = group.create_task(talk(side, channel), name="talk")
        await meeting.failed.wait()
        follow.cancel()
        talking.cancel()


async def _follow(meeting: Meeting, room: str) -> None:
    """The signal server may go once the channel is open: the tunnel lives on without it."""
    await meeting.follow(room)
    if not meeting.channel.done():
        raise SignalLost("the signal server went")


@contextlib.asynccontextmanager
async def closing(meeting: Meeting) -> AsyncIterator[Meeting]:
    """A meeting that is left in any case, and wholly: a close of aiortc's that is cancelled halfway never ends."""
    try:
        yield meeting
    finally:
        leaving = asyncio.create_task(meeting.close(), name="leaving a meeting")
        try:
            await asyncio.shield(leaving)
        finally:
            await asyncio.wait((leaving,))


async def keep_meeting(side: Side, room: str, signal: str) -> None:
    """Meet for ever, with pauses of 2, 4, 8 … 60 s after a failure."""
    pause = RETRY_FIRST
    while True:
        try:
            await meet(side, room, signal)
            pause = RETRY_FIRST
        except* (SignalLost, InvalidStateError, aiohttp.ClientError, ConnectionError, TimeoutError) as group:
            tell("failed", reason=str(group.exceptions[0]))
        side.lost()
        tell("again", delay=pause)
        await asyncio.sleep(pause)
        pause = min(pause * 2, RETRY_MOST)


async def main(arguments: argparse.Namespace) -> None:
    """Be a serve or a proxy until killed."""
    side: Side = Serve(arguments.upstream) if arguments.role == "serve" else Proxy()
    if isinstance(side, Proxy):
        tell("listening", url=await side.listen(arguments.listen))
    await keep_meeting(side, arguments.room, arguments.signal)


def meet_on_loopback_too() -> None:
    """Let machines that have no other interface meet themselves: aioice leaves loopback out."""
    found = aioice.ice.get_host_addresses

    def get_host_addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        return found(use_ipv4, use_ipv6) or ["127.0.0.1"]

    aioice.ice.get_host_addresses = get_host_addresses


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["serve", "proxy"])
    parser.add_argument("--room", required=True)
    parser.add_argument("--signal", required=True)
    parser.add_argument("--upstream", default="")
    parser.add_argument("--listen", type=int, default=0)
    meet_on_loopback_too()
    asyncio.run(main(parser.parse_args()))
