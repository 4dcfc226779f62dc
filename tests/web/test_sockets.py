"""WebSockets of an app in a page: the class, the passage to the shell, and a real server behind a real serve."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import WSMsgType, web
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from llmtunnel.invite import Invite

from ..support.browser import CHROMIUM, CHROMIUM_FIRST, Page, browser
from ..support.processes import Processes, Signal
from ..support.upstream import pattern, wait_until
from .site import site

WORDS = "tulip-mango-onion-cedar-fruit"
MIB = 1024 * 1024
rooms = count(5_821_309)


class Server:
    """A server of WebSockets in a thread, and what it has seen."""

    def __init__(self) -> None:
        self.closed: dict[str, int | None] = {}
        """The code with which the client of a path has left."""
        self.sent = 0
        """Bytes that ``/flood`` has sent."""
        self.received = 0
        """Bytes that ``/deaf`` has read, once it does."""
        self.hear = threading.Event()
        self.open = 0
        self.strange: list[str] = []
        """The targets of handshakes that no honest test asks for."""
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        options: dict[str, Any] = {"select_subprotocol": _chosen, "max_size": None}
        async with serve(
            self._handle, "127.0.0.1", 0, process_request=self._refused, process_response=_with_cookies, **options
        ) as server:
            self.port = next(iter(server.sockets)).getsockname()[1]
            self._ready.set()
            await self._over.wait()

    def _refused(self, socket: ServerConnection, request: Request) -> Response | None:
        # Not what serve asks to learn which models there are, again and again.
        if "Upgrade" in request.headers and not hasattr(self, f"_{urlsplit(request.path).path[1:]}"):
            self.strange.append(request.path)
        return socket.respond(403, "no\n") if request.path == "/refused" else None

    async def _handle(self, socket: ServerConnection) -> None:
        assert socket.request
        url = urlsplit(socket.request.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.open += 1
        try:
            with suppress(ConnectionClosed):
                await getattr(self, f"_{url.path[1:]}")(socket, query)
            await socket.wait_closed()
        finally:
            self.open -= 1
            self.closed[url.path] = socket.close_code

    async def _echo(self, socket: ServerConnection, query: dict[str, str]) -> None:
        async for message in socket:
            await socket.send(message)

    async def _headers(self, socket: ServerConnection, query: dict[str, str]) -> None:
        assert socket.request
        await socket.send(json.dumps(list(socket.request.headers.raw_items())))

    async def _close(self, socket: ServerConnection, query: dict[str, str]) -> None:
        await socket.close(int(query["code"]), query.get("reason", ""))

    async def _drop(self, socket: ServerConnection, query: dict[str, str]) -> None:
        await socket.send("last words")
        socket.transport.close()

    async def _ping(self, socket: ServerConnection, query: dict[str, str]) -> None:
        for number in range(3):
            await (await socket.ping(f"ping {number}"))
            await socket.send(f"pong {number}")

    async def _fragments(self, socket: ServerConnection, query: dict[str, str]) -> None:
        await socket.send(["grü", "", "ße ", "€"])
        await socket.send([b"ab", b"c"])

    async def _flood(self, socket: ServerConnection, query: dict[str, str]) -> None:
        self.sent = 0
        for _ in range(int(query["count"])):
            await socket.send(bytes(100_000))
            self.sent += 100_000

    async def _large(self, socket: ServerConnection, query: dict[str, str]) -> None:
        await socket.send(pattern(0, int(query["size"])))
        await socket.wait_closed()

    async def _deaf(self, socket: ServerConnection, query: dict[str, str]) -> None:
        self.received = 0
        await asyncio.get_running_loop().run_in_executor(None, self.hear.wait)
        async for message in socket:
            self.received += len(message)
            await socket.send(str(self.received))


def _chosen(socket: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return Subprotocol("two") if "two" in offered else None


def _with_cookies(socket: ServerConnection, request: Request, response: Response) -> None:
    response.headers["Set-Cookie"] = "one=1; HttpOnly"
    response.headers["Set-Cookie"] = "two=2"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def invite(server: Server, lasting: Processes, signal: Signal) -> Invite:
    made = Invite(room=f"invite-{next(rooms)}", secret=WORDS, signal=signal.url)
    _serve(lasting, made, server.port)
    return made


def _serve(started: Processes, invite: Invite, port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    started.serve(invite.room, url, invite.signal, "--secret", invite.secret, "--resume-for", "30")


@pytest.fixture(scope="module", params=CHROMIUM_FIRST)
def window(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, invite: Invite) -> Iterator[Page]:
    with _opened(tmp_path_factory.mktemp("browser"), invite, request.param) as page:
        yield page


@contextmanager
def _opened(folder: Path, invite: Invite, kind: str = "chromium") -> Iterator[Page]:
    with site("sockets.html", keeper="keeper.html", app="app.html") as url, browser(folder, kind=kind) as page:
        page.open(url.replace("127.0.0.1", "localhost"))
        page.until("window.ready")
        page.js(f"connect({json.dumps(invite.code)})")
        page.until("peer.state.phase === 'connected'")
        page.js("join()")
        yield page
        page.js("peer.close()")


class App:
    """The app's document."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def js(self, expression: str) -> Any:
        return self.page.js(f"app({json.dumps(expression)})")

    def until(self, expression: str) -> None:
        wait_until(lambda: bool(self.js(f"Boolean({expression})")), expression)

    def load(self) -> None:
        """Load the document anew."""
        self.page.js(
            "keeper('new Promise(done => { inner.onload = () => done(); inner.src = `/app?${Math.random()}`; })')"
        )


