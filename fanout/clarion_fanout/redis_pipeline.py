"""Commands to one Redis server: pipelined, answered in order, each with a deadline.

Redis answers a connection's commands one after another, so when the oldest has had no answer for
too long, none has: the whole connection is given up. Whether what it carried was executed is not
known then; whoever asked decides whether to ask again.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.redis_wire import Reply, Wire

IN_FLIGHT_COMMANDS = 50_000
"""About 0.3 s of work for Redis: whoever comes later would wait longer than it takes to be told
so. Each costs some 100 bytes here, beside its own."""

WAITING_BYTES = 16 * 1024 * 1024
"""What Redis has not taken yet. Beyond it the shard is slower than we publish."""


class _Flight:
    """Commands that were sent together, and the replies so far."""

    __slots__ = ("answer", "count", "replies", "sent")

    def __init__(self, count: int, answer: asyncio.Future[list[Reply]], sent: float) -> None:
        self.count = count
        self.answer = answer
        self.sent = sent
        self.replies: list[Reply] = []


class Pipeline:
    """See the module's text. `attach` gives it its connection."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._wire: Wire | None = None
        self._flights: deque[_Flight] = deque()
        self._loop = asyncio.get_running_loop()
        self.in_flight = 0
        """Commands without an answer yet."""

    def attach(self, wire: Wire) -> None:
        self._wire = wire

    def send(
        self, commands: bytes, count: int, *, urgent: bool = False
    ) -> asyncio.Future[list[Reply]]:
        """Sends `count` packed commands; the future has their replies, errors among them.

        Raises `BrokerUnavailable`, as the future does when the connection is lost. What is urgent
        is not refused because there is too much else.
        """
        wire = self._wire
        if wire is None:
            raise BrokerUnavailable(f"shard {self._name} is not connected")
        if not urgent and (
            (self.in_flight + count > IN_FLIGHT_COMMANDS and self.in_flight)
            or wire.waiting_bytes > WAITING_BYTES
        ):
            raise BrokerUnavailable(f"shard {self._name} is overloaded")
        answer: asyncio.Future[list[Reply]] = self._loop.create_future()
        if not count:
            answer.set_result([])
            return answer
        self._flights.append(_Flight(count, answer, time.monotonic()))
        self.in_flight += count
        wire.write(commands)
        return answer

    def received(self, replies: list[Reply]) -> None:
        """Takes what the connection brought."""
        flights = self._flights
        self.in_flight -= len(replies)
        for reply in replies:
            if not flights:
                if self._wire is not None:
                    self._wire.abort("answered what was not asked")
                return
            flight = flights[0]
            flight.replies.append(reply)
            if len(flight.replies) == flight.count:
                flights.popleft()
                if not flight.answer.done():
                    flight.answer.set_result(flight.replies)

    def late(self, now: float) -> float:
        """For how long the oldest command has waited while nothing arrived; seconds."""
        if self._wire is None or not self._flights:
            return 0.0
        return now - max(self._flights[0].sent, self._wire.heard)

    def lost(self, reason: str) -> None:
        """Fails what has no answer: the connection is gone."""
        self._wire = None
        self.in_flight = 0
        flights, self._flights = self._flights, deque()
        error = f"the connection to shard {self._name} was lost: {reason}"
        for flight in flights:
            if not flight.answer.done():
                # One each: whoever raises it writes into it where it went.
                flight.answer.set_exception(BrokerUnavailable(error))
                # Whoever waited may be gone; then nobody asks for it.
                flight.answer.exception()

    def abort(self, reason: str) -> None:
        """Gives the connection up."""
        if self._wire is not None:
            self._wire.abort(reason)

    async def close(self) -> None:
        """Ends the connection; what has no answer fails."""
        wire = self._wire
        self.lost("closed")
        if wire is not None:
            await wire.close()
