"""Publishing through the private API: one message, a batch of them, or one for many topics.

`data` is cut out of the body as it stands, checked once and spliced into frames later; it never
becomes a Python object here. In a batch and in a broadcast each message has a result of its own,
and none suffers from another. A batch in which nothing is wrong, as nearly always, is decoded and
checked in a few calls for all; only when one of these fails is each message looked at by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from aiohttp import web

from clarion_fanout import conflation, payload
from clarion_fanout.conflation import is_key
from clarion_fanout.publication import Draft, PayloadError, Receipt, made
from clarion_fanout.topics import is_topic
from clarion_server.codes import Code
from clarion_server.http_api.bodies import TopicName, checked, decode, read
from clarion_server.http_api.errors import Failure, Refusal, answer, decline, declined
from clarion_server.http_api.guard import API_KEY
from clarion_server.options import Limits
from clarion_server.publishing import Begun, Declined, Publishing
from clarion_server.quota import RETRY_MS, Denied, Grant

PORTION = 500
"""Messages that are checked and published in one turn of the event loop: about 3 ms with small
ones. A larger batch shares the loop with everybody else."""

WAITING = 100
"""Messages of a request that may be on their way through steps when the next portion is begun: a
namespace takes a thousand, from everybody."""

Data = Annotated[
    msgspec.Raw,
    msgspec.Meta(description="Any JSON, passed on to subscribers as it is.", examples=[{"n": 1}]),
]
Id = Annotated[
    str,
    msgspec.Meta(
        min_length=1,
        max_length=128,
        description="Idempotency key: a second message of the same topic with the same id is not"
        " published again while the id is remembered.",
    ),
]
Key = Annotated[
    str,
    msgspec.Meta(
        description="What the message is the news of: for a client that is behind, where the"
        " namespace's policy is `latest`, it takes the place of one with the same key in its topic."
        " 1 to 128 characters of visible ASCII.",
        examples=["ACME"],
        extra_json_schema={
            "pattern": f"^{conflation.PATTERN}+$",
            "minLength": 1,
            "maxLength": conflation.KEY_BYTES,
        },
    ),
]


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message to publish."""

    topic: TopicName
    data: Data
    id: Id | None = None
    key: Key | None = None


_Element = Annotated[
    # Decoded one by one, so that what is wrong with one does not fail the others.
    msgspec.Raw,
    msgspec.Meta(extra_json_schema={"anyOf": [{"$ref": "#/components/schemas/Message"}, {}]}),
]


class Batch(msgspec.Struct, frozen=True):
    """Messages to publish, in order. What is not a message gets an error as its result."""

    messages: list[_Element]


class _Whole(msgspec.Struct, frozen=True):
    """A batch in which all are messages."""

    messages: list[Message]


class Broadcast(msgspec.Struct, frozen=True):
    """One message for many topics. `id` and `key` count in each topic by itself."""

    topics: list[str]
    data: Data
    id: Id | None = None
    key: Key | None = None


