from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from llmtunnel.notebook.ticking import Ticking, drawing_loop

Run = Callable[..., Any]


async def test_a_drawing_that_fails_is_logged_and_is_the_last(caplog: pytest.LogCaptureFixture) -> None:
    failed = asyncio.Event()

    def draw() -> bool:
        failed.set()
        raise ValueError("defect")

    Ticking(draw).start(asyncio.get_running_loop())
    await failed.wait()
    assert [each.levelno for each in caplog.records] == [logging.ERROR]


def test_what_ends_with_its_loop_is_drawn_once_more() -> None:
    drawn: list[str] = []
    drawn_once = asyncio.Event()

    def draw() -> bool:
        drawn.append("ended" if drawn_once.is_set() else "alive")
        drawn_once.set()
        return True

    async def main() -> None:
        Ticking(draw).start(asyncio.get_running_loop())
        await drawn_once.wait()

    asyncio.run(main())
    assert drawn == ["alive", "ended"]


async def test_stopping_ends_it() -> None:
    ticking = Ticking(lambda: True)
    ticking.start(asyncio.get_running_loop())
    ticking.stop()
    await asyncio.sleep(0)


def test_without_a_loop_that_runs_nothing_happens() -> None:
    closed = asyncio.new_event_loop()
    closed.close()
    for loop in (None, closed):
        ticking = Ticking(lambda: pytest.fail("drawn"))
        ticking.start(loop)
        ticking.stop()


def test_only_colab_draws_on_the_kernels_own_loop(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tunnels = asyncio.new_event_loop()
    tunnels.close()

    async def main() -> None:
        assert drawing_loop(tunnels) is tunnels
        monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
        assert drawing_loop(tunnels) is asyncio.get_running_loop()

    run(main())
    assert drawing_loop(tunnels) is tunnels
