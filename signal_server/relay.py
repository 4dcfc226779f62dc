"""The relay: it forwards messages between two WebSockets, unchanged and in order.

    1. A member requests a pipe to another one. Both get a ticket.                `tickets`
    2. Each opens a WebSocket of the subprotocol `PROTOCOL` with its ticket.      `Relay.admit`
    3. Each end's messages go to the other, as fast as it reads and `accounts` permits. Nothing else is stored.
    4. When one end closes, or a limit is reached, both are closed.

A message is read after the previous one has been taken. So a slow reader only slows its own pipe, by TCP itself.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import WSCloseCode, WSMsgType, web

from .accounts import Account, Accounts, Opened
from .hub import Hub
from .limits import PIPE_LEAST, PIPE_MESSAGE, Limits, RelayLimits
from .messages import Code, Refused
from .statistics import Statistics
from .tasks import first_of
from .tickets import Pass, Tickets

logger = logging.getLogger(__name__)

PROTOCOL: Final = "llmtunnel-relay"
"""The WebSocket subprotocol of a pipe. The ticket is offered as a second one: browsers can set that field, and unlike a
URL, no proxy logs it."""
PIPES_OF_PAIR: Final = 2
"""Maximum number of pipes between two members."""
UNSENT: Final = 128 * 1024
"""Bytes that the system may buffer for an end, besides those in transit, if that can be set."""


class Over(Exception):
    """Why a pipe ends, and the close code for its ends."""

    def __init__(self, text: str, code: int = WSCloseCode.OK) -> None:
        super().__init__(text)
        self.code = code


class PipeSocket(web.WebSocketResponse):
    """aiohttp's WebSocket as a pipe's end. It has no heartbeat: a pong would wait while the other end is slow."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(
            protocols=(PROTOCOL,),
            timeout=limits.close,
            max_msg_size=PIPE_MESSAGE + 1,
            compress=False,  # the data is encrypted
            autoping=False,  # pings count
        )


@dataclass(slots=True, eq=False)
class End:
    """One end of a pipe."""

    socket: PipeSocket
    transport: asyncio.Transport
    opened: Opened
    stuck_since: float | None = None
    """Time since when a message waits to be taken by this end."""
    pipe: Pipe | None = None

    def flood(self) -> None:
        """Stop reading from an end that sends too many frames without a message."""
        if self.pipe is None:
            self.transport.abort()
        else:
            self.pipe.stop(Over("one end sent too many frames", WSCloseCode.POLICY_VIOLATION))

    async def close(self, over: Over, patience: float) -> None:
        """Close the socket, and cut it off if that takes too long."""
        try:
            async with asyncio.timeout(patience):
                await self.socket.close(code=over.code, message=str(over).encode())
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self.transport.abort()


