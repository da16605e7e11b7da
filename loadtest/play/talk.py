"""How clients speak with a server: the seam between the generator and each kind of server.

A `Talk` knows the bytes of one protocol and keeps nothing; what a client is in the middle of stands
in the `Client`. Publications are recognised by their stamp (stamp.py), so a talk must only say
where the bytes that were read can be cut, and understand what is not a publication: an *aside*.

Getting into place is a generator, `arrive`: it yields what is to be sent, is sent each aside, and
returns once the client is subscribed.
"""

from __future__ import annotations

import socket
from collections.abc import Generator, Iterator
from typing import NamedTuple, Protocol, TypeAlias

from loadtest import wire

Greeting: TypeAlias = Generator[bytes, bytes, None]
"""Yields bytes to send (none: just wait), is sent asides, ends when the client is in place."""


class Refused(Exception):
    """The server does not let a client in; the text says why."""


class Cut(NamedTuple):
    """What was read, up to where it can be cut."""

    end: int
    pieces: int
    """When there are as many stamps, all of it is publications; else the caller goes through it
    piece by piece."""
    reply: bytes
    """What must be sent back at once, such as a pong."""


class Client:
    """One client of the crowd."""

    __slots__ = (
        "apart", "asked", "began", "connecting", "epochs", "greeting", "live", "place",
        "read", "rest", "sampled", "seen", "size", "socket", "talk", "topics", "tries",
    )  # fmt: skip

    def __init__(self, place: int, talk: Talk, topics: list[int], sampled: bool) -> None:
        self.place = place
        self.talk = talk
        self.topics = topics
        """The numbers of the topics that it wants to be subscribed to."""
        self.sampled = sampled
        """Whether its publications are looked at; of the others bytes are counted."""
        self.socket: socket.socket | None = None
        self.greeting: Greeting | None = None
        self.connecting = False
        self.live = False
        """Whether it is in place."""
        self.read = True
        """Whether what it is sent is read."""
        self.apart = False
        """Whether it has ever stopped reading: then its latencies say nothing of the server."""
        self.seen: dict[int, int] = {}
        """Of each topic it is subscribed to, the number of the last publication."""
        self.epochs: dict[int, str] | None = None
        """Where a server has them: of each topic."""
        self.rest = b""
        """The beginning of a piece that has not arrived whole."""
        self.size = 0
        """Bytes since it is in place."""
        self.began = 0
        """When it began to connect, ns."""
        self.asked = 0
        """Answers that it waits for."""
        self.tries = 0
        """Attempts to connect since it was last in place."""


class Talk(Protocol):
    """See the module's text."""

    name: str
    resumes: bool
    """Whether a client that comes back gets what it missed."""

    def arrive(self, client: Client, port: int) -> Greeting: ...

    def cut(self, data: bytearray, size: int) -> Cut:
        """Where the first `size` bytes of `data` can be cut."""
        ...

    def pieces(self, data: bytearray, end: int) -> Iterator[bytes]:
        """What stands there up to `end`, piece by piece."""
        ...

    def aside(self, client: Client, piece: bytes) -> Aside | None:
        """Understands what is no publication; returns what the counting must know of it."""
        ...

    def swap(self, client: Client, old: int, new: int) -> bytes:
        """Lets the client leave one topic for another: what is to be sent."""
        ...


class Aside(NamedTuple):
    """What a server said beside publications.

    told: publications of which it said that this client will not get them.
    answers: how many commands it answered.
    error: what it complained about.
    over: why it ends the connection.
    retry_ms: how long it asks to wait before coming back.
    """

    told: int = 0
    answers: int = 0
    error: str = ""
    over: str = ""
    retry_ms: int | None = None


NOTHING = Aside()


def until(mark: bytes, first: bytes = b"") -> Generator[bytes, bytes, bytes]:
    """Sends `first`, then waits for an aside that holds `mark` and returns it."""
    heard = yield first
    while mark not in heard:
        heard = yield b""
    return heard


def upgraded(request: bytes) -> Generator[bytes, bytes, None]:
    """Sends the opening handshake of a WebSocket, and waits for the answer."""
    head = yield request
    if not head.startswith(wire.SWITCHING):
        raise Refused(head.split(b"\r\n", 1)[0].decode(errors="replace"))


def upgrade(port: int, path: str, protocol: str = "") -> bytes:
    """An opening handshake (RFC 6455, section 4.1)."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *([f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class WebSocket:
    """What all protocols over WebSocket have in common: cutting, pings, closes."""

    name = "websocket"
    resumes = False

    def cut(self, data: bytearray, size: int) -> Cut:
        at, pieces, reply = 0, 0, b""
        if data.startswith(b"HTTP/") and size > 4:
            at = data.find(b"\r\n\r\n", 0, size) + 4
            if at < 4:
                return Cut(0, 0, b"")
            pieces = 1
        while at + 2 <= size:
            length = data[at + 1]
            start = at + 2
            if length >= 126:
                start += 2 if length == 126 else 8
                if start > size:
                    break
                length = int.from_bytes(data[at + 2 : start], "big")
            if start + length > size:
                break
            opcode = data[at] & 0x0F
            if opcode == wire.PING:
                body = bytes(data[start : start + length])
                reply += wire.client_frame(wire.PONG, body)
            else:
                pieces += 1
            at = start + length
        return Cut(at, pieces, reply)

    def pieces(self, data: bytearray, end: int) -> Iterator[bytes]:
        at = 0
        if data.startswith(b"HTTP/"):
            at = data.find(b"\r\n\r\n", 0, end) + 4
            yield bytes(data[:at])
        rest = data[at:end]
        for opcode, start, stop in wire.frames(rest):
            body = bytes(rest[start:stop])
            if opcode == wire.CLOSE:
                code = int.from_bytes(body[:2], "big")
                yield b"\0close %d %s" % (code, body[2:])
            elif opcode not in (wire.PING, wire.PONG):
                yield body

    def aside(self, client: Client, piece: bytes) -> Aside | None:
        if piece.startswith(b"\0close "):
            return Aside(over=piece[1:].decode(errors="replace"))
        return None

    def swap(self, client: Client, old: int, new: int) -> bytes:
        raise NotImplementedError(f"{self.name} does not swap topics")
