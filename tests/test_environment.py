from __future__ import annotations

import os

import pytest

from llmtunnel.environment import Environ, for_clients

NAMES = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_API_KEY", "OLLAMA_HOST")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_called_plainly_it_sets_them_until_they_are_restored() -> None:
    environ = for_clients("http://127.0.0.1:8000", api_key=None)
    assert [os.environ[name] for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OLLAMA_HOST")] == [
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1:8000/v1",
        "http://127.0.0.1:8000",
    ]
    environ.restore()
    assert not set(NAMES) & os.environ.keys()
    os.environ["OLLAMA_HOST"] = "later"
    environ.restore()
    assert os.environ.pop("OLLAMA_HOST") == "later", "the second time restores nothing"


def test_what_was_there_comes_back_also_where_the_block_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "before")
    with pytest.raises(KeyError), for_clients("http://a", api_key="k"):
        raise KeyError
    assert os.environ["OLLAMA_HOST"] == "before"


def test_what_somebody_else_has_set_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "before")
    with Environ({"A": "ours", "B": "ours"}):
        monkeypatch.setenv("A", "theirs")
        monkeypatch.delenv("B")
    assert os.environ["A"] == "theirs"
    assert "B" not in os.environ


def test_its_repr_shows_no_key() -> None:
    with for_clients("http://a", api_key="secret") as environ:
        assert "secret" not in repr(environ)
