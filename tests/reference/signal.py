"""The original's signal server: two to a room, no roles, what it does not know is ignored.

python -m tests.reference.signal [PORT]
"""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from typing import Any

from aiohttp import WSMsgType, web

Json = dict[str, Any]
RELAYED = {"offer": "sdp", "answer": "sdp", "candidate": "candidate"}
CAPACITY = 2


class Member:
    """One WebSocket, in a room or in none."""

    def __init__(self, socket: web.WebSocketResponse, rooms: dict[str, list[Member]]) -> None:
        self.id = str(uuid.uuid4())
        self.room = ""
        self._socket = socket
        self._rooms = rooms

    async def tell(self, kind: str, **members: object) -> None:
        """Send a message, if the socket still takes it."""
        if not self._socket.closed:
            await self._socket.send_str(json.dumps({"type": kind, **members}))

    async def received(self, text: str) -> None:
        """Act on one message."""
        try:
            message = json.loads(text)
        except ValueError:
            await self.tell("error", message="invalid JSON")
            return
        match message.get("type"):
            case "join":
                await self._join(message.get("room"))
            case "offer" | "answer" | "candidate" as kind:
                await self._relay(kind, message.get(RELAYED[kind]))
            case "bye":
                await self.leave()
            case _:
                await self.tell("error", message="unknown message type")

    async def _join(self, room: object) -> None:
        if not isinstance(room, str) or not room:
            await self.tell("error", message="room name required")
            return
        members = self._rooms.setdefault(room, [])
        if len(members) >= CAPACITY:
            await self.tell("error", message=f"room '{room}' is full (max {CAPACITY})")
            return
        await self.leave()
        others = list(members)
        self._rooms.setdefault(room, members).append(self)
        self.room = room
        await self.tell("joined", peerId=self.id, peers=[other.id for other in others])
        for other in others:
            await other.tell("peer-joined", peerId=self.id)

    async def _relay(self, kind: str, value: object) -> None:
        if not self.room:
            await self.tell("error", message="must join a room first")
            return
        for other in self._others():
            await other.tell(kind, peerId=self.id, **{RELAYED[kind]: value})

    def _others(self) -> list[Member]:
        return [member for member in self._rooms.get(self.room, ()) if member is not self]

    async def leave(self) -> None:
        """Leave the room, if in one; the socket stays."""
        if not self.room:
            return
        others = self._others()
        self._rooms[self.room].remove(self)
        if not others:
            del self._rooms[self.room]
        self.room = ""
        for other in others:
            await other.tell("peer-left", peerId=self.id)


def application() -> web.Application:
    """The server, on any path."""
    rooms: dict[str, list[Member]] = {}

    async def connected(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        member = Member(socket, rooms)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await member.received(message.data)
        finally:
            await member.leave()
        return socket

    app = web.Application()
    app.router.add_get("/{path:.*}", connected)
    return app


async def main(port: int) -> None:
    """Serve until killed."""
    runner = web.AppRunner(application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"listening on ws://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 0))
