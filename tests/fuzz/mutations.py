"""Valid input, spoilt: bytes, JSON and sequences."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")

BYTES = [
    b"",
    b"\0",
    b"\r\n",
    b"\n",
    b" ",
    b":",
    b",",
    b'"',
    b"[",
    b"{",
    b"\xff",
    b"\x80\0\0\0",
    b"\xff\xff\xff\xff",
    b"0",
]
VALUES: list[object] = [
    *(None, True, False, 0, -1, 1, 1.5, 2**31 - 1, 2**31, 2**63, 10**30, float("nan")),
    *("", "x", "/", "*", "\r\n", "\0", "\ud800", "ü", "\u20ac", "x" * 500, "serve", "proxy", "offer", "1"),
    *([], {}, [[]], [["a", "b"]], [["content-length", "1"], ["transfer-encoding", "chunked"]], {"a": "b"}),
]


def of_bytes(rng: Random, data: bytes) -> bytes:
    """``data`` with a few places changed."""
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        data = rng.choice([_flip, _insert, _cut, _repeat, _overwrite])(rng, data)
    return data


def of_json(rng: Random, text: str | bytes) -> bytes:
    """JSON with a member changed, added or taken away; or spoilt as bytes where it is none."""
    raw = text.encode() if isinstance(text, str) else text
    if rng.random() < 0.01:
        return rng.choice([b"[" * 30_000, b'{"a":' * 10_000, b"9" * 5000])
    if rng.random() < 0.2:
        return of_bytes(rng, raw)
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return of_bytes(rng, raw)
    return json.dumps(_of_value(rng, value), ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def of_sequence(rng: Random, items: Sequence[T], spoil: Callable[[T], T]) -> list[T]:
    """A sequence with items spoilt, lost, repeated or out of order."""
    mixed = list(items)
    for _ in range(rng.randrange(4)):
        if not mixed:
            break
        at = rng.randrange(len(mixed))
        match rng.randrange(5):
            case 0 | 1:
                mixed[at] = spoil(mixed[at])
            case 2:
                mixed.insert(rng.randrange(len(mixed) + 1), mixed[at])
            case 3:
                del mixed[at]
            case 4:
                other = rng.randrange(len(mixed))
                mixed[at], mixed[other] = mixed[other], mixed[at]
    return mixed


def pieces(rng: Random, data: bytes) -> list[bytes]:
    """``data`` as a socket may deliver it."""
    if rng.random() < 0.1:
        return [data[at : at + 1] for at in range(len(data))]
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(4)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _of_value(rng: Random, value: object) -> object:
    if isinstance(value, dict) and value and rng.random() < 0.8:
        changed, name = dict(value), rng.choice(list(value))
        match rng.randrange(6):
            case 0:
                del changed[name]
            case 1:
                changed[rng.choice(["", "unknown", "headers", "fields", "to", "token"])] = rng.choice(VALUES)
            case _:
                changed[name] = _of_value(rng, changed[name])
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        changed_list = list(value)
        at = rng.randrange(len(value))
        changed_list[at] = _of_value(rng, value[at])
        return changed_list * rng.choice([1, 1, 1, 2])
    if isinstance(value, str) and rng.random() < 0.5:
        return of_bytes(rng, value.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogateescape")
    return rng.choice(VALUES)


def _flip(rng: Random, data: bytes) -> bytes:
    return _replace(data, (at := _place(rng, data)), at + 1, bytes([rng.randrange(256)]))


def _insert(rng: Random, data: bytes) -> bytes:
    return _replace(data, (at := _place(rng, data)), at, rng.choice(BYTES) * rng.choice([1, 1, 2, 1000]))


def _overwrite(rng: Random, data: bytes) -> bytes:
    new = rng.choice(BYTES)
    return _replace(data, (at := _place(rng, data)), at + len(new), new)


def _cut(rng: Random, data: bytes) -> bytes:
    return _replace(data, (at := _place(rng, data)), at + rng.choice([1, 2, 8, len(data)]), b"")


def _repeat(rng: Random, data: bytes) -> bytes:
    at = _place(rng, data)
    return _replace(data, at, at, data[at : at + rng.choice([1, 4, 20, 100])] * rng.choice([1, 2, 50]))


def _place(rng: Random, data: bytes) -> int:
    return rng.randrange(len(data) + 1)


def _replace(data: bytes, start: int, end: int, new: bytes) -> bytes:
    return data[:start] + new + data[end:]
