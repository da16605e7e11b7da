"""Reading streams from shards: as few questions as possible for all who ask.

At most one flight for a topic is on its way. Those who ask meanwhile wait for the next one, as the
answer that is coming may be older than what they have seen already; then they share it, whatever
positions they resume from. Thousands that come back to a topic together cost two questions.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, cast

from clarion_fanout.broker import BrokerUnavailable, HistoryOptions, Page, Want
from clarion_fanout.follower import Follower, State
from clarion_fanout.publication import Position, Publication
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_scripts import READ
from clarion_fanout.redis_shards import Shards
from clarion_fanout.redis_wire import Reply
from clarion_fanout.tasks import Tasks

POSITION_SECONDS = 24 * 3600
"""How long a topic's position outlives its last publication, so that a client which missed
nothing resumes as recovered. A day covers a laptop closed overnight."""

RETRIES = 5
"""How often a command is sent again after an answer that says that it was not executed."""

ALONE = 100
"""Questions that are sent together where each needs one of its own."""

NOT_HERE = (b"SEALED", b"EMPTY")
"""A topic is moving to another shard, where it can be had by asking again; see `redis_moving`."""

Waiting: TypeAlias = dict[Want, list[asyncio.Future[Page]]]
"""What is wanted of a topic's stream, and by whom."""


Entry: TypeAlias = tuple[bytes, list[bytes]]
"""Of a stream: its id, and names and values."""


class Question(NamedTuple):
    """What is asked of a stream. follows: by somebody who was at that position, and came through
    the epochs `former`, the newest first; see read.lua."""

    topic: str
    want: Want
    follows: bool = False
    former: Sequence[str] = ()


class Sealed(BrokerUnavailable):
    """The stream has moved to a shard that is not in our configuration."""


class Epochs:
    """Names for streams that begin: no two are ever the same."""

    def __init__(self) -> None:
        self._process = secrets.token_urlsafe(6)  # 48 bits: no two processes share them
        self._count = 0

    def fresh(self) -> str:
        self._count += 1
        return f"{self._process}{self._count:x}"


class Reader:
    """See the module's text.

    history: the options of a topic's namespace, or None where it keeps no history.
    now: Unix time in milliseconds.
    listening: whether a topic is followed; then its position must not be forgotten.
    confirmed: the follower of a topic, if what is published there reaches it now.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        keys: Keys,
        history: Callable[[str], HistoryOptions | None],
        now: Callable[[], int],
        epochs: Epochs,
        tasks: Tasks,
        listening: Callable[[str], bool],
        confirmed: Callable[[str], Follower | None],
    ) -> None:
        self._shards = shards
        self._keys = keys
        self._history = history
        self._now = now
        self._epochs = epochs
        self._tasks = tasks
        self._listening = listening
        self._confirmed = confirmed
        self._queued: dict[str, Waiting] = {}
        self._flying: set[str] = set()
        self._departing = False
        self.reads = 0
        """Questions that were sent."""

    def ask(self, topic: str, want: Want) -> asyncio.Future[Page]:
        """Asks with the next flight. The future may have `BrokerUnavailable`."""
        future: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        self._queued.setdefault(topic, {}).setdefault(want, []).append(future)
        if topic not in self._flying:
            self._depart_soon()
        return future

    def close(self) -> None:
        """Fails whoever waits still. The tasks have ended."""
        for waiting in self._queued.values():
            _fail(waiting, BrokerUnavailable("the broker is closed"))
        self._queued.clear()

    def _depart_soon(self) -> None:
        if not self._departing:
            self._departing = True
            asyncio.get_running_loop().call_soon(self._depart)

    def _depart(self) -> None:
        """Sends what was asked in this turn of the loop, each shard's share on its own."""
        self._departing = False
        by_shard: dict[str, dict[str, Waiting]] = defaultdict(dict)
        for topic in [topic for topic in self._queued if topic not in self._flying]:
            waiting = self._queued.pop(topic)
            try:
                by_shard[self._shards.of(topic).name][topic] = waiting
            except BrokerUnavailable as error:
                _fail(waiting, error)
        for asked in by_shard.values():
            self._flying.update(asked)
            self._tasks.start(self._fly(asked), "read streams")

    async def _fly(self, asked: dict[str, Waiting]) -> None:
        try:
            await self._flight(asked)
        finally:
            for waiting in asked.values():
                _fail(waiting, BrokerUnavailable("the broker is closed"))  # if it was cut short
            self._flying.difference_update(asked)
            if any(topic in self._queued for topic in asked):
                self._depart_soon()

    async def _flight(self, asked: dict[str, Waiting]) -> None:
        """Asks one shard, once for each topic where that is possible."""
        questions: list[Question] = []
        shared: list[list[Want]] = []
        followers: dict[str, tuple[Follower, int]] = {}
        for topic, waiting in asked.items():
            for want, wants in merged(list(waiting)):
                questions.append(Question(topic, want))
                shared.append(wants)
            follower = self._confirmed(topic)
            if follower is not None and follower.state is State.BLIND:
                followers[topic] = (follower, follower.confirmations)
        alone: list[Question] = []
        pages = await self.pages(questions)
        for question, wants, page in zip(questions, shared, pages, strict=True):
            topic = question.topic
            if isinstance(page, BrokerUnavailable):
                _fail({want: asked[topic][want] for want in wants}, page)
                continue
            if topic in followers and page.position is not None:
                follower, confirmations = followers[topic]
                # It was confirmed all the time, so whatever follows the page reaches it.
                if follower.state is State.BLIND and follower.confirmations == confirmations:
                    follower.begin(page.position)
            for want in wants:
                part = part_of(page, question.want, want)
                if part is None:
                    alone.append(Question(topic, want))
                else:
                    _give(asked[topic][want], part)
        for start in range(0, len(alone), ALONE):
            questions = alone[start : start + ALONE]
            for question, page in zip(questions, await self.pages(questions), strict=True):
                futures = asked[question.topic][question.want]
                if isinstance(page, BrokerUnavailable):
                    _fail({question.want: futures}, page)
                else:
                    _give(futures, page)

    async def pages(
        self, questions: Sequence[Question], tries: int = RETRIES
    ) -> list[Page | BrokerUnavailable]:
        """The answers, in the order of the questions."""
        now = self._now()
        commands: list[tuple[str, bytes]] = []
        pages: list[Page | BrokerUnavailable | None] = [None] * len(questions)
        for place, question in enumerate(questions):
            try:
                commands.append((question.topic, self._packed(question, now)))
            except BrokerUnavailable as error:
                pages[place] = error
        self.reads += len(commands)
        replies = iter(await self._shards.send(commands))
        again: list[int] = []
        for place, question in enumerate(questions):
            if pages[place] is None:
                reply = next(replies)
                if tries > 1 and (reply in NOT_HERE or str(reply).startswith("MOVED")):
                    again.append(place)
                else:
                    pages[place] = _page(question.topic, reply)
        if again:
            found = await self.pages([questions[place] for place in again], tries - 1)
            for place, page in zip(again, found, strict=True):
                pages[place] = page
        return cast("list[Page | BrokerUnavailable]", pages)

    def _packed(self, question: Question, now: int) -> bytes:
        topic, want, follows, former = question
        options = self._history(topic)
        assert options is not None, "topics without history are not asked about"
        kept = int(options.seconds * 1000)
        what: tuple[str | int, str | int, int]
        if want.since is not None:
            epochs = " ".join((want.since.epoch, *former))
            what = ("follow" if follows else "since", epochs, want.since.offset)
        elif want.last:
            what = ("last", want.last, 0)
        else:
            what = ("none" if want.limit == 0 else "all", 0, 0)
        arguments = (
            *what,
            -1 if want.limit is None else want.limit,
            int(want.reverse),
            now - kept,
            self._epochs.fresh(),
            self._shards.of(topic).reign,
            kept + POSITION_SECONDS * 1000 if self._listening(topic) else 0,
            int(self._shards.begins(topic)),
            b"SPUBLISH" if self._shards.sharded else b"PUBLISH",
        )
        return READ.packed([self._keys.meta(topic), self._keys.stream(topic)], arguments)


