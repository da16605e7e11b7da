"""Remembering what was given out, to notice when a shard has forgotten it.

A shard that restarts with older data, or whose replica takes over and was behind, does not know
what it has lost. Whoever was fed it knows, and is told of the loss. But somebody who was away, or
listens through another worker, stands at a position that is still good, and would never learn
that a publication which was acknowledged has vanished behind it.

So each worker remembers the newest position that it has acknowledged in each topic. When a shard
begins another reign, or a topic another epoch, it asks the stream for what follows that position,
as a follower does. A stream that does not know the position has lost something; read.lua makes it
begin an epoch of which everybody is told that something is missing.

What only a worker knew that has died as well, nobody can tell.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import islice
from typing import NoReturn

from clarion_fanout.broker import BrokerUnavailable, Want
from clarion_fanout.follower import FORMER
from clarion_fanout.publication import Position
from clarion_fanout.redis_reader import Question, Reader, Sealed
from clarion_fanout.redis_shards import Shards
from clarion_fanout.tasks import Tasks

REMEMBERED = 50_000
"""Topics that are remembered at least, the ones acknowledged last; twice as many at most, which
are some 30 MB."""

WATCH_SECONDS = 0.5
"""How often it is looked whether a shard has begun another reign, which costs a microsecond."""

TOGETHER = 500
"""Positions that are asked for at a time."""

RETRY_SECONDS = 0.5
"""Between two attempts at a shard that is away."""


class Witness:
    """See the module's text.

    remembered: how many topics.
    """

    def __init__(
        self, shards: Shards, *, reader: Reader, tasks: Tasks, remembered: int = REMEMBERED
    ) -> None:
        self._shards = shards
        self._reader = reader
        self._tasks = tasks
        self._remembered = remembered
        # Two generations: forgetting the oldest one by one would cost more than remembering.
        self._young: dict[str, Position] = {}
        self._old: dict[str, Position] = {}
        self._former: dict[str, tuple[str, ...]] = {}  # epochs before that, of topics that turned
        # By topic and epochs: that a topic has turned twice does not settle the first doubt.
        self._doubted: dict[tuple[str, tuple[str, ...]], int] = {}
        self._testifying = False
        self.testimonies = 0
        """Positions that streams were asked about."""

    def start(self) -> None:
        self._tasks.start(self._watch(), "reigns of shards")

    def acknowledged(self, topic: str, position: Position) -> None:
        """Remembers a position, which is newer than all of its topic before."""
        before = self._young.get(topic)
        if before is None:
            before = self._old.get(topic)
            if len(self._young) >= self._remembered:
                self._old, self._young = self._young, {}
                self._former = {
                    topic: former for topic, former in self._former.items() if topic in self._old
                }
        self._young[topic] = position
        if before is not None and before.epoch != position.epoch:
            self._doubt(topic, before)
            former = self._former.get(topic, ())
            self._former[topic] = (before.epoch, *former[: FORMER - 1])

    def _doubt(self, topic: str, position: Position) -> None:
        epochs = (position.epoch, *self._former.get(topic, ()))
        self._doubted[topic, epochs] = position.offset
        if not self._testifying:
            self._testifying = True
            self._tasks.start(self._testify(), "testify")

    async def _watch(self) -> NoReturn:
        reigns: dict[str, bytes] = {}
        while True:
            present = {shard.name: shard.reign for shard in self._shards.all() if shard.reign}
            changed = {name for name, reign in present.items() if reigns.get(name) != reign}
            reigns.update(present)
            if changed:
                await self._doubt_all(changed)
            await asyncio.sleep(WATCH_SECONDS)

    async def _doubt_all(self, names: set[str]) -> None:
        """Doubts everything that these shards should know."""
        positions = self._old | self._young
        for count, (topic, position) in enumerate(positions.items(), 1):
            if count % TOGETHER == 0:
                await asyncio.sleep(0)
            with suppress(BrokerUnavailable):
                if self._shards.of(topic).name in names:
                    self._doubt(topic, position)

    async def _testify(self) -> None:
        """Asks streams for the positions that are in doubt, until all have answered."""
        try:
            while self._doubted:
                asked = list(islice(self._doubted.items(), TOGETHER))
                for place, _ in asked:
                    del self._doubted[place]
                self.testimonies += len(asked)
                pages = await self._reader.pages(
                    [
                        Question(topic, Want(since=Position(epoch, offset), limit=0), True, former)
                        for (topic, (epoch, *former)), offset in asked
                    ]
                )
                left = [
                    doubt
                    for doubt, page in zip(asked, pages, strict=True)
                    if isinstance(page, BrokerUnavailable) and not isinstance(page, Sealed)
                ]
                self._doubted.update(left)
                await asyncio.sleep(RETRY_SECONDS if left else 0)
        finally:
            self._testifying = False
