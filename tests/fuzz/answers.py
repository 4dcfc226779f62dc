"""Model servers' answers: what is read off them as they pass."""

from __future__ import annotations

from random import Random
from typing import Final

from llmtunnel.endpoints.meter import MAX_LINE, Meter
from llmtunnel.endpoints.models import read_models

from . import mutations

LINES: Final = [
    b'data: {"model":"a","choices":[{"delta":{"content":"b"}}],"usage":null}\n\n',
    b'data: {"model":"a","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":42}}\n\ndata: [DONE]\n\n',
    b'event: response.completed\r\ndata: {"response": {"model": "a", "usage": {"output_tokens": 42}}}\r\n\r\n',
    b'{"model":"a","message":{"content":"b"},"done":true,"eval_count":42,"eval_duration":2000000000}\n',
    b'data: {"content":"b","timings":{"predicted_n":42,"predicted_per_second":31.25}}\n\n',
]
LISTS: Final = [
    b'{"object":"list","data":[{"id":"a","object":"model"}]}',
    b'{"models":[{"name":"a:8b","model":"a:8b","size":7}]}',
]


def streams(rng: Random) -> None:
    """A body in pieces: figures, the same as of the body in one piece; never more than a line is kept."""
    lines = [rng.choice(LINES) for _ in range(rng.randrange(1, 6))]
    body = mutations.of_bytes(rng, b"".join(lines))
    streamed = rng.random() < 0.8
    cut, whole = Meter(streamed=streamed), Meter(streamed=streamed)
    for piece in mutations.pieces(rng, body):
        cut.feed(piece, 1.0)
        assert len(cut._rest) <= MAX_LINE
    whole.feed(body, 1.0)
    for meter in (cut, whole):
        meter.end(1.0)
        meter.model.encode()
        assert meter.tokens is None or meter.tokens >= 0
    assert (cut.model, cut.tokens, cut.tokens_per_second) == (whole.model, whole.tokens, whole.tokens_per_second)


def lists(rng: Random) -> None:
    """A list of models: names, or none."""
    models = read_models(mutations.of_json(rng, rng.choice(LISTS)))
    assert models is None or all(isinstance(model, str) for model in models)
