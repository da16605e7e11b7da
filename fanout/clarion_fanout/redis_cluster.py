"""The nodes of a Redis Cluster as shards: a topic is at the primary that has its channel's slot.

Where the slots are any node can tell, and it changes: operators move slots, replicas take the place
of their primaries. We ask at the start and every half a minute; soon, when something looks as if it
had changed (a node is gone, or has ended a subscription); and a node that is asked for what it does
not have says where that is, which is heeded at once. `redis_slots` has the table, and moves those
who listen along with their slots; they hear that they were subscribed anew, and read what they
missed. While a slot is on its way its subscriptions stay at the old node, until that ends them.

What a node answers in place of an answer:

    MOVED        the slot is elsewhere: sent there
    ASK          this key is on its way or gone already: sent to the new node, this once. What a
                 script publishes there nobody hears, as all still listen at the old one; so those
                 are told to look at the stream
    TRYAGAIN     some keys of a script are here and some there: sent again a moment later
    CLUSTERDOWN  nobody has the slot, or too few nodes can see each other: refused

Each primary that has slots is a shard, named `host:port`. Its probe has a channel in one of them.

With TLS, nodes are known by what they announce: give them names that are in their certificates
(`cluster-announce-hostname`, `cluster-preferred-endpoint-type hostname`), or the URL
`?ssl_check_hostname=false`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from binascii import crc_hqx
from collections import defaultdict
from collections.abc import Sequence
from itertools import count
from typing import NamedTuple, NoReturn

import hiredis

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_address import Address, Location
from clarion_fanout.redis_intake import pause
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_layout import ask_layout, name_of
from clarion_fanout.redis_list import Fixed
from clarion_fanout.redis_scripts import SCRIPTS
from clarion_fanout.redis_sending import send_each
from clarion_fanout.redis_shard import Shard, ShardOptions
from clarion_fanout.redis_slots import SLOTS, Slots, slot_of
from clarion_fanout.redis_wire import Reply, pack
from clarion_fanout.tasks import Tasks

log = logging.getLogger(__name__)

REFRESH_SECONDS = 30.0
"""About how often we ask where the slots are, when all is well: a backstop."""

WATCH_SECONDS = 1.0
"""About how often, as long as a node is away or slots are nobody's: a failover takes seconds."""

NEWS_SECONDS = (0.1, 2.0)
"""The bounds of the pause between two questions: it grows while the answers bring nothing new.
Hundreds of workers ask at such a time."""

SENDINGS = 6
"""How often a command is sent on or again, at most."""

AGAIN_SECONDS = (0.01, 0.2)
"""The bounds of the pause before that, from the second time on. A key takes some milliseconds."""

LOOK = b"!"
"""What a channel's listeners are told so that they look at the stream; see seal.lua."""


class _Node(NamedTuple):
    """A node's shard, and its tasks: they end with the node."""

    shard: Shard
    tasks: Tasks


