"""Whether the other end is still there: a machine that looks for silence.

TCP says nothing of a peer that is gone without a word: a phone in a tunnel, a balancer that forgot
us. So after `ping_s` without any byte a ping is due, and when `pong_s` later still nothing has
come, the link is dead. Whatever comes is a sign of life, not pongs alone.
"""

from __future__ import annotations

from enum import Enum

LATE_S = 1.0
"""A tick that comes so much later than it was due: this process did not run, or the machine slept.
What the server sent meanwhile has not been read yet, so that nobody is dead before another
`pong_s`."""


class Beat(Enum):
    """What is to be done."""

    NOTHING = 0
    PING = 1
    DEAD = 2


class Pulse:
    """See the module's text. All times are seconds of one clock."""

    __slots__ = ("_ping_s", "_pinged", "_pong_s", "_reading", "_since")

    def __init__(self, ping_s: float, pong_s: float, now: float) -> None:
        self._ping_s = ping_s
        self._pong_s = pong_s
        self._since = now
        self._pinged = False
        self._reading = True

    def heard(self, now: float) -> None:
        """Something came."""
        self._since = now
        self._pinged = False

    def read(self, reading: bool, now: float) -> None:
        """Whether what comes is read. While it is not, silence proves nothing; pings go on, as
        they tell the server that we are here."""
        self._reading = reading
        self.heard(now)

    @property
    def due(self) -> float:
        """When `tick` is to be called."""
        waits = self._pinged and self._reading
        return self._since + (self._pong_s if waits else self._ping_s)

    def tick(self, now: float) -> Beat:
        """Time has passed."""
        due = self.due
        if now < due:
            return Beat.NOTHING
        if self._pinged and self._reading and now <= due + LATE_S:
            return Beat.DEAD
        self._since = now
        self._pinged = True
        return Beat.PING
