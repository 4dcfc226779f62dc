"""What model servers answer, as they answer it, and what there is to be read from it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from llmtunnel.protocol.heads import RequestHead, ResponseHead

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One response, by its bytes."""

    path: bytes
    kind: bytes
    body: bytes
    model: str
    tokens: int | None
    rate: float | None = None
    """Tokens a second as the body itself tells them."""

    @property
    def request(self) -> RequestHead:
        return RequestHead(method=b"POST", target=self.path)

    @property
    def response(self) -> ResponseHead:
        return ResponseHead(status=200, fields=((b"Content-Type", self.kind),))


def sse(*events: Json, done: bool = True) -> bytes:
    """An event stream as OpenAI's server and vLLM write it."""
    body = "".join(f"data: {json.dumps(event, separators=(',', ':'))}\n\n" for event in events)
    return (body + "data: [DONE]\n\n" * done).encode()


def typed(*events: Json) -> bytes:
    """An event stream whose events have names, with spaces in its JSON."""
    return "".join(f"event: {event['type']}\r\ndata: {json.dumps(event)}\r\n\r\n" for event in events).encode()


def ndjson(*lines: Json) -> bytes:
    return b"\n".join(json.dumps(line, separators=(",", ":")).encode() for line in lines)


def chunk(delta: Json, **more: Any) -> Json:
    """One of a streamed chat."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "llama", "choices": [choice], **more}


USAGE = {"prompt_tokens": 9, "total_tokens": 51, "completion_tokens": 42, "completion_tokens_details": None}
TALK = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": word}) for word in ("a", '"b"', "\\", "ü"))]
EVENTS, NDJSON, WHOLE = b"text/event-stream; charset=utf-8", b"application/x-ndjson", b"application/json"
OLLAMA_END = {"done": True, "prompt_eval_count": 9, "eval_count": 42, "eval_duration": 2_000_000_000}
TIMINGS = {"prompt_n": 9, "predicted_n": 42, "predicted_ms": 1000.0, "predicted_per_second": 42.5}

SAMPLES = {
    "openai chat, counted": Sample(
        path=b"/v1/chat/completions?x", kind=EVENTS, body=sse(*TALK, chunk({})), model="llama", tokens=4
    ),
    "openai chat, told": Sample(
        path=b"/v1/chat/completions",
        kind=EVENTS,
        body=sse(*({**each, "usage": None} for each in TALK), {"model": "llama", "choices": [], "usage": USAGE}),
        model="llama",
        tokens=42,
    ),
    "openai chat, a tool's arguments": Sample(
        path=b"/openai/deployments/x/chat/completions",
        kind=EVENTS,
        body=sse(
            chunk({"content": None, "tool_calls": [{"function": {"name": "f", "arguments": ""}}]}),
            *(chunk({"tool_calls": [{"function": {"arguments": part}}]}) for part in ('{"model"', ': "x"}')),
        ),
        model="llama",
        tokens=2,
    ),
    "vllm, reasoning, its count going on": Sample(
        path=b"/v1/chat/completions",
        kind=EVENTS,
        body=sse(
            chunk({"reasoning_content": "hm"}, usage={"completion_tokens": 3}),
            chunk({"content": "a"}, usage={"completion_tokens": 5}),
            chunk({"content": "b"}),
        ),
        model="llama",
        tokens=6,
    ),
    "openai completions": Sample(
        path=b"/v1/completions",
        kind=EVENTS,
        body=sse(*({"model": "llama", "choices": [{"text": text}]} for text in ("a", "b", "")), done=False),
        model="llama",
        tokens=2,
    ),
    "openai responses": Sample(
        path=b"/v1/responses",
        kind=EVENTS,
        body=typed(
            {"type": "response.created", "response": {"model": "llama", "output": [], "usage": None}},
            {"type": "response.output_text.delta", "delta": "a"},
            {"type": "response.output_text.delta", "delta": "b"},
            {"type": "response.output_text.done", "text": "ab"},
            {"type": "response.completed", "response": {"model": "llama", "usage": {"output_tokens": 42}}},
        ),
        model="llama",
        tokens=42,
    ),
    "anthropic messages": Sample(
        path=b"/v1/messages",
        kind=EVENTS,
        body=typed(
            {"type": "message_start", "message": {"model": "llama", "content": [], "usage": {"output_tokens": 1}}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "a"}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 42}},
        ),
        model="llama",
        tokens=42,
    ),
    "llama.cpp chat": Sample(
        path=b"/v1/chat/completions",
        kind=EVENTS,
        body=sse(*TALK, chunk({}, timings=TIMINGS)),
        model="llama",
        tokens=42,
        rate=42.5,
    ),
    "sglang's own": Sample(
        path=b"/generate",
        kind=EVENTS,
        body=sse(*({"text": "ab"[:n], "meta_info": {"id": "1", "completion_tokens": n}} for n in (1, 2))),
        model="",
        tokens=2,
    ),
    "ollama chat": Sample(
        path=b"/api/chat",
        kind=NDJSON,
        body=ndjson(
            *({"model": "llama:8b", "message": {"role": "assistant", "content": text}} for text in ("a", "b")),
            {"model": "llama:8b", "message": {"role": "assistant", "content": ""}, **OLLAMA_END},
        ),
        model="llama:8b",
        tokens=42,
        rate=21.0,
    ),
    "ollama generate, broken off": Sample(
        path=b"/api/generate",
        kind=NDJSON,
        body=ndjson(*({"model": "llama:8b", "response": text, "done": False} for text in ("a", "b"))),
        model="llama:8b",
        tokens=2,
    ),
    "ollama, whole": Sample(
        path=b"/api/generate",
        kind=WHOLE,
        body=ndjson({"model": "llama:8b", "response": "ab", **OLLAMA_END}),
        model="llama:8b",
        tokens=42,
        rate=21.0,
    ),
    "openai, whole and in lines": Sample(
        path=b"/v1/chat/completions",
        kind=WHOLE,
        body=json.dumps(
            {"model": "llama", "choices": [{"message": {"content": 'a "model": "no"'}}], "usage": USAGE}, indent=2
        ).encode(),
        model="llama",
        tokens=42,
    ),
    "an error": Sample(
        path=b"/v1/chat/completions", kind=WHOLE, body=b'{"error":{"message":"x"}}', model="", tokens=None
    ),
}
