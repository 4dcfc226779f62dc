"""A model server that does as it is asked: the last message of the conversation names a part, such as ``Endless``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..support.processes import PATIENCE
from ..support.raw_server import Connection, Request, reply
from ..support.upstream import EVENTS, PAGES, Upstream

ATTACK = """\
<script>window.attacked = "script"</script>
<img src="x" onerror="window.attacked = 'onerror'">
<svg onload="window.attacked = 'svg'"></svg>
<iframe srcdoc="<script>parent.attacked = 'frame'</script>"></iframe>
<form action="https://evil.invalid/"><input name="q"><button>Send</button></form>
<style>* { display: none !important }</style>
<b style="position:fixed;inset:0" onclick="window.attacked = 'click'" id="code" class="hidden">bold</b>

[script](javascript:window.attacked='link') [data](data:text/html,<script>attacked=1</script>) [fine](https://fine.invalid/a?b=1&c=2)

![seen](https://evil.invalid/seen.png?who) <https://auto.invalid/> [x]: javascript:alert(1)

Text with <sub>small</sub> letters and `<b>code</b>`.

```js"><script>window.attacked='fence'</script>
<p>in code</p>
```
"""
PROSE = """\
## A heading

Some **bold** text, and a list:

1. one
2. two

| a | b |
|---|--:|
| 1 | 2 |

```python
def greet(name):
    return f"Hello {name}, this line is long enough that a narrow screen has to scroll it sideways."
```

3. three

The end.
"""


def token(text: str, *, key: str = "content", finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {key: text} if text else {}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def json_reply(value: object, status: str = "200 OK") -> tuple[Any, ...]:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return reply(head.encode() + body)


def models(*names: str) -> tuple[Any, ...]:
    """The answer to ``/v1/models``."""
    return json_reply({"object": "list", "data": [{"id": name, "object": "model"} for name in names]})


async def _chat(connection: Connection, request: Request) -> bool:
    await connection.read_body(request)
    request.whole = False
    content = json.loads(request.body)["messages"][-1]["content"]
    text = content if isinstance(content, str) else content[0]["text"]
    if text.startswith("Refuse"):
        body = b'{"error": {"message": "The model is too small for that."}}'
        head = b"HTTP/1.1 400 Bad\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        await connection.write(head % len(body) + body)
        return False
    await connection.write(EVENTS)
    return await connection.watch(request, _speak(connection, request, text))


async def _speak(connection: Connection, request: Request, text: str) -> None:
    if text.startswith("Think hard"):
        await connection.chunk(token("Let me see. ", key="reasoning_content"))
    if text.startswith("Think aloud"):
        for word in ("<think>", "Let me ", "see. </think", ">", "\n\n"):
            await connection.chunk(token(word))
    match text.split()[0]:
        case "Endless":
            while True:
                await connection.chunk(token("more "))
                await asyncio.sleep(0.02)
        case "Steps":
            for word in ("one ", "two ", "three"):
                await asyncio.wait_for(connection.site.acknowledged.acquire(), PATIENCE)
                await connection.chunk(token(word))
            await asyncio.wait_for(connection.site.acknowledged.acquire(), PATIENCE)
        case "Ponder":
            await connection.chunk(token("Let me see.", key="reasoning_content"))
            await asyncio.wait_for(connection.site.acknowledged.acquire(), PATIENCE)
            await connection.chunk(token("Done."))
        case "Cut":
            await connection.chunk(token("The half of an answ"))
            connection.reset()
            return
        case "Early":
            await connection.chunk(token("No end") + b"")
            await connection.write(b"0\r\n\r\n")
            return
        case "Attack":
            for line in ATTACK.splitlines(keepends=True):
                await connection.chunk(token(line))
        case "Prose":
            for line in PROSE.splitlines(keepends=True):
                await connection.chunk(token(line))
        case "Deep":
            await connection.chunk(token(">" * 100_000 + " x"))
        case "Huge":
            for _ in range(1200):
                await connection.chunk(token("x" * 1000))
        case "Long":
            for number in range(3000):
                await connection.chunk(
                    token(f"Sentence {number} of a long answer.\n\n" if number % 3 == 2 else f"Word {number} ")
                )
        case _:
            await connection.chunk(token(f"You said: {text}"))
    await connection.chunk(token("", finish="stop"))
    usage = {"choices": [], "usage": {"completion_tokens": 42}}
    await connection.chunk(b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n")
    await connection.write(b"0\r\n\r\n")
    request.whole = True


@contextmanager
def model_server() -> Iterator[Upstream]:
    """The server, with the models ``small`` and ``large``."""
    upstream = Upstream()
    upstream.site.pages = {**PAGES, b"/v1/chat/completions": _chat}
    upstream.answers[b"/v1/models"] = models("small", "large")
    try:
        yield upstream
    finally:
        upstream.close()


def asked(upstream: Upstream) -> list[dict[str, Any]]:
    """The bodies of the questions that came."""
    return [json.loads(each.body) for each in upstream.requests if each.target == b"/v1/chat/completions"]
