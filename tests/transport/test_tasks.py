from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial

import pytest

from llmtunnel.errors import PeerLost
from llmtunnel.transport import tasks
from llmtunnel.transport.tasks import ended, finish, first_of, report, stop
from tests.conftest import run


async def fail(error: BaseException) -> None:
    raise error


async def fail_when_cancelled(error: Exception) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        raise error


async def settle() -> None:
    await asyncio.sleep(0)


def defects(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(record.exc_info[1]) for record in caplog.records if record.exc_info]


async def test_a_defect_is_logged_with_its_traceback_when_it_happens(caplog: pytest.LogCaptureFixture) -> None:
    task = asyncio.create_task(fail(ValueError("a defect")), name="the work")
    task.add_done_callback(report)
    await asyncio.wait((task,))
    await settle()
    assert defects(caplog) == ["a defect"]
    assert "the work" in caplog.text


async def test_a_task_that_ends_or_is_cancelled_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="llmtunnel"):
        ended, cancelled = asyncio.create_task(settle()), asyncio.create_task(asyncio.Event().wait())
        for task in ended, cancelled:
            task.add_done_callback(report)
        await settle()
        cancelled.cancel()
        await asyncio.wait((ended, cancelled))
        await settle()
        assert not caplog.records


@pytest.mark.parametrize("error", [ValueError("a defect"), OSError("gone"), PeerLost("gone"), RuntimeError("closed")])
async def test_of_those_that_are_cut_short_defects_are_logged(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    await first_of(settle(), fail_when_cancelled(error), name="side by side")
    assert defects(caplog) == (["a defect"] if isinstance(error, ValueError) else [])


def test_of_several_that_fail_at_once_the_defect_counts(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):  # the order in which those that are over are looked at differs
        with pytest.raises(ValueError, match="a defect"):
            run(first_of(fail(OSError("gone")), fail(ValueError("a defect")), name="side by side"))


# -- a shutdown, step by step


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("STEP", 0.1), ("HURRY", 0.05), ("GRACE", 0.05)):
        monkeypatch.setattr(tasks, name, seconds)


async def never() -> None:
    await asyncio.Event().wait()


async def never_even_if_cancelled(until: asyncio.Event) -> None:
    while not until.is_set():
        with suppress(asyncio.CancelledError):
            await until.wait()


async def test_steps_run_one_after_the_other_whatever_becomes_of_each(
    caplog: pytest.LogCaptureFixture, quick: None
) -> None:
    ran: list[str] = []

    async def step(name: str) -> None:
        ran.append(f"{name} begins")
        await settle()
        ran.append(f"{name} ends")

    await finish(
        partial(step, "one"),
        partial(fail, ValueError("a defect")),
        partial(fail, OSError("gone")),
        lambda: ran.append("without a wait"),
        lambda: [][0],
        never,
        partial(step, "two"),
    )
    assert ran == ["one begins", "one ends", "without a wait", "two begins", "two ends"]
    assert defects(caplog) == ["a defect", "list index out of range"]
    told = [record.getMessage() for record in caplog.records]
    assert "closing: fail failed: OSError('gone')" in told
    assert "closing: never has not ended after 0.1 s, and is cancelled" in told


async def test_steps_that_run_together_take_as_long_as_the_longest(quick: None) -> None:
    first, second = asyncio.Event(), asyncio.Event()

    async def meet(mine: asyncio.Event, other: asyncio.Event) -> None:
        mine.set()
        await other.wait()

    await finish(partial(meet, first, second), partial(meet, second, first), never, together=True)
    await finish()
    await finish(together=True)


async def test_a_shutdown_that_is_cancelled_runs_the_rest_in_a_hurry_and_is_cancelled_then(quick: None) -> None:
    ran: list[str] = []

    async def inner() -> None:
        await finish(never, lambda: ran.append("inner"))

    closing = asyncio.create_task(finish(inner, never, lambda: ran.append("outer")))
    for _ in range(5):
        await settle()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert closing.cancelled()
    assert ran == ["inner", "outer"]


async def test_what_does_not_end_even_when_cancelled_is_left_and_told(
    caplog: pytest.LogCaptureFixture, quick: None
) -> None:
    until = asyncio.Event()
    stubborn = asyncio.create_task(never_even_if_cancelled(until), name="stubborn")
    await settle()
    await stop(stubborn)
    assert not stubborn.done()
    await finish(partial(never_even_if_cancelled, until))
    until.set()
    for _ in range(3):
        await settle()
    assert "stubborn has not ended 0.05 s after it was cancelled" in caplog.text
    assert "closing: never_even_if_cancelled has not ended 0.05 s after it was cancelled" in caplog.text


async def test_to_stop_tasks_is_to_wait_until_they_have_cleaned_up(quick: None) -> None:
    cleaned: list[int] = []

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await settle()
            cleaned.append(number)

    running = [asyncio.create_task(work(number)) for number in range(3)]
    await settle()
    await stop(*running, asyncio.create_task(fail(ValueError("somebody else tells of it"))))
    await stop()
    assert cleaned == [0, 1, 2]


async def test_to_cancel_the_wait_for_what_is_closing_cancels_that(quick: None) -> None:
    closing = asyncio.create_task(never())
    waiting = asyncio.create_task(ended(closing))
    await ended()
    await settle()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert closing.cancelled()
