"""The pace of a replay: which events are due, told the time.

A replay runs `speed` times as fast as life. It leaves nothing out and never turns the order: when
its caller is slower than that, its own clock waits for the caller, and the replay takes longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from clarion_server.demo.flights import Event


class Replay:
    """Hands out `events`, which are in the order of time, at `speed` times life's pace.

    Every `now` is in seconds of one monotonic clock. The replay begins with the first event.
    """

    def __init__(self, events: Sequence[Event], speed: float, now: float) -> None:
        self._events = events
        self._speed = speed
        self._next = 0
        self._start = events[0].at
        self._begun = now

    @property
    def done(self) -> bool:
        return self._next == len(self._events)

    def clock(self, now: float) -> datetime:
        """The simulated time: never past an event that has not been taken yet."""
        clock = self._start + timedelta(seconds=(now - self._begun) * self._speed)
        return clock if self.done else min(clock, self._events[self._next].at)

    def take(self, now: float, most: int) -> Sequence[Event]:
        """The events that are due and were not taken before, at most `most`."""
        clock = self._start + timedelta(seconds=(now - self._begun) * self._speed)
        first = self._next
        while (
            self._next < len(self._events)
            and self._next - first < most
            and self._events[self._next].at <= clock
        ):
            self._next += 1
        if self._next - first == most and not self.done:
            # Behind: what is left of the backlog becomes due from now on, at the same pace.
            ahead = (clock - self._events[self._next].at).total_seconds()
            self._begun += max(0.0, ahead) / self._speed
        return self._events[first : self._next]

    def wait(self, now: float) -> float:
        """Seconds until the next event is due; 0 when one is, or none is left."""
        if self.done:
            return 0.0
        due = (self._events[self._next].at - self._start).total_seconds() / self._speed
        return max(0.0, self._begun + due - now)
