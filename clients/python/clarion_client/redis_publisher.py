"""Publishing from a backend straight to Redis: durably through the inbox, or quickly.

    publish        an entry in the inbox of a shard. The server takes it from there, once, and gives
                   it an offset and history like an HTTP publish. It waits while no server runs
    publish_quick  PUBLISH on the topic's channel: at most once, no history, nobody is told whether
                   anybody heard it

Both take a conflation key: see `clarion_client.Draft`.

It needs redis-py: `pip install clarion-client[redis]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.retry
import redis.cluster
import redis.retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from clarion_client.errors import PublishError
from clarion_client.placement import ranking
from clarion_client.redis_shards import Names, Shard, shards


class RedisPublisher:
    """Publishes for programs without an event loop; threads may share one.

    urls: of the shards, the same that the server has. prefix: of all names in Redis, as the server
    has it. timeout_s: for connecting, and for a command. Raises `ValueError` for wrong URLs.
    """

    def __init__(self, *urls: str, prefix: str = "clarion", timeout_s: float = 2.0) -> None:
        found = shards(urls)
        self._names = Names(prefix)
        self._shards = [shard.name for shard in found]
        self._cluster = found[0].kind == "cluster"
        self._connections = _Connections(PLAIN, found, timeout_s)

    def publish(
        self, topic: str, data: Any, *, id: str | None = None, key: str | None = None
    ) -> None:
        """Durably. When a shard does not answer, the next one's inbox takes the message.

        id: an idempotency key of your own. key: the conflation key. Raises `PublishError` when no
        shard took it, or it is not known whether one did.
        """
        entry = self._names.entry(topic, data, id, key)
        errors: list[RedisError] = []
        for place in ranking(self._shards, topic):
            try:
                self._connections[place].xadd(self._names.inbox, entry)
            except RedisError as error:
                errors.append(error)
            else:
                return
        raise _not_published(topic, errors)

    def publish_quick(self, topic: str, data: Any, *, key: str | None = None) -> None:
        """At most once, to whoever is subscribed now. Raises `PublishError`."""
        channel, text = self._names.channel(topic), self._names.payload(data, key)
        connection = self._connections[ranking(self._shards, topic)[0]]
        try:
            if self._cluster:
                connection.spublish(channel, text)
            else:
                connection.publish(channel, text)
        except RedisError as error:
            raise _not_published(topic, [error]) from None

    def close(self) -> None:
        """Closes the connections."""
        for connection in self._connections.all():
            connection.close()

    def __enter__(self) -> RedisPublisher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncRedisPublisher:
    """Publishes for asyncio programs; the rest is as with `RedisPublisher`."""

    def __init__(self, *urls: str, prefix: str = "clarion", timeout_s: float = 2.0) -> None:
        found = shards(urls)
        self._names = Names(prefix)
        self._shards = [shard.name for shard in found]
        self._cluster = found[0].kind == "cluster"
        self._connections = _Connections(ASYNC, found, timeout_s)

    async def publish(
        self, topic: str, data: Any, *, id: str | None = None, key: str | None = None
    ) -> None:
        """As `RedisPublisher.publish`."""
        entry = self._names.entry(topic, data, id, key)
        errors: list[RedisError] = []
        for place in ranking(self._shards, topic):
            try:
                await self._connections[place].xadd(self._names.inbox, entry)
            except RedisError as error:
                errors.append(error)
            else:
                return
        raise _not_published(topic, errors)

    async def publish_quick(self, topic: str, data: Any, *, key: str | None = None) -> None:
        """As `RedisPublisher.publish_quick`."""
        channel, text = self._names.channel(topic), self._names.payload(data, key)
        connection = self._connections[ranking(self._shards, topic)[0]]
        try:
            if self._cluster:
                await connection.execute_command("SPUBLISH", channel, text)
            else:
                await connection.publish(channel, text)
        except RedisError as error:
            raise _not_published(topic, [error]) from None

    async def close(self) -> None:
        """Closes the connections."""
        for connection in self._connections.all():
            await connection.aclose()

    async def __aenter__(self) -> AsyncRedisPublisher:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


class _Library(NamedTuple):
    """redis-py for plain programs, or for asyncio. It is typed in part only."""

    redis: Any
    cluster: Any
    retry: Any


PLAIN = _Library(redis, redis.cluster, redis.retry.Retry)
ASYNC = _Library(redis.asyncio, redis.asyncio.cluster, redis.asyncio.retry.Retry)


class _Connections:
    """A client of redis-py for each shard, in order, and whatever else is to be closed."""

    def __init__(self, library: _Library, found: Sequence[Shard], timeout_s: float) -> None:
        self._library = library
        self._timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        self._also: list[Any] = []
        self._made: dict[int, Any] = {}
        self._shards = found

    def __getitem__(self, place: int) -> Any:
        # The plain client of a cluster asks for its map as soon as it is made; so not before.
        if place not in self._made:
            self._made[place] = self._make(self._shards[place])
        return self._made[place]

    def all(self) -> list[Any]:
        """What is open."""
        return [*self._made.values(), *self._also]

    def _make(self, shard: Shard) -> Any:
        library, options = self._library, self._timeouts | shard.options
        if shard.kind == "cluster":
            nodes = [library.cluster.ClusterNode(host, port) for host, port in shard.hosts]
            return library.redis.RedisCluster(startup_nodes=nodes, **options)
        # One repeat, and at once, for a connection that had been closed. An entry that is sent
        # twice is published once, as it has a key.
        options |= {"db": shard.db, "retry": library.retry(NoBackoff(), 1)}
        if shard.kind == "sentinel":
            theirs = self._timeouts | shard.sentinel_options
            sentinel = library.redis.Sentinel(list(shard.hosts), sentinel_kwargs=theirs)
            self._also += sentinel.sentinels
            return sentinel.master_for(shard.service, **options)
        if shard.path:
            return library.redis.Redis(unix_socket_path=shard.path, **options)
        ((host, port),) = shard.hosts
        return library.redis.Redis(host=host, port=port, **options)


def _not_published(topic: str, errors: Sequence[RedisError]) -> PublishError:
    # redis-py's texts hold addresses and Redis' answers, never a password.
    told = "; ".join(f"{type(error).__name__}: {error}" for error in errors)
    return PublishError(f"{topic}: not published, or it is not known: {told}")
