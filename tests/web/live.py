"""A proxy of the JavaScript core in a process of Node.js, and its channels to a `Session` of serve in this one."""

from __future__ import annotations

import asyncio
import json
import struct
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, Final

from llmtunnel.config import Limits, Timeouts
from llmtunnel.errors import ChannelClosed, TunnelError
from llmtunnel.paths import Path as NetworkPath
from llmtunnel.protocol.auth import ServeCredentials
from llmtunnel.protocol.door import Door
from llmtunnel.protocol.greeting import Greeting
from llmtunnel.protocol.handshake import Agreement
from llmtunnel.protocol.keys import Certificates
from llmtunnel.session.carrier import Carrier
from llmtunnel.session.handlers import Handler
from llmtunnel.session.mux import Session
from llmtunnel.status import Role
from llmtunnel.transport.base import Channel, Receiver

from ..support.embedded import until
from .node import node
from .web_core import limits_of, timeouts_of

HEADER: Final = struct.Struct(">IBB")
MESSAGE, OPEN, CLOSED, COMMAND, REPORT = range(5)
SEEN: Final = Certificates(proxy=b"p" * 32, serve=b"s" * 32)
ROOM: Final = 256 * 1024


class NodeChannel(Channel):
    """Serve's end of a channel whose other end is the process."""

    def __init__(self, web: Web, number: int) -> None:
        self._web, self.number = web, number
        self._receiver: Receiver | None = None
        self._closed: str | None = None
        self.lost = False
        """Whether everything that is sent from now on is lost, in both directions."""

    def attach(self, receiver: Receiver) -> None:
        self._receiver = receiver

    @property
    def has_room(self) -> bool:
        return self._closed is None and self._web.buffered < ROOM

    def send(self, message: bytes, pipe: int = 0) -> None:
        if self._closed is not None:
            raise ChannelClosed(self._closed)
        if not self.lost:
            self._web.write(MESSAGE, self.number, message)

    async def aclose(self) -> None:
        self.cut("closed by the peer")
        await asyncio.sleep(0)

    @property
    def path(self) -> NetworkPath:
        return NetworkPath.UNKNOWN

    def cut(self, reason: str) -> None:
        """End the channel at both ends."""
        if self._closed is None:
            self._closed = reason
            self._web.write(CLOSED, self.number, reason.encode())
            receiver, self._receiver = self._receiver, None
            if receiver:
                asyncio.get_running_loop().call_soon(receiver.channel_closed, reason)

    def arrived(self, message: bytes) -> None:
        if self._receiver and not self.lost:
            self._receiver.message_received(message)

    def room_available(self) -> None:
        if self._receiver and self.has_room:
            self._receiver.room_available()


