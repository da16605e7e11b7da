"""All timers of all connections, in one structure: a hashed wheel with lazy entries.

A connection stands in one bucket: that of the next moment when somebody must look at it. Activity
moves nothing; it only notes the current tick. When the bucket's turn comes, the entry is asked,
and says when to ask again. So a busy connection costs one look per keep-alive interval, and a
silent one costs the same.

Scheme 6 of Varghese and Lauck, "Hashed and hierarchical timing wheels" (SOSP 1987), with the
re-insertion on expiry that keep-alive timers allow. Time comes from outside, as a tick number.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Protocol

log = logging.getLogger(__name__)

TICK_SECONDS = 0.1
"""The resolution: deadlines here are seconds, and ten looks at an empty bucket cost nothing."""

BUCKETS = 512
"""51 seconds ahead. What is due later, which is rare, waits once more on the way."""

ABSENT = -1
"""In place of a bucket: not in the wheel."""


class Entry(Protocol):
    """Something with a deadline. Hashable by identity.

    `bucket` is the wheel's: begin with `ABSENT`.
    """

    bucket: int

    def due(self, now: int) -> int:
        """Does what is due at tick `now`; returns in how many ticks to ask again, or 0 for never.

        If it calls `move` for itself, that holds and what it returns does not.
        """
        ...


def ticks(seconds: float) -> int:
    """The number of ticks that are not shorter than `seconds`; at least one."""
    return max(1, -int(-seconds // TICK_SECONDS))


class Wheel:
    """See the module's text. An entry is in it once, or not at all."""

    def __init__(self) -> None:
        self.now = 0
        """The current tick."""
        self._buckets: list[set[Entry]] = [set() for _ in range(BUCKETS)]
        self._far: dict[Entry, int] = {}
        """The ticks of those that are due later than the buckets reach."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Entry]:
        for bucket in self._buckets:
            yield from list(bucket)

    def add(self, entry: Entry, after: int) -> None:
        """Asks `entry`, which is absent, in `after` ticks, at least one."""
        if after >= BUCKETS:
            self._far[entry] = self.now + after
            after = BUCKETS - 1
        entry.bucket = (self.now + max(after, 1)) % BUCKETS
        self._buckets[entry.bucket].add(entry)
        self._size += 1

    def remove(self, entry: Entry) -> None:
        """Takes `entry` out. It may be absent."""
        if entry.bucket != ABSENT:
            self._buckets[entry.bucket].remove(entry)
            entry.bucket = ABSENT
            self._size -= 1
            self._far.pop(entry, None)

    def move(self, entry: Entry, after: int) -> None:
        """Asks `entry`, which may be absent, in `after` ticks and not before."""
        self.remove(entry)
        self.add(entry, after)

    def advance(self, now: int) -> None:
        """Lets time pass to tick `now` and asks everyone who is due."""
        # After a long stall one full turn has met everybody.
        self.now = max(self.now, now - BUCKETS)
        while self.now < now:
            self.now += 1
            # What is added from here on is due in another bucket, at least one tick ahead.
            bucket = self._buckets[self.now % BUCKETS]
            while bucket:
                entry = bucket.pop()
                entry.bucket = ABSENT
                self._size -= 1
                left = self._far.pop(entry, 0) - self.now
                if left > 0:
                    self.add(entry, left)
                    continue
                try:
                    after = entry.due(self.now)
                except Exception:
                    # One entry's fault must not leave the rest of the bucket for a whole turn.
                    log.exception("a timer failed")
                    after = ticks(1)
                if after and entry.bucket == ABSENT:
                    self.add(entry, after)
