"""A web app that attacks: nothing reaches the shell, another tunnel or the server of the page."""

# ruff: noqa: F401, F811 - fixtures of another module are imported, and used by their names

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from llmtunnel.invite import Invite

from ..support.browser import Page, View
from ..support.chromium import ChromiumPage
from ..support.page_host import PageHost, other_site
from ..support.processes import Processes, Signal
from .test_app import WORDS, rooms, show, upstream, window

pytestmark = pytest.mark.timeout(240)

STORE = """(async () => {
    localStorage.setItem("a", "1");
    sessionStorage.setItem("a", "1");
    document.cookie = "a=1; path=/";
    await (await caches.open("a")).put("/a", new Response("1"));
    await new Promise((resolve, reject) => Object.assign(indexedDB.open("a"), {onsuccess: resolve, onerror: reject}));
    await (await navigator.storage.getDirectory()).getFileHandle("a", {create: true});
})()"""
STORED = """(async () => {
    const files = [];
    for await (const name of (await navigator.storage.getDirectory()).keys()) files.push(name);
    const databases = (await indexedDB.databases()).map(({name}) => name);
    return [localStorage.length, sessionStorage.length, document.cookie, await caches.keys(), databases, files];
})()"""
BLANK = "const blank = document.body.appendChild(document.createElement('iframe')).contentWindow;"


@pytest.fixture(scope="module")
def invite(lasting: Processes, signal: Signal, upstream: str) -> Invite:
    made = Invite(room=f"invite-{next(rooms)}", secret=WORDS, signal=signal.url)
    lasting.serve(made.room, upstream, signal.url, "--secret", WORDS, "--resume-for", "30")
    return made


@pytest.fixture
def app(window: Page, host: PageHost, invite: Invite) -> Iterator[View]:
    """The app, shown anew; nothing that a test does there reaches the server of the page."""
    yield show(window, host, invite, "/landed")
    assert host.strays == []


def attempt(view: View, code: str) -> str:
    """What comes of it: a value, or the name of an error."""
    told = f"(async () => {{ try {{ return String(await (async () => {{ {code} }})()); }}"
    return str(view.js(f"{told} catch (error) {{ return error.name; }} }})()"))


def test_it_reaches_neither_the_shell_nor_its_storage(app: View, window: Page) -> None:
    for code in ("top.document", "top.peer", "parent.parent.localStorage", "top.eval('1')"):
        assert attempt(app, f"return {code};") == "SecurityError"
    attempt(app, "top.location = 'https://example.org/';")
    attempt(app, "parent.document.querySelector('iframe').removeAttribute('sandbox'); top.location = '/';")
    assert window.js("location.pathname") == "/site.json"


def test_it_opens_no_window(app: View, window: Page) -> None:
    for target in ("/", ""):
        assert attempt(app, f"{BLANK} return blank.open('{target}');") in ("null", "InvalidAccessError")
    app.js("document.body.innerHTML = '<form target=_blank action=/landed></form>'; document.forms[0].submit()")
    assert window.others() == []


def test_what_a_worker_cannot_take_is_blocked(app: View, window: Page, host: PageHost) -> None:
    sync = "const x = new NEWXMLHttpRequest(); x.open('POST', '/sync', false); x.send('data'); return x.status;"
    assert attempt(app, sync.replace("NEW", "")) == "NotSupportedError"
    assert attempt(app, BLANK + sync.replace("NEW", "blank.")) in ("NotSupportedError", "NetworkError")
    assert attempt(app, "return navigator.serviceWorker.register('/worker.js');") == "NotSupportedError"
    socket = "const socket = new NEWWebSocket('ws://' + location.host + '/x');"
    socket += " return new Promise(resolve => { socket.onopen = socket.onerror = ({type}) => resolve(type); });"
    assert attempt(app, BLANK + socket.replace("NEW", "blank.")) in ("error", "NS_ERROR_CONTENT_BLOCKED")
    transport = "return new NEWWebTransport('https://' + location.host + '/x');"
    for realm in ("", "blank."):
        assert attempt(app, BLANK + transport.replace("NEW", realm)) == "NotSupportedError"
    for element in ("<embed src=/plug>", "<object data=/plug></object>"):
        app.js(f"document.body.innerHTML = {json.dumps(element)}")
    attempt(app, "new Worker('data:text/javascript,fetch(\"' + origin + '/data\")');")
    app.js(f"{{ {BLANK} blank.document.body.innerHTML = '<img src=/picture>'; }}")
    app.js(f"{{ {BLANK} blank.document.open(); blank.document.write('<img src=/picture>'); blank.document.close(); }}")
    told = "\n".join(window.problems)
    assert "llmtunnel: Synchronous XMLHttpRequest is not possible through the tunnel" in told
    assert "llmtunnel: An app's own service worker is not possible through the tunnel" in told


