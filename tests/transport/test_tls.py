from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from llmtunnel.errors import ProtocolError
from llmtunnel.transport.base import MAX_MESSAGE, Binding
from llmtunnel.transport.identity import Identity
from llmtunnel.transport.tls import Deframer, Tls, Welcome, anybody

from ..support.altered import dropped, flipped, repeated, swapped

CLIENT, SERVER = Identity(), Identity()


def only(identity: Identity) -> Welcome:
    return lambda fingerprint: fingerprint == identity.fingerprint


def ends(*, client: Welcome = anybody, server: Welcome = anybody) -> tuple[Tls, Tls]:
    return Tls(CLIENT, server=False, welcome=client), Tls(SERVER, server=True, welcome=server)


def met() -> tuple[Tls, Tls]:
    client, server = ends()
    exchange(client, server)
    return client, server


def exchange(client: Tls, server: Tls) -> None:
    """Carry bytes to and fro until both are silent."""
    while True:
        up = client.bytes_to_send()
        assert server.receive(up) == []
        down = server.bytes_to_send()
        assert client.receive(down) == []
        if not up and not down:
            return


def test_both_ends_see_the_others_certificate() -> None:
    client, server = met()
    assert client.binding == Binding(local=CLIENT.fingerprint, remote=SERVER.fingerprint)
    assert server.binding == Binding(local=SERVER.fingerprint, remote=CLIENT.fingerprint)
    assert client._connection.get_protocol_version_name() == "TLSv1.3"


def test_messages_of_any_size_arrive_whole_and_in_order_however_the_bytes_are_cut() -> None:
    client, server = met()
    chance = random.Random(7)
    sent = [chance.randbytes(size) for size in (1, 2, 255, 256, 16_383, 16_384, 16_385, 65_535, MAX_MESSAGE)]
    for message in sent:
        client.send(message)
    data, got = client.bytes_to_send(), []
    while data:
        size = chance.randrange(1, 5000)
        got += server.receive(data[:size])
        data = data[size:]
    assert got == sent


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_a_handshake_may_come_in_any_pieces(chunk: int) -> None:
    client, server = ends()
    for _ in range(3):
        for source, target in ((client, server), (server, client)):
            data = source.bytes_to_send()
            for start in range(0, len(data), chunk):
                target.receive(data[start : start + chunk])
    assert client.binding is not None and server.binding is not None


def test_an_expected_certificate_is_let_in_and_another_one_is_not() -> None:
    client, server = ends(client=only(SERVER), server=only(CLIENT))
    exchange(client, server)
    assert client.binding is not None and server.binding is not None
    client, server = ends(client=only(CLIENT))
    server.receive(client.bytes_to_send())
    with pytest.raises(ProtocolError, match="unexpected certificate"):
        client.receive(server.bytes_to_send())
    assert client.binding is None
    with pytest.raises(ProtocolError, match="rejected our certificate"):
        server.receive(client.bytes_to_send())


def test_a_client_that_is_not_let_in_is_told() -> None:
    client, server = ends(server=only(SERVER))
    server.receive(client.bytes_to_send())
    client.receive(server.bytes_to_send())
    with pytest.raises(ProtocolError, match="unexpected certificate"):
        server.receive(client.bytes_to_send())
    with pytest.raises(ProtocolError, match="rejected our certificate"):
        client.receive(server.bytes_to_send())


@pytest.mark.parametrize("server", [True, False], ids=["client", "server"])
def test_an_end_that_shows_no_certificate_or_speaks_an_older_tls_is_not_let_in(server: bool) -> None:
    us = Tls(SERVER, server=server)
    context = SSL.Context(SSL.TLS_METHOD)
    if not server:
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.use_certificate(CLIENT.certificate._cert)
        context.use_privatekey(CLIENT.certificate._key)
    other = SSL.Connection(context, None)
    other.set_connect_state() if server else other.set_accept_state()
    with pytest.raises(ProtocolError, match=r"TLS 1\.3|protocol version"):
        for _ in range(4):
            if data := us.bytes_to_send():
                other.bio_write(data)
            with suppress(SSL.Error):
                other.do_handshake()
            us.receive(_drained(other))
    assert us.binding is None


def _drained(connection: SSL.Connection) -> bytes:
    try:
        return connection.bio_read(100_000)
    except SSL.WantReadError:
        return b""


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"\xff" * 20_000, b"\x16\x03\x01\xff\xff" * 9]
)
def test_what_is_no_tls_is_said_in_a_sentence(data: bytes) -> None:
    server = Tls(SERVER, server=True)
    with pytest.raises(ProtocolError, match=r"does not speak TLS 1\.3"):
        server.receive(data)


def test_an_orderly_end_comes_behind_all_that_was_sent() -> None:
    client, server = met()
    client.send(b"last")
    client.close()
    assert server.receive(client.bytes_to_send()) == [b"last"]
    assert server.ended
    assert server.receive(b"anything") == []


def test_an_end_within_a_message_is_a_breach() -> None:
    client, server = met()
    client._connection.sendall(b"\xff\xffpart")
    client.close()
    with pytest.raises(ProtocolError, match="middle of a message"):
        server.receive(client.bytes_to_send())


@given(st.data())
def test_bytes_that_somebody_altered_are_an_error_and_never_a_message(data: st.DataObject) -> None:
    client, server = met()
    sent = [b"first" * 10, b"second" * 5000]
    records = []
    for message in sent:
        client.send(message)
        records.append(client.bytes_to_send())
    altered = data.draw(st.sampled_from([flipped, dropped, swapped, repeated, injected]))(records, data)
    got: list[bytes] = []
    with pytest.raises(ProtocolError):
        got += server.receive(altered)
        # Cut so that OpenSSL waits for more: more comes, and it is not what it should be.
        got += server.receive(bytes(100_000))
    assert got == sent[: len(got)]


def injected(records: list[bytes], data: st.DataObject) -> bytes:
    return records[0] + b"\x17\x03\x03\x00\x20" + data.draw(st.binary(min_size=32, max_size=32)) + records[1]


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.data())
def test_frames_are_found_however_they_are_cut(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join((len(message) - 1).to_bytes(2, "big") + message for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    deframer, got = Deframer(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += deframer.feed(stream[start:end])
    assert got == messages
    assert not deframer.partial


@given(st.lists(st.binary(max_size=200_000), max_size=5))
def test_any_bytes_are_messages_and_less_than_one_is_held(pieces: list[bytes]) -> None:
    deframer = Deframer()
    for piece in pieces:
        assert all(1 <= len(message) <= MAX_MESSAGE for message in deframer.feed(piece))
        assert len(deframer._buffer) < 2 + MAX_MESSAGE
