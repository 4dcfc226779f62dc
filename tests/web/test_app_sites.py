"""A web app at a name below the page's, as on the internet: other names of that site share the browser's storage."""

# ruff: noqa: F401, F811 - fixtures of another module are imported, and used by their names

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from llmtunnel.invite import Invite

from ..support.browser import CHROMIUM, Page, browser
from ..support.page_host import PageHost, other_site, page_host
from ..support.processes import Processes, Signal
from .test_app import OPEN, WORDS, rooms, upstream

pytestmark = [pytest.mark.skipif(CHROMIUM is None, reason="needs chromium"), pytest.mark.timeout(240)]

NAME = "tunnel.test"
SEEN = "peer.request({target: '/seen'}).then(each => new Response(each.body).json())"


@pytest.fixture(scope="module")
def host() -> Iterator[PageHost]:
    with page_host(NAME) as host:
        yield host


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory, host: PageHost) -> Iterator[Page]:
    """A browser for which these names are secure, as with TLS."""
    secure = f"--unsafely-treat-insecure-origin-as-secure={host.url.rstrip('/')},*.{NAME}"
    names = "--host-resolver-rules=MAP *.test 127.0.0.1"
    with browser(tmp_path_factory.mktemp("browser"), secure, names) as page:
        yield page


@pytest.fixture
def shown(window: Page, host: PageHost, lasting: Processes, signal: Signal, upstream: str) -> None:
    """The app is shown in the page."""
    made = Invite(room=f"invite-{next(rooms)}", secret=WORDS, signal=signal.url)
    lasting.serve(made.room, upstream, signal.url, "--secret", WORDS)
    window.open(f"{host.url}site.json")
    window.until("location.pathname === '/site.json' && document.readyState === 'complete'")
    code = OPEN % (json.dumps(made.code), json.dumps(host.app()), json.dumps("/landed"))
    assert window.js(code) == ""
    window.frame(rf"^{host.app()}/landed").until("document.body.innerText.includes('landed')")


@pytest.mark.usefixtures("shown")
def test_another_name_of_the_site_cannot_use_the_app(window: Page, host: PageHost) -> None:
    form = f'<iframe name=f></iframe><form method=post target=f action="{host.app()}/stolen?post"></form>'
    hidden = f'<iframe referrerpolicy=no-referrer src="{host.app()}/stolen?hidden"></iframe>'
    page = f'{form}<iframe src="{host.app()}/stolen?get"></iframe>{hidden}<script>document.forms[0].submit()</script>'
    with other_site(page) as url:
        foreign = url.replace("127.0.0.1", f"evil.{NAME}")
        window.call("Target.createTarget", url=foreign)
        other = next(each for each in window.others() if f"evil.{NAME}" in each.js("location.href"))
        for query in ("post", "get"):
            framed = other.frame(rf"^{host.app()}/stolen\?{query}")
            framed.until("document.body.innerText.includes('Another site')")
        # The person could be led to press a button in it.
        deadline = time.monotonic() + 20
        while not any("frame-ancestors" in each for each in other.problems):
            assert time.monotonic() < deadline, other.problems
            other.js("document.readyState")
        other.close()
    assert not [each for each in window.js(SEEN) if "stolen" in each]
    assert host.strays == []


@pytest.mark.usefixtures("shown")
def test_the_app_in_a_tab_of_its_own_is_explained(window: Page, host: PageHost) -> None:
    window.call("Target.createTarget", url=f"{host.app()}/stolen?tab")
    other = next(each for each in window.others() if "stolen" in each.js("location.href"))
    other.until('document.body.innerText.includes("This app runs in the tunnel\'s page only")')
    other.close()
    assert not [each for each in window.js(SEEN) if "stolen" in each]
    assert host.strays == []
    assert window.js("app.stop()") is True
