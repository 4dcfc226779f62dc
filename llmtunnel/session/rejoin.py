"""When a member comes into its room anew: as a proxy that wants another link, or as one that lost the signal server.

One event ends every wait in it; what is due then is looked up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from ..config import Timeouts
from ..errors import SignalError, TunnelError
from ..status import Notice, Reconnecting
from .backoff import Backoff


class Rejoin:
    """``connecting``: whether a link is being made, which is waited for before another one is wanted."""

    def __init__(self, timeouts: Timeouts, *, connecting: Callable[[], bool], notify: Callable[[Notice], None]) -> None:
        self.wanted = True
        """Proxy: another link is."""
        self.failure: TunnelError | None = None
        """What cannot be mended: nothing is to be tried any more."""
        self._timeouts = timeouts
        self._connecting = connecting
        self._notify = notify
        self._event = asyncio.Event()
        self._due = 0.0
        """When another link may be made, as the loop's time."""
        self._reached_at = 0.0
        self._retry_signal = Backoff(timeouts)
        self._retry_link = Backoff(timeouts)

    # -- what happens

    def joined(self) -> None:
        """The signal server is there."""
        self._retry_signal.reset()

    def reached(self) -> None:
        """A link carries a session."""
        self.wanted = False
        self._reached_at = asyncio.get_running_loop().time()

    def give_up(self, failure: TunnelError) -> None:
        """Nothing can be mended."""
        self.failure = failure
        self._event.set()

    def hurry(self) -> None:
        """Wait no longer for the signal server."""
        self._retry_signal.reset()
        self._event.set()

    def want(self) -> None:
        """A link beside what there is, now. Serve only comes to the signal server anew."""
        self.wanted = True
        self._retry_link.reset()
        self._due = 0.0
        self._event.set()

    def want_again(self, reason: TunnelError) -> None:
        """A proxy has no link: at once after one that lasted, later after a failure."""
        self.wanted = True
        now = asyncio.get_running_loop().time()
        if self._reached_at and now - self._reached_at > self._timeouts.retry_max:
            self._retry_link.reset()
            delay = self._reached_at = 0.0
        else:
            delay = self._retry_link.next()
        self._due = now + delay
        self._notify(Reconnecting(what="peer", reason=str(reason), hint=reason.hint, delay=round(delay, 3)))
        self._event.set()

    # -- waiting

    def begin(self) -> None:
        """A connection to the signal server is begun: what was wanted until now is had by it."""
        self._event.clear()

    async def pause(self, exc: SignalError, *, soon: bool) -> None:
        """Before the signal server is tried again; ``soon``: streams wait for it."""
        delay = self._retry_signal.next()
        if soon:
            delay = min(delay, self._timeouts.retry_waiting)
        self._notify(Reconnecting(what="signal server", reason=str(exc), hint=exc.hint, delay=round(delay, 3)))
        with suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._event.wait()

    async def wait(self) -> None:
        """Until another link is wanted, and none is being made when it is due; or until there is a failure.

        Whatever happens meanwhile may change when it is due.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self._event.wait()
            self._event.clear()
            while self.failure is None and (left := self._due - loop.time()) > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._event.wait()
                self._event.clear()
            if self.failure is not None or (self.wanted and not self._connecting()):
                return
