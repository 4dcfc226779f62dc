"""The signal server's address, as the library that connects to it wants it. Pure."""

from __future__ import annotations


def for_proxies(url: str) -> str:
    """As aiohttp gets it: of ``wss`` it would not know that the environment's https proxy is for it."""
    return "https" + url.removeprefix("wss") if url.startswith("wss://") else url
