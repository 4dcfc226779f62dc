"""The live panel: the HTML of `html` in core widgets, and buttons. It has no thread of its own: see `ticking`.

Each drawing sets all parts. An unchanged part sends no message to the page.
"""

from __future__ import annotations

import inspect
import time
import weakref
from asyncio import AbstractEventLoop, Task
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from html import escape
from typing import Any, Final, Protocol

from ipywidgets import HTML, Button

from ..errors import TunnelError
from ..status import ActiveRequest, Phase, RequestRecord, Role, Status
from ..summary import Throughput, printable
from . import html, parts
from .reveal import Reveal
from .saved import Saved
from .style import STYLE, saved_or_live
from .ticking import Ticking, drawing_loop

PULSE: Final = 5.0
"""Seconds between two updates without news, which show that the panel is alive; `style.STALE` is several of them."""


class Handle(Protocol):
    """The part of a handle, async or blocking, that the views need. Further methods get a button each."""

    @property
    def loop(self) -> AbstractEventLoop | None:
        """See `aio.Tunnel.loop`."""

    @property
    def status(self) -> Status:
        """See `aio.Tunnel.status`."""

    def records(self, limit: int = ...) -> tuple[RequestRecord, ...]:
        """See `aio.Tunnel.records`."""

    def active_requests(self) -> tuple[ActiveRequest, ...]:
        """See `aio.Tunnel.active_requests`."""


