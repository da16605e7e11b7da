"""The presence contract: one suite for every implementation of `Presence`.

What is pinned here, of the text in `clarion_fanout/presence.py`:

    reading         What a worker has entered and left before it asks is part of the answer, and
                    a moment later of everybody's. Pages hold each member once that stays. Where
                    only the count is kept, there is nothing else.
    announcements   Who has come or gone is fed, once, in order, to those who are in too; where
                    announcements are kept and nowhere else. What changes and changes back at once
                    leaves nobody with a wrong idea.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from clarion_fanout.presence import PresencePage
from support.presences import FACTORIES, OpenedPresence, PresenceFactory, believed, member
from support.waiting import until

KEPT = ("members:a", "events:a")
LONG = "members:" + "x" * 247


@pytest.fixture(params=list(FACTORIES))
async def factory(request: pytest.FixtureRequest) -> AsyncIterator[PresenceFactory]:
    factory = FACTORIES[request.param]()
    yield factory
    await factory.close()


@pytest.fixture
async def worker(factory: PresenceFactory) -> OpenedPresence:
    return await factory.open("members:a", "count:a", "events:a", "events:b")


def clients(first: int, last: int) -> list[str]:
    return [f"c-{number:04}" for number in range(first, last)]


# Reading


@pytest.mark.parametrize("topic", [*KEPT, "count:a"])
async def test_a_topic_where_nobody_is_has_no_members(worker: OpenedPresence, topic: str) -> None:
    assert await worker.presence.read(topic, 10) == PresencePage(0)


@pytest.mark.parametrize("topic", [*KEPT, LONG])
async def test_who_has_entered_is_there_at_once_as_it_shows_itself(
    worker: OpenedPresence, topic: str
) -> None:
    worker.enter(topic, "c-1")
    assert await worker.presence.read(topic, 10) == PresencePage(1, (member("c-1"),))
    worker.enter(topic, "c-2")
    page = await worker.presence.read(topic, 10)
    assert (page.count, set(page.members)) == (2, {member("c-1"), member("c-2")})


@pytest.mark.parametrize("topic", KEPT)
async def test_who_has_left_is_gone_at_once(worker: OpenedPresence, topic: str) -> None:
    worker.enter(topic, "c-1", "c-2")
    assert await worker.population(topic) == 2
    worker.leave(topic, "c-1")
    assert await worker.presence.read(topic, 10) == PresencePage(1, (member("c-2"),))
    worker.leave(topic, "c-2")
    assert await worker.presence.read(topic, 10) == PresencePage(0)


async def test_a_topic_that_keeps_the_count_has_nothing_else(worker: OpenedPresence) -> None:
    worker.enter("count:a", *clients(0, 30))
    assert await worker.presence.read("count:a", 10) == PresencePage(30)
    worker.leave("count:a", *clients(5, 30))
    assert await worker.presence.read("count:a", 10) == PresencePage(5)
    worker.leave("count:a", *clients(0, 5))
    assert await worker.presence.read("count:a", 10) == PresencePage(0)


async def test_topics_have_members_of_their_own(worker: OpenedPresence) -> None:
    topics = [f"members:{number}" for number in range(20)]
    for place, topic in enumerate(topics):
        worker.enter(topic, *clients(0, place))
    assert [await worker.population(topic) for topic in topics] == list(range(20))
    for topic in topics[10:]:
        worker.leave(topic, "c-0003")
    assert [await worker.population(topic) for topic in topics] == [*range(10), *range(9, 19)]


async def test_it_says_how_many_members_a_worker_has(worker: OpenedPresence) -> None:
    worker.enter("members:a", *clients(0, 5))
    worker.enter("count:a", *clients(0, 3))
    assert worker.presence.members == 8
    worker.leave("members:a", "c-0000")
    worker.leave("count:a", "c-0000")
    assert worker.presence.members == 6


@pytest.mark.parametrize("topic", KEPT)
async def test_who_comes_back_is_there_once(worker: OpenedPresence, topic: str) -> None:
    for _ in range(3):
        worker.enter(topic, "c-1")
        assert await worker.population(topic) == 1
        worker.leave(topic, "c-1")
        worker.enter(topic, "c-1")
        worker.leave(topic, "c-1")
        assert await worker.population(topic) == 0
    worker.enter(topic, "c-1")
    worker.leave(topic, "c-1")
    worker.enter(topic, "c-1")
    assert await worker.walk(topic) == [member("c-1")]


async def test_thousands_may_enter_and_leave_together(worker: OpenedPresence) -> None:
    worker.enter("members:a", *clients(0, 3000))
    assert await worker.population("members:a") == 3000
    assert sorted(await worker.walk("members:a", 1000)) == list(map(member, clients(0, 3000)))
    worker.leave("members:a", *clients(1, 3000))
    assert await worker.walk("members:a") == [member("c-0000")]


# Pages


@pytest.mark.parametrize("count", [9, 10, 11, 20, 25])
async def test_pages_hold_every_member_once(worker: OpenedPresence, count: int) -> None:
    worker.enter("members:a", *clients(0, count))
    assert sorted(await worker.walk("members:a", 10)) == list(map(member, clients(0, count)))


async def test_the_count_is_that_of_all_members_on_each_page(worker: OpenedPresence) -> None:
    worker.enter("members:a", *clients(0, 25))
    page = await worker.presence.read("members:a", 10)
    assert page.count == 25
    assert (await worker.presence.read("members:a", 10, page.next)).count == 25
    assert await worker.presence.read("members:a", 0) == PresencePage(25)


async def test_who_stays_is_met_once_while_others_come_and_go(worker: OpenedPresence) -> None:
    stay = clients(0, 40)
    go = clients(100, 140)
    worker.enter("members:a", *(each for pair in zip(stay, go, strict=True) for each in pair))
    page = await worker.presence.read("members:a", 10)
    met = list(page.members)
    number = 0
    while page.next:
        worker.leave("members:a", *go[number : number + 4])
        worker.enter("members:a", *clients(200 + number, 202 + number))
        number += 4
        page = await worker.presence.read("members:a", 10, page.next)
        met += page.members
    assert number >= 12
    assert len(met) == len(set(met))
    assert set(met) >= set(map(member, stay))


async def test_a_page_begins_behind_a_member_that_has_left(worker: OpenedPresence) -> None:
    worker.enter("members:a", *clients(0, 20))
    first = await worker.presence.read("members:a", 10)
    left = [client for client in clients(0, 20) if member(client) in first.members]
    worker.leave("members:a", *left)
    rest = await worker.presence.read("members:a", 10, first.next)
    assert rest.count == 10
    assert {*rest.members, *first.members} == set(map(member, clients(0, 20)))
    assert not rest.next


@pytest.mark.parametrize("after", ["x", "-1", "9" * 30, "\u2028 é", "²", "c-0001", " ", "w x y"])
async def test_what_is_no_place_is_one_all_the_same(worker: OpenedPresence, after: str) -> None:
    worker.enter("members:a", *clients(0, 5))
    page = await worker.presence.read("members:a", 10, after)
    assert page.count == 5
    assert set(page.members) <= set(map(member, clients(0, 5)))


# Announcements


async def test_who_comes_and_goes_is_announced_in_order_to_itself_too(
    worker: OpenedPresence,
) -> None:
    worker.enter("events:a", "c-1")
    await worker.hears("events:a", ("join", "c-1"))
    worker.enter("events:a", "c-2")
    worker.leave("events:a", "c-1")
    await worker.hears("events:a", ("join", "c-1"), ("join", "c-2"), ("leave", "c-1"))
    assert worker.presence.announced == 3


async def test_nothing_is_announced_where_members_or_counts_are_kept(
    worker: OpenedPresence,
) -> None:
    topics = ("members:a", "count:a", "events:a")
    for topic in topics:
        worker.enter(topic, "c-1")
        assert await worker.population(topic) == 1
    await worker.hears("events:a", ("join", "c-1"))
    for topic in topics:
        worker.leave(topic, "c-1")
        assert await worker.population(topic) == 0
    await worker.hears("events:a", ("join", "c-1"), ("leave", "c-1"))
    assert {each.topic for each in worker.feed.publications} == {"events:a"}


async def test_those_who_come_and_go_at_once_leave_nobody_with_a_wrong_idea(
    worker: OpenedPresence,
) -> None:
    worker.enter("events:a", "stays", "goes")
    await until(lambda: len(worker.feed.publications) == 2)
    worker.enter("events:a", "passes")
    worker.leave("events:a", "passes")
    worker.leave("events:a", "stays")
    worker.enter("events:a", "stays")
    worker.leave("events:a", "goes")
    worker.enter("events:a", "end")
    await until(lambda: any(each.data == member("end") for each in worker.feed.publications))
    assert believed(worker.feed, "events:a") == {member("stays"), member("end")}
    assert set(await worker.walk("events:a")) == {member("stays"), member("end")}


async def test_hundreds_are_announced_each_once(worker: OpenedPresence) -> None:
    worker.enter("events:a", *clients(0, 700))
    worker.enter("events:b", "c-1")
    await until(lambda: len(worker.feed.of("events:a")) == 700)
    worker.leave("events:a", *clients(0, 600))
    worker.enter("events:a", "end")
    await until(lambda: any(each.data == member("end") for each in worker.feed.publications))
    assert len(worker.feed.of("events:a")) == 1301
    assert believed(worker.feed, "events:a") == set(map(member, [*clients(600, 700), "end"]))
    await worker.hears("events:b", ("join", "c-1"))


# Several workers


async def another(factory: PresenceFactory) -> OpenedPresence:
    if not factory.several:
        pytest.skip("it is alone")
    return await factory.open("events:a")


@pytest.mark.parametrize("topic", [*KEPT, "count:a"])
async def test_the_members_of_all_workers_population(
    worker: OpenedPresence, factory: PresenceFactory, topic: str
) -> None:
    other = await another(factory)
    worker.enter(topic, *clients(0, 15))
    other.enter(topic, *clients(15, 40))
    assert await worker.population(topic) >= 15
    assert await other.population(topic) == 40
    if topic in KEPT:
        assert sorted(await worker.walk(topic)) == list(map(member, clients(0, 40)))
    worker.leave(topic, *clients(0, 15))
    assert await worker.population(topic) == 25
    assert await other.population(topic) == 25


async def test_who_comes_and_goes_is_announced_to_every_worker_once(
    worker: OpenedPresence, factory: PresenceFactory
) -> None:
    other = await another(factory)
    worker.enter("events:a", "c-1")
    await other.hears("events:a", ("join", "c-1"))
    other.enter("events:a", "c-2")
    await worker.hears("events:a", ("join", "c-1"), ("join", "c-2"))
    worker.leave("events:a", "c-1")
    told = (("join", "c-1"), ("join", "c-2"), ("leave", "c-1"))
    await other.hears("events:a", *told)
    await worker.hears("events:a", *told)


async def test_a_worker_that_ends_takes_its_members_with_it(
    worker: OpenedPresence, factory: PresenceFactory
) -> None:
    other = await another(factory)
    worker.enter("events:a", "c-1")
    await other.hears("events:a", ("join", "c-1"))
    worker.leave("events:a", "c-1")
    await worker.presence.close()
    assert await other.population("events:a") == 0
    await other.hears("events:a", ("join", "c-1"), ("leave", "c-1"))


async def test_it_can_be_closed_twice(worker: OpenedPresence) -> None:
    worker.enter("members:a", "c-1")
    worker.leave("members:a", "c-1")
    await worker.presence.close()
    await worker.presence.close()
