from __future__ import annotations

import json
import time
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from llmtunnel import status
from llmtunnel.paths import Path
from llmtunnel.status import (
    ErrorNotice,
    Listening,
    Notice,
    PeerConnected,
    PeerLostNotice,
    PeerStatus,
    Percentiles,
    Phase,
    Ready,
    Reconnecting,
    RequestFinished,
    RequestRecord,
    Resumed,
    Role,
    SignalConnected,
    Status,
    Stopped,
    Suspended,
    TotalsNotice,
    Waiting,
)

RECORD = RequestRecord(
    method="GET", path="/a", status=200, bytes_up=1, bytes_down=2, first_byte_ms=3.0, duration_ms=4.0, peer="p"
)
NOTICES: list[Notice] = [
    SignalConnected(signal="ws://s", room="r"),
    Waiting(room="r", role=Role.PROXY),
    Listening(url="http://127.0.0.1:1", addresses=("127.0.0.1:1", "[::1]:1")),
    PeerConnected(peer="p", path=Path.DIRECT, version="v2"),
    Ready(url="http://127.0.0.1:1"),
    RequestFinished(record=RECORD),
    Suspended(peer="p", reason="silent", path=Path.DIRECT),
    Resumed(peer="p", path=Path.DIRECT, gap_ms=3000.0),
    PeerLostNotice(peer="p", reason="gone"),
    Reconnecting(what="peer", reason="gone", delay=0.5),
    ErrorNotice(message="No.", hint="Yes."),
    TotalsNotice.of(Status(role=Role.SERVE, requests=2, first_byte=Percentiles(p50=1.0, p95=2.0, count=2))),
    Stopped(),
]


def test_each_role_talks_to_the_other() -> None:
    assert Role.SERVE.other is Role.PROXY
    assert Role.PROXY.other is Role.SERVE


def test_every_kind_of_notice_has_a_name_of_its_own() -> None:
    kinds = [kind for kind in vars(status).values() if isinstance(kind, type) and kind in Notice.__subclasses__()]
    names = [kind.event for kind in kinds]
    assert len(set(names)) == len(names) == len(NOTICES)
    assert all(name == name.lower() for name in names)


@pytest.mark.parametrize("notice", NOTICES, ids=lambda notice: notice.event)
def test_a_notice_is_a_json_object_with_time_and_event_first(notice: Notice) -> None:
    values = json.loads(json.dumps(notice.as_dict()))
    assert list(values)[:2] == ["time", "event"]
    assert values["event"] == notice.event
    assert values["time"] == pytest.approx(notice.time, abs=1e-5)


def test_a_notice_tells_when_it_was_made() -> None:
    before = time.time()
    assert before <= Stopped().time <= time.time()


def test_a_requests_notice_is_flat() -> None:
    values = RequestFinished(record=RECORD, time=1.5).as_dict()
    assert values == {
        "time": 1.5,
        "event": "request",
        "id": 0,
        "method": "GET",
        "path": "/a",
        "status": 200,
        "bytes_up": 1,
        "bytes_down": 2,
        "first_byte_ms": 3.0,
        "duration_ms": 4.0,
        "error": "",
        "peer": "p",
        "started": 0.0,
        "model": "",
        "tokens": None,
        "tokens_per_second": None,
        "queued_ms": None,
        "first_body_ms": None,
        "first_token_ms": None,
        "total_up": None,
        "total_down": None,
    }


@pytest.mark.parametrize(
    ("values", "p50", "p95"),
    [([7.0], 7, 7), ([2.0, 1.0], 1, 2), ([float(n) for n in range(100, 0, -1)], 50, 95), ([1.0] * 19 + [9.0], 1, 1)],
)
def test_percentiles_are_of_the_values_themselves(values: list[float], p50: float, p95: float) -> None:
    assert Percentiles.of(values) == Percentiles(p50=p50, p95=p95, count=len(values))
    assert Percentiles.of([]) is None


@pytest.mark.parametrize(
    ("status", "error", "failed"),
    [(200, "", False), (399, "", False), (400, "", True), (200, "broken off", True), (None, "", True)],
)
def test_a_request_failed_that_did_not_end_whole_or_with_an_errors_status(
    status: int | None, error: str, failed: bool
) -> None:
    assert replace(RECORD, status=status, error=error).failed is failed


def test_values_cannot_be_changed() -> None:
    for value in (Status(role=Role.SERVE), RECORD, PeerStatus(peer="p", path=Path.DIRECT, since=0.0), *NOTICES):
        with pytest.raises(FrozenInstanceError):
            setattr(value, fields(value)[0].name, None)
        assert not hasattr(value, "__dict__")


def test_a_status_begins_with_nothing() -> None:
    begun = Status(role=Role.PROXY)
    assert (begun.phase, begun.peers, begun.requests, begun.active) == (Phase.STARTING, (), 0, 0)
