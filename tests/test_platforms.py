from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace

import pytest

from llmtunnel.platforms import Platform, platform, stored_invite

COLAB = {"COLAB_RELEASE_TAG": "release-colab_1"}
KAGGLE = {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}
Get = Callable[[str], object]


@pytest.mark.parametrize(
    ("environ", "modules", "expected"),
    [
        ({}, {}, Platform.PLAIN),
        (COLAB, {}, Platform.COLAB),
        ({}, {"google.colab": None}, Platform.COLAB),
        ({}, {"google": None}, Platform.PLAIN),
        (KAGGLE, {}, Platform.KAGGLE),
        (KAGGLE | COLAB, {"google.colab": None}, Platform.KAGGLE),
        ({"BINDER_SERVICE_HOST": "10.0.0.1"}, {}, Platform.BINDER),
        ({"BINDER_LAUNCH_HOST": "https://mybinder.org/"}, {}, Platform.BINDER),
    ],
)
def test_a_platform_is_known_by_its_environment_and_modules(
    environ: dict[str, str], modules: dict[str, object], expected: Platform
) -> None:
    assert platform(environ, modules) is expected


def test_the_platform_is_ours_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert platform() is Platform.KAGGLE


def put(monkeypatch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    """A module as the platform has it."""
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def in_colab(monkeypatch: pytest.MonkeyPatch, get: Get) -> None:
    put(monkeypatch, "google.colab")
    put(monkeypatch, "google.colab.userdata", get=get)


def in_kaggle(monkeypatch: pytest.MonkeyPatch, get: Get) -> None:
    put(monkeypatch, "kaggle_secrets", UserSecretsClient=lambda: SimpleNamespace(get_secret=get))


def answers(asked: str) -> str:
    return f"the secret {asked}"


def refuses(asked: str) -> str:
    raise RuntimeError("no access to s3cret")


PLACES = [(in_colab, COLAB), (in_kaggle, KAGGLE)]


@pytest.mark.parametrize(("put_in", "environ"), PLACES)
def test_the_invite_that_the_user_stored_is_found(
    monkeypatch: pytest.MonkeyPatch, put_in: Callable[[pytest.MonkeyPatch, Get], None], environ: dict[str, str]
) -> None:
    put_in(monkeypatch, answers)
    assert stored_invite(environ) == "the secret TUNNEL_INVITE"


@pytest.mark.parametrize(("put_in", "environ"), PLACES)
@pytest.mark.parametrize("get", [refuses, lambda _: "", lambda _: " \n", lambda _: None])
def test_one_that_is_missing_or_not_granted_is_none_and_no_word_of_the_platform_is_logged(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    put_in: Callable[[pytest.MonkeyPatch, Get], None],
    environ: dict[str, str],
    get: Get,
) -> None:
    caplog.set_level(logging.DEBUG)
    put_in(monkeypatch, get)
    assert stored_invite(environ) is None
    assert "s3cret" not in caplog.text


def test_a_process_beside_colabs_notebook_does_not_ask_since_nobody_would_answer() -> None:
    assert stored_invite(COLAB, {}) is None


def test_a_platform_whose_modules_are_missing_has_no_invite() -> None:
    assert stored_invite(KAGGLE) is None
    assert stored_invite({}, {"google.colab": None}) is None


@pytest.mark.parametrize("environ", [{}, {"BINDER_SERVICE_HOST": "10.0.0.1"}])
def test_elsewhere_nothing_is_asked(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> None:
    in_kaggle(monkeypatch, answers)
    assert stored_invite(environ) is None
