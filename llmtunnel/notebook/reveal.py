"""The invite in a panel: masked until asked, masked again after a minute, and never in a saved notebook.

A page saves the state of its widgets with the notebook, at any moment: so the code must not be in what is saved even
while it is shown. It is not, since

1. the code goes to the page as bytes, in a picture (`qr.picture`), and
2. the picture's model is the base class of all, which knows no way to save bytes: what `WidgetModel.serialize` of
   @jupyter-widgets/base makes of an attribute is ``JSON.parse(JSON.stringify(value))``, and of bytes, a ``DataView``,
   that is ``{}``. (An ``ImageModel`` does save them; its view needs no such model.) ipywidgets 7 and 8 are alike there.

Nothing in a picture can be selected. So a script in the fields' HTML takes the texts out of it and puts them into the
fields, in the page alone. Where a page lets no script run, the picture is there to be read and scanned.
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


class Picture(DOMWidget):  # type: ignore[misc]
    """An SVG that is shown and not saved: the view of an image on the model of none. See this module's docstring."""

    _view_module = Unicode("@jupyter-widgets/controls").tag(sync=True)
    _view_module_version = Unicode(Image._view_module_version.default_value).tag(sync=True)
    _view_name = Unicode("ImageView").tag(sync=True)
    format = Unicode("svg+xml").tag(sync=True)
    width = Unicode("").tag(sync=True)
    height = Unicode("").tag(sync=True)
    value = Bytes(b"").tag(sync=True)

    def _get_embed_state(self, drop_defaults: bool = False) -> dict[str, Any]:
        """What the kernel itself exports, for `ipywidgets.embed`: without the picture."""
        embedded: dict[str, Any] = super()._get_embed_state(drop_defaults=drop_defaults)
        embedded["state"].pop("value", None)
        embedded.pop("buffers", None)
        return embedded


class Reveal:
    """The invite's part of the panel."""

    def __init__(self, code: Callable[[], str], *, clock: Callable[[], float]) -> None:
        self._code, self._clock = code, clock
        self._shown, self._until = "", 0.0
        self.button = parts.button("Show", "", lambda: self.hide() if self.shown else self.show())
        self.picture = Picture()
        self.picture.add_class("lt-picture")
        self.fields = parts.text("lt-grow")
        self.widget = parts.column((parts.row((self.fields, self.button)), self.picture), "lt-part", "lt-invite")
        self.hide()

    @property
    def shown(self) -> bool:
        """Whether the code is shown."""
        return bool(self._shown)

    def show(self) -> None:
        """Show it, for a minute; nothing where there is none."""
        code = self._code()
        if not code:
            return
        self._shown, self._until = code, self._clock() + SHOWN
        commands = on_laptop(code)
        self.picture.value = qr.picture(code, commands.run, uvx=commands.uvx)
        self.picture.layout.display = None
        parts.put(self.fields, fields(filled=True))  # after the picture, out of which the page fills them
        self._name("Hide")

    def hide(self) -> None:
        """Mask it."""
        self._shown = ""
        parts.put(self.fields, fields(filled=False))
        self.picture.layout.display = "none"
        self.picture.value = b""
        self._name("Show")

    def tick(self) -> None:
        """Mask it if its minute is over, or it is the code no more."""
        if self.shown and (self._clock() >= self._until or self._code() != self._shown):
            self.hide()

    def end(self) -> None:
        """The invite is of no use any more."""
        self.hide()
        self.widget.layout.display = "none"

    def _name(self, verb: str) -> None:
        self.button.description, self.button.tooltip = verb, f"{verb} the invite's code"


def fields(*, filled: bool) -> str:
    """The fields, with the mask in them. ``filled``: a script puts the texts of the picture beside them in."""
    code, *lines = (html.field(title, MASK, name=name, copied=False) for name, title in _FIELDS)
    hint = "Run this on your laptop:" if filled else "Click <b>Show</b>, then run this on your laptop:"
    install = html.field("Install", on_laptop().pip)
    rows = f'{code}<div class="lt-hint">{hint}</div>{install}{"".join(lines)}'
    # The only event that comes of itself where HTML is put into a page: a picture that is none.
    return f'{rows}<img hidden alt="" src="data:," onerror="{_FILL}">' if filled else rows
