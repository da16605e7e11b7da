"""What is fed of one topic with history, and what is missing of it: a machine without I/O.

Redis delivers what is published while we are subscribed, and forgets what is published while we
are not. Every payload carries its position, so a follower knows what it has missed:

    blind     no position yet: what arrives waits for the first page
    live      everything up to the position was fed; the next offset is fed at once
    behind    something else came than the next offset, or a check found the stream elsewhere: a
              page of the stream is asked for, and what arrives meanwhile waits

What waits is bounded. When it is too much it is dropped: the stream has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from clarion_fanout import conflation
from clarion_fanout.broker import Page
from clarion_fanout.publication import Loss, Position, Publication, Turn

WAITING = 500
"""Publications that may wait for a page: what a busy topic brings in half a second."""

KEYED = b"%"
"""What a payload begins with, in place of `#`, when a conflation key and a space stand before the
data; see publish.lua."""


FORMER = 4
"""Epochs that are remembered: data that step back over more restarts than that are no backup's, but
somebody's who brought back another day."""


class State(Enum):
    """See the module's text."""

    BLIND = "blind"
    LIVE = "live"
    BEHIND = "behind"


class Desk(Protocol):
    """What a follower asks of its broker. None of it waits."""

    def dispatch(self, publication: Publication) -> None:
        """Feeds a publication."""
        ...

    def other(self, topic: str, payload: bytes) -> None:
        """Takes a payload that no worker published."""
        ...

    def behind(self, follower: Follower) -> None:
        """Gets the page that follows the follower's position, for `Follower.page`."""
        ...

    def doubtful(self, follower: Follower) -> None:
        """Gets the stream's position, for `Follower.checked`."""
        ...

    def dropped(self, topic: str, listener: object) -> None:
        """The subscription has ended."""
        ...


