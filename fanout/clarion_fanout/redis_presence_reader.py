"""Questions for a topic's members, over Redis shards.

Of questions that are the same at most one is on its way; those who ask meanwhile share the next.
A thousand who come back to a room together and ask who is there cost two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, cast

import hiredis

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.presence import Keeping, PresencePage, member_json
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_room import count_keys, fail, member_keys
from clarion_fanout.redis_scripts import PRESENCE_COUNT, PRESENCE_READ
from clarion_fanout.redis_shards import Shards
from clarion_fanout.redis_wire import Reply
from clarion_fanout.tasks import Tasks


class _Question(NamedTuple):
    topic: str
    limit: int
    after: str


class PresenceReader:
    """See the module's text.

    keeps: what is kept of a topic.
    settled: returns when what this worker knows of a topic is told. Raises `BrokerUnavailable`.
    timeout_s: the deadline of a question.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        keys: Keys,
        keeps: Callable[[str], Keeping],
        settled: Callable[[str], Awaitable[None]],
        timeout_s: float,
    ) -> None:
        self._shards = shards
        self._keys = keys
        self._keeps = keeps
        self._settled = settled
        self._timeout_s = timeout_s
        self._tasks = Tasks()
        self._questions: dict[_Question, list[asyncio.Future[PresencePage]]] = {}  # to be asked
        self._asked: set[_Question] = set()
        self._closed = False

    async def close(self) -> None:
        """Answers nobody any more."""
        self._closed = True
        await self._tasks.close()

    async def read(self, topic: str, limit: int, after: str = "") -> PresencePage:
        if self._closed:
            raise BrokerUnavailable("the server is ending")
        question = _Question(topic, limit, after)
        future: asyncio.Future[PresencePage] = asyncio.get_running_loop().create_future()
        self._questions.setdefault(question, []).append(future)
        if question not in self._asked:
            self._asked.add(question)
            self._tasks.start(self._ask_for_all(question), "read presence")
        return await future

    async def _ask_for_all(self, question: _Question) -> None:
        """Asks as long as somebody waits for the answer."""
        try:
            while waiting := self._questions.pop(question, None):
                try:
                    page = await self._answer(question)
                except BrokerUnavailable as error:
                    fail(waiting, error)
                except BaseException:
                    fail(waiting, BrokerUnavailable("the server is ending"))
                    raise
                else:
                    for future in waiting:
                        if not future.done():
                            future.set_result(page)
        finally:
            self._asked.discard(question)
            fail(self._questions.pop(question, []), BrokerUnavailable("the server is ending"))

    async def _answer(self, question: _Question) -> PresencePage:
        topic = question.topic
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._settled(topic)
                if self._keeps(topic) == "count":
                    return await self._count(topic)
                return await self._page(question)
        except TimeoutError:
            raise BrokerUnavailable("the topic's shard did not answer in time") from None

    async def _count(self, topic: str) -> PresencePage:
        packed = PRESENCE_COUNT.packed(count_keys(self._keys, topic), (b"", 0, 0, 0))
        return PresencePage(cast("int", await self._ask(topic, packed)))

    async def _page(self, question: _Question) -> PresencePage:
        topic, limit, after = question
        # One more, to know whether there is one.
        arguments = (limit + 1 if limit else 0, after.encode())
        packed = PRESENCE_READ.packed(member_keys(self._keys, topic), arguments)
        count, entries = cast("tuple[int, list[bytes]]", await self._ask(topic, packed))
        parts = [entry.split(b" ", 2) for entry in entries[:limit]]
        last = b" ".join(parts[-1][:2]).decode() if len(entries) > limit > 0 else ""
        members = tuple([member_json(client, user) for _, client, user in parts])
        return PresencePage(count, members, last)

    async def _ask(self, topic: str, packed: bytes) -> Reply:
        (reply,) = await self._shards.send([(topic, packed)])
        if isinstance(reply, BrokerUnavailable):
            raise reply
        if isinstance(reply, hiredis.ReplyError):
            raise BrokerUnavailable(f"the topic's shard answered {reply}")
        return reply
