from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.errors import ErrorCode, ProtocolError
from llmtunnel.protocol import fields
from llmtunnel.protocol.frames import MAX_PAYLOAD, MAX_STREAM
from llmtunnel.protocol.heads import Fields, RequestHead, ResponseHead
from llmtunnel.protocol.hello import Feature, Features

V2: Features = frozenset({Feature.FIELDS})
CLIENTS: Features = V2 | {Feature.CLIENT}
V1: Features = frozenset()
TOKEN = "!#$%&'*+-.^_`|~0123456789ABCXYZabcxyz"

tokens = st.text(TOKEN, min_size=1, max_size=20).map(str.encode)
values = st.binary(max_size=60).filter(lambda value: not set(value) & set(b"\r\n\0"))
targets = st.binary(max_size=60).map(lambda raw: b"/" + bytes(byte for byte in raw if byte > 0x20 and byte != 0x7F))


def harmless(pair: tuple[bytes, bytes]) -> bool:
    return pair[0].lower() not in (b"content-length", b"transfer-encoding")


field_lists = st.lists(st.tuples(tokens, values).filter(harmless), max_size=10).map(tuple)
requests = st.builds(RequestHead, method=tokens, target=targets | st.just(b"*"), fields=field_lists)
responses = st.builds(ResponseHead, status=st.integers(100, 999), reason=values, fields=field_lists)


def request(**changes: Any) -> bytes:
    """A REQ_HEADERS of a peer that agreed on ``fields``."""
    return json.dumps({"stream_id": 1, "method": "GET", "path": "/", "fields": []} | changes).encode()


def response(**changes: Any) -> bytes:
    return json.dumps({"stream_id": 1, "status": 200, "reason": "OK", "fields": []} | changes).encode()


def refused(payload: bytes, features: Features = V2, *, decode: Any = fields.decode_request) -> ErrorCode:
    with pytest.raises(ProtocolError) as caught:
        decode(payload, features)
    return caught.value.code


@given(requests)
def test_a_request_comes_back_byte_for_byte(head: RequestHead) -> None:
    assert fields.decode_request(fields.encode_request(1, head, V2), V2) == head


@given(responses)
def test_a_response_comes_back_byte_for_byte(head: ResponseHead) -> None:
    assert fields.decode_response(fields.encode_response(1, head, V2), V2) == head


def test_order_case_and_repetition_are_kept() -> None:
    listed: Fields = (
        (b"X-A", b"1"),
        (b"x-a", b"2"),
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=\xff"),
        (b"X-A", b""),
    )
    head = ResponseHead(status=200, reason=b"F\xfcr wahr", fields=listed)
    assert fields.decode_response(fields.encode_response(7, head, V2), V2) == head


@given(st.lists(st.tuples(tokens, values).filter(harmless), max_size=10, unique_by=lambda pair: pair[0].lower()))
def test_v1_keeps_single_fields_but_for_bytes_that_are_no_utf8(listed: list[tuple[bytes, bytes]]) -> None:
    head = RequestHead(method=b"GET", target=b"/", fields=tuple(listed))
    came = fields.decode_request(fields.encode_request(1, head, V1), V1)
    assert [name for name, _ in came.fields] == [name for name, _ in listed]
    for (_, value), (_, back) in zip(listed, came.fields, strict=True):
        assert back == _as_utf8(value)


def _as_utf8(value: bytes) -> bytes:
    try:
        return value.decode().encode()
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()


def test_v1_joins_repeated_fields_as_their_kind_allows() -> None:
    listed: Fields = (
        (b"Accept", b"a"),
        (b"Cookie", b"a=1"),
        (b"Set-Cookie", b"x=1"),
        (b"accept", b"b"),
        (b"cookie", b"b=2"),
        (b"set-cookie", b"y=2"),
        (b"ACCEPT", b"c"),
    )
    payload = json.loads(fields.encode_request(1, RequestHead(method=b"GET", target=b"/", fields=listed), V1))
    assert payload == {
        "stream_id": 1,
        "method": "GET",
        "path": "/",
        "headers": {"Accept": "a, b, c", "Cookie": "a=1; b=2", "Set-Cookie": "y=2"},
    }


@given(requests, st.integers(0, MAX_STREAM), st.booleans())
def test_whose_request_it_is_goes_with_the_head_where_that_was_agreed_on(
    head: RequestHead, client: int, last: bool
) -> None:
    head = replace(head, client=client, last=last)
    assert fields.decode_request(fields.encode_request(MAX_STREAM, head, CLIENTS), CLIENTS) == head
    payload = fields.encode_request(MAX_STREAM, head, V2)
    assert not {"client", "last"} & set(json.loads(payload))
    unspoken = replace(head, client=0, last=False)
    assert fields.decode_request(fields.encode_request(MAX_STREAM, head, CLIENTS), V2) == unspoken


