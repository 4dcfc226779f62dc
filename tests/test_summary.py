from __future__ import annotations

from dataclasses import astuple, fields

import pytest

from llmtunnel.paths import Path
from llmtunnel.status import (
    ActiveRequest,
    Health,
    PeerStatus,
    Percentiles,
    Phase,
    Progress,
    RequestRecord,
    Role,
    Status,
    UpstreamStatus,
)
from llmtunnel.summary import (
    LONGEST,
    PEER_COLUMNS,
    REQUEST_COLUMNS,
    SPAN,
    PeerRow,
    RequestRow,
    Severity,
    Throughput,
    age,
    duration,
    latency_words,
    path_words,
    peer_rows,
    printable,
    rate,
    request_facts,
    request_rows,
    size,
    sparkline,
    state_words,
    upstream_words,
)

NOW = 1_700_000_000.0


def record(path: str = "/v1/chat/completions", **values: object) -> RequestRecord:
    given = {"status": 200, "bytes_up": 1, "bytes_down": 2000, "first_byte_ms": 40.0, "duration_ms": 1500.0}
    return RequestRecord(method="POST", path=path, **given | values)  # type: ignore[arg-type]


def active(path: str = "/a", *, ago: float = 1.0, **values: object) -> ActiveRequest:
    return ActiveRequest(method="POST", path=path, peer="p", started=NOW - ago, **values)  # type: ignore[arg-type]


