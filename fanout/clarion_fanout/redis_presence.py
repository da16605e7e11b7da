"""Presence over Redis shards: a topic's members on the shard that the topic belongs to.

Telling        A call for each topic where something has changed (presence.lua), all of a shard's
               together, `ROOMS` of them and `CHANGES` changes at most. While one such flight is on
               its way what changes waits for the next, so flights grow with the load, the shard
               always has room for publishes in between, and one that is away holds up no other.
Leases         Each call holds the worker's lease in its topic, for all of its members together.
               Where nothing changes, the leases of many topics are renewed by one call, three times
               each (presence_renew.lua).
Others' ends   The same calls remove members of workers whose lease has ended, some at a time, and
               announce it. Redis does one call after another, so it happens once.
Outages        What got no answer is told again. A shard that is away for longer than a lease is
               told everything anew when it is back, and until then nothing is noted for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from typing import cast

import hiredis

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.presence import Keeping, PresencePage
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_presence_reader import PresenceReader
from clarion_fanout.redis_room import CountRoom, House, MemberRoom, Room
from clarion_fanout.redis_scripts import PRESENCE_RENEW
from clarion_fanout.redis_shards import Shards
from clarion_fanout.redis_wire import Reply
from clarion_fanout.tasks import Tasks

log = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
"""How long members outlive a worker that died: a moment for people, and long enough that neither a
busy loop nor a failover ends a lease. 10,000 topics take 2 to 3 % of Redis' time to renew."""

ROOMS = 250
"""Topics of one flight: some 3 ms of Redis' time, for which a publish may have to wait."""

LEASES = 50
"""Leases that are renewed by one call, where one call may be about several topics: 0.3 ms."""

CHANGES = 500
"""Likewise, changes of one flight, of all its topics together: 2 ms."""

TICK_SECONDS = 0.1
"""How often leases are looked at."""

PAUSE_SECONDS = 0.25
"""Before another attempt at a shard that is away."""

COMPLAINT_SECONDS = 60.0
"""Between two lines in the log about calls that Redis refuses: each is made again soon."""

CLOSE_SECONDS = 2.0
"""For telling what is left in the end: 100,000 departures take one."""


