"""A QR code as lines of text for a terminal, two modules in each character. Pure."""

from __future__ import annotations

from itertools import zip_longest
from typing import Final

BORDER: Final = 4
"""Width of the white border, in modules. With less, some cameras do not recognise the code."""
_BLACK_ON_WHITE: Final = "\x1b[38;5;16;48;5;231m"
"""Two of the 256 colours that no theme changes, unlike the first 16. Many cameras do not read an inverted code."""
_END: Final = "\x1b[0m"
_BLOCKS: Final = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}
"""The character for an upper and a lower module; 1 is black."""


def lines(text: str) -> list[str]:
    """Return the lines of the QR code, each in black on white. They have the same width: see `size`."""
    import segno  # here, since few need it

    rows = [tuple(map(int, row)) for row in segno.make_qr(text, error="l").matrix_iter(border=BORDER)]
    white = (0,) * len(rows[0])
    pairs = zip_longest(rows[::2], rows[1::2], fillvalue=white)
    return [f"{_BLACK_ON_WHITE}{''.join(_BLOCKS[pair] for pair in zip(*both, strict=True))}{_END}" for both in pairs]


def size(code: list[str]) -> tuple[int, int]:
    """Return the columns and rows that a QR code takes."""
    return len(code[0]) - len(_BLACK_ON_WHITE) - len(_END), len(code)
