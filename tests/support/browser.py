"""A headless Chromium, driven by its own protocol (CDP): what a person sees and clicks.

    with browser(folder) as page:
        page.open("http://127.0.0.1:8888/lab")
        page.until("document.querySelector('button')")
        page.click("document.querySelector('button')")

A hundred lines, where a library for it would be a download of a hundred megabytes with a browser of its own.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from .processes import PATIENCE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


class Page:
    """The browser's one page. Expressions are JavaScript."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last = 0
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)

    def call(self, method: str, **parameters: Any) -> Any:
        """One command of the protocol, and its result; events are passed over."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=2 * PATIENCE))
            if message.get("id") == self._last:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]

    def open(self, url: str) -> None:
        """Go to a page; it is not waited for."""
        self.call("Page.navigate", url=url)

    def js(self, expression: str) -> Any:
        """The value of an expression, awaited where it is a promise."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, f"{expression}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def until(self, expression: str, *, timeout: float = PATIENCE) -> None:
        """Return once the expression is true; what it fails with counts as not yet."""
        deadline = time.monotonic() + timeout
        attempt = f"(() => {{ try {{ return Boolean({expression}); }} catch (error) {{ return false; }} }})()"
        while not self.js(attempt):
            assert time.monotonic() < deadline, (
                f"not in {timeout} s: {expression}\n{self.js('document.body.innerText')}"
            )
            time.sleep(0.05)

    def click(self, expression: str) -> None:
        """Press the mouse on an element's middle; again where the page moved it away from under the mouse."""
        deadline = time.monotonic() + PATIENCE
        while not self._press_on(expression):
            assert time.monotonic() < deadline, f"it does not keep still: {expression}"

    def _press_on(self, expression: str) -> bool:
        """Whether the element was under the mouse; a page that is left meanwhile had it there."""
        x, y = self.js(
            f"""(() => {{
                const element = {expression};
                window.missed = true;
                const hit = () => {{ window.missed = false; }};
                element.addEventListener('mousedown', hit, {{capture: true, once: true}});
                element.scrollIntoView({{block: 'center'}});
                const box = element.getBoundingClientRect();
                return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"""
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        return not self.js("window.missed")

    def press(self, key: str) -> None:
        """Press ``Tab``, ``Enter`` or the space bar."""
        code, number, text = {"Tab": ("Tab", 9, ""), "Enter": ("Enter", 13, "\r"), " ": ("Space", 32, " ")}[key]
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=number, text=text)

    def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        """Make the window so large, CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def screenshot(self, expression: str) -> bytes:
        """An element as a PNG."""
        clip = self.js(
            f"""(() => {{
                const element = {expression};
                element.scrollIntoView({{block: 'center'}});
                const box = element.getBoundingClientRect();
                return {{x: box.x, y: box.y, width: box.width, height: box.height, scale: 1}};
            }})()"""
        )
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", clip=clip)["data"])


@contextmanager
def browser(folder: Path, *flags: str) -> Iterator[Page]:
    """A browser with a new profile in ``folder``, and these flags beside `FLAGS`."""
    assert CHROMIUM is not None
    profile = folder / "chromium"
    with subprocess.Popen(
        [CHROMIUM, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            with connect(_address(profile), max_size=None, compression=None) as socket:
                yield Page(socket)
        finally:
            process.kill()


def _address(profile: Path) -> str:
    """The page's WebSocket, which Chromium tells in a file."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(OSError, StopIteration, IndexError):
            port = (profile / "DevToolsActivePort").read_text("ascii").split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=PATIENCE) as answer:
                return str(next(each for each in json.load(answer) if each["type"] == "page")["webSocketDebuggerUrl"])
        time.sleep(0.05)
    raise AssertionError("chromium did not start")