@pytest.fixture
def app(window: Page) -> Iterator[App]:
    app = App(window)
    app.load()
    yield app
    assert app.js("defects") == []
    assert window.js("defects") == []
    app.load()
    wait_until(lambda: window.js("sockets.count") == 0, "the app's WebSockets to end")


def test_a_message_of_each_kind_is_echoed(app: App) -> None:
    app.js("make('/echo'); opened(socket)")
    app.js("socket.send('grüße €𝄞'); next(socket)")
    assert app.js("events") == [["open", 1, ""], ["message", 1, "grüße €𝄞"]]
    assert app.js("socket.send(''); next(socket)") == ""
    assert app.js("socket.send('a\\ud800b'); next(socket)") == "a\ufffdb"
    assert app.js("socket.send(new TextEncoder().encode('abcdef').subarray(1, 3)); next(socket)") == "blob bc"
    assert app.js("socket.send(new TextEncoder().encode('abc').buffer); next(socket)") == "blob abc"
    assert app.js("socket.binaryType = 'arraybuffer'; socket.send(new Blob(['a', 'b'])); next(socket)") == "buffer ab"
    assert app.js("socket.send(new DataView(new ArrayBuffer(0))); next(socket)") == "buffer "
    assert app.js("socket.send(17); next(socket)") == "17"
    assert app.js("[socket.url, socket.origin, socket.protocol, socket.extensions]") == [
        app.js("`ws://${location.host}/echo`"),
        None,
        "",
        "",
    ]


def test_subprotocols_are_offered_and_one_is_chosen(app: App) -> None:
    app.js("make('/echo', ['one', 'two']); opened(socket)")
    assert app.js("socket.protocol") == "two"
    app.js("make('/echo', 'two'); opened(socket)")
    app.js("make('/echo', ['three']); ended(socket)")
    assert app.js("events") == [["error", 3], ["close", 3, 1006, "", False]]
    assert "none of the subprotocols" in app.js("told[0]")


def test_the_handshake_is_that_of_a_browser(app: App, server: Server) -> None:
    app.page.js("stored = []; Object.defineProperty(navigator, 'languages', {value: ['de', 'en']})")
    headers = [(name.lower(), value) for name, value in json.loads(app.js("next(make('/headers?a=b%20c'))"))]
    values = dict(headers)
    assert len(values) == len(headers)
    assert values["origin"] == f"http://127.0.0.1:{server.port}"  # as serve translates the app's own
    assert values["host"] == f"127.0.0.1:{server.port}"
    assert values["cookie"] == "seen=1"
    assert values["user-agent"] == app.js("navigator.userAgent")
    assert values["accept-language"] == "de,en;q=0.9"
    assert values["sec-websocket-version"] == "13"
    assert not {"sec-websocket-extensions", "sec-websocket-protocol", "x-forwarded-proto"} & set(values)
    url = app.js("`${origin}/headers?a=b%20c`")
    assert app.page.js("stored") == [[url, "one=1; HttpOnly"], [url, "two=2"]]


