from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from llmtunnel.notebook import qr

from ..support.scripted_handle import CODE, HOSTILE

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("code", [CODE, f"{CODE}@ws://10.0.0.2:8787", HOSTILE.replace("\x1b", "")])
def test_the_texts_can_be_taken_out_of_the_picture(code: str) -> None:
    tree = ElementTree.fromstring(qr.picture(code, "scanned", line=f"llmtunnel proxy {code}"))
    texts = {each.get("id"): each.text for each in tree.iter(f"{SVG}desc")}
    assert texts == {"code": code, "line": f"llmtunnel proxy {code}"}
    assert "".join(each.text or "" for each in tree.iter(f"{SVG}text")).replace(" ", "") == code.replace(" ", "")


def test_each_text_makes_another_picture() -> None:
    shapes = {ElementTree.fromstring(qr.picture(CODE, line)).find(f".//{SVG}path").get("d") for line in ("a", "b")}  # type: ignore[union-attr]
    assert len(shapes) == 2
