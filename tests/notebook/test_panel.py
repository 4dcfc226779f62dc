from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import ipywidgets
import pytest

from llmtunnel.notebook.panel import PULSE, Panel
from llmtunnel.notebook.style import STALE
from llmtunnel.status import Phase, Role

from ..support.scripted_handle import CODE, Clock, Handle, active, invited, peer, record, status

Run = Callable[..., Any]
Sent = list[dict[str, Any]]


@pytest.fixture
def clock(sent: Sent) -> Clock:
    return Clock()


def inside(widget: ipywidgets.Widget) -> Iterator[ipywidgets.Widget]:
    yield widget
    for child in getattr(widget, "children", ()):
        yield from inside(child)


def text(panel: Panel) -> str:
    """All that it shows as HTML."""
    shown = (each for each in inside(panel.widget) if isinstance(each, ipywidgets.HTML))
    return "".join(each.value for each in shown if each.layout.display != "none")


async def shows(panel: Panel, words: str) -> None:
    """Return when a drawing shows the words."""
    drawn = asyncio.Event()
    for each in inside(panel.widget):
        each.observe(lambda _: drawn.set())
    while words not in text(panel):
        drawn.clear()
        await asyncio.wait_for(drawn.wait(), 20)


def buttons(panel: Panel) -> dict[str, ipywidgets.Button]:
    return {each.description: each for each in inside(panel.widget) if isinstance(each, ipywidgets.Button)}


def test_it_shows_what_the_handle_tells(clock: Clock) -> None:
    handle = Handle(status=status(peers=(peer(),)), ended=(record(),), under_way=(active(),))
    shown = text(Panel(handle, clock=clock))
    for told in ("ready", "proxy-ab12cd", "/v1/models", "/v1/chat/completions"):
        assert told in shown


def test_only_what_changed_goes_to_the_page(clock: Clock, sent: Sent) -> None:
    handle = Handle(ended=(record(),))
    panel = Panel(handle, clock=clock)
    sent.clear()
    panel.draw()
    assert sent == []
    handle.status = replace(handle.status, phase=Phase.WAITING)
    panel.draw()
    assert [list(each["data"]["state"]) for each in sent] == [["value"]]
    assert "waiting for a proxy" in sent[0]["data"]["state"]["value"]


def test_a_page_is_told_every_few_seconds_that_there_are_updates_until_there_are_none(clock: Clock, sent: Sent) -> None:
    handle = Handle()
    panel = Panel(handle, clock=clock)
    for passed, told in ((PULSE - 1, 0), (1, 1)):
        clock.now += passed
        sent.clear()
        panel.draw()
        assert ["No update for 20 s" in str(each) for each in sent] == [True] * told
    assert 2 * PULSE < STALE  # one that is late tells nothing wrong
    handle.status = status(phase=Phase.STOPPED)
    panel.draw()
    assert "No update" not in text(panel)


def test_the_code_is_nowhere_until_it_is_asked_for(clock: Clock, sent: Sent) -> None:
    handle = invited()
    panel = Panel(handle, clock=clock)
    assert "tulip" not in str(sent)
    buttons(panel)["Show"].click()
    assert [each for each in sent if CODE in str(each["buffers"])]
    assert "tulip" not in text(panel)


def test_the_code_is_masked_again_by_the_drawing(clock: Clock) -> None:
    handle = invited()
    panel = Panel(handle, clock=clock)
    buttons(panel)["Show"].click()
    assert "Hide" in buttons(panel)
    clock.now += 61
    panel.draw()
    assert "Show" in buttons(panel)


def seen_by(panel: Panel, views: int) -> None:
    """A page says how often it shows the panel."""
    panel.widget._view_count = views


def test_a_program_reveals_the_code_to_no_page_but_one_that_shows_it(clock: Clock, sent: Sent) -> None:
    handle = invited()
    panel = Panel(handle, clock=clock)
    panel.reveal()
    assert "tulip" not in str(sent)
    seen_by(panel, 1)
    assert [each for each in sent if CODE in str(each["buffers"])]
    buttons(panel)["Hide"].click()
    panel.reveal()
    assert "Hide" in buttons(panel)


@pytest.mark.parametrize("handle", [Handle(), invited(status=status(role=Role.PROXY))])
def test_without_an_invite_of_its_own_there_is_nothing_to_show(handle: Handle, clock: Clock) -> None:
    assert "Show" not in buttons(Panel(handle, clock=clock))


