"""A clock that stands still until it is told how much time has passed."""

from __future__ import annotations


class Clock:
    """Unix time in milliseconds, when it is called."""

    def __init__(self) -> None:
        self._ms = 1_790_000_000_000

    def __call__(self) -> int:
        return self._ms

    def advance(self, seconds: float) -> None:
        self._ms += round(seconds * 1000)