def test_a_refused_handshake_is_told_in_the_console_and_not_to_the_page(app: App) -> None:
    app.js("make('/refused'); ended(socket)")
    assert app.js("events") == [["error", 3], ["close", 3, 1006, "", False]]
    assert "The server answered 403 Forbidden" in app.js("told[0]")


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "going"), (1011, "grüße"), (4321, "own")])
def test_the_servers_close_is_told(app: App, code: int, reason: str) -> None:
    assert app.js(f"ended(make('/close?code={code}&reason={reason}'))") == [code, reason, True]
    assert app.js("events") == [["open", 1, ""], ["close", 3, code, reason, True]]


def test_a_connection_that_breaks_is_told(app: App) -> None:
    assert app.js("ended(make('/drop'))") == [1006, "", False]
    assert app.js("events[1]") == ["message", 1, "last words"]


def test_the_page_closes(app: App, server: Server) -> None:
    app.js("make('/echo?1'); opened(socket)")
    assert app.js("socket.send('before'); socket.close(4000, 'grüße'); socket.readyState") == 2
    assert app.js("ended(socket)") == [4000, "grüße", True]
    wait_until(lambda: server.closed.get("/echo") == 4000, "the server to see the close")
    assert [event[0] for event in app.js("events")] == ["open", "close"]  # a message after close() is not told
    app.js("make('/echo?2'); opened(socket)")
    assert app.js("socket.close(); ended(socket)") == [1005, "", True]
    assert app.js("const late = make('/echo?3'); late.close(); ended(late)") == [1006, "", False]
    assert app.js("events") == [["error", 3], ["close", 3, 1006, "", False]]


def test_pings_are_answered_and_fragments_are_joined(app: App) -> None:
    app.js("make('/ping'); null")
    app.until("events.length === 4")
    assert app.js("events.slice(1)") == [["message", 1, f"pong {number}"] for number in range(3)]
    app.js("make('/fragments'); null")
    app.until("events.length === 3")
    assert app.js("events.slice(1)") == [["message", 1, "grüße €"], ["message", 1, "blob"]]


def test_ten_megabytes_are_echoed(app: App) -> None:
    app.js(
        "window.bytes = new Uint8Array(10e6).map((_, index) => index * 7 + (index >> 8)); make('/echo'); opened(socket)"
    )
    expected = app.js("hashOf(bytes)")
    assert app.js("socket.binaryType = 'arraybuffer'; echoed(socket, bytes)") == expected
    app.until("socket.bufferedAmount === 0")
    assert app.js("socket.binaryType = 'blob'; echoed(socket, new Blob([bytes]))") == expected
    assert 0 < app.js("socket.send(bytes); socket.bufferedAmount") <= 10_000_000
    app.js("next(socket)")
    text = "'grüße €𝄞'.repeat(500_000)"
    assert app.js(f"const came = next(socket); socket.send({text}); came.then(data => data === {text})")


def _until_steady(look: Callable[[], int]) -> None:
    """Return once a number has been the same for half a second."""
    seen: list[int] = []

    def steady() -> bool:
        seen.append(look())
        time.sleep(0.1)
        return len(seen) > 5 and len(set(seen[-6:])) == 1

    wait_until(steady, "a number that stays")


def test_a_reader_that_stands_still_stops_the_server(app: App, server: Server) -> None:
    app.js(
        "make('/flood?count=600'); window.got = 0; socket.onmessage = ({data}) => { got += data.size; };opened(socket)"
    )
    app.until("got > 0")
    app.js(
        "setTimeout(() => { window.before = got; const over = Date.now() + 4000; while (Date.now() < over) {} });null"
    )
    _until_steady(lambda: server.sent)
    sent = server.sent
    # The rest is in windows and buffers: of the WebSocket, of the tunnel, and of the sockets at the upstream.
    assert sent - app.js("before") < 25_000_000
    app.until("got === 60_000_000")


