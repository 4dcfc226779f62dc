"""Frames and messages as bytes on the channel, and the table of all frame types (README.md section 2).

`KINDS` is the only table of types. It determines what a peer knows, what may come from the other side, and what is
skipped. A frame of the session with a `Codec` passes through the protocol core: `Connection.tell` sends it, and an
event reports its arrival. All other frames belong to the core, and the code that handles one decodes it. So the payload
of a stream that has ended is skipped undecoded. The codecs of those frames are below, in hello.py and in fields.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum, StrEnum
from typing import Any, Final, NamedTuple

from ..errors import ErrorCode, ProtocolError
from ..status import Role
from . import paths

MAX_MESSAGE: Final = 65_536
"""Maximum number of bytes in one channel message."""
HEADER: Final = struct.Struct(">BI")
MAX_PAYLOAD: Final = MAX_MESSAGE - HEADER.size
MAX_BODY: Final = 65_408
"""Maximum number of bytes in one REQ_BODY or RES_BODY, as in v1."""
MAX_STREAM: Final = 2**31 - 1

_LENGTH: Final = struct.Struct(">H")
MAX_BUNDLED_FRAME: Final = 65_535 - HEADER.size - _LENGTH.size
"""Maximum bytes of a frame, with its own header, that fits a bundle. A length in a bundle has 16 bits."""


class FrameType(IntEnum):
    """The first byte of a frame."""

    HELLO = 1
    AGREE = 2
    PING = 3
    PONG = 4
    BUNDLE = 5
    AUTH = 6
    RESUME = 7
    ACK = 8
    PATH = 9
    REQ_HEADERS = 10
    REQ_BODY = 11
    REQ_END = 12
    CLIENT_CLOSED = 13
    RES_HEADERS = 20
    RES_BODY = 21
    RES_END = 22
    RESET = 30
    CREDIT = 31
    ERROR = 99


class Feature(StrEnum):
    """What two peers may agree on beyond v1."""

    SSE = "sse"
    FIELDS = "fields"
    RESET = "reset"
    CREDIT = "credit"
    LENGTH = "length"
    INTERIM = "interim"
    UPGRADE = "upgrade"
    BUNDLE = "bundle"
    AUTH = "auth"
    RESUME = "resume"
    PATH = "path"
    CLIENT = "client"
    BENCH = "bench"
    LANES = "lanes"
    IDENTITY = "identity"


Features = frozenset[Feature]
ALL_FEATURES: Final[Features] = frozenset(Feature) - {Feature.AUTH, Feature.PATH, Feature.IDENTITY}
"""What every peer of ours supports. The others need a secret, and `Feature.IDENTITY` a proxy with a key."""


class Of(Enum):
    """What a type of frame belongs to."""

    GREETING = "greeting"
    """The session, before it begins. After that, such a frame is a breach."""
    SESSION = "session"
    STREAM = "stream"
    EITHER = "either"
    """A stream, or the session on stream 0."""


class Codec(NamedTuple):
    """How a value becomes a payload, and back. ``decode`` raises `ProtocolError`."""

    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One type of frame: a row of the table."""

    type: FrameType
    of: Of
    sender: Role | None = None
    """None: both sides send it."""
    needs: Feature | None = None
    """If this feature is not agreed on, the type is unknown and skipped. Only v1's own types need none."""
    codec: Codec | None = None
    """For a frame of the session that does not concern the protocol core."""

    def is_known(self, features: Features) -> bool:
        """Return whether a peer with these agreed features knows the type."""
        return self.needs is None or self.needs in features

    def stands_on(self, stream: int) -> bool:
        """Return whether such a frame may have this stream number; 0: the session."""
        if self.of is Of.EITHER or self.type <= LAST_WITHOUT_STREAM:
            return True
        return (self.of is Of.STREAM) == (stream > 0)


_PATH: Final = Codec(paths.encode_addresses, paths.decode_addresses)

