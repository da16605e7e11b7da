"""The ways over which workers talk to each other: one through each shard, at least.

What concerns all workers belongs to no topic, so any shard will do, and all of them must: whoever
has lost one is reached through another. Every worker listens on all lanes.

    a list of shards    a lane for each, by the same names everywhere; workers that know of
                        different shards, while one is added, meet at those they have in common
    a Redis Cluster     a name is in one slot, of one node; so there are `LANES` names, spread
                        evenly over the slots. A node with an eighth of them in a row has one for
                        certain. When a node is away the lanes of the others remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import count
from typing import NamedTuple, Protocol

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_shard import Shard
from clarion_fanout.redis_slots import SLOTS, slot_of

LANES = 16
"""In a cluster. Each costs a worker two subscriptions, and a write every few seconds."""


class Places(Protocol):
    """What lanes need to know of `Shards`."""

    sharded: bool

    def all(self) -> Sequence[Shard]: ...

    def of(self, topic: str) -> Shard: ...


class Lane(NamedTuple):
    """A way through a shard.

    name: the same as long as the lane exists; its shard may change.
    suffix: of the lane's names; see `Keys.lane`.
    """

    name: str
    shard: Shard
    suffix: bytes = b""


def lanes(shards: Places, keys: Keys) -> list[Lane]:
    """The lanes that there are now."""
    if not shards.sharded:
        return [Lane(shard.name, shard) for shard in shards.all()]
    found: list[Lane] = []
    for topic in _topics(keys.prefix):
        try:
            found.append(Lane(topic, shards.of(topic), keys.lane(topic)))
        except BrokerUnavailable:
            continue  # nobody has its slot now
    return found


def one_each(lanes: Sequence[Lane]) -> list[Lane]:
    """A lane for each shard that can be reached, those that are in no trouble first."""
    shards: dict[Shard, Lane] = {}
    for lane in lanes:
        if lane.shard.available:
            shards.setdefault(lane.shard, lane)
    return sorted(shards.values(), key=lambda lane: bool(lane.shard.trouble))


@cache
def _topics(prefix: str) -> tuple[str, ...]:
    """For each part of the slots the first number that is in it, taken as a topic's name."""
    keys = Keys(prefix)
    found: dict[int, str] = {}
    for number in count():
        found.setdefault(slot_of(keys.channel(str(number))) * LANES // SLOTS, str(number))
        if len(found) == LANES:
            break
    return tuple(found[part] for part in range(LANES))
