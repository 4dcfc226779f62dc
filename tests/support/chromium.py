"""Chromium, driven by CDP (https://chromedevtools.github.io/devtools-protocol).

All sessions share one WebSocket: one session for each page, each frame that has a process of its own, and each
dedicated worker. Service workers have none, since a browser does not stop a worker that a debugger is attached to.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from .browser import POLL, Moved, Page, View, Wanted
from .keyboard import MODIFIERS, key_of, parse
from .namespaces import dial
from .processes import PATIENCE

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
UNTIL_LEFT = ("Cannot find context", "uniqueContextId not found", "Inspected target navigated", "Session with given id")
"""What CDP answers where a document has gone away."""
KINDS = [{"type": kind} for kind in ("page", "iframe", "worker")]
ATTACH = {"autoAttach": True, "waitForDebuggerOnStart": False, "flatten": True, "filter": KINDS}


@dataclass
class Session:
    """A target that we are attached to."""

    kind: str
    target: str
    parent: str | None
    contexts: dict[str, str] = field(default_factory=dict)
    """The main world of each frame, by the frame's id: its unique id."""


class Protocol:
    """One WebSocket to the browser: commands, and what its events tell."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last = 0
        self.sessions: dict[str, Session] = {}
        self.problems: list[str] = []
        self.call(None, "Target.setAutoAttach", **ATTACH)

    def post(self, session: str | None, method: str, **parameters: Any) -> int:
        """Send one command, and return its number."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({} if session is None else {"sessionId": session})))
        return self._last

    def call(self, session: str | None, method: str, **parameters: Any) -> Any:
        """Send one command, and return its result."""
        number = self.post(session, method, **parameters)
        while True:
            message = json.loads(self._socket.recv(timeout=2 * PATIENCE))
            if message.get("id") == number:
                break
            if "method" in message:
                self._heard(message["method"], message["params"], message.get("sessionId"))
            if session is not None and session not in self.sessions:
                raise Moved(f"{method}: its document went away before it was answered")
        if "error" not in message:
            return message["result"]
        told = f"{method}: {message['error']}"
        raise Moved(told) if any(each in told for each in UNTIL_LEFT) else AssertionError(told)

    def _heard(self, method: str, event: dict[str, Any], session: str | None) -> None:
        match method:
            case "Target.attachedToTarget":
                self._attached(event["sessionId"], event["targetInfo"], session)
            case "Target.detachedFromTarget":
                self.sessions.pop(event["sessionId"], None)
            case "Runtime.executionContextCreated" if session in self.sessions:
                context = event["context"]
                told = context.get("auxData", {})  # a worker has none
                if told.get("isDefault") and "frameId" in told:
                    self.sessions[session].contexts[told["frameId"]] = context["uniqueId"]
            case "Runtime.executionContextsCleared" if session in self.sessions:
                self.sessions[session].contexts.clear()
            case "Inspector.targetCrashed":
                raise AssertionError("the page has crashed")
            case "Runtime.exceptionThrown":
                details = event["exceptionDetails"]
                self.problems.append(f"{details['text']} {details.get('exception', {}).get('description', '')}")
            case "Runtime.consoleAPICalled" if event["type"] in ("error", "assert"):
                self.problems.append(" ".join(str(each.get("value", each)) for each in event["args"]))
            case "Log.entryAdded" if event["entry"]["level"] == "error":
                self.problems.append(f"{event['entry']['text']} {event['entry'].get('url', '')}".rstrip())
            case "ServiceWorker.workerErrorReported":
                self.problems.append(event["errorMessage"]["errorMessage"])

    def _attached(self, session: str, target: dict[str, Any], parent: str | None) -> None:
        self.sessions[session] = Session(target["type"], target["targetId"], parent)
        for domain in ("Runtime", "Log"):
            self.post(session, f"{domain}.enable")
        if target["type"] in ("page", "iframe"):
            self.post(session, "Target.setAutoAttach", **ATTACH)
            self.post(session, "Page.enable")
        if target["type"] == "page":
            self.post(session, "ServiceWorker.enable")
            self.post(session, "Emulation.setFocusEmulationEnabled", enabled=True)

    def below(self, session: str) -> list[str]:
        """The session and those of its frames, outer ones first."""
        found = [session]
        for each in found:
            found += [key for key, child in self.sessions.items() if child.parent == each and child.kind == "iframe"]
        return found


