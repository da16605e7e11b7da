"""What the numbers of publications say: lost, twice, out of order."""

from __future__ import annotations

KEPT_GAPS = 10_000
"""Numbers that were skipped and may still come. Of more, late ones count as doubled."""


class Ledger:
    """Judges every number that is not the last one plus one."""

    def __init__(self) -> None:
        self.lost = 0
        """Skipped and not come later."""
        self.duplicates = 0
        self.disordered = 0
        """Came after a later one."""
        self._gaps: set[tuple[int, int, int]] = set()

    def judge(self, place: int, topic: int, number: int, last: int) -> bool:
        """Takes a number of a client's topic that is not `last` + 1; whether it is new."""
        if number > last:
            self.lost += number - last - 1
            for skipped in range(last + 1, min(number, last + 1 + KEPT_GAPS - len(self._gaps))):
                self._gaps.add((place, topic, skipped))
            return True
        if (place, topic, number) in self._gaps:
            self._gaps.remove((place, topic, number))
            self.lost -= 1
            self.disordered += 1
            return True
        self.duplicates += 1
        return False
