"""The inbox: what backends leave in Redis is published, in order and once each.

    XADD clarion:inbox * topic <topic> data <json> [id <key>]          an entry; see letter.py

There is one on every shard of a list, and one in a cluster. A backend may use any, whatever shard
the topic is on. `XADD` is all that it has to do: an entry that Redis has taken is published as
soon as a worker and the topic's shard are there.

Order
    Entries of one inbox for one topic are published in the order of their ids, which is the order
    in which Redis took them. So a publisher that uses one inbox has its order. Between topics, and
    between inboxes, there is none.

Once
    An entry leaves the stream when it was published, or buried, and not before. Its publish has an
    idempotency key: `id` where the entry brings one, which then counts as it does over HTTP; else
    one made of the inbox's name, the entry's id and its data. The key is remembered for
    `PENDING_SECONDS` at the topic's shard, and once the entry has left the stream, for
    `SPENT_SECONDS`, or as long as keys of publishers are. So an entry is published once although

    - a worker died after it was published, and before it left the stream: the next one takes over
      after the lease, five seconds, or when a machine is up again the next morning;
    - its topic's shard, or the inbox's, was away in between, its answer was lost, and it comes back
      with its data: an hour later, too;
    - two workers work on it for a moment, as one was stopped and does not know that another has
      taken over;
    - a failover brings back entries that had left the stream during the last minute.

    It is published twice if one of these takes longer than that, or if the topic's shard loses its
    data in between. It is lost only with the Redis that had it. The data is part of the key because
    ids may come again after a failover, for other entries: a clock is behind.

Burial
    What can never be published goes to `clarion:inbox:dead`: its fields, cut to `CUT` bytes each if
    the entry is too large, and two more, `reason` for its author and `entry`, its id. The newest
    `DEAD` or so are kept. An entry is there twice if the worker died while burying it.

Back-pressure
    Entries whose topic's shard is away wait in memory, and those of the same topic behind them;
    others pass. When so much waits that `Backlog` has no room, no more is read, and entries wait in
    Redis: `entries` and `age` tell it.

How
    One worker owns an inbox at a time: it has a lease, a key with an expiry beside the stream, and
    renews it five times within its term. All others look about once a second; whoever comes first
    when the lease is over takes the inbox. The owner first publishes what was given out before and
    not done, then the rest, as the consumer group has it. It reads, publishes and acknowledges by
    batches, each step one message to Redis; idle, it is woken by a `Bell`.

    A consumer group with a consumer for each worker would share the work, and lose the order: two
    consumers publish neighbours of one topic at the same time, and what a consumer that died had
    taken comes after what others have taken since. One owner is enough: it publishes faster than
    the Redis that it publishes to (loadtest/README.md), and there is an owner for each shard.

    Two workers that both believe to own an inbox keep the order too: reading is refused to whoever
    is not the owner (inbox.lua), each publishes a topic's entries one after another, none before
    the one before it is known to be published (`Step`), and the second to publish an entry is told
    that it was. So the first to publish an entry is always one that knows of its predecessor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, cast
from zlib import crc32

from clarion_fanout import letter as letters
from clarion_fanout.backlog import Backlog, place
from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.letter import FIELDS, Letter, Undeliverable
from clarion_fanout.publication import Receipt
from clarion_fanout.redis_bell import Bell
from clarion_fanout.redis_broker import RedisBroker, Step
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_place import Place
from clarion_fanout.redis_scripts import INBOX
from clarion_fanout.redis_wire import Argument, pack
from clarion_fanout.tasks import Tasks

log = logging.getLogger(__name__)

PENDING_SECONDS = 24 * 3600
"""See the module's text. It costs nothing: only entries that are being published have such keys."""

SPENT_SECONDS = 60
"""Longer than a failover takes back: a Sentinel or a cluster node needs up to 30 s to notice, and
the old primary answers meanwhile. A key takes some 150 bytes in Redis: 10 MB at 1,000 entries/s."""

DEAD = 10_000
"""Dead letters that are kept: enough to see what is wrong. At most 700 MB of the largest."""

BATCH_BYTES = 4 * 1024 * 1024
"""Of entries that are read at once: 64 of the largest, in some 20 ms."""

PORTION = 125
"""Entries that are sent together, a piece of work of some 2 ms here and there."""

SLACK_BYTES = 4096
"""Of an entry beside its data: topic, id, names, and fields that are not ours."""

LOOK_SECONDS = 1.0
"""How often a worker looks whether an inbox has no owner, about. It costs a small script for each
worker and shard."""

