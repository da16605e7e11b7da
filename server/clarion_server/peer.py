"""One connected client, seen from its socket: writing, falling behind, catching up, ending.

WebSockets and event streams share all of this; they differ in how their bytes look and in what
they read.

    keeping up   nothing waits; every write goes straight to the kernel (see `outlet`)
    behind       the kernel took less than it was given: the transport holds the rest of that
                 write, everything later waits in a window, and the hub delivers one by one
    ending       goodbye is said; the peer has `keepalive.close_s` to close, then it is reset

A client that asks for answers while it is behind is not read until it has caught up: whoever
does not take what was sent cannot make us hold more.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress

from msgspec import UNSET

from clarion_fanout.hub import Form, Topic
from clarion_fanout.publication import Position, Publication
from clarion_server import codes, protocol
from clarion_server.codes import Close
from clarion_server.edge import Edge
from clarion_server.outlet import FAILED, unsent, write
from clarion_server.session import Session
from clarion_server.wheel import ABSENT, TICK_SECONDS, ticks
from clarion_server.window import Bound, Rule, Window

WRITE_BYTES = 128 * 1024
"""What is joined into one write while a client catches up: what a peer that reads takes at once."""

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, no time: unsent data is thrown away

_LOOK = ticks(0.2)
"""How often a client that is behind is looked at. It takes 2 us, and the time at which nothing
moved any more is known to two looks."""


_EXPIRING = (protocol.Welcome, protocol.Refreshed)
"""The answers to a token."""


class Peer(asyncio.Protocol):
    """See the module's text. What the hub and the session need of a client is here."""

    __slots__ = (
        "_blocked",
        "_ending",
        "_hushed",
        "_window",
        "bucket",
        "bulk",
        "code",
        "edge",
        "key",
        "session",
        "topics",
        "transport",
    )

    kind = ""
    """The transport's name in metrics."""
    form: Form

    def __init__(self, edge: Edge, transport: asyncio.Transport, key: int) -> None:
        self.edge = edge
        self.transport = transport
        self.key = key
        """The socket's file descriptor."""
        self.bulk = True
        self.bucket = ABSENT
        self.topics: list[Topic] = []
        self.code = 0
        """The close code, once there is one."""
        self.session = Session(edge, self)
        self._window: Window | None = None
        self._blocked = False
        self._hushed = False
        self._ending = False
        # Nothing may wait in the transport but the rest of one write.
        transport.set_write_buffer_limits(high=0)
        edge.counters.connections[self.kind] += 1

    # What a kind of peer adds

    def encode_answer(self, answer: protocol.AnyAnswer) -> bytes:
        """An answer's bytes on the wire."""
        raise NotImplementedError

    def encode_end(self, close: Close) -> bytes:
        """The last bytes of a connection."""
        raise NotImplementedError

    def keep_alive(self, now: int) -> int:
        """Does what is due at tick `now`; see `wheel.Entry.due`."""
        raise NotImplementedError

    def half_closes(self) -> bool:
        """Whether our side of the TCP stream ends with what was written last."""
        raise NotImplementedError

    def caught_up(self) -> None:
        """What was put off while the client was behind can be done."""

    # Writing

    def answer(self, answer: protocol.AnyAnswer) -> None:
        if isinstance(answer, protocol.Unsubscribed):
            self.part(answer.topic)
        self.send(self.encode_answer(answer))
        if isinstance(answer, _EXPIRING):
            self.mind_expiry()

    def subscribed(self, answer: protocol.Subscribed, start: Position | None) -> None:
        self.part(answer.topic)
        self.answer(answer)

    def part(self, topic: str) -> None:
        """What waits of `topic` stays before what is said of it next."""
        if self._window is not None:
            self._window.part(topic)

    def send(self, data: bytes) -> None:
        """Sends an answer or control frame; it counts in the window and is never dropped."""
        edge = self.edge
        edge.counters.written_bytes += len(data)
        if edge.corked is self:
            edge.cork.append(data)
        else:
            self._send(data)

    def replay(self, publications: Sequence[Publication]) -> None:
        """Sends the past, which the client asked for."""
        self.replay_frames([self.form.encode(publication) for publication in publications])

    def replay_frames(self, frames: Sequence[bytes]) -> None:
        """Sends frames that the window's bound is not for."""
        self.uncork()
        place = 0
        while place < len(frames) and self._window is None and not self._ending:
            start, size = place, 0
            while place < len(frames) and size < WRITE_BYTES:
                size += len(frames[place])
                place += 1
            self._write(b"".join(frames[start:place]))
        if self._window is not None:
            for frame in frames[place:]:
                self._window.push(frame, counts=False)

    def deliver(self, topic: Topic, publications: Sequence[Publication]) -> None:
        """Delivers one by one, for the hub; see `Receiver.deliver`."""
        rule = self.edge.rule(topic.name)
        for publication in publications:
            self.deliver_frame(publication, self.form.encode(publication), rule)

    def deliver_frame(self, publication: Publication, frame: bytes, rule: Rule) -> None:
        """Delivers a publication as `frame`: now, or when the client has taken what came before.

        rule: what becomes of it if the client does not.
        """
        window = self._window
        if self._ending:
            return
        if window is None:
            self._write(frame)
            return
        if type(publication) is Publication:
            bound = window.deliver(rule, publication, frame, self.edge.wheel.now)
        else:
            window.part(publication.topic)
            bound = window.push(frame)
        if bound is not None:
            self._too_slow(bound, rule.namespace)

    def uncork(self) -> None:
        """Writes the answers that were gathered, if they are this client's."""
        edge = self.edge
        if edge.corked is not self:
            return
        edge.corked = None
        if edge.cork:
            data = edge.cork[0] if len(edge.cork) == 1 else b"".join(edge.cork)
            edge.cork.clear()
            self._send(data)

    def _send(self, data: bytes) -> None:
        if self._window is None:
            self._write(data)
        else:
            # Nobody who does not take what was sent makes us answer more.
            bound = self._window.push(data)
            self.transport.pause_reading()
            if bound is not None:
                self._too_slow(bound)

    def _write(self, data: bytes) -> None:
        written = write(self.key, data)
        if written != len(data):
            self.cut_short(data, written)

    # Falling behind

    def cut_short(self, payload: bytes, written: int) -> None:
        """Of `payload` the kernel took `written` bytes, or `FAILED`; see `outlet.Connection`."""
        if written == FAILED:
            self.abort()
            return
        window = self._fall_behind()
        window.given += len(payload) - written
        self.transport.write(memoryview(payload)[written:])
        if not self._blocked:
            self._catch_up()

    def _fall_behind(self) -> Window:
        window = self._window
        if window is None:
            edge = self.edge
            window = self._window = Window(edge.wheel.now, edge.limit, edge.counters.dropped)
            edge.counters.windows.add(window)
            edge.hub.set_bulk(self, False)
            edge.wheel.move(self, _LOOK)
        return window

    def _leave_window(self) -> None:
        window, self._window = self._window, None
        if window is not None:
            counters = self.edge.counters
            counters.windows.remove(window)
            counters.window_fill.add(window.peak)
            counters.behind.add((self.edge.wheel.now - window.since) * TICK_SECONDS)

    def _catch_up(self) -> None:
        """Sends what waits, as far as the kernel takes it."""
        window = self._window
        while window is not None and len(window):
            frames = window.take(WRITE_BYTES, self.form)
            data = frames[0] if len(frames) == 1 else b"".join(frames)
            window.given += len(data)
            written = write(self.key, data)
            if written == FAILED:
                self.abort()
                return
            if written != len(data):
                self.transport.write(memoryview(data)[written:])
                if self._blocked:
                    return
        self._leave_window()
        if not self._ending:
            self.edge.hub.set_bulk(self, self.may_bulk())
        elif self.half_closes():
            self.transport.write_eof()
        if not self._hushed:
            self.transport.resume_reading()
        self.caught_up()

    def may_bulk(self) -> bool:
        """Whether this client may be written to together with others while it keeps up."""
        return True

    def _too_slow(self, bound: Bound, namespace: str = "") -> None:
        """A bound is exceeded. namespace: that of the message with which it was."""
        if not self._ending and self._window is not None:
            counters = self.edge.counters
            counters.too_slow[bound, namespace] += 1
            counters.dropped["close", namespace] += self._window.clear()
            self.finish(codes.SLOW_CONSUMER)

    # Callbacks of the transport

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        if self._window is not None:
            self._catch_up()

    def eof_received(self) -> None:
        """The peer has closed its side; the transport closes ours, because this returns nothing."""
        if self._window is not None:
            self.abort()  # nobody is there to take what waits
        else:
            self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._ending = True
        self.edge.wheel.remove(self)
        self._leave_window()
        # The session and the transport refer to us: without them we are freed at once, and need
        # not be found by the garbage collector, which does not look at us any more (`garbage`).
        del self.session, self.transport
        counters = self.edge.counters
        counters.connections[self.kind] -= 1
        counters.closes[self.code or 1006] += 1
        if self.edge.when_empty is not None and not counters.connected:
            self.edge.when_empty()

    # Ending

    def hush(self, quiet: bool) -> None:
        self._hushed = quiet
        if quiet:
            self.transport.pause_reading()
        elif self._window is None:
            self.transport.resume_reading()

    def finish(self, close: Close) -> None:
        """Says goodbye and closes. What waits in the window goes out before it."""
        if self._ending:
            return
        self.code = close.code
        goodbye = protocol.Goodbye(
            code=close.code,
            reason=close.reason,
            retry_ms=UNSET if (retry := self.edge.retry_ms(close)) is None else retry,
        )
        self.end(self.encode_answer(goodbye) + self.encode_end(close))

    def end(self, last: bytes) -> None:
        """Writes the last bytes, and gives the peer time to take them and close."""
        if self._ending:
            return
        self.send(last)
        self.uncork()
        self._leave()
        self._ending = True
        if self._window is None and self.half_closes():
            self.transport.write_eof()
        self._hushed = False
        self.transport.resume_reading()
        self.edge.wheel.move(self, self.edge.close_ticks)

    def abort(self) -> None:
        """Ends the connection at once and throws away what the kernel still holds for it."""
        self._leave()
        self._ending = True
        sock = self.transport.get_extra_info("socket")
        if sock is not None and not self.transport.is_closing():
            with suppress(OSError):  # it may be gone already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def _leave(self) -> None:
        """Leaves the hub: from now on the descriptor may become another connection's."""
        if self.edge.corked is self:
            self.edge.corked = None
            self.edge.cork.clear()
        self.session.end()

    # Time

    def due(self, now: int) -> int:
        """What the wheel asks for; see `wheel.Entry.due`."""
        if self._ending:
            self.abort()
            return 0
        if self.session.expired:  # also of a client that manages to be behind for ever
            self.finish(codes.TOKEN_EXPIRED)
            return 0
        window = self._window
        if window is not None:
            left = self.transport.get_write_buffer_size() + unsent(self.key)
            if window.stuck(now, window.given - left):
                self._too_slow("seconds")
                return 0
            impatient = window.expire(now)
            if impatient is not None:
                self._too_slow("seconds", impatient.namespace)
                return 0
            return _LOOK
        after = self.keep_alive(now)
        return min(after, self._token_ticks()) if after else 0

    def mind_expiry(self) -> None:
        """Sees to it that a token that was accepted just now is looked at when it ends.

        It is where that comes before the next ping. Later ones are met on the way.
        """
        left = self._token_ticks()
        if left < self.edge.ping_ticks and self._window is None and not self._ending:
            self.edge.wheel.move(self, left)

    def _token_ticks(self) -> int:
        """In how many ticks the token ends."""
        identity = self.session.identity
        if identity is None or identity.expires is None:
            return sys.maxsize
        return ticks(max(0.0, identity.expires - self.edge.now()))
