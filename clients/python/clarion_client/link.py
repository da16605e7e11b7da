"""One connection, from the attempt to its end: the edge to `websockets`.

A link obeys and reports; it decides nothing. It reports each message, and its end once, unless it
was dropped: then nobody wants to hear of it any more.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import ssl as ssl_module
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    WebSocketException,
)
from websockets.typing import Subprotocol

from clarion_client import codes
from clarion_client.errors import Closed
from clarion_client.retry_after import retry_seconds
from clarion_client.wire import SUBPROTOCOL, plain

QUEUE = 64
"""Frames that wait in `websockets` for us: enough that reading and parsing overlap."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HEADER_VALUE = re.compile(r"[ \t!-~]*\Z")


@dataclass(frozen=True)
class Target:
    """Where to connect, and how. See the options of `Client`."""

    url: str
    headers: Mapping[str, str]
    user_agent: str
    max_message_bytes: int
    close_s: float
    ssl: ssl_module.SSLContext | None
    proxy: str | bool

    @property
    def shown(self) -> str:
        """The URL for logs: a query may hold what is nobody's business."""
        return self.url.partition("?")[0]


class Listener(Protocol):
    """Who is told."""

    def received(self, link: Link, text: str | bytes) -> None:
        """A message."""
        ...

    async def room(self) -> None:
        """Waits until another message may be read."""
        ...

    def ended(self, link: Link, code: int, reason: str) -> None:
        """The connection is no more; `code` is the server's, 1006 if it gave none."""
        ...

    def not_opened(self, link: Link, why: str, code: int, retry_s: float | None) -> None:
        """There was none; `code` is the HTTP status of a refusal, 1006 if it was none."""
        ...

    def hopeless(self, link: Link, error: Closed) -> None:
        """There was none, and there will not be one."""
        ...


class Link:
    """See the module's text."""

    def __init__(self, target: Target, listener: Listener) -> None:
        self._target = target
        self._listener = listener
        self._socket: ClientConnection | None = None
        self._texts: deque[str] = deque()
        self._to_send = asyncio.Event()

    def send(self, text: str) -> None:
        """Sends a message, behind those before it."""
        self._texts.append(text)
        self._to_send.set()

    async def run(self, token: str | None) -> None:
        """The connection's whole life."""
        try:
            self._socket = socket = await _open(self._target, token)
        except _Refused as refused:
            if refused.final:
                self._listener.hopeless(self, Closed(str(refused), refused.status))
            else:
                self._listener.not_opened(self, str(refused), refused.status, refused.retry_s)
            return
        except (OSError, InvalidHandshake, EOFError) as error:
            why = f"cannot connect: {_reason(error)}"
            self._listener.not_opened(self, why, codes.NO_CLOSE_FRAME, None)
            return
        except (ValueError, WebSocketException, ImportError) as error:
            # A host that cannot be one, a proxy that needs a package: the next attempt is the same.
            self._listener.hopeless(self, Closed(f"cannot connect: {_reason(error)}", 1006))
            return
        loop = asyncio.get_running_loop()
        writer = loop.create_task(self._write(socket), name="clarion-client writes")
        try:
            await self._read(socket)
        finally:
            writer.cancel()
            if not socket.close_code:  # dropped: nothing can be said to the other end
                socket.transport.abort()
            (failure,) = await asyncio.gather(writer, return_exceptions=True)
        if isinstance(failure, Exception):
            raise failure

    async def leave(self) -> None:
        """Closes properly: what was sent has been sent, the server knows that we went."""
        if self._socket is not None:
            await self._socket.close(codes.NORMAL)

    async def _read(self, socket: ClientConnection) -> None:
        listener = self._listener
        try:
            while True:
                text = await socket.recv()
                listener.received(self, text)
                await listener.room()
        except ConnectionClosed as closed:
            code, reason = _ending(closed)
            if code == codes.TOO_BIG and closed.rcvd is None:
                limit = self._target.max_message_bytes
                text = f"a message of more than max_message_bytes={limit} came"
                listener.hopeless(self, Closed(text, code))
            else:
                listener.ended(self, code, reason)

    async def _write(self, socket: ClientConnection) -> None:
        try:
            while True:
                while self._texts:
                    await socket.send(self._texts.popleft())
                self._to_send.clear()
                await self._to_send.wait()
        except ConnectionClosed:
            pass  # the reader finds out, too, and knows the reason
        except Exception:
            socket.transport.abort()
            raise


