"""The wire `clarion.v1`: a closed set of commands from clients and answers to them.

Both directions are one JSON object per text frame; clients/PROTOCOL.md is this file for client
authors. Unknown fields are ignored. `id` is chosen by the client and echoed in the answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, TypeAlias, cast

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from clarion_fanout.publication import Arrival, Departure, Loss, Position, Publication, Turn

SUBPROTOCOL = "clarion.v1"

Id: TypeAlias = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[str, Meta(max_length=128)]
"""What a client may call a command: whatever JavaScript can hold exactly, or a short string."""

Epoch: TypeAlias = Annotated[str, Meta(max_length=64)]
Offset: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=1_000_000)]


class Since(Struct, frozen=True):
    """A position, as a client writes it."""

    epoch: Epoch
    offset: Offset

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.offset)


class Wish(Struct, frozen=True):
    """One topic of a `subscribe`, and where in its stream to begin."""

    topic: str
    since: Since | None = None
    last: Count = 0


# Commands


class Command(Struct, frozen=True, tag_field="op"):
    id: Id | UnsetType = UNSET


class Connect(Command, frozen=True, tag="connect", kw_only=True):
    token: str
    name: Annotated[str, Meta(max_length=128)] = ""


class Subscribe(Command, frozen=True, tag="subscribe", kw_only=True):
    topic: str | None = None
    since: Since | None = None
    last: Count = 0
    topics: tuple[Wish, ...] | None = None


class Unsubscribe(Command, frozen=True, tag="unsubscribe", kw_only=True):
    topic: str


class Publish(Command, frozen=True, tag="publish", kw_only=True):
    topic: str
    data: Raw
    key: str | UnsetType = UNSET


class History(Command, frozen=True, tag="history", kw_only=True):
    topic: str
    limit: Annotated[int, Meta(ge=1)] = 100
    since: Since | None = None
    reverse: bool = False


class Presence(Command, frozen=True, tag="presence", kw_only=True):
    topic: str
    limit: Annotated[int, Meta(ge=0)] = 1000
    after: Annotated[str, Meta(max_length=128)] = ""


class Refresh(Command, frozen=True, tag="refresh", kw_only=True):
    token: str


class Ping(Command, frozen=True, tag="ping", kw_only=True):
    pass


AnyCommand: TypeAlias = (
    Connect | Subscribe | Unsubscribe | Publish | History | Presence | Refresh | Ping
)


# Answers


class Answer(Struct, frozen=True, tag_field="op", omit_defaults=True, kw_only=True):
    id: Id | UnsetType = UNSET


class Welcome(Answer, frozen=True, tag="welcome", kw_only=True):
    client: str
    user: str | UnsetType = UNSET
    ping_ms: int
    expires_ms: int | UnsetType = UNSET


class Subscribed(Answer, frozen=True, tag="subscribed", kw_only=True):
    topic: str
    epoch: str | UnsetType = UNSET
    offset: int | UnsetType = UNSET
    recovered: bool | UnsetType = UNSET


class Lost(Answer, frozen=True, tag="lost", kw_only=True):
    topic: str
    epoch: str
    offset: int
    reason: str


class Unsubscribed(Answer, frozen=True, tag="unsubscribed", kw_only=True):
    topic: str
    reason: str | UnsetType = UNSET


class Published(Answer, frozen=True, tag="published", kw_only=True):
    topic: str
    epoch: str | UnsetType = UNSET
    offset: int | UnsetType = UNSET


class Entry(Struct, frozen=True):
    """One publication in a `history` answer."""

    offset: int
    ts: int
    data: Raw


class HistoryPage(Answer, frozen=True, tag="history", kw_only=True):
    topic: str
    epoch: str
    offset: int
    messages: list[Entry]


class Member(Struct, frozen=True, omit_defaults=True):
    """What others get to see of a client."""

    client: str
    user: str | UnsetType = UNSET


class MembersPage(Answer, frozen=True, tag="presence", kw_only=True):
    topic: str
    count: int
    members: list[Raw]
    next: str | UnsetType = UNSET


class Refreshed(Answer, frozen=True, tag="refreshed", kw_only=True):
    expires_ms: int


class Pong(Answer, frozen=True, tag="pong", kw_only=True):
    pass


class Failure(Answer, frozen=True, tag="error", kw_only=True):
    code: str
    topic: str | UnsetType = UNSET
    message: str
    retry_ms: int | UnsetType = UNSET


class Goodbye(Answer, frozen=True, tag="goodbye", kw_only=True):
    code: int
    reason: str
    retry_ms: int | UnsetType = UNSET


AnyAnswer: TypeAlias = (
    Welcome
    | Subscribed
    | Lost
    | Unsubscribed
    | Published
    | HistoryPage
    | MembersPage
    | Refreshed
    | Pong
    | Failure
    | Goodbye
)

encode = msgspec.json.Encoder().encode
"""An answer as JSON."""

_decode: Callable[[bytes], AnyCommand] = msgspec.json.Decoder(AnyCommand).decode


class _Head(Struct):
    op: object = None
    id: object = None


_decode_head = msgspec.json.Decoder(_Head).decode


class BadCommand(Exception):
    """A text message that is not a command. `id` is the client's if one could be read."""

    def __init__(self, message: str, id: Id | UnsetType, *, unknown_op: bool = False) -> None:
        super().__init__(message)
        self.id = id
        self.unknown_op = unknown_op


