"""Workers that can ask each other, in one process, over real shards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from clarion_fanout.redis_address import parse
from clarion_fanout.redis_control import Control, ControlOptions
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_list import ShardList
from clarion_fanout.redis_shard import ShardOptions
from clarion_fanout.redis_shards import Shards, shards_of
from clarion_fanout.tasks import Tasks
from support.waiting import until

KEYS = Keys("test")

QUICK = ControlOptions(lease_s=1.5, deadline_s=0.6, again_s=0.2)
"""Patience of tests in which somebody is away on purpose."""


class Member:
    """A worker: its shards, its control, and what it was asked."""

    def __init__(
        self, name: str, urls: Sequence[str], options: ControlOptions, replaces: str = ""
    ) -> None:
        self.tasks = Tasks()
        self.shards: Shards = shards_of(
            [parse(url) for url in urls],
            keys=KEYS,
            worker=name,
            options=ShardOptions(timeout_s=0.5, probe_s=0.1, retry_s=(0.05, 0.1)),
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
        """Whether it hears and is heard on every shard that it can reach."""
        channels = (KEYS.questions(), KEYS.answers(self.control.worker))
        shards = [shard for shard in self.shards.all() if shard.available]
        if not isinstance(self.shards, ShardList):
            return bool(shards)
        return bool(shards) and all(shard.listens(c) for shard in shards for c in channels)

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
