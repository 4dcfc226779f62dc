"""Pages generated from the code and from files elsewhere in the repository, so that each fact has a single source.

A page whose text begins with ``<!-- page: SECURITY.md -->`` shows that file. In every page, a relative link to a file
of the repository that is not a page leads to GitHub; on GitHub itself, the same link leads to the file.
The directives ``llmtunnel-options``, ``llmtunnel-settings`` and ``llmtunnel-events`` render the parsers of the command
line, the declared options and the notices.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

import llmtunnel.cli.bench  # with commands, declares the notices that the command line adds
import llmtunnel.cli.commands
import llmtunnel.cli.demo
import llmtunnel.cli.web  # noqa: F401
from llmtunnel.cli import parsers
from llmtunnel.config import ProxyOptions, ServeOptions
from llmtunnel.install import REPOSITORY, TAG
from llmtunnel.option import Option, declared
from llmtunnel.status import COLUMNS, Notice, RequestFinished, RequestRecord

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGE = re.compile(r"\A<!-- page: (\S+) -->")
LINK = re.compile(r"(?<!!)(\[[^\]]*\]\()([^)#\s]*)(#[^)\s]*)?\)")
PARSERS = ("serve", "proxy", "invite", "doctor", "bench", "web", "demo", "toy")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives; Sphinx calls this."""
    app.connect("source-read", read_page)
    app.connect("autodoc-process-docstring", list_parameters)
    app.add_directive("llmtunnel-options", Options)
    app.add_directive("llmtunnel-settings", Settings)
    app.add_directive("llmtunnel-events", Events)
    return {"parallel_read_safe": True}


def pages_of_files() -> dict[Path, Path]:
    """Return the files elsewhere in the repository that are pages, with the page of each."""
    found = {}
    for page in DOCS.rglob("*.md"):
        if match := PAGE.match(page.read_text("utf-8")):
            found[ROOT / match[1]] = page
    return found


