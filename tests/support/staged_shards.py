"""Shards that do what a test says: answers come when it lets them, payloads when it takes them.

There is one shard with one topic, whose stream is a `NaiveStream`. A command is executed when it
is sent, and its answer is on its way until `answer`; so other things can happen in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

import hiredis

from clarion_fanout.broker import BrokerUnavailable, HistoryOptions, Want
from clarion_fanout.publication import Position
from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_list import Fixed
from clarion_fanout.redis_shard import Shard
from clarion_fanout.redis_subscriptions import Listener
from clarion_fanout.redis_wire import Reply
from clarion_fanout.tasks import Tasks
from support.naive_stream import TOPIC, NaiveStream


class StagedShard:
    """The part of a `Shard` that a broker uses for subscriptions."""

    name = "staged"
    reign = b"r1"

    def __init__(self) -> None:
        self.listener: Listener | None = None
        self.confirmed = False

    def listen(self, channel: bytes, listener: Listener) -> bool:
        self.listener = listener
        return self.confirmed

    def unlisten(self, channel: bytes) -> None:
        pass

    def listens(self, channel: bytes) -> bool:
        return self.confirmed

    def confirm(self) -> None:
        """The subscription, the first or after an interruption, is confirmed."""
        assert self.listener is not None
        self.confirmed = True
        self.listener.subscribed()

    def interrupt(self) -> None:
        """What is published does not arrive any more."""
        self.confirmed = False

    def take(self, payload: bytes) -> None:
        """A payload arrives."""
        assert self.listener is not None
        self.listener.take(payload)


class StagedShards(Fixed):
    """See the module's text."""

    sharded = False

    def __init__(self) -> None:
        self.shard = StagedShard()
        self.stream = NaiveStream()
        self.sent: deque[tuple[list[Reply], asyncio.Future[list[Reply]]]] = deque()
        """The answers that are on their way."""

    async def start(self, tasks: Tasks) -> None:
        pass

    async def close(self) -> None:
        pass

    def all(self) -> Sequence[Shard]:
        return [self.of(TOPIC)]

    def of(self, topic: str) -> Shard:
        return cast("Shard", self.shard)

    async def send(
        self, commands: Sequence[tuple[str, bytes]], *, follow: bool = True
    ) -> list[Reply | BrokerUnavailable]:
        future: asyncio.Future[list[Reply]] = asyncio.get_running_loop().create_future()
        self.sent.append(([self._execute(packed) for _, packed in commands], future))
        return await future

    async def question(self, count: int = 1) -> None:
        """Returns when so many answers are on their way."""
        while len(self.sent) < count:  # noqa: ASYNC110 - there is nothing else to wait for
            await asyncio.sleep(0)

    def answer(self) -> None:
        """The oldest answer arrives."""
        replies, future = self.sent.popleft()
        if not future.done():
            future.set_result(replies)

    async def answer_until(self, done: Callable[[], bool]) -> None:
        """Lets answers arrive until something is so."""
        while not done():
            if self.sent:
                self.answer()
            await asyncio.sleep(0)

    def _execute(self, packed: bytes) -> Reply:
        reader = hiredis.Reader()
        reader.feed(packed)
        words = cast("list[bytes]", reader.gets())
        if words[0] == b"HMGET":
            epoch, offset = self.stream.position
            return [epoch.encode(), b"%d" % offset, None]
        assert words[0] == b"EVALSHA", words
        what, first, second, limit = words[5:9]
        since, last = None, 0
        former: list[str] = []
        if what in (b"since", b"follow"):
            epoch, *former = first.decode().split()
            since = Position(epoch, int(second))
        elif what == b"last":
            last = int(first)
        most = 0 if what == b"none" else None if limit == b"-1" else int(limit)
        page = self.stream.page(Want(since, last, most), follows=what == b"follow", former=former)
        assert page.position is not None
        entries = [[b"%d-0" % each.offset, [b"d", each.data]] for each in page.publications]
        complete = int(page.complete) if page.gap is None else -1 - page.gap
        return [page.position.epoch.encode(), page.position.offset, complete, entries]


def broker_over(shards: StagedShards) -> RedisBroker:
    """A broker that knows no other shards. It is not started."""
    return RedisBroker(
        shards,
        keys=Keys(),
        history=lambda _: HistoryOptions(1000, 3600),
        now=lambda: 0,
        check_seconds=1e6,
    )