def test_a_server_that_does_not_read_stops_the_page(app: App, server: Server) -> None:
    server.hear.clear()
    app.js("make('/deaf'); opened(socket)")
    app.js("for (let each = 0; each < 40; each += 1) socket.send(new Uint8Array(1e6))")
    _until_steady(lambda: app.js("socket.bufferedAmount"))
    assert app.js("socket.bufferedAmount") > 10_000_000
    server.hear.set()
    app.until("socket.bufferedAmount === 0")
    wait_until(lambda: server.received == 40_000_000, "the server to have read everything")


def test_a_hundred_websockets(app: App, server: Server) -> None:
    app.js(
        "window.many = Array.from({length: 100}, (_, each) => new WebSocket(`/echo?${each}`));"
        "Promise.all(many.map(opened))"
    )
    assert server.open == 100
    answers = app.js("Promise.all(many.map((each, index) => { each.send(`${index}`); return next(each); }))")
    assert answers == [str(index) for index in range(100)]
    app.js("Promise.all(many.map(each => { each.close(); return ended(each); }))")
    wait_until(lambda: server.open == 0, "the server to see all of them leave")


def test_a_websocket_outlives_a_cut_of_the_path(app: App) -> None:
    app.js("make('/echo'); opened(socket)")
    app.page.js("cut()")
    assert app.js("socket.send('during'); next(socket)") == "during"
    assert app.js("events") == [["open", 1, ""], ["message", 1, "during"]]


def test_a_document_that_is_left_closes_its_websockets(app: App, server: Server) -> None:
    app.js("Promise.all([1, 2, 3].map(each => opened(new WebSocket(`/echo?${each}`))))")
    assert server.open == 3
    server.closed.clear()
    app.load()
    wait_until(lambda: server.open == 0, "the server to see them leave")
    assert server.closed["/echo"] == 1001


def test_a_frame_that_is_removed_closes_its_websockets(app: App, server: Server) -> None:
    app.js(
        "window.child = document.body.appendChild(document.createElement('iframe')); child.src = '/app?child';"
        "new Promise(done => { child.onload = () => done(); })"
    )
    app.js("child.contentWindow.eval('opened(new WebSocket(`/echo`))')")
    server.closed.clear()
    app.js("child.remove()")
    wait_until(lambda: server.closed.get("/echo") == 1001, "the server to see it leave")


@pytest.mark.parametrize("how", ["worker.terminate()", "worker.postMessage('close')"])
def test_a_worker_has_websockets_and_its_end_closes_them(app: App, server: Server, how: str) -> None:
    script = """
        const socket = new WebSocket(`ws://${new URL(origin).host}/echo`);
        socket.onopen = () => socket.send("from a worker");
        socket.onmessage = ({data}) => postMessage(data);
        onmessage = () => close();
    """
    app.js(
        "fetch('/app/socket.js').then(answer => answer.text()).then(text => {"
        f"window.worker = new Worker(URL.createObjectURL(new Blob([text, {json.dumps(script)}])));"
        "return new Promise(done => { worker.onmessage = ({data}) => { window.answer = data; done(); }; }); })"
    )
    assert app.js("answer") == "from a worker"
    server.closed.clear()
    app.js(how)
    wait_until(lambda: server.closed.get("/echo") == 1001, "the server to see it leave")


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("/echo", "/echo"),
        ("echo?x", "/echo?x"),
        ("//${location.host}/echo", "/echo"),
        ("http://${location.host}/echo", "/echo"),
        ("ws://${location.host}/a/../echo", "/echo"),
        ("WS://${location.host.toUpperCase()}/echo", "/echo"),
        ("ws://user:secret@${location.host}/echo", "/echo"),
        ("", "/app"),
        ("ws://${location.host}", "/"),
        ("/ü?ü", "/%C3%BC?%C3%BC"),
    ],
)
def test_urls_are_read_as_the_standard_has_it(app: App, url: str, opened: str) -> None:
    made = app.js(f"const made = new WebSocket(`{url}`); made.close(); [made.url, made.readyState]")
    there, state = made
    assert there.partition("?")[0].endswith(opened.partition("?")[0]) and there.startswith("ws://")
    assert state == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("", "TypeError"),
        ("'ftp://' + location.host", "SyntaxError"),
        ("'mailto:x@' + location.host", "SyntaxError"),
        ("'http://'", "SyntaxError"),
        ("'/echo#a'", "SyntaxError"),
        ("'/echo#'", "SyntaxError"),
        ("'/echo', ''", "SyntaxError"),
        ("'/echo', 'a b'", "SyntaxError"),
        ("'/echo', 'a,b'", "SyntaxError"),
        ("'/echo', 'ä'", "SyntaxError"),
        ("'/echo', ['a', 'a']", "SyntaxError"),
        ("'/echo', ['a\\\\nb: c']", "SyntaxError"),
        ("{toString() { throw new RangeError('x'); }}", "RangeError"),
        ("Symbol()", "TypeError"),
    ],
)
def test_arguments_that_are_not_valid_throw(app: App, arguments: str, error: str) -> None:
    assert app.js(f"thrown(() => new WebSocket({arguments}))") == error
    # The browser's own class judges alike, where it knows the same rules.
    assert app.js(f"thrown(() => new native({arguments}))") == error


