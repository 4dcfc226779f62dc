"""A web app that comes through the tunnel, in a page: with real processes and a real browser."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from llmtunnel.invite import Invite

from ..support.browser import BROWSERS, Page, View, browser
from ..support.chromium import ChromiumPage
from ..support.page_host import PageHost
from ..support.processes import Processes, Signal
from ..support.web_site import PIECE

pytestmark = pytest.mark.timeout(240)

WORDS = "tulip-mango-onion-cedar-fruit"
CAUSED = ("/favicon.ico", "missing", "/landed", "A ServiceWorker intercepted the request", "NetworkError when")
"""Found in complaints about requests that are meant to fail. Firefox reports each cancelled request."""
rooms = count(5_821_309)
OPEN = """(async () => {
    const [{Peer}, {parseInvite}, {AppFrame}] = await Promise.all(
        ["/peer/peer.js", "/core/invite.js", "/shell/app/frame.js"].map(each => import(each)));
    await window.app?.stop();
    await window.peer?.close();
    document.body.replaceChildren();
    document.body.style.cssText = "margin:0;height:100vh;position:relative";
    await new Promise(up => {  // a request waits for a serve that starts, but no longer than people would
        const changed = () => window.peer?.state.phase === "connected" && up();
        window.peer = new Peer(parseInvite(%s), {stun: [], changed});
    });
    window.app = new AppFrame(peer, {origin: %s, container: document.body});
    window.problem = await app.start(%s).then(() => "", error => `${error.message} ${error.hint}`);
    return problem;
})()"""


@pytest.fixture(scope="module", params=BROWSERS)
def window(tmp_path_factory: pytest.TempPathFactory, host: PageHost, request: pytest.FixtureRequest) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("browser"), kind=request.param) as page:
        page.open(f"{host.url}site.json")
        page.until("location.pathname === '/site.json' && document.readyState === 'complete'")
        page.problems.clear()  # a file has no icon
        yield page


@pytest.fixture(scope="module")
def upstream(lasting: Processes) -> str:
    site = lasting.start("-m", "tests.support.web_site", name="site")
    return site.wait_line(r"app at (http://\S+)")[1]


@pytest.fixture(scope="module")
def invite(lasting: Processes, signal: Signal, upstream: str) -> Invite:
    made = Invite(room=f"invite-{next(rooms)}", secret=WORDS, signal=signal.url)
    lasting.serve(made.room, upstream, signal.url, "--secret", WORDS, "--resume-for", "30")
    return made


def show(page: Page, host: PageHost, invite: Invite, target: str = "/", *, label: str = "testing") -> View:
    """Show the app in the page; its frame."""
    code = OPEN % (json.dumps(invite.code), json.dumps(host.app(label)), json.dumps(target))
    assert page.js(code) == ""
    path = target.replace("?", r"\?")
    frame = page.frame(rf"^http://{label}\.localhost:\d+{path}$")
    frame.until("document.readyState === 'complete'")
    return frame


@pytest.fixture(scope="module")
def shown(window: Page, host: PageHost, invite: Invite) -> View:
    return show(window, host, invite)


@pytest.fixture
def app(shown: View, window: Page, host: PageHost) -> Iterator[View]:
    """The app's frame. No test leaves a complaint of the browser, or has sent anything past the tunnel."""
    yield shown
    assert unexpected(window) == []
    assert host.strays == []


def unexpected(page: Page) -> list[str]:
    """What the browser has complained about, without failures that a test causes; forgotten afterwards."""
    found = [each for each in page.problems if not any(part in each for part in CAUSED)]
    page.problems.clear()
    return found


def asked(view: View, expression: str) -> dict[str, Any]:
    """What a request was, as the app saw it."""
    said: dict[str, Any] = view.js(f"(async () => (await ({expression})).json())()")
    said["fields"] = {name.lower(): value for name, value in said["fields"]}
    return said


def test_a_document_comes_with_our_code_before_its_own(app: View) -> None:
    assert app.js("[document.querySelector('h1').innerText, early]") == ["Grüße", ["function", "seen=1"]]
    assert app.js("[document.title, document.scripts.length, window.llmtunnelShim]") == ["Site", 1, True]


