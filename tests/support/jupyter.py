"""A JupyterLab with a notebook in it, and what one does there."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from .browser import Page
from .processes import PATIENCE, Processes

NAME = "tunnel.ipynb"
NOTEBOOK = "[...jupyterapp.shell.widgets('main')].find(each => each.sessionContext)"
"""The expression for JupyterLab's widget that shows it."""
SETTINGS = {
    "@jupyter-widgets/jupyterlab-manager/plugin": {"saveState": True},
    "@jupyterlab/docmanager-extension/plugin": {"autosave": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}


@dataclass(slots=True)
class Lab:
    """One notebook, open in a browser's page."""

    page: Page
    file: Path

    @classmethod
    def start(
        cls,
        processes: Processes,
        page: Page,
        folder: Path,
        cells: Sequence[str],
        *,
        reach: Callable[[str], str] = lambda url: url,
    ) -> Lab:
        """Start JupyterLab with a notebook of these cells, and open it; its kernel runs when this returns."""
        file = folder / NAME
        file.write_text(json.dumps(_notebook(cells)), "utf-8")
        return cls.open(processes, page, folder, file, reach=reach)

    @classmethod
    def open(
        cls,
        processes: Processes,
        page: Page,
        folder: Path,
        file: Path,
        *,
        kernels: str = "",
        environ: Mapping[str, str] = MappingProxyType({}),
        reach: Callable[[str], str] = lambda url: url,
    ) -> Lab:
        """The same with a notebook that lies somewhere in ``folder``; ``kernels``: where its kernel is described,
        ``environ``: more variables for it.

        ``reach``: by which URL the browser reaches the server at this one.
        """
        token = secrets.token_hex(16)
        server = processes.start(
            *_command(folder, token),
            name="jupyterlab",
            environ=_environment(folder) | ({"JUPYTER_PATH": kernels} if kernels else {}) | dict(environ),
            foreign=True,
        )
        url = server.wait_line(r"(http://127\.0\.0\.1:\d+)/lab", timeout=3 * PATIENCE)[1]
        page.open(f"{reach(url)}/login?next={quote(f'/lab/tree/{file.relative_to(folder).as_posix()}')}")
        page.until("document.readyState === 'complete' && document.querySelector('#password_input')")
        page.js(f"document.querySelector('#password_input').value = {json.dumps(token)}")
        # Not by the mouse: the page may still move under it.
        page.js("document.querySelector('#password_input').form.requestSubmit()")
        lab = cls(page, file)
        lab._await_kernel()
        return lab

    def _await_kernel(self) -> None:
        self.page.until(f"{self.kernel}.status === 'idle'", timeout=2 * PATIENCE)
        self.page.js(f"jupyterapp.shell.activateById({NOTEBOOK}.id)")

    @property
    def notebook(self) -> str:
        """The expression for the notebook's widget."""
        return NOTEBOOK

    @property
    def kernel(self) -> str:
        """The expression for its connection to the kernel."""
        return f"{NOTEBOOK}.sessionContext.session.kernel"

    def run(self, number: int) -> None:
        """Run a cell, and do not wait for its end."""
        self.page.js(f"void ({NOTEBOOK}.content.activeCellIndex = {number})")
        self.command("notebook:run-cell", wait=False)

    def run_to_end(self, number: int) -> str:
        """Run a cell to its end; the text under it."""
        count = f"{NOTEBOOK}.content.widgets[{number}].model.executionCount"
        before = self.page.js(count)
        self.run(number)
        self.page.until(f"![null, {json.dumps(before)}].includes({count})")
        return self.text(number)

    def text(self, number: int) -> str:
        """The text under a cell."""
        return str(self.page.js(f"({self.output(number)} ?? {{}}).innerText ?? ''"))

    def output(self, number: int) -> str:
        """The expression for the element under a cell."""
        return f"{NOTEBOOK}.content.widgets[{number}].node.querySelector('.jp-Cell-outputArea')"

    def command(self, name: str, arguments: dict[str, Any] | None = None, *, wait: bool = True) -> None:
        """One of JupyterLab's commands."""
        done = f"jupyterapp.commands.execute({json.dumps(name)}, {json.dumps(arguments or {})})"
        self.page.js(f"{done}.then(() => null)" if wait else f"void {done}")

    def theme(self, name: str) -> None:
        """Show the page in a theme, ``Light`` or ``Dark``: JupyterLab hides all of it for a moment meanwhile."""
        theme = f"JupyterLab {name}"
        self.command("apputils:change-theme", {"theme": theme})
        shown = "jupyterapp.shell.isVisible && !document.querySelector('#jupyterlab-splash')"
        self.page.until(f"document.body.dataset.jpThemeName === {json.dumps(theme)} && {shown}")

    def restart(self) -> None:
        """Have another kernel take the kernel's place, as the menu does."""
        self.page.js(f"{self.kernel}.restart().then(() => null)")

    def reopen(self) -> None:
        """Load the page anew, with what its file has; save first, or the page asks."""
        self.page.js("window.isLastPage = true; void location.reload()")
        self.page.until("!window.isLastPage && document.readyState === 'complete'")
        self._await_kernel()

    def saved(self) -> dict[str, Any]:
        """The notebook, saved now and read from its file."""
        self.command("docmanager:save")
        notebook: dict[str, Any] = json.loads(self.file.read_text("utf-8"))
        return notebook


def _notebook(cells: Sequence[str]) -> dict[str, Any]:
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": [
            {
                "cell_type": "code",
                "execution_count": None,
                "id": f"cell-{number}",
                "metadata": {"trusted": True},
                "outputs": [],
                "source": source,
            }
            for number, source in enumerate(cells)
        ],
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of the user's own Jupyter; widgets' state is saved, and no news is asked for."""
    config = folder / "config"
    page_config = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    _write(config / "labconfig" / "page_config.json", page_config)
    for name, values in SETTINGS.items():
        _write(folder / "settings" / f"{name}.jupyterlab-settings", values)
    return {
        "JUPYTER_CONFIG_DIR": str(config),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "IPYTHONDIR": str(folder / "ipython"),
    }


def _write(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values), "utf-8")


def start_server(processes: Processes, folder: Path, cells: Sequence[str], *, token: str) -> tuple[Path, str]:
    """Start JupyterLab with a notebook of these cells, and open nothing: the notebook's file, and the server's URL."""
    file = folder / NAME
    file.write_text(json.dumps(_notebook(cells)), "utf-8")
    server = processes.start(*_command(folder, token), name="jupyterlab", environ=_environment(folder), foreign=True)
    return file, server.wait_line(r"(http://127\.0\.0\.1:\d+)/lab", timeout=3 * PATIENCE)[1]


def _command(folder: Path, token: str) -> tuple[str, ...]:
    return (
        *("-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--ServerApp.port=0"),
        *(f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={token}", "--expose-app-in-browser"),
    )
