"""Publishes that are packed in parts: the same bytes as any call of the script."""

from __future__ import annotations

import pytest

from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_packing import HEADS, Common, Packing, words
from clarion_fanout.redis_scripts import PUBLISH
from clarion_fanout.redis_wire import pack

COMMON = Common(words(b"1790000000000", 100, 300_000, 0, b"", b"0"), words(b"PUBLISH", 300_000, 1))


@pytest.mark.parametrize("data", [b"", b"1", b'{"a":"\r\n$3\r\n"}', b"x" * 100_000])
@pytest.mark.parametrize("topic", ["a", "orders:42"])
def test_a_call_in_parts_is_that_of_all_words(topic: str, data: bytes) -> None:
    keys = Keys("other")
    whole = PUBLISH.packed(
        [keys.meta(topic), keys.stream(topic)],
        (
            *(keys.channel(topic), data, b"1790000000000", 100, 300_000, 0, b"", b"0"),
            *("epoch1", b"PUBLISH", 300_000, 1),
        ),
    )
    packing = Packing(keys)
    for _ in range(2):
        assert packing.packed(topic, data, "epoch1", COMMON) == whole


def test_words_are_those_of_a_command() -> None:
    assert b"*3\r\n" + words(b"SET", b"", -7) == pack((b"SET", b"", -7))


def test_any_number_of_topics_is_packed_and_few_are_kept() -> None:
    packing = Packing(Keys())
    first = packing.packed("0", b"1", "e", COMMON)
    for number in range(1, HEADS + 2):
        packing.packed(str(number), b"1", "e", COMMON)
    assert packing.kept <= HEADS
    assert packing.packed("0", b"1", "e", COMMON) == first
