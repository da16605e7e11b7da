"""What the private port tells about the server itself: info, probes, metrics, its own document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from math import isfinite

import msgspec
from aiohttp import hdrs, web

from clarion_fanout.redis_inbox import Inbox
from clarion_fanout.redis_shard import Shard
from clarion_server.board import Readiness
from clarion_server.fleet import Absent, Fleet
from clarion_server.http_api.errors import HEADERS, answer
from clarion_server.options import Config
from clarion_server.orders import State


class Instance(msgspec.Struct, frozen=True):
    """One started server: its workers, and the sums of what they have."""

    instance: str
    host: str
    version: str
    workers: int
    connections: int
    subscriptions: int


class ShardState(msgspec.Struct, frozen=True):
    """A Redis primary, as the worker that was asked sees it.

    connected: whether it can be asked anything. trouble: why it cannot be relied on; empty when
    it can. probe_age_s: how long ago what was published through it arrived; null before it did.
    """

    name: str
    connected: bool
    trouble: str
    probe_age_s: float | None


class InboxState(msgspec.Struct, frozen=True):
    """A shard's inbox, as the worker that was asked saw it last, some second ago.

    owner: the id of the worker that publishes it; null when none does. entries: those that are not
    published yet.
    """

    shard: str
    owner: str | None
    entries: int


class Info(msgspec.Struct, frozen=True):
    """All workers that share the shards, of all instances, at a glance.

    instance, version, uptime_s: of the worker that was asked, which is the first of `workers`.
    connections, subscriptions, topics: sums over `workers`; a topic counts at each worker that has
        subscribers of it.
    complete: whether all workers are listed. unanswered: those that are there, or were a moment
        ago, and did not say how they are.
    """

    instance: str
    version: str
    broker: str
    uptime_s: int
    connections: int
    subscriptions: int
    topics: int
    complete: bool
    instances: list[Instance]
    workers: Sequence[State]
    unanswered: Sequence[Absent]
    shards: list[ShardState]
    inboxes: list[InboxState]


class Alive(msgspec.Struct, frozen=True):
    """The event loop answers."""

    alive: bool


class Ready(msgspec.Struct, frozen=True):
    """Whether new clients should be sent here, and what speaks against it.

    There may be reasons though the server is ready: most of its workers are then.
    """

    ready: bool
    reasons: list[str]


class About:
    """The handlers of what is about the server itself."""

    def __init__(
        self,
        *,
        config: Config,
        fleet: Fleet,
        shards: Callable[[], Sequence[Shard]],
        inboxes: Sequence[Inbox],
        readiness: Callable[[], Readiness],
        metrics: Callable[[str], Awaitable[tuple[bytes, str]]],
        document: bytes,
    ) -> None:
        self._fleet = fleet
        self._shards = shards
        self._inboxes = inboxes
        self._readiness = readiness
        self._metrics = metrics
        self._document = document
        self._broker = "redis" if config.redis else "memory"

    async def info(self, _request: web.Request) -> web.Response:
        workers, complete, unanswered = await self._fleet.workers()
        own = workers[0]
        return answer(
            Info(
                instance=own.instance,
                version=own.version,
                broker=self._broker,
                uptime_s=own.uptime_s,
                connections=sum(worker.connections for worker in workers),
                subscriptions=sum(worker.subscriptions for worker in workers),
                topics=sum(worker.topics for worker in workers),
                complete=complete,
                instances=_instances(workers),
                workers=workers,
                unanswered=unanswered,
                shards=[_state(shard) for shard in self._shards()],
                inboxes=[
                    InboxState(inbox.name, inbox.holder or None, inbox.entries)
                    for inbox in self._inboxes
                ],
            )
        )

    async def livez(self, _request: web.Request) -> web.Response:
        return answer(Alive(alive=True))

    async def readyz(self, _request: web.Request) -> web.Response:
        ready, reasons = self._readiness()
        return answer(Ready(ready=ready, reasons=reasons), 200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
        body, content_type = await self._metrics(accept)
        headers = {**HEADERS, hdrs.CONTENT_TYPE: content_type, hdrs.VARY: hdrs.ACCEPT}
        return web.Response(body=body, headers=headers)

    async def document(self, _request: web.Request) -> web.Response:
        return web.Response(body=self._document, headers=HEADERS)


def _instances(workers: Sequence[State]) -> list[Instance]:
    grouped: dict[str, list[State]] = {}
    for worker in workers:
        grouped.setdefault(worker.instance, []).append(worker)
    return [
        Instance(
            instance=name,
            host=members[0].host,
            version=members[0].version,
            workers=len(members),
            connections=sum(worker.connections for worker in members),
            subscriptions=sum(worker.subscriptions for worker in members),
        )
        for name, members in grouped.items()
    ]


def _state(shard: Shard) -> ShardState:
    age = shard.probe_age()
    return ShardState(
        name=shard.name,
        connected=shard.available,
        trouble=shard.trouble,
        probe_age_s=round(age, 3) if isfinite(age) else None,
    )
