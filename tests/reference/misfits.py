"""Original peers whose handshake is wrong, each in its way.

python -m tests.reference.misfits NAME --room R --signal WS
"""

from __future__ import annotations

import argparse
import asyncio

from . import wire
from .original import keep_meeting, meet_on_loopback_too
from .roles import Frames, Proxy, Send, Serve, Side

OTHER_PROTOCOL = b'{"proto":"other","min_version":1,"max_version":1,"features":[]}'
OTHER_VERSION = b'{"proto":"httptunnel","min_version":7,"max_version":9,"features":[]}'


class Answers(Serve):
    """A serve that answers every HELLO with one given frame."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("")
        self._frame = answer

    async def shake_hands(self, send: Send, frames: Frames) -> None:
        await frames.get()
        send(self._frame)


class Says(Proxy):
    """A proxy that begins with one given frame, and takes what comes for an answer."""

    def __init__(self, *frames: bytes) -> None:
        super().__init__()
        self._frames = frames

    async def shake_hands(self, send: Send, frames: Frames) -> None:
        for frame in self._frames:
            send(frame)
        await frames.get()


MISFITS: dict[str, Side] = {
    "serve-of-version-9": Answers(wire.pack_json(wire.AGREE, 0, {"version": 9, "features": []})),
    "serve-that-knows-no-version": Answers(wire.pack(wire.ERROR, 0, b"version: too old for me")),
    "proxy-of-another-protocol": Says(wire.pack(wire.HELLO, 0, OTHER_PROTOCOL)),
    "proxy-of-another-version": Says(wire.pack(wire.HELLO, 0, OTHER_VERSION)),
    "proxy-without-json": Says(wire.pack(wire.HELLO, 0, b"\xff{not json")),
    "proxy-without-hello": Says(wire.pack_json(wire.REQ_HEADERS, 1, {"stream_id": 1, "method": "GET", "path": "/"})),
    "proxy-that-floods": Says(*[wire.pack(wire.REQ_BODY, 77, bytes(65_408))] * 50),
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=MISFITS)
    parser.add_argument("--room", required=True)
    parser.add_argument("--signal", required=True)
    arguments = parser.parse_args()
    meet_on_loopback_too()
    asyncio.run(keep_meeting(MISFITS[arguments.name], arguments.room, arguments.signal))
