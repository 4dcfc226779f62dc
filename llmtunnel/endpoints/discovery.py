"""Looking on this machine for what answers as a model API, when nobody said where the upstream is.

Each usual port is asked for what identifies a server; what does not answer within `PATIENCE` is not there.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .. import descriptors
from ..errors import UpstreamNotFound
from ..upstream import LOCALHOST, NAMED, Upstream
from .models import MAX_ANSWER, listed
from .probe import PROBE_FIELD

if TYPE_CHECKING:
    import aiohttp

PORTS: Final = tuple(dict.fromkeys([*NAMED.values(), 3000]))
"""Where to look: the named servers' ports, and the one of TGI's launcher."""

PATIENCE: Final = 1.5
"""Seconds for everything: a server on this machine that is up answers in milliseconds."""

SEEK_EVERY: Final = 2.0
"""Seconds from one look to the next, where there may be a server later: a look costs 20 ms of computing."""

NOT_FOUND_YET: Final = f"No model server answers on this machine yet. Looking every {SEEK_EVERY:g} s."

MAX_NAMED: Final = 3
"""Models of one server that a message lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model server that answers."""

    name: str
    """What it is, for people: ``Ollama``."""
    port: int
    models: tuple[str, ...] = ()

    def __str__(self) -> str:
        models = [*self.models[:MAX_NAMED], *(["…"] if len(self.models) > MAX_NAMED else [])]
        return f"{self.name} on port {self.port}" + (f" ({', '.join(models)})" if models else "")


@dataclass(frozen=True, slots=True)
class _Sign:
    """What one kind of server answers at one path, and the models that the answer names; None: not that kind."""

    name: str
    path: str
    models: Callable[[dict[str, Any]], list[Any] | None]


def _where(*keys: str, model: str) -> Callable[[dict[str, Any]], list[Any] | None]:
    """An answer that has all these keys, and may name its model under another."""
    return lambda answer: [answer.get(model)] if all(key in answer for key in keys) else None


def _listed(key: str, name: str) -> Callable[[dict[str, Any]], list[Any] | None]:
    """An answer that lists objects under ``key``, each with its name."""
    return lambda answer: listed(answer, key, name)


def _of_vllm(answer: dict[str, Any]) -> list[Any] | None:
    items = answer.get("data")
    if not isinstance(items, list) or not any(isinstance(i, dict) and i.get("owned_by") == "vllm" for i in items):
        return None
    return _listed("data", "id")(answer)


_SIGNS: Final = (  # the most telling first: several of these servers answer as Ollama and as OpenAI too
    _Sign("SGLang", "/get_model_info", _where("model_path", model="model_path")),
    _Sign("TGI", "/info", _where("max_total_tokens", model="model_id")),
    _Sign("llama.cpp", "/props", _where("default_generation_settings", model="model_path")),
    _Sign("LM Studio", "/api/v0/models", _listed("data", "id")),
    _Sign("vLLM", "/v1/models", _of_vllm),
    _Sign("Ollama", "/api/tags", _listed("models", "name")),
    _Sign("an OpenAI-compatible server", "/v1/models", _listed("data", "id")),
)


async def discover(avoid: Collection[int] = (), *, ports: Iterable[int] = PORTS) -> list[Found]:
    """The model servers that answer on this machine, in the order of ``ports``; ``avoid`` are ports of our own."""
    import aiohttp

    fields = {PROBE_FIELD.decode("ascii"): "1", "Accept": "application/json"}
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    # A connection that stays open behind its answer would hold a worker of a server that has one or few.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(headers=fields, timeout=timeout, connector=connector) as session:
        found = await asyncio.gather(*(_look(session, port) for port in ports if port not in avoid))
    return [server for server in found if server is not None]


def choose(found: Sequence[Found], tried: Iterable[int] = PORTS) -> Upstream:
    """The one server that was found. Raises `UpstreamNotFound` where there is none, or a choice."""
    match found:
        case [server]:
            return Upstream.parse(str(server.port))
        case []:
            raise UpstreamNotFound(
                f"No model server answers on this machine (ports {', '.join(map(str, tried))}).",
                hint="Start one, or name its address: --upstream http://127.0.0.1:11434",
            )
        case _:
            raise UpstreamNotFound(
                f"Several model servers answer on this machine: {'; '.join(map(str, found))}.",
                hint=f"Choose one, for example with --upstream {found[0].port}",
            )


async def seek(tell: Callable[[UpstreamNotFound], None]) -> Upstream:
    """The one server that is found, sooner or later. ``tell`` hears why there is none yet, where that changes."""
    told = ""
    while True:
        try:
            return choose(await discover())
        except UpstreamNotFound as exc:
            if exc.message != told:
                tell(exc)
            told = exc.message
        await asyncio.sleep(SEEK_EVERY)


async def _look(session: aiohttp.ClientSession, port: int) -> Found | None:
    """What answers at a port."""
    paths = tuple(dict.fromkeys(sign.path for sign in _SIGNS))
    answers = await asyncio.gather(*(_ask(session, f"http://{LOCALHOST}:{port}{path}") for path in paths))
    return _recognise(port, dict(zip(paths, answers, strict=True)))


def _recognise(port: int, answers: dict[str, dict[str, Any]]) -> Found | None:
    for sign in _SIGNS:
        models = sign.models(answers[sign.path])
        if models is not None:
            return Found(name=sign.name, port=port, models=tuple(m for m in models if isinstance(m, str)))
    return None


async def _ask(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """The JSON object that a path gives; empty where it gives none. A redirect is not followed elsewhere."""
    import aiohttp

    try:
        async with session.get(url, allow_redirects=False) as response:
            if response.status != 200:
                return {}
            answer = json.loads(await read_answer(response))
    except (aiohttp.ClientError, OSError, ValueError, RecursionError) as exc:
        if none_left := descriptors.shortage(exc):
            message = f"Cannot look for model servers on this machine: {none_left}."
            raise UpstreamNotFound(message, hint=descriptors.RAISE_IT) from exc
        return {}
    return answer if isinstance(answer, dict) else {}


async def read_answer(response: aiohttp.ClientResponse) -> bytes:
    """A model server's answer, as far as `MAX_ANSWER` and what came with it."""
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > MAX_ANSWER:
            break
    return bytes(body)