class Panel:
    """A tunnel's state as widgets. It ends with its tunnel, or with `close`, and does not keep the handle alive."""

    def __init__(self, handle: Handle, *, clock: Callable[[], float] = time.time) -> None:
        self._handle = weakref.ref(handle)
        self._clock = clock
        self._throughput = Throughput()
        self.closed = self._was_seen = self._to_reveal = False
        self._tasks: set[Task[None]] = set()
        self._pulsed = 0.0
        self._was_ready = False
        self._models: tuple[str, ...] = ()
        self._asking: Task[None] | None = None
        self._make(handle)
        self._saved = Saved(self.widget.model_id, self._picture)
        self._ticking = Ticking(self.draw)
        if self.draw():
            self._ticking.start(drawing_loop(handle.loop))

    def _make(self, handle: Handle) -> None:
        self._state, self._error = parts.text("lt-grow"), parts.text("lt-bad")
        self._traffic, self._peers = parts.text("lt-part"), parts.text("lt-part")
        self._requests = parts.text("lt-part", "lt-scroll")
        self._usage = parts.text("lt-part")
        self._pulse = parts.text("lt-pulse")
        self._buttons = {"Stop": parts.button("Stop", "Stop the tunnel", lambda: self._do(_stop))}
        if hasattr(handle, "reconnect"):
            again = parts.button("Reconnect", "Connect again", lambda: self._do(_reconnect))
            self._buttons = {"Reconnect": again, **self._buttons}
        if hasattr(handle, "chat"):
            self._buttons = {"Chat": parts.button("Chat", "Try a model here", self._toggle_chat), **self._buttons}
        self._chat: Any = None
        self._chat_place = parts.column((), "lt-part")
        self._kicks: dict[str, Button] = {}
        self._kick_row = parts.row((), "lt-wrap")
        self._reveal = Reveal(self._code, self._link, clock=self._clock) if _has_invite(handle) else None
        style = HTML(STYLE + html.CHOICE)
        self.widget = parts.column(
            (
                style,
                self._pulse,
                parts.row((self._state, *self._buttons.values()), "lt-head"),
                self._error,
                *((self._reveal.widget,) if self._reveal is not None else ()),
                self._usage,
                self._chat_place,
                self._traffic,
                self._peers,
                self._kick_row,
                self._requests,
            ),
            "llmtunnel",
            "lt-panel",
        )
        self.widget.add_class(f"lt-{self.widget.model_id}")
        style.value += saved_or_live(self.widget.model_id)
        self.widget._view_count = 0  # makes the page count its views here
        self.widget.observe(self._seen, "_view_count")

    def show(self) -> None:
        """Show the panel under the running cell, and the picture that the notebook saves: see `saved`."""
        from IPython.display import display

        handle = self._handle()
        self._saved.show("" if handle is None else repr(handle))
        display(self.view, raw=True)  # type: ignore[no-untyped-call]

    @property
    def view(self) -> dict[str, Any]:
        """The mime bundle from which a page makes a view of the panel."""
        return parts.view(self.widget)

    def reveal(self) -> None:
        """Show the invite for a minute, as soon as a page shows the panel.

        Without a page, a program runs the notebook, and saves everything that the widgets receive.
        """
        self._to_reveal = True
        self._seen(None)

    def close(self) -> None:
        """Remove the panel from the page. The tunnel continues."""
        if not self.closed:
            self.closed = True
            self._ticking.stop()
            self._ask_no_more()
            if self._chat is not None:
                self._chat.close()
            parts.close(self.widget)

    # -- drawing

    @property
    def hidden(self) -> bool:
        """Whether the page has removed the panel after showing it."""
        return self._was_seen and not self.widget._view_count

    def _seen(self, _change: object) -> None:
        self._was_seen = self._was_seen or bool(self.widget._view_count)
        if self._to_reveal and self._reveal is not None and self.widget._view_count:
            self._to_reveal = False
            self._reveal.show()

    def draw(self) -> bool:
        """Draw the current state. Returns whether more updates will follow."""
        handle = self._handle()
        if self.closed:
            return False
        if handle is None:
            self._end()
            return False
        status = handle.status
        ended = status.phase.ended
        if self._reveal is not None:
            self._reveal.tick()
        if ended or not self.hidden:
            self._draw(handle, status)
        if ended:
            self._end()
        facts = (replace(status, peers=tuple(replace(peer, rtt=None) for peer in status.peers)), _ended(handle))
        self._saved.update(facts, now=self._clock(), last=ended)
        return not ended

    def _picture(self) -> str:
        handle = self._handle()
        if handle is None:
            return ""
        return html.saved(handle.status, _ended(handle), now=self._clock(), panel=self.widget.model_id)

    def _draw(self, handle: Handle, status: Status) -> None:
        now = self._clock()
        if now >= self._pulsed + PULSE:
            self._pulsed = now
            parts.put(self._pulse, html.pulse(now))
        self._throughput = self._throughput.added(status, now=now)
        parts.put(self._state, html.state(status))
        parts.put(self._traffic, html.traffic(status, self._throughput))
        parts.put(self._peers, html.peers(status, now=now))
        requests = html.requests(status, handle.active_requests(), _ended(handle), now=now, details=True)
        parts.put(self._requests, html.choosing(requests, self.widget.model_id))
        if hasattr(handle, "kick"):
            self._draw_kicks([peer.peer for peer in status.peers])

        if status.role is Role.PROXY:
            self._draw_usage(handle, status)

    def _draw_usage(self, handle: Any, status: Status) -> None:
        """Show how to use the proxy. The list of models is requested once, when the other side is connected."""
        ready = status.phase is Phase.READY
        if ready and not self._was_ready and not self._models and handle.loop is not None:
            self._ask(handle.loop, getattr(handle, "twin", handle))
        self._was_ready = ready
        shown = status.url and not status.phase.ended
        url, key = handle.openai_base_url, handle.needs_key
        parts.put(self._usage, html.usage(url, self._models, key=key) if shown else "")

    def _ask(self, loop: AbstractEventLoop, tunnel: Any) -> None:
        def start() -> None:
            self._asking = loop.create_task(self._ask_models(tunnel), name="llmtunnel panel's models")

        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(start)

    async def _ask_models(self, tunnel: Any) -> None:
        with suppress(TunnelError):  # the service may have no models, or serve may reject the request
            self._models = await tunnel.models()

    def _ask_no_more(self) -> None:
        if self._asking is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._asking.get_loop().call_soon_threadsafe(self._asking.cancel)

    def _draw_kicks(self, peers: list[str]) -> None:
        if list(self._kicks) == peers:
            return
        before, self._kicks = self._kicks, {peer: self._kicks.get(peer) or self._kick_button(peer) for peer in peers}
        self._kick_row.children = tuple(self._kicks.values())
        for peer in before.keys() - self._kicks.keys():
            before[peer].close()

    def _kick_button(self, peer: str) -> Button:
        return parts.button(f"Remove and block {printable(peer)}", "End its connection", lambda: self._do(_kick, peer))

    def _end(self) -> None:
        """Disable the buttons, since the tunnel has ended."""
        parts.put(self._pulse, "")
        self._ask_no_more()
        for button in (*self._buttons.values(), *self._kicks.values()):
            button.disabled = True
        if self._reveal is not None:
            self._reveal.end()

    def _code(self) -> str:
        """The invite's code; empty if there is no invite any more."""
        invite = getattr(self._handle(), "invite", None)
        return "" if invite is None else str(invite.code)

    def _link(self) -> str:
        """The link for a browser; empty if there is none."""
        return getattr(self._handle(), "web_url", None) or ""

    # -- actions of the buttons

    def _toggle_chat(self) -> None:
        if self._chat is None:
            self._do(self._open_chat)
        else:
            self._chat_place.children = ()
            self._chat.close()
            self._chat = None

    def _open_chat(self, handle: Any) -> None:
        self._chat = handle.chat()
        self._chat_place.children = (self._chat.widget,)

    def _do(self, action: Callable[..., object], *arguments: object) -> None:
        handle = self._handle()
        if handle is None:
            return
        try:
            result = action(handle, *arguments)
        except TunnelError as exc:
            self._tell(exc)
        else:
            self._tell(None)
            if inspect.isawaitable(result) and handle.loop is not None:
                task = handle.loop.create_task(self._finish(result), name="llmtunnel panel's button")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _finish(self, doing: Awaitable[object]) -> None:
        try:
            await doing
        except TunnelError as exc:
            self._tell(exc)

    def _tell(self, error: TunnelError | None) -> None:
        parts.put(self._error, "" if error is None else escape(printable(f"{error.message} {error.hint}")))


def _ended(handle: Handle) -> tuple[RequestRecord, ...]:
    return handle.records(html.ROWS)


def _has_invite(handle: Handle) -> bool:
    return handle.status.role is Role.SERVE and getattr(handle, "invite", None) is not None


def _stop(handle: Any) -> object:
    return handle.aclose() if hasattr(handle, "aclose") else handle.close()


def _reconnect(handle: Any) -> object:
    return handle.reconnect()


def _kick(handle: Any, peer: str) -> object:
    return handle.kick(peer)
