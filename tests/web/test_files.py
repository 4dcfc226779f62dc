"""The page's files as a whole: how large they are, and that they load nothing from elsewhere."""

from __future__ import annotations

import re

from signal_server.page_files import read_folder

from .site import WEB

LARGEST = 250_000
"""Maximum size of all files that a browser loads, compressed."""
NOT_LOADED = re.compile(r"vendor/(LIST\.json|.*\.txt)")
NAMESPACES = {"http://www.w3.org/2000/svg"}
COMMENT = re.compile(r"/\*.*?\*/|(?<!:)//[^\n]*", re.DOTALL)
URL = re.compile(r"https?://[^\s\"'`)>]+")


def test_the_page_is_small() -> None:
    files = read_folder(WEB)
    sizes = {name: len(file.packed or file.data) for name, file in files.items() if not NOT_LOADED.fullmatch(name)}
    assert sum(sizes.values()) < LARGEST, sorted(sizes.items(), key=lambda each: -each[1])[:10]


def test_it_names_no_other_server() -> None:
    own = [path for folder in ("shell", "chat") for path in (WEB / folder).rglob("*.*")]
    for path in [WEB / "index.html", *own]:
        found = set(URL.findall(COMMENT.sub("", path.read_text("utf-8")))) - NAMESPACES
        assert found == set(), path
