"""A WebSocket client: frames in, commands to its session; keep-alive; the closing handshake.

Reading: `frames.receive` makes messages of what arrives. All answers to what one read brought go
out in one write.

Keep-alive: a client that sent nothing for `keepalive.ping_s` gets a ping; whatever it sends next
proves that it is there. Silence for `keepalive.pong_s` more ends it.

Compression: a client that has agreed to permessage-deflate is a `CompressedWebSocket`: it may send
compressed messages, and gets publications in the form of its kind. Answers, control frames and the
rest of the conversation are the same.

Closing (RFC 6455, section 7): whoever sends a close frame first, the TCP connection is closed by
the server last: it goes on reading, so that no reset overtakes the close frame on its way.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from clarion_fanout.hub import Form
from clarion_server import codes, protocol
from clarion_server.codes import Close
from clarion_server.deflate import compress
from clarion_server.edge import Edge
from clarion_server.forms import WEBSOCKET
from clarion_server.frames import (
    BINARY,
    CLOSE,
    COMPRESSED_BINARY,
    COMPRESSED_TEXT,
    PING,
    PING_FRAME,
    PONG,
    TEXT,
    UNREAD,
    Event,
    Parser,
    close_frame,
    frame,
    receive,
)
from clarion_server.peer import WRITE_BYTES, Peer

log = logging.getLogger(__name__)

_ECHO_LEVEL = 6
"""zlib's own default."""


class WebSocket(Peer):
    """One client that speaks clarion.v1 over a WebSocket."""

    __slots__ = ("_deadline", "_parser", "_pinged", "_rest", "_seen")

    kind = "websocket"
    form: Form = WEBSOCKET
    compressed = False
    """Whether the client may send compressed messages."""

    def __init__(self, edge: Edge, transport: asyncio.Transport, key: int) -> None:
        super().__init__(edge, transport, key)
        self._parser: Parser | None = None
        self._rest: list[Event] | None = None  # received, and put off until the client caught up
        self._seen = edge.wheel.now
        self._pinged = 0
        self._deadline = edge.wheel.now + edge.connect_ticks

    def begin(self, accepted: bytes, token: str | None, rest: bytes) -> None:
        """Answers the handshake, says welcome if it can, and handles bytes that came with it."""
        edge = self.edge
        edge.wheel.add(self, min(edge.connect_ticks, edge.ping_ticks))
        edge.corked = self
        edge.cork.append(accepted)
        self.session.identify(token)
        if rest and not self._ending:
            self.uncork()
            self.data_received(rest)
        else:
            self.uncork()

    def decline(self, accepted: bytes, close: Close, rest: bytes) -> None:
        """Answers the handshake only to say why the client may not stay."""
        edge = self.edge
        edge.wheel.add(self, edge.close_ticks)
        edge.corked = self
        edge.cork.append(accepted)
        self.finish(close)
        if rest:
            self.data_received(rest)

    def encode_answer(self, answer: protocol.AnyAnswer) -> bytes:
        return frame(protocol.encode(answer))

    def encode_end(self, close: Close) -> bytes:
        return close_frame(close)

    # Reading

    def data_received(self, data: bytes) -> None:
        edge = self.edge
        self._seen = edge.wheel.now
        counters = edge.counters
        counters.bytes_in += len(data)
        limits = edge.config.limits
        events, parser = receive(
            self._parser, data, limits.message_bytes, limits.fragments, self.compressed
        )
        # It is the same for as long as the message is incomplete, pings in between or not.
        if parser is not None and parser is not self._parser:
            parser.since = edge.wheel.now
        self._parser = parser
        if self._rest is not None:
            self._rest += events
        else:
            self._serve(events)

    def caught_up(self) -> None:
        if self._rest is not None:
            rest, self._rest = self._rest, None
            self._serve(rest)

    def _serve(self, events: list[Event]) -> None:
        if self._ending:
            if any(event.kind == CLOSE for event in events):
                self._half_close()
            return
        self.edge.corked = self
        try:
            self._handle(events)
        except Exception:
            log.exception("a message could not be handled")
            self.finish(codes.SERVER_ERROR)
        self.uncork()

    def _handle(self, events: list[Event]) -> None:
        """Handles events, as long as the client takes the answers.

        An answer may be ten thousand times as long as its command: a read's worth of them must
        not be made before the first was taken.
        """
        edge = self.edge
        counters = edge.counters
        enough = counters.written_bytes + WRITE_BYTES
        for place, event in enumerate(events, 1):
            kind = event.kind
            if kind == TEXT:
                counters.messages_in += 1
                self.text(event.payload)
            elif kind == PING:
                self.send(frame(event.payload, PONG))
            elif kind == BINARY:
                self.binary(event.payload)
            elif kind == CLOSE:
                self.code = event.code
                self.end(event.payload)
            elif kind == UNREAD:
                self._rest = [event]
                return
            if self._ending:
                return
            if counters.written_bytes > enough:
                self.uncork()
                if self._ending:
                    return
                edge.corked = self
                enough = counters.written_bytes + WRITE_BYTES
            if self._window is not None and place < len(events):
                self._rest = events[place:]
                self.transport.pause_reading()
                return

    def text(self, payload: bytes) -> None:
        """Handles a text message."""
        self.session.command(payload)

    def binary(self, payload: bytes) -> None:
        """Handles a binary message: clarion.v1 has none."""
        self.code = codes.UNSUPPORTED_DATA.code
        self.finish(codes.UNSUPPORTED_DATA)

    def half_closes(self) -> bool:
        """Once both have said close, or the client broke the protocol."""
        return self._parser is not None and self._parser.over

    def _half_close(self) -> None:
        """Both have said close: ends our side, and waits for the peer to end its own."""
        if self._window is None and not self.transport.is_closing():
            self.transport.write_eof()

    # Time

    def keep_alive(self, now: int) -> int:
        edge = self.edge
        if self.session.identity is None:
            if now >= self._deadline:
                self.finish(Close(codes.UNAUTHORIZED.code, "no connect in time"))
                return 0
            return self._deadline - now
        parser = self._parser
        if parser is not None and not parser.over:
            left = parser.since + edge.message_ticks - now
            if left > 0:
                return min(left, self._await_pong(now))
            self.finish(Close(codes.BAD_REQUEST.code, "a message was not completed in time"))
            return 0
        return self._await_pong(now)

    def _await_pong(self, now: int) -> int:
        edge = self.edge
        if self._pinged and self._seen < self._pinged:
            left = self._pinged + edge.pong_ticks - now
            if left > 0:
                return left
            self.finish(codes.NO_PONG)
            return 0
        self._pinged = 0
        left = self._seen + edge.ping_ticks - now
        if left > 0:
            return left
        self._pinged = now
        self.send(PING_FRAME)
        return edge.pong_ticks


