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
    """See the module's text. networks: of each server, one to each shard."""

    def __init__(
        self,
        shards: Sequence[RedisServer],
        instances: Sequence[Instance],
        networks: Sequence[Sequence[BadNetwork]],
        folder: Path,
    ) -> None:
        self.shards = shards
        self.instances = instances
        self.networks = networks
        self.folder = folder
        self._keys = Keys()
        self._placement = Placement([f"s{number}" for number in range(len(shards))])

    @property
    def ports(self) -> list[int]:
        return [instance.port for instance in self.instances if instance.up]

    @property
    def api_ports(self) -> list[int]:
        return [instance.api_port for instance in self.instances if instance.up]

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
        epoch, offset = await (await self.home(topic)).command("HMGET", self.meta(topic), "e", "o")
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


class ClusterStage(Stage):
    """The shards are the nodes of a cluster, primaries and replicas."""

    def __init__(self, cluster: RedisCluster, instances: Sequence[Instance], folder: Path) -> None:
        super().__init__(cluster.nodes, instances, [], folder)
        self.cluster = cluster

    def slot(self, topic: str) -> int:
        return slot_of(self._keys.channel(topic))

    async def home(self, topic: str) -> RedisServer:
        return await self.cluster.owner(self.slot(topic))


@asynccontextmanager
async def stage(*, shards: int, workers: Sequence[int], check_s: float) -> AsyncIterator[Stage]:
    """Sets everything up and starts it.

    shards: how many; 0: a cluster. workers: of each server; check_s: of their configuration.
    """
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="clarion-chaos-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        instances = [
            Instance(folder / f"{number}.toml", folder / f"{number}.log")
            for number in range(len(workers))
        ]
        made = await (
            _shards(stack, shards, instances, folder)
            if shards
            else _cluster(stack, instances, folder)
        )
        for number, (instance, count) in enumerate(zip(instances, workers, strict=True)):
            urls = [
                f"redis://127.0.0.1:{network.port}/0?name=s{place}"
                for place, network in enumerate(made.networks[number] if shards else ())
            ]
            if isinstance(made, ClusterStage):
                urls = [made.cluster.url]
            instance.config.touch(mode=0o600)
            instance.config.write_text(_config(urls, count, check_s))
            stack.callback(instance.kill)
            await instance.start()
        yield made


async def _shards(
    stack: AsyncExitStack, count: int, instances: Sequence[Instance], folder: Path
) -> Stage:
    redis = [
        # What it has acknowledged is on disk: only those faults destroy data that say so.
        await stack.enter_async_context(RedisServer("appendfsync always", appendonly=True))
        for _ in range(count)
    ]
    networks = [
        [await stack.enter_async_context(bad_network(shard.port)) for shard in redis]
        for _ in instances
    ]
    return Stage(redis, instances, networks, folder)


async def _cluster(
    stack: AsyncExitStack, instances: Sequence[Instance], folder: Path
) -> ClusterStage:
    cluster = RedisCluster(replicas=True, node_timeout_ms=1000)
    return ClusterStage(await stack.enter_async_context(cluster), instances, folder)


def _config(urls: Sequence[str], workers: int, check_s: float) -> str:
    listed = ", ".join(f'"{url}"' for url in urls)
    return f"""
api_keys = ["{KEY}"]
workers = {workers}
redis = [{listed}]
[auth]
anonymous = true
[shards]
timeout_s = 0.6
probe_s = 0.25
linger_s = 0.3
check_s = {check_s}
[namespaces.long]
history_size = 20000
subscribe = "everyone"
[namespaces.brief]
history_size = {BRIEF}
subscribe = "everyone"
"""
