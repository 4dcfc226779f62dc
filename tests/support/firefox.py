"""Firefox, driven by WebDriver BiDi (https://w3c.github.io/webdriver-bidi).

Firefox sets what automation wants by itself (no updates, no telemetry, no first-run pages), as long as its remote agent
runs. A preference is set while it runs through its chrome document, for which `--remote-allow-system-access` is needed.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.sync.client import ClientConnection, connect

from .browser import POLL, Moved, Page, View, Wanted
from .keyboard import MODIFIERS, key_of, parse
from .namespaces import dial
from .processes import PATIENCE

FLAGS = ("--headless", "--no-remote", "--remote-debugging-port", "0", "--remote-allow-system-access")
PREFERENCES = {
    "browser.download.always_ask_before_handling_new_types": False,
    "browser.newtabpage.enabled": False,
    "browser.startup.page": 0,
    "devtools.jsonview.enabled": False,  # a JSON file in a tab has the origin of its server, as in other browsers
    "dom.disable_open_during_load": False,
    "extensions.enabledScopes": 0,  # load no extensions, to start faster
    "extensions.webextensions.remote": False,
    "ui.systemUsesDarkTheme": 0,
}
"""Beside those of its own (remote/shared/RecommendedPreferences.sys.mjs)."""
UNTIL_LEFT = ("no such frame", "discarded", "AbortError", "navigation")
"""What it answers where a document has gone away."""
SPECIAL = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf, "-0": -0.0}


class Protocol:
    """One WebSocket to the browser: commands, and what its events tell."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last = 0
        self.problems: list[str] = []
        self.call("session.new", capabilities={})
        self.call("session.subscribe", events=["log.entryAdded"])

    def call(self, method: str, **parameters: Any) -> Any:
        """Send one command, and return its result."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=2 * PATIENCE))
            if message.get("id") == self._last:
                break
            if message.get("method") == "log.entryAdded" and message["params"]["level"] == "error":
                self.problems.append(message["params"]["text"])
        if message["type"] == "success":
            return message["result"]
        told = f"{method}: {message['error']}: {message['message']}"
        raise Moved(told) if any(each in told for each in UNTIL_LEFT) else AssertionError(told)

    def evaluate(self, context: str, expression: str) -> dict[str, Any]:
        """The value as BiDi describes it."""
        target = {"context": context}
        found = self.call("script.evaluate", expression=expression, target=target, awaitPromise=True)
        assert found["type"] == "success", f"{expression}: {found['exceptionDetails']['text']}"
        return dict(found["result"])

    def evaluate_in_window(self, expression: str) -> None:
        """Evaluate it in the document that is Firefox's own window."""
        [window, *_] = self.call("browsingContext.getTree", **{"moz:scope": "chrome", "maxDepth": 0})["contexts"]
        self.evaluate(window["context"], expression)


