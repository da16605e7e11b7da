"""The check of payloads: whatever passes must be readable by every client, inside its envelope."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clarion_fanout.payload import AT_ONCE, MAX_DEPTH, are_plain, check
from clarion_fanout.publication import PayloadError
from support.examples import examples

LIMIT = 1_000_000

ENVELOPE = b'{"a":[{"b":[%b]}]}'
"""Four levels: more than any answer of the server puts around `data`."""


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def number(digits: int) -> bytes:
    return b"1" * digits


PIECES = (
    rb"""{ } [ ] : , "" "a" 1 - 0 .5 e9 e999 null true NaN Infinity -0.0 \ \u "\ud800" // ' " """
    + b'"\\ud83d\\ude00" 9007199254740993 \xff \x00 \x7f \xe2\x80\xa8 \xed\xa0\x80 \xef\xbb\xbf'
).split()
WHITE = [b" ", b"\n", b"\r", b"\t"]
nearly_json = st.lists(st.sampled_from([*PIECES, *WHITE]), max_size=12).map(b"".join)
"""Pieces of JSON, of which some fit together."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


@st.composite
def json_texts(draw: st.DrawFn) -> bytes:
    """JSON as Python writes it, which is not always JSON, with white space of several kinds."""
    value = draw(json_values)
    indent = draw(st.sampled_from([None, 0, 2, "\t", "\r\n"]))
    text = json.dumps(value, ensure_ascii=draw(st.booleans()), indent=indent)
    return text.encode("utf-8", "surrogatepass")


@given(st.one_of(st.binary(max_size=30), nearly_json, json_texts()))
@example(b"1e400")
@example(b"-1e-400")
@example(number(308))
@example(number(310))
@example(number(5000))
@example(b"0." + number(5000))
@example(b'{"a":1,"a":2}')
@example(nested(MAX_DEPTH))
@settings(max_examples=examples(500))
def test_what_passes_is_one_line_that_every_parser_takes_inside_an_envelope(data: bytes) -> None:
    try:
        checked = check(data, LIMIT)
    except PayloadError:
        return
    assert b"\n" not in checked
    assert b"\r" not in checked
    spliced = ENVELOPE % checked
    # What a parser makes of an outsize number is its own business, as long as it takes it.
    for parse in (orjson.loads, json.loads, msgspec.json.decode):
        (outer,) = parse(spliced)["a"]
        assert len(outer["b"]) == 1
    assert orjson.loads(spliced)["a"][0]["b"][0] == orjson.loads(data)


@given(json_values)
def test_a_value_that_orjson_writes_passes_as_it_is(value: Any) -> None:
    try:
        data = orjson.dumps(value)
    except (TypeError, ValueError):  # beyond 64 bits, or no Unicode
        return
    assert check(data, LIMIT) == data


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b" ", b"{", b"nope", b"NaN", b"Infinity", b"1e400", b"01", b"'a'", b'"\\ud800"'),
        *(b'"\xff"', b'"\xed\xa0\x80"', b'"\n"', b'"\x00"', b"\xef\xbb\xbf{}", b"{a:1}", b"[1,]"),
        b"{}{}",
    ],
)
def test_what_some_parser_would_refuse_is_refused(data: bytes) -> None:
    with pytest.raises(PayloadError, match="not valid JSON"):
        check(data, LIMIT)


def test_line_breaks_between_tokens_become_spaces() -> None:
    assert check(b'{\r\n"a":\n1\r}\n', LIMIT) == b'{  "a": 1 } '


def test_the_limit_is_in_bytes_and_inclusive() -> None:
    data = '"é"'.encode()
    assert check(data, 4) == data
    with pytest.raises(PayloadError, match="4 bytes, the limit is 3"):
        check(data, 3)


@pytest.mark.parametrize(
    "deep", [nested(MAX_DEPTH), b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH]
)
def test_depth_is_limited(deep: bytes) -> None:
    assert check(deep, LIMIT) == deep
    with pytest.raises(PayloadError, match="deeper than 512"):
        check(b"[" + deep + b"]", LIMIT)


@pytest.mark.parametrize("depth", [1023, 1024, 1025, 5000, 400_000])
def test_any_depth_is_refused_in_order(depth: int) -> None:
    for data in (nested(depth), b"[" * depth, b'{"":' * depth):
        with pytest.raises(PayloadError):
            check(data, 4 * LIMIT)


def test_many_brackets_are_not_depth() -> None:
    data = b"[" + b",".join([b"[{}]"] * 2000) + b"]"
    assert check(data, LIMIT) == data
    text = b'"' + b"[{" * 2000 + b'"'
    assert check(text, LIMIT) == text


def test_what_is_large_may_be_left_to_somebody_else_but_not_its_size() -> None:
    broken = b"[" * (AT_ONCE + 1)
    assert check(broken, LIMIT * 8, defer=True) == broken
    with pytest.raises(PayloadError):
        check(broken, LIMIT * 8)
    with pytest.raises(PayloadError, match="the limit is"):
        check(broken, AT_ONCE, defer=True)
    with pytest.raises(PayloadError, match="not valid JSON"):
        check(broken[:AT_ONCE], LIMIT * 8, defer=True)


def cut_out(text: bytes) -> bytes | None:
    """`text` as it is cut out of a batch; None if a batch with it is broken."""
    try:
        messages = msgspec.json.decode(b'[{"data":%b}]' % text, type=list[dict[str, msgspec.Raw]])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return bytes(messages[0]["data"]) if len(messages) == 1 and len(messages[0]) == 1 else None


@given(st.lists(st.one_of(st.binary(max_size=30), nearly_json, json_texts()), max_size=5))
@example([b"1", b'"a"', b"{}"])
@example([b"[[1],\xff]"])
@settings(max_examples=examples(500))
def test_what_is_plain_together_passes_alone_as_it_is(texts: list[bytes]) -> None:
    values = [value for value in map(cut_out, texts) if value is not None]
    if are_plain(values, LIMIT):
        assert [check(value, LIMIT) for value in values] == values


@pytest.mark.parametrize(
    "value", [b"1e400", b"[\n1]", b"[\r]", b'"12345678"', b"\xff", nested(MAX_DEPTH + 1)]
)
def test_one_that_must_be_looked_at_is_noticed_among_others(value: bytes) -> None:
    assert are_plain([b"1", b'"1234567"', nested(4)], 9)
    assert not are_plain([b"1", value, b"2"], 9)


def test_the_deepest_are_plain_together() -> None:
    assert are_plain([nested(MAX_DEPTH)] * 2, LIMIT)
    assert not are_plain([], LIMIT)
