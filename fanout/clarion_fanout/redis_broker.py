"""The broker over Redis shards: streams and pub/sub of a topic on the shard that it belongs to.

Publishing     One script gives the offset, appends to the stream and publishes (publish.lua), so
               whoever is subscribed gets payloads in the order of their offsets. Drafts of one
               call are sent together; nothing is sent twice unless Redis said that it did nothing.
               Of drafts that are sent together one may fail and the next succeed; where that must
               not be, as in the inbox, each names the one before it (`Step`).
Following      A `Follower` for each attached topic feeds the next offset at once. Whatever else
               comes makes it ask for a page of the stream. After an interruption all positions of
               the shard are checked, 1,000 a question; and all in turn every `CHECK_SECONDS`, which
               finds what no payload told: data that vanished, a publication that was not pushed.
Reading        At most one question for a topic is on its way. Those who ask meanwhile share the
               next one, whatever positions they resume from: thousands that come back to a topic
               together cost two.
Quick          What a backend publishes itself on a topic's channel is checked and fed, without a
               position.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias, cast

import hiredis

from clarion_fanout import payload as payloads
from clarion_fanout.broker import BrokerUnavailable, Feed, HistoryOptions, Page, Want
from clarion_fanout.follower import Follower, State
from clarion_fanout.publication import (
    Arrival,
    Departure,
    Draft,
    PayloadError,
    Position,
    Publication,
    Receipt,
)
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_scripts import PUBLISH, PUBLISH_ONCE, READ
from clarion_fanout.redis_shard import Shard
from clarion_fanout.redis_shards import Shards
from clarion_fanout.redis_wire import Reply, pack
from clarion_fanout.tasks import Tasks

log = logging.getLogger(__name__)

POSITION_SECONDS = 24 * 3600
"""How long a topic's position outlives its last publication, so that a client which missed
nothing resumes as recovered. A day covers a laptop closed overnight."""

CHECK_SECONDS = 30.0
"""Every attached topic's position is compared so often: 100,000 topics are 3,300 small questions a
second, 2 % of a core here and less in Redis."""

CHECKED = 1000
"""Positions of one question, a piece of work of some 5 ms."""

PAGE = 500
"""Publications of one page that fills a gap; what a gap needs beyond it takes another."""

PAGES = 100
"""Gaps that are filled together."""

PATIENCE_SECONDS = 1.0
"""How long a publication that a check has found may still be on its way to us."""

ARRIVAL_SECONDS = 0.05
"""Likewise, where somebody waits for it."""

RETRIES = 5
"""How often a draft is sent again after an answer that says that it was not executed."""

_NOT_HERE = (b"SEALED", b"EMPTY")
"""A topic is moving to another shard, where it can be had by asking again; see `redis_moving`."""

_MEMBERS = {b">": Arrival, b"<": Departure}
"""What a payload about a member begins with; see presence.lua."""


Step: TypeAlias = tuple[str, bytes, tuple[bytes, ...]]
"""A topic, data for it, and the Redis keys of which it depends whether it is published: the one by
which it is remembered, and that of the step of the same topic which must have been published before
it. Both may be missing. A named tuple would take 5 % of the time that a publish takes here."""


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
        self._check_seconds = check_seconds
        self._publish = b"SPUBLISH" if shards.sharded else b"PUBLISH"
        self._tasks = Tasks()
        self._feed: Feed | None = None
        self._epochs = secrets.token_urlsafe(6)  # 48 bits: no two processes share them
        self._epoch_count = 0
        self._listeners: dict[str, Follower | _Plain] = {}
        self._queued: dict[str, dict[Want, list[asyncio.Future[Page]]]] = {}
        self._flying: set[str] = set()
        self._take_off = False
        self._behind: dict[Follower, None] = {}
        self._doubtful: dict[Follower, None] = {}
        self._mending: set[str] = set()
        self._mend_soon = False
        self.gaps = 0
        """Times that a follower asked for what it had missed."""
        self.repaired = 0
        """Publications that came so."""
        self.quick = 0
        """Publications that backends published past our API, of topics we listen to."""
        self.quick_refused = 0
        """Likewise, which were not JSON, or too large."""
        self.reads = 0
        """Questions to streams."""
        self.checks = 0
        """Positions that were compared."""

    async def start(self, feed: Feed) -> None:
        self._feed = feed
        self.shards.on_move = self._follow_elsewhere
        await self.shards.start(self._tasks)
        self._tasks.start(self._check_in_turn(), "position checks")

    async def close(self) -> None:
        self._feed = None
        await self._tasks.close()
        await self.shards.close()

    # Publishing

    async def publish(self, drafts: Sequence[Draft]) -> Sequence[Receipt | BrokerUnavailable]:
        name = self._keys.key
        return await self.publish_steps(
            [
                (topic, data, () if key is None else (name(topic, key),))
                for topic, data, key in drafts
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
            for place in left:
                step = steps[place]
                try:
                    commands.append((step[0], self._packed(step, now, fresh, key_ms)))
                except BrokerUnavailable as error:
                    answers[place] = error
            sent = [place for place in left if answers[place] is None]
            replies = await self.shards.send(commands)
            again: list[int] = []
            for place, reply in zip(sent, replies, strict=True):
                answer = _receipt(steps[place], reply)
                if reply == b"ORDER" and not _follows(steps, place, again):
                    answer = BrokerUnavailable("what comes before it was not published")
                if answer is None:
                    again.append(place)
                else:
                    answers[place] = answer
            if not again:
                break
            # The shard's data may have stepped back since we looked; so look, and say so.
            await self._renew_reigns({steps[place][0] for place in again})
            fresh = b"1"
            left = again
        refusal = BrokerUnavailable("the topic's shard is changing")
        return [refusal if answer is None else answer for answer in answers]

    def _packed(self, step: Step, now: bytes, fresh: bytes, key_ms: int) -> bytes:
        topic, data, names = step
        options = self._history(topic)
        channel = self._keys.channel(topic)
        if options is not None:
            keys = [self._keys.meta(topic), self._keys.stream(topic), *names]
            kept = max(1, int(options.seconds * 1000))
            self._epoch_count += 1
            arguments = (
                channel, data, now, options.size, kept, kept + POSITION_SECONDS * 1000,
                self.shards.of(topic).reign, fresh, f"{self._epochs}{self._epoch_count:x}",
                self._publish, key_ms, int(self.shards.begins(topic)),
            )  # fmt: skip
            return PUBLISH.packed(keys, arguments)
        payload = b"#0 %b - %b" % (now, data)
        if names:
            return PUBLISH_ONCE.packed(names, (channel, payload, key_ms, self._publish))
        return pack((self._publish, channel, payload))

    async def _bring_keys(self, steps: Sequence[Step], key_ms: int) -> None:
        """Copies the keys of topics that have moved, so that a repetition is known as one."""
        keyed = [step for step in steps if step[2] and not self.shards.begins(step[0])]
        if not keyed:
            return
        await self.shards.settle([topic for topic, _, _ in keyed])
        for topic, _, names in keyed:
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

    async def forget(self, steps: Iterable[Step], in_ms: int) -> None:
        """Remembers the keys of steps only so long from now on, as far as their shards answer."""
        await self.shards.send(
            [(topic, pack((b"PEXPIRE", names[0], in_ms))) for topic, _, names in steps]
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
        page = await self._ask(topic, want)
        follower = self._listeners.get(topic)
        if isinstance(follower, Follower) and follower.state is not State.BLIND:
            await self._reach(follower, page.position)
        return page

    async def _reach(self, follower: Follower, position: Position | None) -> None:
        """Returns when everything up to `position` was fed."""
        assert position is not None
        epoch, offset = position

        def reached() -> bool:
            return follower.epoch == epoch and follower.offset >= offset

        if reached():
            return
        try:
            async with asyncio.timeout(ARRIVAL_SECONDS):
                await follower.when(reached)
            return
        except TimeoutError:
            pass
        if reached():
            return
        # Either it got lost, or the stream has turned: the next page brings the feed beyond it.
        follower.doubt()
        try:
            async with asyncio.timeout(self._timeout_s):
                await follower.when(lambda: follower.state is State.LIVE)
        except TimeoutError:
            raise BrokerUnavailable("the topic's history could not be read in time") from None

    def _ask(self, topic: str, want: Want) -> asyncio.Future[Page]:
        future: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        self._queued.setdefault(topic, {}).setdefault(want, []).append(future)
        if not self._take_off and topic not in self._flying:
            self._take_off = True
            asyncio.get_running_loop().call_soon(self._fly)
        return future

    def _fly(self) -> None:
        """Sends everything that was asked in this turn of the loop."""
        self._take_off = False
        topics = [topic for topic in self._queued if topic not in self._flying]
        by_shard: dict[str, list[str]] = defaultdict(list)
        for topic in topics:
            try:
                by_shard[self.shards.of(topic).name].append(topic)
            except BrokerUnavailable as error:
                _fail(self._queued.pop(topic), error)
        for group in by_shard.values():
            self._flying.update(group)
            asked = {topic: self._queued.pop(topic) for topic in group}
            self._tasks.start(self._flight(asked), "read streams")

    async def _flight(self, asked: dict[str, dict[Want, list[asyncio.Future[Page]]]]) -> None:
        """Asks one shard about streams, once for each topic where that is possible."""
        questions: list[tuple[str, Want, list[Want]]] = []
        confirmed: dict[str, tuple[Follower, int]] = {}
        for topic, wants in asked.items():
            questions += [(topic, want, shared) for want, shared in _merged(list(wants))]
            follower = self._listeners.get(topic)
            if isinstance(follower, Follower) and self._is_confirmed(topic):
                confirmed[topic] = (follower, follower.confirmations)
        try:
            pages = await self._pages([(topic, want, False) for topic, want, _ in questions])
        except BaseException:
            for wants in asked.values():
                _fail(wants, BrokerUnavailable("the server is ending"))
            raise
        finally:
            self._flying.difference_update(asked)
        unmerged: list[tuple[str, Want]] = []
        for (topic, want, shared), page in zip(questions, pages, strict=True):
            if isinstance(page, BrokerUnavailable):
                for each in shared:
                    _fail({each: asked[topic][each]}, page)
                continue
            if topic in confirmed and page.position is not None:
                follower, confirmations = confirmed[topic]
                if follower.state is State.BLIND and follower.confirmations == confirmations:
                    follower.begin(page.position)
            for each in shared:
                part = _part(page, want, each)
                if part is None:
                    unmerged.append((topic, each))
                    continue
                for future in asked[topic][each]:
                    if not future.done():
                        future.set_result(part)
        if unmerged:
            await self._fly_alone(unmerged, asked)
        if any(topic not in self._flying for topic in self._queued) and not self._take_off:
            self._fly()

    async def _fly_alone(
        self,
        wants: list[tuple[str, Want]],
        asked: dict[str, dict[Want, list[asyncio.Future[Page]]]],
    ) -> None:
        """Asks what could not be answered from a page for several."""
        for start in range(0, len(wants), PAGES):
            part = wants[start : start + PAGES]
            pages = await self._pages([(topic, want, False) for topic, want in part])
            for (topic, want), page in zip(part, pages, strict=True):
                if isinstance(page, BrokerUnavailable):
                    _fail({want: asked[topic][want]}, page)
                    continue
                for future in asked[topic][want]:
                    if not future.done():
                        future.set_result(page)

    async def _pages(
        self, questions: Sequence[tuple[str, Want, bool]], tries: int = RETRIES
    ) -> list[Page | BrokerUnavailable]:
        """Reads streams; of each, whether a follower asks (see read.lua)."""
        now = self._now()
        commands: list[tuple[str, bytes]] = []
        pages: list[Page | BrokerUnavailable | None] = [None] * len(questions)
        for place, (topic, want, follows) in enumerate(questions):
            try:
                commands.append((topic, self._read(topic, want, follows, now)))
            except BrokerUnavailable as error:
                pages[place] = error
        self.reads += len(commands)
        replies = iter(await self.shards.send(commands))
        again: list[int] = []
        for place, (topic, _, _) in enumerate(questions):
            if pages[place] is None:
                reply = next(replies)
                if reply in _NOT_HERE and tries > 1:
                    again.append(place)
                else:
                    pages[place] = _page(topic, reply)
        if again:
            found = await self._pages([questions[place] for place in again], tries - 1)
            for place, page in zip(again, found, strict=True):
                pages[place] = page
        return cast("list[Page | BrokerUnavailable]", pages)

    def _read(self, topic: str, want: Want, follows: bool, now: int) -> bytes:
        options = self._history(topic)
        assert options is not None, "topics without history are not asked about"
        kept = int(options.seconds * 1000)
        self._epoch_count += 1
        if want.since is not None:
            what: tuple[str | int, str | int, int] = (
                "follow" if follows else "since",
                want.since.epoch,
                want.since.offset,
            )
        elif want.last:
            what = ("last", want.last, 0)
        else:
            what = ("none" if want.limit == 0 else "all", 0, 0)
        arguments = (
            *what,
            -1 if want.limit is None else want.limit,
            int(want.reverse),
            now - kept,
            f"{self._epochs}{self._epoch_count:x}",
            self.shards.of(topic).reign,
            kept + POSITION_SECONDS * 1000 if topic in self._listeners else 0,
            int(self.shards.begins(topic)),
        )
        return READ.packed([self._keys.meta(topic), self._keys.stream(topic)], arguments)

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
                await listener.when(lambda: self._is_confirmed(topic))
                while isinstance(listener, Follower) and listener.state is State.BLIND:
                    # What is fed begins at the position that the stream has now. Again, should
                    # the subscription have been interrupted meanwhile.
                    await self._ask(topic, Want(limit=0))
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
        if self._feed is not None:
            self._feed.dispatch(publication)

    def other(self, topic: str, payload: bytes) -> None:
        """A payload that is no message of a worker's: a member came or went, or a backend
        published it."""
        kind = _MEMBERS.get(payload[:1])
        if payload == b"!":  # the stream was sealed; see seal.lua
            listener = self._listeners.get(topic)
            if isinstance(listener, Follower):
                listener.doubt()
            return
        try:
            # Of members too: a backend may have published `<b>hello</b>`.
            data = payloads.check(payload if kind is None else payload[1:], self._data_bytes)
        except PayloadError as error:
            self.quick_refused += 1
            log.debug("a payload published past our API was refused: %s", error)
            return
        if kind is not None:
            self.dispatch(kind(topic, data, 0))
            return
        self.quick += 1
        self.dispatch(Publication(topic, data, self._now()))

    def dropped(self, topic: str, listener: object) -> None:
        if self._listeners.get(topic) is listener:
            del self._listeners[topic]

    def behind(self, follower: Follower) -> None:
        self._behind[follower] = None
        self._mend()

    def doubtful(self, follower: Follower) -> None:
        self._doubtful[follower] = None
        self._mend()

    def _mend(self) -> None:
        if not self._mend_soon:
            self._mend_soon = True
            asyncio.get_running_loop().call_soon(self._start_mending)

    def _start_mending(self) -> None:
        """Begins to mend at each shard where there is something to mend and nobody does it."""
        self._mend_soon = False
        for follower in [*self._behind, *self._doubtful]:
            try:
                name = self.shards.of(follower.topic).name
            except BrokerUnavailable:
                name = ""
            if name not in self._mending and self._feed is not None:
                self._mending.add(name)
                self._tasks.start(self._mend_shard(name), f"mend shard {name}")

    async def _mend_shard(self, name: str) -> None:
        """Fills gaps and checks positions at one shard until there is nothing left to do."""
        try:
            while True:
                behind = self._part_of(self._behind, name, PAGES)
                doubtful = [] if behind else self._part_of(self._doubtful, name, CHECKED)
                if not behind and not doubtful:
                    return
                done = await (self._fill(behind) if behind else self._check(doubtful))
                if not done:
                    # The shard is away. What it says when it is back is all that is needed.
                    await asyncio.sleep(PATIENCE_SECONDS / 4)
        finally:
            self._mending.discard(name)

    def _part_of(self, followers: dict[Follower, None], name: str, most: int) -> list[Follower]:
        """Takes out those of a shard."""
        part: list[Follower] = []
        for follower in followers:
            try:
                if self.shards.of(follower.topic).name == name:
                    part.append(follower)
            except BrokerUnavailable:
                if not name:
                    part.append(follower)
            if len(part) == most:
                break
        for follower in part:
            del followers[follower]
        return part

    async def _fill(self, followers: Sequence[Follower]) -> bool:
        """Gets what followers have missed; says whether the shard answered."""
        wants = [
            (follower.topic, Want(since=follower.position, limit=PAGE), True)
            for follower in followers
        ]
        self.gaps += len(wants)
        done = True
        for follower, page in zip(followers, await self._pages(wants), strict=True):
            if self._listeners.get(follower.topic) is not follower:
                continue
            if isinstance(page, _Sealed):
                follower.lose("the topic has moved to a shard that this server does not know")
            elif isinstance(page, BrokerUnavailable):
                self._behind[follower] = None
                done = False
            else:
                self.repaired += len(page.publications)
                follower.page(page)
        return done

    async def _check(self, followers: Sequence[Follower], patient: bool = False) -> bool:
        """Compares positions; says whether the shard answered."""
        asked = [follower.position for follower in followers]
        self.checks += len(followers)
        commands = [
            (each.topic, pack((b"HMGET", self._keys.meta(each.topic), b"e", b"o", b"m")))
            for each in followers
        ]
        done = True
        ahead: list[Follower] = []
        replies = await self.shards.send(commands)
        for follower, position, reply in zip(followers, asked, replies, strict=True):
            if self._listeners.get(follower.topic) is not follower:
                continue
            if isinstance(reply, BrokerUnavailable | hiredis.ReplyError):
                if not patient:
                    self._doubtful[follower] = None
                done = False
                continue
            epoch, offset, sealed = cast("list[bytes | None]", reply)
            if sealed is not None:
                follower.doubt()
                continue
            known = epoch.decode() if epoch is not None else None
            if follower.checked(position, known, int(offset or 0)):
                ahead.append(follower)
        if ahead and patient:
            loop = asyncio.get_running_loop()
            loop.call_later(PATIENCE_SECONDS, _lost_patience, [(f, f.position) for f in ahead])
        else:
            for follower in ahead:
                follower.doubt()
        return done

    async def _check_in_turn(self) -> None:
        """Checks the positions of all topics, spread evenly over `check_seconds`."""
        while True:
            followers = [each for each in self._listeners.values() if isinstance(each, Follower)]
            parts = max(1, -(-len(followers) // CHECKED))
            for start in range(0, max(1, len(followers)), CHECKED):
                await asyncio.sleep(self._check_seconds / parts)
                live = [
                    follower
                    for follower in followers[start : start + CHECKED]
                    if follower.state is State.LIVE
                    and self._listeners.get(follower.topic) is follower
                ]
                if live:
                    await self._check(live, patient=True)


class _Plain:
    """Listens to a topic without history: what comes is fed."""

    __slots__ = ("_broker", "_waiting", "topic")

    def __init__(self, topic: str, broker: RedisBroker) -> None:
        self.topic = topic
        self._broker = broker
        self._waiting: list[asyncio.Future[None]] = []

    def take(self, payload: bytes) -> None:
        if payload[:3] == b"#0 ":
            _, ts, _, data = payload.split(b" ", 3)
            self._broker.dispatch(Publication(self.topic, data, int(ts)))
        else:
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


class _Sealed(BrokerUnavailable):
    """The stream has moved to a shard that is not in our configuration."""


class _Nobody:
    """Listens to a channel that is about to be given up."""

    def take(self, payload: bytes) -> None:
        pass

    def subscribed(self) -> None:
        pass

    def dropped(self) -> None:
        pass


_NOBODY = _Nobody()


def _lost_patience(followers: list[tuple[Follower, Position]]) -> None:
    """Those that have not moved since will not get what was found by waiting longer."""
    for follower, position in followers:
        if follower.position == position:
            follower.doubt()


def _follows(steps: Sequence[Step], place: int, others: Sequence[int]) -> bool:
    """Whether one of the others is the step that must be published before the one at `place`."""
    _, _, (_, before) = steps[place]
    return any(steps[other][2][0] == before for other in reversed(others))


def _receipt(step: Step, reply: Reply | BrokerUnavailable) -> Receipt | BrokerUnavailable | None:
    """What a publish was answered; None if it was not executed and may be sent again."""
    topic, _, names = step
    if isinstance(reply, list):
        epoch, offset, known = cast("list[bytes | int]", reply)
        assert isinstance(epoch, bytes)
        assert isinstance(offset, int)
        return Receipt(topic, Position(epoch.decode(), offset), bool(known))
    if isinstance(reply, int):
        # Whether the key was known, or without one, how many connections got it.
        return Receipt(topic, None, duplicate=bool(names) and reply == 1)
    if isinstance(reply, BrokerUnavailable):
        return reply
    if reply in (b"REIGN", b"ORDER", *_NOT_HERE) or str(reply).startswith("MOVED"):
        return None
    return BrokerUnavailable(f"the topic's shard answered {reply}")


def _page(topic: str, reply: Reply | BrokerUnavailable) -> Page | BrokerUnavailable:
    if isinstance(reply, BrokerUnavailable):
        return reply
    if reply == b"SEALED":
        return _Sealed("the topic has moved to a shard that this server does not know")
    if not isinstance(reply, list):
        return BrokerUnavailable(f"the topic's shard answered {reply}")
    mark, offset, complete, entries = cast("tuple[bytes, int, int, list[list[bytes]]]", reply)
    epoch = mark.decode()
    publications: list[Publication] = []
    for id, fields in entries:
        number, _, ts = id.partition(b"-")
        publications.append(
            Publication(topic, cast("bytes", fields[1]), int(ts), int(number), epoch)
        )
    return Page(Position(epoch, offset), publications, bool(complete))


def _merged(wants: list[Want]) -> list[tuple[Want, list[Want]]]:
    """As few questions as possible, each with the wants that its page answers."""
    groups: dict[str, list[Want]] = defaultdict(list)
    fresh: list[Want] = []
    questions: list[tuple[Want, list[Want]]] = []
    for want in wants:
        if want.since is not None and want.limit is None and not want.reverse:
            groups[want.since.epoch].append(want)
        elif want == Want(limit=0):
            fresh.append(want)
        else:
            questions.append((want, [want]))
    for group in groups.values():
        first = min(group, key=_offset)
        questions.append((first, group))
    if fresh:
        if questions:  # every page says the position
            questions[0][1].extend(fresh)
        else:
            questions.append((fresh[0], fresh))
    return questions


def _offset(want: Want) -> int:
    assert want.since is not None
    return want.since.offset


def _part(page: Page, asked: Want, want: Want) -> Page | None:
    """The answer to `want` from the page that `asked` got; None if it does not say."""
    if want == asked:
        return page
    if want.since is None:
        return Page(page.position, ())
    assert page.position is not None
    epoch, offset = want.since
    if epoch != page.position.epoch:
        return None  # up to where it is part of the stream, the page does not say
    newest = page.position.offset
    publications = page.publications
    if offset > newest:
        return None if page.complete else page
    first = publications[0].offset if publications else newest + 1
    missed = [publication for publication in publications if publication.offset > offset]
    return Page(page.position, missed, page.complete or offset + 1 >= first)


def _fail(wants: dict[Want, list[asyncio.Future[Page]]], error: BrokerUnavailable) -> None:
    for futures in wants.values():
        for future in futures:
            if not future.done():
                future.set_exception(BrokerUnavailable(str(error), error.retry_ms))
