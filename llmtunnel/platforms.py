"""Which platform this notebook or program runs on, and the invite that its user has stored there."""

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
"""The name under which a user stores an invite among the platform's secrets."""


class Platform(StrEnum):
    """Where notebooks run."""

    COLAB = "colab"
    KAGGLE = "kaggle"
    BINDER = "binder"
    PLAIN = "plain"
    """Any other machine."""


def platform(environ: Mapping[str, str] | None = None, modules: Mapping[str, object] | None = None) -> Platform:
    """The platform, by the environment (default: ours) and the loaded modules (default: ours)."""
    environ = os.environ if environ is None else environ
    modules = sys.modules if modules is None else modules
    if "KAGGLE_KERNEL_RUN_TYPE" in environ:  # first: Kaggle's image is made of Colab's
        return Platform.KAGGLE
    if "google.colab" in modules or "COLAB_RELEASE_TAG" in environ:
        return Platform.COLAB
    if "BINDER_SERVICE_HOST" in environ or "BINDER_LAUNCH_HOST" in environ:
        return Platform.BINDER
    return Platform.PLAIN


def in_cell(environ: Mapping[str, str] | None = None) -> bool:
    """Whether a terminal that this process has, by the environment (default: ours), is a notebook's cell: ``!command``.

    A kernel gives such a command a pseudo-terminal, keeps what it writes as the cell's output, and sends it no keys.
    These three variables ipykernel sets in every kernel, Colab's too (`ZMQInteractiveShell.init_environment`). A
    terminal of Jupyter's is no child of a kernel, and tmux or screen, started in a cell, set another TERM.
    """
    environ = os.environ if environ is None else environ
    return [environ.get(name) for name in ("TERM", "PAGER", "GIT_PAGER")] == ["xterm-color", "cat", "cat"]


def stored_invite(environ: Mapping[str, str] | None = None, modules: Mapping[str, object] | None = None) -> str | None:
    """The code that the user has stored as the platform's secret `SECRET`; None where there is none or no access.

    May wait: Colab asks its user, Kaggle its server. Colab answers only the thread that runs a notebook's cell, and no
    other process than the notebook's.
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
    except Exception as exc:  # each platform has its own, and their texts may quote the secret
        logger.debug("the platform gives no secret %s: %s", SECRET, type(exc).__name__)
        return None
    return found if isinstance(found, str) and found.strip() else None
