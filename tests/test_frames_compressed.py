"""Compressed messages in: the same answers as the library's, however they are cut up."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from clarion_server.deflate import compress
from clarion_server.frames import BINARY, CLOSE, PING, PONG, TEXT, UNREAD, Event, Parser, receive
from support.examples import examples
from support.wire import RSV1, masked

MAX_SIZE = 3000
MAX_FRAMES = 8
RSV2 = 0x20


def pieces(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data` cut at each of `cuts`."""
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(places)]


def ours(chunks: Iterable[bytes], max_size: int = MAX_SIZE) -> list[Event]:
    events: list[Event] = []
    parser: Parser | None = None
    for chunk in chunks:
        while chunk:
            new, parser = receive(parser, chunk, max_size, MAX_FRAMES, compressed=True)
            chunk = new.pop().payload if new and new[-1].kind == UNREAD else b""
            events += new
    return events


def the_librarys(data: bytes) -> list[Event]:
    """What `websockets` makes of the same bytes with its own extension, up to a close.

    UTF-8 and the number of frames, which it leaves to us, are looked at when a message is whole.
    """
    library = ServerProtocol(state=State.OPEN, max_size=MAX_SIZE)
    library.extensions = [PerMessageDeflate(True, True, 15, 15)]
    events: list[Event] = []
    parts: list[bytes] = []
    kind = 0
    for byte in data:
        library.receive_data(bytes((byte,)))
        for received in library.events_received():
            assert isinstance(received, Frame)
            if received.opcode in (Opcode.PING, Opcode.PONG):
                events.append(Event(int(received.opcode), bytes(received.data)))
            elif received.opcode is not Opcode.CLOSE:
                if received.opcode is not Opcode.CONT:
                    kind, parts = int(received.opcode), []
                parts.append(bytes(received.data))
                if received.fin:
                    events.append(Event(kind, b"".join(parts)))
        if library.close_sent is not None:
            failed = library.parser_exc is not None
            close = library.close_sent if failed else library.close_rcvd
            assert close is not None
            events.append(Event(CLOSE, b"".join(library.data_to_send()), close.code, failed))
            return events
        library.data_to_send()
    return events