def test_what_is_called_too_early_or_wrongly_throws(app: App) -> None:
    assert app.js("make('/echo'); thrown(() => socket.send('x'))") == "InvalidStateError"
    assert app.js("thrown(() => socket.send())") == "TypeError"
    for code in (0, 999, 1001, 1005, 2999, 5000, 65_536, "NaN", "-1", "'x'"):
        assert app.js(f"thrown(() => socket.close({code}))") == "InvalidAccessError", code
    assert app.js("thrown(() => socket.close(1000, 'x'.repeat(124)))") == "SyntaxError"
    assert app.js("thrown(() => socket.close(1000, 'ü'.repeat(62)))") == "SyntaxError"
    assert app.js("thrown(() => WebSocket('/echo'))") == "TypeError"
    app.js("opened(socket)")
    assert app.js("socket.close(2999.9, 'x'.repeat(123)); ended(socket)") == [3000, "x" * 123, True]


def test_what_is_sent_after_the_close_counts_as_buffered(app: App) -> None:
    app.js("make('/echo'); opened(socket)")
    assert app.js("socket.close(); socket.send('üx'); socket.send(new Uint8Array(5)); socket.bufferedAmount") == 8
    app.js("ended(socket)")
    assert app.js("socket.send(new Blob(['ab'])); socket.bufferedAmount") == 10


def test_the_class_looks_like_the_browsers_own(app: App) -> None:
    shape = """Class => {
        const shape = object => Object.entries(Object.getOwnPropertyDescriptors(object))
            .filter(([name]) => name !== 'prototype')
            .map(([name, {enumerable, configurable, writable, value, get, set}]) => [name, enumerable, configurable,
                writable ?? null, typeof value, typeof get, typeof set, value?.length ?? null])
            .sort(([one], [other]) => (one < other ? -1 : 1));
        return JSON.stringify([shape(Class), shape(Class.prototype), Class.name,
            Object.prototype.toString.call(Class.prototype), Object.getPrototypeOf(Class) === EventTarget]);
    }"""
    assert app.js(f"({shape})(WebSocket)") == app.js(f"({shape})(native)")
    assert app.js("JSON.stringify(Object.getOwnPropertyDescriptor(window, 'WebSocket'))") == json.dumps(
        {"writable": True, "enumerable": False, "configurable": True}, separators=(",", ":")
    )
    assert app.js("[WebSocket.CONNECTING, WebSocket.OPEN, WebSocket.CLOSING, WebSocket.CLOSED]") == [0, 1, 2, 3]
    assert app.js("'WebSocketStream' in window") is False


def test_a_subclass_works(app: App) -> None:
    app.js(
        "window.Mine = class extends WebSocket { constructor(url) { super(url); this.more = 1; }"
        " send(data) { super.send(`mine ${data}`); } };"
        "make('/echo', undefined, Mine); opened(socket)"
    )
    assert app.js(
        "[socket instanceof Mine, socket instanceof WebSocket, socket instanceof EventTarget, socket.more]"
    ) == [
        True,
        True,
        True,
        1,
    ]
    assert app.js("socket.send('x'); next(socket)") == "mine x"
    assert app.js("WebSocket.prototype.send.call(socket, 'y'); next(socket)") == "y"


