"""Lets newcomers in, beside what else a worker does: it drives the `Gate` from the event loop.

Three things keep newcomers from costing those who are connected:

- A turn of the loop does handshakes for a share of its time and no more, and the rest of the
  newcomers wait for the next turn. So thousands at once are received over many turns, in between
  which everybody else is served.
- They wait here with their request read, not in front of the clients whose sockets are ready: who
  is connected and asks for something does not stand behind them.
- Who cannot be received in time is told so before anything was done for him. It is an HTTP answer,
  although a web page sees nothing of it but a failed connection: to accept a WebSocket first, in
  order to close it with a code, would be just the work that there is no time for. A page's client
  does the right thing anyway, and comes back after growing pauses; all others read `Retry-After`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from clarion_server.gate import Gate
from clarion_server.options import Admission

SHORTEST, LONGEST, SHARE = 0.004, 0.02, 0.5
"""How long handshakes may take in one turn of the loop: `SHARE` of what everything else took since
the last ones, but at least 4 ms, which are some 60 and fill a core when nothing else is to be done,
and at most 20 ms, so that a message that needs four turns is not late for anybody (measured with
`python -m loadtest storm_beside`)."""

PAUSE = 0.005
"""Between two turns when the rate is reached, seconds: some 25 handshakes at 5,000 a second."""


class Guest(Protocol):
    """A newcomer whose request is complete. Hashable by identity."""

    def let_in(self) -> object:
        """Does his handshake."""
        ...

    def turn_away(self, reason: str) -> object:
        """Refuses it. reason: a key of `REASONS`."""
        ...


REASONS = {
    "connections": "the server has as many clients as it takes",
    "overloaded": "the server is overloaded",
    "queue": "too many clients come at once",
}
"""Why newcomers are turned away: the names that metrics have, and the words for people."""


class Porter:
    """See the module's text.

    room: how many more clients there is room for, those who wait not counted.
    overloaded: whether nobody should be let in at the moment.
    """

    def __init__(
        self,
        options: Admission,
        *,
        room: Callable[[], int],
        overloaded: Callable[[], bool],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._gate: Gate[Guest] = Gate(
            options.handshakes_per_s, options.handshake_burst, options.queue, options.queue_s
        )
        self._room = room
        self._overloaded = overloaded
        self._clock = clock
        self._ended = clock()
        """When the last handshake of a turn was done."""
        self._until = 0.0
        """Until when handshakes may be begun in this turn."""
        self._handle: asyncio.Handle | None = None

    @property
    def waiting(self) -> int:
        """Newcomers that wait."""
        return len(self._gate)

    def knock(self, guest: Guest) -> None:
        """A newcomer asks to be let in: he is, or waits, or is turned away."""
        if self._room() <= len(self._gate):
            guest.turn_away("connections")
            return
        if self._overloaded():
            guest.turn_away("overloaded")
            return
        now = self._clock()
        if self._handle is None:
            self._begin(now)
            self._handle = asyncio.get_running_loop().call_soon(self._turn)
        verdict = self._gate.enter(guest, now, busy=now >= self._until)
        if verdict == "pass":
            guest.let_in()
        elif verdict == "refuse":
            guest.turn_away("queue")

    def vanish(self, guest: Guest) -> None:
        """A newcomer has gone, or was sent away. He need not have knocked."""
        self._gate.vanish(guest)

    def close(self) -> None:
        """Lets nobody in any more."""
        if self._handle is not None:
            self._handle.cancel()

    def _begin(self, now: float) -> None:
        others = (now - self._ended) * SHARE
        self._until = now + min(max(others, SHORTEST), LONGEST)

    def _turn(self) -> None:
        """Lets in who waits, as long as this turn has time for it; is called again if one does."""
        gate, clock = self._gate, self._clock
        now = clock()
        self._begin(now)
        while now < self._until and (guest := gate.overdue(now)) is not None:
            guest.turn_away("queue")
            now = clock()
        while now < self._until and (guest := gate.next(now)) is not None:
            guest.let_in()
            now = clock()
        self._ended = now
        self._handle = None
        if len(gate):
            loop = asyncio.get_running_loop()
            if gate.idle(now) > 0:
                self._handle = loop.call_later(PAUSE, self._turn)
            else:
                self._handle = loop.call_soon(self._turn)
