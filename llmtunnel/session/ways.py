"""Ways to one member, tried side by side. Each opens a channel, or says why it cannot.

    direct    WebRTC by offer and answer: directly, or through a TURN server
    relay     a pipe through the signal server; only the proxy asks for it, and both sides receive a ticket

What is said on a channel, and which channel carries the session, is decided in link.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from ..config import Settings
from ..errors import ConnectFailed
from ..paths import Path
from ..signaling import messages
from ..signaling.messages import IceCandidate
from ..transport.base import Channel, Way
from ..transport.identity import Identity
from ..transport.relay import open_relay
from ..transport.servers import IceServer
from ..transport.tls import Welcome
from ..transport.webrtc import WebRtcPeer

HEAD_START: Final = 0.3
"""Seconds that a direct path gets before we ask for the relay. An easy direct path then costs the relay nothing."""

PATIENT_START: Final = 5.0
"""The same for a session that cannot move to a better path later."""

Send = Callable[[str], None]
"""Queues a signalling message. One that can no longer be sent is dropped, and the peer will time out."""


class DirectWay(Way):
    """WebRTC. Call `answer` before `open` if the member makes the offer; otherwise `open` makes one."""

    name = "direct"

    def __init__(
        self,
        settings: Settings,
        *,
        servers: Sequence[IceServer],
        server: bool,
        identity: Identity,
        send: Send,
        to: str | None,
        peer: str,
    ) -> None:
        self._timeout = settings.timeouts.answer
        self._patience = settings.timeouts.connect
        self._server = server
        self._unused = settings.tried.isdisjoint((Path.DIRECT, Path.TURN))
        """Whether WebRTC only introduces the two peers, since no path over it may be used."""
        self._send = send
        self._to = to
        self._member = peer
        self._offer: str | None = None
        """The member's offer; None if we make it."""
        self._answered = asyncio.Event()
        self.told = asyncio.Event()
        """Set once the member knows of this link, or never will. It could not attribute an earlier message to this
        link."""
        self.peer = WebRtcPeer(
            servers=servers,
            timeouts=settings.timeouts,
            limits=settings.limits,
            identity=identity,
            on_candidate=self._tx_candidate,
            loopback=settings.loopback,
            paths=settings.tried,
        )

    def answer(self, sdp: str) -> None:
        """Accept the member's offer."""
        self.told.set()
        self._answered.set()
        self._offer = sdp

    async def take_answer(self, sdp: str) -> None:
        """Accept the member's answer; only the first one counts. Raises `ConnectFailed`."""
        if not self._answered.is_set():
            self._answered.set()
            await self.peer.accept(sdp)

    async def open(self) -> Channel:
        """As `Way.open`."""
        try:
            self._send(await self._introduction())
        finally:
            self.told.set()
        if self._unused:
            await self._let_others_come()
        if self._offer is None:
            await self._wait_for_answer()
        return await self.peer.channel()

    async def aclose(self) -> None:
        """As `Way.aclose`."""
        await self.peer.aclose()

    async def _let_others_come(self) -> None:
        """Wait, as serve, for the proxy to ask for the relay."""
        if self._server:
            await asyncio.sleep(self._patience)
        raise ConnectFailed("WebRTC only introduces the two sides: --path selects another path.")

    async def _introduction(self) -> str:
        if self._offer is None:
            return messages.offer(await self.peer.offer(), to=self._to)
        return messages.answer(await self.peer.answer(self._offer), to=self._to)

    async def _wait_for_answer(self) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._answered.wait()
        except TimeoutError as exc:
            raise ConnectFailed(f"{self._member} did not answer the offer to connect.") from exc

    def _tx_candidate(self, candidate: IceCandidate) -> None:
        self._send(messages.candidate(candidate, to=self._to))


class RelayWay(Way):
    """A pipe through the relay, opened when a ticket has arrived. ``welcome``: which certificates are accepted."""

    name = "relay"

    def __init__(self, settings: Settings, *, identity: Identity, server: bool, welcome: Welcome) -> None:
        self._settings = settings
        self._identity = identity
        self._server = server
        self._welcome = welcome
        self._answered = asyncio.Event()
        self._ticket: str | None = None
        self._refusal = ""
        self._channel: Channel | None = None

    def take_ticket(self, ticket: str) -> None:
        """Accept a ticket; only the first one counts."""
        if not self._answered.is_set():
            self._ticket = ticket
            self._answered.set()

    def refuse(self, reason: str) -> None:
        """Note that the signal server refuses a ticket."""
        if not self._answered.is_set():
            self._refusal = reason
            self._answered.set()

    async def open(self) -> Channel:
        """As `Way.open`."""
        try:
            async with asyncio.timeout(self._settings.timeouts.answer):
                await self._answered.wait()
        except TimeoutError as exc:
            raise ConnectFailed("The signal server did not send a ticket for its relay.") from exc
        if self._ticket is None:
            raise ConnectFailed(f"The signal server refused a pipe through its relay: {self._refusal}.")
        self._channel = await open_relay(
            self._settings.signal,
            self._ticket,
            identity=self._identity,
            server=self._server,
            timeouts=self._settings.timeouts,
            welcome=self._welcome,
        )
        return self._channel

    async def aclose(self) -> None:
        """As `Way.aclose`."""
        if self._channel is not None:
            await self._channel.aclose()


class AskedRelayWay(RelayWay):
    """The proxy's relay: asks for a pipe ``head_start`` seconds after ``told`` is set, and only while ``wanted``."""

    on_demand = True

    def __init__(
        self,
        settings: Settings,
        *,
        identity: Identity,
        welcome: Welcome,
        told: asyncio.Event,
        head_start: float,
        ask: Callable[[], None],
        wanted: Callable[[], bool],
    ) -> None:
        super().__init__(settings, identity=identity, server=False, welcome=welcome)
        self._told = told
        self._head_start = head_start
        self._ask = ask
        self._wanted = wanted
        self._look = asyncio.Event()
        self._last = False

    def look(self, *, last: bool = False) -> None:
        """Check again whether the relay is wanted. ``last``: no other way is left."""
        self._last = self._last or last
        self._look.set()

    async def open(self) -> Channel:
        """As `Way.open`."""
        await self._told.wait()  # the direct way always sets it, and the link cancels what it abandons
        with suppress(TimeoutError):
            async with asyncio.timeout(self._head_start):
                while not self._last:
                    await self._wait_for_look()
        while not self._wanted():
            if self._last:
                raise ConnectFailed("The relay is not needed.")
            await self._wait_for_look()
        self._ask()
        return await super().open()

    async def _wait_for_look(self) -> None:
        self._look.clear()
        await self._look.wait()  # for as long as another way is open or being tried: its end calls `look`
