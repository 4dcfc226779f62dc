"""Display a handle: text, a static picture and the live panel, in one mime bundle.

A saved notebook shows the picture without a kernel, on GitHub for example. The picture does not contain the code.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Collection
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from . import html
from .ticking import Ticking

if TYPE_CHECKING:
    from .panel import Handle, Panel


def mimebundle(
    handle: Handle, include: Collection[str] | None = None, exclude: Collection[str] | None = None
) -> dict[str, Any]:
    """Return the bundle of IPython's ``_repr_mimebundle_``; in a kernel with ipywidgets, it includes the panel.

    In the cell that opened the tunnel, `draw` has already shown the panel, so the bundle only contains text.
    """
    bundle: dict[str, Any] = {"text/plain": repr(handle)}
    if not _is_drawn(handle):
        bundle |= {"text/html": still(handle), **(panel(handle).view if has_widgets() else {})}
    return {
        kind: data
        for kind, data in bundle.items()
        if (not include or kind in include) and (not exclude or kind not in exclude)
    }


def draw(handle: Handle) -> bool:
    """Display the live view of a new tunnel. Returns whether it was displayed and updates while the cell runs.

    On Colab it does not update, see `ticking`. A process that was forked from a kernel has no page.
    """
    kernel = getattr(_shell(), "kernel", None)
    if kernel is None or kernel.session.pid != os.getpid():
        return False
    show(handle)
    _drawn[handle] = cell()
    return "google.colab" not in sys.modules


def _is_drawn(handle: Handle) -> bool:
    """Whether `draw` has displayed it in the running cell."""
    return handle in _drawn and _drawn[handle] == cell()


def cell() -> int | None:
    """Return the number of the cell that IPython runs, or None outside IPython."""
    shell = _shell()
    return None if shell is None else int(shell.execution_count)


def show(handle: Handle, *, plain: bool | None = None) -> None:
    """Display a live view under the running cell: the panel, or a picture that is redrawn a few times a second.

    The panel comes with a picture for the notebook's file, see `saved`.

    ``plain``: use the picture. Every page redraws it, and Colab does so even while a cell runs. None: use it if there
    is no panel.
    """
    if plain or (plain is None and not has_widgets()):
        _Picture(handle)
    else:
        panel(handle).show()


def show_result(handle: Handle) -> None:
    """Implement IPython's ``_ipython_display_`` in a kernel with ipywidgets. Raises NotImplementedError elsewhere.

    IPython then uses `mimebundle`.
    """
    if not has_widgets() or _is_drawn(handle):
        raise NotImplementedError
    panel(handle).show()


def still(handle: Handle) -> str:
    """Return the static picture."""
    return html.still(handle.status, handle.records(html.ROWS), now=time.time())


def panel(handle: Handle) -> Panel:
    """Return the handle's only panel, which may be displayed in several places."""
    from .panel import Panel

    found = _panels.get(handle)
    if found is None or found.closed:
        found = _panels[handle] = Panel(handle)
    return found


_panels: Final[weakref.WeakKeyDictionary[Handle, Panel]] = weakref.WeakKeyDictionary()
_drawn: Final[weakref.WeakKeyDictionary[Handle, int | None]] = weakref.WeakKeyDictionary()
"""The numbers of the cells that opened a tunnel whose view `draw` has displayed."""


def has_widgets() -> bool:
    """Whether this process is a kernel with ipywidgets."""
    return hasattr(_shell(), "kernel") and find_spec("ipywidgets") is not None


def _shell() -> Any:
    """Return IPython's shell, or None."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


class _Picture:
    """A static picture that is replaced while its tunnel runs."""

    def __init__(self, handle: Handle) -> None:
        from IPython.display import HTML, display

        self._handle = weakref.ref(handle)
        self._drawn = still(handle)
        self._shown = display(HTML(self._drawn), display_id=True)  # type: ignore[no-untyped-call]
        Ticking(self._draw).start(handle.loop)

    def _draw(self) -> bool:
        from IPython.display import HTML

        handle = self._handle()
        if handle is None:
            return False
        now = still(handle)
        if now != self._drawn:
            self._drawn = now
            self._shown.update(HTML(now))  # type: ignore[no-untyped-call]
        return not handle.status.phase.ended
