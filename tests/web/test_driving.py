"""`support.browser` does in each browser what a person does, and misses none of a page's complaints."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ..support.browser import BROWSERS, Page, browser
from ..support.upstream import wait_until

OUTER = """<!doctype html><title>Outer</title><link rel=icon href=data:,>
<style>body { background: white } @media (prefers-color-scheme: dark) { body { background: black } }</style>
<input id=text> <input type=file> <a href=/file>Download</a>
<iframe style="margin: 37px" src="http://app.localhost:PORT/middle"></iframe>"""
MIDDLE = """<!doctype html><iframe style="margin: 31px" src=/inner></iframe>"""
INNER = """<!doctype html><div style="height: 3000px"></div><input> <a target=_blank href=/popup>Popup</a>
<button onclick="window.clicks = (window.clicks ?? 0) + 1">Click</button>"""
POLICY = "default-src 'none'; connect-src 'none'; img-src data:; style-src 'unsafe-inline'; frame-src http://app.localhost:PORT"


ANSWERS = {
    "/": (OUTER, {"Content-Security-Policy": POLICY}),
    "/middle": (MIDDLE, {}),
    "/inner": (INNER, {}),
    "/popup": ("<!doctype html>A popup", {}),
    "/file": ("x" * 3_000_000, {"Content-Disposition": "attachment; filename=big.txt"}),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path not in ANSWERS:
            self.send_error(404)
            return
        text, headers = ANSWERS[self.path]
        port = str(self.server.server_address[1])
        self.send_response(200)
        for name, value in ({"Content-Type": "text/html"} | headers).items():
            self.send_header(name, value.replace("PORT", port))
        self.end_headers()
        self.wfile.write(text.replace("PORT", port).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module", params=BROWSERS)
def page(request: pytest.FixtureRequest, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser"), kind=request.param) as page:
        page.open(f"http://localhost:{port}/")
        page.until("document.title === 'Outer' && document.readyState === 'complete'")
        yield page


@pytest.fixture(autouse=True)
def forget(page: Page) -> None:
    page.problems.clear()


def test_values_are_those_of_json(page: Page) -> None:
    assert page.js("Promise.resolve({a: [1, 1.5, null, 'é'], b: {c: true}, d: undefined})") == {
        "a": [1, 1.5, None, "é"],
        "b": {"c": True},
    }
    with pytest.raises(AssertionError, match="out of paper"):
        page.js("Promise.reject(new Error('out of paper'))")


def test_keys_and_text_go_to_the_focus(page: Page) -> None:
    page.click("document.querySelector('#text')")
    page.type("Grüße, 𝄞abc")
    page.press("Backspace")
    page.press("Shift+E")
    assert page.js("document.querySelector('#text').value") == "Grüße, 𝄞abE"


def test_a_frame_of_another_origin_is_reached(page: Page) -> None:
    inner = page.frame(r"/inner$")
    assert page.frame(r"/middle$").js("location.hostname") == "app.localhost"
    inner.click("document.querySelector('button')")
    assert inner.js("clicks") == 1
    inner.click("document.querySelector('input')")
    page.type("within")
    assert inner.js("document.querySelector('input').value") == "within"


def test_popups_are_pages(page: Page) -> None:
    page.frame(r"/inner$").click("document.querySelector('a')")
    wait_until(page.others, "the popup")
    [popup] = page.others()
    popup.until("document.body.innerText === 'A popup'")
    popup.close()
    wait_until(lambda: not page.others(), "the popup to be closed")


def test_files_go_in_and_out(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "note.txt"
    file.write_text("a note", "utf-8")
    page.attach("document.querySelector('input[type=file]')", file)
    assert page.js("document.querySelector('input[type=file]').files[0].text()") == "a note"
    page.click("document.querySelector('a')")
    assert page.downloaded("big.txt").stat().st_size == 3_000_000


def test_size_and_colours_are_chosen(page: Page) -> None:
    page.resize(400, 500)
    assert page.js("[innerWidth, innerHeight]") == [400, 500]
    for dark, colour in ((True, "rgb(0, 0, 0)"), (False, "rgb(255, 255, 255)")):
        page.dark(dark)
        assert page.js("getComputedStyle(document.body).backgroundColor") == colour
    assert page.screenshot("document.querySelector('#text')").startswith(b"\x89PNG")


def test_complaints_of_pages_frames_and_workers_are_collected(page: Page) -> None:
    page.js("fetch('/file').catch(() => {})")
    page.frame(r"/inner$").js(
        """console.log('harmless');
        console.error('of a', 'frame');
        new Worker(URL.createObjectURL(new Blob(["console.error('of a worker')"])));
        void setTimeout(() => { Promise.reject(new Error('not handled')); throw new TypeError('not caught'); });"""
    )
    expected = ["of a frame", "of a worker", "not handled", "not caught", "connect-src"]
    wait_until(lambda: all(words in "".join(page.problems) for words in expected), f"all of {expected}")
    assert "harmless" not in "".join(page.problems)
