"""Who keeps presence for a worker, as the configuration says."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from clarion_fanout.broker import Feed
from clarion_fanout.memory_presence import MemoryPresence
from clarion_fanout.presence import Keeping, Presence
from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_presence import RedisPresence
from clarion_server.brokers import AnyBroker
from clarion_server.options import Config


def make(
    config: Config,
    *,
    broker: AnyBroker,
    feed: Feed,
    soon: Callable[[Callable[[], None]], object],
) -> Presence | None:
    """None where no namespace keeps any.

    soon: has something called at the end of this turn of the loop.
    """
    if all(namespace.presence == "off" for namespace in config.namespaces.values()):
        return None

    def keeps(topic: str) -> Keeping:
        return config.namespace(topic).presence

    if isinstance(broker, RedisBroker):
        return RedisPresence(
            broker.shards,
            keys=Keys(config.prefix),
            # 48 bits: no two processes share them. And short: Redis keeps small sets compactly as
            # long as entries have 64 bytes at most, and one whose user is a UUID has 62.
            worker=secrets.token_urlsafe(6),
            keeps=keeps,
            lease_s=config.presence.lease_s,
            timeout_s=config.shards.timeout_s,
        )
    alone = MemoryPresence(keeps=keeps, feed=feed, wake=lambda: soon(alone.announce))
    return alone
