"""A notebook in a real kernel, run cell by cell, with an environment of its own in which its first cell installs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from llmtunnel.install import RELEASED, REPOSITORY, TAG

from .processes import ROOT, environment

NOTEBOOKS = ROOT / "notebooks"
LEFT_OUT = {"gpu", "internet"}
"""The tags of cells that run elsewhere only."""
PATIENCE = 120
"""Seconds that one cell may take, on a busy machine."""
SOURCES = ("llmtunnel", "signal_server", "notebooks", "pyproject.toml", "README.md", "LICENSE")
COMMIT = ("-c", "user.name=tests", "-c", "user.email=tests@localhost", "-c", "commit.gpgsign=false", "commit")


@dataclass(frozen=True, slots=True)
class Place:
    """A checkout with a repository of its own, and an environment in which llmtunnel is not installed yet."""

    checkout: Path
    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Place:
        """In ``folder``. What the environment of the tests has is there, llmtunnel excepted."""
        checkout = folder / "checkout"
        for name in SOURCES:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            checkout.mkdir(exist_ok=True)
            copy(ROOT / name, checkout / name)
        for words in (["init", "-b", TAG], ["add", "."], [*COMMIT, "-m", "all"]):
            subprocess.run(["git", "-C", checkout, *words], check=True, stdout=subprocess.DEVNULL)
        if RELEASED:  # the wheel stands for the package index
            pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder / "index"]
            subprocess.run([*pip, checkout], check=True, stdout=subprocess.DEVNULL)
        (folder / "alone").mkdir()
        builder = venv.EnvBuilder()
        builder.create(folder / "environment")
        made = builder.ensure_directories(folder / "environment")
        [packages] = Path(made.env_dir).glob("[Ll]ib/**/site-packages")
        (packages / "tests.pth").write_text(str(folder / "packages"))
        (folder / "packages").mkdir()
        for each in {*Path(sysconfig.get_path("purelib")).iterdir(), *Path(sysconfig.get_path("platlib")).iterdir()}:
            if "llmtunnel" not in each.name:
                (folder / "packages" / each.name).symlink_to(each)
        place = cls(checkout, folder)
        kernel = place.kernels / "python3" / "kernel.json"
        kernel.parent.mkdir(parents=True)
        kernel.write_text(json.dumps(place._kernel(made.env_exe)), "utf-8")
        return place

    @property
    def alone(self) -> Path:
        """A folder that is in no checkout: where notebooks run that somebody has opened from the internet."""
        return self.folder / "alone"

    @property
    def redirected(self) -> dict[str, str]:
        """The variables by which git and pip find the checkout where a notebook names the public llmtunnel."""
        return redirected(self.checkout.as_uri(), str(self.folder / "index"))

    def uninstall(self) -> None:
        """Take away what a notebook has installed."""
        kernel = json.loads((self.kernels / "python3" / "kernel.json").read_text("utf-8"))
        pip = [kernel["argv"][0], "-m", "pip", "uninstall", "--yes", "llmtunnel"]
        subprocess.run(pip, check=True, stdout=subprocess.DEVNULL)

    @property
    def kernels(self) -> Path:
        """The folder where Jupyter finds what starts a kernel here."""
        return self.folder / "jupyter" / "kernels"

    def _kernel(self, python: str) -> dict[str, Any]:
        """A kernel, as Jupyter reads it: its pip builds with what is here, and asks no index."""
        return {
            "display_name": "Python 3",
            "language": "python",
            "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "env": {
                "PYTHONPATH": "",  # what the first cell has installed is to be used
                "PIP_NO_INDEX": "1",
                "PIP_NO_BUILD_ISOLATION": "0",  # which means: none
                "IPYTHONDIR": str(self.folder / "ipython"),
                "MPLCONFIGDIR": str(self.folder / "matplotlib"),
            },
        }


def redirected(repository: str, index: str = "/nowhere") -> dict[str, str]:
    """The variables by which git takes another repository for the public one, and pip a folder for the index."""
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{repository}.insteadOf",
        "GIT_CONFIG_VALUE_0": REPOSITORY,
        "PIP_FIND_LINKS": index,
    }


NOWHERE = redirected("file:///nowhere/to/be/found")
"""The same where llmtunnel cannot be had."""


class _Client(NotebookClient):
    """Keeps what cells write, also what they clear later."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.written: dict[str, str] = {}

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "stream":
            self.written[cell.id] = self.written.get(cell.id, "") + msg["content"]["text"]
        return super().process_message(msg, cell, cell_index)


class Running:
    """A notebook that runs: what its cells have said is in `text`."""

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._next = 0
        self.cells = {cell.id: cell for cell in client.nb.cells}

    def run(self, *, until: str = "") -> None:
        """Run the cells up to this one and with it, or all; but for those that are left out. Fails where one fails."""
        cells = list(self.cells.values())
        while self._next < len(cells):
            cell = cells[self._next]
            self._next += 1
            if not LEFT_OUT & set(cell.metadata.get("tags", ())):
                self._client.execute_cell(cell, self._next - 1)
            if cell.id == "install":
                assert _text(cell) == "llmtunnel is installed.\n", self.written("install")
            if cell.id == until:
                return
        assert not until, f"there is no cell {until!r} left"

    def stop(self) -> None:
        """Do what the last cell, a text, says is to be done in the end."""
        last = list(self.cells.values())[-1]
        self.do(re.search(r"```python\n(.*?)```", last.source, re.DOTALL)[1])  # type: ignore[index]

    def do(self, code: str) -> str:
        """Run a cell that the notebook does not keep; what it says."""
        cell = nbformat.v4.new_code_cell(code)
        cells = self._client.nb.cells
        cells.append(cell)
        self._client.execute_cell(cell, len(cells) - 1)
        cells.remove(cell)
        return _text(cell)

    def value(self, expression: str) -> Any:
        """What an expression is, as JSON has it."""
        return json.loads(self.do(f"import json; print(json.dumps({expression}))"))

    def text(self, name: str) -> str:
        """What a cell has printed, and its value as text."""
        return _text(self.cells[name])

    def written(self, name: str) -> str:
        """All that a cell has printed, with what it has cleared since."""
        return self._client.written.get(name, "")

    def shown(self, name: str, kind: str) -> list[Any]:
        """What a cell has displayed, of one type: ``image/png``."""
        outputs = self.cells[name].outputs
        return [each.data[kind] for each in outputs if kind in each.get("data", ())]

    @property
    def saved(self) -> str:
        """The notebook as it would be saved now, with all that its cells have shown and its widgets' state."""
        self._client.set_widgets_metadata()
        return str(nbformat.writes(self._client.nb))


def read(name: str) -> Any:
    """A notebook of ours."""
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


@contextmanager
def running(place: Place, name: str, **environ: str) -> Iterator[Running]:
    """A notebook, away from the checkout, whose kernel has started, with these variables.

    The repository from which it installs is the checkout's, unless the variables name another.
    """
    specs = KernelSpecManager(kernel_dirs=[str(place.kernels)])
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=specs)
    resources = {"metadata": {"path": str(place.alone)}}
    client = _Client(read(name), km=manager, timeout=PATIENCE, resources=resources)
    given = environment(place.redirected | environ)
    with client.setup_kernel(env=given, cleanup_kc=True):
        yield Running(client)


def _text(cell: Any) -> str:
    streams = [each.text for each in cell.outputs if each.output_type == "stream"]
    values = [each.data.get("text/plain", "") for each in cell.outputs if each.output_type == "execute_result"]
    return "".join([*streams, *values])
