"""The few widgets that a panel is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from ipywidgets import HTML, Box, Button, HBox, Layout, VBox, Widget

VIEW: Final = "application/vnd.jupyter.widget-view+json"


def view(widget: Widget) -> dict[str, Any]:
    """What a page makes a view of a widget of, by its type."""
    return {VIEW: {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}}


def text(*classes: str) -> HTML:
    """A part that `put` fills; not shown while it is empty."""
    return _classed(HTML(layout=Layout(display="none")), classes)


def put(widget: HTML, value: str) -> None:
    """Show this in the part; costs nothing where it is shown already."""
    widget.value = value
    widget.layout.display = None if value else "none"


def button(name: str, tooltip: str, clicked: Callable[[], None]) -> Button:
    """A button that calls ``clicked``."""
    made = Button(description=name, tooltip=tooltip, layout=Layout(width="auto"))
    made.on_click(lambda _: clicked())
    return made


def row(children: Iterable[Widget], *classes: str) -> HBox:
    """Widgets beside each other."""
    return _classed(HBox(tuple(children)), ("lt-row", *classes))


def column(children: Iterable[Widget], *classes: str) -> VBox:
    """Widgets below each other."""
    return _classed(VBox(tuple(children)), classes)


def close(widget: Widget) -> None:
    """Take it off the page, with all that is in it."""
    for child in widget.children if isinstance(widget, Box) else ():
        close(child)
    widget.close()


def _classed(widget: Widget, classes: Iterable[str]) -> Widget:
    for name in classes:
        widget.add_class(name)
    return widget
