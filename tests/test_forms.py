"""Wire forms: the bytes of a publication, made once and shared."""

from __future__ import annotations

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from clarion_fanout.hub import Form
from clarion_fanout.publication import Arrival, Departure, Loss, Position, Publication, Turn
from clarion_server.compression import Compressor, Rule
from clarion_server.counters import Counters
from clarion_server.deflate import decompress
from clarion_server.forms import EVENT, WEBSOCKET, compressed_forms, position_id
from clarion_server.frames import COMPRESSED_TEXT, frame
from clarion_server.protocol import written

KEPT = Publication("orders:42", b'{"a": "\xc3\xa9"}', 1_790_000_000_123, 20, "x8Qz")
PLAIN = Publication("plain:1", b"[1]", 1_790_000_000_123)


TURN = Turn("orders:42", Position("bN4v", 20), "x8Qz")
LOSS = Loss("orders:42", Position("bN4v", 0), 'a reason\nwith "line breaks"\n\n')
ARRIVAL = Arrival("chat:1", b'{"client": "c-1"}', 1_790_000_000_123)
DEPARTURE = Departure("chat:1", b'{"client": "c-1"}', 1_790_000_000_123)


def anew(publication: Publication) -> Publication:
    """The same publication, encoded for nobody yet."""
    return Publication(
        publication.topic,
        publication.data,
        publication.ts,
        publication.offset,
        publication.epoch,
    )


@pytest.mark.parametrize("publication", [KEPT, PLAIN], ids=["history", "none"])
def test_a_websocket_gets_a_text_frame_with_the_message(publication: Publication) -> None:
    library = ServerProtocol(state=State.OPEN)
    library.send_text(written(publication))
    (frame,) = library.data_to_send()
    assert WEBSOCKET.encode(anew(publication)) == frame


def test_an_event_stream_gets_an_event_whose_id_is_the_position() -> None:
    assert EVENT.encode(anew(KEPT)) == (
        b"id: orders:42|x8Qz|20\n"
        b'data: {"op":"message","topic":"orders:42","offset":20,"ts":1790000000123,'
        b'"data":{"a": "\xc3\xa9"}}\n\n'
    )


def test_an_event_without_history_has_no_id() -> None:
    """The browser goes on sending the last one it saw."""
    encoded = EVENT.encode(anew(PLAIN))
    assert encoded.startswith(b"data: {")
    assert b"\nid:" not in encoded


@pytest.mark.parametrize("news", [TURN, LOSS, ARRIVAL, DEPARTURE], ids=lambda news: news.op)
def test_what_is_no_message_is_a_text_frame_too(news: Publication) -> None:
    library = ServerProtocol(state=State.OPEN)
    library.send_text(written(news))
    assert WEBSOCKET.encode(news) == b"".join(library.data_to_send())
    assert WEBSOCKET.encode(news) is WEBSOCKET.encode(news)


@pytest.mark.parametrize(
    ("news", "id"),
    [
        (TURN, b"id: orders:42|bN4v|20\n"),
        (LOSS, b"id: orders:42|bN4v|0\n"),
        (ARRIVAL, b""),
        (DEPARTURE, b""),
    ],
    ids=lambda value: value.op if isinstance(value, Publication) else "",
)
def test_what_is_no_message_is_an_event_with_a_name(news: Publication, id: bytes) -> None:
    """Its id is the position that it moves the stream to: a browser resumes from there."""
    expected = b"event: %b\n%bdata: %b\n\n" % (news.op.encode(), id, written(news))
    assert EVENT.encode(news) == expected
    assert EVENT.encode(news) is EVENT.encode(news)
    assert expected.count(b"\n") == 4 - (not id)


def test_an_event_is_one_field_and_an_empty_line() -> None:
    """A line break in it would end the field, and two the event (HTML, section 9.2.6)."""
    lines = EVENT.encode(anew(KEPT)).split(b"\n")
    assert [line.partition(b":")[0] for line in lines] == [b"id", b"data", b"", b""]
    assert json.loads(lines[1].removeprefix(b"data: "))["data"] == {"a": "é"}


