"""The queue between the connection and one subscription: bounded, with a policy when it is full.

    wait          the connection is not read until there is room. Nothing is lost here; a server
                  that waits too long for us ends the connection, and what was missed comes from
                  the history, or is reported as lost
    drop_oldest   the oldest message gives way, and is counted. For those who want the newest
                  state, and would not want the rest any more
    raise         the subscription ends with `SlowConsumer` behind what is queued

Only messages, joins and leaves count and give way. Of other events there is at most one of a kind
for each topic when the queue is full, so they are bounded by the number of topics.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum

from clarion_client.errors import ClarionError, SlowConsumer
from clarion_client.events import Ended, Event, Lost, Subscribed


class WhenFull(str, Enum):
    """What happens to a message that finds the queue full."""

    WAIT = "wait"
    DROP_OLDEST = "drop_oldest"
    RAISE = "raise"


class Mailbox:
    """See the module's text.

    limit: of events that count. lasting: it goes on without any topic. dropped: messages that gave
    way. topics: those that are subscribed, or asked for. awaited: those of them for which there is
    no answer yet. over: nothing more comes. error: why not; None if that is in order.
    """

    def __init__(self, limit: int, when_full: WhenFull, *, lasting: bool = False) -> None:
        if limit < 1:
            raise ValueError(f"a buffer of {limit}: there must be room for one message")
        self.limit = limit
        self.when_full = when_full
        self.lasting = lasting
        self.dropped = 0
        self.over = False
        self.error: ClarionError | None = None
        self.topics: set[str] = set()
        self.awaited: set[str] = set()
        self._events: deque[Event] = deque()
        self._counted = 0
        self._arrival = asyncio.Event()
        self._granted = asyncio.Event()

    def __len__(self) -> int:
        return len(self._events)

    @property
    def blocks(self) -> bool:
        """Whether the connection must not be read now."""
        return self._counted >= self.limit and self.when_full is WhenFull.WAIT and not self.over

    def join(self, topic: str) -> None:
        """The topic is subscribed from now on, or asked for."""
        self.topics.add(topic)
        self.awaited.add(topic)

    def part(self, topic: str) -> None:
        """The topic is not wanted any more. What is queued of it still comes."""
        if topic not in self.topics:
            raise ValueError(f"{topic!r} is not part of this subscription")
        self._leave(topic)

    def put(self, event: Event) -> None:
        """An event of the connection."""
        if self.over:
            return
        if isinstance(event, (Lost, Subscribed, Ended)):
            self._put_notice(event)
            return
        if self._counted >= self.limit:
            if self.when_full is WhenFull.RAISE:
                self.end(SlowConsumer(f"{self.limit} events wait, and nobody takes them"))
                return
            if self.when_full is WhenFull.DROP_OLDEST:
                self._drop_oldest()
        self._events.append(event)
        self._counted += 1
        self._arrival.set()

    def take(self) -> Event | None:
        """The oldest event, if there is one."""
        if not self._events:
            return None
        event = self._events.popleft()
        self._counted -= not isinstance(event, (Lost, Subscribed, Ended))
        if not self._events and not self.over:
            self._arrival.clear()
        return event

    async def arrival(self) -> None:
        """Waits until `take` has something to give, or nothing more comes."""
        await self._arrival.wait()

    async def granted(self) -> None:
        """Waits until the server has answered for every topic, or nothing more comes."""
        while self.awaited and not self.over:
            self._granted.clear()
            await self._granted.wait()

    def refusals(self) -> list[Ended]:
        """The topics that have ended and whose end was not taken yet."""
        return [event for event in self._events if isinstance(event, Ended)]

    def end(self, error: ClarionError | None = None) -> None:
        """Nothing more comes."""
        if not self.over:
            self.over = True
            self.error = error
            self._arrival.set()
            self._granted.set()

    def clear(self) -> None:
        """What is queued is not wanted any more."""
        self._events.clear()
        self._counted = 0

    def _put_notice(self, event: Lost | Subscribed | Ended) -> None:
        if not isinstance(event, Lost):
            self.awaited.discard(event.topic)
            self._granted.set()
        if self._counted >= self.limit:
            # A connection that comes and goes must not fill memory with what it says each time.
            for place, queued in enumerate(self._events):
                if type(queued) is type(event) and queued.topic == event.topic:
                    del self._events[place]
                    break
        self._events.append(event)
        self._arrival.set()
        if isinstance(event, Ended):
            self._leave(event.topic)

    def _leave(self, topic: str) -> None:
        self.topics.discard(topic)
        self.awaited.discard(topic)
        self._granted.set()
        if not self.topics and not self.lasting:
            self.end()

    def _drop_oldest(self) -> None:
        for place, queued in enumerate(self._events):
            if not isinstance(queued, (Lost, Subscribed, Ended)):
                del self._events[place]
                self._counted -= 1
                self.dropped += 1
                return
