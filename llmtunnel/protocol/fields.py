"""Heads and their JSON payloads, validated when received (README.md section 4)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from ..errors import ErrorCode, ProtocolError
from .frames import MAX_PAYLOAD, MAX_STREAM
from .heads import Fields, RequestHead, ResponseHead, get_all
from .hello import Feature, Features

# RFC 9110 section 5.6.2; and the bytes that may occur in a request line and a field line without ending it.
_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET: Final = re.compile(rb"/[\x21-\x7e\x80-\xff]*|\*")
_UNSAFE: Final = re.compile(rb"[\r\n\0]")

MAX_FIELDS: Final = 1024
"""Header fields in one head. A frame has room for 6,500 empty ones, each of which costs 200 bytes of memory and 3 µs.
Serve accepts fewer from an upstream (`Limits`), and the two sides add only a few."""


def encode_request(stream: int, head: RequestHead, features: Features) -> bytes:
    """Return the payload of REQ_HEADERS. Raises `ProtocolError`, of code TOO_LARGE if it does not fit a frame."""
    text = _reader(features)
    values: dict[str, object] = {"stream_id": stream, "method": text(head.method), "path": text(head.target)}
    if Feature.CLIENT in features:
        values |= {name: value for name, value in (("client", head.client), ("last", head.last)) if value}
    if head.bench:
        if Feature.BENCH not in features:  # without it serve would put the request to its upstream
            raise ProtocolError("This serve answers no measurement.", code=ErrorCode.REFUSED)
        values["bench"] = True
    return _dump(values | _fields_out(head.fields, features))


def encode_response(stream: int, head: ResponseHead, features: Features) -> bytes:
    """Return the payload of RES_HEADERS. Raises `ProtocolError` of code TOO_LARGE."""
    values: dict[str, object] = {"stream_id": stream, "status": head.status}
    if Feature.FIELDS in features:
        values["reason"] = head.reason.decode("latin-1")
    return _dump(values | _fields_out(head.fields, features))


def decode_request(payload: bytes, features: Features) -> RequestHead:
    """Return the head in a payload of REQ_HEADERS. Raises `ProtocolError`."""
    values, raw = _load(payload), _writer(features)
    client = values.get("client") if Feature.CLIENT in features else None
    head = RequestHead(
        method=raw(values.get("method")),
        target=raw(values.get("path")),
        fields=_fields_in(values, features),
        # An invalid value makes the stream a client of its own, which shares nothing with others.
        client=client if type(client) is int and 0 < client <= MAX_STREAM else 0,
        last=Feature.CLIENT in features and values.get("last") is True,
        bench=Feature.BENCH in features and values.get("bench") is True,
    )
    if not _TOKEN.fullmatch(head.method):
        raise ProtocolError("A method is not a token.")
    if not _TARGET.fullmatch(head.target):
        raise ProtocolError("A request target is neither a path nor *.")
    return head


def decode_response(payload: bytes, features: Features) -> ResponseHead:
    """Return the head in a payload of RES_HEADERS. Raises `ProtocolError`."""
    values = _load(payload)
    status = values.get("status")
    if type(status) is not int or not 100 <= status <= 999:
        raise ProtocolError("A status is not a number from 100 to 999.")
    reason = _writer(features)(values.get("reason", ""))
    if _UNSAFE.search(reason):
        raise ProtocolError("A reason phrase holds a line break.")
    return ResponseHead(status=status, reason=reason, fields=_fields_in(values, features))


def check(fields: Fields) -> None:
    """Reject fields that would change the meaning of a message on an HTTP connection. Raises `ProtocolError`."""
    for name, value in fields:
        if not _TOKEN.fullmatch(name):
            raise ProtocolError("A field name is not a token.")
        if _UNSAFE.search(value):
            raise ProtocolError("A field value holds CR, LF or NUL.")
    lengths = {value.strip() for value in get_all(fields, b"content-length")}
    if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
        raise ProtocolError("Content-Length is not one number.")
    if lengths and get_all(fields, b"transfer-encoding"):
        raise ProtocolError("A head has both Content-Length and Transfer-Encoding.")


def _fields_out(fields: Fields, features: Features) -> dict[str, object]:
    _check_count(len(fields))
    if Feature.FIELDS in features:
        return {"fields": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in fields]}
    return {"headers": _as_map(fields)}


def _as_map(fields: Fields) -> dict[str, str]:
    """Return the fields as v1 has them, one value per name: joined (RFC 9110 section 5.3), or the last Set-Cookie."""
    joined: dict[bytes, tuple[str, str]] = {}
    for name, value in fields:
        key, label, text = name.lower(), name.decode("latin-1"), _guess(value)
        if key in joined:
            label, before = joined[key]
            text = text if key == b"set-cookie" else f"{before}{'; ' if key == b'cookie' else ', '}{text}"
        joined[key] = (label, text)
    return dict(joined.values())


def _fields_in(values: dict[str, Any], features: Features) -> Fields:
    pairs = _pairs(values.get("fields")) if Feature.FIELDS in features else _items(values.get("headers"))
    raw = _writer(features)
    fields = tuple((raw(name), raw(value)) for name, value in pairs)
    check(fields)
    return fields


def _pairs(fields: object) -> Iterable[Any]:
    if not isinstance(fields, list):
        raise ProtocolError("A head has no fields.")
    _check_count(len(fields))
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in fields):
        raise ProtocolError("A field is not a pair of texts.")
    return fields


def _items(headers: object) -> Iterable[Any]:
    if not isinstance(headers, dict):
        raise ProtocolError("A head has no headers.")
    _check_count(len(headers))
    return headers.items()


def _check_count(count: int) -> None:
    if count > MAX_FIELDS:
        raise ProtocolError(f"A head has {count} fields, more than {MAX_FIELDS}.", code=ErrorCode.TOO_LARGE)


def _dump(values: dict[str, object]) -> bytes:
    payload = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    if len(payload) > MAX_PAYLOAD:
        raise ProtocolError("A head is too large for the tunnel.", code=ErrorCode.TOO_LARGE)
    return payload


def _load(payload: bytes) -> dict[str, Any]:
    try:
        values = json.loads(payload)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError("A head is not JSON.") from exc
    if not isinstance(values, dict):
        raise ProtocolError("A head is not a JSON object.")
    return values


def _reader(features: Features) -> Callable[[bytes], str]:
    return _latin if Feature.FIELDS in features else _guess


def _writer(features: Features) -> Callable[[object], bytes]:
    """Return a function that turns a text of the wire into bytes, by the agreed encoding."""
    encoding = "latin-1" if Feature.FIELDS in features else "utf-8"

    def raw(text: object) -> bytes:
        if not isinstance(text, str):
            raise ProtocolError("A head lacks a text.")
        try:
            return text.encode(encoding)
        except UnicodeEncodeError as exc:
            raise ProtocolError("A head's text is not bytes.") from exc

    return raw


def _latin(data: bytes) -> str:
    return data.decode("latin-1")


def _guess(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
