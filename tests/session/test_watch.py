from __future__ import annotations

import asyncio

import pytest

from llmtunnel.session import watch as watch_module
from llmtunnel.session.watch import EVERY, NetworkWatch, source_addresses

HOME, CAFE, NOWHERE = ("192.168.0.7", ""), ("10.1.1.4", ""), ("", "")


def test_nothing_has_changed_while_looks_come_in_time_and_find_the_same() -> None:
    watching = NetworkWatch(100.0, HOME)
    assert not any(watching.look(100.0 + EVERY * count + 0.3, HOME) for count in range(1, 50))


def test_another_address_is_told_once() -> None:
    watching = NetworkWatch(100.0, HOME)
    assert [watching.look(100.0 + EVERY * count, CAFE) for count in (1, 2)] == [True, False]


def test_no_way_at_all_is_no_other_way_but_one_that_comes_back_is() -> None:
    watching = NetworkWatch(100.0, HOME)
    seen = [NOWHERE, NOWHERE, HOME, HOME, NOWHERE, CAFE]
    told = [watching.look(100.0 + EVERY * (count + 1), each) for count, each in enumerate(seen)]
    assert told == [False, False, True, False, False, True]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_clock_that_jumped_is_told_once(jump: float) -> None:
    watching = NetworkWatch(100.0, HOME)
    assert watching.look(100.0 + EVERY + jump, HOME)
    assert not watching.look(100.0 + 2 * EVERY + jump, HOME)


def test_this_machine_tells_which_addresses_it_would_send_from() -> None:
    addresses = source_addresses()
    assert len(addresses) == 2
    assert addresses == source_addresses()


async def test_who_watches_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    places = iter([HOME, HOME, CAFE, *[CAFE] * 100])
    monkeypatch.setattr(watch_module, "EVERY", 0.01)
    monkeypatch.setattr(watch_module, "source_addresses", lambda: next(places))
    changed = asyncio.Event()
    watching = asyncio.create_task(watch_module.watch(changed.set), name="watching")
    async with asyncio.timeout(10):
        await changed.wait()
    watching.cancel()
    await asyncio.wait((watching,))
