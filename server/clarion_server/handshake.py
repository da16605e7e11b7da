"""The first bytes of a connection: an HTTP request head, and the answer to it.

As with frames, the sans-I/O layer of `websockets` decides. `parse` and `upgrade` recognise by
themselves what browsers and well-behaved clients send, in a tenth of the time; everything that is
not plainly that goes to the library, whose answer is taken. tests/test_handshake.py runs both.

RFC 9112 (HTTP/1.1), RFC 6455 section 4.2 (opening handshake), RFC 7692 section 7.1 (compression).
"""

from __future__ import annotations

import binascii
import hashlib
import http
import logging
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from websockets.exceptions import NegotiationError
from websockets.extensions.permessage_deflate import (
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.http11 import Request as LibraryRequest
from websockets.http11 import Response as LibraryResponse
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from clarion_server.codes import Code
from clarion_server.deflate import MAX_WINDOW, NAME
from clarion_server.protocol import SUBPROTOCOL

END = b"\r\n\r\n"
"""The end of a request's head."""

_PLAIN = re.compile(
    rb"([A-Z]{1,16}) (/[\x21-\x7e]*) HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e]*\r\n)*)\r\n"
)
_FIELD = re.compile(r"([^:]+):([^\r]*)\r\n")
"""A header's name and value, where it is known that it is one."""

_KEY = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
"""16 bytes in base64, in the one form in which the unused bits are zero."""

_LINE = re.compile(rb"[\x21-\x7e]+ [\x21-\x7e]+ HTTP/1\.[01]\r\n")
"""A method and a target of visible characters (RFC 9112, section 3); the library takes any."""

_OTHER_METHOD = re.compile(rb"(?:POST|PUT|PATCH|DELETE|CONNECT|TRACE) [\x21-\x7e]+ HTTP/1\.1\r\n")

_MAX_LINE = 8192
_MAX_HEADERS = 128
"""The library's limits, so that both ways of parsing have the same."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, section 1.3

_OFFERS = frozenset({NAME, f"{NAME}; client_max_window_bits"})
"""How browsers and all usual libraries offer compression."""

_AGREED = f"{NAME}; server_no_context_takeover; client_no_context_takeover"

_DEFLATE = ServerPerMessageDeflateFactory(
    server_no_context_takeover=True, client_no_context_takeover=True
)
_MAX_OFFERS = 512
"""Bytes of `Sec-WebSocket-Extensions`, five times what anybody sends. A longer one is not looked at
for compression: the library takes 0.4 ms to decline what fits, and 10 ms for a head of 16 KiB."""

_SILENT = logging.getLogger("clarion.websockets")


class Request(NamedTuple):
    """The head of a request.

    headers: by lower-case name; values of a repeated header are joined with ", ".
    plain: whether no header is repeated and there is no body, so that `upgrade` may be quick.
    head: the bytes it was read from.
    """

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    plain: bool
    head: bytes


class Accepted(NamedTuple):
    """The answer to a handshake that succeeds.

    head: its bytes.
    window: that the client has for compressed messages, in bits; 0 where none are agreed on.
    """

    head: bytes
    window: int = 0


class Refusal(NamedTuple):
    """An HTTP answer that ends the connection. The text is for people.

    topic: the one of several that is to blame.
    """

    status: int
    code: str
    message: str
    headers: Sequence[tuple[str, str]] = ()
    topic: str = ""

    def serialize(self) -> bytes:
        """The answer's bytes: the error object of the private API, so that one parser does."""
        error = {"code": self.code, "message": self.message}
        if self.topic:
            error["topic"] = self.topic
        body = msgspec.json.encode({"error": error})
        return response(self.status, body, "application/json", self.headers)


def response(
    status: int,
    body: bytes,
    content_type: str = "text/plain; charset=utf-8",
    headers: Sequence[tuple[str, str]] = (),
) -> bytes:
    """A whole HTTP/1.1 answer, after which the connection is closed.

    Raises `ValueError` for a header with a line break in it: it would become two.
    """
    phrase = http.HTTPStatus(status).phrase
    lines = [
        f"HTTP/1.1 {status} {phrase}",
        # A 204 has neither (RFC 9110, section 8.6).
        *(_about(body, content_type) if status != 204 else ()),
        "Cache-Control: no-store",
        "Connection: close",
        *(f"{name}: {value}" for name, value in headers),
    ]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header must not have a line break")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def _about(body: bytes, content_type: str) -> tuple[str, str]:
    return (f"Content-Type: {content_type}", f"Content-Length: {len(body)}")


def parse(head: bytes) -> Request | Refusal:
    """Reads a request's head, which ends with `END`."""
    plain = _PLAIN.fullmatch(head)
    if plain is None or len(head) > _MAX_LINE:
        return _parse_with_library(head)
    fields = _FIELD.findall(plain[3].decode("ascii"))
    headers = {name.lower(): value.strip(" \t") for name, value in fields}
    has_body = "transfer-encoding" in headers or "content-length" in headers
    # Fewer than fields: one is repeated.
    if has_body or not len(headers) == len(fields) <= _MAX_HEADERS or "host" not in headers:
        return _parse_with_library(head)
    path, _, query = plain[2].decode("ascii").partition("?")
    return Request(plain[1].decode("ascii"), path, query, headers, True, head)


def upgrade(request: Request, *, compress: bool = False) -> Accepted | Refusal:
    """Answers a WebSocket handshake.

    compress: whether compression is agreed on with a client that offers it.
    The origin is not looked at here; see `origins`.
    """
    headers = request.headers
    key = headers.get("sec-websocket-key", "")
    offered = headers.get("sec-websocket-protocol")
    extensions = headers.get("sec-websocket-extensions", "") if compress else ""
    if len(extensions) > _MAX_OFFERS:
        extensions = ""
    if not (
        request.plain
        and request.method == "GET"
        and headers.get("upgrade", "").lower() == "websocket"
        and headers.get("connection", "").lower() in ("upgrade", "keep-alive, upgrade")
        and headers.get("sec-websocket-version") == "13"
        and _KEY.fullmatch(key)
        and (offered is None or offered == SUBPROTOCOL)
        and (not extensions or extensions in _OFFERS)
    ):
        return _upgrade_with_library(request, compress=bool(extensions))
    if extensions:
        return _accepted(_accept_key(key), offered, _AGREED, MAX_WINDOW)
    return _accepted(_accept_key(key), offered)


def _accept_key(key: str) -> bytes:
    digest = hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False)