class Follower:
    """Follows one topic; it listens to the topic's channel."""

    __slots__ = (
        "_arrivals",
        "_desk",
        "_doubted",
        "_gap",
        "_mark",
        "_waiting",
        "confirmations",
        "epoch",
        "former",
        "offset",
        "state",
        "topic",
    )

    def __init__(self, topic: str, desk: Desk) -> None:
        self.topic = topic
        self.state = State.BLIND
        self.epoch = ""
        self.offset = -1
        self.former: tuple[str, ...] = ()
        """The epochs before that one, the newest first."""
        self.confirmations = 0
        """How often the subscription was confirmed: more often than once after an interruption."""
        self._mark = b""  # the epoch as it stands in payloads
        self._desk = desk
        self._waiting: list[Publication] = []
        self._doubted = False  # while a page was on its way, which may be older than the doubt
        self._gap = -1
        """The offset behind which something is missing that is yet to be told, or -1."""
        self._arrivals: list[tuple[Callable[[], bool], asyncio.Future[None]]] | None = None

    @property
    def position(self) -> Position:
        """Everything up to it was fed."""
        return Position(self.epoch, self.offset)

    # What the channel brings

    def take(self, payload: bytes) -> None:
        try:
            head, ts, mark, data = payload.split(b" ", 3)
            key = ""
            sign = head[:1]
            if sign == KEYED:
                key, data = conflation.cut(data)
            offset = int(head[1:]) if sign == b"#" or key else 0
            if offset > 0:
                publication = Publication(self.topic, data, int(ts), offset, self.epoch, key)
                self._take(offset, mark, publication)
                return
        except ValueError:
            pass
        self._desk.other(self.topic, payload)

    def _take(self, offset: int, mark: bytes, publication: Publication) -> None:
        if mark != self._mark:
            publication.epoch = mark.decode()
        elif offset == self.offset + 1 and self.state is State.LIVE:
            self.offset = offset
            self._desk.dispatch(publication)
            if self._arrivals is not None:
                self._arrive()
            return
        self._irregular(publication)

    def _irregular(self, publication: Publication) -> None:
        if self.state is State.LIVE:
            if publication.epoch == self.epoch and publication.offset <= self.offset:
                return
            self._fall_behind()
        if len(self._waiting) >= WAITING:
            # The stream has them, and the newest says that it must be read again.
            self._waiting.clear()
        self._waiting.append(publication)

    def subscribed(self) -> None:
        """The subscription is confirmed; what was published before may not have arrived."""
        self.confirmations += 1
        if self.state is State.BLIND:
            # The first page is read after this, and has it unless it is gone.
            self._waiting.clear()
        elif self.state is State.BEHIND:
            self._doubted = True
        else:
            self._desk.doubtful(self)
        self._confirm()

    def dropped(self) -> None:
        self._desk.dropped(self.topic, self)

    # What the broker found out

    def begin(self, position: Position) -> None:
        """Follows from `position` on, which was read after the subscription was confirmed."""
        self._move(position.epoch, position.offset)
        self._drain()

    def checked(self, asked: Position, epoch: str | None, offset: int) -> bool:
        """Takes the stream's position, asked for when ours was `asked`. Returns whether that
        leaves a doubt: it is ahead, and what is missing may be on its way."""
        if self.state is not State.LIVE or self.epoch != asked.epoch:
            return False
        if epoch != self.epoch or offset < asked.offset:
            self._fall_behind()
            return False
        return offset > self.offset

    def doubt(self) -> None:
        """Asks for a page: something should have come by now, or has happened to the stream."""
        if self.state is State.LIVE:
            self._fall_behind()
        elif self.state is State.BEHIND:
            self._doubted = True

    def page(self, page: Page) -> None:
        """Takes the page that follows the position: what of the stream was not fed yet. If it is
        not complete, some of what was fed or should have been is gone."""
        if self.state is not State.BEHIND or page.position is None:
            return
        epoch, newest = page.position
        if not page.complete:
            first = page.publications[0].offset if page.publications else newest + 1
            self._gap = -1 if page.gap is None else page.gap
            self._skip(epoch, first - 1)
        elif epoch != self.epoch:
            turned = Position(epoch, self.offset)
            self._desk.dispatch(Turn(self.topic, turned, self.epoch))
            self._move(epoch, self.offset)
        for publication in page.publications:
            if publication.offset > self.offset + 1 or 0 <= self._gap < publication.offset:
                self._skip(epoch, publication.offset - 1)
            self._desk.dispatch(publication)
            self.offset = publication.offset
        if self.offset < newest:
            if page.publications:  # it was cut
                self._desk.behind(self)
                return
            self._skip(epoch, newest)
        elif self._gap >= 0:
            self._skip(epoch, newest)
        self._drain()

    def _skip(self, epoch: str, offset: int) -> None:
        """Goes on behind a position up to which the stream does not have everything."""
        reason = "the server's history has a gap"
        self._desk.dispatch(Loss(self.topic, Position(epoch, offset), reason))
        self._move(epoch, offset)
        if offset >= self._gap:
            self._gap = -1

    def lose(self, reason: str) -> None:
        """What was published after the position cannot be had."""
        if self.state is State.BEHIND:
            self._waiting.clear()
            self._desk.dispatch(Loss(self.topic, self.position, reason))
            self._drain()

    def _move(self, epoch: str, offset: int) -> None:
        if epoch != self.epoch and self.epoch:
            self.former = (self.epoch, *self.former[: FORMER - 1])
        self.epoch = epoch
        self.offset = offset
        self._mark = epoch.encode()

    def _drain(self) -> None:
        """Feeds what waited and fits."""
        waiting, self._waiting = self._waiting, []
        self.state = State.LIVE
        missing = False
        for publication in waiting:
            known = publication.epoch == self.epoch
            if known and publication.offset == self.offset + 1 and not missing:
                self.offset = publication.offset
                self._desk.dispatch(publication)
            elif not known or publication.offset > self.offset:
                # The next page will tell; one of an epoch that is over brings nothing.
                missing = True
        if missing:
            self._fall_behind()
        elif self._doubted:
            self._doubted = False
            self._desk.doubtful(self)
        self._arrive()

    def _fall_behind(self) -> None:
        self.state = State.BEHIND
        self._desk.behind(self)

    # Those who wait

    def when(self, condition: Callable[[], bool]) -> asyncio.Future[None]:
        """A future that is done when `condition` holds; it is looked at when something arrived."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if condition():
            future.set_result(None)
        else:
            if self._arrivals is None:
                self._arrivals = []
            self._arrivals.append((condition, future))
        return future

    def _arrive(self) -> None:
        self._confirm()

    def _confirm(self) -> None:
        arrivals = self._arrivals
        if arrivals is None:
            return
        left: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        for condition, future in arrivals:
            if future.done():
                continue
            if condition():
                future.set_result(None)
            else:
                left.append((condition, future))
        self._arrivals = left or None
