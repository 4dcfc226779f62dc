"""Keys by the names that `KeyboardEvent.key` gives them."""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    """A key as both protocols of browsers want it."""

    code: str
    number: int
    text: str
    bidi: str


KEYS = {
    "Tab": Key("Tab", 9, "", "\ue004"),
    "Enter": Key("Enter", 13, "\r", "\ue007"),
    " ": Key("Space", 32, " ", " "),
    "Escape": Key("Escape", 27, "", "\ue00c"),
    "Backspace": Key("Backspace", 8, "", "\ue003"),
    "ArrowUp": Key("ArrowUp", 38, "", "\ue013"),
    "ArrowDown": Key("ArrowDown", 40, "", "\ue015"),
}
MODIFIERS = {"Control": (2, "\ue009"), "Shift": (8, "\ue008")}
"""CDP's bit, and BiDi's character."""


def parse(keys: str) -> tuple[str, list[str]]:
    """``Shift+Enter`` as the key and its modifiers."""
    *modifiers, key = keys.split("+")
    return key, modifiers


def key_of(name: str) -> Key:
    """A key of the table, or a letter or digit."""
    if name in KEYS:
        return KEYS[name]
    assert len(name) == 1 and name.isalnum(), f"no such key here: {name}"
    code = f"Digit{name}" if name.isdigit() else f"Key{name.upper()}"
    return Key(code, ord(name.upper()), name, name)
