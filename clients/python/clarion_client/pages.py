"""What comes in pages, one after another: the members of a topic, and its past.

These are no generators: one that is left early would need a task to be closed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from clarion_client.errors import MessagesLost
from clarion_client.events import History, Lost, Member, Message, Position, Presence


class Members(AsyncIterator[Member]):
    """All members of a topic. Who is there all the time comes; who comes or goes meanwhile may be
    missed, or come although it has gone.

    ask: for the page that begins after a place.
    """

    def __init__(self, ask: Callable[[str | None], Awaitable[Presence]]) -> None:
        self._ask = ask
        self._waiting: deque[Member] = deque()
        self._after: str | None = None
        self._over = False

    async def __anext__(self) -> Member:
        while not self._waiting:
            if self._over:
                raise StopAsyncIteration
            page = await self._ask(self._after)
            self._waiting.extend(page.members)
            self._over = page.next is None or page.next == self._after
            self._after = page.next
        return self._waiting.popleft()


class Past(AsyncIterator[Message]):
    """The messages that a topic's history keeps, up to the newest of that moment.

    A hole (what was trimmed before it was read, or a stream that has begun anew) is raised as
    `MessagesLost`; iterate again, and it goes on behind it.

    ask: for the page from a position on. since: where to begin. reverse: the newest first.
    """

    def __init__(
        self,
        ask: Callable[[Position | None], Awaitable[History]],
        since: Position | None,
        reverse: bool,
    ) -> None:
        self._ask = ask
        self._since = since
        self._reverse = reverse
        self._waiting: deque[Message] = deque()
        self._over = False

    async def __anext__(self) -> Message:
        while not self._waiting:
            if self._over:
                raise StopAsyncIteration
            lost = self._turn(await self._ask(self._since))
            if lost is not None:
                raise MessagesLost(lost)
        return self._waiting.popleft()

    def _turn(self, page: History) -> Lost | None:
        """Takes over a page. Returns what is missing before it."""
        since = self._since
        fresh = [message for message in page.messages if self._is_fresh(page, message)]
        self._waiting.extend(fresh)
        # An empty page is the end; so is one that does not go on, as it never would.
        self._over = not fresh
        here = page.position
        if fresh and fresh[-1].offset is not None:
            self._since = Position(here.epoch, fresh[-1].offset)
        if since is None:
            return None
        first = fresh[0].offset if fresh else here.offset + 1
        if first is None:
            return None
        if here.epoch != since.epoch:
            reason = "the stream has begun anew"
        elif not self._reverse and first > since.offset + 1:
            reason = "the history does not reach back so far"
        else:
            return None
        if not fresh:
            self._since = here
        return Lost(page.topic, Position(here.epoch, first - 1), reason)

    def _is_fresh(self, page: History, message: Message) -> bool:
        since = self._since
        if since is None or message.offset is None or page.position.epoch != since.epoch:
            return True
        if self._reverse:
            return message.offset < since.offset
        return message.offset > since.offset
