"""The HTML page of the tunnel's own errors for browsers: it says what is wrong, and reloads when that is fixed. Pure.

It loads nothing from elsewhere. Its Content-Security-Policy only allows its own style and script, by their hashes.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from html import escape
from http import HTTPStatus
from typing import Final

from ..protocol.heads import Fields, RequestHead, tokens

COMES_BACK: Final = frozenset(
    {
        "no_peer",
        "no_tunnel",
        "peer_lost",
        "refused",
        "stopping",
        "too_many_connections",
        "too_many_requests",
        "upstream_unreachable",
    }
)
"""Codes of errors that end by themselves, or when somebody starts what is missing. After any other code, the same
request may fail forever, so a page that reloads by itself would never stop."""

_TITLES: Final = {
    "no_peer": "No connection to serve",
    "peer_lost": "The connection was interrupted",
    "upstream_unreachable": "The model server does not answer",
    "upstream_broken": "The model server sent an invalid response",
    "invalid_api_key": "This proxy requires an API key",
    "foreign_host": "This address is not allowed",
    "foreign_origin": "This page is not allowed",
    "not_allowed": "Serve does not allow this request",
}

_STYLE: Final = """
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --text: #1c2024; --soft: #60646c; --line: #e0e3e8;
  --bad: #c62a2f; --link: #0b68cb; }
@media (prefers-color-scheme: dark) { :root { --ground: #111315; --card: #1b1e21; --text: #edeef0; --soft: #a0a6ad;
  --line: #2e3338; --bad: #ff8b8f; --link: #7cb8ff; } }
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 24px 16px; background: var(--ground);
  color: var(--text); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { width: 100%; max-width: 560px; padding: 28px 32px; background: var(--card); border: 1px solid var(--line);
  border-top: 4px solid var(--bad); border-radius: 8px; overflow-wrap: anywhere; }
h1 { margin: 0 0 12px; font-size: 1.35rem; line-height: 1.25; }
p { margin: 0 0 12px; }
code { padding: 1px 5px; border-radius: 4px; background: var(--ground);
  font: .9em ui-monospace, Menlo, Consolas, monospace; }
a { color: var(--link); }
footer { margin-top: 20px; padding-top: 12px; border-top: 1px solid var(--line); color: var(--soft);
  font-size: .85rem; }
@media (max-width: 480px) { main { padding: 20px; } h1 { font-size: 1.2rem; } }
"""

_SCRIPT: Final = """
// HEAD asks without a body. Delays grow from 2 s to 15 s, and a hidden page does not ask. If the page has just reloaded
// and fails again, it starts with the longest delay, so that it never reloads in a tight loop.
const LONGEST = 15000, KEY = "llmtunnel-reloaded";
const stored = () => { try { return Number(sessionStorage.getItem(KEY)); } catch { return 0; } };
const store = () => { try { sessionStorage.setItem(KEY, Date.now()); } catch { /* optional */ } };
let wait = Date.now() - stored() < 2 * LONGEST ? LONGEST : 2000;
let timer, asking = false;
const isBack = async () => {
  try {
    const signal = AbortSignal.timeout(20000);
    const answer = await fetch(location.href, { method: "HEAD", cache: "no-store", redirect: "manual", signal });
    return answer.status !== 502 && answer.status !== 503;
  } catch {
    return false;
  }
};
const ask = async () => {
  if (asking || document.hidden) return;
  clearTimeout(timer);
  asking = true;
  const back = await isBack();
  asking = false;
  if (back) {
    store();
    location.reload();
    return;
  }
  timer = setTimeout(ask, wait);
  wait = Math.min(wait * 1.5, LONGEST);
};
document.addEventListener("visibilitychange", ask);
timer = setTimeout(ask, wait);
"""


def navigates(request: RequestHead) -> bool:
    """Whether a browser will show the response as a page: after use of its address bar, a link, a form or a frame.

    Browsers only send Sec-Fetch fields to addresses that they trust. Other addresses, such as a machine of the local
    network, get none; there, a program that asks for HTML gets HTML.
    """
    modes = tokens(request.fields, b"sec-fetch-mode")
    accepted = (member.partition(b";")[0].strip() for member in tokens(request.fields, b"accept"))
    return b"text/html" in accepted and modes in ([], [b"navigate"])


def page(request: RequestHead, *, status: int, code: str, message: str) -> tuple[Fields, bytes]:
    """Return the page's header fields and body. The page for a GET loads the application when it answers again."""
    reloads = code in COMES_BACK and request.method == b"GET"
    script = f"<script>{_SCRIPT}</script>" if reloads else ""
    body = _TEMPLATE.format(
        title=escape(_TITLES.get(code) or HTTPStatus(status).phrase),
        style=_STYLE,
        message=_marked_up(message),
        next=_next_step(request, reloads=reloads, comes_back=code in COMES_BACK),
        status=status,
        code=escape(code),
        script=script,
    ).encode()
    policy = [
        "default-src 'none'",
        f"style-src {_hash(_STYLE)}",
        *([f"script-src {_hash(_SCRIPT)}", "connect-src 'self'"] if reloads else []),
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return (
        (b"Content-Type", b"text/html; charset=utf-8"),
        (b"Content-Length", b"%d" % len(body)),
        (b"Cache-Control", b"no-store"),
        (b"Content-Security-Policy", "; ".join(policy).encode()),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Referrer-Policy", b"no-referrer"),
    ), body


_TEMPLATE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p>{message}</p>
{next}<footer>llmtunnel, HTTP {status}, {code}</footer>
</main>
{script}
</body>
</html>
"""


def _next_step(request: RequestHead, *, reloads: bool, comes_back: bool) -> str:
    if reloads:
        return '<p>This page reloads by itself when it is available again. <a href="">Try now</a></p>\n'
    if comes_back and request.method != b"HEAD":
        return "<p>Go back and send it again later.</p>\n"
    return ""


def _marked_up(message: str) -> str:
    """Return the message as HTML, with text between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(message))


def _hash(text: str) -> str:
    """Return the hash by which a Content-Security-Policy allows an inline script or style (CSP Level 3, 2.3.1)."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
