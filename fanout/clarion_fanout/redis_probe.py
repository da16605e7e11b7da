"""Probes: small numbers that are published and must come back. A machine without I/O.

They listen to a channel of their own, see `redis_subscriptions.Listener`.
"""

from __future__ import annotations

from collections import deque


class Probe:
    """Which are on their way, and when one came back."""

    def __init__(self) -> None:
        self.proven = float("-inf")
        """When the last one that came back was sent; monotonic seconds."""
        self._number = 0
        self._sent: deque[tuple[int, float]] = deque()

    def next(self, now: float) -> int:
        """What is to be published now."""
        self._number += 1
        self._sent.append((self._number, now))
        return self._number

    def forget(self) -> None:
        """Those on their way may be lost, for a reason that is known."""
        self._sent.clear()

    def overdue(self, now: float) -> float:
        """For how long the oldest has been on its way."""
        return now - self._sent[0][1] if self._sent else 0.0

    def take(self, payload: bytes) -> None:
        number = int(payload) if payload.isdigit() else 0
        while self._sent and self._sent[0][0] <= number:
            _, self.proven = self._sent.popleft()

    def subscribed(self) -> None:
        pass

    def dropped(self) -> None:
        pass
