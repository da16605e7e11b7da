"""Where steps run: at once, in another turn of the loop, in the pool; and whose steps they are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest

from clarion_server.pipeline.pool import Pool, PoolOptions
from clarion_server.pipeline.preparation import MOMENT_BYTES, TURN_SECONDS, Preparation
from clarion_server.pipeline.step import Failed, Refused
from support import jobs
from support.waiting import until


class Timed:
    """Safe steps that take a part of a turn's time, by a clock of the test's."""

    safe = True

    def __init__(self, share: float) -> None:
        self.now = 0.0
        self.ran: list[bytes] = []
        self._share = share

    def run(self, data: bytes) -> bytes:
        self.now += self._share * TURN_SECONDS
        self.ran.append(data)
        if data == b"refuse":
            raise Refused("no")
        if data == b"large":
            raise MemoryError
        return data.upper()


class Unsafe(Timed):
    safe = False


@asynccontextmanager
async def preparing(
    chains: Mapping[str, Timed], clock: Timed, configured: str = "default plain"
) -> AsyncIterator[Preparation]:
    pool = Pool(jobs.make, PoolOptions(processes=1))
    try:
        yield Preparation(
            chains,
            configured=dict.fromkeys([*configured.split(), *chains]),
            pool=pool,
            data_bytes=100,
            input_bytes=5000,
            clock=lambda: clock.now,
        )
    finally:
        await pool.close()


async def test_a_topics_steps_are_its_namespaces_or_the_defaults() -> None:
    chain = Timed(0)
    async with preparing({"a": chain}, chain) as made:
        topics = ["a:1", "plain:1", "default:1", "none:1", "a"]
        assert [made.namespace(each) for each in topics] == ["a", None, None, None, None]
        assert made.most_bytes("a:1") == 5000
        assert made.most_bytes("none:1") == 100
    async with preparing({"default": chain}, chain) as made:
        topics = ["plain:1", "default:1", "none:1", "a"]
        assert [made.namespace(each) for each in topics] == [None, *["default"] * 3]


async def test_what_is_small_and_safe_is_done_at_once_as_long_as_the_turn_has_time() -> None:
    chain = Timed(0.4)
    async with preparing({"a": chain}, chain) as made:
        found = [made.now("a", b"x") for _ in range(5)]
        assert found == [b"X", b"X", b"X", None, None]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert made.now("a", b"x") == b"X"
        assert made.outcomes == {("a", "", "passed"): 4}
        assert sum(made.moments["a"].counts) == 4


async def test_what_is_put_off_is_done_turn_by_turn_each_namespace_in_turn() -> None:
    chain = Timed(0.6)
    async with preparing({"a": chain, "b": chain}, chain) as made:
        many = [made.later("a", b"a%d" % number) for number in range(4)]
        few = made.later("b", b"b0")
        assert made.waiting("a") == 4
        assert chain.ran == []
        await asyncio.sleep(0)
        assert len(chain.ran) <= 2
        assert await few == b"B0"
        assert [await each for each in many] == [b"A0", b"A1", b"A2", b"A3"]
        assert chain.ran == [b"a0", b"b0", b"a1", b"a2", b"a3"]
        assert not made.pool.processes


async def test_what_is_put_off_and_not_wanted_any_more_is_not_done() -> None:
    chain = Timed(0.6)
    async with preparing({"a": chain}, chain) as made:
        unwanted, wanted = made.later("a", b"x"), made.later("a", b"y")
        unwanted.cancel()
        assert await wanted == b"Y"
        assert chain.ran == [b"y"]


async def test_what_is_large_or_not_safe_goes_to_the_pool() -> None:
    chain, unsafe = Timed(0), Unsafe(0)
    async with preparing({"a": chain, "b": unsafe}, chain) as made:
        large = b"echo " + b"x" * MOMENT_BYTES
        assert made.now("a", large) is None
        assert made.now("b", b"echo x") is None
        assert await made.later("a", large) == large[5:]
        assert await made.later("b", b"echo x") == b"x"
        assert chain.ran == unsafe.ran == []
        assert made.outcomes == {("a", "", "passed"): 1, ("b", "", "passed"): 1}


async def test_a_refusal_is_one_wherever_the_steps_run() -> None:
    chain = Timed(0)
    async with preparing({"a": chain}, chain) as made:
        with pytest.raises(Refused, match="no"):
            made.now("a", b"refuse")
        with pytest.raises(Refused, match="no"):
            await made.later("a", b"refuse")
        with pytest.raises(Refused, match="x"):
            await made.later("a", b"refuse x" + b"x" * MOMENT_BYTES)
        assert made.outcomes == {("a", "", "refused"): 2, ("a", "strict", "refused"): 1}


async def test_want_of_memory_on_the_loop_fails_the_document_alone() -> None:
    chain = Timed(0)
    async with preparing({"a": chain}, chain) as made:
        with pytest.raises(Failed, match="memory"):
            made.now("a", b"large")
        assert made.outcomes == {("a", "", "memory"): 1}


async def test_a_process_is_ready_before_the_first_job_only_where_one_is_needed() -> None:
    chain, unsafe = Timed(0), Unsafe(0)
    for chains, places in (({"a": chain}, 0), ({"a": chain, "b": unsafe}, 1)):
        async with preparing(chains, chain) as made:
            made.start()
            if places:
                await until(lambda made=made: made.pool.processes)  # type: ignore[misc]
            assert len(made.pool.processes) == places
