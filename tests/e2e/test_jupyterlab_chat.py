"""The chat in a real JupyterLab, in a real browser: what a person types, reads and stops."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..support.browser import CHROMIUM, browser
from ..support.jupyter import Lab
from ..support.processes import Processes

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"), pytest.mark.timeout(240)]

CHAT = """
import llmtunnel
from llmtunnel import local
from llmtunnel.endpoints.toy import Toy

toy, signal = local.Local("toy", Toy(delay=0.1)), local.signal()
server = llmtunnel.serve(toy.url, signal=signal.url, stun=())
proxy = llmtunnel.proxy(server.invite, listen="127.0.0.1:0", stun=())
proxy.chat()
"""
BUSY = "import time; time.sleep(4); print('the cell has ended')"
ENDED = """
import asyncio
async with asyncio.timeout(20):
    while server.status.active:
        await asyncio.sleep(0.05)
print([each.error for each in server.records() if 'chat' in each.path])
"""
SIZES = {"wide": (960, 900), "narrow": (420, 900)}


@dataclass
class Notebook:
    """A notebook whose first cell has shown a chat."""

    lab: Lab

    @property
    def chat(self) -> str:
        """The expression for its element."""
        return f"{self.lab.output(0)}.querySelector('.lt-chat')"

    @property
    def field(self) -> str:
        """The expression for what one types into."""
        return f"{self.chat}.querySelector('input[type=text]')"

    def button(self, name: str) -> str:
        return f"[...{self.chat}.querySelectorAll('button')].find(each => each.innerText === '{name}')"

    def say(self, words: str) -> None:
        """Type this, and press Enter."""
        self.lab.page.click(self.field)
        self.lab.page.type(words)
        self.lab.page.until(f"{self.field}.value === {json.dumps(words)}")  # the page has not moved the focus away
        self.lab.page.press("Enter")

    def shows(self, words: str) -> None:
        """Return when the conversation shows the words."""
        self.lab.page.until(f"{self.chat}.querySelector('.lt-log').innerText.includes({json.dumps(words)})")

    def output(self, number: int) -> str:
        """What a cell has said in the end."""
        self.lab.page.until(f"{self.lab.output(number)}.innerText.trim()")
        return str(self.lab.page.js(f"{self.lab.output(number)}.innerText"))


@pytest.fixture(scope="module")
def notebook(lasting: Processes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    folder = tmp_path_factory.mktemp("jupyter")
    with browser(folder) as page:
        page.resize(*SIZES["wide"])
        lab = Lab.start(lasting, page, folder, [cell.strip() for cell in (CHAT, BUSY, ENDED)])
        lab.command("application:toggle-left-area")
        lab.run(0)
        shown = Notebook(lab)
        page.until(f"{shown.chat}.querySelector('select').value === 'toy'")
        page.until(f"!{shown.button('Send')}.disabled")
        yield shown


def test_an_answer_streams_while_a_cell_runs_and_stop_ends_it_at_the_other_side(notebook: Notebook) -> None:
    page = notebook.lab.page
    notebook.say("<b>hello</b> <img src=x onerror=alert(1)>")
    notebook.lab.run(1)
    notebook.shows("<b>hello</b> <img src=x onerror=alert(1)>")
    notebook.shows("I am a toy")
    assert not page.js(f"{notebook.lab.output(1)}.innerText.includes('ended')"), "the cell still runs"
    assert page.js(f"{notebook.field}.value") == ""
    assert page.js(f"[...{notebook.chat}.querySelectorAll('.lt-log b, .lt-log img')].length") == 0
    assert "has ended" in notebook.output(1)
    page.until(f"{notebook.button('Send')}.disabled === false")
    notebook.shows("You asked: <b>hello</b>")

    notebook.say("once more, and at length. " * 8)
    page.until(f"{notebook.chat}.querySelectorAll('.lt-model')[1].innerText.includes('I am a toy')")
    page.click(notebook.button("Stop"))
    notebook.shows("(stopped)")
    page.until(f"{notebook.button('Send')}.disabled === false")
    notebook.lab.run(2)
    errors = notebook.output(2)
    assert errors.startswith("['', '")
    assert len(errors.strip()) > len("['', '']"), "serve's record says why it ended"


def test_what_is_typed_letter_by_letter_while_a_cell_runs_is_sent_whole(notebook: Notebook) -> None:
    notebook.lab.run(1)
    notebook.lab.page.click(notebook.field)
    for letter in "letters":
        notebook.lab.page.type(letter)
    notebook.lab.page.press("Enter")
    notebook.shows("You asked: letters")
    notebook.lab.page.until(f"{notebook.button('Send')}.disabled === false")


@pytest.mark.parametrize("size", SIZES)
def test_it_fits_its_place_in_both_themes(notebook: Notebook, size: str) -> None:
    page = notebook.lab.page
    page.resize(*SIZES[size], scale=1.5)
    try:
        for theme in ("Light", "Dark"):
            notebook.lab.theme(theme)
            picture = page.screenshot(notebook.chat)
            assert picture.startswith(b"\x89PNG")
            if folder := os.environ.get("SCREENSHOTS"):
                Path(folder, f"chat-{size}-{theme.lower()}.png").write_bytes(picture)
            assert page.js(f"{notebook.chat}.scrollWidth <= {notebook.chat}.clientWidth")
    finally:
        page.resize(*SIZES["wide"])
        notebook.lab.theme("Light")


def test_what_stands_in_its_place_is_seen_only_when_its_kernel_has_ended(notebook: Notebook) -> None:
    page = notebook.lab.page
    gone = f"{notebook.lab.output(0)}.querySelector('.lt-saved')"
    assert page.js(f"[{gone}.offsetHeight, {notebook.chat}.offsetHeight > 0]") == [0, True]
    notebook.lab.restart()
    page.until(f"{gone}.offsetHeight > 0 && {notebook.chat}.offsetHeight === 0")
    assert "Run the cell again" in str(page.js(f"{gone}.innerText"))
