from __future__ import annotations

import pytest

from llmtunnel.config import Timeouts
from llmtunnel.session.backoff import Backoff

TIMEOUTS = Timeouts(retry_first=1.0, retry_max=5.0)


@pytest.fixture(params=[0.0, 1.0], ids=["shortest", "longest"], autouse=True)
def luck(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Where chance lies between its bounds."""
    monkeypatch.setattr("random.uniform", lambda low, high: low + (high - low) * request.param)
    return float(request.param)


def test_waits_double_up_to_the_last_one(luck: float) -> None:
    backoff = Backoff(TIMEOUTS)
    share = 0.7 + 0.3 * luck
    assert [backoff.next() for _ in range(5)] == pytest.approx([share * each for each in (1, 2, 4, 5, 5)])


def test_after_a_success_the_first_wait_is_the_first_again() -> None:
    backoff = Backoff(TIMEOUTS)
    first = backoff.next()
    backoff.next()
    backoff.reset()
    assert backoff.next() == first
