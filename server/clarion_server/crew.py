"""Which workers should run: a machine without processes or a clock.

The parent process tells it what happened, with the time as a number in seconds, and asks `turn`
what to do. A worker's life

    due        to be started at a time
    starting   forked; has not given its first beat
    serving    beats; one that was seen without a new beat `STUCK_LOOKS` times is ended
    (ended)    due again at once, or later the more often it did not live long

The first worker goes ahead, and the others follow when it serves: what is wrong with the
configuration or the keys is said once, not by all of them. If one ends before all have served,
the start has failed, and `failure` says with which exit code. Once `stop` was called nobody is
started any more, and who has not ended after `ending_s` is killed.

Looks, not seconds, are counted for a worker that hangs: when the machine itself stood still, the
parent has missed as many looks as the worker beats.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

STEADY_SECONDS = 10.0
"""A worker that served this long was well: when it ends, another starts at once."""

DELAYS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds before the next attempt, after so many that were not steady. A single accident costs
nothing; a crash loop costs two starts a minute, and is mended half a minute after its cause."""

LOOK_SECONDS = 1.0
"""Between two looks at the beats."""

STUCK_LOOKS = 30
"""A worker beats ten times between two looks. What hangs for half a minute does not come back,
and its clients, who hear nothing and are not told, come back to another as soon as it ends."""

START_LOOKS = 60
"""For the first beat: longer than every deadline of a start together."""

MERCY_LOOKS = 2
"""Between SIGABRT, at which a worker that can says where it hangs, and SIGKILL."""


class Start(NamedTuple):
    """Fork a worker, and say `started`, or `ended` if that fails."""

    number: int


class Send(NamedTuple):
    """Send a signal to a worker. why: for people."""

    number: int
    pid: int
    signal: signal.Signals
    why: str


Action: TypeAlias = Start | Send


class _Member:
    """One number's worker, and its predecessors."""

    __slots__ = ("beat", "due", "number", "pid", "serving", "since", "still", "unsteady")

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.due: float | None = None
        """When to start it; None while it runs, or must wait for the first."""
        self.serving = False
        self.since = 0.0
        """When it was forked, and then since when it serves."""
        self.unsteady = 0
        """Attempts in a row that did not live long."""
        self.beat = 0
        self.still = 0
        """Looks without a new beat."""


class Crew:
    """See the module's text.

    ending_s: how long workers may take to end, seconds.
    """

    def __init__(self, workers: int, ending_s: float) -> None:
        self._members = [_Member(number) for number in range(workers)]
        self._members[0].due = float("-inf")
        self._ending_s = ending_s
        self._look_at = float("-inf")
        self._kill_at: float | None = None
        self.complete = False
        """Whether all have served at some moment: the start has succeeded."""
        self.failure: int | None = None
        """The exit code with which the start has failed."""

    @property
    def stopping(self) -> bool:
        return self._kill_at is not None

    @property
    def running(self) -> int:
        """Processes."""
        return sum(bool(member.pid) for member in self._members)

    def turn(self, now: float, beats: Sequence[int]) -> list[Action]:
        """What to do now. beats: each worker's newest, 0 before its first."""
        for member in self._members:
            if member.pid and not member.serving and beats[member.number]:
                member.serving = True
                member.since = now
        if self.stopping:
            return list(self._overdue(now))
        if not self.complete:
            self._begin(now)
        actions: list[Action] = [
            Start(member.number)
            for member in self._members
            if member.due is not None and now >= member.due
        ]
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            actions += self._look(beats)
        return actions

    def wait(self, now: float) -> float:
        """Seconds until the next turn, at most; sooner when something happens."""
        times = [member.due for member in self._members if member.due is not None]
        if self._kill_at is not None:
            times = [self._kill_at]
        return min([LOOK_SECONDS, *(max(time - now, 0.0) for time in times)])

    def started(self, number: int, pid: int, now: float) -> None:
        member = self._members[number]
        member.pid = pid
        member.due = None
        member.serving = False
        member.since = now
        member.beat = member.still = 0

    def ended(self, number: int, code: int, now: float) -> float | None:
        """A worker ended, or could not be forked. Returns the seconds until another one starts.

        code: its exit code; 0 or less if it has none that says what is wrong.
        """
        member = self._members[number]
        steady = member.serving and now - member.since >= STEADY_SECONDS
        member.pid = 0
        member.serving = False
        member.unsteady = 0 if steady else member.unsteady + 1
        if not self.complete and self.failure is None:
            self.failure = max(code, 1)
        if self.stopping or not self.complete:
            member.due = None
            return None
        delay = DELAYS[min(max(member.unsteady - 1, 0), len(DELAYS) - 1)]
        member.due = now + delay
        return delay

    def number_of(self, pid: int) -> int | None:
        """Whose process this is; None if it is none of them."""
        return next((member.number for member in self._members if member.pid == pid), None)

    def stop(self, now: float) -> list[Action]:
        """All are to end, gracefully. A second call does nothing."""
        if self.stopping:
            return []
        self._kill_at = now + self._ending_s
        for member in self._members:
            member.due = None
        return self.to_all(signal.SIGTERM, "the server ends")

    def to_all(self, number: signal.Signals, why: str) -> list[Action]:
        """A signal to each that runs."""
        return [
            Send(member.number, member.pid, number, why) for member in self._members if member.pid
        ]

    def _begin(self, now: float) -> None:
        if all(member.serving for member in self._members):
            self.complete = True
        elif self._members[0].serving:
            for member in self._members:
                if not member.pid and self.failure is None:
                    member.due = now

    def _overdue(self, now: float) -> Iterator[Action]:
        if self._kill_at is not None and now >= self._kill_at:
            self._kill_at = now + LOOK_SECONDS  # a second time, should one be stuck in the kernel
            yield from self.to_all(signal.SIGKILL, f"it did not end within {self._ending_s:g} s")

    def _look(self, beats: Sequence[int]) -> Iterator[Action]:
        for member in self._members:
            if not member.pid:
                continue
            beat = beats[member.number]
            member.still = 0 if beat != member.beat else member.still + 1
            member.beat = beat
            patience = STUCK_LOOKS if member.serving else START_LOOKS
            if member.still == patience:
                why = "it hangs: no sign of life" if member.serving else "it does not begin"
                yield Send(member.number, member.pid, signal.SIGABRT, why)
            elif member.still == patience + MERCY_LOOKS:
                yield Send(member.number, member.pid, signal.SIGKILL, "it still hangs")
