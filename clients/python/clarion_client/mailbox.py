"""The queue between the connection and one subscription: bounded, with a policy when it is full.

    wait          the connection is not read until there is room. Nothing is lost here; a server
                  that waits too long for us ends the connection, and what was missed comes from
                  the history, or is reported as lost
    drop_oldest   the oldest message gives way, and is counted. For those who want the newest
                  state, and would not want the rest any more
    raise         the subscription ends with `SlowConsumer` behind what is queued

Messages, joins and leaves count and give way. Other events (notices) never do: a loss must not be
dropped. Instead, when the queue is full, a notice replaces the last of its kind for its topic, so
that there are no more than a few for each topic however often a connection comes and goes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum

from clarion_client.errors import ClarionError, SlowConsumer
from clarion_client.events import Ended, Event, Lost, Subscribed

SLACK = 64
"""Empty slots that a queue may have before it is made anew without them."""


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
        # A slot is emptied where its notice was replaced: taking it out would cost a search.
        self._slots: deque[list[Event]] = deque()
        self._notices: dict[tuple[type, str], list[Event]] = {}
        self._empty = 0
        self._counted = 0
        self._arrival = asyncio.Event()
        self._granted = asyncio.Event()

    def __len__(self) -> int:
        return len(self._slots) - self._empty

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
        self._slots.append([event])
        self._counted += 1
        self._arrival.set()

    def take(self) -> Event | None:
        """The oldest event, if there is one."""
        while self._slots:
            slot = self._slots.popleft()
            if not slot:
                self._empty -= 1
                continue
            (event,) = slot
            if isinstance(event, (Lost, Subscribed, Ended)):
                if self._notices.get((type(event), event.topic)) is slot:
                    del self._notices[type(event), event.topic]
            else:
                self._counted -= 1
            if not len(self) and not self.over:
                self._arrival.clear()
            return event
        return None

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
        return [event for slot in self._slots for event in slot if isinstance(event, Ended)]

    def end(self, error: ClarionError | None = None) -> None:
        """Nothing more comes."""
        if not self.over:
            self.over = True
            self.error = error
            self._arrival.set()
            self._granted.set()

    def clear(self) -> None:
        """What is queued is not wanted any more."""
        self._slots.clear()
        self._notices.clear()
        self._empty = self._counted = 0

    def _put_notice(self, event: Lost | Subscribed | Ended) -> None:
        if not isinstance(event, Lost):
            self.awaited.discard(event.topic)
            self._granted.set()
        key = (type(event), event.topic)
        if len(self) >= self.limit and (earlier := self._notices.get(key)):
            earlier.clear()
            self._empty += 1
            if self._empty > SLACK + len(self):
                self._slots = deque(slot for slot in self._slots if slot)
                self._empty = 0
        slot: list[Event] = [event]
        self._notices[key] = slot
        self._slots.append(slot)
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
        for place, slot in enumerate(self._slots):
            if slot and not isinstance(slot[0], (Lost, Subscribed, Ended)):
                del self._slots[place]
                self._counted -= 1
                self.dropped += 1
                return
