"""A page that did not load completely says so."""

from __future__ import annotations

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ..support.browser import BROWSERS, browser
from .site import WEB


@pytest.mark.parametrize("kind", BROWSERS)
@pytest.mark.parametrize("missing", ["shell/main.js", "peer/room.js"])
def test_a_page_without_one_of_its_modules_says_what_to_do(tmp_path: Path, kind: str, missing: str) -> None:
    folder = shutil.copytree(WEB, tmp_path / "web")
    (folder / missing).unlink()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            with browser(tmp_path, kind=kind) as page:
                page.open(f"http://localhost:{server.server_port}/")
                page.until("document.querySelector('[role=alert]')")
                assert "open the link again" in page.js("document.body.innerText")
        finally:
            server.shutdown()
            thread.join()
