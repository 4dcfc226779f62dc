"""Distinguish one of our own proxies from a model server: the gateway itself answers requests with `PROBE_FIELD`.

Otherwise serve could discover a proxy on its machine, see the remote models behind it, and tunnel the tunnel.
"""

from __future__ import annotations

from typing import Final

PROBE_FIELD: Final = b"X-Llmtunnel-Probe"
"""Header field with any value. The answer is 421 (RFC 9110 section 15.5.20), and nothing is forwarded."""
