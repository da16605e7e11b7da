"""The broker over Redis shards: streams and pub/sub of a topic on the shard that it belongs to.

Publishing     One script gives the offset, appends to the stream and publishes (publish.lua), so
               whoever is subscribed gets payloads in the order of their offsets. Drafts of one
               call are sent together; nothing is sent twice unless Redis said that it did nothing.
               Of drafts that are sent together one may fail and the next succeed; where that must
               not be, as in the inbox, each names the one before it (`Step`).
Following      A `Follower` for each attached topic feeds the next offset at once. Whatever else
               comes makes it ask for a page of the stream, which the `Mender` gets.
Reading        A fresh subscription of a topic that is followed, and a client that missed nothing,
               are answered from what the follower knows; all else by the `Reader`.
Witnessing     What was acknowledged is remembered, to notice when a shard has forgotten it: see
               `Witness`.
Quick          What a backend publishes itself on a topic's channel is checked and fed, without a
               position.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias, cast

from clarion_fanout import conflation
from clarion_fanout import payload as payloads
from clarion_fanout.broker import BrokerUnavailable, Feed, HistoryOptions, Page, Want
from clarion_fanout.follower import KEYED, Follower, State
from clarion_fanout.publication import (
    Arrival,
    Departure,
    Draft,
    Position,
    Publication,
    Receipt,
    made,
)
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_mender import Mender
from clarion_fanout.redis_packing import Common, Packing, words
from clarion_fanout.redis_reader import NOT_HERE, POSITION_SECONDS, RETRIES, Epochs, Reader
from clarion_fanout.redis_scripts import PUBLISH, PUBLISH_ONCE
from clarion_fanout.redis_shard import Shard
from clarion_fanout.redis_shards import Shards
from clarion_fanout.redis_wire import Reply, pack
from clarion_fanout.redis_witness import Witness
from clarion_fanout.tasks import Tasks

log = logging.getLogger(__name__)

CHECK_SECONDS = 30.0
"""Every attached topic's position is compared so often: 100,000 topics are 3,300 small questions a
second, 2 % of a core here and less in Redis."""

ARRIVAL_SECONDS = 0.05
"""How long a publication that somebody waits for may be on its way to us, before it is fetched."""

QUICK_KEY = b"@"
"""What a payload of a backend's begins with when a conflation key and a space stand before the
data; JSON cannot begin so."""

_MEMBERS = {b">": Arrival, b"<": Departure}
"""What a payload about a member begins with; see presence.lua."""


Step: TypeAlias = tuple[str, bytes, tuple[bytes, ...], str]
"""A topic, data for it, the Redis keys of which it depends whether it is published: the one by
which it is remembered, and that of the step of the same topic which must have been published before
it; both may be missing. And the draft's `key`. A named tuple would take 5 % of the time that a
publish takes here."""


_Place: TypeAlias = tuple[bytes, HistoryOptions, bool]
"""What publishes may have in common: the reign, the history, whether their streams may begin."""


class RedisBroker:
    """The `Broker` over `shards`. See the module's text.

    history: the options of a topic's namespace, or None where it keeps no history.
    now: Unix time in milliseconds.
    key_seconds: how long an idempotency key is remembered.
    data_bytes: the most that a backend may publish itself, past our API.
    timeout_s: the deadline of each question.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        keys: Keys,
        history: Callable[[str], HistoryOptions | None],
        now: Callable[[], int],
        key_seconds: float = 300,
        data_bytes: int = 65_536,
        timeout_s: float = 2.0,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self.shards = shards
        self._keys = keys
        self._history = history
        self._now = now
        self._key_ms = max(1, int(key_seconds * 1000))
        self._data_bytes = data_bytes
        self._timeout_s = timeout_s
        self._publish = b"SPUBLISH" if shards.sharded else b"PUBLISH"
        self._tasks = Tasks()
        self._epochs = Epochs()
        self._packing = Packing(keys)
        self._feed: Feed | None = None
        self._listeners: dict[str, Follower | _Plain] = {}
        self.reader = Reader(
            shards,
            keys=keys,
            history=history,
            now=now,
            epochs=self._epochs,
            tasks=self._tasks,
            listening=self._listeners.__contains__,
            confirmed=self._confirmed_follower,
        )
        self.mender = Mender(
            shards,
            keys=keys,
            reader=self.reader,
            tasks=self._tasks,
            check_seconds=check_seconds,
            followers=self._followers,
            is_current=lambda follower: self._listeners.get(follower.topic) is follower,
        )
        self.witness = Witness(shards, reader=self.reader, tasks=self._tasks)
        self.quick = 0
        """Publications that backends published past our API, of topics we listen to."""
        self.quick_refused = 0
        """Likewise, which were not JSON, or too large."""

    async def start(self, feed: Feed) -> None:
        self._feed = feed
        self.shards.on_move = self._follow_elsewhere
        await self.shards.start(self._tasks)
        self.mender.start()
        self.witness.start()

    async def close(self) -> None:
        self._feed = None
        await self._tasks.close()
        self.reader.close()
        await self.shards.close()

    # Publishing

    async def publish(self, drafts: Sequence[Draft]) -> Sequence[Receipt | BrokerUnavailable]:
        name = self._keys.key
        return await self.publish_steps(
            [
                (topic, data, () if id is None else (name(topic, id),), key)
                for topic, data, id, key in drafts
            ],
            self._key_ms,
        )

    async def publish_steps(
        self, steps: Sequence[Step], key_ms: int
    ) -> Sequence[Receipt | BrokerUnavailable]:
        """`publish` for drafts that name their keys themselves, which are remembered for `key_ms`.

        Of those that name one before them none is published if that was not.
        """
        if not steps:
            return []
        if self._feed is None:
            return [BrokerUnavailable("the broker is closed")] * len(steps)
        now = b"%d" % self._now()
        answers: list[Receipt | BrokerUnavailable | None] = [None] * len(steps)
        await self._bring_keys(steps, key_ms)
        left: Sequence[int] = range(len(steps))
        fresh = b"0"
        for _ in range(RETRIES):
            commands: list[tuple[str, bytes]] = []
            commons: dict[_Place, Common] = {}
            for place in left:
                step = steps[place]
                try:
                    commands.append((step[0], self._packed(step, now, fresh, key_ms, commons)))
                except BrokerUnavailable as error:
                    answers[place] = error
            sent = [place for place in left if answers[place] is None]
            replies = await self.shards.send(commands, follow=False)
            again: list[int] = []
            for place, reply in zip(sent, replies, strict=True):
                answer = _receipt(steps[place], reply)
                if reply == b"ORDER" and not _follows(steps, place, again):
                    answer = BrokerUnavailable("what comes before it was not published")
                if answer is None:
                    again.append(place)
                    continue
                answers[place] = answer
                if type(answer) is Receipt and answer.position and not answer.duplicate:
                    self.witness.acknowledged(answer.topic, answer.position)
            if not again:
                break
            # The shard's data may have stepped back since we looked; so look, and say so.
            await self._renew_reigns({steps[place][0] for place in again})
            fresh = b"1"
            left = again
        refusal = BrokerUnavailable("the topic's shard is changing")
        return [refusal if answer is None else answer for answer in answers]

    def _packed(
        self, step: Step, now: bytes, fresh: bytes, key_ms: int, commons: dict[_Place, Common]
    ) -> bytes:
        """A step as it goes over the wire. commons: of those that are sent together."""
        topic, data, names, key = step
        options = self._history(topic)
        if options is not None and not names and not key:
            place = (self.shards.of(topic).reign, options, self.shards.begins(topic))
            common = commons.get(place)
            if common is None:
                common = commons[place] = self._common(place, now, fresh, key_ms)
            return self._packing.packed(topic, data, self._epochs.fresh(), common)
        channel = self._keys.channel(topic)
        if options is not None:
            keys = [self._keys.meta(topic), self._keys.stream(topic), *names]
            kept = max(1, int(options.seconds * 1000))
            arguments = (
                channel, data, now, options.size, kept, kept + POSITION_SECONDS * 1000,
                self.shards.of(topic).reign, fresh, self._epochs.fresh(),
                self._publish, key_ms, int(self.shards.begins(topic)),
            )  # fmt: skip
            return PUBLISH.packed(keys, (*arguments, key) if key else arguments)
        payload = b"#0 %b - %b" % (now, data)
        if key:
            payload = b"%b0 %b - %b %b" % (KEYED, now, key.encode(), data)
        if names:
            return PUBLISH_ONCE.packed(names, (channel, payload, key_ms, self._publish))
        return pack((self._publish, channel, payload))

    def _common(self, place: _Place, now: bytes, fresh: bytes, key_ms: int) -> Common:
        reign, options, begins = place
        kept = max(1, int(options.seconds * 1000))
        return Common(
            words(now, options.size, kept, kept + POSITION_SECONDS * 1000, reign, fresh),
            words(self._publish, key_ms, int(begins)),
        )

    async def _bring_keys(self, steps: Sequence[Step], key_ms: int) -> None:
        """Copies the keys of topics that have moved, so that a repetition is known as one."""
        keyed = [step for step in steps if step[2] and not self.shards.begins(step[0])]
        if not keyed:
            return
        await self.shards.settle([step[0] for step in keyed])
        for topic, _, names, _ in keyed:
            old = self.shards.other(topic)
            if old is None:
                continue
            with contextlib.suppress(BrokerUnavailable):
                known = await old.calls([("GET", name) for name in names])
                found = [
                    (topic, pack((b"SET", name, value, b"NX", b"PX", key_ms)))
                    for name, value in zip(names, known, strict=True)
                    if isinstance(value, bytes)
                ]
                await self.shards.send(found)

    async def known(self, steps: Sequence[Step], key_ms: int) -> list[bool]:
        """Whether the key of each step is remembered: it was published. One whose shard does not
        answer was not, as far as can be told."""
        await self._bring_keys(steps, key_ms)
        replies = await self.shards.send(
            [(topic, pack((b"EXISTS", names[0]))) for topic, _, names, _ in steps]
        )
        return [reply == 1 for reply in replies]

    async def forget(self, steps: Iterable[Step], in_ms: int) -> None:
        """Remembers the keys of steps only so long from now on, as far as their shards answer."""
        await self.shards.send(
            [(topic, pack((b"PEXPIRE", names[0], in_ms))) for topic, _, names, _ in steps]
        )

    async def _renew_reigns(self, topics: Iterable[str]) -> None:
        shards: dict[str, Shard] = {}
        for topic in topics:
            try:
                shard = self.shards.of(topic)
            except BrokerUnavailable:
                continue
            shards[shard.name] = shard
        for shard in shards.values():
            with contextlib.suppress(BrokerUnavailable):  # what is sent next will say so
                await shard.renew_reign()

    def shard(self, topic: str) -> str:
        if len(self.shards.all()) <= 1:
            return ""
        try:
            return self.shards.of(topic).name
        except BrokerUnavailable:
            return "nowhere"  # nobody has the topic now

    # Reading

    def peek(self, topic: str, want: Want) -> Page | None:
        if self._history(topic) is None:
            return Page(None, ())
        follower = self._listeners.get(topic)
        if not isinstance(follower, Follower) or follower.state is not State.LIVE:
            return None
        position = follower.position
        if want.since is None:
            return Page(position, ()) if want.limit == 0 else None
        # Whoever has what we have fed last has missed nothing.
        return Page(position, ()) if want.since == position and not want.reverse else None

    async def read(self, topic: str, want: Want) -> Page:
        if self._history(topic) is None:
            return Page(None, ())
        if self._feed is None:
            raise BrokerUnavailable("the broker is closed")
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    page = await self.reader.ask(topic, want)
                    follower = self._listeners.get(topic)
                    if not isinstance(follower, Follower) or follower.state is State.BLIND:
                        return page
                    if await self._is_reached(follower, page.position):
                        return page
                    # The stream has turned since the page was read, and the feed with it.
        except TimeoutError:
            raise BrokerUnavailable("the topic's history could not be read in time") from None

    async def _is_reached(self, follower: Follower, position: Position | None) -> bool:
        """Brings the feed up to `position`; says whether it is there, and in the same epoch."""
        assert position is not None
        epoch, offset = position

        def reached() -> bool:
            return follower.epoch == epoch and follower.offset >= offset

        if reached():
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ARRIVAL_SECONDS):
                await follower.when(reached)
        if not reached():
            # Either it got lost, or the stream has turned: the next page brings the feed beyond.
            follower.doubt()
            await follower.when(lambda: follower.state is State.LIVE)
        return reached()

    # Following

    def attach(self, topic: str) -> bool:
        listener = self._listeners.get(topic)
        if listener is None:
            plain = self._history(topic) is None
            listener = _Plain(topic, self) if plain else Follower(topic, self)
            self._listeners[topic] = listener
        try:
            confirmed = self._listen(topic, listener)
        except BrokerUnavailable:
            return False
        return listener.state is not State.BLIND if isinstance(listener, Follower) else confirmed

    async def attached(self, topic: str) -> None:
        if self.attach(topic):
            return
        listener = self._listeners[topic]
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    await listener.when(lambda: self._is_confirmed(topic))
                    if not isinstance(listener, Follower) or listener.state is not State.BLIND:
                        return
                    # What is fed begins at the position that the stream has now. Again, should
                    # the subscription have been interrupted meanwhile.
                    await self.reader.ask(topic, Want(limit=0))
        except TimeoutError:
            raise BrokerUnavailable("the topic's shard does not answer") from None

    def detach(self, topic: str) -> None:
        if topic in self._listeners:
            with contextlib.suppress(BrokerUnavailable):
                channel = self._keys.channel(topic)
                self.shards.of(topic).unlisten(channel)
                if (other := self.shards.other(topic)) is not None:
                    other.unlisten(channel)

    def _is_confirmed(self, topic: str) -> bool:
        channel = self._keys.channel(topic)
        try:
            if not self.shards.of(topic).listens(channel):
                return False
        except BrokerUnavailable:
            return False
        other = self.shards.other(topic)
        return other is None or self._history(topic) is not None or other.listens(channel)

    def _listen(self, topic: str, listener: Follower | _Plain) -> bool:
        channel = self._keys.channel(topic)
        confirmed = self.shards.of(topic).listen(channel, listener)
        if isinstance(listener, _Plain) and (other := self.shards.other(topic)) is not None:
            # Some publish there and some here, as long as the topic moves.
            confirmed = other.listen(channel, listener) and confirmed
        return confirmed

    def _follow_elsewhere(self, topic: str) -> None:
        """The topic turned out to have moved: listens where it is now."""
        listener = self._listeners.get(topic)
        if isinstance(listener, Follower):
            if (other := self.shards.other(topic)) is not None:
                # The follower goes on, so it must not hear that its old place is given up.
                channel = self._keys.channel(topic)
                other.listen(channel, _NOBODY)
                other.unlisten(channel)
            self._listen(topic, listener)

    # What followers ask for; see `follower.Desk`

    def dispatch(self, publication: Publication) -> None:
        feed = self._feed
        if feed is not None:
            feed.dispatch(publication)
            if feed.crowded:
                feed.flush()

    def other(self, topic: str, payload: bytes) -> None:
        """A payload that is no message of a worker's: a member came or went, or a backend
        published it."""
        kind = _MEMBERS.get(payload[:1])
        if payload == b"!":  # the stream was sealed; see seal.lua
            listener = self._listeners.get(topic)
            if isinstance(listener, Follower):
                listener.doubt()
            return
        key = ""
        try:
            if payload[:1] == QUICK_KEY:
                key, payload = conflation.cut(payload[1:])
            # Of members too: a backend may have published `<b>hello</b>`.
            data = payloads.check(payload if kind is None else payload[1:], self._data_bytes)
        except ValueError as error:
            self.quick_refused += 1
            log.debug("a payload published past our API was refused: %s", error)
            return
        if kind is not None:
            self.dispatch(kind(topic, data, 0))
            return
        self.quick += 1
        self.dispatch(Publication(topic, data, self._now(), key=key))

    def dropped(self, topic: str, listener: object) -> None:
        if self._listeners.get(topic) is listener:
            del self._listeners[topic]

    def behind(self, follower: Follower) -> None:
        self.mender.behind(follower)

    def doubtful(self, follower: Follower) -> None:
        self.mender.doubtful(follower)

    def _followers(self) -> Iterator[Follower]:
        return (each for each in self._listeners.values() if isinstance(each, Follower))

    def _confirmed_follower(self, topic: str) -> Follower | None:
        follower = self._listeners.get(topic)
        if isinstance(follower, Follower) and self._is_confirmed(topic):
            return follower
        return None