def test_a_request_has_the_fields_of_a_browser(app: View, host: PageHost, upstream: str) -> None:
    said = asked(app, "fetch('/echo?a=b', {method: 'PUT', body: 'hello', headers: {'X-One': '1'}})")
    fields = said["fields"]
    assert (said["method"], said["query"], said["size"]) == ("PUT", "a=b", 5)
    assert fields["content-length"] == "5" and fields["x-one"] == "1"
    assert fields["origin"] == upstream and fields["referer"] == f"{upstream}/"
    assert fields["accept-encoding"] == "identity" and "Mozilla" in fields["user-agent"]
    assert "secret=s3cret" in fields["cookie"]
    assert "origin" not in asked(app, "fetch('/echo')")["fields"]
    assert "cookie" not in asked(app, "fetch('/echo', {credentials: 'omit'})")["fields"]


def test_redirects_are_followed_or_not(app: View, host: PageHost) -> None:
    followed = "fetch('/moved').then(async each => [each.status, each.redirected, each.url, await each.text()])"
    status, redirected, url, text = app.js(followed)
    assert (status, redirected, url) == (200, True, f"{host.app()}/landed") and "moved=yes" in text
    assert app.js("fetch('/absolute').then(each => each.url)") == f"{host.app()}/landed"
    assert app.js("fetch('/moved', {redirect: 'manual'}).then(each => each.type)") == "opaqueredirect"
    assert app.js("fetch('/moved', {redirect: 'error'}).catch(each => each.name)") == "TypeError"


def test_responses_of_all_kinds(app: View) -> None:
    assert app.js("fetch('/empty').then(async each => [each.status, await each.text()])") == [204, ""]
    assert app.js("fetch('/packed').then(each => each.text())") == "unpacked"
    assert app.js("fetch('/file', {method: 'HEAD'}).then(each => each.headers.get('content-length'))") == "1000"
    ranged = "fetch('/file?size=1000', {headers: {Range: 'bytes=10-19'}})"
    size = "each.arrayBuffer().then(body => [each.status, body.byteLength, each.headers.get('content-range')])"
    assert app.js(f"{ranged}.then(each => {size})") == [206, 10, "bytes 10-19/1000"]
    assert app.js("fetch('/missing').then(each => each.status)") == 404


def test_cookies_of_the_app(app: View, host: PageHost) -> None:
    assert "seen=1" in app.js("document.cookie")
    assert "mine=1" in app.js("document.cookie = 'mine=1; path=/'; document.cookie").split("; ")
    assert "mine=1" in app.js("fetch('/cookies').then(each => each.json())")
    app.js("document.cookie = 'secret=forged'")
    assert "secret=s3cret" in app.js("fetch('/cookies').then(each => each.json())")
    assert "secret" not in app.js("document.cookie")
    values = json.dumps(["later=1; Max-Age=100", "hidden=2; HttpOnly", "gone=3; Max-Age=0"])
    app.js(f"fetch('/login?set=' + encodeURIComponent({json.dumps(values)}))")
    app.until("document.cookie.includes('later=1')")
    assert "hidden" not in app.js("document.cookie")
    assert app.js("typeof cookieStore") == "undefined"
    app.js("document.cookie = 'name=李 à; path=/'")
    assert "name=李 à" in app.js("document.cookie")
    assert "name=李 à" in app.js("fetch('/cookies').then(each => each.json())")


def test_workers_send_their_requests_through_the_tunnel(app: View) -> None:
    call = "new Promise(resolve => { const worker = new Worker(%s); worker.onmessage = ({data}) => resolve(data);"
    call += " worker.postMessage(1); })"
    number, said = app.js(call % "'/worker.js'")
    assert number == 1 and said["query"] == "worker"
    blob = "URL.createObjectURL(new Blob(['onmessage = async () => postMessage((await (await fetch(\"' + origin +"
    blob += "'/echo?blob\")).json()).query + self.llmtunnelShim)']))"
    assert app.js(call % blob) == "blobtrue"


