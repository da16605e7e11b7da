"""Each fault of a plan, done to a stage, and noted with what it may have destroyed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import hiredis

from chaos.journal import Deed, Journal
from chaos.plan import Fault
from chaos.stage import TOPICS, ClusterStage, MovingStage, Stage
from support.bad_network import BadNetwork
from support.redis_cluster import RedisCluster
from support.redis_servers import RedisServer, eventually

WITNESS_SECONDS = 3.0
"""What is only known to a worker that dies with the shard that has forgotten it, nobody can tell.
So after a shard was rewound workers live for as long as they may need to say so, even if one was
stopped meanwhile."""

_BRIEF = ("kill a worker", "freeze a worker", "drop an intake", "drop commands", "forget scripts")
"""Faults that are in nobody's way."""

_DESTROYERS = (
    "restart a shard without its data",
    "flush a shard",
    "rewind a shard",
    "kill a node",
    "stop a node",
)
"""Those that take something from every topic of a shard."""

_KILLS = ("kill a worker", "kill an instance", "drain an instance")

SETTLED_SECONDS = 30.0
"""A cluster takes some seconds to find out that a node is gone, or back."""

DRAIN_SECONDS = 3.0
"""A server that was asked to end and has not by then is killed, as an orchestrator does."""

OVERFLOW = "client-output-buffer-limit"


