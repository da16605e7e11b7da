"""The page at `/` of the private port: connect, subscribe, publish and watch, in one file.

It shows what anybody may have published, so its Content-Security-Policy lets nothing run or load
but the script and style that are in the file, which it names by their hashes, and lets no string
become markup (Trusted Types).
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("page.html")
_META = '<meta name="clarion-websocket" content=":8000/ws">'


class Page(NamedTuple):
    """A ready answer to `GET /`."""

    body: bytes
    headers: Mapping[str, str]


def build(*, port: int, url: str = "") -> Page:
    """The page, told where the WebSocket is.

    port: the public port, used with the host name that the browser has used for the page.
    url: the whole public address, such as wss://push.example.com/ws, where the port is not enough.
    """
    address = html.escape(url or f":{port}/ws", quote=True)
    text = SOURCE.read_text(encoding="utf-8")
    text = text.replace(_META, f'<meta name="clarion-websocket" content="{address}">')
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": _policy(text),
        "Cache-Control": "no-cache",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Page(text.encode(), headers)


def _policy(text: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(text, 'script')}",
            f"style-src {_hash(text, 'style')}",
            # Any WebSocket: the address is a field of the page, and no script but ours can use it.
            "connect-src 'self' ws: wss:",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )


def _hash(text: str, element: str) -> str:
    """The CSP source that allows exactly the content of the page's one inline `element`."""
    found = re.findall(rf"<{element}(?: [^>]*)?>(.*?)</{element}>", text, re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"the page has {len(found)} elements <{element}>, expected one")
    digest = hashlib.sha256(found[0].encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
