"""What pages in a real browser can do with the proxy. The names of their sites are all pointed at this machine."""

from __future__ import annotations

import html
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.endpoints.test_listen import has_ipv6

from ..support.browser import CHROMIUM, browser
from ..support.processes import PATIENCE, Processes, Proxy, Signal
from ..support.raw_server import reply
from ..support.upstream import Upstream

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

PAGE = """<!doctype html><pre id=told></pre><img src="/held" alt="loading, until the tries are done"><script>
const proxy = "http://%s";
const outcome = (thing, good) => new Promise(done => {
  thing[good] = () => done(good);
  thing.onerror = () => done("error");
});
const tries = {
  read: () => fetch(proxy + "/read").then(response => response.text()),
  post: () => fetch(proxy + "/post", {
    method: "POST", body: "{}", headers: {"Content-Type": "application/json", "Authorization": "Bearer of-the-page"}
  }).then(response => response.text()),
  blind: () => fetch(proxy + "/blind", {method: "POST", mode: "no-cors", body: "x"}).then(response => response.type),
  image: () => { const image = new Image(); image.src = proxy + "/image"; return outcome(image, "onload"); },
  frame: () => {
    const frame = document.createElement("iframe");
    frame.src = proxy + "/frame";
    document.body.append(frame);
    return outcome(frame, "onload");
  },
  socket: () => outcome(new WebSocket(proxy.replace("http:", "ws:") + "/shout"), "onopen"),
};
(async () => {
  const told = {};
  for (const [name, make] of Object.entries(tries)) {
    try { told[name] = await make(); } catch (error) { told[name] = "error"; }
  }
  document.getElementById("told").textContent = JSON.stringify(told);
  fetch("/release");
})();
</script>"""


class Site:
    """A web site whose one page tries all of `PAGE` on a proxy."""

    def __init__(self) -> None:
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/held":
                    site.released.wait(PATIENCE)
                elif self.path == "/release":
                    site.released.set()
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write((PAGE % site.proxy).encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.proxy = ""
        self.released = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port


@contextmanager
def running(site: Site) -> Iterator[Site]:
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield site
    finally:
        site.server.shutdown()
        site.server.server_close()
        thread.join()


@pytest.fixture
def site() -> Iterator[Site]:
    with running(Site()) as site:
        yield site


@pytest.fixture
def proxy(processes: Processes, own_upstream: Upstream, signal: Signal, site: Site) -> Proxy:
    """A proxy that lets the pages of app.test in."""
    processes.serve("browser", own_upstream.url, signal.url)
    proxy = processes.proxy("browser", signal.url, "--allow-origin", f"http://app.test:{site.port}")
    proxy.process.wait_event("ready")
    site.proxy = proxy.url.removeprefix("http://")
    own_upstream.answers[b"/frame"] = reply(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nok"
    )
    return proxy


def dom(url: str, profile: Path) -> str:
    """The document at ``url``, when its scripts have done their work."""
    assert CHROMIUM is not None
    flags = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--no-proxy-server",
        f"--user-data-dir={profile}",
        "--host-resolver-rules=MAP *.test 127.0.0.1",
        "--dump-dom",
    )
    done = subprocess.run([CHROMIUM, *flags, url], capture_output=True, text=True, timeout=75, check=True)
    return done.stdout


def told(url: str, profile: Path) -> dict[str, str]:
    """What each try of the page came to."""
    document = dom(url, profile)
    found = re.search(r'<pre id="told">(.+?)</pre>', document, re.DOTALL)
    assert found, document
    outcome: dict[str, str] = json.loads(html.unescape(found[1]))
    return outcome


def test_a_page_of_another_origin_reads_nothing_and_reaches_nothing(
    proxy: Proxy, site: Site, own_upstream: Upstream, tmp_path: Path
) -> None:
    outcome = told(f"http://evil.test:{site.port}/", tmp_path)
    assert {name: outcome[name] for name in ("read", "post", "image", "socket")} == dict.fromkeys(
        ("read", "post", "image", "socket"), "error"
    )
    assert outcome["blind"] == "opaque"  # it cannot tell that it was refused
    assert own_upstream.requests == []
    assert proxy.process.count("request") >= 5


