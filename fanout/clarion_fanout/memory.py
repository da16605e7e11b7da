"""The embedded broker: one process, no Redis. It is also the reference for the broker contract.

Everything lives in this process and dies with it; a new process begins new epochs, so a client
that resumes across a restart is told `recovered: false` and never given a wrong position.

Bounds
    Publications, idempotency keys and the positions of topics that nobody is subscribed to stay
    under `memory_bytes` together. Beyond it the stream that was used longest ago gives up its
    publications: its subscribers keep their position, and whoever comes back too late is told.
    `evictions` counts them. When no stream has anything to give, the oldest keys go.
    The position of a topic with subscribers is part of what a subscription costs and is bounded
    with those; if it counted here, subscribing to enough topics would push out everyone's history.
    A stream without publications, subscribers or questions for `POSITION_SECONDS` is forgotten.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence

from clarion_fanout.broker import BrokerUnavailable, Feed, HistoryOptions, Page, Want
from clarion_fanout.history import STREAM_BYTES, Stream
from clarion_fanout.publication import Draft, Position, Publication, Receipt, made

POSITION_SECONDS = 24 * 3600
"""How long an idle stream's position is remembered after its publications have expired, so that
a client which missed nothing resumes as recovered. A day covers a laptop closed overnight."""

SWEEP_STREAMS = 2000
"""Streams looked at in one sweep: about 1 ms of work, and 100,000 streams in less than a minute."""

KEY_BYTES = 480
"""What a remembered idempotency key costs beside the text of key and topic (measured with
tracemalloc: the receipt, its position, three tuples, the table's entry)."""


class MemoryBroker:
    """The `Broker` of a single process. See the module's text.

    history: the options of a topic's namespace, or None where it keeps no history.
    now: Unix time in milliseconds.
    memory_bytes: the bound on everything that is kept.
    key_seconds: how long an idempotency key is remembered.
    key_count: how many are remembered at most; the oldest goes first.
    """

    def __init__(
        self,
        *,
        history: Callable[[str], HistoryOptions | None],
        now: Callable[[], int],
        memory_bytes: int = 256 * 1024 * 1024,
        key_seconds: float = 300,
        key_count: int = 100_000,
    ) -> None:
        self._history = history
        self._now = now
        self._memory_bytes = memory_bytes
        self._key_ms = int(key_seconds * 1000)
        self._key_count = key_count
        self._streams: dict[str, Stream] = {}
        # Those that have something to give up, the longest unused first: every stream that has
        # publications or no subscriber is here. Of the rest some are, until eviction meets them.
        self._evictable: OrderedDict[str, Stream] = OrderedDict()
        self._ids: OrderedDict[tuple[str, str], tuple[int, Receipt]] = OrderedDict()
        self._attached: set[str] = set()
        self._sweep: list[str] = []
        self._feed: Feed | None = None
        # Streams that begin between two losses share an epoch, so one that was forgotten before
        # anything was published in it begins again as the same.
        self._process = secrets.token_urlsafe(6)  # 48 bits: no two processes share them
        self._generation = 0
        self._epoch = f"{self._process}{self._generation:x}"
        self.bytes = 0
        """What counts against `memory_bytes`, about."""
        self.evictions = 0
        """Streams that gave up publications for want of memory."""

    @property
    def stream_count(self) -> int:
        return len(self._streams)

    async def start(self, feed: Feed) -> None:
        self._feed = feed

    async def close(self) -> None:
        self._feed = None

    async def publish(self, drafts: Sequence[Draft]) -> Sequence[Receipt | BrokerUnavailable]:
        if self._feed is None:
            refusal = BrokerUnavailable("the broker is closed")
            return [refusal] * len(drafts)
        now = self._now()
        return [self._publish(draft, now, self._feed) for draft in drafts]

    def _publish(self, draft: Draft, now: int, feed: Feed) -> Receipt:
        topic, data, id, key = draft
        if id is not None:
            known = self._ids.get((topic, id))
            if known is not None and known[0] > now:
                return Receipt(topic, known[1].position, duplicate=True)
        options = self._history(topic)
        if options is None:
            publication = Publication(topic, data, now, key=key)
            position = None
        else:
            stream = self._streams.get(topic)
            if stream is None:
                stream = self._begin(topic, now)
            self._evictable[topic] = stream
            self._evictable.move_to_end(topic)
            before = stream.bytes
            publication = stream.append(data, now, options, key)
            position = made(Position, (stream.epoch, publication.offset))
            self.bytes += stream.bytes - before
        receipt = made(Receipt, (topic, position, False))
        if id is not None:
            self._remember(topic, id, now, receipt)
        if self.bytes > self._memory_bytes:
            self._evict()
        feed.dispatch(publication)
        return receipt

    def shard(self, topic: str) -> str:
        return ""

    def peek(self, topic: str, want: Want) -> Page | None:
        options = self._history(topic)
        if options is None:
            return Page(None, ())
        now = self._now()
        stream = self._streams.get(topic)
        if stream is None:
            if topic not in self._attached:
                # A question alone must not leave anything behind.
                return Stream(topic, self._epoch, now).answer(want, now, options)
            stream = self._begin(topic, now)
        elif topic in self._evictable:
            self._evictable.move_to_end(topic)
        before = stream.bytes
        page = stream.answer(want, now, options)
        self.bytes += stream.bytes - before
        return page

    async def read(self, topic: str, want: Want) -> Page:
        page = self.peek(topic, want)
        assert page is not None
        return page

    def attach(self, topic: str) -> bool:
        if topic not in self._attached:
            self._attached.add(topic)
            if topic in self._streams:
                self.bytes -= STREAM_BYTES
        return True

    async def attached(self, topic: str) -> None:
        pass

    def detach(self, topic: str) -> None:
        if topic not in self._attached:
            return
        self._attached.discard(topic)
        stream = self._streams.get(topic)
        if stream is not None:
            self.bytes += STREAM_BYTES
            if not stream.offset:
                self._forget(topic, stream)
            else:
                self._evictable[topic] = stream
                if self.bytes > self._memory_bytes:
                    self._evict()

    def sweep(self) -> None:
        """Removes what has expired, a bounded part of it at a time. Call it every second."""
        now = self._now()
        keys = self._ids
        for _ in range(min(SWEEP_STREAMS, len(keys))):
            name, (expires, _receipt) = next(iter(keys.items()))
            if expires > now:
                break
            self._drop_id(name)
        if not self._sweep:
            self._sweep = list(self._streams)
        for _ in range(min(SWEEP_STREAMS, len(self._sweep))):
            topic = self._sweep.pop()
            stream = self._streams.get(topic)
            options = self._history(topic)
            if stream is None or options is None:
                continue
            before = stream.bytes
            stream.trim(now, options)
            self.bytes += stream.bytes - before
            idle = now - stream.used > POSITION_SECONDS * 1000
            if not stream and idle and topic not in self._attached:
                self._forget(topic, stream)

    def _begin(self, topic: str, now: int) -> Stream:
        stream = self._streams[topic] = Stream(topic, self._epoch, now)
        if topic not in self._attached:
            self.bytes += STREAM_BYTES
        return stream

    def _forget(self, topic: str, stream: Stream) -> None:
        """Forgets the stream of a topic that is not attached."""
        if stream.offset:
            self._generation += 1
            self._epoch = f"{self._process}{self._generation:x}"
        del self._streams[topic]
        self._evictable.pop(topic, None)
        self.bytes -= stream.bytes

    def _remember(self, topic: str, key: str, now: int, receipt: Receipt) -> None:
        name = (topic, key)
        if name in self._ids:
            self._drop_id(name)
        while len(self._ids) >= self._key_count:
            self._drop_id(next(iter(self._ids)))
        self._ids[name] = (now + self._key_ms, receipt)
        self.bytes += KEY_BYTES + len(topic) + len(key)

    def _drop_id(self, name: tuple[str, str]) -> None:
        del self._ids[name]
        self.bytes -= KEY_BYTES + len(name[0]) + len(name[1])

    def _evict(self) -> None:
        """Frees memory, the stream unused for longest first, then keys, the oldest first."""
        while self.bytes > self._memory_bytes and self._evictable:
            topic, stream = self._evictable.popitem(last=False)
            if len(stream):
                self.evictions += 1
            if topic in self._attached:
                # Its subscribers are at a position; that must stay true.
                before = stream.bytes
                stream.clear()
                self.bytes += stream.bytes - before
            else:
                self._forget(topic, stream)
        while self.bytes > self._memory_bytes and self._ids:
            self._drop_id(next(iter(self._ids)))
