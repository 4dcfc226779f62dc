"""How handles draw themselves: here, and in a real kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

from llmtunnel.notebook import display

from ..support.background import SERVED, Background
from ..support.embedded import PATIENCE
from ..support.ports import fetch
from ..support.scripted_handle import Handle, invited

VIEW = "application/vnd.jupyter.widget-view+json"
Message = dict[str, Any]


@dataclass
class Kernel:
    """A real one, and what it tells."""

    client: BlockingKernelClient

    def begin(self, code: str) -> None:
        """Run a cell."""
        self._cell = self.client.execute(code)

    def next(self) -> Message:
        """The next message of the kernel."""
        message: Message = self.client.get_iopub_msg(timeout=PATIENCE)
        assert message["msg_type"] != "error", message["content"]["traceback"]
        return message

    def until(self, kind: str, words: str = "") -> Message:
        """The next message of this kind with these words in it."""
        while (message := self.next())["msg_type"] != kind or words not in str(message["content"]):
            pass
        return message

    def run(self, code: str) -> list[Message]:
        """Run a cell to its end; what it displayed."""
        self.begin(code)
        shown = []
        while (message := self.next())["content"].get("execution_state") != "idle" or not self._is_ours(message):
            if "data" in message["content"] and message["msg_type"] in ("display_data", "execute_result"):
                shown.append(message["content"]["data"])
        return shown

    def _is_ours(self, message: Message) -> bool:
        return bool(message["parent_header"].get("msg_id") == self._cell)


@pytest.fixture(scope="module")
def shared_kernel() -> Iterator[Kernel]:
    """One for all tests: it takes its time to start."""
    manager, client = start_new_kernel(startup_timeout=PATIENCE)
    try:
        yield Kernel(client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@pytest.fixture
def kernel(shared_kernel: Kernel, other: Background) -> Iterator[Kernel]:
    """The kernel, in which a ``proxy`` has reached the serve."""
    shared_kernel.run(
        "import llmtunnel, pathlib, sys, time\n"
        f"proxy = llmtunnel.proxy(room={SERVED!r}, signal={other.signal!r}, stun=(), listen='127.0.0.1:0')"
    )
    yield shared_kernel
    shared_kernel.run("proxy.close()")


def test_outside_a_kernel_a_handle_is_text_and_a_picture() -> None:
    handle: Any = invited()
    bundle = display.mimebundle(handle)
    assert set(bundle) == {"text/plain", "text/html"}
    assert "tulip" not in str(bundle)


def test_only_what_is_asked_for_is_in_the_bundle() -> None:
    handle: Any = Handle()
    assert set(display.mimebundle(handle, include={"text/html"})) == {"text/html"}
    assert set(display.mimebundle(handle, exclude={"text/html"})) == {"text/plain"}


def test_in_a_kernel_a_handle_is_a_picture_for_the_file_and_a_panel_for_the_page(kernel: Kernel) -> None:
    picture, panel = kernel.run("proxy")
    assert set(picture) == {"text/plain", "text/html"}
    assert picture["text/plain"].startswith("<llmtunnel proxy: ready, http://127.0.0.1:")
    assert "Last state, saved at" in picture["text/html"]
    assert "ready" in picture["text/html"]
    assert set(panel) == {VIEW}
    _, again = kernel.run("proxy")
    assert again == panel


def test_who_asks_for_a_bundle_in_a_kernel_gets_all_three_in_one(kernel: Kernel) -> None:
    (bundle,) = kernel.run("display(proxy._repr_mimebundle_(), raw=True)")
    assert set(bundle) == {"text/plain", "text/html", VIEW}


def test_the_picture_for_the_file_follows_and_is_right_at_the_end(kernel: Kernel) -> None:
    _, _, url = kernel.run("display(proxy); display({'text/plain': proxy.url}, raw=True)")
    fetch(url["text/plain"])
    kernel.until("update_display_data", "1 ended")
    kernel.begin("proxy.close()")
    kernel.until("update_display_data", "<b>stopped</b>")


def test_another_cells_capture_gets_no_picture(kernel: Kernel, tmp_path: Path) -> None:
    _, _, url = kernel.run("display(proxy); display({'text/plain': proxy.url}, raw=True)")
    end = tmp_path / "end"
    kernel.begin(f"%%capture caught\nwhile not pathlib.Path({str(end)!r}).exists(): time.sleep(0.05)")
    fetch(url["text/plain"])
    kernel.until("update_display_data", "1 ended")
    end.touch()
    (caught,) = kernel.run("display({'text/plain': str(len(caught.outputs))}, raw=True)")
    assert caught["text/plain"] == "0"


def test_without_ipywidgets_text_and_picture_are_left(kernel: Kernel) -> None:
    kernel.run("import ipywidgets; sys.modules['ipywidgets'] = None")
    (shown,) = kernel.run("proxy")
    kernel.run("sys.modules['ipywidgets'] = ipywidgets")
    assert set(shown) == {"text/plain", "text/html"}


def block(kernel: Kernel, until: Path) -> None:
    """Run a cell that keeps the kernel's thread until there is a file."""
    kernel.begin(f"while not pathlib.Path({str(until)!r}).exists(): time.sleep(0.05)\nprint('the cell has ended')")
    kernel.until("execute_input", "the cell has ended")


def test_the_panel_is_drawn_while_a_cell_blocks_the_kernel(kernel: Kernel, tmp_path: Path) -> None:
    *_, url = kernel.run("display(proxy); display({'text/plain': proxy.url}, raw=True)")
    block(kernel, tmp_path / "end")
    fetch(url["text/plain"])
    update = kernel.until("comm_msg", "1 ended")
    assert update["content"]["data"]["method"] == "update"
    (tmp_path / "end").touch()
    kernel.until("stream", "the cell has ended")


def test_the_picture_is_replaced_while_a_cell_blocks_the_kernel(kernel: Kernel, tmp_path: Path) -> None:
    (url, shown) = kernel.run(
        "from llmtunnel.notebook import display as views\n"
        "display({'text/plain': proxy.url}, raw=True); views.show(proxy, plain=True)"
    )
    assert "0 ended" in shown["text/html"]
    block(kernel, tmp_path / "end")
    fetch(url["text/plain"])
    kernel.until("update_display_data", "1 ended")
    (tmp_path / "end").touch()
    kernel.until("stream", "the cell has ended")


def test_a_tunnel_that_is_closed_is_drawn_as_stopped(kernel: Kernel) -> None:
    kernel.run("display(proxy)")
    kernel.begin("proxy.close()")
    kernel.until("comm_msg", "<b>stopped</b>")
