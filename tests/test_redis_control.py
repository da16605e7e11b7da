"""Questions to all workers over real shards, and what becomes of them when something is away."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from clarion_fanout import redis_control
from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_control import ControlOptions
from clarion_fanout.redis_lanes import lanes
from clarion_fanout.redis_slots import slot_of
from support.controls import KEYS, QUICK, Eavesdropper, Member, members
from support.redis_cluster import RedisCluster
from support.redis_servers import RedisServer, eventually
from support.redis_shared import shared_cluster, shared_servers
from support.waiting import until

Q = b'{"q":1}'

PATIENT = ControlOptions(lease_s=15.0, deadline_s=5.0, again_s=2.0)
"""Of tests in which a second attempt would hide what they look for."""


async def urls(count: int = 1) -> list[str]:
    servers = await shared_servers(count)
    return [f"{server.url}?name=s{place}" for place, server in enumerate(servers)]


def answers_of(*names: str, to: bytes = Q) -> dict[str, bytes]:
    return {name: b'{"by":"%b","to":%b}' % (name.encode(), to) for name in names}


# Asking


@pytest.mark.parametrize("shards", [1, 3])
async def test_all_others_answer_and_the_one_who_asks_is_not_asked(shards: int) -> None:
    async with members("a", "b", "c", urls=await urls(shards), options=PATIENT) as (a, b, c):
        assert await a.control.ask(Q) == (answers_of("b", "c"), [])
        assert await c.control.ask(Q) == (answers_of("a", "b"), [])
        assert [len(member.asked) for member in (a, b, c)] == [1, 2, 1]
        assert a.control.others == 2


async def test_an_answer_comes_as_soon_as_everybody_has_answered() -> None:
    async with members("a", "b", urls=await urls(), options=PATIENT) as (a, _b):
        began = time.monotonic()
        await a.control.ask(Q)
        assert time.monotonic() - began < PATIENT.again_s


async def test_who_is_alone_has_nobody_to_wait_for() -> None:
    async with members("a", urls=await urls(), options=PATIENT) as (a,):
        assert await a.control.ask(Q) == ({}, [])


async def test_several_questions_are_kept_apart() -> None:
    async with members("a", "b", urls=await urls(2), options=PATIENT) as (a, _b):
        questions = [b"%d" % number for number in range(10)]
        told = await asyncio.gather(*(a.control.ask(question) for question in questions))
        assert told == [(answers_of("b", to=question), []) for question in questions]


async def test_too_many_questions_at_once_are_refused() -> None:
    async with members("a", "b", urls=await urls(), options=PATIENT) as (a, _b):
        told = await asyncio.gather(
            *(a.control.ask(Q) for _ in range(redis_control.OPEN + 1)), return_exceptions=True
        )
        refused = [outcome for outcome in told if isinstance(outcome, BrokerUnavailable)]
        assert len(refused) == 1
        assert await a.control.ask(Q) == (answers_of("b"), [])


async def test_long_answers_come_whole() -> None:
    async with members("a", "b", urls=await urls(), options=PATIENT) as (a, b):
        text = b'"%b"' % (b"x" * (redis_control.ANSWER_BYTES - 2))

        async def long(_question: bytes) -> bytes:
            return text

        b.answer = long
        assert await a.control.ask(Q) == ({"b": text}, [])


# Somebody does not answer


async def test_a_worker_that_dies_is_named_until_its_lease_is_over() -> None:
    async with members("a", "b", "c", urls=await urls(2)) as (a, b, _c):
        await b.die()
        told = await a.control.ask(Q)
        assert told.answers == answers_of("c")
        assert told.unanswered == [("b", b'{"name":"b"}')]
        await until(lambda: a.control.others == 1, QUICK.lease_s + 2)
        assert await a.control.ask(Q) == (answers_of("c"), [])


async def test_a_worker_that_dies_while_it_is_asked_is_named() -> None:
    async with members("a", "b", urls=await urls()) as (a, b):
        asked = asyncio.Event()

        async def never(_question: bytes) -> bytes:
            asked.set()
            return await asyncio.Future()

        b.answer = never
        async with asyncio.TaskGroup() as group:
            told = group.create_task(a.control.ask(Q))
            await asked.wait()
            await b.die()
        assert told.result() == ({}, [("b", b'{"name":"b"}')])


async def test_a_worker_in_the_place_of_one_that_died_takes_it_off_the_roll() -> None:
    shards = await urls(2)
    async with members("a", "b", urls=shards, options=PATIENT) as (a, b):
        await b.die()
        c = Member("c", shards, PATIENT, replaces="b")
        try:
            await c.start()
            async with asyncio.timeout(1):
                await until(lambda: a.control.others == 0)
                assert await a.control.ask(Q) == (answers_of("c"), [])
                assert await c.control.ask(Q) == (answers_of("a"), [])
        finally:
            await c.close()


async def test_a_worker_that_leaves_is_neither_asked_nor_missed() -> None:
    async with members("a", "b", "c", urls=await urls(2), options=PATIENT) as (a, b, _c):
        await b.close()
        await until(lambda: a.control.others == 1, 1)
        assert await a.control.ask(Q) == (answers_of("c"), [])


async def test_a_worker_that_leaves_while_it_is_asked_is_not_waited_for() -> None:
    async with members("a", "b", urls=await urls(), options=PATIENT) as (a, b):
        asked = asyncio.Event()

        async def never(_question: bytes) -> bytes:
            asked.set()
            return await asyncio.Future()

        b.answer = never
        async with asyncio.timeout(PATIENT.again_s), asyncio.TaskGroup() as group:
            told = group.create_task(a.control.ask(Q))
            await asked.wait()
            await b.close()
        assert told.result() == ({}, [])


@pytest.mark.parametrize("error", [ValueError("an order of a later version"), LookupError("a bug")])
async def test_who_cannot_answer_says_so_at_once(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with members("a", "b", urls=await urls(), options=PATIENT) as (a, b):

        async def fail(_question: bytes) -> bytes:
            raise error

        b.answer = fail
        async with asyncio.timeout(PATIENT.again_s):
            assert await a.control.ask(Q) == ({}, [("b", b'{"name":"b"}')])
        assert b.control.dropped["failed"] == 1
        assert b.control.answered == 1  # the hello
        assert str(error) in caplog.text


async def test_an_answer_that_is_too_long_is_none() -> None:
    async with members("a", "b", urls=await urls(), options=PATIENT) as (a, b):

        async def long(_question: bytes) -> bytes:
            return b'"%b"' % (b"x" * redis_control.ANSWER_BYTES)

        b.answer = long
        assert await a.control.ask(Q) == ({}, [("b", b'{"name":"b"}')])


# Shards are away


async def test_a_shard_that_is_away_hides_nobody() -> None:
    async with RedisServer() as mortal:
        shards = [f"{mortal.url}?name=s9", *await urls(1)]
        async with members("a", "b", urls=shards) as (a, b):
            mortal.kill()
            await until(lambda: not any(member.shards.all()[0].available for member in (a, b)))
            assert await a.control.ask(Q) == (answers_of("b"), [])


async def test_a_shard_that_stalls_delays_a_question_and_no_more() -> None:
    async with RedisServer() as frozen:
        shards = [f"{frozen.url}?name=s9", *await urls(1)]
        async with members("a", "b", urls=shards) as (a, b):
            frozen.stop()
            assert await a.control.ask(Q) == (answers_of("b"), [])
            frozen.go_on()
            assert b.asked == [Q]


async def test_workers_without_a_shard_in_common_but_one_still_meet() -> None:
    one, two, three = await urls(3)
    async with members("a", urls=[one, two]) as (a,):
        b = Member("b", [two, three], QUICK)
        try:
            await b.start()
            assert await a.control.ask(Q) == (answers_of("b"), [])
            assert await b.control.ask(Q) == (answers_of("a"), [])
        finally:
            await b.close()


async def test_without_any_shard_nothing_is_known_of_the_others() -> None:
    async with RedisServer() as mortal, members("a", "b", urls=[mortal.url]) as (a, _b):
        mortal.kill()
        with pytest.raises(BrokerUnavailable, match="no shard can be asked"):
            await a.control.ask(Q)


async def test_a_shard_that_comes_back_without_its_data_has_its_roll_at_once() -> None:
    slow = ControlOptions(lease_s=60.0, deadline_s=5.0, again_s=0.5)
    async with (
        RedisServer() as server,
        members("a", "b", urls=[server.url], options=slow) as (a, _b),
    ):
        await server.restart(keep_data=False)

        async def signed() -> bool:
            return bool(await server.command("ZCARD", KEYS.roll()) == 2)

        await eventually(signed)
        assert await a.control.ask(Q) == (answers_of("b"), [])


async def test_data_that_is_lost_hides_nobody_who_was_known() -> None:
    (server,) = await shared_servers(1)
    async with members("a", "b", urls=[server.url]) as (a, b):
        await b.die()
        await server.command("FLUSHALL")
        assert (await a.control.ask(Q)).unanswered == [("b", b'{"name":"b"}')]


async def test_a_server_whose_memory_is_full_still_keeps_the_roll() -> None:
    async with RedisServer() as server:
        await server.command("CONFIG", "SET", "maxmemory", "1")
        async with members("a", "b", urls=[server.url], options=PATIENT) as (a, _b):
            assert await a.control.ask(Q) == (answers_of("b"), [])


async def test_scripts_that_redis_has_forgotten_are_sent_to_it() -> None:
    (server,) = await shared_servers(1)
    async with members("a", "b", urls=[server.url], options=PATIENT) as (a, _b):
        await server.command("SCRIPT", "FLUSH")
        assert await a.control.ask(Q) == (answers_of("b"), [])


# A Redis Cluster


async def test_workers_on_a_cluster_ask_each_other() -> None:
    cluster = await shared_cluster()
    async with members("a", "b", "c", urls=[cluster.url]) as (a, _b, c):
        assert await a.control.ask(Q) == (answers_of("b", "c"), [])
        await c.die()
        assert await a.control.ask(Q) == (answers_of("b"), [("c", b'{"name":"c"}')])


async def test_workers_are_followed_through_moves_and_failovers_of_a_cluster() -> None:
    async with (
        RedisCluster(replicas=True, node_timeout_ms=500) as cluster,
        members("a", "b", urls=[cluster.url]) as (a, b),
    ):
        for lane in lanes(a.shards, KEYS):
            slot = slot_of(KEYS.channel(lane.name))
            if await cluster.owner(slot) is cluster.primaries[0]:
                await cluster.move_slot(slot, cluster.primaries[1])
                assert await a.control.ask(Q) == (answers_of("b"), [])
        cluster.primaries[1].kill()

        async def complete() -> bool:
            try:
                return await b.control.ask(Q) == (answers_of("a"), [])
            except BrokerUnavailable:
                return False

        await eventually(complete)
        await until(lambda: a.listens and b.listens)
        assert await a.control.ask(Q) == (answers_of("b"), [])


# What is left in Redis


async def test_the_roll_is_a_line_for_each_worker_and_ends_with_them() -> None:
    (server,) = await shared_servers(1)
    async with members("a", "b", urls=[server.url]) as (a, b):
        lines = await server.command("ZRANGE", KEYS.roll(), 0, -1)
        assert sorted(lines) == ['a {"name":"a"}', 'b {"name":"b"}']
        assert 0 < await server.command("PTTL", KEYS.roll()) <= QUICK.lease_s * 1000
        await b.close()
        assert await server.command("ZRANGE", KEYS.roll(), 0, -1) == ['a {"name":"a"}']
        await a.close()
        assert await server.command("KEYS", "*") == []


async def test_leases_are_renewed() -> None:
    async with members("a", "b", urls=await urls()) as (a, b):
        began = time.monotonic()
        # Nobody asks, and still they are there when the first lease is long over.
        await until(lambda: time.monotonic() - began > QUICK.lease_s * 1.3)
        assert a.control.others == b.control.others == 1


# Duplicates, and what is not understood


def question(id: str, **fields: object) -> bytes:
    whole = {"kind": "question", "id": id, "worker": "x", "body": {"q": 1}, **fields}
    return json.dumps(whole, separators=(",", ":")).encode()


async def test_a_question_that_comes_again_is_done_once_and_answered_each_time() -> None:
    one, two = await shared_servers(2)
    async with members("b", urls=[one.url, two.url]) as (b,):
        x = Eavesdropper(b, "x")
        await until(lambda: x.listens)
        for server in (one, two, one):
            await server.command("PUBLISH", KEYS.questions(), question("q1"))
        await until(lambda: len(x.heard) == 3)
        assert b.asked == [Q]
        assert set(x.heard) == {b'{"id":"q1","worker":"b","body":{"by":"b","to":{"q":1}}}'}


async def test_a_question_that_is_being_worked_on_is_answered_on_all_ways_by_which_it_came() -> (
    None
):
    one, two = await shared_servers(2)
    async with members("b", urls=[one.url, two.url]) as (b,):
        x = Eavesdropper(b, "x")
        await until(lambda: x.listens)
        go_on = asyncio.Event()

        async def slow(_question: bytes) -> bytes:
            await go_on.wait()
            return b"1"

        b.answer = slow
        for server in (one, two):
            await server.command("PUBLISH", KEYS.questions(), question("q1"))
        # What is published behind it has arrived, so both have.
        for server in (one, two):
            await server.command("PUBLISH", KEYS.questions(), question("q2", only=["nobody"]))
        await until(lambda: b.asked)
        assert x.heard == []
        go_on.set()
        await until(lambda: len(x.heard) == 2)
        assert b.asked == [Q]


async def test_who_is_not_meant_does_not_answer() -> None:
    (server,) = await shared_servers(1)
    async with members("b", "c", urls=[server.url]) as (b, c):
        x = Eavesdropper(b, "x")
        await until(lambda: x.listens)
        await server.command("PUBLISH", KEYS.questions(), question("q1", only=["c", "d"]))
        await server.command("PUBLISH", KEYS.questions(), question("q2"))
        await until(lambda: len(x.heard) == 3)
        assert (len(b.asked), len(c.asked)) == (1, 2)


MALFORMED = [
    b"",
    b"\xff\xfe",
    b"{",
    b"[]" * 1000,
    b"[" * 5000,
    b"null",
    b'{"kind":"question"}',
    b'{"kind":"question","id":1,"worker":"x","body":1}',
    b'{"kind":"question","id":"q","worker":"x:y","body":1}',
    b'{"kind":"question","id":"q","worker":"x"}',
    b'{"kind":"question","id":"q","worker":"x","only":"b","body":1}',
    b'{"kind":"question","id":"q","worker":"x","body":' + b"[" * 20_000,
    b'{"kind":"farewell"}',
    b'{"kind":"shutdown","worker":"x"}',
    b'{"id":"q","worker":"x","body":1}',
]


async def test_what_is_malformed_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    (server,) = await shared_servers(1)
    async with members("a", "b", urls=[server.url], options=PATIENT) as (a, b):
        for payload in MALFORMED:
            await server.command("PUBLISH", KEYS.questions(), payload)
        await until(lambda: b.control.dropped["malformed"] == len(MALFORMED))
        for payload in MALFORMED:
            await server.command("PUBLISH", KEYS.answers("b"), payload)
        # Some of them are answers, to questions that were never asked.
        await until(lambda: sum(b.control.dropped.values()) == 2 * len(MALFORMED))
        assert set(b.control.dropped) == {"malformed", "late"}
        assert b.asked == []
        assert await a.control.ask(Q) == (answers_of("b"), [])
        assert await b.control.ask(Q) == (answers_of("a"), [])
    # Once a minute and worker.
    assert caplog.text.count("malformed") == 2


async def test_what_is_too_large_is_not_even_read() -> None:
    (server,) = await shared_servers(1)
    async with members("a", "b", urls=[server.url], options=PATIENT) as (a, b):
        large = question("q1", padding="x" * redis_control.QUESTION_BYTES)
        await server.command("PUBLISH", KEYS.questions(), large)
        large = b'{"id":"q","worker":"x","body":"%b"}' % (b"x" * 2 * redis_control.ANSWER_BYTES)
        await server.command("PUBLISH", KEYS.answers("b"), large)
        await until(lambda: b.control.dropped["too_large"] == 2)
        assert await a.control.ask(Q) == (answers_of("b"), [])
        assert b.asked == [Q]


async def test_what_is_logged_is_short_and_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    (server,) = await shared_servers(1)
    async with members("b", urls=[server.url]) as (b,):
        await server.command("PUBLISH", KEYS.questions(), b"\n\x1b[2J" + b"x" * 1000)
        await until(lambda: b.control.dropped["malformed"])
    (line,) = [r.getMessage() for r in caplog.records if "malformed" in r.getMessage()]
    assert line.isprintable()
    assert len(line) < 200


async def test_a_flood_of_questions_is_bounded_and_passes() -> None:
    (server,) = await shared_servers(1)
    async with members("a", "b", urls=[server.url], options=PATIENT) as (a, b):
        go_on = asyncio.Event()

        async def slow(_question: bytes) -> bytes:
            await go_on.wait()
            return b"1"

        b.answer = slow
        for number in range(redis_control.WORKING + 10):
            await server.command("PUBLISH", KEYS.questions(), question(f"q{number}", only=["b"]))
        await until(lambda: b.control.dropped["busy"] == 10)
        await until(lambda: len(b.asked) == redis_control.WORKING)
        go_on.set()
        assert await a.control.ask(Q) == ({"b": b"1"}, [])


async def test_an_answer_that_nobody_waits_for_is_counted() -> None:
    (server,) = await shared_servers(1)
    async with members("a", "b", urls=[server.url], options=PATIENT) as (a, _b):
        await server.command("PUBLISH", KEYS.answers("a"), b'{"id":"old","worker":"b","body":1}')
        await until(lambda: a.control.dropped["late"] == 1)
        assert await a.control.ask(Q) == (answers_of("b"), [])


async def test_lines_of_the_roll_that_nobody_wrote_are_left_out() -> None:
    (server,) = await shared_servers(1)
    async with members("a", "b", urls=[server.url], options=PATIENT) as (a, _b):
        for line in (b"", b"{} {}", b"\xff"):
            await server.command("ZADD", KEYS.roll(), 9_000_000_000_000, line)
        assert await a.control.ask(Q) == (answers_of("b"), [])


async def test_a_roll_of_another_kind_is_as_if_the_shard_were_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, two = await shared_servers(2)
    await one.command("SET", KEYS.roll(), "somebody else's")
    async with members("a", "b", urls=[one.url, two.url], options=PATIENT) as (a, _b):
        assert await a.control.ask(Q) == (answers_of("b"), [])
        assert "keeps no roll of workers" in caplog.text
        await two.command("DEL", KEYS.roll())
        await two.command("SET", KEYS.roll(), "here too")
        with pytest.raises(BrokerUnavailable):
            await a.control.ask(Q)
        for server in (one, two):
            await server.command("DEL", KEYS.roll())


async def test_who_has_left_asks_nobody_and_is_not_on_the_roll_again() -> None:
    (server,) = await shared_servers(1)
    async with members("a", "b", urls=[server.url], options=PATIENT) as (a, b):
        await a.control.close()
        with pytest.raises(BrokerUnavailable):
            await a.control.ask(Q)
        assert await server.command("ZRANGE", KEYS.roll(), 0, -1) == ['b {"name":"b"}']
        assert await b.control.ask(Q) == ({}, [])
