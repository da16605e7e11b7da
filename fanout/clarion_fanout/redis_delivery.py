"""Publishing the entries of an inbox: what is promised of them stands in `redis_inbox`.

An owner gives its delivery what it has read, batch after batch, and hears which entries are done.
Those that cannot be published yet wait here, in a `Backlog`, and go with a later batch. Where
something is to be done to letters first, they come here through a `Preparer`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, cast
from zlib import crc32

from clarion_fanout import letter as letters
from clarion_fanout.backlog import Backlog, place
from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.letter import FIELDS, Letter, Undeliverable
from clarion_fanout.preparer import Preparer
from clarion_fanout.publication import Receipt
from clarion_fanout.redis_broker import RedisBroker, Step
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_place import Place
from clarion_fanout.redis_scripts import BURY

log = logging.getLogger(__name__)

PENDING_SECONDS = 24 * 3600
"""That an entry is remembered at its topic's shard while it is in the stream. It costs nothing:
few are at a time."""

SPENT_SECONDS = 60
"""And when it has left the stream. Longer than a failover takes back: a Sentinel or a cluster node
needs up to 30 s to notice, and the old primary answers meanwhile. A key takes some 150 bytes in
Redis: 10 MB at 1,000 entries/s."""

DEAD = 10_000
"""Dead letters that are kept: enough to see what is wrong. At most 700 MB of the largest."""

PORTION = 125
"""Entries that are sent together, a piece of work of some 2 ms here and there."""

SLACK_BYTES = 4096
"""Of an entry beside its data: topic, id, names, and fields that are not ours."""

RETRY_SECONDS = 0.25
"""Between attempts to publish what waits. A shard that is known to be away is not asked."""

Entry: TypeAlias = list[bytes | int | list[bytes]]
"""As inbox.lua returns it."""

Sent: TypeAlias = tuple[Letter, Step]
"""A letter that was published, and how."""

_Dead: TypeAlias = tuple[bytes, list[bytes], str]
"""An entry that cannot be published, its fields and why."""

_Refused: TypeAlias = tuple[Step, _Dead]
"""A letter that steps refused: how it would have been published, and what is buried."""


class Mail(NamedTuple):
    """What was read. first: the id of the first entry; None if there was none."""

    first: bytes | None
    letters: Sequence[Letter]
    dead: Sequence[_Dead]


class Delivery:
    """See the module's text.

    name: the inbox's.
    dead: where dead letters are kept.
    data_bytes: the most that an entry may publish.
    key_seconds: how long an entry's own idempotency key is remembered.
    preparer: what works on letters before they are published.
    """

    def __init__(
        self,
        name: str,
        *,
        dead: Place,
        broker: RedisBroker,
        keys: Keys,
        data_bytes: int,
        key_seconds: float,
        preparer: Preparer | None = None,
    ) -> None:
        self.outcomes: Counter[str] = Counter()
        """Entries that are done: `published`, `duplicate` or `dead`."""
        self._name = name
        self._salt = crc32(name.encode())
        self._dead = dead
        self._broker = broker
        self._keys = keys
        self._data_bytes = data_bytes
        self._key_ms = max(1, int(key_seconds * 1000))
        self._backlog = Backlog()
        self._preparer = preparer
        self._worked_on: dict[bytes, tuple[int, list[bytes]]] = {}
        self._refused: list[_Refused] = []
        self._retry_at = 0.0

    @property
    def waiting(self) -> int:
        """Entries that wait for a topic's shard, or for what is done to them first."""
        return self._backlog.letters + (self._preparer.waiting if self._preparer else 0)

    @property
    def oldest(self) -> bytes | None:
        """The one that waits for the longest time."""
        found = [self._backlog.oldest, self._preparer.oldest if self._preparer else None]
        return min((entry for entry in found if entry is not None), key=place, default=None)

    @property
    def room(self) -> int:
        """Entries that may be read now."""
        room = self._backlog.room
        return room if self._preparer is None else min(room, self._preparer.room)

    @property
    def retry_s(self) -> float | None:
        """Seconds until what waits for a shard is tried again; None if nothing does."""
        return max(0.0, self._retry_at - time.monotonic()) if self._backlog.letters else None

    def begin(self) -> None:
        """Forgets what waits: another owner reads it again."""
        self._backlog = Backlog()
        self._worked_on.clear()
        self._refused.clear()
        if self._preparer is not None:
            self._preparer.clear()

    # Reading

    @property
    def entry_bytes(self) -> int:
        """Larger entries are cut when they are read: they cannot be published."""
        return self._data_bytes + SLACK_BYTES

    def opened(self, entries: Sequence[Entry]) -> Mail:
        """Tells what can be published from what cannot, and has the rest worked on."""
        good: list[Letter] = []
        bad: list[_Dead] = []
        for each in entries:
            entry, fields = cast("tuple[bytes, list[bytes]]", each[:2])
            try:
                if len(each) > 2:
                    raise Undeliverable(self._too_large(each))
                preparer = self._preparer
                letter = letters.read(entry, fields, self._data_bytes, defer=preparer is not None)
                if preparer is None:
                    good.append(letter)
                elif not self._worked(preparer, letter, fields):
                    good.append(letters.checked(letter))
            except Undeliverable as error:
                bad.append((entry, fields[: 2 * FIELDS], str(error)))
        return Mail(cast("bytes", entries[0][0]) if entries else None, good, bad)

    def _worked(self, preparer: Preparer, letter: Letter, fields: list[bytes]) -> bool:
        """Whether a letter is to be worked on, which is begun then."""
        most, size = preparer.most_bytes(letter.topic), len(letter.data)
        if size > most:
            raise Undeliverable(f"data has {size} bytes, the limit is {most}")
        if not preparer.put(letter):
            return False
        # What is made of it may differ the next time, by another worker: it is the same entry.
        self._worked_on[letter.entry] = crc32(letter.data, self._salt), fields
        return True

    def _too_large(self, cut: Entry) -> str:
        """Why an entry that was cut is too large; see inbox.lua."""
        _, _, total, name, size = cast("tuple[bytes, list[bytes], int, bytes, int]", cut)
        if size > self._data_bytes:
            field = name.decode("ascii", "backslashreplace")[:64]
            return f"{field} has {size} bytes, the limit is {self._data_bytes}"
        return f"the entry has {total} bytes, the limit is {self.entry_bytes}"

    # Burying

    async def bury(self, dead: Sequence[_Dead]) -> list[bytes]:
        """Buries entries, and those that were refused, and returns them. Raises
        `BrokerUnavailable`."""
        refused, self._refused = self._refused, []
        steps = [step for step, _ in refused]
        published = await self._broker.known(steps, PENDING_SECONDS * 1000)
        dead = [*dead]
        done: list[bytes] = []
        for (_, each), known in zip(refused, published, strict=True):
            if known:
                done.append(each[0])
            else:
                dead.append(each)
        self.outcomes["duplicate"] += len(done)
        if dead:
            keys = [self._keys.dead, *([self._keys.inbox] if self._dead.fixed else [])]
            await self._dead.ask(
                [
                    BURY.packed(keys, (DEAD, entry, *fields, "reason", reason, "entry", entry))
                    for entry, fields, reason in dead
                ]
            )
            self.outcomes["dead"] += len(dead)
            log.debug("shard %s: %d dead letters, %s", self._name, len(dead), dead[-1][2])
        return done + [entry for entry, _, _ in dead]

    # Publishing

    def batch(self, fresh: Sequence[Letter], most: int) -> tuple[list[Letter], int]:
        """What is to be published now, and how many of the first have waited."""
        if self._preparer is not None:
            prepared, refused = self._preparer.take()
            fresh = [*fresh, *prepared]
            for letter, reason in refused:
                step = letter.topic, letter.data, (self._remembered(letter),), letter.key
                _, fields = self._worked_on.pop(letter.entry)
                self._refused.append((step, (letter.entry, fields, reason)))
        due: list[Letter] = []
        if self._backlog.letters and time.monotonic() >= self._retry_at:
            due = self._backlog.due(self._reachable, most)
            if not due:
                self._retry_at = time.monotonic() + RETRY_SECONDS
        return due + self._backlog.passed(fresh), len(due)

    def _reachable(self, topic: str) -> bool:
        try:
            return self._broker.shards.of(topic).available
        except BrokerUnavailable:
            return False

    async def publish(
        self, batch: Sequence[Letter], due: int, ours: Callable[[], bool]
    ) -> list[Sent]:
        """Publishes a batch. Returns those of which it is certain; the others wait then.

        ours: whether we still own the inbox, as far as we know.
        """
        steps: list[Step] = []
        newest: dict[str, bytes] = {}
        for letter in batch:
            topic = letter.topic
            name = self._remembered(letter)
            before = newest.get(topic)
            names = (name,) if before is None else (name, before)
            steps.append((topic, letter.data, names, letter.key))
            newest[topic] = name
        receipts = await self._receipts(steps, ours)
        sent: list[Sent] = []
        duplicates = 0
        failed: set[str] = set()
        for number, (letter, step, receipt) in enumerate(zip(batch, steps, receipts, strict=True)):
            # One that succeeds behind one that failed waits too: that one was published before, by
            # another worker, and will be found to be.
            if isinstance(receipt, BrokerUnavailable) or letter.topic in failed:
                failed.add(letter.topic)
                if number >= due:
                    self._backlog.keep(letter)
                continue
            if number < due:
                self._backlog.done(letter)
            sent.append((letter, step))
            self._worked_on.pop(letter.entry, None)
            duplicates += receipt.duplicate
        for topic in failed:
            self._backlog.failed(topic)
            self._retry_at = time.monotonic() + RETRY_SECONDS
        self.outcomes["duplicate"] += duplicates
        self.outcomes["published"] += len(sent) - duplicates
        return sent

    async def _receipts(
        self, steps: Sequence[Step], ours: Callable[[], bool]
    ) -> list[Receipt | BrokerUnavailable]:
        """Publishes steps by portions: Redis works on one while the next is packed."""
        async with asyncio.TaskGroup() as group:
            portions: list[asyncio.Task[Sequence[Receipt | BrokerUnavailable]]] = []
            for start in range(0, len(steps), PORTION):
                part = steps[start : start + PORTION]
                portions.append(group.create_task(self._portion(part, ours)))
                await asyncio.sleep(0)
        return [receipt for portion in portions for receipt in portion.result()]

    async def _portion(
        self, steps: Sequence[Step], ours: Callable[[], bool]
    ) -> Sequence[Receipt | BrokerUnavailable]:
        if not ours():  # we were stopped for a while
            return [BrokerUnavailable("the inbox is another worker's")] * len(steps)
        return await self._broker.publish_steps(steps, PENDING_SECONDS * 1000)

    def _remembered(self, letter: Letter) -> bytes:
        """The key by which it is known that a letter was published."""
        entry, topic, data, id, _ = letter
        if id is not None:
            return self._keys.key(topic, id)
        if entry in self._worked_on:
            mark, _ = self._worked_on[entry]
        else:
            mark = crc32(data, self._salt)
        return self._keys.entry(topic, b"%b-%08x" % (entry, mark))

    async def forget(self, spent: Sequence[Sent]) -> None:
        """Shortens the memory of letters that have left the stream."""
        ours = [step for letter, step in spent if letter.id is None]
        theirs = [step for letter, step in spent if letter.id is not None]
        if ours:
            await self._broker.forget(ours, SPENT_SECONDS * 1000)
        if theirs:
            await self._broker.forget(theirs, self._key_ms)