def _accepted(
    accept: bytes, subprotocol: str | None, extensions: str | None = None, window: int = 0
) -> Accepted:
    chosen = (
        b"" if subprotocol is None else b"Sec-WebSocket-Protocol: " + subprotocol.encode() + b"\r\n"
    )
    if extensions is not None:
        chosen += b"Sec-WebSocket-Extensions: " + extensions.encode() + b"\r\n"
    head = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n" + chosen + b"\r\n"
    )
    return Accepted(head, window)


def _parse_with_library(head: bytes) -> Request | Refusal:
    library = ServerProtocol(logger=_SILENT)
    library.receive_data(head)
    events = library.events_received()
    if not events:
        if _OTHER_METHOD.match(head):
            # A method with a body, which the library does not read.
            allow = (("Allow", "GET"),)
            return Refusal(405, Code.METHOD_NOT_ALLOWED, "nothing is posted here", allow)
        if library.handshake_exc is not None and not library.data_to_send()[0]:
            message = "this is not an HTTP/1.1 request without a body"
            if head == END or head.startswith(b"PROXY "):  # version 2 begins with an end
                message = f"{message}; for a proxy that sends PROXY headers set `proxy_protocol`"
            return Refusal(400, Code.BAD_REQUEST, message)
        # The library answers lines and heads that are too long with 414 and 431.
        return Refusal(
            431, Code.TOO_LARGE, "the request's line or a header is too long, or there are too many"
        )
    received = events[0]
    assert isinstance(received, LibraryRequest)
    headers: dict[str, str] = {}
    for name, value in received.headers.raw_items():
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if not _LINE.match(head):
        return Refusal(400, Code.BAD_REQUEST, "the request line has characters that it must not")
    hosts = received.headers.get_all("Host")
    if received.protocol == "HTTP/1.1" and len(hosts) != 1:
        # RFC 9112, section 3.2: a MUST that the library leaves to us.
        return Refusal(400, Code.BAD_REQUEST, "a request has one Host header")
    path, _, query = received.path.partition("?")
    return Request(received.method, path, query, headers, False, head)


def _select(_protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """A client that offers nothing speaks clarion.v1; one that offers only others does not."""
    if not offered:
        return None
    if SUBPROTOCOL in offered:
        return Subprotocol(SUBPROTOCOL)
    raise NegotiationError(f"this server speaks {SUBPROTOCOL}")


def _upgrade_with_library(request: Request, *, compress: bool) -> Accepted | Refusal:
    library = ServerProtocol(
        select_subprotocol=_select, extensions=[_DEFLATE] if compress else None, logger=_SILENT
    )
    library.receive_data(request.head)
    (received,) = library.events_received()
    assert isinstance(received, LibraryRequest)
    answer: LibraryResponse = library.accept(received)
    if answer.status_code == 101:
        window = 0
        for extension in library.extensions:
            assert isinstance(extension, PerMessageDeflate)
            window = extension.local_max_window_bits
        return _accepted(
            answer.headers["Sec-WebSocket-Accept"].encode(),
            library.subprotocol,
            answer.headers.get("Sec-WebSocket-Extensions"),
            window,
        )
    message = bytes(answer.body).decode(errors="replace").split("\n")[0]
    extra = [
        (name, answer.headers[name]) for name in ("Allow", "Upgrade") if name in answer.headers
    ]
    if answer.status_code == 426:
        extra.append(("Sec-WebSocket-Version", "13"))
    return Refusal(answer.status_code, Code.BAD_REQUEST, message, extra)
