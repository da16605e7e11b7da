"""Durations as the watchers of the event loop keep them: a histogram, and the worst of late.

Plain integers and floats, no clock: the time comes with each call, in seconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

RECENT_SECONDS = 60.0
"""How far back "the worst of late" looks: longer than the usual scrape interval of 15 to 30 s, so
that no stop falls between two scrapes, however many scrapers there are."""

SLOT_SECONDS = 5.0
"""The grain of it: what leaves does so within this much after `RECENT_SECONDS`."""

_SLOTS = int(RECENT_SECONDS / SLOT_SECONDS) + 1


class Histogram:
    """Counts durations by size.

    bounds: upper bounds of the buckets in seconds, ascending; a bound belongs to its bucket, as
        Prometheus has it. What is longer than the last goes into one more bucket.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        """The sum of all durations, seconds."""

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


class Worst:
    """The longest duration of the last `RECENT_SECONDS`, up to `SLOT_SECONDS` more."""

    __slots__ = ("_longest", "_slots")

    def __init__(self) -> None:
        # A ring: when a slot's time comes again, what it held is older than anybody asks for.
        self._slots = [0] * _SLOTS
        self._longest = [0.0] * _SLOTS

    def add(self, now: float, seconds: float) -> None:
        slot = int(now / SLOT_SECONDS)
        place = slot % _SLOTS
        if self._slots[place] != slot:
            self._slots[place] = slot
            self._longest[place] = seconds
        elif seconds > self._longest[place]:
            self._longest[place] = seconds

    def get(self, now: float) -> float:
        """Seconds; 0 when there was nothing."""
        oldest = int(now / SLOT_SECONDS) - _SLOTS
        pairs = zip(self._slots, self._longest, strict=True)
        return max((longest for slot, longest in pairs if slot > oldest), default=0.0)