def read_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Read a page's text from its file, and adapt its links to pages and to GitHub."""
    page = file = DOCS / f"{docname}.md"
    if match := PAGE.match(source[0]):
        file = ROOT / match[1]
        app.env.note_dependency(file)
        source[0] = file.read_text("utf-8")
    others = pages_of_files()

    def lead(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        if not target or ":" in target:
            return match[0]
        to = Path(os.path.normpath(file.parent / target))
        if not to.exists():
            raise ExtensionError(f"{file}: {target} does not exist.")
        to = others.get(to, to)
        if to.suffix == ".md" and to.is_relative_to(DOCS):
            return f"{text}{os.path.relpath(to, page.parent)}{anchor})"
        return f"{text}{REPOSITORY}/blob/{TAG}/{to.relative_to(ROOT)}{anchor})"

    source[0] = LINK.sub(lead, source[0])


def list_parameters(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Turn the section ``Parameters:`` that `llmtunnel.option` writes into a field list."""
    if "Parameters:" not in lines:
        return
    at = lines.index("Parameters:")
    listed = [re.sub(r"^ {4}(\w+): ", r":param \1: ", line.replace("*", "\\*")) for line in lines[at + 1 :]]
    lines[at:] = [line if line.startswith(":") else line.strip() and f"    {line.strip()}" for line in listed]


class _Generated(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # since its source is code
        return self.parse_text_to_nodes("\n".join(self.lines()), allow_section_headings=True)

    def lines(self) -> Iterator[str]:
        """Return the lines of Markdown."""
        raise NotImplementedError


class Options(_Generated):
    """``{llmtunnel-options} serve``: the contents of ``llmtunnel serve --help``."""

    required_arguments: ClassVar[int] = 1

    def lines(self) -> Iterator[str]:
        name = self.arguments[0]
        parser: argparse.ArgumentParser = getattr(parsers, f"{name}_parser")()
        yield f"```{{program}} {parser.prog}\n```\n"
        yield f"{escaped(parser.description or '')}\n"
        for group in parser._action_groups:
            actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
            if not actions:
                continue
            if group.title not in (None, "positional arguments", "options"):
                yield f"**{escaped(group.title[:1].upper() + group.title[1:])}**\n"
            if group.description:
                yield f"{escaped(' '.join(group.description.split()))}\n"
            for action in actions:
                yield f"````{{option}} {signature(action)}\n{escaped(sentence(action.help or ''))}\n````\n"


class Settings(_Generated):
    """``{llmtunnel-settings}``: every option once, with its flag, variable, parameter and default."""

    def lines(self) -> Iterator[str]:
        serve, proxy = declared(ServeOptions), declared(ProxyOptions)
        for title, command, named in (
            ("Serve and proxy", "serve", [name for name in serve if name in proxy]),
            ("Serve", "serve", [name for name in serve if name not in proxy]),
            ("Proxy", "proxy", [name for name in proxy if name not in serve]),
        ):
            yield f"## {title}\n\n| flag | environment | Python | default |\n|---|---|---|---|"
            for name in named:
                yield from self._rows(command, (serve | proxy)[name])
            yield ""

    @staticmethod
    def _rows(command: str, each: Option) -> Iterator[str]:
        rows = [("", f"`{each.name}` | {default(each)}"), *([("-file", "|")] if each.file else [])]
        for suffix, rest in rows:
            variable = f"`{each.variable}{suffix.replace('-', '_').upper()}`" if each.env else ""
            flag = f"{each.flag}{suffix}"
            yield f"| {{option}}`{flag} <llmtunnel {command} {flag}>` | {variable} | {rest} |"


class Events(_Generated):
    """``{llmtunnel-events}``: the objects of ``--json``."""

    def lines(self) -> Iterator[str]:
        for kind in sorted(notices(Notice), key=place):
            yield f"## `{kind.event}`\n\n{prose(kind.__doc__ or '')}\n\n| field | type | |\n|---|---|---|"
            own: type = kind
            names = tuple(each.name for each in fields(kind) if each.name != "time")
            if kind is RequestFinished:  # its object has the record's fields instead of the record
                own, names = RequestRecord, COLUMNS
            types = {each.name: str(each.type) for each in fields(own)}
            for name in names:
                of_type = types[name].replace("|", "\\|")
                yield f"| `{name}` | `{of_type}` | {prose(documented(own, name))} |"
            yield ""


def documented(kind: type, name: str) -> str:
    """Return the docstring of a field, which the class or one of its bases declares."""
    for each in kind.__mro__[:-1]:
        analyzer = ModuleAnalyzer.for_module(each.__module__)
        analyzer.analyze()
        if found := analyzer.attr_docs.get((each.__name__, name)):
            return " ".join(found)
    return ""


def prose(text: str) -> str:
    """Return a docstring as Markdown, with names in backticks as code."""
    pieces = re.split(r"(`+[^`]+`+)", " ".join(text.split()))
    return "".join(f"`{piece.strip('`')}`" if piece.startswith("`") else escaped(piece) for piece in pieces)


def notices(kind: type[Notice]) -> Iterator[type[Notice]]:
    """Return the classes of notices that have an event."""
    for each in kind.__subclasses__():
        if each.event and each is getattr(sys.modules[each.__module__], each.__name__):  # the class with slots
            yield each
        yield from notices(each)


def place(kind: type[Notice]) -> tuple[bool, str, int]:
    """Return a notice's position in the source, which has the order of a tunnel's life."""
    return kind.__module__ != Notice.__module__, kind.__module__, inspect.getsourcelines(kind)[1]


def signature(action: argparse.Action) -> str:
    """Return ``-v, --verbose`` or ``--listen ADDRESS``."""
    value = f"[{action.metavar}]" if action.nargs == "?" and action.option_strings else action.metavar
    value = value or ("" if action.nargs == 0 else "{" + ",".join(map(str, action.choices or ())) + "}")
    if not action.option_strings:
        return str(value)
    return ", ".join(f"{flag} {value}".rstrip() if flag.startswith("--") else flag for flag in action.option_strings)


def sentence(text: str) -> str:
    """Return the text with a capital and a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ")")) else ".")


def default(each: Option) -> str:
    """Return the default as the table shows it."""
    if each.default_help:
        return escaped(each.default_help)
    if each.default in (None, False, ()):
        return ""
    value = " ".join(each.default) if isinstance(each.default, tuple) else each.default
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def escaped(text: str) -> str:
    """Escape a text for Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", text)
