"""A topic's stream as the scripts keep it in Redis, written down naively: the model of the tests.

What it has forgotten it keeps apart (`given`), as tests must know what nobody can have any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from clarion_fanout.broker import Page, Want
from clarion_fanout.publication import Position, Publication

TOPIC = "many:a"


class Given(NamedTuple):
    """A publication at the moment when it was given out. number: counts all, from 1. former: the
    epochs before its own."""

    number: int
    position: Position
    former: tuple[str, ...]


class NaiveStream:
    """See the module's text."""

    def __init__(self) -> None:
        self._epochs = 1
        self._numbers = 0
        self.position = Position("e1", 0)
        self.kept: dict[int, Given] = {}
        """By offset, in order."""
        self._past: dict[int, Given] = {}
        """Likewise, with what was trimmed and cut out."""
        self.given: dict[bytes, Given] = {}
        """Everything that was ever published, by its data."""
        self._lineage: list[tuple[str, int, bool]] = []
        """Former epochs: up to where they are part of it, and whether nothing is missing since."""
        self._turns = False  # with the next publication
        self._before: dict[int, tuple[str, list[tuple[str, int, bool]]]] = {0: ("e1", [])}
        """Epoch and lineage when the newest offset was that one: what a restart brings back."""

    def publish(self) -> bytes:
        """Takes a publication; returns the payload that subscribers get."""
        epoch, offset = self.position
        if self._turns:
            self._turns = False
            self._lineage.insert(0, (epoch, offset, True))
            epoch = self._fresh()
        self._numbers += 1
        data = b"%d" % self._numbers
        self.position = Position(epoch, offset + 1)
        former = tuple(name for name, _, _ in self._lineage)
        given = Given(self._numbers, self.position, former)
        self.given[data] = self.kept[offset + 1] = self._past[offset + 1] = given
        self._remember()
        return b"#%d 0 %b %b" % (offset + 1, epoch.encode(), data)

    def _fresh(self) -> str:
        self._epochs += 1
        return f"e{self._epochs}"

    def _remember(self) -> None:
        epoch, offset = self.position
        self._before[offset] = epoch, list(self._lineage)

    # What happens to shards

    def restart(self, forgotten: int = 0) -> set[int]:
        """Another reign begins, in which the newest so many publications are not known.

        Returns their numbers. Data that step back behind the beginning of an epoch bring back the
        one before.
        """
        epoch, offset = self.position
        left = max(0, offset - forgotten)
        if left < offset:
            epoch, lineage = self._before[left]
            self._lineage = list(lineage)
            self._before = {each: state for each, state in self._before.items() if each <= left}
        self.position = Position(epoch, left)
        self._turns = True
        gone = {given.number for each, given in self._past.items() if each > left}
        self.kept = {each: given for each, given in self.kept.items() if each <= left}
        self._past = {each: given for each, given in self._past.items() if each <= left}
        return gone

    def lose(self) -> None:
        """Everything is gone, as after FLUSHALL."""
        self.position = Position(self._fresh(), 0)
        self.kept.clear()
        self._past.clear()
        self._lineage.clear()
        self._turns = False
        self._before.clear()
        self._remember()

    def trim(self, size: int) -> None:
        """Forgets the oldest; keeps so many."""
        for offset in list(self.kept)[: max(0, len(self.kept) - size)]:
            del self.kept[offset]

    def cut_out(self, offset: int) -> None:
        """Forgets one in the middle, as an operator's `XDEL` does."""
        self.kept.pop(offset, None)

    # Questions

    def page(self, want: Want, *, follows: bool = False, former: Sequence[str] = ()) -> Page:
        """The answer that read.lua would give."""
        newest = self.position.offset
        since, complete, gap = 0, True, None
        if want.since is not None:
            limit, whole = self._reach(want.since.epoch)
            known = want.since.offset <= limit
            for epoch in former:
                if limit < 0:
                    limit, whole = self._reach(epoch)
            lineage = self._lineage
            if follows and not known and whole and limit >= 0:
                self._admit_a_loss()
            since = want.since.offset if known else limit if follows else 0
            oldest = min(self.kept, default=newest + 1)
            complete = known and whole and want.since.offset + 1 >= oldest
            if follows and not (known and whole):
                gap = next((last for _, last, clean in lineage if not clean), None)
        elif want.last:
            since = newest - want.last
        offsets = [offset for offset in self.kept if offset > since]
        if not follows and want.since is not None and len(offsets) < newest - since:
            complete = False  # followers see for themselves what is missing between
        if want.limit is not None:
            offsets = offsets[: want.limit]
        found = [self._publication(offset) for offset in offsets]
        return Page(self.position, found, complete, gap)

    def _reach(self, epoch: str) -> tuple[int, bool]:
        """Up to where an epoch is part of the stream, and whether nothing is missing since."""
        known = [(self.position.epoch, self.position.offset, True), *self._lineage]
        return next(((limit, whole) for name, limit, whole in known if name == epoch), (-1, True))

    def _admit_a_loss(self) -> None:
        """Somebody was at a position beyond what is left."""
        epoch, offset = self.position
        former = [(epoch, offset, True), *self._lineage]
        self._lineage = [(name, limit, False) for name, limit, _ in former]
        self.position = Position(self._fresh(), offset)
        self._turns = False
        self._remember()

    def _publication(self, offset: int) -> Publication:
        number = self.kept[offset].number
        return Publication(TOPIC, b"%d" % number, 0, offset, self.position.epoch)


def numbers(publications: Sequence[Publication]) -> list[int]:
    """Those of the publications, by what `NaiveStream.publish` made their data."""
    return [int(each.data) for each in publications if type(each) is Publication]
