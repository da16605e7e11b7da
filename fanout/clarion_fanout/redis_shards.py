"""Which shards there are, and which topic is where.

Three kinds: a list of independent primaries (`redis_list`), two such lists while topics move from
one to the other (`redis_moving`), and the nodes of a Redis Cluster (`redis_cluster`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_address import Location
from clarion_fanout.redis_cluster import ShardCluster
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_list import ShardList
from clarion_fanout.redis_shard import Shard, ShardOptions
from clarion_fanout.redis_wire import Reply
from clarion_fanout.tasks import Tasks


class Shards(Protocol):
    """The shards of a broker.

    sharded: whether pub/sub is the sharded one (`SSUBSCRIBE`, `SPUBLISH`).
    """

    sharded: bool
    on_move: Callable[[str], None] | None
    """Called with a topic that turned out to be at its other shard."""

    async def start(self, tasks: Tasks) -> None:
        """Begins to connect. Returns when everything is connected, or has failed once."""
        ...

    async def close(self) -> None:
        """Ends every connection. The tasks that `start` was given have ended."""
        ...

    def all(self) -> Sequence[Shard]:
        """Every shard that there is now."""
        ...

    def of(self, topic: str) -> Shard:
        """The shard of a topic; one that refuses everything, as long as nobody has the topic."""
        ...

    def other(self, topic: str) -> Shard | None:
        """The shard that the topic moves to or comes from, if it moves; see `redis_moving`."""
        ...

    def begins(self, topic: str) -> bool:
        """Whether a stream that its shard does not have is a new one. If not, scripts answer
        EMPTY, and the stream is there when they are sent again."""
        ...

    async def settle(self, topics: Sequence[str]) -> None:
        """Moves those of `topics` that are to move and have not. Failures show later."""
        ...

    async def send(
        self, commands: Sequence[tuple[str, bytes]], *, follow: bool = True
    ) -> list[Reply | BrokerUnavailable]:
        """Sends commands, each packed and with the topic whose keys and channel it is about.

        Says of each, in the same order, what became of it: what Redis answered, an error
        (`hiredis.ReplyError`) as it stands, or why there is no answer; then it may have been
        executed. Commands of one topic are executed in their order, except that what was not
        executed at first is sent again behind the others: calls of scripts that Redis had
        forgotten, and in a cluster, what a node refused because the slot was moving.

        follow: whether what was refused because the topic is at another node is sent there. What
        names the shard's reign must be packed anew for the other: then the answer is `MOVED`, and
        `of` knows the other already.
        """
        ...


def shards_of(
    locations: Sequence[Location], *, keys: Keys, worker: str, options: ShardOptions
) -> Shards:
    """The shards that URLs name. worker: names this process among all that share them."""
    if locations[0].kind == "cluster":
        return ShardCluster(locations[0], keys=keys, worker=worker, options=options)
    return ShardList(locations, keys=keys, worker=worker, options=options)
