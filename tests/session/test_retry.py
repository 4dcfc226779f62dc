from __future__ import annotations

import asyncio

import pytest

from llmtunnel.config import Timeouts
from llmtunnel.errors import PeerLost
from llmtunnel.paths import KINDS, Path
from llmtunnel.session.retry import DENIED, FIRST, LAST, Backoff, Retry
from llmtunnel.status import Reconnecting, Role

from ..support.embedded import quicker
from ..support.members import Member, running

TIMEOUTS = Timeouts(retry_first=1.0, retry_max=5.0, retry_waiting=0.5)


@pytest.fixture(params=[0.0, 1.0], ids=["shortest", "longest"])
def luck(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Where chance lies between its bounds."""
    monkeypatch.setattr("random.uniform", lambda low, high: low + (high - low) * request.param)
    return float(request.param)


# -- delays


def test_waits_double_up_to_the_last_one(luck: float) -> None:
    backoff = Backoff(TIMEOUTS)
    share = 0.7 + 0.3 * luck
    assert [backoff.next() for _ in range(5)] == pytest.approx([share * each for each in (1, 2, 4, 5, 5)])


def test_after_a_success_the_first_wait_is_the_first_again(luck: float) -> None:
    backoff = Backoff(TIMEOUTS)
    first = backoff.next()
    backoff.next()
    backoff.reset()
    assert backoff.next() == first


# -- another link


def test_a_link_is_wanted_until_one_carries_and_at_once_when_what_carries_fails() -> None:
    retry = Retry(TIMEOUTS)
    assert retry.link_wanted and retry.link_delay(0.0) == 0
    retry.reached(0.0)
    assert not retry.link_wanted
    retry.want_link()
    assert retry.link_wanted and retry.link_delay(0.0) == 0


def test_after_a_failure_it_waits_and_after_a_link_that_lasted_it_does_not(luck: float) -> None:
    retry = Retry(TIMEOUTS)
    first = retry.link_failed(10.0)
    assert first > 0
    assert retry.link_delay(10.0) == pytest.approx(first)
    assert retry.link_delay(10.0 + first) == 0
    assert retry.link_failed(20.0) == pytest.approx(2 * first)
    retry.reached(30.0)
    assert retry.link_failed(30.1) > 0  # it did not last
    retry.reached(40.0)
    assert retry.link_failed(46.0) == 0
    assert retry.link_failed(47.0) == pytest.approx(first)


@pytest.mark.parametrize("event", ["want_link", "failure"])
def test_what_happens_during_the_delay_after_a_failure_ends_it(event: str) -> None:
    retry = Retry(TIMEOUTS)
    retry.link_failed(0.0)
    assert retry.link_delay(0.0) > 0
    if event == "failure":
        retry.failure = PeerLost("Its secret is another one.")
    else:
        retry.want_link()
    assert retry.link_delay(0.0) == 0


# -- the signal server


def test_a_signal_server_that_streams_wait_for_is_tried_soon() -> None:
    retry = Retry(Timeouts(retry_first=60.0, retry_max=60.0, retry_waiting=0.05))
    assert retry.signal_delay(soon=True) == 0.05
    assert retry.signal_delay(soon=False) > 20


def test_a_signal_server_that_no_longer_admits_us_is_tried_rarely_even_if_streams_wait() -> None:
    retry = Retry(TIMEOUTS)
    assert all(10 < retry.signal_delay(soon=soon, denied=True) <= DENIED for soon in (True, False))


@pytest.mark.parametrize("what", ["joined", "hurry"])
def test_the_wait_for_the_signal_server_begins_with_the_first_again(luck: float, what: str) -> None:
    retry = Retry(TIMEOUTS)
    first = retry.signal_delay(soon=False)
    retry.signal_delay(soon=False)
    getattr(retry, what)()
    assert retry.signal_delay(soon=False) == first


# -- a better path


@pytest.mark.parametrize("path", [Path.TURN, Path.RELAY])
def test_on_a_poor_path_a_better_one_is_tried_for_ever_more_seldom(path: Path) -> None:
    retry, now, waits = Retry(TIMEOUTS), 100.0, []
    retry.carries(path, now)
    retry.carries(path, now + 1.0)  # said again, it changes nothing
    for _ in range(6):
        assert retry.better_due is not None and not retry.take_better(retry.better_due - 0.1)
        waits.append(retry.better_due - now)
        now = retry.better_due
        assert retry.take_better(now)
    assert waits == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST, LAST, LAST]


@pytest.mark.parametrize("path", [*(each for each in Path if each not in KINDS or not KINDS[each].poor), None])
def test_a_good_path_or_none_ends_it_and_the_next_poor_one_begins_anew(path: Path | None) -> None:
    retry = Retry(TIMEOUTS)
    retry.carries(Path.RELAY, 0.0)
    assert retry.take_better(FIRST)
    if path is None:
        retry.disturbed()
    else:
        retry.carries(path, FIRST)
    assert retry.better_due is None and not retry.take_better(10_000.0)
    retry.carries(Path.RELAY, 0.0)
    assert retry.better_due == FIRST


# -- how a room waits


@pytest.mark.usefixtures("in_virtual_time")
@pytest.mark.parametrize("event", ["asked to connect anew", "failed for good"])
async def test_a_room_waits_no_longer_when_something_happens(event: str) -> None:
    proxy = Member(Role.PROXY, "ws://127.0.0.1:9", timeouts=quicker(retry_first=60.0, retry_max=60.0))
    proxy.fail_link(PeerLost("It did not answer."))
    due = asyncio.create_task(proxy.until_due(), name="waiting")
    await asyncio.sleep(0.1)
    assert not due.done()
    if event == "failed for good":
        proxy.give_up(PeerLost("Its secret is another one."))
    else:
        proxy.room.reconnect()
    async with asyncio.timeout(20):
        await due
    [told] = [each for each in proxy.of(Reconnecting) if each.what == "peer"]
    assert told.delay > 20


@pytest.mark.usefixtures("in_virtual_time")
async def test_an_event_that_has_nothing_to_do_with_a_link_does_not_shorten_its_delay_or_begin_it_again() -> None:
    proxy = Member(Role.PROXY, "ws://127.0.0.1:9", timeouts=quicker(retry_first=0.4, retry_max=60.0))
    began = asyncio.get_running_loop().time()
    proxy.fail_link(PeerLost("It did not answer."))
    [told] = proxy.of(Reconnecting)
    due = asyncio.create_task(proxy.until_due(), name="waiting")
    for _ in range(3):
        await asyncio.sleep(told.delay / 4)
        assert not due.done()
        proxy.stir()
    async with asyncio.timeout(20):
        await due
    assert told.delay - 0.01 <= asyncio.get_running_loop().time() - began


async def test_the_wait_for_the_signal_server_is_told_and_ends_when_something_happens() -> None:
    proxy = Member(Role.PROXY, "ws://127.0.0.1:9", timeouts=quicker(retry_first=60.0, retry_max=60.0))
    async with running(proxy):
        await proxy.heard("reconnecting")
        await asyncio.sleep(0.1)
        [told] = proxy.of(Reconnecting)
        assert told.what == "signal server" and "127.0.0.1:9" in told.reason and told.hint
        assert told.delay > 20
        proxy.room.reconnect()
        await proxy.heard("reconnecting", 3)
        [*_, asked, again] = proxy.of(Reconnecting)
        assert (asked.delay, again.reason) == (0.0, told.reason)
