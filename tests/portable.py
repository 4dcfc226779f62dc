"""The tests that need nothing but Python: on any system, by any user, without a browser or network namespaces.

python -m tests.portable [ARGUMENT OF PYTEST …]

Left out are the modules below. What else a system lacks, such as signals on Windows, its tests skip by themselves.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from .support.processes import ROOT

LEFT_OUT: Final = {
    "e2e/test_apps.py": "web applications of 600 MB",
    "e2e/test_browser.py": "chromium",
    "e2e/test_jupyterlab.py": "chromium",
    "e2e/test_networks.py": "network namespaces, as root on Linux",
    "e2e/test_networks_resume.py": "network namespaces, as root on Linux",
    "web/test_browser.py": "chromium, firefox",
    "notebooks": "chromium, and an environment that it builds",
}
"""What is not run, and what it would need."""


def main(arguments: list[str]) -> int:
    """Run ``llmtunnel demo``, then the tests; the first exit status that is not 0."""
    demo = subprocess.run([sys.executable, "-m", "llmtunnel", "demo"], cwd=ROOT)
    if demo.returncode:
        return demo.returncode
    ignored = [f"--ignore=tests/{name}" for name in LEFT_OUT]
    command = [sys.executable, "-m", "pytest", "-n", "3", "--dist", "loadgroup", *ignored, *arguments]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
