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
    - two workers work on it for up to a minute, as one was stopped and does not know that another
      has taken over;
    - a failover brings back entries that had left the stream during the last minute.

    It is published twice if one of these takes longer than that, or if the topic's shard loses its
    data in between. It is lost only with the Redis that had it. The data is part of the key because
    ids may come again after a failover, for other entries: a clock is behind.

Burial
    What can never be published goes to `clarion:inbox:dead`: its fields, cut to 1,024 bytes each
    if the entry is too large, and two more, `reason` for its author and `entry`, its id. The newest
    `DEAD` or so are kept. It leaves the stream with that; in a cluster a moment later, since its
    dead letters are in another slot. So if the worker dies in that moment the entry is there twice,
    or published as well.

Preparation
    Where something is to be done to a topic's entries first, it may take its time (`preparer`):
    entries for other topics pass, and those for the same topic wait behind it. What is refused then
    is buried. What was worked on when a worker dies is worked on anew; if it is refused this time,
    although the one who died had published it, it is not buried: as far as its topic's shard can
    tell.

Back-pressure
    Entries whose topic's shard is away wait in memory, and those of the same topic behind them;
    others pass. When so much waits that `Backlog` or the `Preparer` has no room, no more is read,
    and entries wait in Redis: `entries` and `age` tell.

How
    One worker owns an inbox at a time: it has a lease, a key with an expiry beside the stream, and
    renews it five times within its term. All others look about once a second; whoever comes first
    when the lease is over takes the inbox. The owner first publishes what was given out before and
    not done, then the rest, as the consumer group has it. It reads, publishes and acknowledges by
    batches, each step one message to Redis; idle, it is woken by a `Bell`.

    A consumer group with a consumer for each worker would share the work, and lose the order: two
    consumers publish neighbours of one topic at the same time, and what a consumer that died had
    taken comes after what others have taken since. One owner is enough: an entry takes more of the
    time of Redis than of its owner's (loadtest/README.md), and there is an owner for each shard.

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
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from clarion_fanout.backlog import place
from clarion_fanout.broker import BrokerUnavailable
from clarion_fanout.preparer import Preparer
from clarion_fanout.redis_bell import Bell
from clarion_fanout.redis_broker import RedisBroker
from clarion_fanout.redis_delivery import Delivery, Entry, Mail, Sent
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_place import Place
from clarion_fanout.redis_scripts import INBOX
from clarion_fanout.redis_wire import Argument
from clarion_fanout.tasks import Tasks

log = logging.getLogger(__name__)

BATCH_BYTES = 4 * 1024 * 1024
"""Of entries that are read at once: 64 of the largest, in some 20 ms."""

LOOK_SECONDS = 1.0
"""How often a worker looks whether an inbox has no owner, about. It costs a small script for each
worker and shard."""

MODESTY_SECONDS = 0.5
"""By which a worker looks later for each inbox that it owns: others come first."""

RENEWALS = 5
"""Of a lease within its term: a loop that stops for seconds does not lose it."""

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
    read: list[Entry]


