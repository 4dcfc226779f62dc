"""`llmtunnel.bench` in a real kernel: the figures, and what a page shows of them."""

from __future__ import annotations

from pathlib import Path

from ..support.background import SERVED, Background
from ..support.kernel import kernel


def test_a_cell_measures_a_tunnel_and_shows_the_result(tmp_path: Path) -> None:
    with Background() as other, kernel(tmp_path, code="import llmtunnel") as notebook:
        where = f"room={SERVED!r}, signal={other.signal!r}, stun=(), duration=2"
        cell = notebook.run(f"result = llmtunnel.bench({where})\nresult")
        assert cell.text == "llmtunnel bench: measuring for about 2 s\n"
        [shown] = cell.displayed
        assert shown["text/html"].count("<svg") == 2 and "tokens, 64 streams" in shown["text/html"]
        assert "widget" not in "".join(shown), "it stays in a saved notebook"
        assert notebook.value("(result.direct is None, str(result.path) in ('direct', 'tcp'))") == [True, True]
        assert notebook.value("result.tunnel.latency.p50_ms > 0 and result.tunnel.download.bytes_per_second > 0")
        assert notebook.run("print(result)").text.startswith("path: ")
        assert notebook.value("[t.name for t in __import__('threading').enumerate() if 'llmtunnel' in t.name]") == []
        flags = f"--room {SERVED} --signal {other.signal} --stun none --duration 2"
        [shown] = notebook.run(f"%load_ext llmtunnel\n%tunnel bench {flags}").displayed
        assert "<svg" in shown["text/html"]
        assert "UsageError: --duration: not from 2 to 60" in notebook.fail("%tunnel bench --duration 1").text
        cell = notebook.run(f"await llmtunnel.aio.bench({where}, quiet=True)")
        assert cell.text == "" and "<svg" in cell.displayed[0]["text/html"]


def test_a_cell_that_is_interrupted_leaves_nothing_behind(tmp_path: Path) -> None:
    with kernel(tmp_path, code="import llmtunnel") as notebook:
        sent = notebook.begin("llmtunnel.bench(duration=60)")
        notebook.until_said(sent, "measuring for about 60 s")
        notebook.manager.interrupt_kernel()
        assert "KeyboardInterrupt" in notebook.finish(sent).failure
        assert notebook.value("[t.name for t in __import__('threading').enumerate() if 'llmtunnel' in t.name]") == []
