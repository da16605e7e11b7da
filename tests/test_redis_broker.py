"""What only happens when answers, payloads and turns of a stream meet at the wrong moment, and
what only Redis can do to a stream.

What every broker must do is in `test_broker_contract`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import NamedTuple

import pytest

from clarion_fanout.broker import BrokerUnavailable, HistoryOptions, Page, Want
from clarion_fanout.publication import Draft, Loss, Position, Publication, Receipt, Turn
from clarion_fanout.redis_address import parse
from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_reader import Question
from clarion_fanout.redis_shard import ShardOptions
from clarion_fanout.redis_shards import shards_of
from support.bad_network import BadNetwork, bad_network
from support.brokers import Recorder, RedisBrokerFactory
from support.naive_stream import TOPIC, numbers
from support.redis_servers import RedisServer, eventually
from support.redis_shared import shared_servers
from support.staged_shards import StagedShard, StagedShards, broker_over
from support.waiting import DEADLINE, until


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


class Crowded(Recorder):
    """Has no room for a third publication."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed: list[int] = []
        """How much it had been fed each time that it was flushed."""

    @property
    def crowded(self) -> bool:
        return len(self.publications) % 3 == 0

    def flush(self) -> None:
        self.flushed.append(len(self.publications))


async def test_a_crowded_feed_is_flushed_between_two_publications_of_one_read() -> None:
    async with following() as on:
        crowded = Crowded()
        await on.broker.start(crowded)
        for _ in range(7):
            on.shard.take(on.shards.stream.publish())
        assert crowded.flushed == [3, 6]


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


async def test_a_follower_is_told_where_a_stream_has_lost_something_last() -> None:
    [server] = await shared_servers(1)
    factory = RedisBrokerFactory(1)
    try:
        broker, _ = await factory.open()
        assert isinstance(broker, RedisBroker)
        *_, last = await broker.publish([Draft(TOPIC, b"%d" % number) for number in range(1, 6)])
        assert isinstance(last, Receipt)
        assert last.position is not None
        lineage = "third:4 second:3! first:1!"
        assert await server.command("HSET", Keys().meta(TOPIC), "l", lineage) == 1
        for epoch, offset, gap in (
            (last.position.epoch, 2, None),
            ("third", 2, None),
            ("second", 2, 3),
            ("first", 0, 3),
            ("another", 2, 3),
            ("another fourth second first", 2, 3),
        ):
            epoch, *former = epoch.split()
            want = Want(since=Position(epoch, offset))
            [page] = await broker.reader.pages([Question(TOPIC, want, True, former)])
            assert isinstance(page, Page)
            assert page.gap == gap
            assert page.complete is (gap is None)
            assert (await broker.read(TOPIC, want)).gap is None
    finally:
        await factory.close()


# Replicas that take over


class Reaching(NamedTuple):
    """A broker, what it feeds, and its way to the shard."""

    broker: RedisBroker
    feed: Recorder
    network: BadNetwork

    async def publish(self, data: bytes) -> Position:
        (receipt,) = await self.broker.publish([Draft(TOPIC, data)])
        assert isinstance(receipt, Receipt), receipt
        assert receipt.position is not None
        return receipt.position

    async def publish_at_last(self, data: bytes) -> Position:
        """Tries until it is accepted."""
        async with asyncio.timeout(DEADLINE):
            while True:
                with suppress(AssertionError):
                    return await self.publish(data)
                await asyncio.sleep(0.01)

    async def follow(self) -> None:
        if not self.broker.attach(TOPIC):
            await self.broker.attached(TOPIC)


class Pair:
    """A primary and its replica, which brokers reach over networks of their own."""

    def __init__(self, primary: RedisServer, replica: RedisServer, stack: AsyncExitStack) -> None:
        self._primary = primary
        self._replica = replica
        self._stack = stack
        self._networks: list[BadNetwork] = []

    async def broker(self) -> Reaching:
        network = await self._stack.enter_async_context(bad_network(self._primary.port))
        self._networks.append(network)
        url = f"redis://127.0.0.1:{network.port}/0?name=s"
        keys, options = Keys(), ShardOptions(timeout_s=0.5, probe_s=0.1)
        broker = RedisBroker(
            shards_of([parse(url)], keys=keys, worker=f"{network.port}", options=options),
            keys=keys,
            history=lambda _: HistoryOptions(1000, 3600),
            now=lambda: int(time.time() * 1000),
        )
        feed = Recorder()
        await broker.start(feed)
        self._stack.push_async_callback(broker.close)
        return Reaching(broker, feed, network)

    async def detach(self) -> None:
        """What is published from now on the replica does not get."""
        await self._replica.command("REPLICAOF", "127.0.0.1", self._primary.port)
        await eventually(self._is_level)
        await self._replica.command("REPLICAOF", "NO", "ONE")

    async def _is_level(self) -> bool:
        ours, theirs = [await each.info("replication") for each in (self._replica, self._primary)]
        up = ours.get("master_link_status") == "up"
        return up and ours["slave_repl_offset"] == theirs["master_repl_offset"]

    def fail_over(self) -> None:
        """The primary is gone, and the replica in its place, for all who ask."""
        self._lead_to(self._replica)

    def fail_back(self) -> None:
        """It is there again, with the data that it had."""
        self._lead_to(self._primary)

    def _lead_to(self, server: RedisServer) -> None:
        for network in self._networks:
            network.point(server.port)
            network.cut()
            network.flow()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(RedisServer("repl-diskless-sync-delay 0"))
        replica = await stack.enter_async_context(RedisServer())
        yield Pair(primary, replica, stack)


