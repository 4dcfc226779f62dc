from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.protocol.heads import (
    Fields,
    RequestHead,
    is_preflight,
    is_upgrade,
    is_websocket,
    keep_upgrades,
    leaves_http,
    tokens,
)

OTHER = ((b"Host", b"a"), (b"X-Settings", b"1"))


def asking(*upgrades: bytes, connection: bytes = b"Upgrade, HTTP2-Settings") -> Fields:
    offered = tuple((b"Upgrade", upgrade) for upgrade in upgrades)
    return (OTHER[0], (b"Connection", connection), *offered, (b"HTTP2-Settings", b"AAEAAEAA"), OTHER[1])


@pytest.mark.parametrize("protocol", [b"h2c", b"h2", b"h2c-14", b"HTTP/2.0", b"http", b"TLS/1.0", b"TLS/1.2", b"tls"])
def test_a_protocol_that_carries_more_requests_is_told_from_others(protocol: bytes) -> None:
    assert not leaves_http(protocol.lower())
    assert keep_upgrades(asking(protocol), leaves_http) == OTHER


@pytest.mark.parametrize("protocol", [b"websocket", b"shout/1", b"tcp", b"SPDY/3.1", b"h2x", b"https-like", b"tlsx"])
def test_any_other_protocol_is_kept_byte_for_byte(protocol: bytes) -> None:
    fields = (OTHER[0], (b"connection", b" keep-alive,  UPGRADE"), (b"uPGRADE", protocol), OTHER[1])
    assert keep_upgrades(fields, leaves_http) is fields


@pytest.mark.parametrize(
    "upgrades",
    [
        (b"h2c, WebSocket",),
        (b"WebSocket,TLS/1.0 ,",),
        (b"h2c", b"WebSocket"),
        (b"WebSocket", b"h2c"),
        (b"", b"h2c,WebSocket"),
    ],
)
def test_of_several_protocols_those_that_are_wanted_are_left(upgrades: tuple[bytes, ...]) -> None:
    found = keep_upgrades(asking(*upgrades, connection=b"Upgrade, HTTP2-Settings, X-Private"), leaves_http)
    assert found == (OTHER[0], (b"Connection", b"Upgrade, X-Private"), (b"Upgrade", b"WebSocket"), OTHER[1])


def test_what_else_a_connection_field_says_stays() -> None:
    fields = asking(b"h2c", connection=b"close, Upgrade, HTTP2-Settings")
    assert keep_upgrades(fields, leaves_http) == (OTHER[0], (b"Connection", b"close"), OTHER[1])


@pytest.mark.parametrize("upgrade", [b"", b" , "])
def test_an_upgrade_to_nothing_is_none(upgrade: bytes) -> None:
    assert keep_upgrades(asking(upgrade), leaves_http) == OTHER


def test_without_an_upgrade_nothing_changes() -> None:
    fields = ((b"Connection", b"HTTP2-Settings"), (b"HTTP2-Settings", b"x"))
    assert keep_upgrades(fields, leaves_http) is fields


_PROTOCOLS = st.sampled_from([b"websocket", b"WebSocket", b"h2c", b"TLS/1.0", b"shout/1", b"", b" "])
_FIELD = st.one_of(
    st.tuples(st.sampled_from([b"Upgrade", b"upgrade"]), st.lists(_PROTOCOLS, max_size=3).map(b",".join)),
    st.tuples(
        st.sampled_from([b"Connection", b"CONNECTION"]),
        st.lists(st.sampled_from([b"upgrade", b"Upgrade", b"HTTP2-Settings", b"close", b"x"]), max_size=3).map(
            b", ".join
        ),
    ),
    st.sampled_from([(b"HTTP2-Settings", b"AAE"), (b"X", b"upgrade")]),
)


@given(st.lists(_FIELD, max_size=6).map(tuple), st.sampled_from([leaves_http, is_websocket]))
def test_whatever_a_client_offers_only_what_is_wanted_is_asked_for(fields: Fields, keeps: object) -> None:
    assert callable(keeps)
    found = keep_upgrades(fields, keeps)
    offered = tokens(fields, b"upgrade")
    assert tokens(found, b"upgrade") == [each for each in offered if keeps(each)]
    if is_upgrade(found):
        assert tokens(found, b"upgrade")
        assert is_upgrade(fields)
    assert [field for field in found if field[0] == b"X"] == [field for field in fields if field[0] == b"X"]
    options = {b"close", b"x"}
    assert [each for each in tokens(found, b"connection") if each in options] == [
        each for each in tokens(fields, b"connection") if each in options
    ]


def test_a_preflight_is_a_pages_question_about_a_method() -> None:
    origin, method = (b"ORIGIN", b"http://a"), (b"access-control-Request-Method", b"POST")
    assert is_preflight(RequestHead(method=b"OPTIONS", target=b"/", fields=(origin, method)))
    for other in (
        RequestHead(method=b"GET", target=b"/", fields=(origin, method)),
        RequestHead(method=b"options", target=b"/", fields=(origin, method)),
        RequestHead(method=b"OPTIONS", target=b"/", fields=(origin,)),
        RequestHead(method=b"OPTIONS", target=b"/", fields=(method,)),
    ):
        assert not is_preflight(other)
