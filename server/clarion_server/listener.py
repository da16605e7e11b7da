"""The public port: what is done with a connection until it is known what it is.

    GET /ws      becomes a WebSocket        GET /livez   200 as long as the process lives
    GET /sse     becomes an event stream    GET /readyz  200, or 503 with the reasons
    GET /echo    development only: conformance tests of RFC 6455

A connection has `limits.handshake_s` for its request's head and may send `limits.head_bytes`. A
complete request for /ws or /sse goes to the porter, who says when it is its turn, or that it is
refused; the rest, which costs little, is answered at once, also when the server is full.
Whatever is refused gets an HTTP answer and a moment to read it. What a web page must be able to
tell apart (a token that is not accepted) is not refused here but after the WebSocket is open,
because a browser shows a page nothing of a refused handshake.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import socket
from collections.abc import Iterable
from typing import cast
from urllib.parse import parse_qsl

import msgspec

from clarion_server import codes, proxy_header
from clarion_server.addresses import Address, plain
from clarion_server.auth import ANONYMOUS, Identity, KeyUnknown, TokenRefused
from clarion_server.codes import Code
from clarion_server.edge import Edge
from clarion_server.handshake import END, Accepted, Refusal, Request, parse, response, upgrade
from clarion_server.peer import Peer
from clarion_server.porter import REASONS
from clarion_server.proxy_header import BadHeader
from clarion_server.sse import EventStream, topics_of
from clarion_server.websocket import CompressedEcho, CompressedWebSocket, Echo, WebSocket
from clarion_server.wheel import ABSENT

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that the kernel holds for us while the loop is busy: a third of a second's worth
at 15,000 a second. The kernel may bound it further (net.core.somaxconn)."""

UNSENT_BYTES = 16 * 1024
"""What the kernel takes for one client beyond what it can send. Linux would let it grow to 4 MB for
one that does not read. What waits here is a copy for each client, where a window refers to what all
share; and each write may keep 32 KiB of the machine's memory (server/README.md, "What the kernel
holds"). 16 to 128 KiB were equally fast with 1,000 clients that read. The send buffer itself is
still sized by the kernel: what is on its way over a long and fast line is not meant."""

_WEBSOCKET, _STREAM, _HEALTH = b"GET /ws", b"GET /sse", (b"GET /livez", b"GET /readyz")
_DEAR = (_WEBSOCKET, _STREAM)
_SIGNATURE_BYTES = 12
_LIMITED_S = "60"
"""When somebody may try again who has reached a limit that only he can do something about."""

_SSE_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n"
    b"X-Accel-Buffering: no\r\nConnection: close\r\n"
)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket whose connections have the options we want: they inherit them.

    TCP keep-alive finds peers that vanished, also where no ping is sent (event streams, closing
    handshakes): the first probe after 60 s, then three, 10 s apart. What the kernel holds for
    somebody who does not read is bounded (tcp(7), TCP_NOTSENT_LOWAT).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", 60),
            ("TCP_KEEPINTVL", 10),
            ("TCP_KEEPCNT", 3),
            ("TCP_NOTSENT_LOWAT", UNSENT_BYTES),
        ):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"{error.strerror} ({host}:{port})") from error
    return sock