def merged(wants: list[Want]) -> list[tuple[Want, list[Want]]]:
    """As few wants as possible to ask for, each with those that its page answers."""
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
        questions.append((min(group, key=_offset), group))
    if fresh:
        if questions:  # every page says the position
            questions[0][1].extend(fresh)
        else:
            questions.append((fresh[0], fresh))
    return questions


def part_of(page: Page, asked: Want, want: Want) -> Page | None:
    """The answer to `want` from the page that `asked` got; None if the page does not say."""
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
    missed = [publication for publication in publications if publication.offset > offset]
    return Page(page.position, missed, len(missed) == newest - offset)


def _offset(want: Want) -> int:
    assert want.since is not None
    return want.since.offset


def _page(topic: str, reply: Reply | BrokerUnavailable) -> Page | BrokerUnavailable:
    if isinstance(reply, BrokerUnavailable):
        return reply
    if reply == b"SEALED":
        return Sealed("the topic has moved to a shard that this server does not know")
    if not isinstance(reply, list):
        return BrokerUnavailable(f"the topic's shard answered {reply}")
    mark, offset, complete, entries = cast("tuple[bytes, int, int, list[Entry]]", reply)
    epoch = mark.decode()
    publications: list[Publication] = []
    for id, fields in entries:
        number, _, ts = id.partition(b"-")
        key = fields[3].decode() if len(fields) > 2 else ""
        publications.append(Publication(topic, fields[1], int(ts), int(number), epoch, key))
    gap = -1 - complete if complete < 0 else None
    return Page(Position(epoch, offset), publications, complete == 1, gap)


def _give(futures: Sequence[asyncio.Future[Page]], page: Page) -> None:
    for future in futures:
        if not future.done():
            future.set_result(page)


def _fail(waiting: Waiting, error: BrokerUnavailable) -> None:
    for futures in waiting.values():
        for future in futures:
            if not future.done():
                # One each: whoever raises it writes into it where it went.
                future.set_exception(BrokerUnavailable(str(error), error.retry_ms))
                future.exception()  # nobody may be left to ask for it
