"""The last state of a tunnel as plain HTML in the notebook's file: what a page shows that finds no panel.

A notebook is saved with a reference to the panel's widgets, not with the widgets. JupyterLab, Notebook 7 and the
classic notebook prefer that reference to everything else in its output, and show an error where no kernel has the
widgets any more. So the picture is an output of its own, above the panel's output, and style sheets decide which of
the two is seen (`style.saved_or_live`, `html.saved`):

1. While the page's panel is connected to its kernel, the panel hides the picture.
2. Where the page knows that the panel's kernel has ended, the picture hides the panel.
3. Where the page finds no panel at all, the picture hides the error below it.

Nothing of this needs a script or a kernel. A page that takes the styles out (an untrusted notebook, GitHub) shows no
widgets either, so the picture stands alone there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.getipython import get_ipython
from IPython.display import display

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY: Final = 10.0
"""Seconds between two updates: each one sends the whole picture, and tells the page that the file has changed."""


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
        """Put the picture into the output of the cell that runs. ``text``: for frontends without HTML."""
        display(  # type: ignore[no-untyped-call]
            {"text/html": self._draw(), "text/plain": text}, raw=True, display_id=self._id
        )
        # Not the shell's of a later moment, which another cell's %%capture may have replaced.
        self._publisher = getattr(get_ipython(), "display_pub", None)
        if isinstance(self._publisher, CapturingDisplayPublisher):
            self._publisher = None  # it collects all that it is given

    def update(self, facts: object, *, now: float, last: bool) -> None:
        """Replace the picture if the facts differ from those of the last one, at most each `EVERY` seconds.

        ``last``: replace it now, since no further call comes.
        """
        if self._publisher is None or (now < self._due and not last) or facts == self._facts:
            return
        self._facts, self._due = facts, now + EVERY
        self._publisher.publish(
            data={"text/html": self._draw()}, metadata={}, transient={"display_id": self._id}, update=True
        )
