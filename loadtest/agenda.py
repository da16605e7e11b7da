"""What a long run still has to do, and how long that takes. No clock: it is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Step(NamedTuple):
    """Something to do.

    name: steps of the same name take equally long.
    seconds: how long it takes by what is known beforehand.
    """

    name: str
    seconds: float


class Agenda:
    """Steps in their order. What was expected of the rest follows what the first ones took."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps
        self._took: dict[str, float] = {}
        self._expected = self._spent = 0.0
        self._done = 0

    def done(self, seconds: float) -> None:
        """The next step is done, and took so long."""
        step = self._steps[self._done]
        self._done += 1
        self._took[step.name] = seconds
        self._expected += step.seconds
        self._spent += seconds

    def left(self) -> float:
        """Seconds that what is not done will take, about."""
        pace = self._spent / self._expected if self._expected else 1.0
        return sum(
            self._took.get(step.name, step.seconds * pace) for step in self._steps[self._done :]
        )

    def place(self) -> str:
        """Where it stands, in words: "3 of 47, 12 min left"."""
        left = self.left()
        time = f"{left / 60:,.0f} min" if left >= 90 else f"{left:,.0f} s"
        return f"{self._done + 1} of {len(self._steps)}, {time} left"
