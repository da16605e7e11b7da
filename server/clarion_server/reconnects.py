"""When those who are sent away come back: each in a place of its own, not all at once.

Whoever is sent away gets the next free place in time, and as many places a second are given as a
server can take beside its work. So one client comes back within seconds, and a thousand times as
many, sent away in one moment by a drain, a full queue or a token that ends for all, come back over
as long as it takes to receive them. On top comes a random pause, as clocks and networks are not
exact and several servers may send clients away at a time.
"""

from __future__ import annotations

import random
from math import ceil

SHORTEST, SPREAD = 0.5, 4.5
"""Seconds: the pause that everybody gets, and what is random on top. Together five, what people
take for a moment."""

LONGEST = 60.0
"""How far ahead places are given, seconds. Beyond it they are given at random: a client that was
told to wait for longer would give up, or not obey."""


class Reconnects:
    """See the module's text.

    rate: places a second.
    chance: random numbers from 0 to 1.
    """

    def __init__(self, rate: float, chance: random.Random | None = None) -> None:
        self._each = 1 / rate
        self._free = 0.0
        """The next free place, on the caller's clock."""
        self._chance = chance or random.Random()

    def seconds(self, now: float) -> float:
        """After how many seconds the next one who is sent away should come back."""
        place = max(self._free, now)
        if place - now > LONGEST:
            ahead = self._chance.uniform(0, LONGEST)
        else:
            self._free = place + self._each
            ahead = place - now
        return ahead + SHORTEST + self._chance.uniform(0, SPREAD)

    def retry_ms(self, now: float) -> int:
        """The same as `retry_ms` has it."""
        return round(self.seconds(now) * 1000)

    def retry_after(self, now: float) -> int:
        """The same as `Retry-After` has it, whole seconds (RFC 9110, section 10.2.3)."""
        return ceil(self.seconds(now))
