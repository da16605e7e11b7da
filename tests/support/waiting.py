"""Waiting for what other tasks bring about: a condition, and a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

DEADLINE = 30.0
"""Seconds that a test waits for what must happen; much longer than it takes, even on a machine
where ten others want each core: starting workers takes ten seconds there. What must not happen
before a time is another matter."""


async def until(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Waits for a condition that has no event to offer. Raises `TimeoutError`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - there is nothing else to wait for
            await asyncio.sleep(0.002)
