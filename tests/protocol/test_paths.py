"""PATH: addresses there and back, and what is none."""

from __future__ import annotations

import json

import pytest

from llmtunnel.errors import ProtocolError
from llmtunnel.protocol.paths import MOST, decode_addresses, encode_addresses


def test_addresses_come_as_they_went() -> None:
    addresses = ("192.168.1.5:40123", "[fd00::5]:40123")
    assert decode_addresses(encode_addresses(addresses)) == addresses


def test_only_so_many_are_told_and_read() -> None:
    many = tuple(f"10.0.0.1:{number}" for number in range(2000, 2100))
    assert decode_addresses(encode_addresses(many)) == many[:MOST]
    assert decode_addresses(json.dumps({"tcp": many}).encode()) == many[:MOST]


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"{}", b'{"tcp":1}', b'{"tcp":[1]}', b'{"tcp":{}}', b"\xff"])
def test_what_is_none_is_an_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_addresses(payload)


def test_an_address_that_is_too_long_is_an_error() -> None:
    with pytest.raises(ProtocolError):
        decode_addresses(json.dumps({"tcp": ["1" * 65]}).encode())
