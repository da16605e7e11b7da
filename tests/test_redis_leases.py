"""Leases on real shards: who is on the roll, for how long, and by whose clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from clarion_fanout.redis_address import parse
from clarion_fanout.redis_leases import Leases
from clarion_fanout.redis_scripts import LEASE
from clarion_fanout.redis_shards import Shards, shards_of
from clarion_fanout.roll import WORKERS, Entry
from clarion_fanout.tasks import Tasks
from support.controls import IMPATIENT, KEYS
from support.redis_servers import RedisServer
from support.redis_shared import shared_servers
from support.waiting import until

A, B = Entry("a", b'{"pid":1}'), Entry("b", b'{"pid":2}')


@asynccontextmanager
async def shards(*servers: RedisServer) -> AsyncIterator[Shards]:
    locations = [parse(server.url) for server in servers]
    made = shards_of(locations, keys=KEYS, worker="w", options=IMPATIENT)
    tasks = Tasks()
    await made.start(tasks)
    try:
        yield made
    finally:
        await tasks.close()
        await made.close()


def leases(shards: Shards, own: Entry, lease_s: float = 15.0) -> Leases:
    return Leases(shards, keys=KEYS, own=own, lease_s=lease_s, timeout_s=0.5)


async def test_whoever_renews_learns_of_the_others() -> None:
    async with shards(*await shared_servers(2)) as made:
        a, b = leases(made, A), leases(made, B)
        assert await a.renew()
        assert a.others() == []
        assert await b.renew()
        assert b.others() == [A]
        assert await a.renew()
        assert a.others() == [B]


async def test_whoever_leaves_is_on_no_roll_and_does_not_come_back() -> None:
    servers = await shared_servers(2)
    async with shards(*servers) as made:
        a, b = leases(made, A), leases(made, B)
        await a.renew()
        await b.renew()
        await a.leave()
        assert not await a.renew()
        for server in servers:
            assert await server.command("ZRANGE", KEYS.roll(), 0, -1) == ['b {"pid":2}']


async def test_another_can_be_taken_off() -> None:
    (server,) = await shared_servers(1)
    async with shards(server) as made:
        a, b = leases(made, A), leases(made, B)
        await a.renew()
        await b.renew()
        await b.take_off(A)
        assert b.others() == []
        assert await server.command("ZRANGE", KEYS.roll(), 0, -1) == ['b {"pid":2}']


async def test_a_lease_is_over_by_itself_and_the_roll_with_the_last_one() -> None:
    (server,) = await shared_servers(1)
    async with shards(server) as made:
        short, long = leases(made, A, lease_s=0.2), leases(made, B)
        await long.renew()
        await short.renew()
        # The key lasts as long as the longest lease on it.
        assert await server.command("PTTL", KEYS.roll()) > 10_000
        assert short.others() == [B]
        await long.renew()
        assert long.others() == [A]
        await until(lambda: not long.others(), 2)
        await long.renew()
        assert await server.command("ZRANGE", KEYS.roll(), 0, -1) == ['b {"pid":2}']
        await server.command("DEL", KEYS.roll())
        await short.renew()
        assert 0 < await server.command("PTTL", KEYS.roll()) <= 200


async def test_a_shard_that_is_away_is_passed_over() -> None:
    async with RedisServer() as mortal:
        servers = [mortal, *await shared_servers(1)]
        async with shards(*servers) as made:
            a, b = leases(made, A), leases(made, B)
            mortal.kill()
            await until(lambda: not made.all()[0].available)
            assert await b.renew()
            assert await a.renew()
            assert a.others() == [B]


@pytest.mark.parametrize("most", [1, WORKERS])
async def test_no_more_is_returned_of_a_roll_than_was_asked_for(most: int) -> None:
    (server,) = await shared_servers(1)
    async with shards(server) as made:
        (shard,) = made.all()
        for number in range(3):
            member = b"w%d {}" % number
            reply = await shard.run(LEASE, [KEYS.roll()], (member, 1000 + number, 1, most))
        assert len(reply) == 2 * min(most, 3)
        assert reply[0] == b"w0 {}"
        assert 900 < reply[1] <= 1000
        assert await shard.run(LEASE, [KEYS.roll()], (b"w0 {}", 1000, 0, most)) == []
