from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from llmtunnel.session import patience as module
from llmtunnel.session.patience import Patience

Run = Callable[..., Any]


class Told:
    """Why it was given up, and after how long."""

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._begun = self._loop.time()
        self.given_up: asyncio.Future[str] = self._loop.create_future()
        self.patience = Patience(seconds, self.given_up.set_result)

    async def after(self) -> float:
        async with asyncio.timeout(20):
            await self.given_up
        return self._loop.time() - self._begun


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GONE", 0.1)
    monkeypatch.setattr(module, "FRESH", 0.1)


def test_it_lasts_as_long_as_it_was_made_for_and_says_why(run: Run) -> None:
    async def main() -> None:
        told = Told(0.3)
        assert not told.patience.running
        told.patience.start("The peer is silent.")
        told.patience.start("It is still silent.")
        assert told.patience.running
        assert await told.after() >= 0.3
        assert told.given_up.result() == "The peer is silent. It did not come back within 0.3 s."
        assert not told.patience.running

    run(main())


def test_a_process_that_has_ended_is_waited_for_less_long(run: Run) -> None:
    async def main() -> None:
        before, meanwhile = Told(60), Told(60)
        before.patience.expect(gone=True)
        before.patience.start("It is gone.")
        meanwhile.patience.start("It is silent.")
        meanwhile.patience.expect(gone=True)
        assert max(await before.after(), await meanwhile.after()) < 20
        assert "within 0.1 s" in before.given_up.result()

    run(main())


@pytest.mark.parametrize("how", ["it comes to the room again", "it speaks", "it had spoken since"])
def test_one_that_is_there_after_all_has_all_the_time_again(run: Run, how: str) -> None:
    async def main() -> None:
        told = Told(0.5)
        told.patience.expect(gone=True)
        if how == "it had spoken since":
            await asyncio.sleep(0.15)
        told.patience.start("It is silent.")
        if how == "it speaks":
            told.patience.stop()
            told.patience.start("It is silent.")
        if how == "it comes to the room again":
            told.patience.expect(gone=False)
        assert await told.after() >= 0.5

    run(main())


def test_a_word_that_came_before_the_silence_takes_nothing_of_the_time_from_then_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who says it again and again would end each session at its first silence."""
    monkeypatch.setattr(module, "GONE", 0.3)
    monkeypatch.setattr(module, "FRESH", 20.0)

    async def main() -> None:
        told = Told(60)
        told.patience.expect(gone=True)
        await asyncio.sleep(0.2)
        begun = asyncio.get_running_loop().time()
        told.patience.start("It is silent.")
        await told.after()
        assert asyncio.get_running_loop().time() - begun >= 0.3

    run(main())
