"""How long to wait before connecting again: a machine without a clock."""

from __future__ import annotations

from collections.abc import Callable

STEADY_S = 10.0
"""A connection that lived so long was a good one: the next pause is a first one again. One that
is thrown out at once every time does not reset anything, or it would be a storm."""

LEAST_RETRY_S, MAX_RETRY_S = 0.1, 3600.0
"""A server that asks for more than an hour is not believed, and one that asks for nothing at all
gets ten attempts a second at most."""


class Backoff:
    """Full jitter: a random part of a bound that doubles from `first` to `most` seconds.

    uniform: like `random.uniform`.
    """

    def __init__(self, first: float, most: float, uniform: Callable[[float, float], float]) -> None:
        self._first = first
        self._most = most
        self._uniform = uniform
        self._tries = 0

    def pause(self, retry_s: float | None = None, spread_s: float = 0.0) -> float:
        """Seconds until the next attempt.

        retry_s: what the server asked for; it is obeyed. spread_s: how much may be added to that,
        where everybody else was told the same.
        """
        # 2.0 ** 32 is beyond every bound that makes sense, and still a float.
        bound = min(self._most, self._first * 2.0 ** min(self._tries, 32))
        self._tries += 1
        if retry_s is not None:
            return min(max(retry_s, LEAST_RETRY_S), MAX_RETRY_S) + self._uniform(0.0, spread_s)
        return self._uniform(0.0, bound)

    def lived(self, seconds: float) -> None:
        """A connection lasted so long."""
        if seconds >= STEADY_S:
            self._tries = 0
