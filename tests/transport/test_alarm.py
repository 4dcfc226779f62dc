from __future__ import annotations

import asyncio

import pytest

from llmtunnel.protocol.liveness import OVERSLEPT
from llmtunnel.transport.alarm import Alarm

from ..conftest import VirtualTime
from ..support.embedded import until


class Clock:
    """An alarm, the time that is due, and how often it rang."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTime)
        self.loop = loop
        self.due: float | None = None
        self.rang = 0
        self.alarm = Alarm(lambda: self.due, self._ring)

    def set(self, seconds: float) -> None:
        self.due = self.loop.time() + seconds
        self.alarm.set()

    def _ring(self) -> None:
        self.rang += 1
        if self.due is not None and self.due <= self.loop.time():
            self.due = None


@pytest.mark.usefixtures("in_virtual_time")
async def test_it_rings_at_its_time_also_where_that_has_moved() -> None:
    clock = Clock()
    clock.set(60)
    clock.set(0.05)
    await until(lambda: clock.rang == 1, "back is seen at once")
    clock.set(0.05)
    clock.set(0.2)
    moved = clock.due
    await until(lambda: clock.due is None, "on is seen when it rings")
    assert moved is not None and clock.loop.time() >= moved
    assert not clock.alarm.take_overslept(clock.loop.time())


@pytest.mark.usefixtures("in_virtual_time")
async def test_it_never_rings_once_stopped() -> None:
    clock = Clock()
    clock.set(0.01)
    clock.alarm.stop()
    clock.set(0.01)
    await asyncio.sleep(0.1)
    assert clock.rang == 0


@pytest.mark.usefixtures("in_virtual_time")
async def test_that_this_process_was_stopped_is_told_once_before_it_rings_or_after() -> None:
    for rings_first in (True, False):
        clock = Clock()
        clock.set(0.01)
        clock.loop.now += OVERSLEPT + 0.2  # as in a process that is stopped
        if rings_first:
            await until(lambda: clock.rang)  # noqa: B023
        told = [clock.alarm.take_overslept(clock.loop.time()) for _ in range(1 + rings_first)]
        assert told[0] and not any(told[1:])
        clock.alarm.stop()


@pytest.mark.usefixtures("in_virtual_time")
async def test_a_time_that_has_passed_when_it_is_set_is_no_sleep() -> None:
    clock = Clock()
    clock.set(-60)
    assert not clock.alarm.take_overslept(clock.loop.time())
    await until(lambda: clock.rang)
    assert not clock.alarm.take_overslept(clock.loop.time())
