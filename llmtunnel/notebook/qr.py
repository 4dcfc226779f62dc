"""An invite as a picture: the QR code of the line to run, the code below it to be read, both in it to be taken out."""

from __future__ import annotations

from html import escape
from io import BytesIO
from textwrap import wrap
from typing import Final

import segno

BORDER: Final = 4
"""Modules of white around a QR code; fewer, and some cameras do not see it."""
ROW: Final = 22
"""Characters in a row of the code under the picture."""
SCALE: Final = 4
LINE: Final = 18
"""Height of a row of text."""


def picture(code: str, line: str) -> bytes:
    """An SVG. Its elements ``code`` and ``line`` hold the texts, for scripts of the page that shows it."""
    qr = segno.make_qr(line, error="m")
    side = int(qr.symbol_size(scale=SCALE, border=BORDER)[0])
    rows = wrap(code, ROW)
    height = side + LINE * len(rows) + BORDER
    shapes = BytesIO()
    qr.save(shapes, kind="svg", scale=SCALE, border=BORDER, light=None, xmldecl=False, svgns=False, nl=False)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{side}" height="{height}" viewBox="0 0 {side} {height}">'
        f'<desc id="code">{escape(code)}</desc><desc id="line">{escape(line)}</desc>'
        f'<rect width="{side}" height="{height}" rx="4" fill="white"/>{shapes.getvalue().decode()}'
        f'<g font-family="monospace" font-size="12" text-anchor="middle">{_texts(rows, side)}</g></svg>'
    ).encode()


def _texts(rows: list[str], side: int) -> str:
    return "".join(
        f'<text x="{side / 2:g}" y="{side + LINE * number + 8}">{escape(row)}</text>' for number, row in enumerate(rows)
    )
