"""What a run takes place on: shards, servers, and the network between each of these.

Every server reaches every shard through a `BadNetwork` of its own. The shards' names are in their
URLs, so that all servers place topics alike although their ports differ. The nodes of a cluster say
themselves where they are, so there is no network of ours between.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from chaos.instance import Instance
from chaos.journal import Position
from clarion_fanout.placement import Placement
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_slots import slot_of
from support.bad_network import BadNetwork, bad_network
from support.redis_cluster import RedisCluster
from support.redis_servers import RedisServer

KEY = "chaos-key-for-the-private-api"

TOPICS = ("long:a", "long:b", "long:c", "long:d", "brief:a", "brief:b")
"""Topics with a history that nobody falls behind, and with one that some do."""

BRIEF = 40
"""Publications that the second kind keeps."""


class Stage:
    """See the module's text.

    networks: of each server, one to each shard. check_s: of the servers' configuration.
    """

    def __init__(
        self,
        shards: Sequence[RedisServer],
        instances: Sequence[Instance],
        networks: Sequence[Sequence[BadNetwork]],
        *,
        folder: Path,
        check_s: float,
    ) -> None:
        self.shards = shards
        self.instances = instances
        self.networks = networks
        self.folder = folder
        self._check_s = check_s
        self._keys = Keys()
        self._placement = Placement([f"s{number}" for number in range(len(shards))])

    @property
    def ports(self) -> list[int]:
        return [instance.port for instance in self.instances if instance.up]

    @property
    def api_ports(self) -> list[int]:
        return [instance.api_port for instance in self.instances if instance.up]

    def configure(self, instance: Instance) -> None:
        """Writes a server's configuration, for its next start."""
        instance.configure(self._configuration(instance, redis=self._urls(instance)))

    def _configuration(self, instance: Instance, **shards: Sequence[str]) -> str:
        lists = "\n".join(f"{name} = {list(urls)}" for name, urls in shards.items())
        return f"""
api_keys = ["{KEY}"]
workers = {instance.count}
{lists}
[auth]
anonymous = true
[shards]
timeout_s = 0.6
probe_s = 0.25
linger_s = 0.3
check_s = {self._check_s}
[namespaces.long]
history_size = 20000
subscribe = "everyone"
[namespaces.brief]
history_size = {BRIEF}
subscribe = "everyone"
"""

    def _urls(self, instance: Instance) -> list[str]:
        networks = self.networks[self.instances.index(instance)]
        return [
            f"redis://127.0.0.1:{network.port}/0?name=s{place}"
            for place, network in enumerate(networks)
        ]

    async def home(self, topic: str) -> RedisServer:
        """The server that has a topic."""
        return self.shards[self._placement.place(topic)]

    async def topics_of(self, shard: RedisServer) -> frozenset[str]:
        homes = {topic: await self.home(topic) for topic in TOPICS}
        return frozenset(topic for topic, home in homes.items() if home is shard)

    def meta(self, topic: str) -> bytes:
        return self._keys.meta(topic)

    def stream(self, topic: str) -> bytes:
        return self._keys.stream(topic)

    async def position(self, topic: str) -> Position | None:
        """The end of a topic's stream, as Redis has it."""
        home = await self.home(topic)
        epoch, offset = await home.command("HMGET", self.meta(topic), "e", "o")
        return None if epoch is None else Position(epoch, int(offset))

    async def heal(self) -> None:
        """Undoes whatever a fault that was interrupted has left behind."""
        for row in self.networks:
            for network in row:
                network.flow()
                network.up()
        for shard in self.shards:
            if shard.running:
                shard.go_on()
            else:
                await shard.start()
        for instance in self.instances:
            if not instance.up:
                await instance.start()


class MovingStage(Stage):
    """The last shard is yet to be added. The servers are told in the steps that are described in
    `clarion_fanout.redis_moving`; the last of them changes nothing that could be seen."""

    def configure(self, instance: Instance) -> None:
        urls = self._urls(instance)
        instance.configure(self._configuration(instance, redis=urls[:-1]))

    def move(self, instance: Instance, moving: bool) -> None:
        """Tells a server, at its next start, that topics may move or that they do."""
        after = self._urls(instance)
        before = after[:-1]
        instance.configure(
            self._configuration(instance, redis=after, previous_shards=before)
            if moving
            else self._configuration(instance, redis=before, next_shards=after)
        )

    async def home(self, topic: str) -> RedisServer:
        after = await super().home(topic)
        return after if await after.command("EXISTS", self.meta(topic)) else self._before(topic)

    def _before(self, topic: str) -> RedisServer:
        placement = Placement([f"s{number}" for number in range(len(self.shards) - 1)])
        return self.shards[placement.place(topic)]

    async def topics_of(self, shard: RedisServer) -> frozenset[str]:
        """Those that are there, and those that were."""
        before = (topic for topic in TOPICS if self._before(topic) is shard)
        return (await super().topics_of(shard)).union(before)


class ClusterStage(Stage):
    """The shards are the nodes of a cluster, primaries and replicas."""

    def __init__(
        self, cluster: RedisCluster, instances: Sequence[Instance], *, folder: Path, check_s: float
    ) -> None:
        super().__init__(cluster.nodes, instances, [], folder=folder, check_s=check_s)
        self.cluster = cluster

    def _urls(self, instance: Instance) -> list[str]:
        return [self.cluster.url]

    def slot(self, topic: str) -> int:
        return slot_of(self._keys.channel(topic))

    async def home(self, topic: str) -> RedisServer:
        return await self.cluster.owner(self.slot(topic))


@asynccontextmanager
async def stage(
    *, shards: int, workers: Sequence[int], check_s: float, moving: bool = False
) -> AsyncIterator[Stage]:
    """Sets everything up and starts it.

    shards: how many; 0: a cluster. workers: of each server. moving: whether a shard is added later.
    """
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="clarion-chaos-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        instances = [
            Instance(folder / f"{number}.toml", folder / f"{number}.log", count)
            for number, count in enumerate(workers)
        ]
        made: Stage
        if not shards:
            cluster = RedisCluster(replicas=True, node_timeout_ms=1000)
            await stack.enter_async_context(cluster)
            made = ClusterStage(cluster, instances, folder=folder, check_s=check_s)
        else:
            redis = [
                # What it has acknowledged is on disk: only those faults destroy data that say so.
                await stack.enter_async_context(RedisServer("appendfsync always", appendonly=True))
                for _ in range(shards + moving)
            ]
            networks = [
                [await stack.enter_async_context(bad_network(shard.port)) for shard in redis]
                for _ in instances
            ]
            kind = MovingStage if moving else Stage
            made = kind(redis, instances, networks, folder=folder, check_s=check_s)
        for instance in instances:
            made.configure(instance)
            stack.callback(instance.kill)
            await instance.start()
        yield made
