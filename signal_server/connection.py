"""One client's WebSocket: its messages go to the hub, and the hub's messages wait here, within a limit."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from .hub import Hub
from .limits import MESSAGE, Limits
from .messages import Code, Join, Message, Refused, encode, parse, too_fast, too_large
from .statistics import Statistics

logger = logging.getLogger(__name__)

LINGER: Final = 0.5
"""Seconds for a client that sends too much to read the error. Anything it sends meanwhile is discarded or not read."""


class Socket(web.WebSocketResponse):
    """aiohttp's WebSocket, except that it reports why it closes on a message that is too large."""

    def __init__(self, limits: Limits, statistics: Statistics) -> None:
        super().__init__(
            heartbeat=limits.heartbeat,
            timeout=limits.close,
            max_msg_size=MESSAGE,
            compress=False,  # 5 KiB a minute do not justify a window of 32 KiB for each
            autoping=False,  # pings count as messages
        )
        self._statistics = statistics
        self._told = False

    async def close(self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True) -> bool:
        """Close the WebSocket. aiohttp itself calls this for an invalid frame."""
        if code == WSCloseCode.MESSAGE_TOO_BIG and not self._told:
            self._told = True
            self._statistics.refused[Code.TOO_LARGE] += 1
            try:
                await self.send_str(encode(too_large().message))
                await asyncio.sleep(LINGER)
            except ConnectionError:
                pass  # the client did not wait for the answer
        return await super().close(code=code, message=message, drain=drain)


class SignalConnection:
    """A client's connection, from the opened WebSocket to its end. Call `run`. It is an outlet of the hub.

    ``settle`` is called when the client has joined or left a room.
    """

    __slots__ = (  # there are 10,000
        *("network", "remote", "_abrupt", "_code", "_ending", "_flooded", "_hub", "_limits", "_moved", "_outgoing"),
        *("_over", "_reading", "_settle", "_settled", "_socket", "_space", "_statistics", "_transport", "_writer"),
    )

    def __init__(
        self,
        socket: Socket,
        transport: asyncio.Transport,
        hub: Hub,
        limits: Limits,
        statistics: Statistics,
        *,
        network: str,
        remote: str = "",
        settle: Callable[[bool], None],
    ) -> None:
        self.network = network
        self.remote = remote
        self._socket = socket
        self._transport = transport
        self._hub = hub
        self._limits = limits
        self._statistics = statistics
        self._settle = settle
        self._settled = False
        self._outgoing: list[bytes] = []
        """Messages that wait for the socket."""
        self._space = limits.outgoing
        """Bytes that may still wait, with those of messages that are being sent."""
        self._writer: asyncio.Task[None] | None = None
        """Sends what waits, and ends: an idle client needs no task."""
        self._reading: asyncio.Timeout | None = None
        self._flooded = False
        self._moved = False
        self._code: int = WSCloseCode.POLICY_VIOLATION
        """The close code, if the server is the one that closes."""
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when `run` has ended."""
        self._ending = False
        """Whether the server ends the connection."""
        self._abrupt = False
        """Whether the client's side ended without a Close."""

    async def run(self) -> None:
        """Serve the client until it disconnects or is cut off."""
        try:
            async with asyncio.timeout(0.0 if self._flooded or self._moved else None) as self._reading:
                await self._read()
        except TimeoutError:
            if self._flooded:
                self._refuse(too_fast())
        finally:
            self._reading = None
            self._hub.leave(self, abrupt=self._abrupt)
            await self._finish()

    def flood(self) -> None:
        """Stop reading from a client that sends too much, and tell it why."""
        self._flooded = True
        self._stop_reading()

    def move(self) -> None:
        """Ask the client to join again, at another server or at this one's successor, by the close code.

        It receives the queued messages first. A client that does not answer the close in time is cut off.
        """
        self._ending = self._moved = True
        self._code = WSCloseCode.SERVICE_RESTART
        self._stop_reading()

    def send(self, message: Message) -> None:
        """Queue a message. A client that does not read is cut off, and never delays others."""
        if self._transport.is_closing():
            return
        data = encode(message).encode()
        if len(data) > self._space:
            logger.warning("Dropped a client that does not read")
            self.drop()
            return
        self._space -= len(data)
        self._outgoing.append(data)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="signal writer")
            self._writer.add_done_callback(self._written)

    def drop(self) -> None:
        """Cut the client off at once; queued messages are lost."""
        self._ending = True
        self._transport.abort()

    async def aclose(self) -> None:
        """Close in an orderly way when the server stops. Returns when `run` has ended."""
        self._ending = True
        try:
            async with asyncio.timeout(self._limits.close):
                await self._socket.close(code=WSCloseCode.GOING_AWAY)
        except (TimeoutError, ConnectionError):
            self.drop()
        self._stop_reading()  # a join may be delayed
        await asyncio.wait((self._over,))  # `_finish` takes at most `Limits.close` s

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.reschedule(asyncio.get_running_loop().time())

    async def _read(self) -> None:
        while True:
            raw = await self._socket.receive()
            if raw.type not in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG):
                # Not for a client that was silent for too long, which aiohttp reports as an error: it may be asleep.
                self._abrupt = raw.type is WSMsgType.CLOSED and not self._ending
                return
            try:
                await self._take(raw)
            except Refused as refusal:
                self._hub.note(self, refusal, now=asyncio.get_running_loop().time())
                self._refuse(refusal)
                if refusal.fatal:
                    return

    def _refuse(self, refusal: Refused) -> None:
        self._statistics.refused[refusal.code] += 1
        self.send(refusal.message)
        if refusal.code is Code.DRAINING:
            self._code = WSCloseCode.SERVICE_RESTART

    async def _take(self, raw: WSMessage) -> None:
        match raw.type:
            case WSMsgType.TEXT:
                await self._act(raw.data)
            case WSMsgType.BINARY:
                raise Refused(Code.INVALID_JSON, "invalid JSON: binary")
            case WSMsgType.PING:
                await self._socket.pong(raw.data)

    async def _act(self, text: str) -> None:
        loop = asyncio.get_running_loop()
        if wait := self._hub.charge(self, len(text.encode()), now=loop.time()):
            await asyncio.sleep(wait)
        request = parse(text)
        if wait := await self._hub.delay(self, request, now=loop.time()):
            await asyncio.sleep(wait)
        if self._transport.is_closing():
            return
        await self._hub.receive(self, request, now=loop.time())
        self._statistics.messages += 1
        self._statistics.joins += isinstance(request, Join)
        if (joined := self._hub.member(self) is not None) is not self._settled:
            self._settled = joined
            self._settle(joined)

    async def _write(self) -> None:
        while self._outgoing:
            waiting, self._outgoing = self._outgoing, []
            for data in waiting:
                await self._socket.send_frame(data, WSMsgType.TEXT)
                self._space += len(data)

    def _written(self, writer: asyncio.Task[None]) -> None:
        """Cut off a client that cannot be written to."""
        if self._writer is writer:  # and no later one
            self._writer = None
        if writer.cancelled() or (exc := writer.exception()) is None:
            return
        if not isinstance(exc, ConnectionError):
            logger.error("A defect ended a connection", exc_info=exc)
        self.drop()

    async def _finish(self) -> None:
        """Send the queued messages, then close. A client that does not read them in time is cut off."""
        try:
            async with asyncio.timeout(LINGER if self._flooded else self._limits.close):
                if self._writer is not None:
                    await asyncio.wait((self._writer,))
                await self._socket.close(code=self._code)
        except (TimeoutError, ConnectionError):
            self.drop()
        finally:
            self._over.set_result(None)
