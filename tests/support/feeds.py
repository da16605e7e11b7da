"""What brokers feed, in tests: parts of it, to build on."""

from __future__ import annotations


class Roomy:
    """Passes on what it is fed at once, and is never crowded."""

    @property
    def crowded(self) -> bool:
        return False

    def flush(self) -> None:
        """There is nothing to pass on."""
