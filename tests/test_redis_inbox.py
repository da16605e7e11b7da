"""The durable inbox on real servers: published in order and once, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from typing import ClassVar

import hiredis
import msgspec
import pytest

from clarion_fanout.backlog import LETTERS
from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.publication import Draft, Receipt
from clarion_fanout.redis_broker import RedisBroker, Step
from clarion_fanout.redis_delivery import SLACK_BYTES, SPENT_SECONDS
from clarion_fanout.redis_inbox import InboxOptions
from clarion_fanout.redis_scripts import INBOX as SCRIPT
from clarion_fanout.redis_shard import ShardOptions
from clarion_fanout.redis_slots import slot_of
from support.inboxes import (
    DEAD,
    INBOX,
    KEYS,
    LEASE_SECONDS,
    OWNER,
    Doomed,
    Worker,
    emptied,
    entry,
    kept,
    leave,
    leave_many,
    owned,
    worker,
)
from support.redis_cluster import RedisCluster
from support.redis_servers import RedisServer, eventually
from support.redis_shared import shared_cluster, shared_servers
from support.waiting import DEADLINE, until

QUICK = ShardOptions(timeout_s=0.3, probe_s=0.1, retry_s=(0.02, 0.1))
"""For tests that wait until a shard is found to be away."""


async def fed(at: Worker, topic: str, count: int) -> list[object]:
    """What a worker was fed of a topic, once it is so much."""
    await until(lambda: len(at.feed.of(topic)) >= count)
    return [msgspec.json.decode(data) for data in at.feed.of(topic)]


async def dead_letters(server: RedisServer) -> list[dict[str, str]]:
    letters = []
    for _id, fields in await server.command("XRANGE", DEAD, "-", "+"):
        letters.append(dict(zip(fields[::2], fields[1::2], strict=True)))
    return letters


# What a backend leaves is published


async def test_an_entry_is_published_with_a_position_and_reaches_every_worker() -> None:
    (server,) = await shared_servers(1)
    async with worker(server.url) as one, worker(server.url, name="v") as other:
        for each in (one, other):
            each.broker.attach("a:1")
            await each.broker.attached("a:1")
        await leave(server, entry("a:1", {"n": 1}), entry("a:1", {"n": 2}))
        for each in (one, other):
            assert await fed(each, "a:1", 2) == [{"n": 1}, {"n": 2}]
            assert [publication.offset for publication in each.feed.publications] == [1, 2]
        assert await kept(one, "a:1") == [{"n": 1}, {"n": 2}]
        await emptied(server)


async def test_a_topic_without_history_is_fed_too() -> None:
    (server,) = await shared_servers(1)
    async with worker(server.url) as one:
        one.broker.attach("bare:1")
        await one.broker.attached("bare:1")
        await leave(server, entry("bare:1", 1), entry("bare:1", 2))
        assert await fed(one, "bare:1", 2) == [1, 2]


async def test_entries_that_are_older_than_every_worker_are_published() -> None:
    (server,) = await shared_servers(1)
    await leave(server, entry("a", 1), entry("a", 2))
    async with worker(server.url) as one:
        await emptied(server)
        assert await kept(one, "a") == [1, 2]


async def test_any_shards_inbox_serves_topics_of_all() -> None:
    servers = await shared_servers(3)
    topics = [f"a:{number}" for number in range(20)]
    async with worker(*(server.url for server in servers)) as one:
        assert len({one.broker.shards.of(topic).name for topic in topics}) == 3
        for place, server in enumerate(servers):
            await leave(server, *(entry(topic, place) for topic in topics))
            await emptied(server)
        for topic in topics:
            assert await kept(one, topic) == [0, 1, 2]


async def test_entries_of_a_topic_are_published_in_the_order_of_their_ids() -> None:
    (server,) = await shared_servers(1)
    count, topics = 3000, 7
    async with worker(server.url, options=InboxOptions(batch=100)) as one:
        await leave_many(one, (entry(f"a:{n % topics}", n) for n in range(count)))
        await emptied(server)
        for topic in range(topics):
            assert await kept(one, f"a:{topic}") == list(range(topic, count, topics))


async def test_an_idle_inbox_does_not_wait_for_the_next_look() -> None:
    (server,) = await shared_servers(1)
    slow = InboxOptions(lease_s=60)  # so that it looks every 12 s by itself
    async with worker(server.url, options=slow) as one:
        one.broker.attach("a")
        await one.broker.attached("a")
        for number in range(1, 6):
            await leave(server, entry("a", number))
            async with asyncio.timeout(2):
                await fed(one, "a", number)


async def test_nothing_is_left_of_what_was_published_but_what_makes_it_once() -> None:
    (server,) = await shared_servers(1)
    async with worker(server.url) as one:
        await leave(server, *(entry("bare:1", number) for number in range(10)))
        await emptied(server)
        [group] = await server.command("XINFO", "GROUPS", INBOX)
        fields = dict(zip(group[::2], group[1::2], strict=True))
        assert (fields["name"], fields["pending"]) == ("clarion", 0)
        marks = await server.command("KEYS", "clarion:e:*")
        assert len(marks) == 10

        async def short() -> bool:
            left = [await server.command("TTL", mark) for mark in marks]
            return max(map(int, left)) <= SPENT_SECONDS

        await eventually(short)
        assert one.inbox.entries == 0
        assert one.inbox.age == 0


async def test_an_entrys_own_id_counts_as_over_http() -> None:
    (server,) = await shared_servers(1)
    async with worker(server.url) as one:
        [receipt] = await one.broker.publish([Draft("a", b"1", "k1")])
        assert isinstance(receipt, Receipt)
        await leave(server, entry("a", 2, "k1"), entry("a", 3, "k2"), entry("a", 4, "k2"))
        await leave(server, entry("b", 5, "k1"))
        await emptied(server)
        assert await kept(one, "a") == [1, 3]
        assert await kept(one, "b") == [5]
        assert one.done("duplicate") == 2
        assert one.done("published") == 2
        [receipt] = await one.broker.publish([Draft("a", b"6", "k2")])
        assert isinstance(receipt, Receipt)
        assert receipt.duplicate
        name = KEYS.key("a", "k2").decode()

        async def remembered_as_others() -> bool:
            return 200 < int(await server.command("TTL", name)) <= 300

        await eventually(remembered_as_others)


# What cannot be published is buried


async def test_bad_entries_are_buried_with_the_reason_and_good_ones_are_not_held_up() -> None:
    (server,) = await shared_servers(1)
    async with worker(server.url) as one:
        ids = await leave(
            server,
            entry("a", 1),
            ["topic", "a b", "data", "1"],
            ["data", "1", "colour", "red"],
            ["topic", "a", "data", "{"],
            ["topic", "a", "data", '"' + "x" * 65_536 + '"'],
            ["topic", "a", "data", "1", "rest", "x" * 70_000],
            ["topic", "a", "data", "1", *(["x", "y" * 5000] * 14)],
            ["topic", "a", "data", "1"] + ["x", "y"] * 1000,
            entry("a", 2),
        )
        await emptied(server)
        assert await kept(one, "a") == [1, 2]
        letters = await dead_letters(server)
        assert [letter["entry"] for letter in letters] == ids[1:-1]
        assert [letter["reason"] for letter in letters] == [
            "character ' ' at place 1 is not allowed in a topic",
            "topic is missing",
            "data is not valid JSON: unexpected end of data: line 1 column 2 (char 1)",
            "data has 65538 bytes, the limit is 65536",
            "rest has 70000 bytes, the limit is 65536",
            f"the entry has 70025 bytes, the limit is {65_536 + SLACK_BYTES}",
            "1002 fields, the limit is 16",
        ]
        assert letters[0] == {
            "topic": "a b",
            "data": "1",
            "reason": letters[0]["reason"],
            "entry": ids[1],
        }
        assert letters[1]["colour"] == "red"
        assert len(letters[4]["rest"]) == 1024
        assert one.done("dead") == 7
        assert one.done("published") == 2


async def test_dead_letters_are_bounded() -> None:
    (server,) = await shared_servers(1)
    async with worker(server.url) as one:
        await leave_many(one, (["data", str(number)] for number in range(12_000)))
        await emptied(server)
        assert 10_000 <= await server.command("XLEN", DEAD) <= 10_200
        [[_, fields]] = await server.command("XREVRANGE", DEAD, "+", "-", "COUNT", 1)
        assert fields[:2] == ["data", "11999"]


async def test_a_dead_letter_can_be_left_again() -> None:
    (server,) = await shared_servers(1)
    async with worker(server.url) as one:
        await leave(server, ["topic", "a", "data", "nul"])
        await emptied(server)
        [letter] = await dead_letters(server)
        fields = [part for pair in (letter | {"data": "null"}).items() for part in pair]
        await leave(server, fields)
        await emptied(server)
        assert await kept(one, "a") == [None]


# Who works on it


async def test_one_worker_owns_an_inbox_and_another_takes_over_when_it_leaves() -> None:
    (server,) = await shared_servers(1)
    lease = InboxOptions(lease_s=60)
    async with (
        worker(server.url, name="one", options=lease) as one,
        worker(server.url, name="two", options=lease, working=False) as two,
    ):
        await owned(one)
        assert await server.command("GET", OWNER) == "one"
        two.work()
        await leave(server, entry("a", 1))
        await emptied(server)
        assert (one.owned, two.owned) == (1, 0)
        await one.inbox.leave()
        # It does not wait for the lease: the one that left has given it back.
        await until(lambda: two.owned == 1, 5)
        await leave(server, entry("a", 2))
        await emptied(server)
        assert await kept(two, "a") == [1, 2]
        assert two.inbox.takeovers == 1


async def test_another_takes_over_when_the_lease_of_one_that_died_is_over() -> None:
    (server,) = await shared_servers(1)
    lease_s = 1.5
    options = InboxOptions(lease_s=lease_s)
    async with worker(server.url, name="one", options=options) as one:
        await owned(one)
    died = time.monotonic()
    async with worker(server.url, name="two", options=options) as two:
        await owned(two)
        # It was renewed up to a fifth of its term before; and others look once a second or so.
        assert lease_s * 0.7 < time.monotonic() - died < lease_s + 2


async def test_workers_share_the_inboxes() -> None:
    servers = await shared_servers(3)
    urls = [server.url for server in servers]
    async with (
        worker(*urls, name="one", working=False) as one,
        worker(*urls, name="two", working=False) as two,
    ):
        one.work()
        await until(lambda: one.owned)
        await asyncio.sleep(0.2)
        # Whoever has one leaves the next for half a second.
        assert one.owned < 3
        two.work()
        await owned(one, two)
        assert two.owned


async def test_who_does_not_own_it_is_not_given_entries() -> None:
    (server,) = await shared_servers(1)
    await server.command("SET", OWNER, "somebody else", "PX", 300)
    await leave(server, entry("a", 1))
    async with worker(server.url) as one:
        await until(lambda: one.inbox.entries == 1)  # it has looked
        assert await server.command("EXISTS", OWNER) == 1
        assert await kept(one, "a") == []
        await emptied(server)
        assert await kept(one, "a") == [1]


# In order and once


@pytest.mark.parametrize("topic", ["a", "bare:a"])
async def test_what_a_worker_published_before_it_died_is_not_published_again(topic: str) -> None:
    (server,) = await shared_servers(1)
    Doomed.published = asyncio.Event()
    async with worker(server.url, name="witness", working=False) as witness:
        witness.broker.attach(topic)
        await witness.broker.attached(topic)
        async with worker(server.url, name="one", kind=Doomed) as one:
            await leave_many(one, (entry(topic, number) for number in range(100)))
            await Doomed.published.wait()
        assert await server.command("XLEN", INBOX) == 100
        await leave(server, entry(topic, 100))
        async with worker(server.url, name="two") as two:
            await emptied(server)
            assert await fed(witness, topic, 101) == list(range(101))
            assert two.done("duplicate") >= 1
            assert two.done("published") >= 1


async def test_what_is_buried_has_left_the_inbox_when_its_worker_dies() -> None:
    (server,) = await shared_servers(1)
    Doomed.published = asyncio.Event()
    async with worker(server.url, kind=Doomed, working=False) as one:
        await leave(server, ["topic", "a"], entry("a", 1))
        one.work()
        await Doomed.published.wait()
        assert await server.command("XLEN", INBOX) == 1
        assert await server.command("XPENDING", INBOX, "clarion", "-", "+", 10) != []
        assert await server.command("XLEN", DEAD) == 1
    async with worker(server.url, name="two") as two:
        await emptied(server)
        assert two.done("dead") == 0
        assert await kept(two, "a") == [1]


class Late(RedisBroker):
    """Its worker stops when it is about to publish, and goes on when others have taken over."""

    waits: ClassVar[asyncio.Event]
    go_on: ClassVar[asyncio.Event]

    async def publish_steps(
        self, steps: Sequence[Step], key_ms: int
    ) -> Sequence[Receipt | BrokerUnavailable]:
        if steps:
            self.waits.set()
            await self.go_on.wait()
        return await super().publish_steps(steps, key_ms)


async def test_two_workers_that_believe_to_own_it_publish_in_order_and_once() -> None:
    (server,) = await shared_servers(1)
    Late.waits, Late.go_on = asyncio.Event(), asyncio.Event()
    options = InboxOptions(batch=20, lease_s=LEASE_SECONDS)
    async with (
        worker(server.url, name="late", kind=Late, options=options) as late,
        worker(server.url, name="two", options=options, working=False) as two,
    ):
        await leave_many(late, (entry("a", number) for number in range(50)))
        await Late.waits.wait()
        # As if its lease had run out while it was stopped.
        await server.command("SET", OWNER, "two", "PX", 60_000)
        two.work()
        await until(lambda: two.done("published") >= 20)
        Late.go_on.set()
        await leave(server, *(entry("a", number) for number in range(50, 60)))
        await emptied(server)
        assert await kept(two, "a") == list(range(60))
        await until(lambda: not late.owned)


async def test_the_inbox_is_published_once_and_in_order_though_its_workers_are_killed() -> None:
    servers = await shared_servers(2)
    urls = [server.url for server in servers]
    count, topics = 4000, 10
    options = InboxOptions(batch=50, lease_s=0.2)
    async with worker(*urls, name="backend", working=False) as backend:
        async with asyncio.TaskGroup() as group:
            group.create_task(
                leave_many(backend, (entry(f"a:{n % topics}", n) for n in range(count)))
            )
            lives = 0
            while lives < 3 or await servers[0].command("XLEN", INBOX):
                lives += 1
                async with worker(*urls, name=f"w{lives}", options=options) as one:
                    await until(lambda one=one: one.owned)  # type: ignore[misc]
                    await asyncio.sleep(0.02 * lives)  # some way into it, later each time
        for topic in range(topics):
            assert await kept(backend, f"a:{topic}") == list(range(topic, count, topics))
        assert lives > 2


# Shards that are away


async def test_entries_wait_for_their_topics_shard_and_others_pass() -> None:
    (server,) = await shared_servers(1)
    async with (
        RedisServer(appendonly=True) as mortal,
        worker(f"{server.url}?name=s", f"{mortal.url}?name=m", shard_options=QUICK) as one,
    ):
        shards = one.broker.shards
        topics = [f"a:{number}" for number in range(12)]
        away = [topic for topic in topics if shards.of(topic).name == "m"]
        here = [topic for topic in topics if shards.of(topic).name == "s"]
        assert away
        assert here
        await until(lambda: one.owned == 2)
        mortal.kill()
        for number in range(5):
            await leave(server, *(entry(topic, number) for topic in topics))
        for topic in here:
            await eventually(lambda topic=topic: has(one, topic, [0, 1, 2, 3, 4]))  # type: ignore[misc]
        assert one.inbox.delivery.waiting == 5 * len(away)
        assert await server.command("XLEN", INBOX) == 5 * len(away)
        assert one.inbox.age > 0
        await mortal.restart(keep_data=True)
        await emptied(server)
        for topic in topics:
            assert await kept(one, topic) == [0, 1, 2, 3, 4]
        assert one.inbox.delivery.waiting == 0


async def has(at: Worker, topic: str, data: list[object]) -> bool:
    return await kept(at, topic) == data


async def test_a_shard_that_stops_amid_publishes_has_each_once_when_it_goes_on() -> None:
    (server,) = await shared_servers(1)
    async with (
        RedisServer() as other,
        worker(
            f"{server.url}?name=s",
            f"{other.url}?name=m",
            shard_options=QUICK,
            options=InboxOptions(batch=20, lease_s=LEASE_SECONDS),
        ) as one,
    ):
        topics = [f"a:{number}" for number in range(6)]
        await until(lambda: one.owned == 2)
        for round in range(3):
            async with asyncio.TaskGroup() as group:
                group.create_task(
                    leave_many(
                        one,
                        (entry(topic, round * 100 + n) for n in range(100) for topic in topics),
                    )
                )
                await asyncio.sleep(0.003 * round)
                other.stop()
                await until(lambda: not one.broker.shards.all()[1].available)
                other.go_on()
            await emptied(server)
            for topic in topics:
                assert await kept(one, topic) == list(range((round + 1) * 100))


async def test_the_inboxs_own_shard_may_be_killed_and_come_back() -> None:
    (server,) = await shared_servers(1)
    async with (
        RedisServer(appendonly=True) as mortal,
        worker(
            f"{mortal.url}?name=m",
            f"{server.url}?name=s",
            shard_options=QUICK,
            options=InboxOptions(batch=20, lease_s=LEASE_SECONDS),
        ) as one,
    ):
        topics = [f"a:{number}" for number in range(6)]
        await leave_many(one, (entry(topic, n) for n in range(300) for topic in topics))
        await until(lambda: one.done("published") > 100)
        mortal.kill()
        await until(lambda: not one.broker.shards.all()[0].available)
        await mortal.restart(keep_data=True)
        await emptied(mortal)
        for topic in topics:
            assert await kept(one, topic) == list(range(300))


async def test_what_waits_is_bounded_and_the_rest_stays_in_redis() -> None:
    (server,) = await shared_servers(1)
    count = 3 * LETTERS
    async with (
        RedisServer(appendonly=True) as mortal,
        worker(
            f"{server.url}?name=s",
            f"{mortal.url}?name=m",
            shard_options=QUICK,
            options=InboxOptions(lease_s=LEASE_SECONDS),
        ) as one,
    ):
        await until(lambda: one.owned == 2)
        topics = [f"bare:{number}" for number in range(100)]
        away = [topic for topic in topics if one.broker.shards.of(topic).name == "m"]
        mortal.kill()
        await until(lambda: not one.broker.shards.all()[1].available)
        await leave_many(one, (entry(away[n % len(away)], n) for n in range(count)))
        await until(lambda: one.inbox.delivery.waiting == LETTERS)
        [group] = await server.command("XINFO", "GROUPS", INBOX)
        fields = dict(zip(group[::2], group[1::2], strict=True))
        assert fields["pending"] == LETTERS
        await until(lambda: one.inbox.entries == count)
        await mortal.restart(keep_data=True)
        await emptied(server, 60)
        assert one.done("published") == count
        assert one.inbox.delivery.waiting == 0


# In a cluster


async def test_a_cluster_has_one_inbox_for_topics_of_all_nodes() -> None:
    cluster = await shared_cluster()
    node = await cluster.owner(slot_of(KEYS.inbox))
    topics = [f"a:{number}" for number in range(30)]
    async with worker(cluster.url) as one, worker(cluster.url, name="v") as other:
        for topic in topics:
            other.broker.attach(topic)
            await other.broker.attached(topic)
        ids = await leave(node, *(entry(topic, 1) for topic in topics), ["topic", "a"])
        await leave(node, *(entry(topic, 2) for topic in topics))
        for topic in topics:
            assert await fed(other, topic, 2) == [1, 2]
        await emptied(node)
        assert (len(one.inboxes), one.inbox.name) == (1, "cluster")
        [letter] = await dead_letters(await cluster.owner(slot_of(KEYS.dead)))
        assert letter == {"topic": "a", "reason": "data is missing", "entry": ids[-1]}


async def test_a_cluster_may_move_the_inbox_and_the_topics_meanwhile() -> None:
    async with RedisCluster() as cluster:
        inbox, topic = slot_of(KEYS.inbox), slot_of(KEYS.channel("a"))
        options = InboxOptions(batch=20, lease_s=LEASE_SECONDS)
        async with worker(cluster.url, options=options) as one:
            count = 0
            for slot in (inbox, topic, inbox, topic):
                home = await cluster.owner(slot)
                elsewhere = next(node for node in cluster.primaries if node is not home)
                async with asyncio.TaskGroup() as group:
                    moving = group.create_task(cluster.move_slot(slot, elsewhere))
                    while not moving.done():
                        if not await left_somewhere(cluster, entry("a", count)):
                            continue
                        count += 1
            await emptied(await cluster.owner(inbox))
            assert count > 4
            assert await kept(one, "a") == list(range(count))


async def left_somewhere(cluster: RedisCluster, fields: list[str]) -> bool:
    """Leaves an entry at the node that takes it; says whether one did."""
    for node in cluster.primaries:
        with contextlib.suppress(hiredis.ReplyError):
            await leave(node, fields)
            return True
    return False


async def test_in_a_failover_of_the_inboxs_node_nothing_is_lost_or_doubled() -> None:
    async with RedisCluster(replicas=True) as cluster:
        node = await cluster.owner(slot_of(KEYS.inbox))
        replica = cluster.replicas[cluster.primaries.index(node)]
        options = InboxOptions(batch=20, lease_s=LEASE_SECONDS)
        async with worker(cluster.url, options=options) as one:
            for number in range(300):
                await leave(node, entry(f"a:{number % 10}", number))
            await cluster.failover(replica)
            await leave(replica, *(entry(f"a:{n % 10}", n) for n in range(300, 350)))
            await emptied(replica)
            for topic in range(10):
                assert await kept(one, f"a:{topic}") == list(range(topic, 350, 10))


# What operators do to it


async def test_an_inbox_that_vanishes_begins_anew() -> None:
    (server,) = await shared_servers(1)
    async with worker(server.url) as one:
        await leave(server, entry("a", 1))
        await emptied(server)
        await server.command("DEL", INBOX)
        await leave(server, entry("a", 2))
        await emptied(server)
        await server.command("FLUSHALL")
        await leave(server, entry("a", 3))
        await emptied(server)
        assert await kept(one, "a") == [3]


async def test_a_key_of_another_kind_is_left_alone_until_it_is_gone() -> None:
    (server,) = await shared_servers(1)
    await server.command("SET", INBOX, "mine")
    async with worker(server.url) as one:
        assert await server.command("GET", INBOX) == "mine"
        await server.command("DEL", INBOX)
        await leave(server, entry("a", 1))
        await emptied(server)
        assert await kept(one, "a") == [1]


async def test_an_inbox_can_be_held_by_hand() -> None:
    (server,) = await shared_servers(1)
    await server.command("SET", OWNER, "held")
    await leave(server, entry("a", 1))
    async with worker(server.url) as one:
        await until(lambda: one.inbox.holder == "held")
        await server.command("CONFIG", "RESETSTAT")
        await asyncio.sleep(0.5)
        assert await scripts_run(server) < 10
        assert await kept(one, "a") == []
        await server.command("DEL", OWNER)
        await emptied(server)
        assert await kept(one, "a") == [1]


async def scripts_run(server: RedisServer) -> int:
    """Since its statistics were reset."""
    calls = (await server.info("commandstats")).get("cmdstat_evalsha", "calls=0,")
    return int(calls.partition("calls=")[2].partition(",")[0])


async def test_entries_that_another_consumer_took_and_left_are_published_at_a_takeover() -> None:
    (server,) = await shared_servers(1)
    await leave(server, *(entry("a", number) for number in range(5)))
    await server.command("XGROUP", "CREATE", INBOX, "clarion", "0")
    await server.command("XREADGROUP", "GROUP", "clarion", "x", "COUNT", 3, "STREAMS", INBOX, ">")
    async with worker(server.url) as one:
        await emptied(server)
        assert await kept(one, "a") == [0, 1, 2, 3, 4]


async def test_an_entry_that_was_acknowledged_by_hand_does_not_keep_anybody_busy() -> None:
    (server,) = await shared_servers(1)
    [ghost] = await leave(server, entry("a", 0))
    await server.command("XGROUP", "CREATE", INBOX, "clarion", "0")
    await server.command("XREADGROUP", "GROUP", "clarion", "x", "STREAMS", INBOX, ">")
    await server.command("XACK", INBOX, "clarion", ghost)
    async with worker(server.url) as one:
        await owned(one)
        await server.command("CONFIG", "RESETSTAT")
        await asyncio.sleep(0.5)
        assert await scripts_run(server) < 50
        await leave(server, entry("a", 1))
        await eventually(lambda: has(one, "a", [1]))


async def test_only_the_owner_has_a_bell_and_hears_it_again_when_it_was_cut_off() -> None:
    (server,) = await shared_servers(1)
    options = InboxOptions(lease_s=60, client="c")
    async with (
        worker(server.url, options=options) as one,
        worker(server.url, name="v", options=options) as other,
    ):
        await owned(one, other)
        await until(lambda: one.inbox.holder and one.inbox.holder == other.inbox.holder)

        async def bells() -> int:
            clients = (await server.command("CLIENT", "LIST")).splitlines()
            return sum("name=c-inbox" in line and "cmd=xread" in line for line in clients)

        async def one_bell() -> bool:
            return await bells() == 1

        await eventually(one_bell)
        for line in (await server.command("CLIENT", "LIST")).splitlines():
            if "name=c-inbox" in line:
                id = line.partition("id=")[2].partition(" ")[0]
                await server.command("CLIENT", "KILL", "ID", id)
        await eventually(one_bell)
        await leave(server, entry("a", 1))
        await emptied(server, 2)


# What the inbox builds on


async def test_only_who_begins_takes_an_inbox_that_nobody_owns() -> None:
    (server,) = await shared_servers(1)
    [first, second] = await leave(server, entry("a", 1), entry("a", 2))
    async with worker(server.url, working=False) as one:
        [shard] = one.broker.shards.all()

        async def ask(name: str, lease_ms: int, cursor: str, *done: str) -> tuple[str, int]:
            """The owner then, and how many entries were read."""
            arguments: list[str | int] = [name, lease_ms, cursor, 1, 10_000, 10_000, *done]
            reply = await shard.run(SCRIPT, (KEYS.inbox, KEYS.owner), arguments)
            return reply[0].decode(), len(reply[5])

        assert await ask("a", 5000, ">") == ("", 0)
        assert await ask("a", 5000, "0-0") == ("a", 0)
        assert await ask("a", 5000, ">") == ("a", 1)
        assert await ask("b", 5000, "0-0") == ("a", 0)
        assert await ask("b", 5000, ">") == ("a", 0)
        assert await ask("b", 0, ">") == ("a", 0)
        assert await ask("a", 0, ">") == ("", 0)
        # Between, another may have come and gone: it begins again, with what was given out.
        assert await ask("a", 5000, ">") == ("", 0)
        assert await ask("b", 5000, "0-0") == ("b", 1)
        assert await ask("b", 5000, ">") == ("b", 1)
        # What is done is removed, whoever did it.
        assert await ask("a", 5000, ">", first) == ("b", 0)
        assert [id for id, _ in await server.command("XRANGE", INBOX, "-", "+")] == [second]


async def test_a_step_is_published_only_behind_the_one_before_it() -> None:
    (server,) = await shared_servers(1)
    async with worker(server.url, working=False) as one:
        for topic in ("a", "bare:a"):
            first, second, third = (KEYS.entry(topic, mark) for mark in (b"1", b"2", b"3"))
            skipped: list[Step] = [(topic, b"3", (third, second), "")]
            [refused] = await one.broker.publish_steps(skipped, 60_000)
            assert isinstance(refused, BrokerUnavailable)
            chain: list[Step] = [
                (topic, b"1", (first,), ""),
                (topic, b"2", (second, first), ""),
                (topic, b"3", (third, second), ""),
            ]
            receipts = await one.broker.publish_steps(chain, 60_000)
            assert [receipt.duplicate for receipt in accepted(receipts)] == [False] * 3
            receipts = await one.broker.publish_steps(chain, 60_000)
            assert [receipt.duplicate for receipt in accepted(receipts)] == [True] * 3
        assert await kept(one, "a") == [1, 2, 3]


def accepted(answers: Sequence[Receipt | BrokerUnavailable]) -> list[Receipt]:
    receipts = [answer for answer in answers if isinstance(answer, Receipt)]
    assert len(receipts) == len(answers)
    return receipts


async def test_a_step_waits_for_the_one_before_it_when_the_data_stepped_back() -> None:
    async with (
        RedisServer(appendonly=True) as server,
        worker(server.url, working=False, shard_options=QUICK) as one,
    ):
        chain: list[Step] = [
            ("a", b"%d" % number, (KEYS.entry("a", b"%d" % number), *before), "")
            for number, before in enumerate(
                [(), *((KEYS.entry("a", b"%d" % number),) for number in range(9))]
            )
        ]
        accepted(await one.broker.publish_steps(chain[:5], 60_000))
        # Its reign is another one then, which the first to publish finds out.
        await server.restart(keep_data=True)
        async with asyncio.timeout(DEADLINE):
            while True:
                answers = await one.broker.publish_steps(chain, 60_000)
                if all(isinstance(answer, Receipt) for answer in answers):
                    break
                await asyncio.sleep(0.05)
        assert await kept(one, "a") == list(range(10))
