"""A page keeps its key: serve knows it after a reload, and only by that key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import llmtunnel

from ..support.browser import BROWSERS, Page, browser
from ..support.processes import Process, Processes, Signal
from ..support.upstream import Upstream
from .site import site
from .test_peer import call, connect, new_invite, reach, serve, upstream

__all__ = ["upstream"]

KEY = "loadIdentity().then(({publicKey}) => Array.from(publicKey).join())"


class Tab:
    """The page, which may be loaded again."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self._url = page, url

    def load(self) -> None:
        self.page.open("about:blank")
        self.page.until("location.href === 'about:blank'")
        self.page.open(self._url)
        self.page.until("window.ready")
        self.page.js("window.keeps = true")

    def name(self) -> str:
        return str(self.page.js("loadIdentity().then(nameOf)"))


@pytest.fixture(scope="module", params=BROWSERS)
def window(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser"), kind=request.param) as page:
        yield page


@pytest.fixture
def tab(window: Page) -> Iterator[Tab]:
    """The page at a port of its own, so that it has no key of another test."""
    with site("peer.html") as url:
        tab = Tab(window, url)
        tab.load()
        yield tab
        window.js("window.peer?.close()")
        assert window.problems == []


def connected(process: Process) -> str:
    """The name of the next peer that serve reports."""
    return str(process.wait_event("peer-connected")["peer"])


def test_a_code_for_one_proxy_is_the_pages_after_a_reload_until_it_forgets_its_key(
    processes: Processes, tab: Tab, signal: Signal, upstream: Upstream
) -> None:
    invite = new_invite(signal)
    process = serve(processes, invite, upstream, "--once")
    page = tab.page
    connect(page, invite)
    name = tab.name()
    assert name.startswith("browser-") and connected(process) == name
    assert call(page, "send", {"target": "/"})["text"] == "ok"
    tab.load()
    connect(page, invite)
    assert tab.name() == name
    assert call(page, "send", {"target": "/"})["text"] == "ok"
    page.js("peer.close().then(forgetIdentity)")
    tab.load()
    connect(page, invite, "failed")
    assert tab.name() != name
    assert page.js("peer.state.problem.name") == "Unwelcome"


def test_a_page_that_was_put_out_stays_out_after_a_reload(tab: Tab, signal: Signal, upstream: Upstream) -> None:
    invite = new_invite(signal)
    with llmtunnel.serve(upstream.url, room=invite.room, secret=invite.secret, signal=signal.url, stun=()) as server:
        connect(tab.page, invite)
        server.kick(tab.name())
        reach(tab.page, "failed")
        tab.load()
        connect(tab.page, invite, "failed")
        problem = tab.page.js("peer.state.problem")
        assert problem["message"] == "Serve has removed and blocked this proxy."
        assert not server.status.peers


def test_a_second_tab_is_another_peer(tab: Tab, signal: Signal, upstream: Upstream, processes: Processes) -> None:
    page = tab.page
    mine = page.js(KEY)
    page.js("document.body.append(Object.assign(document.createElement('iframe'), {src: '/'}))")
    page.until("frames[0].ready")
    assert page.js(f"frames[0].{KEY}") != mine
    page.js("frames[0].forgetIdentity()")
    page.js("frames[0].frameElement.remove()")
    tab.load()
    assert page.js(f"Promise.all([{KEY}, {KEY}])") == [mine, mine], "the key was not replaced, and is in use"
    assert page.js(KEY) == mine


def test_no_script_gets_the_private_key(tab: Tab) -> None:
    export = """(async () => {
        await loadIdentity();
        const opening = indexedDB.open('llmtunnel identity', 1);
        await new Promise(done => { opening.onsuccess = done; });
        const getting = opening.result.transaction('keys').objectStore('keys').get('page');
        await new Promise(done => { getting.onsuccess = done; });
        opening.result.close();
        return crypto.subtle.exportKey('jwk', getting.result.privateKey).then(() => 'exported', error => error.name);
    })()"""
    assert tab.page.js(export) == "InvalidAccessError"


def test_where_nothing_can_be_stored_a_key_in_memory_does(
    tab: Tab, signal: Signal, upstream: Upstream, processes: Processes
) -> None:
    invite = new_invite(signal)
    process = serve(processes, invite, upstream)
    refuse = "{ throw new DOMException('no', 'SecurityError'); }"
    tab.page.js(f"IDBFactory.prototype.open = () => {refuse}")
    connect(tab.page, invite)
    assert connected(process).startswith("browser-")
