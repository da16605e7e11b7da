"""Seeing to it that followers miss nothing: filling gaps, comparing positions.

    behind      something of a topic has not arrived: a page of its stream is read
    doubtful    the subscription was interrupted: the stream's position is compared, and only
                where it differs a page is read. 100,000 topics take a few seconds
    in turn     every followed topic is compared now and then, for what no payload told: data that
                vanished from a shard, a publication that was never pushed

Each shard is mended on its own, so one that is away holds up nobody else.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import cast

import hiredis

from clarion_fanout.broker import BrokerUnavailable, Want
from clarion_fanout.follower import Follower, State
from clarion_fanout.publication import Position
from clarion_fanout.redis_keys import Keys
from clarion_fanout.redis_reader import POSITION_SECONDS, Question, Reader, Sealed
from clarion_fanout.redis_shards import Shards
from clarion_fanout.redis_wire import pack
from clarion_fanout.tasks import Tasks

CHECKED = 500
"""Positions of one question, a piece of work of some 3 ms."""

PAGE = 500
"""Publications of one page that fills a gap; what a gap needs beyond it takes another."""

PAGES = 100
"""Gaps that are filled together."""

PATIENCE_SECONDS = 1.0
"""How long a publication that a check has found may still be on its way to us."""

RETRY_SECONDS = 0.25
"""Between two attempts at a shard that is away; they are refused at once."""

PROLONG_SECONDS = POSITION_SECONDS / 24
"""How often the positions of followed topics are prolonged, so that a topic in which nothing
happens for a day does not lose its position while somebody waits for it."""


class Mender:
    """See the module's text.

    check_seconds: in which every followed topic is compared once.
    followers: all there are.
    is_current: whether a follower is still its topic's.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        keys: Keys,
        reader: Reader,
        tasks: Tasks,
        check_seconds: float,
        followers: Callable[[], Iterable[Follower]],
        is_current: Callable[[Follower], bool],
    ) -> None:
        self._shards = shards
        self._keys = keys
        self._reader = reader
        self._tasks = tasks
        self._check_seconds = check_seconds
        self._followers = followers
        self._is_current = is_current
        # By the name of the shard; a topic that moves is still asked for where it is then.
        self._behind: dict[str, dict[Follower, None]] = defaultdict(dict)
        self._doubtful: dict[str, dict[Follower, None]] = defaultdict(dict)
        self._mending: set[str] = set()
        self.gaps = 0
        """Times that a follower asked for what it had missed."""
        self.repaired = 0
        """Publications that came so."""
        self.checks = 0
        """Positions that were compared."""

    def start(self) -> None:
        self._tasks.start(self._check_in_turn(), "position checks")

    def behind(self, follower: Follower) -> None:
        """Gets the page that follows the follower's position; see `follower.Desk`."""
        self._note(self._behind, follower)

    def doubtful(self, follower: Follower) -> None:
        """Compares the stream's position with the follower's; see `follower.Desk`."""
        self._note(self._doubtful, follower)

    def _note(self, by_shard: dict[str, dict[Follower, None]], follower: Follower) -> None:
        try:
            name = self._shards.of(follower.topic).name
        except BrokerUnavailable:
            name = ""
        by_shard[name][follower] = None
        if name not in self._mending:
            self._mending.add(name)
            self._tasks.start(self._mend(name), f"mend shard {name}")

    async def _mend(self, name: str) -> None:
        """Mends at one shard until there is nothing left to do."""
        try:
            while True:
                await asyncio.sleep(0)  # more may come in this turn of the loop
                if followers := _taken(self._behind[name], PAGES):
                    left = await self._fill(followers)
                    self._behind[name].update(left)
                elif followers := _taken(self._doubtful[name], CHECKED):
                    left = await self._check(followers)
                    self._doubtful[name].update(left)
                else:
                    return
                if left:
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._mending.discard(name)

    async def _fill(self, followers: Sequence[Follower]) -> dict[Follower, None]:
        """Gets what followers have missed; returns those whose shard did not answer."""
        questions = [
            Question(
                follower.topic, Want(since=follower.position, limit=PAGE), True, follower.former
            )
            for follower in followers
        ]
        self.gaps += len(questions)
        left: dict[Follower, None] = {}
        pages = await self._reader.pages(questions)
        for follower, page in zip(followers, pages, strict=True):
            if not self._is_current(follower):
                continue
            if isinstance(page, Sealed):
                follower.lose(str(page))
            elif isinstance(page, BrokerUnavailable):
                left[follower] = None
            else:
                self.repaired += len(page.publications)
                follower.page(page)
        return left

    async def _check(
        self, followers: Sequence[Follower], *, in_turn: bool = False, prolong: bool = False
    ) -> dict[Follower, None]:
        """Compares positions; returns those whose shard did not answer."""
        asked = [follower.position for follower in followers]
        self.checks += len(followers)
        metas = [(follower.topic, self._keys.meta(follower.topic)) for follower in followers]
        if prolong:
            ttl = POSITION_SECONDS * 1000
            await self._shards.send([(t, pack((b"PEXPIRE", key, ttl, b"GT"))) for t, key in metas])
        commands = [(topic, pack((b"HMGET", key, b"e", b"o", b"m"))) for topic, key in metas]
        left: dict[Follower, None] = {}
        ahead: list[tuple[Follower, Position]] = []
        replies = await self._shards.send(commands)
        for follower, position, reply in zip(followers, asked, replies, strict=True):
            if not self._is_current(follower):
                continue
            if isinstance(reply, BrokerUnavailable | hiredis.ReplyError):
                left[follower] = None
                continue
            epoch, offset, sealed = cast("list[bytes | None]", reply)
            known = epoch.decode() if epoch is not None else None
            if sealed is not None:
                follower.doubt()
            elif follower.checked(position, known, int(offset or 0)):
                ahead.append((follower, follower.position))
        if ahead and in_turn:
            asyncio.get_running_loop().call_later(PATIENCE_SECONDS, _lose_patience, ahead)
        else:
            _lose_patience(ahead)
        return left

    async def _check_in_turn(self) -> None:
        """Checks the positions of all topics, spread evenly over `check_seconds`."""
        loop = asyncio.get_running_loop()
        prolonged = loop.time()
        while True:
            prolong = loop.time() - prolonged > PROLONG_SECONDS
            if prolong:
                prolonged = loop.time()
            followers = list(self._followers())
            parts = max(1, -(-len(followers) // CHECKED))
            for start in range(0, parts * CHECKED, CHECKED):
                await asyncio.sleep(self._check_seconds / parts)
                live = [
                    follower
                    for follower in followers[start : start + CHECKED]
                    if follower.state is State.LIVE and self._is_current(follower)
                ]
                if live:
                    await self._check(live, in_turn=True, prolong=prolong)


def _taken(followers: dict[Follower, None], most: int) -> list[Follower]:
    """Takes out the last ones: taking the first of a large dict means to walk over its gaps."""
    taken = list(islice(reversed(followers), most))
    for follower in taken:
        del followers[follower]
    return taken


def _lose_patience(followers: list[tuple[Follower, Position]]) -> None:
    """Those that have not moved since will not get what was found by waiting longer."""
    for follower, position in followers:
        if follower.position == position:
            follower.doubt()
