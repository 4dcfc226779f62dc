"""From the link that serve shows to an answer in a browser: the page of the signal server, and one on a static host."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmtunnel.cli.web import export

from ..support.browser import CHROMIUM, Page, browser
from ..support.ports import free_port
from ..support.processes import Process, Processes
from ..support.raw_server import reply
from ..support.upstream import Upstream
from .test_drain import caddy

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

MESSAGE = "document.querySelector('textarea[aria-label=Message]')"
HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n"
ANSWERED = (
    "document.querySelectorAll('article').length > 1 && !document.querySelector('[aria-label=Send]').hidden"
    " && [...document.querySelectorAll('article')].at(-1).innerText.length > 20"
)


class Quiet(SimpleHTTPRequestHandler):
    """A static host."""

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def static_host(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path) as page:
        yield page


def toy(processes: Processes) -> str:
    return str(processes.command("toy", "--listen", "127.0.0.1:0").wait_event("listening")["url"])


def link_of(serve: Process) -> str:
    return str(serve.wait_event("invite")["link"])


def chat(page: Page, link: str) -> None:
    """Open the link, and let the model answer."""
    page.open(link)
    page.until(f"{MESSAGE} && !{MESSAGE}.disabled && document.querySelector('select[aria-label=Model]').value")
    page.js(f"{MESSAGE}.focus()")
    page.type("What are you?")
    page.press("Enter")
    page.until(ANSWERED)
    assert page.js("location.href") == link.partition("#")[0]
    assert page.problems == []


def test_the_link_opens_the_signal_servers_page_which_reaches_the_model(processes: Processes, page: Page) -> None:
    signal = processes.signal()
    serve = processes.command("serve", "--upstream", toy(processes), "--signal", signal.url, "--web", "--once")
    chat(page, link_of(serve))
    assert serve.wait_event("peer-connected")["authenticated"]


@pytest.mark.skipif(shutil.which("caddy") is None, reason="needs caddy")
def test_the_page_and_a_web_app_work_behind_caddy_with_the_file_of_deploy(
    processes: Processes, own_upstream: Upstream, page: Page, tmp_path: Path
) -> None:
    text = b"<!doctype html><title>App</title><h1>An app</h1>"
    own_upstream.answers[b"/"] = reply(HTML % len(text), text)
    port = free_port()
    host, app = f"localhost:{port}", f"app.localhost:{port}"
    signal = processes.signal("--web-host", host, "--web-app-host", app)
    with caddy(tmp_path, [signal.port, signal.port], host=host, app=app) as url:
        serve = processes.command("serve", "--upstream", own_upstream.url, "--signal", url, "--web")
        page.open(link_of(serve))
        page.frame(rf"^http://{app}/$").until("document.querySelector('h1').textContent === 'An app'")
        assert page.js("location.href") == f"http://{host}/"
        assert page.problems == []


def test_the_exported_chat_works_on_a_static_host(processes: Processes, page: Page, tmp_path: Path) -> None:
    export(tmp_path / "public" / "my" / "chat")
    signal = processes.signal("--no-web")
    with static_host(tmp_path / "public") as url:
        flags = ("--upstream", toy(processes), "--signal", signal.url, "--web", f"{url}my/chat")
        chat(page, link_of(processes.command("serve", *flags)))