class ChromiumView(View):
    """A document, reached through a session."""

    def __init__(self, protocol: Protocol, session: str) -> None:
        self._protocol = protocol
        self._session = session

    def call(self, method: str, **parameters: Any) -> Any:
        """One command of the protocol, and its result."""
        return self._protocol.call(self._session, method, **parameters)

    def js(self, expression: str) -> Any:
        return self._evaluate(expression, returnByValue=True).get("value")

    def attach(self, expression: str, *files: Path) -> None:
        found = self._evaluate(expression)
        self.call("DOM.setFileInputFiles", files=[str(file) for file in files], objectId=found["objectId"])

    def _evaluate(self, expression: str, **options: Any) -> dict[str, Any]:
        options |= self._where()
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, **options)
        assert "exceptionDetails" not in found, f"{expression}: {found['exceptionDetails']}"
        return dict(found["result"])

    def _where(self) -> dict[str, str]:
        return {}

    def _press_mouse(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


class ChromiumFrame(ChromiumView):
    """A frame, whose session it may share with other frames."""

    def __init__(self, protocol: Protocol, session: str, frame: str) -> None:
        super().__init__(protocol, session)
        self._frame = frame

    def _where(self) -> dict[str, str]:
        session = self._protocol.sessions.get(self._session)
        if session is None or self._frame not in session.contexts:
            raise Moved("the frame is no longer there")
        return {"uniqueContextId": session.contexts[self._frame]}

    def _press_mouse(self, x: float, y: float) -> None:
        left, top = self.js("(({x, y}) => [x, y])(document.documentElement.getBoundingClientRect())")
        root = self._evaluate("document.documentElement")["objectId"]
        at = self.call("DOM.getBoxModel", objectId=root)["model"]["border"]  # in the session's outermost document
        super()._press_mouse(x - left + at[0], y - top + at[1])


class ChromiumPage(ChromiumView, Page):
    """A tab."""

    def __init__(self, protocol: Protocol, session: str, downloads: Path) -> None:
        super().__init__(protocol, session)
        self.downloads = downloads

    @property
    def problems(self) -> list[str]:
        self._protocol.call(None, "Browser.getVersion")  # what was told until now has been read then
        return self._protocol.problems

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def press(self, keys: str) -> None:
        name, modifiers = parse(keys)
        key = key_of(name)
        bits = sum(MODIFIERS[each][0] for each in modifiers)
        text = "" if "Control" in modifiers else key.text
        told = {"key": name, "code": key.code, "windowsVirtualKeyCode": key.number, "modifiers": bits, "text": text}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, **told)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def dark(self, wanted: bool = True) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if wanted else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def others(self) -> list[Page]:
        self._protocol.call(None, "Target.getTargets")
        pages = [key for key, each in self._protocol.sessions.items() if each.kind == "page" and key != self._session]
        return [ChromiumPage(self._protocol, key, self.downloads) for key in pages]

    def close(self) -> None:
        with contextlib.suppress(Moved):
            self.call("Page.close")

    def _capture(self, box: dict[str, float]) -> str:
        return str(self.call("Page.captureScreenshot", format="png", clip=box | {"scale": 1})["data"])

    def _find_frame(self, pattern: re.Pattern[str]) -> View | None:
        for session in self._protocol.below(self._session):
            try:
                tree = self._protocol.call(session, "Page.getFrameTree")["frameTree"]
            except Moved:
                continue
            for frame in _flat(tree):
                outermost = session == self._session and "parentId" not in frame
                if not outermost and pattern.search(frame["url"] + frame.get("urlFragment", "")):
                    return ChromiumFrame(self._protocol, session, frame["id"])
        return None


def _flat(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield tree["frame"]
    for child in tree.get("childFrames", ()):
        yield from _flat(child)


@contextmanager
def start(wanted: Wanted) -> Iterator[Page]:
    """Start it; its one page."""
    profile, downloads = wanted.profile, wanted.downloads
    secure = [] if wanted.secure is None else [f"--unsafely-treat-insecure-origin-as-secure={wanted.secure}"]
    with subprocess.Popen(
        [*wanted.program, *FLAGS, *secure, *wanted.flags, f"--user-data-dir={profile}", "about:blank"],
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
                allowed = {"behavior": "allow", "downloadPath": str(downloads)}
                protocol.call(None, "Browser.setDownloadBehavior", **allowed)
                page = ChromiumPage(protocol, _first_page(protocol), downloads)
                page.until("document.readyState === 'complete'")  # a renderer that is started just now may crash
                yield page
        finally:
            process.kill()


def _address(profile: Path) -> tuple[int, str]:
    """The port and the path of the browser's WebSocket, which it tells in a file."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        file = profile / "DevToolsActivePort"
        if file.exists() and len(lines := file.read_text("ascii").split()) == 2:
            return int(lines[0]), lines[1]
        time.sleep(POLL)
    raise AssertionError("chromium did not start")


def _first_page(protocol: Protocol) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        protocol.call(None, "Target.getTargets")
        for session, each in protocol.sessions.items():
            if each.kind == "page":
                return session
        time.sleep(POLL)
    raise AssertionError("chromium has no page")
