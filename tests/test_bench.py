"""Letters on their way through steps: their order, what is refused, bounds, beginning anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from clarion_fanout.letter import Letter
from clarion_server.pipeline.bench import JOBS, LETTERS, Bench
from clarion_server.pipeline.preparation import Preparation
from support.steps import Gate, preparing
from support.waiting import until


class Stand:
    """A bench, and whoever takes from it."""

    def __init__(self, preparation: Preparation) -> None:
        self.preparation = preparation
        self.news = asyncio.Event()
        self.bench = Bench(preparation, self.news.set)
        self.letters: list[str] = []
        self.refused: list[str] = []
        self._entries = 0

    def put(self, *letters: str) -> list[bool]:
        """`a:1 echo x` is for topic `a:1`."""
        taken = []
        for text in letters:
            topic, _, data = text.partition(" ")
            self._entries += 1
            taken.append(self.bench.put(Letter(b"%d-0" % self._entries, topic, data.encode())))
        return taken

    def take(self) -> None:
        letters, refused = self.bench.take()
        self.letters += [f"{each.topic} {each.data.decode()}" for each in letters]
        self.refused += [f"{each.topic} {reason}" for each, reason in refused]

    async def taken(self, count: int) -> None:
        """Takes until there are so many, as news come."""
        async with asyncio.timeout(10):
            self.take()
            while len(self.letters) + len(self.refused) < count:
                await self.news.wait()
                self.news.clear()
                self.take()


@asynccontextmanager
async def stand(**options: float) -> AsyncIterator[Stand]:
    async with preparing(**options) as preparation:
        yield Stand(preparation)


async def test_a_letter_to_a_topic_without_steps_is_not_taken() -> None:
    async with stand() as at:
        assert at.put("plain:1 x", "unknown:1 x", "a:1 echo x") == [False, False, True]
        assert at.bench.waiting == 1


async def test_letters_of_a_topic_keep_their_order_and_others_pass(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    async with stand(processes=2) as at:
        at.put(f"a:1 wait {gate}", "a:1 echo x", "a:2 echo y", "b:1 echo z", "c:1 echo w")
        await at.taken(3)
        assert sorted(at.letters) == ["a:2 y", "b:1 z", "c:1 w"]
        assert at.bench.waiting == 2
        assert at.bench.oldest == b"1-0"
        gate.open()
        await at.taken(5)
        assert at.letters[3:] == ["a:1 waited", "a:1 x"]
        assert at.bench.waiting == 0
        assert at.bench.oldest is None
        assert at.bench.room == LETTERS


async def test_what_is_refused_or_fails_comes_with_the_reason_and_holds_nobody_up() -> None:
    async with stand(processes=1, deadline_s=0.4) as at:
        at.put("a:1 refuse not so", "a:1 die", "a:1 spin 60", "a:1 echo x", "c:1 refuse at once")
        await at.taken(5)
        assert at.letters == ["a:1 x"]
        assert sorted(at.refused) == [
            "a:1 strict: not so",
            "a:1 the process that ran the steps was killed by SIGKILL, twice;"
            " trying again is of little use",
            "a:1 the steps took longer than the deadline of 0.4 s; trying again may take as long",
            "c:1 strict: at once",
        ]


async def test_few_are_handed_on_at_a_time_so_that_publishers_get_their_turn() -> None:
    async with stand(processes=1) as at:
        at.put(*(f"a:1 echo {number}" for number in range(100)))
        assert at.preparation.waiting("a") == JOBS
        publisher = at.preparation.later("a", b"echo first")
        assert await publisher == b"first"
        at.take()
        assert len(at.letters) < 20
        await at.taken(100)
        assert at.letters == [f"a:1 {number}" for number in range(100)]


async def test_a_full_pool_loses_nothing() -> None:
    async with stand(processes=1, queue=1, wait_s=0.1) as at:
        blocker = at.preparation.later("a", b"sleep 0.5", patient=True)
        at.put(*(f"a:{number} echo {number}" for number in range(10)))
        await at.taken(10)
        assert not at.refused
        assert await blocker == b"slept"


async def test_there_is_room_for_so_many_letters_and_bytes() -> None:
    async with stand(processes=1) as at:
        at.put("a:1 sleep 30")
        at.put(*(f"a:2 echo {number}" for number in range(10)))
        assert at.bench.room == LETTERS - 11
        at.put(*("a:2 echo " + "x" * 4_000_000 for _ in range(9)))
        assert at.bench.room == 0


async def test_what_was_put_before_it_began_anew_is_forgotten() -> None:
    async with stand(processes=1) as at:
        at.put("a:1 sleep 0.2", "a:1 echo x", "a:1 die")
        await until(lambda: at.preparation.pool.busy)
        at.bench.clear()
        assert at.bench.waiting == 0
        assert at.bench.room == LETTERS
        at.put("a:1 echo y", "a:1 refuse z")
        await at.taken(2)
        assert at.letters == ["a:1 y"]
        assert at.refused == ["a:1 strict: z"]
        assert not at.preparation.pool.ended


async def test_small_and_safe_letters_are_done_on_the_loop_in_order() -> None:
    async with stand() as at:
        at.put(*(f"c:{number % 3} echo {number}" for number in range(300)))
        await at.taken(300)
        for topic in range(3):
            mine = [each for each in at.letters if each.startswith(f"c:{topic} ")]
            assert mine == [f"c:{topic} {number}" for number in range(topic, 300, 3)]
        assert not at.preparation.pool.processes
