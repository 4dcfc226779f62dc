"""What the notebooks' files hold, and what they may not: outputs, codes, links that lead nowhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from llmtunnel import install
from llmtunnel.doctor.checks import TERMS
from llmtunnel.invite import COUNT, EXAMPLE
from llmtunnel.platforms import Platform

from ..support.notebook_kernel import LEFT_OUT, NOTEBOOKS, read
from ..support.processes import ROOT

NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
REPOSITORY = urlsplit(install.REPOSITORY).path.strip("/")
CODE = re.compile(rf"\d{{7}}(?:-[a-z]+){{{COUNT}}}")
LINK = re.compile(r"\]\(([^)\s]+)\)")
OURS = re.compile(
    rf"https://(?:github\.com/{REPOSITORY}/blob/main|raw\.githubusercontent\.com/{REPOSITORY}/main"
    rf"|colab\.research\.google\.com/github/{REPOSITORY}/blob/main"
    rf"|mybinder\.org/v2/gh/{REPOSITORY}/main\?urlpath=lab/tree)/(.*)"
)
"""An address of a file in our repository."""


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sources(notebook: Any, kind: str) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind)


def target(link: str) -> Path | None:
    """The file of ours that a link in a notebook leads to; None where it leads elsewhere."""
    if match := OURS.fullmatch(link):
        return ROOT / match[1]
    return None if "://" in link else NOTEBOOKS / link.partition("#")[0]


def test_there_are_five() -> None:
    assert [name[:2] for name in NAMES] == ["01", "02", "03", "04", "05"]


def test_it_is_valid_and_nothing_that_a_run_leaves_is_in_it(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            assert set(cell.metadata) <= {"tags"}


def test_it_is_as_nbformat_writes_it_and_its_cells_have_names(name: str) -> None:
    notebook = read(name)
    assert (NOTEBOOKS / f"{name}.ipynb").read_text("utf-8") == nbformat.writes(notebook) + "\n"
    names = [cell.id for cell in notebook.cells]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z]+(-[a-z]+)*", each) for each in names)


def test_no_code_is_in_it_but_the_one_of_all_examples(name: str) -> None:
    assert set(CODE.findall((NOTEBOOKS / f"{name}.ipynb").read_text("utf-8"))) <= {EXAMPLE}


def test_it_installs_first_and_tells_in_the_end_how_to_stop(name: str) -> None:
    notebook = read(name)
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert "%pip install" in first.source
    assert notebook.cells[-1].source.startswith("## Stop")


def test_what_is_left_out_here_is_tagged_and_is_python_all_the_same(name: str) -> None:
    code = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert {tag for cell in code for tag in cell.metadata.get("tags", ())} <= LEFT_OUT
    for cell in code:
        ast.parse(TransformerManager().transform_cell(cell.source))


def test_links_and_pictures_lead_somewhere(name: str) -> None:
    links = LINK.findall(sources(read(name), "markdown"))
    assert any(link.endswith(".svg") for link in links)
    ours = [path for path in map(target, links) if path is not None]
    assert ours
    assert [path for path in ours if not path.is_file()] == []


@pytest.mark.parametrize("name", ["01_serve_colab", "02_serve_kaggle", "03_local_proxy"])
def test_where_it_lies_alone_its_links_are_absolute(name: str) -> None:
    assert all("://" in link for link in LINK.findall(sources(read(name), "markdown")))


@pytest.mark.parametrize(
    ("name", "platform"), [("01_serve_colab", Platform.COLAB), ("02_serve_kaggle", Platform.KAGGLE)]
)
def test_it_and_its_page_say_where_the_terms_are_as_the_doctor_does(name: str, platform: Platform) -> None:
    where = TERMS[platform].split()[-1]
    page = (ROOT / "docs" / "start" / f"{platform}.md").read_text("utf-8")
    assert where in sources(read(name), "markdown")
    assert where in page
    if platform is Platform.COLAB:
        for text in (TERMS[platform], sources(read(name), "markdown"), page):
            assert "to remote proxies" in " ".join(text.split())


def test_badges_lead_to_the_notebooks() -> None:
    links = LINK.findall((ROOT / "README.md").read_text("utf-8"))
    [colab] = [link for link in links if link.startswith("https://colab.research.google.com/github/")]
    [binder] = [link for link in links if link.startswith("https://mybinder.org/v2/")]
    assert target(colab) == NOTEBOOKS / "01_serve_colab.ipynb"
    assert target(binder) == NOTEBOOKS / "04_whole_tunnel_here.ipynb"


def test_binder_installs_the_checkout_with_what_its_notebook_needs() -> None:
    assert (ROOT / "binder" / "requirements.txt").read_text("utf-8").split() == [".[notebooks]"]
    assert re.fullmatch(r"python-3\.1[1-9]", (ROOT / "binder" / "runtime.txt").read_text("utf-8").strip())
