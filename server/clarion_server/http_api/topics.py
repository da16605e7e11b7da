"""Asking about topics through the private API: their history, their presence, and a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from aiohttp import web

from clarion_fanout.broker import Broker, Want
from clarion_fanout.presence import MAX_MEMBERS, Presence
from clarion_fanout.publication import Position, Publication
from clarion_server.codes import Code
from clarion_server.fleet import Absent, Fleet
from clarion_server.http_api.bodies import TopicName, TopicStart, checked, query
from clarion_server.http_api.errors import Refusal, answer
from clarion_server.options import Config
from clarion_server.orders import MAX_TOPICS
from clarion_server.protocol import Member

HISTORY_BYTES = 8 * 1024 * 1024
"""Of `data` in one answer, about: what the largest request takes by default. A page that is cut
there is a short page, as if `limit` had been smaller."""


class HistoryQuery(msgspec.Struct, frozen=True):
    """What of a topic's history is wanted; see the operation's description."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 100
    since_epoch: Annotated[str, msgspec.Meta(max_length=64)] | msgspec.UnsetType = msgspec.UNSET
    since_offset: Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    reverse: Literal["true", "false"] = "false"


class Kept(msgspec.Struct, frozen=True):
    """A message in a topic's history. `ts`: when it was accepted, Unix milliseconds."""

    offset: int
    ts: int
    data: msgspec.Raw


class History(msgspec.Struct, frozen=True):
    """A part of a topic's history.

    epoch, offset: the position of the topic's newest message; offset 0 if there never was one.
    complete: with `since_...`, whether nothing after that position is missing.
    """

    topic: TopicName
    epoch: str
    offset: int
    messages: list[Kept]
    complete: bool


class PresenceQuery(msgspec.Struct, frozen=True):
    """How many members are wanted, and behind which: `after` is the `next` of the page before."""

    limit: Annotated[int, msgspec.Meta(ge=0, le=MAX_MEMBERS)] = MAX_MEMBERS
    after: Annotated[str, msgspec.Meta(max_length=128)] = ""


class Members(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who is subscribed to a topic, at any worker.

    count: all of them. members: those of this page; none where only the count is kept.
    next: the `after` of the next page, if there is one.
    """

    topic: TopicName
    count: int
    members: list[Member]
    next: str | msgspec.UnsetType = msgspec.UNSET


class TopicsQuery(msgspec.Struct, frozen=True):
    """Which topics are wanted: those that start with `prefix` and sort behind `after`."""

    prefix: TopicStart = ""
    after: TopicStart = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOPICS)] = 1000


class Subscribed(msgspec.Struct, frozen=True):
    """A topic and how many connections are subscribed to it, at all workers."""

    topic: TopicName
    subscribers: int


class Topics(msgspec.Struct, frozen=True, omit_defaults=True):
    """Topics with subscribers, sorted.

    complete: whether the subscribers of all workers are counted. If not, these are too few.
    next: the `after` of the next page, if there is one.
    unanswered: workers that did not say what they have.
    """

    topics: list[Subscribed]
    complete: bool
    next: TopicName | msgspec.UnsetType = msgspec.UNSET
    unanswered: Sequence[Absent] = ()


class TopicReader:
    """The handlers of `/v1/topics...`."""

    def __init__(
        self, *, config: Config, broker: Broker, presence: Presence | None, fleet: Fleet
    ) -> None:
        self._config = config
        self._broker = broker
        self._presence = presence
        self._fleet = fleet

    async def history(self, request: web.Request) -> web.Response:
        topic = checked(request.match_info["topic"])
        wanted = query(request, HistoryQuery)
        since = _since(wanted)
        if not self._config.namespace(topic).history_size:
            raise _no_history(topic)
        want = Want(since=since, limit=wanted.limit, reverse=wanted.reverse == "true")
        page = self._broker.peek(topic, want)
        if page is None:
            page = await self._broker.read(topic, want)
        if page.position is None:
            raise _no_history(topic)
        epoch, offset = page.position
        messages = [
            Kept(kept.offset, kept.ts, msgspec.Raw(kept.data))
            for kept in _bounded(page.publications)
        ]
        return answer(History(topic, epoch, offset, messages, page.complete))

    async def presence(self, request: web.Request) -> web.Response:
        topic = checked(request.match_info["topic"])
        wanted = query(request, PresenceQuery)
        if self._presence is None or self._config.namespace(topic).presence == "off":
            text = "the topic's namespace keeps no presence"
            raise Refusal(404, Code.NO_PRESENCE, text, topic=topic)
        page = await self._presence.read(topic, wanted.limit, wanted.after)
        members = _members(b"[%b]" % b",".join(page.members))
        return answer(Members(topic, page.count, members, page.next or msgspec.UNSET))

    async def topics(self, request: web.Request) -> web.Response:
        wanted = query(request, TopicsQuery)
        prefix = checked(wanted.prefix) if wanted.prefix else ""
        after = checked(wanted.after) if wanted.after else ""
        page, complete, unanswered = await self._fleet.topics(prefix, after, wanted.limit)
        listed = [Subscribed(name, subscribers) for name, subscribers in page.topics]
        more = msgspec.UNSET if page.through is None else page.through
        return answer(Topics(listed, complete, more, unanswered or ()))


_members = msgspec.json.Decoder(list[Member]).decode


def _since(wanted: HistoryQuery) -> Position | None:
    epoch, offset = wanted.since_epoch, wanted.since_offset
    if epoch is msgspec.UNSET and offset is msgspec.UNSET:
        return None
    if epoch is msgspec.UNSET or offset is msgspec.UNSET:
        raise Refusal(400, Code.BAD_REQUEST, "since_epoch and since_offset come together")
    return Position(epoch, offset)


def _bounded(publications: Sequence[Publication]) -> Sequence[Publication]:
    """As many as fit into an answer, one at least."""
    size = 0
    for count, publication in enumerate(publications):
        size += len(publication.data)
        if size > HISTORY_BYTES and count:
            return publications[:count]
    return publications


def _no_history(topic: str) -> Refusal:
    return Refusal(404, Code.NO_HISTORY, "the topic's namespace keeps no history", topic=topic)
