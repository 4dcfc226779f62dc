"""The signal server: where two peers that know the same room's name find each other.

It stands alone: nothing of llmtunnel, the standard library and aiohttp. ``python -m signal_server --help`` runs it,
`signal_server.server.SignalServer` embeds it; llmtunnel/protocol/README.md section 10 is what it speaks.
"""