def test_a_page_that_was_allowed_reads_and_posts(
    proxy: Proxy, site: Site, own_upstream: Upstream, tmp_path: Path
) -> None:
    outcome = told(f"http://app.test:{site.port}/", tmp_path)
    assert (outcome["read"], outcome["post"]) == ("ok", "ok")
    seen = {(each.method, each.target) for each in own_upstream.requests}
    assert seen >= {(b"GET", b"/read"), (b"POST", b"/post"), (b"GET", b"/shout")}  # the last by a WebSocket
    assert not {method for method, _ in seen} & {b"OPTIONS"}  # the proxy itself said yes
    assert seen & {(b"GET", b"/image"), (b"GET", b"/frame")} == set()  # no Origin tells whose they are


@pytest.mark.parametrize("name", ["localhost", "app.localhost"])
def test_a_page_of_this_machine_reaches_the_upstream(
    name: str, proxy: Proxy, site: Site, own_upstream: Upstream, tmp_path: Path
) -> None:
    told(f"http://{name}:{site.port}/", tmp_path)
    assert {each.target for each in own_upstream.requests} >= {b"/read", b"/shout"}


def test_a_name_that_was_rebound_to_this_machine_is_refused(
    proxy: Proxy, own_upstream: Upstream, tmp_path: Path
) -> None:
    document = dom(f"http://rebind.test:{proxy.address[1]}/v1/models", tmp_path)
    assert "foreign_host" in document
    assert "--allow-host rebind.test" in document
    assert own_upstream.requests == []


def test_the_proxys_own_address_is_answered(proxy: Proxy, own_upstream: Upstream, tmp_path: Path) -> None:
    for name in ("127.0.0.1", "localhost", "jupyter.localhost", "127.1"):  # the browser makes 127.0.0.1 of the last
        own_upstream.requests.clear()
        assert "ok" in dom(f"http://{name}:{proxy.address[1]}/frame", tmp_path / name)
        assert {each.target for each in own_upstream.requests} >= {b"/frame"}


@pytest.mark.parametrize("name", ["0.0.0.0", "0", "[::ffff:127.0.0.1]"])
def test_an_address_to_which_browsers_do_not_mark_requests_is_refused_with_another(
    name: str, proxy: Proxy, own_upstream: Upstream, tmp_path: Path
) -> None:
    document = dom(f"http://{name}:{proxy.address[1]}/frame", tmp_path)
    assert f"Use 127.0.0.1:{proxy.address[1]}." in document
    assert own_upstream.requests == []


NAMES = ("127.0.0.1", "127.0.0.2", "localhost", "a.localhost", "[::1]", "127.1")
UNMARKED = ("0.0.0.0", "0", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:2]")


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_by_no_name_of_this_machine_does_a_foreign_page_reach_a_listener_on_every_address(
    processes: Processes, own_upstream: Upstream, signal: Signal, tmp_path: Path
) -> None:
    processes.serve("every", own_upstream.url, signal.url)
    proxy = processes.proxy("every", signal.url, "--no-auth", listen="[::]:0")
    proxy.process.wait_event("ready")
    host, port = own_upstream.address
    page = f"http://%s:{port}/page"
    own_upstream.answers[b"/page"] = reply(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\npage"
    )
    urls = [f"http://{name}:{proxy.address[1]}/blind?{name}" for name in (*NAMES, *UNMARKED)]
    asked = f"""Promise.all({urls}.flatMap(url => [
        fetch(url, {{mode: "no-cors"}}).catch(() => 0),
        new Promise(done => {{ const image = new Image(); image.onload = image.onerror = done; image.src = url; }}),
    ])).then(() => "asked")"""
    with browser(tmp_path, "--host-resolver-rules=MAP *.test 127.0.0.1") as tab:
        for name, reaches in (("evil.test", False), (host, True)):
            own_upstream.requests.clear()
            tab.open(page % name)
            tab.until(f"document.body.textContent == 'page' && location.hostname == '{name}'")
            assert tab.js(asked) == "asked"
            assert any(each.target.startswith(b"/blind") for each in own_upstream.requests) is reaches
    refused = [each for each in proxy.process.events if each["event"] == "request" and each["status"] == 403]
    assert len(refused) >= 2 * 5  # those that it reached at all: browsers may refuse some by themselves


