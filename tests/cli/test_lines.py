from __future__ import annotations

import json
from dataclasses import replace

import pytest

from llmtunnel.cli.lines import RETRYING, HumanLines, complaint, json_line
from llmtunnel.errors import SettingError
from llmtunnel.paths import Path
from llmtunnel.status import (
    ErrorNotice,
    Listening,
    Notice,
    PeerConnected,
    PeerLostNotice,
    Percentiles,
    Ready,
    Reconnecting,
    RequestFinished,
    RequestRecord,
    Resumed,
    Role,
    SignalConnected,
    Stopped,
    Suspended,
    TotalsNotice,
    TurnSource,
    Waiting,
)
from llmtunnel.summary import printable

RECORD = RequestRecord(
    method="POST",
    path="/v1/chat/completions",
    status=200,
    bytes_up=999,
    bytes_down=12_345,
    first_byte_ms=41.6,
    duration_ms=2345.6,
    peer="a1",
)
FAILED = RequestRecord(
    method="GET",
    path="/x",
    status=None,
    bytes_up=0,
    bytes_down=0,
    first_byte_ms=None,
    duration_ms=3,
    error="the client went away",
)

NOTICES: list[tuple[Notice, dict[str, object], str | None]] = [
    (
        SignalConnected(time=1.5, signal="ws://s", room="r"),
        {"event": "signal-connected", "signal": "ws://s", "room": "r", "turn": [], "turn_from": None, "web": False},
        "in the room at ws://s",
    ),
    (
        SignalConnected(time=1.5, signal="ws://s", room="r", turn=("turn:a", "turns:b"), turn_from=TurnSource.SIGNAL),
        {
            "event": "signal-connected",
            "signal": "ws://s",
            "room": "r",
            "turn": ["turn:a", "turns:b"],
            "turn_from": "signal",
            "web": False,
        },
        "in the room at ws://s, with the TURN server turn:a, turns:b (from the signal server)",
    ),
    (
        Listening(time=1.5, url="http://127.0.0.1:8000", addresses=("127.0.0.1:8000", "[::1]:8000")),
        {"event": "listening", "url": "http://127.0.0.1:8000", "addresses": ["127.0.0.1:8000", "[::1]:8000"]},
        "proxy listening on http://127.0.0.1:8000",
    ),
    (
        PeerConnected(
            time=1.5,
            peer="a1",
            path=Path.DIRECT,
            version="v2",
            address="10.0.0.1:5000",
            fingerprint="ab",
            authenticated=True,
            agent="llmtunnel page (Chrome)",
        ),
        {
            "event": "peer-connected",
            "peer": "a1",
            "path": "direct",
            "version": "v2",
            "address": "10.0.0.1:5000",
            "fingerprint": "ab",
            "authenticated": True,
            "agent": "llmtunnel page (Chrome)",
        },
        "peer a1 (llmtunnel page (Chrome)) connected from 10.0.0.1:5000, path direct, v2",
    ),
    (
        Ready(time=1.5, url="http://localhost:11434"),
        {"event": "ready", "url": "http://localhost:11434"},
        "tunnel ready: http://localhost:11434",
    ),
    (
        RequestFinished(time=1.5, record=RECORD),
        {
            "event": "request",
            "method": "POST",
            "path": "/v1/chat/completions",
            "status": 200,
            "bytes_up": 999,
            "bytes_down": 12_345,
            "first_byte_ms": 41.6,
            "duration_ms": 2345.6,
            "error": "",
            "peer": "a1",
            "started": 0.0,
            "model": "",
            "tokens": None,
            "tokens_per_second": None,
            "id": 0,
            "queued_ms": None,
            "first_body_ms": None,
            "first_token_ms": None,
            "total_up": None,
            "total_down": None,
        },
        "200 POST /v1/chat/completions  up 999 B, down 12.3 kB, first byte 42 ms, 2.3 s",
    ),
    (
        Suspended(time=1.5, peer="a1", reason="The peer is silent.", path=Path.DIRECT),
        {"event": "suspended", "peer": "a1", "reason": "The peer is silent.", "path": "direct"},
        "Lost contact with a1. Requests wait for it. The peer is silent.",
    ),
    (
        Resumed(time=1.5, peer="a1", path=Path.TURN, gap_ms=4321.0),
        {"event": "resumed", "peer": "a1", "path": "turn", "gap_ms": 4321.0},
        "a1 is back after 4.3 s, over the TURN server path.",
    ),
    (
        Resumed(time=1.5, peer="a1", path=Path.TCP, gap_ms=0.0),
        {"event": "resumed", "peer": "a1", "path": "tcp", "gap_ms": 0.0},
        "Switched to the local TCP path.",
    ),
    (
        PeerLostNotice(time=1.5, peer="a1", reason="It stopped."),
        {"event": "peer-lost", "peer": "a1", "reason": "It stopped."},
        "a1 has disconnected. It stopped.",
    ),
    (
        Reconnecting(time=1.5, what="signal server", reason="refused", delay=0.5, hint="Is it up?"),
        {"event": "reconnecting", "what": "signal server", "reason": "refused", "delay": 0.5, "hint": "Is it up?"},
        "refused. Is it up? Retrying.",
    ),
    (
        Waiting(time=1.5, room="r", role=Role.SERVE),
        {"event": "waiting", "room": "r", "role": "serve"},
        "Waiting for a proxy. On your laptop, run `llmtunnel proxy …`.",
    ),
    (
        Waiting(time=1.5, room="invite-4821309", role=Role.PROXY),
        {"event": "waiting", "room": "invite-4821309", "role": "proxy"},
        "Waiting for serve. Is it running, and is the number right?",
    ),
    (
        ErrorNotice(time=1.5, message="The room is full.", hint="Wait"),
        {"event": "error", "message": "The room is full.", "hint": "Wait"},
        "error: The room is full. Wait.",
    ),
    (
        TotalsNotice(
            time=1.5,
            requests=3,
            failed=1,
            active=0,
            bytes_up=9,
            bytes_down=99,
            tokens=42,
            first_byte=Percentiles(p50=20.0, p95=31.5, count=3),
            first_token=None,
        ),
        {
            "event": "totals",
            "requests": 3,
            "failed": 1,
            "active": 0,
            "bytes_up": 9,
            "bytes_down": 99,
            "tokens": 42,
            "first_byte": {"p50": 20.0, "p95": 31.5, "count": 3},
            "first_token": None,
            "bench_requests": 0,
            "bench_bytes": 0,
        },
        None,
    ),
    (Stopped(time=1.5), {"event": "stopped", "reason": ""}, "stopped"),
]


