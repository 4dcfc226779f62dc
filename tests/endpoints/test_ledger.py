from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmtunnel.endpoints.ledger import MAX_FIELDS, MAX_PATH, MAX_VALUE, RECORDS, Ledger
from llmtunnel.endpoints.ledger import SAMPLES as KEPT
from llmtunnel.protocol.heads import RequestHead, ResponseHead
from llmtunnel.status import Percentiles, Progress, RequestRecord

from ..support.model_answers import NDJSON, SAMPLES

GET = RequestHead(method=b"GET", target=b"/a?key=secret")
OK = ResponseHead(status=200)


def totals(ledger: Ledger, peer: str | None = None) -> tuple[int, int, int, int]:
    """Requests, active, bytes up and down."""
    of = ledger.totals if peer is None else ledger.of(peer)
    return of.requests, of.active, of.bytes_up, of.bytes_down


def test_what_passes_counts_at_once_and_once() -> None:
    ledger = Ledger()
    entry = ledger.begin(GET)
    entry.reached("p")
    assert totals(ledger) == totals(ledger, "p") == (0, 1, 0, 0)
    entry.up(b"ab")
    entry.down(b"abc")
    assert totals(ledger) == totals(ledger, "p") == (0, 1, 2, 3)
    ledger.end(entry)
    assert totals(ledger) == totals(ledger, "p") == (1, 0, 2, 3)


def test_an_exchange_that_reaches_nobody_counts_for_the_whole_alone() -> None:
    ledger = Ledger()
    ledger.end(ledger.begin(GET))
    assert totals(ledger) == (1, 0, 0, 0)
    assert totals(ledger, "p") == totals(ledger, "") == (0, 0, 0, 0)


def test_peers_have_figures_of_their_own_until_they_are_forgotten() -> None:
    ledger = Ledger()
    gone, stays = ledger.begin(GET), ledger.begin(GET)
    for entry, peer in ((gone, "gone"), (stays, "stays")):
        entry.reached(peer)
        entry.down(peer.encode())
    ledger.keep({"stays", "other"})
    gone.down(b"more")
    ledger.end(gone)
    assert totals(ledger, "gone") == (0, 0, 0, 0)
    assert totals(ledger, "stays") == (0, 1, 0, 5)
    assert totals(ledger) == (1, 1, 0, 13)


def test_exchanges_under_way_are_told_in_order_with_what_is_known_of_them() -> None:
    ledger, sample = Ledger(), SAMPLES["ollama chat"]
    first, second = ledger.begin(GET), ledger.begin(sample.request)
    second.reached("p")
    second.up(b"question")
    second.responded(sample.response)
    second.down(sample.body[:200])
    told_first, told_second = ledger.active()
    assert (told_first.path, told_first.status, told_first.peer, told_first.model) == ("/a", None, "", "")
    assert (told_first.first_byte_ms, told_first.tokens) == (None, None)
    assert (told_second.path, told_second.status, told_second.peer) == ("/api/chat", 200, "p")
    assert (told_second.bytes_up, told_second.bytes_down) == (8, 200)
    assert (told_second.model, told_second.tokens) == ("llama:8b", 2)
    assert told_second.first_byte_ms is not None
    assert abs(told_second.started - time.time()) < 60
    ledger.end(first)
    assert [each.path for each in ledger.active()] == ["/api/chat"]


def test_the_record_tells_what_the_answer_said_of_itself() -> None:
    records: list[RequestRecord] = []
    ledger, sample = Ledger(records.append), SAMPLES["ollama chat"]
    entry = ledger.begin(sample.request)
    entry.responded(sample.response)
    entry.down(sample.body)
    entry.error = "broken"
    ledger.end(entry)
    [record] = records
    assert (record.model, record.tokens, record.tokens_per_second) == (sample.model, sample.tokens, sample.rate)
    assert (record.method, record.status, record.error) == ("POST", 200, "broken")
    assert abs(record.started - time.time()) < 60


def ended(ledger: Ledger, request: RequestHead, response: ResponseHead, body: bytes = b"") -> RequestRecord:
    entry = ledger.begin(request)
    entry.reached("p")
    entry.passed_on()
    entry.responded(response)
    entry.down(body)
    ledger.end(entry)
    return ledger.records(1)[0]