def test_with_a_key_a_page_of_this_machine_that_sends_it_reads_and_posts(
    processes: Processes, own_upstream: Upstream, signal: Signal, site: Site, tmp_path: Path
) -> None:
    processes.serve("keyed", own_upstream.url, signal.url)
    proxy = processes.proxy("keyed", signal.url, "--api-key", "of-the-page")  # which `PAGE` sends where it posts
    proxy.process.wait_event("ready")
    site.proxy = proxy.url.removeprefix("http://")
    for origin, read, post in (
        (f"http://localhost:{site.port}", "invalid_api_key", "ok"),
        (f"http://evil.test:{site.port}", "error", "error"),
    ):
        own_upstream.requests.clear()
        site.released.clear()
        outcome = told(f"{origin}/", tmp_path / post)
        assert read in outcome["read"]
        assert outcome["post"] == post
        assert [each.method for each in own_upstream.requests if each.target == b"/post"] == [b"POST"] * (post == "ok")
        assert not [each for each in own_upstream.requests if each.target in (b"/read", b"/blind", b"/shout")]
        assert not any(each.values(b"authorization") for each in own_upstream.requests)


def test_a_page_that_was_opened_from_a_file_is_let_in_by_null_alone(
    processes: Processes, own_upstream: Upstream, signal: Signal, site: Site, tmp_path: Path
) -> None:
    processes.serve("files", own_upstream.url, signal.url)
    for allowed, post in (("file://", "error"), ("null", "ok")):
        proxy = processes.proxy("files", signal.url, "--allow-origin", allowed)
        proxy.process.wait_event("ready")
        page = tmp_path / f"{post}.html"
        text = PAGE % proxy.url.removeprefix("http://")
        for own in ('"/held"', '"/release"'):  # the site's, whose page it is not
            text = text.replace(own, f'"http://localhost:{site.port}{own[1:]}')
        page.write_text(text, "utf-8")
        site.released.clear()
        outcome = told(page.as_uri(), tmp_path / post)
        assert (outcome["read"], outcome["post"]) == (post, post)


def test_a_pages_preflight_passes_a_policy_that_lets_its_request_through(
    processes: Processes, own_upstream: Upstream, signal: Signal, tmp_path: Path
) -> None:
    shared = b"Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Headers: content-type\r\n"
    for target in (b"/v1/chat/completions", b"/api/pull"):
        own_upstream.answers[target] = reply(b"HTTP/1.1 200 OK\r\n" + shared + b"Content-Length: 2\r\n\r\nok")
    processes.serve("preflights", own_upstream.url, signal.url, "--policy", "openai")
    proxy = processes.proxy("preflights", signal.url)
    proxy.process.wait_event("ready")
    with browser(tmp_path) as page:
        page.open(own_upstream.url)
        page.until("document.readyState == 'complete' && location.protocol == 'http:'")
        own_upstream.requests.clear()
        for target, text in (("/v1/chat/completions", "ok"), ("/api/pull", "error")):
            sent = "{method: 'POST', body: '{}', headers: {'Content-Type': 'application/json'}}"
            asked = f"fetch('{proxy.url}{target}', {sent}).then(answer => answer.text())"
            assert page.js(f"{asked}.catch(() => 'error')") == text
    asked_for = [each for each in own_upstream.requests if each.target in own_upstream.answers]  # no favicon
    assert [(each.method, each.target) for each in asked_for] == [
        (b"OPTIONS", b"/v1/chat/completions"),
        (b"POST", b"/v1/chat/completions"),
    ]
