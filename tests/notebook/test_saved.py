"""What a notebook that a program runs has in its file."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from llmtunnel.endpoints.toy import Toy

from ..support.background import Background
from ..support.processes import environment


def saved(directory: Path, *cells: str) -> str:
    """The file's text, after its cells ran. Raises `CellExecutionError`."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(notebook, timeout=60, kernel_name="python3", resources={"metadata": {"path": directory}})
    client.execute(env=environment({"IPYTHONDIR": str(directory / "ipython")}))
    return str(nbformat.writes(notebook))


def test_the_code_is_not_in_it_and_the_picture_is(tmp_path: Path) -> None:
    with Background(Toy) as other:
        text = saved(
            tmp_path,
            "%load_ext llmtunnel",
            f"%tunnel serve {other.upstream} --signal {other.signal} --stun none",
            "%tunnel invite",
            "from llmtunnel.notebook import tunnels\n"
            "from pathlib import Path\n"
            "Path('code').write_text(tunnels()['serve'].invite.code)\n"
            "tunnels()['serve']",
        )
    words = (tmp_path / "code").read_text().partition("@")[0].split("-")[1:]
    assert len(words) == 5
    assert "-".join(words) not in text
    assert "The code is not shown: no page displays this run" in text
    assert "waiting for a proxy" in text
    assert "application/vnd.jupyter.widget-state+json" in text


def test_a_mistake_fails_the_run(tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError, match="No tunnel is running"):
        saved(tmp_path, "%load_ext llmtunnel", "%tunnel stop")
