"""A worker's leases: it is on the roll of every shard, and knows who else is.

Renewed every third of a lease, and at once when a subscription was made anew: a shard that comes
back without its data has its roll again a moment later. See `roll` and lease.lua.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import hiredis

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_lanes import Lane, Places, lanes
from clarion_fanout.redis_scripts import LEASE
from clarion_fanout.redis_shard import Shard
from clarion_fanout.roll import WORKERS, Entry, Roll

log = logging.getLogger(__name__)


class Leases:
    """See the module's text.

    own: the worker, and what it says of itself.
    lease_s: how long it is believed to be there without a sign of life.
    timeout_s: what a shard may take to write it down.
    """

    def __init__(
        self, shards: Places, *, keys: Keys, own: Entry, lease_s: float, timeout_s: float
    ) -> None:
        self._shards = shards
        self._keys = keys
        self._own = own
        self._lease_s = lease_s
        self._timeout_s = timeout_s
        self._roll = Roll(own.id)
        self._soon = asyncio.Event()
        self._over = False
        self._told: dict[str, str] = {}

    def others(self) -> list[Entry]:
        """Who else is there, as far as is known; `renew` asks."""
        return self._roll.others(time.monotonic())

    @property
    def full(self) -> bool:
        """Whether there are more than anybody can know."""
        return self._roll.full

    def left(self, worker: str) -> None:
        """Another worker said that it leaves."""
        self._roll.leaves(worker, time.monotonic(), self._lease_s)

    def renew_soon(self) -> None:
        """Asks `run` not to wait."""
        self._soon.set()

    async def run(self) -> None:
        """Renews them in time, for ever."""
        while True:
            try:
                async with asyncio.timeout(self._lease_s / 3):
                    await self._soon.wait()
            except TimeoutError:
                pass
            self._soon.clear()
            await self.renew()

    async def renew(self) -> bool:
        """Renews all that can be, and reads the rolls. False if no shard has one for us."""
        if self._over:
            return False
        return await self._write_all(self._own, int(self._lease_s * 1000))

    async def leave(self) -> None:
        """Gives them up, where that can be done, for good."""
        self._over = True
        await self._write_all(self._own, 0)

    async def take_off(self, other: Entry) -> None:
        """Takes another worker off the roll, which is known to have ended."""
        self.left(other.id)
        await self._write_all(other, 0)

    async def _write_all(self, worker: Entry, lease_ms: int) -> bool:
        shares: dict[Shard, list[Lane]] = {}
        for lane in lanes(self._shards, self._keys):
            if lane.shard.available:
                shares.setdefault(lane.shard, []).append(lane)
        async with asyncio.TaskGroup() as group:
            written = [
                group.create_task(self._write(shard, share, worker.member, lease_ms))
                for shard, share in shares.items()
            ]
        return any(task.result() for task in written)

    async def _write(
        self, shard: Shard, share: Sequence[Lane], member: bytes, lease_ms: int
    ) -> bool:
        # The rolls of a shard's lanes say the same: one of them is read.
        calls = [
            (
                LEASE,
                [self._keys.roll(lane.suffix)],
                (member, lease_ms, int(not place), WORKERS),
            )
            for place, lane in enumerate(share)
        ]
        try:
            async with asyncio.timeout(self._timeout_s):
                replies = await shard.runs(calls)
        except (BrokerUnavailable, TimeoutError):
            return False
        roll = replies[0]
        if isinstance(roll, hiredis.ReplyError):
            self._tell(shard, str(roll))
            return False
        self._tell(shard, "")
        self._roll.read(roll, time.monotonic())
        return True

    def _tell(self, shard: Shard, trouble: str) -> None:
        """Logs what has changed, once."""
        if trouble and self._told.get(shard.name) != trouble:
            log.warning("shard %s keeps no roll of workers: %s", shard.name, trouble)
            self._told[shard.name] = trouble
        elif not trouble:
            self._told.pop(shard.name, None)
