from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.endpoints.meter import MAX_LINE, MAX_PARTS, Meter, metered
from llmtunnel.protocol.heads import Fields, RequestHead, ResponseHead
from llmtunnel.status import Progress

from ..support.model_answers import EVENTS, NDJSON, SAMPLES, WHOLE, Sample, chunk, ndjson, sse

SOME = st.sampled_from(list(SAMPLES.values()))


def read(sample: Sample, pieces: Sequence[bytes], *, step: float = 0.0) -> Meter:
    """What a meter makes of a body that comes in these pieces, ``step`` seconds apart."""
    meter = metered(sample.request, sample.response)
    assert meter is not None
    for number, piece in enumerate(pieces):
        meter.feed(piece, 100 + number * step)
    meter.end(100 + len(pieces) * step)
    return meter


def figures(meter: Meter) -> tuple[str, int | None, float | None]:
    return meter.model, meter.tokens, meter.tokens_per_second


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = sorted(place % (len(data) + 1) for place in places)
    return [data[start:end] for start, end in zip([0, *edges], [*edges, len(data)], strict=True)]


# -- what is read


@pytest.mark.parametrize("name", SAMPLES)
def test_model_and_tokens_are_read_off_the_answers_of_every_server(name: str) -> None:
    sample = SAMPLES[name]
    assert figures(read(sample, [sample.body])) == (sample.model, sample.tokens, sample.rate)


@given(SOME, st.lists(st.integers(0, 5000), max_size=30))
def test_the_same_bytes_give_the_same_however_they_are_cut(sample: Sample, places: list[int]) -> None:
    assert figures(read(sample, cut(sample.body, places))) == (sample.model, sample.tokens, sample.rate)


@given(SOME)
def test_the_same_bytes_one_by_one(sample: Sample) -> None:
    pieces = [sample.body[at : at + 1] for at in range(len(sample.body))]
    assert figures(read(sample, pieces)) == (sample.model, sample.tokens, sample.rate)


@given(st.lists(st.text(max_size=12)), st.text(min_size=1, max_size=20), st.booleans(), st.booleans())
def test_whatever_a_model_says_each_event_with_text_counts_once(
    texts: list[str], model: str, ascii: bool, spaces: bool
) -> None:
    separators = None if spaces else (",", ":")
    events = [
        json.dumps({**chunk({"content": text}), "model": model}, ensure_ascii=ascii, separators=separators)
        for text in texts
    ]
    sample = SAMPLES["openai chat, counted"]
    body = "".join(f"data: {event}\n\n" for event in events).encode()
    assert figures(read(sample, [body])) == (model if texts else "", sum(map(bool, texts)) or None, None)


def test_figures_can_be_read_while_the_answer_comes() -> None:
    meter = Meter(streamed=True)
    assert figures(meter) == ("", None, None)
    meter.feed(sse(chunk({"content": "a"}), done=False), 1.0)
    assert figures(meter) == ("llama", 1, None)
    meter.feed(sse(chunk({"content": "b"}), done=False), 1.5)
    assert figures(meter) == ("llama", 2, 2.0)


def test_the_rate_is_from_the_first_token_to_the_last_by_the_servers_count() -> None:
    head, *words = (sse(each, done=False) for each in (chunk({"role": "assistant"}), *[chunk({"content": "a"})] * 5))
    usage = sse({"model": "llama", "choices": [], "usage": {"completion_tokens": 9}})
    meter = read(SAMPLES["openai chat, told"], [head, *words, usage], step=0.5)
    assert figures(meter) == ("llama", 9, 4.0)


def test_tokens_that_come_all_at_once_have_no_rate() -> None:
    assert read(SAMPLES["openai chat, told"], [SAMPLES["openai chat, told"].body]).tokens_per_second is None


# -- how far long work is


def pull(*pieces: bytes) -> Progress | None:
    """What a meter makes of the answer to a pull."""
    request, response = RequestHead(method=b"POST", target=b"/api/pull"), SAMPLES["ollama chat"].response
    meter = metered(request, response)
    assert meter is not None
    for piece in pieces:
        meter.feed(piece, 1.0)
    meter.end(1.0)
    assert figures(meter) == ("", None, None)
    return meter.progress


def part(digest: str, total: int, completed: int | None = None) -> dict[str, object]:
    line: dict[str, object] = {"status": f"pulling {digest}", "digest": f"sha256:{digest}", "total": total}
    return line if completed is None else {**line, "completed": completed}


PULL = ndjson(
    {"status": "pulling manifest"},
    part("a1", 1000),
    part("a1", 1000, 400),
    part("a1", 1000, 1000),
    part("b2", 50, 50),
    {"status": "verifying sha256 digest"},
    {"status": "success"},
)


def test_a_pulls_parts_add_up_as_they_become_known() -> None:
    lines = PULL.splitlines(keepends=True)
    told = [pull(b"".join(lines[:count])) for count in range(len(lines) + 1)]
    assert told == [
        None,
        Progress(done=0, total=0, what="pulling manifest"),
        Progress(done=0, total=1000, what="pulling a1"),
        Progress(done=400, total=1000, what="pulling a1"),
        Progress(done=1000, total=1000, what="pulling a1"),
        Progress(done=1050, total=1050, what="pulling b2"),
        Progress(done=1050, total=1050, what="verifying sha256 digest"),
        Progress(done=1050, total=1050, what="success"),
    ]


