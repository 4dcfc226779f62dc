"""A small chat with the model behind a proxy, in a notebook's cell: core widgets, streaming, and Stop.

It never waits for the kernel: answers arrive on the tunnel's loop (see `ticking`), even while a cell runs. What a
person does on the page comes on the kernel's thread, and goes over to that loop. The conversation is kept only in
memory. But a page that saves the state of its widgets also saves what the chat shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from html import escape
from typing import Any, Final

from ipywidgets import HTML, Dropdown, Layout, Text, VBox

from ..endpoints import chat
from ..errors import TunnelError
from . import parts
from .style import NO_ERROR, STYLE, saved_or_live
from .ticking import drawing_loop

REDRAW: Final = 0.1
"""Seconds between two drawings of a growing answer, since each sends the whole text to the page."""
FOLLOWS: Final = 0.5
"""Seconds in which a text follows its Enter: the page sends the key first, and the text only if it has changed."""

CHAT_STYLE: Final = """<style>
.llmtunnel.lt-chat .lt-log {
  flex-direction: column-reverse; max-height: 420px; overflow: auto; margin: 8px 0; min-height: 40px;
}
.llmtunnel.lt-chat .lt-log > .widget-vbox { flex: 0 0 auto; overflow: visible; }
.llmtunnel.lt-chat .lt-said { margin: 4px 0; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.5; }
.llmtunnel.lt-chat .lt-user { border-left: 3px solid var(--lt-blue); padding-left: 8px; }
.llmtunnel.lt-chat .lt-model { padding-left: 11px; }
.llmtunnel.lt-chat .lt-row { align-items: center; }
.llmtunnel.lt-chat .lt-row button { margin: 0; }
.llmtunnel.lt-chat .widget-text { flex: 1 1 120px; width: auto; min-width: 0; margin: 0; }
.llmtunnel.lt-chat .widget-dropdown { flex: 0 1 300px; width: auto; min-width: 0; margin: 0; }
</style>"""


class Chat:
    """A conversation with a model that a proxy reaches. Use its ``widget`` in your own layouts."""

    def __init__(self, url: str, *, loop: asyncio.AbstractEventLoop | None, key: str = "") -> None:
        """``url``: the proxy's. ``loop``: where answers arrive. ``key``: the listener's, if it requires one."""
        self._url, self._key, self._loop = url, key, drawing_loop(loop)
        self.messages: list[chat.Message] = []
        """The conversation, which the next request sends to the model."""
        self._task: asyncio.Task[None] | None = None
        self._enter: asyncio.TimerHandle | None = None
        """Sends the text when it has not come with the Enter."""
        self._unanswered = ""
        """What to send again: the last message, if it failed."""
        self.busy = False
        """Whether an answer, or the list of models, is being loaded."""
        self.closed = False
        self.model = Dropdown(description="Model", style={"description_width": "initial"})
        # Whole texts only. A page holds back a change until the kernel has taken the one before, but it does not hold
        # back Enter: a kernel that is busy would take the first letter for the message.
        self.text = Text(placeholder="Type a message, and press Enter", continuous_update=False)
        self.note = parts.text()
        self.log = VBox()
        self.buttons = {
            "Reload": parts.button("Reload", "Update the list of models", self.reload),
            "Clear": parts.button("Clear", "Delete this conversation", self.clear),
            "Send": parts.button("Send", "Send the message", self.send),
            "Stop": parts.button("Stop", "Stop the answer", self.stop),
        }
        self.text.on_msg(self._pressed)
        self.text.observe(self._typed, "value")
        log = parts.column((self.log,), "lt-log")
        above = parts.row((self.model, self.buttons["Reload"], self.buttons["Clear"]), "lt-wrap")
        below = parts.row((self.text, self.buttons["Send"], self.buttons["Stop"]), "lt-wrap")
        style = HTML(STYLE + CHAT_STYLE, layout=Layout(display="none"))
        self.widget = parts.column((style, above, log, self.note, below), "llmtunnel", "lt-panel", "lt-chat")
        self.widget.add_class(f"lt-{self.widget.model_id}")
        style.value += saved_or_live(self.widget.model_id)
        self._set_busy(False)
        self.reload()

    # -- actions of the page, on the kernel's thread

    def reload(self) -> None:
        """Update the list of models."""
        self._act(lambda: self._begin(self._load, "Loading the models…"))

    def send(self) -> None:
        """Send the typed message, or the one that failed if none is typed, unless an answer is running."""
        self._act(self._send)

    def stop(self) -> None:
        """Stop the answer: cancel the request at the model server, and keep the text so far."""
        self._act(self._cancel)

    def clear(self) -> None:
        """Delete the conversation, unless an answer is running."""
        if not self._run_on_loop(self._clear):
            self._clear()

    def close(self) -> None:
        """Stop, and remove the chat from the page. The tunnel continues."""
        if not self.closed:
            self.closed = True
            self.stop()
            parts.close(self.widget)

    def _pressed(self, _widget: Text, content: dict[str, Any], _buffers: object) -> None:
        if content.get("event") == "submit":
            self._act(self._await_text)

    def _typed(self, _change: object) -> None:
        self._run_on_loop(self._text_came)

    def _act(self, action: Callable[[], None]) -> None:
        if not self._run_on_loop(action):
            self._tell("The tunnel is closed. Start a new one, and call its chat().", bad=True)

    def _run_on_loop(self, action: Callable[[], None]) -> bool:
        """Have the loop do it; False if the loop does not run any more."""
        if self._loop is None:
            return False
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:  # it is closed
            return False
        return True

    # -- on the loop

    def _await_text(self) -> None:
        """Send the text as soon as it has come after its Enter, or what is there if none comes."""
        self._forget_enter()
        self._enter = asyncio.get_running_loop().call_later(FOLLOWS, self._send)

    def _text_came(self) -> None:
        if self._enter is not None:
            self._send()

    def _forget_enter(self) -> None:
        if self._enter is not None:
            self._enter.cancel()
            self._enter = None

    def _send(self) -> None:
        self._forget_enter()
        words, model = self.text.value.strip() or self._unanswered, self.model.value
        if words and model and not self.busy and not self.closed:
            self.text.value = self._unanswered = ""
            self._begin(lambda: self._talk(model, words), "")

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]], note: str) -> None:
        """Start a task, unless one is running."""
        if not self.busy and not self.closed:
            self._set_busy(True)
            self._tell(note)
            self._task = asyncio.get_running_loop().create_task(self._do(work), name="llmtunnel chat")

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _clear(self) -> None:
        if not self.busy:
            gone, self.log.children = self.log.children, ()
            self.messages.clear()
            self._unanswered = ""
            for each in gone:
                each.close()
            self._tell("")

    async def _do(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            self._tell("")
            raise
        except TunnelError as exc:
            again = " Press Send to send the message again." if self._unanswered else ""
            self._tell(f"{exc.message} {exc.hint}{again}", bad=True)
        finally:
            self._task = None
            self._set_busy(False)

    async def _load(self) -> None:
        names = await chat.models(self._url, key=self._key)
        chosen = self.model.value
        self.model.options = names
        self.model.value = chosen if chosen in names else names[0]
        self._tell("")

    async def _talk(self, model: str, words: str) -> None:
        asked: chat.Message = {"role": "user", "content": words}
        shown = _Answer(model)
        self.log.children = (*self.log.children, HTML(_said("user", "You", words)), shown.widget)
        try:
            async with aclosing(chat.answer(self._url, model, (*self.messages, asked), key=self._key)) as pieces:
                async for piece in pieces:
                    shown.add(piece)
            shown.end("" if shown.text else "(empty answer)")
        except asyncio.CancelledError:
            shown.end("(stopped)")
            raise
        except TunnelError:
            shown.end("(broken off)" if shown.text else "(no answer)")
            self._unanswered = words
            raise
        finally:
            if shown.text:
                self.messages += (asked, {"role": "assistant", "content": shown.text})

    # -- display

    def _set_busy(self, busy: bool) -> None:
        self.busy = busy
        if self.closed:
            return
        for name, button in self.buttons.items():
            button.disabled = busy == (name != "Stop")
        self.buttons["Send"].disabled = busy or (self.model.value is None)

    def _tell(self, words: str, *, bad: bool = False) -> None:
        if not self.closed:
            kind = "lt-bad" if bad else "lt-muted"
            parts.put(self.note, words and f'<div role="status" class="{kind}">{escape(words.strip())}</div>')

    def _ipython_display_(self) -> None:
        """Show the chat, and before it the note that a page shows if it does not find the widgets: see `saved`."""
        from IPython.display import display

        note = '<div class="lt-note">A chat was here. Run the cell again to chat.</div>'
        gone = f'<div class="llmtunnel lt-saved lt-{self.widget.model_id}">{STYLE}{NO_ERROR}{note}</div>'
        display({"text/html": gone, "text/plain": repr(self)}, raw=True)  # type: ignore[no-untyped-call]
        display(parts.view(self.widget), raw=True)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        return f"<llmtunnel chat{' closed' if self.closed else ''}: {self._url}>"


class _Answer:
    """A growing answer on the page."""

    def __init__(self, model: str) -> None:
        self.text = ""
        self._thoughts = ""
        self._model = model
        self._timer: asyncio.TimerHandle | None = None
        self.widget = HTML()
        self._draw()

    def add(self, piece: chat.Piece) -> None:
        """Add a piece, which is shown soon."""
        if piece.thought:
            self._thoughts += piece.text
        else:
            self.text += piece.text
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REDRAW, self._draw)

    def end(self, note: str) -> None:
        """Show the final text."""
        if self._timer is not None:
            self._timer.cancel()
        self._draw(note)

    def _draw(self, note: str = "…") -> None:
        self._timer = None
        self.widget.value = _said("model", self._model, self.text, thoughts=self._thoughts, note=note)


def _said(kind: str, name: str, text: str, *, thoughts: str = "", note: str = "") -> str:
    """Return a message as HTML. Its text comes from people and models, so it is escaped."""
    parts = (
        f'<div class="lt-muted">{escape(name)}</div>',
        f'<div class="lt-muted"><i>{escape(thoughts)}</i></div>' if thoughts.strip() else "",
        escape(text),
        f' <span class="lt-muted">{escape(note)}</span>' if note else "",
    )
    return f'<div class="lt-said lt-{kind}">{"".join(parts)}</div>'