class RedisPresence:
    """The `Presence` over `shards`, which somebody else starts. See the module's text.

    worker: names this process among all that share the shards, as clients are named. It stands in
        each entry, so it should be short.
    keeps: what is kept of a topic.
    timeout_s: the deadline of a question.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        keys: Keys,
        worker: str,
        keeps: Callable[[str], Keeping],
        lease_s: float = LEASE_SECONDS,
        timeout_s: float = 2.0,
    ) -> None:
        self._shards = shards
        self._keeps = keeps
        self._lease_s = lease_s
        # In a cluster each topic has a slot of its own.
        self._together = not shards.sharded
        publish = b"SPUBLISH" if shards.sharded else b"PUBLISH"
        self._house = House(keys, worker.encode(), max(1, int(lease_s * 1000)), publish)
        self._tasks = Tasks()
        self._rooms: OrderedDict[str, Room] = OrderedDict()  # the longest unrenewed first
        # By shard: rooms that have something to tell.
        self._due: dict[str, dict[Room, None]] = {}
        self._refused: deque[Room] = deque()  # of which Redis answered an error
        self._away: dict[str, float] = {}  # shards, and since when
        self._cut_off: set[str] = set()  # those of them for which nothing is noted
        self._flying: set[str] = set()  # shards that somebody flies to
        self._landed = asyncio.Event()
        self._landed.set()
        self._reader = PresenceReader(
            shards, keys=keys, keeps=keeps, settled=self._settled, timeout_s=timeout_s
        )
        self._complained = float("-inf")
        self._closing = False
        self._closed = False
        self.members = 0
        self.announced = 0
        self.removed = 0
        self.failures = 0

    @property
    def topics(self) -> int:
        """Topics with members of this worker, or with something to tell."""
        return len(self._rooms)

    async def start(self) -> None:
        self._tasks.start(self._renew(), "presence leases")

    async def close(self) -> None:
        self._closing = True
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._landed.wait()
        except TimeoutError:
            log.warning("departures could not be told in time; they show when the lease is over")
        self._closed = True
        await self._reader.close()
        await self._tasks.close()

    # Coming and going

    def enter(self, topic: str, client: str, user: str | None) -> None:
        room = self._rooms.get(topic)
        if room is None:
            room = self._rooms[topic] = self._room(topic)
        room.enter(client, user)
        self.members += 1
        self._changed(room)

    def leave(self, topic: str, client: str) -> None:
        room = self._rooms[topic]
        room.leave(client)
        self.members -= 1
        self._changed(room)

    def _room(self, topic: str) -> Room:
        keeping = self._keeps(topic)
        room: Room
        if keeping == "count":
            room = CountRoom(topic, self._house)
        else:
            room = MemberRoom(topic, self._house, announced=keeping == "events")
        room.renewed = time.monotonic()
        return room

    def _changed(self, room: Room) -> None:
        if room.shard in self._cut_off:
            self._stop_noting(room)
        else:
            self._mark(room)

    def _stop_noting(self, room: Room) -> None:
        room.doubt()
        if not room.size:
            # What Redis may have of it is over with the lease.
            self._forget(room)

    def _forget(self, room: Room) -> None:
        self._rooms.pop(room.topic, None)
        self._due.get(room.shard, {}).pop(room, None)

    # Telling

    def _mark(self, room: Room) -> None:
        """Sees to it that a room's shard is called."""
        if room.aloft or self._closed:
            return  # it is looked at again when it lands
        try:
            name = self._shards.of(room.topic).name
        except BrokerUnavailable:
            name = ""  # a cluster that does not know; it will say so, or know by then
        if name != room.shard:
            if room.shard:
                self._due[room.shard].pop(room, None)
                room.doubt()  # the other one knows nothing of it, or what it knew long ago
            room.shard = name
        self._due.setdefault(name, {})[room] = None
        if name not in self._flying:
            self._flying.add(name)
            self._landed.clear()
            self._tasks.start(self._fly(name), f"presence at shard {name}")

    async def _fly(self, name: str) -> None:
        """Tells a shard what there is, a flight at a time, until there is nothing left."""
        due = self._due[name]
        try:
            while due:
                if await self._flight(name, due):
                    self._away.pop(name, None)
                    self._cut_off.discard(name)
                elif self._closing:
                    return
                else:
                    self._note_outage(name, due)
                    await asyncio.sleep(PAUSE_SECONDS)
        finally:
            self._flying.discard(name)
            if not self._flying:
                self._landed.set()

    async def _flight(self, name: str, due: dict[Room, None]) -> bool:
        """Calls for some of the rooms; says whether the shard answered."""
        reign = self._reign(name)
        quiet: list[Room] = []
        rooms: list[Room] = []
        commands: list[tuple[str, bytes]] = []
        work = 0
        for room in list(islice(due, ROOMS)):
            del due[room]
            if self._together and room.quiet(reign):
                quiet.append(room)
                continue
            packed, pieces = room.load(max(1, CHANGES - work), reign)
            rooms.append(room)
            commands.append((room.topic, packed))
            work += pieces
            if work >= CHANGES:
                break
        groups = [quiet[start : start + LEASES] for start in range(0, len(quiet), LEASES)]
        commands += [(group[0].topic, self._packed_renewal(group)) for group in groups]
        outcomes: list[Reply | BrokerUnavailable] = []
        try:
            outcomes = await self._shards.send(commands)
        finally:
            if not outcomes:
                for room in rooms + quiet:
                    room.lost(BrokerUnavailable("the server is ending"))
        calls = zip(rooms, outcomes[: len(rooms)], strict=True)
        answered = [self._take(room, outcome) for room, outcome in calls]
        for group, outcome in zip(groups, outcomes[len(rooms) :], strict=True):
            answered.append(self._take_renewal(group, outcome))
        return any(answered)

    def _packed_renewal(self, rooms: list[Room]) -> bytes:
        house = self._house
        keys = [key for room in rooms for key in room.renew()]
        return PRESENCE_RENEW.packed(keys, (house.worker, house.lease_ms, house.kept_ms))

    def _reign(self, name: str) -> bytes:
        return next((shard.reign for shard in self._shards.all() if shard.name == name), b"")

    def _take(self, room: Room, outcome: Reply | BrokerUnavailable) -> bool:
        """What became of a room's call; says whether it was answered."""
        if isinstance(outcome, BrokerUnavailable | hiredis.ReplyError):
            self._failed(room, outcome)
            return not isinstance(outcome, BrokerUnavailable)
        landing = room.landed(outcome)
        self.announced += landing.announced
        self.removed += landing.removed
        self._go_on(room, landing.again or room.unsettled)
        return True

    def _take_renewal(self, rooms: list[Room], outcome: Reply | BrokerUnavailable) -> bool:
        """Likewise, of the call that renews the leases of several."""
        if isinstance(outcome, BrokerUnavailable):
            for room in rooms:
                self._failed(room, outcome)
            return False
        if isinstance(outcome, hiredis.ReplyError):
            # It may be about one of them: each has a call of its own next.
            irregular = set(range(1, len(rooms) + 1))
        else:
            irregular = set(cast("list[int]", outcome))
        for place, room in enumerate(rooms, 1):
            room.lease_renewed(place not in irregular)
            self._go_on(room, place in irregular or room.unsettled)
        return True

    def _go_on(self, room: Room, more: bool) -> None:
        """Calls again if there is more to do, or forgets the room when all is done."""
        if self._rooms.get(room.topic) is not room:
            pass  # forgotten meanwhile
        elif more:
            self._mark(room)
        elif room.over:
            self._forget(room)

    def _failed(self, room: Room, error: BrokerUnavailable | hiredis.ReplyError) -> None:
        """A call was not answered, or with an error."""
        self.failures += 1
        if isinstance(error, BrokerUnavailable):
            room.lost(error)
            if self._rooms.get(room.topic) is room:
                self._changed(room)
        else:
            now = time.monotonic()
            if now - self._complained > COMPLAINT_SECONDS:
                self._complained = now
                log.warning("presence of %s: shard %s answered %s", room.topic, room.shard, error)
            room.lost(BrokerUnavailable(f"the topic's shard answered {error}"))
            self._refused.append(room)

    def _note_outage(self, name: str, due: dict[Room, None]) -> None:
        now = time.monotonic()
        since = self._away.setdefault(name, now)
        if now - since > self._lease_s and name not in self._cut_off:
            self._cut_off.add(name)
            for room in list(due):
                self._stop_noting(room)

    async def _renew(self) -> None:
        """Sees to it that each room is called three times a lease, all of them evenly spread."""
        interval = self._lease_s / 3
        while True:
            await asyncio.sleep(min(TICK_SECONDS, interval / 4))
            for _ in range(min(ROOMS, len(self._refused))):
                room = self._refused.popleft()
                if self._rooms.get(room.topic) is room:
                    self._changed(room)
            now = time.monotonic()
            # After an outage all are due together; twice the usual pace draws them apart again.
            most = 50 + int(2 * len(self._rooms) * TICK_SECONDS / interval)
            for room in list(islice(self._rooms.values(), most)):
                if now - room.renewed < interval:
                    break
                room.renewed = now
                self._rooms.move_to_end(room.topic)
                self._mark(room)

    # Reading

    async def read(self, topic: str, limit: int, after: str = "") -> PresencePage:
        return await self._reader.read(topic, limit, after)

    async def _settled(self, topic: str) -> None:
        """Returns when all that changed in a topic before was told. Raises `BrokerUnavailable`."""
        room = self._rooms.get(topic)
        if room is not None and room.unsettled:
            await room.settled()
