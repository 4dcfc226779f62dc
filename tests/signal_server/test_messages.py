from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signal_server.limits import ENVELOPE, MESSAGE
from signal_server.messages import Bye, Code, Join, OpenPipe, PassOn, Refused, Role, encode, parse


def refusal(text: str) -> Refused:
    with pytest.raises(Refused) as caught:
        parse(text)
    return caught.value


def test_an_original_join_has_a_room_only() -> None:
    assert parse('{"type":"join","room":"R"}') == Join(room="R")


def test_a_join_with_a_role_says_who_and_proves_it() -> None:
    text = '{"type":"join","room":"R","role":"serve","instance":"i","token":"t","later":[1]}'
    assert parse(text) == Join(room="R", role=Role.SERVE, instance="i", token="t")


@pytest.mark.parametrize("role", ['"relay"', "7", "null", "[]", "{}"])
def test_a_role_that_is_none_of_ours_is_an_original_members(role: str) -> None:
    assert parse(f'{{"type":"join","room":"R","role":{role}}}') == Join(room="R")


def test_an_instance_is_fit_to_be_shown() -> None:
    assert parse('{"type":"join","room":"R","instance":"a\\u0007b"}') == Join(room="R")


@pytest.mark.parametrize("value", ["7", "null", "[]", '"' + "x" * 129 + '"', '"\\ud800"'])
def test_an_instance_or_token_that_is_no_short_text_is_left_out(value: str) -> None:
    assert parse(f'{{"type":"join","room":"R","instance":{value},"token":{value}}}') == Join(room="R")


@pytest.mark.parametrize("kind", ["offer", "answer"])
def test_offers_and_answers_are_relayed_with_their_sender_and_nothing_else(kind: str) -> None:
    request = parse(json.dumps({"type": kind, "sdp": "v=0\r\n", "peerId": "forged", "extra": 1}))
    assert isinstance(request, PassOn)
    assert request.to is None
    assert request.message("me") == {"type": kind, "peerId": "me", "sdp": "v=0\r\n"}


def test_a_candidate_is_relayed_as_the_text_it_is() -> None:
    inner = '{"candidate":"candidate:1 1 udp 1 127.0.0.1 9 typ host","sdpMid":null}'
    request = parse(json.dumps({"type": "candidate", "candidate": inner, "to": "you"}))
    assert request == PassOn(type="candidate", text=inner, to="you")


@pytest.mark.parametrize(("to", "meant"), [("you", "you"), (7, ""), (None, ""), ("x" * 1000, ""), ("\ud800", "")])
def test_a_pipe_is_asked_for_by_a_peers_id(to: object, meant: str) -> None:
    assert parse(json.dumps({"type": "pipe", "to": to})) == OpenPipe(to=meant)


@pytest.mark.parametrize("to", [7, ["you"], {"you": 1}, False, "x" * 1000, "\ud800"])
def test_an_address_that_is_no_peers_id_is_nobodys(to: object) -> None:
    request = parse(json.dumps({"type": "offer", "sdp": "s", "to": to}))
    assert isinstance(request, PassOn)
    assert request.to == ""


def test_bye_is_bye() -> None:
    assert parse('{"type":"bye"}') == Bye()


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "{", "[" * 60_000, '{"a":' * 9_000, "1" * 60_000, "[]", "null", "7", '"join"', "\ufeff{}"],
    ids=lambda text: text[:8],
)
def test_what_is_no_json_object_is_invalid(text: str) -> None:
    error = refusal(text)
    assert error.code is Code.INVALID_JSON
    assert str(error).startswith("invalid JSON")
    assert not error.fatal


@pytest.mark.parametrize("text", ["{}", '{"type":null}', '{"type":["join"]}', '{"type":{}}', '{"type":"Join"}'])
def test_a_type_that_is_not_known_is_said(text: str) -> None:
    error = refusal(text)
    assert error.message == {"type": "error", "message": "unknown message type", "code": "unknown-type"}


@pytest.mark.parametrize("room", [None, "", 7, [], {}, True, "\ud800", "é" * 129])
def test_a_room_must_have_a_name_of_reasonable_length(room: object) -> None:
    error = refusal(json.dumps({"type": "join", "room": room}))
    assert error.code is Code.ROOM_REQUIRED
    assert str(error).startswith("room name required")


def test_a_room_may_have_256_bytes_of_name() -> None:
    assert parse(json.dumps({"type": "join", "room": "é" * 128})) == Join(room="é" * 128)


@pytest.mark.parametrize("values", [{}, {"sdp": None}, {"sdp": {"type": "offer"}}, {"sdp": "\udfff"}])
def test_an_offer_must_have_an_sdp(values: dict[str, object]) -> None:
    error = refusal(json.dumps({"type": "offer", **values}))
    assert (error.code, str(error)) == (Code.INVALID_JSON, "invalid JSON: offer without sdp")


def test_a_message_that_would_not_fit_once_relayed_is_too_large() -> None:
    error = refusal(json.dumps({"type": "offer", "sdp": "x" * (MESSAGE - ENVELOPE)}))
    assert error.code is Code.TOO_LARGE
    assert error.fatal


def test_neither_rooms_nor_tokens_nor_sdps_stand_in_reprs() -> None:
    secrets = "room-secret", "token-secret", "sdp-secret"
    shown = repr(Join(room="room-secret", token="token-secret")) + repr(PassOn(type="offer", text="sdp-secret"))
    assert not any(secret in shown for secret in secrets)


@settings(deadline=None)  # a busy machine is no defect
@given(st.text(), st.sampled_from(["sdp", "candidate"]), st.booleans())
def test_relaying_adds_no_more_than_the_envelope(text: str, name: str, escaped: bool) -> None:
    kind = "candidate" if name == "candidate" else "offer"
    came = json.dumps({"type": kind, name: text}, ensure_ascii=escaped, separators=(",", ":"))
    request = parse(came)
    assert isinstance(request, PassOn)
    relayed = encode(request.message("x" * 36))
    assert json.loads(relayed)[name] == text
    assert len(relayed.encode()) <= len(came.encode()) + ENVELOPE


@settings(deadline=None)  # a busy machine is no defect
@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_any_text_is_a_request_or_refused(text: str) -> None:
    try:
        parse(text)
    except Refused as error:
        assert error.message["code"] == error.code.value


values = st.none() | st.booleans() | st.integers() | st.text(max_size=300) | st.lists(st.text(), max_size=2)


@settings(deadline=None)  # a busy machine is no defect
@given(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["join", "offer", "answer", "candidate", "bye"])},
        optional=dict.fromkeys(("room", "role", "instance", "token", "sdp", "candidate", "to", "peerId"), values),
    )
)
def test_any_values_make_a_request_or_are_refused(message: dict[str, object]) -> None:
    try:
        parse(json.dumps(message))
    except Refused as error:
        assert not error.fatal
