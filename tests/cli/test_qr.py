"""A QR code on a terminal."""

from __future__ import annotations

import re

import segno

from llmtunnel.cli import qr

LINK = "https://tunnel.example.org/#4821309-tulip-mango-onion-cedar-fruit@tunnel.example.org"
MODULES = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}


def test_the_characters_are_the_modules_of_the_code_in_black_on_white() -> None:
    code = qr.lines(LINK)
    rows: list[tuple[int, ...]] = []
    for line in code:
        match = re.fullmatch("\x1b\\[38;5;16;48;5;231m([ ▀▄█]+)\x1b\\[0m", line)
        assert match is not None
        rows += zip(*(MODULES[char] for char in match[1]), strict=True)
    true = [tuple(map(int, row)) for row in segno.make_qr(LINK, error="l").matrix_iter(border=4)]
    assert rows[: len(true)] == true
    assert not any(sum(row) for row in rows[len(true) :]), "what is left of the last line is white"
    assert qr.size(code) == (len(true[0]), (len(true) + 1) // 2)