@given(st.lists(st.integers(0, 5000), max_size=30))
def test_a_pull_gives_the_same_however_its_bytes_are_cut(places: list[int]) -> None:
    assert pull(*cut(PULL, places)) == Progress(done=1050, total=1050, what="success")


def test_a_pull_that_fails_says_so() -> None:
    told = pull(b'{"status":"pulling manifest"}\n{"error":"pull model manifest: file does not exist"}\n')
    assert told == Progress(done=0, total=0, what="pull model manifest: file does not exist")


def test_a_pull_of_many_parts_is_bounded() -> None:
    told = pull(ndjson(*(part(str(number), 10, 99) for number in range(10 * MAX_PARTS))))
    assert told == Progress(done=10 * MAX_PARTS, total=10 * MAX_PARTS, what=f"pulling {10 * MAX_PARTS - 1}")


@given(st.lists(st.binary()))
def test_a_pull_may_answer_any_bytes(pieces: list[bytes]) -> None:
    assert pull(*pieces) is None or b'"' in b"".join(pieces)


def test_a_pull_that_is_answered_whole_is_not_looked_into() -> None:
    whole = ResponseHead(status=200, fields=((b"Content-Type", WHOLE),))
    assert metered(RequestHead(method=b"POST", target=b"/api/pull"), whole) is None


# -- what is not


@pytest.mark.parametrize(
    ("target", "status", "fields"),
    [
        (b"/v1/models", 200, ((b"Content-Type", WHOLE),)),
        (b"/v1/chat/completions/1?chat", 200, ((b"Content-Type", EVENTS),)),
        (b"*", 200, ((b"Content-Type", EVENTS),)),
        (b"/api/chat", 404, ((b"Content-Type", WHOLE),)),
        (b"/api/chat", 101, ((b"Content-Type", EVENTS),)),
        (b"/api/chat", 200, ((b"Content-Type", b"text/html"),)),
        (b"/api/chat", 200, ()),
        (b"/api/chat", 200, ((b"content-type", NDJSON), (b"CONTENT-ENCODING", b"gzip"))),
    ],
)
def test_other_paths_statuses_types_and_compressed_bodies_are_not_looked_into(
    target: bytes, status: int, fields: Fields
) -> None:
    request = RequestHead(method=b"POST", target=target)
    assert metered(request, ResponseHead(status=status, fields=fields)) is None


def test_a_body_whose_coding_is_none_is_looked_into() -> None:
    fields = ((b"Content-Type", EVENTS), (b"Content-Encoding", b"identity"))
    assert metered(RequestHead(method=b"POST", target=b"/v1/completions"), ResponseHead(status=200, fields=fields))


@pytest.mark.parametrize("size", [100, 1000, 10**7])
def test_a_line_that_is_too_long_is_not_kept_and_counts_for_nothing(size: int) -> None:
    long = b'data: {"model":"no","content":"no","completion_tokens":7,' + b"x" * MAX_LINE + b"\n"
    body = sse(chunk({"content": "a"}), done=False) + long + sse(chunk({"content": "b"}))
    meter = Meter(streamed=True)
    for start in range(0, len(body), size):
        meter.feed(body[start : start + size], 1.0)
        assert len(meter._rest) <= MAX_LINE
    meter.end(1.0)
    assert figures(meter) == ("llama", 2, None)


@given(st.lists(st.binary()), st.booleans())
def test_any_bytes_are_taken(pieces: list[bytes], streamed: bool) -> None:
    meter = Meter(streamed=streamed)
    for piece in pieces:
        meter.feed(piece, 1.0)
    meter.end(1.0)
    assert figures(meter) == ("", None, None) or b'"' in b"".join(pieces)


@pytest.mark.parametrize("literal", [b'"\\x"', b'"\xff"', b'""', b'"' + b"x" * 201 + b'"', b"7", b'"\x01"'])
def test_a_model_whose_name_is_no_text_has_none(literal: bytes) -> None:
    meter = Meter(streamed=True)
    meter.feed(b'{"model":%b,"content":"a"}\n' % literal, 1.0)
    assert figures(meter) == ("", 1, None)


def test_a_name_is_always_text_that_can_be_shown() -> None:
    meter = Meter(streamed=True)
    meter.feed(rb'{"model":"a\ud800b"}' + b"\n", 1.0)
    assert meter.model == "a?b"


@pytest.mark.parametrize("told", ["9" * 30, "-1", "1e3", "null", '"7"', "{}"])
def test_a_count_that_is_none_is_no_reason_to_fail(told: str) -> None:
    meter = Meter(streamed=True)
    meter.feed(b'{"content":"a","usage":{"completion_tokens":%b},"eval_duration":0}\n' % told.encode(), 1.0)
    assert figures(meter) == ("", 1, None)
