"""The commands on a terminal: what stands on it, and that it is left as it was found."""

from __future__ import annotations

import asyncio
import codecs
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from llmtunnel.cli import qr
from llmtunnel.cli.console import GIVING_UP, Console
from llmtunnel.cli.live import INTERVAL, Live
from llmtunnel.cli.output import Output
from llmtunnel.cli.terminal import Terminal
from llmtunnel.config import IceServers, ProxySettings
from llmtunnel.invite import COUNT, EXAMPLE, Invite
from llmtunnel.session.carrier import NOT_PROVEN
from llmtunnel.tunnel import Proxy
from llmtunnel.words import WORDS

from ..support.emulator import Emulator
from ..support.processes import PATIENCE, ROOT, Processes

if sys.platform != "win32":
    import pty
    import termios
    import tty

pytestmark = pytest.mark.skipif(os.name != "posix", reason="no terminals of this kind elsewhere")

KEYS = "  q or Ctrl-C: leave"
GIVEN = f"{EXAMPLE}@ws://127.0.0.1:1"
NO_SIGNAL = ("--stun", "none", "--signal", "ws://127.0.0.1:1")
NOWHERE = ("proxy", "--room", "x", "--secret", "of-the-test", *NO_SIGNAL, "--listen", "127.0.0.1:0")


COMMAND = (
    "import fcntl, sys, termios; fcntl.ioctl(1, termios.TIOCSCTTY, 0);"  # its own terminal: Ctrl-C is its to hear
    "from llmtunnel.cli import main; sys.exit(main())"
)


class OnTerminal:
    """``llmtunnel proxy``, or another command, which reaches no signal server, on a terminal of its own."""

    def __init__(
        self, *flags: str, command: Sequence[str] = NOWHERE, keyboard: bool = True, columns: int = 80, **environ: str
    ) -> None:
        self.screen = Emulator(columns)
        self.raw = ""
        self.end, theirs = pty.openpty()
        termios.tcsetwinsize(self.end, (24, columns))
        self.found = self.modes
        self._grew = threading.Condition()
        foreign = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TUNNEL_", "LLMTUNNEL_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *command, *flags],
            cwd=ROOT,
            env=kept | {"TERM": "xterm", "PYTHONUTF8": "1"} | environ,
            stdin=theirs if keyboard else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def modes(self) -> list[Any]:
        """The terminal's, as `termios` has them."""
        return termios.tcgetattr(self.end)

    @property
    def as_found(self) -> bool:
        """Whether the terminal is in the mode that it was in before."""
        return self.modes == self.found

    def type(self, keys: str) -> None:
        os.write(self.end, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        with self._grew:
            self.screen.resize(columns, rows)
            termios.tcsetwinsize(self.end, (rows, columns))

    def wait(self, holds: Callable[[Emulator], object]) -> None:
        """Return when something holds of what is shown."""
        with self._grew:
            assert self._grew.wait_for(lambda: holds(self.screen), PATIENCE), self.screen.text

    def wait_exit(self) -> int:
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE)
        os.close(self.end)

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()  # what is read may end within a character
        with suppress(OSError):  # the process has ended, and the terminal with it
            while data := os.read(self.end, 65536):
                with self._grew:
                    text = decoder.decode(data)
                    self.raw += text
                    self.screen.feed(text)
                    self._grew.notify_all()


@contextmanager
def on_terminal(
    *flags: str, command: Sequence[str] = NOWHERE, keyboard: bool = True, columns: int = 80, **environ: str
) -> Iterator[OnTerminal]:
    terminal = OnTerminal(*flags, command=command, keyboard=keyboard, columns=columns, **environ)
    try:
        yield terminal
    finally:
        terminal.close()


def drawn(screen: Emulator) -> bool:
    """The view is there, once and whole."""
    return screen.lines[-1].startswith("  q or") and sum("● " in line or "◌ " in line for line in screen.lines) == 1


def blocks(screen: Emulator) -> list[int]:
    """How long each sparkline is."""
    return [count for line in screen.lines if (count := line.count("▁"))]


