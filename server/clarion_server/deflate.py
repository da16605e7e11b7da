"""permessage-deflate (RFC 7692) in the one form that needs nothing kept between messages.

Every message is a DEFLATE stream of its own, in both directions: `server_no_context_takeover` lets
one compressed frame go to everybody, and with `client_no_context_takeover` no connection holds a
decompressor. What a message may compress to without the ones before it is lost; what is won is
that the work is done once a publication, and that a connection takes no more memory than others.
"""

from __future__ import annotations

import zlib

NAME = "permessage-deflate"

RSV1 = 0x40
"""The bit in a frame's first byte that says that its message is compressed (section 6)."""

MAX_WINDOW = 15
"""Bits: the furthest that DEFLATE refers back is 32 KiB (section 7.1.2)."""

_TAIL = b"\x00\x00\xff\xff"
"""How a flushed stream ends, which the sender leaves out (section 7.2.1)."""

_LAST = b"\x03\x00"
"""An empty last block: a stream that does not come to its end with this, and with no more text,
stopped in the middle of something."""


class Broken(ValueError):
    """What was received is no compressed message. The text says why, for its author."""


class TooLarge(ValueError):
    """A message is larger than allowed when it is decompressed."""


def compress(text: bytes, level: int) -> bytes:
    """The payload of a compressed message (section 7.2.1).

    level: zlib's, 1 to 9.
    """
    stream = zlib.compressobj(level, zlib.DEFLATED, -MAX_WINDOW)
    return (stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)]


def decompress(payload: bytes, limit: int) -> bytes:
    """What a compressed message says (section 7.2.2). Never makes more than `limit` bytes and one.

    A last block (section 7.2.3.4) may end it; nothing else may follow that. The RFC would allow
    more streams in one message: nobody sends them, and each would cost us a decompressor.

    Raises `Broken` or `TooLarge`.
    """
    stream = zlib.decompressobj(-MAX_WINDOW)
    more = b""
    try:
        text = stream.decompress(payload + _TAIL, limit + 1)
        if len(text) <= limit and not stream.eof:
            more = stream.decompress(_LAST, 1)
    except zlib.error:
        raise Broken("a compressed message is not valid DEFLATE") from None
    if len(text) > limit:
        raise TooLarge(f"a message has at most {limit} bytes, decompressed")
    if more or not stream.eof:
        raise Broken("a compressed message is not complete")
    if stream.unused_data not in (b"", _TAIL, b"\x00" + _TAIL):
        raise Broken("something follows the last block of a compressed message")
    return text