def test_another_hosts_websocket_is_the_browsers_own(app: App, server: Server) -> None:
    app.js(f"make('ws://127.0.0.1:{server.port}/headers'); opened(socket)")
    assert app.js("[socket instanceof WebSocket, Object.getPrototypeOf(socket) === WebSocket.prototype]") == [
        True,
        True,
    ]
    app.until("events.length === 2")
    headers = {name.lower(): value for name, value in json.loads(app.js("events[1][2]"))}
    assert headers["origin"] == app.js("origin")  # serve has not translated it
    app.js(
        "window.Mine = class extends WebSocket {}; window.other = new Mine(socket.url.replace('headers', 'echo'));"
        "opened(other)"
    )
    assert app.js("[other instanceof Mine, other.readyState, other.binaryType, other.extensions !== '']") == [
        True,
        1,
        "blob",
        True,
    ]
    assert app.js("other.binaryType = 'arraybuffer'; other.send(new Uint8Array([65])); next(other)") == "buffer A"
    assert app.js("other.close(4001); ended(other)") == [4001, "", True]
    assert app.js("socket.close(); socket.readyState") == 2


def test_events_are_those_of_the_standard(app: App) -> None:
    app.js(
        "make('/echo'); window.seen = []; for (const type of ['open', 'message', 'close']) {"
        "socket.addEventListener(type, event => seen.push(event)); } seen.length"
    )
    assert app.js("[socket.readyState, events.length]") == [0, 0]
    app.js("opened(socket)")
    app.js("socket.send('x'); next(socket)")
    app.js("socket.close(1000); ended(socket)")
    assert app.js(
        "seen.map(({constructor, type, bubbles, cancelable, target}) =>"
        " [constructor.name, type, bubbles, cancelable, target === socket])"
    ) == [
        ["Event", "open", False, False, True],
        ["MessageEvent", "message", False, False, True],
        ["CloseEvent", "close", False, False, True],
    ]
    assert app.js("[seen[1].origin, seen[1].lastEventId, seen[1].source, seen[1].ports.length]") == [
        app.js("`ws://${location.host}`"),
        "",
        None,
        0,
    ]


def test_handlers_keep_their_place_and_bad_ones_are_none(app: App) -> None:
    app.js("make('/echo'); window.order = []; opened(socket)")
    app.js(
        "socket.onmessage = () => order.push('first'); socket.addEventListener('message', () => order.push('second'));"
        "socket.onmessage = function () { order.push(this === socket ? 'changed' : 'this'); }; null"
    )
    app.js("socket.send('x'); next(socket)")
    assert app.js("order") == ["changed", "second"]
    assert app.js("socket.onmessage = 17; socket.onmessage") is None
    assert app.js("socket.onopen = {}; typeof socket.onopen") == "object"
    app.js("socket.send('x'); next(socket)")
    assert app.js("order") == ["changed", "second", "second"]
    assert app.js("socket.binaryType = 'nonsense'; socket.binaryType") == "blob"


def test_an_error_in_a_listener_stops_nothing(app: App) -> None:
    app.js("make('/echo'); socket.onmessage = () => { throw new Error('of the app'); }; opened(socket)")
    app.js("socket.send('x'); next(socket)")
    assert app.js("socket.send('y'); next(socket)") == "y"
    assert [each.removeprefix("Uncaught ") for each in app.js("defects.splice(0)")] == ["Error: of the app"] * 2


FORGED = """
    const forge = async (first, then = null) => {
        const realm = crypto.randomUUID();
        const name = `~llmtunnel.socket.${realm}`;
        await new Promise(held => navigator.locks.request(name, () => { held(); return new Promise(() => {}); }));
        const channel = new BroadcastChannel(name);
        const came = new Map();
        const waiting = new Map();
        const answer = kind => came.get(kind) ?? new Promise(done => waiting.set(kind, done));
        channel.onmessage = ({data}) => {
            came.set(data.kind, data);
            waiting.get(data.kind)?.(data);
        };
        new BroadcastChannel('~llmtunnel.sockets').postMessage({realm});
        await answer('welcome');
        channel.postMessage(first);
        if (then !== null) {
            await answer('open');
            channel.postMessage({id: 1, ...then});
        }
        const {code, problem} = await answer('close');
        channel.close();
        return [code, problem];
    };
    const open = (target, protocols = []) => ({kind: 'open', id: 1, target, protocols});
"""


