"""The signal server: two peers that know the same room's name find each other here.

It is independent of llmtunnel, and only needs the standard library and aiohttp. ``python -m signal_server --help`` runs
it, and `signal_server.server.SignalServer` embeds it. llmtunnel/protocol/README.md section 10 describes its protocol.
"""
