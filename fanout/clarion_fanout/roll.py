"""Who is there: the workers that share the shards, as one of them knows it. A machine without I/O.

Every worker has a *lease* on every shard, and renews it in time; see lease.lua. The roll is the
union of what the shards say, each of which may be away or have lost its data: so whoever was on it
stays until the lease that was seen is over, or the worker itself says that it leaves.

Times are seconds of one clock, that of the caller.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, cast

WORKERS = 4096
"""The most that a roll has: some 100 million connections. It is asked for as a whole."""

LONGEST_SECONDS = 60.0
"""No lease is longer. What somebody else wrote on a roll must not stay for ever."""

_ID = re.compile(rb"[A-Za-z0-9_\-]{1,64}")


class Entry(NamedTuple):
    """A worker that is there. about: what it says of itself."""

    id: str
    about: bytes

    @property
    def member(self) -> bytes:
        """How it stands on the roll."""
        return b"%b %b" % (self.id.encode(), self.about)


class Roll:
    """See the module's text. own: the worker that knows it, who is not on it."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._entries: dict[str, tuple[Entry, float]] = {}  # and until when
        self._left: dict[str, float] = {}  # until when a lease may still be found somewhere
        self.unreadable = 0
        """Entries that no worker wrote."""
        self.full = False
        """Whether a shard had `WORKERS` of them or more: then nobody knows everybody."""

    def read(self, reply: Sequence[object], now: float) -> None:
        """Takes what a shard says: members, each followed by the milliseconds of its lease."""
        self.full = len(reply) >= 2 * WORKERS
        for member, left in zip(reply[::2], reply[1::2], strict=False):
            id, _, about = cast("bytes", member).partition(b" ")
            if not _ID.fullmatch(id):
                self.unreadable += 1
                continue
            name = id.decode()
            if name == self._own or name in self._left:
                continue
            until = now + min(cast("int", left) / 1000, LONGEST_SECONDS)
            known = self._entries.get(name)
            if known is None or until > known[1]:
                self._entries[name] = (Entry(name, about), until)

    def leaves(self, worker: str, now: float, lease_s: float) -> None:
        """A worker says that it leaves. lease_s: the longest that one of its leases is found."""
        self._entries.pop(worker, None)
        if len(self._left) >= WORKERS:
            del self._left[next(iter(self._left))]
        self._left[worker] = now + lease_s

    def others(self, now: float) -> list[Entry]:
        """Everybody who is there, but the worker itself."""
        self._left = {worker: until for worker, until in self._left.items() if until > now}
        self._entries = {worker: known for worker, known in self._entries.items() if known[1] > now}
        return [entry for entry, _until in self._entries.values()]
