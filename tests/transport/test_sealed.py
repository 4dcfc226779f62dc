"""The sealed form of a pipe: its bytes, and a relay that does with them what it likes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtunnel.errors import ProtocolError
from llmtunnel.transport.base import MAX_MESSAGE
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.sealed import FORM, REKEY_EVERY, EitherForm, Sealed
from llmtunnel.transport.tls import Tls

from ..support.altered import dropped, flipped, repeated, swapped

SERVE = Identity()


def exchange(page: Sealed | Tls, serve: Sealed | EitherForm) -> None:
    """Carry the handshake to and fro until both are silent."""
    while up := page.bytes_to_send():
        assert serve.receive(up) == []
        assert page.receive(serve.bytes_to_send()) == []


def met(rekey_every: int = REKEY_EVERY) -> tuple[Sealed, Sealed]:
    page, serve = Sealed(server=False, rekey_every=rekey_every), Sealed(server=True, rekey_every=rekey_every)
    exchange(page, serve)
    return page, serve


def sent(end: Sealed, *messages: bytes) -> list[bytes]:
    """The bytes of each message."""
    records = []
    for message in messages:
        end.send(message)
        records.append(end.bytes_to_send())
    return records


def test_both_ends_are_bound_to_the_same_handshake_and_to_no_certificate() -> None:
    page, serve = met()
    assert page.binding is not None and page.binding == serve.binding
    assert page.binding.local == page.binding.remote and len(page.binding.local) == 32
    assert not page.binding.certified and page.binding.certificate == b""
    another, _ = met()
    assert another.binding != page.binding


def test_the_first_byte_tells_the_form() -> None:
    for client in (Sealed(server=False), Tls(SERVE, server=False)):
        serve = EitherForm(SERVE)
        assert not serve.bytes_to_send() and serve.receive(b"") == [] and serve.binding is None and not serve.ended
        serve.close()
        exchange(client, serve)
        assert serve.binding is not None and serve.binding.certified is isinstance(client, Tls)
        client.send(b"hello")
        client.close()
        assert serve.receive(client.bytes_to_send()) == [b"hello"]
        assert serve.ended
    assert Tls(SERVE, server=False).bytes_to_send()[:1] == b"\x16" != FORM


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\xff" * 100, b"\x02" * 33])
def test_another_form_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="neither TLS nor the sealed form"):
        Sealed(server=True).receive(data)
    with pytest.raises(ProtocolError, match="does not speak TLS"):
        EitherForm(SERVE).receive(data)


def test_messages_of_any_size_arrive_whole_and_in_order_however_the_bytes_are_cut() -> None:
    page, serve = met()
    chance = random.Random(7)
    messages = [chance.randbytes(size) for size in (1, 2, 255, 256, 16_384, 65_500, 65_535, MAX_MESSAGE)]
    data, got = b"".join(sent(page, *messages)), []
    while data:
        size = chance.randrange(1, 5000)
        got += serve.receive(data[:size])
        data = data[size:]
    assert got == messages


@pytest.mark.parametrize("chunk", [1, 7])
def test_a_handshake_may_come_in_any_pieces(chunk: int) -> None:
    page, serve = Sealed(server=False), Sealed(server=True)
    for source, target in ((page, serve), (serve, page)):
        data = source.bytes_to_send()
        for start in range(0, len(data), chunk):
            target.receive(data[start : start + chunk])
    assert page.binding is not None and page.binding == serve.binding


def test_keys_change_on_both_sides_alike() -> None:
    page, serve = met(rekey_every=3)
    for number in range(20):
        assert serve.receive(b"".join(sent(page, b"%d" % number))) == [b"%d" % number]
        assert page.receive(b"".join(sent(serve, b"%d" % number))) == [b"%d" % number]


def test_an_orderly_end_comes_behind_all_that_was_sent_and_ends_all() -> None:
    page, serve = met()
    page.send(b"last")
    page.close()
    assert serve.receive(page.bytes_to_send() + b"anything") == [b"last"]
    assert serve.ended
    assert serve.receive(b"anything") == []
    Sealed(server=False).close()  # nothing stands yet


def test_an_end_within_a_message_is_a_breach() -> None:
    page, serve = met()
    page._seal(b"\xff\xffpart")
    page.close()
    with pytest.raises(ProtocolError, match="middle of a message"):
        serve.receive(page.bytes_to_send())


@pytest.mark.parametrize("size", [0, 1, 15])
def test_a_record_that_cannot_be_one_is_an_error(size: int) -> None:
    _, serve = met()
    with pytest.raises(ProtocolError, match="too short"):
        serve.receive(size.to_bytes(2, "big"))


# -- a hostile relay

Attack = Callable[[list[bytes], st.DataObject], bytes]


@given(st.data())
def test_bytes_that_somebody_altered_are_an_error_and_never_a_message(data: st.DataObject) -> None:
    page, serve = met()
    messages = [b"first" * 10, b"second" * 5000]
    attack: Attack = data.draw(st.sampled_from([flipped, dropped, swapped, repeated, injected, reflected, spliced]))
    altered = attack(sent(page, *messages), data)
    got: list[bytes] = []
    with pytest.raises(ProtocolError):
        got += serve.receive(altered)
        got += serve.receive(bytes(100_000))  # a record that was said to be longer gets its rest
    assert got == messages[: len(got)]


def injected(records: list[bytes], data: st.DataObject) -> bytes:
    return records[0] + b"\x00\x20" + data.draw(st.binary(min_size=32, max_size=32)) + records[1]


def reflected(records: list[bytes], data: st.DataObject) -> bytes:
    """What serve itself sent on another pipe, and what a page sent to it in another handshake."""
    _, other = met()
    return sent(other, b"x")[0] + records[0]


def spliced(records: list[bytes], data: st.DataObject) -> bytes:
    """The first record of this pipe, and the second one of another."""
    other, _ = met()
    return records[0] + sent(other, b"first" * 10, b"second" * 5000)[1]


def test_what_a_side_sent_is_not_taken_back_by_it() -> None:
    page, serve = met()
    for end in (page, serve):
        with pytest.raises(ProtocolError, match="altered"):
            end.receive(sent(end, b"x")[0])


def test_a_page_whose_own_words_are_sent_back_stands_with_nobody() -> None:
    page = Sealed(server=False)
    first = page.bytes_to_send()
    with pytest.raises(ProtocolError):
        page.receive(first[1:] + bytes(16))
    assert page.binding is None


def test_a_handshake_that_was_recorded_opens_nothing() -> None:
    page, serve = Sealed(server=False), Sealed(server=True)
    first = page.bytes_to_send()
    serve.receive(first)
    page.receive(serve.bytes_to_send())
    [record] = sent(page, b"a request")
    again = Sealed(server=True)
    again.receive(first)
    with pytest.raises(ProtocolError, match="altered"):
        again.receive(record)


def test_a_man_in_the_middle_stands_with_both_and_each_is_bound_to_another_handshake() -> None:
    page, towards_page = met()
    towards_serve, serve = met()
    assert towards_serve.receive(sent(serve, b"x")[0]) == [b"x"], "it reads all, as nothing is proven yet"
    assert page.binding is not None and serve.binding is not None
    assert page.binding == towards_page.binding != serve.binding


def test_the_other_sides_key_changed_on_the_way_changes_the_binding_or_ends_the_handshake() -> None:
    page, serve = Sealed(server=False), Sealed(server=True)
    first = page.bytes_to_send()
    serve.receive(first[:32] + bytes([first[32] ^ 1]))
    with pytest.raises(ProtocolError, match="altered"):
        page.receive(serve.bytes_to_send())
    # The top bit of a key is ignored by X25519, and still is in the hash.
    page, serve = Sealed(server=False), Sealed(server=True)
    first = page.bytes_to_send()
    serve.receive(first[:32] + bytes([first[32] ^ 0x80]))
    with pytest.raises(ProtocolError, match="altered"):
        page.receive(serve.bytes_to_send())
