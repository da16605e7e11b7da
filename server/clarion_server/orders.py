"""What a worker can be told to do, by the private API of any worker, and what it reports.

The wire between workers, inside of what `clarion_fanout.inquiry` carries. Fields that are not
known are ignored, so that workers of two versions understand each other while a deploy lasts; an
order that is not known, or out of bounds, is not obeyed at all.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

MAX_TOPICS = 10_000
"""Of one page: what a person can scroll through, and a machine sorts in a few milliseconds."""

_Name = Annotated[str, msgspec.Meta(max_length=255)]


class Disconnect(msgspec.Struct, frozen=True, kw_only=True, tag="disconnect", tag_field="op"):
    """Ends connections of a user or of a client. Reports `Count`."""

    user: _Name | None
    client: _Name | None
    code: Annotated[int, msgspec.Meta(ge=4000, le=4999)]
    reason: Annotated[str, msgspec.Meta(max_length=123)]


class Subscribe(msgspec.Struct, frozen=True, kw_only=True, tag="subscribe", tag_field="op"):
    """Subscribes connections, whatever their own permissions say. Reports `Count`."""

    user: _Name | None
    client: _Name | None
    topic: _Name


class Unsubscribe(msgspec.Struct, frozen=True, kw_only=True, tag="unsubscribe", tag_field="op"):
    """Ends subscriptions, and tells the clients the reason. Reports `Count`."""

    user: _Name | None
    client: _Name | None
    topic: _Name
    reason: _Name


class ListTopics(msgspec.Struct, frozen=True, kw_only=True, tag="topics", tag_field="op"):
    """Lists topics with subscribers: those that start with `prefix` and sort behind `after`, at
    most `limit` of them in about `bytes`, but one at least. Reports `TopicPage`."""

    prefix: _Name
    after: _Name
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_TOPICS)]
    bytes: Annotated[int, msgspec.Meta(ge=0)]


class Describe(msgspec.Struct, frozen=True, tag="describe", tag_field="op"):
    """Reports `State`."""


Act: TypeAlias = Disconnect | Subscribe | Unsubscribe
Order: TypeAlias = Act | ListTopics | Describe


class Count(msgspec.Struct, frozen=True):
    """How many connections it concerned."""

    count: int


class TopicPage(msgspec.Struct, frozen=True):
    """Topics and their subscribers, sorted by name.

    through: if more may follow, the name up to which this says everything.
    """

    topics: list[tuple[str, int]]
    through: str | None = None


class Badge(msgspec.Struct, frozen=True, kw_only=True):
    """Which process a worker is: also what stands beside its name on the roll.

    id: names it among all, and is never used again. worker: its number within its instance.
    started_ms: when it was started, Unix milliseconds.
    """

    id: str
    instance: str
    worker: int
    pid: int
    host: str
    version: str
    started_ms: int


class State(Badge, frozen=True, kw_only=True):
    """How a worker is.

    topics: those with subscribers there. not_ready: why it should get no new clients.
    shards: the names of those that it knows.
    """

    uptime_s: int
    connections: int
    subscriptions: int
    topics: int
    not_ready: list[str]
    shards: list[str]
