"""Wire forms: the bytes of a publication, made once and shared."""

from __future__ import annotations

import json

import pytest
from websockets.protocol import State
from websockets.server import ServerProtocol

from clarion_fanout.publication import Publication
from clarion_server.forms import EVENT, WEBSOCKET, position_id
from clarion_server.protocol import message

KEPT = Publication("orders:42", b'{"a": "\xc3\xa9"}', 1_790_000_000_123, 20, "x8Qz")
PLAIN = Publication("plain:1", b"[1]", 1_790_000_000_123)


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
    library.send_text(message(publication))
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
