"""A subscription, as the program holds it: something to iterate over."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol, TypeAlias

from clarion_client.errors import MessagesLost
from clarion_client.events import Ended, Event, Lost, Message, Position, Subscribed
from clarion_client.mailbox import Mailbox

OnLost: TypeAlias = Callable[[Lost], object]
"""What it returns is awaited if it is awaitable, and ignored otherwise."""


class Owner(Protocol):
    """What a subscription needs of its client."""

    def check_wish(self, mailbox: Mailbox, topic: str, since: Position | None, last: int) -> None:
        """Raises `ValueError` for what cannot be subscribed."""
        ...

    def extend(self, mailbox: Mailbox, topic: str, since: Position | None, last: int) -> None:
        """One topic more."""
        ...

    def shrink(self, mailbox: Mailbox, topic: str) -> None:
        """One topic less."""
        ...

    def leave(self, mailbox: Mailbox) -> None:
        """The end of all its topics."""
        ...

    def abandoned(self, mailbox: Mailbox) -> None:
        """The same, from any thread."""
        ...

    def expecting(self) -> AbstractContextManager[None]:
        """While somebody waits for an answer, what comes is read even though a queue is full."""
        ...

    def took(self) -> None:
        """There is room in a queue that may have been full."""
        ...


class Subscription(AsyncIterator[Message]):
    """Messages of some topics, in order, each once, whatever happens to the connection.

        async for message in client.subscribe("orders:42"):
            ...

    Iterating yields messages only. What else may happen:

    - Messages are lost for good: `on_lost` is called, at that place between two messages, and
      awaited if it returns an awaitable. Without `on_lost`, `MessagesLost` is raised; the
      subscription is alive, and iterating over it again goes on behind the gap.
    - The server refuses a topic, or ends it: `Refused` or `Unsubscribed` is raised. Other topics
      of the subscription live; iterate again. After the last topic the iteration ends.
    - The client is closed for good by the server: `Closed` is raised, behind what is queued.
      When the program closes it, the iteration just ends.

    It is subscribed from its making on and until `close`, or until nobody refers to it any more:
    leaving an `async for` over `client.subscribe(...)` unsubscribes. To be sure when (and that it
    *is* subscribed), use it as a context manager:

        async with client.subscribe("orders:42") as subscription:
            ...

    positions: of the last message taken in each topic. Keep them, and `subscribe(since=...)` goes
    on from there in another process.
    """

    def __init__(self, owner: Owner, mailbox: Mailbox, on_lost: OnLost | None = None) -> None:
        self.positions: dict[str, Position] = {}
        self._owner = owner
        self._mailbox = mailbox
        self._on_lost = on_lost
        self._left = weakref.finalize(self, owner.abandoned, mailbox)
        self._left.atexit = False

    def __repr__(self) -> str:
        topics = sorted(self._mailbox.topics)
        named = ", ".join(topics[:3]) + (f", ... ({len(topics)})" if len(topics) > 3 else "")
        return f"<Subscription {named or 'over'}, {len(self._mailbox)} queued>"

    @property
    def topics(self) -> frozenset[str]:
        """Those that are subscribed, or asked for."""
        return frozenset(self._mailbox.topics)

    @property
    def queued(self) -> int:
        """Events that wait to be taken."""
        return len(self._mailbox)

    @property
    def dropped(self) -> int:
        """Messages that were dropped here, with when_full="drop_oldest"."""
        return self._mailbox.dropped

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Message:
        while True:
            event = await self.next_event()
            if event is None:
                raise StopAsyncIteration
            if isinstance(event, Message):
                return event
            if isinstance(event, Lost):
                if self._on_lost is None:
                    raise MessagesLost(event)
                outcome = self._on_lost(event)
                if inspect.isawaitable(outcome):
                    await outcome
            elif isinstance(event, Ended):
                raise event.error

    def events(self) -> AsyncIterator[Event]:
        """Everything that happens, in order: messages, `Lost`, `Subscribed`, `Join`, `Leave` and
        `Ended`. Nothing is raised but `Closed` and `SlowConsumer`, and `on_lost` is not called.
        """
        return _Events(self)

    async def ready(self) -> None:
        """Waits until the server has granted every topic. Raises what it answered instead."""
        with self._owner.expecting():
            await self._mailbox.granted()
        for event in self._mailbox.refusals():
            raise event.error
        if self._mailbox.error is not None:
            raise self._mailbox.error

    def add(self, topic: str, *, since: Position | None = None, last: int = 0) -> None:
        """Subscribes to one topic more. Arguments as for `Client.subscribe`."""
        self._owner.check_wish(self._mailbox, topic, since, last)
        self._owner.extend(self._mailbox, topic, since, last)

    def remove(self, topic: str) -> None:
        """Unsubscribes from one topic. What is queued of it still comes."""
        self._owner.shrink(self._mailbox, topic)

    def close(self) -> None:
        """Unsubscribes. Nothing comes any more, not even what is queued."""
        if self._left.detach() is not None:
            self._owner.leave(self._mailbox)
            self._mailbox.clear()

    async def __aenter__(self) -> Subscription:
        try:
            await self.ready()
        except BaseException:
            self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def next_event(self) -> Event | None:
        """The next of `events`; None at the end. A wait that is cancelled loses nothing."""
        mailbox = self._mailbox
        while (event := mailbox.take()) is None:
            if mailbox.over:
                if mailbox.error is not None:
                    raise mailbox.error
                return None
            await mailbox.arrival()
        self._owner.took()
        self._note(event)
        return event

    def _note(self, event: Event) -> None:
        if isinstance(event, Message):
            if event.offset is not None and event.epoch is not None:
                self.positions[event.topic] = Position(event.epoch, event.offset)
        elif isinstance(event, (Lost, Subscribed)):
            if event.position is not None:
                self.positions[event.topic] = event.position
        elif isinstance(event, Ended):
            self.positions.pop(event.topic, None)


class _Events(AsyncIterator[Event]):
    """Not a generator: one that is left early would need a task to be closed."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription

    async def __anext__(self) -> Event:
        event = await self._subscription.next_event()
        if event is None:
            raise StopAsyncIteration
        return event
