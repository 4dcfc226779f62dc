"""Ways by local TCP between peers that stand already: serve says in the session where it listens, the proxy dials."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

from ..config import Settings
from ..errors import ConnectFailed
from ..paths import Path
from ..transport.base import Channel, Way
from ..transport.identity import Identity
from ..transport.tasks import ended, finish, report
from ..transport.tcp import Accept, TcpDialler, TcpListener

EXPECT: Final = 10.0
"""Seconds for which serve listens for a peer that it has told where; it may still be dialling other addresses."""


class SharedListener:
    """Serve's listener, for all its peers: it is there only while one is expected."""

    def __init__(self, settings: Settings, identity: Identity) -> None:
        self._settings = settings
        self._identity = identity
        self._listener: TcpListener | None = None
        self._expected = 0
        self._starting = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def expect(self, fingerprint: bytes, accept: Accept) -> tuple[str, ...]:
        """Where the peer with this certificate may come from now on, until `forget`, which is called once for each."""
        self._expected += 1
        async with self._starting:
            if self._listener is None:
                timeouts, loopback = self._settings.timeouts, self._settings.loopback
                self._listener = TcpListener(self._identity, timeouts=timeouts, loopback=loopback)
                await self._listener.start()
            self._listener.expect(fingerprint, accept)
            return self._listener.addresses

    def forget(self, fingerprint: bytes, accept: Accept) -> None:
        """Withdraw one expectation; where none is left, stop listening."""
        self._expected -= 1
        if self._listener is None:
            return
        self._listener.forget(fingerprint, accept)
        if self._expected == 0:
            closing = asyncio.create_task(finish(self._listener.aclose), name="listening no more")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            closing.add_done_callback(report)
            self._listener = None

    async def aclose(self) -> None:
        """Return when all is closed; nobody is expected any more."""
        await finish(partial(ended, *self._closing))


class ListenWay(Way):
    """Serve's: wait for the peer with this certificate, which ``tell`` tells where."""

    name = "tcp"

    def __init__(
        self, listener: SharedListener, fingerprint: bytes, *, tell: Callable[[tuple[str, ...]], None]
    ) -> None:
        self._shared_listener = listener
        self._fingerprint = fingerprint
        self._tell = tell
        self._addresses: tuple[str, ...] | None = None
        """None before it listens."""
        self._came: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

    async def open(self) -> Channel:
        """As `Way.open`."""
        try:
            self._addresses = await self._shared_listener.expect(self._fingerprint, self._accept)
            self._tell(self._addresses)  # none too: the peer need not wait then
            if not self._addresses:
                raise ConnectFailed("This machine has no address that the other side could use.")
            async with asyncio.timeout(EXPECT):
                return await asyncio.shield(self._came)
        except TimeoutError as exc:
            raise ConnectFailed(f"Cannot reach the peer over {Path.TCP}: it did not connect.") from exc
        finally:
            self._shared_listener.forget(self._fingerprint, self._accept)

    def tell_again(self, tell: Callable[[tuple[str, ...]], None]) -> None:
        """The session is on another channel: what was told may have been lost with the last one."""
        self._tell = tell
        if self._addresses is not None:
            tell(self._addresses)

    async def aclose(self) -> None:
        """As `Way.aclose`."""
        if self._came.done():
            await self._came.result().aclose()

    def _accept(self, channel: Channel) -> None:
        self._came.set_result(channel)


class DialWay(Way):
    """The proxy's: to where serve says that it listens."""

    name = "tcp"

    def __init__(self, dialler: TcpDialler, addresses: tuple[str, ...]) -> None:
        self._dialler = dialler
        self._addresses = addresses
        self._channel: Channel | None = None

    async def open(self) -> Channel:
        """As `Way.open`."""
        self._channel = await self._dialler.dial(self._addresses)
        return self._channel

    async def aclose(self) -> None:
        """As `Way.aclose`."""
        if self._channel is not None:
            await self._channel.aclose()