class CompressedWebSocket(WebSocket):
    """The same, compressed.

    window: of the client, in bits.
    """

    __slots__ = ("form",)

    compressed = True

    def __init__(self, edge: Edge, transport: asyncio.Transport, key: int, window: int) -> None:
        super().__init__(edge, transport, key)
        self.form = edge.compressed_forms[window]
        edge.counters.compressed_connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.edge.counters.compressed_connections -= 1
        super().connection_lost(exc)

    # What one read brings may say a thousand times as much. It is decompressed as it is handled,
    # so that a client which has to wait does not have us hold more than others do.

    def data_received(self, data: bytes) -> None:
        rest = self._rest
        if rest and rest[-1].kind == UNREAD:
            self.edge.counters.bytes_in += len(data)
            rest[-1] = Event(UNREAD, rest[-1].payload + data)
            self._serve([])
        else:
            super().data_received(data)

    def _serve(self, events: list[Event]) -> None:
        while True:
            super()._serve(events)
            if self._ending and events and events[-1].kind == UNREAD:
                self._rest = events[-1:]  # there may be the client's close in it
            rest = self._rest
            if not rest or rest[0].kind != UNREAD or self._must_wait():
                return
            self._rest = None
            events = self._read(rest[0].payload)

    def _read(self, data: bytes) -> list[Event]:
        limits = self.edge.config.limits
        events, parser = receive(self._parser, data, limits.message_bytes, limits.fragments, True)
        if parser is not None and parser is not self._parser:
            parser.since = self.edge.wheel.now
        self._parser = parser
        return events

    def _must_wait(self) -> bool:
        return not self._ending and (self._window is not None or self._hushed)

    def hush(self, quiet: bool) -> None:
        super().hush(quiet)
        if not quiet and self._window is None:
            self.caught_up()


class Echo(WebSocket):
    """The development-only `/echo`: sends back what it gets, through the same edge.

    It is what conformance tests of RFC 6455 talk to.
    """

    __slots__ = ()

    def begin(self, accepted: bytes, token: str | None, rest: bytes) -> None:
        self.edge.wheel.add(self, self.edge.ping_ticks)
        self._deadline = sys.maxsize  # nobody connects here
        self._write(accepted)
        if rest:
            self.data_received(rest)

    def text(self, payload: bytes) -> None:
        self.send(frame(payload, TEXT))

    def binary(self, payload: bytes) -> None:
        self.send(frame(payload, BINARY))


class CompressedEcho(CompressedWebSocket, Echo):
    """The same, compressed, as far as the client's window lets us."""

    __slots__ = ("_size",)

    def __init__(self, edge: Edge, transport: asyncio.Transport, key: int, window: int) -> None:
        super().__init__(edge, transport, key, window)
        self._size = 1 << window

    def text(self, payload: bytes) -> None:
        if len(payload) <= self._size:
            self.send(frame(compress(payload, _ECHO_LEVEL), COMPRESSED_TEXT))
        else:
            super().text(payload)

    def binary(self, payload: bytes) -> None:
        if len(payload) <= self._size:
            self.send(frame(compress(payload, _ECHO_LEVEL), COMPRESSED_BINARY))
        else:
            super().binary(payload)