def test_each_form_is_made_once_for_all_receivers() -> None:
    publication = anew(KEPT)
    first = WEBSOCKET.encode(publication), EVENT.encode(publication)
    again = WEBSOCKET.encode(publication), EVENT.encode(publication)
    assert first[0] is again[0]
    assert first[1] is again[1]
    assert first[0] != first[1]


def test_an_id_can_be_taken_apart_again() -> None:
    """Neither topics nor epochs have the separators."""
    assert position_id("a:b,c=d", "e-_1", 7).split("|") == ["a:b,c=d", "e-_1", "7"]


# Compressed

BOARD = Publication("orders:7", b"[" + b'{"gate":"A1"},' * 60 + b"0]", 1_790_000_000_123, 3, "x8Qz")
"""Some 900 bytes, which become a tenth."""


def compressed() -> tuple[dict[int, Form], Counters]:
    counters = Counters()
    compressor = Compressor({"default": None, "orders": Rule(100, 6)}, counters)
    return compressed_forms(compressor), counters


def test_a_compressed_frame_holds_the_same_message() -> None:
    """As the library's client takes it."""
    library = ClientProtocol(parse_uri("ws://x"), state=State.OPEN)
    library.extensions = [PerMessageDeflate(True, True, 15, 15)]
    encoded = compressed()[0][15].encode(anew(BOARD))
    library.receive_data(encoded)
    (received,) = library.events_received()
    assert isinstance(received, Frame)
    assert bytes(received.data) == written(BOARD)
    assert len(encoded) < len(written(BOARD)) / 4
    assert encoded == frame(encoded[2:], COMPRESSED_TEXT)


def test_a_publication_is_compressed_once_for_all_windows() -> None:
    forms, counters = compressed()
    publication = anew(BOARD)
    frames = {window: forms[window].encode(publication) for window in forms}
    assert all(frames[window] is forms[window].encode(publication) for window in forms)
    assert counters.compressed == {"compressed": 1}
    assert sorted(forms) == list(range(8, 16))


def test_a_narrow_window_gets_the_plain_frame_of_what_is_longer() -> None:
    forms, _ = compressed()
    publication = anew(BOARD)
    assert 512 < len(written(BOARD)) <= 1024
    for window in (8, 9):
        assert forms[window].encode(publication) is WEBSOCKET.encode(publication)
    for window in (10, 14):
        assert forms[window].encode(publication) is forms[15].encode(publication)
        with_window = zlib.decompressobj(-window)
        assert with_window.decompress(forms[window].encode(publication)[2:]) == written(BOARD)


@pytest.mark.parametrize(
    "publication",
    [
        Publication("news:7", BOARD.data, BOARD.ts, 3, "x8Qz"),
        Publication("orders:7", b'"short"', BOARD.ts),
        Loss("orders:7", Position("bN4v", 0), "a reason" * 100),
        Turn("orders:7", Position("bN4v", 20), "x8Qz"),
        Arrival("orders:7", b'{"client": "%b"}' % (b"c" * 500), 1_790_000_000_123),
    ],
    ids=["another namespace", "small", "lost", "turn", "join"],
)
def test_what_is_not_compressed_is_the_frame_of_everybody_else(publication: Publication) -> None:
    forms, counters = compressed()
    for form in forms.values():
        assert form.encode(publication) is WEBSOCKET.encode(publication)
    assert not counters.compressed


@given(st.text(max_size=500), st.integers(8, 15))
def test_whatever_the_text_every_window_can_read_it(text: str, window: int) -> None:
    counters = Counters()
    forms = compressed_forms(Compressor({"default": Rule(0, 6)}, counters))
    publication = Publication("a", json.dumps(text).encode(), BOARD.ts)
    encoded = forms[window].encode(publication)
    if encoded is WEBSOCKET.encode(publication):
        return
    start = 2 if encoded[1] < 126 else 4
    assert len(written(publication)) <= 1 << window
    assert decompress(encoded[start:], 1 << 20) == written(publication)
