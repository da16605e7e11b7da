"""Placement: the same everywhere, even, and moving no more than it must."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_client.placement import ranking
from clarion_fanout.placement import CACHED, Placement

VECTORS = Path(__file__).parent / "vectors" / "placement.json"


class Example(NamedTuple):
    name: str
    shards: list[str]
    topics: dict[str, str]


def examples() -> list[Example]:
    return [Example(**each) for each in json.loads(VECTORS.read_text())]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_topics_are_where_every_language_looks_for_them(example: Example) -> None:
    placement = Placement(example.shards)
    for topic, shard in example.topics.items():
        assert example.shards[placement.place(topic)] == shard
        assert example.shards[ranking(example.shards, topic)[0]] == shard


def test_the_rule_can_be_worked_out_by_hand() -> None:
    """Highest first eight bytes of SHA-1(name, line feed, topic)."""
    numbers = {name: hashlib.sha1(f"{name}\norders:42".encode()).hexdigest()[:16] for name in "abc"}
    winner = max(numbers, key=numbers.__getitem__)
    assert "abc"[Placement(["a", "b", "c"]).place("orders:42")] == winner


names = st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=6, unique=True)
topics = st.text("abcxyz:-/0123456789", min_size=1, max_size=20)


@given(names, topics)
def test_the_order_of_the_list_does_not_matter(shards: list[str], topic: str) -> None:
    shuffled = sorted(shards, reverse=True)
    there = shards[Placement(shards).place(topic)]
    assert shuffled[Placement(shuffled).place(topic)] == there


@given(names, topics, st.data())
def test_a_shard_that_is_removed_moves_its_own_topics_alone(
    shards: list[str], topic: str, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(shards))
    left = [shard for shard in shards if shard != gone]
    before = shards[Placement(shards).place(topic)]
    if before != gone:
        assert left[Placement(left).place(topic)] == before


@pytest.mark.parametrize("count", [2, 3, 7])
def test_topics_are_spread_evenly(count: int) -> None:
    placement = Placement([f"10.0.0.{number}:6379/0" for number in range(count)])
    total = 20_000
    shares = Counter(placement.place(f"user:{number}") for number in range(total))
    # Five standard deviations of a fair draw.
    fair = total / count
    assert all(abs(shares[shard] - fair) < 5 * fair**0.5 for shard in range(count))


def test_a_shard_that_is_added_wins_its_share_of_each() -> None:
    old = Placement(["a", "b", "c"])
    new = Placement(["a", "b", "c", "d"])
    topics = [f"user:{number}" for number in range(20_000)]
    moved = Counter(old.place(topic) for topic in topics if old.place(topic) != new.place(topic))
    assert {new.place(topic) for topic in topics if old.place(topic) != new.place(topic)} == {3}
    assert all(abs(moved[shard] - 20_000 / 12) < 5 * (20_000 / 12) ** 0.5 for shard in range(3))


def test_more_topics_than_are_remembered_are_where_they_were() -> None:
    placement = Placement(["a", "b", "c"])
    first = [placement.place(f"t:{number}") for number in range(1000)]
    for number in range(CACHED + 1000):
        placement.place(f"t:{number}")
    assert [placement.place(f"t:{number}") for number in range(1000)] == first
