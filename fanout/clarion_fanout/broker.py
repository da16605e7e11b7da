"""The contract between a worker and what carries publications between workers.

Subscribing is local: a worker tells its broker which topics it wants to be fed, and the broker
calls `Feed.dispatch` on the worker's event loop for every publication of those. Publishing
reaches everyone: every worker of every instance that shares the broker.

Order and loss
    In a topic with history the broker alone decides the order: it assigns offsets 1, 2, 3, ...
    within one epoch, and feeds each worker in that order. In a topic without history the order
    is kept per publisher only, and delivery is at most once.
    When `publish` has returned a `Receipt` with a position, the publication is in the stream:
    `read` finds it until the history's size or age, or the broker's bound on memory, removes it.

Subscribing without gap or duplicate
    `attach` asks for the feed of a topic and says whether it is on; `attached` waits until it
    is. From then on, when `read` returns, everything up to the page's position has been
    dispatched, and the feed is in the page's epoch. So a page and what `dispatch` has brought
    since one asked for it may overlap but leave no gap: whoever joins the two drops what is part
    of the page. The hub does that.

A stream that turns, or loses something
    A broker notices holes in what it feeds and fills them from the stream. Where that cannot be
    done it feeds a `Loss`, and goes on behind its position. A stream whose shard restarted or
    failed over goes on in a new epoch, with offsets that count on: then it feeds a `Turn`, and
    positions of the old epoch up to that offset stay good. Both come in their place among the
    publications of the topic. One of them announces every change of epoch within a feed, which
    lasts as long as the topic is attached, and an epoch that was left never comes back. Pages hold
    messages alone.

Waiting
    `peek` never waits: it answers from what is at hand, or returns None, and then `read` asks.
    Every coroutine here has a deadline of its own and raises `BrokerUnavailable` when it passes.
    Nothing here retries a publish whose outcome is unknown: that is the publisher's decision,
    and an idempotency key makes it safe.

What may not be assumed
    That `dispatch` is called for a worker's own publication before `publish` returns, or after.
    That a topic has a stream only because its namespace has history: one begins with the first
    publication or the first question for it. As long as nothing was published, it may begin anew
    with each question, unless the topic is attached: then its epoch holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from clarion_fanout.publication import Draft, Position, Publication, Receipt


class BrokerUnavailable(Exception):
    """The broker cannot be reached, or did not answer before the deadline."""

    def __init__(self, message: str, retry_ms: int = 1000) -> None:
        super().__init__(message)
        self.retry_ms = retry_ms


class HistoryOptions(NamedTuple):
    """How much of a topic's stream is kept: `size` publications, none older than `seconds`."""

    size: int
    seconds: float


class Want(NamedTuple):
    """A question about a topic's stream. At most one of `since` and `last` is given.

    since: what follows this position, oldest first; all that is kept if it is not one of the
        stream's.
    last: the newest `last` publications, oldest first.
    Neither: all that is kept, or with `reverse`, newest first.
    limit: at most this many publications, from the beginning of the answer; None is no limit but
        the stream's own.
    reverse: newest first; with `since`, what stands before that position, which is nothing if it
        is not one of the stream's.
    """

    since: Position | None = None
    last: int = 0
    limit: int | None = None
    reverse: bool = False


class Page(NamedTuple):
    """The answer to a `Want`.

    position: the newest of the stream when the page was read (offset 0: nothing was ever
        published); None in a topic without history.
    publications: in the order that was asked for.
    complete: with `since`, whether nothing after that position is missing: the epoch is the
        stream's and no publication in between was removed; with `reverse` too, whether the
        position is one of the stream's. True otherwise.
    gap: of a page that is not complete, for the broker itself: the offset behind which the stream
        has lost something last since the position, if it has and knows.
    """

    position: Position | None
    publications: Sequence[Publication]
    complete: bool = True
    gap: int | None = None


class Feed(Protocol):
    """What a broker feeds: the worker's hub."""

    @property
    def crowded(self) -> bool:
        """Whether it should pass on what it has before it is fed more; see `flush`."""
        ...

    def dispatch(self, publication: Publication) -> None:
        """Takes what happened in a topic that the worker has subscribed. Never waits or raises."""
        ...

    def flush(self) -> None:
        """Passes on what was taken. Happens by itself at the end of the turn of the event loop; for
        those who feed thousands of publications in one turn."""
        ...


class Broker(Protocol):
    """See the module's text for what every implementation promises."""

    async def start(self, feed: Feed) -> None:
        """Connects, as far as there is something to connect to, and begins to feed `feed`."""
        ...

    async def close(self) -> None:
        """Ends everything that `start` began. A second call does nothing."""
        ...

    async def publish(self, drafts: Sequence[Draft]) -> Sequence[Receipt | BrokerUnavailable]:
        """Publishes each draft and says of each, in the same order, what became of it."""
        ...

    def shard(self, topic: str) -> str:
        """What a publication for the topic waits for: if that hangs, those for others go on. ""
        if there is but one such thing."""
        ...

    def peek(self, topic: str, want: Want) -> Page | None:
        """Answers at once, or returns None when that takes a question to a shard."""
        ...

    async def read(self, topic: str, want: Want) -> Page:
        """Answers from the shard. Raises `BrokerUnavailable`."""
        ...

    def attach(self, topic: str) -> bool:
        """Asks that publications of `topic` be fed. True: they are. False: await `attached`."""
        ...

    async def attached(self, topic: str) -> None:
        """Returns when publications of `topic` reach the feed. Raises `BrokerUnavailable`."""
        ...

    def detach(self, topic: str) -> None:
        """The worker has no subscriber of `topic` any more; the feed may end at leisure."""
        ...
