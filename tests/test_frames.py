"""Frames in: the quick way and the library's way give the same answers, however bytes arrive."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from clarion_server.codes import Close
from clarion_server.frames import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Event,
    Parser,
    close_frame,
    frame,
    receive,
)
from support.examples import examples

MAX_SIZE = 70_000
MAX_FRAMES = 8


def masked(
    payload: bytes, opcode: int = TEXT, *, fin: bool = True, rsv: int = 0, mask: bytes = b"\1\2\3\4"
) -> bytes:
    """A frame as a client sends it."""
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 65536:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8, "big")
    return head + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(payload))


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data` cut at each of `cuts`."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


def ours(chunks: Iterable[bytes], max_size: int = MAX_SIZE) -> list[Event]:
    events: list[Event] = []
    parser: Parser | None = None
    for chunk in chunks:
        new, parser = receive(parser, chunk, max_size, MAX_FRAMES)
        events += new
    return events


def the_librarys(data: bytes, max_size: int = MAX_SIZE) -> list[Event]:
    """What `websockets` makes of the same bytes, one by one, with the rules it leaves to us."""
    library = ServerProtocol(state=State.OPEN, max_size=max_size)
    events: list[Event] = []
    parts: list[bytes] = []
    kind = frames = 0
    decoder = codecs.getincrementaldecoder("utf-8")()
    for byte in data:
        library.receive_data(bytes((byte,)))
        for received in library.events_received():
            assert isinstance(received, Frame)
            payload = bytes(received.data)
            if received.opcode in (Opcode.PING, Opcode.PONG):
                events.append(Event(int(received.opcode), payload))
            elif received.opcode is not Opcode.CLOSE:
                if received.opcode is not Opcode.CONT:
                    kind, parts, frames = int(received.opcode), [], 0
                    decoder.reset()
                parts.append(payload)
                frames += 1
                if frames > MAX_FRAMES:
                    library.fail(1008, f"a message has at most {MAX_FRAMES} frames")
                elif kind == TEXT and not decodes(decoder, payload, received.fin):
                    library.fail(1007, "text is not valid UTF-8")
                elif received.fin:
                    events.append(Event(kind, b"".join(parts)))
        if library.close_sent is not None:
            close = library.close_rcvd if library.parser_exc is None else library.close_sent
            failed = library.close_rcvd is None or library.parser_exc is not None
            writes = b"".join(library.data_to_send())
            if str(library.parser_exc) == "incomplete fragmented message":
                # Where we differ on purpose: control frames may stand between fragments.
                assert library.close_rcvd is not None
                code = library.close_rcvd.code
                payload = b"" if code == 1005 else library.close_rcvd.serialize()
                events.append(Event(CLOSE, frame(payload, CLOSE), code, False))
                return events
            events.append(Event(CLOSE, writes, (close or library.close_sent).code, failed))
            return events
        library.data_to_send()
    return events


def decodes(decoder: codecs.IncrementalDecoder, payload: bytes, final: bool) -> bool:
    try:
        decoder.decode(payload, final)
    except UnicodeDecodeError:
        return False
    return True


payloads = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(str.encode),
    st.sampled_from([b"", b"x" * 125, b"x" * 126, b"\xc3", b"\xa9", b"\xed\xa0\x80", b"y" * 300]),
)
frames = st.builds(
    masked,
    payloads,
    st.sampled_from([TEXT, TEXT, TEXT, BINARY, 0, 0, PING, PONG, CLOSE, 3, 11]),
    fin=st.booleans() | st.just(True),
    rsv=st.sampled_from([0] * 20 + [1, 4]),
    mask=st.binary(min_size=4, max_size=4),
)
streams = st.lists(frames | st.binary(max_size=6), max_size=8).map(b"".join)


@settings(max_examples=examples(600))
@given(streams, st.lists(st.integers(min_value=0, max_value=2000), max_size=12))
@example(masked(b"", fin=False) + masked(b"", 0), [])
@example(masked(b"\xc3", fin=False) + masked(b"p", PING) + masked(b"\xa9", 0), [3])
@example(masked(b"a", fin=False) + masked(b"\x03\xe8bye", CLOSE) + masked(b"b", 0), [2, 5])
@example(masked(b"x" * MAX_SIZE), [1, 2, 9])
@example(masked(b"x" * (MAX_SIZE + 1)), [])
@example(bytes((0x81, 0xFF)) + b"\xff" * 8 + b"\0" * 4, [])
@example(bytes((0x81, 0x05)) + b"hello", [])
@example(masked(b"\x03\xe8bye", CLOSE) + masked(b"after"), [])
@example(masked(b"\x03\xed", CLOSE), [])
@example(masked(b"\x00", CLOSE), [])
@example(masked(b"", CLOSE), [])
def test_the_quick_way_agrees_with_the_library(data: bytes, cuts: list[int]) -> None:
    expected = the_librarys(data)
    got = ours(pieces(data, cuts))
    # Text that breaks off in the middle of a character is refused at once by us, and by the
    # reference when its frame is complete; both are one answer, given sooner or later.
    if got and got[-1].code == 1007 and (not expected or expected[-1].code != 1007):
        tail = masked(b"", 0)
        expected_later = the_librarys(data + b"\0" * 70_100 + tail)
        assert expected_later[: len(got) - 1] == got[:-1]
        return
    assert got == expected


def test_a_parser_lives_only_while_something_is_incomplete() -> None:
    whole = masked(b"hello") + masked(b"x" * 65_600) + masked(b"p", PING)
    events, parser = receive(None, whole, MAX_SIZE, MAX_FRAMES)
    assert [e.kind for e in events] == [TEXT, TEXT, PING]
    assert parser is None
    events, parser = receive(None, masked(b"hel", fin=False), MAX_SIZE, MAX_FRAMES)
    assert (events, parser is None) == ([], False)
    events, parser = receive(parser, masked(b"p", PING), MAX_SIZE, MAX_FRAMES)
    assert ([e.kind for e in events], parser is None) == ([PING], False)
    events, parser = receive(parser, masked(b"lo", 0), MAX_SIZE, MAX_FRAMES)
    assert (events, parser) == ([Event(TEXT, b"hello")], None)


def test_invalid_text_is_refused_before_its_frame_is_complete() -> None:
    data = masked(b"ok \xff and a long rest that never comes")
    events, _ = receive(None, data[:12], MAX_SIZE, MAX_FRAMES)
    assert [(e.kind, e.code, e.failed) for e in events] == [(CLOSE, 1007, True)]


def test_a_message_of_too_many_frames_is_refused_however_small_they_are() -> None:
    data = masked(b"", fin=False) + masked(b"", 0, fin=False) * MAX_FRAMES
    assert [(e.kind, e.code) for e in ours([data])] == [(CLOSE, 1008)]


def test_nothing_is_parsed_after_the_end() -> None:
    events, parser = receive(None, masked(b"\x03\xe8", CLOSE), MAX_SIZE, MAX_FRAMES)
    assert [e.kind for e in events] == [CLOSE]
    assert receive(parser, masked(b"more"), MAX_SIZE, MAX_FRAMES) == ([], parser)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_frames_out_are_the_librarys(size: int, opcode: int) -> None:
    library = ServerProtocol(state=State.OPEN)
    send: Callable[[bytes], None] = library.send_text if opcode == TEXT else library.send_binary
    send(b"x" * size)
    assert frame(b"x" * size, opcode) == b"".join(library.data_to_send())


@pytest.mark.parametrize("reason", ["", "slow consumer", "é" * 100])
def test_close_frames_fit_a_control_frame(reason: str) -> None:
    data = close_frame(Close(4001, reason))
    assert data[0] == 0x88
    assert data[1] <= 125
    assert data[2:4] == (4001).to_bytes(2, "big")
    assert reason.startswith(data[4:].decode())
