"""The owner of a worker's background tasks.

Work that must not wait for an answer from elsewhere (a publish, a read of history, a fetch of
keys) runs in a task that belongs to one of these. Errors are logged, never lost; the end of the
owner is the end of its tasks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

log = logging.getLogger(__name__)


class Tasks:
    """Starts tasks, keeps them, and ends them with itself."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[object, object, None], name: str) -> None:
        """Runs `work` until it ends or the owner closes."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Cancels what runs and waits for it, and for what that starts on its way out."""
        while self._tasks:
            # Let each begin: one that is cancelled before leaves its inner coroutines unawaited.
            await asyncio.sleep(0)
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