KINDS: Final[Mapping[int, Kind]] = {
    kind.type: kind
    for kind in (
        Kind(FrameType.HELLO, Of.GREETING, sender=Role.PROXY),
        Kind(FrameType.AGREE, Of.GREETING, sender=Role.SERVE),
        Kind(FrameType.PING, Of.SESSION),
        Kind(FrameType.PONG, Of.SESSION),
        Kind(FrameType.BUNDLE, Of.SESSION, needs=Feature.BUNDLE),
        Kind(FrameType.AUTH, Of.GREETING, needs=Feature.AUTH),
        Kind(FrameType.RESUME, Of.SESSION, needs=Feature.RESUME),
        Kind(FrameType.ACK, Of.SESSION, needs=Feature.RESUME),
        Kind(FrameType.PATH, Of.SESSION, sender=Role.SERVE, needs=Feature.PATH, codec=_PATH),
        Kind(FrameType.REQ_HEADERS, Of.STREAM, sender=Role.PROXY),
        Kind(FrameType.REQ_BODY, Of.STREAM, sender=Role.PROXY),
        Kind(FrameType.REQ_END, Of.STREAM, sender=Role.PROXY),
        Kind(FrameType.CLIENT_CLOSED, Of.STREAM, sender=Role.PROXY, needs=Feature.CLIENT),
        Kind(FrameType.RES_HEADERS, Of.STREAM, sender=Role.SERVE),
        Kind(FrameType.RES_BODY, Of.STREAM, sender=Role.SERVE),
        Kind(FrameType.RES_END, Of.STREAM, sender=Role.SERVE),
        Kind(FrameType.RESET, Of.EITHER, needs=Feature.RESET),
        Kind(FrameType.CREDIT, Of.STREAM, needs=Feature.CREDIT),
        Kind(FrameType.ERROR, Of.EITHER),
    )
}
"""All types by their number. README.md section 2 has the numbers for new frames."""

LAST_WITHOUT_STREAM: Final = 9
"""The last type whose stream number the receiver ignores. Frames up to this type belong to the session."""


def expected(role: Role, features: Features) -> list[FrameType]:
    """Return the types that this side handles within a session, if these features are agreed on."""
    return [
        kind.type
        for kind in KINDS.values()
        if kind.of is not Of.GREETING and kind.sender is not role and kind.is_known(features)
    ]


def is_breach(type: int, features: Features) -> bool:
    """Return whether a frame that is not `expected` breaks the protocol. If not, it is skipped like an unknown one.

    It breaks the protocol if it comes late or from the wrong side. A feature's frame from the wrong side is skipped.
    """
    kind = KINDS.get(type)
    return kind is not None and kind.is_known(features) and (kind.needs is None or kind.of is Of.GREETING)


class Frame(NamedTuple):
    """One frame. ``type`` is a plain number, since a peer may send a type that we do not know."""

    type: int
    stream: int
    payload: bytes

    @property
    def of_stream(self) -> bool:
        """Whether the frame is a stream's, and so has a number (README.md section 11). This includes unknown types."""
        return self.type > LAST_WITHOUT_STREAM and self.stream > 0


def encode(type: FrameType, stream: int, payload: bytes | memoryview = b"") -> bytes:
    """Return the bytes of one frame."""
    return b"".join((HEADER.pack(type, stream), payload))


def bundle(frames: list[bytes]) -> bytes:
    """Return one message of several encoded frames, of at most 65,535 bytes each. A single frame stays as it is."""
    if len(frames) == 1:
        return frames[0]
    parts = [HEADER.pack(FrameType.BUNDLE, 0)]
    for frame in frames:
        parts.append(_LENGTH.pack(len(frame)))
        parts.append(frame)
    return b"".join(parts)


def bundled_size(frame: bytes) -> int:
    """Return how many bytes a frame adds to a bundle."""
    return _LENGTH.size + len(frame)


def decode(message: bytes) -> Frame | None:
    """Return the frame in a message, without opening a bundle, or None if the message is too short.

    Raises `ProtocolError` if the message is too long.
    """
    if len(message) > MAX_MESSAGE:
        raise ProtocolError("A message is too long.")
    if len(message) < HEADER.size:
        return None
    type_, stream = HEADER.unpack_from(message)
    return Frame(type_, stream, message[HEADER.size :])


