"""Publishing by batches: what follows what, and what waits when an outcome is not known."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.letter import Letter
from clarion_fanout.publication import Receipt
from clarion_fanout.redis_broker import RedisBroker, Step
from clarion_fanout.redis_delivery import PORTION, Delivery
from clarion_fanout.redis_place import Place
from support.inboxes import KEYS, Worker, kept, worker
from support.redis_shared import shared_servers
from support.waiting import until


def letters(count: int, topics: int = 1, *, first: int = 0) -> list[Letter]:
    """Entries whose data is their number."""
    return [
        Letter(b"%d-0" % number, f"a:{number % topics}", b"%d" % number)
        for number in range(first, first + count)
    ]


def ours() -> bool:
    return True


class Forgetful(RedisBroker):
    """Does what it is asked, and says of some steps that it does not know."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.steps: list[Step] = []
        self.unknown: Callable[[Step], bool] = lambda _step: False

    async def publish_steps(
        self, steps: Sequence[Step], key_ms: int
    ) -> Sequence[Receipt | BrokerUnavailable]:
        self.steps += steps
        receipts = await super().publish_steps(steps, key_ms)
        return [
            BrokerUnavailable("its answer was lost") if self.unknown(step) else receipt
            for step, receipt in zip(steps, receipts, strict=True)
        ]


@asynccontextmanager
async def delivery() -> AsyncIterator[tuple[Worker, Forgetful, Delivery]]:
    (server,) = await shared_servers(1)
    async with worker(server.url, kind=Forgetful, working=False) as at:
        broker = at.broker
        assert isinstance(broker, Forgetful)
        (shard,) = broker.shards.all()
        made = Delivery(
            "s",
            dead=Place(broker.shards, KEYS, KEYS.dead, shard),
            broker=broker,
            keys=KEYS,
            data_bytes=1000,
            key_seconds=300,
        )
        yield at, broker, made


async def deliver(made: Delivery, fresh: Sequence[Letter] = ()) -> list[Letter]:
    """Those of a batch that were published for certain."""
    batch, due = made.batch(fresh, 1000)
    return [letter for letter, _ in await made.publish(batch, due, ours)]


async def test_each_entry_follows_the_one_before_it_in_its_topic() -> None:
    async with delivery() as (at, broker, made):
        batch = letters(3 * PORTION, topics=4)
        assert await deliver(made, batch) == batch
        for topic in range(4):
            chain = [names for name, _, names, _ in broker.steps if name == f"a:{topic}"]
            assert len(chain[0]) == 1
            assert all(then == (then[0], now[0]) for now, then in pairwise(chain))
            assert await kept(at, f"a:{topic}") == list(range(topic, 3 * PORTION, 4))


async def test_what_follows_one_of_unknown_outcome_waits_with_it_and_others_pass() -> None:
    async with delivery() as (at, broker, made):
        batch = letters(10, topics=2)
        broker.unknown = lambda step: step[1] == b"4"
        assert await deliver(made, batch) == [*batch[:4], *batch[5::2]]
        assert made.waiting == 3
        assert made.oldest == b"4-0"
        more = letters(4, topics=2, first=10)
        assert await deliver(made, more) == more[1::2]
        assert made.waiting == 5
        # All of them were published; what is not known is that. It is found out in their order.
        broker.unknown = lambda step: step[1] in (b"4", b"8")
        await until(lambda: made.retry_s == 0)
        assert await deliver(made) == []
        broker.unknown = lambda step: step[1] == b"8"
        await until(lambda: made.retry_s == 0)
        assert await deliver(made) == [batch[4], batch[6]]
        broker.unknown = lambda _step: False
        await until(lambda: made.retry_s == 0)
        assert await deliver(made) == [batch[8], *more[::2]]
        assert made.waiting == 0
        assert made.retry_s is None
        assert await kept(at, "a:0") == list(range(0, 14, 2))
        assert await kept(at, "a:1") == list(range(1, 14, 2))


async def test_nothing_is_published_by_one_that_is_not_the_owner_any_more() -> None:
    async with delivery() as (at, _broker, made):
        batch, due = made.batch(letters(3), 10)
        assert await made.publish(batch, due, lambda: False) == []
        assert await kept(at, "a:0") == []
        assert made.waiting == 3
        made.begin()
        assert made.waiting == 0


async def test_entries_with_the_same_id_and_other_data_are_others() -> None:
    """A clock that is behind may give an id again, after a failover."""
    async with delivery() as (at, _broker, made):
        await deliver(made, [Letter(b"1-0", "a:0", b"1")])
        await deliver(made, [Letter(b"1-0", "a:0", b"2")])
        await deliver(made, [Letter(b"1-0", "a:0", b"1")])
        assert await kept(at, "a:0") == [1, 2]
        assert made.outcomes == {"published": 2, "duplicate": 1}
