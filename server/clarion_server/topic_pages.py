"""Pages of topics: what a worker lists of its own, and what several workers' pages say together."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Mapping
from operator import itemgetter

from clarion_fanout.hub import Topic
from clarion_server.orders import ListTopics, TopicPage

PORTION = 5000
"""Topics looked at in one turn of the event loop: less than 1 ms."""

_BESIDES = 16
"""Bytes of an entry beside its name: brackets, quotes, commas, the number."""


async def page_of(topics: Mapping[str, Topic], wanted: ListTopics) -> TopicPage:
    """The page of a worker's own topics. Takes several turns of the loop when they are many."""
    names = await _first(topics, wanted.prefix, wanted.after, wanted.limit + 1)
    more = len(names) > wanted.limit
    del names[wanted.limit :]
    size = 0
    for count, name in enumerate(names):
        size += len(name) + _BESIDES
        if size > wanted.bytes and count:
            del names[count:]
            more = True
            break
    # Some may have lost their subscribers since, or have none yet.
    listed = [(name, topics[name].size) for name in names if name in topics and topics[name].size]
    return TopicPage(listed, names[-1] if more else None)


async def _first(topics: Mapping[str, Topic], prefix: str, after: str, count: int) -> list[str]:
    """The first `count` names that qualify, sorted; a bounded piece of work at a time."""
    names = list(topics)
    first: list[str] = []
    for start in range(0, len(names), PORTION):
        if start:
            await asyncio.sleep(0)
        part = names[start : start + PORTION]
        if len(first) < count:
            first += [n for n in part if n > after and n.startswith(prefix)]
        else:
            # Most names are behind what has been found: the cheapest test comes first.
            last = first[-1]
            first += [n for n in part if after < n < last and n.startswith(prefix)]
        first.sort()
        del first[count:]
    return first


def merged(one: TopicPage, other: TopicPage, limit: int) -> TopicPage:
    """What two pages say together, at most `limit` topics of it.

    A page that is cut says nothing of the names behind its cut, so neither does the result: a name
    that only the other page has may be among what was cut off. Nothing is lost by that; it comes
    with the next page, with all its subscribers.
    """
    cuts = [page.through for page in (one, other) if page.through is not None]
    through = min(cuts, default=None)
    sums = dict(_until(one, through))
    for name, subscribers in _until(other, through):
        sums[name] = sums.get(name, 0) + subscribers
    names = sorted(sums)  # quick: they are two sorted runs
    if len(names) > limit:
        del names[limit:]
        through = names[-1]
    return TopicPage([(name, sums[name]) for name in names], through)


def _until(page: TopicPage, through: str | None) -> list[tuple[str, int]]:
    if through is None:
        return page.topics
    return page.topics[: bisect_right(page.topics, through, key=itemgetter(0))]
