"""The bytes of `clarion.v1` that a measurement needs: the handshake, commands, and frames.

Not a WebSocket implementation. What a client sends is masked with a key of zeros, which RFC 6455
allows for and which leaves the text as it is; what a server sends is not masked (section 5.1),
so that a frame is found by its header alone.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator

TEXT = 0x1
CLOSE = 0x8
PING = 0x9
PONG = 0xA

SWITCHING = b"HTTP/1.1 101"
WELCOME = b'"op":"welcome"'
SUBSCRIBED = b'"op":"subscribed"'
GOODBYE = b'"op":"goodbye"'
ERROR = b'"op":"error"'
MESSAGE = b'"op":"message"'


def handshake(port: int, path: str = "/ws", headers: Iterable[str] = ()) -> bytes:
    """The opening handshake. Every client sends the same key: nobody here checks the answer's.

    headers: more of them, whole lines.
    """
    return (
        f"GET {path} HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{port}\r\n"
        "Upgrade: websocket\r\n"
        "Connection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: clarion.v1\r\n"
        + "".join(f"{header}\r\n" for header in headers)
        + "\r\n"
    ).encode()


def client_frame(opcode: int, payload: bytes) -> bytes:
    """One final frame from a client (RFC 6455, section 5.2), masked with zeros."""
    length = len(payload)
    first = 0x80 | opcode
    if length < 126:
        head = struct.pack("!BB", first, 0x80 | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", first, 0x80 | 126, length)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, length)
    return head + b"\0\0\0\0" + payload


def command(op: str, **fields: object) -> bytes:
    """A command as a client's text frame."""
    return client_frame(TEXT, json.dumps({"op": op, **fields}, separators=(",", ":")).encode())


def frames(data: bytes | bytearray) -> Iterator[tuple[int, int, int]]:
    """The complete frames at the start of what a server sent: (opcode, start, end) of each payload.

    The `end` of the last one is where an incomplete frame begins, if there is one.
    """
    at, size = 0, len(data)
    while at + 2 <= size:
        length = data[at + 1]
        start = at + 2
        if length == 126:
            start = at + 4
            if start > size:
                return
            length = data[at + 2] << 8 | data[at + 3]
        elif length == 127:
            start = at + 10
            if start > size:
                return
            (length,) = struct.unpack_from("!Q", data, at + 2)
        if start + length > size:
            return
        yield data[at] & 0x0F, start, start + length
        at = start + length


def close_reason(data: bytes | bytearray) -> str:
    """For people: the close code and reason that `data` ends with, or its beginning."""
    for opcode, start, end in frames(data):
        if opcode == CLOSE and end - start >= 2:
            code = int.from_bytes(data[start : start + 2], "big")
            return f"closed {code} {bytes(data[start + 2 : end]).decode(errors='replace')}".rstrip()
    return repr(bytes(data[:80])) if data else "closed without a word"
