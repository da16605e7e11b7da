"""Workers that can ask each other, in one process, over real shards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_address import Address, parse
from clarion_fanout.redis_control import Control, ControlOptions
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_lanes import lanes
from clarion_fanout.redis_scripts import SCRIPTS
from clarion_fanout.redis_shard import Shard, ShardOptions
from clarion_fanout.redis_shards import shards_of
from clarion_fanout.redis_slots import SLOTS, slot_of
from clarion_fanout.tasks import Tasks
from support.waiting import until

KEYS = Keys("test")

QUICK = ControlOptions(lease_s=1.5, deadline_s=0.6, again_s=0.2)
"""Patience of tests in which somebody is away on purpose."""


IMPATIENT = ShardOptions(timeout_s=0.5, probe_s=0.1, retry_s=(0.05, 0.1))


async def nowhere() -> Address:
    raise OSError("this shard is only a name")


class Nodes:
    """The nodes of a cluster that nobody connects to: an equal share of the slots in a row each."""

    sharded = True

    def __init__(self, *locate: Callable[[], Awaitable[Address]]) -> None:
        self._shards = [
            Shard(
                f"n{place}",
                where,
                options=IMPATIENT,
                scripts=SCRIPTS,
                probe_channel=lambda: None,
                slot_of=slot_of,
            )
            for place, where in enumerate(locate)
        ]
        self.unknown: set[str] = set()
        """Names of nodes of which nobody knows what they have."""

    def all(self) -> Sequence[Shard]:
        return self._shards

    def of(self, topic: str) -> Shard:
        shard = self._shards[slot_of(KEYS.channel(topic)) * len(self._shards) // SLOTS]
        if shard.name in self.unknown:
            raise BrokerUnavailable("nobody has the slot")
        return shard


class Member:
    """A worker: its shards, its control, and what it was asked."""

    def __init__(
        self,
        name: str,
        urls: Sequence[str],
        options: ControlOptions,
        replaces: str = "",
    ) -> None:
        self.tasks = Tasks()
        self.shards = shards_of(
            [parse(url) for url in urls], keys=KEYS, worker=name, options=IMPATIENT
        )
        self.asked: list[bytes] = []
        self.answer: Callable[[bytes], Awaitable[bytes]] = self._echo
        self.control = Control(
            self.shards,
            keys=KEYS,
            worker=name,
            about=b'{"name":"%b"}' % name.encode(),
            answer=self._answered,
            tasks=self.tasks,
            replaces=lambda entry: entry.id == replaces,
            options=options,
        )
        self._dead = False

    async def _answered(self, question: bytes) -> bytes:
        self.asked.append(question)
        return await self.answer(question)

    async def _echo(self, question: bytes) -> bytes:
        return b'{"by":"%b","to":%b}' % (self.control.worker.encode(), question)

    @property
    def listens(self) -> bool:
        """Whether it hears and is heard on every lane that it can reach."""
        ways = [lane for lane in lanes(self.shards, KEYS) if lane.shard.available]
        return bool(ways) and all(
            lane.shard.listens(channel)
            for lane in ways
            for channel in (
                KEYS.questions(lane.suffix),
                KEYS.answers(self.control.worker, lane.suffix),
            )
        )

    async def start(self) -> None:
        await self.shards.start(self.tasks)
        await self.control.start()
        await until(lambda: self.listens)

    async def die(self) -> None:
        """Ends as by SIGKILL: nobody is told, and its leases stay."""
        self._dead = True
        await self.tasks.close()
        await self.shards.close()

    async def close(self) -> None:
        if not self._dead:
            try:
                await self.control.close()
            finally:
                await self.die()


class Eavesdropper:
    """Hears what is answered to a worker that does not exist."""

    def __init__(self, member: Member, worker: str) -> None:
        self.heard: list[bytes] = []
        self._channel = KEYS.answers(worker)
        self._shards = member.shards.all()
        for shard in self._shards:
            shard.listen(self._channel, self)

    @property
    def listens(self) -> bool:
        return all(shard.listens(self._channel) for shard in self._shards)

    def take(self, payload: bytes) -> None:
        self.heard.append(payload)

    def subscribed(self) -> None:
        pass

    def dropped(self) -> None:
        pass


@asynccontextmanager
async def members(
    *names: str, urls: Sequence[str], options: ControlOptions = QUICK
) -> AsyncIterator[list[Member]]:
    """Workers that know of each other."""
    async with AsyncExitStack() as stack:
        made: list[Member] = []
        for name in names:
            member = Member(name, urls, options)
            stack.push_async_callback(member.close)
            await member.start()
            made.append(member)
        await asyncio.gather(*(member.control.ask(b'"hello"') for member in made))
        for member in made:
            member.asked.clear()
        yield made
