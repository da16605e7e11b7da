"""Publishing through steps: order, outcomes, bounds, publishers that go away, and the end."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from clarion_fanout.broker import BrokerUnavailable, HistoryOptions
from clarion_fanout.memory import MemoryBroker
from clarion_fanout.publication import Draft, Publication, Receipt
from clarion_server.codes import Code
from clarion_server.counters import Counters
from clarion_server.pipeline.preparation import MOMENT_BYTES, Preparation
from clarion_server.publishing import Declined, Outcome, Publishing, Queue
from support.feeds import Roomy
from support.steps import Gate, Killer, preparing
from support.waiting import until


class Broker(Roomy, MemoryBroker):
    """Keeps what was published in order, and waits, or fails, when it is told to."""

    def __init__(self) -> None:
        super().__init__(history=lambda _topic: HistoryOptions(10_000, 3600), now=lambda: 1)
        self.published: list[tuple[str, str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.hung = ""
        """The shard that waits, named by the ends of its topics; or all of one."""
        self.failing = False
        self.asked: list[str] = []

    def shard(self, topic: str) -> str:
        return topic.partition(":")[2] if self.hung else ""

    async def publish(self, drafts: Sequence[Draft]) -> Sequence[Receipt | BrokerUnavailable]:
        self.asked += [draft.data.decode() for draft in drafts]
        if self.hung in {self.shard(draft.topic) for draft in drafts}:
            await self.open.wait()
        if self.failing:
            return [BrokerUnavailable("no shard")] * len(drafts)
        return await super().publish(drafts)

    def dispatch(self, publication: Publication) -> None:
        self.published.append((publication.topic, publication.data.decode()))

    def of(self, topic: str) -> list[str]:
        return [data for name, data in self.published if name == topic]


class Stand:
    """What is under test, and what is behind it."""

    def __init__(self, preparation: Preparation, queue: Queue) -> None:
        self.broker = Broker()
        self.counters = Counters()
        self.preparation = preparation
        self.pool = preparation.pool
        self.publishing = Publishing(
            broker=self.broker,
            counters=self.counters,
            preparation=preparation,
            queue=queue,
        )

    async def publish(self, topic: str, data: str, key: str | None = None) -> Outcome:
        (outcome,) = await self.publishing.publish([Draft(topic, data.encode(), key)], "api")
        return outcome


@asynccontextmanager
async def stand(queue: Queue | None = None, **options: float) -> AsyncIterator[Stand]:
    async with preparing(**options) as preparation:
        made = Stand(preparation, queue or Queue())
        await made.broker.start(made.broker)
        try:
            yield made
        finally:
            await made.publishing.close()


def offset(outcome: Outcome) -> int:
    assert isinstance(outcome, Receipt), outcome
    assert outcome.position is not None
    return outcome.position.offset


async def started(group: asyncio.TaskGroup, at: Stand, *drafts: str) -> list[asyncio.Task[Outcome]]:
    """Publishes one after the other, without waiting for any: `a:1 echo x` is for topic `a:1`."""
    tasks = []
    for draft in drafts:
        topic, _, data = draft.partition(" ")
        tasks.append(group.create_task(at.publish(topic, data)))
        await asyncio.sleep(0)
    return tasks


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


# Order


async def test_publications_of_a_topic_leave_as_they_were_accepted_others_do_not_wait(
    gate: Gate,
) -> None:
    async with stand(processes=2) as at, asyncio.TaskGroup() as group:
        slow, quick, other = await started(
            group, at, f"a:1 wait {gate}", "a:1 echo x", "a:2 echo y"
        )
        assert offset(await other) == 1
        assert not slow.done()
        assert not quick.done()
        gate.open()
        assert offset(await slow) == 1
        assert offset(await quick) == 2
        assert at.broker.published == [("a:2", "y"), ("a:1", "waited"), ("a:1", "x")]


async def test_nothing_overtakes_in_a_topic_because_it_is_small_and_safe() -> None:
    async with stand() as at, asyncio.TaskGroup() as group:
        large = "c:1 double " + "x" * MOMENT_BYTES
        small = await started(group, at, large, "c:1 echo y", "c:1 echo z")
        assert [offset(await each) for each in small] == [1, 2, 3]


async def test_the_next_of_a_topic_waits_until_the_broker_has_answered() -> None:
    async with stand() as at, asyncio.TaskGroup() as group:
        at.broker.open.clear()
        first, second = await started(group, at, "c:1 echo 1", "c:1 echo 2")
        other, third = await started(group, at, "c:2 echo 3", "c:1 echo 4")
        await until(lambda: at.broker.asked == ["1", "3"])
        at.broker.failing = True
        at.broker.open.set()
        assert await first == Declined(Code.UNAVAILABLE, "no shard", 1000)
        at.broker.failing = False
        assert [offset(await each) for each in (second, third)] == [1, 2]
        assert at.broker.asked == ["1", "3", "2", "4"]
        assert isinstance(await other, Declined)


async def test_a_shard_that_hangs_holds_up_its_own_topics_and_half_of_a_namespace() -> None:
    async with stand(Queue(drafts=4)) as at, asyncio.TaskGroup() as group:
        at.broker.hung = "1"
        at.broker.open.clear()
        drafts = [Draft("c:1", b"echo 1"), Draft("c:2", b"echo 2")]
        begun = await at.publishing.begin(drafts, "api")
        await until(lambda: begun.waiting == 1)
        (behind,) = await started(group, at, "c:1 echo 3")
        full = await at.publish("c:1", "echo 4")
        assert isinstance(full, Declined)
        assert full.code == Code.UNAVAILABLE
        assert offset(await at.publish("c:2", "echo 5")) == 2
        at.broker.open.set()
        assert offset(await behind) == 2
        assert [at.broker.of(topic) for topic in ("c:1", "c:2")] == [["1", "3"], ["2", "5"]]
        assert at.publishing.held("c") == 0


async def test_drafts_of_a_batch_to_different_topics_do_not_wait_for_each_other(
    gate: Gate,
) -> None:
    async with stand(processes=2) as at, asyncio.TaskGroup() as group:
        drafts = [
            Draft("a:1", f"wait {gate}".encode()),
            Draft("plain:1", b"as it is"),
            Draft("a:2", b"echo 2"),
            Draft("a:1", b"refuse no"),
            Draft("c:1", b"echo 3"),
        ]
        batch = group.create_task(at.publishing.publish(drafts, "api"))
        await until(lambda: len(at.broker.published) == 3)
        assert not batch.done()
        gate.open()
        slow, plain, quick, refused, safe = await batch
        assert [offset(each) for each in (slow, plain, quick, safe)] == [1, 1, 1, 1]
        assert refused == Declined(Code.BAD_DATA, "strict: no")
        assert at.broker.of("plain:1") == ["as it is"]
        assert at.counters.publications == {"api": 4}


# Outcomes


async def test_what_fails_fails_by_itself_with_a_reason() -> None:
    async with stand(processes=1, deadline_s=0.4) as at, asyncio.TaskGroup() as group:
        tasks = await started(
            group, at,
            "a:1 echo 1", "a:1 refuse not so", "a:1 fail no table", "a:1 bug x", "a:1 die",
            "a:1 spin 60", "a:1 echo 2",
        )  # fmt: skip
        first, refused, failed, bug, died, stuck, last = [await each for each in tasks]
        assert [offset(first), offset(last)] == [1, 2]
        assert refused == Declined(Code.BAD_DATA, "strict: not so")
        assert failed == Declined(Code.INTERNAL, "careless: no table")
        for outcome, text in ((bug, "log says why"), (died, "SIGKILL, twice"), (stuck, "0.4 s")):
            assert isinstance(outcome, Declined)
            assert outcome.code == Code.INTERNAL
            assert text in outcome.message
            assert outcome.retry_ms is None
        assert at.broker.of("a:1") == ["1", "2"]
        assert at.preparation.outcomes == {
            ("a", "", "passed"): 2,
            ("a", "strict", "refused"): 1,
            ("a", "careless", "failed"): 1,
            ("a", "", "failed"): 1,
            ("a", "", "crash"): 1,
            ("a", "", "deadline"): 1,
        }


async def test_a_topic_without_steps_has_no_part_in_all_this() -> None:
    async with stand() as at:
        assert offset(await at.publish("plain:1", "sleep 60")) == 1
        assert offset(await at.publish("unknown:1", "die")) == 1
        assert not at.pool.processes
        assert at.publishing.most_bytes("plain:1") == 1000
        assert at.publishing.most_bytes("a:1") == 100_000


async def test_a_second_try_finds_the_first_although_that_is_still_on_its_way() -> None:
    async with stand(processes=2) as at, asyncio.TaskGroup() as group:
        first = group.create_task(at.publish("a:1", "sleep 0.3", "k"))
        await asyncio.sleep(0)
        second = group.create_task(at.publish("a:1", "sleep 0", "k"))
        assert offset(await first) == offset(await second) == 1
        assert at.broker.of("a:1") == ["slept"]
        assert at.counters.publications == {"api": 1}


async def test_a_second_try_is_published_when_the_first_was_not() -> None:
    async with stand(processes=2) as at, asyncio.TaskGroup() as group:
        first = group.create_task(at.publish("a:1", "refuse no", "k"))
        await asyncio.sleep(0)
        second = group.create_task(at.publish("a:1", "echo x", "k"))
        assert isinstance(await first, Declined)
        assert offset(await second) == 1


async def test_what_was_accepted_is_published_although_its_publisher_has_gone() -> None:
    async with stand(processes=1) as at, asyncio.TaskGroup() as group:
        gone, other = await started(group, at, "a:1 sleep 0.3", "a:1 echo x")
        gone.cancel()
        assert offset(await other) == 2
        assert at.broker.of("a:1") == ["slept", "x"]
        assert at.publishing.held("a") == 0


async def test_an_unexpected_error_of_the_broker_ends_nothing_else() -> None:
    class Broken(Broker):
        async def publish(self, drafts: Sequence[Draft]) -> Sequence[Receipt | BrokerUnavailable]:
            if self.failing:
                raise RuntimeError("secret")
            return await super().publish(drafts)

    async with stand() as at:
        at.broker.__class__ = Broken
        at.broker.failing = True
        assert await at.publish("c:1", "echo x") == Declined(Code.INTERNAL, "internal error")
        at.broker.failing = False
        assert offset(await at.publish("c:1", "echo x")) == 1


# Bounds


async def test_a_namespace_that_has_too_much_is_told_to_come_back_and_no_other() -> None:
    async with stand(Queue(drafts=3), processes=1) as at, asyncio.TaskGroup() as group:
        tasks = await started(group, at, "a:1 sleep 0.3", *["a:2 echo x"] * 2)
        declined = await at.publish("a:3", "echo x")
        assert isinstance(declined, Declined)
        assert declined.code == Code.UNAVAILABLE
        assert declined.retry_ms
        assert isinstance(await at.publish("b:1", "echo x"), Receipt)
        assert all(isinstance(each, Receipt) for each in await asyncio.gather(*tasks))
        assert isinstance(await at.publish("a:3", "echo x"), Receipt)


async def test_the_bytes_of_a_namespace_are_bounded_but_one_draft_always_may() -> None:
    async with stand(Queue(data_bytes=100), processes=1) as at, asyncio.TaskGroup() as group:
        (large,) = await started(group, at, "a:1 echo " + "x" * 500)
        assert isinstance(await at.publish("a:1", "echo x"), Declined)
        assert isinstance(await large, Receipt)
        small = await started(group, at, "a:1 echo x", "a:1 echo y")
        assert all(isinstance(each, Receipt) for each in await asyncio.gather(*small))


async def test_many_small_documents_do_not_hold_up_the_loop() -> None:
    """A batch whose steps take half a second all in all, on the loop."""
    async with stand() as at, asyncio.TaskGroup() as group:
        drafts = [Draft(f"c:{number % 3}", b"spin 0.001") for number in range(500)]
        batch = group.create_task(at.publishing.publish(drafts, "api"))
        turns: list[float] = []
        while not batch.done():
            began = time.thread_time()  # not the time of whoever shares the processor
            await asyncio.sleep(0)
            turns.append(time.thread_time() - began)
        assert [offset(each) for each in await batch][-3:] == [166, 167, 167]
        assert len(turns) > 100
        # But for the first, which takes the batch in, and one with a collection of garbage.
        assert sorted(turns)[-3] < 0.015
        assert not at.pool.processes


# The end


async def test_closing_finishes_what_was_accepted_and_takes_nothing_more() -> None:
    async with stand(processes=2) as at, asyncio.TaskGroup() as group:
        tasks = await started(group, at, "a:1 sleep 0.3", "a:1 echo x", "c:1 echo y")
        closing = group.create_task(at.publishing.close(10))
        await asyncio.sleep(0)
        late = await at.publish("c:1", "echo z")
        assert late == Declined(Code.UNAVAILABLE, "the server is stopping", 1000)
        assert [offset(await each) for each in tasks] == [1, 2, 1]
        await closing


async def test_closing_tells_those_that_take_too_long() -> None:
    async with stand(processes=1) as at, asyncio.TaskGroup() as group:
        tasks = await started(group, at, "a:1 sleep 5", "a:1 echo x", "b:1 echo y")
        began = time.monotonic()
        await at.publishing.close(0.2)
        assert time.monotonic() - began < 3
        outcomes = [await each for each in tasks]
        assert all(isinstance(each, Declined) and each.retry_ms for each in outcomes)
        assert at.broker.published == []
        assert at.publishing.held("a") == 0


async def test_closing_tells_those_that_the_broker_does_not_answer() -> None:
    async with stand() as at, asyncio.TaskGroup() as group:
        at.broker.open.clear()
        first = await started(group, at, "c:1 echo x", "c:1 echo y", "a:1 sleep 30")
        await until(lambda: at.broker.asked == ["x"])
        await at.publishing.close(0.05)
        for each in first:
            assert await each == Declined(Code.UNAVAILABLE, "the server is stopping", 1000)
        assert at.broker.asked == ["x"]


# Everything at once


@pytest.mark.parametrize("seed", [1, 2])
async def test_processes_that_are_killed_lose_nothing_silently_and_break_no_order(
    seed: int,
) -> None:
    rng = random.Random(seed)
    outcomes: dict[str, list[tuple[str, Outcome]]] = {}
    async with stand(Queue(drafts=60), processes=2, wait_s=30) as at:
        killer = Killer(at.pool, lambda: sum(map(len, outcomes.values())), rng)

        async def publisher(topic: str) -> None:
            """Four at a time, in order."""
            done = outcomes.setdefault(topic, [])
            while len(done) < 80 or killer.kills < 8:
                names = [str(number) for number in range(len(done), len(done) + 4)]
                drafts = [
                    Draft(topic, f"{rng.choice(['echo', 'echo', 'refuse'])} {name}".encode())
                    for name in names
                ]
                done += zip(names, await at.publishing.publish(drafts, "api"), strict=True)
                await asyncio.sleep(0.001)

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(killer.run())
            async with asyncio.TaskGroup() as publishers:
                for topic in ("a:1", "a:2", "b:1", "b:2", "c:1"):
                    publishers.create_task(publisher(topic))
            killer.over = True
    for topic, done in outcomes.items():
        accepted = [name for name, outcome in done if isinstance(outcome, Receipt)]
        assert at.broker.of(topic) == accepted
        assert [offset(o) for _, o in done if isinstance(o, Receipt)] == list(
            range(1, len(accepted) + 1)
        )
        for _, outcome in done:
            if isinstance(outcome, Declined):
                assert outcome.code in (Code.BAD_DATA, Code.INTERNAL, Code.UNAVAILABLE)
                assert outcome.message
