"""A token bucket in one number: so much at once, so much a second.

The generic cell rate algorithm (ITU-T I.371, annex A): what is kept is when the bucket will be full
again. Taking from it moves that further away; it is empty when that is `burst / rate` away.
Time is passed in, in any unit that `rate` counts by.
"""

from __future__ import annotations

from math import inf

_ROUNDING = 1e-6
"""Of what flows in for one, this is lost to rounding; nobody shall wait for that."""


class Bucket:
    """Begins full.

    rate: what flows in per unit of time; 0: there is always enough.
    burst: what it holds, at least 1.
    """

    __slots__ = ("_full", "cost", "depth")

    def __init__(self, rate: float, burst: float) -> None:
        self.cost = 1 / rate if rate else 0.0
        """The time in which one flows in."""
        self.depth = max(burst, 1) * self.cost
        """The time in which it fills up."""
        self._full = -inf

    def take(self, now: float) -> bool:
        """Takes one, if there is one."""
        if not self.cost:
            return True
        # As `wait` has it, which would be a call more for every newcomer.
        full = self._full
        if full < now:
            full = now
        if full + (1 - _ROUNDING) * self.cost - now - self.depth > 0:
            return False
        self._full = full + self.cost
        return True

    def wait(self, now: float, behind: int = 0) -> float:
        """How long it takes until there is one, for somebody who has `behind` others before him."""
        if not self.cost:
            return 0.0
        full = max(self._full, now) + (behind + 1 - _ROUNDING) * self.cost
        return max(0.0, full - now - self.depth)
