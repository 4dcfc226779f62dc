"""A real IPython kernel, and cells that run in it as a page would have them run."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from .processes import environment

PATIENCE = 60.0
"""Seconds that a cell may take, and a kernel to start, on a busy machine."""

Message = dict[str, Any]

_VIEW = "application/vnd.jupyter.widget-view+json"


@dataclass
class Cell:
    """What became of a cell."""

    status: str = "running"
    """``ok`` or ``error``, from the kernel's reply."""
    outputs: list[Message] = field(default_factory=list)
    """Messages that a page shows: streams, displays, results, errors; and ``clear_output``."""

    @property
    def text(self) -> str:
        """Both streams."""
        return "".join(each["content"]["text"] for each in self.outputs if each["msg_type"] == "stream")

    @property
    def result(self) -> str:
        """The value of its last line, as text."""
        [found] = [each for each in self.outputs if each["msg_type"] == "execute_result"]
        return str(found["content"]["data"]["text/plain"])

    @property
    def displayed(self) -> list[dict[str, Any]]:
        """What was displayed, by type."""
        kinds = ("display_data", "update_display_data", "execute_result")
        return [each["content"]["data"] for each in self.outputs if each["msg_type"] in kinds]

    @property
    def panels(self) -> list[str]:
        """The widgets of the panels that were displayed."""
        views = [each[_VIEW] for each in self.displayed if _VIEW in each]
        return [str(view["model_id"]) for view in views]

    @property
    def failure(self) -> str:
        """Its traceback."""
        errors = [each["content"]["traceback"] for each in self.outputs if each["msg_type"] == "error"]
        return "\n".join(line for lines in errors for line in lines)


class Kernel:
    """One kernel: `run` cells in it, one after the other."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client
        self.comms: list[Message] = []
        """What went to the page's widgets."""
        self._poller = zmq.Poller()
        for channel in (client.iopub_channel, client.shell_channel, client.stdin_channel):
            self._poller.register(channel.socket, zmq.POLLIN)

    def begin(self, code: str, *, allow_stdin: bool = False) -> str:
        """Send a cell off; its id, for `finish`."""
        return str(self.client.execute(code, allow_stdin=allow_stdin))

    def finish(self, sent: str, *, answer: Callable[[Message], str] | None = None) -> Cell:
        """Wait for a cell's end; ``answer`` is asked for what the cell asks its user for."""
        cell, deadline, idle = Cell(), time.monotonic() + PATIENCE, False
        while not (idle and cell.status != "running"):
            assert time.monotonic() < deadline, f"the cell does not end: {cell}"
            for message in self.received(answer):
                kind, content = message["msg_type"], message["content"]
                if kind.startswith("comm_"):
                    self.comms.append(message)
                if message["parent_header"].get("msg_id") != sent:
                    continue
                if kind == "execute_reply":
                    cell.status = content["status"]
                elif kind == "status":
                    idle = content["execution_state"] == "idle"
                elif kind != "execute_input" and not kind.startswith("comm_"):
                    cell.outputs.append({"msg_type": kind, "content": content})
        return cell

    def until_said(self, sent: str, text: str) -> str:
        """Wait until a cell has said that; what it said until then, which is lost to `finish`."""
        said, deadline = "", time.monotonic() + PATIENCE
        while text not in said:
            assert time.monotonic() < deadline, f"it said {said!r}"
            for message in self.received(None):
                if message["msg_type"] == "stream" and message["parent_header"].get("msg_id") == sent:
                    said += message["content"]["text"]
        return said

    def restart(self) -> None:
        """As a page's button does it: the kernel is asked to end, and another one takes its place.

        A page kills it after 5 s; here it has the time that a busy machine takes.
        """
        self.manager.shutdown_wait_time = PATIENCE
        self.manager.restart_kernel(now=False)
        self.client.wait_for_ready(timeout=PATIENCE)

    def run(self, code: str) -> Cell:
        """A cell, from its start to its end; fails where it fails."""
        cell = self.finish(self.begin(code))
        assert cell.status == "ok", f"{cell.failure}\n{cell.text}"
        return cell

    def fail(self, code: str) -> Cell:
        """The same for a cell that must fail."""
        cell = self.finish(self.begin(code))
        assert cell.status == "error", cell
        return cell

    def value(self, expression: str) -> Any:
        """What an expression is, as JSON has it."""
        return json.loads(self.run(f"import json; print('\\n' + json.dumps({expression}))").text.splitlines()[-1])

    def change(self, model: str, **state: object) -> None:
        """Tell a widget what a page tells it."""
        data = {"method": "update", "state": state, "buffer_paths": []}
        self.client.shell_channel.send(self.client.session.msg("comm_msg", {"comm_id": model, "data": data}))

    def complete(self, text: str) -> list[str]:
        """What the kernel offers where the text ends."""
        reply = self.client.complete(text, reply=True, timeout=PATIENCE)["content"]
        assert reply["status"] == "ok"
        return [str(match) for match in reply["matches"]]

    def received(self, answer: Callable[[Message], str] | None) -> Iterator[Message]:
        """What comes next, by any of the channels."""
        client = self.client
        channels = (client.iopub_channel, client.shell_channel, client.stdin_channel)
        ready = dict(self._poller.poll(1000))
        for channel in channels:
            if channel.socket not in ready:
                continue
            message = channel.get_msg(timeout=0)
            if channel is not client.stdin_channel:
                yield message
            else:
                assert answer is not None, "nobody is there to be asked"
                client.input(answer(message))


@contextmanager
def kernel(directory: Path, *, code: str = "", launcher: str = "") -> Iterator[Kernel]:
    """A kernel of its own, which has run ``code``; its files are in ``directory``. ``launcher``: what starts it."""
    manager = KernelManager(kernel_name="python3")
    assert manager.kernel_spec is not None
    if launcher:
        manager.kernel_spec.argv = [sys.executable, "-c", launcher, "-f", "{connection_file}"]
    ours = environment({"IPYTHONDIR": str(directory / "ipython")})
    manager.start_kernel(cwd=str(directory), env=ours)
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=PATIENCE)
        started = Kernel(manager, client)
        started.run(f"import sys; sys.path.insert(0, {ours['PYTHONPATH']!r})\n{code}")
        yield started
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=False)
        manager.cleanup_resources()