class _Connect(connect):
    """Follows no redirects: one would carry the token elsewhere."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class _Refused(Exception):
    """A handshake that was answered with something else than a WebSocket of ours."""

    def __init__(self, message: str, status: int, retry_s: float | None, final: bool) -> None:
        super().__init__(message)
        self.status = status
        self.retry_s = retry_s
        self.final = final


async def _open(target: Target, token: str | None) -> ClientConnection:
    """Opens a socket. Raises `_Refused`, or what the network and `websockets` raise."""
    headers = dict(target.headers)
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    options: dict[str, Any] = {} if target.ssl is None else {"ssl": target.ssl}
    try:
        socket = await _Connect(
            target.url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=headers,
            user_agent_header=target.user_agent,
            compression="deflate",  # what the server decides; see its `compress` step
            proxy=None if _is_here(target.url) else target.proxy or None,
            open_timeout=None,  # the machine keeps the clock
            ping_interval=None,  # and the pulse
            close_timeout=target.close_s,
            max_size=target.max_message_bytes,
            max_queue=QUEUE,
            **options,
        )
    except InvalidStatus as refused:
        response = refused.response
        status = response.status_code
        retry_s = retry_seconds(response.headers.get("Retry-After", ""), time.time())
        text = plain((response.body or b"")[:800].decode("utf-8", "replace").strip()[:200])
        why = f"the handshake was refused with status {status}" + (f": {text}" if text else "")
        final = not codes.status_comes_back(status)
        raise _Refused(why, status, retry_s, final) from None
    if socket.subprotocol != SUBPROTOCOL:
        await socket.close(1002, "clarion.v1 was offered, and not taken")
        text = f"{target.shown} is a WebSocket, and not of a Clarion server: no {SUBPROTOCOL}"
        raise _Refused(text, 101, None, final=True)
    return socket


def _ending(closed: ConnectionClosed) -> tuple[int, str]:
    """The close code and reason that count."""
    received, sent = closed.rcvd, closed.sent
    if received is not None and closed.rcvd_then_sent is not False:
        return received.code, plain(received.reason)
    if sent is not None and sent.code != codes.NORMAL:
        # `websockets` ended it, because of what came.
        code = codes.TOO_BIG if sent.code == codes.TOO_BIG else codes.NO_CLOSE_FRAME
        return code, sent.reason or "the server broke the WebSocket protocol"
    return codes.NO_CLOSE_FRAME, ""


def _reason(error: Exception) -> str:
    if isinstance(error, ssl_module.SSLError):
        return str(error)
    if isinstance(error, OSError) and error.errno:
        # Without the address, which the program knows, and asyncio's words around it.
        return os.strerror(error.errno).lower() if error.errno > 0 else str(error)
    return str(error) or type(error).__name__


def _is_here(url: str) -> bool:
    """Whether the address is this machine's: a proxy is meant for the world outside."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """More headers for the handshake (RFC 9110, section 5). Raises `ValueError`, which shows no
    value: it may be a secret.
    """
    for name, value in headers.items():
        if not _HEADER_NAME.match(name):
            raise ValueError(f"{name!r} is no name of a header")
        if not _HEADER_VALUE.match(value):
            raise ValueError(f"the value of the header {name} is not visible ASCII")
    return dict(headers)


def websocket_url(url: str) -> str:
    """The WebSocket of a server, also when only the server is named. Raises `ValueError`."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname or parts.fragment or parts.port == 0:
        raise ValueError(f"{url!r} is no address of a server, such as ws://127.0.0.1:8000")
    if parts.username is not None:
        raise ValueError("a server takes no name and password; pass a token")
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") or "/ws", parts.query, ""))
