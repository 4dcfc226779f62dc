"""The fourth notebook in a real JupyterLab, in a real browser.

``SCREENSHOTS=notebooks/images pytest tests/notebooks/test_page.py`` takes the documentation's picture anew.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ..support.browser import CHROMIUM, browser
from ..support.jupyter import Lab
from ..support.notebook_kernel import NOTEBOOKS, NOWHERE, PATIENCE, Place, read
from ..support.processes import Processes

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"), pytest.mark.timeout(240)]

NAME = "04_whole_tunnel_here"


def test_all_cells_run_and_their_pictures_are_seen(place: Place, started: Processes, tmp_path: Path) -> None:
    numbers = {cell.id: number for number, cell in enumerate(read(NAME).cells)}
    file = place.checkout / "notebooks" / f"{NAME}.ipynb"
    with browser(tmp_path) as page:
        page.resize(860, 4200)
        lab = Lab.open(started, page, place.folder, file, kernels=str(place.kernels.parent))
        lab.command("application:toggle-left-area")
        page.until(f"{cell(lab, numbers['title'])}.querySelector('img[src*=meeting]').naturalWidth > 100")
        lab.command("notebook:run-all-cells", wait=False)
        plot, panel = lab.output(numbers["plot"]), lab.output(numbers["serve"])
        page.until(f"{plot}.querySelector('img').naturalWidth > 100", timeout=PATIENCE)
        # 21 questions, and the list of models, which the proxy's panel asks for.
        page.until(f"{panel}.innerText.includes('0 under way, 22 ended')")
        assert page.js(f"{panel}.scrollWidth <= {panel}.clientWidth")
        if folder := os.environ.get("SCREENSHOTS"):
            page.resize(960, 1240)
            page.js(f"void ({lab.notebook}.content.activeCellIndex = {numbers['serve']})")
            panels = "document.querySelectorAll('.llmtunnel').length"
            before = page.js(panels)
            lab.command("notebook:create-output-view")
            page.until(f"{panels} > {before}")
            page.js(f"{cell(lab, numbers['plot'])}.scrollIntoView({{block: 'end'}})")
            page.js("new Promise(done => setTimeout(done, 1000))")
            Path(folder, "whole_tunnel.png").write_bytes(page.screenshot("document.getElementById('main')"))


def test_run_all_ends_with_one_sentence_where_the_first_cell_cannot_install(
    place: Place, started: Processes, tmp_path: Path
) -> None:
    numbers = {cell.id: number for number, cell in enumerate(read(NAME).cells)}
    file = tmp_path / f"{NAME}.ipynb"
    shutil.copy(NOTEBOOKS / file.name, file)
    place.uninstall()
    with browser(tmp_path) as page:
        page.resize(1000, 4200)  # or what is out of sight has no text
        kernels = str(place.kernels.parent)
        lab = Lab.open(started, page, tmp_path, file, kernels=kernels, environ=NOWHERE)
        lab.command("application:toggle-left-area")
        lab.command("notebook:run-all-cells", wait=False)
        page.until(f"{lab.output(numbers['install'])}.innerText.includes('UsageError: llmtunnel could not be')")
        page.until(f"{lab.kernel}.status === 'idle'")
        code = f"{lab.notebook}.content.widgets.filter(each => each.model.type === 'code')"
        counts = f"{code}.map(each => each.model.executionCount)"
        page.until(f"{counts}[0] === 1")  # told on another channel than the status
        assert set(page.js(counts)[1:]) == {None}, "no other cell has run"
        assert "ModuleNotFoundError" not in page.js("document.body.innerText")
        if folder := os.environ.get("SCREENSHOTS"):
            page.resize(1000, 1000)
            page.js(f"{lab.output(numbers['install'])}.scrollIntoView({{block: 'end'}})")
            page.js("new Promise(done => setTimeout(done, 1000))")
            Path(folder, "install_failed.png").write_bytes(page.screenshot("document.getElementById('main')"))


def cell(lab: Lab, number: int) -> str:
    """The expression for a cell's element."""
    return f"{lab.notebook}.content.widgets[{number}].node"