class ShardCluster(Fixed):
    """See the module's text. location: any nodes of the cluster. worker: names this process."""

    sharded = True

    def __init__(
        self, location: Location, *, keys: Keys, worker: str, options: ShardOptions
    ) -> None:
        self._seeds = location.addresses
        self._addresses = list(self._seeds)
        self._keys = keys
        self._worker = worker
        self._options = options
        # Of the names of channels, up to where the topics begin.
        self._crc = crc_hqx(keys.channel(""), 0)
        self._nodes: dict[str, _Node] = {}
        self._leaving: set[_Node] = set()
        self._probes: dict[Shard, bytes] = {}
        self._incomplete = asyncio.Event()
        self._incomplete.set()
        nobody = Shard(
            "nobody",
            self._nowhere,
            options=options,
            scripts=(),
            probe_channel=lambda: None,
            slot_of=slot_of,
        )
        self._nobody = nobody
        self._slots = Slots(nobody, home=self._home, left=self._leave)
        self._tasks = Tasks()
        self._news = asyncio.Event()
        self._later: asyncio.TimerHandle | None = None  # news, in a while
        self._trouble_told = ""
        self.redirections = 0
        """Commands that were sent on to another node, or again."""
        self.refreshes = 0
        """Answers about where the slots are."""

    async def start(self, tasks: Tasks) -> None:
        await self._refresh()
        self._nobody.start(self._tasks)
        tasks.start(self._keep(), "cluster layout")
        async with asyncio.TaskGroup() as group:
            for shard in self.all():
                group.create_task(shard.tried())

    async def close(self) -> None:
        if self._later is not None:
            self._later.cancel()
        async with asyncio.TaskGroup() as group:
            for node in self._nodes.values():
                group.create_task(_end(node))
        await self._tasks.close()
        async with asyncio.TaskGroup() as group:
            for node in self._leaving:
                group.create_task(_end(node))
            group.create_task(self._nobody.close())

    def all(self) -> Sequence[Shard]:
        return list(self._slots.homes)

    def of(self, topic: str) -> Shard:
        return self._slots.owners[crc_hqx(topic.encode(), self._crc) % SLOTS]

    # Commands

    async def send(
        self, commands: Sequence[tuple[str, bytes]], *, follow: bool = True
    ) -> list[Reply | BrokerUnavailable]:
        shards = [self.of(topic) for topic, _ in commands]
        outcomes = await send_each(shards, commands)
        # Each costs 30 ns, and most batches have no error.
        if hiredis.ReplyError in map(type, outcomes):
            await self._redirect(commands, shards, outcomes, follow)
        return outcomes

    async def _redirect(
        self,
        commands: Sequence[tuple[str, bytes]],
        shards: list[Shard],
        outcomes: list[Reply | BrokerUnavailable],
        follow: bool,
    ) -> None:
        """Sends on, or again, what was refused for a reason that may pass."""
        deadline = time.monotonic() + self._options.timeout_s
        left: Sequence[int] = range(len(commands))
        for attempt in count():
            again: list[int] = []
            asked: dict[Shard, list[int]] = defaultdict(list)
            for place in left:
                if type(outcomes[place]) is hiredis.ReplyError:
                    self._sort(place, shards[place], outcomes, again, asked, follow)
            left = sorted([*again, *(place for places in asked.values() for place in places)])
            if not left:
                return
            if attempt == SENDINGS or time.monotonic() > deadline:
                for place in left:
                    outcomes[place] = BrokerUnavailable("the topic's slot is moving")
                return
            self.redirections += len(left)
            if attempt:
                await asyncio.sleep(pause(AGAIN_SECONDS, attempt - 1))
            for shard, places in asked.items():
                await self._ask(shard, places, commands, shards, outcomes, follow)
            if again:
                for place in again:
                    shards[place] = self.of(commands[place][0])
                replies = await send_each(
                    [shards[place] for place in again], [commands[place] for place in again]
                )
                for place, reply in zip(again, replies, strict=True):
                    outcomes[place] = reply

    def _sort(
        self,
        place: int,
        shard: Shard,
        outcomes: list[Reply | BrokerUnavailable],
        again: list[int],
        asked: dict[Shard, list[int]],
        follow: bool,
    ) -> None:
        """Says what is to be done about an error."""
        error = str(outcomes[place])
        kind, _, rest = error.partition(" ")
        if (kind == "MOVED" and follow) or kind == "TRYAGAIN":
            again.append(place)
        elif kind == "ASK":
            _, _, there = rest.partition(" ")
            asked[self._home(name_of(there, shard.address))].append(place)
        elif kind == "CLUSTERDOWN":
            self._news.set()
            outcomes[place] = BrokerUnavailable(f"node {shard.name} answered {error}")

    async def _ask(
        self,
        shard: Shard,
        places: Sequence[int],
        commands: Sequence[tuple[str, bytes]],
        shards: Sequence[Shard],
        outcomes: list[Reply | BrokerUnavailable],
        follow: bool,
    ) -> None:
        """Sends to a node what belongs to a slot that it does not have yet."""
        try:
            replies = await shard.sends([commands[place][1] for place in places], asking=True)
        except BrokerUnavailable as error:
            replies = [BrokerUnavailable(str(error), error.retry_ms) for _ in places]
        for place, reply in zip(places, replies, strict=True):
            outcomes[place] = reply
        if follow:
            return
        looking = {
            commands[place][0]: shards[place]
            for place, reply in zip(places, replies, strict=True)
            if type(reply) not in (BrokerUnavailable, hiredis.ReplyError)
        }
        await send_each(
            list(looking.values()),
            [(topic, pack(("SPUBLISH", self._keys.channel(topic), LOOK))) for topic in looking],
        )

    # Where the slots are

    def _learn(self, where: str, shard: Shard) -> None:
        """A node has said where a slot is that it does not have."""
        slot, _, there = where.partition(" ")
        self._slots.learn(int(slot), name_of(there, shard.address), time.monotonic())
        self._changed()
        if self._later is None:
            # It is one of many, perhaps, and the rest will be learned of all at once.
            delay = random.uniform(0.5, 1.5) * WATCH_SECONDS
            self._later = asyncio.get_running_loop().call_later(delay, self.refresh_soon)

    def refresh_soon(self) -> None:
        """Asks where the slots are; if that was asked just now, a moment later."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._news.set()

    def _doubt(self, shard: Shard) -> None:
        if shard in self._slots.homes:
            self._news.set()

    async def _keep(self) -> NoReturn:
        """Asks where the slots are, for ever."""
        quiet = 0
        while True:
            well = self._slots.complete and all(shard.available for shard in self._slots.homes)
            seconds = random.uniform(0.75, 1.25) * (REFRESH_SECONDS if well else WATCH_SECONDS)
            try:
                async with asyncio.timeout(seconds):
                    await self._news.wait()
            except TimeoutError:
                quiet = 0
            self._news.clear()
            quiet = 0 if await self._refresh() else quiet + 1
            await asyncio.sleep(pause(NEWS_SECONDS, quiet))

    async def _refresh(self) -> bool:
        """Asks where the slots are; says whether that has changed."""
        try:
            layout = await ask_layout(
                self._addresses, self._options.timeout_s, first=not self._nodes
            )
        except OSError as error:
            self._tell(f"nobody can say where its slots are: {error.strerror or error}")
            return False
        self.refreshes += 1
        self._addresses = list(dict.fromkeys([*self._seeds, *map(self._address, layout.nodes)]))
        news = self._slots.adopt(layout.ranges)
        for node in list(self._nodes.values()):
            if node.shard not in self._slots.homes:  # it was asked about a slot on its way
                self._leave(node.shard)
        self._changed()
        self._tell("" if self._slots.complete else "some of its slots are nobody's")
        return news

    def _changed(self) -> None:
        if self._slots.complete:
            self._incomplete.clear()
        else:
            self._incomplete.set()

    def _tell(self, trouble: str) -> None:
        """Logs what has changed, once."""
        if trouble and trouble != self._trouble_told:
            log.warning("cluster: %s", trouble)
        elif self._trouble_told and not trouble:
            log.info("cluster: every slot is some node's again")
        self._trouble_told = trouble

    # Nodes

    def _address(self, name: str) -> Address:
        host, _, port = name.rpartition(":")
        return self._seeds[0].at(host, int(port))

    def _home(self, name: str) -> Shard:
        """The shard of a node."""
        node = self._nodes.get(name)
        if node is None:
            address = self._address(name)

            async def there() -> Address:
                return address

            def moved(where: str) -> None:
                self._learn(where, shard)

            shard = Shard(
                name,
                there,
                options=self._options,
                scripts=SCRIPTS,
                probe_channel=lambda: self._probe_channel(shard),
                slot_of=slot_of,
                moved=moved,
                doubt=lambda: self._doubt(shard),
            )
            node = self._nodes[name] = _Node(shard, Tasks())
            shard.start(node.tasks)
        return node.shard

    async def _nowhere(self) -> Address:
        """Where slots are that no node has."""
        await self._incomplete.wait()
        raise OSError("no node has its slots")

    def _probe_channel(self, shard: Shard) -> bytes | None:
        """A channel in one of a shard's slots."""
        owners = self._slots.owners
        channel = self._probes.get(shard)
        if channel is not None and owners[slot_of(channel)] is shard:
            return channel
        if shard not in self._slots.homes:
            return None
        # Some three attempts; where a node has a single slot of all, some 16,384, or 4 ms.
        crc = crc_hqx(self._keys.probe(self._worker, 0)[:-1], 0)
        number = next(n for n in count() if owners[crc_hqx(b"%d" % n, crc) % SLOTS] is shard)
        channel = self._probes[shard] = self._keys.probe(self._worker, number)
        return channel

    def _leave(self, shard: Shard) -> None:
        """A node has no slots any more. It may still answer what it was asked."""
        node = self._nodes.pop(shard.name)
        self._probes.pop(shard, None)
        self._leaving.add(node)
        self._tasks.start(self._part(node), f"end of shard {shard.name}")

    async def _part(self, node: _Node) -> None:
        await asyncio.sleep(self._options.timeout_s)
        await _end(node)
        self._leaving.discard(node)


async def _end(node: _Node) -> None:
    await node.tasks.close()
    await node.shard.close()
