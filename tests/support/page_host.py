"""The server of the page, which tells what browsers have sent to it: that must never be what an app sends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from llmtunnel.cli.parsers import WEB
from llmtunnel.cli.web import pages
from signal_server.page_files import read_folder
from signal_server.pages import CLEAR, Ask, Host, Pages

OURS = "/~llmtunnel/"


@dataclass
class PageHost:
    """Both hosts of the page, on one port."""

    port: int
    name: str = "localhost"
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    """Host, method and target of each request, in order."""

    @property
    def url(self) -> str:
        """The page's."""
        return f"http://{self.name}:{self.port}/"

    def app(self, label: str = "testing") -> str:
        """An origin for an app."""
        return f"http://{label}.{'' if self.name == 'localhost' else 'app.'}{self.name}:{self.port}"

    @property
    def strays(self) -> list[tuple[str, str, str]]:
        """Requests for the app's hosts, but those for our files: a browser renews the worker at any time, by itself."""
        own = {("GET", CLEAR), *(("GET", f"{OURS}{each.name}") for each in (WEB / "app").iterdir())}
        return [each for each in self.seen if f".{self.name}" in each[0] and each[1:] not in own]


@contextmanager
def page_host(name: str = "localhost") -> Iterator[PageHost]:
    """Serve the page as ``llmtunnel web`` does; under another name, as a signal server does."""
    files = read_folder(WEB)

    class Handler(BaseHTTPRequestHandler):
        def __getattr__(self, name: str) -> Callable[[], None]:
            if name.startswith("do_"):  # whatever the method
                return self.answer
            raise AttributeError(name)

        def answer(self) -> None:
            host.seen.append((self.headers["Host"], self.command, self.path))
            path, _, _ = self.path.partition("?")
            told = {"host": self.headers["Host"], "site": self.headers.get("Sec-Fetch-Site", "")}
            answer = site.answer(Ask(method=self.command, path=path, **told))
            self.send_response(answer.status)
            for name, value in answer.fields.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 100

    with Server(("127.0.0.1", 0), Handler) as server:
        port = server.server_port
        named = {"host": Host(name, f"{port}"), "app": Host(f"*.app.{name}", f"{port}")}
        site = pages(files) if name == "localhost" else Pages(files=files, **named)
        host = PageHost(port, name)
        with answering(server):
            yield host


@contextmanager
def answering(server: ThreadingHTTPServer) -> Iterator[str]:
    """Run a server in a thread of its own; its URL."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()


@contextmanager
def other_site(page: str) -> Iterator[str]:
    """A site that has nothing to do with us, and one page: its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, answering(server) as url:
        yield url
