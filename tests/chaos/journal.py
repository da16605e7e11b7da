"""What happened in a run: what publishers sent, subscribers saw, and faults destroyed.

It is only written down here; `judge` says what of it should not be. Times are monotonic seconds of
this process, which all of them share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple


class Position(NamedTuple):
    """As a client knows it; see clients/PROTOCOL.md."""

    epoch: str
    offset: int


@dataclass
class Sent:
    """A publication: one message with one idempotency key, sent until it was acknowledged.

    acked: when that was; None: nobody knows whether it was published.
    """

    id: str
    topic: str
    publisher: str
    began: float
    tries: int = 0
    acked: float | None = None
    position: Position | None = None


Kind = Literal["begin", "resumed", "turn", "gap", "message"]


class Entry(NamedTuple):
    """Something that a subscriber was told of a topic.

    begin     the answer to its first `subscribe`: it follows the stream from this position on
    resumed   the answer to a `since`: nothing is missing; the position is the stream's newest
    turn      an unasked `subscribed`: the stream goes on in another epoch
    gap       `lost`, or `recovered:false`: something up to this position may be missing
    message   id: that of the publication
    """

    at: float
    kind: Kind
    position: Position
    id: str = ""


@dataclass
class Log:
    """What one subscriber was told of one topic, from its first subscription on.

    asked: when it sent the `subscribe` that was answered first.
    over: whether it has gone for good; what came after its last entry is not its business.
    """

    subscriber: str
    topic: str
    asked: float = 0.0
    over: bool = False
    entries: list[Entry] = field(default_factory=list)

    @property
    def position(self) -> Position | None:
        """Where a client stands after what it was told."""
        epoch: str | None = None
        offset = 0
        for entry in self.entries:
            if entry.kind == "message":
                offset = entry.position.offset
            else:
                epoch = entry.position.epoch
                if entry.kind in ("begin", "gap"):
                    offset = entry.position.offset
        return None if epoch is None else Position(epoch, offset)


class Deed(NamedTuple):
    """A fault, as it was done. destroyed: the topics of which it may have destroyed something."""

    began: float
    ended: float
    text: str
    destroyed: frozenset[str] = frozenset()


@dataclass
class Journal:
    """See the module's text.

    oddities: what nobody should ever see, such as an answer that was not asked for.
    brief: topics whose history is so short that a subscriber may fall behind it.
    """

    sent: dict[str, Sent] = field(default_factory=dict)
    logs: list[Log] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    oddities: list[str] = field(default_factory=list)
    brief: frozenset[str] = frozenset()
