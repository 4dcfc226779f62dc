"""A headless browser, driven by its own protocol: what a person sees and clicks.

    with browser(folder) as page:
        page.open("http://127.0.0.1:8888/lab")
        page.until("document.querySelector('button')")
        page.click("document.querySelector('button')")

Chromium is driven by CDP (`chromium`) and Firefox by WebDriver BiDi (`firefox`). That takes a few hundred lines, where
a library for it would be a download of a hundred megabytes with a browser of its own.
"""

from __future__ import annotations

import base64
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .namespaces import within
from .processes import PATIENCE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FIREFOX = next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)
PROGRAMS = {"chromium": CHROMIUM, "firefox": FIREFOX}
BROWSERS = [
    pytest.param(kind, marks=pytest.mark.skipif(program is None, reason=f"needs {kind}"))
    for kind, program in PROGRAMS.items()
]
"""Each browser as a parameter of a test or a fixture."""
CHROMIUM_FIRST = [BROWSERS[0], pytest.param("firefox", marks=[*BROWSERS[1].marks, pytest.mark.long])]
"""The same where many tests would take long: Firefox's run by name only."""
POLL = 0.05


class Moved(AssertionError):
    """The document is no longer there: the page or the frame has gone elsewhere."""


class View(ABC):
    """A document in the browser: the page's own, or a frame's of whatever origin. Expressions are JavaScript."""

    @abstractmethod
    def js(self, expression: str) -> Any:
        """The value of an expression, awaited where it is a promise."""

    @abstractmethod
    def attach(self, expression: str, *files: Path) -> None:
        """Choose files for an ``<input type=file>``."""

    @abstractmethod
    def _press_mouse(self, x: float, y: float) -> None:
        """Press and release the left button there, in the document's own coordinates."""

    def until(self, expression: str, *, timeout: float = PATIENCE) -> None:
        """Return once the expression is true; what it fails with counts as not yet."""
        deadline = time.monotonic() + timeout
        attempt = f"(() => {{ try {{ return Boolean({expression}); }} catch (error) {{ return false; }} }})()"
        while not self._unless_moved(attempt):
            assert time.monotonic() < deadline, (
                f"not in {timeout} s: {expression}\n{self._unless_moved('document.body.innerText')}"
            )
            time.sleep(POLL)

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
        try:
            self._press_mouse(x, y)
            return not self.js("window.missed")
        except Moved:
            return True

    def _unless_moved(self, expression: str) -> Any:
        try:
            return self.js(expression)
        except Moved:
            return None


class Page(View):
    """A page of the browser: a tab."""

    downloads: Path
    """Folder of what the browser downloads."""

    @abstractmethod
    def open(self, url: str) -> None:
        """Go to a page; it is not waited for."""

    @abstractmethod
    def press(self, keys: str) -> None:
        """Press ``Tab``, ``Enter``, the space bar, or another key of `NAMED_KEYS`; with ``Shift+`` or ``Control+``."""

    @abstractmethod
    def type(self, text: str) -> None:
        """Type a text where the focus is."""

    @abstractmethod
    def resize(self, width: int, height: int, *, scale: float = 1) -> None:
        """Make the window so large, CSS pixels."""

    @abstractmethod
    def dark(self, wanted: bool = True) -> None:
        """Prefer dark colours, or light ones."""

    @abstractmethod
    def others(self) -> list[Page]:
        """The browser's other pages, such as popups."""

    @abstractmethod
    def close(self) -> None:
        """Close the page."""

    @property
    @abstractmethod
    def problems(self) -> list[str]:
        """What all pages, frames and dedicated workers have complained about: console errors, uncaught exceptions, and
        violations of a Content-Security-Policy. To forget them, clear the list.
        """

    @abstractmethod
    def _find_frame(self, pattern: re.Pattern[str]) -> View | None: ...

    @abstractmethod
    def _capture(self, box: dict[str, float]) -> str:
        """A part of the page as a PNG, in base64."""

    def screenshot(self, expression: str = "document.documentElement") -> bytes:
        """An element as a PNG."""
        box = self.js(
            f"""(() => {{
                const element = {expression};
                element.scrollIntoView({{block: 'center'}});
                const box = element.getBoundingClientRect();
                return {{x: box.x, y: box.y, width: box.width, height: box.height}};
            }})()"""
        )
        return base64.b64decode(self._capture(box))

    def frame(self, pattern: str, *, timeout: float = PATIENCE) -> View:
        """The first frame whose URL matches, once there is one; of any origin and depth.

        The view is for as long as the frame keeps its URL.
        """
        deadline = time.monotonic() + timeout
        while (found := self._find_frame(re.compile(pattern))) is None:
            assert time.monotonic() < deadline, f"no frame in {timeout} s: {pattern}"
            time.sleep(POLL)
        return found

    def downloaded(self, name: str, *, timeout: float = PATIENCE) -> Path:
        """A file that the browser downloads under this name, once it is complete."""
        file = self.downloads / name
        deadline = time.monotonic() + timeout
        while not file.exists() or any(each.suffix in (".crdownload", ".part") for each in self.downloads.iterdir()):
            assert time.monotonic() < deadline, f"not in {timeout} s: {name}; {list(self.downloads.iterdir())}"
            time.sleep(POLL)
        return file


class Wanted(NamedTuple):
    """How to start a browser; see `browser`."""

    program: Sequence[str]
    profile: Path
    downloads: Path
    flags: Sequence[str]
    namespace: str | None
    secure: str | None


@contextmanager
def browser(
    folder: Path, *flags: str, kind: str = "chromium", namespace: str | None = None, secure: str | None = None
) -> Iterator[Page]:
    """Start a browser with a new profile in ``folder``, and these flags of its command line; its one page.

    ``namespace``: the network namespace that it runs in; ``secure``: an origin that counts as secure, though it is not.
    """
    from . import chromium, firefox

    program = PROGRAMS[kind]
    assert program is not None, f"{kind} is not installed"
    start = {"chromium": chromium.start, "firefox": firefox.start}[kind]
    downloads = folder / "downloads"
    downloads.mkdir(exist_ok=True)
    wanted = Wanted([*within(namespace), program], folder / kind, downloads, flags, namespace, secure)
    with start(wanted) as page:
        yield page