@pytest.mark.parametrize("value", [0, -1, 2**31, 10**30, 1.0, True, "1", None, [1], {}])
def test_a_client_that_no_stream_can_be_is_read_as_absent(value: object) -> None:
    assert fields.decode_request(request(client=value), CLIENTS).client == 0


@pytest.mark.parametrize("value", [0, 1, "true", None, [], {}])
def test_only_true_says_that_a_request_is_the_last(value: object) -> None:
    assert not fields.decode_request(request(last=value), CLIENTS).last
    assert fields.decode_request(request(last=True), CLIENTS).last


def test_v1_responses_have_neither_reason_nor_fields() -> None:
    payload = json.loads(fields.encode_response(3, ResponseHead(status=204, reason=b"No"), V1))
    assert payload == {"stream_id": 3, "status": 204, "headers": {}}


def test_v1_targets_and_values_are_utf8_on_the_wire() -> None:
    head = RequestHead(method=b"GET", target="/ü".encode(), fields=((b"x", "ü€".encode()), (b"y", b"\xfc")))
    payload = fields.encode_request(1, head, V1)
    assert json.loads(payload)["path"] == "/ü"
    assert json.loads(payload)["headers"] == {"x": "ü€", "y": "ü"}
    assert fields.decode_request(payload, V1).target == "/ü".encode()


def test_a_response_may_lack_its_reason() -> None:
    assert fields.decode_response(b'{"status":200,"fields":[]}', V2).reason == b""


def test_the_stream_id_and_unknown_members_are_not_looked_at() -> None:
    assert fields.decode_request(request(stream_id="x", colour=[1]), V2) == RequestHead(method=b"GET", target=b"/")


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "a\r\nX-Evil: 1", "a\n\n"])
@pytest.mark.parametrize("features", [V2, V1], ids=["v2", "v1"])
def test_a_value_with_a_line_break_or_nul_is_refused(bad: str, features: Features) -> None:
    both = request(fields=[["x", bad]], headers={"x": bad})
    assert refused(both, features) is ErrorCode.PROTOCOL


@pytest.mark.parametrize("bad", ["\r", "\n", "\0", "OK\r\nX-Evil: 1"])
def test_a_reason_with_a_line_break_or_nul_is_refused(bad: str) -> None:
    refused(response(reason=bad), decode=fields.decode_response)


@pytest.mark.parametrize("bad", ["", " ", "a b", "a:", "a\r", "ä", "x\n", "(x)", "x ", "\0"])
def test_a_name_or_method_that_is_no_token_is_refused(bad: str) -> None:
    refused(request(fields=[[bad, "1"]]))
    refused(request(headers={bad: "1"}), V1)
    refused(request(method=bad))


@pytest.mark.parametrize(
    "bad", ["", "x", "//a b", "/a\r\nHost: x", "/\x7f", "/\0", "**", "*x", "http://h/", " /", "/\t"]
)
def test_a_target_that_is_neither_path_nor_star_is_refused(bad: str) -> None:
    refused(request(path=bad))


@pytest.mark.parametrize("good", ["/", "//", "/..", "/%2F?", "/a?b#c", "/\xff", "*", "/;+,'\"<>\\^`{|}"])
def test_every_other_target_passes_as_it_is(good: str) -> None:
    assert fields.decode_request(request(path=good), V2).target == good.encode("latin-1")


@pytest.mark.parametrize(
    "listed",
    [
        [["Content-Length", "1"], ["Transfer-Encoding", "chunked"]],
        [["content-length", "1"], ["CONTENT-LENGTH", "2"]],
        [["content-length", "1"], ["content-length", "01"]],
        [["content-length", "1, 1"]],
        [["content-length", "+1"]],
        [["content-length", "-1"]],
        [["content-length", "0x1"]],
        [["content-length", ""]],
        [["content-length", "1_0"]],
        [["content-length", "\xb2"]],
    ],
    ids=str,
)
def test_a_head_that_can_be_framed_in_two_ways_is_refused(listed: list[list[str]]) -> None:
    assert refused(request(fields=listed)) is ErrorCode.PROTOCOL
    assert refused(response(fields=listed), decode=fields.decode_response) is ErrorCode.PROTOCOL


def test_the_same_length_twice_is_one_length() -> None:
    assert (
        len(fields.decode_request(request(fields=[["content-length", "5"], ["Content-Length", "5 "]]), V2).fields) == 2
    )


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff",
        b"{}",
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"9" * 20_000,
        b'{"status":' + b"9" * 20_000 + b"}",
    ],
    ids=lambda payload: repr(payload[:12]),
)
@pytest.mark.parametrize("features", [V2, V1], ids=["v2", "v1"])
def test_what_is_no_head_is_refused(payload: bytes, features: Features) -> None:
    refused(payload, features)
    refused(payload, features, decode=fields.decode_response)


