"""Notebook views and magics. ipywidgets and IPython are imported only when they are needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .registry import AnyHandle


def tunnels() -> dict[str, AnyHandle]:
    """Return the handles of the tunnels that ``%tunnel`` started in this notebook, by name."""
    from IPython.core.getipython import get_ipython

    from .registry import Registry

    shell = get_ipython()
    return dict(Registry(shell)) if shell is not None else {}