class Published(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """The message was accepted. `epoch` and `offset` are its position, in topics with history.

    duplicate: the `id` was known; the position is that of the first time.
    """

    topic: TopicName
    epoch: str | msgspec.UnsetType = msgspec.UNSET
    offset: int | msgspec.UnsetType = msgspec.UNSET
    duplicate: bool = False


_Outcome = Annotated[
    # A union of Structs without tags is encoded by msgspec, but not described.
    Any,
    msgspec.Meta(
        extra_json_schema={
            "anyOf": [
                {"$ref": "#/components/schemas/Published"},
                {"$ref": "#/components/schemas/Failure"},
            ]
        }
    ),
]


class Results(msgspec.Struct, frozen=True):
    """What became of each message, in the order of the request."""

    results: list[_Outcome]


Outcome: TypeAlias = Published | Failure
Entry: TypeAlias = Draft | Failure
T = TypeVar("T")

_MESSAGE = msgspec.json.Decoder(Message)
_BATCH = msgspec.json.Decoder(Batch)
_WHOLE = msgspec.json.Decoder(_Whole)
_BROADCAST = msgspec.json.Decoder(Broadcast)


class Publisher:
    """The handlers of `/v1/publish`, `/v1/publish/batch` and `/v1/broadcast`."""

    def __init__(self, *, limits: Limits, publishing: Publishing) -> None:
        self._limits = limits
        self._publishing = publishing

    async def one(self, request: web.Request) -> web.Response:
        with self._admit(request, messages=1) as grant:
            draft = self._draft(decode(_MESSAGE, await self._read(request, grant)))
            (outcome,) = await self._publishing.publish((draft,), "api", grant)
        if isinstance(outcome, Declined):
            return decline(outcome, draft.topic)
        return answer(_published(draft.topic, outcome))

    async def batch(self, request: web.Request) -> web.Response:
        with self._admit(request) as grant:
            body = await self._read(request, grant)
            if (whole := _whole(body)) is not None:
                return await self._batch(whole.messages, self._entries, grant)
            return await self._batch(decode(_BATCH, body).messages, self._each, grant)

    async def broadcast(self, request: web.Request) -> web.Response:
        with self._admit(request) as grant:
            broadcast = decode(_BROADCAST, await self._read(request, grant))
            self._bound(len(broadcast.topics), "topics")
            _allow(grant.add(len(broadcast.topics)))
            return await self._broadcast(broadcast, grant)

    def _admit(self, request: web.Request, messages: int = 0) -> Grant:
        """Lets a request in whose body is not read yet. Raises `Refusal`.

        messages: that it has, as far as is known.

        One that does not say how long it is counts as the longest until it has come.
        """
        size = request.content_length
        most = self._limits.body_bytes
        key = request.get(API_KEY, "")
        size = most if size is None else min(size, most)
        admitted = self._publishing.quotas.api.enter(key, size, key, messages=messages)
        if isinstance(admitted, Grant):
            return admitted
        raise _refusal(admitted)

    async def _read(self, request: web.Request, grant: Grant) -> bytes:
        body = await read(request, self._limits)
        _allow(grant.resize(len(body)))
        return body

    async def _batch(
        self,
        messages: Sequence[T],
        entries: Callable[[Sequence[T]], Sequence[Entry]],
        grant: Grant,
    ) -> web.Response:
        self._bound(len(messages), "messages")
        _allow(grant.add(len(messages)))
        portions = (
            entries(messages[start : start + PORTION]) for start in range(0, len(messages), PORTION)
        )
        return answer(Results(await self._publish(portions, grant)))

    async def _broadcast(self, broadcast: Broadcast, grant: Grant) -> web.Response:
        topics, id, key = broadcast.topics, broadcast.id, _key(broadcast.key)
        # Topics may differ in what they take, so the largest is checked here, and the size of each.
        most = max(map(self._publishing.most_bytes, topics), default=self._limits.data_bytes)
        defer = all(map(self._publishing.has_steps, topics))
        data = self._data(broadcast.data, most, defer=defer)
        portions = (
            [self._addressed(topic, data, id, key) for topic in topics[start : start + PORTION]]
            for start in range(0, len(topics), PORTION)
        )
        return answer(Results(await self._publish(portions, grant)))

    async def _publish(self, portions: Iterable[Sequence[Entry]], grant: Grant) -> list[Outcome]:
        """Publishes portions, one after the other. A few of one that are on their way through
        their namespace's steps do not hold up the next."""
        begun: list[tuple[Sequence[Entry], Begun]] = []
        for entries in portions:
            if begun:
                await asyncio.sleep(0)
            drafts = [entry for entry in entries if isinstance(entry, Draft)]
            begun.append((entries, await self._publishing.begin(drafts, "api", grant)))
            for _, each in begun:
                if sum(one.waiting for _, one in begun) <= WAITING:
                    break
                await each.ended()
        outcomes: list[Outcome] = []
        for entries, each in begun:
            rest = iter(await each.ended())
            outcomes += [
                entry if isinstance(entry, Failure) else _outcome(entry, next(rest))
                for entry in entries
            ]
        return outcomes

    def _entries(self, messages: Sequence[Message]) -> Sequence[Entry]:
        return self._drafts(messages) or [self._entry(message) for message in messages]

    def _each(self, raws: Sequence[msgspec.Raw]) -> Sequence[Entry]:
        return [self._entry(raw) for raw in raws]

    def _drafts(self, messages: Sequence[Message]) -> Sequence[Entry] | None:
        """What `_entry` makes of each, if all of it can be published as it stands; None: look."""
        datas = [bytes(message.data) for message in messages]
        if not payload.are_plain(datas, self._limits.data_bytes):
            return None
        for message in messages:
            if not is_topic(message.topic) or not (message.key is None or is_key(message.key)):
                return None
        return [
            made(Draft, (message.topic, data, message.id, message.key or ""))
            for message, data in zip(messages, datas, strict=True)
        ]

    def _entry(self, message: Message | msgspec.Raw) -> Entry:
        try:
            if isinstance(message, msgspec.Raw):
                message = decode(_MESSAGE, message)
            return self._draft(message)
        except Refusal as refusal:
            return Failure(refusal.error)

    def _draft(self, message: Message) -> Draft:
        topic = checked(message.topic)
        most = self._publishing.most_bytes(topic)
        key = _key(message.key, topic)
        defer = self._publishing.has_steps(topic)
        return Draft(topic, self._data(message.data, most, topic, defer=defer), message.id, key)

    def _addressed(self, topic: str, data: bytes, id: str | None, key: str) -> Entry:
        try:
            topic = checked(topic)
            most = self._publishing.most_bytes(topic)
            if len(data) > most:
                text = f"data has {len(data)} bytes, the limit is {most}"
                raise Refusal(413, Code.TOO_LARGE, text, topic=topic)
            return Draft(topic, data, id, key)
        except Refusal as refusal:
            return Failure(refusal.error)

    def _data(self, raw: msgspec.Raw, most: int, topic: str | None = None, *, defer: bool) -> bytes:
        data = bytes(raw)
        try:
            return payload.check(data, most, defer=defer)
        except PayloadError as error:
            if len(data) > most:
                raise Refusal(413, Code.TOO_LARGE, str(error), topic=topic) from None
            raise Refusal(400, Code.BAD_DATA, str(error), topic=topic) from None

    def _bound(self, count: int, what: str) -> None:
        if count > self._limits.batch:
            text = f"{count} {what}, the limit is {self._limits.batch}"
            raise Refusal(413, Code.TOO_LARGE, text)


def _allow(denied: Denied | None) -> None:
    if denied is not None:
        raise _refusal(denied)


def _refusal(denied: Denied) -> Refusal:
    if denied.scope == "share":
        return Refusal(429, Code.TOO_MANY, denied.text, retry_ms=RETRY_MS)
    return Refusal(503, Code.UNAVAILABLE, denied.text, retry_ms=RETRY_MS)


def _key(key: str | None, topic: str | None = None) -> str:
    """A message's key; "" if it has none."""
    if key is None:
        return ""
    if not is_key(key):
        raise Refusal(400, Code.BAD_REQUEST, conflation.why_not_a_key(key), topic=topic)
    return key


def _whole(body: bytes) -> _Whole | None:
    """A batch, unless something is wrong with it or with one of its messages."""
    try:
        return _WHOLE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _outcome(draft: Draft, outcome: Receipt | Declined) -> Outcome:
    if isinstance(outcome, Declined):
        return Failure(declined(outcome, draft.topic))
    return _published(draft.topic, outcome)


def _published(topic: str, receipt: Receipt) -> Published:
    _, position, duplicate = receipt
    if position is None:
        return Published(topic, duplicate=duplicate)
    epoch, offset = position
    return Published(topic, epoch, offset, duplicate)
