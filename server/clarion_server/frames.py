"""WebSocket frames (RFC 6455, section 5): out, and in.

The sans-I/O layer of `websockets` is the authority on what a client's bytes mean. Making one of
its parsers costs as much as everything else that is done for a message, and keeping one for each
connection doubles a connection's memory. So `receive` recognises the plain case by itself, a
whole, masked, unfragmented text, ping or pong frame, and hands everything else to the library. A
parser lives from there to the next boundary between messages. tests/test_frames.py feeds both the
same bytes, however they are cut up, and expects the same answers.

Compressed messages (RFC 7692) are decompressed when they are complete, by `deflate`: the library
gets their frames as if they were not compressed, so that it judges everything else.

What the library leaves to us: UTF-8, checked as it arrives (section 8.1); the number of frames of
one message; and that text may break off anywhere. In one case we know better: a close frame in the
middle of a fragmented message is answered as the close that it is.
"""

from __future__ import annotations

import codecs
import logging
import struct
from typing import NamedTuple

from websockets.extensions import Extension
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.speedups import apply_mask

from clarion_server.codes import INVALID_DATA, Close
from clarion_server.deflate import RSV1, Broken, TooLarge, decompress

TEXT, BINARY, PING, PONG, CLOSE = 1, 2, 9, 10, 8

COMPRESSED_TEXT, COMPRESSED_BINARY = RSV1 | TEXT, RSV1 | BINARY
"""In place of an opcode: a message whose payload is compressed."""

UNREAD = -1
"""In place of an opcode: bytes that were not looked at yet."""

_HEAD_16, _HEAD_64 = struct.Struct(">BBH").pack, struct.Struct(">BBQ").pack

_FIN_TEXT, _FIN_PING, _FIN_PONG = 0x80 | TEXT, 0x80 | PING, 0x80 | PONG
_FIN_COMPRESSED = 0x80 | COMPRESSED_TEXT

# The library logs at debug level what it parses; our own log has what is worth knowing.
_SILENT = logging.getLogger("clarion.websockets")
_SILENT.setLevel(logging.CRITICAL)


def frame(payload: bytes, opcode: int = TEXT) -> bytes:
    """One unmasked, final frame (section 5.2)."""
    size = len(payload)
    if size < 126:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65536:
        return _HEAD_16(0x80 | opcode, 126, size) + payload
    return _HEAD_64(0x80 | opcode, 127, size) + payload


def close_frame(close: Close) -> bytes:
    """A close frame; the reason is cut to what a control frame holds (123 bytes)."""
    reason = close.reason.encode()[:123]
    while reason:
        try:
            reason.decode()
            break
        except UnicodeDecodeError:
            reason = reason[:-1]
    return frame(close.code.to_bytes(2, "big") + reason, CLOSE)


PING_FRAME = frame(b"", PING)


class Event(NamedTuple):
    """What a client sent: a whole message or a control frame.

    kind: TEXT (`payload` is valid UTF-8), BINARY, PING, PONG or CLOSE; or UNREAD, the last one.
    payload: of CLOSE, the bytes to send in answer; then the connection is over.
    code: of CLOSE, the client's code, or ours where `failed`.
    failed: the client broke the protocol.
    """

    kind: int
    payload: bytes
    code: int = 0
    failed: bool = False


def receive(
    parser: Parser | None, data: bytes, max_size: int, max_frames: int, compressed: bool = False
) -> tuple[list[Event], Parser | None]:
    """Takes bytes from a client; returns what they complete, and the parser to go on with.

    parser: what the last call returned; None to begin.
    max_size: of a message, in bytes, compressed and not. max_frames: of a message.
    compressed: whether messages may be; that was agreed on in the handshake. 16 KiB of them may say
        10 MB: when they say more than `max_size`, the rest is left UNREAD, for another call.
    """
    events: list[Event] = []
    if parser is not None and parser.over:
        return events, parser
    place, end = 0, len(data)
    counted = said = 0
    while place < end:
        if compressed and len(events) > counted:
            counted += 1
            said += len(events[-1].payload)
            if said > max_size:
                events.append(Event(UNREAD, data[place:]))
                break
        if parser is None:
            event, after = _plain(data, place, end, max_size)
            if event is None and compressed:
                event, after = _compressed(data, place, end, max_size)
            if event is not None:
                events.append(event)
                place = after
                continue
            parser = Parser(max_size, max_frames, compressed)
        place = parser.feed(data, place, events)
        if parser.over:
            break
        if parser.at_boundary:
            parser = None
    return events, parser