def test_the_phases_of_an_exchange_are_told_in_their_order() -> None:
    ledger, sample = Ledger(), SAMPLES["ollama chat"]
    entry = ledger.begin(sample.request)
    assert (entry.active().queued_ms, entry.active().first_token_ms) == (None, None)
    entry.reached("p")
    entry.passed_on()
    entry.responded(sample.response)
    entry.down(b"\n")
    assert entry.active().first_token_ms is None
    entry.down(sample.body)
    ledger.end(entry)
    [record] = ledger.records(1)
    phases = [getattr(record, f"{name}_ms") for name in ("queued", "first_byte", "first_body", "first_token")]
    assert None not in phases
    assert 0 < phases[0] <= phases[1] <= phases[2] <= phases[3] <= record.duration_ms
    assert record.as_dict()["first_token_ms"] == record.first_token_ms


def test_header_fields_are_remembered_by_name_and_few_by_value() -> None:
    asked = (
        (b"Authorization", b"Bearer sk-secret"),
        (b"Cookie", b"secret"),
        (b"X-Api-Key", b"secret"),
        (b"Proxy-Authorization", b"secret"),
        (b"X-Forwarded-For", b"secret"),
        (b"Content-Type", b"application/json"),
    )
    answered = ((b"Set-Cookie", b"secret"), (b"Location", b"/?key=secret"), (b"SERVER", b"uvicorn"))
    request = RequestHead(method=b"POST", target=b"/a?key=secret", fields=asked)
    record = ended(Ledger(), request, ResponseHead(status=200, fields=answered))
    assert record.request_fields == (
        *((name.decode(), None) for name, _ in asked[:-1]),
        ("Content-Type", "application/json"),
    )
    assert record.response_fields == (("Set-Cookie", None), ("Location", None), ("SERVER", "uvicorn"))
    assert "secret" not in repr(record)


def test_what_a_record_keeps_is_bounded() -> None:
    fields = ((b"x" * 5000, b"y" * 5000),) * 500
    kinds = ((b"Content-Type", b"z" * 5000),) * 500
    request = RequestHead(method=b"GET", target=b"/" + b"p" * 60_000, fields=fields)
    record = ended(Ledger(), request, ResponseHead(status=200, fields=kinds))
    assert record.path == "/" + "p" * (MAX_PATH - 2) + "…"
    assert record.request_fields == (("x" * MAX_FIELDS, None),) * MAX_FIELDS
    assert record.response_fields == (("Content-Type", "z" * MAX_VALUE),) * MAX_FIELDS


@pytest.mark.parametrize(
    ("method", "status", "length", "total"),
    [
        (b"GET", 200, b"1234", 1234),
        (b"GET", 404, b"0", 0),
        (b"HEAD", 200, b"1234", None),
        (b"GET", 304, b"1234", None),
        (b"GET", 204, b"1234", None),
        (b"GET", 200, b"-1", None),
        (b"GET", 200, b"1" * 19, None),
        (b"GET", 200, None, None),
    ],
)
def test_a_body_has_a_total_where_its_head_tells(
    method: bytes, status: int, length: bytes | None, total: int | None
) -> None:
    fields = ((b"content-LENGTH", length),) if length is not None else ((b"content-type", b"7"),)
    record = ended(Ledger(), RequestHead(method=method, target=b"/"), ResponseHead(status=status, fields=fields))
    assert (record.total_down, record.total_up) == (total, None)


def test_an_uploads_total_is_known_before_it_is_sent() -> None:
    upload = RequestHead(method=b"POST", target=b"/", fields=((b"Content-Length", b"10"),))
    entry = Ledger().begin(upload)
    entry.up(b"abcd")
    assert (entry.active().bytes_up, entry.active().total_up) == (4, 10)


def test_the_spread_of_times_is_of_the_requests_that_ended() -> None:
    ledger, sample = Ledger(), SAMPLES["ollama chat"]
    assert (ledger.first_byte(), ledger.first_token()) == (None, None)
    ledger.end(ledger.begin(GET))
    assert (ledger.first_byte(), ledger.first_token()) == (None, None)
    records = [ended(ledger, GET, OK), ended(ledger, sample.request, sample.response, sample.body)]
    times = [each.first_byte_ms for each in records if each.first_byte_ms is not None]
    assert ledger.first_byte() == Percentiles(p50=min(times), p95=max(times), count=2)
    token = records[1].first_token_ms
    assert token is not None
    assert ledger.first_token() == Percentiles(p50=token, p95=token, count=1)