class FirefoxView(View):
    """A document: one of BiDi's browsing contexts, whatever its origin."""

    def __init__(self, protocol: Protocol, context: str, url: str = "") -> None:
        self._protocol = protocol
        self._context = context
        self.url = url

    def js(self, expression: str) -> Any:
        return _value(self._protocol.evaluate(self._context, expression))

    def attach(self, expression: str, *files: Path) -> None:
        element = {"sharedId": self._protocol.evaluate(self._context, expression)["sharedId"]}
        self._call("input.setFiles", element=element, files=[str(file) for file in files])

    def _call(self, method: str, **parameters: Any) -> Any:
        return self._protocol.call(method, context=self._context, **parameters)

    def _press_mouse(self, x: float, y: float) -> None:
        steps = [
            {"type": "pointerMove", "x": round(x), "y": round(y)},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        self._call("input.performActions", actions=[{"type": "pointer", "id": "mouse", "actions": steps}])


class FirefoxPage(FirefoxView, Page):
    """A tab."""

    def __init__(self, protocol: Protocol, context: str, downloads: Path) -> None:
        super().__init__(protocol, context)
        self.downloads = downloads

    @property
    def problems(self) -> list[str]:
        self._protocol.call("session.status")  # what was told until now has been read then
        return self._protocol.problems

    def open(self, url: str) -> None:
        self._protocol.evaluate_in_window("gBrowser.selectedBrowser.focus()")  # a new window's address bar has it
        self._call("browsingContext.navigate", url=url, wait="none")

    def press(self, keys: str) -> None:
        name, modifiers = parse(keys)
        held = [MODIFIERS[each][1] for each in modifiers]
        character = key_of(name).bidi
        steps = [("keyDown", each) for each in held] + [("keyDown", character), ("keyUp", character)]
        self._keys(steps + [("keyUp", each) for each in held])

    def type(self, text: str) -> None:
        self._keys([(kind, each) for each in text for kind in ("keyDown", "keyUp")])

    def _keys(self, steps: list[tuple[str, str]]) -> None:
        actions = [{"type": kind, "value": character} for kind, character in steps]
        keyboard = {"type": "key", "id": "keyboard", "actions": actions}
        focused = [each for each in self._documents() if each._unless_moved("document.hasFocus()")]
        innermost = focused[-1] if focused else self
        innermost._call("input.performActions", actions=[keyboard])

    def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        size = {"width": width, "height": height}
        self._call("browsingContext.setViewport", viewport=size, devicePixelRatio=scale)

    def dark(self, wanted: bool = True) -> None:
        name = "layout.css.prefers-color-scheme.content-override"
        self._protocol.evaluate_in_window(f"Services.prefs.setIntPref('{name}', {0 if wanted else 1})")
        self.until(f"matchMedia('(prefers-color-scheme: dark)').matches === {json.dumps(wanted)}")

    def others(self) -> list[Page]:
        tree = self._protocol.call("browsingContext.getTree", maxDepth=0)["contexts"]
        pages = [each["context"] for each in tree if each["context"] != self._context]
        return [FirefoxPage(self._protocol, each, self.downloads) for each in pages]

    def close(self) -> None:
        self._call("browsingContext.close")

    def _capture(self, box: dict[str, float]) -> str:
        return str(self._call("browsingContext.captureScreenshot", clip=box | {"type": "box"})["data"])

    def _find_frame(self, pattern: re.Pattern[str]) -> View | None:
        return next((each for each in self._documents()[1:] if pattern.search(each.url)), None)

    def _documents(self) -> list[FirefoxView]:
        """Itself and all frames, outer ones first."""
        documents = self._protocol.call("browsingContext.getTree", root=self._context)["contexts"]
        for each in documents:
            documents += each["children"]
        return [FirefoxView(self._protocol, each["context"], each["url"]) for each in documents]


def _value(told: dict[str, Any]) -> Any:
    """What JSON would make of it."""
    match told["type"]:
        case "array":
            return [_value(each) for each in told.get("value", ())]
        case "object":
            return {name: _value(each) for name, each in told.get("value", ()) if each["type"] != "undefined"}
        case "number":
            return SPECIAL.get(told["value"], told["value"])
        case _:
            return told.get("value")


@contextmanager
def start(wanted: Wanted) -> Iterator[Page]:
    """Start it; its one page."""
    profile, downloads = wanted.profile, wanted.downloads
    profile.mkdir()
    preferences = PREFERENCES | {"dom.securecontext.allowlist": urlsplit(wanted.secure or "").hostname or ""}
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in preferences.items()]
    (profile / "user.js").write_text("".join(lines), "ascii")
    with subprocess.Popen(
        [*wanted.program, *FLAGS, "--profile", str(profile), *wanted.flags, "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            port, path = _address(profile)
            reached = dial("127.0.0.1", port, wanted.namespace)
            # No pings: while a test reads nothing, what arrives pauses, and the answers with it.
            options: dict[str, Any] = {"sock": reached, "max_size": None, "compression": None, "ping_interval": None}
            with connect(f"ws://127.0.0.1:{port}{path}", **options) as socket:
                protocol = Protocol(socket)
                allowed = {"type": "allowed", "destinationFolder": str(downloads)}
                protocol.call("browser.setDownloadBehavior", downloadBehavior=allowed)
                [page, *_] = protocol.call("browsingContext.getTree", maxDepth=0)["contexts"]
                yield FirefoxPage(protocol, page["context"], downloads)
        finally:
            process.kill()


def _address(profile: Path) -> tuple[int, str]:
    """The port and the path of the browser's WebSocket, which it tells in a file."""
    deadline = time.monotonic() + PATIENCE
    file = profile / "WebDriverBiDiServer.json"
    while time.monotonic() < deadline:
        if file.exists() and (told := file.read_text("utf-8")).endswith("}"):
            return int(json.loads(told)["ws_port"]), "/session"
        time.sleep(POLL)
    raise AssertionError("firefox did not start")
