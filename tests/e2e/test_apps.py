"""Web applications that compare Origin, Referer and Host, through a tunnel: in a browser, and what they still refuse.

Each is reached as ``127.0.0.1`` and by a name of its own below ``localhost``, as the documentation recommends.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from ..conftest import run
from ..support.browser import CHROMIUM, Page, browser
from ..support.exchanges import CLIENT_HOST, request, sized
from ..support.jupyter import Lab
from ..support.processes import PATIENCE, Address, Processes, Proxy, Signal, processes
from ..support.raw_client import Response, fetch

NAMES = ("127.0.0.1", "app.localhost")
CALLED = ("--allow-host", "ai.example")

pytestmark = pytest.mark.timeout(240)
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"needs {package}: pip install '.[apps]'")


@dataclass(slots=True)
class Apps:
    """Applications, each behind a tunnel; started when first asked for."""

    processes: Processes
    signal: str
    proxies: dict[str, Proxy] = field(default_factory=dict)
    upstreams: dict[str, str] = field(default_factory=dict)

    def address(self, name: str) -> Address:
        """Where the application's proxy listens."""
        if name not in self.proxies:
            app = self.processes.start("-m", "tests.support.web_apps", name, name=name, foreign=True)
            url = app.wait_line(r"(?:app at|URL:) (http://\S+)", timeout=3 * PATIENCE)[1]
            self.reach(name, url)
        return self.proxies[name].address

    def reach(self, name: str, url: str) -> Proxy:
        """A tunnel to this server, which serve is told by its bare port."""
        port = url.rpartition(":")[2]
        self.upstreams[name] = f"localhost:{port}"
        self.processes.serve(name, port, self.signal)
        proxy = self.proxies[name] = self.processes.proxy(name, self.signal, *CALLED)
        proxy.process.wait_event("ready")
        return proxy


@pytest.fixture(scope="module")
def apps(signal: Signal) -> Iterator[Apps]:
    with processes() as started:
        yield Apps(started, signal.url)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser")) as page:
        yield page


def visit(page: Page, apps: Apps, app: str, host: str) -> None:
    """Open the application's first page by that name, with nothing of another one's before it."""
    page.call("Network.clearBrowserCookies")
    where = f"{host}:{apps.address(app)[1]}"
    page.open(f"http://{where}/")
    page.until(f"location.host === '{where}' && document.readyState === 'complete'")


def shows(page: Page, words: str) -> None:
    page.until(f"document.body.innerText.includes({json.dumps(words)})")


def fill(page: Page, field: str, text: str) -> None:
    """Type into a field."""
    page.until(f"document.querySelector({json.dumps(field)})")
    page.js(f"document.querySelector({json.dumps(field)}).focus()")
    page.type(text)


def click(page: Page, text: str) -> None:
    """Press the button with that text, when it is there: not with the mouse, since the page may still move it."""
    button = f"[...document.querySelectorAll('button')].find(each => each.innerText.trim() === {json.dumps(text)})"
    page.until(button)
    page.js(f"{button}.click()")


# -- in a browser


@in_browser
@pytest.mark.parametrize("host", NAMES)
def test_a_kernel_of_a_jupyterlab_runs_a_cell(apps: Apps, processes: Processes, tmp_path: Path, host: str) -> None:
    def reach(url: str) -> str:
        return f"http://{host}:{apps.reach(f'lab-{host}', url).address[1]}"

    with browser(tmp_path) as page:
        lab = Lab.start(processes, page, tmp_path, ["print(6 * 7)"], reach=reach)
        lab.run(0)
        page.until(f"{lab.output(0)}.innerText.trim() === '42'")
        assert lab.saved()["cells"][0]["outputs"][0]["text"] == ["42\n"]


@in_browser
@needs("django")
@pytest.mark.parametrize("host", NAMES)
def test_a_django_form_is_sent_and_its_redirect_followed(apps: Apps, page: Page, host: str) -> None:
    visit(page, apps, "django", host)
    fill(page, "input[name=name]", "Ada")
    click(page, "Send")
    shows(page, "Thank you, Ada!")
    assert page.js("location.href") == f"http://{host}:{apps.address('django')[1]}/done?Ada"


@in_browser
@needs("gradio")
@pytest.mark.parametrize("host", NAMES)
def test_gradio_answers_with_text_and_with_a_file_that_the_page_loads(apps: Apps, page: Page, host: str) -> None:
    visit(page, apps, "gradio", host)
    fill(page, "textarea", "Ada")
    click(page, "Submit")
    page.until("[...document.querySelectorAll('textarea')].some(each => each.value === 'Hello, Ada!')")
    page.until("[...document.images].some(each => each.naturalWidth === 40)")


