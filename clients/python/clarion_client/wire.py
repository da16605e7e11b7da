"""The wire `clarion.v1`: what a client sends as text, and what it makes of the server's.

One JSON object is one text message, both ways. Fields that are not known are ignored, and so are
whole messages with an op that is not. Here a message only becomes typed; what it means is the
machine's business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from clarion_client.events import Member, Position

SUBPROTOCOL = "clarion.v1"

MAX_NUMBER = 2**53
"""Beyond it numbers are not exact in JavaScript, so that no server means them."""

MAX_TS = 253_402_300_799_999
"""The end of the year 9999, and of `datetime`."""

Id: TypeAlias = int | str

Loads: TypeAlias = Callable[[str], Any]
"""Reads JSON: `json.loads`, or a faster one such as `orjson.loads`."""


class NotClarion(Exception):
    """What came is not `clarion.v1`."""


_TOPIC = re.compile(r"[A-Za-z0-9_\-.:/@#=+,]{1,255}\Z")
_KEY = re.compile(r"[!-~]{1,128}\Z")
_ID = re.compile(r"[^\ud800-\udfff]{1,128}\Z")


# Each gives back a plain `str`: one of an enumeration becomes its name where text is put together.


def check_topic(topic: str) -> str:
    """`topic`, if it follows the grammar of names. Raises `ValueError` or `TypeError`."""
    if found := _TOPIC.match(topic):
        return found[0]
    raise ValueError(f"{topic!r} is no topic: 1-255 characters of A-Z a-z 0-9 _-.:/@#=+,")


def check_key(key: str) -> str:
    """`key`, if it may be a conflation key. Raises `ValueError` or `TypeError`."""
    if found := _KEY.match(key):
        return found[0]
    raise ValueError(f"{key!r} is no conflation key: 1-128 characters of visible ASCII")


def check_id(id: str) -> str:
    """`id`, if it may be an idempotency key. Raises `ValueError` or `TypeError`."""
    if found := _ID.match(id):
        return found[0]
    raise ValueError("an idempotency key has 1 to 128 characters, none of them half of one")


# What the server sends


@dataclass(frozen=True, slots=True)
class Welcome:
    client: str
    user: str | None
    ping_ms: int | None
    expires_ms: int | None
    id: Id | None = None


@dataclass(frozen=True, slots=True)
class Subscribed:
    topic: str
    epoch: str | None
    offset: int | None
    recovered: bool | None
    id: Id | None = None


@dataclass(frozen=True, slots=True)
class Publication:
    topic: str
    offset: int | None
    ts: int
    data: Any


@dataclass(frozen=True, slots=True)
class Lost:
    topic: str
    epoch: str
    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    topic: str
    reason: str | None
    id: Id | None = None


@dataclass(frozen=True, slots=True)
class Published:
    topic: str
    epoch: str | None
    offset: int | None
    id: Id | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    offset: int
    ts: int
    data: Any


@dataclass(frozen=True, slots=True)
class HistoryPage:
    topic: str
    epoch: str
    offset: int
    messages: Sequence[Kept]
    id: Id | None = None


@dataclass(frozen=True, slots=True)
class PresenceList:
    topic: str
    count: int
    members: Sequence[Member]
    next: str | None = None
    id: Id | None = None


@dataclass(frozen=True, slots=True)
class Movement:
    """`join` or `leave`."""

    topic: str
    member: Member
    joined: bool


@dataclass(frozen=True, slots=True)
class Refreshed:
    expires_ms: int
    id: Id | None = None


@dataclass(frozen=True, slots=True)
class Pong:
    id: Id | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    code: str
    topic: str | None
    message: str
    retry_ms: int | None
    id: Id | None = None


@dataclass(frozen=True, slots=True)
class Goodbye:
    code: int
    reason: str
    retry_ms: int | None


Answer: TypeAlias = Published | HistoryPage | PresenceList | Refreshed | Pong
"""What answers a command that was one of a kind."""

Received: TypeAlias = (
    Answer | Welcome | Subscribed | Publication | Lost | Unsubscribed | Movement | Failure | Goodbye
)


MAX_WORDS = 500
"""Characters of a server's words for people. Its longest are some 200."""


