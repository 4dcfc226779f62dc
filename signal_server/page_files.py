"""The files of the page, in memory: what a browser needs of the folder, compressed, and with hints for its modules.

Only `read_folder` reads files. It reads all of them once, so that a page never consists of two versions.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
"""The only kinds of files that a browser gets, with their types."""
BINARY: Final = frozenset((".png", ".woff2"))
"""Kinds that are compressed already."""
FOR_TOOLS: Final = frozenset(("package.json", "jsconfig.json", "tsconfig.json"))
"""Files that no browser needs."""
INDEX: Final = "index.html"

_HIDDEN: Final = re.compile(r"(^|/)\.")
_SCRIPT: Final = re.compile(r"<script\b[^>]*>")
_SOURCE: Final = re.compile(r"""\bsrc=["']?(?:\./)?([\w./-]+\.js)["'\s>]""")
_DOCUMENTATION: Final = re.compile(rb"^[ \t]*/\*\*(?:[^*]|\*(?!/))*\*/[ \t]*$", re.MULTILINE)
"""A comment that has its lines to itself. No string of the page has such lines."""
_IMPORT: Final = re.compile(r"""^(?:import|export)\b(?:[^"';]*?\bfrom)?\s*["'](\.{1,2}/[^"']+)["']""", re.MULTILINE)
"""A static import. Prettier and eslint keep them at the beginning of a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file as it is sent."""

    type: str
    data: bytes = field(repr=False)
    packed: bytes | None = field(default=None, repr=False)
    """The same, compressed with gzip; None if that is no shorter."""
    tag: str
    """Its ETag, for both forms."""

    @classmethod
    def of(cls, suffix: str, data: bytes) -> File:
        """Return a file with this content. ``suffix`` is one of `TYPES`."""
        if suffix == ".js":
            data = without_documentation(data)
        packed = data if suffix in BINARY else gzip.compress(data, mtime=0)
        return cls(
            type=TYPES[suffix],
            data=data,
            packed=packed if len(packed) < len(data) else None,
            tag=f'W/"{hashlib.sha256(data).hexdigest()[:24]}"',
        )


def without_documentation(code: bytes) -> bytes:
    """Return a module without its documentation, which is a third of the page. Each statement keeps its line."""
    return _DOCUMENTATION.sub(lambda found: b"\n" * found[0].count(b"\n"), code)


Files = Mapping[str, File]
"""Files by their path below the folder: ``core/invite.js``."""


def read_folder(folder: Path) -> dict[str, File]:
    """Read the files of the page. Raises `OSError`, also if there is no `INDEX`."""
    found = {name: File.of(path.suffix, path.read_bytes()) for name, path in _names(folder)}
    if INDEX not in found:
        raise FileNotFoundError(f"{folder} has no {INDEX}")
    found[INDEX] = File.of(".html", with_hints(found[INDEX].data.decode(), found).encode())
    return found


def state_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Return a value that changes when one of the files does. Raises `OSError`."""
    found = ((name, path.stat()) for name, path in _names(folder))
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def _names(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix in TYPES and path.name not in FOR_TOOLS and not _HIDDEN.search(name) and path.is_file():
            yield name, path


def with_hints(text: str, files: Files) -> str:
    """Return the HTML with a hint (modulepreload) for each module that its scripts import.

    A browser finds an import only when it has read the module that contains it. So without the hints, a chain of ten
    modules takes ten round trips.
    """
    scripts = [found[1] for tag in _SCRIPT.findall(text) if (found := _SOURCE.search(tag))]
    needed = dict.fromkeys(scripts)
    for name in scripts:
        needed |= dict.fromkeys(imported(name, files))
    hints = "".join(f'<link rel="modulepreload" href="{name}">\n' for name in needed if name in files)
    return text.replace("</head>", f"{hints}</head>", 1)


def imported(name: str, files: Files) -> list[str]:
    """Return the modules that a module imports, directly or through others, in the order in which they are found."""
    needed: dict[str, None] = {}
    waiting = [name]
    while waiting:
        base = waiting.pop(0)
        text = files[base].data.decode("utf-8", "replace") if base in files else ""
        for match in _IMPORT.finditer(text):
            module = _joined(base, match[1])
            if module in files and module not in needed:
                needed[module] = None
                waiting.append(module)
    return list(needed)


def _joined(base: str, relative: str) -> str:
    """Return the path of an import, which is relative to the module that contains it."""
    parts = base.split("/")[:-1]
    for part in relative.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
