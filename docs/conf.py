"""Sphinx's configuration. ``make docs`` builds the pages and treats every warning as an error."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

from llmtunnel.version import __version__  # noqa: E402 - found by the line above

project = "llmtunnel"
author = "the llmtunnel authors"
copyright = "the llmtunnel authors, MIT licence"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "_pages"]
exclude_patterns: list[str] = []
html_theme = "furo"
html_title = f"llmtunnel {version}"
html_theme_options = {
    "source_repository": "https://github.com/llmtunnel/llmtunnel/",
    "source_branch": "main",
    "source_directory": "docs/",
}
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]

myst_heading_anchors = 4  # the same anchors as on GitHub, so that a link works in both places
myst_enable_extensions = ["attrs_inline", "deflist", "fieldlist"]

# Docstrings name other objects in single backticks.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80
