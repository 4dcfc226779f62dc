"""The sealed form in JavaScript, as a page, towards serve's in Python: the same bytes, and the same verdicts."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator

import pytest

from llmtunnel.transport import relay
from llmtunnel.transport.base import MAX_MESSAGE
from llmtunnel.transport.sealed import Sealed

from ..transport.test_noise import INITIATOR, MESSAGES, PROLOGUE, RESPONDER, Handshake
from .node import Calls, Handle, JsError


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    with Calls() as calls:
        yield calls


def begun(calls: Calls, **options: int) -> tuple[Handle, Sealed]:
    """A page's end, which has said its first word to serve's."""
    page = calls("sealed.Sealed.begin", options)
    serve = Sealed(server=True, **options_there(options))
    assert serve.receive(page.get("first")) == []
    return page, serve


def options_there(options: dict[str, int]) -> dict[str, int]:
    return {"rekey_every": options["rekeyEvery"]} if options else {}


def met(calls: Calls, **options: int) -> tuple[Handle, Sealed]:
    page, serve = begun(calls, **options)
    assert page.call("receive", serve.bytes_to_send()) == []
    return page, serve


def sent(serve: Sealed, message: bytes) -> bytes:
    serve.send(message)
    return serve.bytes_to_send()


def refused(page: Handle, data: bytes, text: str) -> None:
    with pytest.raises(JsError, match=text) as caught:
        page.call("receive", data)
    assert caught.value.name == "ProtocolError"


def test_the_published_vector_holds(calls: Calls) -> None:
    public = bytes.fromhex(MESSAGES[0][1])[:32]
    jwk = {"kty": "OKP", "crv": "X25519", "d": url64(INITIATOR), "x": url64(public)}
    page = calls("noiseOf", PROLOGUE.decode(), jwk)
    serve = Handshake(initiator=False, prologue=PROLOGUE, private=RESPONDER)
    payloads, messages = ([bytes.fromhex(each) for each in column] for column in zip(*MESSAGES, strict=True))
    assert page.call("write", payloads[0]) == messages[0]
    assert serve.read(messages[0]) == payloads[0]
    assert page.call("read", messages[1]) == payloads[1]
    assert serve.write(payloads[1]) == messages[1]
    keys = page.call("split")
    assert keys["hash"] == serve.split().hash
    assert keys["sends"].call("encrypt", payloads[2]) == messages[2]
    assert keys["receives"].call("decrypt", messages[3]) == payloads[3]


def url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_both_ends_are_bound_to_the_same_handshake(calls: Calls) -> None:
    page, serve = met(calls)
    assert serve.binding is not None and page.get("binding") == serve.binding.remote


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f")])
def test_a_key_that_makes_the_secret_known_to_all_is_refused(calls: Calls, key: bytes) -> None:
    page, _ = begun(calls)
    refused(page, key + bytes(16), "key is none")


def test_messages_of_any_size_pass_both_ways_however_the_bytes_are_cut(calls: Calls) -> None:
    page, serve = met(calls)
    chance = random.Random(7)
    messages = [chance.randbytes(size) for size in (1, 2, 255, 256, 65_500, 65_535, MAX_MESSAGE, 3)]
    came = []
    for message in messages:
        records = page.call("seal", message)
        assert all(len(record) <= MAX_MESSAGE for record in records)
        came += serve.receive(b"".join(records))
    assert came == messages
    data, got = b"".join(sent(serve, message) for message in messages), []
    while data:
        size = chance.choice([1, 2, 17, 5000, 40_000])
        got += page.call("receive", data[:size])
        data = data[size:]
    assert got == messages


def test_keys_change_on_both_sides_alike(calls: Calls) -> None:
    page, serve = met(calls, rekeyEvery=3)
    for number in range(10):
        assert serve.receive(b"".join(page.call("seal", b"%d" % number))) == [b"%d" % number]
        assert page.call("receive", sent(serve, b"%d" % number)) == [b"%d" % number]


def test_an_orderly_end_is_told_from_a_cut_both_ways(calls: Calls) -> None:
    page, serve = met(calls)
    assert serve.receive(b"".join([*page.call("seal", b"last"), page.call("close")])) == [b"last"]
    assert serve.ended
    last = sent(serve, b"last")
    serve.close()
    assert not page.get("ended")
    assert page.call("receive", last + serve.bytes_to_send() + b"anything") == [b"last"]
    assert page.get("ended") and page.call("receive", b"anything") == []


def test_an_end_within_a_message_is_a_breach(calls: Calls) -> None:
    page, serve = met(calls)
    serve._seal(b"\xff\xffpart")
    serve.close()
    refused(page, serve.bytes_to_send(), "middle of a message")


def test_a_record_that_cannot_be_one_is_an_error(calls: Calls) -> None:
    page, _ = met(calls)
    refused(page, b"\0\x0f", "too short")


def test_bytes_that_somebody_altered_are_an_error_and_never_a_message(calls: Calls) -> None:
    chance = random.Random(11)
    for attack in ("flip", "drop", "swap", "repeat", "reflect", "splice"):
        page, serve = met(calls)
        first, second = sent(serve, b"first"), sent(serve, b"second" * 100)
        flipped = bytearray(first)
        flipped[chance.randrange(2, len(first))] ^= 1 << chance.randrange(8)
        _, other = met(calls)
        came = {
            "flip": bytes(flipped),
            "drop": first[:-1],
            "swap": second + first,
            "repeat": first + first,
            "reflect": b"".join(page.call("seal", b"first")),
            "splice": sent(other, b"first"),
        }[attack]
        refused(page, came + second, "altered")


def test_a_man_in_the_middle_shows_himself_in_the_binding(calls: Calls) -> None:
    page, middle = met(calls)
    assert middle.receive(b"".join(page.call("seal", b"x"))) == [b"x"], "nothing is proven yet"
    other, serve = met(calls)
    assert serve.binding is not None and page.get("binding") != serve.binding.remote
    assert other.get("binding") == serve.binding.remote


@pytest.mark.parametrize("url", ["ws://h:1", "wss://h/", "wss://h/path", "wss://h/path/?a=b"])
@pytest.mark.parametrize("ticket", ["t-1_x", "name.t", "a_b-1.t.u", ".t", "x" * 64 + ".t"])
def test_a_ticket_that_names_an_instance_is_used_there(calls: Calls, url: str, ticket: str) -> None:
    there = calls("relay.atInstance", url, ticket)
    assert there.removesuffix("/") == relay._at_instance(url, ticket).removesuffix("/")
