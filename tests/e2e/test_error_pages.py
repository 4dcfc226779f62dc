"""What a browser shows where a tunnel cannot answer: a page that says why, and the application when it is back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..support.browser import CHROMIUM, Page, browser
from ..support.ports import free_port
from ..support.processes import Process, Processes, Proxy, Signal
from ..support.raw_client import get

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"), pytest.mark.timeout(180)]

SOON = 30.0
"""Seconds for a page to load the application again: it asks every 2 to 15."""


@dataclass(slots=True)
class App:
    """A web application that can be killed and started again at its port, its tunnel, and a browser."""

    processes: Processes
    folder: Path
    signal: Signal
    page: Page
    port: int
    running: Process | None = None
    serving: Process | None = None
    proxy: Proxy | None = None

    def start(self) -> None:
        """Start the application."""
        listen = (str(self.port), "--bind", "127.0.0.1", "--directory", str(self.folder))
        self.running = self.processes.start("-u", "-m", "http.server", *listen, name="app", foreign=True)
        self.running.wait_line("Serving HTTP")

    def kill(self) -> None:
        """Kill it."""
        assert self.running is not None
        self.running.kill()

    def serve(self) -> None:
        """Start serve."""
        self.serving = self.processes.serve("pages", str(self.port), self.signal.url)

    def open(self, path: str = "/") -> None:
        """Have the browser go there."""
        assert self.proxy is not None
        self.page.open(self.proxy.url + path)

    def shows(self, words: str, *, timeout: float = SOON) -> None:
        """Wait until the page does."""
        self.page.until(f"document.body.innerText.includes({json.dumps(words)})", timeout=timeout)


@pytest.fixture
def app(processes: Processes, signal: Signal, tmp_path: Path) -> Iterator[App]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><h1>the application</h1>")
    (folder / "form.html").write_text("<!doctype html><form method=post action=/sent><button>Send</button></form>")
    rules = "--host-resolver-rules=MAP elsewhere.test 127.0.0.1"
    with browser(tmp_path, rules) as page:
        app = App(processes, folder, signal, page, free_port())
        app.start()
        app.serve()
        app.proxy = processes.proxy("pages", signal.url, "--wait-for-peer", "0.5")
        app.proxy.process.wait_event("ready")
        app.open()
        app.shows("the application")
        yield app


def test_a_page_whose_model_server_is_down_says_so_and_loads_it_when_it_is_up_again(app: App) -> None:
    page = app.page
    app.kill()
    app.open("/?question=1")
    app.shows("The model server does not answer")
    app.shows("Ask the person who runs serve to start it.")
    assert page.js("getComputedStyle(document.querySelector('main')).borderTopWidth") == "4px", "its style is let in"
    told = page.js("fetch('/api', {headers: {Accept: '*/*'}}).then(answer => answer.json())")
    assert told["error"]["code"] == "upstream_unreachable", "a program reads JSON"
    app.start()
    app.shows("the application")
    assert page.js("location.search") == "?question=1"

    app.kill()  # it had reloaded a moment ago: now it takes its time
    app.open("/?question=2")
    app.shows("The model server does not answer")
    assert page.js("wait") == page.js("LONGEST") == 15_000


def test_a_page_whose_serve_is_gone_says_so_and_loads_the_application_when_it_is_back(app: App) -> None:
    assert app.serving is not None and app.proxy is not None
    app.serving.stop()
    app.proxy.process.wait_event("peer-lost")
    app.open("/?question=1")
    app.shows("No connection to serve")
    assert app.page.js("document.querySelector('code').textContent") == "llmtunnel serve"
    app.serve()
    app.shows("the application")


def test_a_form_that_fails_is_not_sent_again(app: App) -> None:
    assert app.serving is not None and app.proxy is not None
    app.open("/form.html")
    app.shows("Send")
    app.kill()
    app.page.click("document.querySelector('button')")
    app.shows("Go back and send it again later.")
    assert app.page.js("document.scripts.length") == 0
    app.start()
    assert get(app.proxy.address, "/index.html").status == 200
    posts = [event for event in app.serving.events if event["event"] == "request" and event["method"] == "POST"]
    assert [event["status"] for event in posts] == [502]


def test_a_name_that_the_proxy_does_not_know_is_refused_with_a_page_that_does_not_reload(app: App) -> None:
    assert app.proxy is not None
    app.page.open(f"http://elsewhere.test:{app.proxy.address[1]}/")
    app.shows("This address is not allowed")
    app.shows("--allow-host elsewhere.test")
    assert app.page.js("document.scripts.length") == 0