def plain(text: str) -> str:
    """A server's words, fit for a log and a terminal: one line, nothing that either would obey."""
    text = text[:MAX_WORDS]
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Fields:
    """A JSON object whose fields are asked for by type. Raises `NotClarion`."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Any) -> None:
        if not isinstance(fields, dict):
            raise NotClarion("an object was expected")
        self._fields: dict[str, Any] = fields

    def raw(self, name: str) -> Any:
        return self._fields.get(name)

    def text(self, name: str) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str):
            raise NotClarion(f"{name} is no string")
        return value

    def text_if(self, name: str) -> str | None:
        return None if self._fields.get(name) is None else self.text(name)

    def words_if(self, name: str) -> str | None:
        text = self.text_if(name)
        return None if text is None else plain(text)

    def words(self, name: str) -> str:
        return self.words_if(name) or ""

    def number(self, name: str) -> int:
        value = self._fields.get(name)
        if type(value) is not int or not -MAX_NUMBER <= value <= MAX_NUMBER:  # True is an int, too
            raise NotClarion(f"{name} is no whole number")
        return value

    def time(self, name: str) -> int:
        value = self.number(name)
        if not 0 <= value <= MAX_TS:
            raise NotClarion(f"{name} is no time")
        return value

    def number_if(self, name: str) -> int | None:
        return None if self._fields.get(name) is None else self.number(name)

    def truth_if(self, name: str) -> bool | None:
        value = self._fields.get(name)
        if value is None or isinstance(value, bool):
            return value
        raise NotClarion(f"{name} is neither true nor false")

    def id(self) -> Id | None:
        value: Id | None = self._fields.get("id")
        if value is None or type(value) in (int, str):
            return value
        raise NotClarion("id is neither a number nor a string")

    def list(self, name: str) -> list[_Fields]:
        elements: list[Any] | None = self._fields.get(name)
        if not isinstance(elements, list):
            raise NotClarion(f"{name} is no list")
        return [_Fields(element) for element in elements]


def _welcome(f: _Fields) -> Welcome:
    return Welcome(
        f.text("client"),
        f.text_if("user"),
        f.number_if("ping_ms"),
        f.number_if("expires_ms"),
        f.id(),
    )


def _subscribed(f: _Fields) -> Subscribed:
    epoch, offset = f.text_if("epoch"), f.number_if("offset")
    if (epoch is None) != (offset is None):
        raise NotClarion("epoch and offset come together")
    return Subscribed(f.text("topic"), epoch, offset, f.truth_if("recovered"), f.id())


def _publication(f: _Fields) -> Publication:
    return Publication(f.text("topic"), f.number_if("offset"), f.time("ts"), f.raw("data"))


def _lost(f: _Fields) -> Lost:
    return Lost(f.text("topic"), f.text("epoch"), f.number("offset"), f.words("reason"))


def _unsubscribed(f: _Fields) -> Unsubscribed:
    return Unsubscribed(f.text("topic"), f.words_if("reason"), f.id())


def _published(f: _Fields) -> Published:
    return Published(f.text("topic"), f.text_if("epoch"), f.number_if("offset"), f.id())


def _history(f: _Fields) -> HistoryPage:
    kept = [Kept(m.number("offset"), m.time("ts"), m.raw("data")) for m in f.list("messages")]
    return HistoryPage(f.text("topic"), f.text("epoch"), f.number("offset"), kept, f.id())


def _member(f: _Fields) -> Member:
    return Member(f.text("client"), f.text_if("user"))


def _presence(f: _Fields) -> PresenceList:
    members = [_member(member) for member in f.list("members")]
    return PresenceList(f.text("topic"), f.number("count"), members, f.text_if("next"), f.id())


def _join(f: _Fields) -> Movement:
    return Movement(f.text("topic"), _member(_Fields(f.raw("member"))), joined=True)


def _leave(f: _Fields) -> Movement:
    return Movement(f.text("topic"), _member(_Fields(f.raw("member"))), joined=False)


def _refreshed(f: _Fields) -> Refreshed:
    return Refreshed(f.number("expires_ms"), f.id())


def _pong(f: _Fields) -> Pong:
    return Pong(f.id())


def _failure(f: _Fields) -> Failure:
    return Failure(
        plain(f.text("code")),
        f.words_if("topic"),
        f.words("message"),
        f.number_if("retry_ms"),
        f.id(),
    )


def _goodbye(f: _Fields) -> Goodbye:
    return Goodbye(f.number("code"), f.words("reason"), f.number_if("retry_ms"))


_READERS: Mapping[str, Callable[[_Fields], Received]] = {
    "welcome": _welcome,
    "subscribed": _subscribed,
    "message": _publication,
    "lost": _lost,
    "unsubscribed": _unsubscribed,
    "published": _published,
    "history": _history,
    "presence": _presence,
    "join": _join,
    "leave": _leave,
    "refreshed": _refreshed,
    "pong": _pong,
    "error": _failure,
    "goodbye": _goodbye,
}


def loads(text: str | bytes) -> Any:
    """JSON, whatever a publisher put into `data`. Raises `NotClarion`."""
    try:
        return json.loads(text)
    except RecursionError:
        raise NotClarion("nested too deeply") from None
    except ValueError:
        pass
    try:
        # A number of more than 4,300 digits is JSON too, but Python makes no int of it. Were it an
        # error, the message would come back with every reconnect.
        return json.loads(text, parse_int=_number)
    except ValueError as error:
        raise NotClarion(f"not JSON: {error}") from None


def _number(digits: str) -> float:
    try:
        return int(digits)
    except ValueError:
        return float(digits)


def decode(text: str, read: Loads = loads) -> Received | None:
    """What a text message says; None where its op is of a later version. Raises `NotClarion`.

    read: makes an object of it; what it raises means that it is no JSON.
    """
    try:
        found = read(text)
    except NotClarion:
        raise
    except Exception as error:  # every library has its own
        raise NotClarion(f"not JSON: {error}") from None
    fields = _Fields(found)
    reader = _READERS.get(fields.text("op"))
    return None if reader is None else reader(fields)


# What a client sends


def dumps(value: object) -> str:
    """Compact JSON. Raises `TypeError` or `ValueError` for what is none: NaN, half a character."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    if not text.isascii():
        text.encode()
    return text


