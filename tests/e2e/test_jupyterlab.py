"""The panel in a real JupyterLab, in a real browser: what a person sees, clicks and saves.

``SCREENSHOTS=docs pytest tests/e2e/test_jupyterlab.py`` takes the documentation's pictures anew.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal as signals
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from llmtunnel.install import on_laptop

from ..support.browser import CHROMIUM, browser
from ..support.jupyter import Lab
from ..support.processes import PATIENCE, Processes, Signal

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"), pytest.mark.timeout(240)]

TOY = """
import asyncio
from llmtunnel.endpoints.toy import Toy

async def main():
    async with Toy(delay=0.05) as toy:
        print("toy at", toy.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
SERVE = """
%load_ext llmtunnel
import os, pathlib, time
import llmtunnel
from llmtunnel.notebook import display as views, tunnels

%tunnel stop all
%tunnel serve {upstream} --signal {signal} --stun none --deny /denied --web
server = tunnels()["serve"]
"""
BLOCK = """
print("begun")
while not pathlib.Path({end!r}).exists():
    time.sleep(0.05)
"""
TELL = 'print(server.status.phase, "hidden" if views.panel(server).hidden else "seen")'
ASK = "%tunnel invite --plain"
PID = "print(os.getpid())"
PROXY = """
proxy = llmtunnel.proxy(server.invite.code, stun=(), listen="127.0.0.1:0")
proxy
"""
SIZES = {"wide": (960, 1000), "narrow": (620, 1000), "phone": (420, 1000)}


@dataclass
class Notebook:
    """A notebook whose first cell has shown the panel of a serve."""

    lab: Lab
    end: Path
    """A file that ends the second cell."""

    @property
    def panel(self) -> str:
        """The expression for its element."""
        return f"{self.lab.output(0)}.querySelector('.llmtunnel.lt-panel')"

    @property
    def picture(self) -> str:
        """The expression for the picture beside it that the file keeps."""
        return f"{self.lab.output(0)}.querySelector('.llmtunnel.lt-saved')"

    @property
    def seen(self) -> str:
        """All that a person reads under the first cell."""
        return str(self.lab.page.js(f"{self.lab.output(0)}.innerText"))

    def button(self, name: str) -> str:
        """The expression for a button of the panel."""
        return f"[...{self.panel}.querySelectorAll('button')].find(each => each.innerText === '{name}')"

    def shows(self, words: str) -> None:
        """Return when the panel shows the words."""
        self.lab.page.until(f"{self.panel}.innerText.includes({json.dumps(words)})")

    def fields(self) -> list[str]:
        """What is in the invite's fields."""
        values: list[str] = self.lab.page.js(
            f"[...{self.panel}.querySelectorAll('input[name]')].map(each => each.value)"
        )
        return values

    def reveal(self) -> str:
        """Click on Show; the code."""
        self.lab.page.click(self.button("Show"))
        self.shows_code()
        return self.fields()[0]

    def shows_code(self) -> None:
        """Return when it is in its field."""
        self.lab.page.until(f"/^[0-9]{{7}}-/.test({self.panel}.querySelector('input').value)")

    def hide(self) -> None:
        """Click on Hide; returns when it is masked."""
        self.lab.page.click(self.button("Hide"))
        self.lab.page.until(f"{self.panel}.querySelector('input').value.startsWith('•')")

    def tells(self, cell: int = 2) -> str:
        """What the kernel says in a cell: in the third, of tunnel and panel."""
        output = self.lab.output(cell)
        self.lab.page.js(f"void ({output}.innerText = '')")
        self.lab.run(cell)
        self.lab.page.until(f"{output}.innerText.trim()")
        return str(self.lab.page.js(f"{output}.innerText.trim()"))


@pytest.fixture(scope="module")
def lab(lasting: Processes, signal: Signal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """JupyterLab, whose notebook's first cell has not run."""
    folder = tmp_path_factory.mktemp("jupyter")
    upstream = lasting.start("-c", TOY, name="toy").wait_line(r"toy at (\S+)")[1]
    end = folder / "end"
    cells = (SERVE.format(upstream=upstream, signal=signal.url), BLOCK.format(end=str(end)), TELL, ASK, PID, PROXY)
    with browser(folder) as page:
        page.resize(*SIZES["wide"])
        lab = Lab.start(lasting, page, folder, [cell.strip() for cell in cells])
        lab.command("application:toggle-left-area")
        yield Notebook(lab, end)


@pytest.fixture
def notebook(lab: Notebook) -> Iterator[Notebook]:
    """Its first cell has been run anew."""
    lab.end.unlink(missing_ok=True)
    lab.lab.run(0)
    lab.shows("waiting for a proxy")
    yield lab
    lab.end.touch()
    lab.lab.page.until(f"{lab.lab.kernel}.status === 'idle'")


@pytest.fixture
def url(notebook: Notebook, processes: Processes) -> str:
    """Where a proxy listens that was started by the panel's line, and has reached the notebook's serve."""
    notebook.reveal()
    line = notebook.fields()[1].split()
    notebook.hide()
    proxy = processes.start("-m", *line, "--listen", "127.0.0.1:0", "--stun", "none", "--json", name="proxy")
    return str(proxy.wait_event("ready")["url"])


def ask(url: str, words: str = "hello") -> bytes:
    """Stream an answer through the tunnel."""
    body = {"model": "toy", "stream": True, "messages": [{"role": "user", "content": words}]}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=PATIENCE) as response:
        return bytes(response.read())


def test_it_shows_the_proxy_that_connects_and_counts_what_streams_through(notebook: Notebook, url: str) -> None:
    notebook.shows("ready")
    notebook.lab.page.until(f"/direct|local TCP/.test({notebook.panel}.innerText)")
    for _ in range(2):
        assert b"[DONE]" in ask(url)
    notebook.shows("0 under way, 2 ended")
    notebook.shows("/v1/chat/completions")


def test_it_goes_on_while_a_cell_runs(notebook: Notebook, url: str) -> None:
    notebook.lab.run(1)
    notebook.lab.page.until(f"{notebook.lab.output(1)}.innerText.includes('begun')")
    ask(url)
    notebook.shows("1 ended")
    assert notebook.lab.page.js(f"{notebook.lab.kernel}.status") == "busy"


def test_the_code_is_shown_when_asked_and_is_never_in_the_file(notebook: Notebook) -> None:
    page = notebook.lab.page
    assert not any("-" in value for value in notebook.fields())
    code = notebook.reveal()
    commands = on_laptop(code)
    *fields, link = notebook.fields()
    assert fields == [code, commands.run, commands.uvx]
    assert link.endswith(f"/#{code}")
    assert page.js(f"{notebook.panel}.querySelector('img.lt-picture').naturalWidth") > 100

    saved = notebook.lab.saved()
    states = [
        each["state"]
        for each in saved["metadata"]["widgets"]["application/vnd.jupyter.widget-state+json"]["state"].values()
    ]
    pictures = [each["value"] for each in states if each.get("_view_name") == "ImageView"]
    assert pictures
    assert not any(pictures)  # a panel of each run of the cell
    assert any("waiting for a proxy" in str(each.get("value")) for each in states)  # so states are saved
    assert traces(code, notebook.lab.file.read_text("utf-8")) == []

    notebook.hide()
    assert code not in str(page.js(f"{notebook.panel}.outerHTML"))


def test_a_question_shows_the_code_too_and_the_file_has_neither_question_nor_answer(notebook: Notebook) -> None:
    lab, page = notebook.lab, notebook.lab.page
    code = notebook.reveal()
    notebook.hide()
    lab.run(3)
    page.until(f"{lab.output(3)}.querySelector('.jp-Stdin-prompt')")
    assert f"llmtunnel proxy {code}" in str(page.js(f"{lab.output(3)}.innerText"))
    lab.saved()
    assert traces(code, lab.file.read_text("utf-8")) == []

    page.js(f"{lab.output(3)}.querySelector('.jp-Stdin-input').focus()")
    page.press("Enter")
    page.until(f"{lab.kernel}.status === 'idle'")
    page.until(f"!{lab.output(3)}.innerText.trim()")
    lab.saved()
    assert traces(code, lab.file.read_text("utf-8")) == []


def traces(code: str, text: str) -> list[str]:
    """Neighbouring words of the code that are in the text, plain or in base64, whatever stands before them."""
    pairs = ["-".join(pair) for pair in pairwise(code.partition("@")[0].split("-"))]
    encoded = [base64.b64encode(b" " * shift + pair.encode())[4:-4].decode() for pair in pairs for shift in range(3)]
    return [each for each in (*pairs, *encoded) if each in text]


def test_traces_of_a_code_are_found_wherever_they_stand() -> None:
    for before in range(3):
        code = "1234567-cedar-orange"
        assert traces(code, base64.b64encode(b"x" * before + b"<desc>" + code.encode()).decode())
        assert traces(code, f"by {code}")


def test_a_field_selects_all_on_a_click_and_has_a_button_that_copies(notebook: Notebook) -> None:
    page = notebook.lab.page
    code = notebook.reveal()
    field = f"{notebook.panel}.querySelector('input')"
    page.click(field)
    assert page.js(f"[{field}.selectionStart, {field}.selectionEnd]") == [0, len(code)]
    page.click(f"{field}.nextElementSibling")
    page.until(notebook.button("Copied"))


def test_its_buttons_are_reached_and_pressed_by_keyboard(notebook: Notebook) -> None:
    page = notebook.lab.page
    page.js(f"{notebook.button('Stop')}.focus()")
    for _ in range(8):
        page.press("Tab")
        if page.js("document.activeElement.innerText") == "Show":
            break
    assert page.js("document.activeElement.innerText") == "Show"
    page.press(" ")
    notebook.shows_code()


def test_it_rests_while_nobody_sees_it(notebook: Notebook) -> None:
    assert notebook.tells() == "waiting seen"
    notebook.lab.page.js(f"{notebook.lab.notebook}.content.widgets[0].model.sharedModel.setOutputs([])")
    notebook.lab.page.until(f"!{notebook.panel}")
    assert notebook.tells() == "waiting hidden"


def test_a_peer_is_put_out(notebook: Notebook, url: str) -> None:
    page = notebook.lab.page
    put_out = f"[...{notebook.panel}.querySelectorAll('button')].find(each => each.innerText.includes('and block'))"
    page.until(put_out)
    page.click(put_out)
    notebook.shows("waiting for a proxy")
    page.until(f"!{put_out}")


def test_stop_stops_the_tunnel(notebook: Notebook, url: str) -> None:
    notebook.shows("ready")
    notebook.lab.page.click(notebook.button("Stop"))
    notebook.shows("stopped")
    notebook.lab.page.until(f"{notebook.button('Stop')}.disabled")
    assert "B/s" not in notebook.seen
    assert "upstream" not in notebook.seen
    assert notebook.tells() == "stopped seen"


def test_a_click_on_a_request_shows_its_details_and_another_hides_them_also_while_a_cell_runs(
    notebook: Notebook, url: str
) -> None:
    page = notebook.lab.page
    notebook.lab.run(1)
    page.until(f"{notebook.lab.output(1)}.innerText.includes('begun')")
    ask(url)
    notebook.shows("1 ended")
    details = f"{notebook.panel}.querySelector('tr.lt-details')"
    assert page.js(f"{details}.offsetHeight") == 0
    page.click(f"{notebook.panel}.querySelector('tr[data-id] .lt-path')")
    page.until(f"{details}.offsetHeight > 0")
    seen = page.js(f"{details}.innerText")
    for told in ("first token", "response fields", "Content-Type: text/event-stream"):
        assert told in seen
    ask(url)
    notebook.shows("2 ended")  # so the table was drawn anew, with another row above it
    assert page.js(f"[...{notebook.panel}.querySelectorAll('tr.lt-details')].map(each => each.offsetHeight > 0)") == [
        False,
        True,
    ]
    page.js(f"{notebook.panel}.querySelectorAll('button.lt-open')[1].focus()")
    page.press("Enter")
    page.until(f"{notebook.panel}.querySelectorAll('tr.lt-details')[1].offsetHeight === 0")


def test_why_a_request_was_refused_is_seen_without_pointing_at_it(notebook: Notebook, url: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError, match="403"):
        opener.open(f"{url}/denied", timeout=PATIENCE)
    notebook.shows("--deny")


def test_a_proxys_panel_has_what_clients_take_to_be_copied(notebook: Notebook) -> None:
    page, lab = notebook.lab.page, notebook.lab
    lab.run(5)
    panel = f"{lab.output(5)}.querySelector('.lt-panel')"
    page.until(f"{panel}.querySelectorAll('.lt-field input').length === 2")  # the models have come
    values = page.js(f"[...{panel}.querySelectorAll('.lt-field input, .lt-field textarea')].map(each => each.value)")
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/v1", values[0])
    assert values[1] == "toy"
    assert f'base_url="{values[0]}"' in values[2]
    assert 'model="toy"' in values[2]
    for number, value in enumerate(values):
        button = f"{panel}.querySelectorAll('.lt-field button')[{number}]"
        page.click(button)
        page.until(f"{button}.innerText === 'Copied'")
        assert page.js("getSelection().toString()") == value
    notebook.shows("/v1/models")  # nobody else asked

    chat = f"[...{panel}.querySelectorAll('button')].find(each => each.innerText === 'Chat')"
    page.click(chat)
    page.until(f"{panel}.querySelector('.lt-chat select').innerText.includes('toy')")
    page.click(chat)
    page.until(f"!{panel}.querySelector('.lt-chat')")


def test_what_is_saved_of_it_is_seen_once_its_kernel_was_restarted_and_the_notebook_opened_again(
    notebook: Notebook, url: str
) -> None:
    lab, page = notebook.lab, notebook.lab.page
    page.until(f"/\\d ms/.test({notebook.panel}.querySelector('.lt-peers td.lt-rtt').innerText)")  # it is settled
    code = notebook.reveal()
    ask(url)
    page.until(f"{notebook.picture}.textContent.includes('1 ended')")
    assert page.js(f"{notebook.picture}.offsetHeight") == 0
    assert page.js(f"{notebook.panel}.offsetHeight") > 0

    lab.restart()
    page.until(f"{notebook.picture}.offsetHeight > 0")
    assert page.js(f"{notebook.panel}.offsetHeight") == 0
    assert "Last state, saved at" in notebook.seen
    assert "ready serve" in notebook.seen
    assert "1 ended" in notebook.seen
    lab.saved()

    lab.reopen()
    page.until(f"{notebook.picture}.offsetHeight > 0")
    page.until(f"{lab.output(0)}.textContent.includes('model not found')")  # it is there, and hidden
    assert "model not found" not in notebook.seen
    assert "Loading widget" not in notebook.seen
    assert "1 ended" in notebook.seen
    assert traces(code, lab.file.read_text("utf-8")) == []


def test_a_panel_whose_kernel_stands_still_says_so_by_itself(notebook: Notebook) -> None:
    page = notebook.lab.page
    pid = int(notebook.tells(4))
    told = f"getComputedStyle({notebook.panel}.querySelector('.lt-stale')).visibility === 'visible'"
    assert not page.js(told)
    os.kill(pid, signals.SIGSTOP)
    try:
        page.until(told)
        assert "No update for 20 s: the kernel is busy, or has stopped." in notebook.seen
    finally:
        os.kill(pid, signals.SIGCONT)
    page.until(f"!({told})")


def columns(notebook: Notebook) -> list[str]:
    """The columns of its requests that are seen."""
    heads = f"[...{notebook.panel}.querySelectorAll('.lt-requests th')]"
    seen: list[str] = notebook.lab.page.js(f"{heads}.filter(each => each.offsetWidth).map(each => each.innerText)")
    return seen


def cut_off(notebook: Notebook) -> list[str]:
    """What its tables show in part only."""
    cells = f"[...{notebook.panel}.querySelectorAll('th, td')]"
    cut: list[str] = notebook.lab.page.js(
        f"{cells}.filter(each => each.scrollWidth > each.clientWidth + 1).map(each => each.innerText)"
    )
    return cut


@pytest.mark.parametrize("size", SIZES)
def test_it_fits_its_place_in_both_themes(notebook: Notebook, url: str, size: str) -> None:
    page = notebook.lab.page
    page.resize(*SIZES[size], scale=1.5)
    with ThreadPoolExecutor(3) as clients:
        list(clients.map(ask, [url] * 3))
    try:
        for number, theme in enumerate(("Light", "Dark")):
            notebook.lab.theme(theme)
            with ThreadPoolExecutor(2) as clients:
                answers = [clients.submit(ask, url, "Say it at length. " * 3) for _ in range(2)]
                notebook.shows(f"2 under way, {3 + 2 * number} ended")
                page.js("new Promise(done => setTimeout(done, 1500))")  # for the sparklines' sake
                picture = page.screenshot(notebook.panel)
                assert picture.startswith(b"\x89PNG")
                if size == "wide" and (folder := os.environ.get("SCREENSHOTS")):
                    Path(folder, f"panel-{theme.lower()}.png").write_bytes(picture)
                assert page.js(f"{notebook.panel}.scrollWidth <= {notebook.panel}.clientWidth")
                assert cut_off(notebook) == []
                assert {"first byte", "tokens/s", "model"} & set(columns(notebook)) == (
                    {"first byte", "tokens/s", "model"} if size == "wide" else set()
                )
                assert {"method", "path", "status", "duration"} <= set(columns(notebook))
                assert all(b"[DONE]" in answer.result() for answer in answers)
            notebook.shows(f"0 under way, {5 + 2 * number} ended")
    finally:
        page.resize(*SIZES["wide"])
        notebook.lab.theme("Light")
