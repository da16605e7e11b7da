"""The inbox on a real server, where namespaces have steps: order, once, dead letters, deaths."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from functools import partial
from pathlib import Path

from clarion_fanout.redis_inbox import InboxOptions
from clarion_server.pipeline.bench import Bench
from support.inboxes import (
    DEAD,
    LEASE_SECONDS,
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
from support.redis_servers import RedisServer
from support.redis_shared import shared_servers
from support.steps import Gate, Killer, preparing
from support.waiting import until

OPTIONS = InboxOptions(lease_s=LEASE_SECONDS, data_bytes=100_000)


async def dead(server: RedisServer) -> list[dict[str, str]]:
    found = []
    for _id, fields in await server.command("XRANGE", DEAD, "-", "+"):
        found.append(dict(zip(fields[::2], fields[1::2], strict=True)))
    return found


async def test_entries_go_through_steps_in_their_topics_order_and_others_pass(
    tmp_path: Path,
) -> None:
    gate = Gate(tmp_path)
    (server,) = await shared_servers(1)
    async with (
        preparing(processes=2) as preparation,
        worker(server.url, options=OPTIONS, prepare=partial(Bench, preparation)) as one,
    ):
        await leave(
            server,
            entry("a:1", f"wait {gate}"),
            entry("a:1", "echo x"),
            entry("a:2", "echo y"),
            entry("plain:1", "as it is"),
            entry("c:1", "echo z"),
        )
        await until(lambda: one.done("published") == 3)
        assert await kept(one, "a:1") == []
        assert one.inbox.delivery.waiting == 2
        assert one.inbox.age > 0
        gate.open()
        await emptied(server)
        assert await kept(one, "a:1") == ["waited", "x"]
        assert await kept(one, "a:2") == ["y"]
        assert await kept(one, "c:1") == ["z"]
        assert await kept(one, "plain:1") == ["as it is"]
        assert one.inbox.delivery.waiting == 0
        assert one.inbox.age == 0


async def test_what_steps_refuse_or_cannot_do_is_a_dead_letter_with_the_reason() -> None:
    (server,) = await shared_servers(1)
    async with (
        preparing(processes=1) as preparation,
        worker(server.url, options=OPTIONS, prepare=partial(Bench, preparation)) as one,
    ):
        await leave(
            server,
            entry("a:1", "refuse not so", "k1"),
            entry("a:1", "die"),
            entry("c:1", "refuse at once"),
            entry("plain:1", "x" * 2000),
            entry("a:1", "echo x"),
        )
        await until(lambda: one.done("published") == 1 and one.done("dead") == 4)
        await emptied(server)
        letters = {each["topic"] + each["data"][:8]: each for each in await dead(server)}
        refused = letters['a:1"refuse ']
        assert refused["reason"] == "strict: not so"
        assert refused["data"] == '"refuse not so"'
        assert refused["id"] == "k1"
        assert "SIGKILL, twice" in letters['a:1"die"']["reason"]
        assert letters['c:1"refuse ']["reason"] == "strict: at once"
        assert letters['plain:1"xxxxxxx']["reason"] == "data has 2002 bytes, the limit is 1000"
        assert await kept(one, "a:1") == ["x"]


async def test_an_entry_is_published_once_although_the_steps_make_something_else_of_it() -> None:
    """The one who takes over makes the same entry's data anew; it is the same entry still."""
    (server,) = await shared_servers(1)
    async with preparing(processes=1) as preparation:
        prepare = partial(Bench, preparation)
        async with worker(server.url, options=OPTIONS, prepare=prepare, working=False) as one:
            await leave(server, *(entry("a:1", "pid") for _ in range(20)))
            one.work()
            await until(lambda: one.done("published") > 0)
            await one.kill()
        before = {process.pid for process in preparation.pool.processes}
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        async with worker(server.url, options=OPTIONS, prepare=prepare, name="v") as other:
            await emptied(server)
            assert len(await kept(other, "a:1")) == 20


async def test_what_was_published_is_not_buried_when_steps_refuse_it_the_second_time(
    tmp_path: Path,
) -> None:
    (server,) = await shared_servers(1)
    Doomed.published = asyncio.Event()
    async with preparing(processes=1) as preparation:
        prepare = partial(Bench, preparation)
        async with worker(server.url, options=OPTIONS, prepare=prepare, kind=Doomed):
            await leave(server, entry("a:1", f"refuse_again {tmp_path / 'mark'}"))
            await Doomed.published.wait()
        async with worker(server.url, options=OPTIONS, prepare=prepare, name="v") as other:
            await emptied(server)
            assert await kept(other, "a:1") == ["done"]
            assert other.done("duplicate") == 1
        assert await dead(server) == []


async def test_what_an_owner_that_died_had_on_its_bench_is_published_by_the_next(
    tmp_path: Path,
) -> None:
    (server,) = await shared_servers(1)
    gate = Gate(tmp_path)
    async with preparing(processes=2) as preparation:
        prepare = partial(Bench, preparation)
        async with worker(server.url, options=OPTIONS, prepare=prepare) as one:
            first = entry("a:1", f"wait {gate}")
            await leave(server, first, *(entry("a:1", f"echo {number}") for number in range(5)))
            await until(lambda: one.inbox.delivery.waiting == 6)
            await one.kill()
        await leave(server, entry("a:2", "echo x"))
        async with worker(server.url, options=OPTIONS, prepare=prepare, name="v") as other:
            await until(lambda: other.done("published") == 1)
            assert await kept(other, "a:2") == ["x"]
            assert await kept(other, "a:1") == []
            gate.open()
            await emptied(server)
            assert await kept(other, "a:1") == ["waited", "0", "1", "2", "3", "4"]


async def test_nothing_is_lost_or_out_of_order_while_processes_and_workers_die() -> None:
    (server,) = await shared_servers(1)
    rng = random.Random(3)
    topics = ["a:1", "a:2", "b:1", "c:1", "plain:1"]
    count = 1000
    async with contextlib.AsyncExitStack() as stack:
        preparation = await stack.enter_async_context(preparing(processes=2))

        async def hired(name: str) -> Worker:
            return await stack.enter_async_context(
                worker(server.url, options=OPTIONS, prepare=partial(Bench, preparation), name=name)
            )

        workers = [await hired("w0"), await hired("w1")]
        await owned(*workers)
        await leave_many(
            workers[0],
            [entry(topics[number % 5], f"echo {number}") for number in range(count)],
        )
        outcomes = preparation.outcomes
        killer = Killer(preparation.pool, outcomes.total, rng)

        async def replace() -> None:
            """Owners die when a third and two thirds are done."""
            for turn in (1, 2):
                await until(lambda turn=turn: outcomes.total() > turn * count / 4, 60)  # type: ignore[misc]
                await owned(*workers)
                (owner,) = [each for each in workers if each.owned]
                await owner.kill()
                workers.remove(owner)
                workers.append(await hired(f"v{turn}"))

        async with asyncio.timeout(90), asyncio.TaskGroup() as group:
            group.create_task(killer.run())
            await replace()
            await emptied(server, 60)
            killer.over = True
        assert killer.kills > 3
        failed = await dead(server)
        assert all("twice" in each["reason"] for each in failed)
        lost = {each["data"].strip('"').removeprefix("echo ") for each in failed}
        for place, topic in enumerate(topics):
            numbers = [str(number) for number in range(place, count, 5)]
            if topic == "plain:1":
                expected = [f"echo {number}" for number in numbers]
            else:
                expected = [number for number in numbers if number not in lost]
            assert await kept(workers[-1], topic) == expected
