"""Topics that move from one list of shards to another, while everything goes on.

Each test has brokers of two neighbouring steps at work at the same time, over real servers, as in
an installation that is told of a step one process after another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, TypeAlias

import pytest

from clarion_fanout import redis_address
from clarion_fanout.broker import BrokerUnavailable, HistoryOptions, Want
from clarion_fanout.publication import Draft, Loss, Position, Publication, Receipt
from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_moving import MovingShards
from clarion_fanout.redis_shard import ShardOptions
from clarion_fanout.redis_shards import Shards, shards_of
from support.feeds import Roomy
from support.redis_shared import shared_servers
from support.waiting import until

Step: TypeAlias = Literal["before", "prepared", "moving", "after"]
NEIGHBOURS: list[tuple[Step, Step]] = [
    ("before", "prepared"),
    ("prepared", "moving"),
    ("moving", "after"),
]
TOPICS = [f"kept:{n}" for n in range(12)] + [f"plain:{n}" for n in range(12)]
KEYS = Keys()


def history(topic: str) -> HistoryOptions | None:
    return HistoryOptions(1000, 3600) if topic.startswith("kept:") else None


class Feed(Roomy):
    """Keeps what it is fed, topic by topic."""

    def __init__(self) -> None:
        self.items: dict[str, list[Publication]] = {}

    def dispatch(self, publication: Publication) -> None:
        self.items.setdefault(publication.topic, []).append(publication)

    def messages(self, topic: str) -> list[bytes]:
        return [item.data for item in self.items.get(topic, []) if item.op == "message"]

    def offsets(self, topic: str) -> list[int]:
        return [item.offset for item in self.items.get(topic, []) if item.op == "message"]

    def losses(self) -> list[Publication]:
        return [item for items in self.items.values() for item in items if isinstance(item, Loss)]


class Worker:
    """A broker and what it feeds."""

    def __init__(self, broker: RedisBroker) -> None:
        self.broker = broker
        self.feed = Feed()

    async def follow(self, *topics: str) -> None:
        for topic in topics:
            if not self.broker.attach(topic):
                await self.broker.attached(topic)

    async def publish(
        self, topic: str, data: bytes, id: str | None = None, key: str = ""
    ) -> Receipt:
        (receipt,) = await self.broker.publish([Draft(topic, data, id, key)])
        assert isinstance(receipt, Receipt), receipt
        return receipt

    async def fed(self, topic: str, data: bytes) -> None:
        await until(lambda: data in self.feed.messages(topic))


Open: TypeAlias = Callable[[Step], Awaitable[Worker]]


@pytest.fixture
async def worker() -> AsyncIterator[Open]:
    urls = [server.url for server in await shared_servers(3)]
    brokers: list[RedisBroker] = []

    async def start(step: Step) -> Worker:
        broker = RedisBroker(
            _shards(step, urls, f"worker-{len(brokers)}"),
            keys=KEYS,
            history=history,
            now=lambda: int(time.time() * 1000),
            check_seconds=0.3,
        )
        brokers.append(broker)
        opened = Worker(broker)
        await broker.start(opened.feed)
        return opened

    yield start
    for broker in brokers:
        await broker.close()


def _shards(step: Step, urls: list[str], name: str) -> Shards:
    new = [redis_address.parse(url) for url in urls]
    old = new[:2]
    if step in ("before", "after"):
        locations = old if step == "before" else new
        return shards_of(locations, keys=KEYS, worker=name, options=ShardOptions())
    return MovingShards(
        old,
        new,
        new_leads=step == "moving",
        keys=KEYS,
        worker=name,
        options=ShardOptions(),
        history=history,
    )


@pytest.mark.parametrize("steps", NEIGHBOURS)
async def test_neighbouring_steps_feed_each_other(worker: Open, steps: tuple[Step, Step]) -> None:
    # What "after" finds moved, "moving" has moved.
    first, second = await worker(steps[0]), await worker(steps[1])
    await first.follow(*TOPICS)
    await second.follow(*TOPICS)
    for number in range(6):
        publisher = (first, second)[number % 2]
        for topic in TOPICS:
            await publisher.publish(topic, b"%d" % number)
        for topic in TOPICS:
            for reader in (first, second):
                await reader.fed(topic, b"%d" % number)
    expected = [b"%d" % number for number in range(6)]
    for reader in (first, second):
        assert not reader.feed.losses()
        for topic in TOPICS:
            assert reader.feed.messages(topic) == expected, topic
            if topic.startswith("kept:"):
                assert reader.feed.offsets(topic) == [1, 2, 3, 4, 5, 6]


async def test_a_whole_move_loses_nothing_of_what_was_kept(worker: Open) -> None:
    before = await worker("before")
    positions: dict[str, Position] = {}
    kept = [topic for topic in TOPICS if topic.startswith("kept:")]
    for topic in kept:
        for number in range(5):
            key = "k" if number == 4 else ""
            receipt = await before.publish(topic, b"%d" % number, key=key)
            if number == 2:
                assert receipt.position is not None
                positions[topic] = receipt.position
    await before.broker.close()
    prepared = await worker("prepared")
    moving = await worker("moving")
    for topic in kept:
        page = await moving.broker.read(topic, Want(since=positions[topic]))
        assert page.complete
        assert [(each.data, each.key) for each in page.publications] == [(b"3", ""), (b"4", "k")]
        # Its stream is sealed; who knows where it went finds it there.
        assert (await prepared.publish(topic, b"5")).position == (page.position.epoch, 6)  # type: ignore[union-attr]
    await prepared.broker.close()
    after = await worker("after")
    for topic in kept:
        page = await after.broker.read(topic, Want(since=positions[topic]))
        assert page.complete
        assert [each.data for each in page.publications] == [b"3", b"4", b"5"]


async def test_who_does_not_know_of_the_move_is_refused_and_tells_its_subscribers(
    worker: Open,
) -> None:
    before, moving = await worker("before"), await worker("moving")
    await before.follow(*TOPICS)
    for topic in (topic for topic in TOPICS if topic.startswith("kept:")):
        await before.publish(topic, b"1")
        await moving.publish(topic, b"2")
        moved = moving.broker.shards.other(topic) is not None
        (answer,) = await before.broker.publish([Draft(topic, b"3")])
        assert isinstance(answer, BrokerUnavailable) is moved
        page = await moving.broker.read(topic, Want())
        expected = [b"1", b"2"] if moved else [b"1", b"2", b"3"]
        assert [each.data for each in page.publications] == expected
        if moved:
            await until(lambda: any(each.topic == topic for each in before.feed.losses()))  # noqa: B023
    assert any(moving.broker.shards.other(topic) for topic in TOPICS), "no topic moves"


async def test_a_repetition_is_known_on_the_new_shard(worker: Open) -> None:
    prepared, moving = await worker("prepared"), await worker("moving")
    for topic in TOPICS:
        first = await prepared.publish(topic, b"1", "key")
        again = await moving.publish(topic, b"2", "key")
        assert again.duplicate, topic
        assert again.position == first.position


async def test_many_workers_move_a_topic_at_once(worker: Open) -> None:
    before = await worker("before")
    workers = [await worker("moving") for _ in range(5)]
    topic = next(t for t in TOPICS if workers[0].broker.shards.other(t) is not None)
    for number in range(20):
        await before.publish(topic, b"%d" % number)
    async with asyncio.TaskGroup() as group:
        for number, each in enumerate(workers):
            group.create_task(each.publish(topic, b"%d" % (20 + number)))
    pages = [await each.broker.read(topic, Want()) for each in workers]
    assert len({page.position for page in pages}) == 1
    assert [each.offset for each in pages[0].publications] == list(range(1, 26))
    assert len({each.data for each in pages[0].publications}) == 25


async def test_a_new_shard_that_loses_its_data_does_not_pass_for_what_it_was(worker: Open) -> None:
    before = await worker("before")
    moving = await worker("moving")
    topic = next(t for t in TOPICS if moving.broker.shards.other(t) is not None)
    await before.publish(topic, b"1")
    gone = (await moving.publish(topic, b"2")).position
    assert gone is not None
    await moving.broker.shards.of(topic).call("FLUSHALL")
    page = await moving.broker.read(topic, Want(since=gone))
    # What the old shard had sealed is adopted again; what came after it is gone, and known to be.
    assert not page.complete
    assert page.position is not None
    assert page.position.offset == 1
    assert page.position.epoch != gone.epoch
