from __future__ import annotations

import asyncio
import logging

import pytest

from llmtunnel.errors import PeerLost
from llmtunnel.transport.tasks import first_of, report
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


def test_a_defect_is_logged_with_its_traceback_when_it_happens(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        task = asyncio.create_task(fail(ValueError("a defect")), name="the work")
        task.add_done_callback(report)
        await asyncio.wait((task,))
        await settle()
        assert defects(caplog) == ["a defect"]
        assert "the work" in caplog.text

    run(main())


def test_a_task_that_ends_or_is_cancelled_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        ended, cancelled = asyncio.create_task(settle()), asyncio.create_task(asyncio.Event().wait())
        for task in ended, cancelled:
            task.add_done_callback(report)
        await settle()
        cancelled.cancel()
        await asyncio.wait((ended, cancelled))
        await settle()
        assert not caplog.records

    with caplog.at_level(logging.DEBUG, logger="llmtunnel"):
        run(main())


@pytest.mark.parametrize("error", [ValueError("a defect"), OSError("gone"), PeerLost("gone"), RuntimeError("closed")])
def test_of_those_that_are_cut_short_defects_are_logged(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    run(first_of(settle(), fail_when_cancelled(error), name="side by side"))
    assert defects(caplog) == (["a defect"] if isinstance(error, ValueError) else [])


def test_of_several_that_fail_at_once_the_defect_counts(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(20):  # the order in which those that are over are looked at differs
        with pytest.raises(ValueError, match="a defect"):
            run(first_of(fail(OSError("gone")), fail(ValueError("a defect")), name="side by side"))
