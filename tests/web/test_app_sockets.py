"""WebSockets of a real web app in a page: through the frame, its policy, and the shim of documents and workers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from llmtunnel.invite import Invite

from ..support.browser import CHROMIUM, Page, View, browser
from ..support.page_host import PageHost
from ..support.processes import Processes, Signal
from .test_app import WORDS, show

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"), pytest.mark.timeout(120)]

SOCKET = "const socket = new WebSocket('ws://' + new URL(origin).host + '/ws');"
WORKER = f"{SOCKET} socket.onmessage = ({{data}}) => postMessage(data); socket.onerror = () => postMessage('error');"


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory, host: PageHost) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as page:
        page.open(f"{host.url}site.json")
        page.until("location.pathname === '/site.json' && document.readyState === 'complete'")
        page.problems.clear()  # a file has no icon
        yield page


@pytest.fixture(scope="module")
def comfyui(window: Page, host: PageHost, lasting: Processes, signal: Signal) -> View:
    """The frame of an application that compares Origin with Host, as ComfyUI does."""
    app = lasting.start("-m", "tests.support.web_apps", "comfyui", name="comfyui", foreign=True)
    url = app.wait_line(r"app at (http://\S+)")[1]
    invite = Invite(room="invite-7821309", secret=WORDS, signal=signal.url)
    lasting.serve(invite.room, url, invite.signal, "--secret", WORDS)
    return show(window, host, invite)


@pytest.fixture
def app(comfyui: View, host: PageHost) -> Iterator[View]:
    yield comfyui
    assert host.strays == []


def test_a_page_of_an_app_has_its_websocket(app: View) -> None:
    app.until("['status;', 'queued;'].every(each => document.getElementById('told').textContent.includes(each))")


def test_a_worker_of_an_app_has_its_websocket(app: View) -> None:
    app.js(
        f"window.worker = new Worker(URL.createObjectURL(new Blob([{json.dumps(WORKER)}])));"
        "worker.onmessage = ({data}) => { window.heard = data; }; null"
    )
    app.until("window.heard")
    assert app.js("heard") == "status"
