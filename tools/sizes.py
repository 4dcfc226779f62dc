"""Print the download and installed size of llmtunnel and its dependencies, with their purpose, as a Markdown table.

python -m tools.sizes [WHEEL-OR-FOLDER]    # the checkout, if not given; asks the package index for the dependencies
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from email.parser import Parser
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PURPOSE: Final = {
    "aiohappyeyeballs": "connects to the upstream by whichever of its addresses answers first",
    "aiohttp": "signal server, and the WebSocket to it",
    "aioice": "ICE: finds the direct path through NATs",
    "aiortc": "WebRTC: DTLS, and what ICE needs around it",
    "cryptography": "certificates, TLS and DTLS",
    "google-crc32c": "the checksum of WebRTC's packets",
    "h11": "HTTP/1.1, byte for byte",
    "ifaddr": "the addresses of this machine",
    "ipywidgets": "the panel in notebooks",
    "nest-asyncio2": "`in_loop=True` in notebooks",
    "pyopenssl": "DTLS; TLS between the peers",
    "rich": "the view in a terminal",
    "segno": "the QR code of an invite",
    "spake2": "proves the invite's secret without sending it",
    "uvloop": "twice the speed (not on Windows)",
}
"""Purpose of each direct dependency of llmtunnel; all others come with one of these."""


@dataclass(slots=True)
class Part:
    """One distribution."""

    name: str
    download: int
    """Size of its wheel, in bytes."""
    installed: int
    """Size of the files in it, in bytes."""
    needs: set[str] = field(default_factory=set)
    """Normalized names of its requirements, without extras."""


def normal(name: str) -> str:
    """Return a distribution's normalized name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(wheel: Path) -> Part:
    """Read a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
        fields = Parser().parsestr(archive.read(metadata).decode(), headersonly=True)
        installed = sum(entry.file_size for entry in archive.infolist())
    required = [line for line in fields.get_all("Requires-Dist", []) if "extra ==" not in line]
    needs = {normal(re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]) for line in required}
    return Part(normal(str(fields["Name"])), wheel.stat().st_size, installed, needs)


def table(parts: dict[str, Part]) -> str:
    """Return the table: each direct dependency, with the packages that it alone, or it first, requires."""
    own = parts["llmtunnel"]
    rows: list[tuple[int, str]] = []
    claimed: dict[str, str] = {name: name for name in own.needs}
    for name in sorted(own.needs & parts.keys(), key=lambda name: -parts[name].download):
        waiting = [name]
        while waiting:
            for needed in sorted(parts[waiting.pop()].needs & parts.keys()):
                if needed not in claimed and needed != "llmtunnel":
                    claimed[needed] = name
                    waiting.append(needed)
    for name in own.needs & parts.keys():
        brought = [parts[other] for other, by in claimed.items() if by == name and other in parts]
        along = sorted((part for part in brought if part.name != name), key=lambda part: -part.installed)
        size, place = (sum(getattr(part, what) for part in brought) for what in ("download", "installed"))
        words = ", ".join(f"{part.name} {_megabytes(part.installed)}" for part in along[:4])
        more = f" and {len(along) - 4} more" if len(along) > 4 else ""
        rows.append((place, _row(f"`{name}`", size, place, PURPOSE[name], words + more)))
    rows.append((own.installed, _row("llmtunnel itself", own.download, own.installed, "", "")))
    download, installed = (sum(getattr(part, what) for part in parts.values()) for what in ("download", "installed"))
    return "\n".join(
        [
            "| | download, MB | installed, MB | what for | with it come, MB |",
            "|---|--:|--:|---|---|",
            *(row for _, row in sorted(rows, reverse=True)),
            _row(f"**all {len(parts)}**", download, installed, "", ""),
        ]
    )


def _row(name: str, download: int, installed: int, purpose: str, along: str) -> str:
    return f"| {name} | {_megabytes(download)} | {_megabytes(installed)} | {purpose} | {along} |"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f}"


def main(arguments: list[str]) -> int:
    """Fetch the wheels, and print the table. Returns the exit status."""
    if len(arguments) > 1 or not all(Path(one).exists() for one in arguments):
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", folder]
        subprocess.run([*pip, arguments[0] if arguments else str(ROOT)], check=True)
        parts = {part.name: part for part in map(read, Path(folder).glob("*.whl"))}
    print(table(parts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
