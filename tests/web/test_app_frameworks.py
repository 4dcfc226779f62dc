"""Web applications of real frameworks in a page: they work, and the browser complains of nothing."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from llmtunnel.invite import Invite

from ..support.browser import BROWSERS, Page, View, browser
from ..support.jupyter import NOTEBOOK, start_server
from ..support.page_host import PageHost
from ..support.processes import PATIENCE, Processes, Signal
from .test_app import WORDS, rooms, show, unexpected

pytestmark = pytest.mark.timeout(300)

UPLOAD = bytes(range(256)) * 80_000
MADE = bytes(range(256)) * 40_000
AUTOFOCUS = "Blocked autofocusing"
"""Chromium's complaint about an attribute that works only in a page of its own."""


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"needs {package}: pip install '.[apps]'")


@pytest.fixture(params=BROWSERS)
def window(tmp_path: Path, host: PageHost, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A browser for each app: the focus is still where the person has put it in the app before."""
    with browser(tmp_path, kind=request.param) as page:
        page.open(f"{host.url}site.json")
        page.until("location.pathname === '/site.json' && document.readyState === 'complete'")
        page.problems.clear()  # a file has no icon
        yield page


@pytest.fixture
def quiet(window: Page, host: PageHost) -> Iterator[None]:
    """The browser complains of nothing, and sends nothing past the tunnel."""
    yield
    assert [each for each in unexpected(window) if AUTOFOCUS not in each] == []
    assert host.strays == []


def through(started: Processes, signal: Signal, upstream: str) -> Invite:
    """A tunnel to the application: its code."""
    made = Invite(room=f"invite-{next(rooms)}", secret=WORDS, signal=signal.url)
    started.serve(made.room, upstream, signal.url, "--secret", WORDS)
    return made


def app_of(started: Processes, name: str) -> str:
    app = started.start("-m", "tests.support.web_apps", name, name=name, foreign=True)
    return app.wait_line(r"(?:app at|URL:) (http://\S+)", timeout=3 * PATIENCE)[1]


def press(view: View, text: str) -> None:
    button = f"[...document.querySelectorAll('button')].find(each => each.innerText.trim() === {json.dumps(text)})"
    view.until(button)
    view.js(f"{button}.click()")


def shows(view: View, text: str) -> None:
    view.until(f"document.body.innerText.includes({json.dumps(text)})", timeout=2 * PATIENCE)


def typed(view: View, page: Page, field: str, text: str) -> None:
    view.until(f"document.querySelector({json.dumps(field)})", timeout=2 * PATIENCE)
    focused = "field => (field.focus(), document.activeElement === field)"
    view.until(f"({focused})(document.querySelector({json.dumps(field)}))")
    page.type(text)
    view.until(f"document.querySelector({json.dumps(field)}).value === {json.dumps(text)}")


@needs("gradio")
@pytest.mark.usefixtures("quiet")
def test_gradio_streams_takes_a_file_and_gives_one(
    processes: Processes,
    signal: Signal,
    window: Page,
    host: PageHost,
    tmp_path: Path,
) -> None:
    app = show(window, host, through(processes, signal, app_of(processes, "gradio_chat")), label="gradio")
    typed(app, window, "textarea", "Ada")
    app.js("document.querySelector('button.submit-button').click()")
    shows(app, "Every word")
    assert not app.js("document.body.innerText.includes('alone: Ada')")
    shows(app, "alone: Ada")
    file = tmp_path / "given.bin"
    file.write_bytes(UPLOAD)
    app.attach("document.querySelector('input[type=file]')", file)
    told = f"{len(UPLOAD)} {hashlib.sha256(UPLOAD).hexdigest()}"
    app.until(f"[...document.querySelectorAll('textarea, input')].some(each => each.value === '{told}')", timeout=90)
    press(app, "Make")
    link = "[...document.links].find(each => each.href.includes('made.bin'))"
    app.until(link)
    app.js(f"{link}.click()")
    assert hashlib.sha256(window.downloaded("made.bin").read_bytes()).digest() == hashlib.sha256(MADE).digest()


@needs("streamlit")
@pytest.mark.usefixtures("quiet")
def test_streamlit_answers_and_takes_a_file(
    processes: Processes,
    signal: Signal,
    window: Page,
    host: PageHost,
    tmp_path: Path,
) -> None:
    app = show(window, host, through(processes, signal, app_of(processes, "streamlit")), label="streamlit")
    # Before its first run has ended, it draws the form anew.
    idle = "document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'"
    app.until(idle, timeout=2 * PATIENCE)
    typed(app, window, "input[type=text]", "Ada")
    window.press("Enter")
    shows(app, "Hello, Ada!")
    file = tmp_path / "file.bin"
    file.write_bytes(UPLOAD)
    app.until("document.querySelector('input[type=file]')")
    app.attach("document.querySelector('input[type=file]')", file)
    shows(app, f"It has {len(UPLOAD)} bytes.")


@pytest.mark.usefixtures("quiet")
def test_a_kernel_of_a_jupyterlab_runs_a_cell(
    processes: Processes,
    signal: Signal,
    window: Page,
    host: PageHost,
    tmp_path: Path,
) -> None:
    token = secrets.token_hex(16)
    file, url = start_server(processes, tmp_path, ["print(6 * 7)"], token=token)
    app = show(window, host, through(processes, signal, url), f"/login?next=%2Flab%2Ftree%2F{file.name}", label="lab")
    app.until("document.querySelector('#password_input')")
    app.js(f"document.querySelector('#password_input').value = {json.dumps(token)}")
    app.js("document.querySelector('#password_input').form.requestSubmit()")
    lab = window.frame(r"^http://lab\.localhost:\d+/lab", timeout=2 * PATIENCE)
    lab.until(f"{NOTEBOOK}.sessionContext.session.kernel.status === 'idle'", timeout=3 * PATIENCE)
    lab.js(f"jupyterapp.shell.activateById({NOTEBOOK}.id)")
    lab.js(f"void ({NOTEBOOK}.content.activeCellIndex = 0)")
    lab.js("void jupyterapp.commands.execute('notebook:run-cell')")
    output = f"{NOTEBOOK}.content.widgets[0].node.querySelector('.jp-Cell-outputArea')"
    lab.until(f"{output}.innerText.trim() === '42'", timeout=2 * PATIENCE)
    lab.js(f"{NOTEBOOK}.context.save().then(() => null)")
    saved = json.loads(file.read_text("utf-8"))
    assert saved["cells"][0]["outputs"][0]["text"] == ["42\n"]