class Web:
    """The process, the channels to it, and serve's session. `opened` makes one."""

    def __init__(
        self, to: asyncio.StreamWriter, from_: asyncio.StreamReader, handler: Handler, **settings: Any
    ) -> None:
        self._to, self._from = to, from_
        self._to.transport.set_write_buffer_limits(high=ROOM)
        self._handler = handler
        self.limits: Limits | None = settings.get("limits")
        self.timeouts: Timeouts | None = settings.get("timeouts")
        self.resume_for: float = settings.get("resume_for", 30.0)
        self.door = Door("secret")
        self.channels: dict[int, NodeChannel] = {}
        self.carriers: dict[int, Carrier] = {}
        self.session: Session | None = None
        self.events: list[dict[str, Any]] = []
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = count(1)
        self._reading = asyncio.create_task(self._read(), name="reading from Node.js")
        self._draining: asyncio.Task[None] | None = None

    @property
    def buffered(self) -> int:
        return self._to.transport.get_write_buffer_size()

    def write(self, kind: int, channel: int, payload: bytes) -> None:
        self._to.write(HEADER.pack(len(payload) + 2, kind, channel) + payload)
        if self._draining is None and self.buffered >= ROOM:
            self._draining = asyncio.create_task(self._drain(), name="writing to Node.js")

    async def _drain(self) -> None:
        with suppress(ConnectionError):
            await self._to.drain()
        self._draining = None
        for channel in list(self.channels.values()):
            channel.room_available()

    async def _read(self) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                length, kind, number = HEADER.unpack(await self._from.readexactly(HEADER.size))
                payload = await self._from.readexactly(length - 2)
                if kind == MESSAGE:
                    self.channels[number].arrived(payload)
                    continue
                report = json.loads(payload)
                if "event" in report:
                    self.events.append(report)
                else:
                    self._answers.pop(report.pop("id")).set_result(report)

    def announce(self, *, secret: str = "secret", seen: Certificates = SEEN) -> NodeChannel:
        """Open one more channel, and let the process greet there."""
        number = len(self.channels) + 1
        channel = self.channels[number] = NodeChannel(self, number)
        options = {
            "secret": secret,
            "certificates": {"proxy": seen.proxy.hex(), "serve": seen.serve.hex()},
            "greeting": {"limits": limits_of(self.limits), "timeouts": timeouts_of(self.timeouts)},
            "session": {
                "limits": limits_of(self.limits),
                "timeouts": timeouts_of(self.timeouts),
                "resumeFor": self.resume_for,
            },
        }
        self.write(OPEN, number, json.dumps(options).encode())
        return channel

    def connect(self, **how: Any) -> NodeChannel:
        """The same, with serve at this end."""
        channel = self.announce(**how)
        greeting = Greeting(
            Role.SERVE,
            now=asyncio.get_running_loop().time(),
            limits=self.limits,
            timeouts=self.timeouts,
            agent="serve/1",
            credentials=ServeCredentials(room="room", certificates=SEEN, door=self.door),
            certificate=SEEN.proxy,
            resumable=lambda claim: self.session and self.session.line.answer(claim),
        )
        carrier = self.carriers[channel.number] = Carrier(channel, greeting, agreed=self._agreed)
        carrier.start()
        return channel

    def _agreed(self, carrier: Carrier, agreement: Agreement) -> None:
        if self.session is not None and agreement.received is not None:
            self.session.resume(agreement, carrier)
            return
        self.session = Session(
            Role.SERVE,
            agreement,
            carrier,
            peer="web",
            handler=self._handler,
            limits=self.limits,
            timeouts=self.timeouts,
            resume_for=self.resume_for,
        )

    async def event(self, kind: str) -> dict[str, Any]:
        """The next event of this kind."""
        await until(lambda: any(each["event"] == kind for each in self.events))
        event = next(each for each in self.events if each["event"] == kind)
        self.events.remove(event)
        return event

    def start(self, do: str, **command: object) -> tuple[int, asyncio.Future[dict[str, Any]]]:
        """Begin a command; its number, and its report to come."""
        id = next(self._ids)
        self._answers[id] = asyncio.get_running_loop().create_future()
        self.write(COMMAND, 0, json.dumps({"do": do, "id": id, **command}).encode())
        return id, self._answers[id]

    async def do(self, do: str, **command: object) -> dict[str, Any]:
        return await self.start(do, **command)[1]

    async def over(self) -> TunnelError:
        """Why serve's session has ended, once it has."""
        await until(lambda: self.session is not None and self.session.error is not None)
        assert self.session and self.session.error
        return self.session.error

    async def aclose(self) -> None:
        if self.session is not None:
            await self.session.aclose()
        for carrier in self.carriers.values():
            await carrier.aclose()
        self._to.close()
        await self._reading
        if self._draining is not None:
            await self._draining
        assert [each for each in self.events if each["event"] == "defect"] == []


@asynccontextmanager
async def opened(handler: Handler, *, connect: bool = True, **settings: Any) -> AsyncIterator[Web]:
    """A process, and a session with it over a first channel. ``connect``: whether there is that channel."""
    command = [node(), str(Path(__file__).with_name("proxy.js"))]
    # Not asyncio's own subprocess, which waits for the process in a thread.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:  # noqa: ASYNC220
        to, from_ = await _streams(process)
        web = Web(to, from_, handler, **settings)
        try:
            if connect:
                web.connect()
                await web.event("agreed")
            yield web
        finally:
            await web.aclose()
            assert process.wait(10) == 0


async def _streams(process: subprocess.Popen[bytes]) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), process.stdout)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, process.stdin)
    return asyncio.StreamWriter(transport, protocol, reader, loop), reader
