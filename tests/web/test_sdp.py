"""Session descriptions in JavaScript pass the Python module's tests. sdp.test.js has what a browser gets to see."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmtunnel.errors import ConnectFailed
from llmtunnel.transport.sdp import Description, Fingerprint

from ..transport import test_sdp
from ..transport.test_sdp import *  # noqa: F403
from .node import Calls, JsError


@pytest.fixture(scope="module", autouse=True)
def in_javascript() -> Iterator[None]:
    """`parse` is JavaScript."""
    with pytest.MonkeyPatch.context() as patch, Calls() as calls:

        def parse(text: str) -> Description:
            try:
                there = calls("sdp.parse", text)
            except JsError as exc:
                assert exc.name == "ConnectFailed", exc
                raise ConnectFailed(exc.message) from None
            return Description(
                ufrag=there["ufrag"],
                password=there["password"],
                fingerprints=tuple(Fingerprint(**each) for each in there["fingerprints"]),
                setup=there["setup"],
                mid=there["mid"],
                sctp_port=there["sctpPort"],
                max_message=there["maxMessage"],
                candidates=tuple(there["candidates"]),
                complete=there["complete"],
            )

        patch.setattr(test_sdp, "parse", parse)
        yield
