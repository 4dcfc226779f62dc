from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from llmtunnel.config import Timeouts
from llmtunnel.errors import PeerLost, SignalUnreachable
from llmtunnel.session.rejoin import Rejoin
from llmtunnel.status import Reconnecting

from ..embedded import Heard, quicker

Run = Callable[..., Any]
PATIENT = quicker(retry_first=60.0, retry_max=60.0, retry_waiting=0.05)
AWAY = SignalUnreachable("It is away.", hint="Wait.")


class Proxy(Heard):
    """What a proxy's room has of it."""

    def __init__(self, timeouts: Timeouts) -> None:
        super().__init__()
        self.connecting = False
        self.rejoin = Rejoin(timeouts, connecting=lambda: self.connecting, notify=self)

    async def is_due(self, seconds: float = 20.0) -> bool:
        """Whether it comes in anew within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self.rejoin.wait()
        except TimeoutError:
            return False
        return True


def test_it_comes_when_a_link_is_wanted_and_not_while_one_is_being_made(run: Run) -> None:
    async def main() -> None:
        proxy = Proxy(PATIENT)
        proxy.rejoin.reached()
        assert not await proxy.is_due(0.1)
        proxy.rejoin.want()
        assert await proxy.is_due()
        proxy.connecting = True
        proxy.rejoin.want()
        assert not await proxy.is_due(0.1)

    run(main())


def test_after_a_failure_it_waits_and_after_a_link_that_lasted_it_does_not(run: Run) -> None:
    async def main() -> None:
        failed, lasted = Proxy(PATIENT), Proxy(quicker(retry_first=60.0, retry_max=0.0))
        failed.rejoin.want_again(PeerLost("It did not answer."))
        assert not await failed.is_due(0.1)
        lasted.rejoin.reached()
        await asyncio.sleep(0.01)
        lasted.rejoin.want_again(PeerLost("It was killed."))
        assert await lasted.is_due()
        assert [each.delay > 0 for each in failed.of(Reconnecting) + lasted.of(Reconnecting)] == [True, False]

    run(main())


def test_a_signal_server_that_streams_wait_for_is_tried_soon_and_at_once_when_they_begin_to(run: Run) -> None:
    async def main() -> None:
        proxy = Proxy(PATIENT)
        async with asyncio.timeout(20):
            await proxy.rejoin.pause(AWAY, soon=True)
            waiting = asyncio.create_task(proxy.rejoin.pause(AWAY, soon=False))
            await asyncio.sleep(0.1)
            assert not waiting.done()
            proxy.rejoin.hurry()
            await waiting
        soon, late = proxy.of(Reconnecting)
        assert (soon.reason, soon.hint, soon.delay) == ("It is away.", "Wait.", 0.05)
        assert late.delay > 20

    run(main())


@pytest.mark.parametrize("event", ["asked to connect anew", "failed for good"])
def test_what_happens_during_the_delay_after_a_failure_ends_it(run: Run, event: str) -> None:
    async def main() -> None:
        proxy = Proxy(PATIENT)
        proxy.rejoin.want_again(PeerLost("It did not answer."))
        due = asyncio.create_task(proxy.is_due())
        await asyncio.sleep(0.1)
        assert not due.done()
        if event == "failed for good":
            proxy.rejoin.give_up(PeerLost("Its secret is another one."))
        else:
            proxy.rejoin.want()
        assert await due

    run(main())


def test_an_event_that_is_none_of_its_business_does_not_shorten_the_delay_or_begin_it_again(run: Run) -> None:
    async def main() -> None:
        proxy = Proxy(quicker(retry_first=0.4, retry_max=60.0))
        began = asyncio.get_running_loop().time()
        proxy.rejoin.want_again(PeerLost("It did not answer."))
        [told] = proxy.of(Reconnecting)
        due = asyncio.create_task(proxy.is_due())
        for _ in range(3):
            await asyncio.sleep(told.delay / 4)
            assert not due.done()
            proxy.rejoin.hurry()
        assert await due
        assert told.delay - 0.01 <= asyncio.get_running_loop().time() - began

    run(main())


def test_what_cannot_be_mended_ends_each_wait(run: Run) -> None:
    async def main() -> None:
        proxy = Proxy(PATIENT)
        proxy.rejoin.reached()
        proxy.rejoin.give_up(PeerLost("Its secret is another one."))
        assert await proxy.is_due()
        assert proxy.rejoin.failure is not None

    run(main())
