from __future__ import annotations

import html
import json
from typing import Any

import ipywidgets
import pytest

from llmtunnel.install import on_laptop
from llmtunnel.notebook import qr
from llmtunnel.notebook.reveal import SHOWN, Picture, Reveal

from ..support.scripted_handle import CODE, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reveal(sent: list[dict[str, Any]], clock: Clock) -> Reveal:
    return Reveal(lambda: CODE, clock=clock)


def state_of_all() -> str:
    """Every widget's state, but for bytes."""
    widgets = ipywidgets.Widget.get_manager_state()["state"].values()
    return json.dumps([each["state"] for each in widgets], default=lambda value: "bytes")


def test_the_code_is_masked_until_asked(reveal: Reveal) -> None:
    assert not reveal.shown
    assert reveal.picture.value == b""
    assert reveal.picture.layout.display == "none"
    assert "•••" in reveal.fields.value


def test_a_click_shows_it_and_another_masks_it(reveal: Reveal) -> None:
    reveal.button.click()
    assert CODE.encode() in reveal.picture.value
    assert reveal.picture.layout.display is None
    assert reveal.button.description == "Hide"
    reveal.button.click()
    assert reveal.picture.value == b""
    assert "onerror" not in reveal.fields.value


def test_it_says_what_to_do_next(reveal: Reveal) -> None:
    hint = "Click <b>Show</b>, then run this on your laptop:"
    assert hint in reveal.fields.value
    assert html.escape(on_laptop().pip) in reveal.fields.value
    reveal.show()
    assert hint not in reveal.fields.value
    assert html.escape(on_laptop().pip) in reveal.fields.value
    for line in (on_laptop(CODE).run, on_laptop(CODE).uvx):
        assert html.escape(line).encode() in reveal.picture.value


def test_it_is_masked_again_after_a_minute(reveal: Reveal, clock: Clock) -> None:
    reveal.show()
    clock.now += SHOWN - 1
    reveal.tick()
    assert reveal.shown
    clock.now += 1
    reveal.tick()
    assert not reveal.shown
    assert reveal.picture.value == b""


def test_a_code_that_was_renewed_is_not_shown_on(sent: list[dict[str, Any]], clock: Clock) -> None:
    codes = [CODE]
    reveal = Reveal(lambda: codes[-1], clock=clock)
    reveal.show()
    codes.append("another")
    reveal.tick()
    assert not reveal.shown
    reveal.show()
    assert b"another" in reveal.picture.value


def test_while_it_is_shown_it_is_in_no_state_but_the_pictures_bytes(reveal: Reveal, sent: list[dict[str, Any]]) -> None:
    reveal.show()
    assert "tulip" not in state_of_all()
    told = [message for message in sent if "tulip" in str(message)]
    assert len(told) == 1
    assert told[0]["data"]["buffer_paths"] == [["value"]]
    assert "tulip" not in str(told[0]["data"])


def test_a_link_is_shown_like_the_code_and_the_picture_is_of_it(clock: Clock, sent: list[dict[str, Any]]) -> None:
    link = f"https://page.example/#{CODE}"
    reveal = Reveal(lambda: CODE, lambda: link, clock=clock)
    assert "or open" in reveal.fields.value
    assert CODE not in reveal.fields.value
    reveal.show()
    assert link.encode() in reveal.picture.value
    assert reveal.picture.value == qr.picture(CODE, link, line=on_laptop(CODE).run, uvx=on_laptop(CODE).uvx, link=link)
    assert "tulip" not in state_of_all()
    assert len([message for message in sent if "tulip" in str(message)]) == 1
    reveal.hide()
    assert reveal.picture.value == b""


def test_a_link_gets_its_field_once_the_signal_server_has_said_that_it_has_a_page(
    clock: Clock, sent: list[dict[str, Any]]
) -> None:
    links = [""]
    reveal = Reveal(lambda: CODE, lambda: links[-1], clock=clock)
    assert "or open" not in reveal.fields.value
    links.append(f"https://page.example/#{CODE}")
    reveal.tick()
    assert "or open" in reveal.fields.value
    assert "tulip" not in str(sent)
    before = len(sent)
    reveal.tick()
    assert len(sent) == before, "what has not changed is not sent again"


def test_without_a_link_there_is_no_field_for_it(reveal: Reveal) -> None:
    assert "or open" not in reveal.fields.value
    reveal.show()
    assert "or open" not in reveal.fields.value


def test_the_pictures_model_is_the_one_that_saves_no_bytes(reveal: Reveal) -> None:
    """@jupyter-widgets/base's own: an image's has a serializer for them. The browser test shows what is saved."""
    state = reveal.picture.get_state()
    assert (state["_model_module"], state["_model_name"]) == ("@jupyter-widgets/base", "DOMWidgetModel")
    assert (state["_view_module"], state["_view_name"]) == ("@jupyter-widgets/controls", "ImageView")
    assert state["_view_module_version"] == ipywidgets.Image().get_state()["_view_module_version"]


def test_what_the_kernel_exports_has_no_picture(sent: list[dict[str, Any]]) -> None:
    picture = Picture(value=CODE.encode())
    exported = ipywidgets.Widget.get_manager_state(widgets=[picture])["state"][picture.model_id]
    assert "value" not in exported["state"]
    assert "buffers" not in exported