MODESTY_SECONDS = 0.5
"""By which a worker looks later for each inbox that it owns: others come first."""

RENEWALS = 5
"""Of a lease within its term: a loop that stops for seconds does not lose it."""

RETRY_SECONDS = 0.25
"""Between attempts to publish what waits. A shard that is known to be away is not asked."""

BEGIN = b"0-0"
NEW = b">"


class InboxOptions(NamedTuple):
    """batch: entries of one step. lease_s: how soon another worker takes over from one that died.

    data_bytes: the most that an entry may publish. key_seconds: how long an entry's own idempotency
        key is remembered. timeout_s: the deadline of each question. client: what connections call
        themselves.
    """

    batch: int = 500
    lease_s: float = 5.0
    data_bytes: int = 65_536
    key_seconds: float = 300
    timeout_s: float = 2.0
    client: str = "clarion"


class _Answer(NamedTuple):
    """What inbox.lua returns."""

    owner: bytes
    left_ms: int
    entries: int
    now_ms: int
    cursor: bytes
    read: list[list[bytes | int | list[bytes]]]


_Sent: TypeAlias = tuple[Letter, Step]
"""A letter that was published, and how."""


_Dead: TypeAlias = tuple[bytes, list[bytes], str]
"""An entry that cannot be published, its fields and why."""


class _Read(NamedTuple):
    """Entries that were read. cursor: where to read next. first: the id of the first."""

    cursor: bytes
    first: bytes | None
    letters: list[Letter]
    dead: list[_Dead]