def _plain(data: bytes, place: int, end: int, max_size: int) -> tuple[Event | None, int]:
    """The event of a plain frame at `place` and where the next begins, or None."""
    if end - place < 6:
        return None, place
    first, size = data[place], data[place + 1] - 0x80  # negative: not masked
    mask = place + 2
    if first == _FIN_TEXT and size == 126:
        if end - place < 8:
            return None, place
        size = data[mask] << 8 | data[mask + 1]
        mask += 2
    elif not 0 <= size < 126:
        return None, place
    start = mask + 4
    after = start + size
    if after > end or size > max_size:
        return None, place
    if first == _FIN_TEXT:
        payload = apply_mask(data[start:after], data[mask:start])
        if not payload.isascii():
            try:
                payload.decode()
            except UnicodeDecodeError:
                return None, place
        return Event(TEXT, payload), after
    if first in (_FIN_PONG, _FIN_PING):
        return Event(first & 0x0F, apply_mask(data[start:after], data[mask:start])), after
    return None, place


def _compressed(data: bytes, place: int, end: int, max_size: int) -> tuple[Event | None, int]:
    """The same of a whole compressed text, which is all that browsers send once they may."""
    if end - place < 6 or data[place] != _FIN_COMPRESSED:
        return None, place
    size = data[place + 1] - 0x80
    mask = place + 2
    if size == 126 and end - place >= 8:
        size = data[mask] << 8 | data[mask + 1]
        mask += 2
    elif not 0 <= size < 126:
        return None, place
    start = mask + 4
    after = start + size
    if after > end or size > max_size:
        return None, place
    try:
        payload = decompress(apply_mask(data[start:after], data[mask:start]), max_size)
        if not payload.isascii():
            payload.decode()
    except ValueError:
        return None, place  # what is wrong with it is for the parser to say
    return Event(TEXT, payload), after


def _head_size(head: bytes) -> int:
    """How long the header is that begins with `head`, as far as `head` tells."""
    if len(head) < 2:
        return 2
    length = head[1] & 0x7F
    return 2 + (0 if length < 126 else 2 if length == 126 else 8) + (4 if head[1] & 0x80 else 0)


class _Compressed(Extension):
    """Lets the library take a compressed message for one that is not."""

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        """Takes away RSV1 where it may stand: at the first frame of a message (section 6)."""
        if frame.rsv1 and frame.opcode in (TEXT, BINARY):
            frame.rsv1 = False
        return frame

    def encode(self, frame: Frame) -> Frame:
        """What the library sends are control frames: they are never compressed."""
        return frame


_COMPRESSED = _Compressed()


