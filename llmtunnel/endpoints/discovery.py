"""Look for model servers on this machine if the user named no upstream.

Each common port is asked for responses that identify a server. A server that does not answer within `PATIENCE` counts
as absent.
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
"""Ports to check: those of the named servers, and that of TGI's launcher."""

PATIENCE: Final = 1.5
"""Maximum time for all requests, in seconds. A running server on this machine answers in milliseconds."""

SEEK_EVERY: Final = 2.0
"""Seconds between two searches while no server is found. One search takes 20 ms of processor time."""

NOT_FOUND_YET: Final = f"No model server answers on this machine yet. Looking every {SEEK_EVERY:g} s."

MAX_NAMED: Final = 3
"""Maximum number of models of one server that a message lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A model server that answers."""

    name: str
    """Kind of server, for people: ``Ollama``."""
    port: int
    models: tuple[str, ...] = ()

    def __str__(self) -> str:
        models = [*self.models[:MAX_NAMED], *(["…"] if len(self.models) > MAX_NAMED else [])]
        return f"{self.name} on port {self.port}" + (f" ({', '.join(models)})" if models else "")


@dataclass(frozen=True, slots=True)
class _Sign:
    """How to recognise a kind of server at one path. ``models`` returns its models, or None for another kind."""

    name: str
    path: str
    models: Callable[[dict[str, Any]], list[Any] | None]


def _where(*keys: str, model: str) -> Callable[[dict[str, Any]], list[Any] | None]:
    """Recognise a response that has all these keys, and may name its model under another one."""
    return lambda answer: [answer.get(model)] if all(key in answer for key in keys) else None


def _listed(key: str, name: str) -> Callable[[dict[str, Any]], list[Any] | None]:
    """Recognise a response that lists objects under ``key``, each with its name."""
    return lambda answer: listed(answer, key, name)


def _of_vllm(answer: dict[str, Any]) -> list[Any] | None:
    items = answer.get("data")
    if not isinstance(items, list) or not any(isinstance(i, dict) and i.get("owned_by") == "vllm" for i in items):
        return None
    return _listed("data", "id")(answer)


_SIGNS: Final = (  # the most specific ones first, since several servers also imitate Ollama and OpenAI
    _Sign("SGLang", "/get_model_info", _where("model_path", model="model_path")),
    _Sign("TGI", "/info", _where("max_total_tokens", model="model_id")),
    _Sign("llama.cpp", "/props", _where("default_generation_settings", model="model_path")),
    _Sign("LM Studio", "/api/v0/models", _listed("data", "id")),
    _Sign("vLLM", "/v1/models", _of_vllm),
    _Sign("Ollama", "/api/tags", _listed("models", "name")),
    _Sign("an OpenAI-compatible server", "/v1/models", _listed("data", "id")),
)


async def discover(avoid: Collection[int] = (), *, ports: Iterable[int] = PORTS) -> list[Found]:
    """Return the model servers on this machine, in the order of ``ports``. ``avoid`` holds ports of our own."""
    import aiohttp

    fields = {PROBE_FIELD.decode("ascii"): "1", "Accept": "application/json"}
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    # A connection that stays open after its response would occupy a worker of a server that has few.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(headers=fields, timeout=timeout, connector=connector) as session:
        found = await asyncio.gather(*(_look(session, port) for port in ports if port not in avoid))
    return [server for server in found if server is not None]


def choose(found: Sequence[Found], tried: Iterable[int] = PORTS) -> Upstream:
    """Return the only server that was found. Raises `UpstreamNotFound` if there is none, or more than one."""
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
    """Search until exactly one server is found. ``tell`` gets the error each time it changes."""
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
    """Return the model server at a port, or None."""
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
    """Return the JSON object at a path; empty if there is none. Redirects are not followed."""
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
    """Return a model server's response, cut off after `MAX_ANSWER` bytes and the rest of that read."""
    body = bytearray()
    async for data in response.content.iter_any():
        body += data
        if len(body) > MAX_ANSWER:
            break
    return bytes(body)