def test_requests_that_may_outlive_their_page_go_through_the_tunnel(app: View) -> None:
    kept = "{method: 'POST', body: 'kept', keepalive: true}"
    assert asked(app, f"fetch('/echo?kept', {kept})")["size"] == 4
    assert asked(app, f"fetch(new Request('/echo', {kept}), {{keepalive: true}})")["size"] == 4
    assert app.js("fetch('http://', {keepalive: true}).catch(each => each.name)") == "TypeError"
    assert app.js("[navigator.sendBeacon('/echo?beacon', 'x'), typeof fetchLater]") == [True, "undefined"]
    code = f"onmessage = async () => postMessage(await (await fetch(origin + '/echo?worker', {kept})).json())"
    worker = f"new Worker(URL.createObjectURL(new Blob([{json.dumps(code)}])))"
    said = (
        "(worker => new Promise(resolve => { worker.onmessage = each => resolve(each.data); worker.postMessage(1); }))"
    )
    assert app.js(f"{said}({worker})")["query"] == "worker"
    app.until(
        "(fetch('/seen').then(each => each.json()).then(each => { window.all = each; }),"
        " all.includes('POST /echo?beacon'))"
    )


def test_an_upload_is_streamed(app: View) -> None:
    body = "new Blob(Array.from({length: 320}, () => Uint8Array.from({length: 65536}, (_, at) => at % 256)))"
    said = asked(app, f"fetch('/echo', {{method: 'POST', body: {body}}})")
    assert (said["size"], said["sha256"]) == (320 << 16, hashlib.sha256(PIECE * 320).hexdigest())
    assert said["fields"]["transfer-encoding"] == "chunked"


@pytest.fixture
def fresh(window: Page, host: PageHost, invite: Invite) -> Iterator[View]:
    """The app, shown anew; like `app` otherwise."""
    yield show(window, host, invite)
    assert unexpected(window) == []
    assert host.strays == []


def test_the_app_goes_from_page_to_page(fresh: View, window: Page, host: PageHost) -> None:
    landed = visit_by(window, host, fresh, "location.href = '/moved'", "/landed")
    assert "moved=yes" in landed.js("document.body.innerText")
    landed.js("document.body.innerHTML = '<form method=post action=/form><input name=name value=Ada></form>'")
    thanks = visit_by(window, host, landed, "document.forms[0].submit()", "/landed?Ada")
    thanks.js("document.body.innerHTML = '<a target=_blank href=/strict>x</a>'")
    strict = visit_by(window, host, thanks, "document.links[0].click()", "/strict")
    strict.until("window.ran")
    latin = visit_by(window, host, strict, "location.href = '/latin'", "/latin")
    assert latin.js("document.body.innerText") == "Grüße"
    visit_by(window, host, latin, "history.back()", "/strict").until("window.ran")


def visit_by(page: Page, host: PageHost, view: View, action: str, target: str) -> View:
    """Let the app go to a page by doing this; its frame."""
    view.js(f"void ({action})")
    frame = page.frame(rf"^{re.escape(host.app() + target)}$")
    frame.until("document.readyState === 'complete'")
    return frame


def test_a_frame_that_is_looked_at_before_it_has_loaded_is_a_part_of_the_app(fresh: View) -> None:
    load = """new Promise(resolve => {
        const frame = document.createElement('iframe');
        frame.onload = () => resolve([frame.contentWindow.llmtunnelShim, frame.contentDocument.cookie]);
        frame.src = '/landed';
        document.body.append(frame);
        frame.contentWindow.name;
    })"""
    shim, cookie = fresh.js(load)
    assert shim and "seen=1" in cookie


def test_files_are_saved_with_their_names(fresh: View, window: Page) -> None:
    fresh.js("document.body.innerHTML = '<a download=mine.bin href=\"/file?size=1000000\">x</a>'")
    fresh.click("document.links[0]")
    assert window.downloaded("mine.bin").read_bytes() == (PIECE * 16)[:1_000_000]
    fresh.js("document.body.innerHTML = '<a href=\"/file?size=10&name=theirs.bin\">x</a>'")
    fresh.click("document.links[0]")
    assert window.downloaded("theirs.bin").read_bytes() == PIECE[:10]
    fresh.js("document.links[0].href = '/file?size=15&name=page.html&type=text/html'")
    fresh.click("document.links[0]")
    assert window.downloaded("page.html").read_bytes() == PIECE[:15]
    fresh.js("Object.assign(document.createElement('a'), {href: '/file?size=20', download: 'apart.bin'}).click()")
    assert window.downloaded("apart.bin").read_bytes() == PIECE[:20]
    fresh.js("document.body.innerHTML = '<a download=moved.bin href=\"/moved?to=/file%3Fsize=25\">x</a>'")
    fresh.click("document.links[0]")
    assert window.downloaded("moved.bin").read_bytes() == PIECE[:25]