class Parser:
    """Parses what is not plain, with the library, from one message boundary to the next.

    It follows the frames' headers only to know where they end; what they mean is the library's.
    """

    __slots__ = (
        "_compressed",
        "_decoder",
        "_frames",
        "_head",
        "_left",
        "_library",
        "_mask",
        "_max_frames",
        "_max_size",
        "_may_compress",
        "_opcode",
        "_parts",
        "at_boundary",
        "over",
        "since",
    )

    def __init__(self, max_size: int, max_frames: int, may_compress: bool = False) -> None:
        self._library = ServerProtocol(state=State.OPEN, max_size=max_size, logger=_SILENT)
        if may_compress:
            self._library.extensions = [_COMPRESSED]
        self._may_compress = may_compress
        self._compressed = False  # the message that is being received
        self._max_size = max_size
        self._max_frames = max_frames
        self._head = b""
        self._left = 0
        self._mask = b""
        self._opcode = 0
        self._parts: list[bytes] | None = None  # of the message that is being received
        self._frames = 0
        self._decoder: codecs.IncrementalDecoder | None = None
        self.at_boundary = True
        """Nothing incomplete is held: the parser may be thrown away."""
        self.over = False
        """A close was received or the client broke the protocol; nothing more is parsed."""
        self.since = 0
        """For the owner: when the incomplete message began."""

    def feed(self, data: bytes, place: int, events: list[Event]) -> int:
        """Parses to the end of the frame at `place` or of the data; returns where it stopped."""
        self.at_boundary = False
        if not self._left:
            place = self._feed_head(data, place, events)
            if self.over or place == len(data) or not self._left:
                return place
        chunk = data[place : place + self._left]
        # A compressed text is one when it is decompressed.
        is_text = self._decoder is not None and self._opcode in (0, TEXT) and not self._compressed
        if is_text and not self._check_text(chunk, last=False):
            self._fail(CloseCode.INVALID_DATA, INVALID_DATA.reason, events)
            return len(data)
        self._left -= len(chunk)
        self._take(chunk, events)
        return place + len(chunk)

    def _feed_head(self, data: bytes, place: int, events: list[Event]) -> int:
        """Gathers a frame's header; when it is complete, `_left` is the payload's size."""
        while True:
            head = self._head
            chunk = data[place : place + _head_size(head) - len(head)]
            if not chunk:
                return place
            place += len(chunk)
            head = self._head = head + chunk
            complete = len(head) == _head_size(head)
            # Known before the library sees the end of the header: with an empty payload that is
            # the end of the frame.
            if complete and not self._begin(head, events):
                return len(data)
            self._take(chunk, events)
            if self.over:
                return len(data)
            if complete:
                return place

    def _begin(self, head: bytes, events: list[Event]) -> bool:
        """Notes what a frame's header says; False if it is one frame too many."""
        self._head = b""
        # With the reserved bits: a frame that has any is for the library to refuse.
        self._opcode = head[0] & 0x7F
        if self._may_compress and self._opcode in (COMPRESSED_TEXT, COMPRESSED_BINARY):
            self._opcode ^= RSV1
            self._compressed = True
        elif self._opcode in (TEXT, BINARY):
            self._compressed = False
        length = head[1] & 0x7F
        mask_at = len(head) - 4
        self._mask = head[mask_at:]
        self._left = length if length < 126 else int.from_bytes(head[2:mask_at], "big")
        if self._opcode == CLOSE:
            # Control frames may come between the frames of a message, close frames among them
            # (sections 5.4 and 5.5.1). The library would call this one a protocol error.
            self._library.current_size = None
        elif self._opcode in (0, TEXT, BINARY):
            self._frames += 1
            if self._opcode == TEXT:
                self._decoder = codecs.getincrementaldecoder("utf-8")()
            if self._frames > self._max_frames:
                reason = f"a message has at most {self._max_frames} frames"
                self._fail(CloseCode.POLICY_VIOLATION, reason, events)
                return False
        return True

    def _check_text(self, chunk: bytes, *, last: bool) -> bool:
        assert self._decoder is not None
        text = apply_mask(chunk, self._mask) if chunk else b""
        turn = len(chunk) % 4  # the mask goes on where this chunk ended
        self._mask = self._mask[turn:] + self._mask[:turn]
        try:
            self._decoder.decode(text, last)
        except UnicodeDecodeError:
            return False
        return True

    def _is_text(self, payload: bytes) -> bool:
        """Whether a whole text message is one."""
        if not self._compressed:
            return self._check_text(b"", last=True)  # the rest was looked at as it came
        try:
            payload.decode()
        except UnicodeDecodeError:
            return False
        return True

    def _take(self, chunk: bytes, events: list[Event]) -> None:
        """Gives bytes to the library and collects what they complete."""
        library = self._library
        library.receive_data(chunk)
        for received in library.events_received():
            assert isinstance(received, Frame)
            self._collect(received.opcode, bytes(received.data), received.fin, events)
            if self.over:
                return
        if library.close_sent is not None:
            self._end(library.parser_exc is not None, events)
        elif not self._left and not self._head:
            self._settle()
        if not self.over:
            library.data_to_send()  # the pong: our answer to PING is the same

    def _collect(self, opcode: Opcode, data: bytes, fin: bool, events: list[Event]) -> None:
        if opcode >= 8:
            if opcode in (PING, PONG):
                events.append(Event(int(opcode), data))
            return
        kind = TEXT if self._decoder is not None else BINARY
        if self._parts is None:
            self._parts = []
        self._parts.append(data)
        if fin:
            payload = b"".join(self._parts)
            if self._compressed:
                try:
                    payload = decompress(payload, self._max_size)
                except TooLarge as error:
                    self._fail(CloseCode.MESSAGE_TOO_BIG, str(error), events)
                    return
                except Broken as error:
                    self._fail(CloseCode.PROTOCOL_ERROR, str(error), events)
                    return
            if kind == TEXT and not self._is_text(payload):
                self._fail(CloseCode.INVALID_DATA, INVALID_DATA.reason, events)
                return
            events.append(Event(kind, payload))
            self._parts = None
            self._decoder = None
            self._frames = 0

    def _settle(self) -> None:
        self.at_boundary = self._parts is None and self._library.current_size is None

    def _fail(self, code: CloseCode, reason: str, events: list[Event]) -> None:
        self._library.fail(code, reason)
        self._end(True, events)

    def _end(self, failed: bool, events: list[Event]) -> None:
        self.over = True
        library = self._library
        close = library.close_sent if failed else library.close_rcvd
        answer = b"".join(library.data_to_send())
        events.append(Event(CLOSE, answer, int(close.code) if close else 1006, failed))
