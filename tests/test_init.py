from __future__ import annotations

import subprocess
import sys

import pytest

import llmtunnel

HEAVY = {"asyncio", "aiohttp", "aiortc", "aioice", "av", "cryptography", "h11", "ssl", "uvloop"}


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stderr.split())


def test_importing_loads_the_version_and_nothing_else_of_ours() -> None:
    loaded = modules_after("import llmtunnel; llmtunnel.__version__")
    assert {name for name in loaded if name.startswith("llmtunnel")} == {"llmtunnel", "llmtunnel.version"}


@pytest.mark.parametrize(
    "code",
    [
        "import llmtunnel; llmtunnel.TunnelError; llmtunnel.Status; llmtunnel.ServeSettings; llmtunnel.Upstream",
        "from llmtunnel.cli import main; main(['--help'])",
        "from llmtunnel.cli import main; main(['serve', '--help'])",
        "from llmtunnel.cli import main; main(['proxy', '--help'])",
        "from llmtunnel.cli import main; main(['demo', '--help'])",
        "from llmtunnel.cli import main; main(['--version'])",
        "from llmtunnel.cli import main; main(['proxy'])",
    ],
)
def test_values_and_help_load_no_loop_and_no_library(code: str) -> None:
    bare = modules_after("")
    loaded = modules_after(code) - bare
    assert not loaded & HEAVY


def test_a_proxy_starts_without_what_only_others_use() -> None:
    loaded = modules_after(
        "import asyncio\n"
        "from llmtunnel.cli import commands, options\n"
        "from llmtunnel.tunnel import Proxy\n"
        "settings = options.parse(['proxy', '--room', 'r', '--secret', 'a secret']).settings\n"
        "async def made(): Proxy(settings)\n"
        "asyncio.run(made())"
    )
    assert "llmtunnel.session.room" in loaded
    others = {"aio", "sync", "local", "doctor", "notebook", "endpoints.origin", "endpoints.pool", "endpoints.discovery"}
    assert not loaded & {f"llmtunnel.{name}" for name in others}
    assert not loaded & {"rich", "IPython", "ipywidgets", "matplotlib", "segno"}


def test_every_public_name_is_there_and_listed() -> None:
    for name in llmtunnel.__all__:
        assert getattr(llmtunnel, name) is not None
    assert dir(llmtunnel) == sorted(llmtunnel.__all__)


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        llmtunnel.nothing  # noqa: B018


def test_the_lazy_names_are_the_ones_that_type_checkers_see() -> None:
    from llmtunnel import aio, errors, sync

    assert llmtunnel.aio is aio
    assert llmtunnel.serve is sync.serve
    assert llmtunnel.proxy is sync.proxy
    assert llmtunnel.TunnelError is errors.TunnelError
