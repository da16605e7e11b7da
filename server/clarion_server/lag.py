"""How late the event loop is: the time between when a timer was due and when it ran.

Whatever keeps the loop busy, a long callback, a collection of garbage, a machine without a free
core, makes everything else wait, and this is where it shows. A stop of S seconds is seen for
certain when it is longer than the interval between two looks, and with a probability of
S / interval when it is shorter; the lateness seen is between nothing and S.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

from clarion_server.timing import Histogram, Worst

INTERVAL_SECONDS = 0.05
"""Between two looks. Twenty wake-ups a second cost 0.03 % of a core; stops that a person would
notice, 50 ms and more, are all seen."""

BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Of the histogram, seconds. libuv's timers have a grain of 1 ms, so nothing finer is there."""

OVERLOADED_SECONDS = 0.5
"""The lateness at which a worker is no use to new clients: half of what a person waits for."""

OVERLOADED_FOR_SECONDS = 5.0
"""How long it must last without a break before readiness says so. A burst of reconnects passes
sooner; taking a worker out for one would move the burst to its neighbours."""


class Lag:
    """See the module's text.

    clock: seconds, monotonic. Not the loop's own: uvloop reads that once a turn, before the
        callbacks whose time is to be measured.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._late_since: float | None = None
        self._recent = Worst()
        self.histogram = Histogram(BOUNDS)

    async def run(self) -> NoReturn:
        """Looks, until it is cancelled."""
        clock = self._clock
        while True:
            due = clock() + INTERVAL_SECONDS
            await asyncio.sleep(INTERVAL_SECONDS)
            now = clock()
            self.note(now, now - due)

    def note(self, now: float, late: float) -> None:
        """Takes one look: at `now` the loop was `late` seconds late. libuv may be early."""
        late = max(late, 0.0)
        self.histogram.add(late)
        self._recent.add(now, late)
        if late <= OVERLOADED_SECONDS:
            self._late_since = None
        elif self._late_since is None:
            # Late already at the moment it was due.
            self._late_since = now - late

    def worst(self, now: float) -> float:
        """The longest lateness of about the last minute, seconds."""
        return self._recent.get(now)

    def reasons(self, now: float) -> list[str]:
        """Why the worker should get no new clients; empty when it may."""
        since = self._late_since
        if since is None or now - since < OVERLOADED_FOR_SECONDS:
            return []
        return [
            f"the event loop is late by more than {OVERLOADED_SECONDS:g} s for {now - since:.0f} s"
        ]
