"""What carries words between workers: publishing on lanes, and listening on all of them.

Pub/sub: what is said may be lost, and may arrive several times, when it was said on several ways.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_lanes import Lane, Places, lanes, one_each
from clarion_fanout.redis_shard import Shard


class Post:
    """See the module's text. A way is a lane, by its name.

    worker: who listens.
    timeout_s: what a shard may take to publish something.
    to_all: takes what was said to all workers, and on which way.
    to_us: takes what was said to this one.
    resumed: called when what is said arrives again, or for the first time.
    """

    def __init__(
        self,
        shards: Places,
        *,
        keys: Keys,
        worker: str,
        timeout_s: float,
        to_all: Callable[[bytes, str], None],
        to_us: Callable[[bytes, str], None],
        resumed: Callable[[], None],
    ) -> None:
        self._shards = shards
        self._keys = keys
        self._worker = worker
        self._timeout_s = timeout_s
        self._to_all = to_all
        self._to_us = to_us
        self._resumed = resumed
        self._publish = "SPUBLISH" if shards.sharded else "PUBLISH"
        self._ears: dict[tuple[str, bytes], Shard] = {}  # by way and channel

    def ways(self) -> list[str]:
        """One through each shard that can be reached; those that are well come first."""
        return [lane.name for lane in one_each(lanes(self._shards, self._keys))]

    def listen(self) -> None:
        """Listens on every lane. To be called again now and then, for those that have moved."""
        for lane in lanes(self._shards, self._keys):
            self._hear(lane, self._keys.questions(lane.suffix), self._to_all)
            self._hear(lane, self._keys.answers(self._worker, lane.suffix), self._to_us)

    def stop(self) -> None:
        for (_way, channel), shard in self._ears.items():
            shard.unlisten(channel)

    async def say(self, payload: bytes, ways: Sequence[str], to: str = "") -> bool:
        """Says something to all workers, or to one; False if that was possible on no way."""
        there = {lane.name: lane for lane in lanes(self._shards, self._keys)}
        async with asyncio.TaskGroup() as group:
            sent = [
                group.create_task(self._send(payload, there[way], to))
                for way in ways
                if way in there
            ]
        return any(task.result() for task in sent)

    def _hear(self, lane: Lane, channel: bytes, take: Callable[[bytes, str], None]) -> None:
        before = self._ears.get((lane.name, channel))
        if before is lane.shard:
            return
        if before is not None:
            before.unlisten(channel)
        self._ears[lane.name, channel] = lane.shard
        lane.shard.listen(channel, _Ear(lane.name, take, self._resumed))

    async def _send(self, payload: bytes, lane: Lane, to: str) -> bool:
        keys = self._keys
        channel = keys.answers(to, lane.suffix) if to else keys.questions(lane.suffix)
        try:
            async with asyncio.timeout(self._timeout_s):
                await lane.shard.call(self._publish, channel, payload)
        except (BrokerUnavailable, TimeoutError):
            return False
        return True


class _Ear(NamedTuple):
    """The listener of a channel."""

    way: str
    heard: Callable[[bytes, str], None]
    resumed: Callable[[], None]

    def take(self, payload: bytes) -> None:
        self.heard(payload, self.way)

    def subscribed(self) -> None:
        self.resumed()

    def dropped(self) -> None:
        pass
