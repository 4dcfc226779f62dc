"""How discovery tells a proxy of ours from a model server: the gateway answers what carries `PROBE_FIELD` itself.

Without this, serve would find the proxy beside it, see the remote models behind it, and tunnel the tunnel.
"""

from __future__ import annotations

from typing import Final

PROBE_FIELD: Final = b"X-Llmtunnel-Probe"
"""Any value. The answer is 421, Misdirected Request (RFC 9110 section 15.5.20), and nothing is passed on."""
