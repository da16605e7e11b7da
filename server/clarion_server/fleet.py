"""All workers of all instances that share the shards, told and asked as one.

Each worker does its own part itself (`duty`), and `Others` carries the order to the rest: over
Redis, or to nobody, where the worker is alone. What they report is summed here.

Whether everybody has reported is part of every answer. What changes something has not happened
completely as long as somebody is in `unanswered`; doing it again is harmless.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.inquiry import Answers
from clarion_fanout.roll import Entry
from clarion_server.duty import Duty
from clarion_server.orders import Act, Badge, Count, Describe, ListTopics, Order, State, TopicPage
from clarion_server.topic_pages import merged

T = TypeVar("T")

OPS = ("disconnect", "subscribe", "unsubscribe", "topics", "describe")
OUTCOMES = ("complete", "partial", "failed")

PAGE_BYTES = 900 * 1024
"""Of one worker's page of topics; what carries it takes 1 MiB."""

LIST_BYTES = 4 * 1024 * 1024
"""Of all pages that one list is made of. Redis holds them for us until we have read them, and ends
our subscriptions at 32 MB."""

LARGE_BYTES = 64 * 1024
"""A larger report has a turn of the event loop to itself: reading a page takes milliseconds."""

LISTS = 4
"""That are made at a time, for the same reason."""


class Others(Protocol):
    """The other workers."""

    @property
    def others(self) -> int:
        """How many there are, as far as is known."""
        ...

    async def ask(self, body: bytes) -> Answers:
        """Asks all of them. Raises `BrokerUnavailable`; some may have been asked then."""
        ...


class Nobody:
    """No other workers: those of the embedded broker."""

    others = 0

    async def ask(self, body: bytes) -> Answers:
        return Answers({}, ())


class Absent(msgspec.Struct, frozen=True, omit_defaults=True):
    """A worker that is there, or was a moment ago, and did not answer."""

    id: str
    instance: str | msgspec.UnsetType = msgspec.UNSET
    worker: int | msgspec.UnsetType = msgspec.UNSET
    host: str | msgspec.UnsetType = msgspec.UNSET
    pid: int | msgspec.UnsetType = msgspec.UNSET


class Touched(NamedTuple):
    """connections: how many it concerned, at the workers that answered."""

    connections: int
    unanswered: Sequence[Absent]


class Listed(NamedTuple):
    """A page of topics.

    complete: whether it is known that nobody is missing from the sums.
    """

    page: TopicPage
    complete: bool
    unanswered: Sequence[Absent]


class Mustered(NamedTuple):
    """The workers; this one first, the others in the order of their ids.

    complete: whether it is known that nobody is missing.
    """

    workers: Sequence[State]
    complete: bool
    unanswered: Sequence[Absent]


class Fleet:
    """See the module's text."""

    def __init__(self, duty: Duty, others: Others) -> None:
        self._duty = duty
        self.others = others
        self._lists = 0
        self.requests: Counter[tuple[str, str]] = Counter()
        """What was told or asked here, by op and outcome; see `OPS` and `OUTCOMES`."""

    @property
    def badge(self) -> Badge:
        """Of this worker."""
        return self._duty.badge

    async def act(self, order: Act) -> Touched:
        """Acts on clients, wherever they are. Raises `BrokerUnavailable`: then it was done here,
        and elsewhere perhaps."""
        count = self._duty.act(order)
        try:
            reports, unanswered = await self._ask(order, _counts)
        except BrokerUnavailable as error:
            text = f"done by one worker, perhaps by no other: {error}"
            raise BrokerUnavailable(text, error.retry_ms) from None
        return Touched(count + sum(report.count for report in reports), unanswered)

    async def topics(self, prefix: str, after: str, limit: int) -> Listed:
        """A page of the topics with subscribers anywhere. Raises `BrokerUnavailable` when too many
        are asked for at once."""
        share = min(PAGE_BYTES, LIST_BYTES // max(1, self.others.others))
        order = ListTopics(prefix=prefix, after=after, limit=limit, bytes=share)
        if self._lists >= LISTS:
            raise BrokerUnavailable("too many lists are being made at once")
        self._lists += 1
        try:
            page = await self._duty.topics(order)
            try:
                pages, unanswered = await self._ask(order, _pages)
            except BrokerUnavailable:
                return Listed(page, False, ())
            for other in pages:
                page = merged(page, other, limit)
                await asyncio.sleep(0)  # each takes some milliseconds
            return Listed(page, not unanswered, unanswered)
        finally:
            self._lists -= 1

    async def workers(self) -> Mustered:
        """How everybody is. Never fails."""
        own = self._duty.state()
        try:
            states, unanswered = await self._ask(Describe(), _states)
        except BrokerUnavailable:
            return Mustered([own], False, ())
        states.sort(key=lambda state: (state.instance, state.worker, state.id))
        return Mustered([own, *states], not unanswered, unanswered)

    async def _ask(
        self, order: Order, decoder: msgspec.json.Decoder[T]
    ) -> tuple[list[T], list[Absent]]:
        """The reports of the others, and who has made none."""
        op = str(order.__struct_config__.tag)
        try:
            answers, unanswered = await self.others.ask(msgspec.json.encode(order))
        except BrokerUnavailable:
            self.requests[op, "failed"] += 1
            raise
        absent = [_absent(entry) for entry in unanswered]
        reports: list[T] = []
        for worker, answer in answers.items():
            try:
                reports.append(decoder.decode(answer))
            except (ValueError, RecursionError):
                absent.append(Absent(worker))  # of another version
            if len(answer) > LARGE_BYTES:
                await asyncio.sleep(0)
        self.requests[op, "partial" if absent else "complete"] += 1
        return reports, absent


def read_badge(entry: Entry) -> Badge | None:
    """What a worker says of itself on the roll; None if that is not to be understood."""
    try:
        return _badges.decode(entry.about)
    except (ValueError, RecursionError):
        return None


def _absent(entry: Entry) -> Absent:
    badge = read_badge(entry)
    if badge is None:
        return Absent(entry.id)
    return Absent(entry.id, badge.instance, badge.worker, badge.host, badge.pid)


_badges = msgspec.json.Decoder(Badge)
_counts = msgspec.json.Decoder(Count)
_pages = msgspec.json.Decoder(TopicPage)
_states = msgspec.json.Decoder(State)
