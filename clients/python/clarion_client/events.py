"""What a program gets to see: messages, and what else happens to a subscription."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from clarion_client.errors import ClarionError, Closed


class Position(NamedTuple):
    """Where a message stands in its topic's stream.

    Keep the position of the last message you have handled, and `subscribe(topic, since=position)`
    goes on behind it, tomorrow and in another process too, as far as the topic's history reaches.
    """

    epoch: str
    offset: int


@dataclass(frozen=True, slots=True)
class Message:
    """A publication.

    ts: when the server accepted it, Unix milliseconds. offset, epoch: its place in the topic's
    stream; None in topics without a history.
    """

    topic: str
    data: Any
    ts: int
    offset: int | None
    epoch: str | None

    @property
    def position(self) -> Position | None:
        """What `since` takes; None in a topic without a history."""
        if self.epoch is None or self.offset is None:
            return None
        return Position(self.epoch, self.offset)

    @property
    def time(self) -> datetime:
        """`ts` as a time of day, in UTC."""
        return datetime.fromtimestamp(self.ts / 1000, timezone.utc)


@dataclass(frozen=True, slots=True)
class Lost:
    """Messages of `topic` may be missing; what follows goes on behind `position`.

    position: None where the topic has no history.
    """

    topic: str
    position: Position | None
    reason: str


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The server has granted the subscription, or granted it again after a reconnect.

    position: what follows goes on behind it; None without a history, and with `last`. newest: of
    the topic, at that moment. recovered: whether all that was missed follows; None where nothing
    can be missed, as it is the first time. (If False, a `Lost` comes before this.)
    """

    topic: str
    position: Position | None
    newest: Position | None
    recovered: bool | None


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody who is there: a connection, and its user if it has one."""

    client: str
    user: str | None


@dataclass(frozen=True, slots=True)
class Join:
    """Somebody came to a topic whose namespace keeps presence."""

    topic: str
    member: Member


@dataclass(frozen=True, slots=True)
class Leave:
    """Somebody left a topic whose namespace keeps presence."""

    topic: str
    member: Member


@dataclass(frozen=True, slots=True)
class Ended:
    """The subscription of `topic` is over: `error` is a `Refused` or an `Unsubscribed`."""

    topic: str
    error: ClarionError


Event: TypeAlias = Message | Lost | Subscribed | Join | Leave | Ended
"""What `Subscription.events()` yields."""


@dataclass(frozen=True, slots=True)
class Published:
    """A message was accepted. position: None in a topic without a history.

    duplicate: its idempotency key was known; the position is that of the first time.
    """

    topic: str
    position: Position | None
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """A part of a topic's history. position: that of the newest message of the topic."""

    topic: str
    position: Position
    messages: list[Message]


@dataclass(frozen=True, slots=True)
class Presence:
    """Who is there. count: how many, at all servers. members: a page of them.

    next: what to pass as `after` for the next page; None: this is the last.
    """

    topic: str
    count: int
    members: list[Member]
    next: str | None = None


class Phase(Enum):
    """Where the client is on its way."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    BACKING_OFF = "backing off"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class State:
    """How it stands with the connection.

    client, user: who the server says we are, when CONNECTED. why: what ended the last connection
    or attempt, when BACKING_OFF or CLOSED; and for programs, when BACKING_OFF, code: its close code
    or the HTTP status of a refused handshake. Where there was neither, 1002 means that what came
    was no `clarion.v1`, 4003 that nothing came any more, 1006 anything else. retry_s: the pause
    until the next attempt, when BACKING_OFF. error: why there will be no other, when CLOSED; None
    when the program closed it.
    """

    phase: Phase
    client: str = ""
    user: str | None = None
    why: str = ""
    code: int | None = None
    retry_s: float = 0.0
    error: Closed | None = None