@in_browser
@needs("streamlit")
@pytest.mark.parametrize("host", NAMES)
def test_streamlit_answers_and_takes_a_file(apps: Apps, page: Page, tmp_path: Path, host: str) -> None:
    visit(page, apps, "streamlit", host)
    fill(page, "input[type=text]", "Ada")
    page.press("Enter")
    shows(page, "Hello, Ada!")
    file = tmp_path / "file.bin"
    file.write_bytes(b"x" * 70_000)
    page.until("document.querySelector('input[type=file]')")
    page.attach("document.querySelector('input[type=file]')", file)
    shows(page, "It has 70000 bytes.")


@in_browser
@pytest.mark.parametrize("host", NAMES)
def test_a_page_with_comfyuis_rule_posts_and_has_its_events(apps: Apps, page: Page, host: str) -> None:
    visit(page, apps, "comfyui", host)
    page.until("['queued', 'status'].every(each => document.getElementById('told').textContent.includes(each))")


# -- by a client, which can say anything

FOREIGN = ("http://127.0.0.1:{other}", "http://localhost:{own}", "https://127.0.0.1:{own}", "http://{upstream}")
"""Pages of this machine: on another port, by another name or scheme, and at the upstream's address."""


def foreign(apps: Apps, app: str, template: str) -> bytes:
    own = apps.address(app)[1]
    return template.format(own=own, other=own + 1, upstream=apps.upstreams[app]).encode()


def prompt(apps: Apps, origin: bytes) -> int:
    address = apps.address("comfyui")
    host = b"127.0.0.1:%d" % address[1]
    asked = sized(b"POST", b"/prompt", b'{"prompt": "x"}', b"Origin: " + origin)
    return fetch(address, asked.replace(CLIENT_HOST, host)).status


def test_comfyuis_rule_lets_the_proxys_own_pages_ask(apps: Apps) -> None:
    assert prompt(apps, b"http://127.0.0.1:%d" % apps.address("comfyui")[1]) == 200


@pytest.mark.parametrize("origin", FOREIGN)
def test_comfyuis_rule_refuses_other_pages_as_ever(apps: Apps, origin: str) -> None:
    assert prompt(apps, foreign(apps, "comfyui", origin)) == 403


def echoed(apps: Apps, origin: bytes) -> str:
    port = apps.address("tornado")[1]

    async def main() -> str:
        async with connect(f"ws://127.0.0.1:{port}/ws", origin=origin.decode(), proxy=None) as socket:  # type: ignore[arg-type]
            await socket.send("hello")
            return str(await socket.recv())

    try:
        return str(run(main()))
    except InvalidStatus as exc:
        return str(exc.response.status_code)


def test_tornados_websocket_takes_the_proxys_own_pages(apps: Apps) -> None:
    assert echoed(apps, b"http://127.0.0.1:%d" % apps.address("tornado")[1]) == "hello"


@pytest.mark.parametrize("origin", FOREIGN)
def test_tornados_websocket_refuses_other_pages_as_ever(apps: Apps, origin: str) -> None:
    assert echoed(apps, foreign(apps, "tornado", origin)) == "403"


@needs("fastapi")
def test_behind_a_tls_terminator_a_redirect_of_fastapi_leads_to_its_name(apps: Apps) -> None:
    address = apps.address("fastapi")

    def location(*fields: bytes, host: bytes) -> list[bytes]:
        return fetch(address, request(b"GET", b"/items?a=b", *fields, host=host)).values(b"location")

    assert location(b"X-Forwarded-Proto: https", host=b"ai.example") == [b"https://ai.example/items/?a=b"]
    assert location(host=b"ai.example") == [b"http://ai.example/items/?a=b"]
    here = b"127.0.0.1:%d" % address[1]
    assert location(host=here) == [b"http://%b/items/?a=b" % here]


@needs("django")
def test_behind_a_tls_terminator_a_django_form_is_sent(apps: Apps) -> None:
    address = apps.address("django")
    tls = (b"X-Forwarded-Proto: https", b"Origin: https://ai.example", b"Referer: https://ai.example/")
    form = fetch(address, request(b"GET", b"/", *tls[::2], host=b"ai.example"))
    cookie = form.values(b"set-cookie")[0].partition(b";")[0]
    token = form.body.partition(b'csrfmiddlewaretoken value="')[2].partition(b'"')[0]

    def post(*fields: bytes) -> Response:
        body = b"name=Ada&csrfmiddlewaretoken=" + token
        typed = (b"Content-Type: application/x-www-form-urlencoded", b"Cookie: " + cookie)
        return fetch(address, sized(b"POST", b"/", body, *typed, *fields).replace(CLIENT_HOST, b"ai.example"))

    for told in (tls, tls[:2], tls[::2]):  # a browser sends both; without Origin, Django goes by Referer
        assert post(*told).values(b"location") == [b"https://ai.example/done?Ada"]
    assert post(tls[0], b"Origin: http://127.0.0.1:%d" % address[1]).status == 403
