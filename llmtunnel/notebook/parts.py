"""The basic widgets of a panel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from ipywidgets import HTML, Box, Button, HBox, Layout, VBox, Widget

VIEW: Final = "application/vnd.jupyter.widget-view+json"


def view(widget: Widget) -> dict[str, Any]:
    """Return the mime bundle from which a page makes a view of a widget."""
    return {VIEW: {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}}


def text(*classes: str) -> HTML:
    """Make a text that `put` fills. It is hidden while empty."""
    return _classed(HTML(layout=Layout(display="none")), classes)


def put(widget: HTML, value: str) -> None:
    """Show a value in a text. An unchanged value sends nothing to the page."""
    widget.value = value
    widget.layout.display = None if value else "none"


def button(name: str, tooltip: str, clicked: Callable[[], None]) -> Button:
    """Make a button that calls ``clicked``."""
    made = Button(description=name, tooltip=tooltip, layout=Layout(width="auto"))
    made.on_click(lambda _: clicked())
    return made


def row(children: Iterable[Widget], *classes: str) -> HBox:
    """Make a row of widgets."""
    return _classed(HBox(tuple(children)), ("lt-row", *classes))


def column(children: Iterable[Widget], *classes: str) -> VBox:
    """Make a column of widgets."""
    return _classed(VBox(tuple(children)), classes)


def close(widget: Widget) -> None:
    """Remove a widget and its children from the page."""
    for child in widget.children if isinstance(widget, Box) else ():
        close(child)
    widget.close()


def _classed(widget: Widget, classes: Iterable[str]) -> Widget:
    for name in classes:
        widget.add_class(name)
    return widget
