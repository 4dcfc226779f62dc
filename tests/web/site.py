"""The package's web files and some pages beside them, on a server of the test's own; or such a page in a browser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from ..support.browser import Page, browser
from ..support.page_host import answering
from .node import HERE

WEB = HERE.parent.parent / "llmtunnel/web"


class Files(SimpleHTTPRequestHandler):
    """The files, and the pages at their paths."""

    def __init__(self, *args: Any, pages: Mapping[str, Path], **options: Any) -> None:
        self._pages = pages
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        if page := self._pages.get(self.path.partition("?")[0]):
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page.read_bytes())
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def site(page: str, **others: str) -> Iterator[str]:
    """Serve a page of this folder, and others at ``/NAME``; the first one's URL."""
    pages = {f"/{name}": HERE / file for name, file in ({"": page} | others).items()}
    files = partial(Files, directory=str(WEB), pages=pages)
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server, answering(server) as url:
        yield url


@contextmanager
def opened(page: str, kind: str, folder: Path) -> Iterator[Page]:
    """That page in a browser of this kind, once it is ready."""
    with site(page) as url, browser(folder, kind=kind) as tab:
        tab.open(url)
        tab.until("window.ready")
        yield tab