class Arrival(asyncio.Protocol):
    """A connection whose request has not been read yet."""

    __slots__ = (
        "_address",
        "_bodiless",
        "_done",
        "_edge",
        "_head",
        "_proxied",
        "_rest",
        "_transport",
        "bucket",
    )

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._address: Address | None = None  # once a proxy has said it, or somebody has asked
        self._proxied: bool | None = None  # None: a PROXY header must come first; False: it did not
        self._rest: bytes | None = None  # what came behind the request, once it is with the porter
        self._transport: asyncio.Transport | None = None
        self._head: bytes | bytearray = b""
        self._done = False
        self._bodiless = False
        self.bucket = ABSENT

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods but not the base class.
        self._transport = cast(asyncio.Transport, transport)
        edge = self._edge
        edge.wheel.add(self, edge.handshake_ticks)
        if not edge.config.proxy_protocol or not edge.proxies.trusts(self._neighbour()):
            self._proxied = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._edge.wheel.remove(self)
        self._edge.porter.vanish(self)
        self._transport = None  # which refers to us; see `Peer.connection_lost`
        if not self._done:
            self._edge.counters.handshakes["unknown", "abandoned"] += 1

    def abort(self) -> None:
        """Ends the connection at once."""
        self._done = True
        self._edge.porter.vanish(self)
        if self._transport is not None:
            self._transport.abort()

    def due(self, now: int) -> int:
        """The time for the request, or for taking its refusal, is over."""
        assert self._transport is not None
        if self._done:
            self._transport.abort()
            return 0
        if self._rest is not None:
            return self._edge.handshake_ticks  # its time is the porter's
        self._refuse("unknown", Refusal(408, Code.BAD_REQUEST, "no request arrived in time"))
        return 0

    def data_received(self, data: bytes) -> None:
        if self._done:
            return  # what follows a request that was refused is not read for its meaning
        if self._rest is not None:
            self._rest += data  # a read's worth: it is its turn, and what came meanwhile is heard
            return
        if self._proxied is None:
            data = self._unwrapped(data)
            if not data:
                return
        if self._head:
            # Search only where the end can be: heads dripped byte by byte stay cheap.
            head = bytearray(self._head) if isinstance(self._head, bytes) else self._head
            start = max(0, len(head) - 3)
            head += data
            self._head = head
            end = head.find(END, start)
        else:
            end = data.find(END)
            if end < 0:
                self._head = data
        if (end if end >= 0 else len(self._head)) + len(END) > self._edge.config.limits.head_bytes:
            limit = self._edge.config.limits.head_bytes
            message = f"the request's head has more than {limit} bytes"
            self._refuse("unknown", Refusal(431, Code.TOO_LARGE, message))
        elif end >= 0:
            received = bytes(self._head) if self._head else data
            self._head = b""
            end += len(END)
            self._complete(received[:end], received[end:])

    def _transport_or_fail(self) -> asyncio.Transport:
        assert self._transport is not None
        return self._transport

    # Where it comes from

    def _neighbour(self) -> Address:
        """The address at the other end of the connection."""
        name = self._transport_or_fail().get_extra_info("peername")
        # 0.0.0.0 is nobody's: a peer that is gone already is trusted with nothing.
        return plain(ipaddress.ip_address(name[0].partition("%")[0] if name else "0.0.0.0"))

    def _client(self, request: Request) -> Address:
        """The client's address, as far as it can be believed."""
        if self._address is None:
            self._address = self._neighbour()
        proxies = self._edge.proxies
        if proxies:
            return proxies.client(self._address, request.headers.get("x-forwarded-for", ""))
        return self._address

    def _unwrapped(self, data: bytes) -> bytes:
        """Reads the PROXY header, and returns what stands behind it."""
        if self._head:
            data = bytes(self._head) + data
            self._head = b""
        if not proxy_header.is_possible(data[:_SIGNATURE_BYTES]):
            # A balancer that looks after our health may not send one, and gets nothing else.
            self._proxied = False
            return data
        try:
            header = proxy_header.read(data)
        except BadHeader as bad:
            self._refuse_proxy("proxy_header_malformed", f"a malformed PROXY header: {bad}")
            return b""
        if header is None:
            self._head = data
            return b""
        self._proxied = True
        self._address = header.source
        return data[header.size :]

    def _refuse_proxy(self, reason: str, message: str) -> None:
        edge = self._edge
        edge.counters.refusals[reason] += 1
        if edge.complaints.take(edge.wheel.now):
            log.warning("a proxy at %s sent %s", self._neighbour(), message)
        self._refuse("unknown", Refusal(400, Code.BAD_REQUEST, message))

    # Waiting for its turn

    def _complete(self, head: bytes, rest: bytes) -> None:
        if self._proxied is False and not head.startswith(_HEALTH):
            self._refuse_proxy("proxy_header_missing", "no PROXY header, and it is required")
        elif head.startswith(_DEAR):
            self._head, self._rest = head, rest
            self._edge.porter.knock(self)
            self._wait()
        else:
            self._received(head, rest)

    def _wait(self) -> None:
        """Reads nothing until it is its turn, if it is not: the kernel keeps what comes."""
        if self._rest is not None:
            self._transport_or_fail().pause_reading()

    def let_in(self) -> None:
        """It is its turn; the porter says so."""
        transport = self._transport
        assert transport is not None
        # Who has given up while it waited is met here, before work is done for nobody.
        transport.resume_reading()
        if transport.is_closing():
            return
        head, rest = bytes(self._head), self._rest
        assert rest is not None
        self._head, self._rest = b"", None
        self._received(head, rest)

    def turn_away(self, reason: str) -> None:
        """It is refused; the porter says so."""
        edge = self._edge
        edge.counters.refusals[reason] += 1
        after = edge.retry_after()
        head = bytes(self._head)
        if head.startswith(_WEBSOCKET):
            self._end("websocket", 503, _turned_away(reason, after))
            return
        # A page may read when to come back only if its origin is answered.
        request = parse(head)
        cors: tuple[tuple[str, str], ...] = ()
        if isinstance(request, Request):
            origin = request.headers.get("origin")
            if edge.origins.allows(origin, request.headers.get("host", "")):
                cors = _cors(origin)
        retry = (("Retry-After", after),)
        self._refuse("sse", Refusal(503, Code.UNAVAILABLE, REASONS[reason], retry), cors)

    def _received(self, head: bytes, rest: bytes) -> None:
        request = parse(head)
        try:
            if isinstance(request, Refusal):
                self._refuse("unknown", request)
                return
            self._bodiless = request.method == "HEAD"
            if request.path == "/ws" or (request.path == "/echo" and self._edge.config.echo):
                self._websocket(request, rest)
            elif request.path == "/sse":
                self._sse(request)
            elif request.path in ("/livez", "/readyz"):
                self._health(request)
            else:
                message = "here are /ws, /sse, /livez and /readyz"
                self._refuse("unknown", Refusal(404, Code.NOT_FOUND, message))
        except Exception:
            log.exception("a request could not be handled")
            self._refuse("unknown", Refusal(500, Code.INTERNAL, "internal error"))

    # What a connection becomes

    def _websocket(self, request: Request, rest: bytes) -> None:
        edge = self._edge
        headers = request.headers
        answer: Accepted | Refusal
        if edge.origins.allows(headers.get("origin"), headers.get("host", "")):
            answer = upgrade(request, compress=bool(edge.compressed_forms))
        else:
            answer = _FOREIGN
        if isinstance(answer, Refusal):
            self._refuse("websocket", answer)
            return
        edge.counters.handshakes["websocket", "accepted"] += 1
        transport, key = self._hand_over()
        full = self._place(request, key)
        echo = request.path == "/echo"
        peer: WebSocket
        if answer.window:
            compressed = CompressedEcho if echo else CompressedWebSocket
            peer = compressed(edge, transport, key, answer.window)
        else:
            peer = (Echo if echo else WebSocket)(edge, transport, key)
        transport.set_protocol(peer)
        if full:
            # On an open WebSocket: a page sees nothing of a refused handshake.
            peer.decline(answer.head, codes.limit_reached(full), rest)
            return
        peer.begin(answer.head, token_of(request), rest)
        self._send_on(peer)

    def _place(self, request: Request, key: int) -> str:
        """Takes a place for the client's address; returns why there is none, or ""."""
        edge = self._edge
        if not edge.census.asks_addresses:
            return ""
        address = self._client(request)
        full = edge.census.enter(key, address)
        if full:
            edge.counters.refusals["address"] += 1
            log.debug("%s is refused: %s", address, full)
        return full

    def _sse(self, request: Request) -> None:
        edge = self._edge
        origin = request.headers.get("origin")
        if not edge.origins.allows(origin, request.headers.get("host", "")):
            self._refuse("sse", _FOREIGN)
            return
        cors = _cors(origin)
        if request.method == "OPTIONS":
            self._end("sse", 204, response(204, b"", headers=(*cors, *_PREFLIGHT)))
            return
        if request.method != "GET":
            message = "an event stream is a GET"
            refusal = Refusal(405, Code.METHOD_NOT_ALLOWED, message, (("Allow", "GET, OPTIONS"),))
            self._refuse("sse", refusal, cors)
            return
        topics = topics_of(request, edge)
        if isinstance(topics, Refusal):
            self._refuse("sse", topics, cors)
            return
        identity = self._identity(request)
        if isinstance(identity, Refusal):
            self._refuse("sse", identity, cors)
            return
        names, last = topics
        for name in names:
            if not edge.permissions.may_subscribe(identity, name):
                message = f"this client may not subscribe to {name}"
                self._refuse("sse", Refusal(403, Code.FORBIDDEN, message, topic=name), cors)
                return
        full = self._place(request, self._key())
        if not full and (full := edge.census.join(identity.user)):
            edge.counters.refusals["user"] += 1
            edge.census.leave(self._key())
        if full:
            retry = (("Retry-After", _LIMITED_S),)
            message = codes.limit_reached(full).reason
            self._refuse("sse", Refusal(429, Code.TOO_MANY, message, retry), cors)
            return
        edge.counters.handshakes["sse", "accepted"] += 1
        transport, key = self._hand_over()
        stream = EventStream(edge, transport, key, identity)
        transport.set_protocol(stream)
        lines = "".join(f"{name}: {value}\r\n" for name, value in cors).encode("latin-1")
        stream.begin(_SSE_HEAD + lines + b"\r\n", names, last)
        self._send_on(stream)

    def _send_on(self, peer: Peer) -> None:
        """Sends a client elsewhere that came while the worker drains, which balancers learn late.

        Not with a 503: a page would not know why, and an EventSource would never come back.
        """
        if self._edge.draining:
            peer.finish(codes.DRAINING)

    def _identity(self, request: Request) -> Identity | Refusal:
        edge = self._edge
        token = token_of(request)
        if token is None:
            if edge.config.auth.anonymous:
                return ANONYMOUS
            return Refusal(401, Code.UNAUTHORIZED, "a token is needed", _BEARER)
        try:
            return edge.authenticator.verify(token, edge.now())
        except KeyUnknown as unknown:
            edge.tasks.start(_refetch(edge), "fetch keys")
            retry = ("Retry-After", "5")
            return Refusal(503, Code.UNAVAILABLE, str(unknown), (retry,))
        except TokenRefused as refused:
            return Refusal(401, Code.UNAUTHORIZED, str(refused), _BEARER)

    def _health(self, request: Request) -> None:
        if request.method not in ("GET", "HEAD"):
            message = "GET it"
            refusal = Refusal(405, Code.METHOD_NOT_ALLOWED, message, (("Allow", "GET, HEAD"),))
            self._refuse("health", refusal)
            return
        ready, body = True, b"ok\n"
        if request.path == "/readyz":
            ready, reasons = self._edge.readiness()
            if reasons:
                body = msgspec.json.encode({"ready": ready, "reasons": reasons})
        status = 200 if ready else 503
        self._end("health", status, response(status, body))

    def _hand_over(self) -> tuple[asyncio.Transport, int]:
        """Gives the connection away: its transport and file descriptor."""
        self._done = True
        self._edge.wheel.remove(self)
        return self._transport_or_fail(), self._key()

    def _key(self) -> int:
        """The number of the socket."""
        number: int = self._transport_or_fail().get_extra_info("socket").fileno()
        return number

    # Ending

    def _refuse(self, kind: str, refusal: Refusal, headers: Iterable[tuple[str, str]] = ()) -> None:
        refusal = refusal._replace(headers=(*refusal.headers, *headers))
        self._end(kind, refusal.status, refusal.serialize())

    def _end(self, kind: str, status: int, answer: bytes) -> None:
        """Writes an answer, ends our side, and waits a moment for the peer to end its own.

        Closing with bytes unread would reset the connection and destroy the answer under way.
        """
        transport = self._transport
        assert transport is not None
        self._done = True
        self._head, self._rest = b"", None
        self._edge.porter.vanish(self)
        self._edge.counters.handshakes[kind, str(status)] += 1
        if self._bodiless:  # RFC 9110, section 9.3.2
            answer = answer[: answer.index(END) + len(END)]
        if not transport.is_closing():
            transport.write(answer)
            transport.write_eof()
            self._edge.wheel.move(self, self._edge.close_ticks)
            transport.resume_reading()