@pytest.mark.parametrize(("notice", "fields", "sentence"), NOTICES, ids=lambda value: getattr(value, "event", ""))
def test_each_notice_has_its_json_object_and_its_sentence(
    notice: Notice, fields: dict[str, object], sentence: str | None
) -> None:
    line = json_line(notice)
    assert "\n" not in line and line.isascii()
    assert json.loads(line) == {"time": 1.5, **fields}
    assert list(json.loads(line))[:2] == ["time", "event"]
    human = HumanLines()
    human.line(RequestFinished(record=RECORD))
    assert human.line(notice) == sentence


def test_every_kind_of_notice_is_in_the_table() -> None:
    ours = {kind.event for kind in Notice.__subclasses__() if kind.__module__ == "llmtunnel.status"}
    assert ours == {notice.event for notice, _, _ in NOTICES}


def test_a_role_tells_whose_notice_it_is() -> None:
    assert json.loads(json_line(Stopped(), Role.SERVE))["role"] == "serve"


@pytest.mark.parametrize(
    ("tokens", "rate", "said"),
    [(42, 31.26, "2.3 s, 42 tokens, 31/s"), (1, None, "2.3 s, 1 token"), (3, 0.4, "2.3 s, 3 tokens, 0.4/s")],
)
def test_a_models_answer_has_its_tokens_and_their_rate(tokens: int, rate: float | None, said: str) -> None:
    record = replace(RECORD, model="m", tokens=tokens, tokens_per_second=rate)
    line = HumanLines().line(RequestFinished(record=record))
    assert line is not None
    assert line.endswith(said)