class Inbox:
    """One inbox, and the part that one worker has in it. See the module's text.

    at: where the inbox is. dead: where its dead letters are.
    worker: names this process among all that share the inbox.
    owned: how many inboxes this worker owns; it leaves the next to one that has fewer.
    prepare: makes what works on entries before they are published; is given what it calls when it
        has done something.
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
        prepare: Callable[[Callable[[], object]], Preparer] | None = None,
    ) -> None:
        self.name = at.name
        """That of its shard; see `Place`."""
        self.owner = False
        """Whether this worker is."""
        self.holder = ""
        """The worker that is, as far as we know; empty when none is."""
        self.takeovers = 0
        """Times that this worker became the owner."""
        self.entries = 0
        """In the stream when it was last looked at, those that are being published included."""
        self._news = asyncio.Event()
        self.delivery = Delivery(
            at.name,
            dead=dead,
            broker=broker,
            keys=keys,
            data_bytes=options.data_bytes,
            key_seconds=options.key_seconds,
            preparer=None if prepare is None else prepare(self._news.set),
        )
        self._place = at
        self._worker = worker.encode()
        self._keys = (keys.inbox, keys.owner)
        self._options = options
        self._owned = owned
        self._until = 0.0  # when the lease ends; monotonic
        self._clock_ms = 0.0  # Redis' clock, less ours
        self._oldest: bytes | None = None  # the first entry of the batch at hand
        self._last = BEGIN  # the last entry that was read
        self._rung: bytes | None = None
        self._leaving = asyncio.Event()
        self._ended = asyncio.Event()
        self._told = ""

    @property
    def age(self) -> float:
        """Seconds since the oldest entry was added; 0 when there is none, or somebody else is the
        owner."""
        found = [entry for entry in (self._oldest, self.delivery.oldest) if entry is not None]
        if not found:
            return 0.0
        now_ms = time.monotonic() * 1000 + self._clock_ms
        return max(0.0, now_ms - min(map(place, found))[0]) / 1000

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
                elif answer.left_ms:  # none: somebody holds it by hand
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
        bell = Bell(
            self._place,
            self._keys[0],
            self._rang,
            client=f"{self._options.client}-inbox",
            timeout_s=self._options.timeout_s,
        )
        helpers = Tasks()
        helpers.start(self._renew(), f"lease of the inbox of shard {self.name}")
        helpers.start(bell.run(), f"bell of the inbox of shard {self.name}")
        try:
            done = await self._work(answer, bell)
            if self._leaving.is_set():
                await self._ask(NEW, 0, done, leave=True)
        finally:
            await helpers.close()
            self.owner = False
            self.delivery.begin()
            self._oldest = None
            self._last = BEGIN
            log.info("the inbox of shard %s: another worker may publish it", self.name)

    def _is_ours(self) -> bool:
        """As far as we know: we may have been stopped since we looked at the clock."""
        return self.owner and time.monotonic() < self._until

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
        delivery, most = self.delivery, self._options.batch
        cursor, mail = answer.cursor, delivery.opened(answer.read)
        sent: list[Sent] = []  # published, and about to leave the stream
        spent: list[Sent] = []  # no longer in the stream
        done: list[bytes] = []
        while self._is_ours():
            self._oldest = mail.first
            batch, due = delivery.batch(mail.letters, most)
            buried = await delivery.bury(mail.dead)
            room = max(0, min(most, delivery.room - len(batch)))
            # While this batch is published the one before it leaves the stream, and the next is
            # read: else Redis would wait for us half the time.
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._next(cursor, room, done))
                publishing = group.create_task(delivery.publish(batch, due, self._is_ours))
                group.create_task(delivery.forget(spent))
            spent, sent = sent, publishing.result()
            done = buried + [letter.entry for letter, _ in sent]
            there = reading.result()
            if isinstance(there, BrokerUnavailable):
                raise there
            if self._leaving.is_set():
                return done
            cursor, mail = there
            if mail.first is None and not done:
                await self._idle(bell)
        return []

    async def _next(
        self, cursor: bytes, count: int, done: Sequence[bytes]
    ) -> tuple[bytes, Mail] | BrokerUnavailable:
        """What was read, and where to read on."""
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
        return answer.cursor, self.delivery.opened(answer.read)

    async def _idle(self, bell: Bell) -> None:
        """Returns when there may be something to do."""
        if self.delivery.room:
            bell.arm(self._last)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.delivery.retry_s):
                await self._news.wait()
        self._news.clear()

    # Asking Redis

    async def _ask(
        self, cursor: bytes, count: int, done: Sequence[bytes] = (), *, leave: bool = False
    ) -> _Answer:
        """Acknowledges, renews the lease or takes it, and reads. Raises `BrokerUnavailable`."""
        lease_s = 0.0 if leave else self._options.lease_s
        arguments: list[Argument] = [self._worker, int(lease_s * 1000), cursor, count]
        arguments += [BATCH_BYTES, self.delivery.entry_bytes, *done]
        asked = time.monotonic()
        [reply] = await self._place.ask([INBOX.packed(self._keys, arguments)])
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
