"""The values that flow from a publisher to a hub.

A `Draft` is what a publisher hands in; the broker accepts it and makes of it a `Publication`,
which is what everyone receives; the publisher gets a `Receipt`. A `Position` says where a
publication stands in its topic's stream: `offset` counts from 1, and `epoch` names the stream
itself, so that offsets of a stream that was lost and begun anew are not mistaken for the old ones.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

T = TypeVar("T")


class _Maker(Protocol):
    def __call__(self, kind: type[T], values: tuple[object, ...], /) -> T: ...


_tuple: Any = tuple  # what is declared of its constructor is of no use here

made: _Maker = _tuple.__new__
"""`made(Position, (epoch, offset))` is `Position(epoch, offset)` at half the price, as the
constructor of a named tuple is a function of Python's: for what is made for each publication."""


class Position(NamedTuple):
    """Where a publication stands: the stream's `epoch` and the `offset` in it, from 1.

    Offset 0 stands before the first publication.
    """

    epoch: str
    offset: int


class Draft(NamedTuple):
    """What a publisher hands in: JSON `data`, checked, for `topic`.

    id: the publisher's idempotency key: a second draft of the same topic with the same id is not
        published again while the id is remembered.
    key: what it is the news of, within the topic; "" if nothing was said. See `conflation`.
    """

    topic: str
    data: bytes
    id: str | None = None
    key: str = ""


class Receipt(NamedTuple):
    """The broker's answer to a draft that it accepted.

    `position` is None in topics without history. `duplicate`: the draft's `id` was known,
    `position` is that of the first time.
    """

    topic: str
    position: Position | None
    duplicate: bool = False


class Publication:
    """One message in a topic, as the broker accepted it.

    op: what it is on the wire; the subclasses are what else a topic's feed brings.
    data: JSON, as UTF-8, without line breaks. It is spliced into frames and never parsed again.
    ts: the time of acceptance, Unix milliseconds.
    offset: its place in the topic's stream; 0 in topics without history.
    epoch: that of the stream; "" in topics without history.
    key: its draft's.

    What each wire form makes of it is kept with it, so that it is encoded once for all subscribers.
    """

    __slots__ = ("data", "epoch", "form", "frame", "key", "offset", "others", "topic", "ts")

    op: ClassVar[str] = "message"

    def __init__(
        self, topic: str, data: bytes, ts: int, offset: int = 0, epoch: str = "", key: str = ""
    ) -> None:
        self.topic = topic
        self.data = data
        self.ts = ts
        self.offset = offset
        self.epoch = epoch
        self.key = key
        self.form: object | None = None
        """The first wire form that it was asked for."""
        self.frame: bytes
        """What that makes of it, once there is one."""
        self.others: dict[object, bytes] | None = None
        """What other forms make of it."""

    def keep(self, form: object, frame: bytes) -> None:
        """Keeps what a form makes of it. Nearly all have one form, and need no dict for it."""
        if self.form is None:
            self.form, self.frame = form, frame
        elif self.others is None:
            self.others = {form: frame}
        else:
            self.others[form] = frame

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.topic!r}, {self.data!r}, offset={self.offset})"


class Turn(Publication):
    """The stream goes on in another epoch, and nothing is missing.

    A shard that restarted or failed over with all that it had given out begins a new epoch, which
    continues the old one. epoch, offset: the position at which the stream turned, in the new
    epoch; data: the old epoch.
    """

    __slots__ = ()

    op = "subscribed"

    def __init__(self, topic: str, position: Position, previous: str) -> None:
        super().__init__(topic, previous.encode(), 0, position.offset, position.epoch)


class Loss(Publication):
    """Publications up to a position may be missing; the stream goes on from there.

    data: the reason, for people.
    """

    __slots__ = ()

    op = "lost"

    def __init__(self, topic: str, position: Position, reason: str) -> None:
        super().__init__(topic, reason.encode(), 0, position.offset, position.epoch)


class Arrival(Publication):
    """A member joined a topic whose namespace announces it. data: the member, as JSON."""

    __slots__ = ()

    op = "join"


class Departure(Publication):
    """A member left a topic whose namespace announces it. data: the member, as JSON."""

    __slots__ = ()

    op = "leave"


class PayloadError(ValueError):
    """A publisher's data cannot be published. The text says what is wrong, for its author."""