def test_a_file_that_is_not_there_is_not_saved(fresh: View, window: Page) -> None:
    fresh.js("document.body.innerHTML = '<a download=lost.bin href=\"/missing\">x</a>'")
    fresh.click("document.links[0]")
    window.until("app.state.unsaved === 'lost.bin'")
    assert not (window.downloads / "lost.bin").exists()


def test_events_arrive_one_by_one_and_leaving_ends_them(fresh: View) -> None:
    fresh.js("window.ticks = []; window.source = new EventSource('/ticks'); source.onmessage = e => ticks.push(e.data)")
    fresh.until("ticks.length >= 3")
    assert fresh.js("ticks.slice(0, 3)") == ["1", "2", "3"]
    fresh.js("source.close()")
    until_streams(fresh, 0)


@pytest.mark.long
def test_a_stream_outlives_the_time_after_which_browsers_end_idle_workers(fresh: View) -> None:
    fresh.js("window.ticks = []; window.failed = 0; window.source = new EventSource('/ticks?pause=35')")
    fresh.js("source.onmessage = ({data}) => ticks.push(data); source.onerror = () => { failed += 1; }; null")
    fresh.until("ticks.length === 3", timeout=120)
    assert fresh.js("[ticks, failed]") == [["1", "2", "3"], 0]
    fresh.js("source.close()")


def until_streams(view: View, number: int) -> None:
    """Return once the upstream has so many event streams open."""
    view.js("window.streams = async () => { window.open_streams = await (await fetch('/streams')).json(); }")
    view.until(f"(streams(), window.open_streams === {number})")


def test_a_cancelled_request_is_cancelled_at_the_upstream(fresh: View) -> None:
    fresh.js("window.abort = new AbortController(); void fetch('/ticks', {signal: abort.signal}).catch(() => {})")
    until_streams(fresh, 1)
    fresh.js("abort.abort()")
    until_streams(fresh, 0)


def test_a_frame_of_the_app_that_leaves_ends_its_streams(fresh: View, window: Page, host: PageHost) -> None:
    fresh.js("void new EventSource('/ticks')")
    until_streams(fresh, 1)
    until_streams(visit_by(window, host, fresh, "location.href = '/landed'", "/landed"), 0)


def test_a_worker_that_the_browser_ends_is_started_again(fresh: View, window: Page) -> None:
    if not isinstance(window, ChromiumPage):
        return  # only Chromium ends a worker when it is told to
    window.call("ServiceWorker.stopAllWorkers")
    assert fresh.js("fetch('/echo?again').then(async each => (await each.json()).query)") == "again"
    window.call("ServiceWorker.stopAllWorkers")
    assert "seen=1" in fresh.js("fetch('/cookies').then(each => each.json())")


def test_a_large_download_needs_little_memory(fresh: View, window: Page) -> None:
    hashed = """(async () => {
        const {body} = await fetch('/file?size=209715200');
        let [size, sum] = [0, 0];
        for await (const piece of body) {
            size += piece.length;
            sum = (sum * 31 + piece[0] + piece[piece.length - 1]) % 1000003;
        }
        return size;
    })()"""
    if not isinstance(window, ChromiumPage):
        return  # only Chromium tells how much memory a page uses
    window.js("void (window.heaps = [], setInterval(() => heaps.push(performance.memory.usedJSHeapSize), 200))")
    assert fresh.js(hashed) == 209715200
    heaps = window.js("heaps")
    assert max(heaps) - min(heaps) < 100_000_000, heaps


def test_a_large_download_is_saved_byte_for_byte(fresh: View, window: Page) -> None:
    fresh.js("document.body.innerHTML = '<a download=large.bin href=\"/file?size=209715200\">x</a>'")
    fresh.click("document.links[0]")
    with window.downloaded("large.bin", timeout=120).open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == hashlib.sha256(PIECE * 3200).digest()
