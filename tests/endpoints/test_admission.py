from __future__ import annotations

from contextlib import ExitStack

import pytest

from llmtunnel.config import Exposure
from llmtunnel.endpoints.admission import Admission, Refused
from llmtunnel.policy import Policy
from llmtunnel.protocol.heads import Fields, RequestHead

OPEN = Policy.parse(allow=["/*"])


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def check(policy: Policy, target: bytes = b"/", fields: Fields = (), method: bytes = b"GET") -> None:
    head = RequestHead(method=method, target=target, fields=fields)
    Admission(Exposure(policy=policy), clock=Clock()).check(head, target)


def refused(policy: Policy, target: bytes = b"/", fields: Fields = (), method: bytes = b"GET") -> str:
    with pytest.raises(Refused) as caught:
        check(policy, target, fields, method)
    assert (caught.value.told.status, caught.value.told.code) == (403, "not_allowed")
    return caught.value.message


def once(admission: Admission, peer: str = "a") -> None:
    with admission.admitted(peer):
        pass


def test_a_refusal_names_the_request_and_the_flag_and_no_query() -> None:
    policy = Policy.parse(ready="ollama")
    assert refused(policy, b"/api/pull?key=secret", method=b"POST") == (
        "POST /api/pull is not allowed by serve's --policy ollama."
    )
    assert refused(Policy.parse(deny=["/x"]), b"/x") == "GET /x is rejected by serve's --deny '/x'."


def test_a_refusal_is_a_short_printable_line_whatever_the_path() -> None:
    for target in (b"/\x1b[2J\r\nINFO fine", b"/" + b"a" * 30000 + b"//", "/\u202e".encode()):
        message = refused(OPEN, target)
        assert message.isprintable()
        assert len(message) < 400


def test_the_query_is_not_looked_at_but_for_a_fragment() -> None:
    check(OPEN, b"/a?b=//..%2F;\\%00&c=http://evil\xff")
    check(OPEN, b"/a?")
    assert "fragment" in refused(OPEN, b"/a?b#/../c")


@pytest.mark.parametrize(
    "name",
    [
        b"X-HTTP-Method-Override",
        b"x-http-method",
        b"X-METHOD-OVERRIDE",
        b"X_HTTP_Method_Override",
        b"X-Original-URL",
        b"X-Rewrite-Url",
        b"X-Original-URI",
        b"SCRIPT_NAME",
        b"Path-Info",
    ],
)
def test_a_field_that_may_make_the_request_another_is_refused_under_a_policy_alone(name: bytes) -> None:
    assert name.decode() in refused(OPEN, fields=((b"A", b"b"), (name, b"DELETE")))
    check(Policy(), fields=((name, b"DELETE"),))


def passed(policy: Policy, *fields: tuple[bytes, bytes], method: bytes = b"GET", target: bytes = b"/") -> Fields:
    """The fields with which a request is passed on."""
    head = RequestHead(method=method, target=target, fields=fields)
    return Admission(Exposure(policy=policy), clock=Clock()).check(head, target).fields


@pytest.mark.parametrize("protocol", [b"h2c", b"TLS/1.0", b"HTTP/2.0", b"shout/1", b"h2c, shout/1", b""])
def test_an_upgrade_to_what_is_not_websocket_is_dropped_under_a_policy(protocol: bytes) -> None:
    fields = (
        (b"Connection", b"Upgrade, HTTP2-Settings, close"),
        (b"Upgrade", protocol),
        (b"HTTP2-Settings", b"AAMAAABkAAQCAAAAAAIAAAAA"),
        (b"A", b"b"),
    )
    assert passed(OPEN, *fields) == ((b"Connection", b"close"), (b"A", b"b"))


@pytest.mark.parametrize("protocol", [b"h2c", b"TLS/1.0", b"HTTP/2.0"])
def test_an_upgrade_in_which_more_requests_would_follow_is_dropped_without_a_policy_too(protocol: bytes) -> None:
    assert passed(Policy(), (b"Connection", b"Upgrade"), (b"Upgrade", protocol)) == ()


@pytest.mark.parametrize("policy", [OPEN, Policy()])
@pytest.mark.parametrize("protocols", [b"websocket, h2c", b"TLS/1.0,websocket"])
def test_of_several_protocols_websocket_is_left(protocols: bytes, policy: Policy) -> None:
    asked = ((b"Connection", b"Upgrade"), (b"Upgrade", protocols))
    assert passed(policy, *asked) == ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"))