def test_an_exchange_that_failed_says_why() -> None:
    line = HumanLines().line(RequestFinished(record=FAILED))
    assert line == "--- GET /x  up 0 B, down 0 B, 3 ms  (the client went away)"


def test_what_goes_wrong_again_and_again_is_said_once_until_it_goes_well() -> None:
    human = HumanLines()
    refused = [Reconnecting(what="signal server", reason="refused", delay=delay) for delay in (0.25, 0.5)]
    joined = SignalConnected(signal="ws://s", room="r")
    failed, waiting = ErrorNotice(message="no path"), Waiting(room="r", role=Role.PROXY)
    connected = [PeerConnected(peer=name, path=Path.DIRECT, version="v2") for name in "ab"]
    request = RequestFinished(record=RECORD)

    def heard(*notices: Notice) -> list[bool]:
        return [human.line(notice) is not None for notice in notices]

    assert heard(refused[0], refused[1], joined, joined) == [True, False, True, False]
    assert heard(waiting, failed, waiting, joined, failed) == [True, True, False, False, False]
    assert heard(refused[0], joined, waiting) == [True, True, False]
    assert heard(connected[0], connected[1], failed, failed) == [True, True, True, False]
    assert heard(request, request) == [True, True]


def test_a_cause_is_said_once_by_the_error_the_retry_and_the_end_that_it_leads_to() -> None:
    human, why = HumanLines(), "Wrong code."
    failed, retry = ErrorNotice(message=why, hint="Compare."), Reconnecting(what="peer", reason=why, delay=1.0)
    lost = [
        PeerConnected(peer="a", path=Path.DIRECT, version="v2"),
        Suspended(peer="a", reason="Silent.", path=Path.DIRECT),
        Reconnecting(what="peer", reason="Silent.", delay=1.0),
        PeerLostNotice(peer="a", reason="Silent."),
    ]
    heard = [human.line(notice) for notice in (failed, retry, failed, retry)]
    assert heard == ["error: Wrong code. Compare.", RETRYING, None, None]
    assert human.has_said(why)
    assert human.line(Stopped(reason=why)) == "stopped"
    assert [line is not None for line in map(human.line, lost)] == [True] * 4
    assert human.line(lost[2]) is None
    assert not human.has_said(why), "it went well since"
    assert human.line(Stopped(reason=why)) == f"stopped: {why}"


def test_a_hint_is_said_once_whichever_causes_have_it() -> None:
    human = HumanLines()
    lost, refused = (Reconnecting(what="signal server", reason=why, hint="Is it up?", delay=1) for why in ("a", "b"))
    assert [human.line(each) for each in (lost, refused, lost)] == ["a. Is it up? Retrying.", "b. Retrying.", None]
    assert human.line(SignalConnected(signal="ws://s", room="r"))
    assert human.line(refused) == "b. Is it up? Retrying."


def test_what_could_not_start_has_not_stopped() -> None:
    assert HumanLines().line(Stopped()) is None


def test_what_peers_and_clients_send_cannot_steer_a_terminal() -> None:
    line = HumanLines().line(PeerLostNotice(peer="p", reason="\x1b[2Jgone\nerror: fake"))
    assert line is not None
    assert line.isprintable()
    assert len(printable("x" * 10_000)) == 400
    assert "\\u001b" in json_line(PeerLostNotice(peer="p", reason="\x1b"))


def test_a_complaint_has_the_hint_on_its_own_line() -> None:
    assert complaint(SettingError("No.", hint="\nDo this.\n")) == "error: No.\nDo this.\n"
    assert complaint(SettingError("No.")) == "error: No.\n"
