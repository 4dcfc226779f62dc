from __future__ import annotations

import time

from llmtunnel.endpoints.ledger import RECORDS, Ledger
from llmtunnel.protocol.heads import RequestHead, ResponseHead
from llmtunnel.status import RequestRecord

from ..support.model_answers import SAMPLES

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


def test_an_answer_that_is_no_models_has_no_tokens() -> None:
    ledger = Ledger()
    entry = ledger.begin(GET)
    entry.responded(OK)
    entry.down(SAMPLES["ollama chat"].body)
    ledger.end(entry)
    [record] = ledger.requests(1)
    assert (record.model, record.tokens, record.tokens_per_second) == ("", None, None)


def test_only_the_last_records_are_kept_while_all_count() -> None:
    ledger = Ledger()
    for number in range(RECORDS + 5):
        ledger.end(ledger.begin(RequestHead(method=b"GET", target=b"/%d" % number)))
    assert [each.path for each in ledger.requests(RECORDS * 2)] == [f"/{n}" for n in range(5, RECORDS + 5)]
    assert [each.path for each in ledger.requests(1)] == [f"/{RECORDS + 4}"]
    assert ledger.requests(0) == ()
    assert ledger.totals.requests == RECORDS + 5