def test_a_tunnel_is_drawn_below_what_is_said_and_q_ends_it_with_the_last_state_left() -> None:
    with on_terminal() as terminal:
        terminal.wait(drawn)
        terminal.wait(lambda screen: "reaching the signal server" in screen.text)
        lines = terminal.screen.lines
        assert lines[0].startswith("proxy listening on http://127.0.0.1:")
        assert "◌ reaching the signal server" in lines
        assert f"  url      {lines[0].split()[-1]}" in lines
        assert lines[-2:] == ["  requests: 0 now, 0 ended", KEYS]
        assert len(lines) <= 24 and max(map(len, lines)) <= 80
        assert not terminal.screen.cursor_seen and not terminal.as_found
        terminal.type("xq")
        assert terminal.wait_exit() == 0
        assert terminal.as_found and terminal.screen.cursor_seen
        assert terminal.screen.lines[-2:] == ["  requests: 0 now, 0 ended", "stopped"]
        assert KEYS not in terminal.screen.lines


@pytest.mark.parametrize("columns", [20, 40, 80, 120, 150])
def test_the_command_that_serve_shows_is_copied_whole_whatever_the_width_and_it_runs(
    started: Processes, columns: int
) -> None:
    signal = started.signal().url
    with on_terminal(command=("serve", "--upstream", "1", "--stun", "none", "--signal", signal)) as terminal:
        terminal.resize(columns, 24)
        terminal.wait(lambda screen: "llmtunnel proxy" in " ".join(screen.copied) and "q or" in screen.text)
        [command] = [line for line in terminal.screen.copied if line.startswith("llmtunnel proxy ")]
        proxy = started.command(*shlex.split(command)[1:], "--listen", "127.0.0.1:0")
        assert proxy.wait_event("peer-connected")["authenticated"]
        terminal.wait(lambda screen: "ready" in screen.text)
        assert terminal.raw.count(f"\n{command}") == 1, "the view does not repeat it"
        terminal.type("i")
        terminal.wait(lambda screen: screen.copied.count(command) == 2)
        terminal.type("q")
        assert terminal.wait_exit() == 0


def test_the_link_is_shown_with_its_qr_code_where_there_is_room_and_again_on_request(started: Processes) -> None:
    signal = started.signal().url
    command = ("serve", "--upstream", "1", "--stun", "none", "--signal", signal, "--web")
    with on_terminal(command=command, columns=100, TERM="xterm-256color") as terminal:
        terminal.wait(lambda screen: "For a QR code of the link, enlarge the terminal" in screen.text)
        assert "█" not in terminal.raw
        terminal.resize(100, 50)
        terminal.type("i")
        terminal.wait(lambda screen: "█▀▀▀▀▀█" in screen.text and drawn(screen))
        [link] = {line for line in terminal.screen.copied if "/#" in line}
        shown = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in qr.lines(link)]
        assert "\n".join(shown).strip("\n") in terminal.screen.text
        terminal.type("q")
        assert terminal.wait_exit() == 0


def test_without_enough_colours_there_is_the_link_alone(started: Processes) -> None:
    command = ("serve", "--upstream", "1", "--stun", "none", "--signal", started.signal().url, "--web")
    with on_terminal(command=command, columns=100, TERM="xterm-256color", NO_COLOR="1") as terminal:
        terminal.wait(lambda screen: "/#" in screen.text and drawn(screen))
        assert "QR code" not in terminal.screen.text


@pytest.mark.parametrize("flags", [(), ("--plain",)])
def test_a_wrong_code_is_explained_once(started: Processes, flags: tuple[str, ...]) -> None:
    signal = started.signal().url
    serve = started.command("serve", "--upstream", "1", "--signal", signal)
    invite = Invite.parse(serve.wait_event("invite")["code"])
    wrong = ("proxy", invite.renewed().code, "--stun", "none", "--listen", "127.0.0.1:0")
    with on_terminal(*flags, command=wrong) as terminal:
        assert terminal.wait_exit() == 3
        text = " ".join(terminal.screen.copied)
        assert text.count("Wrong code: ") == text.count(NOT_PROVEN) == 1
        assert terminal.screen.lines[-1] == GIVING_UP.strip()


@pytest.mark.parametrize("end", ["-mango", "-ced", "@ws://"])
def test_a_code_that_was_cut_off_is_refused_as_that(end: str) -> None:
    cut = GIVEN[: GIVEN.index(end) + len(end)]
    with on_terminal(command=("proxy", cut)) as terminal:
        assert terminal.wait_exit() == 2
        assert terminal.screen.copied[0].startswith("error: The code was cut off")
        assert terminal.screen.copied[1].startswith("Copy all of it")
        assert len([line for line in terminal.screen.copied if line]) == 2


