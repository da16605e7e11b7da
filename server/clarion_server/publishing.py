"""The way of a publication from the private API or a client to the broker.

Both hand in drafts and hear of each what became of it; entries of the inbox in Redis have a way of
their own (`clarion_fanout.redis_delivery`, and `pipeline.bench`). Drafts that are handed in
together, or one after the other, leave in this order as far as they are for the same topic.

Where a topic's namespace has steps, its drafts go through them first (`pipeline`), and stand in
their topic's lane until the broker has answered. What is in a lane was accepted: it is published or
its publisher is told why not, and it is published also when its publisher has gone meanwhile. A
second draft with the same idempotency key is behind the first and finds it published, or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Literal, NamedTuple, TypeAlias

from clarion_fanout.broker import Broker, BrokerUnavailable
from clarion_fanout.publication import Draft, Receipt
from clarion_fanout.tasks import Tasks
from clarion_server.codes import Code
from clarion_server.counters import Counters
from clarion_server.options import Limits
from clarion_server.pipeline.lanes import Lanes, Place
from clarion_server.pipeline.pool import Busy
from clarion_server.pipeline.preparation import Preparation
from clarion_server.pipeline.step import Failed, Refused
from clarion_server.quota import Grant, Quotas

log = logging.getLogger(__name__)

BATCH = 500
"""Publications that the broker gets at once: some 5 ms of its work."""

RETRY_MS = 1000
"""When too much is on its way through the steps, or the server ends."""

Source: TypeAlias = Literal["api", "client"]
"""Who publishes."""


class Declined(NamedTuple):
    """Why a draft was not published, for its publisher.

    retry_ms: when the same draft may be tried again, where that makes sense.
    """

    code: Code
    message: str
    retry_ms: int | None = None


Outcome: TypeAlias = Receipt | Declined


class Queue(NamedTuple):
    """How much of one namespace may be on its way through its steps: drafts, and bytes of their
    data before the steps. Of what is for one shard of several, half: it may hang."""

    drafts: int = 1000
    data_bytes: int = 32 * 1024 * 1024


_Holder: TypeAlias = tuple[str, str]
"""A namespace, and the part of it that is for one shard; "" for all of it."""


class _Entry:
    """A draft in its lane."""

    __slots__ = ("draft", "future", "holders", "size", "source")

    def __init__(
        self,
        holders: Sequence[_Holder],
        draft: Draft,
        source: Source,
        future: asyncio.Future[Outcome],
    ) -> None:
        self.holders = holders
        self.draft = draft
        self.size = len(draft.data)
        self.source: Source = source
        self.future = future


class Begun:
    """Drafts that are published, or on their way."""

    def __init__(
        self,
        outcomes: list[Outcome | None],
        entries: Sequence[tuple[int, asyncio.Future[Outcome]]],
    ) -> None:
        self._outcomes = outcomes
        self._entries = entries

    @property
    def waiting(self) -> int:
        """How many are on their way."""
        return sum(not future.done() for _, future in self._entries)

    async def ended(self) -> Sequence[Outcome]:
        """What became of each, in their order, when none is on its way any more."""
        for place, future in self._entries:
            self._outcomes[place] = await future
        return [outcome for outcome in self._outcomes if outcome is not None]


class Publishing:
    """See the module's text.

    preparation: runs the steps; None where no namespace has any.
    """

    def __init__(
        self,
        *,
        broker: Broker,
        counters: Counters,
        data_bytes: int = 65_536,
        preparation: Preparation | None = None,
        queue: Queue = Queue(),  # noqa: B008 - it cannot be changed
        quotas: Quotas | None = None,
    ) -> None:
        self._broker = broker
        self._counters = counters
        self.quotas = quotas or Quotas(Limits())
        """What may be in flight; whoever hands something in asks there first."""
        self._data_bytes = data_bytes
        self._preparation = preparation
        self._queue = queue
        self._lanes: Lanes[_Entry] = Lanes()
        self._held: Counter[_Holder] = Counter()
        self._held_bytes: Counter[_Holder] = Counter()
        self._tasks = Tasks()
        self._sending_soon = False
        self._closed = False
        self._over = False
        self._empty = asyncio.Event()

    def held(self, name: str) -> int:
        """Drafts of a namespace that are on their way through its steps, or wait behind others."""
        return self._held[name, ""]

    def has_steps(self, topic: str) -> bool:
        """Whether drafts for the topic go through steps, which check what is large."""
        return self._preparation is not None and self._preparation.namespace(topic) is not None

    def most_bytes(self, topic: str) -> int:
        """That the data of a draft for the topic may have."""
        if self._preparation is None:
            return self._data_bytes
        return self._preparation.most_bytes(topic)

    async def publish(
        self, drafts: Sequence[Draft], source: Source, grant: Grant | None = None
    ) -> Sequence[Outcome]:
        """Publishes each draft and says of each, in the same order, what became of it.

        grant: of the request that they came with, which waits for their shards.
        """
        return await (await self.begin(drafts, source, grant)).ended()

    async def begin(
        self, drafts: Sequence[Draft], source: Source, grant: Grant | None = None
    ) -> Begun:
        """Publishes those that need no steps, and begins with the others."""
        full = self._full_shards(drafts, grant) if grant is not None else None
        preparation = self._preparation
        if preparation is None and not full:
            return Begun([*await self._publish(drafts, source)], [])
        outcomes: list[Outcome | None] = [None] * len(drafts)
        plain: list[int] = []
        entries: list[tuple[int, asyncio.Future[Outcome]]] = []
        for place, draft in enumerate(drafts):
            if full and (shard := self._broker.shard(draft.topic)) in full:
                outcomes[place] = full[shard]
                continue
            name = None if preparation is None else preparation.namespace(draft.topic)
            if preparation is None or name is None:
                plain.append(place)
                continue
            accepted = self._accept(preparation, name, draft, source)
            if isinstance(accepted, Declined):
                outcomes[place] = accepted
            else:
                entries.append((place, accepted))
        if entries:
            self._send()  # what was done at once need not wait for another turn of the loop
        if plain:
            answers = await self._publish([drafts[place] for place in plain], source)
            for place, outcome in zip(plain, answers, strict=True):
                outcomes[place] = outcome
        return Begun(outcomes, entries)

    def _full_shards(self, drafts: Sequence[Draft], grant: Grant) -> dict[str, Declined]:
        """Those of the drafts' shards that have as much on its way to them as they may."""
        shard = self._broker.shard
        if not drafts or not shard(drafts[0].topic):
            return {}
        full: dict[str, Declined] = {}
        for name in {shard(draft.topic) for draft in drafts}:
            denied = grant.at(name)
            if denied is not None:
                code = Code.TOO_MANY if denied.scope == "share" else Code.UNAVAILABLE
                full[name] = Declined(code, denied.text, RETRY_MS)
        return full

    async def _publish(self, drafts: Sequence[Draft], source: Source) -> list[Outcome]:
        outcomes = [
            receipt if isinstance(receipt, Receipt) else _refused(receipt)
            for receipt in await self._broker.publish(drafts)
        ]
        self._counters.publications[source] += sum(
            [isinstance(outcome, Receipt) and not outcome.duplicate for outcome in outcomes]
        )
        return outcomes

    @property
    def preparation(self) -> Preparation | None:
        return self._preparation

    async def close(self, seconds: float = 0.0) -> None:
        """Takes nothing more for steps, finishes within `seconds` what can be, and tells the rest.
        A second call does nothing."""
        self._closed = True
        self._empty.clear()
        if len(self._lanes):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()
        self._over = True
        await self._tasks.close()
        for entry in self._lanes.clear():
            self._tell(entry, _ENDING)

    # Lanes

    def _accept(
        self, preparation: Preparation, name: str, draft: Draft, source: Source
    ) -> Declined | asyncio.Future[Outcome]:
        """Has a draft enter its lane, or says why not."""
        if self._closed:
            return _ENDING
        most, most_bytes = self._queue
        size = len(draft.data)
        holders = [(name, "")]
        if shard := self._broker.shard(draft.topic):
            holders.append((name, shard))
        for part, holder in enumerate(holders, 1):
            held, held_bytes = self._held[holder], self._held_bytes[holder]
            if held >= max(1, most // part) or held_bytes + size > max(most_bytes // part, size):
                text = f"{held} publications of the namespace are on their way already"
                return Declined(Code.UNAVAILABLE, text, RETRY_MS)
        job: asyncio.Future[bytes] | None = None
        try:
            data = preparation.now(name, draft.data)
            if data is None:
                job = preparation.later(name, draft.data)
        except (Refused, Busy) as error:
            return declined(error)
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        entry = _Entry(holders, draft, source, future)
        for holder in holders:
            self._held[holder] += 1
            self._held_bytes[holder] += size
        place = self._lanes.join(draft.topic, entry, ready=job is None)
        if job is not None:
            job.add_done_callback(partial(self._prepared, place))
        else:
            assert data is not None
            entry.draft = draft._replace(data=data)
        return future

    def _prepared(self, place: Place[_Entry], job: asyncio.Future[bytes]) -> None:
        """What the steps had to do with a draft is done."""
        if place.state != "waits":
            return  # it was given up
        error = job.exception()
        if error is None:
            place.item.draft = place.item.draft._replace(data=job.result())
            self._lanes.ready(place)
        else:
            self._lanes.drop(place)
            self._tell(place.item, declined(error))
        self._send_soon()

    def _send_soon(self) -> None:
        if not self._sending_soon:
            self._sending_soon = True
            asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        """Hands what may leave to the broker."""
        self._sending_soon = False
        if self._over:
            return
        while batch := self._lanes.take(BATCH):
            # Lanes of one shard leave together, and do not wait for another that hangs.
            shards: defaultdict[str, list[Place[_Entry]]] = defaultdict(list)
            for place in batch:
                shards[self._broker.shard(place.lane)].append(place)
            for part in shards.values():
                self._tasks.start(self._leave(part), "publishing behind steps")
        if not len(self._lanes):
            self._empty.set()

    async def _leave(self, batch: Sequence[Place[_Entry]]) -> None:
        entries = [place.item for place in batch]
        outcomes: Sequence[Outcome] = [_ENDING] * len(entries)
        try:
            receipts = await self._broker.publish([entry.draft for entry in entries])
            outcomes = [
                receipt if isinstance(receipt, Receipt) else _refused(receipt)
                for receipt in receipts
            ]
        except Exception:
            log.exception("publishing failed")
            outcomes = [Declined(Code.INTERNAL, "internal error")] * len(entries)
        finally:
            for entry, outcome in zip(entries, outcomes, strict=True):
                if isinstance(outcome, Receipt) and not outcome.duplicate:
                    self._counters.publications[entry.source] += 1
                self._tell(entry, outcome)
            for lane in dict.fromkeys(place.lane for place in batch):
                self._lanes.left(lane)
            self._send_soon()

    def _tell(self, entry: _Entry, outcome: Outcome) -> None:
        for holder in entry.holders:
            self._held[holder] -= 1
            self._held_bytes[holder] -= entry.size
            if not self._held[holder]:
                del self._held[holder], self._held_bytes[holder]
        if not entry.future.done():  # its publisher may have gone
            entry.future.set_result(outcome)


_ENDING = Declined(Code.UNAVAILABLE, "the server is stopping", RETRY_MS)


def declined(error: BaseException) -> Declined:
    """Why a draft did not get through its steps."""
    if isinstance(error, Busy):
        return Declined(Code.UNAVAILABLE, str(error), error.retry_ms)
    if isinstance(error, Refused):
        text = f"{error.step}: {error}" if error.step else str(error)
        code = Code.INTERNAL if isinstance(error, Failed) else Code.BAD_DATA
        return Declined(code, text)
    log.error("a job of the pipeline failed", exc_info=error)
    return Declined(Code.INTERNAL, "internal error")


def _refused(error: BrokerUnavailable) -> Declined:
    return Declined(Code.UNAVAILABLE, str(error), error.retry_ms)
