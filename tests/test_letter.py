"""Entries of the inbox: which can be published, and what is said of those that cannot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_fanout.letter import FIELDS, Letter, Undeliverable, read
from clarion_fanout.topics import is_topic

LIMIT = 100


def letter(*fields: bytes) -> Letter:
    return read(b"1-0", fields, LIMIT)


def why_not(*fields: bytes) -> str:
    with pytest.raises(Undeliverable) as raised:
        letter(*fields)
    return str(raised.value)


def test_topic_and_data_are_enough() -> None:
    assert letter(b"topic", b"a:1", b"data", b'{"n":1}') == Letter(b"1-0", "a:1", b'{"n":1}')


def test_the_order_of_fields_does_not_matter() -> None:
    expected = Letter(b"1-0", "a:1", b"2", "k")
    assert letter(b"data", b"2", b"id", b"k", b"topic", b"a:1") == expected
    assert letter(b"id", b"k", b"topic", b"a:1", b"data", b"2") == expected


def test_fields_that_are_not_ours_are_ignored_even_given_twice() -> None:
    fields = (b"topic", b"a", b"data", b"1", b"trace", b"x", b"trace", b"\xff")
    assert letter(*fields) == Letter(b"1-0", "a", b"1")


def test_data_is_put_on_one_line() -> None:
    assert letter(b"topic", b"a", b"data", b"[1,\r\n2]").data == b"[1,  2]"


def test_an_id_may_be_any_text_of_128_characters() -> None:
    assert letter(b"topic", b"a", b"data", b"1", b"id", "é".encode() * 128).id == "é" * 128


def test_a_key_is_visible_ascii() -> None:
    expected = Letter(b"1-0", "a:1", b"2", None, "!k~")
    assert letter(b"topic", b"a:1", b"data", b"2", b"key", b"!k~") == expected
    both = letter(b"key", b"k" * 128, b"topic", b"a:1", b"data", b"2", b"id", b"i")
    assert (both.id, both.key) == ("i", "k" * 128)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([b"data", b"1"], "topic is missing"),
        ([b"topic", b"a"], "data is missing"),
        ([b"Topic", b"a", b"data", b"1"], "topic is missing"),
        ([b"topic", b"a", b"topic", b"b", b"data", b"1"], "topic is given twice"),
        ([b"topic", b"a", b"data", b"1", b"data", b"1"], "data is given twice"),
        ([b"topic", b"", b"data", b"1"], "a topic must not be empty"),
        ([b"topic", b"a b", b"data", b"1"], "character ' ' at place 1 is not allowed in a topic"),
        ([b"topic", b"a" * 256, b"data", b"1"], "at most 255 characters, this one has 256"),
        ([b"topic", b"\xff", b"data", b"1"], "character '\\ufffd' at place 0 is not allowed"),
        ([b"topic", b"a", b"data", b""], "data is not valid JSON"),
        ([b"topic", b"a", b"data", b"{"], "data is not valid JSON"),
        ([b"topic", b"a", b"data", b'"\xff"'], "data is not valid JSON"),
        (
            [b"topic", b"a", b"data", b'"' + b"x" * 99 + b'"'],
            "data has 101 bytes, the limit is 100",
        ),
        ([b"topic", b"a", b"data", b"1", b"id", b""], "id is empty"),
        ([b"topic", b"a", b"data", b"1", b"id", b"\xff"], "id is not valid UTF-8"),
        ([b"topic", b"a", b"data", b"1", b"id", b"k" * 129], "id has 129 characters"),
        ([b"topic", b"a", b"data", b"1", b"key", b""], "key is empty"),
        ([b"topic", b"a", b"data", b"1", b"key", b"k" * 129], "key has 129 characters"),
        ([b"topic", b"a", b"data", b"1", b"key", b"a b"], "character ' ' is not allowed in a key"),
        ([b"topic", b"a", b"data", b"1", b"key", b"a\n"], "character '\\n' is not allowed"),
        ([b"topic", b"a", b"data", b"1", b"key", b"\xff"], "character '\\ufffd' is not allowed"),
        ([b"topic", b"a", b"data", b"1"] + [b"x"] * 2 * (FIELDS - 1), "17 fields, the limit is 16"),
    ],
)
def test_what_is_wrong_is_said(fields: list[bytes], reason: str) -> None:
    assert reason in why_not(*fields)


@given(
    st.lists(
        st.sampled_from([b"topic", b"data", b"id", b"key", b"x"]) | st.binary(max_size=8),
        max_size=12,
    ),
    st.lists(
        st.binary(max_size=20) | st.sampled_from([b"a:1", b'{"n":1}', b"1"]),
        min_size=12,
        max_size=12,
    ),
)
def test_any_entry_is_a_good_letter_or_has_a_reason(
    names: list[bytes], values: list[bytes]
) -> None:
    fields = [part for pair in zip(names, values, strict=False) for part in pair]
    try:
        good = read(b"1-0", fields, LIMIT)
    except Undeliverable as error:
        reason = str(error)
    else:
        assert is_topic(good.topic)
        assert b"\n" not in good.data
        reason = "none"
    assert reason