def measured(*totals: tuple[float, int]) -> Throughput:
    """The history of a tunnel that had these bytes down at these times, and ten times less up."""
    history = Throughput()
    for time, down in totals:
        history = history.added(Status(role=Role.PROXY, bytes_up=down // 10, bytes_down=down), now=time)
    return history


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("role", Role)
def test_each_phase_has_words_for_either_role(phase: Phase, role: Role) -> None:
    state = state_words(Status(role=role, phase=phase, detail="why\x1b"))
    assert state.words and "{" not in state.words
    assert state.detail == "why\N{REPLACEMENT CHARACTER}"
    assert (state.severity is Severity.GOOD) is (phase is Phase.READY)


def test_a_tunnel_whose_upstream_is_down_is_not_well_though_it_is_ready() -> None:
    down = UpstreamStatus(health=Health.DOWN, detail="It does not answer yet. Checking every 3 s.")
    state = state_words(Status(role=Role.SERVE, phase=Phase.READY, upstream=down))
    assert (state.severity, state.words) == (Severity.BAD, "ready, but the model server does not answer")
    assert state.detail == "It does not answer yet. Checking every 3 s."


def test_what_severity_shows_as_colour_its_mark_shows_without() -> None:
    assert len({severity.mark for severity in Severity}) == len(Severity)


@pytest.mark.parametrize(
    ("upstream", "words"),
    [
        (None, ""),
        (UpstreamStatus(), ""),
        (UpstreamStatus(health=Health.UP), "answers"),
        (UpstreamStatus(health=Health.UP, models=("a", "b")), "answers: a, b"),
        (UpstreamStatus(health=Health.DOWN, models=("a",)), "does not answer"),
    ],
)
def test_an_upstream_is_told_by_whether_it_answers_and_with_what(upstream: UpstreamStatus | None, words: str) -> None:
    assert upstream_words(upstream) == words


def test_the_columns_are_attributes_of_their_rows() -> None:
    for columns, row in ((PEER_COLUMNS, PeerRow), (REQUEST_COLUMNS, RequestRow)):
        assert {column.name for column in columns} <= {field.name for field in fields(row)}


def test_a_peer_is_a_row_of_short_texts() -> None:
    new = PeerStatus(peer="a1", path=Path.DIRECT, since=NOW)
    busy = PeerStatus(
        peer="b2", path=Path.TURN, rtt=0.0123, since=NOW - 200, requests=12, active=3, bytes_up=999, bytes_down=10**6
    )
    assert [astuple(row) for row in peer_rows((new, busy), now=NOW)] == [
        ("a1", "direct", "-", "0 s", "0", "0 B", "0 B"),
        ("b2", "TURN server", "12 ms", "3 min", "12 done, 3 running", "999 B", "1.0 MB"),
    ]


def test_a_peer_of_which_it_is_not_known_when_it_came_has_not_been_there_since_1970() -> None:
    (row,) = peer_rows((PeerStatus(peer="a1", path=Path.DIRECT, since=0.0),), now=NOW)
    assert row.since == "-"


def test_requests_under_way_come_first_and_the_newest_of_each_kind_on_top() -> None:
    under_way = (active("/older", ago=9), active("/newer", ago=2))
    ended = (record("/first"), record("/second"), record("/third"))

    def paths(limit: int) -> list[str]:
        return [row.path for row in request_rows(under_way, ended, now=NOW, limit=limit)]

    assert paths(9) == ["/newer", "/older", "/third", "/second", "/first"]
    assert paths(3) == ["/newer", "/older", "/third"]
    assert paths(2) == ["/newer", "/older"]
    assert paths(1) == ["/newer"]
    assert paths(0) == []


def test_a_request_that_ended_tells_what_its_record_says() -> None:
    (row,) = request_rows((), (record(model="llama3", tokens=12, tokens_per_second=31.26),), now=NOW, limit=1)
    shown = [getattr(row, column.name) for column in REQUEST_COLUMNS]
    assert shown == ["POST", "/v1/chat/completions", "200", "40 ms", "1.5 s", "12", "31.3", "llama3"]
    assert (row.severity, row.up, row.down) == (Severity.GOOD, "1 B", "2.0 kB")


@pytest.mark.parametrize("values", [{"status": 502}, {"status": None}, {"error": "the client went away"}])
def test_a_request_that_went_wrong_says_so_beside_its_status(values: dict[str, object]) -> None:
    (row,) = request_rows((), (record(**values),), now=NOW, limit=1)
    assert row.severity is Severity.BAD
    assert row.error == values.get("error", "")


def test_a_request_under_way_counts_on() -> None:
    silent, young, streaming = (
        active(ago=0.3),
        active(ago=0.2, status=200, first_byte_ms=100.0, tokens=4),
        active(ago=2.1, status=200, first_byte_ms=100.0, tokens=50),
    )
    rows = request_rows((silent, young, streaming), (), now=NOW, limit=3)
    assert [(row.status, row.duration, row.tokens, row.token_rate) for row in rows] == [
        ("200", "200 ms", "4", "-"),
        ("-", "300 ms", "-", "-"),
        ("200", "2.1 s", "50", "25.0"),
    ]
    assert {row.severity for row in rows} == {Severity.WAIT}


PULLING = Progress(done=1_900_000_000, total=4_700_000_000, what="pulling 8934d96d\x1b")


@pytest.mark.parametrize(
    ("values", "words", "fraction"),
    [
        (
            {"progress": PULLING, "status": 200},
            "40 %, 1.9 GB of 4.7 GB, pulling 8934d96d\N{REPLACEMENT CHARACTER}",
            19 / 47,
        ),
        ({"progress": Progress(done=0, total=0, what="pulling manifest")}, "pulling manifest", None),
        ({"progress": Progress(done=7, total=7)}, "100 %, 7 B of 7 B", 1.0),
        ({"bytes_up": 3_000_000, "total_up": 4_000_000}, "75 %, 3.0 MB of 4.0 MB up", 0.75),
        ({"bytes_up": 0, "total_up": 4_000_000}, "0 %, 0 B of 4.0 MB up", 0.0),
        ({"bytes_up": 3_000_000}, "3.0 MB up", None),
        ({"bytes_up": 9_000_000, "total_up": 9_000_000, "status": 200, "bytes_down": 5}, "", None),
        ({"status": 200, "bytes_down": 999_999, "total_down": 2_000_000}, "49 %, 1.0 MB of 2.0 MB down", 0.4999995),
        ({"status": 200, "bytes_down": 3_000_000, "total_down": 2_000_000}, "100 %, 3.0 MB of 2.0 MB down", 1.0),
        ({"status": 200, "bytes_down": 20_000_000}, "20.0 MB down", None),
        ({"status": 200, "bytes_down": 20_000_000, "tokens": 7}, "", None),
        ({"status": 200, "bytes_down": 999_999, "total_down": 999_999}, "", None),
        ({}, "", None),
    ],
)
def test_a_long_request_tells_how_far_it_is(values: dict[str, object], words: str, fraction: float | None) -> None:
    [row] = request_rows([active(**values)], (), now=NOW, limit=1)
    assert (row.progress, row.fraction) == (words, fraction)


def test_the_details_of_a_pull_that_ended_say_how_far_it_came() -> None:
    facts = dict(request_facts(record("/api/pull", progress=PULLING, error="file does not exist")))
    assert facts["progress"].startswith("40 %, 1.9 GB of 4.7 GB, pulling 8934d96d")
    assert facts["error"] == "file does not exist"
    assert "progress" not in dict(request_facts(record()))


def test_the_spread_of_times_is_that_of_tokens_where_a_model_answers() -> None:
    byte, token = Percentiles(p50=20, p95=45, count=9), Percentiles(p50=320, p95=1200, count=2)
    assert latency_words(Status(role=Role.PROXY)) == ""
    assert latency_words(Status(role=Role.PROXY, first_byte=byte)) == "first byte 20 ms, p95 45 ms"
    assert latency_words(Status(role=Role.PROXY, first_byte=byte, first_token=token)) == "first token 320 ms, p95 1.2 s"


def test_a_clock_that_was_set_back_makes_no_negative_times() -> None:
    (row,) = request_rows((active(ago=-5),), (), now=NOW, limit=1)
    assert row.duration == "0 ms"
    assert age(-5) == "0 s"


def test_throughput_is_what_the_last_seconds_had() -> None:
    steady = measured(*((NOW + tick / 4, 1000 * tick) for tick in range(41)))
    assert steady.rates == pytest.approx((400, 4000))
    assert steady.seconds(4) == ((400,) * 4, (4000,) * 4)
    ceased = steady.added(Status(role=Role.PROXY, bytes_up=4000, bytes_down=40_000), now=NOW + 20)
    assert ceased.rates == (0, 0)


def test_throughput_of_a_tunnel_that_has_just_begun_is_nothing() -> None:
    for history in (Throughput(), measured((NOW, 5))):
        assert history.rates == (0, 0)
        assert history.sparklines(3) == ("▁▁▁", "▁▁▁")


def test_the_history_is_bounded_however_often_it_is_added_to() -> None:
    history = measured(*((NOW + tick / 10, tick) for tick in range(20 * SPAN)))
    assert len(history.samples) <= 2 * (SPAN + 3)
    assert history.seconds(SPAN)[1] == pytest.approx((10,) * SPAN)


def test_a_sparkline_tells_nothing_from_little() -> None:
    assert sparkline((0, 1, 50, 100)) == "▁▂▅█"
    assert sparkline((0, 0)) == "▁▁"
    assert sparkline(()) == ""


def test_every_path_has_words() -> None:
    assert all(path_words(path) for path in Path)


def test_what_peers_send_is_one_short_line() -> None:
    assert printable("a\x1b[2J\nb") == "a\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}b"
    assert len(printable("x" * 10_000)) == LONGEST


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_960, "1.0 MB"), (5 * 10**9, "5.0 GB"), (10**16, "10000.0 TB")],
)
def test_sizes_are_short(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(("milliseconds", "text"), [(0.4, "0 ms"), (999.4, "999 ms"), (1500, "1.5 s")])
def test_durations_are_short(milliseconds: float, text: str) -> None:
    assert duration(milliseconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.9, "0 s"), (59.9, "59 s"), (60, "1 min"), (7200, "2 h"), (86400, "1 d"), (10**7, "115 d")]
)
def test_ages_are_short(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_rates_are_sizes_a_second() -> None:
    assert rate(12_345.6) == "12.3 kB/s"
