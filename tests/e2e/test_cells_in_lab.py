"""`llmtunnel.serve`, `llmtunnel.proxy` and `%tunnel` in a real JupyterLab: what a person sees under the cells."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import llmtunnel

from ..support.background import SERVED, Background
from ..support.browser import CHROMIUM, browser
from ..support.jupyter import Lab
from ..support.ports import free_port
from ..support.processes import Processes

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"),
    pytest.mark.timeout(240),
    pytest.mark.xdist_group("cells"),  # one notebook, whose tunnels the last test stops
]

FIRST, LATER, AGAIN, MISTAKE, MAGIC, STATUS, STOP, CLEAN = range(8)


@pytest.fixture(scope="module")
def other() -> Iterator[Background]:
    with Background() as background:
        yield background


@pytest.fixture(scope="module")
def lab(lasting: Processes, other: Background, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("cells")
    common = f"signal={other.signal!r}, stun=()"
    cells = {
        FIRST: "import llmtunnel\n%load_ext llmtunnel",
        LATER: f"proxy = llmtunnel.proxy(room='later', listen=0, {common})",
        AGAIN: f"proxy = llmtunnel.proxy(room={SERVED!r}, listen={free_port()}, {common})",
        MISTAKE: "llmtunnel.serve('olama')",
        MAGIC: f"%tunnel serve {other.upstream} --signal {other.signal} --stun none",
        STATUS: "%tunnel status",
        STOP: "%tunnel stop all",
        CLEAN: "%tunnel stop all",
    }
    with browser(folder) as page:
        page.resize(1200, 900)
        lab = Lab.start(lasting, page, folder, [cells[number] for number in sorted(cells)])
        lab.command("application:toggle-left-area")
        lab.run_to_end(FIRST)
        yield lab
        lab.run_to_end(CLEAN)


def panel(lab: Lab, number: int) -> str:
    """The expression for the panel under a cell."""
    return f"{lab.output(number)}.querySelector('.lt-panel')"


def test_the_panel_is_seen_while_the_call_waits_and_says_for_what(lab: Lab, other: Background) -> None:
    lab.run(LATER)
    lab.page.until(f"{panel(lab, LATER)}.innerText.includes('waiting for serve')")
    assert lab.page.js(f"{lab.notebook}.content.widgets[{LATER}].model.executionCount") is None, "it still runs"
    with llmtunnel.serve(other.upstream, room="later", signal=other.signal, stun=(), quiet=True):
        lab.page.until(f"{panel(lab, LATER)}.innerText.includes('ready')")
        lab.page.until(f"{lab.notebook}.content.widgets[{LATER}].model.executionCount !== null")
    assert lab.page.js(f"{lab.output(LATER)}.querySelectorAll('.jp-RenderedText').length") == 0


def test_a_cell_that_runs_again_replaces_its_proxy_and_says_so_above_the_panel(lab: Lab) -> None:
    assert "replaces the one of an earlier cell" not in lab.run_to_end(AGAIN)
    lab.page.until(f"{panel(lab, AGAIN)}.innerText.includes('ready')")
    assert "replaces the one of an earlier cell" in lab.run_to_end(AGAIN)
    lab.page.until(f"{panel(lab, AGAIN)}.innerText.includes('ready')")


def test_a_mistake_is_two_lines(lab: Lab) -> None:
    text = lab.run_to_end(MISTAKE)
    assert text.strip().splitlines() == ["SettingError: Unknown server 'olama'.", "Did you mean 'ollama'?"]


def test_no_line_stands_above_a_panel_and_stop_all_names_all_that_it_stops(lab: Lab) -> None:
    for number in (MAGIC, STATUS):
        lab.run_to_end(number)
        lab.page.until(f"{panel(lab, number)}.innerText.includes('waiting for a proxy')")
        assert lab.page.js(f"{lab.output(number)}.querySelectorAll('.jp-RenderedText').length") == 0
    lab.run_to_end(AGAIN)
    said = lab.run_to_end(STOP).strip().splitlines()
    assert said[0] == "serve: stopped"
    assert any(line.startswith("proxy (proxy, http://127.0.0.1:") and line.endswith(": stopped") for line in said[1:])
    lab.page.until(f"{panel(lab, AGAIN)}.innerText.includes('stopped')")
