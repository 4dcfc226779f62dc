"""The link that makes a browser a peer: a page's URL, and the code in its fragment, which no server receives. Pure.

    https://tunnel.example.org/#4821309-tulip-mango-onion-cedar-fruit

Whoever serves the page can change its code. So the page is always one that serve's user has chosen: the signal server's
(`SIGNAL`), or the one at a URL.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, urlsplit, urlunsplit

from .invite import Invite
from .listener import canonical_host, is_loopback
from .option import switch

SIGNAL: Final = "signal"
"""Instead of a URL: the page of the signal server."""
_PLAIN: Final = "-._~@:/?&=+"
"""Characters of a code that a fragment may contain as they are."""


def read_page(text: str) -> str | None:
    """Read a page's URL, or whether to use the page of the signal server. None: use none. Raises `ValueError`."""
    text = text.strip()
    if text == SIGNAL:
        return SIGNAL
    try:
        return SIGNAL if switch(text) else None
    except ValueError:
        return page_url(text)


def page_url(text: str) -> str:
    """Return a page's URL in its usual form, with a slash at its end. Raises `ValueError`, which repeats no secret."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:  # an invalid port or IPv6 address
        raise ValueError("not a page's URL. Use for example https://tunnel.example.org") from None
    if parts.scheme not in ("http", "https") or not host or port == 0 or any(map(str.isspace, text)):
        raise ValueError("not a page's URL. Use for example https://tunnel.example.org")
    if "@" in parts.netloc:
        raise ValueError("a page's URL has no user name and password. Remove what is before the @")
    if "#" in text or "?" in text:
        raise ValueError("a page's URL has no query and no fragment, since serve adds the code. Remove all from ? or #")
    if parts.scheme == "http" and not is_local(host):
        raise ValueError(f"browsers run the page only over https, or on this machine, and not at http://{host}")
    folder = parts.path.removesuffix("/index.html").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc.lower(), f"{folder}/", "", ""))


def page_of(signal: str) -> str:
    """Return the URL of a signal server's page. Raises `ValueError` if a browser would not run it there."""
    parts = urlsplit(signal)
    scheme = "https" if parts.scheme.lower() == "wss" else "http"
    return page_url(urlunsplit((scheme, parts.netloc.rpartition("@")[2], parts.path, "", "")))


def reaches(page: str, signal: str) -> bool:
    """Whether a browser lets the page connect to the signal server. Over https, it also requires TLS for that."""
    there = urlsplit(signal)
    return there.scheme.lower() == "wss" or page.startswith("http:") or is_local(there.hostname or "")


def link(page: str, invite: Invite) -> str:
    """Return the link, which is as secret as the code. It always names the signal server.

    A code does not name the default one. A page may have another default, such as the server that serves it.
    """
    code = invite.code if "@" in invite.code else f"{invite.code}@{invite.signal.removeprefix('wss://')}"
    return f"{page}#{quote(code, safe=_PLAIN)}"


def is_local(host: str) -> bool:
    """Whether a host is the browser's own machine, which it trusts without TLS."""
    return is_loopback(canonical_host(host) or "")