class Pipe:
    """A pair of ends, once both have connected."""

    def __init__(self, limits: RelayLimits, close: float, statistics: Statistics) -> None:
        self._limits = limits
        self._statistics = statistics
        self._close = close
        self._ends: list[End] = []
        self._accounts: frozenset[Account] = frozenset()
        self._met = asyncio.Event()
        self._over = asyncio.Event()
        self._stop: asyncio.Future[Over] = asyncio.get_running_loop().create_future()
        self._passed_at = 0.0
        self.passed = 0
        """Bytes in both directions."""

    async def run(self, end: End) -> Over:
        """Run one end until the pipe is over. Returns why it ended."""
        self._ends.append(end)
        end.pipe = self
        if len(self._ends) == 2:
            self._met.set()
            self._statistics.pipes += 1
            await self._carry()
        else:
            await self._wait_for_other()
        return self._stop.result()

    def stop(self, over: Over) -> None:
        """End the pipe, and close both ends. The first reason counts."""
        if not self._stop.done():
            self._stop.set_result(over)

    def give_way(self) -> None:
        """End the pipe for another one, which gets its places at once."""
        self.stop(Over("another pipe needs its place", WSCloseCode.TRY_AGAIN_LATER))
        for end in self._ends:
            end.opened.close()

    @property
    def waits(self) -> bool:
        """Whether only one of its ends has connected."""
        return not self._met.is_set()

    def holds(self, accounts: frozenset[Account]) -> bool:
        """Whether it counts towards one of these accounts."""
        return any(end.opened.counts and end.opened.accounts & accounts for end in self._ends)

    async def _wait_for_other(self) -> None:
        try:
            async with asyncio.timeout(self._limits.ticket):
                await first_of(self._met.wait(), asyncio.shield(self._stop))
        except TimeoutError:
            self.stop(Over("the other end did not come"))
        if self._met.is_set():
            await self._over.wait()  # the other end runs `_carry`, which closes both within `_close` s at its end
        else:
            await self._ends[0].close(self._stop.result(), self._close)

    async def _carry(self) -> None:
        try:
            await self._carry_until_over()
            await asyncio.gather(*(end.close(self._stop.result(), self._close) for end in self._ends))
        finally:
            self._over.set()

    async def _carry_until_over(self) -> None:
        left, right = self._ends
        self._accounts = left.opened.accounts | right.opened.accounts
        self._passed_at = asyncio.get_running_loop().time()
        try:
            await first_of(self._pump(left, right), self._pump(right, left), self._watch(), asyncio.shield(self._stop))
        except Over as over:
            self.stop(over)
        except ConnectionError:
            self.stop(Over("the other end is gone", WSCloseCode.GOING_AWAY))

    async def _pump(self, source: End, target: End) -> None:
        loop = asyncio.get_running_loop()
        while True:
            raw = await source.socket.receive()
            if raw.type not in (WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG):
                raise _end_of(raw.type)
            size = max(len(raw.data), PIPE_LEAST)
            if wait := self._charge(size, loop.time()):
                await asyncio.sleep(wait)
            if raw.type is WSMsgType.PING:
                await source.socket.pong(raw.data)
            elif raw.type is WSMsgType.BINARY:
                target.stuck_since = loop.time()
                await target.socket.send_bytes(raw.data)
                target.stuck_since = None
                self._passed_at = loop.time()
                self.passed += len(raw.data)
                self._statistics.relayed += len(raw.data)

    def _charge(self, size: int, now: float) -> float:
        try:
            return max(each.charge(size, now=now) for each in self._accounts)
        except Refused as refusal:
            raise Over(str(refusal), WSCloseCode.TRY_AGAIN_LATER) from None

    async def _watch(self) -> None:
        """Wait until the pipe is idle, or one message has waited, for too long."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(self._limits.idle, self._limits.stall) / 4)
            now = loop.time()
            if now - self._passed_at > self._limits.idle:
                raise Over(f"nothing passed for {self._limits.idle:g} s", WSCloseCode.GOING_AWAY)
            if any(end.stuck_since is not None and now - end.stuck_since > self._limits.stall for end in self._ends):
                raise Over(f"one end took nothing for {self._limits.stall:g} s", WSCloseCode.POLICY_VIOLATION)


class Relay:
    """All pipes of a server."""

    def __init__(self, limits: Limits, relay: RelayLimits, hub: Hub, tickets: Tickets, statistics: Statistics) -> None:
        self._limits = limits
        self._relay = relay
        self._hub = hub
        self._tickets = tickets
        self._statistics = statistics
        self._accounts = Accounts(relay, now=asyncio.get_running_loop().time(), make=hub.registry.make_bucket)
        self._pipes: dict[Pass, Pipe] = {}

    def __len__(self) -> int:
        return len(self._pipes)

    def admit(self, ticket: str, *, address: str) -> tuple[Pass, Opened]:
        """Redeem a ticket. Raises `Refused`. The caller must close the returned accounts in any case."""
        now = asyncio.get_running_loop().time()
        granted = self._tickets.redeem(ticket, now=now)
        room = self._hub.alias(granted.room)
        self._end_older(granted)
        while full := self._accounts.full(room, address, now=now):
            if not self._make_place(full, granted):
                break
        return granted, self._accounts.open(room, address, now=now)

    def _end_older(self, granted: Pass) -> None:
        """End older pipes, so that two members have at most two: one, and another one while they replace it."""
        older = [each for each in self._pipes if each.members == granted.members and each is not granted]
        for each in older[: 1 - PIPES_OF_PAIR]:
            self._pipes[each].give_way()

    def _make_place(self, full: frozenset[Account], granted: Pass) -> bool:
        """End the oldest pipe in one of these accounts that does not connect two current members; False if none does.

        Serve rejects a stranger's pipes soon, so they do not keep a member's out for longer than that.
        """
        for each, pipe in self._pipes.items():
            stands = not pipe.waits and all(self._hub.is_member(member) for member in each.members)
            if each is not granted and not stands and pipe.holds(full):
                self._pipes[each].give_way()
                return True
        return False

    async def run(self, granted: Pass, end: End) -> None:
        """Run one end until its pipe is over."""
        room = self._hub.alias(granted.room)
        pipe = self._pipes.get(granted)
        if pipe is None:
            pipe = self._pipes[granted] = Pipe(self._relay, self._limits.close, self._statistics)
        else:
            logger.info("room %s: a pipe opened, %d are open", room, len(self._pipes))
        keep_unsent_short(end.transport)
        try:
            over = await pipe.run(end)
        finally:
            if self._pipes.pop(granted, None):
                logger.info("room %s: a pipe has carried %d bytes", room, pipe.passed)
        logger.debug("room %s: an end closed: %s", room, over)

    def stop(self) -> None:
        """Close every pipe."""
        for pipe in self._pipes.values():
            pipe.stop(Over("the relay stops", WSCloseCode.GOING_AWAY))


def offered_ticket(request: web.BaseRequest) -> str | None:
    """Return the ticket that a client offers; None if it does not request a pipe."""
    offered = [each.strip() for each in request.headers.get("Sec-WebSocket-Protocol", "").split(",")]
    if PROTOCOL not in offered:
        return None
    return next((each for each in offered if each != PROTOCOL), "")


def status(refusal: Refused) -> int:
    """Return the HTTP status for a rejected pipe."""
    return 503 if refusal.code is Code.RELAY_LIMIT else 403


def _end_of(kind: WSMsgType) -> Over:
    if kind is WSMsgType.TEXT:
        return Over("a pipe takes binary messages only", WSCloseCode.UNSUPPORTED_DATA)
    if kind is WSMsgType.ERROR:
        return Over("one end sent what is no WebSocket frame, or too long", WSCloseCode.MESSAGE_TOO_BIG)
    return Over("the other end closed")


def keep_unsent_short(transport: asyncio.Transport) -> None:
    """Have the system buffer at most `UNSENT` bytes, besides those in transit, for a client that reads slowly."""
    end = transport.get_extra_info("socket")
    if end is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        with suppress(OSError):  # macOS: the connection was reset already
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)
