"""The page at `/` of the private port: connect, subscribe, publish and watch.

It shows what anybody may have published, so its Content-Security-Policy lets nothing run or load
but the script and style that are in the file, which it names by their hashes, and the JavaScript
client, which stands beside it as it does in clients/js; and it lets no string become markup
(Trusted Types).
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from aiohttp import hdrs, web

from clarion_server.http_api.errors import HEADERS

SOURCE = Path(__file__).with_name("page.html")
CLIENT = Path(__file__).with_name("clarion-client.js")
STREAM = Path(__file__).with_name("clarion-sse.js")
"""The client: links to its files in clients/js, of which a built package has copies."""
_COMMON = {
    "Cache-Control": "no-cache",
    "Server": HEADERS[hdrs.SERVER],
    "X-Content-Type-Options": "nosniff",
}
_META = '<meta name="clarion-websocket" content=":8000/ws">'


class Page(NamedTuple):
    """A ready answer to a `GET`: the page, or what it loads."""

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
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        **_COMMON,
    }
    return Page(text.encode(), headers)


def scripts() -> dict[str, Page]:
    """The client's files, by their paths."""
    headers = {"Content-Type": "text/javascript; charset=utf-8", **_COMMON}
    return {f"/{file.name}": Page(file.read_bytes(), headers) for file in (CLIENT, STREAM)}


def handler(page: Page) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Answers with `page`, whoever asks."""

    async def handle(_request: web.Request) -> web.Response:
        return web.Response(body=page.body, headers=page.headers)

    return handle


def _policy(text: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            # Nothing else of this port is JavaScript, and every answer says so (nosniff).
            f"script-src {_hash(text, 'script')} 'self'",
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
