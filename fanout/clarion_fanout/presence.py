"""The contract of presence: who is subscribed to a topic, at any worker.

A *member* is a client that is subscribed. The worker that it is connected to calls `enter` when
the subscription begins and `leave` when it ends, once each and in this order; neither waits. What
is kept of it is the topic's matter:

    off       nothing
    count     how many members there are
    members   also who they are: each client, and its user if it has one
    events    and whoever comes or goes is announced to those who are subscribed

Reading
    What this worker has entered and left before it asks is part of the answer; what others have,
    a moment later. A worker holds leases. When it dies, its members are part of no answer once the
    lease is over, whether somebody has removed them yet or not. Who walks through the pages of
    a topic meets each member once that is there all the time; who comes or goes meanwhile may be
    met or not.

Announcements
    Whoever has come or gone is fed to every worker that has the topic attached, as an `Arrival` or
    a `Departure`, in the order in which it happened. The member itself is among those who are fed.
    Of somebody who goes and is back in the same moment, or the other way round, nothing may be
    said. That the members of a worker that died have gone is announced by another one, once, within
    a lease and a third of one.
    A feed that is interrupted misses announcements, and nobody says so: who shows a list of
    members asks for it anew from time to time. When a shard has lost its data, members enter anew,
    and are announced anew: an arrival of somebody who is there already means nothing.

Failures
    `enter` and `leave` are made good when the shard is back, however long that takes. Until then
    others may see members of this worker for the rest of the lease, and then none of them.
    `read` has a deadline of its own and raises `BrokerUnavailable`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import orjson

Keeping: TypeAlias = Literal["off", "count", "members", "events"]
"""What is kept of a topic's members; see the module's text."""

MAX_MEMBERS = 1000
"""Members of one page: some 60 KB, and 0.7 ms in which Redis does nothing else."""


@dataclass(frozen=True, slots=True)
class PresencePage:
    """The answer to a question for a topic's members.

    count: all of them, whatever the page.
    members: some of them, as JSON; none where only the count is kept.
    next: the `after` of the next page; empty if this is the last one.
    """

    count: int
    members: tuple[bytes, ...] = ()
    next: str = ""


def user_json(user: str | None) -> bytes:
    """A user as it stands in a member; empty if there is none."""
    return b"" if user is None else orjson.dumps(user)


def member_json(client: bytes, user: bytes) -> bytes:
    """A member as others see it. user: see `user_json`."""
    return b'{"client":"%b","user":%b}' % (client, user) if user else b'{"client":"%b"}' % client


class Presence(Protocol):
    """See the module's text for what every implementation promises.

    members: those of this worker, summed over topics; a gauge.
    announced: arrivals and departures that this worker announced.
    removed: members of dead workers that this worker removed.
    failures: times that a shard did not take what there was to tell it.
    """

    members: int
    announced: int
    removed: int
    failures: int

    async def start(self) -> None:
        """Begins to hold leases."""
        ...

    async def close(self) -> None:
        """Tells the rest of what happened, as far as that takes a moment, and ends."""
        ...

    def enter(self, topic: str, client: str, user: str | None) -> None:
        """A client of this worker has subscribed to a topic of which something is kept.

        client: names it, among those of all workers and times; of `A-Z a-z 0-9 _ -`.
        user: the same for as long as it is in.
        """
        ...

    def leave(self, topic: str, client: str) -> None:
        """It is no longer subscribed."""
        ...

    async def read(self, topic: str, limit: int, after: str = "") -> PresencePage:
        """The count, and at most `limit` members, those behind `after` of the page before.

        Raises `BrokerUnavailable`.
        """
        ...
