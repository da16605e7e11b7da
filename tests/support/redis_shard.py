"""Shards under test: quick to lose patience, with listeners that remember."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from clarion_fanout.redis_address import parse
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_list import shard_at
from clarion_fanout.redis_shard import Shard, ShardOptions
from clarion_fanout.tasks import Tasks
from support.waiting import until

KEYS = Keys("test")

QUICK = ShardOptions(timeout_s=0.4, probe_s=0.1, retry_s=(0.02, 0.1), linger_s=0.3)


class Ear:
    """A `Listener`. times: how often its subscription was confirmed."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.times = 0
        self.gone = False

    def take(self, payload: bytes) -> None:
        self.heard.append(payload)

    def subscribed(self) -> None:
        self.times += 1

    def dropped(self) -> None:
        self.gone = True


@asynccontextmanager
async def open_shard(url: str, options: ShardOptions = QUICK) -> AsyncIterator[Shard]:
    """A shard that was told to connect, and has succeeded or failed once."""
    shard = shard_at(parse(url), keys=KEYS, worker="w1", options=options)
    tasks = Tasks()
    shard.start(tasks)
    await shard.tried()
    try:
        yield shard
    finally:
        await tasks.close()
        await shard.close()


async def works(shard: Shard, channel: bytes = b"test:t:works") -> None:
    """Returns when commands are answered, probes come back and what is published arrives."""
    ear = Ear()
    await until(lambda: not shard.trouble)
    shard.listen(channel, ear)
    await until(lambda: shard.listens(channel))
    await shard.call("PUBLISH", channel, b"it works")
    await until(lambda: b"it works" in ear.heard)
    shard.unlisten(channel)