def decode(text: bytes) -> AnyCommand:
    """Reads a command from a text message (valid UTF-8). Raises `BadCommand`."""
    try:
        return _decode(text)
    except _UNREADABLE as error:
        raise _explained(text, error) from None


_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def _id(value: object) -> Id | UnsetType:
    """`value` if it may be an id."""
    if isinstance(value, str) and len(value) <= 128:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= 2**53:
        return value
    return UNSET


def _id_of_nearly_json(text: bytes) -> Id | UnsetType:
    """The id in what a tolerant parser takes for JSON: with NaN, or with half a character.

    Pages write the latter when they cut a text in the middle of an emoji.
    """
    try:
        value: object = json.loads(text.decode())
    except (ValueError, RecursionError):
        return UNSET
    id = _id(cast("dict[str, object]", value).get("id") if isinstance(value, dict) else None)
    if isinstance(id, str) and any("\ud800" <= character <= "\udfff" for character in id):
        return UNSET  # it cannot be echoed
    return id


def _explained(text: bytes, error: Exception) -> BadCommand:
    try:
        head = _decode_head(text)
    except msgspec.ValidationError as invalid:
        # `op` and `id` may be anything but a number that is out of every range.
        is_object = text.lstrip(b" \t\r\n").startswith(b"{")
        return BadCommand(str(invalid) if is_object else "a message is a JSON object", UNSET)
    except _UNREADABLE as broken:
        reason = "nested too deeply" if isinstance(broken, RecursionError) else str(broken)
        return BadCommand(f"not a JSON object: {reason}", _id_of_nearly_json(text))
    id = _id(head.id)
    if head.op is None:
        return BadCommand("the field `op` is missing", id)
    if not isinstance(head.op, str):
        return BadCommand("`op` must be a string", id)
    if head.op not in OPS:
        return BadCommand(f"unknown op; known are {', '.join(sorted(OPS))}", id, unknown_op=True)
    return BadCommand(f"{head.op}: {error}", id)


OP = {
    kind: str(kind.__struct_config__.tag)
    for kind in (Connect, Subscribe, Unsubscribe, Publish, History, Presence, Refresh, Ping)
}
"""The op of each kind of command."""

OPS = frozenset(OP.values())
"""Every op that a client may send."""


def written(publication: Publication) -> bytes:
    """What a topic's feed brings, as the object that clients read.

    Data is spliced as it is, and a topic's characters need no escaping in JSON.
    """
    if type(publication) is not Publication:
        return _WRITERS[publication.op](publication)
    if publication.offset:
        return b'{"op":"message","topic":"%b","offset":%d,"ts":%d,"data":%b}' % (
            publication.topic.encode(),
            publication.offset,
            publication.ts,
            publication.data,
        )
    return b'{"op":"message","topic":"%b","ts":%d,"data":%b}' % (
        publication.topic.encode(),
        publication.ts,
        publication.data,
    )


def _turn(turn: Publication) -> bytes:
    """The subscription goes on in another epoch: the answer to a question that nobody asked."""
    return encode(
        Subscribed(topic=turn.topic, epoch=turn.epoch, offset=turn.offset, recovered=True)
    )


def _loss(loss: Publication) -> bytes:
    reason = loss.data.decode()
    return encode(Lost(topic=loss.topic, epoch=loss.epoch, offset=loss.offset, reason=reason))


def _member(news: Publication) -> bytes:
    return b'{"op":"%b","topic":"%b","member":%b}' % (
        news.op.encode(),
        news.topic.encode(),
        news.data,
    )


_WRITERS: dict[str, Callable[[Publication], bytes]] = {
    Turn.op: _turn,
    Loss.op: _loss,
    Arrival.op: _member,
    Departure.op: _member,
}
