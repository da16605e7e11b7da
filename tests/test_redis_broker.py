"""What only happens when answers, payloads and turns of a stream meet at the wrong moment, and
what only Redis can do to a stream.

What every broker must do is in `test_broker_contract`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from clarion_fanout.broker import BrokerUnavailable, HistoryOptions, Want
from clarion_fanout.publication import Draft, Position, Receipt
from clarion_fanout.redis_address import parse
from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_shard import ShardOptions
from clarion_fanout.redis_shards import shards_of
from support.bad_network import bad_network
from support.brokers import Recorder, RedisBrokerFactory
from support.naive_stream import TOPIC, numbers
from support.redis_servers import RedisServer, eventually
from support.redis_shared import shared_servers
from support.staged_shards import StagedShard, StagedShards, broker_over
from support.waiting import DEADLINE


class Staged(NamedTuple):
    broker: RedisBroker
    shards: StagedShards
    shard: StagedShard
    feed: Recorder

    @property
    def fed_up_to(self) -> Position:
        last = self.feed.publications[-1]
        return Position(last.epoch, last.offset)


@asynccontextmanager
async def following(published: int = 3) -> AsyncIterator[Staged]:
    """A broker that follows a topic from its newest publication on."""
    shards = StagedShards()
    for _ in range(published):
        shards.stream.publish()
    broker, feed = broker_over(shards), Recorder()
    await broker.start(feed)
    try:
        assert not broker.attach(TOPIC)
        shards.shard.confirm()
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            attached = group.create_task(broker.attached(TOPIC))
            await shards.answer_until(attached.done)
        yield Staged(broker, shards, shards.shard, feed)
    finally:
        await broker.close()


async def test_a_page_is_not_older_than_the_epoch_that_the_feed_is_in() -> None:
    """A page is read, and its last publication is lost on the way to the feed. While that is
    waited for the stream turns. The feed goes on in the new epoch, with what was lost; whoever
    got the page then would get that twice."""
    async with following() as on, asyncio.timeout(5), asyncio.TaskGroup() as group:
        on.shards.stream.publish()  # the payload is lost
        reading = group.create_task(on.broker.read(TOPIC, Want(since=Position("e1", 3))))
        await on.shards.question()
        on.shards.answer()
        on.shards.stream.restart()
        on.shard.take(on.shards.stream.publish())
        await on.shards.answer_until(reading.done)
        page = reading.result()
        assert numbers(on.feed.publications) == numbers(page.publications) == [4, 5]
        assert page.position == on.fed_up_to == Position("e2", 5)


async def test_a_page_is_not_newer_than_what_was_fed() -> None:
    """The feed waits for a page of its own, which is older than the one that is asked for."""
    async with following() as on, asyncio.timeout(5), asyncio.TaskGroup() as group:
        stream = on.shards.stream
        stream.publish()  # the payload is lost
        on.shard.take(stream.publish())
        await on.shards.question()  # of the follower
        stream.publish()  # the payload is lost
        reading = group.create_task(on.broker.read(TOPIC, Want(since=Position("e1", 3))))
        await on.shards.question(2)
        on.shards.sent.rotate()  # another connection may be quicker
        on.shards.answer()
        await asyncio.sleep(0.1)  # longer than a payload is waited for
        await on.shards.answer_until(reading.done)
        assert numbers(on.feed.publications) == numbers(reading.result().publications) == [4, 5, 6]


async def test_a_topic_is_not_asked_for_while_its_subscription_is_interrupted() -> None:
    shards = StagedShards()
    broker = broker_over(shards)
    await broker.start(Recorder())
    try:
        broker.attach(TOPIC)
        shards.shard.confirm()
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            attached = group.create_task(broker.attached(TOPIC))
            await asyncio.sleep(0)
            shards.shard.interrupt()  # just before the first question
            await shards.question()
            shards.answer()
            for _ in range(100):
                await asyncio.sleep(0)
            assert not shards.sent
            assert not attached.done()
            shards.shard.confirm()
            await shards.answer_until(attached.done)
        assert broker.reader.reads == 2
    finally:
        await broker.close()


@pytest.mark.parametrize("deleted", [1, 4, 6])
async def test_who_missed_what_somebody_deleted_is_told(deleted: int) -> None:
    """Whether they ask alone or share a question."""
    [server] = await shared_servers(1)
    factory = RedisBrokerFactory(1)
    try:
        broker, _ = await factory.open()
        drafts = [Draft(TOPIC, b"%d" % number) for number in range(1, 7)]
        *_, last = await broker.publish(drafts)
        assert isinstance(last, Receipt)
        assert last.position is not None
        stream = Keys().stream(TOPIC)
        [[entry, _]] = await server.command("XRANGE", stream, deleted, deleted)
        assert await server.command("XDEL", stream, entry) == 1
        wants = [Want(since=last.position._replace(offset=offset)) for offset in range(7)]
        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(broker.read(TOPIC, want)) for want in wants]
        for offset, shared in enumerate(reads):
            for page in (shared.result(), await broker.read(TOPIC, wants[offset])):
                assert page.complete is (offset >= deleted)
                if page.complete:
                    assert numbers(page.publications) == list(range(offset + 1, 7))
    finally:
        await factory.close()


async def test_what_waits_for_a_connection_is_not_published_in_the_reign_before() -> None:
    """A primary is replaced by a replica that has missed its last publication, so fast that
    publishers wait. The offset of that publication is given out again, but in another epoch."""
    quick = "repl-diskless-sync-delay 0"
    async with (
        RedisServer(quick) as first,
        RedisServer() as second,
        bad_network(first.port) as network,
    ):
        broker = broker_at(f"redis://127.0.0.1:{network.port}")
        await broker.start(Recorder())
        try:
            (before,) = await broker.publish([Draft(TOPIC, b"1")])
            await second.command("REPLICAOF", "127.0.0.1", first.port)
            await eventually(lambda: _has_caught_up(second))
            await second.command("REPLICAOF", "NO", "ONE")
            (missed,) = await broker.publish([Draft(TOPIC, b"2")])
            network.point(second.port)
            network.cut()
            [shard] = broker.shards.all()
            async with asyncio.timeout(DEADLINE):
                while shard.available:  # noqa: ASYNC110 - the pause that it notices is short
                    await asyncio.sleep(0)
                (waited,) = await broker.publish([Draft(TOPIC, b"3")])
                assert isinstance(waited, BrokerUnavailable)
                (after,) = await broker.publish([Draft(TOPIC, b"4")])
        finally:
            await broker.close()
    positions = [each.position for each in (before, missed, after) if isinstance(each, Receipt)]
    assert [position.offset for position in positions if position] == [1, 2, 2]
    assert positions[1] != positions[2]


def broker_at(url: str) -> RedisBroker:
    """A broker with one shard. It is not started."""
    keys = Keys()
    shards = shards_of([parse(url)], keys=keys, worker="w", options=ShardOptions())
    return RedisBroker(
        shards,
        keys=keys,
        history=lambda _: HistoryOptions(1000, 3600),
        now=lambda: int(time.time() * 1000),
    )


async def _has_caught_up(replica: RedisServer) -> bool:
    facts = await replica.info("replication")
    return facts.get("master_link_status") == "up"
