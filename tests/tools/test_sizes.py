from __future__ import annotations

import tomllib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import sizes

from ..support.processes import ROOT


def test_each_dependency_of_ours_has_its_purpose() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(sizes.PURPOSE) == {canonicalize_name(Requirement(one).name) for one in project["dependencies"]}


def wheel(folder: Path, name: str, size: int, *requires: str) -> None:
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        fields = ["Metadata-Version: 2.4", f"Name: {name}", *(f"Requires-Dist: {one}" for one in requires)]
        archive.writestr(f"{name}-1.dist-info/METADATA", "\n".join(fields) + "\n\nRequires-Dist: not-a-field\n")
        archive.writestr(f"{name}.py", " " * size)


def test_what_comes_with_a_dependency_counts_there_once(tmp_path: Path) -> None:
    wheel(tmp_path, "llmtunnel", 100_000, "aiortc>=1", "rich", 'pytest; extra == "test"')
    wheel(tmp_path, "aiortc", 200_000, "Av_Codecs (>=3)", "rich[jupyter]")
    wheel(tmp_path, "Av.Codecs", 40_000_000, "pygments")
    wheel(tmp_path, "rich", 1_000_000, "pygments")
    wheel(tmp_path, "pygments", 300_000)
    parts = {part.name: part for part in map(sizes.read, tmp_path.glob("*.whl"))}
    assert parts["llmtunnel"].needs == {"aiortc", "rich"}

    header, rule, *rows, total = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in sizes.table(parts).splitlines()
    ]
    assert len({len(row) for row in (header, rule, *rows, total)}) == 1
    assert [(row[0], row[2], row[4]) for row in rows] == [
        ("`aiortc`", "40.2", "av-codecs 40.0"),
        ("`rich`", "1.3", "pygments 0.3"),
        ("llmtunnel itself", "0.1", ""),
    ]
    assert (total[0], total[2]) == ("**all 5**", "41.6")
