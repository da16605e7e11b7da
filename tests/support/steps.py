"""Namespaces with steps, whose steps do what the data says; see `jobs`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from clarion_server.pipeline.pool import Pool, PoolOptions
from clarion_server.pipeline.preparation import Preparation
from support import jobs


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
