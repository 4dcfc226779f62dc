"""What somebody in between does to records: each returns the bytes that arrive in place of two of them."""

from __future__ import annotations

from hypothesis import strategies as st


def flipped(records: list[bytes], data: st.DataObject) -> bytes:
    joined = bytearray(b"".join(records))
    joined[data.draw(st.integers(0, len(joined) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    return bytes(joined)


def dropped(records: list[bytes], data: st.DataObject) -> bytes:
    joined = b"".join(records)
    at = data.draw(st.integers(0, len(joined) - 1))
    return joined[:at] + joined[at + 1 :]


def swapped(records: list[bytes], data: st.DataObject) -> bytes:
    return records[1] + records[0]


def repeated(records: list[bytes], data: st.DataObject) -> bytes:
    return records[0] + records[0] + records[1]
