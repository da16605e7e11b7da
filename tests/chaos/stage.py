"""What a run takes place on: shards, servers, and the network between each of these.

Every server reaches every shard through a `BadNetwork` of its own. The shards' names are in their
URLs, so that all servers place topics alike although their ports differ.
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
from support.bad_network import BadNetwork, bad_network
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

    def shard_of(self, topic: str) -> RedisServer:
        return self.shards[self._placement.place(topic)]

    def topics_of(self, shard: RedisServer) -> frozenset[str]:
        return frozenset(topic for topic in TOPICS if self.shard_of(topic) is shard)

    def meta(self, topic: str) -> bytes:
        return self._keys.meta(topic)

    def stream(self, topic: str) -> bytes:
        return self._keys.stream(topic)

    async def position(self, topic: str) -> Position | None:
        """The end of a topic's stream, as Redis has it."""
        epoch, offset = await self.shard_of(topic).command("HMGET", self.meta(topic), "e", "o")
        return None if epoch is None else Position(epoch, int(offset))


@asynccontextmanager
async def stage(*, shards: int, workers: Sequence[int], check_s: float) -> AsyncIterator[Stage]:
    """Sets everything up and starts it.

    workers: of each server; check_s: of their configuration.
    """
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="clarion-chaos-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        redis = [
            # What it has acknowledged is on disk: only those faults destroy data that say so.
            await stack.enter_async_context(RedisServer("appendfsync always", appendonly=True))
            for _ in range(shards)
        ]
        networks: list[list[BadNetwork]] = []
        instances: list[Instance] = []
        for number, count in enumerate(workers):
            own = [await stack.enter_async_context(bad_network(each.port)) for each in redis]
            networks.append(own)
            config = folder / f"{number}.toml"
            config.write_text(_config([network.port for network in own], count, check_s))
            instances.append(Instance(config, folder / f"{number}.log"))
            stack.callback(instances[-1].kill)
        for instance in instances:
            await instance.start()
        yield Stage(redis, instances, networks, folder)


def _config(ports: Sequence[int], workers: int, check_s: float) -> str:
    urls = [f'"redis://127.0.0.1:{port}/0?name=s{place}"' for place, port in enumerate(ports)]
    return f"""
api_keys = ["{KEY}"]
workers = {workers}
redis = [{", ".join(urls)}]
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
