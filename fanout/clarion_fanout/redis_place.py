"""Where a key is that belongs to no topic: on a shard of a list, or in its slot of a cluster.

A cluster is asked by topic. So such a key is found through a topic whose channel is in its slot,
and the cluster's ways of finding a slot that has moved hold for it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import count

import hiredis

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_shard import Shard
from clarion_fanout.redis_shards import Shards
from clarion_fanout.redis_slots import slot_of
from clarion_fanout.redis_wire import Reply


class Place:
    """See the module's text. shard: where `key` is, or None in a cluster."""

    def __init__(self, shards: Shards, keys: Keys, key: bytes, shard: Shard | None) -> None:
        self.name = "cluster" if shard is None else shard.name
        """That of the shard, or of all shards."""
        self._shards = shards
        self._shard = shard
        self._topic = "" if shard is not None else _neighbour(keys.prefix, key)

    @property
    def fixed(self) -> bool:
        """Whether what belongs to no topic is all on one node; each key is in its slot else."""
        return self._shard is not None

    @property
    def shard(self) -> Shard:
        """Where the key is now. Raises `BrokerUnavailable` when that is not known."""
        return self._shard or self._shards.of(self._topic)

    async def ask(self, commands: Sequence[bytes]) -> list[Reply]:
        """What Redis answers to packed commands. Raises `BrokerUnavailable`, also for an error that
        it answers."""
        replies: Sequence[Reply | BrokerUnavailable]
        if self._shard is not None:
            replies = await self._shard.sends(commands)
        else:
            replies = await self._shards.send([(self._topic, command) for command in commands])
        answers: list[Reply] = []
        for reply in replies:
            if isinstance(reply, BrokerUnavailable):
                raise reply
            if isinstance(reply, hiredis.ReplyError):
                raise BrokerUnavailable(f"shard {self.name} answered {reply}")
            answers.append(reply)
        return answers


@cache
def _neighbour(prefix: str, key: bytes) -> str:
    """A topic whose channel is in the slot of a key; 16,384 are tried on average, which takes some
    20 ms."""
    channel, slot = Keys(prefix).channel, slot_of(key)
    return next(topic for topic in map(str, count()) if slot_of(channel(topic)) == slot)