def test_on_a_terminal_the_doctor_says_whether_serve_is_there_at_any_width(started: Processes) -> None:
    serve = started.command("serve", "--upstream", "1", "--signal", started.signal().url)
    code = serve.wait_event("invite")["code"]
    with on_terminal(command=("doctor", code, "--stun", "none", "--listen", "127.0.0.1:0"), columns=40) as terminal:
        assert terminal.wait_exit() == 0
        text = " ".join(" ".join(terminal.screen.copied).split())
        assert "✓ serve It is in the room" in text and "the code is right." in text
        assert max(map(len, terminal.screen.copied)) <= 40


def test_an_invite_that_serve_was_given_is_not_drawn() -> None:
    with on_terminal(command=("serve", "--upstream", "1", "--stun", "none"), TUNNEL_INVITE=GIVEN) as terminal:
        terminal.wait(drawn)
        assert "tulip" not in terminal.raw


def test_ctrl_c_leaves_the_terminal_as_it_was_found_too() -> None:
    with on_terminal() as terminal:
        terminal.wait(drawn)
        terminal.type("\x03")
        assert terminal.wait_exit() == 130
        assert terminal.as_found and terminal.screen.cursor_seen


def test_a_view_is_drawn_anew_where_its_terminal_takes_another_size() -> None:
    with on_terminal() as terminal:
        terminal.wait(drawn)
        for columns, rows in ((50, 24), (120, 30), (80, 14)):
            terminal.resize(columns, rows)
            cells = [min(columns - 41, 60)] * 2
            terminal.wait(lambda screen, cells=cells: drawn(screen) and cells == blocks(screen))  # type: ignore[misc]
            assert max(map(len, terminal.screen.lines)) <= columns


def test_logs_come_to_stand_above_the_view_and_requests_in_it() -> None:
    with on_terminal("-v", "--wait-for-peer", "0") as terminal:
        terminal.wait(drawn)
        url = next(line.split()[-1] for line in terminal.screen.lines if line.startswith("  url"))
        with pytest.raises(HTTPError, match="503") as refused:
            urlopen(f"{url}/v1/models", timeout=PATIENCE)
        refused.value.close()
        terminal.wait(lambda screen: "✗ GET     /v1/models     503" in screen.text and drawn(screen))
        logged = next(n for n, line in enumerate(terminal.screen.lines) if "INFO llmtunnel.endpoints" in line)
        assert logged < terminal.screen.lines.index("  requests: 0 now, 1 ended")


def test_a_process_that_was_stopped_takes_the_terminal_again_as_it_goes_on() -> None:
    with on_terminal() as terminal:
        terminal.wait(drawn)
        terminal.process.send_signal(signal.SIGSTOP)
        termios.tcsetattr(terminal.end, termios.TCSANOW, terminal.found)  # as a shell does
        terminal.screen.feed("\r\nstopped by somebody\r\n")
        terminal.process.send_signal(signal.SIGCONT)
        terminal.type("q")  # read at once only where lines are not waited for
        assert terminal.wait_exit() == 0


def test_ctrl_z_puts_the_terminal_back_and_the_view_below_what_the_shell_says() -> None:
    with on_terminal() as terminal:
        terminal.wait(drawn)
        terminal.type("\x1a")  # there is no shell that could let it go on: it is not stopped at all
        terminal.wait(lambda screen: sum("requests: 0 now" in line for line in screen.lines) == 2)
        terminal.wait(lambda screen: screen.lines[-1] == KEYS)
        assert terminal.screen.text.count(KEYS) == 1
        terminal.type("q")
        assert terminal.wait_exit() == 0
        assert terminal.as_found


@pytest.mark.parametrize(
    ("flags", "environ"), [(["--plain"], {}), ([], {"TERM": "dumb"}), ([], {"PYTHONIOENCODING": "ascii"})]
)
def test_there_are_lines_where_they_are_wished_for_or_nothing_can_be_drawn(
    flags: list[str], environ: dict[str, str]
) -> None:
    with on_terminal(*flags, **environ) as terminal:
        terminal.wait(lambda screen: "is --signal right?" in screen.text)
        terminal.process.terminate()
        assert terminal.wait_exit() == 143
        assert "\x1b" not in terminal.raw
        assert terminal.screen.lines[0].startswith("proxy listening on")
        assert terminal.screen.lines[-1] == "stopped"


def test_programs_get_objects_on_a_terminal_too() -> None:
    with on_terminal("--json") as terminal:
        terminal.wait(lambda screen: "reconnecting" in screen.text)
        assert "\x1b" not in terminal.raw


