"""Who may shake hands now, who waits, and who is sent away: a machine without I/O.

A handshake is the dearest thing that a newcomer can ask for. So there are only so many a second,
after a burst; those who must wait do so in a short queue, in the order in which they came; and
whom the queue cannot serve in time is told at once, while that is still cheap:

    pass     nobody waits, and there is a token: now
    wait     `next` says when it is his turn; `vanish` that he has gone
    refuse   the queue is full, or he would wait for longer than anybody should

How much of a turn of the event loop handshakes may take is for `porter.py`, which drives this.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Literal, TypeVar

from clarion_server.bucket import Bucket

Guest = TypeVar("Guest")

Verdict = Literal["pass", "wait", "refuse"]


class Gate(Generic[Guest]):
    """See the module's text. Times are seconds of one monotonic clock.

    Guests are hashable by identity.

    rate: handshakes a second; 0: as many as there is time for.
    burst: handshakes at once, after a quiet time.
    room: guests that may wait.
    patience: how long one may wait, seconds.
    """

    def __init__(self, rate: float, burst: float, room: int, patience: float) -> None:
        self._bucket = Bucket(rate, burst)
        self._room = room
        self._patience = patience
        # Ordered, and one in the middle is taken out at no cost.
        self._waiting: OrderedDict[Guest, float] = OrderedDict()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def enter(self, guest: Guest, now: float, *, busy: bool = False) -> Verdict:
        """Decides about a guest. busy: there is no time at the moment, so he waits at least."""
        waiting = self._waiting
        if not waiting and not busy and self._bucket.take(now):
            return "pass"
        if len(waiting) >= self._room or self._bucket.wait(now, len(waiting)) > self._patience:
            return "refuse"
        waiting[guest] = now
        return "wait"

    def next(self, now: float) -> Guest | None:
        """The one who came first, if he may shake hands now; he waits no more."""
        if not self._waiting or not self._bucket.take(now):
            return None
        return self._waiting.popitem(last=False)[0]

    def overdue(self, now: float) -> Guest | None:
        """One who has waited for too long, if there is one; he waits no more."""
        for guest, since in self._waiting.items():
            if now - since <= self._patience:
                break
            del self._waiting[guest]
            return guest
        return None

    def vanish(self, guest: Guest) -> None:
        """He has gone. He need not be waiting."""
        self._waiting.pop(guest, None)

    def idle(self, now: float) -> float:
        """How long nothing is to be done for those who wait, seconds."""
        return self._bucket.wait(now) if self._waiting else self._patience
