from __future__ import annotations

import pytest

from llmtunnel.config import Settings
from llmtunnel.errors import SettingError
from llmtunnel.paths import AUTO, KINDS, PATHS, Path, carriers, kind, tried


def test_every_kind_can_be_chosen_and_has_a_rank_of_its_own() -> None:
    assert set(PATHS) == {AUTO, *KINDS}
    assert set(KINDS) == set(Path) - {Path.UNKNOWN}
    ranks = [each.rank for each in KINDS.values()]
    assert sorted(ranks) == sorted(set(ranks))
    assert kind(Path.UNKNOWN).rank == kind(Path.DIRECT).rank


@pytest.mark.parametrize("choice", PATHS)
def test_what_carries_is_tried_and_what_comes_late_is_introduced_by_all_others(choice: str) -> None:
    assert carriers(choice) <= tried(choice) <= set(KINDS)
    late = choice != AUTO and KINDS[Path(choice)].needs_resume
    assert carriers(choice) == (set(KINDS) if choice == AUTO else {choice})
    assert tried(choice) == (set(KINDS) if choice == AUTO or late else {choice})


@pytest.mark.parametrize(
    ("choice", "missing"),
    [("relay", "a secret"), ("tcp", "a secret"), ("tcp", "resume-for")],
)
def test_a_path_that_cannot_be_used_is_refused_with_what_it_needs(choice: str, missing: str) -> None:
    secret = None if missing == "a secret" else "secret"
    with pytest.raises(SettingError, match=missing) as told:
        Settings(room="r", secret=secret, path=choice, resume_for=0.0 if missing == "resume-for" else 60.0)
    assert told.value.hint