class Inbox:
    """One inbox, and the part that one worker has in it. See the module's text.

    worker: names this process among all that share the inbox.
    owned: how many inboxes this worker owns; it leaves the next to one that has fewer.
    """

    def __init__(
        self,
        at: Place,
        *,
        dead: Place,
        worker: str,
        broker: RedisBroker,
        keys: Keys,
        options: InboxOptions,
        owned: Callable[[], int],
    ) -> None:
        self.name = at.name
        """That of its shard; see `Place`."""
        self.owner = False
        """Whether this worker is."""
        self.holder = ""
        """The worker that is, as far as we know; empty when none is."""
        self.outcomes: Counter[str] = Counter()
        """Entries that are done: `published`, `duplicate` or `dead`."""
        self.takeovers = 0
        """Times that this worker became the owner."""
        self.entries = 0
        """In the stream when it was last looked at, those that are being published included."""
        self._place = at
        self._dead = dead
        self._worker = worker.encode()
        self._broker = broker
        self._keys = keys
        self._options = options
        self._owned = owned
        self._salt = crc32(at.name.encode())
        self._backlog = Backlog()
        self._until = 0.0  # when the lease ends; monotonic
        self._clock_ms = 0.0  # Redis' clock, less ours
        self._oldest: bytes | None = None  # the first entry of the batch at hand
        self._last = BEGIN  # the last entry that was read
        self._rung: bytes | None = None
        self._news = asyncio.Event()
        self._leaving = asyncio.Event()
        self._ended = asyncio.Event()
        self._told = ""

    @property
    def waiting(self) -> int:
        """Entries that wait for a topic's shard."""
        return self._backlog.letters

    @property
    def age(self) -> float:
        """Seconds since the oldest entry was added; 0 when there is none, or somebody else is the
        owner."""
        entries = [entry for entry in (self._oldest, self._backlog.oldest) if entry is not None]
        if not entries:
            return 0.0
        now_ms = time.monotonic() * 1000 + self._clock_ms
        return max(0.0, now_ms - min(map(place, entries))[0]) / 1000

    async def run(self) -> None:
        """Works on the inbox whenever no other worker does, until `leave`."""
        pause = random.uniform(0, 0.1)
        while True:
            await self._rest(pause)
            await self._rest(MODESTY_SECONDS * self._owned())
            if self._leaving.is_set():
                break
            pause = random.uniform(0.75, 1.25) * LOOK_SECONDS
            try:
                answer = await self._ask(BEGIN, self._options.batch)
                self._tell("")
                if self.owner:
                    await self._own(answer)
                else:
                    pause = min(pause, answer.left_ms / 1000 + 0.01)
            except BrokerUnavailable as error:
                self._tell(str(error))
            except Exception:
                log.exception("the inbox of shard %s: begins again", self.name)
        self._ended.set()

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._leaving.wait()

    async def leave(self) -> None:
        """Returns when the batch at hand is finished and another worker may take over."""
        self._leaving.set()
        self._news.set()
        await self._ended.wait()

    # Owning

    async def _own(self, answer: _Answer) -> None:
        log.info("the inbox of shard %s: this worker publishes it from now on", self.name)
        self.takeovers += 1
        options = self._options
        bell = Bell(
            self._place,
            self._keys.inbox,
            self._rang,
            client=f"{options.client}-inbox",
            timeout_s=options.timeout_s,
        )
        helpers = Tasks()
        helpers.start(self._renew(), f"lease of the inbox of {self.name}")
        helpers.start(bell.run(), f"bell of the inbox of {self.name}")
        try:
            done = await self._work(answer, bell)
            if self._leaving.is_set():
                await self._ask(NEW, 0, done, leave=True)
        finally:
            await helpers.close()
            self.owner = False
            self._backlog = Backlog()
            self._oldest = None
            self._last = BEGIN
            log.info("the inbox of shard %s: another worker may publish it", self.name)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._options.lease_s / RENEWALS)
            with contextlib.suppress(BrokerUnavailable):  # `_work` finds the same
                await self._ask(NEW, 0)
            self._news.set()

    def _rang(self, entry: bytes) -> None:
        self._rung = entry
        self._news.set()

    async def _work(self, answer: _Answer, bell: Bell) -> list[bytes]:
        """Publishes as long as the inbox is ours, or until it is to be another worker's. Returns
        what is done and not acknowledged."""
        here = self._opened(answer)
        sent: list[_Sent] = []  # published, and about to leave the stream
        spent: list[_Sent] = []  # no longer in the stream
        done: list[bytes] = []
        retry_at = 0.0
        while self.owner and time.monotonic() < self._until:
            self._oldest = here.first
            due: list[Letter] = []
            if self._backlog.letters and time.monotonic() >= retry_at:
                due = self._backlog.due(self._reachable, self._options.batch)
                if not due:
                    retry_at = time.monotonic() + RETRY_SECONDS
            batch = due + self._backlog.passed(here.letters)
            buried = await self._bury(here.dead)
            # While this batch is published the one before it leaves the stream, and the next is
            # read: else Redis would wait for us half the time.
            room = max(0, min(self._options.batch, self._backlog.room - len(batch)))
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._next(here.cursor, room, done))
                publishing = group.create_task(self._publish(batch, len(due)))
                group.create_task(self._forget(spent))
            there = reading.result()
            if isinstance(there, BrokerUnavailable):
                raise there
            spent, sent = sent, publishing.result()
            done = buried + [letter.entry for letter, _ in sent]
            if len(sent) < len(batch):
                retry_at = time.monotonic() + RETRY_SECONDS
            if self._leaving.is_set():
                return done
            here = there
            if here.first is None and not done:
                await self._idle(bell, retry_at - time.monotonic())
        return []

    async def _next(
        self, cursor: bytes, count: int, done: Sequence[bytes]
    ) -> _Read | BrokerUnavailable:
        try:
            answer = await self._ask(cursor, count, done)
        except BrokerUnavailable as error:
            return error
        if answer.read:
            self._last = cast("bytes", answer.read[-1][0])
        elif count and self._rung is not None:
            # It was acknowledged by another hand, and is there for ever.
            self._last = self._rung
        self._rung = None
        return self._opened(answer)

    async def _idle(self, bell: Bell, retry_s: float) -> None:
        """Returns when there may be something to do."""
        if self._backlog.room:
            bell.arm(self._last)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, retry_s) if self._backlog.letters else None):
                await self._news.wait()
        self._news.clear()

    def _reachable(self, topic: str) -> bool:
        try:
            return self._broker.shards.of(topic).available
        except BrokerUnavailable:
            return False

    # One batch

    def _opened(self, answer: _Answer) -> _Read:
        """Tells what can be published from what cannot."""
        limit = self._options.data_bytes
        good: list[Letter] = []
        bad: list[_Dead] = []
        for each in answer.read:
            entry, fields = cast("tuple[bytes, list[bytes]]", each[:2])
            try:
                if len(each) > 2:
                    raise Undeliverable(_too_large(each, limit))
                good.append(letters.read(entry, fields, limit))
            except Undeliverable as error:
                bad.append((entry, fields[: 2 * FIELDS], str(error)))
        first = cast("bytes", answer.read[0][0]) if answer.read else None
        return _Read(answer.cursor, first, good, bad)

    async def _bury(self, dead: Sequence[_Dead]) -> list[bytes]:
        """Buries entries and returns them. Raises `BrokerUnavailable`."""
        if dead:
            add = ("XADD", self._keys.dead, "MAXLEN", "~", DEAD, "*")
            await self._dead.ask(
                [
                    pack((*add, *fields, "reason", reason, "entry", entry))
                    for entry, fields, reason in dead
                ]
            )
            self.outcomes["dead"] += len(dead)
            log.debug(
                "the inbox of shard %s: %d dead, the last: %s", self.name, len(dead), dead[-1][2]
            )
        return [entry for entry, _, _ in dead]

    async def _publish(self, batch: Sequence[Letter], due: int) -> list[_Sent]:
        """Publishes letters, of which the first `due` are in the backlog. Returns those of which it
        is certain; the others are in the backlog then."""
        steps: list[Step] = []
        newest: dict[str, bytes] = {}
        for letter in batch:
            topic = letter.topic
            name = self._remembered(letter)
            before = newest.get(topic)
            steps.append((topic, letter.data, (name,) if before is None else (name, before)))
            newest[topic] = name
        receipts = await self._receipts(steps)
        sent: list[_Sent] = []
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
            duplicates += receipt.duplicate
        for topic in failed:
            self._backlog.failed(topic)
        self.outcomes["duplicate"] += duplicates
        self.outcomes["published"] += len(sent) - duplicates
        return sent

    async def _receipts(self, steps: Sequence[Step]) -> list[Receipt | BrokerUnavailable]:
        """Publishes steps by portions: Redis works on one while the next is packed."""
        async with asyncio.TaskGroup() as group:
            portions: list[asyncio.Task[Sequence[Receipt | BrokerUnavailable]]] = []
            for start in range(0, len(steps), PORTION):
                part = steps[start : start + PORTION]
                publishing = self._broker.publish_steps(part, PENDING_SECONDS * 1000)
                portions.append(group.create_task(publishing))
                await asyncio.sleep(0)
        return [receipt for portion in portions for receipt in portion.result()]

    async def _forget(self, spent: Sequence[_Sent]) -> None:
        """Shortens the memory of letters that have left the stream."""
        if not spent:
            return
        ours = [step for letter, step in spent if letter.key is None]
        theirs = [step for letter, step in spent if letter.key is not None]
        await self._broker.forget(ours, SPENT_SECONDS * 1000)
        await self._broker.forget(theirs, max(1, int(self._options.key_seconds * 1000)))

    def _remembered(self, letter: Letter) -> bytes:
        """The key by which it is known that a letter was published."""
        entry, topic, data, key = letter
        if key is not None:
            return self._keys.key(topic, key)
        return self._keys.entry(topic, b"%b-%08x" % (entry, crc32(data, self._salt)))

    async def _ask(
        self, cursor: bytes, count: int, done: Sequence[bytes] = (), *, leave: bool = False
    ) -> _Answer:
        """Acknowledges, renews the lease or takes it, and reads. Raises `BrokerUnavailable`."""
        lease_s = 0.0 if leave else self._options.lease_s
        largest = self._options.data_bytes + SLACK_BYTES
        asked = time.monotonic()
        arguments: list[Argument] = [self._worker, int(lease_s * 1000), cursor, count]
        arguments += [BATCH_BYTES, largest, *done]
        keys = (self._keys.inbox, self._keys.owner)
        [reply] = await self._place.ask([INBOX.packed(keys, arguments)])
        answer = _Answer(*reply)
        self.entries = answer.entries
        self._clock_ms = answer.now_ms - time.monotonic() * 1000
        self.owner = answer.owner == self._worker
        self.holder = answer.owner.decode(errors="replace")
        if self.owner:
            self._until = asked + lease_s
        return answer

    def _tell(self, trouble: str) -> None:
        """Logs what has changed, once."""
        if trouble and trouble != self._told:
            log.warning("the inbox of shard %s: %s; trying again", self.name, trouble)
        self._told = trouble


def _too_large(entry: Sequence[object], data_bytes: int) -> str:
    """Why an entry that was cut is too large; see inbox.lua."""
    _, _, total, name, size = cast("tuple[bytes, list[bytes], int, bytes, int]", entry)
    if size > data_bytes:
        field = name.decode("ascii", "backslashreplace")[:64]
        return f"{field} has {size} bytes, the limit is {data_bytes}"
    return f"the entry has {total} bytes, the limit is {data_bytes + SLACK_BYTES}"
