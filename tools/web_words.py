"""Write the words of invites for the JavaScript core: ``python -m tools.web_words`` after a change of words.py."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

from llmtunnel.words import WORDS

FILE: Final = Path(__file__).parent.parent / "llmtunnel/web/core/words.js"
_HEAD: Final = """\
/**
 * The words of invites. `python -m tools.web_words` makes this file from llmtunnel/words.py, which names their source
 * and licence: do not edit it.
 */
"""


def text() -> str:
    """Return what the file has to contain."""
    lines = textwrap.wrap(" ".join(WORDS), 118)
    return f"{_HEAD}export const WORDS = `\n" + "\n".join(lines) + "\n`.trim().split(/\\s/);\n"


if __name__ == "__main__":
    FILE.write_text(text(), "utf-8")
