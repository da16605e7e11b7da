"""How many commands a client may send: a token bucket for each, and nothing for who is quiet.

A client has a number here only as long as its bucket is not full again (`bucket.py` says why one
number is enough), which is seconds after its last command. So the thousands that just listen cost
nothing. Time is the wheel's ticks, which is known without asking; a command that is refused costs
no more than one that is not understood.
"""

from __future__ import annotations

from clarion_server.wheel import TICK_SECONDS

TOPICS_AS_ONE = 10
"""Topics of one `subscribe` that cost as much as a command, by guess: each is less work than a
command of its own, and who asks for many in one should fare better than who sends as many."""


class CommandRate:
    """See the module's text. Clients are known by the number of their socket.

    rate: commands a second; 0: as many as a client likes.
    burst: commands at once.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._cost = 1 / (rate * TICK_SECONDS) if rate else 0.0
        self._depth = burst * self._cost
        self._full: dict[int, float] = {}
        """At which tick each bucket is full again."""

    def __len__(self) -> int:
        """Clients that something is known of."""
        return len(self._full)

    def take(self, client: int, now: int, topics: int = 0) -> int:
        """Takes a command, with so many topics in it; returns 0.

        When the bucket is empty it takes none, and returns after how many ms it is not. A command
        that costs more than there is left is taken, and those after it pay.
        """
        cost = self._cost
        if not cost:
            return 0
        full = self._full.get(client, now)
        if full < now:
            full = now
        short = full - now + cost - self._depth
        if short > 1e-6 * cost:
            return 1 + int(short * TICK_SECONDS * 1000)
        self._full[client] = full + cost * (1 + topics // TOPICS_AS_ONE)
        return 0

    def forget(self, client: int) -> None:
        """The client has gone, and its number will be another's."""
        if self._full:
            self._full.pop(client, None)

    def sweep(self, now: int) -> None:
        """Forgets those whose buckets are full again; a second's worth is some milliseconds for
        20,000 that are busy."""
        if self._full:
            self._full = {client: full for client, full in self._full.items() if full > now}
