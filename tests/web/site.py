"""The package's web files and one page beside them, on a server of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .node import HERE

WEB = HERE.parent.parent / "llmtunnel/web"


class Files(SimpleHTTPRequestHandler):
    """The files, and the page at ``/``."""

    def __init__(self, *args: Any, page: Path, **options: Any) -> None:
        self._page = page
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        if self.path == "/":
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(self._page.read_bytes())
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def site(page: str) -> Iterator[str]:
    """Serve a page of this folder; its URL."""
    files = partial(Files, directory=str(WEB), page=HERE / page)
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