@pytest.mark.parametrize(
    "first",
    [
        "open('http://127.0.0.1/')",
        "open('/a b')",
        "open('/a\\\\r\\\\nX: y')",
        "open('/\\u0100')",
        "open('no path')",
        "open('/' + 'x'.repeat(20_000))",
        "open(17)",
        "open(undefined)",
        "open('/', 'a')",
        "open('/', ['a\\\\r\\\\nX: y'])",
        "open('/', ['a, b'])",
        "open('/', Array(65).fill('a'))",
        "open('/', [17])",
    ],
)
def test_a_forged_request_reaches_no_server(app: App, server: Server, first: str) -> None:
    before = list(server.strange)
    code, problem = app.js(f"(() => {{ {FORGED} return forge({first}); }})()")
    assert code == 1006 and problem
    assert server.strange == before


@pytest.mark.parametrize(
    "message",
    [
        "{kind: 'nonsense'}",
        "{}",
        "{kind: 'open', target: '/echo', protocols: []}",
        "{kind: 'data', data: 'text', text: true, last: true}",
        "{kind: 'data', data: new Uint8Array(65_537), text: true, last: true}",
        "{kind: 'data', data: new Uint8Array(10_000_000).subarray(0, 10), text: true, last: true}",
        "{kind: 'data', data: new Uint8Array(1), text: 1, last: true}",
        "{kind: 'data', data: new Uint8Array(1), text: true}",
        "{kind: 'close', code: 1001, reason: ''}",
        "{kind: 'close', code: 1002.5, reason: ''}",
        "{kind: 'close', code: 1000, reason: 'x'.repeat(124)}",
        "{kind: 'close', code: 1000}",
        "{kind: 'taken', size: -1, pieces: 1}",
        "{kind: 'taken', size: 1e300, pieces: 1}",
        "{kind: 'taken', size: 1, pieces: '1'}",
        "{kind: 'gone'}",
    ],
)
def test_a_realm_that_breaks_a_rule_loses_its_websocket(app: App, server: Server, message: str) -> None:
    server.closed.clear()
    code, _ = app.js(f"(() => {{ {FORGED} return forge(open('/echo'), {message}); }})()")
    assert code == 1001
    wait_until(lambda: server.closed.get("/echo") == 1001, "the server to see it leave")


@contextmanager
def _aiohttp() -> Iterator[tuple[int, list[int | None]]]:
    """An echo by aiohttp: its port, and the codes with which its clients have left."""
    codes: list[int | None] = []
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    over = asyncio.Event()
    ports: list[int] = []

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=["chat"])
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await socket.send_bytes(message.data)
        codes.append(socket.close_code)
        return socket

    async def run() -> None:
        app = web.Application()
        app.add_routes([web.get("/echo", echo)])
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ports.append(runner.addresses[0][1])
        ready.set()
        await over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield ports[0], codes
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_aiohttps_websockets_work_too_and_end_with_the_passage(
    lasting: Processes, signal: Signal, tmp_path: Path
) -> None:
    with _aiohttp() as (port, codes):
        invite = Invite(room=f"invite-{next(rooms)}", secret=WORDS, signal=signal.url)
        _serve(lasting, invite, port)
        with _opened(tmp_path, invite) as page:
            app = App(page)
            app.js("make('/echo', ['chat']); opened(socket)")
            assert app.js("[socket.protocol, socket.extensions]") == ["chat", ""]
            assert app.js("socket.send('grüße'); next(socket)") == "grüße"
            app.js("window.bytes = new Uint8Array(3e6).map((_, index) => index * 7); null")
            assert app.js("echoed(socket, new Blob([bytes]))") == app.js("hashOf(bytes)")
            assert app.js("socket.close(1000, 'done'); ended(socket)") == [1000, "", True]
            assert app.js("defects") == []
            app.js("make('/echo', ['chat']); opened(socket)")
            page.js("sockets.close()")
            wait_until(lambda: codes == [1000, 1001], "the server to see both leave")
