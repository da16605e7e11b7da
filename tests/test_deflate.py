"""Compressed payloads: the examples of RFC 7692, zlib and `websockets` on the other side."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode

from clarion_server.deflate import Broken, TooLarge, compress, decompress
from support.examples import examples

LIMIT = 100_000

texts = st.one_of(
    st.binary(max_size=400),
    st.text(max_size=200).map(str.encode),
    st.builds(lambda piece, times: piece * times, st.binary(max_size=40), st.integers(0, 400)),
)


def library() -> PerMessageDeflate:
    return PerMessageDeflate(True, True, 15, 15)


def the_librarys(payload: bytes, limit: int = LIMIT) -> bytes | type[Exception]:
    """What `websockets` makes of a compressed message."""
    try:
        frame = Frame(Opcode.BINARY, payload, rsv1=True)
        return bytes(library().decode(frame, max_size=limit).data)
    except (ProtocolError, PayloadTooBig) as error:
        return type(error)


def ours(payload: bytes, limit: int = LIMIT) -> bytes | type[Exception]:
    try:
        return decompress(payload, limit)
    except (Broken, TooLarge) as error:
        return type(error)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        pytest.param("f248cdc9c90700", b"Hello", id="7.2.3.1: one block"),
        pytest.param("000500faff48656c6c6f00", b"Hello", id="7.2.3.3: a block without compression"),
        pytest.param("f348cdc9c90700", b"Hello", id="7.2.3.4: a last block"),
        pytest.param("f24805000000ffffcac9c90700", b"Hello", id="7.2.3.5: two blocks"),
        pytest.param("00", b"", id="7.2.3.6: an empty message"),
        pytest.param("000000ffff00", b"", id="empty blocks"),
    ],
)
def test_the_examples_of_the_rfc_are_understood(payload: str, text: bytes) -> None:
    assert decompress(bytes.fromhex(payload), 5) == text
    assert the_librarys(bytes.fromhex(payload)) == text


def test_hello_is_written_as_in_the_rfc() -> None:
    """Section 7.2.3.1; and 7.2.3.2: without context takeover the second time is as the first."""
    assert compress(b"Hello", 6) == compress(b"Hello", 6) == bytes.fromhex("f248cdc9c90700")
    assert compress(b"", 6) == b"\x00"


def test_what_refers_to_the_message_before_is_refused() -> None:
    """Section 7.2.3.2: the second "Hello" of a client that keeps its window, which we forbid."""
    with pytest.raises(Broken):
        decompress(bytes.fromhex("f200110000"), LIMIT)


@settings(max_examples=examples(300))
@given(texts, st.integers(1, 9))
@example(b"x" * LIMIT, 1)
def test_what_we_write_everybody_reads(text: bytes, level: int) -> None:
    payload = compress(text, level)
    assert the_librarys(payload) == text
    assert ours(payload) == text


@settings(max_examples=examples(200))
@given(texts, st.integers(9, 15), st.integers(0, 9))
def test_we_read_what_others_write(text: bytes, window: int, level: int) -> None:
    other = PerMessageDeflate(True, True, 15, window, {"level": level})
    payload = bytes(other.encode(Frame(Opcode.BINARY, text)).data)
    assert ours(payload) == text


@pytest.mark.parametrize("over", [0, 1, 1000])
@pytest.mark.parametrize("limit", [1, 255, 70_000])
def test_a_message_may_be_as_large_as_the_limit_and_no_larger(limit: int, over: int) -> None:
    payload = compress(b"x" * (limit + over), 6)
    assert ours(payload, limit) == (TooLarge if over else b"x" * limit)


def test_a_bomb_costs_no_more_memory_than_the_limit() -> None:
    """64 KiB that would become 60 MiB."""
    bomb = compress(b"\0" * (60 << 20), 9)
    assert len(bomb) < 65_536
    tracemalloc.start()
    try:
        assert ours(bomb) is TooLarge
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        pytest.param(b"", "not valid", id="no payload at all"),
        pytest.param(b"\xff", "not valid", id="no such block"),
        pytest.param(compress(b"some text that is cut", 6)[:9], "not valid", id="cut"),
        pytest.param(b"\x00\x64\x00\x9b\xff" + b"He", "not complete", id="98 bytes missing"),
        pytest.param(bytes.fromhex("f348cdc9c90700") + b"more", "follows", id="behind the end"),
        pytest.param(bytes.fromhex("f348cdc9c907") + b"\x03\x00" * 9, "follows", id="more streams"),
    ],
)
def test_what_is_no_compressed_message_is_refused(payload: bytes, why: str) -> None:
    with pytest.raises(Broken, match=why):
        decompress(payload, LIMIT)


@settings(max_examples=examples(500))
@given(st.binary(max_size=60) | st.builds(lambda t, n: compress(t, 6)[:n], texts, st.integers(0)))
@example(b"\x9b0a")  # cut, so that the tail and what follows it are read as text
def test_garbage_is_refused_or_means_to_us_what_it_means_to_the_library(payload: bytes) -> None:
    """The library takes two things that we refuse: what is cut short, and what follows the end."""
    got, expected = ours(payload), the_librarys(payload)
    if isinstance(got, bytes):
        assert got == expected
    elif expected is ProtocolError:
        assert got is Broken