@pytest.mark.parametrize(
    "listed",
    [
        None,
        {},
        "ab",
        5,
        [["a"]],
        [["a", "b", "c"]],
        ["ab"],
        [{"a": 1, "b": 2}],
        [["a", None]],
        [[1, "b"]],
        [["a", ["b"]]],
    ],
    ids=str,
)
def test_fields_that_are_no_list_of_pairs_of_texts_are_refused(listed: object) -> None:
    refused(request(fields=listed))


@pytest.mark.parametrize("headers", [None, [], [["a", "b"]], "ab", {"a": 1}, {"a": None}, {"a": ["b"]}], ids=str)
def test_v1_headers_that_are_no_map_of_texts_are_refused(headers: object) -> None:
    refused(request(headers=headers), V1)


@pytest.mark.parametrize("text", ["\u0100", "\u20ac", "\ud800"])
def test_a_code_point_that_is_no_byte_is_refused(text: str) -> None:
    refused(request(fields=[["x", text]]))
    refused(request(method=text))
    refused(request(path="/" + text))
    refused(response(reason=text), decode=fields.decode_response)


def test_half_a_surrogate_pair_is_refused_in_v1() -> None:
    refused(request(headers={"x": "\ud800"}), V1)


@pytest.mark.parametrize("status", [None, "200", 200.0, True, 99, 1000, -1, 10**30])
def test_a_status_that_is_none_is_refused(status: object) -> None:
    refused(response(status=status), decode=fields.decode_response)


@pytest.mark.parametrize("features", [V2, V1], ids=["v2", "v1"])
def test_a_head_that_fits_no_frame_is_too_large_to_send(features: Features) -> None:
    fitting = RequestHead(method=b"GET", target=b"/", fields=((b"x", b"y" * 65_000),))
    assert len(fields.encode_request(1, fitting, features)) <= MAX_PAYLOAD
    large: Fields = ((b"x", b"y" * 65_500),)
    with pytest.raises(ProtocolError) as of_request:
        fields.encode_request(1, RequestHead(method=b"GET", target=b"/", fields=large), features)
    with pytest.raises(ProtocolError) as of_response:
        fields.encode_response(1, ResponseHead(status=200, fields=large), features)
    assert of_request.value.code is of_response.value.code is ErrorCode.TOO_LARGE


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["method", "path", "status", "reason", "fields", "headers"]), json_values),
    st.sampled_from([V1, V2]),
)
def test_whatever_json_comes_is_a_clean_head_or_refused(members: dict[str, object], features: Features) -> None:
    payload = json.dumps(members).encode()
    for decode in (fields.decode_request, fields.decode_response):
        try:
            head = decode(payload, features)
        except ProtocolError:
            continue
        fields.check(head.fields)


@pytest.mark.parametrize("features", [V1, V2])
def test_a_head_of_more_fields_than_either_side_takes_is_neither_sent_nor_looked_at(features: Features) -> None:
    most = [[f"x-{number}", ""] for number in range(fields.MAX_FIELDS)]
    head = RequestHead(method=b"GET", target=b"/", fields=tuple((name.encode(), b"") for name, _ in most))
    assert len(fields.decode_request(fields.encode_request(1, head, features), features).fields) == fields.MAX_FIELDS
    more = replace(head, fields=(*head.fields, (b"x", b"")))
    with pytest.raises(ProtocolError) as caught:
        fields.encode_request(1, more, features)
    assert caught.value.code is ErrorCode.TOO_LARGE
    listed = [*most, ["no token", "\n"]]
    assert refused(request(fields=listed, headers=dict(listed)), features) is ErrorCode.TOO_LARGE
    came = response(fields=listed, headers=dict(listed))
    assert refused(came, features, decode=fields.decode_response) is ErrorCode.TOO_LARGE


def test_only_a_peer_that_has_agreed_gets_a_request_that_measures() -> None:
    head = RequestHead(method=b"GET", target=b"/small", bench=True)
    agreed = frozenset({Feature.FIELDS, Feature.BENCH})
    payload = fields.encode_request(1, head, agreed)
    assert fields.decode_request(payload, agreed) == head
    assert not fields.decode_request(payload, agreed - {Feature.BENCH}).bench, "what was not agreed on means nothing"
    with pytest.raises(ProtocolError) as refused:  # an earlier serve would forward it to its upstream
        fields.encode_request(1, head, agreed - {Feature.BENCH})
    assert refused.value.code is ErrorCode.REFUSED


@pytest.mark.parametrize("value", ["true", 1, None, [], {"a": 1}])
def test_what_is_not_true_measures_nothing(value: object) -> None:
    agreed = frozenset({Feature.FIELDS, Feature.BENCH})
    values = {"stream_id": 1, "method": "GET", "path": "/small", "fields": [["bench", "true"]], "bench": value}
    assert not fields.decode_request(json.dumps(values).encode(), agreed).bench
