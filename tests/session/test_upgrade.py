from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from llmtunnel.session import upgrade as module
from llmtunnel.session.upgrade import POOR, Upgrade
from llmtunnel.status import Path

from ..embedded import until

Run = Callable[..., Any]


class Tries:
    """When a better path was tried for."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.at = [self._loop.time()]
        """The first is the beginning."""
        self.upgrade = Upgrade(lambda: self.at.append(self._loop.time()))

    @property
    def waits(self) -> list[float]:
        return [after - before for before, after in zip(self.at, self.at[1:], strict=False)]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST", 0.05)
    monkeypatch.setattr(module, "LAST", 0.2)


@pytest.mark.parametrize("path", POOR)
def test_on_a_poor_path_it_tries_again_ever_more_seldom(run: Run, path: Path) -> None:
    async def main() -> None:
        tries = Tries()
        tries.upgrade.carries(path)
        tries.upgrade.carries(path)  # said again, it changes nothing
        await until(lambda: len(tries.waits) == 4)
        tries.upgrade.stop()
        assert all(took >= least for took, least in zip(tries.waits, (0.05, 0.1, 0.2, 0.2), strict=True))

    run(main())


@pytest.mark.parametrize("path", [each for each in Path if each not in POOR])
def test_a_good_path_ends_it_and_the_next_poor_one_begins_anew(run: Run, path: Path) -> None:
    async def main() -> None:
        tries = Tries()
        tries.upgrade.carries(Path.RELAY)
        await until(lambda: len(tries.waits) == 2)
        tries.upgrade.carries(path)
        await asyncio.sleep(0.3)
        assert len(tries.waits) == 2
        tries.upgrade.carries(Path.RELAY)
        await until(lambda: len(tries.waits) == 3)
        tries.upgrade.stop()
        assert tries.upgrade._delay == module.FIRST

    run(main())
