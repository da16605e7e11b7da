"""What the kernel knows about this process: memory, processor time, open files.

Reading it takes milliseconds (PSS 10 us a megabyte, open files 0.7 us each, so 14 ms with 20,000
connections), which is why it happens in a thread and not at every scrape. On systems without
/proc there is less to say, or nothing; it is never an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric

KEPT_SECONDS = 5.0
"""How long a reading is used. Below the usual scrape interval, above what several scrapers cost."""


class Process:
    """See the module's text.

    clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._read_at: float | None = None
        self._lock = asyncio.Lock()
        self._collector = ProcessCollector(registry=None)
        self.samples: Sequence[Metric] = ()
        """Of the last reading: the customary `process_` metrics."""
        self.pss: int | None = None
        """Proportional set size in bytes: memory shared with other workers counts in part. None
        where the kernel does not say."""

    async def refresh(self) -> None:
        """Reads anew if the last reading is older than `KEPT_SECONDS`."""
        async with self._lock:
            now = self._clock()
            if self._read_at is None or now - self._read_at >= KEPT_SECONDS:
                self._read_at = now
                self.samples, self.pss = await asyncio.to_thread(self._read)

    def _read(self) -> tuple[Sequence[Metric], int | None]:
        return list(self._collector.collect()), pss_bytes()


def pss_bytes(path: str = "/proc/self/smaps_rollup") -> int | None:
    """The proportional set size that the file at `path` states; None without one."""
    try:
        with open(path, encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
