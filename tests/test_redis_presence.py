"""Presence over Redis where something goes wrong: workers die, shards forget, step back, are away.

What goes right is in test_presence_contract.py.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_room import REMOVED, member_keys
from clarion_fanout.redis_shard import ShardOptions
from support.bad_network import bad_network
from support.presences import RedisWorker, believed, member, news, redis_worker
from support.redis_cluster import RedisCluster
from support.redis_servers import RedisServer, eventually
from support.redis_shared import shared_servers
from support.waiting import until

LEASE = 0.6
"""Seconds; renewed every fifth of a second."""

IMPATIENT = ShardOptions(timeout_s=0.3, probe_s=0.05, retry_s=(0.02, 0.05))

ROOM = "events:room"


class Crew:
    """Workers over the same servers; all are ended in the end."""

    def __init__(self, *urls: str) -> None:
        self._urls = urls
        self.workers: list[RedisWorker] = []

    async def joins(self, *topics: str, url: str = "", lease_s: float = LEASE) -> RedisWorker:
        """One more worker, fed what happens in `topics`."""
        name = f"w{len(self.workers)}"
        urls = [url] if url else self._urls
        worker = await redis_worker(urls, name, *topics, lease_s=lease_s, options=IMPATIENT)
        self.workers.append(worker)
        return worker

    async def end(self) -> None:
        for worker in self.workers:
            await worker.end()


@asynccontextmanager
async def crew_of(*servers: RedisServer | RedisCluster) -> AsyncIterator[Crew]:
    crew = Crew(*(f"{server.url}?name=s{place}" for place, server in enumerate(servers)))
    try:
        yield crew
    finally:
        await crew.end()


@pytest.fixture
async def server() -> RedisServer:
    (server,) = await shared_servers(1)
    return server


@pytest.fixture
async def crew(server: RedisServer) -> AsyncIterator[Crew]:
    async with crew_of(server) as crew:
        yield crew


def clients(first: int, last: int) -> list[str]:
    return [f"c-{number:04}" for number in range(first, last)]


def shown(*names: str) -> set[bytes]:
    return {member(name) for name in names}


async def seen(worker: RedisWorker, topic: str) -> set[bytes]:
    members = await worker.opened.walk(topic, 1000)
    assert len(members) == len(set(members))
    return set(members)


async def hears(worker: RedisWorker, count: int) -> None:
    """Waits for so many announcements."""
    await until(lambda: len(news(worker.feed, ROOM)) >= count)


def sees(worker: RedisWorker, topic: str, expected: set[bytes]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        try:
            alike = await seen(worker, topic) == expected
            return alike and await worker.opened.population(topic) == len(expected)
        except BrokerUnavailable:
            return False

    return look


def counts(worker: RedisWorker, topic: str, expected: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        try:
            return await worker.opened.population(topic) == expected
        except BrokerUnavailable:
            return False

    return look


# Workers that die


async def test_members_of_a_worker_that_died_are_gone_with_its_lease(crew: Crew) -> None:
    dying, other = await crew.joins(), await crew.joins()
    dying.opened.enter("members:a", "c-1", "c-2")
    other.opened.enter("members:a", "c-3")
    assert await seen(dying, "members:a") <= shown("c-1", "c-2", "c-3")
    await dying.die()
    died = time.monotonic()
    assert await seen(other, "members:a") == shown("c-1", "c-2", "c-3")
    await eventually(sees(other, "members:a", shown("c-3")))
    assert time.monotonic() - died < LEASE + 0.3
    assert await other.opened.walk("members:a", 1) == [member("c-3")]


async def test_the_count_of_a_worker_that_died_is_gone_with_its_lease(crew: Crew) -> None:
    dying, other = await crew.joins(), await crew.joins()
    dying.opened.enter("count:a", *clients(0, 20))
    other.opened.enter("count:a", *clients(20, 25))
    assert await other.opened.population("count:a") >= 5
    assert await dying.opened.population("count:a") == 25
    await dying.die()

    await eventually(counts(other, "count:a", 5))
    await until(lambda: other.presence.removed == 20)


async def test_nobody_need_be_there_for_the_dead_to_be_left_out(
    crew: Crew, server: RedisServer
) -> None:
    dying, other = await crew.joins(), await crew.joins()
    dying.opened.enter("members:a", *clients(0, 30))
    dying.opened.enter("count:a", *clients(0, 30))
    assert await dying.opened.population("members:a") == 30
    assert await dying.opened.population("count:a") == 30
    await dying.die()
    await eventually(sees(other, "members:a", set()))
    assert await other.opened.population("count:a") == 0

    async def clean() -> bool:
        return not await server.command("KEYS", "*:p:*")

    # And nothing stays behind, though nobody was there to remove it.
    await eventually(clean)


async def test_the_departures_of_the_dead_are_announced_once(crew: Crew) -> None:
    dying = await crew.joins()
    others = [await crew.joins(ROOM) for _ in range(3)]
    gone = clients(0, 2 * REMOVED + 200)
    dying.opened.enter(ROOM, *gone)
    for number, other in enumerate(others):
        other.opened.enter(ROOM, f"stays-{number}")
    for other in others:
        await hears(other, len(gone) + 3)
    await dying.die()
    stay = shown("stays-0", "stays-1", "stays-2")
    for other in others:
        await hears(other, 2 * len(gone) + 3)
    await asyncio.sleep(LEASE)  # for announcements that should not come
    for other in others:
        assert await seen(other, ROOM) == stay
        counts = Counter(news(other.feed, ROOM))
        assert counts.total() == 2 * len(gone) + 3
        assert all(counts["leave", member(client)] == 1 for client in gone)
    assert sum(other.presence.removed for other in others) == len(gone)


async def test_the_dead_are_not_seen_while_they_are_being_removed(crew: Crew) -> None:
    dying, other = await crew.joins(), await crew.joins(lease_s=60)
    dying.opened.enter("members:a", *clients(0, 3 * REMOVED))
    assert await dying.opened.population("members:a") == 3 * REMOVED
    await dying.die()
    await asyncio.sleep(LEASE + 0.1)
    other.opened.enter("members:a", "c-9999")
    assert await seen(other, "members:a") == shown("c-9999")
    await until(lambda: other.presence.removed == 3 * REMOVED)


async def test_a_worker_that_stood_still_for_too_long_comes_back_with_all_its_members(
    crew: Crew, server: RedisServer
) -> None:
    async with bad_network(server.port) as network:
        still = await crew.joins(url=f"redis://127.0.0.1:{network.port}/0?name=s0")
        other = await crew.joins(ROOM)
        still.opened.enter(ROOM, *clients(0, 5))
        other.opened.enter(ROOM, "stays")
        await hears(other, 6)
        network.down()
        await hears(other, 11)
        assert await seen(other, ROOM) == shown("stays")
        # What happens meanwhile is made good.
        still.opened.leave(ROOM, *clients(0, 3))
        still.opened.enter(ROOM, "new")
        with pytest.raises(BrokerUnavailable):
            await still.presence.read(ROOM, 10)
        network.up()
        everybody = shown("stays", "new", *clients(3, 5))
        await eventually(sees(other, ROOM, everybody))
        await eventually(sees(still, ROOM, everybody))
        await until(lambda: believed(other.feed, ROOM) == everybody)


# Shards that forget


async def test_members_enter_anew_where_a_shard_has_lost_its_data(
    crew: Crew, server: RedisServer
) -> None:
    one, other = await crew.joins(), await crew.joins()
    one.opened.enter("members:a", *clients(0, 700))
    other.opened.enter("members:a", *clients(700, 800))
    other.opened.enter("count:a", "c-1")
    assert len(await seen(one, "members:a")) >= 700
    await server.command("FLUSHALL")
    await eventually(sees(other, "members:a", shown(*clients(0, 800))))

    async def counted() -> bool:
        return await other.opened.population("count:a") == 1

    await eventually(counted)


async def test_members_enter_anew_in_a_server_that_was_restarted() -> None:
    async with RedisServer() as server, crew_of(server) as crew:
        one, other = await crew.joins(), await crew.joins()
        one.opened.enter("members:a", "c-1", "c-2")
        other.opened.enter("members:a", "c-3")
        assert await seen(one, "members:a") >= shown("c-1", "c-2")
        await server.restart(keep_data=False)
        one.opened.leave("members:a", "c-2")
        await eventually(sees(other, "members:a", shown("c-1", "c-3")))


async def test_what_a_shard_remembers_wrongly_is_put_right() -> None:
    """A replica took over that had not heard of the newest changes."""
    async with RedisServer() as server, crew_of(server) as crew:
        one = await crew.joins(ROOM)
        one.opened.enter(ROOM, *clients(0, 1200))
        assert await one.opened.population(ROOM) == 1200
        keys = [key.decode() for key in member_keys(Keys(), ROOM)]
        # Half of it is what is remembered; since then others left, and came.
        one.opened.leave(ROOM, *clients(0, 600))
        assert await one.opened.population(ROOM) == 600
        remembered: list[list[str]] = []
        for key in keys:
            remembered.append(await server.command("ZRANGE", key, 0, -1, "WITHSCORES"))
        one.opened.enter(ROOM, *clients(2000, 2100))
        one.opened.leave(ROOM, *clients(600, 1190))
        assert await one.opened.population(ROOM) == 110
        await server.restart(keep_data=False)
        for key, entries in zip(keys, remembered, strict=True):
            pairs = [
                word for at in range(0, len(entries), 2) for word in entries[at : at + 2][::-1]
            ]
            await server.command("ZADD", key, *pairs)
        expected = shown(*clients(1190, 1200), *clients(2000, 2100))
        await eventually(sees(one, ROOM, expected))
        await until(lambda: believed(one.feed, ROOM) == expected)


async def test_leases_are_known_to_nobody_when_everybody_has_left(
    crew: Crew, server: RedisServer
) -> None:
    one, other = await crew.joins(), await crew.joins()
    for topic in ("members:a", ROOM, "count:a"):
        one.opened.enter(topic, "c-1")
        other.opened.enter(topic, "c-2")
        assert await one.opened.population(topic) >= 1
        assert await other.opened.population(topic) == 2
    keys = await server.command("KEYS", "*:p:*")
    assert len(keys) == 6
    assert all([0 < await server.command("PTTL", key) <= 4000 * LEASE for key in keys])
    for topic in ("members:a", ROOM, "count:a"):
        one.opened.leave(topic, "c-1")
        other.opened.leave(topic, "c-2")
    await until(lambda: not one.presence.topics and not other.presence.topics)
    assert await server.command("KEYS", "*:p:*") == []


# Shards that are away


async def test_nobody_is_sent_away_when_a_shard_was_away_for_all() -> None:
    async with RedisServer() as server, crew_of(server) as crew:
        one, other = await crew.joins(ROOM), await crew.joins(ROOM)
        one.opened.enter(ROOM, *clients(0, 3))
        other.opened.enter(ROOM, *clients(3, 6))
        for worker in (one, other):
            await hears(worker, 6)
        server.stop()
        await asyncio.sleep(2 * LEASE)
        one.opened.leave(ROOM, "c-0000")
        other.opened.enter(ROOM, "c-0006")
        server.go_on()
        expected = shown(*clients(1, 7))
        await eventually(sees(one, ROOM, expected))
        await eventually(sees(other, ROOM, expected))
        await asyncio.sleep(LEASE)  # for announcements that should not come
        told = {("leave", member("c-0000")), ("join", member("c-0006"))}
        for worker in (one, other):
            assert set(news(worker.feed, ROOM)[6:]) <= told


async def test_a_shard_that_is_away_holds_up_no_other() -> None:
    (server,) = await shared_servers(1)
    async with RedisServer() as mortal, crew_of(server, mortal) as crew:
        worker = await crew.joins()
        topics = [f"members:{number}" for number in range(40)]
        shards = worker.broker.shards
        away = [topic for topic in topics if shards.of(topic).name == "s1"]
        here = [topic for topic in topics if topic not in away]
        assert away
        assert here
        mortal.kill()
        for topic in topics:
            worker.opened.enter(topic, "c-1")
        for topic in here:
            assert await worker.opened.population(topic) == 1
        for topic in away[:3]:
            with pytest.raises(BrokerUnavailable) as refused:
                await worker.presence.read(topic, 10)
            assert refused.value.retry_ms > 0
        assert worker.presence.failures > 0
        await mortal.start()
        for topic in away:
            await eventually(sees(worker, topic, shown("c-1")))


async def test_what_happens_at_a_shard_that_stays_away_is_not_kept() -> None:
    async with RedisServer() as server, crew_of(server) as crew:
        worker = await crew.joins()
        worker.opened.enter("members:a", *clients(0, 10))
        assert await worker.opened.population("members:a") == 10
        server.kill()
        topics = [f"members:{number}" for number in range(300)]
        for topic in topics:
            worker.opened.enter(topic, "c-1")
            worker.opened.leave(topic, "c-1")
        assert worker.presence.topics == 301
        await until(lambda: worker.presence.topics == 1)
        for topic in topics:
            worker.opened.enter(topic, "c-2")
            worker.opened.leave(topic, "c-2")
        assert worker.presence.topics == 1
        worker.opened.leave("members:a", *clients(0, 4))
        worker.opened.enter("members:a", *clients(20, 22))
        worker.opened.enter("members:0", "c-3")
        await server.start()
        await eventually(sees(worker, "members:a", shown(*clients(4, 10), *clients(20, 22))))
        await eventually(sees(worker, "members:0", shown("c-3")))
        assert worker.presence.members == 9


async def test_a_worker_ends_in_time_though_its_shard_is_away() -> None:
    async with RedisServer() as server, crew_of(server) as crew:
        worker = await crew.joins(lease_s=60)
        worker.opened.enter("members:a", "c-1")
        assert await worker.opened.population("members:a") == 1
        server.stop()
        worker.opened.leave("members:a", "c-1")
        began = time.monotonic()
        await worker.presence.close()
        assert time.monotonic() - began < 3
        server.go_on()


# Many questions


async def test_a_thousand_who_ask_the_same_together_cost_two_questions(
    crew: Crew, server: RedisServer
) -> None:
    worker = await crew.joins(lease_s=60)
    worker.opened.enter("members:a", "c-1")
    await seen(worker, "members:a")

    async def asked() -> int:
        info = await server.info("commandstats")
        return int(info["cmdstat_evalsha"].split(",")[0].removeprefix("calls="))

    before = await asked()
    async with asyncio.TaskGroup() as group:
        first = [group.create_task(worker.presence.read("members:a", 10)) for _ in range(500)]
        await asyncio.sleep(0)
        worker.opened.enter("members:a", "c-2")
        later = [group.create_task(worker.presence.read("members:a", 10)) for _ in range(500)]
        first[0].cancel()
        later[0].cancel()
    assert {task.result().count for task in first[1:]} <= {1, 2}
    assert {task.result().count for task in later[1:]} == {2}
    assert await asked() - before <= 4  # one of them told of the second member


async def test_those_who_wait_for_an_answer_are_told_when_it_does_not_come() -> None:
    async with RedisServer() as server, crew_of(server) as crew:
        worker = await crew.joins(lease_s=60)
        worker.opened.enter("members:a", "c-1")
        await seen(worker, "members:a")
        server.stop()
        questions = [worker.presence.read("members:a", 10) for _ in range(3)]
        errors = await asyncio.gather(*questions, return_exceptions=True)
        assert [type(error) for error in errors] == [BrokerUnavailable] * 3
        assert len(set(map(id, errors))) == 3
        server.go_on()
        await eventually(sees(worker, "members:a", shown("c-1")))
    with pytest.raises(BrokerUnavailable):
        await worker.presence.read("members:a", 10)


# Other trouble


async def test_a_topic_that_redis_refuses_harms_no_other(crew: Crew, server: RedisServer) -> None:
    worker = await crew.joins()
    _, members = member_keys(Keys(), "members:bad")
    await server.command("SET", members, "no sorted set")
    worker.opened.enter("members:bad", "c-1")
    for topic in ("members:good", "count:good"):
        worker.opened.enter(topic, "c-1")
    with pytest.raises(BrokerUnavailable, match="WRONGTYPE"):
        await worker.presence.read("members:bad", 10)
    assert await seen(worker, "members:good") == shown("c-1")
    # Nor does one that was good until now, and is renewed together with them.
    leases, _ = member_keys(Keys(), "members:later")
    worker.opened.enter("members:later", "c-1")
    assert await seen(worker, "members:later") == shown("c-1")
    await server.command("RENAME", members, leases)
    failures = worker.presence.failures
    await until(lambda: worker.presence.failures > failures)
    await asyncio.sleep(2 * LEASE)  # leases that nobody renews would be over by then
    assert await seen(worker, "members:good") == shown("c-1")
    assert await worker.opened.population("count:good") == 1
    await eventually(sees(worker, "members:bad", shown("c-1")))


async def test_presence_is_kept_when_redis_has_no_memory_left() -> None:
    async with RedisServer() as server, crew_of(server) as crew:
        worker = await crew.joins()
        worker.opened.enter("members:a", "c-1")
        assert await worker.opened.population("members:a") == 1
        await server.command("CONFIG", "SET", "maxmemory", 1)
        worker.opened.enter("members:a", "c-2")
        worker.opened.enter("count:a", "c-1")
        worker.opened.leave("members:a", "c-1")
        assert await seen(worker, "members:a") == shown("c-2")
        assert await worker.opened.population("count:a") == 1


@pytest.mark.parametrize("payload", ["<b>hello</b>", "> join us", ">", "<"])
async def test_what_a_backend_publishes_is_not_taken_for_a_member(
    crew: Crew, server: RedisServer, payload: str
) -> None:
    worker = await crew.joins(ROOM)
    await server.command("PUBLISH", Keys().channel(ROOM), payload)
    worker.opened.enter(ROOM, "c-1")
    await worker.opened.hears(ROOM, ("join", "c-1"))
    assert worker.broker.quick_refused == 1


# A cluster


async def test_members_move_with_their_slot_and_survive_its_primary() -> None:
    async with RedisCluster(replicas=True, node_timeout_ms=1000) as cluster:
        slot = await cluster.nodes[0].command("CLUSTER", "KEYSLOT", Keys().channel(ROOM))
        async with crew_of(cluster) as crew:
            one, other = await crew.joins(ROOM, lease_s=2), await crew.joins(lease_s=2)
            one.opened.enter(ROOM, *clients(0, 600))
            other.opened.enter(ROOM, *clients(600, 610))
            assert len(await seen(one, ROOM)) >= 600
            source = await cluster.owner(slot)
            target = next(node for node in cluster.primaries if node is not source)
            await cluster.move_slot(slot, target)
            one.opened.leave(ROOM, *clients(0, 5))
            other.opened.enter(ROOM, *clients(610, 615))
            for worker in (one, other):
                await eventually(sees(worker, ROOM, shown(*clients(5, 615))))
            target.kill()
            one.opened.leave(ROOM, *clients(5, 100))
            other.opened.enter(ROOM, *clients(700, 705))
            expected = shown(*clients(100, 615), *clients(700, 705))
            for worker in (one, other):
                await eventually(sees(worker, ROOM, expected), 20)


async def test_whatever_happens_everybody_agrees_in_the_end() -> None:
    dice = random.Random(7)
    servers = await shared_servers(2)
    topics = [f"{kind}:{number}" for kind in ("members", "events", "count") for number in range(4)]
    async with crew_of(*servers) as crew:
        workers = [await crew.joins(lease_s=1) for _ in range(3)]
        inside: dict[tuple[int, str], set[str]] = {}
        for step in range(400):
            place, topic = dice.randrange(3), dice.choice(topics)
            there = inside.setdefault((place, topic), set())
            client = f"c-{place}-{dice.randrange(20)}"
            if client in there:
                there.remove(client)
                workers[place].opened.leave(topic, client)
            else:
                there.add(client)
                workers[place].opened.enter(topic, client)
            if step % 40 == 39:
                trouble = dice.choice(
                    ["CLIENT KILL TYPE normal SKIPME yes", "FLUSHALL", "SCRIPT FLUSH", "PING"]
                )
                await dice.choice(servers).command(*trouble.split())
            if step % 7 == 0:
                await asyncio.sleep(0.005)
        for topic in topics:
            sets = [inside.get((place, topic), set()) for place in range(3)]
            expected = set[str]().union(*sets)
            for worker in workers:
                if topic.startswith("count"):
                    await eventually(counts(worker, topic, len(expected)))
                else:
                    await eventually(sees(worker, topic, shown(*expected)))