def unbundle(payload: bytes) -> Iterator[Frame]:
    """Yield the frames in a bundle. Raises `ProtocolError` if its lengths do not add up, or it contains a bundle."""
    position = 0
    while position < len(payload):
        start = position + _LENGTH.size
        if start > len(payload):
            raise ProtocolError("A bundle ends within a length.")
        position = start + _LENGTH.unpack_from(payload, start - _LENGTH.size)[0]
        if position > len(payload):
            raise ProtocolError("A bundle ends within a frame.")
        frame = decode(payload[start:position])
        if frame is None:
            continue
        if frame.type == FrameType.BUNDLE:
            raise ProtocolError("A bundle is inside a bundle.")
        yield frame


_U16: Final = struct.Struct(">H")
_U32: Final = struct.Struct(">I")
_U64: Final = struct.Struct(">Q")


def encode_reset(code: ErrorCode, message: str) -> bytes:
    """Return the payload of RESET."""
    return _U16.pack(code) + _text(message)


def decode_reset(payload: bytes) -> tuple[ErrorCode, str]:
    """Return the code and text of RESET. An unknown code is read as INTERNAL. Raises `ProtocolError`."""
    if len(payload) < _U16.size:
        raise ProtocolError("A RESET is too short.")
    number = _U16.unpack_from(payload)[0]
    code = ErrorCode(number) if number in ErrorCode._value2member_map_ else ErrorCode.INTERNAL
    return code, decode_text(payload[_U16.size :])


def encode_error(message: str) -> bytes:
    """Return the payload of ERROR."""
    return _text(message)


def decode_session_error(frame: Frame) -> tuple[ErrorCode, str]:
    """Return the code and text of RESET or ERROR on stream 0. Raises `ProtocolError`."""
    if frame.type == FrameType.RESET:
        return decode_reset(frame.payload)
    message = decode_text(frame.payload)
    return (ErrorCode.VERSION if message.startswith("version:") else ErrorCode.INTERNAL), message


def decode_text(payload: bytes) -> str:
    """Return a peer's text for people: at most `TEXT_LIMIT` bytes of it, and no control characters for a terminal."""
    text = payload[:TEXT_LIMIT].decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "�" for char in text)


def encode_credit(amount: int) -> bytes:
    """Return the payload of CREDIT."""
    return _U32.pack(amount)


def decode_credit(payload: bytes) -> int:
    """Return the number of bytes that a CREDIT grants, more than 0. Raises `ProtocolError`."""
    if len(payload) != _U32.size:
        raise ProtocolError("A CREDIT has not 4 bytes.")
    amount: int = _U32.unpack(payload)[0]
    if amount == 0:
        raise ProtocolError("A CREDIT grants nothing.")
    return amount


def encode_count(count: int) -> bytes:
    """Return the payload of RESUME or ACK."""
    return _U64.pack(count)


def decode_count(payload: bytes) -> int:
    """Return the number in a RESUME or ACK. Raises `ProtocolError`."""
    if len(payload) != _U64.size:
        raise ProtocolError("A RESUME or ACK has not 8 bytes.")
    count: int = _U64.unpack(payload)[0]
    return count


def encode_length(length: int) -> bytes:
    """Return the payload of REQ_END or RES_END if ``length`` is agreed on."""
    return _U64.pack(length)


def decode_length(payload: bytes) -> int:
    """Return the number of body bytes in an END. Raises `ProtocolError`."""
    if len(payload) != _U64.size:
        raise ProtocolError("An END has not 8 bytes of length.")
    length: int = _U64.unpack(payload)[0]
    return length


TEXT_LIMIT: Final = 500
"""Maximum length of a text for people in bytes, sent or shown. It is an error message, not a document."""


def _text(message: str) -> bytes:
    return message.encode("utf-8", "replace")[:TEXT_LIMIT]
