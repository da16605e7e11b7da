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

from clarion_server.options import Admission
from clarion_server.timing import Histogram, Worst

INTERVAL_SECONDS = 0.05
"""Between two looks. Twenty wake-ups a second cost 0.03 % of a core; stops that a person would
notice, 50 ms and more, are all seen."""

BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Of the histogram, seconds. libuv's timers have a grain of 1 ms, so nothing finer is there."""


class TooLate:
    """Whether the loop is late by more than `seconds`, and has been `lasting` seconds long without
    a break: one stop is no reason to send people away."""

    def __init__(self, seconds: float, lasting: float) -> None:
        self.seconds = seconds
        self._lasting = lasting
        self.since: float | None = None
        """Since when it is."""

    def note(self, now: float, late: float) -> None:
        if late <= self.seconds:
            self.since = None
        elif self.since is None:
            # Late already at the moment it was due.
            self.since = now - late

    def lasts(self, now: float) -> float:
        """For how many seconds it has been so; 0 when it is not, or not for long enough."""
        if self.since is None or now - self.since < self._lasting:
            return 0.0
        return now - self.since


class Lag:
    """See the module's text.

    clock: seconds, monotonic. Not the loop's own: uvloop reads that once a turn, before the
        callbacks whose time is to be measured.
    options: from when on newcomers are refused, and from when on readiness says no.
    """

    def __init__(self, clock: Callable[[], float], options: Admission | None = None) -> None:
        options = options or Admission()
        self._clock = clock
        self._refusing = TooLate(options.lag_s, options.lag_for_s)
        self._unready = TooLate(options.unready_lag_s, options.unready_lag_for_s)
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
        self._refusing.note(now, late)
        self._unready.note(now, late)

    def worst(self, now: float) -> float:
        """The longest lateness of about the last minute, seconds."""
        return self._recent.get(now)

    def reasons(self, now: float) -> list[str]:
        """Why the worker should get no new clients; empty when it may."""
        lasts = self._unready.lasts(now)
        if not lasts:
            return []
        return [
            f"the event loop is late by more than {self._unready.seconds:g} s for {lasts:.0f} s"
        ]

    def refuses(self) -> bool:
        """Whether newcomers are refused, which comes before readiness says so: balancers ask
        seldom, and who is connected suffers at once."""
        refusing = self._refusing
        return refusing.since is not None and refusing.lasts(self._clock()) > 0
