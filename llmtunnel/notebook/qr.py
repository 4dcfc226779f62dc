"""An invite as a picture: the QR code of the link or the command, and the code below it. Scripts can read all texts."""

from __future__ import annotations

from html import escape
from io import BytesIO
from textwrap import wrap
from typing import Final

import segno

BORDER: Final = 4
"""Width of the white border of a QR code, in modules. With less, some cameras do not recognise it."""
ROW: Final = 22
"""Characters per row of the code under the picture."""
SCALE: Final = 4
LINE: Final = 18
"""Height of a row of text, in pixels."""


def picture(code: str, scanned: str, **more: str) -> bytes:
    """Return an SVG with the QR code of ``scanned``.

    Its elements ``code`` and those of ``more`` hold the texts for scripts of the page.
    """
    texts = {"code": code, **more}
    held = "".join(f'<desc id="{name}">{escape(text)}</desc>' for name, text in texts.items())
    qr = segno.make_qr(scanned, error="m")
    side = int(qr.symbol_size(scale=SCALE, border=BORDER)[0])
    rows = wrap(code, ROW)
    height = side + LINE * len(rows) + BORDER
    shapes = BytesIO()
    qr.save(shapes, kind="svg", scale=SCALE, border=BORDER, light=None, xmldecl=False, svgns=False, nl=False)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{side}" height="{height}" viewBox="0 0 {side} {height}">{held}'
        f'<rect width="{side}" height="{height}" rx="4" fill="white"/>{shapes.getvalue().decode()}'
        f'<g font-family="monospace" font-size="12" text-anchor="middle">{_texts(rows, side)}</g></svg>'
    ).encode()


def _texts(rows: list[str], side: int) -> str:
    return "".join(
        f'<text x="{side / 2:g}" y="{side + LINE * number + 8}">{escape(row)}</text>' for number, row in enumerate(rows)
    )
