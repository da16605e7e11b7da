"""Namespaces with steps, whose steps do what the data says; see `jobs`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from clarion_server.pipeline.pool import Pool, PoolOptions
from clarion_server.pipeline.preparation import Preparation
from support import jobs


class Gate:
    """A file for which the job `wait` waits."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "gate"

    def __str__(self) -> str:
        return str(self._path)

    def open(self) -> None:
        self._path.touch()


class Killer:
    """Kills processes of a pool at random moments, twelve times; something is done in between."""

    def __init__(self, pool: Pool, progress: Callable[[], int], rng: random.Random) -> None:
        self.kills = 0
        self.over = False
        self._pool = pool
        self._progress = progress
        self._rng = rng

    async def run(self) -> None:
        """Until `over`, or there were enough."""
        while not self.over and self.kills < 12:
            done = self._progress()
            await asyncio.sleep(self._rng.uniform(0.005, 0.05))
            while self._progress() == done and not self.over:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            processes = list(self._pool.processes)
            if processes and not self.over:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._rng.choice(processes).pid, signal.SIGKILL)
                    self.kills += 1


class Steps:
    """The steps of a namespace, on the event loop."""

    def __init__(self, *, safe: bool) -> None:
        self.safe = safe

    def run(self, data: bytes) -> bytes:
        return jobs.job(data)


CHAINS: Mapping[str, Steps] = {
    "a": Steps(safe=False),
    "b": Steps(safe=False),
    "c": Steps(safe=True),
}
"""The steps of `a` and `b` run in the pool, those of `c` need not."""


@asynccontextmanager
async def preparing(**options: float) -> AsyncIterator[Preparation]:
    """Runs the steps of these; data may have 100,000 bytes before, and 1,000 where there are none.
    The options are the pool's."""
    pool = Pool(jobs.make, PoolOptions(**options))  # type: ignore[arg-type]
    try:
        yield Preparation(
            CHAINS,
            configured={"default": None, "plain": None, **CHAINS},
            pool=pool,
            data_bytes=1000,
            input_bytes=100_000,
        )
    finally:
        await pool.close()