async def test_what_waits_for_a_connection_is_not_published_in_the_reign_before(pair: Pair) -> None:
    """A primary is replaced by a replica that has missed its last publication, so fast that
    publishers wait. The offset of that publication is given out again, but in another epoch."""
    one = await pair.broker()
    before = await one.publish(b"1")
    await pair.detach()
    missed = await one.publish(b"2")
    pair.fail_over()
    [shard] = one.broker.shards.all()
    while shard.available:  # noqa: ASYNC110 - the pause that it notices is short
        await asyncio.sleep(0)
    (waited,) = await one.broker.publish([Draft(TOPIC, b"3")])
    assert isinstance(waited, BrokerUnavailable)
    after = await one.publish(b"4")
    assert [each.offset for each in (before, missed, after)] == [1, 2, 2]
    assert before.epoch == missed.epoch != after.epoch


async def test_a_failover_that_loses_nothing_is_a_turn(pair: Pair) -> None:
    one, other = await pair.broker(), await pair.broker()
    await one.publish(b"1")
    await other.follow()
    await one.publish(b"2")
    await other.feed.expect(TOPIC, b"2")
    await pair.detach()
    pair.fail_over()
    await one.publish_at_last(b"3")
    await until(lambda: numbers(other.feed.publications) == [2, 3])
    await until(lambda: one.broker.witness.testimonies > 0)
    await one.publish(b"4")
    await other.feed.expect(TOPIC, b"4")
    kinds = [type(each) for each in other.feed.publications]
    assert kinds == [Publication, Turn, Publication, Publication]


@pytest.mark.parametrize("published", [0, 2])
async def test_what_only_its_publisher_knew_is_told_to_be_lost(pair: Pair, published: int) -> None:
    """Another worker did not get it before it was gone. It is at a position that is still good,
    and so are its clients; but something was acknowledged that they will never see."""
    one, other = await pair.broker(), await pair.broker()
    first = await one.publish(b"1")
    await other.follow()
    await pair.detach()
    other.network.stall()
    await one.publish(b"2")
    pair.fail_over()
    for number in range(published):
        await other.publish_at_last(b"%d" % (3 + number))
    await until(lambda: any(isinstance(each, Loss) for each in other.feed.publications))
    await until(lambda: numbers(other.feed.publications) == [3, 4][:published])
    page = await other.broker.read(TOPIC, Want(limit=0))
    last = other.feed.publications[-1]
    assert page.position == Position(last.epoch, last.offset)
    assert last.offset == 1 + published
    # It is told once, and who was not there then learns it when he comes back.
    assert [type(each) for each in other.feed.publications].count(Loss) == 1
    assert not (await one.broker.read(TOPIC, Want(since=first))).complete


@pytest.mark.parametrize("published", [0, 2])
async def test_data_that_step_back_behind_an_epoch_are_told_to_be_lost(
    pair: Pair, published: int
) -> None:
    """A stream that does not know an epoch has lost it, and with it what was published there. The
    epoch before it does not come back, and nothing of that is fed again."""
    one, other = await pair.broker(), await pair.broker()
    first = await one.publish(b"1")
    await other.follow()
    await pair.detach()
    pair.fail_over()
    second = await one.publish_at_last(b"2")
    assert second.epoch != first.epoch
    await other.feed.expect(TOPIC, b"2")
    pair.fail_back()
    for number in range(published):
        await one.publish_at_last(b"%d" % (3 + number))
    await until(lambda: any(isinstance(each, Loss) for each in other.feed.publications))
    await until(lambda: numbers(other.feed.publications) == [2, 3, 4][: 1 + published])
    position = (await other.broker.read(TOPIC, Want(limit=0))).position
    assert position is not None
    assert position.offset == 1 + published
    assert position.epoch not in (first.epoch, second.epoch)
    assert not (await other.broker.read(TOPIC, Want(since=first))).complete


async def test_what_backends_publish_themselves_may_have_a_key() -> None:
    async with following() as on:
        for payload in (b'@k {"n":1}', b"@!~ 2", b"3", b"@ 4", b"@\xff 5", b"@k", b"@k {"):
            on.shard.take(payload)
        fed = [(each.data, each.key, each.offset) for each in on.feed.publications]
        assert fed == [(b'{"n":1}', "k", 0), (b"2", "!~", 0), (b"3", "", 0)]
        assert (on.broker.quick, on.broker.quick_refused) == (3, 4)