async def _refetch(edge: Edge) -> None:
    await edge.keys.refetch()


@functools.lru_cache(maxsize=256)
def _turned_away(reason: str, after: str) -> bytes:
    """The answer to a newcomer; kept, because it is for moments without time."""
    retry = (("Retry-After", after),)
    return Refusal(503, Code.UNAVAILABLE, REASONS[reason], retry).serialize()


_FOREIGN = Refusal(403, Code.FORBIDDEN, "pages of this origin may not connect; see `origins`")
_BEARER = (("WWW-Authenticate", "Bearer"),)
_PREFLIGHT = (
    ("Access-Control-Allow-Methods", "GET"),
    ("Access-Control-Allow-Headers", "Authorization, Last-Event-ID, Cache-Control"),
    ("Access-Control-Max-Age", "600"),
)


def _cors(origin: str | None) -> tuple[tuple[str, str], ...]:
    """Lets a page read the answer, once its origin has been allowed."""
    if origin is None:
        return ()
    return (
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Expose-Headers", "Retry-After"),
        ("Vary", "Origin"),
    )


def token_of(request: Request) -> str | None:
    """The token of a request: `Authorization: Bearer`, or `?token=`; None if it has none."""
    authorization = request.headers.get("authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
    if "token=" in request.query:
        try:
            for name, value in parse_qsl(request.query, max_num_fields=200):
                if name == "token":
                    return value
        except ValueError:
            return ""  # a token that cannot be read is one that is refused
    return None
