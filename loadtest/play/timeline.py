"""What happened when: a row for each second of a play, or for some of a long one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from loadtest.play.histogram import Histogram
from loadtest.play.stage import summary

ROWS = 600
"""At most: a plot has no more pixels."""

SUMS = ("published", "pending", "deliveries", "bytes", "live", "ends")


class Timeline:
    """Rows by time; times are monotonic seconds.

    seconds: how long the play will take, about.
    """

    def __init__(self, began: float, seconds: float) -> None:
        self.began = began
        self.grain = max(1, round(seconds / ROWS))
        """Seconds of a row."""
        self._rows: dict[int, dict[str, Any]] = {}
        self._latencies: dict[int, Histogram] = {}

    def row(self, at: float) -> dict[str, Any]:
        """The row of a time."""
        number = max(0, int((at - self.began) / self.grain))
        empty = {"second": number * self.grain, **dict.fromkeys(SUMS, 0), "generator": 0.0}
        return self._rows.setdefault(number, empty)

    def latencies(self, at: float) -> Histogram:
        """Those of the row of a time."""
        number = max(0, int((at - self.began) / self.grain))
        return self._latencies.setdefault(number, Histogram())

    def rows(self, at: float, seconds: float) -> Iterator[tuple[dict[str, Any], float]]:
        """The rows that a stretch of time up to `at` falls into, each with its share of it."""
        begin = max(at - seconds, self.began)
        first = int((begin - self.began) / self.grain)
        for number in range(first, int((at - self.began) / self.grain) + 1):
            low = self.began + number * self.grain
            part = min(at, low + self.grain) - max(begin, low)
            if part > 0:
                yield self.row(low + self.grain / 2), part / (at - begin)

    def document(self) -> list[dict[str, Any]]:
        """For a result."""
        return [
            self._rows[number] | summary(self._latencies.get(number, Histogram()))
            for number in sorted(self._rows)
        ]
