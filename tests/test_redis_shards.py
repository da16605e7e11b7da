"""A list of shards: commands reach the shard of their topic, and each has its own outcome."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain

import hiredis
import pytest

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_address import parse
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_list import ShardList
from clarion_fanout.redis_scripts import PUBLISH_ONCE
from clarion_fanout.redis_shard import ShardOptions
from clarion_fanout.redis_wire import pack
from clarion_fanout.tasks import Tasks
from support.redis_servers import RedisServer
from support.redis_shared import shared_servers
from support.waiting import until

TOPICS = [f"topic:{number}" for number in range(30)]


@asynccontextmanager
async def shards(*servers: RedisServer) -> AsyncIterator[ShardList]:
    made = ShardList(
        [parse(f"{server.url}?name=s{place}") for place, server in enumerate(servers)],
        keys=Keys("test"),
        worker="w1",
        options=ShardOptions(),
    )
    tasks = Tasks()
    await made.start(tasks)
    try:
        yield made
    finally:
        await tasks.close()
        await made.close()


def once(topic: str, key: str) -> tuple[str, bytes]:
    keys = Keys("test")
    arguments = (keys.channel(topic), "1", 10_000, "PUBLISH")
    return topic, PUBLISH_ONCE.packed([keys.key(topic, key)], arguments)


async def test_outcomes_stand_in_the_order_of_the_commands_whatever_their_shards() -> None:
    async with shards(*await shared_servers()) as made:
        outcomes = await made.send([(topic, pack(("ECHO", topic))) for topic in TOPICS])
    assert outcomes == [topic.encode() for topic in TOPICS]


async def test_commands_reach_the_shard_of_their_topic_alone() -> None:
    servers = await shared_servers()
    async with shards(*servers) as made:
        await made.send([(topic, pack(("SET", topic, made.of(topic).name))) for topic in TOPICS])
    kept = [await server.command("KEYS", "*") for server in servers]
    assert sorted(chain.from_iterable(kept)) == sorted(TOPICS)
    assert all(kept)
    for place, server in enumerate(servers):
        assert {await server.command("GET", topic) for topic in kept[place]} == {f"s{place}"}


async def test_commands_of_a_topic_are_executed_in_their_order() -> None:
    async with shards(*await shared_servers()) as made:
        outcomes = await made.send(
            [(topic, pack(("INCR", topic))) for _ in range(10) for topic in TOPICS]
        )
    assert outcomes == [number for number in range(1, 11) for _ in TOPICS]


@pytest.mark.parametrize("count", [0, 1, 2])
async def test_few_commands_are_no_exception(count: int) -> None:
    async with shards(*await shared_servers()) as made:
        commands = [("a", pack(("ECHO", number))) for number in range(count)]
        assert await made.send(commands) == [b"%d" % number for number in range(count)]


async def test_an_error_that_redis_answers_is_the_outcome_of_its_command_alone() -> None:
    async with shards(*await shared_servers()) as made:
        good, bad, also_good = await made.send(
            [("a", pack(("SET", "a", "text"))), ("a", pack(("INCR", "a"))), ("a", pack(("PING",)))]
        )
    assert (good, also_good) == (b"OK", b"PONG")
    assert isinstance(bad, hiredis.ReplyError)
    assert "not an integer" in str(bad)


async def test_scripts_that_redis_has_forgotten_are_sent_to_it() -> None:
    servers = await shared_servers()
    async with shards(*servers) as made:
        for server in servers:
            await server.command("SCRIPT", "FLUSH")
        commands = [once(topic, key) for topic in TOPICS for key in ("k1", "k2", "k1")]
        commands.append(("a", pack(("ECHO", "beside"))))
        outcomes = await made.send(commands)
    assert outcomes == [0, 0, 1] * len(TOPICS) + [b"beside"]


async def test_a_shard_that_is_gone_fails_its_own_commands_alone() -> None:
    async with RedisServer() as mortal:
        servers = await shared_servers(2)
        async with shards(*servers, mortal) as made:
            mortal.kill()
            await until(lambda: not made.all()[2].available)
            outcomes = await made.send([(topic, pack(("ECHO", topic))) for topic in TOPICS])
            for topic, outcome in zip(TOPICS, outcomes, strict=True):
                if made.of(topic).name == "s2":
                    assert isinstance(outcome, BrokerUnavailable)
                    assert outcome.retry_ms > 0
                else:
                    assert outcome == topic.encode()
            failures = [each for each in outcomes if isinstance(each, BrokerUnavailable)]
            assert failures
            assert len(set(map(id, failures))) == len(failures)