def test_without_a_policy_any_other_upgrade_is_the_upstreams_to_answer() -> None:
    asked = ((b"Connection", b"Upgrade"), (b"Upgrade", b"shout/1"))
    assert passed(Policy(), *asked) == asked


def test_a_websocket_is_let_through_where_its_path_is() -> None:
    fields = ((b"connection", b"keep-alive, Upgrade"), (b"upgrade", b"WebSocket"))
    assert passed(OPEN, *fields) == fields
    refused(Policy.parse(allow=["/v1/*"]), b"/ws", fields)


def preflight(method: bytes) -> Fields:
    return ((b"Origin", b"http://localhost:3000"), (b"Access-Control-Request-Method", method))


def test_a_preflight_is_let_through_where_what_it_asks_for_is() -> None:
    policy = Policy.parse(ready="openai", deny=["POST /v1/embeddings"])
    chat, models = b"/v1/chat/completions", b"/v1/models"
    check(policy, chat, preflight(b"POST"), b"OPTIONS")
    check(policy, models, preflight(b"GET"), b"OPTIONS")
    for target, asked in ((chat, b"DELETE"), (models, b"POST"), (b"/api/pull", b"POST"), (b"/v1/embeddings", b"POST")):
        refused(policy, target, preflight(asked), b"OPTIONS")
    for fields in (preflight(b"POST")[:1], preflight(b"POST")[1:], ()):  # no preflights
        refused(policy, chat, fields, b"OPTIONS")
    refused(policy, chat, preflight(b"POST"), b"TRACE")
    refused(policy, chat, preflight(b"post"), b"OPTIONS")
    for denied in ("OPTIONS /v1/*", "/v1/*", "POST /v1/chat/*"):
        refused(Policy.parse(deny=[denied]), chat, preflight(b"POST"), b"OPTIONS")
    check(Policy.parse(deny=["GET /v1/*"]), chat, preflight(b"POST"), b"OPTIONS")


def test_without_a_policy_nothing_is_looked_at() -> None:
    check(Policy(), b"//..;/%2F#", method=b"DELETE")
    Admission(Exposure(max_requests=1, max_body=1), clock=Clock()).check(RequestHead(method=b"X", target=b"*"), b"*")


def test_a_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    admission = Admission(Exposure(max_body=10), clock=Clock())
    admission.check_length(10)
    with pytest.raises(Refused) as caught:
        admission.check_length(11)
    assert caught.value.told.status == 413
    assert "--max-body" in caught.value.message
    Admission(Exposure(), clock=Clock()).check_length(1 << 60)


def test_as_many_requests_at_once_as_the_limit_for_each_peer() -> None:
    admission = Admission(Exposure(max_requests=2), clock=Clock())
    with ExitStack() as stack:
        for peer in ("a", "a", "b", "b"):
            stack.enter_context(admission.admitted(peer))
        with pytest.raises(Refused) as caught:
            once(admission, "a")
        assert (caught.value.told.status, caught.value.told.retry_after) == (429, 1)
        once(admission, "c")
    once(admission, "a")


def test_a_request_that_fails_counts_no_more_at_once() -> None:
    admission = Admission(Exposure(max_requests=1), clock=Clock())
    for _ in range(3):
        with pytest.raises(RuntimeError), admission.admitted("a"):
            raise RuntimeError
    once(admission)


def test_in_any_minute_no_more_requests_than_the_limit_and_the_refused_count_for_none() -> None:
    clock = Clock()
    admission = Admission(Exposure(max_requests_per_minute=2), clock=clock)
    once(admission)
    clock.now += 30.5
    once(admission)
    for _ in range(5):
        with pytest.raises(Refused) as caught:
            once(admission)
        assert (caught.value.told.status, caught.value.told.retry_after) == (429, 30)
    once(admission, "b")
    clock.now += 29.5
    once(admission)
    with pytest.raises(Refused):
        once(admission)
    clock.now += 60
    once(admission)
    once(admission)


def test_peers_that_left_are_forgotten() -> None:
    clock = Clock()
    admission = Admission(Exposure(max_requests=1, max_requests_per_minute=5), clock=clock)
    with admission.admitted("stays"):
        for number in range(1000):
            once(admission, f"peer {number}")
            clock.now += 1
        assert len(admission._peers) <= 62
        with pytest.raises(Refused):
            once(admission, "stays")
