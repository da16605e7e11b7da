"""All inboxes that there are, and this worker's part in them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from clarion_fanout.preparer import Preparer
from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_inbox import Inbox, InboxOptions
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_place import Place
from clarion_fanout.tasks import Tasks


class Inboxes:
    """Begin after the broker has, and end before it.

    worker: names this process among all that share the broker.
    prepare: see `Inbox`.
    """

    def __init__(
        self,
        broker: RedisBroker,
        *,
        keys: Keys,
        worker: str,
        options: InboxOptions,
        prepare: Callable[[Callable[[], object]], Preparer] | None = None,
    ) -> None:
        shards = broker.shards
        self._options = options
        self._tasks = Tasks()
        self.all: Sequence[Inbox] = [
            Inbox(
                Place(shards, keys, keys.inbox, shard),
                dead=Place(shards, keys, keys.dead, shard),
                worker=worker,
                broker=broker,
                keys=keys,
                options=options,
                owned=lambda: self.owned,
                prepare=prepare,
            )
            for shard in ([None] if shards.sharded else shards.all())
        ]

    @property
    def owned(self) -> int:
        """How many of them are this worker's now."""
        return sum(inbox.owner for inbox in self.all)

    def start(self) -> None:
        for inbox in self.all:
            self._tasks.start(inbox.run(), f"inbox of {inbox.name}")

    async def close(self) -> None:
        """Finishes what is at hand and leaves the inboxes to other workers."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._options.timeout_s), asyncio.TaskGroup() as group:
                for inbox in self.all:
                    group.create_task(inbox.leave())
        await self._tasks.close()
