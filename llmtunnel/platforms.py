"""Detect the platform that this process runs on, and read the invite that its user has stored there."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from enum import StrEnum
from importlib import import_module
from typing import Final

logger = logging.getLogger(__name__)

SECRET: Final = "TUNNEL_INVITE"
"""Name of the platform secret in which a user stores an invite."""


class Platform(StrEnum):
    """A platform for notebooks."""

    COLAB = "colab"
    KAGGLE = "kaggle"
    BINDER = "binder"
    PLAIN = "plain"
    """Any other machine."""


def platform(environ: Mapping[str, str] | None = None, modules: Mapping[str, object] | None = None) -> Platform:
    """Detect the platform by environment and loaded modules (default: those of this process)."""
    environ = os.environ if environ is None else environ
    modules = sys.modules if modules is None else modules
    if "KAGGLE_KERNEL_RUN_TYPE" in environ:  # first, since Kaggle's image is based on Colab's
        return Platform.KAGGLE
    if "google.colab" in modules or "COLAB_RELEASE_TAG" in environ:
        return Platform.COLAB
    if "BINDER_SERVICE_HOST" in environ or "BINDER_LAUNCH_HOST" in environ:
        return Platform.BINDER
    return Platform.PLAIN


def in_cell(environ: Mapping[str, str] | None = None) -> bool:
    """Whether this process, if it has a terminal, runs in a notebook's cell: ``!command``.

    A kernel gives such a command a pseudo-terminal, keeps its output as the cell's output, and sends it no keys.
    ipykernel sets these three variables in every kernel, including Colab's (`ZMQInteractiveShell.init_environment`). A
    terminal of Jupyter is no child of a kernel, and tmux or screen, started in a cell, set another TERM. ``environ``
    defaults to that of this process.
    """
    environ = os.environ if environ is None else environ
    return [environ.get(name) for name in ("TERM", "PAGER", "GIT_PAGER")] == ["xterm-color", "cat", "cat"]


def stored_invite(environ: Mapping[str, str] | None = None, modules: Mapping[str, object] | None = None) -> str | None:
    """Return the code that the user has stored as the platform's secret `SECRET`; None without it or without access.

    May block: Colab asks its user, Kaggle its server. Colab only answers the thread that runs a notebook's cell, and
    only in the notebook's own process.
    """
    modules = sys.modules if modules is None else modules
    try:
        match platform(environ, modules):
            case Platform.COLAB if "google.colab" in modules:
                found = import_module("google.colab.userdata").get(SECRET)
            case Platform.KAGGLE:
                found = import_module("kaggle_secrets").UserSecretsClient().get_secret(SECRET)
            case _:
                return None
    except Exception as exc:  # each platform has exceptions of its own, and their texts may contain the secret
        logger.debug("The platform did not provide the secret %s: %s", SECRET, type(exc).__name__)
        return None
    return found if isinstance(found, str) and found.strip() else None
