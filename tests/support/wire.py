"""A client that does on its TCP connection exactly what a test says, right or wrong.

Nothing is answered by itself: no pong, no close. What the server sends is read when asked for,
so a client that stops asking is a client that stops reading.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

from support.waiting import DEADLINE

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
RSV1 = 0x40
"""Added to an opcode: a compressed message."""

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""What belongs to it (RFC 6455, section 1.3)."""

READ_BYTES = 64 * 1024


def handshake(path: str = "/ws", *headers: str, protocol: str = "clarion.v1") -> bytes:
    """A WebSocket handshake as browsers send it; `headers` are whole lines."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        "Sec-WebSocket-Version: 13",
        *([f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []),
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    """A plain request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def masked(
    payload: bytes, opcode: int = TEXT, *, fin: bool = True, mask: bytes = b"\x11\x22\x33\x44"
) -> bytes:
    """A frame as a client sends it."""
    size = len(payload)
    head = bytes((fin << 7 | opcode,))
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 65536:
        head += bytes((0x80 | 126,)) + size.to_bytes(2, "big")
    else:
        head += bytes((0x80 | 127,)) + size.to_bytes(8, "big")
    repeated = mask * (size // 4 + 1)
    body = int.from_bytes(payload, "big") ^ int.from_bytes(repeated[:size], "big")
    return head + mask + body.to_bytes(size, "big")


def command(op: str, **fields: object) -> bytes:
    """A command in its frame."""
    return masked(json.dumps({"op": op, **fields}, separators=(",", ":")).encode())


def closing(code: int, reason: str = "") -> bytes:
    """A close frame."""
    return masked(code.to_bytes(2, "big") + reason.encode(), CLOSE)


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes


class Frame(NamedTuple):
    """A frame from the server."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of a close frame."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2], "big")


class Wire:
    """See the module's text."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.window = 0
        """In bits, of a client that has agreed to compressed messages."""
        self.compressed: list[bytes] = []
        """The payloads of those that were."""
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, port: int, *, receive_buffer: int = 0) -> Self:
        """Connects. receive_buffer: what the kernel may hold for us, in bytes (0: its choice)."""
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return cls(sock)

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Ends the connection as a crash does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def end(self) -> None:
        """Ends our side only."""
        self.sock.shutdown(socket.SHUT_WR)

    # Out

    async def send(self, *data: bytes) -> None:
        async with asyncio.timeout(DEADLINE):
            await self._loop.sock_sendall(self.sock, b"".join(data))

    async def dribble(self, data: bytes) -> None:
        """Sends each byte in a segment of its own, and lets the server read it."""
        for place in range(len(data)):
            await self.send(data[place : place + 1])
            await asyncio.sleep(0)

    # In

    async def receive(self, size: int = READ_BYTES) -> bytes:
        """What has arrived, or what arrives next; empty at the end of the stream."""
        async with asyncio.timeout(DEADLINE):
            return await self._loop.sock_recv(self.sock, size)

    async def _fill(self, count: int) -> None:
        while len(self.buffer) < count:
            data = await self.receive()
            if not data:
                raise EOFError(f"the stream ended behind {bytes(self.buffer)!r}")
            self.buffer += data

    def _take(self, count: int) -> bytes:
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    async def line(self, end: bytes = b"\r\n") -> bytes:
        """What comes before `end`."""
        while (place := self.buffer.find(end)) < 0:
            await self._fill(len(self.buffer) + 1)
        return self._take(place + len(end))[:place]

    async def head(self) -> Answer:
        """The head of an HTTP answer."""
        first, *lines = (await self.line(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, status, _ = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for text in lines:
            name, _, value = text.partition(": ")
            assert name.lower() not in headers, f"{name} is there twice"
            headers[name.lower()] = value
        return Answer(int(status), headers, b"")

    async def answer(self) -> Answer:
        """A whole HTTP answer, after which the server ends its side."""
        head = await self.head()
        body = await self.rest()
        assert int(head.headers.get("content-length", "0")) == len(body)
        return head._replace(body=body)

    async def frame(self) -> Frame:
        """The next frame."""
        await self._fill(2)
        first, size = self.buffer[0], self.buffer[1]
        compressed = bool(first & RSV1) and self.window
        assert first & ~(RSV1 if compressed else 0) & 0xF0 == 0x80, (
            f"not a final, plain frame: {bytes(self.buffer[:20])!r}"
        )
        assert size < 128, "masked"
        start = 2
        if size >= 126:
            start = 4 if size == 126 else 10
            await self._fill(start)
            size = int.from_bytes(self.buffer[2:start], "big")
        await self._fill(start + size)
        self._take(start)
        payload = self._take(size)
        if compressed:
            self.compressed.append(payload)
            payload = zlib.decompress(payload + b"\x00\x00\xff\xff\x03\x00", -self.window)
        return Frame(first & 0x0F, payload)

    async def said(self, op: str = "") -> Any:
        """The next frame, which is an answer or message (called `op`), decoded."""
        frame = await self.frame()
        assert frame.opcode == TEXT, frame
        answer = json.loads(frame.payload)
        assert not op or answer["op"] == op, answer
        return answer

    async def goodbye(self) -> tuple[int, Any]:
        """Reads up to the close frame; its code, and the `goodbye` before it (or None)."""
        last = None
        while (frame := await self.frame()).opcode != CLOSE:
            if frame.opcode == TEXT:
                last = json.loads(frame.payload)
        return frame.code, last if last is not None and last["op"] == "goodbye" else None

    async def rest(self) -> bytes:
        """Everything up to the end of the stream."""
        while data := await self.receive():
            self.buffer += data
        return self._take(len(self.buffer))

    async def ended(self) -> bool:
        """Waits for the end; whether it was an orderly one and not a reset."""
        try:
            while await self.receive():
                pass
        except ConnectionError:
            return False
        return True

    # Conversations

    async def upgrade(self, path: str = "/ws", *headers: str, behind: bytes = b"") -> None:
        """Becomes a WebSocket; `behind` goes out in the same segment as the handshake."""
        await self.send(handshake(path, *headers) + behind)
        answer = await self.head()
        assert answer.status == 101, answer
        assert answer.headers["sec-websocket-accept"] == ACCEPT

    async def subscribe(self, topic: str, **fields: object) -> Any:
        """Subscribes and returns the answer, which is the next thing said."""
        await self.send(command("subscribe", topic=topic, **fields))
        return await self.said("subscribed")

    async def event(self) -> dict[str, str]:
        """The next event of an event stream; its fields. Comments are left out."""
        while True:
            fields: dict[str, str] = {}
            for text in (await self.line(b"\n\n")).decode().split("\n"):
                name, _, value = text.partition(": ")
                if not text.startswith(":"):
                    assert name not in fields, f"{name} is there twice"
                    fields[name] = value
            if "data" in fields:
                return fields


@asynccontextmanager
async def wire(port: int, *, receive_buffer: int = 0) -> AsyncIterator[Wire]:
    """A TCP connection, closed in the end."""
    client = await Wire.open(port, receive_buffer=receive_buffer)
    try:
        yield client
    finally:
        client.close()


@asynccontextmanager
async def connected(
    port: int, path: str = "/ws", *headers: str, receive_buffer: int = 0
) -> AsyncIterator[Wire]:
    """A WebSocket that has its welcome."""
    async with wire(port, receive_buffer=receive_buffer) as client:
        await client.upgrade(path, *headers)
        await client.said("welcome")
        yield client


@asynccontextmanager
async def streaming(
    port: int, topics: Iterable[str], *headers: str, receive_buffer: int = 0, query: str = ""
) -> AsyncIterator[Wire]:
    """An event stream whose head has been read."""
    async with wire(port, receive_buffer=receive_buffer) as client:
        fields = [*(f"topic={topic}" for topic in topics), *([query] if query else [])]
        await client.send(get(f"/sse?{'&'.join(fields)}", *headers))
        answer = await client.head()
        assert answer.status == 200, answer
        yield client
