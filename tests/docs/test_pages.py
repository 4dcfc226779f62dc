"""What the pages say beside what the code does."""

from __future__ import annotations

import ast
import re

from llmtunnel import errors
from llmtunnel.config import DEFAULT_PORT
from llmtunnel.policy import READY
from llmtunnel.upstream import NAMED

from ..support.processes import ROOT
from .markdown import DOCS


def table(page: str, row: str) -> list[tuple[str, ...]]:
    """What the groups of ``row`` find in a page."""
    return re.findall(row, (DOCS / page).read_text("utf-8"), re.MULTILINE)


def test_the_servers_that_have_names_are_listed_with_their_ports() -> None:
    rows = table("howto/servers.md", r"\| `(\w+)` \| (\d+)")
    assert {name: int(port) for name, port in rows} == NAMED
    assert str(DEFAULT_PORT) == "8000"


def test_the_policies_are_listed() -> None:
    assert table("howto/limit.md", r"^\| `(all|openai|ollama|\w+)` \| ") == list(READY)


def test_every_exit_status_of_an_error_is_listed() -> None:
    rows = table("reference/exit-statuses.md", r"^\| ([\d, ]+) \|")
    listed = {int(number) for row in rows for number in row.split(",")}
    kinds = [getattr(errors, name) for name in errors.__all__]
    assert {kind.exit_code for kind in kinds if issubclass(kind, errors.TunnelError)} < listed


def test_the_texts_that_troubleshooting_quotes_are_texts_of_ours() -> None:
    """Headings in the form of a sentence quote one; ``…`` in it stands for what differs from time to time."""
    quoted = [text for text in table("troubleshooting.md", r"^### .*?`([^`]+)`") if " " in text]
    ours = "\n".join(" ".join(text.split()) for text in written())
    composed = {"Serve did not appear within … s", "The signal server says: room … is full …"}
    elsewhere = {"ModuleNotFoundError: No module named 'llmtunnel'", *composed}
    pieces = {piece for text in quoted if text not in elsewhere for piece in text.split("…") if len(piece) > 3}
    assert len(quoted) > 10
    assert sorted(piece for piece in pieces if piece.strip("' ") not in ours) == []


def written() -> list[str]:
    """The pieces of text in our sources."""
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "llmtunnel").rglob("*.py")]
    nodes = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [node.value for node in nodes if isinstance(node.value, str)]
