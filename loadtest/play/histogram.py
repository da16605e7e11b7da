"""Many values in little room: log-linear buckets, as in an HDR histogram.

A value below 256 has a bucket of its own; above, each power of two is cut into 128, so that a
percentile is at most 1/128 (0.8 %) above the true value, whatever its size. Values are whole
nanoseconds here. Histograms of several processes and seconds are added bucket by bucket, which
loses nothing: percentiles of percentiles would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

FINE_BITS = 7
LONGEST = (1 << 41) - 1
"""36 minutes in ns. What is longer counts as this long."""


def bucket(value: int) -> int:
    """The number of the bucket that holds `value`, 0 to LONGEST."""
    shift = value.bit_length() - FINE_BITS - 1
    return value if shift <= 0 else (shift << FINE_BITS) + (value >> shift)


def upper(number: int) -> int:
    """The largest value that a bucket holds."""
    shift = (number >> FINE_BITS) - 1
    if shift <= 0:
        return number
    return ((number - (shift << FINE_BITS) + 1) << shift) - 1


BUCKETS = bucket(LONGEST) + 1


class Histogram:
    """Counts by bucket; sparse, as most of them are empty."""

    def __init__(self, counts: Mapping[int, int] | Iterable[tuple[int, int]] = ()) -> None:
        self.counts: dict[int, int] = {}
        self.add(counts)

    def record(self, value: int) -> None:
        place = bucket(min(max(0, value), LONGEST))
        self.counts[place] = self.counts.get(place, 0) + 1

    def add(self, counts: Mapping[int, int] | Iterable[tuple[int, int]]) -> None:
        """Adds what another one counted."""
        for place, count in counts.items() if isinstance(counts, Mapping) else counts:
            self.counts[place] = self.counts.get(place, 0) + count

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def percentile(self, share: float) -> float:
        """The value that `share` (0-1) of all do not exceed; nan when there is none."""
        left = share * self.total
        for place in sorted(self.counts):
            left -= self.counts[place]
            if left <= 0:
                return float(upper(place))
        return float(upper(max(self.counts))) if self.counts else float("nan")

    def pairs(self) -> list[tuple[int, int]]:
        """What a JSON document keeps: (bucket, count), in order."""
        return sorted(self.counts.items())
