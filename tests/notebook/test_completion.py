from __future__ import annotations

import pytest

from llmtunnel.cli.parsers import bench_parser, doctor_parser, proxy_parser, serve_parser
from llmtunnel.notebook.completion import ALL, NAME, VERBS, candidates
from llmtunnel.upstream import NAMED


def after(line: str) -> list[str]:
    return candidates(line.split(), tunnels=("serve", "gpu"), peers=("proxy-1",))


def test_first_come_the_words() -> None:
    assert after("") == list(VERBS)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("stop", ["serve", "gpu", ALL]),
        ("status", ["serve", "gpu"]),
        ("invite", ["serve", "gpu"]),
        ("kick", ["proxy-1"]),
        ("kick proxy-1", []),
        ("stop gpu", []),
        ("help", []),
        ("doctor", list(doctor_parser().flags)),
        ("bench", list(bench_parser().flags)),
        ("nonsense", []),
        ("serve --name", ["serve", "gpu"]),
        ("serve --upstream", list(NAMED)),
        ("serve vllm --policy", ["all", "openai", "ollama"]),
    ],
)
def test_then_what_each_takes(line: str, expected: list[str]) -> None:
    assert after(line) == expected


def test_serve_and_proxy_take_the_flags_of_the_command_line_and_a_name() -> None:
    assert set(after("serve")) == {*NAMED, *serve_parser().flags, NAME}
    assert set(after("serve --once")) == {*serve_parser().flags, NAME}
    assert set(after("proxy")) == {*proxy_parser().flags, NAME}
