"""What publishers have in flight: bounded for the worker, and for each of them. A machine.

In flight is what was handed in and not answered yet: requests, their messages, and their bytes. A
broker that hangs answers nothing for seconds, while publishers go on; without a bound all of that
would wait in memory. So whoever would exceed one is refused before anything is kept, and told when
to come again.

    arrives     enter     what it announces counts at once, before it is read
    is read     resize    what has come counts, where nothing was announced
    is decoded  add       its messages count
    has to wait at        all of it counts once more for each shard that it waits for
    answered    `with`    all of it is given back

A publisher's *share* keeps one from taking all that there is. Backends have the worker's bounds for
themselves, and so do clients, of whom there are many: neither can lock out the other.

What waits for one shard of several may be half of each bound. So a shard that hangs costs nobody
more than that half: what is for the others goes on. A request counts for a shard with all that it
has, as all of that waits when one of its messages does.

A request that is alone is within every bound: else what is refused once would be refused for ever.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal, NamedTuple, Self, TypeAlias

from clarion_server.options import Limits

Scope: TypeAlias = Literal["share", "worker"]
"""Whose bound was met: a publisher's own, or that of all."""

Kind: TypeAlias = Literal["requests", "messages", "bytes"]

RETRY_MS = 1000
"""When whoever was refused should come again: what waits for a shard that hangs is over in 2 s, all
else sooner."""


class Bounds(NamedTuple):
    """The most that may be in flight."""

    requests: int
    messages: int
    bytes: int

    def half(self) -> Bounds:
        return Bounds(*(max(1, bound // 2) for bound in self))


class Denied(NamedTuple):
    """Why something is refused, and the bound that was met. shard: it is that of one shard."""

    scope: Scope
    kind: Kind
    most: int
    shard: bool = False

    @property
    def text(self) -> str:
        """For the publisher."""
        whose = "you have" if self.scope == "share" else "this worker has"
        what = "bytes of requests" if self.kind == "bytes" else self.kind
        where = " to one shard" if self.shard else ""
        return f"{whose} {self.most} {what} in flight{where}, which is the most"


class Load:
    """What is in flight, or a part of it."""

    __slots__ = ("bytes", "messages", "requests")

    def __init__(self, requests: int = 0, messages: int = 0, bytes: int = 0) -> None:
        self.requests = requests
        self.messages = messages
        self.bytes = bytes

    def add(self, part: Load, sign: int = 1) -> None:
        self.requests += sign * part.requests
        self.messages += sign * part.messages
        self.bytes += sign * part.bytes

    def exceeds(self, bounds: Bounds) -> tuple[Kind, int] | None:
        """The bound that is exceeded. One request alone exceeds none."""
        if self.requests <= 1:
            return None
        if self.requests > bounds.requests:
            return "requests", bounds.requests
        if self.messages > bounds.messages:
            return "messages", bounds.messages
        return ("bytes", bounds.bytes) if self.bytes > bounds.bytes else None


class Quota:
    """See the module's text.

    worker, share: the bounds of all together, and of each publisher.
    """

    def __init__(self, worker: Bounds, share: Bounds) -> None:
        self._worker = worker
        self._share = share
        self._shares: dict[str, Load] = {}  # of those who have something in flight
        self.load = Load()
        """Of all together."""
        self.refused: Counter[tuple[str, Scope, Kind]] = Counter()
        """What was refused, by the name that the publisher is counted under."""
        self.shards: dict[str, Quota] = {}
        """Of those that something waits for."""

    def __len__(self) -> int:
        """How many publishers with a share have something in flight."""
        return len(self._shares)

    def enter(
        self, who: str | None, size: int, label: str = "", *, messages: int = 0
    ) -> Grant | Denied:
        """A request that will have `size` bytes, and has so many messages as far as is known.

        who: None if only the worker's bounds are for it. label: what it is counted under.
        """
        grant = Grant(self, who, label)
        return grant.take(Load(1, messages, size)) or grant

    def shard(self, name: str) -> Quota:
        """What is for one shard."""
        quota = self.shards.get(name)
        if quota is None:
            quota = self.shards[name] = Quota(self._worker.half(), self._share.half())
            quota.refused = self.refused
        return quota

    def take(self, who: str | None, part: Load) -> Denied | None:
        """Counts a part of a request, unless it is too much."""
        share = None if who is None else self._shares.setdefault(who, Load())
        self.load.add(part)
        if share is not None:
            share.add(part)
        denied: Denied | None = None
        if share is not None and (met := share.exceeds(self._share)) is not None:
            denied = Denied("share", *met)
        elif (met := self.load.exceeds(self._worker)) is not None:
            denied = Denied("worker", *met)
        if denied is not None:
            self.give(who, part)
        return denied

    def give(self, who: str | None, part: Load) -> None:
        """A part of a request is over."""
        self.load.add(part, -1)
        if who is not None:
            share = self._shares[who]
            share.add(part, -1)
            if not share.requests:
                del self._shares[who]


class Grant:
    """A request that was let in; it leaves at the end of a `with`."""

    __slots__ = ("_label", "_part", "_quota", "_shards", "_who")

    def __init__(self, quota: Quota, who: str | None, label: str) -> None:
        self._quota = quota
        self._who = who
        self._label = label
        self._part = Load()
        self._shards: dict[str, Grant] | None = None

    def take(self, part: Load) -> Denied | None:
        denied = self._quota.take(self._who, part)
        if denied is None:
            self._part.add(part)
        else:
            self._quota.refused[self._label, denied.scope, denied.kind] += 1
        return denied

    def resize(self, size: int) -> Denied | None:
        """It has so many bytes."""
        if size == self._part.bytes:
            return None
        return self.take(Load(0, 0, size - self._part.bytes))

    def add(self, messages: int) -> Denied | None:
        """It has so many messages more."""
        return self.take(Load(0, messages, 0))

    def at(self, shard: str) -> Denied | None:
        """It will wait for a shard, with all that is known of it by now."""
        if self._shards is None:
            self._shards = {}
        if shard in self._shards:
            return None
        part = self._part
        entered = self._quota.shard(shard).enter(
            self._who, part.bytes, self._label, messages=part.messages
        )
        if isinstance(entered, Denied):
            return entered._replace(shard=True)
        self._shards[shard] = entered
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._quota.give(self._who, self._part)
        self._part = Load()
        for shard, grant in (self._shards or {}).items():
            with grant:
                pass
            if not self._quota.shards[shard].load.requests:
                del self._quota.shards[shard]
        self._shards = None


class Quotas:
    """Of a worker: one for backends, and one for clients."""

    def __init__(self, limits: Limits) -> None:
        worker = Bounds(limits.publish_requests, limits.publish_messages, limits.publish_bytes)
        part = limits.publish_share
        self.api = Quota(worker, Bounds(*(max(1, int(bound * part)) for bound in worker)))
        user = Bounds(limits.publish_user, limits.publish_user, limits.publish_bytes)
        self.client = Quota(worker, user)
