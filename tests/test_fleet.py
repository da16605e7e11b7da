"""All workers as one: sums, and who is missing from them."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.inquiry import Answers
from clarion_fanout.roll import Entry
from clarion_server import fleet as module
from clarion_server.fleet import Absent
from clarion_server.orders import Disconnect, Order, Subscribe, TopicPage
from support.fleets import Ship, Told

DISCONNECT = Disconnect(user="42", client=None, code=4502, reason="gone")

SILENT = Entry("b", msgspec.json.encode(Ship("b", 7).duty.badge))
ABSENT = Absent("b", "i1", 7, "h", 1007)


# Alone


async def test_a_worker_without_others_is_the_whole_fleet() -> None:
    ship = Ship("a")
    ship.subscribe("x", "y", "y")
    assert await ship.fleet.act(DISCONNECT) == (2, [])
    assert await ship.fleet.topics("", "", 10) == (TopicPage([("x", 1), ("y", 2)]), True, [])
    workers, complete, unanswered = await ship.fleet.workers()
    assert [state.id for state in workers] == ["a"]
    assert complete
    assert not unanswered


# With others


async def test_counts_are_summed_over_all_who_answer() -> None:
    others = Told({"b": b'{"count":3}', "c": b'{"count":0}'})
    ship = Ship("a", others=others)
    assert await ship.fleet.act(DISCONNECT) == (5, [])
    assert msgspec.json.decode(others.asked[0], type=Order) == DISCONNECT


async def test_who_does_not_answer_is_described_as_the_roll_does() -> None:
    ship = Ship("a", others=Told({"c": b'{"count":1}'}, [SILENT]))
    assert await ship.fleet.act(DISCONNECT) == (3, [ABSENT])
    assert ship.fleet.requests == {("disconnect", "partial"): 1}


@pytest.mark.parametrize("about", [b"", b"{}", b"\xff", b"[" * 5000])
async def test_who_says_nothing_of_itself_is_named_at_least(about: bytes) -> None:
    ship = Ship("a", others=Told({}, [Entry("b", about)]))
    assert (await ship.fleet.act(DISCONNECT)).unanswered == [Absent("b")]


@pytest.mark.parametrize("answer", [b"", b"{}", b'{"count":"1"}', b'{"count":1', b"\xff", b"null"])
async def test_who_answers_nonsense_has_not_answered(answer: bytes) -> None:
    ship = Ship("a", others=Told({"b": answer, "c": b'{"count":1}'}))
    assert await ship.fleet.act(DISCONNECT) == (3, [Absent("b")])


async def test_what_cannot_be_told_to_the_others_is_done_here_and_fails() -> None:
    ship = Ship("a", others=Told(BrokerUnavailable("no shard")))
    order = Subscribe(user=None, client="c-1", topic="news")
    with pytest.raises(BrokerUnavailable):
        await ship.fleet.act(order)
    assert ship.clients.calls == [("subscribe", None, "c-1", "news")]
    assert ship.fleet.requests == {("subscribe", "failed"): 1}


async def test_topics_of_all_workers_are_merged() -> None:
    pages = {"b": TopicPage([("w", 1), ("y", 2)]), "c": TopicPage([("y", 1)])}
    ship = Ship("a", others=Told({who: msgspec.json.encode(page) for who, page in pages.items()}))
    ship.subscribe("x", "y")
    page = TopicPage([("w", 1), ("x", 1), ("y", 4)])
    assert await ship.fleet.topics("", "", 10) == (page, True, [])


async def test_a_list_without_everybody_says_so() -> None:
    ship = Ship("a", others=Told({}, [SILENT]))
    ship.subscribe("x")
    assert await ship.fleet.topics("", "", 10) == (TopicPage([("x", 1)]), False, [ABSENT])
    alone = Ship("a", others=Told(BrokerUnavailable("no shard")))
    assert await alone.fleet.topics("", "", 10) == (TopicPage([]), False, ())


@pytest.mark.parametrize(
    ("others", "share"), [(1, 900 * 1024), (10, 4 * 1024 * 1024 // 10), (4096, 1024)]
)
async def test_the_pages_of_a_list_fit_together_into_what_redis_holds(
    others: int, share: int
) -> None:
    told = Told({}, others=others)
    await Ship("a", others=told).fleet.topics("p", "q", 10)
    assert msgspec.json.decode(told.asked[0]) == {
        "op": "topics",
        "prefix": "p",
        "after": "q",
        "limit": 10,
        "bytes": share,
    }


class Slow:
    """Others that answer when they are allowed to."""

    others = 1

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def ask(self, body: bytes) -> Answers:
        await self.go_on.wait()
        return Answers({}, ())


async def test_lists_are_made_a_few_at_a_time() -> None:
    others = Slow()
    ship = Ship("a", others=others)
    async with asyncio.TaskGroup() as group:
        for _ in range(module.LISTS):
            group.create_task(ship.fleet.topics("", "", 1))
        await asyncio.sleep(0)
        with pytest.raises(BrokerUnavailable):
            await ship.fleet.topics("", "", 1)
        others.go_on.set()
    assert (await ship.fleet.topics("", "", 1)).complete


async def test_workers_tell_how_they_are() -> None:
    b, c = Ship("b", 2), Ship("c", 1)
    b.subscribe("x", "y")
    b.counters.connections["websocket"] = 5
    c.not_ready.append("draining")
    answers = {ship.duty.badge.id: await ship.duty.answer(b'{"op":"describe"}') for ship in (b, c)}
    workers, complete, _ = await Ship("a", others=Told(answers)).fleet.workers()
    assert complete
    assert [(state.id, state.worker) for state in workers] == [("a", 0), ("c", 1), ("b", 2)]
    assert workers[1].not_ready == ["draining"]
    assert (workers[2].connections, workers[2].subscriptions, workers[2].topics) == (5, 2, 2)


async def test_how_this_worker_is_can_be_told_without_any_shard() -> None:
    ship = Ship("a", others=Told(BrokerUnavailable("no shard")))
    workers, complete, unanswered = await ship.fleet.workers()
    assert ([state.id for state in workers], complete, unanswered) == (["a"], False, ())
