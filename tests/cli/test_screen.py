from __future__ import annotations

from llmtunnel.cli.screen import Screen

from ..support.emulator import Emulator


class Drawn:
    """A screen of ours and the terminal that it is drawn on."""

    def __init__(self, columns: int = 20, rows: int = 10) -> None:
        self.terminal = Emulator(columns, rows)
        self.screen = Screen()

    def show(self, *view: str, said: tuple[str, ...] = ()) -> str:
        written = self.screen.show(view, columns=self.terminal.columns, said=said)
        self.terminal.feed(written.replace("\n", "\r\n"))
        return written


def test_a_view_is_drawn_over_itself_also_as_it_grows_and_shrinks() -> None:
    drawn = Drawn()
    drawn.terminal.feed("$ command\r\n")
    for view in (("one", "two"), ("one", "2", "three", "four"), ("1",), (), ("again",)):
        drawn.show(*view)
        assert drawn.terminal.lines == ["$ command", *view]


def test_only_what_changed_is_written() -> None:
    drawn = Drawn()
    drawn.show("the first", "the second")
    written = drawn.show("the first", "another")
    assert "first" not in written and "another" in written
    assert drawn.show("the first", "another") == ""


def test_what_is_said_comes_to_stand_above_and_scrolls_away() -> None:
    drawn = Drawn(rows=5)
    drawn.show("view", "of two")
    drawn.show("view", "of two", said=("hello", "there"))
    drawn.show("view", "of two", said=("a line that is wider than the screen",))
    assert drawn.terminal.lines == ["a line that is wider", " than the screen", "view", "of two"]
    assert drawn.terminal.scrolled == ["hello", "there"]


def test_a_view_survives_that_its_terminal_is_made_narrower_and_wider() -> None:
    drawn = Drawn(columns=20, rows=12)
    drawn.show("\x1b[31ma rather wide line\x1b[0m", "short", said=("hello",))
    drawn.terminal.resize(10, 12)
    drawn.show("narrow", "short")
    assert drawn.terminal.lines == ["hello", "narrow", "short"]
    drawn.terminal.resize(30, 12)
    drawn.show("wide again", "short")
    assert drawn.terminal.lines == ["hello", "wide again", "short"]


def test_a_view_that_is_forgotten_stays_and_the_next_one_is_drawn_below() -> None:
    drawn = Drawn()
    drawn.show("last words")
    drawn.screen.forget()
    drawn.show("another view")
    assert drawn.terminal.lines == ["last words", "another view"]


def test_a_frame_that_comes_in_pieces_is_shown_once_it_is_whole() -> None:
    drawn = Drawn()
    drawn.show("the first", "the second")
    for char in drawn.screen.show(["1", "2", "3"], columns=20, said=["hello"]).replace("\n", "\r\n"):
        assert drawn.terminal.lines == ["the first", "the second"]
        drawn.terminal.feed(char)
    assert drawn.terminal.lines == ["hello", "1", "2", "3"]
