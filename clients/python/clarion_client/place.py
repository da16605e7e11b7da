"""Where a client stands in one topic: its position, and what is a duplicate or a gap.

A topic with history is a stream: offsets 1, 2, 3, ... in an epoch. The place knows

    epoch    of the stream, None as long as it is not known, or where there is no history
    offset   everything up to here is settled: it was delivered, or was never asked for
    rewinds  the newest so many were asked for, and none has come yet: the first message may stand
             at or before `offset`

The server promises that nothing is missing between two messages. A place takes it at its word and
checks it: a hole in the offsets is reported like any loss.
"""

from __future__ import annotations

from clarion_client import wire
from clarion_client.events import Lost, Position


class Place:
    """See the module's text. since, last: where the program wants to begin; one or neither."""

    __slots__ = ("epoch", "offset", "rewinds", "topic")

    def __init__(self, topic: str, since: Position | None = None, last: int = 0) -> None:
        self.topic = topic
        self.epoch: str | None = since.epoch if since else None
        self.offset = since.offset if since else 0
        self.rewinds = last

    @property
    def position(self) -> Position | None:
        return None if self.epoch is None else Position(self.epoch, self.offset)

    @property
    def start(self) -> Position | None:
        """The position that the next message follows; None where that is not known."""
        return None if self.rewinds else self.position

    def wish(self) -> dict[str, object]:
        """What to ask for, now or after a reconnect."""
        if self.rewinds:
            return wire.wish(self.topic, last=self.rewinds)
        return wire.wish(self.topic, since=self.position)

    def subscribed(self, answer: wire.Subscribed) -> Lost | None:
        """The answer to the wish. Returns what was lost meanwhile, if anything was."""
        before = self.position
        here = None
        if answer.epoch is not None and answer.offset is not None:
            here = Position(answer.epoch, answer.offset)
        if before is None:
            self._go(here)
            return None
        if here is None:
            self._go(None)
            return Lost(self.topic, None, "the topic keeps no history")
        if self.rewinds:
            # Asked twice, as nothing had come when the connection was lost: what was published
            # meanwhile may be more than was asked for. The first message tells (`received`),
            # unless the stream is another one.
            if here.epoch == before.epoch:
                return None
            self._go(here)
            return Lost(self.topic, here, "the stream has begun anew")
        if answer.recovered or (answer.recovered is None and here == before):
            self.epoch = here.epoch  # the offset moves with the messages that follow
            return None
        self._go(here)
        anew = here.epoch != before.epoch
        return Lost(
            self.topic,
            here,
            "the stream has begun anew" if anew else "the history does not reach back so far",
        )

    def renewed(self, epoch: str | None) -> None:
        """The stream goes on in another epoch, with nothing missing."""
        if epoch is not None and self.epoch is not None:
            self.epoch = epoch

    def lost(self, lost: wire.Lost) -> None:
        """The server says that it goes on behind another position."""
        if lost.epoch != self.epoch or lost.offset > self.offset:
            self._go(Position(lost.epoch, lost.offset))
        self.rewinds = 0

    def received(self, offset: int | None) -> tuple[bool, Lost | None]:
        """A message: whether it is a new one, and what is missing before it."""
        if offset is None or self.epoch is None:
            return True, None
        before = self.offset
        if offset <= before and not self.rewinds:
            return False, None
        self.rewinds = 0
        self.offset = offset
        if offset <= before + 1:
            return True, None
        gap = f"{before + 1} to {offset - 1} never came"
        return True, Lost(self.topic, Position(self.epoch, offset - 1), gap)

    def _go(self, here: Position | None) -> None:
        self.epoch, self.offset = here if here else (None, 0)