def is_utf8(payload: bytes) -> bool:
    try:
        codecs.decode(payload, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def message(text: bytes, cuts: Iterable[int], opcode: int = TEXT, level: int = 6) -> bytes:
    """A compressed message, in frames that are cut anywhere."""
    parts = pieces(compress(text, level), cuts) or [b""]
    return b"".join(
        masked(part, 0 if place else RSV1 | opcode, fin=place == len(parts) - 1)
        for place, part in enumerate(parts)
    )


texts = st.one_of(
    st.text(max_size=200).map(str.encode),
    st.binary(max_size=200),
    st.builds(lambda piece, times: piece * times, st.binary(max_size=9), st.integers(0, 400)),
)
cuts = st.lists(st.integers(0, 500), max_size=4)
messages = st.builds(message, texts, cuts, st.sampled_from([TEXT, TEXT, BINARY]))
others = st.builds(
    masked,
    st.sampled_from([b"", b"plain", b"\x03\xe8", compress(b"Hello", 6), compress(b"x" * 9000, 6)]),
    st.builds(
        int.__or__,
        st.sampled_from([TEXT, TEXT, BINARY, 0, 0, PING, PONG, CLOSE]),
        st.sampled_from([0, 0, RSV1, RSV1, RSV2, RSV1 | RSV2]),
    ),
    fin=st.booleans() | st.just(True),
)
streams = st.lists(messages | others, max_size=6).map(b"".join)


@settings(max_examples=examples(500))
@given(streams, st.lists(st.integers(0, 3000), max_size=8))
@example(message(b"Hello", [3]), [1, 4, 9])
@example(masked(compress(b"a" * 200, 6) + b"\xff", RSV1 | TEXT), [])
@example(message(b"x" * MAX_SIZE, []), [])
@example(message(b"x" * (MAX_SIZE + 1), []), [])
@example(masked(b"Hel", fin=False) + masked(b"lo", RSV1), [])
@example(masked(b"a", fin=False) + message(b"Hello", []), [])
@example(masked(b"Hello", RSV1 | TEXT, fin=False) + masked(b"", PING), [])
def test_compressed_messages_mean_what_they_mean_to_the_library(
    data: bytes, places: list[int]
) -> None:
    got, expected = ours(pieces(data, places)), the_librarys(data)
    ended = got and got[-1].kind == CLOSE and got[-1].failed
    whole = got[:-1] if ended else got
    # Up to our end they agree. We end earlier where the library does not look (UTF-8, the number
    # of frames), and later where it decompresses a frame of which the rest is not there yet.
    if not ended and expected and expected[-1].kind == CLOSE and expected[-1].failed:
        # The rest of that message never comes; what came between its frames did.
        end = len(expected) - 1
        assert expected[:end] == got[:end]
        assert ours(pieces(data + masked(b"", 0), places))[-1].kind == CLOSE
        return
    assert expected[: len(whole)] == whole
    if ended and len(expected) > len(whole):
        theirs, ending = expected[len(whole)], got[-1]
        if theirs.kind == CLOSE:
            assert ending.code in (theirs.code, 1007, 1008, 1002)
        elif ending.code == 1007:
            assert not is_utf8(theirs.payload) or theirs.kind in (PING, PONG)
        else:
            assert ending.code in (1002, 1008)


@settings(max_examples=examples(300))
@given(
    st.lists(st.tuples(st.text(max_size=300), cuts, st.booleans()), max_size=5),
    st.lists(st.integers(0, 3000), max_size=8),
)
def test_any_text_in_any_frames_arrives(
    sent: list[tuple[str, list[int], bool]], places: list[int]
) -> None:
    """Compressed and plain ones, with pings between the frames."""
    data = b""
    for text, at, compressed in sent:
        data += message(text.encode(), at) if compressed else masked(text.encode())
        data += masked(b"p", PING)
    got = ours(pieces(data, places))
    assert [e for e in got if e.kind != PING] == [Event(TEXT, text.encode()) for text, _, _ in sent]
    assert sum(e.kind == PING for e in got) == len(sent)


def test_a_ping_between_the_frames_of_a_compressed_message_is_answered_at_once() -> None:
    frames = pieces(compress(b"Hello", 6), [3])
    first = masked(frames[0], RSV1 | TEXT, fin=False)
    events, parser = receive(None, first + masked(b"p", PING), MAX_SIZE, MAX_FRAMES, True)
    assert events == [Event(PING, b"p")]
    events, parser = receive(parser, masked(frames[1], 0), MAX_SIZE, MAX_FRAMES, True)
    assert (events, parser) == ([Event(TEXT, b"Hello")], None)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(masked(b"p", RSV1 | PING), 1002, id="a compressed ping"),
        pytest.param(masked(b"\x03\xe8", RSV1 | CLOSE), 1002, id="a compressed close"),
        pytest.param(masked(b"\x00", RSV2 | TEXT), 1002, id="RSV2"),
        pytest.param(masked(b"\x00", RSV1 | RSV2 | TEXT), 1002, id="RSV1 and RSV2"),
        pytest.param(
            masked(b"\xf2\x48", RSV1 | TEXT, fin=False) + masked(b"\xcd\xc9\xc9\x07\x00", RSV1),
            1002,
            id="RSV1 at a continuation",
        ),
        pytest.param(masked(b"a", fin=False) + masked(b"b", RSV1), 1002, id="RSV1, too late"),
        pytest.param(masked(b"", RSV1 | TEXT), 1002, id="no payload at all"),
        pytest.param(masked(b"\xff\xff", RSV1 | TEXT), 1002, id="no DEFLATE"),
        pytest.param(masked(compress(b"\xff\xfe", 6), RSV1 | TEXT), 1007, id="no text"),
        pytest.param(message(b"caf\xc3", [2]), 1007, id="half a character"),
        pytest.param(message(b"x" * (MAX_SIZE + 1), []), 1009, id="too large"),
        pytest.param(
            message(b"x" * (MAX_SIZE + 1), [3, 5], BINARY), 1009, id="too large, in frames"
        ),
        pytest.param(
            masked(b"\x00" * (MAX_SIZE + 1), RSV1 | TEXT), 1009, id="too large, compressed"
        ),
        pytest.param(
            masked(b"", RSV1 | TEXT, fin=False) + masked(b"", 0, fin=False) * MAX_FRAMES,
            1008,
            id="too many frames",
        ),
    ],
)
def test_what_breaks_the_rules_ends_the_connection(data: bytes, code: int) -> None:
    (event,) = ours([data])
    assert (event.kind, event.code, event.failed) == (CLOSE, code, True)


def test_a_compressed_message_is_an_error_where_none_was_agreed_on() -> None:
    events, _ = receive(None, message(b"Hello", []), MAX_SIZE, MAX_FRAMES)
    assert [(e.kind, e.code) for e in events] == [(CLOSE, 1002)]


def test_one_read_is_taken_in_pieces_that_say_no_more_than_two_messages() -> None:
    """A read of 16 KiB may say 10 MB, and a client may make us wait with what it said."""
    bomb = message(b"x" * MAX_SIZE, [])
    data = (bomb + masked(b"plain") + masked(b"p", PING)) * 50
    whole: list[Event] = []
    parser: Parser | None = None
    calls = 0
    while data:
        events, parser = receive(parser, data, MAX_SIZE, MAX_FRAMES, True)
        data = events.pop().payload if events[-1].kind == UNREAD else b""
        assert events  # it goes on
        assert sum(len(event.payload) for event in events) <= 2 * MAX_SIZE
        whole += events
        calls += 1
    one = [Event(TEXT, b"x" * MAX_SIZE), Event(TEXT, b"plain"), Event(PING, b"p")]
    assert whole == one * 50
    assert calls <= 51


def test_an_empty_message_is_one() -> None:
    assert ours([message(b"", [])]) == [Event(TEXT, b"")]


def test_no_parser_is_kept_behind_a_compressed_message() -> None:
    data = message(b"Hello", []) + message(b"Hello", [2], BINARY)
    events, parser = receive(None, data, MAX_SIZE, MAX_FRAMES, True)
    assert (events, parser) == ([Event(TEXT, b"Hello"), Event(BINARY, b"Hello")], None)