class Json:
    """Data that is JSON already, such as what an encoder of your own made. It is published as it
    stands. Raises `ValueError` for what is no JSON.

    It is checked, as it becomes a part of what is sent: half an object would spoil the rest, and
    a clever one would be more than data.
    """

    __slots__ = ("text",)

    def __init__(self, text: str | bytes) -> None:
        self.text = text.decode() if isinstance(text, bytes) else text
        self.text.encode()  # half a character
        try:
            # Numbers stay text: they may be longer than Python likes.
            json.loads(self.text, parse_int=str, parse_float=str, parse_constant=_refuse)
        except RecursionError:
            raise ValueError("nested too deeply") from None

    def __repr__(self) -> str:
        return f"Json({self.text!r})"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def dumps_data(data: object) -> str:
    """The data of a publication as JSON. Raises as `dumps`."""
    return data.text if isinstance(data, Json) else dumps(data)


def encode(op: str, id: Id | None = None, **fields: object) -> str:
    """A command. Fields that are None are left out."""
    command: dict[str, object] = {"op": op}
    if id is not None:
        command["id"] = id
    command.update((name, value) for name, value in fields.items() if value is not None)
    return dumps(command)


def encode_publish(id: Id, topic: str, data: object, key: str | None = None) -> str:
    """A `publish`, whose `data` may be None: that is null. Raises as `dumps` and `check_key`."""
    fields: dict[str, object] = {"op": "publish", "id": id, "topic": topic}
    if key is not None:
        fields["key"] = check_key(key)
    head = dumps(fields)
    return f'{head[:-1]},"data":{dumps_data(data)}}}'


def since_fields(since: Position | None) -> dict[str, object] | None:
    """A position, as the wire writes it."""
    return None if since is None else {"epoch": since.epoch, "offset": since.offset}


def wish(topic: str, since: Position | None = None, last: int = 0) -> dict[str, object]:
    """A topic of a `subscribe`, and where in its stream to begin."""
    wished: dict[str, object] = {"topic": topic}
    if since is not None:
        wished["since"] = since_fields(since)
    elif last:
        wished["last"] = last
    return wished


def encode_subscribes(
    wishes: Sequence[dict[str, object]], next_id: Callable[[], int], max_bytes: int
) -> list[tuple[int, str, int]]:
    """As few `subscribe` commands for all `wishes` as messages of `max_bytes` allow.

    Returns for each its id, its text and how many wishes, in order, it is for.
    """
    commands: list[tuple[int, str, int]] = []
    part: list[str] = []
    room = 0
    envelope = len('{"op":"subscribe","id":9007199254740992,"topics":[]}')

    def close() -> None:
        if part:
            id = next_id()
            topics = ",".join(part)
            text = f'{{"op":"subscribe","id":{id},"topics":[{topics}]}}'
            commands.append((id, text, len(part)))
            part.clear()

    for wished in wishes:
        text = dumps(wished)
        size = len(text.encode()) + 1
        if not part or size > room:
            close()
            room = max_bytes - envelope
        part.append(text)
        room -= size
    close()
    return commands
