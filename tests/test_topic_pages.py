"""Pages of topics, alone and merged: no name is skipped, none comes twice, no count is short."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion_fanout.hub import Topic
from clarion_server.orders import ListTopics, TopicPage
from clarion_server.topic_pages import PORTION, merged, page_of

MUCH = 10**9


def table(subscribers: Mapping[str, int]) -> dict[str, Topic]:
    """A hub's table of topics."""
    topics: dict[str, Topic] = {}
    for name, size in subscribers.items():
        topics[name] = Topic(name)
        topics[name].size = size
    return topics


def wanted(prefix: str = "", after: str = "", limit: int = 10, bytes: int = MUCH) -> ListTopics:
    return ListTopics(prefix=prefix, after=after, limit=limit, bytes=bytes)


# One worker's


async def test_a_page_is_sorted_and_says_when_there_may_be_more() -> None:
    topics = table({"c": 3, "a": 1, "b": 2})
    assert await page_of(topics, wanted(limit=2)) == TopicPage([("a", 1), ("b", 2)], "b")
    assert await page_of(topics, wanted(limit=3)) == TopicPage([("a", 1), ("b", 2), ("c", 3)])
    assert await page_of(topics, wanted(after="b")) == TopicPage([("c", 3)])


async def test_topics_without_subscribers_are_passed_over_and_counted_as_seen() -> None:
    topics = table({"a": 0, "b": 0, "c": 1})
    assert await page_of(topics, wanted(limit=2)) == TopicPage([], "b")
    assert await page_of(topics, wanted(limit=2, after="b")) == TopicPage([("c", 1)])


@pytest.mark.parametrize(("bytes", "names"), [(0, "a"), (39, "a"), (40, "ab"), (60, "abc")])
async def test_a_page_has_so_many_bytes_or_one_name(bytes: int, names: str) -> None:
    topics = table({name * 4: 1 for name in "abc"})
    page = await page_of(topics, wanted(bytes=bytes))
    assert page.topics == [(name * 4, 1) for name in names]
    assert page.through == (None if names == "abc" else names[-1] * 4)


async def test_a_large_table_is_looked_through_in_several_turns() -> None:
    topics = table({f"t:{number:05}": 1 for number in reversed(range(3 * PORTION))})
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        counting = group.create_task(count())
        page = await page_of(topics, wanted(limit=3))
        counting.cancel()
    assert [name for name, _ in page.topics] == ["t:00000", "t:00001", "t:00002"]
    assert turns == 2


# Several workers'


def test_counts_are_summed() -> None:
    one, other = TopicPage([("a", 1), ("b", 2)]), TopicPage([("b", 3), ("c", 4)])
    assert merged(one, other, 10) == TopicPage([("a", 1), ("b", 5), ("c", 4)])


def test_names_behind_the_cut_of_a_page_wait_for_the_next_one() -> None:
    # The first worker may have subscribers of "c" and "d" too.
    one, other = TopicPage([("a", 1), ("b", 1)], "b"), TopicPage([("c", 1), ("d", 1)])
    assert merged(one, other, 10) == TopicPage([("a", 1), ("b", 1)], "b")
    assert merged(other, one, 10) == TopicPage([("a", 1), ("b", 1)], "b")


def test_a_merged_page_is_cut_too() -> None:
    one, other = TopicPage([("a", 1), ("c", 1)], "c"), TopicPage([("b", 1), ("d", 1)])
    assert merged(one, other, 2) == TopicPage([("a", 1), ("b", 1)], "b")


NAMES = st.text(alphabet="ab:", min_size=1, max_size=4)
WORKERS = st.lists(st.dictionaries(NAMES, st.integers(0, 3), max_size=30), min_size=1, max_size=5)


async def paged(
    workers: Sequence[Mapping[str, Topic]], prefix: str, limit: int, bytes: int
) -> list[tuple[str, int]]:
    """All that the workers have, page by page, as a caller walks through them."""
    found: list[tuple[str, int]] = []
    after = ""
    while True:
        order = wanted(prefix, after, limit, bytes)
        whole: TopicPage | None = None
        for topics in workers:
            page = await page_of(topics, order)
            whole = page if whole is None else merged(whole, page, limit)
        assert whole is not None
        assert len(whole.topics) <= limit
        found += whole.topics
        if whole.through is None:
            return found
        assert whole.through > after, "no page leads back"
        after = whole.through


@given(
    workers=WORKERS,
    prefix=st.text(alphabet="ab:", max_size=2),
    limit=st.integers(1, 12),
    bytes=st.sampled_from([0, 30, 100, MUCH]),
)
def test_walking_through_the_pages_finds_what_adding_everything_up_finds(
    workers: list[dict[str, int]], prefix: str, limit: int, bytes: int
) -> None:
    sums = Counter[str]()
    for subscribers in workers:
        sums.update(subscribers)
    expected = sorted((n, size) for n, size in sums.items() if size and n.startswith(prefix))
    tables = [table(subscribers) for subscribers in workers]
    assert asyncio.run(paged(tables, prefix, limit, bytes)) == expected


@given(pages=st.permutations(range(4)), workers=WORKERS, limit=st.integers(1, 6))
def test_the_order_of_the_workers_does_not_matter(
    pages: list[int], workers: list[dict[str, int]], limit: int
) -> None:
    made = [
        asyncio.run(page_of(table(subscribers), wanted(limit=limit))) for subscribers in workers
    ]
    first = made[0]
    for page in made[1:]:
        first = merged(first, page, limit)
    shuffled = [made[place] for place in pages if place < len(made)] + made[4:]
    second = shuffled[0]
    for page in shuffled[1:]:
        second = merged(second, page, limit)
    # How far it reaches may differ where the next topics have no subscribers.
    assert second.topics == first.topics