def test_failures_and_tokens_are_counted_with_those_under_way() -> None:
    ledger, sample = Ledger(), SAMPLES["ollama chat"]
    ended(ledger, GET, ResponseHead(status=404))
    ended(ledger, sample.request, sample.response, sample.body)
    assert (ledger.totals.failed, ledger.of("p").failed, ledger.tokens) == (1, 1, sample.tokens)
    entry = ledger.begin(sample.request)
    entry.responded(sample.response)
    entry.down(sample.body + b"\n")
    assert ledger.tokens == 2 * (sample.tokens or 0)
    ledger.end(entry)
    assert ledger.tokens == 2 * (sample.tokens or 0)


def test_samples_are_the_figures_of_their_moment_and_bounded() -> None:
    ledger = Ledger()
    ledger.sample(None)
    entry = ledger.begin(GET)
    entry.up(b"ab")
    entry.down(b"abc")
    ledger.sample(0.25)
    first, second = ledger.samples()
    assert (first.rtt, first.active, first.bytes_up, first.bytes_down, first.tokens) == (None, 0, 0, 0, 0)
    assert (second.rtt, second.active, second.bytes_up, second.bytes_down, second.tokens) == (0.25, 1, 2, 3, 0)
    assert first.time <= second.time <= time.time()
    for _ in range(KEPT):
        ledger.sample(1.0)
    assert len(ledger.samples()) == KEPT


def test_a_pull_tells_how_far_it_is_while_it_goes_on() -> None:
    ledger = Ledger()
    entry = ledger.begin(RequestHead(method=b"POST", target=b"/api/pull"))
    entry.responded(ResponseHead(status=200, fields=((b"Content-Type", NDJSON),)))
    entry.down(b'{"status":"pulling manifest"}\n{"status":"pulling 8934","digest":"sha256:8934","total":100,"comp')
    assert entry.active().progress == Progress(done=0, total=0, what="pulling manifest")
    entry.down(b'leted":40}\n')
    assert entry.active().progress == Progress(done=40, total=100, what="pulling 8934")
    ledger.end(entry)
    assert ledger.records(1)[0].progress == Progress(done=40, total=100, what="pulling 8934")


def test_a_pull_that_its_server_gives_up_has_failed_though_its_status_is_200() -> None:
    pull = RequestHead(method=b"POST", target=b"/api/pull")
    lines = ResponseHead(status=200, fields=((b"Content-Type", NDJSON),))
    record = ended(Ledger(), pull, lines, b'{"status":"pulling manifest"}\n{"error":"file does not exist"}\n')
    assert (record.failed, record.error) == (True, "file does not exist")
    again = ended(Ledger(), pull, lines, b'{"error":"a hiccup"}\n{"status":"success"}')
    assert (again.failed, again.error) == (False, "")


def test_an_answer_that_is_no_models_has_no_tokens() -> None:
    ledger = Ledger()
    entry = ledger.begin(GET)
    entry.responded(OK)
    entry.down(SAMPLES["ollama chat"].body)
    ledger.end(entry)
    [record] = ledger.records(1)
    assert (record.model, record.tokens, record.tokens_per_second) == ("", None, None)


def test_only_the_last_records_are_kept_while_all_count() -> None:
    ledger = Ledger()
    for number in range(RECORDS + 5):
        ledger.end(ledger.begin(RequestHead(method=b"GET", target=b"/%d" % number)))
    assert [each.path for each in ledger.records(RECORDS * 2)] == [f"/{n}" for n in range(5, RECORDS + 5)]
    assert [each.path for each in ledger.records(1)] == [f"/{RECORDS + 4}"]
    assert ledger.records(0) == ()
    assert ledger.totals.requests == RECORDS + 5


def test_any_thread_may_read_while_the_loop_writes() -> None:
    ledger, sample, end = Ledger(), SAMPLES["ollama chat"], threading.Event()

    def read() -> int:
        reads = 0
        while not end.is_set():
            rows = [record.as_dict() for record in ledger.records(RECORDS)]
            ids = [int(row["id"] or 0) for row in rows]
            first = ids[0] if ids else 0
            assert ids == list(range(first, first + len(ids)))
            assert all(each.status in (None, 200) for each in ledger.active())
            assert ledger.tokens >= 0
            ledger.first_token()
            times = [each.time for each in ledger.samples()]
            assert times == sorted(times)
            reads += 1
        return reads

    with ThreadPoolExecutor(3) as readers:
        reading = [readers.submit(read) for _ in range(3)]
        try:
            for _ in range(3 * RECORDS):
                ended(ledger, sample.request, sample.response, sample.body)
                ledger.sample(0.1)
        finally:
            end.set()
        assert all(each.result() > 0 for each in reading)