def test_no_colour_is_used_where_none_is_wished_for() -> None:
    with on_terminal() as coloured, on_terminal(NO_COLOR="1") as plain:
        for terminal in (coloured, plain):
            terminal.wait(drawn)
            terminal.wait(lambda screen: "reaching" in screen.text)
        assert "33" in coloured.screen.styles
        assert plain.screen.styles <= {"0", "1", "2"}


def test_without_a_keyboard_only_ctrl_c_is_offered() -> None:
    with on_terminal(keyboard=False) as terminal:
        terminal.wait(lambda screen: screen.lines[-1] == "  Ctrl-C: leave")
        assert terminal.as_found
        terminal.type("\x03")
        assert terminal.wait_exit() == 130
        assert terminal.screen.cursor_seen


def test_a_listener_that_cannot_be_opened_is_told_without_a_view() -> None:
    with on_terminal("--listen", "192.0.2.1:1", "--no-auth") as terminal:
        assert terminal.wait_exit() == 2
        assert terminal.screen.lines[0].startswith("error: ") and "requests:" not in terminal.screen.text
        assert terminal.as_found and terminal.screen.cursor_seen


@contextmanager
def unread_terminal() -> Iterator[tuple[int, Any]]:
    """A terminal that shows nothing of what it is sent until its other end is read."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        try:
            yield ours, stream
        finally:
            os.close(ours)


async def test_a_terminal_that_takes_nothing_holds_nothing_up() -> None:
    with unread_terminal() as (_, stream):
        output = Output(stream)
        begun = time.perf_counter()
        for _ in range(2000):
            output.write("x" * 1000 + "\n")
        output.close()
        assert (time.perf_counter() - begun) < PATIENCE  # it would wait for ever


async def test_frames_are_left_out_while_the_terminal_takes_none_and_what_was_said_is_kept() -> None:
    settings = ProxySettings(room="x", signal="ws://127.0.0.1:1", ice=IceServers(stun=()))

    with unread_terminal() as (ours, stream):
        output = Output(stream)
        output.write("x" * 200_000)
        waiting = len(output.waiting)
        live = Live(Proxy(settings), Terminal(stream), output, on_quit=lambda: None)
        with live.shown():
            live.write("said meanwhile\n")
            await asyncio.sleep(3 * INTERVAL)
            waiting = max(waiting, len(output.waiting))
            text = await asyncio.to_thread(_read_until, ours, "said meanwhile", "ended")
        await asyncio.get_running_loop().shutdown_default_executor()
    assert waiting == 1
    assert "starting" in text


@pytest.mark.parametrize("columns", range(20, 151, 13))
@pytest.mark.parametrize("elsewhere", [False, True])
async def test_the_longest_code_is_copied_whole_at_any_width(columns: int, elsewhere: bool) -> None:
    words = sorted(WORDS, key=len)[-COUNT:]
    code = f"4821309-{'-'.join(words)}" + (f"@ws://{'h' * 253}:65535/{'p' * 256}" if elsewhere else "")
    assert Invite.parse(code).code == code
    settings = ProxySettings(room="x", signal="ws://127.0.0.1:1", ice=IceServers(stun=()))
    screen = Emulator(columns, 60)
    with unread_terminal() as (ours, stream):
        termios.tcsetwinsize(ours, (60, columns))
        live = Live(Proxy(settings), Terminal(stream), Output(stream), on_quit=lambda: None)
        with live.shown():
            live.remember(f"invite: {code}\nllmtunnel proxy {code}\n")
            text = await asyncio.to_thread(_read_until, ours, "requests")
        await asyncio.get_running_loop().shutdown_default_executor()
    screen.feed(text.replace("\n", "\r\n"))
    assert [f"invite: {code}", f"llmtunnel proxy {code}"] == screen.copied[:2]


def _read_until(descriptor: int, *expected: str) -> str:
    text = b""
    while not all(each.encode() in text for each in expected):
        text += os.read(descriptor, 65536)
    return text.decode(errors="replace")


async def test_a_view_that_fails_puts_the_terminal_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with unread_terminal() as (ours, stream):
        monkeypatch.setattr(sys, "stdin", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        handler = logging.StreamHandler(stream)
        monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
        before = termios.tcgetattr(ours)
        console = Console(stream=stream)
        proxy = Proxy(ProxySettings(room="x", signal="ws://127.0.0.1:1", ice=IceServers(stun=())))
        with pytest.raises(ZeroDivisionError), console.watching(proxy):
            assert handler.stream is not stream
            raise ZeroDivisionError
        assert handler.stream is stream
        assert termios.tcgetattr(ours) == before
        console.output.close()
