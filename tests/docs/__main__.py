"""List the links of README, the documentation and the notebooks that lead elsewhere: ``python -m tests.docs``."""

from __future__ import annotations

from .markdown import external

for link, files in external().items():
    print(link, *sorted(set(files)), sep="\n    ")
