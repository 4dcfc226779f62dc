"""The last state of a tunnel as plain HTML in the notebook's file, for pages that do not find the panel.

A notebook is saved with a reference to the panel's widgets, but without the widgets. JupyterLab, Notebook 7 and the
classic notebook prefer that reference over everything else in its output. They show an error if no kernel has the
widgets any more. So the picture is a separate output, above the panel's output, and style sheets decide which of the
two is visible (`style.saved_or_live`, `html.saved`):

1. While the page's panel is connected to its kernel, the panel hides the picture.
2. If the page knows that the panel's kernel has ended, the picture hides the panel.
3. If the page finds no panel at all, the picture hides the error below it.

None of this needs a script or a kernel. A page that removes styles (an untrusted notebook, GitHub) shows no widgets
either, so it only shows the picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.getipython import get_ipython
from IPython.display import display

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY: Final = 10.0
"""Seconds between two updates: each sends the whole picture, and marks the notebook's file as changed."""


class Saved:
    """The picture of one panel, in all outputs that show that panel."""

    def __init__(self, panel: str, draw: Callable[[], str]) -> None:
        """``panel``: the model's id. ``draw``: returns the picture as HTML."""
        self._id = f"llmtunnel-{panel}"
        self._draw = draw
        self._publisher: Any = None
        self._facts: object = None
        self._due = 0.0

    def show(self, text: str) -> None:
        """Add the picture to the output of the running cell. ``text`` is for frontends without HTML."""
        display(  # type: ignore[no-untyped-call]
            {"text/html": self._draw(), "text/plain": text}, raw=True, display_id=self._id
        )
        # Kept, since the %%capture of another cell may later replace the shell's publisher.
        self._publisher = getattr(get_ipython(), "display_pub", None)
        if isinstance(self._publisher, CapturingDisplayPublisher):
            self._publisher = None  # it would collect every update

    def update(self, facts: object, *, now: float, last: bool) -> None:
        """Replace the picture if the facts have changed, at most every `EVERY` seconds.

        ``last``: replace it now, since no further call follows.
        """
        if self._publisher is None or (now < self._due and not last) or facts == self._facts:
            return
        self._facts, self._due = facts, now + EVERY
        self._publisher.publish(
            data={"text/html": self._draw()}, metadata={}, transient={"display_id": self._id}, update=True
        )
