"""A topic's stream in memory: what was published, in order, bounded by count and age.

Offsets are consecutive and start at 1, so the place of an offset in the deque is a subtraction.
A stream has no clock: the time comes with each call, in Unix milliseconds.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from clarion_fanout.broker import HistoryOptions, Page, Want
from clarion_fanout.publication import Position, Publication

ENTRY_BYTES = 330
"""What a kept publication costs beside its data, which counts twice: once it was sent, it keeps a
frame too. 200 bytes for object, numbers and headers, 130 for the frame's envelope (measured with
tracemalloc; a second wire form adds a table, some 370 bytes more and is not counted)."""

KEY_BYTES = 50
"""And a conflation key, beside its text."""

QUEUE_BYTES = 800
"""What a stream's deque costs, which is made for the first publication."""

STREAM_BYTES = 480
"""What an empty stream costs: the object, epoch, name and table entries (measured likewise)."""

_EMPTY: deque[Publication] = deque(maxlen=0)


class Stream:
    """One topic's stream: the newest publications and the position they end at."""

    __slots__ = ("_entries", "bytes", "epoch", "offset", "topic", "used")

    def __init__(self, topic: str, epoch: str, now: int) -> None:
        self.topic = topic
        self.epoch = epoch
        self.offset = 0
        """That of the newest publication; 0 before the first."""
        self.bytes = STREAM_BYTES
        """What the stream takes of memory, about."""
        self.used = now
        """When it was last published to or asked for, Unix milliseconds."""
        self._entries: deque[Publication] = _EMPTY

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def position(self) -> Position:
        """That of the newest publication."""
        return Position(self.epoch, self.offset)

    def append(self, data: bytes, now: int, options: HistoryOptions, key: str = "") -> Publication:
        """Accepts a publication: gives it the next offset and keeps it."""
        self.offset = offset = self.offset + 1
        self.used = now
        # The stream's own name: one string for all, whatever each draft brought.
        publication = Publication(self.topic, data, now, offset, self.epoch, key)
        if self._entries is _EMPTY:
            self._entries = deque()
            self.bytes += QUEUE_BYTES
        entries = self._entries
        entries.append(publication)
        self.bytes += 2 * len(data) + ENTRY_BYTES  # as `_cost`, of which this is most
        if key:
            self.bytes += KEY_BYTES + len(key)
        size, seconds = options
        if len(entries) > size or entries[0].ts < now - seconds * 1000:
            self.trim(now, options)
        return publication

    def trim(self, now: int, options: HistoryOptions) -> None:
        """Removes what is beyond the size or too old."""
        entries = self._entries
        if not entries:
            return
        size, seconds = options
        oldest = now - seconds * 1000
        while len(entries) > size or entries[0].ts < oldest:
            self.bytes -= _cost(entries.popleft())
            if not entries:
                self.clear()
                return

    def clear(self) -> None:
        """Removes every publication; the position stays."""
        self._entries = _EMPTY
        self.bytes = STREAM_BYTES

    def answer(self, want: Want, now: int, options: HistoryOptions) -> Page:
        """Reads the stream; see `Want` and `Page`."""
        self.used = now
        if want.limit == 0 and want.since is None:
            return Page(self.position, ())  # a fresh subscription: the most frequent question
        self.trim(now, options)
        entries = self._entries
        count = len(entries)
        first, stop, complete = 0, count, True
        if want.since is not None:
            epoch, offset = want.since
            known = epoch == self.epoch and 0 <= offset <= self.offset
            # How many of the kept entries stand at or before that offset.
            seen = offset - (self.offset - count)
            if want.reverse:
                # What stands before the position; an unknown position has nothing before it.
                stop = min(max(seen - 1, 0), count) if known else 0
                complete = known
            else:
                complete = known and seen >= 0
                first = max(seen, 0) if known else 0
        elif want.last:
            first = max(count - want.last, 0)
        if want.limit is not None and stop - first > want.limit:
            if want.reverse:
                first = stop - want.limit
            else:
                stop = first + want.limit
        # From the nearer end: a client that comes back missed a few of the newest.
        if first < count - stop:
            publications = list(islice(entries, first, stop))
            backwards = False
        else:
            publications = list(islice(reversed(entries), count - stop, count - first))
            backwards = True
        if backwards is not want.reverse:
            publications.reverse()
        return Page(self.position, publications, complete)


def _cost(publication: Publication) -> int:
    """What a kept publication takes of memory, about."""
    cost = 2 * len(publication.data) + ENTRY_BYTES
    return cost + KEY_BYTES + len(publication.key) if publication.key else cost
