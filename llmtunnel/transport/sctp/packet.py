"""Packets and chunks as bytes, and back (RFC 9260 section 3, RFC 8260 section 2.1, RFC 9653)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import Struct
from typing import Final, NamedTuple

from google_crc32c import extend
from google_crc32c import value as crc32c

PORT: Final = 5000
"""Our port, and that of a peer whose SDP names no other (RFC 8841 section 5)."""

HEADER: Final = Struct("!HHL")
"""Ports and verification tag. The checksum follows."""
HEADER_SIZE: Final = 12
_CHECKSUM: Final = Struct("<L")
_NO_CHECKSUM: Final = bytes(4)
_CHUNK: Final = Struct("!BBH")
DATA_HEADER: Final = Struct("!BBHLHHL")
"""Type, flags, length, TSN, stream, stream sequence number, payload protocol."""
I_DATA_HEADER: Final = Struct("!BBHLHHLL")
"""Type, flags, length, TSN, stream, zero, message identifier, and the payload protocol of a message's first fragment or
the number of any other one."""
_SACK: Final = Struct("!LLHH")
_GAP: Final = Struct("!HH")
_TSN: Final = Struct("!L")
_INIT: Final = Struct("!LLHHL")
_PARAMETER: Final = Struct("!HH")

DATA: Final = 0
INIT: Final = 1
INIT_ACK: Final = 2
SACK: Final = 3
HEARTBEAT: Final = 4
HEARTBEAT_ACK: Final = 5
ABORT: Final = 6
SHUTDOWN: Final = 7
SHUTDOWN_ACK: Final = 8
ERROR: Final = 9
COOKIE_ECHO: Final = 10
COOKIE_ACK: Final = 11
SHUTDOWN_COMPLETE: Final = 14
I_DATA: Final = 64
RE_CONFIG: Final = 130
PAD: Final = 132
I_FORWARD_TSN: Final = 194

LAST: Final = 1
FIRST: Final = 2
UNORDERED: Final = 4
IMMEDIATE: Final = 8
"""Flags of DATA and I-DATA. The last one is defined in RFC 7053."""

COOKIE: Final = 7
OUTGOING_RESET: Final = 13
RESET_RESPONSE: Final = 16
ZERO_CHECKSUM: Final = 0x8001
SUPPORTED_EXTENSIONS: Final = 0x8008
"""Types of parameters (RFC 9260 section 3.3.2, RFC 6525 section 4, RFC 9653 section 4, RFC 5061 section 4.2.7)."""
OVER_DTLS: Final = (1).to_bytes(4)
"""The value of `ZERO_CHECKSUM` that names DTLS as what detects errors instead (RFC 9653 section 6)."""

SACK_SIZE: Final = 16
GAP_SIZE: Final = 4
"""Bytes of a SACK, and of each block and duplicate in it."""


class Malformed(ValueError):
    """An invalid packet."""


class Chunk(NamedTuple):
    """One chunk, without its header and padding."""

    type: int
    flags: int
    body: bytes


class Init(NamedTuple):
    """The content of INIT and INIT ACK."""

    tag: int
    window: int
    outgoing: int
    """The number of streams that the sender may send on."""
    incoming: int
    """The number of streams that the sender accepts."""
    tsn: int
    """The sender's first TSN."""
    parameters: dict[int, bytes]


class Sack(NamedTuple):
    """What has arrived: everything up to ``tsn``, and blocks beyond it, as first and last TSN relative to ``tsn``."""

    tsn: int
    window: int
    gaps: list[tuple[int, int]]
    duplicates: list[int]
    """TSNs that arrived again since the last SACK."""


def seal(
    tag: int, chunks: Iterable[bytes], *, ports: tuple[int, int] = (PORT, PORT), has_checksum: bool = True
) -> bytes:
    """Return a packet of chunks that are already encoded and padded."""
    header = HEADER.pack(*ports, tag)
    if not has_checksum:
        return b"".join((header, _NO_CHECKSUM, *chunks))
    body = b"".join(chunks)
    return b"".join((header, _checksum(header, body), body))


