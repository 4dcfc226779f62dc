"""The documentation's picture of both sides, from a tunnel that runs: ``python -m tests.docs.picture``.

Serve is in a notebook of a real JupyterLab, whose panel is photographed. Proxy is in this process; its view is what
``llmtunnel proxy`` draws on a terminal. Writes ``docs/both-sides.png`` and ``docs/terminal.svg``.
"""

from __future__ import annotations

import base64
import io
import json
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

import llmtunnel
from llmtunnel import local
from llmtunnel.cli.view import render
from llmtunnel.summary import Throughput

from ..support.browser import Page, browser
from ..support.jupyter import Lab
from ..support.processes import processes
from .markdown import DOCS

SERVE = """
import pathlib, llmtunnel
server = llmtunnel.serve({upstream!r}, signal={signal!r}, stun=(), path="direct")
pathlib.Path({code!r}).write_text(server.invite.code)
"""
COLUMNS, LINES = 84, 24
SETTLED = 7.0
"""Seconds after which each side has measured the round trip."""
DARK, LIGHT, GREY = (30, 33, 39), (215, 218, 224), (110, 116, 128)
COLOURS = [(224, 108, 117), (126, 184, 97), (229, 192, 123), (97, 175, 239), (198, 120, 221), (86, 182, 194)]
THEME = TerminalTheme(DARK, LIGHT, [DARK, *COLOURS, LIGHT], [GREY, *COLOURS, LIGHT])
CLIENT = """\
client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
client.chat.completions.create(model="toy", messages=…, stream=True)"""
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; font: 15px system-ui, sans-serif; color: #333; }}
main {{ display: grid; grid-template-columns: auto auto; gap: 0 28px; padding: 14px; width: max-content;
  background: #fff; align-items: start; }}
h1 {{ font-size: 15px; margin: 0 0 8px; font-weight: 600; }}
p {{ grid-column: 1 / 3; text-align: center; margin: 12px 0 0; color: #555; }}
pre {{ margin: 0; padding: 14px 16px; background: #f4f5f7; border: 1px solid #ddd; border-radius: 6px;
  font: 14px ui-monospace, monospace; color: #222; }}
h1 + pre {{ margin-top: 0; }} h1.below {{ margin-top: 22px; }}
img {{ display: block; width: {panel}px; }} svg {{ display: block; width: 660px; height: auto; }}
</style><main>
<div><h1>The GPU machine: serve, in a notebook</h1><img src="data:image/png;base64,{picture}"></div>
<div><h1>Your laptop: proxy, in a terminal</h1>{terminal}
<h1 class="below">Any client there</h1><pre>{client}</pre></div>
<p>◀━━━ encrypted, peer to peer ━━━▶</p></main>"""


def ask(url: str, prompt: str) -> None:
    """Have the toy answer, token by token."""
    body = {"model": "toy", "stream": True, "messages": [{"role": "user", "content": prompt}]}
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        answer.read()


def terminal(proxy: llmtunnel.sync.Proxy, throughput: Throughput) -> str:
    """What proxy shows on a terminal now, as SVG."""
    view = render(
        proxy.status,
        proxy.records(20),
        proxy.active_requests(),
        throughput=throughput,
        now=time.time(),
        width=COLUMNS,
        height=LINES,
        keys="q or Ctrl-C: leave",
    )
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False
    )
    console.print(view, end="", soft_wrap=True)
    return console.export_svg(title="llmtunnel proxy", theme=THEME, unique_id="proxy")


def busy(page: Page, lab: Lab, proxy: llmtunnel.sync.Proxy) -> tuple[bytes, str]:
    """Requests that ended and requests under way: the panel, and the terminal at the same moment."""
    throughput = Throughput()
    panel = f"{lab.output(0)}.querySelector('.llmtunnel.lt-panel')"
    with ThreadPoolExecutor(4) as clients:
        prompts = ["What are you?", "Say it at length. " * 2, "Count. " * 4, "Write a poem about tunnels. " * 3]
        answers = [clients.submit(ask, proxy.url, prompt) for prompt in prompts[:2]]
        until = time.monotonic() + 9
        while time.monotonic() < until:
            throughput = throughput.added(proxy.status, now=time.time())
            if all(answer.done() for answer in answers[-2:]) and len(answers) < 8:
                answers += [clients.submit(ask, proxy.url, prompt) for prompt in prompts[2:]]
            if len(answers) >= 6 and sum(not answer.done() for answer in answers) == 2 and proxy.status.requests >= 4:
                time.sleep(1)
                throughput = throughput.added(proxy.status, now=time.time())
                break
            time.sleep(0.2)
        return page.screenshot(panel), terminal(proxy, throughput)


def main() -> None:
    """Take the picture."""
    with (
        tempfile.TemporaryDirectory() as name,
        processes() as started,
        browser(Path(name)) as page,
        local.toy() as toy,
        local.signal() as signal,
    ):
        code = Path(name, "code")
        page.resize(700, 1000, scale=2)
        cell = SERVE.format(upstream=toy.url, signal=signal.url, code=str(code)).strip()
        lab = Lab.start(started, page, Path(name), [cell])
        lab.command("application:toggle-left-area")
        lab.run(0)
        while not (code.exists() and code.read_text()):
            time.sleep(0.1)
        with llmtunnel.proxy(code.read_text(), stun=(), path="direct") as proxy:
            time.sleep(SETTLED)
            panel, drawn = busy(page, lab, proxy)
        Path(DOCS, "terminal.svg").write_text(drawn, "utf-8")
        width = page.js(f"{lab.output(0)}.querySelector('.llmtunnel.lt-panel').getBoundingClientRect().width")
        both = Path(name, "both.html")
        picture = base64.b64encode(panel).decode()
        both.write_text(PAGE.format(panel=width, picture=picture, terminal=drawn, client=CLIENT), "utf-8")
        page.resize(1500, 900, scale=1.5)
        page.open(both.as_uri())
        page.until("document.readyState === 'complete' && document.querySelector('main')")
        Path(DOCS, "both-sides.png").write_bytes(page.screenshot("document.querySelector('main')"))


if __name__ == "__main__":
    main()
