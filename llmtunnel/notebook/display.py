"""How a handle draws itself: text, a still picture and the live panel, in one bundle.

The picture is what a saved notebook shows without a kernel, on GitHub for example. No code is in it.
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
    """What IPython's ``_repr_mimebundle_`` returns; with the panel in it in a kernel that has ipywidgets.

    In the cell that opened the tunnel the panel is there already (`draw`): a handle in its last line is text alone.
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
    """Display the live view of a tunnel that was just opened; whether there is one, and it lives while the cell runs.

    On Colab it does not, see `ticking`. A process that was forked from a kernel has no page to display it on.
    """
    kernel = getattr(_shell(), "kernel", None)
    if kernel is None or kernel.session.pid != os.getpid():
        return False
    show(handle)
    _drawn[handle] = cell()
    return "google.colab" not in sys.modules


def _is_drawn(handle: Handle) -> bool:
    """Whether `draw` has displayed it in the cell that runs."""
    return handle in _drawn and _drawn[handle] == cell()


def cell() -> int | None:
    """The number of the cell that IPython runs; None outside IPython."""
    shell = _shell()
    return None if shell is None else int(shell.execution_count)


def show(handle: Handle, *, plain: bool | None = None) -> None:
    """Display a live view under the cell that runs: the panel, or the picture, drawn anew a few times a second.

    With the panel goes a picture for the notebook's file, see `saved`.

    ``plain``: the picture, which every page redraws, Colab's also while a cell runs; None: where there is no panel.
    """
    if plain or (plain is None and not has_widgets()):
        _Picture(handle)
    else:
        panel(handle).show()


def show_result(handle: Handle) -> None:
    """What IPython's ``_ipython_display_`` does, in a kernel that has ipywidgets. Raises NotImplementedError elsewhere.

    IPython takes `mimebundle` then.
    """
    if not has_widgets() or _is_drawn(handle):
        raise NotImplementedError
    panel(handle).show()


def still(handle: Handle) -> str:
    """The picture."""
    return html.still(handle.status, handle.records(html.ROWS), now=time.time())


def panel(handle: Handle) -> Panel:
    """The handle's panel: one, which may be displayed in several places."""
    from .panel import Panel

    found = _panels.get(handle)
    if found is None or found.closed:
        found = _panels[handle] = Panel(handle)
    return found


_panels: Final[weakref.WeakKeyDictionary[Handle, Panel]] = weakref.WeakKeyDictionary()
_drawn: Final[weakref.WeakKeyDictionary[Handle, int | None]] = weakref.WeakKeyDictionary()
"""The cells that opened the tunnels whose views were displayed at once."""


def has_widgets() -> bool:
    """Whether this is a kernel, with ipywidgets."""
    return hasattr(_shell(), "kernel") and find_spec("ipywidgets") is not None


def _shell() -> Any:
    """IPython's, where this is one."""
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


class _Picture:
    """A still picture that is replaced while its tunnel runs."""

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