def parse(data: bytes) -> tuple[int, list[Chunk]]:
    """Return the verification tag and the chunks. Raises `Malformed`.

    DTLS has checked the packet, so it may have no checksum, unless it sets up an association (RFC 9653 section 5.2).
    """
    if len(data) < HEADER_SIZE + _CHUNK.size:
        raise Malformed("a packet is too short")
    checksum = data[8:12]
    is_needed = checksum != _NO_CHECKSUM or data[HEADER_SIZE] in (INIT, COOKIE_ECHO)
    if is_needed and checksum != _checksum(data[:8], data[HEADER_SIZE:]):
        raise Malformed("a packet's checksum is wrong")
    _, _, tag = HEADER.unpack_from(data)
    return tag, list(_chunks(data))


def _checksum(header: bytes, body: bytes) -> bytes:
    """Return the checksum of a packet with these bytes before and after it."""
    return _CHECKSUM.pack(extend(crc32c(header + _NO_CHECKSUM), body))


def _chunks(data: bytes) -> Iterator[Chunk]:
    at, end = HEADER_SIZE, len(data)
    while at + _CHUNK.size <= end:
        type, flags, length = _CHUNK.unpack_from(data, at)
        if length < _CHUNK.size or at + length > end:
            raise Malformed("a chunk is longer than its packet")
        yield Chunk(type, flags, data[at + 4 : at + length])
        at += length + (-length & 3)


def chunk(type: int, body: bytes = b"", *, flags: int = 0) -> bytes:
    """Return an encoded chunk, padded to four bytes."""
    length = _CHUNK.size + len(body)
    return b"".join((_CHUNK.pack(type, flags, length), body, bytes(-length & 3)))


def encode_init(type: int, init: Init) -> bytes:
    """Return an INIT or INIT ACK chunk."""
    fixed = _INIT.pack(init.tag, init.window, init.outgoing, init.incoming, init.tsn)
    return chunk(type, fixed + encode_parameters(init.parameters.items()))


def decode_init(body: bytes) -> Init:
    """Return the content of an INIT or INIT ACK. Raises `Malformed`."""
    if len(body) < _INIT.size:
        raise Malformed("an INIT is too short")
    tag, window, outgoing, incoming, tsn = _INIT.unpack_from(body)
    if not (tag and outgoing and incoming):
        raise Malformed("an INIT has no tag, or no streams")
    return Init(tag, window, outgoing, incoming, tsn, dict(decode_parameters(body[_INIT.size :])))


def encode_sack(sack: Sack) -> bytes:
    """Return a SACK chunk."""
    parts = [_SACK.pack(sack.tsn, sack.window, len(sack.gaps), len(sack.duplicates))]
    parts += [_GAP.pack(*gap) for gap in sack.gaps]
    parts += [_TSN.pack(tsn) for tsn in sack.duplicates]
    return chunk(SACK, b"".join(parts))


def decode_sack(body: bytes) -> Sack:
    """Return the content of a SACK. Raises `Malformed`."""
    if len(body) < _SACK.size:
        raise Malformed("a SACK is too short")
    tsn, window, gaps, duplicates = _SACK.unpack_from(body)
    if len(body) < _SACK.size + _GAP.size * gaps + 4 * duplicates:
        raise Malformed("a SACK is shorter than it says")
    if not (gaps or duplicates):
        return Sack(tsn, window, [], [])
    after = _SACK.size + _GAP.size * gaps
    return Sack(
        tsn,
        window,
        [_GAP.unpack_from(body, _SACK.size + _GAP.size * each) for each in range(gaps)],
        [_TSN.unpack_from(body, after + _TSN.size * each)[0] for each in range(duplicates)],
    )


def encode_parameters(parameters: Iterable[tuple[int, bytes]]) -> bytes:
    """Return the encoded parameters. Each except the last is padded."""
    encoded = b""
    for type, value in parameters:
        encoded += bytes(-len(encoded) & 3) + _PARAMETER.pack(type, _PARAMETER.size + len(value)) + value
    return encoded


def decode_parameters(body: bytes) -> list[tuple[int, bytes]]:
    """Return the types and values of parameters. Raises `Malformed`."""
    parameters, at = [], 0
    while at + _PARAMETER.size <= len(body):
        type, length = _PARAMETER.unpack_from(body, at)
        if length < _PARAMETER.size or at + length > len(body):
            raise Malformed("a parameter is longer than its chunk")
        parameters.append((type, body[at + 4 : at + length]))
        at += length + (-length & 3)
    return parameters


def absolute(number: int, near: int, *, bits: int = 32) -> int:
    """Return the number before it was cut to ``bits``: of all possible values, the one nearest to ``near``."""
    half = 1 << (bits - 1)
    return near + ((number - near + half) & ((1 << bits) - 1)) - half