def test_it_sends_nothing_to_the_server_of_the_page(app: View, host: PageHost) -> None:
    host.seen.clear()
    assert attempt(app, "return (await fetch('/~llmtunnel/x?data')).status;") == "404"
    assert attempt(app, "return (await fetch('/~llmtunnel/keeper.js', {method: 'POST', body: 'x'})).status;") == "404"
    assert attempt(app, f"return fetch('{host.url}?data', {{mode: 'no-cors'}});") == "TypeError"
    assert attempt(app, "return navigator.sendBeacon('/beacon', 'x');") == "true"
    assert host.strays == []
    assert not [each for each in host.seen if each[0] in host.url]


def test_nothing_is_left_after_disconnecting(app: View, window: Page, host: PageHost, invite: Invite) -> None:
    app.js(STORE)
    attempt(app, "parent.setInterval(() => parent.localStorage.setItem('evil', 1), 1);")
    assert window.js("app.stop()") is True
    assert window.js("document.querySelectorAll('iframe').length") == 0
    host.seen.clear()
    again = show(window, host, invite, "/landed")
    assert again.js(STORED) == [0, 0, "", [], [], []]


def test_a_stopped_app_sends_nothing(app: View, window: Page, host: PageHost) -> None:
    app.js("setInterval(() => fetch('/after', {keepalive: true}).catch(() => {}), 5)")
    window.js("app.stop()")
    window.js("peer.request({target: '/seen'}).then(each => new Response(each.body).json())")
    before = window.js("peer.request({target: '/seen'}).then(each => new Response(each.body).json())")
    time.sleep(0.5)
    after = window.js("peer.request({target: '/seen'}).then(each => new Response(each.body).json())")
    assert [each for each in after if "/after" in each] == [each for each in before if "/after" in each]


def test_an_app_whose_page_was_left_is_cleared_by_the_next_one(
    app: View,
    window: Page,
    host: PageHost,
    invite: Invite,
) -> None:
    app.js(STORE)
    window.js("void location.reload()")
    window.until("!window.app && document.readyState === 'complete'")
    show(window, host, invite, "/landed", label="other")
    window.until(f"localStorage.getItem('llmtunnel.apps') === JSON.stringify([{json.dumps(host.app('other'))}])")
    again = show(window, host, invite, "/landed")
    assert again.js(STORED) == [0, 0, "", [], [], []]


def test_an_app_that_is_stopped_while_it_starts_ends(window: Page, host: PageHost) -> None:
    told = window.js(f"""(async () => {{
        await app.stop();
        const other = new app.constructor(peer, {{origin: {json.dumps(host.app())}, container: document.body}});
        const starting = other.start("/").then(() => "started", error => error.message);
        await new Promise(resolve => setTimeout(resolve, 50));
        return [await other.stop(), await starting, other.state.phase, document.querySelectorAll("iframe").length];
    }})()""")
    assert told == [True, "The app was closed.", "stopped", 0]


def test_another_tab_cannot_use_the_same_address(app: View, window: Page, host: PageHost) -> None:
    second = f"new app.constructor(peer, {{origin: {json.dumps(host.app())}, container: document.body}}).start('/')"
    told = window.js(f"{second}.then(() => '', error => error.message)")
    assert told == "Another tab already shows an app of this page."


def test_a_foreign_site_in_a_frame_of_the_app_cannot_use_it(app: View, window: Page, host: PageHost) -> None:
    form = f'<form method=post action="{host.app()}/stolen?post"><input name=a value=b></form>'
    script = "document.forms[0].submit()"
    link = f"location.href = '{host.app()}/stolen?link'"
    for code in (script, link):
        with other_site(f"{form}<script>{code}</script>") as url:
            app.js(f"document.body.innerHTML = '<iframe src=\"{url}\"></iframe>'")
            shown = "document.querySelector('iframe').contentDocument.body.innerText"
            app.until(f"{shown}.includes('Another site tried to open this app')")
    seen = window.js("peer.request({target: '/seen'}).then(each => new Response(each.body).json())")
    assert not [each for each in seen if "stolen" in each]


def test_a_foreign_page_that_posts_gets_nothing_from_the_app(app: View, window: Page, host: PageHost) -> None:
    target = f"{host.app()}/stolen?top"
    page = f'<iframe name=f></iframe><form method=post target=f action="{target}"><input name=a value=b></form>'
    with other_site(f"{page}<script>document.forms[0].submit()</script>") as url:
        if not isinstance(window, ChromiumPage):
            return  # needs another tab
        window.call("Target.createTarget", url=url)
        deadline = time.monotonic() + 20
        while not any("/stolen?top" in target for _, _, target in host.seen):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for each in window.others():
            each.close()
    seen = window.js("peer.request({target: '/seen'}).then(each => new Response(each.body).json())")
    assert not [each for each in seen if "stolen" in each]
    host.seen.clear()  # that site's own data, which the server of the page refuses