class _Plain:
    """Listens to a topic without history: what comes is fed."""

    __slots__ = ("_broker", "_waiting", "topic")

    def __init__(self, topic: str, broker: RedisBroker) -> None:
        self.topic = topic
        self._broker = broker
        self._waiting: list[asyncio.Future[None]] = []

    def take(self, payload: bytes) -> None:
        head = payload[:3]
        if head == b"#0 " or head == b"%0 ":
            key = ""
            try:
                _, ts, _, data = payload.split(b" ", 3)
                if head[:1] == KEYED:
                    key, data = conflation.cut(data)
                publication = Publication(self.topic, data, int(ts), key=key)
            except ValueError:
                pass  # no worker wrote it
            else:
                self._broker.dispatch(publication)
                return
        self._broker.other(self.topic, payload)

    def subscribed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def dropped(self) -> None:
        self._broker.dropped(self.topic, self)

    def when(self, condition: Callable[[], bool]) -> asyncio.Future[None]:
        """A future that is done when the subscription is confirmed; `condition` says so too."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if condition():
            future.set_result(None)
        else:
            self._waiting.append(future)
        return future


class _Nobody:
    """Listens to a channel that is about to be given up."""

    def take(self, payload: bytes) -> None:
        pass

    def subscribed(self) -> None:
        pass

    def dropped(self) -> None:
        pass


_NOBODY = _Nobody()


def _follows(steps: Sequence[Step], place: int, others: Sequence[int]) -> bool:
    """Whether one of the others is the step that must be published before the one at `place`."""
    _, _, (_, before), _ = steps[place]
    return any(steps[other][2][0] == before for other in reversed(others))


def _receipt(step: Step, reply: Reply | BrokerUnavailable) -> Receipt | BrokerUnavailable | None:
    """What a publish was answered; None if it was not executed and may be sent again."""
    topic, _, names, _ = step
    if isinstance(reply, list):
        epoch, offset, known = cast("list[bytes | int]", reply)
        assert isinstance(epoch, bytes)
        assert isinstance(offset, int)
        position = made(Position, (epoch.decode(), offset))
        return made(Receipt, (topic, position, bool(known)))
    if isinstance(reply, int):
        # Whether the key was known, or without one, how many connections got it.
        return Receipt(topic, None, duplicate=bool(names) and reply == 1)
    if isinstance(reply, BrokerUnavailable):
        return reply
    if reply in (b"REIGN", b"ORDER", *NOT_HERE) or str(reply).startswith("MOVED"):
        return None
    return BrokerUnavailable(f"the topic's shard answered {reply}")
