"""The owner of tasks: `asyncio.TaskGroup` for Python 3.10, without the block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


class Tasks:
    """Starts tasks, keeps them, and ends them with itself.

    failed: is told what a task raised; a task does not end in silence.
    """

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        """Runs `work` until it ends or the owner closes."""
        task = asyncio.get_running_loop().create_task(self._run(work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Cancels what runs, and waits for it."""
        me = asyncio.current_task()
        while tasks := [task for task in self._tasks if task is not me]:
            # Let each begin: one that is cancelled before leaves its inner coroutine unawaited.
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, work: Coroutine[object, object, None]) -> None:
        try:
            await work
        except Exception as error:
            self._failed(error)
