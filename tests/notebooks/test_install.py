"""Each notebook's first cell: it installs from where `llmtunnel.install` says, shows that it does, and stops well."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from nbclient.exceptions import CellExecutionError

from llmtunnel import install
from llmtunnel.invite import EXAMPLE

from ..support.notebook_kernel import NOTEBOOKS, NOWHERE, Place, read, redirected, running

pytestmark = pytest.mark.timeout(240)

NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
SENTENCE = re.compile(r'raise UsageError\("(llmtunnel could not be installed\. pip says why above\. [^"]+)"\)')


def first(name: str) -> str:
    """The code that installs."""
    return next(str(cell.source) for cell in read(name).cells if cell.cell_type == "code")


@pytest.mark.parametrize("name", NAMES)
def test_all_install_alike_from_where_the_one_constant_says(name: str) -> None:
    extra = "notebooks" if name[:2] in ("03", "04") else ""
    code = first(name).replace("[notebooks]", "") if extra else first(name)
    assert f'source = "{install.requirement(extra)}"\n' in first(name)
    assert SENTENCE.sub("", code) == SENTENCE.sub("", first("01_serve_colab"))
    assert "quiet" not in first(name)


@pytest.mark.parametrize("name", NAMES)
def test_each_says_what_to_run_on_the_laptop(name: str) -> None:
    text = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "markdown")
    here = {
        "03_local_proxy": install.on_laptop("-"),
        "05_self_hosted_signal": install.on_laptop(f"{EXAMPLE}@signal.example.org"),
    }.get(name, install.on_laptop(EXAMPLE))
    assert f"```\n{here.uvx}\n```" in text
    assert f"```\n{here.pip}\n" in text


def test_what_pip_does_is_shown_until_it_is_done(place: Place) -> None:
    place.uninstall()
    with running(place, "05_self_hosted_signal") as notebook:
        notebook.run(until="install")
        told = notebook.written("install")
        assert "Building wheel for llmtunnel" in told or install.RELEASED
        assert "Successfully installed llmtunnel" in told
        assert notebook.text("install") == "llmtunnel is installed.\n"


@pytest.fixture
def private() -> Iterator[str]:
    """A repository that asks who wants it, as GitHub does also where there is none of the name."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="GitHub"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/llmtunnel"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["01_serve_colab", "02_serve_kaggle"])
def test_a_notebook_that_cannot_install_says_so_and_goes_no_further(place: Place, private: str, name: str) -> None:
    away = redirected(private) if "colab" in name else NOWHERE
    place.uninstall()
    with running(place, name, **away) as notebook:
        with pytest.raises(CellExecutionError):
            notebook.run()
        [sentence] = SENTENCE.findall(first(name))
        assert notebook.text("install").endswith(f"UsageError: {sentence}\n")
        assert "error:" in notebook.text("install").lower(), "why, as pip says it"
        assert [name for name, cell in notebook.cells.items() if cell.get("execution_count")] == ["install"]
        assert "Traceback" not in notebook.saved
        assert "ModuleNotFoundError" not in notebook.saved