class Faults:
    """Does faults to `stage` and notes them in `journal`."""

    def __init__(self, stage: Stage, journal: Journal) -> None:
        self._stage = stage
        self._journal = journal
        self._busy: set[object] = set()  # servers and shards that something is being done to
        self._rewinding = 0
        self._does: dict[str, Callable[[Fault], Awaitable[str]]] = {
            "kill a worker": self._kill_worker,
            "kill an instance": self._kill_instance,
            "drain an instance": self._drain,
            "freeze a worker": self._freeze,
            "drop an intake": self._drop_intake,
            "drop commands": self._drop_commands,
            "cut the network": self._cut,
            "stall the network": self._stall,
            "part the network": self._part,
            "stop a shard": self._stop,
            "restart a shard": self._restart,
            "overflow": self._overflow,
            "forget scripts": self._forget,
            "pause writes": self._pause,
            "restart a shard without its data": self._restart_empty,
            "flush a shard": self._flush,
            "rewind a shard": self._rewind,
            "delete a stream": self._delete_stream,
            "delete a position": self._delete_position,
            "delete a message": self._delete_message,
            "move a slot": self._move_slot,
            "fail over": self._fail_over,
            "kill a node": self._kill_node,
            "stop a node": self._stop_node,
        }
        self.done: dict[str, int] = dict.fromkeys(self._does, 0)
        """How often each was done."""

    async def do(self, fault: Fault) -> None:
        """Does it; returns when it is over, and what can be healed is healed."""
        victim = self._victim(fault)
        if victim in self._busy or (self._rewinding and fault.name in _KILLS):
            return  # one thing at a time: so what each destroys is known
        self._busy.add(victim)
        began = time.monotonic()
        destroyed: frozenset[str] = frozenset()
        try:
            destroyed = await self._destroyed(fault)
            text = await self._does[fault.name](fault)
        except (OSError, TimeoutError, LookupError, hiredis.ReplyError) as error:
            # Another fault is in the way. Perhaps it was done and only its answer is missing.
            text = f"failed: {error!r}"
        finally:
            self._busy.discard(victim)
        if text:
            self.done[fault.name] += 1
            text = f"{fault.name} {text}"
            self._journal.deeds.append(Deed(began, time.monotonic(), text, destroyed))

    def _victim(self, fault: Fault) -> object:
        if "instance" in fault.name:
            return self._stage.instances[fault.place % len(self._stage.instances)]
        if isinstance(self._stage, ClusterStage) and fault.name not in _BRIEF:
            return self._stage
        return self._shard(fault) if "shard" in fault.name else object()

    def _shard(self, fault: Fault) -> RedisServer:
        return self._stage.shards[fault.place % len(self._stage.shards)]

    def _shard_name(self, fault: Fault) -> str:
        return f"s{fault.place % len(self._stage.shards)}"

    def _network(self, fault: Fault) -> BadNetwork:
        networks = [network for row in self._stage.networks for network in row]
        return networks[fault.place % len(networks)]

    async def _destroyed(self, fault: Fault) -> frozenset[str]:
        """The topics that something may be destroyed of."""
        if fault.name in ("delete a stream", "delete a position", "delete a message"):
            return frozenset({self._topic(fault)})
        if fault.name in _DESTROYERS:
            return await self._stage.topics_of(self._shard(fault))
        return frozenset()

    # Servers

    async def _kill_worker(self, fault: Fault) -> str:
        instance = self._stage.instances[fault.place % len(self._stage.instances)]
        # One that has not started yet takes it for a reason not to.
        return "done" if instance.up and instance.kill_worker(fault.place // 7) else ""

    async def _kill_instance(self, fault: Fault) -> str:
        number = fault.place % len(self._stage.instances)
        instance = self._stage.instances[number]
        instance.kill()
        await asyncio.sleep(fault.seconds)
        await instance.start()
        return f"number {number}"

    async def _drain(self, fault: Fault) -> str:
        number = fault.place % len(self._stage.instances)
        instance = self._stage.instances[number]
        await instance.drain(DRAIN_SECONDS)
        await instance.start()
        return f"number {number}"

    async def _freeze(self, fault: Fault) -> str:
        instance = self._stage.instances[fault.place % len(self._stage.instances)]
        await instance.freeze(fault.place // 7, fault.seconds)
        return "done"

    # Connections

    async def _drop(self, fault: Fault, link: str) -> str:
        shard = self._shard(fault)
        clients: str = await shard.command("CLIENT", "LIST")
        ids = [
            dict(field.split("=", 1) for field in line.split(" "))["id"]
            for line in clients.splitlines()
            if line and f"-{link} " in line
        ]
        if not ids:
            return ""
        # One of them, or all.
        chosen = ids if fault.place % 3 == 0 else [ids[fault.place // 3 % len(ids)]]
        for id in chosen:
            with suppress(hiredis.ReplyError):
                await shard.command("CLIENT", "KILL", "ID", id)
        return f"{len(chosen)} of {self._shard_name(fault)}"

    async def _drop_intake(self, fault: Fault) -> str:
        return await self._drop(fault, "intake")

    async def _drop_commands(self, fault: Fault) -> str:
        return await self._drop(fault, "commands")

    async def _cut(self, fault: Fault) -> str:
        network = self._network(fault)
        network.cut()
        return f"at {network.port}"

    async def _stall(self, fault: Fault) -> str:
        network = self._network(fault)
        network.stall()
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            network.flow()
        return f"at {network.port}"

    async def _part(self, fault: Fault) -> str:
        network = self._network(fault)
        network.down()
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            network.up()
        return f"at {network.port}"

    # Shards

    async def _stop(self, fault: Fault) -> str:
        shard = self._shard(fault)
        shard.stop()
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            shard.go_on()
        return self._shard_name(fault)

    async def _restart(self, fault: Fault) -> str:
        shard = self._shard(fault)
        shard.kill()
        # Now and then it is back before anybody noticed.
        await asyncio.sleep(fault.seconds / 2)
        await shard.restart(keep_data=True)
        return self._shard_name(fault)

    async def _restart_empty(self, fault: Fault) -> str:
        shard = self._shard(fault)
        shard.kill()
        await asyncio.sleep(fault.seconds / 2)
        await shard.restart(keep_data=False)
        return self._shard_name(fault)

    async def _flush(self, fault: Fault) -> str:
        await self._shard(fault).command("FLUSHALL")
        return self._shard_name(fault)

    async def _rewind(self, fault: Fault) -> str:
        """What it has acknowledged for a while is gone, as after a failover to a replica that was
        behind."""
        if any(victim in self._busy for victim in self._stage.instances):
            return ""
        shard = self._shard(fault)
        file = _journal_file(shard)
        size = file.stat().st_size
        self._rewinding += 1
        try:
            await asyncio.sleep(min(fault.seconds, 0.3))
            shard.kill()
            with file.open("r+b") as journal:
                journal.truncate(size)
            await shard.restart(keep_data=True)
            await asyncio.sleep(WITNESS_SECONDS)
        finally:
            self._rewinding -= 1
        return self._shard_name(fault)

    async def _overflow(self, fault: Fault) -> str:
        """Redis drops each subscriber that does not take what it gets at once."""
        shard = self._shard(fault)
        await shard.command("CONFIG", "SET", OVERFLOW, "pubsub 1 0 0")
        await asyncio.sleep(fault.seconds)
        await self._until_done(shard, "CONFIG", "SET", OVERFLOW, "pubsub 32mb 8mb 60")
        return self._shard_name(fault)

    async def _until_done(self, shard: RedisServer, *words: str) -> None:
        """A restart heals as well."""
        for _ in range(20):
            with suppress(OSError, TimeoutError, hiredis.ReplyError):
                await shard.command(*words)
                return
            await asyncio.sleep(0.1)

    async def _forget(self, fault: Fault) -> str:
        await self._shard(fault).command("SCRIPT", "FLUSH")
        return self._shard_name(fault)

    async def _pause(self, fault: Fault) -> str:
        milliseconds = int(fault.seconds * 1000)
        await self._shard(fault).command("CLIENT", "PAUSE", milliseconds, "WRITE")
        await asyncio.sleep(fault.seconds)
        return self._shard_name(fault)

    def _topic(self, fault: Fault) -> str:
        return TOPICS[fault.place % len(TOPICS)]

    async def _delete_stream(self, fault: Fault) -> str:
        topic = self._topic(fault)
        await (await self._stage.home(topic)).command("DEL", self._stage.stream(topic))
        return topic

    async def _delete_position(self, fault: Fault) -> str:
        topic = self._topic(fault)
        await (await self._stage.home(topic)).command("DEL", self._stage.meta(topic))
        return topic

    async def _delete_message(self, fault: Fault) -> str:
        topic = self._topic(fault)
        shard, stream = await self._stage.home(topic), self._stage.stream(topic)
        newest = await shard.command(
            "XREVRANGE", stream, "+", "-", "COUNT", 1 + fault.place // 6 % 5
        )
        if not newest:
            return ""
        await shard.command("XDEL", stream, newest[-1][0])
        return f"{newest[-1][0]} of {topic}"

    # Clusters

    @property
    def _cluster(self) -> RedisCluster:
        assert isinstance(self._stage, ClusterStage)
        return self._stage.cluster

    async def _move_slot(self, fault: Fault) -> str:
        """With a topic in it."""
        assert isinstance(self._stage, ClusterStage)
        topic = self._topic(fault)
        owner = await self._stage.home(topic)
        others = [node for node in await self._primaries() if node is not owner]
        await self._cluster.move_slot(
            self._stage.slot(topic), others[fault.place // 6 % len(others)]
        )
        return f"of {topic}"

    async def _primaries(self) -> list[RedisServer]:
        running = [node for node in self._stage.shards if node.running]
        roles = [await node.info("replication") for node in running]
        return [node for node, role in zip(running, roles, strict=True) if role["role"] == "master"]

    async def _fail_over(self, fault: Fault) -> str:
        """With the consent of the primary: nothing is lost."""
        node = self._shard(fault)
        role = await node.info("replication")
        if role["role"] != "slave" or role["master_link_status"] != "up":
            return ""
        await self._cluster.failover(node)
        return f"to {self._shard_name(fault)}"

    async def _kill_node(self, fault: Fault) -> str:
        """Its replica takes over, unless it is back sooner, without its data."""
        node = self._shard(fault)
        await self._settled()
        node.kill()
        self._rewinding += 1
        try:
            await asyncio.sleep(6 * fault.seconds)
            await node.start()
            await self._settled()
            await asyncio.sleep(WITNESS_SECONDS)
        finally:
            self._rewinding -= 1
        return self._shard_name(fault)

    async def _stop_node(self, fault: Fault) -> str:
        """Its replica takes over meanwhile. It goes on as a primary until it hears of that."""
        node = self._shard(fault)
        await self._settled()
        node.stop()
        self._rewinding += 1
        try:
            await asyncio.sleep(4 * fault.seconds)
            node.go_on()
            await self._settled()
            await asyncio.sleep(WITNESS_SECONDS)
        finally:
            node.go_on()
            self._rewinding -= 1
        return self._shard_name(fault)

    async def _settled(self) -> None:
        """Returns when every node finds the cluster whole."""

        async def settled() -> bool:
            try:
                infos = [await node.command("CLUSTER", "INFO") for node in self._stage.shards]
                roles = [await node.info("replication") for node in self._stage.shards]
            except (OSError, hiredis.ReplyError):
                return False
            replicas = [role for role in roles if role["role"] == "slave"]
            return (
                all("cluster_state:ok" in info for info in infos)
                and len(replicas) == len(self._cluster.replicas)
                and all(role["master_link_status"] == "up" for role in replicas)
            )

        await eventually(settled, SETTLED_SECONDS)

    # Adding a shard

    async def roll(self, moving: bool) -> None:
        """Tells all servers, one after another, that topics may move or that they do."""
        stage = self._stage
        assert isinstance(stage, MovingStage)
        for instance in stage.instances:
            while instance in self._busy:  # noqa: ASYNC110 - there is nothing else to wait for
                await asyncio.sleep(0.05)
            self._busy.add(instance)
            try:
                began = time.monotonic()
                stage.move(instance, moving)
                await instance.drain(DRAIN_SECONDS)
                await instance.start()
                text = f"topics {'' if moving else 'may '}move, for one more server"
                self._journal.deeds.append(Deed(began, time.monotonic(), text))
            finally:
                self._busy.discard(instance)

    # The end

    async def heal(self) -> None:
        """Undoes whatever a fault that was interrupted has left behind."""
        await self._stage.heal()
        for shard in self._stage.shards:
            await self._until_done(shard, "CONFIG", "SET", OVERFLOW, "pubsub 32mb 8mb 60")
        if isinstance(self._stage, ClusterStage):
            await self._settled()


def _journal_file(shard: RedisServer) -> Path:
    """The part of the append-only file that grows."""
    (file,) = (shard.directory / "data").glob("appendonlydir/*.incr.aof")
    return file
