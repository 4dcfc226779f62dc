"""Frames of wire v1, as the original tunnel writes and reads them: one message each, nothing else known."""

from __future__ import annotations

import json
import struct
from typing import Any

HELLO, AGREE, PING, PONG = 1, 2, 3, 4
REQ_HEADERS, REQ_BODY, REQ_END = 10, 11, 12
RES_HEADERS, RES_BODY, RES_END = 20, 21, 22
ERROR = 99

MAX_BODY = 65_408

Frame = tuple[int, int, bytes]
Json = dict[str, Any]


def pack(kind: int, stream: int, payload: bytes = b"") -> bytes:
    """``type:u8, stream_id:u32 big-endian, payload``."""
    return struct.pack(">BI", kind, stream) + payload


def pack_json(kind: int, stream: int, value: Json) -> bytes:
    """A frame whose payload is JSON."""
    return pack(kind, stream, json.dumps(value).encode())


def unpack(message: bytes) -> Frame | None:
    """The frame that a message is; None for one under 5 bytes, which is skipped."""
    if len(message) < 5:
        return None
    kind, stream = struct.unpack_from(">BI", message)
    return kind, stream, message[5:]


def pieces(body: bytes) -> list[bytes]:
    """A body in payloads of a size that v1 allows."""
    return [body[at : at + MAX_BODY] for at in range(0, len(body), MAX_BODY)]
