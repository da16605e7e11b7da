"""Workers that publish what is in the inboxes, and a backend that leaves something there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar, TypeAlias

import msgspec

from clarion_fanout.broker import BrokerUnavailable, HistoryOptions, Want
from clarion_fanout.preparer import Preparer
from clarion_fanout.publication import Publication, Receipt
from clarion_fanout.redis_address import parse
from clarion_fanout.redis_broker import RedisBroker, Step
from clarion_fanout.redis_inbox import Inbox, InboxOptions
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_place import Place
from clarion_fanout.redis_shard import ShardOptions
from clarion_fanout.redis_shards import shards_of
from clarion_fanout.redis_wire import pack
from clarion_fanout.tasks import Tasks
from support.feeds import Roomy
from support.redis_servers import RedisServer, eventually
from support.waiting import DEADLINE, until

Prepare: TypeAlias = Callable[[Callable[[], object]], Preparer]

KEYS = Keys()
INBOX = KEYS.inbox.decode()
DEAD = KEYS.dead.decode()
OWNER = KEYS.owner.decode()

LEASE_SECONDS = 0.5
"""Of the workers of tests. Ten times what they need to renew it, on a busy machine."""


def history(topic: str) -> HistoryOptions | None:
    """Topics in `bare:` keep none; others keep everything."""
    return None if topic.startswith("bare:") else HistoryOptions(200_000, 3600)


class Feed(Roomy):
    """Keeps what was fed."""

    def __init__(self) -> None:
        self.publications: list[Publication] = []

    def dispatch(self, publication: Publication) -> None:
        self.publications.append(publication)

    def of(self, topic: str) -> list[bytes]:
        return [each.data for each in self.publications if each.topic == topic]


class Worker:
    """A broker, and its part in the inboxes."""

    def __init__(
        self,
        broker: RedisBroker,
        name: str,
        options: InboxOptions,
        feed: Feed | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        self.broker = broker
        self.feed = feed or Feed()
        self._tasks = Tasks()
        shards = broker.shards
        self.inboxes = [
            Inbox(
                Place(shards, KEYS, KEYS.inbox, shard),
                dead=Place(shards, KEYS, KEYS.dead, shard),
                worker=name,
                broker=broker,
                keys=KEYS,
                options=options,
                owned=lambda: self.owned,
                prepare=prepare,
            )
            for shard in ([None] if shards.sharded else shards.all())
        ]

    @property
    def owned(self) -> int:
        return sum(inbox.owner for inbox in self.inboxes)

    @property
    def inbox(self) -> Inbox:
        """The first."""
        return self.inboxes[0]

    def done(self, outcome: str) -> int:
        """Entries of all inboxes that ended so."""
        return sum(inbox.delivery.outcomes[outcome] for inbox in self.inboxes)

    def work(self) -> None:
        """Begins to work on the inboxes."""
        for inbox in self.inboxes:
            self._tasks.start(inbox.run(), f"inbox of {inbox.name}")

    async def kill(self) -> None:
        """Ends it in the midst of what it does: no lease is given back, nothing acknowledged."""
        await self._tasks.close()
        await self.broker.close()


class Doomed(RedisBroker):
    """Its worker gets as far as having published, and never hears that it has."""

    published: ClassVar[asyncio.Event]

    async def publish_steps(
        self, steps: Sequence[Step], key_ms: int
    ) -> Sequence[Receipt | BrokerUnavailable]:
        receipts = await super().publish_steps(steps, key_ms)
        if receipts:
            self.published.set()
            await asyncio.Event().wait()
        return receipts


@asynccontextmanager
async def worker(
    *urls: str,
    name: str = "w",
    kind: type[RedisBroker] = RedisBroker,
    options: InboxOptions | None = None,
    shard_options: ShardOptions | None = None,
    feed: Feed | None = None,
    prepare: Prepare | None = None,
    working: bool = True,
) -> AsyncIterator[Worker]:
    """A worker that works on the inboxes; in the end it is killed."""
    broker = kind(
        shards_of(
            [parse(url) for url in urls],
            keys=KEYS,
            worker=name,
            options=shard_options or ShardOptions(),
        ),
        keys=KEYS,
        history=history,
        now=lambda: int(time.time() * 1000),
    )
    made = Worker(broker, name, options or InboxOptions(lease_s=LEASE_SECONDS), feed, prepare)
    await broker.start(made.feed)
    try:
        if working:
            made.work()
        yield made
    finally:
        await made.kill()


def entry(topic: str, data: object, key: str | None = None) -> list[str]:
    """The fields of an entry."""
    fields = ["topic", topic, "data", msgspec.json.encode(data).decode()]
    return fields if key is None else [*fields, "id", key]


async def leave(server: RedisServer, *entries: Sequence[str]) -> list[str]:
    """Leaves entries, as a backend does: one after another; returns their ids."""
    return [await server.command("XADD", INBOX, "*", *fields) for fields in entries]


async def leave_many(worker: Worker, entries: Iterable[Sequence[str]], shard: int = 0) -> None:
    """Leaves entries in the inbox of a shard, all at once."""
    packed = [pack(("XADD", INBOX, "*", *fields)) for fields in entries]
    at = worker.broker.shards.all()[shard]
    for start in range(0, len(packed), 5000):
        part = packed[start : start + 5000]
        await at.send(b"".join(part), len(part))


async def kept(worker: Worker, topic: str) -> list[object]:
    """What was ever published in a topic with history, in order."""
    page = await worker.broker.read(topic, Want())
    return [msgspec.json.decode(each.data) for each in page.publications]


async def emptied(server: RedisServer, seconds: float = DEADLINE) -> None:
    """Returns when nothing is left in the inbox of a server, given out or not."""

    async def empty() -> bool:
        return bool(await server.command("XLEN", INBOX) == 0)

    await eventually(empty, seconds)


async def owned(*workers: Worker) -> None:
    """Returns when every inbox has an owner among these."""
    count = len(workers[0].inboxes)
    await until(lambda: sum(worker.owned for worker in workers) == count)