def test_each_peer_has_a_button_that_puts_it_out(clock: Clock) -> None:
    handle = Handle(status=status(peers=(peer("one"), peer("two"))))
    panel = Panel(handle, clock=clock)
    kept = buttons(panel)["Remove and block two"]
    handle.status = status(peers=(peer("two"), peer("three")))
    panel.draw()
    assert [name for name in buttons(panel) if "block" in name] == ["Remove and block two", "Remove and block three"]
    assert buttons(panel)["Remove and block two"] is kept
    kept.click()
    assert handle.done == ["kick two"]


async def test_a_proxy_asks_for_the_models_once_it_is_ready_and_says_how_to_use_it(clock: Clock) -> None:
    handle = Handle(status=status(role=Role.PROXY, phase=Phase.WAITING), loop=asyncio.get_running_loop())
    panel = Panel(handle, clock=clock)
    assert 'value="http://127.0.0.1:8000/v1"' in text(panel)
    assert "model=&quot;MODEL&quot;" in text(panel)
    assert handle.done == []
    handle.status = status(role=Role.PROXY)
    await shows(panel, 'value="llama3"')
    panel.draw()
    assert handle.done == ["models"]
    handle.status = status(role=Role.PROXY, phase=Phase.STOPPED)
    panel.draw()
    assert "8000/v1" not in text(panel)
    panel.close()
    await asyncio.sleep(0)


def test_what_a_button_fails_with_is_shown_and_goes_with_the_next(clock: Clock) -> None:
    handle = Handle(status=status(peers=(peer("<b>"),)))
    panel = Panel(handle, clock=clock)
    buttons(panel)["Remove and block <b>"].click()
    assert "There is no peer &#x27;&lt;b&gt;&#x27; now. Those that are in: none." in text(panel)
    buttons(panel)["Stop"].click()
    assert "There is no peer" not in text(panel)


async def test_stop_and_reconnect_act_on_the_tunnel(clock: Clock) -> None:
    handle = Handle(loop=asyncio.get_running_loop())
    panel = Panel(handle, clock=clock)
    for name in ("Reconnect", "Stop"):
        buttons(panel)[name].click()
    await asyncio.sleep(0)
    assert sorted(handle.done) == ["close", "reconnect"]
    panel.close()
    await asyncio.sleep(0)


async def test_it_is_drawn_again_and_again_until_its_tunnel_stops(clock: Clock) -> None:
    handle = invited(loop=asyncio.get_running_loop())
    panel = Panel(handle, clock=clock)
    handle.status = status(phase=Phase.WAITING)
    await shows(panel, "waiting for a proxy")
    buttons(panel)["Show"].click()
    handle.status = status(phase=Phase.STOPPED)
    await shows(panel, "<b>stopped</b>")
    assert all(button.disabled for name, button in buttons(panel).items() if name != "Show")
    assert "Show" in buttons(panel)  # masked
    await asyncio.sleep(0)  # `run` sees that no task is left


def test_nothing_goes_to_a_page_that_has_cleared_it_away(clock: Clock, sent: Sent) -> None:
    handle = Handle()
    panel = Panel(handle, clock=clock)
    assert not panel.hidden  # a page that does not count its views must not lose it
    seen_by(panel, 1)
    seen_by(panel, 0)
    assert panel.hidden
    sent.clear()
    handle.status = status(phase=Phase.WAITING)
    assert panel.draw()
    assert sent == []
    seen_by(panel, 1)
    panel.draw()
    assert "waiting for a proxy" in text(panel)


def test_a_closed_panel_leaves_no_task_and_no_widget(clock: Clock, run: Run) -> None:
    before = set(ipywidgets.Widget.get_manager_state()["state"])

    async def main() -> None:
        panel = Panel(Handle(loop=asyncio.get_running_loop()), clock=clock)
        await asyncio.sleep(0)
        panel.close()
        panel.close()
        assert not panel.draw()

    run(main())
    left = [
        each["model_name"]
        for name, each in ipywidgets.Widget.get_manager_state()["state"].items()
        if name not in before
    ]
    assert set(left) <= {"LayoutModel", "ButtonStyleModel", "DescriptionStyleModel", "HTMLStyleModel"}


def test_it_keeps_no_handle_alive(clock: Clock) -> None:
    handle = invited()
    panel = Panel(handle, clock=clock)
    del handle
    gc.collect()
    for button in buttons(panel).values():
        button.click()
    assert "Show" in buttons(panel)
    assert not panel.draw()
    assert all(button.disabled for name, button in buttons(panel).items() if name != "Show")
