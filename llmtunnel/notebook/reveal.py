"""The invite in a panel: masked until the user asks, masked again after a minute, and never in a saved notebook.

A page may save the state of its widgets with the notebook at any moment. So that state must not contain the code, even
while the code is visible:

1. The code is sent to the page as bytes, in a picture (`qr.picture`).
2. The picture's model is the base class of all models, which cannot save bytes. `WidgetModel.serialize` of
   @jupyter-widgets/base saves an attribute as ``JSON.parse(JSON.stringify(value))``, which turns bytes (a ``DataView``)
   into ``{}``. (An ``ImageModel`` does save them, but its view does not need that model.) This applies to ipywidgets 7
   and 8.

Text in a picture cannot be selected. So a script in the fields' HTML copies the texts from the picture into the fields,
only within the page. If a page does not run scripts, the user can still read and scan the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ipywidgets import DOMWidget, Image
from traitlets import Bytes, Unicode

from ..install import on_laptop
from . import html, parts, qr

SHOWN: Final = 60.0
"""Seconds until the code is masked again."""
MASK: Final = "•" * 16

_FILL: Final = """
const box = this.closest('.lt-invite');
fetch(box.querySelector('img.lt-picture').src).then(answer => answer.text()).then(text => {
  const picture = new DOMParser().parseFromString(text, 'image/svg+xml');
  for (const field of box.querySelectorAll('input[name]')) {
    field.value = picture.getElementById(field.name).textContent;
    field.nextElementSibling.hidden = false;
  }
})"""
_FIELDS: Final = (("code", "Invite"), ("line", "Run"), ("uvx", "or with uv"))
_LINK: Final = ("link", "or open")


class Picture(DOMWidget):  # type: ignore[misc]
    """An SVG that is shown but not saved: the view of an image, without its model. See the module's docstring."""

    _view_module = Unicode("@jupyter-widgets/controls").tag(sync=True)
    _view_module_version = Unicode(Image._view_module_version.default_value).tag(sync=True)
    _view_name = Unicode("ImageView").tag(sync=True)
    format = Unicode("svg+xml").tag(sync=True)
    width = Unicode("").tag(sync=True)
    height = Unicode("").tag(sync=True)
    value = Bytes(b"").tag(sync=True)

    def _get_embed_state(self, drop_defaults: bool = False) -> dict[str, Any]:
        """Return what the kernel exports for `ipywidgets.embed`, without the picture."""
        embedded: dict[str, Any] = super()._get_embed_state(drop_defaults=drop_defaults)
        embedded["state"].pop("value", None)
        embedded.pop("buffers", None)
        return embedded


class Reveal:
    """The panel's section for the invite."""

    def __init__(self, code: Callable[[], str], link: Callable[[], str] = str, *, clock: Callable[[], float]) -> None:
        """``code`` and ``link`` return the code and the link for a browser, or an empty text."""
        self._code, self._link, self._clock = code, link, clock
        self._shown, self._until = "", 0.0
        self.button = parts.button("Show", "", lambda: self.hide() if self.shown else self.show())
        self.picture = Picture()
        self.picture.add_class("lt-picture")
        self.fields = parts.text("lt-grow")
        self.widget = parts.column((parts.row((self.fields, self.button)), self.picture), "lt-part", "lt-invite")
        self.hide()

    @property
    def shown(self) -> bool:
        """Whether the code is visible."""
        return bool(self._shown)

    def show(self) -> None:
        """Show the code for a minute, if there is one."""
        code = self._code()
        if not code:
            return
        self._shown, self._until = code, self._clock() + SHOWN
        commands, link = on_laptop(code), self._link()
        more = {"link": link} if link else {}
        self.picture.value = qr.picture(code, link or commands.run, line=commands.run, uvx=commands.uvx, **more)
        self.picture.layout.display = None
        # After the picture, from which the page fills them.
        parts.put(self.fields, fields(filled=True, link=bool(link)))
        self._name("Hide")

    def hide(self) -> None:
        """Mask the code."""
        self._shown = ""
        parts.put(self.fields, fields(filled=False, link=bool(self._link())))
        self.picture.layout.display = "none"
        self.picture.value = b""
        self._name("Show")

    def tick(self) -> None:
        """Mask the code if its minute has passed, or if it has changed. A link gets its field once there is one."""
        if not self.shown or self._clock() >= self._until or self._code() != self._shown:
            self.hide()

    def end(self) -> None:
        """Hide the section, since the invite is no longer usable."""
        self.hide()
        self.widget.layout.display = "none"

    def _name(self, verb: str) -> None:
        self.button.description, self.button.tooltip = verb, f"{verb} the invite's code"


def fields(*, filled: bool, link: bool = False) -> str:
    """Return the masked fields. ``filled``: include the script that fills them from the picture."""
    shown = (*_FIELDS, _LINK) if link else _FIELDS
    code, *lines = (html.field(title, MASK, name=name, copied=False) for name, title in shown)
    hint = "Run this on your laptop:" if filled else "Click <b>Show</b>, then run this on your laptop:"
    install = html.field("Install", on_laptop().pip)
    rows = f'{code}<div class="lt-hint">{hint}</div>{install}{"".join(lines)}'
    # An invalid image, since its error event is the only one that fires by itself in HTML added to a page.
    return f'{rows}<img hidden alt="" src="data:," onerror="{_FILL}">' if filled else rows
